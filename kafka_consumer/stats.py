"""Figures for people: percentiles over the recent past, and rates. Cheap to feed, computed only when somebody looks."""

from __future__ import annotations

import time
from collections import deque

from kafka_consumer.snapshot import Percentiles

SAMPLES = 1024
RATE_SECONDS = 5.0


class LatencySamples:
    """The last samples in seconds; any thread may add or ask. A deque's append is atomic.

    Copying a deque raises ``RuntimeError`` when another thread appends at that moment; then it is copied again.
    """

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=SAMPLES)

    def add(self, seconds: float) -> None:
        """Add a sample."""
        self._samples.append(seconds)

    def percentiles(self) -> Percentiles:
        """Return p50, p95 and p99 in seconds, None without samples."""
        while True:
            try:
                samples = sorted(self._samples)
                break
            except RuntimeError:
                continue
        if not samples:
            return Percentiles(None, None, None)
        last = len(samples) - 1
        return Percentiles(samples[round(last * 0.50)], samples[round(last * 0.95)], samples[round(last * 0.99)])


class Rate:
    """How fast a counter grows, over the last seconds in which somebody looked. Used by the thread that builds snapshots."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def update(self, count: int, at: float | None = None) -> float:
        """Take the counter's value now; return its growth a second."""
        now = time.monotonic() if at is None else at
        self._seen.append((now, count))
        while len(self._seen) > 2 and now - self._seen[0][0] > RATE_SECONDS:
            self._seen.popleft()
        then, before = self._seen[0]
        return (count - before) / (now - then) if now > then else 0.0
