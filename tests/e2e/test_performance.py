"""How fast, how soon, and in how much memory; the floors are far below what is usual, so that a busy machine passes.

Each test prints what it measured (``pytest -s``, or ``--junit-xml`` for the properties).
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.helpers import background, eventually
from tests.kafka import Kafka
from tests.runs import Command, Ledger, Note, Run, numbered

pytestmark = [pytest.mark.e2e, pytest.mark.needs_real_broker]

MIB = 2**20


def nothing(value: bytes) -> None:
    """Process a message: a no-op, so that what is measured is the consumer."""


def test_ten_thousand_messages_pass_at_more_than_a_thousand_a_second(
    real_kafka: Kafka, running: Callable[..., Run], note: Note
) -> None:
    """SPEC: Performance - Throughput Benchmark."""
    topic = real_kafka.create_topic(partitions=3)
    real_kafka.produce(topic, numbered(10_000, text="x" * 100))

    # The queues hold the whole burst: a disk that stalls for a second costs no backup row.
    run = running(topic, nothing, queue_size=10_000)
    # Joining the group is the broker's time, not the consumer's.
    eventually(lambda: run.consumer.snapshot().partitions, 30, what="an assignment")
    begun = time.monotonic()
    run.wait_committed(10_000, timeout=60)
    rate = 10_000 / (time.monotonic() - begun)

    note("messages_per_second", round(rate))
    assert rate > 1000
    assert run.lag() == 0
    assert run.totals.backup_skipped == 0


def test_from_the_poll_to_the_commit_it_takes_less_than_100_ms(
    real_kafka: Kafka, running: Callable[..., Run], note: Note
) -> None:
    """SPEC: Performance - Latency Measurement."""
    # Whatever else the machine does adds to it and never takes away: the best of a few rounds is the consumer's own.
    for _ in range(4):
        p50, p95, p99 = latency_at_a_thousand_a_second(real_kafka, running)
        note("p50_p95_p99_ms", [round(seconds * 1000, 1) for seconds in (p50, p95, p99)])
        assert p50 <= p95 <= p99
        if p95 < 0.1:
            return
    raise AssertionError("expected a 95th percentile below 100 ms in one of four rounds")


def latency_at_a_thousand_a_second(kafka: Kafka, running: Callable[..., Run]) -> tuple[float, float, float]:
    topic = kafka.create_topic(partitions=3)
    run = running(topic, nothing, commit_interval_seconds=0.02)
    eventually(lambda: run.consumer.snapshot().partitions, 30, what="an assignment")
    begun = time.monotonic()
    with producing(kafka, topic, per_second=1000):
        run.wait_committed(3000, timeout=60)
    rate = 3000 / (time.monotonic() - begun)
    latency = run.consumer.snapshot().latency.poll_to_commit
    kafka.wait_for_lag(topic, topic)
    assert rate > 500, f"expected about 1,000 messages a second to be produced, got {rate:.0f}"
    assert run.end() == 0
    assert latency.p50 is not None
    assert latency.p95 is not None
    assert latency.p99 is not None
    return latency.p50, latency.p95, latency.p99


@contextmanager
def producing(kafka: Kafka, topic: str, per_second: int) -> Iterator[None]:
    """Write so many messages a second, a twentieth at a time, until the block ends."""
    enough = threading.Event()

    def produce() -> None:
        due = time.monotonic()
        while not enough.is_set():
            kafka.produce(topic, [b"x" * 100] * (per_second // 20))
            due += 0.05
            enough.wait(max(0.0, due - time.monotonic()))

    with background(produce, stop=enough.set):
        yield


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_hundred_thousand_messages_pass_in_constant_memory(
    real_kafka: Kafka, command: Callable[..., Command], note: Note
) -> None:
    """SPEC: Performance - Memory Stability. SPEC: Memory Leak Detection."""
    topic = real_kafka.create_topic(partitions=3)
    # Every twentieth fails: dead letters must not pile up in memory either.
    body = "if value.endswith(b'7') and value[-2:-1] in b'02468': raise ValueError('no')"
    kc = command(topic, body=body)
    kc.wait_log("assigned: ")
    samples: list[int] = []
    done = 0
    for lot in range(20):
        real_kafka.produce(topic, numbered(5000, start=lot * 5000, text="x" * 200))
        done += 5000
        real_kafka.wait_for_lag(topic, topic, timeout=60)
        samples.append(kc.memory())

    assert len(kc.ledger()) + len(kc.dead_letters()) == done == 100_000
    assert kc.end() == 0
    highest = max(samples) / MIB
    # The first lots fill queues, buffers and caches; from then on nothing may grow with the number of messages.
    settled, last = statistics.median(samples[5:10]) / MIB, statistics.median(samples[-5:]) / MIB
    note("resident_mib_after_each_5000", [round(sample / MIB) for sample in samples])
    assert highest < 200
    assert last - settled < 10


@pytest.mark.timeout(120)
def test_fifty_workers_are_all_busy_with_a_backlog_and_only_as_many_as_needed_without(
    real_kafka: Kafka, running: Callable[..., Run], note: Note
) -> None:
    """SPEC: Performance - Worker Utilization."""
    call_seconds = 0.05
    topic = real_kafka.create_topic(partitions=3)
    real_kafka.produce(topic, numbered(5000))
    run = running(topic, Ledger(lambda value: time.sleep(call_seconds)), worker_count=50)

    def busy_for(seconds: float) -> float:
        """Return the mean number of busy workers, looked at a hundred times a second."""
        seen = []
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            states = [worker.state for worker in run.consumer.snapshot().workers]
            assert len(states) == 50
            seen.append(states.count("busy"))
            time.sleep(0.01)
        return statistics.mean(seen)

    run.wait_finished(500)
    before, at = run.finished(), time.monotonic()
    with_backlog = busy_for(2)
    rate = (run.finished() - before) / (time.monotonic() - at)
    assert run.finished() < 5000, "expected a backlog for as long as it was measured"
    run.wait_committed(5000, timeout=60)
    idle = busy_for(0.5)

    # 100 messages a second of 50 ms each: five workers' work.
    with producing(real_kafka, topic, per_second=100):
        run.wait_finished(5050)
        with_trickle = busy_for(2)

    share = with_backlog / 50
    note("busy_with_backlog", round(share, 3))
    note("messages_per_second_of_1000", round(rate))
    note("busy_at_100_a_second", round(with_trickle, 1))
    assert share > 0.9
    assert rate > 0.7 * 50 / call_seconds
    assert idle == 0
    assert 2.5 < with_trickle < 15
    run.kafka.wait_for_lag(topic, topic)
