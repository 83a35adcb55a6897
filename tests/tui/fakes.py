"""A frozen clock, a feed that does as it is told, and snapshots of many kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from kafka_consumer.snapshot import (
    DeadLetterView,
    Latency,
    LogView,
    PartitionView,
    Percentiles,
    QueueView,
    Rates,
    Replay,
    Snapshot,
    Totals,
    WorkerView,
)
from tui.clock import Clock
from tui.commands import CommandHandle, CommandState
from tui.feed import FeedBase

START = 1_785_582_134.0
"""2026-08-01 11:02:14 UTC."""


class FrozenClock(Clock):
    """A clock that moves when a test moves it."""

    def __init__(self) -> None:
        self.now = START
        self.ticks = 1000.0

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.ticks

    def local(self, at: float) -> datetime:
        return datetime.fromtimestamp(at, UTC)

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.ticks += seconds


class FakeFeed(FeedBase):
    """A feed whose snapshot and answers a test sets. ``answers`` maps a command to how it ends; without one it waits."""

    def __init__(
        self,
        snapshot: Snapshot | None = None,
        *,
        role: str = "in-process",
        read_only: bool = False,
        clock: FrozenClock | None = None,
    ) -> None:
        self.frozen_clock = clock or FrozenClock()
        super().__init__(read_only=read_only, clock=self.frozen_clock, who="olga@pts/3")
        self.role = role
        self.source = "/run/kc/orders.sock" if role == "attached" else "pid 4121"
        self.snapshot = snapshot
        self.problem: str | None = None
        self.age: float | None = 0.4 if snapshot is not None else None
        self.answers: dict[str, tuple[CommandState, str]] = {}
        self.sent: list[CommandHandle] = []
        self.looks = 0
        self.closed = False
        self.stack: tuple[str, ...] | None = None

    def start(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def latest(self) -> Snapshot | None:
        self.looks += 1
        return self.snapshot

    def worker_stack(self, worker_id: int) -> tuple[str, ...] | None:
        return self.stack

    def publish(self, snapshot: Snapshot) -> None:
        """Make a snapshot the latest one, with the next sequence number."""
        before = self.snapshot.sequence if self.snapshot else 0
        self.snapshot = replace(snapshot, sequence=before + 1)
        self.age = 0.0

    def _send(self, handle: CommandHandle) -> None:
        self.sent.append(handle)
        answer = self.answers.get(handle.command)
        if answer is not None:
            handle.advance(CommandState.ACCEPTED)
            handle.advance(*answer)

    def commands(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Return the commands that were sent and their arguments."""
        return [(handle.command, handle.args) for handle in self.sent]


def partition(number: int, **changes: Any) -> PartitionView:
    """Return a partition that runs, with lag; ``changes`` replace fields."""
    position = 18_220_114 - 1000 * number
    row = PartitionView(
        topic="orders", partition=number, state="running", position=position, committed=position - 112,
        high_watermark=position + 780_000 - 60_000 * number, lag=780_112 - 60_000 * number, in_flight=41, stop_at=19_000_000,
        rate=410.0, eta_seconds=1860.0, oldest_seconds=1.2, time_lag_seconds=720.0, note="",
    )  # fmt: skip
    return replace(row, **changes)


def worker(number: int, **changes: Any) -> WorkerView:
    """Return a worker that is busy; ``changes`` replace fields."""
    row = WorkerView(
        id=number, state="busy", topic="orders", partition=number % 12, offset=18_220_031 + number,
        busy_seconds=0.1 + number * 0.05, processed=12_000 + number, failed=number % 3,
    )  # fmt: skip
    return replace(row, **changes)


STACK = (
    'File "kafka_consumer/worker.py", line 212, in _call', "  self._function(value)",
    'File "shop/orders.py", line 41, in process', "  stock = warehouse.reserve(order)",
    'File "shop/warehouse.py", line 88, in reserve', "  return self._session.post(url, json=body)",
)  # fmt: skip
"""Where a slow worker is."""


def idle(number: int) -> WorkerView:
    """Return a worker without a message."""
    return worker(number, state="idle", topic=None, partition=None, offset=None, busy_seconds=0.0)


