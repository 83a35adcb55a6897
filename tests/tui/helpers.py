"""Running the console in a test: without a terminal, with a clock that stands still, one tick at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from textual.pilot import Pilot

from kafka_consumer.snapshot import Snapshot
from tests.tui.fakes import FakeFeed
from tui.app import ConsoleApp
from tui.screens.base import Paper
from tui.screens.dialogs import DialogText
from tui.several import make_app


class Console:
    """A running console and the feed behind it."""

    def __init__(self, app: ConsoleApp, feed: FakeFeed, pilot: Pilot[Any]) -> None:
        self.app = app
        self.feed = feed
        self.pilot = pilot

    async def press(self, *keys: str) -> None:
        """Press keys and let everything that follows happen."""
        await self.pilot.press(*keys)
        await self.settle()

    async def settle(self) -> None:
        """Tick once and draw."""
        await self.pilot.pause()
        self.app.tick()
        await self.pilot.pause()

    async def publish(self, snapshot: Snapshot, seconds: float = 0.5) -> None:
        """Let time pass, then show this snapshot."""
        self.feed.frozen_clock.advance(seconds)
        self.feed.publish(snapshot)
        await self.settle()

    @property
    def lines(self) -> list[str]:
        """What is on the screen, a line each."""
        return [strip.text.rstrip() for strip in self.app.screen._compositor.render_strips()]

    @property
    def text(self) -> str:
        """What is on the screen."""
        return "\n".join(self.lines)

    @property
    def dialog(self) -> str:
        """What the open dialog says."""
        return self.app.screen.query_one(DialogText).shown_text

    @property
    def page(self) -> str:
        """What the open page says, the part that is scrolled away included."""
        return self.app.screen.query_one(Paper).shown_text

    @property
    def screen_name(self) -> str:
        """The class of the screen on top."""
        return type(self.app.screen).__name__


@asynccontextmanager
async def consoles(feeds: Sequence[FakeFeed], *, size: tuple[int, int] = (120, 36)) -> AsyncIterator[Console]:
    """Run the console on several fake feeds, which share the first one's clock."""
    app = make_app(feeds, clock=feeds[0].frozen_clock, tick_seconds=None)
    async with app.run_test(size=size, notifications=True) as pilot:
        running = Console(app, feeds[0], pilot)
        await running.settle()
        yield running


@asynccontextmanager
async def console(
    snapshot: Snapshot | None, *, size: tuple[int, int] = (120, 36), feed: FakeFeed | None = None, **options: Any
) -> AsyncIterator[Console]:
    """Run the console on a fake feed. ``options`` go to the feed, except ``theme``."""
    theme = options.pop("theme", None)
    used = feed or FakeFeed(snapshot, **options)
    app = ConsoleApp(used, clock=used.frozen_clock, tick_seconds=None, theme=theme)
    async with app.run_test(size=size, notifications=True) as pilot:
        running = Console(app, used, pilot)
        await running.settle()
        yield running
