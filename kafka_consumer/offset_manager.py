"""What may be committed, and committing it: the highest offset below which everything delivered is finished.

The arithmetic is in ``Assignment``; here is the thread that feeds it with results and talks to Kafka. Decisions are taken under
``_lock``; no I/O happens inside it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from kafka_consumer.assignment import Assignment, CommitPoint
from kafka_consumer.chunk import Completion
from kafka_consumer.client import Client
from kafka_consumer.commit_metadata import encode
from kafka_consumer.errors import RequestTimeoutError
from kafka_consumer.ports import Committable
from kafka_consumer.refusals import refusal
from kafka_consumer.shared_state import SharedState
from kafka_consumer.stats import LatencySamples
from kafka_consumer.types import TopicPartitionKey

TICK_SECONDS = 0.05  # how often results are taken in, at the least
DLQ_WAIT_SECONDS = 0.1  # how long a commit waits for dead letters to reach the disk
BACKUP_WAIT_SECONDS = 1.0  # how long a commit waits for a strict backup to reach the disk
FINAL_PAUSE_SECONDS = 0.2  # between attempts of the last commit
AFTER_REBALANCE_SECONDS = 0.5  # until a commit is tried again that came in the middle of a rebalance: it is over by then, mostly
DURING_REBALANCE = {
    KafkaError.REBALANCE_IN_PROGRESS, KafkaError.ILLEGAL_GENERATION, KafkaError.STALE_MEMBER_EPOCH,
}  # fmt: skip
HAND_FED_FINAL_SECONDS = 1.0


def find_max_contiguous(last_committed: int, processed: Iterable[int]) -> int:
    """Return the highest offset up to which everything after ``last_committed`` is in ``processed``, without a gap.

    Offsets are inclusive; ``last_committed`` itself when its successor is missing. Pure: what ``Assignment`` computes, for
    offsets without holes, in one line to compare it with.
    """
    highest = last_committed
    for offset in sorted(set(processed)):
        if offset <= highest:
            continue
        if offset != highest + 1:
            break
        highest = offset
    return highest


class Committer:
    """Takes results in, and commits at the interval.

    ``run()`` is the commit thread; the polling thread calls ``collect`` and ``commit_now`` too, while a partition is revoked.
    """

    def __init__(self, shared_state: SharedState, consumer: Committable, *, final_seconds: float | None = None) -> None:
        config = shared_state.config
        self._shared_state = shared_state
        self._consumer = consumer
        self._interval = config.commit_interval_seconds
        self._topic = config.topic
        self._final_seconds = config.shutdown_timeout_seconds if final_seconds is None else final_seconds
        self._results = shared_state.processed_queue
        self._letters = shared_state.dlq_queue
        self._counters = shared_state.counters
        self._lock = threading.Lock()  # guards the three below: the commit thread, and the polling thread on revocation
        self._assignments: dict[Assignment, None] = {}  # open ones that had a result, in the order of the first
        self._by_hand: dict[int, Assignment] = {}  # partition -> assignment never announced
        self._waiting_for_disk: list[tuple[Assignment, int]] = []  # failed messages: (assignment, sequence)
        self.poll_to_commit = LatencySamples()  # written by the thread that commits
        self.commit_seconds = LatencySamples()  # likewise: from posting a commit to its answer, a failure included
        self._with_metadata = config.commit_metadata
        self._strict = config.backup_mode == "strict"
        # Partitions in which a message that doesn't end holds back too much: the polling thread, which reads this, pauses them.
        # Replaced, never changed, by the thread that collects.
        self.held_back: frozenset[TopicPartitionKey] = frozenset()
        self._may_not = False  # a commit was refused for want of rights
        self._in_rebalance = False  # the last commit came in the middle of one; set by the thread that commits
        self.outside = False  # a replay outside the group: nothing is committed. Set before it begins
        self.committing = False  # a commit is under way; read by tests and the snapshot
        self.beat_at = time.monotonic()  # written by the commit thread at every turn; read by who asks whether it is alive
        self.clean = True  # False once the last commit failed: finished work stays uncommitted

    def run(self) -> None:
        """Commit at the interval until the consumer has stopped and every result is in; then once more."""
        tick = min(TICK_SECONDS, self._interval)
        due = time.monotonic() + self._interval
        while not self._results.ended:
            self.beat_at = time.monotonic()
            self._results.wait(max(0.001, min(tick, due - time.monotonic())))
            self.collect()
            if time.monotonic() >= due and not self._may_not:  # refused: the run ends, and tries once more at its end
                self._in_rebalance = False
                self.commit_now()
                due = time.monotonic() + (min(self._interval, AFTER_REBALANCE_SECONDS) if self._in_rebalance else self._interval)
        self._finish()

    # --- taking results in ------------------------------------------------------------------------------------------

    def collect(self) -> None:
        """Take in the results that have come, and the dead letters that have reached the disk."""
        with self._lock:
            items = self._results.take_all()
            self._announce([i for i in items if not isinstance(i, Completion)])
            finished: dict[Assignment, list[Sequence[int]]] = {}
            for item in items:
                if isinstance(item, Completion):
                    self._take(item, finished)
                else:
                    self._take_by_hand(*item)
            for assignment, sequences in finished.items():
                self._assignments[assignment] = None
                if assignment.completed(*sequences):
                    self._counters.processed += sum(map(len, sequences))
            self._recheck_disk()
            self._look_for_held_back()

    def _look_for_held_back(self) -> None:
        """Bound what a message that doesn't end holds back: polling goes on when half of it is free again."""
        limit = self._shared_state.config.max_uncommitted_span
        before, held = self.held_back, set()
        for assignment in self._assignments:
            key = (assignment.topic, assignment.partition)
            if not assignment.closed and assignment.held_back > (limit // 2 if key in before else limit):
                held.add(key)
        if held == before:
            return
        for topic, partition in sorted(held - before):
            self._log.warning(
                "%s-%d: polling is paused: a message isn't finished, and more than max_uncommitted_span=%d offsets after it wait "
                "for their commit", topic, partition, limit,
            )  # fmt: skip
        for topic, partition in sorted(before - held):
            self._log.info("%s-%d: polling goes on", topic, partition)
        self.held_back = frozenset(held)

    def _announce(self, by_hand: list[tuple[int, int, str]]) -> None:
        """The lowest offset in the first drain of a partition that was never announced is where it starts."""
        for partition, offset, _ in sorted(by_hand):
            if partition not in self._by_hand:
                assignment = Assignment.never_announced(self._topic, partition, offset)
                self._by_hand[partition] = assignment
                self._assignments[assignment] = None

    def _take(self, item: Completion, finished: dict[Assignment, list[Sequence[int]]]) -> None:
        """Sort a result in: what succeeded is recorded once for all of an assignment's results."""
        assignment, sequences, failed = item
        if assignment.closed:
            self._assignments.pop(assignment, None)
        elif failed:
            self._assignments[assignment] = None
            self._counters.failed += len(sequences)
            self._waiting_for_disk.extend((assignment, sequence) for sequence in sequences)
        elif assignment in finished:
            finished[assignment].append(sequences)
        else:
            finished[assignment] = [sequences]

    def _take_by_hand(self, partition: int, offset: int, outcome: str) -> None:
        assignment = self._by_hand[partition]
        if outcome == "failed":
            self._counters.failed += 1
            sequence = assignment.sequence_of(offset)
            if sequence is not None:
                self._waiting_for_disk.append((assignment, sequence))
        else:
            self._counters.processed += 1
            assignment.completed_offset(offset)

    def _recheck_disk(self) -> None:
        """Failed messages count as finished once their dead letter is on disk (or when they never had one: fed by hand)."""
        waiting = []
        for assignment, sequence in self._waiting_for_disk:
            if assignment.closed:
                continue
            offset = assignment.offset_of(sequence)
            if self._letters.is_pending(assignment.partition, offset):
                waiting.append((assignment, sequence))
            else:
                assignment.completed(range(sequence, sequence + 1))
        self._waiting_for_disk = waiting

    @property
    def waiting_for_disk(self) -> int:
        """Failed messages whose dead letter isn't on disk. Read without the lock: a length."""
        return len(self._waiting_for_disk)

    # --- committing ---------------------------------------------------------------------------------------------------

    def commit_now(self, only: Iterable[Assignment] | None = None) -> bool:
        """Commit what can be committed (of ``only`` these); returns False when some of it could not be.

        Dead letters that hold a commit up are asked to disk first, for a moment.
        """
        if self._waiting_for_disk:
            self._letters.flush(DLQ_WAIT_SECONDS)
            self.collect()
        queue = self._shared_state.backup_csv_queue
        if self._strict and queue.durable < queue.put_total:
            queue.flush(BACKUP_WAIT_SECONDS)
        durable = queue.durable if self._strict else None
        beyond = self._with_metadata
        with self._lock:
            candidates = list(self._assignments if only is None else only)
            for assignment in [a for a in self._assignments if a.closed]:
                del self._assignments[assignment]
        points = [point for assignment in candidates if (point := assignment.commit_point(durable, beyond=beyond)) is not None]
        if not points:
            return True
        if self.outside or self._shared_state.dev_mode.is_set():
            self._let_go(points)
            return True
        return self._commit(points)

    def _let_go(self, points: list[CommitPoint]) -> None:
        for point in points:
            point.assignment.settled(point, committed=False)
        if not self.outside:
            self._log.info("dev mode: not committed: %s", _show(points))

    def _commit(self, points: list[CommitPoint]) -> bool:
        offsets = [self._with_beyond(point) for point in points]
        self.committing = True
        begun = time.monotonic()
        try:
            answer = self._hand_over(points, offsets)
        except Exception as error:  # noqa: BLE001 - whatever the client raises: the loop goes on and tries again
            cause = error.args[0] if isinstance(error, KafkaException) and error.args else None
            if cause is not None:
                self._learn_from(cause)
            self._counters.commit_failures += 1
            self._log.log(_severity(cause), "commit failed, will be tried again: %s (%s)", _reason(error), _show(points))
            return False
        finally:
            self.committing = False
            self.commit_seconds.add(time.monotonic() - begun)
        refused = _refused(answer)
        at = time.monotonic()
        good = True
        for point in points:
            reason = refused.get((point.assignment.topic, point.assignment.partition))
            if reason is not None:
                good = False
                self._counters.commit_failures += 1
                self._learn_from(reason)
                self._log.log(_severity(reason), "commit of %s failed, will be tried again: %s", _show([point]), reason.str())
                continue
            messages, polled = point.assignment.settled(point, committed=True)
            self._counters.committed += messages
            for polled_at in polled:
                self.poll_to_commit.add(at - polled_at)
        return good

    def _with_beyond(self, point: CommitPoint) -> TopicPartition:
        topic, partition, offset = point.assignment.topic, point.assignment.partition, point.offset
        if self._with_metadata and point.beyond:
            return TopicPartition(topic, partition, offset, encode(offset, point.beyond))
        return TopicPartition(topic, partition, offset)

    def _learn_from(self, error: Any) -> None:
        """What a failed commit says about the ones to come: refused access ends the run, as it does where it meets a poll.

        After a rebalance the next one comes soon: until then, what is finished would be repeated if the process died.
        """
        self._in_rebalance = self._in_rebalance or _severity(error) == logging.WARNING
        reason = refusal(error)
        if reason is not None and not self._may_not:
            self._may_not = True
            self._log.critical("%s; stopping", reason)
            self._shared_state.fail(reason)
        self._shorten(error)

    def _shorten(self, error: Any) -> None:
        """A broker may be set to take less metadata (offset.metadata.max.bytes): then commits go without it."""
        code = getattr(error, "code", None)
        if self._with_metadata and callable(code) and code() == KafkaError.OFFSET_METADATA_TOO_LARGE:
            self._with_metadata = False
            self._log.warning(
                "the brokers don't take the metadata of our commits: from here on what is finished beyond a gap is repeated "
                "after a crash (raise offset.metadata.max.bytes to 4096)"
            )

    def _hand_over(self, points: list[CommitPoint], offsets: list[TopicPartition]) -> Any:
        if not isinstance(self._consumer, Client):
            return self._consumer.commit(offsets=offsets, asynchronous=False)
        owners = {(p.assignment.topic, p.assignment.partition): p.assignment for p in points}
        return self._consumer.commit(
            offsets=offsets,
            still_ours=lambda tp: not owners[tp.topic, tp.partition].closed,
            timeout=self._final_seconds,
        )

    def _finish(self) -> None:
        """The last commit: tried again until the deadline, since what isn't committed is repeated."""
        deadline = time.monotonic() + self._final_seconds
        while True:
            self.beat_at = time.monotonic()
            self.collect()
            if self.commit_now():
                break
            if self._may_not or time.monotonic() + FINAL_PAUSE_SECONDS >= deadline:
                self.clean = False
                break
            time.sleep(FINAL_PAUSE_SECONDS)
        if self._waiting_for_disk:
            self.clean = False
            count = len(self._waiting_for_disk)
            self._log.error("%d failed messages stay uncommitted: their dead letters aren't recorded", count)
        if not self.clean:
            self._log.error("finished work stays uncommitted and will be repeated after a restart")

    @property
    def _log(self) -> logging.Logger:
        return self._shared_state.logger


def commit_loop(shared_state: SharedState, consumer: Committable) -> None:
    """Commit what comes through ``processed_queue`` on ``consumer`` until the consumer has stopped and the queue is empty."""
    Committer(shared_state, consumer, final_seconds=HAND_FED_FINAL_SECONDS).run()


def _severity(error: Any) -> int:
    """Return how bad a failed commit is: during a rebalance it is the way of things, the partition's owner commits after it."""
    code = getattr(error, "code", None)
    return logging.WARNING if callable(code) and code() in DURING_REBALANCE else logging.ERROR


def _refused(answer: Any) -> dict[TopicPartitionKey, KafkaError]:
    """Return the partitions whose own commit failed, with the reason. A consumer that answers nothing has committed all."""
    if not isinstance(answer, list):
        return {}
    return {(tp.topic, tp.partition): tp.error for tp in answer if getattr(tp, "error", None) is not None}


def _reason(error: Exception) -> str:
    if isinstance(error, KafkaException) and error.args and hasattr(error.args[0], "str"):
        return str(error.args[0].str())
    if isinstance(error, RequestTimeoutError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _show(points: list[CommitPoint]) -> str:
    shown = ", ".join(f"{p.assignment.topic}-{p.assignment.partition}@{p.offset}" for p in points[:10])
    return shown if len(points) <= 10 else f"{shown} and {len(points) - 10} more partitions"
