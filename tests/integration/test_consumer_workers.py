"""What becomes of a message in a worker's hands: retries, order, timeouts, crashes; in a whole consumer on the fake broker."""

from __future__ import annotations

import itertools
import logging
import random
import threading
import time
from collections import defaultdict

import pytest

from tests.helpers import eventually
from tests.integration.conftest import TOPIC


def numbers(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % n for n in range(start, start + count)]


class Flaky:
    """Fails the first ``failures`` calls for each value; ``calls`` are the times of the calls, by value."""

    def __init__(self, failures: int, error: type[Exception] = ValueError) -> None:
        self.failures = failures
        self.error = error
        self.calls: dict[bytes | None, list[float]] = defaultdict(list)

    def __call__(self, value: bytes | None) -> None:
        self.calls[value].append(time.monotonic())
        if len(self.calls[value]) <= self.failures:
            raise self.error("not yet")


# --- retries ----------------------------------------------------------------------------------------------------------


def test_a_failure_is_tried_again_until_it_succeeds(broker, live):
    processor = Flaky(failures=2)
    broker.produce_many(TOPIC, 0, numbers(10))
    life = live(processor_callable=processor, max_attempts=3, retry_backoff_seconds=0.01)
    life.wait_committed(10)
    assert {len(calls) for calls in processor.calls.values()} == {3}
    assert life.state.counters.retried == 20
    assert (life.state.counters.processed, life.state.counters.failed) == (10, 0)
    assert life.end() == 0
    assert life.dead_letters() == []


def test_after_the_last_attempt_a_message_is_a_dead_letter_that_says_how_often_it_was_tried(broker, live):
    processor = Flaky(failures=99)
    broker.produce(TOPIC, 0, b"x")
    life = live(processor_callable=processor, max_attempts=4, retry_backoff_seconds=0.01)
    life.wait_committed(1)
    assert [row["attempts"] for row in life.dead_letters()] == ["4"]
    assert len(processor.calls[b"x"]) == 4


def test_the_pause_before_another_attempt_doubles_up_to_its_limit(broker, live):
    processor = Flaky(failures=99)
    broker.produce(TOPIC, 0, b"x")
    life = live(processor_callable=processor, max_attempts=5, retry_backoff_seconds=0.05, retry_backoff_max_seconds=0.1)
    life.wait_committed(1)
    calls = processor.calls[b"x"]
    pauses = [later - earlier for earlier, later in itertools.pairwise(calls)]
    # 0.05, then 0.1 thrice, each within a fifth; a busy machine only ever makes them longer.
    assert [pause >= least for pause, least in zip(pauses, (0.04, 0.08, 0.08, 0.08), strict=True)] == [True] * 4
    assert sum(pauses) < 2


def test_a_fatal_exception_isn_t_tried_again(broker, live):
    processor = Flaky(failures=99, error=KeyError)
    broker.produce(TOPIC, 0, b"x")
    life = live(processor_callable=processor, max_attempts=5, retry_backoff_seconds=0.01, fatal_exceptions=(LookupError,))
    life.wait_committed(1)
    assert [(row["attempts"], row["error_type"]) for row in life.dead_letters()] == [("1", "KeyError")]


def test_no_worker_sleeps_for_a_message_that_waits_for_its_next_attempt(broker, live):
    processor = Flaky(failures=0)

    def one_fails(value: bytes | None) -> None:
        if value == b"0":
            raise ValueError("not today")
        processor(value)

    broker.produce_many(TOPIC, 0, numbers(200))
    life = live(processor_callable=one_fails, worker_count=1, max_attempts=2, retry_backoff_seconds=3600.0)
    eventually(lambda: len(processor.calls) == 199)
    assert life.committed() is None, "expected the gap to hold the commit"
    began = time.monotonic()
    assert life.end() == 0, "expected draining not to wait for the pause"
    assert time.monotonic() - began < 5
    assert life.committed() == 200
    assert [row["attempts"] for row in life.dead_letters()] == ["2"]


def test_a_slow_message_doesn_t_hold_up_those_behind_it(broker, live, gate):
    done: list[bytes | None] = []

    def processor(value: bytes | None) -> None:
        if value == b"500":
            gate(value)
        done.append(value)

    broker.produce_many(TOPIC, 0, numbers(1000))
    life = live(processor_callable=processor, worker_count=2)
    eventually(lambda: len(done) == 999)
    life.wait_committed(500)
    gate.open.set()
    life.wait_committed(1000)
    assert len(done) == 1000


# --- order ------------------------------------------------------------------------------------------------------------


class Ordered:
    """Fails now and then; records what succeeded in which order, and whether two of the same lane were in work at once."""

    def __init__(self, lane_of) -> None:
        self.lane_of = lane_of
        self.random = random.Random(7)
        self.lock = threading.Lock()
        self.in_work: set[bytes] = set()
        self.overlaps: list[bytes] = []
        self.done: dict[bytes, list[int]] = defaultdict(list)

    def __call__(self, value: bytes) -> None:
        lane, number = self.lane_of(value), int(value.split(b":")[1])
        with self.lock:
            if lane in self.in_work:
                self.overlaps.append(value)
            self.in_work.add(lane)
            fails = self.random.random() < 0.2
        time.sleep(0.0002)
        with self.lock:
            self.in_work.discard(lane)
            if not fails:
                self.done[lane].append(number)
        if fails:
            raise ValueError("try again")


