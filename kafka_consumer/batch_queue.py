"""The pipes between the loops: ``queue.Queue`` with bulk operations.

Each is a complete ``queue.Queue`` of single items, for tests and for whoever looks in from outside; the loops use the bulk
methods, which take the lock once for a batch.

A pipe also knows whether more may come: the composition root *holds* it while its writers live. A reader ends when the
consumer isn't running, nobody holds its pipe, and the pipe is empty.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Any

from kafka_consumer.assignment import Assignment
from kafka_consumer.chunk import Completion
from kafka_consumer.types import DeadLetter


class RunningFlag(threading.Event):
    """An event that is set while the consumer runs; clearing it wakes the readers of every pipe."""

    def __init__(self) -> None:
        super().__init__()
        self._pipes: list[Pipe] = []
        super().set()

    def wakes(self, *pipes: Pipe) -> None:
        """Register pipes to be woken."""
        self._pipes.extend(pipes)

    def clear(self) -> None:
        """End the run."""
        super().clear()
        for pipe in self._pipes:
            pipe.wake()


class Pipe(queue.Queue[Any]):
    """What all pipes share: the count of holders, and a wake-up for those who wait."""

    def __init__(self, running: RunningFlag, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        self._running = running
        self._holders = 0  # under self.mutex
        running.wakes(self)

    def hold(self) -> None:
        """More will come, whatever ``running`` says, until ``let_go`` is called."""
        with self.mutex:
            self._holders += 1

    def let_go(self) -> None:
        """Nothing more comes from this holder."""
        with self.mutex:
            self._holders -= 1
        self.wake()

    def wake(self) -> None:
        """Let every waiting thread look again."""
        with self.mutex:
            self.not_empty.notify_all()
            self.not_full.notify_all()

    def _ended(self) -> bool:
        """Whether no more will come. With the mutex held."""
        return self._holders == 0 and not self._running.is_set()

    @property
    def ended(self) -> bool:
        """Whether nothing is left and no more will come."""
        with self.mutex:
            return self._ended() and not self._qsize()


class BatchQueue(Pipe):
    """A pipe of single items with bulk operations; bounded by ``maxsize`` items (0: unbounded)."""

    def put_many_nowait(self, items: Sequence[Any]) -> int:
        """Put as many as fit, in order; return how many."""
        with self.mutex:
            room = len(items) if self.maxsize <= 0 else max(0, self.maxsize - len(self.queue))
            self._extend(items if room >= len(items) else items[:room])
            self.not_empty.notify()
            return min(room, len(items))

    def _extend(self, items: Iterable[Any]) -> None:
        self.queue.extend(items)

    def get_many(self, timeout: float) -> list[Any]:
        """Return all items; wait for the first one up to ``timeout`` seconds, or until no more will come."""
        with self.mutex:
            if not self.queue and not self._ended() and not self._urgent():
                self.not_empty.wait(timeout)
            items = list(self.queue)
            self.queue.clear()
            self.not_full.notify_all()
            return items

    def _urgent(self) -> bool:
        """Whether the reader is wanted although nothing has come. With the mutex held."""
        return False

    def wait_for_room(self, timeout: float) -> int:
        """Return how many items fit; wait up to ``timeout`` seconds while it is full."""
        with self.mutex:
            if 0 < self.maxsize <= len(self.queue) and self._running.is_set():
                self.not_full.wait(timeout)
            return max(0, self.maxsize - len(self.queue))


class BackupQueue(BatchQueue):
    """Messages on their way to the backup file; bounded by bytes, too, which count until they are written.

    It also knows how far the file has got, for those who must not go ahead of it: of ``put_total`` messages, in the order in
    which they were put, the first ``durable`` are on disk. Both only grow; reads need no lock.
    """

    def __init__(self, running: RunningFlag, maxsize: int, max_bytes: int) -> None:
        self.bytes = 0  # of values; written under the mutex, read without: a stale figure does no harm
        self.put_total = 0  # written under the mutex, by the polling thread
        self.durable = 0  # written under the mutex, by the writer
        self._wanted = 0  # somebody waits until so many are durable; written under the mutex
        self._given_up = False  # under the mutex: the file is lost, ``durable`` stays as it is
        self._max_bytes = max_bytes
        super().__init__(running, maxsize)
        self._synced = threading.Condition(self.mutex)

    def _put(self, item: Any) -> None:
        self.bytes += value_size(item)
        self.put_total += 1
        self.queue.append(item)

    def put_many_nowait(self, items: Sequence[Any]) -> int:
        """Put as many as fit, in order; return how many."""
        size = total_size(items)
        with self.mutex:
            room = max(0, self.maxsize - len(self.queue))
            if len(items) <= room and self.bytes + size < self._max_bytes:
                self.queue.extend(items)
                self.bytes += size
                self.put_total += len(items)
                self.not_empty.notify()
                return len(items)
            fitting = 0
            for item in items[:room]:
                if self.bytes >= self._max_bytes:
                    break
                self._put(item)
                fitting += 1
            self.not_empty.notify()
            return fitting

    def put_all(self, items: Sequence[Any]) -> None:
        """Put all, room or not: for a strict backup, whose polling thread asks for room before it polls."""
        size = total_size(items)
        with self.mutex:
            self.queue.extend(items)
            self.bytes += size
            self.put_total += len(items)
            self.not_empty.notify()

    def wait_for_room(self, timeout: float) -> int:
        """Return how many items fit by their number, 0 while the bytes are used up; wait up to ``timeout`` seconds while full."""
        with self.mutex:
            if (self.bytes >= self._max_bytes or len(self.queue) >= self.maxsize) and self._running.is_set():
                self.not_full.wait(timeout)
            return 0 if self.bytes >= self._max_bytes else max(0, self.maxsize - len(self.queue))

    def written(self, items: Sequence[Any]) -> None:
        """Take note that these are in the file. Called by the backup writer alone."""
        size = total_size(items)
        with self.mutex:
            self.bytes -= size
            self.not_full.notify_all()

    def synced(self, count: int) -> None:
        """Take note that the first ``count`` messages ever put are on disk. Called by the backup writer alone."""
        with self.mutex:
            self.durable = count
            self._wanted = 0  # who still waits asks again
            self._synced.notify_all()

    def give_up(self) -> None:
        """Take note that the file is lost: nobody need wait for it. Called by the backup writer alone."""
        with self.mutex:
            self._given_up = True
            self._synced.notify_all()

    def flush(self, timeout: float) -> bool:
        """Ask the writer to write and sync now; wait up to ``timeout`` seconds; True when all that was put so far is on disk.

        False at once when the file has failed.
        """
        deadline = time.monotonic() + timeout
        with self.mutex:
            wanted = self.put_total
            while self.durable < wanted and not self._given_up and (left := deadline - time.monotonic()) > 0:
                self._wanted = wanted
                self.not_empty.notify_all()
                self._synced.wait(left)
            return self.durable >= wanted

    @property
    def flush_wanted(self) -> bool:
        """Whether somebody waits for what isn't on disk yet. Read without the lock by the writer, which looks again soon."""
        return self._wanted > self.durable

    def _urgent(self) -> bool:
        return self.flush_wanted and not self._given_up


