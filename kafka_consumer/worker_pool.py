"""The workers: as many threads as configured, replaced when they crash or get stuck."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kafka_consumer.coroutine_executor import CoroutinePool
from kafka_consumer.errors import MessageTooLargeError
from kafka_consumer.process_executor import ProcessWorker
from kafka_consumer.supervisor import Supervisor
from kafka_consumer.worker import Worker, WorkerStatus

if TYPE_CHECKING:
    from kafka_consumer.shared_state import SharedState

__all__ = ["MessageTooLargeError", "WorkerPool", "new_pool", "worker_loop"]

REPLACEMENT_SECONDS = 0.005  # how often join() looks whether a crashed worker was replaced
REMEMBERED = 20  # crashed and stuck workers that stay visible beside the living ones


class WorkerPool:
    """``worker_count`` workers. ``workers`` is a tuple that is replaced, never changed: whoever reads it needs no lock."""

    def __init__(self, shared_state: SharedState) -> None:
        self.shared_state = shared_state
        self.workers: tuple[Worker, ...] = ()
        self._lock = threading.Lock()  # guards workers, _next_id and _wanted against start(), resize() and the supervisor
        self._next_id = 0
        self._wanted = shared_state.config.worker_count
        self._supervisor = Supervisor(shared_state, lambda: self.workers, self._replace)
        self._supervisor_thread = threading.Thread(target=self._supervisor.run, name="supervisor", daemon=True)

    def start(self) -> None:
        """Start the workers and the supervisor."""
        self._supervisor.switching.ease(self._wanted)
        self._supervisor_thread.start()
        with self._lock:
            for _ in range(self._wanted):
                self._add()

    def resize(self, count: int) -> None:
        """Change how many workers there are; those that go finish what they have in hand."""
        queue = self.shared_state.processing_queue
        with self._lock:
            more = count - self._wanted
            self._wanted = count
            self._supervisor.switching.ease(count)
            if more < 0:
                queue.dismiss(-more)
            for _ in range(more):
                self._add()
            queue.workers = count

    def join(self, timeout: float | None = None) -> bool:
        """Wait until all have ended, up to ``timeout`` seconds; returns whether they have.

        Threads stuck in a call that ran out of time aren't waited for.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while waiting := self.alive():
            threads = [worker.thread for worker in waiting if worker.thread is not None and worker.thread.is_alive()]
            for thread in threads:
                thread.join(0.1 if deadline is None else min(0.1, max(0.0, deadline - time.monotonic())))
            if not threads:  # crashed, and not replaced yet
                time.sleep(REPLACEMENT_SECONDS)
            if deadline is not None and time.monotonic() >= deadline:
                if self.alive():
                    return False
                break
        self._supervisor.stop()
        self._supervisor_thread.join()
        self._supervisor.switching.restore()
        return True

    def alive(self) -> Sequence[Worker]:
        """Return the workers whose thread runs and isn't stuck beyond its time, and those whose replacement is still to come."""
        with self._lock:  # not between a new worker's start and the mark on the one it replaces
            return [w for w in self.workers if w.thread is not None and (w.thread.is_alive() or w.crashed) and not w.replaced]

    @property
    def stuck_threads(self) -> int:
        """Threads inside a call that ran out of time."""
        return sum(worker.stuck and not worker.ended for worker in self.workers)

    @property
    def waiting_retries(self) -> int:
        """Messages that wait for their next attempt."""
        return self._supervisor.waiting_retries

    def stacks(self, ids: set[int]) -> dict[int, list[str]]:
        """Return where these workers' threads are, outermost call first."""
        return {worker.id: worker.stack() for worker in self.workers if worker.id in ids}

    def statuses(self) -> list[WorkerStatus]:
        """Return a frozen view of every worker."""
        return [worker.status() for worker in self.workers]

    def _add(self) -> None:
        """Start one more. With the lock held."""
        worker = _new_worker(self.shared_state, self._next_id, self._supervisor)
        self._next_id += 1
        worker.thread = threading.Thread(target=worker.run, name=f"worker-{worker.id}", daemon=True)
        # Forgotten: those that ended in order, and the oldest of those that didn't.
        odd = [w for w in self.workers if (w.crashed or w.replaced) and (w.stuck or w.crashed)]
        forgotten = set(odd[:-REMEMBERED])
        self.workers = (*(w for w in self.workers if w in odd or not w.ended if w not in forgotten), worker)
        self.shared_state.processing_queue.workers = self._wanted
        worker.thread.start()

    def _replace(self, worker: Worker) -> None:
        """A worker crashed, or is stuck: start another one. At most as many threads as there are workers may be stuck."""
        with self._lock:
            if worker.replaced:  # it was stuck, and has crashed at last
                return
            if worker.stuck and not worker.crashed and self.stuck_threads > self._wanted:
                self.shared_state.logger.error(
                    "%d threads are stuck in the processor: no further replacement; the pool is weaker until one returns",
                    self.stuck_threads,
                )
                return
            self._add()
            worker.replaced = True


def new_pool(shared_state: SharedState) -> WorkerPool | CoroutinePool:
    """Return the pool for the configured processor: an event loop for a coroutine function."""
    return CoroutinePool(shared_state) if shared_state.config.is_coroutine else WorkerPool(shared_state)


def _new_worker(shared_state: SharedState, worker_id: int, supervisor: Supervisor) -> Worker:
    kind = ProcessWorker if shared_state.config.executor == "process" else Worker
    return kind(shared_state, worker_id, supervisor)


def worker_loop(shared_state: SharedState, worker_id: int) -> None:
    """Be one worker: process what is in ``processing_queue`` until the consumer has stopped and the queue is empty."""
    if shared_state.config.is_coroutine:
        coroutines = CoroutinePool(shared_state, count=1, first_id=worker_id)
        coroutines.start()
        coroutines.join()
        return
    workers: list[Worker] = []
    supervisor = Supervisor(shared_state, lambda: workers)
    worker = _new_worker(shared_state, worker_id, supervisor)
    workers.append(worker)
    thread = threading.Thread(target=supervisor.run, name=f"supervisor-{worker_id}", daemon=True)
    thread.start()
    try:
        worker.run()
    finally:
        supervisor.stop()
        thread.join()
