"""Load and endurance. Bounded by default; the environment makes them as long and as large as one likes:

``KC_STRESS_SECONDS`` (60) for the long run, ``KC_STRESS_LARGE_MESSAGES`` (50; 1,000 at full length) for the messages of 9.5 MB.
"""

from __future__ import annotations

import csv
import os
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from kafka_consumer import csv_writers
from tests.helpers import background, eventually, hourly_files
from tests.kafka import Kafka
from tests.runs import Command, Ledger, Note, Run, numbered

pytestmark = [pytest.mark.stress, pytest.mark.needs_real_broker, pytest.mark.timeout(0)]

MIB = 2**20


@pytest.mark.soak
def test_it_runs_for_long_without_growth_while_messages_flow_and_hours_pass(
    real_kafka: Kafka, running: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, note: Note
) -> None:
    """SPEC: Stress - Long Running (24 Hours)."""
    seconds = float(os.environ.get("KC_STRESS_SECONDS", "60"))
    began, at = datetime(2026, 11, 22, 0, 0, tzinfo=UTC), time.monotonic()
    # The clock of the files runs as many hours as a day has, whatever the length of the run.
    monkeypatch.setattr(csv_writers, "now", lambda: began + timedelta(hours=24 * (time.monotonic() - at) / seconds))
    topic = real_kafka.create_topic(partitions=3)
    # Only counted: a list of all values would be the leak that this looks for.
    process = psutil.Process(os.getpid())
    # A day at the pace of a minute would fill the disk: 2,000 messages a second, a tenth of that when it lasts.
    pause = 0.05 if seconds <= 600 else 0.5
    produced = 0
    samples: list[tuple[float, int, int]] = []  # resident bytes, threads, committed messages: once in a fortieth of the run

    def work(value: bytes) -> None:
        if value.endswith(b"99"):
            raise ValueError("a hundredth fails")

    run = running(topic, work, csv_flush_interval_seconds=1.0)
    next_sample = at
    while (now := time.monotonic()) < at + seconds:
        real_kafka.produce(topic, numbered(100, start=produced, text="x" * 200))
        produced += 100
        if now >= next_sample:
            next_sample += seconds / 40
            samples.append((process.memory_info().rss, process.num_threads(), run.totals.committed))
        time.sleep(pause)
    run.wait_committed(produced, timeout=60)

    totals = run.totals
    assert (totals.processed, totals.failed) == (produced * 99 // 100, produced // 100)
    assert (totals.commit_failures, totals.poll_errors, totals.crashed_workers, totals.rebalances) == (0, 0, 0, 1)
    assert run.end() == 0
    middle, last = (statistics.median(sample[0] for sample in part) / MIB for part in (samples[15:25], samples[-10:]))
    rates = [after[2] - before[2] for before, after in pairwise(samples[5:])]
    note("messages", produced)
    note("mib_in_the_middle_and_at_the_end", (round(middle), round(last)))
    assert last - middle < 20
    assert samples[-1][1] <= samples[10][1] + 1
    # Commits go on at the pace of the messages: no interval in which they stood still.
    assert min(rates) > statistics.median(rates) / 4
    assert len(hourly_files(run.config.backup_path)) >= 24
    assert len(hourly_files(run.config.dlq_path)) >= 24
    assert count_rows(run.config.backup_path) == produced - totals.backup_skipped
    assert count_rows(run.config.dlq_path) == produced // 100


def count_rows(base: str) -> int:
    """Return how many rows the hourly files hold, without holding them in memory."""
    rows = 0
    for path in hourly_files(base):
        with open(path, newline="", encoding="utf-8") as handle:
            rows += sum(1 for _ in csv.DictReader(handle))
    return rows


@pytest.mark.stress_short
def test_a_hundred_thousand_messages_produced_as_fast_as_can_be_are_all_processed_once(
    real_kafka: Kafka, running: Callable[..., Run], note: Note
) -> None:
    """SPEC: Stress - High Message Rate."""
    topic = real_kafka.create_topic(partitions=6)
    values = numbered(100_000, text="x" * 100)
    ledger = Ledger()
    run = running(topic, ledger)
    eventually(lambda: run.consumer.snapshot().partitions, 30, what="an assignment")

    begun = time.monotonic()
    with background(real_kafka.produce, topic, values):
        eventually(lambda: run.finished() > 0, 60, what="the first messages")
    produced_in = time.monotonic() - begun
    run.wait_committed(100_000, timeout=120)
    consumed_in = time.monotonic() - begun

    note("messages_per_second", round(100_000 / consumed_in))
    assert consumed_in < produced_in + 20, "expected the consumer to keep up"
    assert ledger.counts() == dict.fromkeys(values, 1)
    assert run.lag() == 0
    totals = run.totals
    assert (totals.failed, totals.crashed_workers, totals.poll_errors, totals.commit_failures) == (0, 0, 0, 0)
    assert run.end() == 0
    # The backup never holds the consumer up; what it skipped, it counted.
    assert len(run.backup()) == 100_000 - totals.backup_skipped


@pytest.mark.stress_short
def test_messages_near_the_limit_are_processed_in_bounded_memory(
    real_kafka: Kafka, command: Callable[..., Command], note: Note, full: bool
) -> None:
    """SPEC: Stress - Large Messages."""
    count = int(os.environ.get("KC_STRESS_LARGE_MESSAGES") or (1000 if full else 50))
    size = 9_500_000
    topic = real_kafka.create_topic(max_message_bytes="10485760")

    def head(number: int) -> bytes:
        return (b"large-%d-" % number).ljust(100, b".")

    for number in range(count):
        real_kafka.produce(topic, [head(number) + b"x" * (size - 100)])
    kc = command(topic, body="assert len(value) == 9_500_000\ntime.sleep(0.1)")
    highest = 0
    deadline = time.monotonic() + 60 + count
    done: list[bytes] = []
    while len(done) < count:
        assert kc.process.poll() is None, kc.log[-5000:]
        assert time.monotonic() < deadline, kc.log[-5000:]
        highest = max(highest, kc.memory())
        time.sleep(0.02)
        done = kc.ledger()
    real_kafka.wait_for_lag(topic, topic)

    assert kc.end() == 0
    note("highest_mib", highest // MIB)
    assert sorted(done) == sorted(head(number) for number in range(count))
    assert kc.dead_letters() == []
    # Pytest keeps the folders of its last runs; this one is worth gigabytes.
    for path in hourly_files(kc.backup_path):
        os.unlink(path)
    # With the defaults: 256 MiB in flight, half as much for the backup, librdkafka's 16 MiB and a message over, Python.
    assert highest < 600 * MIB


@pytest.mark.stress_short
def test_half_of_ten_thousand_messages_fail_at_full_speed(
    real_kafka: Kafka, running: Callable[..., Run], note: Note, tmp_path: Path
) -> None:
    """SPEC: Stress - High Failure Rate."""
    values = [b"bad-%d" % n if n % 2 else b"good-%d" % n for n in range(10_000)]
    bad = [value for value in values if value.startswith(b"bad")]

    def work(value: bytes) -> None:
        if value.startswith(b"bad"):
            raise ValueError("half of them fail")

    def rate_of(values: list[bytes]) -> tuple[float, Run]:
        topic = real_kafka.create_topic(partitions=3)
        real_kafka.produce(topic, values)
        run = running(topic, work)
        eventually(lambda: run.consumer.snapshot().partitions, 30, what="an assignment")
        begun = time.monotonic()
        run.wait_committed(len(values), timeout=120)
        return len(values) / (time.monotonic() - begun), run

    rate, run = rate_of(values)
    size = sum(os.path.getsize(path) for path in hourly_files(run.config.dlq_path))
    note("messages_per_second", round(rate))
    note("bytes_a_dead_letter", round(size / 5000))
    assert sorted(row["value"].encode() for row in run.dead_letters()) == sorted(bad)
    assert (run.totals.processed, run.totals.failed, run.totals.dlq_written) == (5000, 5000, 5000)
    assert run.lag() == 0
    assert run.end() == 0
    # A row with its stack trace, not a book; and failing must not throttle what succeeds.
    assert size / 5000 < 2000
    assert rate > 1000
