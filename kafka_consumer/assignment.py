"""One partition for as long as it is assigned: what was delivered, what is finished, what may be committed.

Offsets of a partition have holes (compaction, transaction markers, aborted transactions), so "contiguous" can't be decided
on offsets. Each delivered message gets a sequence number instead: 0, 1, 2, … in the order of delivery. Finished work is a
set of sequence ranges, contiguity is exact, and a run of a thousand messages costs as much as one.

An ``Assignment`` object *is* the epoch: when a partition is revoked the object is closed, and whatever still arrives for it is
dropped. When the partition comes back, it comes back as a new object.
"""

from __future__ import annotations

import operator
import threading
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

ENDLESS = 1 << 62
"""The length of the run of an assignment that was never announced: every offset from its start counts as delivered."""


def next_offset(last_processed: int) -> int:
    """Return what Kafka wants committed after ``last_processed``: the offset of the next message. The one place that adds one."""
    return last_processed + 1


@dataclass(frozen=True, slots=True)
class CommitPoint:
    """What may be committed for a partition: ``offset`` is Kafka's next offset; all below ``sequence`` (its number) is done.

    ``beyond`` is what is finished above, as ranges of offsets: sorted, disjoint, the end exclusive.
    """

    assignment: Assignment
    offset: int
    sequence: int
    beyond: tuple[tuple[int, int], ...] = ()


class AssignmentView(NamedTuple):
    """A frozen copy for snapshots; offsets are Kafka's next ones.

    ``oldest`` is when the oldest uncommitted batch was polled (monotonic seconds), ``timestamp`` the last delivered message's
    own, in milliseconds since the epoch.
    """

    position: int | None
    committed: int | None
    in_flight: int
    finished: int
    oldest: float | None
    timestamp: int | None


_START_AND_STOP = operator.attrgetter("start", "stop")


