"""All attached consumers: their sums, a row for each, and what may be asked of several at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen

from tui.bindings import KEYS, bindings
from tui.screens.dialogs import Confirm
from tui.screens.help import HelpPage
from tui.screens.history import HistoryPage
from tui.text import Line
from tui.trends import unfinished
from tui.view import ConsumerView, View
from tui.widgets.consumers import AllHeader, AllKeys, Consumers, Sums, is_counted
from tui.widgets.drawing import LinesWidget
from tui.widgets.rowlist import RowList

if TYPE_CHECKING:
    from tui.several import SeveralApp

OVERVIEW_KEYS = frozenset({
    "help", "detail", "sort", "freeze", "copy", "history", "down", "up", "top", "bottom", "page.down", "page.up", "mark", "back",
})  # fmt: skip
"""What means here what it means on the screen of one consumer."""
NAMED = 8
"""Consumers named in a question; of the others, how many there are."""


def _elsewhere() -> list[BindingType]:
    """Return bindings that say where a key acts: on the consumer that is shown, and here none is."""
    return [
        Binding(",".join(key.keys), "not_here", key.title, show=False, id=key.id, tooltip=key.tooltip)
        for key in KEYS
        if key.changes and key.where == "main"
    ]


class AllScreen(Screen[None]):
    """A row for each consumer; ``enter`` goes to its own screen."""

    BINDINGS: ClassVar[list[BindingType]] = [*bindings("main", only=OVERVIEW_KEYS), *_elsewhere()]
    ALLOW_SELECT = False

    def __init__(self) -> None:
        super().__init__()
        self.view: View | None = None

    def compose(self) -> ComposeResult:
        """Return the parts, from top to bottom."""
        yield AllHeader()
        yield Sums()
        yield Consumers()
        yield AllKeys()

    def on_mount(self) -> None:
        """Start on the first consumer."""
        self.rows.focus()
        if self.view is not None:
            self.show(self.view)

    @property
    def console_app(self) -> SeveralApp:
        """The application."""
        return cast("SeveralApp", self.app)

    @property
    def rows(self) -> Consumers:
        """The list."""
        return self.query_one(Consumers)

    def show(self, view: View) -> None:
        """Hand a view to every widget."""
        self.view = view
        if self.is_mounted:
            for widget in self.query(LinesWidget):
                widget.show(view)
            self.rows.show(view)

    # Looking

    def action_down(self) -> None:
        """One row down."""
        self.rows.action_down()

    def action_up(self) -> None:
        """One row up."""
        self.rows.action_up()

    def action_top(self) -> None:
        """To the first row."""
        self.rows.action_top()

    def action_bottom(self) -> None:
        """To the last row."""
        self.rows.action_bottom()

    def action_page_down(self) -> None:
        """One page down."""
        self.rows.action_page_down()

    def action_page_up(self) -> None:
        """One page up."""
        self.rows.action_page_up()

    def action_mark(self) -> None:
        """Mark the consumer under the cursor."""
        self.rows.action_mark()

    def action_back(self) -> None:
        """Take the marks away."""
        self.rows.clear_marks()

    def action_sort(self) -> None:
        """Sort by the next order."""
        self.rows.next_sort()

    def action_copy(self) -> None:
        """Copy the row under the cursor."""
        row = self.rows.current()
        if row is not None:
            self.app.copy_to_clipboard(self.rows.describe(row))
            self.console_app.say(f"copied {self.rows.describe(row)}")

    def action_activate(self) -> None:
        """Go to the consumer under the cursor."""
        self.rows.action_activate()

    @on(RowList.Activated)
    def _open(self, event: RowList.Activated) -> None:
        if isinstance(event.key, int):
            self.console_app.show_consumer(event.key)

    def action_help(self) -> None:
        """Show all keys."""
        self.app.push_screen(HelpPage())

    def action_history(self) -> None:
        """Show all commands given to any of them."""
        self.app.push_screen(HistoryPage())

    def action_freeze(self) -> None:
        """Freeze the view, or let it live."""
        self.console_app.freeze(not self.console_app.frozen)

    def action_not_here(self) -> None:
        """Say where this acts."""
        self.console_app.say("acts on one consumer: press enter to go to the one under the cursor", severity="warning")

    # Acting on several

    def ask_to_pause(self) -> None:
        """Ask whether to pause the marked consumers, or all; to resume them when all of them are paused."""
        chosen = self._chosen()
        snapshots = [row.view.snapshot for row in chosen if is_counted(row.view)]
        paused = bool(snapshots) and all(snapshot.paused for snapshot in snapshots if snapshot is not None)
        command, effect = ("resume", "takes messages again") if paused else ("pause", "takes nothing new, keeps its partitions")
        self._ask(chosen, command, {}, f"{command} everything", f"{command.capitalize()} %s?", command, effect)

    def ask_to_stop(self) -> None:
        """Ask whether to stop the marked consumers, or all."""
        args = {"reason": "stopped by the operator"}
        self._ask(self._chosen(), "stop", args, "stop", "Stop %s?", "stop", None)

    def _chosen(self) -> Sequence[ConsumerView]:
        marks = self.rows.marks
        view = self.console_app.make_view()
        return [row for row in view.consumers if not marks or row.number in marks]

    def _ask(
        self, chosen: Sequence[ConsumerView], command: str, args: Mapping[str, Any], summary: str, title: str, yes: str,
        effect: str | None,
    ) -> None:  # fmt: skip
        """Ask; the answer is about the consumers that are named now, whatever is marked later."""
        app = self.console_app
        numbers = [row.number for row in chosen]
        if all(row.view.read_only for row in chosen):
            app.send_to(numbers, command, args, summary)
            return
        if app.frozen:
            # A question about consumers is answered from what is, not from what was.
            app.freeze(False)
        everyone = self.view is not None and len(numbers) == len(self.view.consumers)
        noun = "consumer" if len(numbers) == 1 else "consumers"
        named = f"all {len(numbers):,} {noun}" if everyone else f"{len(numbers):,} {noun}"

        def text(view: View) -> Sequence[Line]:
            rows = [view.consumers[number] for number in numbers]
            lines: list[Line] = [((title % named, "bad"),), ()]
            lines += [((f"{row.name}: ", "strong"), _effect(row.view, effect)) for row in rows[:NAMED]]
            if len(rows) > NAMED:
                lines.append(((f"and {len(rows) - NAMED:,} more", "plain"),))
            if effect is None:
                lines += [(), (("their partitions go to other members of their groups, if there are any", "plain"),)]
            return lines

        def answered(agreed: bool | None) -> None:
            if agreed:
                app.send_to(numbers, command, args, summary)
                self.rows.clear_marks()

        app.push_screen(Confirm(text, yes), answered)


def _effect(view: View, effect: str | None) -> tuple[str, str]:
    """Return what a command does to one consumer; ``effect`` None: stopping it."""
    snapshot = view.snapshot
    if view.read_only:
        return "refuses commands (read-only)", "warn"
    if snapshot is None or not is_counted(view):
        return f"{view.verdict.word}: {view.verdict.reason}", "warn"
    if effect is not None:
        return effect, "plain"
    left = unfinished(snapshot)
    commits = "commits nothing (commits are OFF)" if snapshot.dev_mode else "commits"
    return f"drains {left:,} {'message' if left == 1 else 'messages'}, {commits}, exits", "plain"
