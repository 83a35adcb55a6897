"""Panel 5: the latest log records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

from kafka_consumer.snapshot import LogView
from tui.format import clock_time
from tui.text import Line
from tui.view import View
from tui.widgets.rowlist import Column, RowList

_TONES = {"DEBUG": "dim", "INFO": "plain", "WARNING": "warn", "ERROR": "bad", "CRITICAL": "bad"}

_COLUMNS: tuple[Column[LogView], ...] = (
    Column("", 8, 50, lambda row, view: (clock_time(view.clock.local(row.at)), "dim")),
    Column("", 8, 60, lambda row, view: (row.level, _TONES.get(row.level, "plain"))),
    Column("", 0, 100, lambda row, view: (row.message, "plain")),
)


class Log(RowList[LogView]):
    """A row for each recent record, the newest last."""

    number = 5
    name_of_panel = "Log"
    follow = True

    def all_rows(self, view: View) -> Sequence[LogView]:
        """Return the records, oldest first."""
        return view.snapshot.log_tail if view.snapshot else ()

    def key(self, row: LogView) -> Hashable:
        """Return the record itself."""
        return row.at, row.level, row.message

    def keys(self, rows: Sequence[LogView]) -> list[Hashable]:
        """Return distinct keys: the same record twice gets a number."""
        seen: Counter[Hashable] = Counter()
        found: list[Hashable] = []
        for row in rows:
            key = self.key(row)
            found.append((key, seen[key]))
            seen[key] += 1
        return found

    def search_text(self, row: LogView) -> str:
        """Return level and message."""
        return f"{row.level} {row.message}"

    def columns(self) -> Sequence[Column[LogView]]:
        """Return the columns."""
        return _COLUMNS

    def describe(self, row: LogView) -> str:
        """Return a record as text."""
        return f"{row.level} {row.message}"

    def headline(self, view: View) -> Line:
        """Return the level."""
        return ((f"({view.snapshot.log_level})", "dim"),) if view.snapshot else ()

    def empty(self, view: View) -> str:
        """Say that there is nothing."""
        return "no snapshot yet" if view.snapshot is None else "no log records yet"
