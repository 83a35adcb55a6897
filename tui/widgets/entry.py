"""A line to write in, which takes no character that acts on a terminal, typed or pasted."""

from __future__ import annotations

from textual.widgets import Input

from tui.text import clean


class Entry(Input):
    """Textual's input without control and direction characters."""

    def validate_value(self, value: str) -> str:
        """Return the value with such characters made visible."""
        return clean(value, 200)
