"""From lines of parts to strips of segments, in the colours of the theme."""

from __future__ import annotations

from collections.abc import Sequence

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from tui.text import TONES, Line, clean, width_of
from tui.view import View

TONE_CLASSES = frozenset(f"tone--{tone}" for tone in TONES)
_REVERSE = Style(reverse=True)


def draw(widget: Widget, line: Line, width: int, *, reverse: bool = False) -> Strip:
    """Return a line as a strip of exactly ``width`` cells. Every text passes ``clean`` here, whatever it passed before.

    ``reverse`` draws the whole line in one pair of colours: the cursor. Words and glyphs tell the rest.
    """
    segments: list[Segment] = []
    taken = 0
    for text, tone in line:
        if not text:
            continue
        style = widget.get_component_rich_style("tone--strong" if reverse else f"tone--{tone}")
        shown = clean(text)
        taken += width_of(shown)
        segments.append(Segment(shown, style + _REVERSE if reverse else style))
        if taken >= width:
            break
    base = widget.get_component_rich_style("tone--strong" if reverse else "tone--plain")
    if taken < width:
        segments.append(Segment(" " * (width - taken), base + _REVERSE if reverse else base))
        taken = width
    strip = Strip(segments, taken)
    return strip.crop(0, width) if taken > width else strip


class LinesWidget(Widget):
    """A widget of a few lines. A subclass says what they are for a view and a width; only changed ones are drawn again."""

    COMPONENT_CLASSES = set(TONE_CLASSES)
    ALLOW_SELECT = False

    def __init__(self) -> None:
        super().__init__()
        self._view: View | None = None
        self._lines: Sequence[Line] = ()

    def lines(self, view: View, width: int, height: int) -> Sequence[Line]:
        """Return the lines to draw."""
        raise NotImplementedError

    def show(self, view: View) -> None:
        """Draw a view."""
        self._view = view
        self._redraw()

    def on_resize(self, event: events.Resize) -> None:
        """Arrange the lines for the new width."""
        self._redraw()

    def _redraw(self) -> None:
        if self._view is None:
            return
        width, height = self.size
        # A widget without a line has no size yet.
        width = width or self.screen.size.width
        before, self._lines = self._lines, self.lines(self._view, width, height)
        if len(before) != len(self._lines):
            self.refresh(layout=self.styles.is_auto_height)
        for y in range(max(len(before), len(self._lines))):
            old = before[y] if y < len(before) else None
            new = self._lines[y] if y < len(self._lines) else None
            if old != new:
                self.refresh(Region(0, y, width, 1))

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """Return the number of lines."""
        return len(self._lines)

    def render_line(self, y: int) -> Strip:
        """Draw one line."""
        return draw(self, self._lines[y] if y < len(self._lines) else (), self.size.width)