@pytest.mark.parametrize("ordering", ["key", "partition"])
def test_order_is_kept_through_retries_with_one_message_of_a_lane_in_work_at_a_time(broker, live, ordering):
    processor = Ordered(lane_of=lambda value: value.split(b":")[0])
    lanes = 15 if ordering == "key" else 3
    for number in range(20):
        for lane in range(lanes):
            broker.produce(TOPIC, lane % 3, b"lane-%d:%d" % (lane, number), key=b"key-%d" % lane)
    life = live(
        processor_callable=processor, ordering=ordering, worker_count=8, max_attempts=1000, retry_backoff_seconds=0.001,
        retry_backoff_max_seconds=0.002,
    )  # fmt: skip
    for partition in range(3):
        life.wait_committed(20 * lanes // 3, partition)
    assert processor.overlaps == []
    assert len(processor.done) == lanes
    assert all(done == list(range(20)) for done in processor.done.values())
    assert life.state.counters.retried > 0


def test_lanes_don_t_wait_for_one_another(broker, live, gate):
    done: list[bytes | None] = []

    def processor(value: bytes | None) -> None:
        if value == b"slow":
            gate(value)
        done.append(value)

    broker.produce(TOPIC, 0, b"slow", key=b"a")
    broker.produce(TOPIC, 0, b"behind", key=b"a")
    for number in range(20):
        broker.produce(TOPIC, 0, b"%d" % number, key=b"b")
    broker.produce(TOPIC, 0, b"keyless")
    life = live(processor_callable=processor, ordering="key", worker_count=2)
    eventually(lambda: len(done) == 21)
    assert b"behind" not in done
    gate.open.set()
    life.wait_committed(23)
    assert done.index(b"slow") < done.index(b"behind")


def test_the_same_key_in_two_partitions_is_two_lanes(broker, live, gate):
    broker.produce(TOPIC, 0, b"0", key=b"k")
    broker.produce(TOPIC, 1, b"1", key=b"k")
    live(processor_callable=gate, ordering="key", worker_count=2)
    eventually(lambda: len(gate.begun) == 2)


def test_a_timeout_in_a_lane_lets_the_next_of_the_lane_go_on(broker, live, gate):
    done: list[bytes | None] = []

    def processor(value: bytes | None) -> None:
        if value == b"0":
            gate(value)
        done.append(value)

    broker.produce_many(TOPIC, 0, numbers(10))
    life = live(processor_callable=processor, ordering="partition", worker_count=2, processing_timeout=0.05)
    life.wait_committed(10)
    assert done == numbers(9, 1)


# --- timeouts ---------------------------------------------------------------------------------------------------------


def test_stuck_threads_are_replaced_and_their_late_results_dropped(broker, live, gate):
    def processor(value: bytes | None) -> None:
        if value in {b"3", b"4"}:
            gate(value)

    broker.produce_many(TOPIC, 0, numbers(50))
    life = live(processor_callable=processor, worker_count=2, processing_timeout=0.05)
    life.wait_committed(50)
    assert sorted(int(row["offset"]) for row in life.dead_letters()) == [3, 4]
    snapshot = life.consumer.snapshot()
    assert snapshot.stuck_threads == 2
    assert snapshot.totals.timed_out == 2
    assert sorted((w.state, w.offset) for w in snapshot.workers if w.state == "stuck") == [("stuck", 3), ("stuck", 4)]
    assert len([w for w in snapshot.workers if w.state in {"idle", "busy"}]) == 2, "expected the pool to keep its strength"

    gate.open.set()
    eventually(lambda: sorted(gate.done) == [b"3", b"4"])
    eventually(lambda: life.consumer.snapshot().stuck_threads == 0)
    assert life.end() == 0
    assert (life.state.counters.processed, life.state.counters.failed) == (48, 2)
    assert sorted(int(row["offset"]) for row in life.dead_letters()) == [3, 4]


def test_stuck_threads_don_t_hold_the_end_up(broker, live, gate):
    broker.produce(TOPIC, 0, b"x")
    life = live(processor_callable=gate, processing_timeout=0.05)
    life.wait_committed(1)
    assert life.end() == 0
    assert gate.done == []


def test_the_number_of_stuck_threads_is_bounded_and_work_goes_on_when_they_return(broker, live, gate, log):
    broker.produce_many(TOPIC, 0, numbers(20))
    life = live(processor_callable=gate, worker_count=2, processing_timeout=0.03)
    eventually(lambda: any("no further replacement" in m for m in log(logging.ERROR)))
    eventually(lambda: life.consumer.snapshot().stuck_threads == len(gate.begun))
    stuck = len(gate.begun)
    assert stuck <= 4
    life.state.shutdown_event.wait(0.2)  # several timeouts
    assert len(gate.begun) == stuck
    gate.open.set()
    life.wait_committed(20)
    assert life.state.counters.failed == stuck
    assert life.end() == 0


def test_a_timeout_isn_t_tried_again(broker, live, gate):
    broker.produce(TOPIC, 0, b"x")
    life = live(processor_callable=gate, processing_timeout=0.05, max_attempts=5, retry_backoff_seconds=0.01)
    life.wait_committed(1)
    assert [row["attempts"] for row in life.dead_letters()] == ["1"]
    assert len(gate.begun) == 1


def test_a_timeout_error_of_the_processor_itself_is_an_ordinary_failure(broker, live):
    processor = Flaky(failures=1, error=TimeoutError)
    broker.produce(TOPIC, 0, b"x")
    life = live(processor_callable=processor, processing_timeout=5.0, max_attempts=2, retry_backoff_seconds=0.01)
    life.wait_committed(1)
    assert life.state.counters.processed == 1
    assert life.state.counters.timed_out == 0


# --- crashes ----------------------------------------------------------------------------------------------------------


def crash_on_three(value: bytes | None) -> None:
    if value == b"3":
        raise SystemExit("the user's function wants out")


def test_a_worker_that_crashes_is_replaced_and_its_message_isn_t_lost(broker, live, log):
    broker.produce_many(TOPIC, 0, numbers(50))
    life = live(processor_callable=crash_on_three, worker_count=2)
    life.wait_committed(50)
    assert [(row["offset"], row["error_type"]) for row in life.dead_letters()] == [("3", "SystemExit")]
    [line] = log(logging.CRITICAL)
    assert "crashed at test-topic-0@3: SystemExit" in line
    eventually(lambda: len(life.consumer._pool.alive()) == 2)
    snapshot = life.consumer.snapshot()
    assert snapshot.totals.crashed_workers == 1
    assert [w.state for w in snapshot.workers].count("crashed") == 1
    assert life.end() == 0


def test_a_message_that_can_t_be_read_crashes_the_worker_and_is_recorded(broker, live, monkeypatch):
    broker.produce_many(TOPIC, 0, numbers(10))
    broken = broker.logs[TOPIC, 0].records[4]

    def value() -> bytes:
        raise RuntimeError("broken message")

    monkeypatch.setattr(broken, "value", value)
    life = live(backup_mode="off")
    life.wait_committed(10)
    [row] = life.dead_letters()
    assert (row["offset"], row["error_type"], row["error_message"]) == ("4", "RuntimeError", "broken message")
    assert row["value"] == "\\N"


@pytest.mark.parametrize("worker_count", [1, 4])
def test_crashes_while_draining_lose_nothing_even_when_every_message_crashes(broker, live, gate, worker_count):
    def processor(value: bytes | None) -> None:
        gate(value)
        raise SystemExit(1)

    broker.produce_many(TOPIC, 0, numbers(30))
    life = live(processor_callable=processor, worker_count=worker_count)
    eventually(lambda: len(gate.begun) == worker_count and life.state.counters.polled == 30)
    life.consumer.stop()
    gate.open.set()
    assert life.wait_end() == 0
    assert sorted(int(row["offset"]) for row in life.dead_letters()) == list(range(30))
    assert life.committed() == 30


def test_the_end_waits_for_the_replacement_of_a_crashed_worker(broker, live, gate, monkeypatch):
    """Between a crash and the replacement no worker is alive; that isn't the end while messages wait."""

    def processor(value: bytes | None) -> None:
        gate(value)
        raise SystemExit(1)

    broker.produce_many(TOPIC, 0, numbers(5))
    life = live(start=False, processor_callable=processor, worker_count=1)
    supervisor = life.consumer._pool._supervisor
    replace = supervisor._replace

    def replace_late(worker) -> None:
        time.sleep(0.05)
        replace(worker)

    monkeypatch.setattr(supervisor, "_replace", replace_late)
    life.consumer.start()
    eventually(lambda: gate.begun and life.state.counters.polled == 5)
    life.consumer.stop()
    gate.open.set()
    assert life.wait_end() == 0
    assert life.committed() == 5


def test_a_stuck_worker_that_crashes_at_last_isn_t_replaced_twice(broker, live, gate, log):
    def processor(value: bytes | None) -> None:
        if value == b"0":
            gate(value)
            raise SystemExit(1)

    broker.produce_many(TOPIC, 0, numbers(10))
    life = live(processor_callable=processor, worker_count=2, processing_timeout=0.05)
    life.wait_committed(10)
    gate.open.set()
    eventually(lambda: any("crashed" in m for m in log(logging.CRITICAL)))
    eventually(lambda: life.state.counters.crashed_workers == 1)
    life.state.shutdown_event.wait(0.1)  # two looks of the supervisor
    assert len(life.consumer._pool.alive()) == 2
    assert [row["error_type"] for row in life.dead_letters()] == ["TimeoutError"]
