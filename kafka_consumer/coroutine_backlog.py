"""Messages on their way from the queue to the coroutines, and the slots that wait for them.

The loop's thread takes from the queue as long as there is anything, many messages at once and without waiting. Once it has run
dry the feeder, a thread, waits at the queue instead, and wakes the loop once for whatever has come.
"""

from __future__ import annotations

import asyncio
import queue
from collections import deque
from collections.abc import Callable
from itertools import repeat
from typing import TYPE_CHECKING

from kafka_consumer.coroutine_results import UNREAD, Item, by_chunk
from kafka_consumer.types import WorkerState
from kafka_consumer.work_queue import GRAB_SECONDS
from kafka_consumer.worker import WorkerStatus

if TYPE_CHECKING:
    from kafka_consumer.assignment import Assignment
    from kafka_consumer.chunk import Chunk
    from kafka_consumer.ports import MessageLike
    from kafka_consumer.shared_state import SharedState

AHEAD = 256  # messages taken before there is a free slot for them, at the most


class Slot:
    """Room for one message in work. Written by the loop's thread, read by any."""

    __slots__ = ("crashed", "ended", "failed", "id", "item", "processed", "replaced", "since", "stuck_on", "task", "waiter")

    def __init__(self, slot_id: int) -> None:
        self.id = slot_id
        self.item: Item | None = None  # in work
        self.since = 0.0  # monotonic seconds at which it was begun; later when another one's call blocked the loop since
        self.processed = 0
        self.failed = 0
        self.crashed = False
        self.replaced = False  # by another one, after a crash or while it was stuck: it ends when its call does
        self.ended = False
        self.stuck_on: MessageLike | None = None  # its time was up and it was taken away; the call hasn't ended
        self.task: asyncio.Task[None] | None = None
        self.waiter: asyncio.Future[None] | None = None  # set when there is work

    def status(self) -> WorkerStatus:
        """Return a frozen view; from any thread."""
        message = stuck_on = self.stuck_on
        if message is None and (item := self.item) is not None:
            message = item[0].messages[item[1]]
        if self.crashed:
            state = WorkerState.CRASHED
        elif self.ended:
            state = WorkerState.STOPPED
        elif message is None:
            state = WorkerState.IDLE
        else:
            state = WorkerState.BUSY if stuck_on is None else WorkerState.STUCK
        if message is None:
            return WorkerStatus(self.id, state, None, None, None, self.since, self.processed, self.failed)
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        return WorkerStatus(self.id, state, topic, partition, offset, self.since, self.processed, self.failed)


class Backlog:
    """What was taken and not begun: ``items``. All belongs to the loop's thread, but for ``feed`` and where it says so."""

    def __init__(self, shared_state: SharedState, slots: int) -> None:
        self.items: deque[Item] = deque()  # the supervisor's thread may add one, too
        self.idle: list[Slot] = []  # waiting for work
        self.waking = 0  # slots that were woken and haven't run yet
        self.slots = slots
        self.sample_wanted = False  # the next message that ends is to be measured: one of those taken at a time is enough
        self._queue = shared_state.processing_queue
        self._ordered = shared_state.config.ordering != "unordered"
        self._asked = False  # the feeder waits at the queue
        self._hungry: queue.SimpleQueue[None] = queue.SimpleQueue()  # an entry: the feeder is to wait at the queue

    def feed(self, post: Callable[[Callable[[], None]], object], end: Callable[[], None]) -> None:
        """Be the feeder: ``post`` has the loop's thread call something, ``end`` is called there when no more will come."""
        more = True
        while more:
            self._hungry.get()
            more = self._queue.wait_for_work()
            post(self._on_work if more else end)

    def _on_work(self) -> None:
        """The feeder has seen work."""
        self._asked = False
        self.fill()

    def withdraw(self, assignment: Assignment) -> list[Chunk]:
        """Give up what was taken of a partition and not begun, and return it. Any thread: each item is popped by one."""
        gone: deque[Item] = deque()
        kept: list[Item] = []
        try:
            while True:
                item = self.items.popleft()
                (gone if item[0].assignment is assignment else kept).append(item)
        except IndexError:
            self.items.extend(kept)
        # In a lane the first message stands for those behind it.
        return [
            chunk.pick(indices) if chunk.lane is None else chunk.part(indices[0], len(chunk))
            for chunk, indices in by_chunk(gone).items()
        ]

    async def find(self, slot: Slot) -> None:
        """Take from the queue, or wait for what comes."""
        if self._refill():
            await asyncio.sleep(0)  # a processor that never waits mustn't keep the loop from moving
            return
        slot.waiter = waiter = asyncio.get_running_loop().create_future()
        self.idle.append(slot)
        try:
            await waiter
        finally:
            if not waiter.cancelled():
                self.waking -= 1

    def fill(self, *, even_so: bool = False) -> None:
        """Have an idle slot look for work, which wakes others; where none is idle, they come when they are through."""
        if (self.items or self._refill(even_so=even_so)) and not self.waking:
            self.wake()

    def wake(self) -> None:
        """Wake one idle slot."""
        while self.idle:
            waiter = self.idle.pop().waiter
            if waiter is not None and not waiter.done():
                self.waking += 1
                waiter.set_result(None)
                return

    def _refill(self, *, even_so: bool = False) -> bool:
        """Take from the queue, if need be although the feeder waits there; returns whether there was anything."""
        if self._asked and not even_so:
            return False
        pace = self._queue.pace
        ahead = 1 if pace.seconds is None else min(AHEAD, int(self.slots * GRAB_SECONDS / max(pace.seconds, 1e-7)))
        limit = max(1, len(self.idle) + ahead)
        chunks = self._queue.take_now(limit, pace.limit(self._queue.qsize(), self.slots) if self._ordered else limit)
        for chunk in chunks:
            values = repeat(UNREAD, len(chunk)) if chunk.values is None else chunk.values
            if chunk.lane is None:
                self.items.extend(zip(repeat(chunk), range(len(chunk)), values, strict=False))
            else:
                self.items.append((chunk, 0, next(iter(values))))
        self.sample_wanted = True
        if not chunks and not self._asked:
            self._asked = True
            self._hungry.put(None)
        return bool(chunks)
