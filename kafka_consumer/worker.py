"""One worker: takes a chunk, calls the function for each message, hands one result back.

Who may touch what. A chunk in work is owned by two threads: the worker, and the supervisor, which must be able to take messages
out of its hands (a slow message must not hold up those behind it; a message over its time goes to the dead letters *now*).

* ``_todo`` is a deque: the worker takes from the left, the supervisor from the right; each step is atomic.
* ``lock`` guards what was reported: ``_chunk``, ``_reported``, ``_turn_over``. The worker takes it once a chunk and once a
  failure; with a timeout configured, once a message.

Whatever was taken from the left before the one in work is finished; so ``len(chunk) - len(todo)`` says where the worker is,
and no counter needs to be kept for each message.
"""

from __future__ import annotations

import dataclasses
import sys
import threading
import time
import traceback
import types
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from kafka_consumer.chunk import Chunk, Completion
from kafka_consumer.dead_letter import dead_letter
from kafka_consumer.errors import MessageTooLargeError
from kafka_consumer.types import WorkerState

if TYPE_CHECKING:
    from kafka_consumer.config import KafkaConsumerConfig
    from kafka_consumer.ports import MessageLike
    from kafka_consumer.shared_state import SharedState
    from kafka_consumer.supervisor import Supervisor
    from kafka_consumer.types import DeadLetter


class WorkerStatus(NamedTuple):
    """A worker as others see it; ``since`` is the monotonic time in seconds at which it began its message (or chunk)."""

    id: int
    state: WorkerState
    topic: str | None
    partition: int | None
    offset: int | None
    since: float
    processed: int
    failed: int


def refusal(config: KafkaConsumerConfig, value: bytes | None) -> Exception | None:
    """Return why the processor isn't called for this value, or None."""
    if value is None:
        return None
    limit = config.max_message_size
    if len(value) > limit:
        return MessageTooLargeError(f"the value has {len(value):,} bytes; max_message_size is {limit:,}")
    if config.only_text:
        try:
            value.decode()
        except UnicodeDecodeError as error:
            return error
    return None


def refuse_coroutine(answer: Any) -> None:
    """Raise ``TypeError`` where a plain function returned a coroutine: nothing of its work was done, nobody would ever know."""
    if isinstance(answer, types.CoroutineType):
        answer.close()
        raise TypeError(
            "the processor returned a coroutine, which nobody runs: make it an 'async def', or run what it calls (asyncio.run)"
        )


