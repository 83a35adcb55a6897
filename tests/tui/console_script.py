"""Runs the console on a fake feed in the terminal it is started in; for the pseudo-terminal tests, and to look at.

Usage: python -m tests.tui.console_script [KIND] where KIND is small, large, frozen, draining, dead or crash.
"""

from __future__ import annotations

import itertools
import sys
import time
from dataclasses import replace

from tests.tui.fakes import FakeFeed, FrozenClock, large, make_snapshot
from tui.app import ConsoleApp
from tui.clock import Clock
from kafka_consumer.snapshot import Snapshot


class LiveFeed(FakeFeed):
    """A fake feed whose figures move with real time."""

    def __init__(self, kind: str) -> None:
        super().__init__(make_snapshot())
        self.kind = kind
        self.clock = Clock()
        self._steps = itertools.count()
        self._prepared = [large(step=step) for step in range(6)] if kind == "large" else []

    def latest(self) -> Snapshot | None:
        if self.kind == "dead":
            return None
        step = next(self._steps)
        base = self._prepared[step % 6] if self._prepared else make_snapshot()
        totals = replace(base.totals, processed=base.totals.processed + 2100 * step)
        phase = "draining" if self.kind == "draining" else "running"
        self.age = 0.1
        return replace(base, sequence=step + 1, at=time.time(), totals=totals, phase=phase)


def main() -> int:
    kind = sys.argv[1] if len(sys.argv) > 1 else "small"
    feed = LiveFeed(kind)
    app = ConsoleApp(feed, clock=Clock())
    if kind == "frozen":
        app._frozen_at = time.monotonic()
    app.run()
    return app.return_code or 0


if __name__ == "__main__":
    assert FrozenClock
    sys.exit(main())
