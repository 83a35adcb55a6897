"""What goes wrong: messages, workers, the broker, the disk, the command line's own mistakes."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import eventually
from tests.kafka import Kafka, LocalKafka
from tests.kafka.local import free_ports
from tests.runs import Command, Ledger, Note, Run, numbered

pytestmark = [pytest.mark.e2e, pytest.mark.needs_real_broker]


def refuse_invalid(value: bytes) -> None:
    if value.startswith(b"invalid"):
        raise ValueError(f"expected an order, got {value!r}")


# --- messages that fail -----------------------------------------------------------------------------------------------


def test_nine_hundred_succeed_while_a_hundred_go_to_the_dead_letters(
    real_kafka: Kafka, running: Callable[..., Run]
) -> None:
    """SPEC: E2E - Mixed Success and Failure."""
    values = [b"invalid-%d" % n if n % 10 == 7 else b"valid-%d" % n for n in range(1000)]
    bad = [value for value in values if value.startswith(b"invalid")]
    topic = real_kafka.create_topic()
    real_kafka.produce(topic, values, keys=[b"key-%d" % n for n in range(1000)])
    ledger = Ledger(refuse_invalid)

    run = running(topic, ledger)
    run.wait_committed(1000)

    # The failed messages' offsets are committed, so their rows are on disk by now: looked at before the end writes more.
    rows = run.dead_letters()
    assert sorted(row["value"].encode() for row in rows) == sorted(bad)
    assert {row["error_type"] for row in rows} == {"ValueError"}
    assert all(row["error_message"] == f"expected an order, got {row['value'].encode()!r}" for row in rows)
    assert all("refuse_invalid" in row["stack_trace"] for row in rows)
    assert all(values[int(row["offset"])] == row["value"].encode() and row["key"] == f"key-{row['offset']}" for row in rows)
    assert (run.totals.processed, run.totals.failed, run.totals.dlq_written) == (900, 100, 100)
    assert run.lag() == 0

    real_kafka.produce(topic, numbered(10, text="later"))
    run.wait_committed(1010)
    assert run.end() == 0
    assert sorted(ledger.values) == sorted([*(set(values) - set(bad)), *numbered(10, text="later")])


def test_when_all_fail_all_are_in_the_dead_letters_and_committed(real_kafka: Kafka, running: Callable[..., Run]) -> None:
    """SPEC: E2E - All Messages Fail."""
    values = numbered(1000, text="invalid")
    topic = real_kafka.create_topic(partitions=2)
    real_kafka.produce(topic, values)

    run = running(topic, refuse_invalid)
    run.wait_committed(1000)

    assert sorted(row["value"].encode() for row in run.dead_letters()) == sorted(values)
    assert run.committed() == {0: 500, 1: 500}
    assert {worker.state for worker in run.consumer.snapshot().workers} <= {"idle", "busy"}
    assert run.totals.crashed_workers == 0
    assert run.end() == 0


# --- processors that are slow -----------------------------------------------------------------------------------------


def test_slow_processing_fills_the_queue_and_nothing_more_is_taken_than_fits(
    real_kafka: Kafka, running: Callable[..., Run], caplog: pytest.LogCaptureFixture
) -> None:
    """SPEC: E2E - Slow Processing."""
    caplog.set_level(logging.INFO)
    values = numbered(100)
    topic = real_kafka.create_topic()
    real_kafka.produce(topic, values)
    ledger = Ledger(lambda value: time.sleep(1))
    workers, queue = 16, 10

    run = running(topic, ledger, worker_count=workers, queue_size=queue)
    deepest = taken = 0
    deadline = time.monotonic() + 30
    while run.finished() < 100:
        assert time.monotonic() < deadline, run.totals
        snapshot = run.consumer.snapshot()
        deepest = max(deepest, snapshot.queues["processing"].depth)
        taken = max(taken, snapshot.totals.polled - len(ledger.values))
        time.sleep(0.01)
    run.wait_committed(100)

    assert deepest == queue
    # What fits, what the workers hold, and the one that may come in spite of a pause.
    assert queue < taken <= queue + workers + 1
    assert ledger.counts() == dict.fromkeys(values, 1)
    assert run.lag() == 0
    assert run.end() == 0
    assert run.dead_letters() == []


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_backlog_slower_than_the_poll_interval_does_not_cost_the_membership(
    real_kafka: Kafka, running: Callable[..., Run], caplog: pytest.LogCaptureFixture
) -> None:
    """SPEC: E2E - Slow Processing.

    Every message takes longer than ``max.poll.interval.ms``: a consumer that waited for room without polling would be expelled
    from its group three times over.
    """
    caplog.set_level(logging.INFO)
    values = numbered(45)
    topic = real_kafka.create_topic(partitions=2)
    real_kafka.produce(topic, values)
    ledger = Ledger(lambda value: time.sleep(13))

    run = running(
        topic, ledger, worker_count=15, queue_size=10,
        kafka_options={"max.poll.interval.ms": 10_000, "session.timeout.ms": 6000, "heartbeat.interval.ms": 1000},
    )  # fmt: skip
    run.wait_committed(45, timeout=80)

    assert any("back-pressure" in record.getMessage() for record in caplog.records)
    assert run.totals.rebalances == 1
    assert ledger.counts() == dict.fromkeys(values, 1)
    assert run.lag() == 0
    assert run.end() == 0


# --- workers ----------------------------------------------------------------------------------------------------------


def test_a_crashed_worker_costs_its_message_only(
    real_kafka: Kafka, running: Callable[..., Run], caplog: pytest.LogCaptureFixture
) -> None:
    """SPEC: E2E - Worker Crash Recovery."""
    values = numbered(300)
    topic = real_kafka.create_topic()
    real_kafka.produce(topic, values)
    gate = threading.Event()

    def work(value: bytes) -> None:
        if value == b"message-50":
            raise SystemExit("the worker's thread ends here")
        if value == b"message-299":
            gate.wait(30)

    ledger = Ledger(work)
    run = running(topic, ledger, worker_count=3)
    run.wait_finished(299)
    eventually(lambda: run.totals.crashed_workers == 1, what="the crash to be counted")
    states = [worker.state for worker in run.consumer.snapshot().workers]
    gate.set()
    run.wait_committed(300)

    assert states.count("crashed") == 1
    # Three still work: the crashed one was replaced.
    assert len(states) - states.count("crashed") == 3
    (critical,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert re.search(rf"worker \d+ crashed at {topic}-0@50: SystemExit", critical.getMessage())
    (row,) = run.dead_letters()
    assert (row["value"], row["error_type"], row["offset"]) == ("message-50", "SystemExit", "50")
    assert sorted([*ledger.values, b"message-50"]) == sorted(values)
    assert run.lag() == 0
    assert run.end() == 0


# --- the broker -------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(180)
def test_a_broker_that_dies_mid_stream_and_comes_back_costs_no_message(
    private_kafka: LocalKafka, running: Callable[..., Run], caplog: pytest.LogCaptureFixture,
    note: Note,
) -> None:  # fmt: skip
    """SPEC: E2E - Kafka Connection Loss."""
    caplog.set_level(logging.INFO)
    first = numbered(2000)
    topic = private_kafka.create_topic(partitions=2)
    private_kafka.produce(topic, first)
    ledger = Ledger(lambda value: time.sleep(0.002))

    run = running(
        topic, ledger, kafka=private_kafka, queue_size=50,
        kafka_options={"reconnect.backoff.max.ms": 1000, "queued.min.messages": 100, "fetch.message.max.bytes": 2000},
    )  # fmt: skip
    run.wait_finished(300)
    private_kafka.kill()

    def said(text: str) -> list[logging.LogRecord]:
        return [record for record in list(caplog.records) if text in record.getMessage()]

    eventually(lambda: said("no connection to Kafka"), what="a line about the lost connection")
    assert {record.levelname for record in said("no connection to Kafka")} == {"ERROR"}
    # Long enough for a commit to have been tried in vain.
    eventually(lambda: run.consumer._committer.committing, what="a commit under way")
    assert run.consumer.exit_code is None
    assert run.finished() < 2000, "expected the broker to have died mid-stream"

    private_kafka.start()
    second = numbered(200, text="after")
    private_kafka.produce(topic, second)
    eventually(lambda: len(set(ledger.values)) == 2200, 60, what="2,200 processed messages")
    private_kafka.wait_for_lag(topic, topic)

    repeated = len(ledger.values) - 2200
    note("repeated", repeated)
    assert set(ledger.values) == {*first, *second}
    assert run.end() == 0
    assert run.dead_letters() == []


@pytest.mark.timeout(180)
def test_an_unreachable_broker_is_retried_with_a_line_each_time_until_a_signal_ends_it(command: Callable[..., Command]) -> None:
    """SPEC: E2E - Kafka Connection Loss. (It never was there.)"""
    (port,) = free_ports(1)
    kc = command("some-topic", kafka=f"127.0.0.1:{port}")

    kc.wait_log("no connection to Kafka", count=3)
    assert kc.process.poll() is None
    errors = kc.lines("ERROR")
    assert all(f"127.0.0.1:{port}" in line for line in errors)

    begun = time.monotonic()
    assert kc.end() == 0
    assert time.monotonic() - begun < 10
    assert "Traceback" not in kc.log


def test_a_topic_that_does_not_exist_is_one_clear_line_and_exit_code_1(
    real_kafka: Kafka, command: Callable[..., Command]
) -> None:
    """A typo in the topic's name is a failure that no retry mends."""
    kc = command("no-such-topic")

    assert kc.wait() == 1
    (line,) = kc.lines("CRITICAL")
    assert "topic 'no-such-topic' doesn't exist: create it, or check the name" in line
    assert kc.lines("ERROR") == []
    assert "Traceback" not in kc.log


