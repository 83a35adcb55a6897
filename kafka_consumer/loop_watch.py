"""Watches the coroutine executor's event loop: a call that blocks it is named, and loses its message when its time is up."""

from __future__ import annotations

import time
import traceback
from typing import TYPE_CHECKING, Any

from kafka_consumer.supervisor import Supervisor

if TYPE_CHECKING:
    from kafka_consumer.assignment import Assignment
    from kafka_consumer.chunk import Chunk
    from kafka_consumer.coroutine_backlog import Backlog
    from kafka_consumer.coroutine_executor import CoroutinePool
    from kafka_consumer.shared_state import SharedState

BLOCKED_SECONDS = 1.0  # a loop that hasn't moved for as long is worth a line in the log
STALLED_SECONDS = 0.1  # and one that hasn't for this long may be blocked by a message whose time is up
OWN_CALL = "in _work\n"  # a slot's own line in a stack says nothing
SLOW_LOOK_SECONDS = 1.0  # how often it looks for messages that take very long


class LoopWatch(Supervisor):
    """A supervisor that looks at the loop instead of at each worker; retries and crashes are as for threads.

    While work is in flight it asks the loop for a sign of life with each look. ``_asked_at`` is when, None once it has come:
    set by the supervisor's thread, cleared by the loop's. A loop may be late because it has much to do; it is *blocked* when each
    look finds it in the same call.
    """

    def __init__(self, shared_state: SharedState, pool: CoroutinePool, backlog: Backlog) -> None:
        super().__init__(shared_state, tuple, pool.replace_crashed)  # type: ignore[arg-type] # slots, not workers
        self._pool = pool
        self._backlog = backlog
        self._asked_at: float | None = None
        # Since when it has been in this call, and how long calls before it have blocked the loop since it was asked: both set by
        # the supervisor's thread, read by the loop's.
        self._call: tuple[Any, Any] = (None, None)
        self._call_since = 0.0
        self._blocked_before = 0.0
        self._told = False  # of the standstill that lasts
        self._slow_look_at = 0.0

    def withdraw(self, assignment: Assignment) -> list[Chunk]:
        """Give up a revoked partition's messages that weren't begun, too. Any thread."""
        gone = self._backlog.withdraw(assignment)
        self._pool.post(self._backlog.fill)  # a slot may have found the backlog empty for a moment
        return gone + super().withdraw(assignment)

    def blocked_by_call(self) -> float:
        """Return for how many seconds one and the same call has blocked the loop; 0 while it moves. Any thread."""
        return 0.0 if self._asked_at is None else time.monotonic() - self._call_since

    def _look(self, at: float) -> None:
        self._queue.nudge()
        asked_at = self._asked_at
        self._see_call(at)
        if asked_at is None:
            self._call_since = at
            self._blocked_before = 0.0
            self._asked_at = at
            self._pool.post(self.moved)
        elif at - asked_at >= STALLED_SECONDS:
            self._pool.time_out_running(at)
            if at - asked_at >= BLOCKED_SECONDS and not self._told:
                self._told = True
                self._tell(at - asked_at)
        if at >= self._slow_look_at:
            self._slow_look_at = at + SLOW_LOOK_SECONDS
            for slot in self._pool.in_flight():
                self._warn_when_slow(slot, at)  # type: ignore[arg-type]

    def _see_call(self, at: float) -> None:
        task, item = self._pool.running_call()
        if task is self._call[0] and item is self._call[1]:
            return
        if at - self._call_since >= STALLED_SECONDS:
            self._blocked_before += at - self._call_since
        self._call = (task, item)
        self._call_since = at

    def _tell(self, seconds: float) -> None:
        slot, frame = self._pool.running()
        who = "a task that the processor has made"
        if slot is not None:
            status = slot.status()
            who = f"worker {slot.id} with {status.topic}-{status.partition}@{status.offset}"
        calls = [] if frame is None else [call for call in traceback.format_stack(frame, limit=2) if OWN_CALL not in call]
        where = "; it is here: " + " ".join("".join(calls).split()) if calls else ""
        self._shared_state.logger.warning(
            "the event loop is blocked: %s hasn't let it move for %.1f s, and nothing else is processed: "
            "await what takes time, or call it with asyncio.to_thread()%s", who, seconds, where,
        )  # fmt: skip

    def moved(self) -> None:
        """The loop moves: called by the loop itself, in answer to a look, or before it judges by time."""
        asked_at = self._asked_at
        seconds = 0.0 if asked_at is None else time.monotonic() - asked_at
        blocked = time.monotonic() - self._call_since
        blocked = self._blocked_before + (blocked if blocked >= STALLED_SECONDS else 0.0)
        if seconds >= STALLED_SECONDS and blocked:
            self._pool.excuse(blocked)
        self._asked_at = None
        if self._told:
            self._told = False
            self._shared_state.logger.warning("the event loop moves again, after %.1f s", seconds)