class Worker:
    """A worker's loop; ``run()`` is called once, by the thread that is the worker."""

    def __init__(self, shared_state: SharedState, worker_id: int, supervisor: Supervisor) -> None:
        self.shared_state = shared_state
        self.id = worker_id
        self.lock = threading.Lock()
        self.crashed = False
        self.stuck = False  # its message ran out of time and was taken away; the thread is still inside the call
        self.replaced = False  # by another one, while it was stuck: the thread ends when the call returns
        self.ended = False
        self.processed = 0
        self.failed = 0
        self.thread: threading.Thread | None = None
        self._supervisor = supervisor
        self._queue = shared_state.processing_queue
        self._results = shared_state.processed_queue
        self._config = shared_state.config
        self._process = shared_state.processor
        self._timed = shared_state.config.processing_timeout is not None
        self._chunk: Chunk | None = None
        self._todo: deque[int] = deque()  # indices of the chunk's messages that weren't begun
        self._reported = 0  # the chunk's messages below this index have their results
        self._since = 0.0
        self._calling = False  # the message in work is inside the checks or the processor; kept with a timeout only
        self._turn_over = False  # the supervisor has taken the message in work away
        self._lent: list[Chunk] = []  # messages of the chunk that wait for another attempt: not finished
        self._stuck_on: MessageLike | None = None

    # --- the worker's own thread ----------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until no more will come. Returns early after a crash of the loop, or when the pool has replaced this worker."""
        finished: Chunk | None = None
        self.thread = threading.current_thread()
        try:
            while not self.replaced:
                chunk = self._queue.take(finished)
                finished = None
                if chunk is None:
                    return
                finished = self._work(chunk)
        except BaseException as error:  # noqa: BLE001 - also SystemExit from the user's function: the message must not be lost
            finished = self._crash(error)
        finally:
            if finished is not None:
                self._queue.release(finished)
            self.ended = True
            self._supervisor.worker_ended(self)

    def _work(self, chunk: Chunk) -> Chunk | None:
        """Process a chunk; return what of it is finished, to be given back (None: it was taken away altogether)."""
        started = time.monotonic()
        with self.lock:
            self._since = started
            self._reported = 0
            self._turn_over = False
            self._lent = []
            self._todo = todo = deque(range(len(chunk)))
            self._chunk = chunk
        if self._timed or chunk.values is None or chunk.attempts:
            self._run_each(chunk, todo)
        else:
            self._run_fast(chunk, chunk.values, todo)
        with self.lock:
            done = self._chunk
            if done is None:
                return None
            self._report_success(len(done))
            self._chunk = None
            finished = self._without_lent(done)
        self._queue.pace.measured((time.monotonic() - started) / len(done))
        return finished

    def _run_fast(self, chunk: Chunk, values: list[Any], todo: deque[int]) -> None:
        process = self._process
        begin_next = todo.popleft
        while True:
            try:
                index = begin_next()
            except IndexError:
                return
            try:
                if (answer := process(values[index])) is not None:
                    refuse_coroutine(answer)
            except Exception as error:  # noqa: BLE001 - whatever the user's function raises is a failed message
                self._failed(chunk, index, error, 1)

    def _run_each(self, chunk: Chunk, todo: deque[int]) -> None:
        """As ``_run_fast``, with checks, attempts and the clock for each message."""
        while True:
            with self.lock:
                if not todo:
                    return
                index = todo.popleft()
                self._since = time.monotonic()
                self._calling = True
            calls = chunk.attempts
            error: Exception | None = None
            try:
                argument, refused = self._argument(chunk, index)
            except Exception as crash:
                raise LoopCrash(index) from crash
            if refused is None:
                calls += 1
                try:
                    if (answer := self._process(argument)) is not None:
                        refuse_coroutine(answer)
                except Exception as raised:  # noqa: BLE001 - whatever the user's function raises is a failed message
                    error = raised
            else:
                error = refused
            with self.lock:
                self._calling = False
                if self._turn_over:  # too late: the supervisor has reported it, and taken the rest of the chunk
                    self.stuck = False
                    self._stuck_on = None
                    return
            if error is not None:
                self._failed(chunk, index, error, calls, final=refused is not None)

    def _argument(self, chunk: Chunk, index: int) -> tuple[Any, Exception | None]:
        """Return what the processor is called with, or why it isn't called."""
        if chunk.values is not None:
            return chunk.values[index], None
        message = chunk.messages[index]
        value = message.value()
        refused = refusal(self._config, value)
        return (None, refused) if refused is not None else (self.shared_state.argument(message, value), None)

    def _failed(self, chunk: Chunk, index: int, error: Exception, calls: int, *, final: bool = False) -> None:
        with self.lock:
            self._report_success(index)
            self._reported = index + 1
            retry = not final and self._supervisor.wants_retry(error, calls) and not chunk.revoked
            if retry:
                self._hand_to_retry(chunk, index, calls)
            else:
                self.failed += 1
                self._report_failure(chunk, index, self._letter(chunk.messages[index], error, calls))

    def _letter(self, message: MessageLike, error: Exception, calls: int) -> DeadLetter:
        """Return the record of a failure; for a call elsewhere there is more to say."""
        return dead_letter(message, error, calls, self.id)

    def _hand_to_retry(self, chunk: Chunk, index: int, calls: int) -> None:
        """Give one message to the supervisor until its next attempt is due; with its lane's order kept. With the lock held."""
        again = chunk.part(index, index + 1)
        again.attempts = calls
        self._lent.append(again)
        if chunk.lane is not None:  # what is behind it in its lane has to wait for it
            rest = self._take_rest()
            if rest is not None:
                self._queue.put_back(rest)
        self._supervisor.retry(again)

    def _without_lent(self, chunk: Chunk) -> Chunk:
        """Return what is finished of a chunk, for the queue's books: without the messages that wait for another attempt."""
        if not self._lent:
            return chunk
        lent = len(self._lent)
        return Chunk(
            chunk.messages[lent:], chunk.assignment, size=chunk.size - sum(part.size for part in self._lent), lane=chunk.lane
        )

    def _crash(self, error: BaseException) -> Chunk | None:
        """The loop itself failed: no message in hand may be lost. Returns what is finished."""
        self.crashed = True
        outside = isinstance(error, LoopCrash) and error.__cause__ is not None
        cause = error.__cause__ if outside and error.__cause__ is not None else error
        log = self.shared_state.logger
        with self.lock:
            rest = self._take_rest()
            chunk = self._chunk
            where = ""
            finished = None
            if chunk is not None and len(chunk):
                index = len(chunk) - 1
                message = chunk.messages[index]
                where = f" at {message.topic()}-{message.partition()}@{message.offset()}"
                self._report_success(index)
                if self._reported <= index:
                    self._reported = index + 1
                    self.failed += 1
                    attempts = chunk.attempts + (0 if outside else 1)
                    self._report_failure(chunk, index, dead_letter(message, cause, attempts, self.id))
                finished = self._without_lent(chunk)
            if rest is not None:
                self._queue.put_back(rest)
            self._chunk = None
        log.critical("worker %d crashed%s: %s: %s", self.id, where, type(cause).__name__, cause, exc_info=cause)
        return finished

    # --- with the lock held, by the worker or by the supervisor ---------------------------------------------------------

    def _report_success(self, stop: int) -> None:
        """Report the messages from the last report up to index ``stop`` as processed."""
        chunk = self._chunk
        start = self._reported
        if chunk is None or start >= stop:
            return
        self._reported = stop
        self.processed += stop - start
        self._report(chunk, start, stop, failed=False)

    def _report_failure(self, chunk: Chunk, index: int, letter: Any) -> None:
        if chunk.revoked:
            return
        # The dead letter first: its offset must not be committed before it is on disk.
        self.shared_state.dlq_queue.put(letter)
        self._report(chunk, index, index + 1, failed=True)

    def _report(self, chunk: Chunk, start: int, stop: int, *, failed: bool) -> None:
        if chunk.assignment is not None and chunk.sequences is not None:
            self._results.add(Completion(chunk.assignment, chunk.sequences[start:stop], failed))
            return
        for message in chunk.messages[start:stop]:
            self._results.put((message.partition(), message.offset(), "failed" if failed else "success"))

    def _take_rest(self) -> Chunk | None:
        """Take what wasn't begun out of the chunk; the worker keeps, and gives back, the part before."""
        chunk = self._chunk
        if chunk is None:
            return None
        rest = 0
        try:
            while True:
                self._todo.pop()
                rest += 1
        except IndexError:
            pass
        if not rest:
            return None
        split = len(chunk) - rest
        self._chunk = chunk.part(0, split)
        return chunk.part(split, len(chunk))

    # --- the supervisor's thread ----------------------------------------------------------------------------------------

    def progress(self) -> tuple[Chunk | None, int]:
        """Return the chunk in work and how much of it wasn't begun: unchanged for long means a slow message."""
        return self._chunk, len(self._todo)

    def relieve(self) -> Chunk | None:
        """Take the messages behind the one in work, for others; report those before it, which may be committed then."""
        with self.lock:
            rest = self._take_rest()
            if self._chunk is not None:
                self._report_success(len(self._chunk) - 1)
            return rest

    def overdue(self, at: float) -> bool:
        """Whether the message in work began more than ``processing_timeout`` seconds before ``at``."""
        timeout = self._config.processing_timeout
        return timeout is not None and self._calling and not self._turn_over and at - self._since >= timeout

    def time_out(self, at: float) -> Chunk | None:
        """Take the message in work away: report it as failed. Returns what is to be given back, or None if it has finished."""
        with self.lock:
            if not self.overdue(at):
                return None
            rest = self._take_rest()
            chunk = self._chunk
            if chunk is None:
                return None
            index = len(chunk) - 1
            message = self._stuck_on = chunk.messages[index]
            self._report_success(index)
            self._reported = index + 1
            self._turn_over = True
            self.stuck = True
            self.failed += 1
            seconds = self._config.processing_timeout
            error = TimeoutError(f"the processor took longer than processing_timeout={seconds} s")
            letter = dead_letter(message, error, chunk.attempts + 1, self.id)
            # The evidence of a call that doesn't return is where it is.
            stack = "Stack when the time ran out:\n" + "".join(self.stack())
            self._report_failure(chunk, index, dataclasses.replace(letter, stack_trace=stack + letter.stack_trace))
            if rest is not None:
                self._queue.put_back(rest)
            self._chunk = None
            return self._without_lent(chunk)

    def stack(self) -> list[str]:
        """Return where the thread is right now, outermost call first, without local variables; from any thread."""
        thread = self.thread
        frame = sys._current_frames().get(thread.ident) if thread is not None and thread.ident is not None else None  # noqa: SLF001
        return [] if frame is None else traceback.format_stack(frame)

    def status(self) -> WorkerStatus:
        """Return a frozen view."""
        chunk, since = self._chunk, self._since
        topic = partition = offset = None
        message = self._stuck_on
        if message is None and chunk is not None:
            message = chunk.messages[self._position(chunk)] if len(chunk) else None
        if message is not None:
            topic, partition, offset = message.topic(), message.partition(), message.offset()
        if self.crashed:
            state = WorkerState.CRASHED
        elif self.stuck:
            state = WorkerState.STUCK
        elif self.ended:
            state = WorkerState.STOPPED
        else:
            state = WorkerState.IDLE if chunk is None else WorkerState.BUSY
        return WorkerStatus(self.id, state, topic, partition, offset, since, self.processed, self.failed)

    def _position(self, chunk: Chunk) -> int:
        """Return the index of the message in work."""
        return max(0, len(chunk) - len(self._todo) - 1)


class LoopCrash(Exception):  # noqa: N818 - not an error of its own: it carries one
    """The message at this index broke the loop outside the processor."""
