"""``async def`` processors: one thread, one event loop, ``worker_count`` messages in flight.

A *slot* is to a coroutine what a worker is to a function: it takes a message, awaits the processor, hands one result back. It is
a task that lives as long as the pool; a message costs no task of its own. A slot whose task was cancelled (its time was up, or by
the processor itself) gets a new task, so that no cancellation ever reaches the next message.

Who may touch what. Nearly everything belongs to the loop's thread, so it needs no lock. Two other threads look in:

* the feeder, which waits at the queue when the loop has run dry, and wakes it once for whatever has come;
* the supervisor (``LoopWatch``), which takes a message away that blocks the loop beyond its time.

A message in work is an entry in ``_in_flight``, and whoever pops the entry, in one atomic step, reports the result. ``_lock``
guards what both the loop's thread and the supervisor's do when time runs out.
"""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from kafka_consumer.coroutine_backlog import Backlog, Slot
from kafka_consumer.coroutine_results import UNREAD, Item, Results
from kafka_consumer.event_loop import EventLoopThread, coroutine_stack
from kafka_consumer.loop_watch import STALLED_SECONDS, LoopWatch
from kafka_consumer.worker import WorkerStatus, refusal

if TYPE_CHECKING:
    from kafka_consumer.shared_state import SharedState

GRACE_SECONDS = 0.05  # what a cancelled call may take to end before its slot is replaced
GIVE_UP_SECONDS = 5.0  # draining waits no longer for a loop that a message blocks beyond its time
LOOK_SECONDS = 0.1  # how often join() looks whether that is so
REMEMBERED = 20  # crashed slots that stay visible beside the living ones


