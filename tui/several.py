"""The console on several consumers: a screen for all of them, and one like the single console's for each.

All feeds are looked at in every tick, so that trouble elsewhere is seen; a feed that is dead holds up none of the others.
What acts on one consumer goes to the one whose screen it was asked for on, never to another.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from textual.binding import BindingType

from tui.app import ConsoleApp, failure
from tui.bindings import Key, bindings, keys_of
from tui.feed import Feed
from tui.screens.all import OVERVIEW_KEYS, AllScreen
from tui.screens.base import PageScreen
from tui.screens.dialogs import Dialog
from tui.screens.main import MainScreen
from tui.view import ConsumerView, View
from tui.watched import Watched
from tui.widgets.consumers import overall


def names_of(sources: Sequence[str]) -> list[str]:
    """Return a short name for each socket's path: its last part, with as many of those before as tell it from the others."""
    parts = [os.path.normpath(source).removesuffix(".sock").split(os.sep) for source in sources]
    names = []
    for own in parts:
        taken = 1
        while taken < len(own) and sum(other[-taken:] == own[-taken:] for other in parts) > 1:
            taken += 1
        names.append("/".join(own[-taken:]))
    return names


def make_app(feeds: Sequence[Feed], **options: Any) -> ConsoleApp:
    """Return the console for one feed, or for several; ``options`` are those of ``ConsoleApp``."""
    return ConsoleApp(feeds[0], **options) if len(feeds) == 1 else SeveralApp(feeds, **options)


def _mode(number: int | None) -> str:
    """Return the mode that shows a consumer, or all."""
    return "all" if number is None else f"consumer-{number}"


class SeveralApp(ConsoleApp):
    """Starts on all consumers; ``watched`` is the one that is shown, or was shown last."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("several")
    # Textual's modes: each screen stays as it was left, with its cursors and marks.
    DEFAULT_MODE = "all"

    def __init__(self, feeds: Sequence[Feed], **options: Any) -> None:
        super().__init__(feeds[0], **options)
        self._consumers = [
            Watched(feed, self.clock, name) for feed, name in zip(feeds, names_of([each.source for each in feeds]), strict=True)
        ]
        self.watched = self._consumers[0]
        # None: the screen of all consumers.
        self._shown: int | None = None
        self._all = AllScreen()
        self._screens = [MainScreen(feed, tabs=True) for feed in feeds]
        for number, screen in ((None, self._all), *enumerate(self._screens)):
            self.add_mode(_mode(number), lambda screen=screen: screen)  # type: ignore[misc]

    # The tick

    def make_view(self) -> View:
        """Return the view of this moment; without a consumer shown, that of all."""
        if not self.frozen:
            for consumer in self._consumers:
                consumer.look()
        frozen_for = self.frozen_for
        views = tuple(
            ConsumerView(number, consumer.name, consumer.view(frozen_for), number == self._shown)
            for number, consumer in enumerate(self._consumers)
        )
        if self._shown is not None:
            return replace(views[self._shown].view, consumers=views)
        return overall(views, self.clock, frozen_for)

    def _tell(self, view: View) -> None:
        for consumer, shown in zip(self._consumers, view.consumers, strict=True):
            for command in consumer.failures(shown.view):
                self.say(f"{consumer.name}: {failure(command)}", severity="warning")

    # Going from one to another

    def show_consumer(self, number: int | None) -> None:
        """Show a consumer, or all (None); not while a question is open: its answer is about the one that is shown."""
        if any(isinstance(screen, Dialog) for screen in self.screen_stack):
            self.say("answer the question first", severity="warning")
            return
        while isinstance(self.screen, PageScreen):
            self.pop_screen()
        self._shown = number
        if number is not None:
            self.watched = self._consumers[number]
        target: AllScreen | MainScreen = self._all if number is None else self._screens[number]
        target.show(self.make_view())
        self.switch_mode(_mode(number))
        self.call_after_refresh(self.tick)

    def action_consumers(self) -> None:
        """Show all consumers."""
        self.show_consumer(None)

    def action_consumer(self, step: int) -> None:
        """Show the next consumer, or the one before; from the screen of all, the first or the last."""
        start = self._shown if self._shown is not None else -1 if step > 0 else 0
        self.show_consumer((start + step) % len(self._consumers))

    # Acting on several

    def action_pause_several(self) -> None:
        """Pause or resume several consumers, after a question."""
        if self._among_all():
            self._all.ask_to_pause()

    def action_stop_several(self) -> None:
        """Stop several consumers, after a question."""
        if self._among_all():
            self._all.ask_to_stop()

    def _among_all(self) -> bool:
        """Whether all consumers are shown: only there it is seen on which of them this acts."""
        if self._shown is not None or not isinstance(self.screen, AllScreen):
            self.say("acts on several consumers: press 0, mark them, and press it there", severity="warning")
            return False
        return True

    def send_to(self, numbers: Collection[int], command: str, args: Mapping[str, Any], summary: str) -> None:
        """Send a command to each of these consumers."""
        for number in numbers:
            self._consumers[number].feed.request(command, args, summary=summary)
        self.tick()

    def keys(self) -> Iterable[Key]:
        """Return the keys that do something on the screen below."""
        if self._shown is not None:
            return [key for key in keys_of(several=True) if not (key.where == "several" and key.changes)]
        return [key for key in keys_of(several=True) if key.where != "main" or key.id in OVERVIEW_KEYS]


__all__ = ["SeveralApp", "make_app", "names_of"]