class DeadLetterQueue(BatchQueue):
    """Dead letters on their way to the file. It knows which are not on disk yet: their offsets must not be committed.

    Unbounded, since a worker must always be able to hand over a failure; ``bytes`` is what the polling thread holds back for.
    """

    def __init__(self, running: RunningFlag) -> None:
        self._pending: Counter[tuple[int, int]] = Counter()  # (partition, offset), under the mutex
        self._flush_wanted = False  # under the mutex
        self.bytes = 0  # of values; written under the mutex, read without: a stale figure does no harm
        super().__init__(running)
        self._written = threading.Condition(self.mutex)

    def _put(self, item: Any) -> None:
        self._pending[place_of(item)] += 1
        self.bytes += value_size(item)
        self.queue.append(item)

    def _extend(self, items: Iterable[Any]) -> None:
        for item in items:
            self._put(item)

    def is_pending(self, partition: int, offset: int) -> bool:
        """Whether a dead letter of this message isn't on disk yet. Topics aren't told apart: at worst a commit waits a moment."""
        with self.mutex:
            return (partition, offset) in self._pending

    def written(self, items: Sequence[Any]) -> None:
        """Take note that these are on disk, synced. Called by the dead-letter writer alone."""
        with self.mutex:
            for item in items:
                place = place_of(item)
                self._pending[place] -= 1
                if self._pending[place] <= 0:
                    del self._pending[place]
                self.bytes -= value_size(item)
            self._flush_wanted = False
            self._written.notify_all()

    def flush(self, timeout: float) -> bool:
        """Ask the writer to write now, full batch or not; wait up to ``timeout`` seconds; True when all is on disk."""
        deadline = time.monotonic() + timeout
        with self.mutex:
            self._flush_wanted = bool(self._pending)
            self.not_empty.notify_all()
            while self._pending and (left := deadline - time.monotonic()) > 0:
                self._written.wait(left)
            return not self._pending

    @property
    def flush_wanted(self) -> bool:
        """Whether somebody waits for what is pending. Read without the lock by the writer, which looks again soon."""
        return self._flush_wanted