def dead_letter(number: int, **changes: Any) -> DeadLetterView:
    """Return a dead letter with everything."""
    row = DeadLetterView(
        at=START - 60 + number, topic="orders", partition=1, offset=17_989_921 + number, key=f"customer-{number}",
        value='{"order": 4711, "qty": -3}', headers=(("trace-id", "ab12"), ("source", "web")), error_type="ValidationError",
        error_message=f"qty < 0 in line {number}", stack_trace=(
            "Traceback (most recent call last):", '  File "shop/orders.py", line 41, in process', "    check(order)",
            "shop.errors.ValidationError: qty < 0",
        ), attempts=3, worker_id=7,
    )  # fmt: skip
    return replace(row, **changes)


def log(number: int, level: str = "INFO", message: str | None = None) -> LogView:
    """Return a log record."""
    return LogView(
        START - 30 + number, level, message if message is not None else f"committed 4,200 offsets of 12 partitions ({number})"
    )


def make_snapshot(**changes: Any) -> Snapshot:
    """Return a healthy replay with 12 partitions, 32 workers and a few dead letters; ``changes`` replace fields."""
    workers = (
        *(worker(number) for number in range(1, 11)),
        worker(11, state="stuck", offset=99_120, partition=3, busy_seconds=47.0, stack=STACK),
        *(worker(number) for number in range(12, 31)),
        idle(31),
        idle(32),
    )
    paused = partition(1, state="paused", position=17_990_000, committed=17_990_000, high_watermark=19_000_000, lag=1_010_000,
                       rate=0.0, eta_seconds=None, in_flight=0, oldest_seconds=None, note="by operator, 4m")  # fmt: skip
    found = Snapshot(
        version=1, sequence=1, at=START, phase="running", pid=4121, group_id="billing", topic="orders", uptime_seconds=266_520.0,
        dev_mode=False, paused=False,
        queues={
            "processing": QueueView(812, 2000, 1_662_976), "processed": QueueView(0, None, 0), "dlq": QueueView(0, None, 0),
            "backup": QueueView(12, 1000, 24_576),
        },
        workers=workers,
        partitions=(partition(0), paused, *(partition(number) for number in range(2, 12))),
        totals=Totals(polled=1_912_000, processed=1_911_700, failed=88, retried=12, committed=1_911_500, dlq_written=14,
                      backup_written=1_911_988, backup_skipped=0, timed_out=0, crashed_workers=0, commit_failures=0,
                      poll_errors=0, rebalances=2),
        rates=Rates(polled=4230.0, processed=4211.0, failed=0.9, committed=4200.0),
        latency=Latency(Percentiles(0.004, 0.031, 0.084), Percentiles(0.9, 2.1, 4.8)),
        replay=Replay(1_910_000, 3_020_000, 252.0),
        dlq_tail=tuple(dead_letter(number) for number in range(14)),
        log_tail=(
            *(log(number) for number in range(20)),
            log(20, "WARNING", "slow processor: worker 11 has held orders-3@99120 for 47 s"),
            log(21, "ERROR", "broker 2 is down; trying again in 4 s"),
        ),
        stop_reason=None, log_level="INFO", stuck_threads=0,
    )  # fmt: skip
    return replace(found, **changes)


def healthy(**changes: Any) -> Snapshot:
    """Return a snapshot without a stuck worker and without a paused partition: nothing to complain about."""
    workers = tuple(worker(number) for number in range(1, 9))
    return make_snapshot(workers=workers, partitions=tuple(partition(number) for number in range(4)), **changes)


def large(partitions: int = 1000, workers: int = 1000, step: int = 0, **changes: Any) -> Snapshot:
    """Return a large snapshot whose every figure depends on ``step``."""
    return make_snapshot(
        at=START + step * 0.5,
        sequence=step + 1,
        partitions=tuple(
            partition(number, position=18_000_000 + step * 37 + number, committed=17_999_000 + step * 37,
                      lag=(number * 7919 + step * 31) % 90_000,
                      rate=float((number * 31 + step) % 900), in_flight=(number + step) % 60)
            for number in range(partitions)
        ),
        workers=tuple(worker(number, offset=18_000_000 + step * 11 + number, busy_seconds=((number + step) % 40) * 0.1,
                             processed=12_000 + step * 3 + number) for number in range(1, workers + 1)),
        totals=replace(make_snapshot().totals, processed=1_911_700 + 2100 * step),
        **changes,
    )  # fmt: skip
