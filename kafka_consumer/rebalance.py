"""The partitions that are ours, and the callbacks of the group. Everything here runs in the polling thread, inside its polls.

A callback must not raise: that would drop a batch librdkafka has fetched. Nor may it wait for something that needs this very
thread; so while a revocation waits for workers, it serves the requests of others itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias

from confluent_kafka import OFFSET_BEGINNING, OFFSET_INVALID, OFFSET_STORED, KafkaException, TopicPartition

from kafka_consumer.assignment import Assignment
from kafka_consumer.commit_metadata import Ranges, decode
from kafka_consumer.errors import CommitMetadataError
from kafka_consumer.out_of_range import start_of_new_group
from kafka_consumer.shared_state import SharedState
from kafka_consumer.types import TopicPartitionKey

COMMITTED_SECONDS = 10.0  # how long a new assignment may wait for the group's committed offsets
REVOKE_SECONDS = 5.0  # how long a revocation waits for the messages in the workers' hands, at the most
STEP_SECONDS = 0.01
MEMBERSHIP_SECONDS = 1.0  # how often one that has heard nothing of the group looks whether that knows it
_METADATA = b"CGMDv2:"


Reaction: TypeAlias = Callable[[Any, list[TopicPartition]], None]


class Commits(Protocol):
    """What a revocation needs of the commit thread."""

    held_back: frozenset[TopicPartitionKey]

    def collect(self) -> None: ...
    def commit_now(self, only: Iterable[Assignment] | None = None) -> bool: ...


class Partitions:
    """What is assigned. ``open`` is replaced, never changed, so that snapshots may read it from other threads."""

    def __init__(self, shared_state: SharedState, commits: Commits | None, serve: Callable[[], None]) -> None:
        self._shared_state = shared_state
        self._commits = commits
        self._serve = serve
        self._queue = shared_state.processing_queue
        self.open: dict[TopicPartitionKey, Assignment] = {}
        self.changed = False  # partitions came or went since the polling loop last looked
        self.subscribed = False  # partitions come from the group; without it, each is taken as it appears
        self.ever_assigned = False
        self.member = False  # the group knows us, be it as one who waits for partitions; read by other threads
        self._looked_at = 0.0
        self.starts: Mapping[TopicPartitionKey, int] = {}  # where partitions begin when they are assigned for the first time
        self.only: frozenset[TopicPartitionKey] | None = None  # what is taken of that which is assigned; None: all of it
        self._begun: set[TopicPartitionKey] = set()
        self.drained = False  # no worker is left: a revocation has nothing to wait for

    # --- the polling loop ---------------------------------------------------------------------------------------------

    def of(self, key: TopicPartitionKey) -> Assignment | None:
        """Return a partition's assignment; None when the group has taken it away."""
        assignment = self.open.get(key)
        if assignment is None and not self.subscribed:
            assignment = self._open(key, None)
        return assignment

    def look_for_membership(self, consumer: Any) -> None:
        """Find out whether the group knows us: with ``group.protocol=consumer`` a member without partitions gets no callback."""
        now = time.monotonic()
        if self.member or not self.subscribed or now - self._looked_at < MEMBERSHIP_SECONDS:
            return
        self._looked_at = now
        # What transactions send to the brokers: a version, then the generation, which is -1 until the group has answered.
        ask = getattr(consumer, "consumer_group_metadata", None)
        metadata = ask() if ask is not None else None
        if isinstance(metadata, bytes) and metadata.startswith(_METADATA):
            generation = int.from_bytes(metadata[len(_METADATA) : len(_METADATA) + 4], "little", signed=True)
            self.member = generation >= 0

    def renew(self, key: TopicPartitionKey) -> Assignment:
        """Begin anew after the log jumped back (a seek, a recreated topic): what is in flight belongs to the past."""
        self._queue.drop(self.open[key])
        self.open[key].close()
        return self._open(key, None)

    def _open(self, key: TopicPartitionKey, committed: int | None, finished: Ranges = ()) -> Assignment:
        assignment = Assignment(*key, committed=committed, finished_before=finished)
        self.open = {**self.open, key: assignment}
        return assignment

    # --- the group's callbacks ------------------------------------------------------------------------------------------

    def on_assign(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        """Partitions were assigned."""
        self._safely(self._assigned, consumer, partitions)

    def on_revoke(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        """Partitions are about to be revoked: finish what is in the workers' hands, commit, and only then give them up."""
        self._safely(self._revoked, consumer, partitions)

    def on_lost(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        """Partitions are gone already, others may own them: nothing is committed."""
        self._safely(self._lost, consumer, partitions)

    def _safely(self, react: Reaction, consumer: Any, partitions: list[TopicPartition]) -> None:
        try:
            self._shared_state.counters.rebalances += 1
            self.changed = True
            react(consumer, partitions)
        except Exception as error:
            self._shared_state.logger.critical("a rebalance failed: %s", error, exc_info=True)
            self._shared_state.fail(f"a rebalance failed: {error}")

    def _assigned(self, consumer: Any, partitions: list[TopicPartition]) -> None:
        # A topic that doesn't exist is assigned, too: without a partition.
        self.ever_assigned = self.ever_assigned or bool(partitions)
        self.member = True
        committed, begins = self._committed(consumer, partitions)
        starts = begins | {key: at for key, at in self.starts.items() if key not in self._begun}
        finished = self._finished_before(consumer, {key: tp for key, tp in committed.items() if key not in starts})
        for tp in partitions:
            key = (tp.topic, tp.partition)
            old = self.open.get(key)
            if old is not None:
                self._give_up([old])
            found = committed.get(key)
            assignment = self._open(key, None if found is None else found.offset, finished.get(key, ()))
            assignment.begins_at = starts.get(key)
            self._begun.add(key)
        others = [] if self.only is None else [tp for tp in partitions if (tp.topic, tp.partition) not in self.only]
        if others or any((tp.topic, tp.partition) in starts for tp in partitions):
            begin = [
                TopicPartition(tp.topic, tp.partition, starts.get((tp.topic, tp.partition), OFFSET_STORED)) for tp in partitions
            ]
            try:
                consumer.incremental_assign(begin)
            except KafkaException:  # the group rebalances eagerly: there is only the whole assignment
                consumer.assign(begin)
        if others:  # before anything of them is fetched
            consumer.pause([TopicPartition(tp.topic, tp.partition) for tp in others])
        self._shared_state.logger.info("assigned: %s", _show(partitions))

    def assign(self, consumer: Any) -> None:
        """Take the partitions of ``starts``, outside the group."""
        self.ever_assigned = self.changed = self.member = True
        for key, at in self.starts.items():
            self._open(key, None).begins_at = at
        consumer.assign([TopicPartition(*key, at) for key, at in self.starts.items()])
        self._shared_state.logger.info("assigned, outside the group: %s", _show([TopicPartition(*key) for key in self.starts]))

    def go_on_at(self, consumer: Any, going: Mapping[Assignment, int]) -> None:
        """Have the consumer fetch from these offsets. A seek is refused where fetching has stopped, so they are assigned anew."""
        for assignment, at in going.items():
            assignment.begins_at = at
        try:
            consumer.incremental_unassign([TopicPartition(a.topic, a.partition) for a in going])
            consumer.incremental_assign([TopicPartition(a.topic, a.partition, at) for a, at in going.items()])
        except KafkaException:  # the group rebalances eagerly, or there is none: there is only the whole assignment
            consumer.assign([TopicPartition(a.topic, a.partition, _as_it_is(a)) for a in self.open.values()])
        self.changed = True  # so that pauses are told again

    def _finished_before(
        self, consumer: Any, committed: dict[TopicPartitionKey, TopicPartition]
    ) -> dict[TopicPartitionKey, Ranges]:
        """Return what earlier commits say is finished beyond them; what can't be trusted is left out, and processed again."""
        found: dict[TopicPartitionKey, Ranges] = {}
        if not self._shared_state.config.commit_metadata:
            return found
        deadline = time.monotonic() + COMMITTED_SECONDS
        for key, tp in committed.items():
            metadata = getattr(tp, "metadata", None)
            if not metadata:
                continue
            try:
                ranges = decode(metadata, tp.offset)
                self._check_within_log(consumer, tp, ranges[-1][1], max(0.1, deadline - time.monotonic()))
            except (CommitMetadataError, KafkaException) as error:
                self._shared_state.logger.warning(
                    "%s-%d: the metadata of the commit at %d isn't used, what it may tell of is processed again: %s",
                    *key, tp.offset, error,
                )  # fmt: skip
                continue
            found[key] = ranges
            count = sum(end - start for start, end in ranges)
            self._shared_state.logger.info("%s-%d: %d offsets beyond %d were finished before: skipped", *key, count, tp.offset)
        return found

    @staticmethod
    def _check_within_log(consumer: Any, tp: TopicPartition, end: int, timeout: float) -> None:
        """A log that ends earlier is another one: its topic was deleted and made again."""
        _, high = consumer.get_watermark_offsets(TopicPartition(tp.topic, tp.partition), timeout=timeout)
        if end > high:
            raise CommitMetadataError(f"it speaks of offsets up to {end}, the log ends at {high}")

    def _committed(
        self, consumer: Any, partitions: list[TopicPartition]
    ) -> tuple[dict[TopicPartitionKey, TopicPartition], dict[TopicPartitionKey, int]]:
        """Return what the group has committed; and where to begin in partitions of which it has committed nothing, if at once.

        Left to librdkafka those would be reported one by one (``out_of_range.py``), and fetching would begin with the first of
        them: the others then wait for its end, half a second.
        """
        if not partitions:
            return {}, {}
        try:
            answer = consumer.committed(partitions, timeout=COMMITTED_SECONDS)
        except KafkaException as error:
            self._shared_state.logger.warning("the group's committed offsets couldn't be read: %s", error)
            return {}, {}
        good = {(tp.topic, tp.partition): tp for tp in answer if tp.error is None}
        at_once = start_of_new_group(self._shared_state.config.kafka_options) == "earliest"
        begins = {key: OFFSET_BEGINNING for key, tp in good.items() if tp.offset == OFFSET_INVALID and at_once}
        return {key: tp for key, tp in good.items() if tp.offset >= 0}, begins

    def _revoked(self, _consumer: Any, partitions: list[TopicPartition]) -> None:
        leaving = self._ours(partitions)
        # What waits in the queue goes to the next owner; what workers have begun is finished and committed here.
        dropped = {assignment: self._queue.drop(assignment) for assignment in leaving}
        if self._commits is not None:
            deadline = time.monotonic() + REVOKE_SECONDS
            while True:
                self._serve()
                self._shared_state.dlq_queue.flush(0)
                self._commits.collect()
                for assignment in leaving:  # what fails now isn't tried again here
                    dropped[assignment] += self._queue.drop(assignment)
                busy = sum(max(0, assignment.unfinished - count) for assignment, count in dropped.items())
                if not busy or self.drained or time.monotonic() >= deadline:
                    break
                time.sleep(STEP_SECONDS)
            if busy and not self.drained:
                self._shared_state.logger.warning(
                    "%d messages of revoked partitions weren't finished within %g s: their next owner gets them",
                    busy, REVOKE_SECONDS,
                )  # fmt: skip
            self._commits.commit_now(leaving)
        self._give_up(leaving)
        if leaving:
            self._shared_state.logger.info("revoked: %s", _show(partitions))

    def _lost(self, _consumer: Any, partitions: list[TopicPartition]) -> None:
        self.member = False  # until the next assignment
        lost = self._ours(partitions)
        uncommitted = sum(assignment.uncommitted for assignment in lost)
        self._give_up(lost)
        self._shared_state.logger.warning("lost, without a commit: %s", _show(partitions))
        if uncommitted and not self._shared_state.running.is_set():
            # The last commit can't be made any more; a run that goes on would simply get its partitions back.
            reason = f"the membership was lost before the last commit: {uncommitted:,} messages will be repeated"
            self._shared_state.logger.error("%s", reason)
            self._shared_state.fail(reason)

    def _ours(self, partitions: list[TopicPartition]) -> list[Assignment]:
        return [a for tp in partitions if (a := self.open.get((tp.topic, tp.partition))) is not None]

    def _give_up(self, leaving: list[Assignment]) -> None:
        for assignment in leaving:
            assignment.close()
            self._queue.drop(assignment)
        self.open = {key: assignment for key, assignment in self.open.items() if assignment not in leaving}


def _as_it_is(assignment: Assignment) -> int:
    """Return the offset at which an assignment is to go on."""
    begin = OFFSET_STORED if assignment.begins_at is None else assignment.begins_at
    return begin if assignment.position is None else max(assignment.position, begin)


def _show(partitions: list[TopicPartition]) -> str:
    shown = ", ".join(f"{tp.topic}-{tp.partition}" for tp in partitions[:20])
    return (shown if len(partitions) <= 20 else f"{shown} and {len(partitions) - 20} more") or "no partitions"