# --- the disk ---------------------------------------------------------------------------------------------------------

LIMIT = 400_000
"""Bytes that a file may have: the kernel refuses to write more, as a full disk does."""


def test_a_full_disk_under_the_dead_letters_stops_with_nothing_committed_that_is_not_on_disk(
    real_kafka: Kafka, command: Callable[..., Command]
) -> None:
    """SPEC: E2E - Disk Full (CSV Write)."""
    values = [b"%04d-" % number + b"x" * 5000 for number in range(400)]
    topic = real_kafka.create_topic()
    real_kafka.produce(topic, values)

    broken = command(
        topic, "--backup-mode", "off", "--dlq-csv-batch-size", "10", file_size=LIMIT,
        body="time.sleep(0.02)\nraise ValueError('no')",
    )  # fmt: skip

    assert broken.wait() == 1
    (line,) = broken.lines("CRITICAL")
    assert "dead-letter file" in line
    assert "File too large" in line
    assert re.search(r"INFO the dead-letter file failed: .*; draining \d+ messages", broken.log)
    # The last row may be torn: it doesn't count as written.
    whole = dead_letters_without_torn_row(broken.dlq_path)
    committed = real_kafka.committed(topic, topic).get(0, 0)
    assert 0 < committed <= len(whole) < 400
    assert set(values[:committed]) <= set(whole)

    # With room again, all the others follow; none is lost, and the torn row is set aside.
    mended = command(topic, "--backup-mode", "off", body="raise ValueError('no')")
    real_kafka.wait_for_lag(topic, topic)
    assert mended.end() == 0
    assert set(mended.dead_letters()) == set(values)


