"""What becomes of the messages that coroutines have in work: reported as processed or failed, tried again, released.

Successes cost an append; they are reported and released together, one ``Completion`` for all of a chunk that finished in a turn
of the loop. Failures are reported at once. The loop's thread does all of it, and the supervisor's while the loop is blocked: what
both touch is a deque, whose appends and pops are atomic, or is guarded by ``_settling``.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from kafka_consumer.chunk import Chunk, Completion
from kafka_consumer.dead_letter import dead_letter

if TYPE_CHECKING:
    from kafka_consumer.shared_state import SharedState
    from kafka_consumer.supervisor import Supervisor
    from kafka_consumer.types import DeadLetter

Item: TypeAlias = tuple[Chunk, int, Any]
"""A chunk, the index of a message in it, and the message's value: ``UNREAD`` where the polling thread hasn't checked it."""

UNREAD: Any = object()


class Results:
    """The way back. ``backlog`` is what was taken and not begun; ``wake`` has the loop's thread call ``settle()`` soon."""

    def __init__(self, shared_state: SharedState, supervisor: Supervisor, backlog: deque[Item], wake: Callable[[], None]) -> None:
        self.done: deque[Item] = deque()  # finished: to be reported as processed, and released
        self._dropped: deque[Item] = deque()  # reported already, or revoked: to be released
        self._queue = shared_state.processing_queue
        self._results = shared_state.processed_queue
        self._letters = shared_state.dlq_queue
        self._supervisor = supervisor
        self._backlog = backlog
        self._wake = wake
        self._settling = threading.Lock()

    def failed(self, item: Item, error: BaseException, calls: int, worker_id: int, *, final: bool = False) -> bool:
        """A message failed after ``calls`` calls; returns whether for good: ``final``, or no attempt is left."""
        chunk, index, _ = item
        if not chunk.revoked:
            if not final and self._supervisor.wants_retry(error, calls):  # type: ignore[arg-type] # a cancellation, too
                self._hand_to_retry(chunk, index, calls)
                return False
            self._failed_for_good(item, dead_letter(chunk.messages[index], error, calls, worker_id))
            return True
        self.drop(item)
        return True

    def timed_out(self, item: Item, seconds: float | None, stack: list[str], worker_id: int) -> None:
        """A call took longer than ``seconds``; ``stack`` is where it is, which tells most about one that doesn't return."""
        chunk, index, _ = item
        error = TimeoutError(f"the processor took longer than processing_timeout={seconds} s")
        letter = dead_letter(chunk.messages[index], error, chunk.attempts + 1, worker_id)
        evidence = "Stack when the time ran out:\n" + "".join(stack)
        self._failed_for_good(item, dataclasses.replace(letter, stack_trace=evidence + letter.stack_trace))

    def _failed_for_good(self, item: Item, letter: DeadLetter) -> None:
        chunk, index, _ = item
        if not chunk.revoked:
            # The dead letter first: its offset must not be committed before it is on disk.
            self._letters.put(letter)
            self._report(chunk.part(index, index + 1), failed=True)
        self.drop(item)

    def _hand_to_retry(self, chunk: Chunk, index: int, calls: int) -> None:
        """Give one message to the supervisor until its next attempt is due; with its lane's order kept."""
        again = chunk.part(index, index + 1)
        again.attempts = calls
        if chunk.lane is not None and index + 1 < len(chunk):  # what is behind it in its lane has to wait for it
            self._queue.put_back(chunk.part(index + 1, len(chunk)))
        self._supervisor.retry(again)

    def drop(self, item: Item) -> None:
        """A message is done with, and was reported if it had to be."""
        self._dropped.append(item)
        self._wake()
        self.go_on_in_lane(item)

    def go_on_in_lane(self, item: Item) -> None:
        """A message is finished: the next one of its lane, if it has one, comes right after it."""
        chunk, index, _ = item
        index += 1
        if chunk.lane is not None and index < len(chunk):
            self._backlog.appendleft((chunk, index, UNREAD if chunk.values is None else chunk.values[index]))

    def settle(self) -> bool:
        """Report and release what has finished since the last time; returns whether a lane may go on."""
        lanes = False
        with self._settling:
            parts: list[Chunk] = []
            for finished, report in ((self.done, True), (self._dropped, False)):
                for chunk, indices in by_chunk(finished).items():
                    part = chunk.pick(indices)
                    if report:
                        self._report(part, failed=False)
                    parts.append(part)
                    lanes = lanes or chunk.lane is not None
            self._queue.release(*parts)
        return lanes

    def _report(self, part: Chunk, *, failed: bool) -> None:
        if part.assignment is not None and part.sequences is not None:
            self._results.add(Completion(part.assignment, part.sequences, failed))
            return
        for message in part.messages:
            self._results.put((message.partition(), message.offset(), "failed" if failed else "success"))


def by_chunk(items: deque[Item]) -> dict[Chunk, list[int]]:
    """Empty a deque to which another thread may add, or from which it may take; return the indices by chunk."""
    found: dict[Chunk, list[int]] = {}
    try:
        while True:
            chunk, index, _ = items.popleft()
            if chunk in found:
                found[chunk].append(index)
            else:
                found[chunk] = [index]
    except IndexError:
        return found
