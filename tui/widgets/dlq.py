"""Panel 4: the latest dead letters."""

from __future__ import annotations

from collections.abc import Sequence

from kafka_consumer.snapshot import DeadLetterView
from tui.format import clock_time
from tui.text import Line, Part
from tui.view import View
from tui.widgets.rowlist import Column, RowList, widest

DeadLetterKey = tuple[float, str, int, int]


def place(row: DeadLetterView) -> str:
    """Return where the message stands."""
    return f"{row.topic}-{row.partition}@{row.offset}"


def _error(row: DeadLetterView, view: View) -> Part:
    return (f"{row.error_type}: {row.error_message}" if row.error_message else row.error_type), "plain"


_COLUMNS: tuple[Column[DeadLetterView], ...] = (
    Column("", 8, 50, lambda row, view: (clock_time(view.clock.local(row.at)), "dim")),
    Column("", lambda rows: widest((place(row) for row in rows), 8, 40), 100, lambda row, view: (place(row), "strong")),
    Column("", 0, 90, _error),
)


class DeadLetters(RowList[DeadLetterView]):
    """A row for each recent dead letter, the newest last."""

    number = 4
    name_of_panel = "DLQ tail"
    follow = True
    markable = True

    def all_rows(self, view: View) -> Sequence[DeadLetterView]:
        """Return the dead letters, oldest first."""
        return view.snapshot.dlq_tail if view.snapshot else ()

    def key(self, row: DeadLetterView) -> DeadLetterKey:
        """Return when and where."""
        return row.at, row.topic, row.partition, row.offset

    def search_text(self, row: DeadLetterView) -> str:
        """Return place, error, key and value."""
        return f"{place(row)} {row.error_type} {row.error_message} {row.key or ''} {row.value or ''}"

    def columns(self) -> Sequence[Column[DeadLetterView]]:
        """Return the columns."""
        return _COLUMNS

    def describe(self, row: DeadLetterView) -> str:
        """Return a dead letter as text."""
        return f"{place(row)} {row.error_type}: {row.error_message}"

    def headline(self, view: View) -> Line:
        """Return how many there are in all."""
        if view.snapshot is None:
            return ()
        written, recent = view.snapshot.totals.dlq_written, view.trends.dead_letters_recent
        return ((f"{written:,} written", "plain"), (f", +{recent:,} in a minute" if recent else "", "bad"))

    def empty(self, view: View) -> str:
        """Say that all is well."""
        return "no snapshot yet" if view.snapshot is None else "no dead letters"