def test_a_full_disk_under_the_backup_stops_with_all_that_was_taken_processed(
    real_kafka: Kafka, command: Callable[..., Command]
) -> None:
    """SPEC: E2E - Disk Full (CSV Write)."""
    values = [b"%04d-" % number + b"x" * 5000 for number in range(400)]
    topic = real_kafka.create_topic()
    real_kafka.produce(topic, values)

    broken = command(topic, "--queue-size", "20", body="time.sleep(0.005)", file_size=LIMIT)

    assert broken.wait() == 1
    (line,) = broken.lines("CRITICAL")
    assert "backup file" in line
    assert "File too large" in line
    done = broken.ledger()
    committed = real_kafka.committed(topic, topic)[0]
    assert 0 < committed < 400
    # A graceful end: what was taken is processed and committed, so nothing is repeated.
    assert sorted(done) == [value[:100] for value in values[:committed]]
    mended = command(topic, "--backup-mode", "off")
    mended.wait_ledger(400)
    assert mended.end() == 0
    assert sorted(mended.ledger()) == [value[:100] for value in values]


def dead_letters_without_torn_row(base: Path) -> list[bytes]:
    """Return the values of the whole rows: those that end in a line break."""
    (path,) = base.parent.glob("dlq_*.csv")
    text = path.read_bytes()
    rows = re.findall(rb"(\d{4}-x{5000}),\[\],utf-8,ValueError,no,\"(?:[^\"]|\"\")*\",1,\d+\r\n", text)
    assert text.startswith(b"failed_at,")
    return rows
