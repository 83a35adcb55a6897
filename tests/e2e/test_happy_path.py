"""All goes well: what was produced is processed, backed up and committed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import psutil
import pytest

from tests.kafka import Kafka
from tests.runs import Ledger, Note, Run, numbered

pytestmark = [pytest.mark.e2e, pytest.mark.needs_real_broker]

HOSTILE = (
    b"", b"a,b", b'"quoted", and "more"', b"line\nbreak", b"carriage\r\nreturn", b"\\N", "Zoë ✓ \u202e".encode(),
    b"\x1b]0;title\x07", b"=1+1", b" spaces ", b"\x00", b'"', b"\n",
)  # fmt: skip


def test_a_thousand_messages_are_processed_backed_up_and_committed(real_kafka: Kafka, running: Callable[..., Run]) -> None:
    """SPEC: E2E - Complete Happy Path."""
    values = numbered(1000 - len(HOSTILE)) + list(HOSTILE)
    topic = real_kafka.create_topic()
    real_kafka.produce(topic, values)
    ledger = Ledger()

    run = running(topic, ledger)
    run.wait_committed(1000)

    assert run.committed() == {0: 1000}
    assert run.lag() == 0
    assert run.end() == 0
    assert sorted(ledger.values) == sorted(values)
    # The rows read back are the very bytes, in the order of the log.
    assert run.backup() == values
    assert run.dead_letters() == []
    assert (run.totals.processed, run.totals.failed, run.totals.backup_skipped) == (1000, 0, 0)


def test_three_partitions_are_each_consumed_and_committed(real_kafka: Kafka, running: Callable[..., Run]) -> None:
    """SPEC: E2E - Multiple Partitions."""
    topic = real_kafka.create_topic(partitions=3)
    for partition in range(3):
        real_kafka.produce(topic, numbered(100, text=f"partition-{partition}"), partition=partition)
    ledger = Ledger()

    run = running(topic, ledger)
    run.wait_committed(300)

    assert run.committed() == {0: 100, 1: 100, 2: 100}
    assert run.lag() == 0
    views = run.consumer.snapshot().partitions
    assert sorted((view.partition, view.committed, view.in_flight) for view in views) == [(n, 100, 0) for n in range(3)]
    assert run.end() == 0
    for partition in range(3):
        mine = [value for value in ledger.values if value.startswith(b"partition-%d-" % partition)]
        assert sorted(mine) == sorted(numbered(100, text=f"partition-{partition}"))
    assert run.config.worker_count == len(run.consumer.snapshot().workers)


def test_ten_thousand_messages_are_processed_rapidly_with_every_row_backed_up(
    real_kafka: Kafka, running: Callable[..., Run], note: Note
) -> None:
    """SPEC: E2E - High Throughput."""
    values = numbered(10_000, text="x" * 100)
    topic = real_kafka.create_topic(partitions=3)
    real_kafka.produce(topic, values)
    ledger = Ledger()
    process = psutil.Process(os.getpid())

    before = process.memory_info().rss
    begun = time.monotonic()
    run = running(topic, ledger, queue_size=10_000)
    run.wait_committed(10_000, timeout=60)
    rate = 10_000 / (time.monotonic() - begun)
    grown = process.memory_info().rss - before

    note("messages_per_second", round(rate))
    note("growth_mib", round(grown / 2**20))
    assert rate > 100
    assert run.lag() == 0
    assert run.end() == 0
    assert ledger.counts() == dict.fromkeys(values, 1)
    assert sorted(value or b"" for value in run.backup()) == sorted(values)
    assert (run.totals.failed, run.totals.backup_skipped, run.totals.poll_errors) == (0, 0, 0)
    # 1 MB of values: what is held beyond them is queues and prefetch, not a leak of every message.
    assert grown < 100 * 2**20
