"""Questions: what a command would do, in figures that go on moving, and the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar, cast

from rich.style import Style
from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.geometry import Size
from textual.message import Message
from textual.screen import ModalScreen
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Input

from tui.screens.base import wrap_line
from tui.text import Line, clean
from tui.view import View
from tui.widgets.drawing import TONE_CLASSES, draw
from tui.widgets.entry import Entry

if TYPE_CHECKING:
    from tui.app import ConsoleApp

Answer = TypeVar("Answer")


class DialogText(Widget):
    """The lines of a dialog, wrapped; its height is theirs."""

    COMPONENT_CLASSES = set(TONE_CLASSES)
    ALLOW_SELECT = False

    def __init__(self) -> None:
        super().__init__()
        self._source: Sequence[Line] = ()

    def set_lines(self, lines: Sequence[Line]) -> None:
        """Show these lines."""
        if tuple(lines) == tuple(self._source):
            return
        layout = len(self._wrapped(self.size.width)) != len(self._wrapped(self.size.width, lines))
        self._source = tuple(lines)
        self.refresh(layout=layout)

    def _wrapped(self, width: int, lines: Sequence[Line] | None = None) -> list[Line]:
        return [piece for line in (self._source if lines is None else lines) for piece in wrap_line(line, max(1, width))]

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """Return the number of lines."""
        return len(self._wrapped(width))

    def render_line(self, y: int) -> Strip:
        """Draw one line."""
        lines = self._wrapped(self.size.width)
        return draw(self, lines[y] if y < len(lines) else (), self.size.width)

    @property
    def shown_text(self) -> str:
        """Return all of it, for tests."""
        return "\n".join("".join(text for text, _ in line) for line in self._source)


class Choice(Widget, can_focus=True):
    """A word to choose."""

    COMPONENT_CLASSES = set(TONE_CLASSES)
    ALLOW_SELECT = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,space", "choose", "Choose", id="choice.choose", tooltip="Choose this", show=False)
    ]

    class Chosen(Message):
        """This one was chosen."""

        def __init__(self, value: str) -> None:
            super().__init__()
            self.value = value

    def __init__(self, value: str, label: str, tone: str = "plain") -> None:
        super().__init__()
        self.value = value
        self.label = label
        self._tone = tone

    def get_content_width(self, container: Size, viewport: Size) -> int:
        """Return the width of the word."""
        return len(self.label)

    def render_line(self, y: int) -> Strip:
        """Draw the word."""
        strip = draw(self, ((self.label, self._tone),), self.size.width)
        return strip.apply_style(Style(reverse=True)) if self.has_focus else strip

    def action_choose(self) -> None:
        """Choose this."""
        self.post_message(self.Chosen(self.value))

    def on_click(self, event: events.Click) -> None:
        """Choose this."""
        self.action_choose()


class Dialog(ModalScreen[Answer], Generic[Answer]):
    """A question over the main screen. Its text is made anew at every tick."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "refuse", "Cancel", id="dialog.cancel", tooltip="Close without doing anything", show=False),
        Binding("left,up", "app.focus_previous", "Previous", id="dialog.previous", tooltip="The choice before", show=False),
        Binding("right,down", "app.focus_next", "Next", id="dialog.next", tooltip="The next choice", show=False),
    ]

    def __init__(self, text: Callable[[View], Sequence[Line]], *, dangerous: bool = False) -> None:
        super().__init__()
        self._text = text
        self.set_class(dangerous, "dangerous")

    @property
    def console_app(self) -> ConsoleApp:
        """The application."""
        return cast("ConsoleApp", self.app)

    def body(self) -> ComposeResult:
        """Return what stands between the text and the choices."""
        yield from ()

    def choices(self) -> Sequence[Choice]:
        """Return the choices; the first one has the focus."""
        raise NotImplementedError

    def compose(self) -> ComposeResult:
        """Return the box."""
        with Vertical(id="box"):
            yield DialogText()
            yield from self.body()
            with Horizontal(id="choices"):
                yield from self.choices()

    def on_mount(self) -> None:
        """Fill the box."""
        self.show(self.console_app.make_view())

    def show(self, view: View) -> None:
        """Say it with the figures of this view."""
        if self.is_mounted:
            self.query_one(DialogText).set_lines(self._text(view))

    def action_refuse(self) -> None:
        """Close without an answer."""
        self.dismiss(None)


