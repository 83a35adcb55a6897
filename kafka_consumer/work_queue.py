"""The processing queue: chunks from the polling thread to the workers, bounded by messages and by bytes.

``put`` and ``get`` are ``queue.Queue``'s, message by message. The loops use ``put_chunks``, ``take`` and ``put_back``.

Three decisions live here:

* How much a worker takes at once. One message of a slow function, hundreds of one that takes microseconds: about 5 ms of
  work, less when that would leave others without any (``Pace``).
* Whom to wake. One worker a put; it wakes the next one when what is left is worth a thread switch.
* When there is room again. The polling thread is woken once a quarter of the queue is free, not for each message.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from kafka_consumer.assignment import Assignment
from kafka_consumer.batch_queue import Pipe, RunningFlag
from kafka_consumer.chunk import Chunk
from kafka_consumer.ports import MessageLike
from kafka_consumer.stats import LatencySamples

GRAB_SECONDS = 0.005  # a chunk is about this much work at the most
FAIR_SECONDS = 0.0005  # and need not be smaller than this, however many workers idle
WAKE_SECONDS = 0.001  # what is left is worth another worker's waking above this


class Pace:
    """How long one message takes, as measured by the workers.

    ``seconds`` is written by every worker and read by every worker without a lock: a lost update only delays the
    estimate by one chunk.
    """

    def __init__(self) -> None:
        self.seconds: float | None = None
        self.samples = LatencySamples()  # of every chunk, for snapshots

    def measured(self, seconds: float) -> None:
        """Take note of one chunk's seconds a message."""
        self.samples.add(seconds)
        old = self.seconds
        self.seconds = seconds if old is None else old + 0.2 * (seconds - old)

    def limit(self, depth: int, workers: int) -> int:
        """Return how many of ``depth`` waiting messages one of ``workers`` workers should take."""
        pace = self.seconds
        if pace is None:
            return 1
        pace = max(pace, 1e-7)
        fair = max(depth // max(workers, 1), int(FAIR_SECONDS / pace))
        return max(1, min(fair, int(GRAB_SECONDS / pace)))


class WorkQueue(Pipe):
    """Messages in the order they came, handed out in chunks."""

    def __init__(self, running: RunningFlag, maxsize: int, max_bytes: int) -> None:
        self._chunks: deque[Chunk] = deque()
        self._begun = 0  # messages of the first chunk that were handed out: cutting it anew each time would copy the rest
        self._depth = 0  # messages waiting
        self._idle = 0  # workers waiting in take()
        self.max_bytes = max_bytes
        # Written under the mutex, read without it by snapshots.
        self.in_flight_bytes = 0  # of values waiting or with a worker
        self.taken = 0  # messages with a worker or waiting for a retry
        self.pace = Pace()
        self.workers = 1  # how many share the work; set by the pool
        # Takes back what waits for another attempt; the pool's supervisor puts itself here. Called without the mutex.
        self.withdraw: Callable[[Assignment], list[Chunk]] = lambda _: []
        self._leaving = 0  # workers that are to end, whichever come first; under the mutex
        super().__init__(running, maxsize)

    # --- queue.Queue's own hooks, with the mutex held -------------------------------------------------------------

    def _qsize(self) -> int:
        return self._depth

    def _put(self, item: Any) -> None:
        self._append(item if isinstance(item, Chunk) else Chunk([item]))

    def _get(self) -> MessageLike:
        chunk = self._next(1)
        if chunk is None:  # only ordered queues: all that waits is behind a message in flight
            raise IndexError
        self.in_flight_bytes -= chunk.size
        self._finished(chunk)
        return chunk.messages[0]

    # --- the order of work; the ordered queue overrides these, with the mutex held ------------------------------------

    def _append(self, chunk: Chunk) -> None:
        self._chunks.append(chunk)
        self._depth += len(chunk)
        self.in_flight_bytes += chunk.size

    def _next(self, limit: int) -> Chunk | None:
        """Remove and return up to ``limit`` messages of one assignment."""
        chunk = self._chunks[0]
        start = self._begun
        stop = start + limit
        if stop < len(chunk.messages):
            self._begun = stop
            chunk = chunk.part(start, stop)
        else:
            self._chunks.popleft()
            if start:
                self._begun = 0
                chunk = chunk.part(start, len(chunk))
        self._depth -= len(chunk.messages)
        return chunk

    def _put_first(self, chunk: Chunk) -> None:
        """Put a chunk before all others."""
        self._cut_first()
        self._chunks.appendleft(chunk)

    def _cut_first(self) -> None:
        """Make the first chunk what is left of it."""
        if self._begun:
            self._chunks[0] = self._chunks[0].part(self._begun, len(self._chunks[0]))
            self._begun = 0

    def _return(self, chunk: Chunk, retry: bool) -> None:  # noqa: ARG002 - lanes need it
        self._put_first(chunk)

    def _finished(self, chunk: Chunk) -> None:
        """The messages of this chunk are done with."""

    def _available(self) -> bool:
        return bool(self._chunks)

    def _remove(self, assignment: Assignment) -> list[Chunk]:
        self._cut_first()
        gone = [chunk for chunk in self._chunks if chunk.assignment is assignment]
        self._chunks = deque(chunk for chunk in self._chunks if chunk.assignment is not assignment)
        return gone

    # --- the polling thread -------------------------------------------------------------------------------------------

    def put_chunks(self, chunks: Iterable[Chunk]) -> None:
        """Put what was polled. It doesn't block: the polling thread asks for room before it polls."""
        with self.mutex:
            for chunk in chunks:
                self._append(chunk)
            self.not_empty.notify()

    def room(self) -> int:
        """Return how many messages fit; 0 also when the byte budget is used up."""
        with self.mutex:
            return self._room()

    def _room(self) -> int:
        if self.in_flight_bytes >= self.max_bytes:
            return 0
        return max(0, self.maxsize - self._depth)

    def wait_for_room(self, timeout: float) -> int:
        """Return how many messages fit; wait up to ``timeout`` seconds until a quarter of the queue is free."""
        deadline = time.monotonic() + timeout
        with self.mutex:
            while self._running.is_set() and self._room() < self.maxsize // 4 and (left := deadline - time.monotonic()) > 0:
                self.not_full.wait(left)
            return self._room()

    def drop(self, assignment: Assignment) -> int:
        """Remove what waits of a revoked partition, for a worker or for another attempt; return how many messages.

        Its new owner gets them.
        """
        lent = self.withdraw(assignment)
        with self.mutex:
            gone = self._remove(assignment)
            count = sum(map(len, gone))
            self._depth -= count
            self.in_flight_bytes -= sum(chunk.size for chunk in gone)
            for chunk in lent:
                self._release(chunk)
                count += len(chunk)
            self.not_full.notify()
            if self._all_done():
                self.not_empty.notify_all()
            return count

    # --- the workers ----------------------------------------------------------------------------------------------------

    def take(self, finished: Chunk | None = None, timeout: float | None = None) -> Chunk | None:
        """Give back ``finished`` (its messages have their results) and return the next chunk.

        Waits while there is none. Returns None when no more will come and nothing is in flight, when this worker is to leave, or
        after ``timeout`` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self.mutex:
            if finished is not None:
                self._release(finished)
            while True:
                if self._leaving:
                    self._leaving -= 1
                    return None
                if self._available():
                    chunk = self._next(self.pace.limit(self._depth, self.workers))
                    if chunk is not None:
                        self.taken += len(chunk)
                        if self._idle and self._depth and self._depth * (self.pace.seconds or 1) > WAKE_SECONDS:
                            self.not_empty.notify()
                        if self._depth <= self.maxsize - self.maxsize // 4:
                            self.not_full.notify()
                        return chunk
                if self._all_done():
                    return None
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return None
                self._idle += 1
                try:
                    self.not_empty.wait(left)
                finally:
                    self._idle -= 1

    def take_now(self, limit: int, portion: int) -> list[Chunk]:
        """Return up to ``limit`` messages, without waiting; a lane's chunk, of up to ``portion`` messages, counts as one.

        For the one thread that works on many messages at a time; ``wait_for_work`` is its other half.
        """
        found = []
        with self.mutex:
            while limit > 0 and self._available():
                chunk = self._next(min(limit, portion))
                if chunk is None:
                    break
                found.append(chunk)
                self.taken += len(chunk)
                limit -= 1 if chunk.lane is not None else len(chunk)
            if found and self._depth <= self.maxsize - self.maxsize // 4:
                self.not_full.notify()
        return found

    def wait_for_work(self) -> bool:
        """Wait until there is something to take; returns False when no more will come and nothing is in flight."""
        with self.mutex:
            while not self._available():
                if self._all_done():
                    return False
                self._idle += 1
                try:
                    self.not_empty.wait()
                finally:
                    self._idle -= 1
            return True

    def release(self, *finished: Chunk) -> None:
        """The messages of these chunks have their results."""
        with self.mutex:
            for chunk in finished:
                self._release(chunk)

    def _release(self, finished: Chunk) -> None:
        self.taken -= len(finished)
        full = self.in_flight_bytes >= self.max_bytes
        self.in_flight_bytes -= finished.size
        if len(finished):
            self._finished(finished)
        if full:
            self.not_full.notify()
        if self._all_done():
            self.not_empty.notify_all()

    def put_back(self, chunk: Chunk, *, retry: bool = False) -> None:
        """Return messages that a worker took and didn't begin, or (``retry``) whose next attempt is due: they are next."""
        with self.mutex:
            if chunk.revoked:
                self._release(chunk)
                return
            self.taken -= len(chunk)
            self._depth += len(chunk)
            self._return(chunk, retry)
            self.not_empty.notify()

    def dismiss(self, workers: int) -> None:
        """Let that many workers end after what they have in hand."""
        with self.mutex:
            self._leaving += workers
            self.not_empty.notify_all()

    def nudge(self) -> None:
        """Wake a worker when messages wait and workers idle: the pace may have been misjudged."""
        with self.mutex:
            if self._idle and self._available():
                self.not_empty.notify()

    @property
    def idle_workers(self) -> int:
        """How many workers wait. Read without the lock, for snapshots and tests."""
        return self._idle

    def _all_done(self) -> bool:
        return self._ended() and not self._depth and self.taken <= 0
