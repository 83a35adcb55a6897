"""One consumer as the screen sees it: its feed, the last snapshot, how figures moved. Of the screen's thread alone."""

from __future__ import annotations

from collections.abc import Iterator

from kafka_consumer.snapshot import Snapshot
from tui.clock import Clock
from tui.commands import CommandState, CommandView
from tui.feed import Feed
from tui.health import judge
from tui.trends import Trends
from tui.view import View


class Watched:
    """``name`` tells it from the others where several are attached."""

    def __init__(self, feed: Feed, clock: Clock, name: str = "") -> None:
        self.feed = feed
        self.name = name
        self._clock = clock
        self._trends = Trends()
        self._snapshot: Snapshot | None = None
        self._told: set[str] = set()

    def look(self) -> None:
        """Take the latest snapshot in; the feed gets the next one because of it."""
        found = self.feed.latest()
        if found is not None:
            self._snapshot = found
            self._trends.feed(found)

    def view(self, frozen_for: float | None) -> View:
        """Return the view of this moment, without looking."""
        feed, snapshot, age = self.feed, self._snapshot, self.feed.age
        history = feed.history()
        # Frozen, it stays the verdict of the moment in which the view was frozen.
        then = age if age is None or frozen_for is None else max(0.0, age - frozen_for)
        verdict = judge(snapshot, self._trends, then, feed.problem)
        return View(
            snapshot=snapshot, verdict=verdict, trends=self._trends, changes=self._trends.changes, clock=self._clock, age=age,
            frozen_for=frozen_for, role=feed.role, source=feed.source, read_only=feed.read_only, problem=feed.problem,
            last_command=history[-1] if history else None, history=history,
        )  # fmt: skip

    def failures(self, view: View) -> Iterator[CommandView]:
        """Yield the commands that ended without success, each once."""
        for command in view.history:
            if command.final and command.state is not CommandState.APPLIED and command.id not in self._told:
                self._told.add(command.id)
                yield command
