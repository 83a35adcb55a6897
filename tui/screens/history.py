"""The commands given through this console: when, who, what, and how each ended."""

from __future__ import annotations

from collections.abc import Sequence

from tui.format import age, clock_time
from tui.screens.base import PageScreen
from tui.text import Line, fit, width_of
from tui.view import View
from tui.widgets.keybar import command_line


class HistoryPage(PageScreen):
    """The newest first."""

    title_text = "History of commands"

    def lines(self, view: View) -> Sequence[Line]:
        """Return the page."""
        if not view.history:
            return [(("no command was given through this console", "dim"),)]
        who = max(width_of(command.who) for command in view.history)
        return [
            (
                (f"{clock_time(view.clock.local(command.requested_at))}  ", "dim"),
                (f"{fit(command.who, min(24, who))}  ", "plain"),
                *command_line(command)[:2],
                ((command_line(command)[2][0] if command.final else f", {age(command.seconds)} ago"), "plain"),
            )
            for command in reversed(view.history)
        ]