class CompletionQueue(Pipe):
    """Results on their way to the commit loop. ``get`` returns ``(partition, offset, "success" | "failed")``.

    Workers add one ``Completion`` for a chunk. ``deque.append`` is atomic, so they need no lock; the queue is unbounded,
    and small: a run of a thousand messages is one item.
    """

    def __init__(self, running: RunningFlag) -> None:
        super().__init__(running)
        self._rest: deque[tuple[int, int, str]] = deque()  # of a completion that get() has begun to hand out

    def add(self, completion: Completion) -> None:
        """Add a result."""
        self.queue.append(completion)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Return one result. It looks every few milliseconds: ``add`` doesn't wake anybody, and no loop calls this."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                return super().get(block=False)
            except queue.Empty:
                if not block or (deadline is not None and time.monotonic() >= deadline):
                    raise
            time.sleep(0.005)

    def take_all(self) -> list[Any]:
        """Return and remove everything: completions, and tuples that were put by hand."""
        with self.mutex:
            items: list[Any] = list(self._rest)
            self._rest.clear()
            while self.queue:
                items.append(self.queue.popleft())
            return items

    def wait(self, timeout: float) -> None:
        """Wait until the run ends, or ``timeout`` seconds."""
        with self.mutex:
            if not self._ended():
                self.not_full.wait(timeout)

    def _qsize(self) -> int:
        return len(self._rest) + sum(len(i.sequences) if isinstance(i, Completion) else 1 for i in list(self.queue))

    def _get(self) -> tuple[int, int, str]:
        while not self._rest:
            item = self.queue.popleft()
            if not isinstance(item, Completion):
                return item  # type: ignore[no-any-return]
            outcome = "failed" if item.failed else "success"
            partition = item.assignment.partition
            self._rest.extend((partition, offset, outcome) for offset in _offsets(item.assignment, item.sequences))
        return self._rest.popleft()


def _offsets(assignment: Assignment, sequences: Sequence[int]) -> list[int]:
    return [assignment.offset_of(sequence) for sequence in sequences]


def place_of(item: Any) -> tuple[int, int]:
    """Return ``(partition, offset)`` of a dead letter, or of a message put by hand."""
    if isinstance(item, DeadLetter):
        return item.partition, item.offset
    return item.partition(), item.offset()


def value_size(item: Any) -> int:
    """Return the bytes of the value of a dead letter or of a message; 0 for one that can't be read: its worker finds out."""
    try:
        value = item.value if isinstance(item, DeadLetter) else item.value()
        return len(value) if value is not None else 0
    except Exception:  # noqa: BLE001 - whatever a message made by hand raises: a figure isn't worth the thread that asks
        return 0


def total_size(items: Sequence[Any]) -> int:
    """Return the sum of ``value_size`` over messages."""
    try:
        return sum(map(len, filter(None, [item.value() for item in items])))
    except Exception:  # noqa: BLE001 - one of them is out of the ordinary
        return sum(map(value_size, items))
