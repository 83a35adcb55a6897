"""A list of any length that costs what is visible of it, with a cursor that stays on its row."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from textual import events
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.text import Group, Line, Part, arrange, fit, line_width, plain, width_of
from tui.view import View
from tui.widgets.drawing import TONE_CLASSES, draw

R = TypeVar("R")


@dataclass(frozen=True)
class Column(Generic[R]):
    """A column: its name, its cells (0: whatever is left), its priority (the lowest goes first where room is short)."""

    name: str
    width: int | Callable[[Sequence[R]], int]
    priority: int
    cell: Callable[[R, View], Part]
    align: Literal["left", "right"] = "left"
    least: int = 8
    """Cells below which a column that takes what is left isn't worth it."""


@dataclass(frozen=True)
class Sort(Generic[R]):
    """An order of the rows, and the column that shows it."""

    name: str
    column: str
    key: Callable[[R, View], float | str | tuple[float | str, ...]]
    descending: bool = False


class RowList(ScrollView, Generic[R], can_focus=True, inherit_bindings=False):
    """A titled list. Rows have keys; the cursor, the marks and every action hold keys, never positions.

    A subclass gives ``number``, ``name``, ``columns``, ``sorts`` and the methods that raise NotImplementedError here. Lists
    that ``follow`` are in the order of time and show their end until the cursor is moved up. The screen's bindings move the
    cursor; Textual's own, which would scroll without it, are left out.
    """

    COMPONENT_CLASSES = set(TONE_CLASSES)
    ALLOW_SELECT = False

    number = 0
    name_of_panel = ""
    sorts: tuple[Sort[R], ...] = ()
    follow = False
    markable = False

    class Activated(Message):
        """A row was chosen with enter or a double click."""

        def __init__(self, panel: RowList[R], key: Hashable) -> None:
            super().__init__()
            self.panel = panel
            self.key = key

    def __init__(self) -> None:
        super().__init__(id=f"panel-{self.number}" if self.number else None)
        self.cursor_key: Hashable | None = None
        self.marks: frozenset[Hashable] = frozenset()
        self.filter_text = ""
        self.sort_index = 0
        self._view: View | None = None
        self._rows: Sequence[R] = ()
        self._keys: list[Hashable] = []
        self._positions: dict[Hashable, int] = {}
        self._total = 0
        self._cursor = 0
        # Whether the operator holds a row: until then the list shows its top (or its end, when it follows).
        self._held = False
        self._columns: tuple[tuple[Column[R], int], ...] = ()
        self._shown: list[Line] = []
        self._cursor_line: int | None = None

    # What a subclass says

    def all_rows(self, view: View) -> Sequence[R]:
        """Return the rows of a view, unsorted."""
        raise NotImplementedError

    def key(self, row: R) -> Hashable:
        """Return what identifies a row from one view to the next."""
        raise NotImplementedError

    def search_text(self, row: R) -> str:
        """Return what the filter looks in."""
        raise NotImplementedError

    def columns(self) -> Sequence[Column[R]]:
        """Return the columns, in their order."""
        raise NotImplementedError

    def describe(self, row: R) -> str:
        """Return a row as text, for the clipboard."""
        raise NotImplementedError

    def headline(self, view: View) -> Line:
        """Return what the title says besides the name."""
        return ()

    def empty(self, view: View) -> str:
        """Return what stands in an empty list."""
        return ""

    def unchanged(self, before: View, view: View) -> bool:
        """Return whether another snapshot shows the same here; where that is quick to see."""
        return False

    def keys(self, rows: Sequence[R]) -> list[Hashable]:
        """Return the keys of the rows, in their order and distinct."""
        return [self.key(row) for row in rows]

    # Drawing

    def show(self, view: View) -> None:
        """Take a view and draw what changed. Everything drawn here comes from the snapshot: the same one changes nothing."""
        before, self._view = self._view, view
        if before is None or not (before.snapshot is view.snapshot or self.unchanged(before, view)):
            self._take_rows(view)

    def _take_rows(self, view: View) -> None:
        rows = self.all_rows(view)
        self._total = len(rows)
        terms = self.filter_text.casefold().split()
        if terms:
            rows = [row for row in rows if all(term in self.search_text(row).casefold() for term in terms)]
        if self.sorts:
            sort = self.sorts[self.sort_index % len(self.sorts)]
            rows = sorted(rows, key=lambda row: sort.key(row, view), reverse=sort.descending)
        self._rows = rows
        self._keys = self.keys(rows)
        self._positions = {key: index for index, key in enumerate(self._keys)}
        if self.marks:
            self.marks = frozenset(mark for mark in self.marks if mark in self._positions or terms)
        self._place_cursor()
        self._resize_content()
        self.redraw()

    @property
    def fixed_lines(self) -> int:
        """Lines above the rows: the title, and the names of the columns where there is room."""
        return 2 if self.size.height >= 4 and any(column.name for column, _ in self._columns) else 1

    @property
    def visible_rows(self) -> int:
        """How many rows fit."""
        return max(0, self.size.height - self.fixed_lines)

    def redraw(self, *, everything: bool = False) -> None:
        """Draw the visible lines that changed."""
        width, height = self.size
        lines = [self._line_at(y) for y in range(height)]
        position = self._cursor - round(self.scroll_y) + self.fixed_lines
        cursor = position if self._rows and self.has_focus and self.fixed_lines <= position < height else None
        if everything or len(lines) != len(self._shown):
            self._shown, self._cursor_line = lines, cursor
            self.refresh()
            return
        changed = {y for y in range(height) if lines[y] != self._shown[y]}
        if cursor != self._cursor_line:
            changed |= {line for line in (cursor, self._cursor_line) if line is not None}
        self._shown, self._cursor_line = lines, cursor
        for y in sorted(changed):
            self.refresh(Region(0, y, width, 1))

    def render_line(self, y: int) -> Strip:
        """Draw one line."""
        line = self._shown[y] if y < len(self._shown) else ()
        return draw(self, line, self.size.width, reverse=y == self._cursor_line)

    def _line_at(self, y: int) -> Line:
        view = self._view
        if view is None:
            return ()
        if y == 0:
            return self._title(view)
        if y < self.fixed_lines:
            return self._names()
        index = round(self.scroll_y) + y - self.fixed_lines
        if not self._rows and y == self.fixed_lines:
            hidden = f"no row matches {self.filter_text!r}" if self.filter_text and self._total else self.empty(view)
            return (("  " + hidden, "dim"),)
        if index >= len(self._rows):
            return ()
        return self._row(index, view)

    def _row(self, index: int, view: View) -> Line:
        row, key = self._rows[index], self._keys[index]
        pointer = ">" if index == self._cursor and self.has_focus else " "
        marked = "*" if key in self.marks else " "
        parts: list[Part] = [(pointer, "accent"), (marked + " " if self.markable else " ", "mark")]
        for column, width in self._columns:
            text, tone = column.cell(row, view)
            parts.append((fit(text, width, column.align), tone))
            parts.append((" ", "plain"))
        return tuple(parts)

    def _names(self) -> Line:
        sort = self.sorts[self.sort_index % len(self.sorts)] if self.sorts else None
        parts: list[Part] = [("   " if self.markable else "  ", "plain")]
        for column, width in self._columns:
            by_this = sort is not None and sort.column == column.name
            arrow = ("▼" if sort.descending else "▲") if sort is not None and by_this else ""
            name = column.name[: max(1, width - len(arrow))] + arrow
            parts.append((fit(name, width, column.align), "key" if by_this else "dim"))
            parts.append((" ", "plain"))
        return tuple(parts)

    def _title(self, view: View) -> Line:
        width = self.size.width
        frame = "accent" if self.has_focus else "frame"
        groups: list[Group] = [(9, ((f"─{self.number} ", frame), (self.name_of_panel, "title"))), (6, self.headline(view))]
        if self.filter_text:
            groups.append((8, ((f"/{self.filter_text}", "warn"), (f" {len(self._rows):,} of {self._total:,}", "plain"))))
        if self.marks:
            groups.append((7, ((f"* {len(self.marks):,} marked", "mark"),)))
        if len(self._rows) > self.visible_rows > 0:
            first = round(self.scroll_y) + 1
            last = min(len(self._rows), first + self.visible_rows - 1)
            groups.append((4, ((f"{first:,}-{last:,} of {len(self._rows):,}", "dim"),)))
        if self.sorts and self.fixed_lines > 1:
            groups.append((5, ((f"sort: {self.sorts[self.sort_index % len(self.sorts)].name}", "dim"),)))
        line = arrange(groups, max(1, width - 2), gap=2)
        rest = width - line_width(line) - 1
        return (*line, (" ", frame), ("─" * rest, frame)) if rest > 0 else line

    # Size and scrolling

    def _resize_content(self) -> None:
        self._columns = self._choose_columns(self.size.width)
        wanted = Size(self.size.width, len(self._rows) + self.fixed_lines)
        if wanted != self.virtual_size:
            self.virtual_size = wanted
        if self.follow and not self._held:
            self._scroll(len(self._rows))
        elif self._held:
            self._keep_visible()
        elif self.scroll_y and round(self.scroll_y) > max(0, len(self._rows) - self.visible_rows):
            self._scroll(len(self._rows))

    def _choose_columns(self, width: int) -> tuple[tuple[Column[R], int], ...]:
        room = width - (3 if self.markable else 2)
        chosen = [(column, self._cells(column)) for column in self.columns()]

        def needed() -> int:
            return sum((cells or column.least) + 1 for column, cells in chosen)

        while len(chosen) > 1 and needed() > room:
            lowest = min(range(len(chosen)), key=lambda index: (chosen[index][0].priority, -index))
            del chosen[lowest]
        left = room - sum(cells + 1 for _, cells in chosen if cells)
        return tuple((column, cells or max(1, left - 1)) for column, cells in chosen)

    def _cells(self, column: Column[R]) -> int:
        return column.width if isinstance(column.width, int) else column.width(self._rows)

    def on_resize(self, event: events.Resize) -> None:
        """Choose the columns again."""
        self._resize_content()
        self.redraw(everything=True)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Draw what came into sight."""
        super().watch_scroll_y(old_value, new_value)
        if round(old_value) != round(new_value):
            self.redraw(everything=True)

    def watch_has_focus(self, has_focus: bool) -> None:
        """Show or hide the cursor."""
        super().watch_has_focus(has_focus)
        self.redraw(everything=True)

    def _scroll(self, y: int) -> None:
        bottom = max(0, len(self._rows) - self.visible_rows)
        self.scroll_to(y=max(0, min(y, bottom)), animate=False, force=True)

    def _keep_visible(self) -> None:
        top, visible = round(self.scroll_y), max(1, self.visible_rows)
        if self._cursor < top:
            self._scroll(self._cursor)
        elif self._cursor >= top + visible:
            self._scroll(self._cursor - visible + 1)
        elif top > max(0, len(self._rows) - visible):
            self._scroll(len(self._rows))

    # The cursor

    def _place_cursor(self) -> None:
        """Find the cursor's row again; where it is gone, the row that took its place."""
        if not self._keys:
            self._cursor = 0
            return
        if self.follow and not self._held:
            self._cursor = len(self._keys) - 1
        else:
            found = self._positions.get(self.cursor_key) if self.cursor_key is not None else 0
            if found is None:
                # The held row is gone: nothing else is taken for it.
                self._held = self._held and not self.follow
            self._cursor = min(self._cursor, len(self._keys) - 1) if found is None else found
            if not self._held and self._cursor >= max(1, self.visible_rows):
                # Nobody put it there: the order carried it out of sight.
                self._cursor = 0
        self.cursor_key = self._keys[self._cursor]

    def move_cursor(self, index: int) -> None:
        """Put the cursor on the row at a position, as near as there is one."""
        if not self._keys:
            return
        self._cursor = max(0, min(index, len(self._keys) - 1))
        self.cursor_key = self._keys[self._cursor]
        self._held = not (self.follow and self._cursor == len(self._keys) - 1)
        self._keep_visible()
        self.redraw()

    def action_down(self) -> None:
        """One row down."""
        self.move_cursor(self._cursor + 1)

    def action_up(self) -> None:
        """One row up."""
        self.move_cursor(self._cursor - 1)

    def action_page_down(self) -> None:
        """One page down."""
        self.move_cursor(self._cursor + max(1, self.visible_rows - 1))

    def action_page_up(self) -> None:
        """One page up."""
        self.move_cursor(self._cursor - max(1, self.visible_rows - 1))

    def action_top(self) -> None:
        """To the first row; a sorted list shows its top again from now on."""
        self.move_cursor(0)
        self._held = self.follow

    def action_bottom(self) -> None:
        """To the last row; a list that follows shows its end again from now on."""
        self.move_cursor(len(self._keys) - 1)

    def action_activate(self) -> None:
        """Open the row under the cursor."""
        if self._keys and self.cursor_key is not None:
            self.post_message(self.Activated(self, self.cursor_key))

    def action_mark(self) -> None:
        """Mark the row under the cursor, or take its mark away, and move on."""
        if not self.markable or not self._keys or self.cursor_key is None:
            return
        self.marks = self.marks ^ {self.cursor_key}
        self.move_cursor(self._cursor + 1)
        self.redraw()

    def on_click(self, event: events.Click) -> None:
        """Put the cursor where the mouse is; a double click opens the row."""
        index = event.y - self.fixed_lines + round(self.scroll_y)
        if event.y >= self.fixed_lines and 0 <= index < len(self._keys):
            self.move_cursor(index)
            if event.chain == 2:
                self.action_activate()

    # What actions ask

    def clear_marks(self) -> None:
        """Take all marks away."""
        self.marks = frozenset()
        self.redraw()

    def set_filter(self, text: str) -> None:
        """Show only rows that hold every word of the text."""
        self.filter_text = text
        self._held = False
        if self._view is not None:
            self._take_rows(self._view)
        self.redraw(everything=True)

    def next_sort(self) -> str | None:
        """Sort by the next order; returns its name, None where there is only one."""
        if not self.sorts:
            return None
        self.sort_index = (self.sort_index + 1) % len(self.sorts)
        self._held = False
        self.scroll_to(y=0, animate=False, force=True)
        self.cursor_key = None
        if self._view is not None:
            self._take_rows(self._view)
        return self.sorts[self.sort_index].name

    def current(self) -> R | None:
        """Return the row under the cursor."""
        return self._rows[self._cursor] if self._rows else None

    def find(self, key: Hashable) -> R | None:
        """Return the row of a key, None when it isn't shown any more."""
        position = self._positions.get(key)
        return None if position is None else self._rows[position]

    def shown_text(self) -> str:
        """Return what the list shows, for tests."""
        return "\n".join(plain(line).rstrip() for line in self._shown)


def widest(texts: Iterable[str], low: int, high: int) -> int:
    """Return the width for a column of these texts, between ``low`` and ``high``."""
    return max(low, min(high, max((width_of(text) for text in texts), default=low)))
