"""Coroutine functions in a whole consumer on the fake broker: what is committed, what is on disk, what an operator sees."""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace

import pytest

from kafka_consumer import KafkaConsumer, coroutine_executor, loop_watch
from kafka_consumer.config import OPTIONS
from kafka_consumer.errors import ConfigError
from tests.fakes import FakeConsumer
from tests.helpers import eventually, make_config
from tests.integration.conftest import GROUP, TOPIC

ZERO = (TOPIC, 0)


@pytest.fixture(params=["asyncio", "uvloop"], autouse=True)
def default_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test here runs on each event loop."""
    kind: str = request.param
    if kind == "uvloop":
        pytest.importorskip("uvloop")
    monkeypatch.setitem(OPTIONS, "event_loop", replace(OPTIONS["event_loop"], default=kind))
    return kind


def numbers(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % n for n in range(start, start + count)]


class AsyncGate:
    """A coroutine function that holds each message until the gate is open; ``begun`` and ``done`` are the values, in order."""

    def __init__(self) -> None:
        self.begun: list[bytes | None] = []
        self.done: list[bytes | None] = []
        self.cancelled: list[bytes | None] = []
        self.open = threading.Event()
        self._passes = threading.Semaphore(0)

    async def __call__(self, value: bytes | None) -> None:
        self.begun.append(value)
        await self.hold_here(value)
        self.done.append(value)

    async def hold_here(self, value: bytes | None) -> None:
        try:
            while not self.open.is_set() and not self._passes.acquire(blocking=False):
                await asyncio.sleep(0.002)
        except asyncio.CancelledError:
            self.cancelled.append(value)
            raise

    def let_go(self, count: int = 1) -> None:
        self._passes.release(count)


@pytest.fixture
def async_gate() -> Iterator[AsyncGate]:
    found = AsyncGate()
    yield found
    found.open.set()


@pytest.fixture
def live(live, async_gate):
    """The consumers end before their fixture asks them to: whatever waits at the gate is let go first."""
    yield live
    async_gate.open.set()


def nothing_in_flight(life) -> bool:
    queue = life.state.processing_queue
    return (queue.qsize(), queue.taken, queue.in_flight_bytes) == (0, 0, 0)


# --- what becomes of messages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["thread", "asyncio"])
def test_everything_is_processed_once_committed_and_failures_are_on_disk(broker, live, executor):
    chance = random.Random(3)
    seen: Counter[bytes] = Counter()

    async def process(value: bytes) -> None:
        await asyncio.sleep(chance.random() * 0.003)
        seen[value] += 1
        if value.endswith(b"7"):
            raise ValueError(f"not {value.decode()}")

    for partition in range(3):
        broker.produce_many(TOPIC, partition, numbers(400, partition * 1000))
    life = live(processor_callable=process, worker_count=50, executor=executor)
    for partition in range(3):
        life.wait_committed(400, partition)
    assert life.end() == 0
    assert len(seen) == 1200
    assert set(seen.values()) == {1}
    rows = life.dead_letters()
    assert len(rows) == 120
    assert {row["error_type"] for row in rows} == {"ValueError"}
    assert len(life.backup()) == 1200
    assert nothing_in_flight(life)


def test_a_plain_function_with_asyncio_is_refused_in_one_line(tmp_path):
    with pytest.raises(ConfigError, match="executor: expected 'thread' or 'process' for a plain function, got 'asyncio'"):
        make_config(tmp_path, executor="asyncio")


def test_a_gap_holds_the_commit_and_nothing_else(broker, live, async_gate):
    async def process(value: bytes) -> None:
        if value == b"5":
            await async_gate(value)

    broker.produce_many(TOPIC, 0, numbers(300))
    life = live(processor_callable=process, worker_count=20)
    life.wait_committed(5)
    eventually(lambda: life.state.counters.processed == 299)
    assert life.committed() == 5
    async_gate.open.set()
    life.wait_committed(300)


def test_failures_are_tried_again_and_the_last_one_is_a_dead_letter_that_says_how_often(broker, live):
    calls: Counter[bytes] = Counter()

    async def process(value: bytes) -> None:
        calls[value] += 1
        await asyncio.sleep(0)
        if value == b"3" or calls[value] < 3:
            raise ValueError("not yet")

    broker.produce_many(TOPIC, 0, numbers(10))
    life = live(processor_callable=process, max_attempts=4, retry_backoff_seconds=0.01)
    life.wait_committed(10)
    assert calls == {value: 4 if value == b"3" else 3 for value in numbers(10)}
    assert [(row["offset"], row["attempts"]) for row in life.dead_letters()] == [("3", "4")]


@pytest.mark.parametrize("ordering", ["key", "partition"])
def test_order_is_kept_through_retries_with_many_in_flight(broker, live, ordering):
    chance = random.Random(5)
    done: dict[bytes, list[int]] = defaultdict(list)
    inside: Counter[bytes] = Counter()
    together: list[int] = []

    async def process(value: bytes) -> None:
        lane, _, number = value.partition(b"-")
        inside[lane] += 1
        together.append(inside.total())
        try:
            assert inside[lane] == 1, "expected one message of a lane at a time"
            await asyncio.sleep(chance.random() * 0.002)
            if chance.random() < 0.1:
                raise OSError("again")
            done[lane].append(int(number))
        finally:
            inside[lane] -= 1

    for number in range(300):
        lane = number % 3 if ordering == "partition" else number % 10
        broker.produce(TOPIC, number % 3 if ordering == "partition" else lane % 3, b"%d-%d" % (lane, number), key=b"%d" % lane)
    life = live(
        processor_callable=process, ordering=ordering, worker_count=30, max_attempts=100, retry_backoff_seconds=0.001,
        fatal_exceptions=(AssertionError,),
    )  # fmt: skip
    eventually(lambda: life.state.counters.processed == 300)
    assert all(each == sorted(each) for each in done.values())
    assert max(together) > 1
    assert life.dead_letters() == []


def test_a_message_over_its_time_is_cancelled_and_a_dead_letter_with_its_stack(broker, live, async_gate):
    async def process(value: bytes) -> None:
        if value == b"slow":
            await async_gate(value)

    broker.produce_many(TOPIC, 0, [b"a", b"slow", b"b"])
    life = live(processor_callable=process, processing_timeout=0.1, worker_count=2)
    life.wait_committed(3)
    assert async_gate.cancelled == [b"slow"]
    (row,) = life.dead_letters()
    assert (row["value"], row["error_type"]) == ("slow", "TimeoutError")
    assert "await self.hold_here(value)" in row["stack_trace"]
    assert life.state.counters.timed_out == 1


def test_a_call_that_never_ends_holds_nothing_up_not_even_the_end(broker, live, async_gate, monkeypatch):
    monkeypatch.setattr("kafka_consumer.event_loop.END_SECONDS", 0.1)

    async def process(value: bytes) -> None:
        while value == b"deaf" and not async_gate.open.is_set():
            try:
                await asyncio.sleep(0.005)
            except asyncio.CancelledError:
                continue

    broker.produce_many(TOPIC, 0, [b"deaf", *numbers(50)])
    life = live(processor_callable=process, processing_timeout=0.1, worker_count=1)
    life.wait_committed(51)
    assert life.consumer.snapshot().stuck_threads == 1
    assert life.end() == 0
    assert [row["value"] for row in life.dead_letters()] == ["deaf"]


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError(), MemoryError()])
def test_whatever_a_coroutine_raises_costs_one_message(broker, live, error):
    async def process(value: bytes) -> None:
        await asyncio.sleep(0)
        if value == b"7":
            raise error

    broker.produce_many(TOPIC, 0, numbers(30))
    life = live(processor_callable=process, worker_count=4)
    life.wait_committed(30)
    assert [(row["offset"], row["error_type"]) for row in life.dead_letters()] == [("7", type(error).__name__)]
    eventually(lambda: len(life.consumer._pool.alive()) == 4)
    assert life.end() == 0


# --- a blocked loop ---------------------------------------------------------------------------------------------------


def test_a_blocked_loop_is_told_and_polling_goes_on(broker, live, log, monkeypatch):
    monkeypatch.setattr(loop_watch, "BLOCKED_SECONDS", 0.2)
    release = threading.Event()

    async def process(value: bytes) -> None:
        if value == b"block":
            release.wait(20)

    broker.produce_many(TOPIC, 0, [b"a", b"block", b"b"])
    life = live(processor_callable=process, worker_count=3)
    try:
        eventually(lambda: any("the event loop is blocked" in line for line in log(logging.WARNING)))
        (line,) = [line for line in log(logging.WARNING) if "the event loop is blocked" in line]
        assert f"{TOPIC}-0@1" in line
        stack = eventually(lambda: [s for w in life.consumer.snapshot().workers if w.offset == 1 for s in w.stack], timeout=5)
        assert any("release.wait(20)" in call for call in stack)
        polled = life.state.counters.polled
        broker.produce_many(TOPIC, 1, numbers(5))
        eventually(lambda: life.state.counters.polled == polled + 5)
    finally:
        release.set()
    life.wait_committed(3)
    assert life.end() == 0
    assert any("the event loop moves again" in line for line in log(logging.WARNING))


def test_a_loop_that_is_blocked_for_ever_fails_the_run_and_the_message_is_not_met_again(broker, live, monkeypatch):
    monkeypatch.setattr(coroutine_executor, "GIVE_UP_SECONDS", 0.5)
    release, waiting = threading.Event(), threading.Event()

    async def process(value: bytes) -> None:
        if value == b"block":
            await asyncio.to_thread(waiting.wait, 10)
            release.wait(30)
        elif value == b"wait":
            waiting.set()
            await asyncio.sleep(0.2)

    broker.produce_many(TOPIC, 0, [b"block", b"a", b"wait", b"b"])
    life = live(processor_callable=process, worker_count=4, processing_timeout=0.3)
    try:
        eventually(life.dead_letters)
        assert life.end() == 1, "expected a failure: a message was begun and will be repeated"
        assert [row["value"] for row in life.dead_letters()] == ["block"]
        assert life.committed() == 2, "expected the commit to stop before what wasn't finished"
    finally:
        release.set()


# --- rebalances, draining, the operator -------------------------------------------------------------------------------


def test_a_revocation_waits_for_what_was_begun_commits_it_and_leaves_the_rest(broker, live, async_gate):
    broker.produce_many(TOPIC, 0, numbers(20))
    life = live(processor_callable=async_gate, worker_count=3, commit_interval_seconds=3600.0)
    eventually(lambda: len(async_gate.begun) == 3)
    life.client.revoke(ZERO)
    eventually(lambda: life.state.processing_queue.qsize() == 0)
    assert broker.owner(GROUP, TOPIC) is life.client, "expected the partition to be kept until its work is done"
    async_gate.let_go(3)

    eventually(lambda: broker.owner(GROUP, TOPIC) is None)
    assert life.committed() == 3
    assert len(async_gate.begun) == 3
    assert nothing_in_flight(life)

    async_gate.open.set()
    life.client.give_back()
    eventually(lambda: len(async_gate.done) == 20)
    assert life.end() == 0
    assert sorted(map(int, async_gate.done)) == list(range(20)), "expected each message exactly once"
    assert life.committed() == 20


def test_lost_partitions_are_dropped_and_what_was_begun_commits_nothing(broker, live, async_gate):
    broker.produce_many(TOPIC, 0, numbers(20))
    life = live(processor_callable=async_gate, worker_count=3)
    eventually(lambda: len(async_gate.begun) == 3)
    life.client.lose(ZERO)
    eventually(lambda: life.state.processing_queue.qsize() == 0)
    async_gate.open.set()
    eventually(lambda: nothing_in_flight(life))
    assert len(async_gate.done) == 3
    assert life.committed() is None


def test_a_stop_finishes_and_commits_all_that_was_polled(broker, live, async_gate):
    broker.produce_many(TOPIC, 0, numbers(500))
    life = live(processor_callable=async_gate, queue_size=50, worker_count=10)
    eventually(lambda: len(async_gate.begun) == 10)
    life.consumer.stop("enough")
    async_gate.open.set()
    assert life.wait_end() == 0
    assert life.committed() == len(async_gate.done) == life.state.counters.polled


def test_dev_mode_processes_and_commits_nothing(broker, live):
    seen: list[bytes] = []

    async def process(value: bytes) -> None:
        await asyncio.sleep(0)
        seen.append(value)

    broker.produce_many(TOPIC, 0, numbers(30))
    life = live(processor_callable=process, dev_mode=True)
    eventually(lambda: life.state.counters.processed == 30)
    assert life.end() == 0
    assert life.committed() is None


def test_an_operator_sees_each_slot_and_the_stack_of_a_slow_one_and_changes_their_number(broker, live, async_gate):
    broker.produce_many(TOPIC, 0, numbers(50))
    life = live(processor_callable=async_gate, worker_count=5)
    eventually(lambda: len(async_gate.begun) == 5)
    workers = life.consumer.snapshot().workers
    assert [(w.id, w.state, w.topic, w.partition) for w in workers] == [(n, "busy", TOPIC, 0) for n in range(5)]
    assert sorted(w.offset for w in workers) == list(range(5))
    slow = eventually(lambda: [w for w in life.consumer.snapshot().workers if w.stack], timeout=5)
    assert any("await self.hold_here(value)" in line for line in slow[0].stack)
    life.consumer.set_workers(8)
    eventually(lambda: len(async_gate.begun) == 8)
    life.consumer.set_workers(2)
    async_gate.open.set()
    life.wait_committed(50)
    eventually(lambda: [w.state for w in life.consumer.snapshot().workers] == ["idle"] * 2)
    assert life.end() == 0
    assert {w.state for w in life.consumer.snapshot().workers} == {"stopped"}


def test_a_thousand_in_flight_show_as_a_thousand_workers_and_end_in_an_instant(broker, live, async_gate):
    broker.produce_many(TOPIC, 0, numbers(1000))
    life = live(processor_callable=async_gate, worker_count=1000, queue_size=2000)
    eventually(lambda: len(async_gate.begun) == 1000)
    snapshot = life.consumer.snapshot()
    assert len(snapshot.workers) == 1000
    assert {w.state for w in snapshot.workers} == {"busy"}
    async_gate.open.set()
    life.wait_committed(1000)
    began = time.monotonic()
    assert life.end() == 0
    assert time.monotonic() - began < 5


def test_a_consumer_of_coroutines_that_was_never_started_can_be_looked_at(tmp_path, broker):
    async def process(value: bytes) -> None: ...

    consumer = KafkaConsumer(make_config(tmp_path, processor_callable=process), consumer=FakeConsumer(broker, GROUP))
    assert consumer.snapshot().workers == ()
    assert consumer.snapshot().stuck_threads == 0
