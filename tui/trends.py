"""What one snapshot can't tell: how figures move. Fed by the screen's thread alone, once for each new snapshot."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from kafka_consumer.snapshot import PartitionView, Snapshot

Key = tuple[str, int]

POINTS = 64
POINT_SECONDS = 2.0
WINDOW_SECONDS = 10.0
RECENT_SECONDS = 60.0


def total_lag(snapshot: Snapshot) -> int | None:
    """Return the lag of all partitions, None when none is known."""
    known = [partition.lag for partition in snapshot.partitions if partition.lag is not None]
    return sum(known) if known else None


def finished(snapshot: Snapshot) -> int:
    """Return a count that rises whenever a message is finished."""
    return snapshot.totals.processed + snapshot.totals.failed


def unfinished(snapshot: Snapshot) -> int:
    """Return the messages delivered and not finished: what a drain still has to do."""
    in_flight = sum(partition.in_flight for partition in snapshot.partitions)
    processing = snapshot.queues.get("processing")
    busy = sum(1 for worker in snapshot.workers if worker.state in ("busy", "stuck"))
    return max(in_flight, (processing.depth if processing else 0) + busy)


class Trends:
    """Series for the sparklines, changes a second, and since when nothing moves."""

    def __init__(self) -> None:
        self.rate: deque[float | None] = deque(maxlen=POINTS)
        self.lag: deque[float | None] = deque(maxlen=POINTS)
        self.p99: deque[float | None] = deque(maxlen=POINTS)
        self.lag_change: float | None = None
        """Messages a second by which the lag of all partitions grows, over the last ten seconds."""
        self.lag_growth: float = 0.0
        """Messages by which it grew in that time."""
        self.dead_letters_recent = 0
        self.idle_seconds = 0.0
        """For how long no message was finished."""
        self.drain_total: int | None = None
        """Messages left when the drain began; None unless draining."""
        self.commit_failures_recent = 0
        self.crashes_recent = 0
        """Workers that crashed in the last minute; each was replaced."""
        self.changes = object()
        """Stands for what ``change`` returns: the same object as long as that is the same for every partition."""
        self._partitions: tuple[PartitionView, ...] = ()
        self._settled = False
        self._sequence: int | None = None
        self._pid: int | None = None
        self._window: deque[tuple[float, Mapping[Key, int]]] = deque()
        self._recent: deque[tuple[float, int, int, int]] = deque()
        self._bucket: int | None = None
        self._progress_at: float | None = None
        self._finished: int | None = None

    def feed(self, snapshot: Snapshot) -> bool:
        """Take a snapshot in; returns False when it is the one already seen."""
        if self._pid == snapshot.pid and self._sequence == snapshot.sequence:
            return False
        if self._pid != snapshot.pid or (self._sequence is not None and snapshot.sequence < self._sequence):
            # Another process, or the same one started anew: nothing before it can be compared.
            self.__init__()  # type: ignore[misc]
        self._pid, self._sequence = snapshot.pid, snapshot.sequence
        lag = total_lag(snapshot)
        self._point(snapshot, lag)
        self._changes(snapshot)
        self._progress(snapshot)
        if snapshot.phase != "draining":
            self.drain_total = None
        else:
            self.drain_total = max(self.drain_total or 0, unfinished(snapshot))
        return True

    def change(self, partition: PartitionView) -> float | None:
        """Return by how much a partition's lag changes a second; None while unknown."""
        if len(self._window) < 2 or partition.lag is None:
            return None
        before_at, before = self._window[0]
        now_at = self._window[-1][0]
        then = before.get((partition.topic, partition.partition))
        if then is None or now_at <= before_at:
            return None
        return (partition.lag - then) / (now_at - before_at)

    def _point(self, snapshot: Snapshot, lag: int | None) -> None:
        bucket = int(snapshot.at // POINT_SECONDS)
        values = (snapshot.rates.processed, None if lag is None else float(lag), snapshot.latency.processing.p99)
        for series, value in zip((self.rate, self.lag, self.p99), values, strict=True):
            if bucket == self._bucket and series:
                series[-1] = value
            else:
                series.append(value)
        self._bucket = bucket

    def _changes(self, snapshot: Snapshot) -> None:
        window = self._window
        if window and snapshot.partitions is self._partitions:
            lags = window[-1][1]
        else:
            lags = {(row.topic, row.partition): row.lag for row in snapshot.partitions if row.lag is not None}
        self._partitions = snapshot.partitions
        window.append((snapshot.at, lags))
        while len(window) > 2 and snapshot.at - window[1][0] >= WINDOW_SECONDS:
            window.popleft()
        first_at, first = window[0]
        before, self._settled = self._settled, first is lags and snapshot.at - first_at >= 1.0
        if before and self._settled:
            # No lag has moved in the last ten seconds, nor had it a snapshot ago.
            self.lag_change, self.lag_growth = 0.0 if lags else None, 0.0
            return
        self.changes = object()
        # Only what was known at both times: a partition whose lag becomes known is no growth.
        both = lags.keys() & first.keys()
        if not both or snapshot.at - first_at < 1.0:
            self.lag_change, self.lag_growth = None, 0.0
        else:
            self.lag_growth = float(sum(lags[key] - first[key] for key in both))
            self.lag_change = self.lag_growth / (snapshot.at - first_at)

    def _progress(self, snapshot: Snapshot) -> None:
        done = finished(snapshot)
        if done != self._finished or self._progress_at is None or snapshot.at < self._progress_at:
            self._finished, self._progress_at = done, snapshot.at
        self.idle_seconds = snapshot.at - self._progress_at
        recent = self._recent
        totals = snapshot.totals
        recent.append((snapshot.at, totals.dlq_written, totals.commit_failures, totals.crashed_workers))
        while len(recent) > 1 and snapshot.at - recent[0][0] > RECENT_SECONDS:
            recent.popleft()
        self.dead_letters_recent = max(0, totals.dlq_written - recent[0][1])
        self.commit_failures_recent = max(0, totals.commit_failures - recent[0][2])
        self.crashes_recent = max(0, totals.crashed_workers - recent[0][3])
