"""What the screens share: they show views, pages scroll text, dialogs ask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol, cast, runtime_checkable

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.screen import Screen
from textual.scroll_view import ScrollView
from textual.strip import Strip

from tui.text import Line, Part, fit, wrap
from tui.view import View
from tui.widgets.drawing import TONE_CLASSES, LinesWidget, draw

if TYPE_CHECKING:
    from tui.app import ConsoleApp


@runtime_checkable
class Shows(Protocol):
    """A screen that follows the tick."""

    def show(self, view: View) -> None:
        """Draw a view."""


class Paper(ScrollView, can_focus=True, inherit_bindings=False):
    """Lines to read, of any number; long ones are wrapped."""

    COMPONENT_CLASSES = set(TONE_CLASSES)
    ALLOW_SELECT = False

    def __init__(self, *, name: str | None = None) -> None:
        super().__init__(name=name)
        self._source: Sequence[Line] = ()
        self._lines: list[Line] = []

    def set_lines(self, lines: Sequence[Line]) -> None:
        """Show these lines; nothing is drawn when they are the same."""
        if lines != self._source:
            self._source = lines
            self._arrange()

    def on_resize(self, event: events.Resize) -> None:
        """Wrap again."""
        self._arrange()

    def _arrange(self) -> None:
        width = max(1, self.size.width)
        self._lines = [piece for line in self._source for piece in wrap_line(line, width)]
        wanted = Size(width, len(self._lines))
        if wanted != self.virtual_size:
            self.virtual_size = wanted
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Draw one line."""
        index = y + round(self.scroll_y)
        return draw(self, self._lines[index] if index < len(self._lines) else (), self.size.width)

    def move(self, lines: int) -> None:
        """Scroll by so many lines."""
        bottom = max(0, len(self._lines) - self.size.height)
        self.scroll_to(y=max(0, min(round(self.scroll_y) + lines, bottom)), animate=False, force=True)

    @property
    def shown_text(self) -> str:
        """Return all of it, for tests."""
        return "\n".join("".join(text for text, _ in line) for line in self._lines)


def wrap_line(line: Line, width: int) -> list[Line]:
    """Return a line cut at ``width`` cells; what follows is set under its last part when that has room."""
    from tui.text import line_width, width_of

    if line_width(line) <= width or not line:
        return [line]
    head, (text, tone) = line[:-1], line[-1]
    indent = line_width(head)
    if indent > width // 2:
        return [((piece, tone),) for piece in wrap("".join(part for part, _ in line), width)]
    pieces = wrap(text, width - indent)
    blank: Part = (" " * indent, "plain")
    assert width_of(blank[0]) == indent  # noqa: S101 - spaces are one cell each
    return [(*head, (pieces[0], tone)), *[(blank, (piece, tone)) for piece in pieces[1:]]]


class OneLine(LinesWidget):
    """One line that a page sets."""

    def __init__(self, line: Line = ()) -> None:
        super().__init__()
        self.set_line(line)

    def set_line(self, line: Line) -> None:
        """Draw this line."""
        if tuple(self._lines) != (line,):
            self._lines = (line,)
            self.refresh()

    def lines(self, view: View, width: int, height: int) -> Sequence[Line]:
        """Return the line that was set."""
        return self._lines


class PageTitle(OneLine):
    """The first line of a page."""


class PageKeys(OneLine):
    """The last line of a page."""


class PageScreen(Screen[None]):
    """A page over the whole screen: a title, lines that follow the tick, the keys."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "close", "Close", id="page.close", tooltip="Back to the main screen", show=False),
        Binding("j,down", "scroll(1)", "Down", id="page.down", tooltip="One line down", show=False),
        Binding("k,up", "scroll(-1)", "Up", id="page.up", tooltip="One line up", show=False),
        Binding("pagedown,space,ctrl+d", "page(1)", "Page down", id="page.page_down", tooltip="One page down", show=False),
        Binding("pageup,ctrl+u", "page(-1)", "Page up", id="page.page_up", tooltip="One page up", show=False),
        Binding("g,home", "scroll(-1000000)", "Top", id="page.top", tooltip="To the first line", show=False),
        Binding("G,end", "scroll(1000000)", "Bottom", id="page.bottom", tooltip="To the last line", show=False),
        Binding("y", "copy", "Copy", id="page.copy", tooltip="Copy this to the clipboard", show=False),
    ]
    title_text = ""
    keys_text = "esc back  j k scroll  y copy"

    def compose(self) -> ComposeResult:
        """Return the three parts."""
        yield PageTitle()
        yield Paper()
        yield PageKeys(((self.keys_text, "dim"),))

    def on_mount(self) -> None:
        """Show the view of this moment."""
        self.query_one(Paper).focus()
        self.show(self.console_app.make_view())

    @property
    def console_app(self) -> ConsoleApp:
        """The application."""
        return cast("ConsoleApp", self.app)

    def lines(self, view: View) -> Sequence[Line]:
        """Return what the page says."""
        raise NotImplementedError

    def heading(self, view: View) -> str:
        """Return the title."""
        return self.title_text

    def clipboard(self) -> str:
        """Return what ``y`` copies."""
        return self.query_one(Paper).shown_text

    def show(self, view: View) -> None:
        """Draw a view."""
        if not self.is_mounted:
            return
        verdict = view.verdict
        self.query_one(PageTitle).set_line(
            ((f"─ {fit(self.heading(view), min(60, len(self.heading(view))))} ", "title"),
             (f" {verdict.glyph} {verdict.word}", verdict.tone))
        )  # fmt: skip
        self.query_one(Paper).set_lines(tuple(self.lines(view)))

    def action_close(self) -> None:
        """Back to the main screen."""
        self.dismiss(None)

    def action_scroll(self, lines: int) -> None:
        """Scroll by lines."""
        self.query_one(Paper).move(lines)

    def action_page(self, pages: int) -> None:
        """Scroll by pages."""
        paper = self.query_one(Paper)
        paper.move(pages * max(1, paper.size.height - 1))

    def action_copy(self) -> None:
        """Copy the page."""
        text = self.clipboard()
        self.app.copy_to_clipboard(text)
        self.console_app.say(f"copied {len(text):,} characters")


def fact(name: str, value: str, tone: str = "plain", width: int = 18) -> Line:
    """Return a line of a page: a name and its value."""
    return ((fit(name, width), "dim"), (value, tone))
