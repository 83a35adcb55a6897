"""Panel 2: the workers, those that hold a message longest first."""

from __future__ import annotations

from collections.abc import Sequence

from kafka_consumer.snapshot import WorkerView
from tui.format import duration
from tui.text import Line, Part
from tui.view import View
from tui.widgets.figures import busy_workers
from tui.widgets.rowlist import Column, RowList, Sort, widest

_STATES = {
    "idle": ("○", "dim"),
    "busy": ("●", "ok"),
    "stuck": ("⚠", "bad"),
    "crashed": ("✖", "bad"),
    "stopped": ("■", "dim"),
}
_RANK = {"stuck": 4, "crashed": 3, "busy": 2, "idle": 1}


def worker_state_part(state: str) -> Part:
    """Return a worker's state as glyph and word."""
    glyph, tone = _STATES.get(state, ("?", "plain"))
    return f"{glyph} {state.upper()}", tone


def holds(row: WorkerView) -> str:
    """Return the message in a worker's hands."""
    if row.topic is None or row.partition is None:
        return ""
    return f"{row.topic}-{row.partition}" + (f"@{row.offset}" if row.offset is not None else "")


def _busy(row: WorkerView, view: View) -> Part:
    if row.state not in ("busy", "stuck"):
        return "", "plain"
    return duration(row.busy_seconds), "bad" if row.state == "stuck" else "plain"


_COLUMNS: tuple[Column[WorkerView], ...] = (
    Column("ID", lambda rows: widest((f"{row.id:02d}" for row in rows), 2, 6), 100,
           lambda row, view: (f"{row.id:02d}", "strong"), "right"),
    Column("STATE", 9, 90, lambda row, view: worker_state_part(row.state)),
    Column("FOR", 6, 80, _busy, "right"),
    Column("DONE", 9, 30, lambda row, view: (f"{row.processed:,}", "dim"), "right"),
    Column("FAILED", 7, 40, lambda row, view: (f"{row.failed:,}", "warn" if row.failed else "dim"), "right"),
    Column("HOLDS", 0, 70, lambda row, view: (holds(row), "plain"), least=20),
)  # fmt: skip


class Workers(RowList[WorkerView]):
    """A row for each worker."""

    number = 2
    name_of_panel = "Workers"
    sorts = (
        Sort("busy ▼", "FOR", lambda row, view: (_RANK.get(row.state, 0), row.busy_seconds, -row.id), descending=True),
        Sort("id ▲", "ID", lambda row, view: row.id),
        Sort("failed ▼", "FAILED", lambda row, view: (row.failed, -row.id), descending=True),
        Sort("done ▼", "DONE", lambda row, view: (row.processed, -row.id), descending=True),
    )

    def all_rows(self, view: View) -> Sequence[WorkerView]:
        """Return the workers."""
        return view.snapshot.workers if view.snapshot else ()

    def unchanged(self, before: View, view: View) -> bool:
        """Return whether the workers are the same objects."""
        return self.all_rows(before) is self.all_rows(view)

    def key(self, row: WorkerView) -> int:
        """Return the worker's number."""
        return row.id

    def search_text(self, row: WorkerView) -> str:
        """Return number, state and message."""
        return f"{row.id:02d} {row.state} {holds(row)}"

    def columns(self) -> Sequence[Column[WorkerView]]:
        """Return the columns."""
        return _COLUMNS

    def describe(self, row: WorkerView) -> str:
        """Return a worker as text."""
        return f"worker {row.id} {row.state} {holds(row)} {row.busy_seconds:.1f}s processed={row.processed} failed={row.failed}"

    def headline(self, view: View) -> Line:
        """Return how many do what."""
        if view.snapshot is None:
            return ()
        busy, alive = busy_workers(view.snapshot)
        stuck = sum(1 for row in view.snapshot.workers if row.state == "stuck")
        return ((f"{busy:,} busy, {alive - busy:,} idle", "plain"), (f", ⚠ {stuck:,} stuck" if stuck else "", "bad"))

    def empty(self, view: View) -> str:
        """Say why there is nothing."""
        return "no snapshot yet" if view.snapshot is None else "no worker runs"
