"""The main screen: header, figures, five panels; one panel at a time where room is short; the figures alone on a tiny one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual import events, on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import Screen
from textual.widgets import Input

from kafka_consumer.snapshot import DeadLetterView, PartitionView, WorkerView
from tui.bindings import bindings
from tui.feed import Feed
from tui.screens.detail import DeadLetterPage, PartitionPage, WorkerPage
from tui.screens.help import HelpPage
from tui.screens.history import HistoryPage
from tui.screens.operate import Operating
from tui.view import View
from tui.widgets.consumers import Tabs
from tui.widgets.dlq import DeadLetters
from tui.widgets.drawing import LinesWidget
from tui.widgets.entry import Entry
from tui.widgets.figures import Figures
from tui.widgets.header import Header
from tui.widgets.keybar import KeyBar
from tui.widgets.log import Log
from tui.widgets.partitions import Partitions
from tui.widgets.queues import Queues
from tui.widgets.replaybar import ReplayBar
from tui.widgets.rowlist import RowList
from tui.widgets.workers import Workers

if TYPE_CHECKING:
    from tui.app import ConsoleApp

LAYOUTS = ("tiny", "small", "medium", "large")


def layout_for(width: int, height: int) -> str:
    """Return the layout for a terminal of this size."""
    if width <= 60 or height <= 15:
        return "tiny"
    if width < 100 or height < 30:
        return "small"
    return "large" if width >= 160 and height >= 48 else "medium"


class MainScreen(Operating, Screen[None]):
    """Everything of one consumer at a glance; ``tabs``: with the line that names the others."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("main")
    ALLOW_SELECT = False

    def __init__(self, feed: Feed, *, tabs: bool = False) -> None:
        super().__init__()
        self.feed = feed
        self.view: View | None = None
        self._tabs = tabs
        self._layout = "medium"
        self._active = 1

    def compose(self) -> ComposeResult:
        """Return the parts, from top to bottom."""
        if self._tabs:
            yield Tabs()
        yield Header()
        yield ReplayBar()
        yield Figures()
        with Vertical(id="panels"):
            yield Partitions().add_class("group")
            with Horizontal(id="middle", classes="group"):
                yield Workers()
                yield DeadLetters()
            with Vertical(id="bottom", classes="group"):
                yield Queues()
                yield Log()
        yield Entry(id="filter", placeholder="filter: every word must occur; enter keeps it, esc takes it away")
        yield KeyBar()

    def on_mount(self) -> None:
        """Start on the partitions."""
        self._arrange(self.app.size.width, self.app.size.height)
        self.panel(1).focus()

    @property
    def console_app(self) -> ConsoleApp:
        """The application."""
        return cast("ConsoleApp", self.app)

    # Showing

    def show(self, view: View) -> None:
        """Hand a view to every widget that is seen."""
        self.view = view
        if not self.is_mounted:
            return
        for widget in self.query(LinesWidget):
            if widget.display:
                widget.show(view)
        for panel in self.query(RowList):
            if self._layout != "tiny" and (self._layout != "small" or panel.number == self._active):
                panel.show(view)
        self.wait_for_count(view)

    def on_resize(self, event: events.Resize) -> None:
        """Choose the layout for the new size."""
        self._arrange(event.size.width, event.size.height)

    def _arrange(self, width: int, height: int) -> None:
        self._layout = layout_for(width, height)
        for name in LAYOUTS:
            self.set_class(name == self._layout, name)
        self._mark_active()
        if self.view is not None:
            self.show(self.view)

    def _mark_active(self) -> None:
        for panel in self.query(RowList):
            active = panel.number == self._active
            panel.set_class(active, "active")
            if active:
                for group in self.query(".group"):
                    group.set_class(group is panel or group is panel.parent, "active")

    # Panels

    def panel(self, number: int | None = None) -> RowList[Any]:
        """Return a panel; without a number, the active one."""
        return self.query_one(f"#panel-{number or self._active}", RowList)

    def action_panel(self, number: int) -> None:
        """Go to a panel."""
        self._active = number
        self._mark_active()
        if self.view is not None:
            self.show(self.view)
        self.panel().focus()

    def action_next_panel(self, step: int) -> None:
        """Go to the next panel, or the one before."""
        self.action_panel((self._active - 1 + step) % 5 + 1)

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """A panel clicked on is the active one."""
        if isinstance(event.widget, RowList) and event.widget.number != self._active:
            self._active = event.widget.number
            self._mark_active()

    def action_down(self) -> None:
        """One row down."""
        self.panel().action_down()

    def action_up(self) -> None:
        """One row up."""
        self.panel().action_up()

    def action_top(self) -> None:
        """To the first row."""
        self.panel().action_top()

    def action_bottom(self) -> None:
        """To the last row."""
        self.panel().action_bottom()

    def action_page_down(self) -> None:
        """One page down."""
        self.panel().action_page_down()

    def action_page_up(self) -> None:
        """One page up."""
        self.panel().action_page_up()

    def action_mark(self) -> None:
        """Mark the row under the cursor."""
        self.panel().action_mark()

    def action_sort(self) -> None:
        """Sort the active panel by its next order."""
        name = self.panel().next_sort()
        if name is None:
            self.console_app.say(f"{self.panel().name_of_panel}: there is only one order")

    def action_copy(self) -> None:
        """Copy the row under the cursor."""
        panel = self.panel()
        row = panel.current()
        if row is not None:
            self.app.copy_to_clipboard(panel.describe(row))
            self.console_app.say(f"copied {panel.describe(row)}")

    # The filter

    def action_filter(self) -> None:
        """Open the filter's line."""
        if self._layout == "tiny":
            self.console_app.say("the screen is too small for panels")
            return
        entry = self.query_one("#filter", Entry)
        entry.add_class("open")
        entry.value = self.panel().filter_text
        entry.focus()

    @on(Input.Changed, "#filter")
    def _filter_changed(self, event: Input.Changed) -> None:
        if self.query_one("#filter").has_class("open"):
            self.panel().set_filter(event.value)

    @on(Input.Submitted, "#filter")
    def _filter_kept(self, event: Input.Submitted) -> None:
        self._close_filter()

    def _close_filter(self) -> None:
        self.query_one("#filter").remove_class("open")
        self.panel().focus()

    def action_back(self) -> None:
        """Close the filter's line and take the filter away; else the filter, else the marks."""
        panel = self.panel()
        if self.query_one("#filter").has_class("open"):
            self._close_filter()
            panel.set_filter("")
        elif panel.filter_text:
            panel.set_filter("")
        else:
            panel.clear_marks()

    # Pages

    def action_activate(self) -> None:
        """Open the row under the cursor."""
        self.panel().action_activate()

    @on(RowList.Activated)
    def _open(self, event: RowList.Activated) -> None:
        row = event.panel.find(event.key)
        if isinstance(row, PartitionView):
            self.app.push_screen(PartitionPage(row))
        elif isinstance(row, WorkerView):
            self.app.push_screen(WorkerPage(row))
        elif isinstance(row, DeadLetterView):
            self.app.push_screen(DeadLetterPage(row))

    def action_help(self) -> None:
        """Show all keys."""
        self.app.push_screen(HelpPage())

    def action_history(self) -> None:
        """Show all commands given."""
        self.app.push_screen(HistoryPage())

    def action_freeze(self) -> None:
        """Freeze the view, or let it live."""
        self.console_app.freeze(not self.console_app.frozen)
