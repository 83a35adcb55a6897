"""The crash-loop guard (``crash_loop_limit``): a message that takes the whole process down each time goes to the dead letters.

A run that ends by SIGKILL, a segmentation fault or ``os._exit`` leaves its state file behind; a clean end removes it. When a
partition is assigned with the same first unfinished offset after as many such ends in a row as the limit says, it is on
*probation*: the process calls the function for one message at a time, and notes which. If it dies again, that message was it: the
next run gives it to the dead letters without a call. Probation goes on, for there may be another one, until everything that was
handed out in those runs is finished and committed.

Why so much ado: the first unfinished message need not be the one. It may have been finished and not committed yet, and several
were in work. So no message is condemned for its offset, only for having been in work, alone, when the process ended.

Without probation a message costs nothing: what workers call is the processor itself. Whether there may be a probation is known
from the file before the workers start. Everything here belongs to the polling thread, but for what a comment says.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from kafka_consumer.crash_loop_notes import Calls, Notes
from kafka_consumer.crash_loop_state import NOTHING_COMMITTED, Record, State, delete
from kafka_consumer.errors import CrashLoopError, FileFormatError
from kafka_consumer.message_view import Message

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kafka_consumer.assignment import Assignment
    from kafka_consumer.chunk import Chunk
    from kafka_consumer.shared_state import SharedState
    from kafka_consumer.types import TopicPartitionKey

LOOK_SECONDS = 0.1  # how often a probation asks whether it is over
SHOWN = 5  # partitions and times named in a line


class Pool(Protocol):
    """What the guard needs of the workers."""

    @property
    def stuck_threads(self) -> int: ...
    def resize(self, count: int) -> None: ...


class CrashLoopGuard:
    """One run's guard. ``start`` before the workers start; ``end`` when all is committed and nobody polls any more."""

    def __init__(self, shared_state: SharedState, pool: Pool) -> None:
        config = shared_state.config
        assert config.crash_loop_limit is not None  # noqa: S101 - for the type checker: guard_of() has looked
        self._shared_state = shared_state
        self._log = shared_state.logger
        self._pool = pool
        self._limit = config.crash_loop_limit
        self._workers = config.worker_count  # when no probation is on
        self._path = f"{config.dlq_path}.crash-loop"
        self._notes = Notes(f"{self._path}-notes")
        self._calls = Calls(self._notes, self._evidence)
        self._state = State(config.group_id)
        self._open: Mapping[TopicPartitionKey, Assignment] = {}  # as of the last look
        self._assigned: set[TopicPartitionKey] = set()  # ever, in this run
        self._due = 0.0
        self._off = False  # for the rest of this run
        self.probation = False  # read by other threads

    # --- the start --------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Read what the last run has left, and put the notes around the processor if there may be a probation. Never fails."""
        found: State | None = None
        try:
            found = State.load(self._path, self._state.group)
            if found is not None:
                said = found.conclude(*self._notes.read(found.life))
                if said is not None:
                    self._log.warning("crash-loop guard: %s", said)
        except (OSError, FileFormatError) as error:
            self._log.warning("crash-loop guard: %s isn't used, and written anew: %s", self._path, error)
            found = None
        if found is None:
            return
        self._state = found
        self._weigh()
        if self._calls.noting:
            state = self._shared_state
            coroutine = state.config.is_coroutine
            state.processor = self._calls.around(state.processor, whole=state.takes_messages, coroutine=coroutine)
            state.argument, state.takes_messages = Message.of, True

    # --- a worker's thread ------------------------------------------------------------------------------------------------------

    def _evidence(self, topic: str, partition: int, offset: int) -> CrashLoopError:
        """Return the error of a condemned message, and say that it is one."""
        record = self._state.records[topic, partition]
        self._log.critical(
            "crash-loop guard: %s-%d@%d goes to the dead letters, it isn't called again: it was in work when the process ended",
            topic, partition, offset,
        )  # fmt: skip
        error = CrashLoopError("the process ended without a word while it was in work; it wasn't called again")
        for note in (
            f"{topic}-{partition}@{offset} was the message in work when the process ended (a crash, or SIGKILL).",
            f"{record.count} such ends in a row had the same place in the partition, found at {_times(record.times)}.",
            f"The guard, crash_loop_limit={self._limit}, has therefore left it out; the call above isn't the one that crashed.",
        ):
            error.add_note(note)
        return error

    # --- the polling thread -----------------------------------------------------------------------------------------------------

    def delivered(self, chunks: Iterable[Chunk], ours: Mapping[TopicPartitionKey, Assignment]) -> None:
        """These are about to be handed out."""
        self.look(ours)
        reaches: dict[int, int] = {}
        for chunk in chunks:
            assignment = chunk.assignment
            if assignment is not None and assignment.position is not None:
                slot = self._calls.slots.get((assignment.topic, assignment.partition))
                if slot is not None:
                    reaches[slot] = assignment.position
        if reaches and self._calls.failed is None:
            try:
                self._notes.reached(reaches)
            except OSError as error:
                self._calls.failed = error

    def look(self, ours: Mapping[TopicPartitionKey, Assignment]) -> None:
        """Look at what is assigned: partitions that came or went, probations that are over."""
        if ours is not self._open:
            self._reassigned(ours)
        elif (self.probation or self._calls.failed is not None) and time.monotonic() >= self._due:
            self._judge()

    def resize(self, count: int) -> bool:
        """Take note of how many workers the operator wants; returns False during a probation: they come after it. Any thread."""
        self._workers = count
        return not self.probation

    def _reassigned(self, ours: Mapping[TopicPartitionKey, Assignment]) -> None:
        records, at = self._state.records, time.time()
        before, self._open = set(self._open), ours
        for key in before - set(ours):
            records[key].held = False
        new = set(ours) - before
        ended = [key for key in new if key in records and records[key].ended]
        for key in sorted(new):
            head = _head(ours[key])
            old = records.get(key)
            if old is None:
                records[key] = Record(head, held=True)
            elif key in self._assigned and old.head == head:
                old.held = True
            else:
                records[key] = old.assigned(head, self._limit, at)
            records[key].slot = self._calls.slots.setdefault(key, len(self._calls.slots))
        if before == set(ours):
            return  # the same partitions, one of them begun anew
        if not self._assigned and new:
            self._begin_notes()
        self._assigned |= new
        row = max((records[key].count for key in ended), default=0)
        if 0 < row < self._limit:
            what = "crash-loop guard: the last run ended without a word, %d in a row at the same place (crash_loop_limit=%d)"
            self._log.warning(what, row, self._limit)
        self._judge(save=True)

    def _begin_notes(self) -> None:
        self._state.life = secrets.randbits(62) + 1
        try:
            self._notes.begin(self._state.life)
        except OSError as error:
            self._calls.failed = error

    def _weigh(self) -> None:
        """Work out what concerns the workers; partitions that may come yet count, too."""
        records = self._state.records
        self._calls.condemned = frozenset((*key, offset) for key, record in records.items() for offset in record.condemned)
        self._calls.noting = any(record.suspicious(self._limit) for record in records.values())

    def _judge(self, *, save: bool = False) -> None:
        """End the probation of the partitions that have made it; begin or end that of the process."""
        self._due = time.monotonic() + LOOK_SECONDS
        records = self._state.records
        for key, assignment in self._open.items():
            record = records[key]
            if record.until is not None and self._passed(assignment, record.until):
                records[key] = Record(_committed(assignment), held=True, slot=record.slot)
                self._log.info("crash-loop guard: %s-%d is committed up to %d, its probation is over", *key, record.until)
                save = True
        on = sorted(key for key in self._open if records[key].until is not None)
        if save:
            self._weigh()
            self._save()
        if self._off:
            return
        if self._calls.failed is not None:
            self._give_up(f"its files can't be written: {self._calls.failed}")
        elif self.probation and self._pool.stuck_threads > 1:  # one worker is replaced once
            self._give_up("calls that ran out of time don't end, and one worker isn't enough then")
        elif on and not self.probation:
            self.probation = True
            self._pool.resize(1)
            self._announce(on)
        elif not on and self.probation:
            self._back_to_normal()
            self._log.info("crash-loop guard: probation is over, %d workers again", self._workers)

    def _announce(self, on: list[TopicPartitionKey]) -> None:
        named = []
        for key in on[:SHOWN]:
            record = self._state.records[key]
            where = f"{key[0]}-{key[1]}, first unfinished at {max(record.head, 0)}, until {record.until} is committed"
            named.append(f"{where} ({record.count} ends, found at {_times(record.times)})")
        more = f"; and {len(on) - SHOWN} more partitions" if len(on) > SHOWN else ""
        self._log.warning(
            "crash-loop guard: the process ended without a word again and again (crash_loop_limit=%d). Probation, one message at "
            "a time: %s%s. The message in work at the next such end goes to the dead letters",
            self._limit, "; ".join(named), more,
        )  # fmt: skip

    def _give_up(self, why: str) -> None:
        """Go on without the guard, which is better than no consumer; what was condemned stays so."""
        self._log.warning("crash-loop guard: off for the rest of this run: %s", why)
        self._off = True
        self.draining()
        if self.probation:
            self._back_to_normal()

    def _back_to_normal(self) -> None:
        self.probation = False
        self._pool.resize(self._workers)

    def _passed(self, assignment: Assignment, until: int) -> bool:
        progress = assignment.progress()
        finished = progress is not None and progress[1] >= until
        return finished and (self._shared_state.dev_mode.is_set() or _committed(assignment) >= until)

    def _save(self) -> None:
        try:
            self._state.save(self._path)
        except OSError as error:
            self._calls.failed = self._calls.failed or error

    # --- the end ----------------------------------------------------------------------------------------------------------------

    def draining(self) -> None:
        """The run was asked to end. If somebody loses patience and kills it, that is no crash, and proves nothing."""
        self._state.life = 0  # no notes belong to that
        if self._assigned:
            self._save()

    def end(self) -> None:
        """The run has ended as it should: nothing counts any more, but what is still on probation."""
        state = self._state
        left = {key: record for key, record in state.records.items() if record.until is not None}
        for key, record in list(left.items()):
            record.held = False
            assignment = self._open.get(key)
            if assignment is not None and record.until is not None and self._passed(assignment, record.until):
                del left[key]
        state.records = left
        try:
            if left:
                state.save(self._path)
            else:
                delete(self._path)
            self._notes.remove()
        except OSError as error:
            self._log.warning("crash-loop guard: %s couldn't be removed: %s", self._path, error)


def guard_of(shared_state: SharedState, pool: Pool) -> CrashLoopGuard | None:
    """Return the guard of a run; None where it isn't wanted, or nothing is committed: each run begins at the same place then."""
    wanted = shared_state.config.crash_loop_limit is not None and not shared_state.dev_mode.is_set()
    return CrashLoopGuard(shared_state, pool) if wanted else None


def _head(assignment: Assignment) -> int:
    """Return the first unfinished offset of an assignment of which nothing was handed out yet."""
    at = assignment.begins_at
    return _committed(assignment) if at is None or at < 0 else at  # below 0: the beginning or the end, by name


def _committed(assignment: Assignment) -> int:
    committed = assignment.view().committed
    return NOTHING_COMMITTED if committed is None else committed


def _times(times: list[float]) -> str:
    shown = ", ".join(datetime.fromtimestamp(at).astimezone().isoformat(timespec="seconds") for at in times[-SHOWN:])
    return f"…, {shown}" if len(times) > SHOWN else shown or "no time"
