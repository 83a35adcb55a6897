"""How often a feed asks for snapshots: twice a second while anything changes, seldom while nothing does but clocks."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

from kafka_consumer.snapshot import Snapshot
from tui.clock import Clock

INTERVAL_SECONDS = 0.5
SLOWER = 4
"""By how much longer the interval is while nothing changes: what begins is seen within two seconds."""
QUIET_SECONDS = 10.0

_CLOCKS = ("sequence", "at", "uptime_seconds")
_LISTS = ("workers", "partitions")
# The long lists last: the figures tell of most changes.
_COMPARED = (
    *(field.name for field in dataclasses.fields(Snapshot) if field.name not in (*_CLOCKS, *_LISTS)),
    *_LISTS,
)  # fmt: skip


def unchanged(before: Snapshot, now: Snapshot) -> bool:
    """Return whether two snapshots show the same but for their clocks."""
    return all(getattr(before, name) == getattr(now, name) for name in _COMPARED)


class Tempo:
    """The tempo of one feed. ``take`` is called by the thread that gets snapshots, ``hurry`` by any."""

    def __init__(self, interval: float, clock: Clock) -> None:
        self._interval = interval
        self._clock = clock
        self._before: Snapshot | None = None
        # One reference, replaced whole.
        self._changed_at = clock.monotonic()

    @property
    def interval(self) -> float:
        """Seconds until the next snapshot is worth its cost."""
        quiet = self._clock.monotonic() - self._changed_at >= QUIET_SECONDS
        return self._interval * SLOWER if quiet else self._interval

    def hurry(self) -> None:
        """Somebody gave a command, and wants to see what it does."""
        self._changed_at = self._clock.monotonic()

    def take(self, snapshot: Snapshot) -> Snapshot:
        """Note a snapshot and return it; its long lists are those of the one before, the same objects, if all is unchanged."""
        before = self._before
        if before is not None and unchanged(before, snapshot):
            snapshot = replace(snapshot, workers=before.workers, partitions=before.partitions)
        else:
            self._changed_at = self._clock.monotonic()
        self._before = snapshot
        return snapshot
