"""The console's application: one clock, one feed, one tick; the screens do the rest."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TextIO, cast

from textual.app import App, SystemCommand
from textual.binding import BindingType
from textual.driver import Driver
from textual.screen import Screen

from tui.bindings import Key, bindings, keys_of
from tui.clock import Clock
from tui.commands import CommandView
from tui.feed import Feed
from tui.screens.base import Shows
from tui.screens.main import MainScreen
from tui.text import clean
from tui.view import View
from tui.watched import Watched

THEMES = ("textual-dark", "textual-light", "ansi-dark", "ansi-light")
TICK_SECONDS = 0.5


class ConsoleApp(App[int]):
    """Draws what ``feed`` gives, twice a second.

    Its owner ends it when an in-process consumer has ended. ``on_mounted`` is called once the event loop runs; ``may_draw`` at
    each tick: False while the terminal takes nothing. ``output`` takes what is printed meanwhile.
    """

    CSS_PATH = "console.tcss"
    TITLE = "kc"
    ENABLE_COMMAND_PALETTE = True
    ALLOW_SELECT = False
    BINDINGS: ClassVar[list[BindingType]] = bindings("app", "priority")

    def __init__(
        self,
        feed: Feed,
        *,
        clock: Clock | None = None,
        theme: str | None = None,
        tick_seconds: float | None = TICK_SECONDS,
        driver_class: type[Driver] | None = None,
        on_mounted: Callable[[], None] | None = None,
        may_draw: Callable[[], bool] | None = None,
        output: TextIO | None = None,
    ) -> None:
        no_color = bool(os.environ.get("NO_COLOR"))
        super().__init__(driver_class=driver_class, ansi_color=no_color)
        self.clock = clock or Clock()
        self.watched = Watched(feed, self.clock)
        """The consumer that is shown."""
        self._tick_seconds = tick_seconds
        self._on_mounted = on_mounted
        self._may_draw = may_draw
        if output is not None:
            # Textual would throw away what the processor prints.
            self._capture_stdout = self._capture_stderr = cast("Any", output)
        self._frozen_at: float | None = None
        self.crash: str | None = None
        """How the app crashed: the traceback without values; None while it hasn't."""
        # Without colours the terminal's own must be used: the other themes would paint greys.
        self.theme = "ansi-dark" if no_color else theme if theme in THEMES else THEMES[0]

    def get_default_screen(self) -> Screen[None]:
        """Return the main screen."""
        return MainScreen(self.watched.feed)

    @property
    def feed(self) -> Feed:
        """The feed of the consumer that is shown."""
        return self.watched.feed

    def on_mount(self) -> None:
        """Start the one timer."""
        if self._on_mounted is not None:
            self._on_mounted()
        self.tick()
        if self._tick_seconds is not None:
            # Soon once more: the first snapshot is on its way.
            self.set_timer(0.15, self.tick)
            self.set_interval(self._tick_seconds, self.tick)

    # The tick

    def tick(self) -> None:
        """Take what is new and show it; everything that moves on the screen moves here."""
        if self._may_draw is not None and not self._may_draw():
            return
        if self._exit:
            return
        view = self.make_view()
        with self.batch_update():
            for screen in self.screen_stack:
                if isinstance(screen, Shows):
                    screen.show(view)
        self._tell(view)

    def make_view(self) -> View:
        """Return the view of this moment. A frozen view asks for no snapshot: none is built then."""
        if not self.frozen:
            self.watched.look()
        return self.watched.view(self.frozen_for)

    def _tell(self, view: View) -> None:
        """Say once, where it can't be missed, that a command didn't succeed."""
        for command in self.watched.failures(view):
            self.say(failure(command), severity="warning")

    def say(self, text: str, *, severity: str = "information") -> None:
        """Show a short message; data in it is shown as data."""
        kind = "warning" if severity == "warning" else "error" if severity == "error" else "information"
        self.notify(clean(text, 300), severity=kind, markup=False, timeout=6)  # type: ignore[arg-type]

    def end(self, code: int) -> None:
        """End the console with an exit code."""
        self.exit(code, return_code=code)

    def copy_to_clipboard(self, text: str) -> None:
        """Copy text without what would act on a terminal when it is pasted there."""
        super().copy_to_clipboard("\n".join(clean(line) for line in text.split("\n")))

    @property
    def frozen(self) -> bool:
        """Whether the view is frozen."""
        return self._frozen_at is not None

    @property
    def frozen_for(self) -> float | None:
        """For how many seconds the view has been frozen; None: it is live."""
        return None if self._frozen_at is None else self.clock.monotonic() - self._frozen_at

    def freeze(self, frozen: bool) -> None:
        """Freeze the view or let it live."""
        self._frozen_at = self.clock.monotonic() if frozen else None
        self.tick()

    # Actions that every screen has

    def action_theme(self) -> None:
        """Change to the next theme."""
        if self.native_ansi_color and os.environ.get("NO_COLOR"):
            self.say("NO_COLOR is set: the terminal's own colours are used")
            return
        position = THEMES.index(self.theme) if self.theme in THEMES else -1
        self.theme = THEMES[(position + 1) % len(THEMES)]
        self.say(f"theme: {self.theme}")

    async def action_quit(self) -> None:
        """Detach, or ask whether to drain: the main screen knows."""
        main = self.main
        if main is None:
            self.end(0)
        else:
            main.ask_to_leave()

    @property
    def main(self) -> MainScreen | None:
        """The main screen."""
        return next((screen for screen in self.screen_stack if isinstance(screen, MainScreen)), None)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Every action of the table that isn't about moving, for the palette."""
        for key in self.keys():
            if key.group == "Move" or key.id in ("palette", "interrupt", "interrupt.other"):
                continue
            target = "app" if key.where != "main" else "screen"
            yield SystemCommand(key.title, key.tooltip, self._palette_call(f"{target}.{key.action}"))

    def keys(self) -> Iterable[Key]:
        """Return the keys that do something here."""
        return keys_of(several=False)

    def _palette_call(self, action: str) -> Callable[[], None]:
        def call() -> None:
            if action.startswith("app."):
                self.run_worker(self.run_action(action), exit_on_error=True)
            else:
                # From a page or a dialog too, the action is that of the screen below.
                self.run_worker(self.run_action(action.removeprefix("screen."), self.screen_stack[0]), exit_on_error=True)

        return call

    # Crashes

    def _fatal_error(self) -> None:
        """Print where it happened, without the values of variables: they may be secrets."""
        self.crash = crash_report()
        self._close_messages_no_wait()

    def _print_error_renderables(self) -> None:
        if self.crash is not None:
            print(self.crash, file=sys.stderr)  # noqa: T201 - the last words, after the screen was given back
        super()._print_error_renderables()


def failure(command: CommandView) -> str:
    """Return what became of a command that didn't succeed."""
    return f"{command.summary}: {command.state.value.replace('_', ' ')}: {command.reason}"


def crash_report() -> str:
    """Return the current exception's traceback without locals, every character of it harmless."""
    lines = traceback.format_exc().splitlines()
    return "\n".join(clean(line, 2_000) for line in lines)


__all__ = ["THEMES", "ConsoleApp", "crash_report", "failure"]