def _merged(results: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Return sequence numbers as few ranges: with slow functions each result is of one message, and hundreds come at once."""
    if {*map(type, results)} <= {range}:
        found = sorted(map(_START_AND_STOP, filter(None, results)))
    else:
        found = sorted((number, number + 1) for part in results for number in part)
    runs: list[tuple[int, int]] = []
    low = high = -1
    for start, end in found:
        if start > high:
            if low >= 0:
                runs.append((low, high))
            low = start
        high = max(high, end)
    if low >= 0:
        runs.append((low, high))
    return runs


class Assignment:
    """A monitor: every method takes the one lock, none does I/O. Called by the polling thread and by the commit thread."""

    def __init__(
        self, topic: str, partition: int, committed: int | None = None, finished_before: Sequence[tuple[int, int]] = ()
    ) -> None:
        """``finished_before``: ranges of offsets beyond ``committed`` that were finished under an earlier assignment."""
        self.topic = topic
        self.partition = partition
        self.begins_at: int | None = None  # where the operator wants it to begin; written and read by the polling thread
        self._lock = threading.Lock()
        self._closed = False
        self._cut_off = False
        # Runs of consecutive offsets: [first sequence, first offset, length], oldest first. Written by the polling thread
        # (append) and the commit thread (trim), both under the lock.
        self._runs: deque[list[int]] = deque()
        self._delivered = 0  # the next sequence number
        self._done_below = 0  # every sequence number below is finished
        # Finished ranges beyond the first gap, sorted and disjoint: [_starts[i], _ends[i]).
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._finished = 0
        self._start: int | None = None  # the first offset delivered
        self._position: int | None = None  # the next offset to be delivered, as far as known
        self._timestamp: int | None = None  # of the last message delivered
        self._last_done: int | None = None  # the offset of sequence number _done_below - 1
        self._committed = committed  # acknowledged by Kafka
        self._settled = committed  # acknowledged, or let go in dev mode
        self._committed_below = 0  # the sequence number that goes with _committed
        self._settled_beyond = tuple(finished_before)
        # Finished under an earlier assignment, not delivered again yet: skipped when they come. Sorted ranges of offsets.
        self._skips: deque[tuple[int, int]] = deque(finished_before)
        # Batches whose backup isn't known to be on disk: (sequence number after the batch, its ticket). Strict backups only.
        self._tickets: deque[tuple[int, int]] = deque()
        self._backed_up_below = 0
        # When batches were polled: (sequence number after the batch, monotonic seconds), oldest first.
        self._polled_at: deque[tuple[int, float]] = deque()

    @classmethod
    def never_announced(cls, topic: str, partition: int, start: int) -> Assignment:
        """Return an assignment for offsets fed by hand: contiguous from ``start`` on, without an end."""
        assignment = cls(topic, partition)
        assignment._runs.append([0, start, ENDLESS])
        assignment._delivered = assignment._backed_up_below = ENDLESS
        return assignment

    @property
    def closed(self) -> bool:
        """Whether the partition was revoked or lost. Read without the lock: it goes one way, and one bit can't tear."""
        return self._closed

    @property
    def position(self) -> int | None:
        """The next offset to be delivered. Written by the polling thread alone, which is also the one that asks."""
        return self._position

    def close(self) -> None:
        """Drop what still arrives: the partition isn't ours any more."""
        with self._lock:
            self._closed = True

    def delivered(self, offsets: Sequence[int], at: float, timestamp: int | None = None) -> int:
        """Record messages handed out in this order, polled at ``at`` (monotonic); return the first one's sequence number.

        ``timestamp`` is the last one's own, in milliseconds since the epoch.
        """
        with self._lock:
            first = self._delivered
            start = offsets[0]
            count = len(offsets)
            if self._start is None:
                self._start = start
                if self._committed is not None and start < self._committed:
                    # Another log, or the same one read again on purpose: what was committed says nothing about it.
                    self._skips.clear()
                    self._settled = None
                    self._settled_beyond = ()
            if offsets[-1] - start == count - 1:
                self._append_run(first, start, count)
            else:
                for index, offset in enumerate(offsets):
                    self._append_run(first + index, offset, 1)
            self._delivered = first + count
            self._position = next_offset(offsets[-1])
            self._timestamp = timestamp
            self._polled_at.append((self._delivered, at))
            return first

    def backed_up(self, ticket: int) -> None:
        """All that was delivered so far is in the backup's queue; it is on disk when that many rows of the queue are."""
        with self._lock:
            self._tickets.append((self._delivered, ticket))

    @property
    def skips(self) -> bool:
        """Whether messages finished under an earlier assignment may still come. The polling thread alone asks, and changes it."""
        return bool(self._skips)

    def skip(self, offsets: Sequence[int], first: int) -> list[int]:
        """Take those of the messages just delivered that were finished before as finished; return the indices of the others.

        ``first`` is the sequence number of the first one.
        """
        with self._lock:
            todo = []
            for index, offset in enumerate(offsets):
                while self._skips and self._skips[0][1] <= offset:
                    self._skips.popleft()
                if self._skips and self._skips[0][0] <= offset:
                    self._add(first + index, first + index + 1)
                else:
                    todo.append(index)
            while self._skips and self._skips[0][0] < next_offset(offsets[-1]):
                end = self._skips.popleft()[1]
                if end > next_offset(offsets[-1]):
                    self._skips.appendleft((next_offset(offsets[-1]), end))
            return todo

    def _append_run(self, sequence: int, offset: int, count: int) -> None:
        if self._runs:
            last = self._runs[-1]
            if last[1] + last[2] == offset:
                last[2] += count
                return
        self._runs.append([sequence, offset, count])

    def reached_end(self, offset: int) -> None:
        """The log ends at ``offset`` for now: all before it was delivered or will never be (markers, aborted records)."""
        with self._lock:
            if not self._cut_off and (self._position is None or offset > self._position):
                self._position = offset

    def cut_off(self) -> None:
        """Messages were polled and not delivered (past a stop target): from here on the end of the log says nothing."""
        with self._lock:
            self._cut_off = True

    def completed(self, *results: Sequence[int]) -> bool:
        """Record finished messages by sequence number; returns False, and forgets them, when it isn't ours any more."""
        runs = _merged(results)
        with self._lock:
            if self._closed:
                return False
            for start, end in runs:
                self._add(start, end)
            return True

    def completed_offset(self, offset: int) -> bool:
        """Record one finished message by its offset; returns False when it was never delivered or isn't ours any more."""
        with self._lock:
            sequence = self._sequence_of(offset)
            if self._closed or sequence is None:
                return False
            self._add(sequence, sequence + 1)
            return True

    def sequence_of(self, offset: int) -> int | None:
        """Return the sequence number of a delivered message, None when it wasn't delivered or is long committed."""
        with self._lock:
            return self._sequence_of(offset)

    def _sequence_of(self, offset: int) -> int | None:
        for first, start, count in self._runs:
            if start <= offset < start + count:
                return first + offset - start
        return None

    def _add(self, start: int, end: int) -> None:
        """Merge [start, end) into the finished ranges; what is finished twice counts once."""
        start = max(start, self._done_below)
        if start >= end:
            return
        low = bisect_left(self._ends, start)  # the first range that touches or follows
        high = bisect_right(self._starts, end)  # the first range that begins beyond
        added = end - start
        if low < high:
            for index in range(low, high):
                added -= max(0, min(end, self._ends[index]) - max(start, self._starts[index]))
            start = min(start, self._starts[low])
            end = max(end, self._ends[high - 1])
        self._finished += added
        if start == self._done_below:
            del self._starts[:high], self._ends[:high]
            self._done_below = end
        else:
            self._starts[low:high] = [start]
            self._ends[low:high] = [end]

    def offset_of(self, sequence: int) -> int:
        """Return the offset of a delivered message whose offset isn't committed yet. Errors: ``KeyError``."""
        with self._lock:
            return self._offset_of(sequence)

    def _offset_of(self, sequence: int) -> int:
        for first, start, count in self._runs:
            if first <= sequence < first + count:
                return start + sequence - first
        raise KeyError(sequence)

    def commit_point(self, durable: int | None = None, *, beyond: bool = True) -> CommitPoint | None:
        """Return what can be committed beyond what already was, or None. Runs that it passes are forgotten.

        ``durable`` is the ticket up to which the backup is on disk, when commits wait for it; ``beyond`` whether to say what is
        finished beyond the first gap.
        """
        with self._lock:
            if self._closed:
                return None
            limit = self._delivered if durable is None else self._durable_below(durable)
            sequence = min(self._done_below, limit)
            while self._runs and self._runs[0][0] < sequence:
                first, start, count = self._runs[0]
                passed = min(count, sequence - first)
                self._last_done = start + passed - 1
                if passed < count:
                    self._runs[0] = [first + passed, start + passed, count - passed]
                    break
                self._runs.popleft()
            ranges = self._beyond(limit) if beyond else ()
            if sequence == self._delivered and self._position is not None:
                offset = self._position  # past the markers at the end, too
            elif self._last_done is not None:
                offset = next_offset(self._last_done)
            elif ranges and self._start is not None:
                offset = self._start if self._settled is None else self._settled  # nothing below the gap, but something beyond
            else:
                return None
            if self._settled is not None and offset < self._settled:
                return None
            moved = offset not in (0, self._settled)  # an untouched partition at offset 0 has nothing worth a commit
            if not moved and (not beyond or ranges == self._settled_beyond):
                return None
            return CommitPoint(self, offset, sequence, ranges)

    def _durable_below(self, durable: int) -> int:
        while self._tickets and self._tickets[0][1] <= durable:
            self._backed_up_below = self._tickets.popleft()[0]
        return self._backed_up_below

    def _beyond(self, limit: int) -> tuple[tuple[int, int], ...]:
        """Return what is finished beyond the first gap as ranges of offsets; holes between finished messages belong to them."""
        found: list[tuple[int, int]] = []
        runs = iter(self._runs)
        first, offset, count = 0, 0, 0
        for start, end in zip(self._starts, self._ends, strict=True):
            end = min(end, limit)  # noqa: PLW2901 - what isn't backed up doesn't count
            if start >= end:
                break
            while first + count <= start:
                first, offset, count = next(runs)
            low = offset + start - first
            while first + count < end:
                first, offset, count = next(runs)
            found.append((low, next_offset(offset + end - 1 - first)))
        for low, high in self._skips:
            if found and found[-1][1] == low:
                low = found.pop()[0]  # noqa: PLW2901 - one range with the one it touches
            found.append((low, high))
        return tuple(found)

    def settled(self, point: CommitPoint, *, committed: bool) -> tuple[int, list[float]]:
        """Take note that ``point`` was committed (or let go, in dev mode).

        Returns how many more messages are committed by it, and when the batches that it covers were polled (monotonic seconds).
        """
        with self._lock:
            messages = 0
            if committed:
                self._committed = point.offset
                messages = max(0, point.sequence - self._committed_below)
                self._committed_below += messages
            self._settled = point.offset
            self._settled_beyond = point.beyond
            polled = []
            while self._polled_at and self._polled_at[0][0] <= point.sequence:
                polled.append(self._polled_at.popleft()[1])
            return messages, polled

    def unsettle(self) -> None:
        """Dev mode ended: what it let go of is to be committed."""
        with self._lock:
            self._settled = self._committed
            self._settled_beyond = ()

    @property
    def held_back(self) -> int:
        """Offsets from the first unfinished message to the last finished one: what a message that doesn't end holds back."""
        with self._lock:
            if not self._starts:
                return 0
            return self._offset_of(self._ends[-1] - 1) - self._offset_of(self._done_below)

    def unfinished_before(self, offset: int) -> bool:
        """Whether a message below ``offset`` was delivered and isn't finished."""
        with self._lock:
            for first, start, count in self._runs:
                if first + count > self._done_below:
                    return start + max(0, self._done_below - first) < offset
            return False

    @property
    def unfinished(self) -> int:
        """Messages delivered and not finished."""
        with self._lock:
            return self._delivered - self._finished

    @property
    def uncommitted(self) -> int:
        """Messages finished or delivered whose offset Kafka hasn't acknowledged (at least; by offsets)."""
        with self._lock:
            if self._position is None:
                return 0
            base = self._committed if self._committed is not None else self._start
            return 0 if base is None else max(0, self._position - base)

    def view(self) -> AssignmentView:
        """Return a frozen copy."""
        with self._lock:
            in_flight = self._delivered - self._finished
            oldest = self._polled_at[0][1] if in_flight and self._polled_at else None
            return AssignmentView(self._position, self._committed, in_flight, self._finished, oldest, self._timestamp)

    def progress(self) -> tuple[int, int] | None:
        """Return the offset at which it began, and the one below which all is finished; None before anything is known."""
        with self._lock:
            start = self._start if self.begins_at is None else self.begins_at
            if start is None:
                start = self._committed
            if start is None:
                return None
            done = self._position if self._done_below == self._delivered else self._offset_of(self._done_below)
            return start, start if done is None else max(start, done)
