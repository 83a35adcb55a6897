"""``executor="process"``: each worker has a process of its own, for functions that compute, or that may take a process down.

``ProcessWorker`` is a ``Worker`` whose thread calls nothing itself: it sends the values of a chunk to its ``Child`` and listens.
All books stay here: results, attempts, order, dead letters. So a process may die at any moment without anything being lost. What
it had finished counts, the message it had in work is a failed one, those behind it go back to the queue.

The thread that listens is also the one that watches. It wakes up twenty times a second while its process is busy, so what the
supervisor does for threads (time-outs, taking away what waits behind a slow message) is done here, by the owner.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
import time
from typing import TYPE_CHECKING, Any

from kafka_consumer.child import Child, Progress, StartError
from kafka_consumer.chunk import Chunk
from kafka_consumer.dead_letter import dead_letter
from kafka_consumer.errors import DecodeError, WorkerProcessDiedError
from kafka_consumer.message_view import size_of
from kafka_consumer.process_setup import setup_of
from kafka_consumer.types import DeadLetter
from kafka_consumer.worker import LoopCrash, Worker

if TYPE_CHECKING:
    from kafka_consumer.ports import MessageLike
    from kafka_consumer.shared_state import SharedState
    from kafka_consumer.supervisor import Supervisor

TICK_SECONDS = 0.05
PORTION_BYTES = 1 << 20  # of values sent at once; a single message may be larger
PAUSE_SECONDS = 0.1  # before the second process that dies without having finished a portion is replaced; doubled each time
LONGEST_PAUSE_SECONDS = 5.0
MAX_FAILED_STARTS = 8  # one after the other; then something is wrong that no further attempt mends
FAILED_STARTS_AT_THE_END = 2  # as many while draining, which somebody waits for


class RemoteError(Exception):
    """What the processor raised in another process: as text, for the error itself may not be fit to travel."""

    def __init__(self, failure: dict[str, Any]) -> None:
        super().__init__(str(failure["text"]))
        self.kind = str(failure["type"])
        self.trace = str(failure["trace"])


class _OutOfTime(Exception):  # noqa: N818 - not an error: it says which message's time ran out, and where it was
    def __init__(self, index: int, stack: str) -> None:
        super().__init__(index)
        self.index = index
        self.stack = stack


class ProcessWorker(Worker):
    """A worker's loop whose calls happen in a process that this thread starts, watches and ends."""

    def __init__(self, shared_state: SharedState, worker_id: int, supervisor: Supervisor) -> None:
        super().__init__(shared_state, worker_id, supervisor)
        self._child: Child | None = None  # replaced by the worker's thread; looked at by others
        self._begun = 0  # how many of the chunk's messages were begun, when no process says so; the worker's thread only
        self._deaths = 0  # processes that died one after the other without having finished a portion
        self._failed_starts = 0  # one after the other
        self._portion = range(0)  # what the process was given last
        self._evidence = ""  # what the dying process left, for the dead letter that is being written
        self._setup = setup_of(shared_state.config)

    # --- the worker's own thread ----------------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until no more will come."""
        try:
            self._start()
            super().run()
        finally:
            self._leave()

    def _work(self, chunk: Chunk) -> Chunk | None:
        with self.lock:
            self._since = time.monotonic()
            self._reported = self._begun = 0
            self._lent = []
            self._chunk = chunk
        child = self._ready()
        if child is None:
            with self.lock:
                self._chunk = None
            self._queue.put_back(chunk)
            return None
        started = self._since = time.monotonic()
        child.reset()
        try:
            index = 0
            while index < len(mine := self._in_hand()):
                index = self._next_portion(child, mine, index)
        except EOFError:
            self._bury(child, None)
        except _OutOfTime as overdue:
            self._bury(child, overdue)
        else:
            self._deaths = 0
        with self.lock:
            done = self._in_hand()
            self._report_success(len(done))
            self._chunk = None
            finished = self._without_lent(done)
        if self._child is None:
            # Nothing is in hand while the next one starts.
            self._queue.release(finished)
            self._start()
            return None
        self._queue.pace.measured((time.monotonic() - started) / len(done))
        return finished

    def _in_hand(self) -> Chunk:
        """Return the chunk, which becomes shorter when its end is given back."""
        chunk = self._chunk
        assert chunk is not None  # noqa: S101 - for the type checker: this thread alone takes it away
        return chunk

    def _next_portion(self, child: Child, chunk: Chunk, start: int) -> int:
        """Have some messages of the chunk processed, from ``start``; return the first one that isn't finished."""
        values: list[Any] = []
        size = 0
        for index in range(start, len(chunk)):
            try:
                argument, refused = self._argument(chunk, index)
            except Exception as crash:
                if values:
                    break  # its turn comes after those before it
                self._begun = index + 1
                raise LoopCrash(index) from crash
            if refused is not None:
                if values:
                    break
                self._begun = index + 1
                self._failed(chunk, index, refused, chunk.attempts, final=True)
                return index + 1
            size += size_of(argument)
            if values and size > PORTION_BYTES:
                break
            values.append(argument)
        # A failure that is to be tried again must not be overtaken by what is behind it in its lane.
        careful = chunk.lane is not None and self._config.max_attempts > 1
        self._portion = range(start, start + len(values))
        child.begin(start, values, careful=careful)
        return self._listen(child, chunk)

    def _listen(self, child: Child, chunk: Chunk) -> int:
        """Hear what becomes of a portion. Errors: ``EOFError`` when the process died, ``_OutOfTime``."""
        timeout = self._config.processing_timeout
        before: Progress | None = None
        while True:
            progress = child.progress()
            if not self._believable(progress):
                child.condemn()
                raise EOFError
            patience = TICK_SECONDS
            if timeout is not None and progress.in_work:
                left = progress.since + timeout - time.monotonic()
                if left <= 0:
                    self._time_out(child, progress)
                self._since = progress.since
                patience = max(0.0, min(patience, left))
            answer = child.receive(patience)
            if answer is None:
                # What it had to say of the messages finished by then has been heard: failures are sent before they count as
                # finished. So these may be reported, and committed.
                with self.lock:
                    self._report_success(progress.finished)
                if progress == before and progress.in_work and chunk.lane is None:
                    self._relieve_of_rest(child)
                before = progress
            elif "done" in answer:
                # The end of what is left: the rest may have been given back meanwhile.
                self._begun = self._checked(answer["done"], self._portion.stop)
                return self._begun
            else:
                self._heard(chunk, answer)

    def _believable(self, progress: Progress) -> bool:
        """Whether this can be: a process whose memory is damaged may say anything, and what it says decides about commits."""
        low, high = self._portion.start, self._portion.stop
        return low <= progress.finished <= high and low <= progress.begun <= high

    def _checked(self, index: Any, highest: int) -> int:
        if not isinstance(index, int) or not self._portion.start <= index <= highest:
            raise EOFError
        return index

    def _relieve_of_rest(self, child: Child) -> None:
        """Give the messages behind a slow one to others."""
        # A portion is about 5 ms of work, but that estimate knows nothing of the one message that takes a minute.
        self._begun = child.limit()
        with self.lock:
            rest = self._take_rest()
        if rest is not None:
            self._queue.put_back(rest)

    def _heard(self, chunk: Chunk, answer: dict[str, Any]) -> None:
        if "failed" in answer:
            index = self._checked(answer["failed"], self._portion.stop - 1)
            self._begun = max(self._begun, index + 1)
            self._failed(chunk, index, RemoteError(answer), chunk.attempts + 1, final=bool(answer["final"]))
        elif "log" in answer:
            logging.getLogger(str(answer["name"])).log(int(answer["log"]), "%s", answer["text"])
        elif "print" in answer:
            (sys.stderr if answer["stream"] == "stderr" else sys.stdout).write(str(answer["print"]))

    def _letter(self, message: MessageLike, error: Exception, calls: int) -> DeadLetter:
        letter = dead_letter(message, error, calls, self.id)
        if isinstance(error, RemoteError):
            called = calls - (error.kind == DecodeError.__name__)
            return dataclasses.replace(letter, error_type=error.kind, stack_trace=error.trace, attempts=called)
        if self._evidence:
            return dataclasses.replace(letter, stack_trace=f"{self._evidence}\n{letter.stack_trace}")
        return letter

    # --- a process that died, or has to --------------------------------------------------------------------------------

    def _time_out(self, child: Child, seen: Progress) -> None:
        """Kill a process whose message is over its time, unless it has just ended. Errors: ``_OutOfTime`` when it is done."""
        if child.progress() != seen:
            return
        stack = child.dump()
        if child.progress() != seen:
            return
        child.kill()
        raise _OutOfTime(seen.begun - 1, stack)

    def _bury(self, child: Child, overdue: _OutOfTime | None) -> None:
        """Take stock: what is finished, which message was in work, what goes back. No message but that one is blamed."""
        chunk = self._in_hand()
        with contextlib.suppress(EOFError):
            for answer in child.bury():
                self._heard(chunk, answer)
        how = child.how_it_ended()
        evidence = overdue.stack if overdue is not None else child.evidence()
        progress = child.progress()
        self._child = None
        child.close()
        if self._believable(progress) and progress.finished <= progress.begun <= progress.finished + 1:
            finished = max(progress.finished, self._reported)
            in_work = progress.begun > finished
        else:
            # Only what was told counts, and to go on, one message must be the one to blame.
            finished, in_work = self._reported, True
        self._begun = finished
        with self.lock:
            self._report_success(finished)
        if in_work and finished < len(chunk) and (overdue is None or overdue.index == finished):
            self._begun = finished + 1
            self._blame(chunk, finished, child.pid, how, evidence, timed_out=overdue is not None)
        elif overdue is None:
            self.shared_state.logger.error("worker %d: its process %d %s, with no message in work", self.id, child.pid, how)
        with self.lock:
            rest = self._take_rest()
        if rest is not None:
            self._queue.put_back(rest)
        if overdue is None:
            self._deaths += 1
        self._supervisor.process_ended(timed_out=overdue is not None)

    def _blame(self, chunk: Chunk, index: int, pid: int, how: str, evidence: str, *, timed_out: bool) -> None:
        message = chunk.messages[index]
        where = f"{message.topic()}-{message.partition()}@{message.offset()}"
        log = self.shared_state.logger
        error: Exception
        if timed_out:
            seconds = self._config.processing_timeout
            error = TimeoutError(f"the processor took longer than processing_timeout={seconds} s")
            self._evidence = "Stack when the time ran out:\n" + (evidence or "(the process didn't answer)\n")
            log.error(
                "worker %d: %s took longer than processing_timeout=%s s: dead letter; its process %d was killed",
                self.id, where, seconds, pid,
            )  # fmt: skip
        else:
            error = WorkerProcessDiedError(f"the worker's process {how} while it had this message in work")
            self._evidence = evidence
            log.error("worker %d: its process %d %s at %s", self.id, pid, how, where)
        self._failed(chunk, index, error, chunk.attempts + 1, final=timed_out)
        self._evidence = ""

    # --- starting and leaving -----------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Start a process; it is waited for when it is needed. Those that die at once are replaced ever more slowly."""
        state = self.shared_state
        if self._deaths > 1:
            state.shutdown_event.wait(min(PAUSE_SECONDS * 2 ** min(self._deaths - 2, 30), LONGEST_PAUSE_SECONDS))
        if not state.running.is_set() and self._queue.empty():
            return  # most likely nothing will come; if it does, there is _ready()
        try:
            self._child = Child(self._setup)
        except StartError as error:
            self._could_not_start(error)

    def _ready(self) -> Child | None:
        """Return the process, started anew if need be, once it has imported the processor; None when that can't be."""
        try:
            if self._child is None:
                self._child = Child(self._setup)
            self._child.wait_ready()
        except StartError as error:
            self._leave()
            self._could_not_start(error)
            return None
        self._failed_starts = 0
        return self._child

    def _could_not_start(self, error: StartError) -> None:
        state = self.shared_state
        self._failed_starts += 1
        state.logger.error("worker %d: %s (attempt %d)", self.id, error, self._failed_starts)
        if self._failed_starts >= (MAX_FAILED_STARTS if state.running.is_set() else FAILED_STARTS_AT_THE_END):
            state.fail(f"worker processes can't be started: {error}")
            self.replaced = True  # ends the loop; by nobody: what waits stays uncommitted, and the next start processes it
            return
        state.shutdown_event.wait(min(PAUSE_SECONDS * 2**self._failed_starts, LONGEST_PAUSE_SECONDS))

    def _leave(self) -> None:
        """End the process: in order when it is idle, at once when it still starts or this worker's loop has crashed."""
        child, self._child = self._child, None
        if child is None:
            return
        if self.crashed or not child.is_ready():
            child.kill()
        child.close()

    # --- with the lock held -------------------------------------------------------------------------------------------

    def _take_rest(self) -> Chunk | None:
        chunk, begun = self._chunk, self._begun
        if chunk is None or begun >= len(chunk):
            return None
        self._chunk = chunk.part(0, begun)
        return chunk.part(begun, len(chunk))

    # --- other threads ------------------------------------------------------------------------------------------------

    def progress(self) -> tuple[Chunk | None, int]:
        """Return the chunk in work and how much of it was begun."""
        child = self._child
        return self._chunk, 0 if child is None else child.progress().begun

    def relieve(self) -> Chunk | None:
        """Return None: the owner does it, see ``_listen``."""
        return None

    def overdue(self, at: float) -> bool:  # noqa: ARG002 - the supervisor's question to any worker
        """Return False: the owner looks after the time, see ``_listen``."""
        return False

    def stack(self) -> list[str]:
        """Return which process it is: what it calls can't be seen from here."""
        child = self._child
        return [] if child is None else [f"  in process {child.pid}\n"]

    def _position(self, chunk: Chunk) -> int:
        child = self._child
        return 0 if child is None else min(max(0, child.progress().begun - 1), max(0, len(chunk) - 1))
