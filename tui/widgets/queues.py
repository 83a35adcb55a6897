"""Panel 3: the queues between the loops; in one line where there is no more room."""

from __future__ import annotations

from collections.abc import Sequence

from kafka_consumer.snapshot import QueueView
from tui.format import UNKNOWN, bar, fraction, percent, size
from tui.text import Line, Part
from tui.view import View
from tui.widgets.rowlist import Column, RowList

QueueRow = tuple[str, QueueView]


def queue_label(name: str) -> str:
    """Return a queue's name for people."""
    return "DLQ" if name == "dlq" else name.replace("_", " ")


def _share(row: QueueRow) -> float:
    return fraction(row[1].depth, row[1].capacity)


def _tone(row: QueueRow) -> str:
    return "warn" if row[1].capacity and _share(row) >= 0.95 else "plain"


def _full(row: QueueRow, view: View) -> Part:
    return (percent(_share(row)) if row[1].capacity else "no limit"), _tone(row)


def _remark(row: QueueRow, view: View) -> Part:
    skipped = view.snapshot.totals.backup_skipped if view.snapshot else 0
    return (f"{skipped:,} rows skipped", "warn") if row[0].startswith("backup") and skipped else ("", "plain")


_COLUMNS: tuple[Column[QueueRow], ...] = (
    Column("QUEUE", 14, 100, lambda row, view: (queue_label(row[0]), "strong")),
    Column("DEPTH", 10, 90, lambda row, view: (f"{row[1].depth:,}", _tone(row)), "right"),
    Column("CAPACITY", 10, 50, lambda row, view: (f"{row[1].capacity:,}" if row[1].capacity else UNKNOWN, "dim"), "right"),
    Column("FULL", 8, 60, _full, "right"),
    Column("", 20, 40, lambda row, view: (bar(_share(row), 20) if row[1].capacity else "", "accent")),
    Column("BYTES", 10, 30, lambda row, view: (size(row[1].bytes), "plain"), "right"),
    Column("", 0, 20, _remark),
)


class Queues(RowList[QueueRow]):
    """A row for each queue, or all of them in the title."""

    number = 3
    name_of_panel = "Queues"

    def all_rows(self, view: View) -> Sequence[QueueRow]:
        """Return the queues."""
        return tuple(view.snapshot.queues.items()) if view.snapshot else ()

    def key(self, row: QueueRow) -> str:
        """Return the queue's name."""
        return row[0]

    def search_text(self, row: QueueRow) -> str:
        """Return the queue's name."""
        return queue_label(row[0])

    def columns(self) -> Sequence[Column[QueueRow]]:
        """Return the columns."""
        return _COLUMNS

    def describe(self, row: QueueRow) -> str:
        """Return a queue as text."""
        return f"{queue_label(row[0])} {row[1].depth}/{row[1].capacity or 'no limit'} {row[1].bytes} bytes"

    def headline(self, view: View) -> Line:
        """Return all queues in short, for the layouts where the title is all there is."""
        if view.snapshot is None:
            return ()
        if self.size.height > 1:
            held = sum(queue.bytes for queue in view.snapshot.queues.values())
            return ((f"{size(held)} held", "plain"),)
        parts: list[Part] = []
        for row in view.snapshot.queues.items():
            parts.append((("  " if parts else "") + queue_label(row[0]) + " ", "dim"))
            parts.append((f"{row[1].depth:,}" + (f"/{row[1].capacity:,}" if row[1].capacity else ""), _tone(row)))
            remark = _remark(row, view)
            if remark[0]:
                parts.append((f" ({view.snapshot.totals.backup_skipped:,} skipped)", "warn"))
        return tuple(parts)

    def empty(self, view: View) -> str:
        """Say why there is nothing."""
        return "no snapshot yet" if view.snapshot is None else "no queue"
