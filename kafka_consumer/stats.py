"""Figures for people: percentiles over the recent past, and rates. Cheap to feed, computed only when somebody looks."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from kafka_consumer.snapshot import Percentiles

SAMPLES = 1024
RATE_SECONDS = 5.0

BOUNDS = (
    0.00001, 0.0001, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip
"""Seconds: the upper bounds of a distribution's buckets; there is one more for what is longer."""


class Distribution(NamedTuple):
    """All samples since the start: how many fell into each bucket (one more than ``BOUNDS``), and their sum in seconds."""

    counts: tuple[int, ...]
    sum: float

    def cumulative(self) -> Iterator[tuple[float | None, int]]:
        """Yield each bucket's upper bound, None for the last, and how many samples aren't above it."""
        total = 0
        for bound, count in zip((*BOUNDS, None), self.counts, strict=True):
            total += count
            yield bound, total


class LatencySamples:
    """The last samples in seconds, and how all of them are distributed; any thread may add or ask.

    A deque's append is atomic; copying one raises ``RuntimeError`` when another thread appends at that moment, then it is copied
    again. The distribution has a lock, taken once a sample: once a chunk of messages, not for each of them.
    """

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=SAMPLES)
        self._lock = threading.Lock()  # guards the two below
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        """Add a sample."""
        self._samples.append(seconds)
        bucket = bisect_left(BOUNDS, seconds)
        with self._lock:
            self._counts[bucket] += 1
            self._sum += seconds

    def distribution(self) -> Distribution:
        """Return how the samples since the start are distributed."""
        with self._lock:
            return Distribution(tuple(self._counts), self._sum)

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
