"""The thread behind the workers: timeouts, retries that are due, slow messages, and replacements.

It looks at the workers twenty times a second while work is in flight, and sleeps otherwise; a retry or a timeout that is due
sooner wakes it sooner.
"""

from __future__ import annotations

import heapq
import itertools
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kafka_consumer.chunk import Chunk
from kafka_consumer.thread_switching import ThreadSwitching
from kafka_consumer.types import WorkerState
from kafka_consumer.worker import Worker

if TYPE_CHECKING:
    from kafka_consumer.assignment import Assignment
    from kafka_consumer.shared_state import SharedState

TICK_SECONDS = 0.05
SLOW_SECONDS = 30.0  # a message held for longer is worth a line in the log


class Supervisor:
    """Watches the workers. ``run()`` is a thread; workers call ``wants_retry``, ``retry`` and ``worker_ended``."""

    def __init__(
        self,
        shared_state: SharedState,
        workers: Callable[[], Sequence[Worker]],
        replace: Callable[[Worker], None] | None = None,
    ) -> None:
        self._shared_state = shared_state
        self._config = shared_state.config
        self._queue = shared_state.processing_queue
        self._workers = workers
        self._replace = replace  # None: a worker without a pool behind it
        self._wake = threading.Condition()
        # Under the lock of _wake: retries by due time (the count keeps the order of equals), ended workers, the end.
        self._retries: list[tuple[float, int, Chunk]] = []
        self._count = itertools.count()
        self._ended: list[Worker] = []
        self._stopped = False
        # The supervisor thread's own: what each worker was doing at the last look, and which messages were logged as slow.
        self._seen: dict[int, tuple[Chunk | None, int]] = {}
        self._slow: set[tuple[int, float]] = set()
        self._queue.withdraw = self.withdraw
        self.switching = ThreadSwitching()
        self._random = random.Random()  # noqa: S311 - jitter, not cryptography

    # --- called by workers ------------------------------------------------------------------------------------------

    def wants_retry(self, error: Exception, calls: int) -> bool:
        """Whether a message that failed with ``error`` after ``calls`` calls gets another attempt."""
        return calls < self._config.max_attempts and not isinstance(error, self._config.fatal_exceptions)

    def retry(self, chunk: Chunk) -> None:
        """Take a message until its next attempt: exponential, capped, with jitter; at once while draining."""
        config = self._config
        pause = min(config.retry_backoff_max_seconds, config.retry_backoff_seconds * 2.0 ** min(chunk.attempts - 1, 60))
        pause *= self._random.uniform(0.8, 1.2)
        with self._wake:
            heapq.heappush(self._retries, (time.monotonic() + pause, next(self._count), chunk))
            self._shared_state.counters.retried += 1
            self._wake.notify()

    def worker_ended(self, worker: Worker) -> None:
        """A worker's thread is about to end."""
        with self._wake:
            self._ended.append(worker)
            self._wake.notify()

    def withdraw(self, assignment: Assignment) -> list[Chunk]:
        """Give up a revoked partition's messages that wait for another attempt, and return them. Any thread."""
        with self._wake:
            gone = [chunk for _, _, chunk in self._retries if chunk.assignment is assignment]
            if gone:
                self._retries = [entry for entry in self._retries if entry[2].assignment is not assignment]
                heapq.heapify(self._retries)
            return gone

    def process_ended(self, *, timed_out: bool) -> None:
        """A worker's process died, or was killed because its message was over its time; its worker goes on with another."""
        counters = self._shared_state.counters
        with self._wake:
            if timed_out:
                counters.timed_out += 1
            else:
                counters.crashed_workers += 1

    @property
    def waiting_retries(self) -> int:
        """Messages that wait for their next attempt."""
        return len(self._retries)

    # --- the supervisor's own thread ----------------------------------------------------------------------------------

    def run(self) -> None:
        """Watch until ``stop()``."""
        while True:
            with self._wake:
                if self._stopped:
                    return
                ended, self._ended = self._ended, []
                due = self._due(time.monotonic())
                if not ended and not due:
                    self._wait(self._pause())
                    due = self._due(time.monotonic())
            for chunk in due:
                self._queue.put_back(chunk, retry=True)
            for worker in ended:
                self._worker_ended(worker)
            if self._queue.taken:
                self._look(time.monotonic())

    def stop(self) -> None:
        """End the thread."""
        with self._wake:
            self._stopped = True
            self._wake.notify()

    def _wait(self, seconds: float) -> None:
        """Wait until woken, or so long. With the lock of ``_wake`` held."""
        wanted = time.monotonic() + seconds
        if not self._wake.wait(seconds):
            self.switching.woke_late(time.monotonic() - wanted)

    def _pause(self) -> float:
        """Return seconds until something may have to be done. With the lock of ``_wake`` held."""
        pause = TICK_SECONDS
        timeout = self._config.processing_timeout
        if timeout is not None:
            pause = min(pause, max(timeout / 10, 0.005))
        if self._retries:
            pause = min(pause, max(0.0, self._retries[0][0] - time.monotonic()))
        return pause

    def _due(self, at: float) -> list[Chunk]:
        due = []
        draining = not self._shared_state.running.is_set()  # no pause then: the end is near, and it is bounded
        while self._retries and (draining or self._retries[0][0] <= at or self._retries[0][2].revoked):
            due.append(heapq.heappop(self._retries)[2])
        return due

    def _look(self, at: float) -> None:
        self._queue.nudge()
        seen: dict[int, tuple[Chunk | None, int]] = {}
        for worker in self._workers():
            if worker.overdue(at):
                self._time_out(worker, at)
                continue
            chunk, _ = progress = worker.progress()
            if chunk is None:
                continue
            seen[worker.id] = progress
            if progress != self._seen.get(worker.id):
                continue
            if chunk.lane is None and len(chunk) > 1:
                rest = worker.relieve()
                if rest is not None:
                    self._queue.put_back(rest)
            self._warn_when_slow(worker, at)
        self._seen = seen

    def _time_out(self, worker: Worker, at: float) -> None:
        held = worker.time_out(at)
        if held is None:
            return
        status = worker.status()
        self._shared_state.counters.timed_out += 1
        self._shared_state.logger.error(
            "worker %d: %s-%s@%s took longer than processing_timeout=%s s: dead letter; the thread is stuck until the call ends",
            worker.id, status.topic, status.partition, status.offset, self._config.processing_timeout,
        )  # fmt: skip
        if self._replace is not None:
            self._replace(worker)
        self._queue.release(held)

    def _warn_when_slow(self, worker: Worker, at: float) -> None:
        status = worker.status()
        mark = (worker.id, status.since)
        if at - status.since < SLOW_SECONDS or mark in self._slow or status.state is not WorkerState.BUSY:
            return
        if len(self._slow) > 10_000:
            self._slow.clear()
        self._slow.add(mark)
        self._shared_state.logger.warning(
            "slow processor: worker %d has held %s-%s@%s for %.0f s",
            worker.id, status.topic, status.partition, status.offset, at - status.since,
        )  # fmt: skip

    def _worker_ended(self, worker: Worker) -> None:
        if worker.crashed:
            with self._wake:
                self._shared_state.counters.crashed_workers += 1
            if self._replace is not None:
                self._replace(worker)
