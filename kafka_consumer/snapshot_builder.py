"""Builds a ``Snapshot`` from what the parts expose, when somebody asks. Nothing is computed in between.

Consistency: each part gives a frozen copy of itself; the copies are taken one after the other, so figures of different parts
may be a few messages apart. None is torn.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from kafka_consumer.snapshot import (
    SNAPSHOT_VERSION,
    DeadLetterView,
    Latency,
    PartitionView,
    QueueView,
    Rates,
    Replay,
    Snapshot,
    Totals,
    WorkerView,
    sanitise,
    view_of,
)
from kafka_consumer.stats import RATE_SECONDS, Rate
from kafka_consumer.types import DeadLetter, PartitionStatus

if TYPE_CHECKING:
    from kafka_consumer.assignment import Assignment, AssignmentView
    from kafka_consumer.coroutine_executor import CoroutinePool
    from kafka_consumer.csv_writers import DeadLetterWriter
    from kafka_consumer.logs import LogTail
    from kafka_consumer.offset_manager import Committer
    from kafka_consumer.polling_thread import Poller
    from kafka_consumer.shared_state import SharedState
    from kafka_consumer.types import TopicPartitionKey
    from kafka_consumer.worker_pool import WorkerPool

PAYLOAD_CHARACTERS = 2000
TRACE_LINES = 40
SLOW_SECONDS = 1.0  # a worker that has held its message for as long is shown with its stack
SLOW_WORKERS = 20


class SnapshotBuilder:
    """Holds what a series of snapshots needs: their count, and the rates between them. The lock lets several threads ask."""

    def __init__(
        self,
        shared_state: SharedState,
        poller: Poller | None,
        pool: WorkerPool | CoroutinePool,
        committer: Committer,
        dead_letters: DeadLetterWriter,
        log_tail: LogTail,
    ) -> None:
        self._shared_state = shared_state
        self._poller = poller
        self._pool = pool
        self._committer = committer
        self._dead_letters = dead_letters
        self._log_tail = log_tail
        self._lock = threading.Lock()  # guards all below
        self._sequence = 0
        self._started = time.monotonic()
        self._rates = {name: Rate() for name in ("polled", "processed", "failed", "committed")}
        # What each partition had finished at the last snapshots, oldest first: their rates.
        self._finished: deque[tuple[float, dict[TopicPartitionKey, int]]] = deque()
        self._order: tuple[dict[TopicPartitionKey, Assignment], list[TopicPartitionKey]] = ({}, [])
        self._replay_rate = Rate()
        self._replay_start: dict[TopicPartitionKey, int] = {}
        self._letters: tuple[tuple[tuple[float, DeadLetter], ...], tuple[DeadLetterView, ...]] = ((), ())

    def build(self) -> Snapshot:
        """Return a snapshot of now."""
        with self._lock:
            return self._build()

    def _build(self) -> Snapshot:
        state, config = self._shared_state, self._shared_state.config
        now = time.monotonic()
        if self._poller is not None:
            self._poller.looked_at = now
        self._sequence += 1
        partitions = self._partitions(now)
        counters = state.counters
        return Snapshot(
            version=SNAPSHOT_VERSION,
            sequence=self._sequence,
            at=time.time(),
            phase=state.lifecycle.phase.value,
            pid=os.getpid(),
            group_id=sanitise(config.group_id),
            topic=sanitise(config.topic),
            uptime_seconds=now - self._started,
            dev_mode=state.dev_mode.is_set(),
            paused=self._poller is not None and self._poller.pauses.operator is None,
            queues=self._queues(),
            workers=self._workers(now),
            partitions=partitions,
            totals=Totals(
                polled=counters.polled,
                processed=counters.processed,
                failed=counters.failed,
                retried=counters.retried,
                committed=counters.committed,
                dlq_written=counters.dlq_written,
                backup_written=counters.backup_written,
                backup_skipped=counters.backup_skipped,
                timed_out=counters.timed_out,
                crashed_workers=counters.crashed_workers,
                commit_failures=counters.commit_failures,
                poll_errors=counters.poll_errors,
                rebalances=counters.rebalances,
                records_lost=counters.records_lost,
                dlq_published=counters.dlq_published,
                dlq_unpublished=counters.dlq_unpublished,
            ),
            rates=Rates(**{name: rate.update(getattr(counters, name), now) for name, rate in self._rates.items()}),
            latency=Latency(
                processing=state.processing_queue.pace.samples.percentiles(),
                poll_to_commit=self._committer.poll_to_commit.percentiles(),
            ),
            replay=self._replay(now),
            dlq_tail=self._dlq_tail(),
            log_tail=self._log_tail.tail(),
            stop_reason=None if state.lifecycle.stop_reason is None else sanitise(state.lifecycle.stop_reason),
            log_level=_level_name(state),
            stuck_threads=self._pool.stuck_threads,
            pause_reason=_pause_reason(self._poller),
        )

    def _queues(self) -> dict[str, QueueView]:
        state = self._shared_state
        size = state.config.queue_size
        return {
            "processing": QueueView(state.processing_queue.qsize(), size, state.processing_queue.in_flight_bytes),
            "processed": QueueView(len(state.processed_queue.queue), None, 0),
            "dlq": QueueView(state.dlq_queue.qsize(), None, state.dlq_queue.bytes),
            "backup": QueueView(state.backup_csv_queue.qsize(), size, state.backup_csv_queue.bytes),
        }

    def _workers(self, now: float) -> tuple[WorkerView, ...]:
        statuses = self._pool.statuses()
        slow = sorted((s.since, s.id) for s in statuses if s.offset is not None and now - s.since >= SLOW_SECONDS)
        stacks = self._pool.stacks({worker for _, worker in slow[:SLOW_WORKERS]}) if slow else {}
        return tuple([
            view_of(WorkerView, {
                "id": worker,
                "state": str(state),
                "topic": topic,
                "partition": partition,
                "offset": offset,
                "busy_seconds": 0.0 if offset is None else max(0.0, now - since),
                "processed": processed,
                "failed": failed,
                "stack": _calls(stacks[worker]) if worker in stacks else (),
            })
            for worker, state, topic, partition, offset, since, processed, failed in statuses
        ])  # fmt: skip

    def _partitions(self, now: float) -> tuple[PartitionView, ...]:
        poller = self._poller
        if poller is None:
            return ()
        assignments = poller.partitions.open
        if self._order[0] is not assignments:
            self._order = (assignments, sorted(assignments))
        marks, paused, targets = poller.watermarks, poller.pauses.operator, poller.targets.offsets
        broken = poller.breaker.reason is not None
        then, before = self._finished[0] if self._finished else (now, {})
        elapsed, wall = max(now - then, 1e-9), time.time()
        finished: dict[TopicPartitionKey, int] = {}
        views = []
        for key in self._order[1]:
            view = assignments[key].view()
            finished[key] = view.finished
            # A partition that came back begins at 0 again: no negative rate.
            rate = max(0, view.finished - before.get(key, view.finished)) / elapsed
            held = paused is None or key in paused
            views.append(_partition(key, view, marks.get(key), targets.get(key), rate, now, wall, held, broken))
        self._finished.append((now, finished))
        while len(self._finished) > 2 and now - self._finished[0][0] > RATE_SECONDS:
            self._finished.popleft()
        return tuple(views)

    def _replay(self, now: float) -> Replay | None:
        """Return progress towards the stop targets, in offsets from where each partition began."""
        if self._poller is None:
            return None
        done = total = 0
        for key, target in self._poller.targets.offsets.items():
            assignment = self._poller.partitions.open.get(key)
            progress = None if assignment is None else assignment.progress()
            if progress is None:
                continue
            start = self._replay_start.setdefault(key, progress[0])
            total += max(0, target + 1 - start)
            done += max(0, min(progress[1], target + 1) - start)
        if not self._replay_start:
            return None
        rate = self._replay_rate.update(done, now)
        return Replay(done, total, (total - done) / rate if rate > 0 else None)

    def _dlq_tail(self) -> tuple[DeadLetterView, ...]:
        letters = self._dead_letters.tail
        if letters is not self._letters[0]:
            self._letters = (letters, tuple(_letter(at, letter) for at, letter in letters))
        return self._letters[1]


def _partition(
    key: TopicPartitionKey,
    view: AssignmentView,
    high: int | None,
    stop_at: int | None,
    rate: float,
    now: float,
    wall: float,
    held: bool,
    broken: bool,
) -> PartitionView:
    position, committed, in_flight, _, oldest, timestamp = view
    if high is not None and high < 0:
        high = None
    if high is not None and position is not None and position > high:
        high = position  # a cached figure is never newer than what was delivered
    base = position if committed is None else committed
    goal = high if stop_at is None else stop_at + 1
    left = None if goal is None or base is None else max(0, goal - base)
    reached = stop_at is not None and base is not None and base > stop_at
    status = PartitionStatus.STOPPED if reached else PartitionStatus.PAUSED if held else PartitionStatus.RUNNING
    behind = timestamp is not None and high is not None and position is not None and position < high
    return view_of(PartitionView, {
        "topic": key[0],
        "partition": key[1],
        "state": str(status),
        "position": position,
        "committed": committed,
        "high_watermark": high,
        "lag": _lag(high, base),
        "in_flight": in_flight,
        "stop_at": stop_at,
        "rate": rate,
        "eta_seconds": 0.0 if left == 0 else left / rate if left is not None and rate > 0 else None,
        "oldest_seconds": None if oldest is None else max(0.0, now - oldest),
        "time_lag_seconds": max(0.0, wall - timestamp / 1000) if behind and timestamp is not None else None,
        "note": ("too many messages fail" if broken else "paused by the operator") if held else "",
    })  # fmt: skip


def _lag(high: int | None, base: int | None) -> int | None:
    if high is None:
        return None
    if base is None:
        return 0 if high == 0 else None
    return max(0, high - base)


def _letter(at: float, letter: DeadLetter) -> DeadLetterView:
    return DeadLetterView(
        at=at,
        topic=sanitise(letter.topic),
        partition=letter.partition,
        offset=letter.offset,
        key=_payload(letter.key),
        value=_payload(letter.value),
        headers=tuple((sanitise(name, 200), _payload(value) or "") for name, value in letter.headers[:50]),
        error_type=sanitise(letter.error_type, 200),
        error_message=sanitise(letter.error_message),
        stack_trace=tuple(sanitise(line, 300) for line in letter.stack_trace.splitlines()[-TRACE_LINES:]),
        attempts=letter.attempts,
        worker_id=letter.worker_id,
    )


def _payload(data: bytes | None) -> str | None:
    if data is None:
        return None
    return sanitise(data[: PAYLOAD_CHARACTERS * 4].decode("utf-8", "backslashreplace"), PAYLOAD_CHARACTERS)


def _calls(stack: list[str]) -> tuple[str, ...]:
    return tuple(sanitise(line, 300) for call in stack[-TRACE_LINES // 2 :] for line in call.splitlines())


def _pause_reason(poller: Poller | None) -> str | None:
    reason = None if poller is None else poller.breaker.reason
    return None if reason is None else sanitise(reason)


def _level_name(state: SharedState) -> str:
    return logging.getLevelName(state.logger.level)
