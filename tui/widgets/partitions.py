"""Panel 1: the partitions, the worst first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kafka_consumer.snapshot import PartitionView
from tui.format import UNKNOWN, count, duration, full, signed
from tui.text import Line, Part
from tui.view import View
from tui.widgets.rowlist import Column, RowList, Sort, widest

_STATES = {"running": ("●", "ok"), "paused": ("■", "warn"), "stopped": ("□", "dim")}


def state_part(state: str) -> Part:
    """Return a partition's state as glyph and word."""
    glyph, tone = _STATES.get(state, ("?", "plain"))
    return f"{glyph} {state.upper()}", tone


def _topic(row: PartitionView, view: View) -> Part:
    return row.topic, "plain"


def _lag(row: PartitionView, view: View) -> Part:
    change = view.trends.change(row)
    return count(row.lag) if row.lag is None or row.lag >= 10_000 else full(row.lag), (
        "warn" if change is not None and change > 1 and (row.lag or 0) > 0 else "strong"
    )


def _change(row: PartitionView, view: View) -> Part:
    change = view.trends.change(row)
    return signed(change), "warn" if change is not None and change > 1 else "plain"


def _oldest(row: PartitionView, view: View) -> Part:
    return (duration(row.oldest_seconds) if row.oldest_seconds is not None else UNKNOWN), "plain"


def _digits(offsets: Iterable[int | None]) -> int:
    """Return the width for a column of offsets; it only grows with the largest one."""
    return max(9, len(full(max((offset for offset in offsets if offset is not None), default=0))))


def partition_columns() -> tuple[Column[PartitionView], ...]:
    """Return the columns; the last one takes what is left."""
    return (
        Column("TOPIC", lambda rows: widest({row.topic for row in rows}, 5, 24), 30, _topic),
        Column("P", lambda rows: widest((str(row.partition) for row in rows), 3, 6), 100,
               lambda row, view: (str(row.partition), "strong"), "right"),
        Column("STATE", 10, 90, lambda row, view: state_part(row.state)),
        Column("POSITION", lambda rows: _digits(row.position for row in rows), 35,
               lambda row, view: (full(row.position), "plain"), "right"),
        Column("COMMITTED", lambda rows: _digits(row.committed for row in rows), 60,
               lambda row, view: (full(row.committed), "plain"), "right"),
        Column("STOP AT", 8, 20, lambda row, view: (count(row.stop_at), "dim"), "right"),
        Column("LAG", 7, 95, _lag, "right"),
        Column("Δ/s", 7, 80, _change, "right"),
        Column("RATE/s", 7, 12, lambda row, view: (count(row.rate), "plain"), "right"),
        Column("TIME LAG", 9, 40, lambda row, view: (duration(row.time_lag_seconds), "plain"), "right"),
        Column("ETA", 7, 50, lambda row, view: (duration(row.eta_seconds), "plain"), "right"),
        Column("IN FLIGHT", 9, 55, lambda row, view: (f"{row.in_flight:,}", "plain"), "right"),
        Column("OLDEST", 7, 45, _oldest, "right"),
        Column("NOTE", 0, 15, lambda row, view: (row.note, "dim"), least=10),
    )  # fmt: skip


def _known(value: float | None) -> float:
    return -1.0 if value is None else float(value)


class Partitions(RowList[PartitionView]):
    """A row for each assigned partition."""

    number = 1
    name_of_panel = "Partitions"
    markable = True
    sorts = (
        Sort("lag ▼", "LAG", lambda row, view: (_known(row.lag), -row.partition), descending=True),
        Sort("partition ▲", "P", lambda row, view: (row.topic, row.partition)),
        Sort("Δ/s ▼", "Δ/s", lambda row, view: (view.trends.change(row) or 0.0, -row.partition), descending=True),
        Sort("rate ▼", "RATE/s", lambda row, view: (row.rate, -row.partition), descending=True),
        Sort("time lag ▼", "TIME LAG", lambda row, view: (_known(row.time_lag_seconds), -row.partition), descending=True),
        Sort("oldest ▼", "OLDEST", lambda row, view: (_known(row.oldest_seconds), -row.partition), descending=True),
        Sort("state ▲", "STATE", lambda row, view: (row.state, row.topic, row.partition)),
    )

    def all_rows(self, view: View) -> Sequence[PartitionView]:
        """Return the partitions."""
        return view.snapshot.partitions if view.snapshot else ()

    def unchanged(self, before: View, view: View) -> bool:
        """Return whether the partitions are the same objects, and how their lags change is the same."""
        return before.changes is view.changes and self.all_rows(before) is self.all_rows(view)

    def key(self, row: PartitionView) -> tuple[str, int]:
        """Return topic and partition."""
        return row.topic, row.partition

    def search_text(self, row: PartitionView) -> str:
        """Return name, state and note."""
        return f"{row.topic}-{row.partition} {row.state} {row.note}"

    def columns(self) -> Sequence[Column[PartitionView]]:
        """Return the columns."""
        return _COLUMNS

    def describe(self, row: PartitionView) -> str:
        """Return a partition as text."""
        return f"{row.topic}-{row.partition} {row.state} position={row.position} committed={row.committed} lag={row.lag}"

    def headline(self, view: View) -> Line:
        """Return how many there are, and how many are paused."""
        if view.snapshot is None:
            return ()
        paused = sum(1 for row in view.snapshot.partitions if row.state == "paused")
        return ((f"{len(view.snapshot.partitions):,}", "plain"), (f", {paused:,} paused" if paused else "", "warn"))

    def empty(self, view: View) -> str:
        """Say why there is nothing."""
        return "no snapshot yet" if view.snapshot is None else "no partition is assigned to this consumer"

    def marked(self) -> list[tuple[str, int]]:
        """Return the marked partitions, in order."""
        return sorted(mark for mark in self.marks if isinstance(mark, tuple) and len(mark) == 2)


_COLUMNS = partition_columns()