class CoroutinePool:
    """``worker_count`` slots on an event loop; what ``WorkerPool`` is for threads, with the same methods.

    ``workers`` is a tuple that is replaced, never changed: whoever reads it needs no lock.
    """

    def __init__(self, shared_state: SharedState, *, count: int | None = None, first_id: int = 0) -> None:
        config = shared_state.config
        self.shared_state = shared_state
        self.workers: tuple[Slot, ...] = ()
        self._config = config
        self._timeout = config.processing_timeout
        self._queue = shared_state.processing_queue
        self._wanted = config.worker_count if count is None else count
        self._next_id = first_id
        self._thread: EventLoopThread | None = None
        self._backlog = Backlog(shared_state, self._wanted)
        self._watch = LoopWatch(shared_state, self, self._backlog)
        self._watch_thread = threading.Thread(target=self._watch.run, name="supervisor", daemon=True)
        self._lock = threading.Lock()
        # The loop's thread, but for single atomic steps of others.
        self._in_flight: dict[int, Slot] = {}  # by the id of the slot's item, in the order in which they were begun
        self._results = Results(shared_state, self._watch, self._backlog.items, self._settle_soon)
        self._settle_due = False
        # The loop's thread alone.
        self._slots: dict[asyncio.Task[Any], Slot] = {}
        self._leaving = 0  # slots that are to end, whichever come first
        self._timer: asyncio.TimerHandle | None = None  # for the message whose time is up first

    # --- any thread -------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the loop, the feeder and the supervisor."""
        self._thread = EventLoopThread("event-loop", self._begin, self._unheard, self._config.event_loop)
        self._watch_thread.start()
        self._thread.thread.start()
        threading.Thread(target=self._backlog.feed, args=(self.post, self._thread.stop), name="feeder", daemon=True).start()

    def resize(self, count: int) -> None:
        """Change how many slots there are; those that go finish what they have in hand."""
        if self._thread is None:
            self._wanted = count
        self.post(self._resize, count)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until all have ended, up to ``timeout`` seconds; returns whether they have.

        A loop that is blocked by a call that ran out of time isn't waited for without end: what it holds up fails the run then.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._loop_thread.thread.is_alive() and not self._given_up():
            left = LOOK_SECONDS if deadline is None else min(LOOK_SECONDS, deadline - time.monotonic())
            if left <= 0:
                return False
            self._loop_thread.thread.join(left)
        self._watch.stop()
        self._watch_thread.join()
        return True

    def _given_up(self) -> bool:
        blocked = self._watch.blocked_by_call()
        slot = self.running()[0] if blocked >= STALLED_SECONDS and not self.shared_state.running.is_set() else None
        if slot is None or slot.stuck_on is None:
            return False
        left = len(self._in_flight) + len(self._backlog.items) + self._queue.qsize() + self.waiting_retries
        if left and blocked >= GIVE_UP_SECONDS:
            reason = f"worker {slot.id} blocks the event loop beyond its time: {left:,} messages will be repeated after a restart"
            self.shared_state.logger.critical("%s", reason)
            self.shared_state.fail(reason)
        return not left or blocked >= GIVE_UP_SECONDS

    def alive(self) -> Sequence[Slot]:
        """Return the slots that work, without those replaced."""
        return [slot for slot in self.workers if not (slot.ended or slot.replaced)]

    @property
    def stuck_threads(self) -> int:
        """Calls that ran out of time and haven't ended."""
        return sum(slot.stuck_on is not None for slot in self.workers)

    @property
    def waiting_retries(self) -> int:
        """Messages that wait for their next attempt."""
        return self._watch.waiting_retries

    def statuses(self) -> list[WorkerStatus]:
        """Return a frozen view of every slot."""
        return [slot.status() for slot in self.workers]

    def stacks(self, ids: set[int]) -> dict[int, list[str]]:
        """Return where these slots' calls are, outermost call first."""
        return {slot.id: self._stack(slot) for slot in self.workers if slot.id in ids}

    def _stack(self, slot: Slot) -> list[str]:
        running, frame = self.running()
        if running is slot and frame is not None:
            return traceback.format_stack(frame)
        return [] if slot.task is None else coroutine_stack(slot.task.get_coro())[1:]  # without the slot's own

    def in_flight(self) -> list[Slot]:
        """Return the slots with a message in work, in the order in which they began it."""
        return list(self._in_flight.values())

    def running(self) -> tuple[Slot | None, FrameType | None]:
        """Return the slot whose task runs right now, if it is one's, and where the loop's thread is."""
        task = self._loop_thread.running_task()
        return None if task is None else self._slots.get(task), self._loop_thread.frame()

    def running_call(self) -> tuple[object, Item | None]:
        """Return the task that runs right now and, if it is a slot's, what the slot has in work."""
        task = self._loop_thread.running_task()
        slot = None if task is None else self._slots.get(task)
        return task, None if slot is None else slot.item

    def post(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Have the loop's thread call this, if there is one."""
        if self._thread is not None:
            self._thread.post(call, *arguments)

    @property
    def _loop_thread(self) -> EventLoopThread:
        assert self._thread is not None  # noqa: S101 - for the type checker: start() has set it
        return self._thread

    def _unheard(self, what: str, error: BaseException | None) -> None:
        said = "" if error is None else f" {type(error).__name__}: {error}"
        self.shared_state.logger.error("event loop: %s%s", what, said, exc_info=error)

    # --- the loop's thread: slots come and go -----------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._add(self._wanted)
        self._backlog.fill()

    def _add(self, count: int) -> None:
        new = [Slot(self._next_id + number) for number in range(count)]
        self._next_id += count
        for slot in new:
            self._employ(slot)
        forgotten = set([slot for slot in self.workers if slot.crashed][:-REMEMBERED])
        self.workers = (*(slot for slot in self.workers if slot not in forgotten), *new)
        self._queue.workers = self._backlog.slots = self._wanted

    def _employ(self, slot: Slot) -> None:
        """Give a slot a task."""
        slot.task = task = self._loop_thread.loop.create_task(self._work(slot), name=f"worker-{slot.id}")
        self._slots[task] = slot
        task.add_done_callback(self._on_task_end)

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        """A slot's task has ended: another one takes over, unless the slot is to end."""
        slot = self._slots.pop(task)
        slot.stuck_on = None
        error = None if task.cancelled() else task.exception()
        if error is not None:  # an error of ours
            self._crash(slot, error, slot.item if self._in_flight.pop(id(slot.item), None) else None)
        slot.item = None
        slot.ended = slot.ended or slot.crashed or slot.replaced or self._loop_thread.ending
        if not slot.ended:
            self._employ(slot)
        elif slot.crashed:
            self._watch.worker_ended(slot)  # type: ignore[arg-type] # which counts it, and has it replaced
        elif not self._loop_thread.ending:
            self.workers = tuple(other for other in self.workers if other is not slot)

    def _resize(self, count: int) -> None:
        self._leaving += self._wanted - count
        self._wanted = count
        new, self._leaving = max(0, -self._leaving), max(0, self._leaving)
        self._add(new)
        for _ in range(self._leaving):
            self._backlog.wake()

    def _leave(self, slot: Slot) -> None:
        self._leaving -= 1
        slot.ended = True
        self._backlog.fill()  # it may have been woken for what waits

    def replace_crashed(self, slot: Slot) -> None:
        """Replace a slot; any thread."""
        self.post(self._replace, slot)

    def _replace(self, slot: Slot) -> None:
        slot.replaced = True
        self._add(1)

    async def _work(self, slot: Slot) -> None:
        """Be a slot. Whatever the processor does, this handles; each message costs as little as can be."""
        backlog, in_flight, process = self._backlog, self._in_flight, self.shared_state.processor
        idle, items = backlog.idle, backlog.items
        next_item, finished, monotonic = items.popleft, self._results.done.append, time.monotonic
        timed = self._timeout is not None
        task = slot.task
        assert task is not None  # noqa: S101 - for the type checker: _employ has set it
        while not (slot.crashed or task.cancelling()):
            if self._leaving:
                self._leave(slot)
                return
            try:
                item = next_item()
            except IndexError:
                await backlog.find(slot)
                continue
            if idle and items and backlog.waking < 2:  # each wakes two at the most: all are soon up, and none for nothing
                backlog.wake()
            chunk, _, value = item
            assignment = chunk.assignment
            if assignment is not None and assignment.closed:
                self._results.drop(item)
                continue
            if value is UNREAD and (value := self._read(slot, item)) is UNREAD:
                continue
            slot.since, slot.item = monotonic(), item
            in_flight[id(item)] = slot
            if timed and self._timer is None:
                self._look_at_time()
            error: BaseException | None = None
            try:
                await process(value)
            except BaseException as raised:  # noqa: BLE001 - also a cancellation, also SystemExit: the message must not be lost
                error = raised
            if in_flight.pop(id(item), None) is None:
                return  # too late: it was taken away
            slot.item = None
            if error is not None:
                self._on_error(slot, item, error)
                continue
            slot.processed += 1
            finished(item)
            if not self._settle_due:
                self._settle_soon()
            if chunk.lane is not None:
                self._results.go_on_in_lane(item)
            if backlog.sample_wanted:
                backlog.sample_wanted = False
                self._queue.pace.measured(monotonic() - slot.since)

    def _on_error(self, slot: Slot, item: Item, error: BaseException) -> None:
        """The processor has raised; in the end it is us who cancelled it."""
        if self._loop_thread.ending and not isinstance(error, Exception):
            self._results.drop(item)
            raise error
        if not isinstance(error, Exception | asyncio.CancelledError):
            self._crash(slot, error, item)
        elif self._results.failed(item, error, item[0].attempts + 1, slot.id):
            slot.failed += 1

    def _read(self, slot: Slot, item: Item) -> Any:
        """Return the value of a message that the polling thread hasn't checked; ``UNREAD`` when the processor isn't to get it."""
        chunk, index, _ = item
        try:
            message = chunk.messages[index]
            value = message.value()
            refused = refusal(self._config, value)
        except Exception as error:  # noqa: BLE001 - a message that can't be read
            self._crash(slot, error, item, calls=0)
            return UNREAD
        if refused is None:
            return self.shared_state.argument(message, value)
        self._results.failed(item, refused, chunk.attempts, slot.id, final=True)
        slot.failed += 1
        return UNREAD

    def _crash(self, slot: Slot, error: BaseException, item: Item | None, *, calls: int = 1) -> None:
        """A slot can't go on; its message isn't lost."""
        slot.crashed = True
        where = ""
        if item is not None:
            chunk, index, _ = item
            message = chunk.messages[index]
            where = f" at {message.topic()}-{message.partition()}@{message.offset()}"
            slot.failed += 1
            self._results.failed(item, error, chunk.attempts + calls, slot.id, final=True)
        critical = self.shared_state.logger.critical
        critical("worker %d crashed%s: %s: %s", slot.id, where, type(error).__name__, error, exc_info=error)

    # --- the loop's thread: what has finished -----------------------------------------------------------------------------------

    def _settle_soon(self) -> None:
        """Have what has finished reported and released in this turn of the loop; any thread."""
        if not self._settle_due:
            self._settle_due = True
            if threading.get_ident() == self._loop_thread.thread.ident:
                self._loop_thread.loop.call_soon(self._settle)
            else:
                self.post(self._settle)

    def _settle(self) -> None:
        self._settle_due = False
        if self._results.settle() and self._backlog.idle:
            self._backlog.fill(even_so=True)  # lanes that waited for these go on

    # --- time -------------------------------------------------------------------------------------------------------------------

    def _look_at_time(self) -> None:
        """Take away the messages whose time is up, and come back when the next one's is. The loop's thread."""
        assert self._timeout is not None  # noqa: S101 - for the type checker: called with a timeout only
        self._watch.moved()  # a call may have blocked the loop until now, and the others' time with it
        self._timer = None
        begun_before = time.monotonic() - self._timeout
        with self._lock:
            for slot in [slot for slot in self._in_flight.values() if slot.since <= begun_before]:
                self._time_out(slot, slot.item)
                self._on_timed_out(slot, slot.task)
            if self._in_flight:
                due = min([slot.since for slot in self._in_flight.values()]) + self._timeout
                self._timer = self._loop_thread.loop.call_at(due, self._look_at_time)

    def excuse(self, seconds: float) -> None:
        """A call blocked the loop for so long: not held against the messages that waited for it. The loop's thread."""
        now = time.monotonic()
        with self._lock:
            for slot in self._in_flight.values():
                slot.since = min(now, slot.since + seconds)

    def time_out_running(self, at: float) -> None:
        """Take the message away that blocks the loop, if its time is up. The supervisor's thread."""
        slot, _ = self.running()
        if slot is None or self._timeout is None:
            return
        task, item = slot.task, slot.item  # before its time is looked at: the loop may go on at any moment
        if at - slot.since < self._timeout:
            return
        with self._lock:
            if not self._time_out(slot, item):
                return
        self._results.settle()
        self.post(self._on_timed_out, slot, task)

    def _time_out(self, slot: Slot, item: Item | None) -> bool:
        """Take a message away: a dead letter. With the lock held. Returns False when it was, or has just finished."""
        if item is None or slot.stuck_on is not None:
            return False
        message = slot.stuck_on = item[0].messages[item[1]]  # first: when the call ends, this is cleared
        stack = self._stack(slot)
        if self._in_flight.pop(id(item), None) is None:
            slot.stuck_on = None
            return False
        slot.failed += 1
        self.shared_state.counters.timed_out += 1
        self._results.timed_out(item, self._timeout, stack, slot.id)
        self.shared_state.logger.error(
            "worker %d: %s-%s@%s took longer than processing_timeout=%s s: dead letter; the call is cancelled",
            slot.id, message.topic(), message.partition(), message.offset(), self._timeout,
        )  # fmt: skip
        return True

    def _on_timed_out(self, slot: Slot, task: asyncio.Task[None] | None) -> None:
        """Cancel a call that ran out of time; replace its slot when that doesn't end it. The loop's thread."""
        if task is not None and not task.done():
            task.cancel()
            self._loop_thread.loop.call_later(GRACE_SECONDS, self._replace_stuck, slot, task)
        self._backlog.fill()

    def _replace_stuck(self, slot: Slot, task: asyncio.Task[None]) -> None:
        if task.done():
            return
        if self.stuck_threads <= self._wanted:
            self._replace(slot)
        else:
            what = "%d calls don't end although cancelled: no further replacement; the pool is weaker until one does"
            self.shared_state.logger.error(what, self.stuck_threads)
