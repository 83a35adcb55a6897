"""The last line: how the latest command fares, and the keys that matter here."""

from __future__ import annotations

from collections.abc import Sequence

from tui.bindings import Key, keys_of, shown_key
from tui.commands import CommandState, CommandView
from tui.format import age
from tui.text import Group, Line, arrange, fit
from tui.view import View
from tui.widgets.drawing import LinesWidget

SHOWN_SECONDS = 15.0

_STATES = {
    CommandState.REQUESTED: ("…", "accent"),
    CommandState.ACCEPTED: ("→", "accent"),
    CommandState.APPLIED: ("✔", "ok"),
    CommandState.REFUSED: ("✖", "bad"),
    CommandState.LOST_PARTITION: ("✖", "bad"),
    CommandState.EXPIRED: ("✖", "warn"),
}


def command_line(command: CommandView) -> Line:
    """Return a command and how it fares, with glyph and word."""
    glyph, tone = _STATES[command.state]
    word = command.state.value.replace("_", " ")
    took = f" in {age(command.seconds)}" if command.state is CommandState.APPLIED else ""
    said = f": {command.reason}" if command.reason else ""
    return ((f"{glyph} {command.summary} ", tone), (word, tone), (f"{took}{said}", "plain"))


class KeyBar(LinesWidget):
    """One line."""

    def keys(self, view: View) -> Sequence[Key]:
        """Return the keys to name, the most important first."""
        return [key for key in keys_of(several=bool(view.consumers)) if key.hint]

    def lines(self, view: View, width: int, height: int) -> Sequence[Line]:
        """Return the line."""
        groups: list[Group] = []
        command = view.last_command
        if command is not None and (
            not command.final or view.clock.time() - command.requested_at - command.seconds <= SHOWN_SECONDS
        ):
            line = command_line(command)
            left = max(8, width - sum(len(text) for text, _ in line[:2]))
            groups.append((1000, (*line[:2], (fit(line[2][0], min(len(line[2][0]), left)), "plain"))))
        for rank, key in enumerate(self.keys(view)):
            if view.read_only and key.changes:
                continue
            if key.id == "filter" and width < 100:
                groups.append((500 - rank, (("1-5 ", "key"), ("panels", "dim"))))
            groups.append((500 - rank, ((f"{shown_key(key)} ", "key"), (key.hint, "dim"))))
        return (arrange(groups, width),)