class Confirm(Dialog[bool]):
    """Yes or no; the harmless answer has the focus, ``y`` and ``n`` answer too."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes", id="confirm.yes", tooltip="Do it", show=False),
        Binding("n", "answer(False)", "No", id="confirm.no", tooltip="Don't", show=False),
    ]

    def __init__(self, text: Callable[[View], Sequence[Line]], yes: str, *, dangerous: bool = True) -> None:
        super().__init__(text, dangerous=dangerous)
        self._yes = yes

    def choices(self) -> Sequence[Choice]:
        """Return no and yes."""
        return (Choice("no", "n  cancel"), Choice("yes", f"y  {self._yes}", "bad"))

    @on(Choice.Chosen)
    def _chosen(self, event: Choice.Chosen) -> None:
        self.dismiss(event.value == "yes")

    def action_answer(self, answer: bool) -> None:
        """Answer."""
        self.dismiss(answer)


class Choose(Dialog[str]):
    """One of a few words."""

    def __init__(self, text: Callable[[View], Sequence[Line]], options: Sequence[str], current: str) -> None:
        super().__init__(text)
        self._options = options
        self._current = current

    def choices(self) -> Sequence[Choice]:
        """Return the words."""
        return tuple(Choice(option, option) for option in self._options)

    def on_mount(self) -> None:
        """Start on the current one."""
        super().on_mount()
        for choice in self.query(Choice):
            if choice.value == self._current:
                choice.focus()

    @on(Choice.Chosen)
    def _chosen(self, event: Choice.Chosen) -> None:
        self.dismiss(event.value)


class Ask(Dialog[str]):
    """A value to write, with a preview of what it would do; it can't be sent while the preview says it is wrong.

    ``preview`` returns a line for each fact, and whether the value is acceptable.
    """

    def __init__(
        self,
        text: Callable[[View], Sequence[Line]],
        preview: Callable[[View, str], tuple[Sequence[Line], bool]],
        *,
        value: str,
        yes: str,
        dangerous: bool = False,
    ) -> None:
        super().__init__(self._with_preview(text, preview), dangerous=dangerous)
        self._preview = preview
        self._value = value
        self._yes = yes
        self._entered = value

    def _with_preview(
        self, text: Callable[[View], Sequence[Line]], preview: Callable[[View, str], tuple[Sequence[Line], bool]]
    ) -> Callable[[View], Sequence[Line]]:
        def both(view: View) -> Sequence[Line]:
            return [*text(view), (), *preview(view, self._entered)[0], ()]

        return both

    def body(self) -> ComposeResult:
        """Return the entry."""
        yield Entry(self._value, id="entry")

    def choices(self) -> Sequence[Choice]:
        """Return cancel and go."""
        tone = "bad" if self.has_class("dangerous") else "plain"
        return (Choice("no", "esc  cancel"), Choice("yes", f"enter  {self._yes}", tone))

    def on_mount(self) -> None:
        """Start in the entry."""
        super().on_mount()
        self.query_one("#entry", Input).focus()

    @on(Input.Changed)
    def _changed(self, event: Input.Changed) -> None:
        self._entered = clean(event.value, 200)
        self.show(self.console_app.make_view())

    @on(Input.Submitted)
    def _submitted(self, event: Input.Submitted) -> None:
        self._send()

    @on(Choice.Chosen)
    def _chosen(self, event: Choice.Chosen) -> None:
        if event.value == "yes":
            self._send()
        else:
            self.dismiss(None)

    def _send(self) -> None:
        entered = self.query_one("#entry", Input).value.strip()
        if self._preview(self.console_app.make_view(), entered)[1]:
            self.dismiss(entered)
        else:
            self.app.bell()
