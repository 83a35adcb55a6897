"""How a run ends: by a signal, at a target; in the middle of a commit, of a rotation, of slow work."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kafka_consumer import csv_writers
from tests.helpers import eventually, hourly_files, read_rows
from tests.kafka import Kafka, LocalKafka
from tests.runs import Command, Ledger, Run, numbered

pytestmark = [pytest.mark.e2e, pytest.mark.needs_real_broker]

# Longer than the broker's absence; short enough to wait for, where the broker hasn't heard that a member left.
SHORT_SESSION = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 1000}

AT_THE_GATE = "if int(value.rpartition(b'-')[2]) >= {first}: wait_for_gate()"
"""The body of a processor that lets the first messages pass, and holds the others until the gate opens."""


def test_a_signal_with_fifty_messages_queued_ends_after_all_of_them_and_takes_no_more(
    real_kafka: Kafka, command: Callable[..., Command]
) -> None:
    """SPEC: E2E - Clean Shutdown."""
    values = numbered(150)
    topic = real_kafka.create_topic()
    real_kafka.produce(topic, values)

    kc = command(topic, body=AT_THE_GATE.format(first=100))
    kc.wait_ledger(100)
    eventually(lambda: len(kc.backup()) == 150, what="all 150 to be polled, and so in the backup")
    kc.terminate()
    kc.wait_log("stopped by a signal; draining")
    assert len(kc.ledger()) == 100
    # What comes from now on is for the next run.
    real_kafka.produce(topic, numbered(20, start=150))
    kc.open_gate()

    assert kc.wait() == 0
    assert sorted(kc.ledger()) == sorted(values)
    assert kc.backup() == values
    assert kc.dead_letters() == []
    assert real_kafka.committed(topic, topic) == {0: 150}
    assert "ended: 150 polled, 150 processed, 0 failed" in kc.log

    again = command(topic)
    again.wait_ledger(170)
    real_kafka.wait_for_lag(topic, topic)
    assert again.end() == 0
    # A clean end repeats nothing: 170 messages, 170 times processed, 170 rows.
    assert sorted(again.ledger()) == sorted(numbered(170))
    assert again.backup() == numbered(170)


def test_slow_workers_are_named_in_a_warning_and_waited_for_and_committed_last(
    real_kafka: Kafka, command: Callable[..., Command]
) -> None:
    """SPEC: E2E - Shutdown with Slow Workers."""
    topic = real_kafka.create_topic()
    real_kafka.produce(topic, numbered(5))

    body = "open(f'{GATE}-{value.decode()}', 'x').close()\nwait_for_gate()"
    kc = command(topic, "--workers", "5", "--shutdown-warning", "0.5", body=body)
    eventually(lambda: len(list(kc.folder.glob("gate-*"))) == 5, 30, what="five messages in work")
    kc.terminate()
    kc.wait_log("still draining after 0.5 s, waiting for 5 workers", count=2)

    first = kc.lines("WARNING")[0]
    named = re.findall(rf"worker (\d+) \({topic}-0@(\d+), \d+ s\)", first)
    assert sorted(offset for _, offset in named) == list("01234")
    assert len({worker for worker, _ in named}) == 5
    assert kc.process.poll() is None
    assert kc.ledger() == []
    assert real_kafka.committed(topic, topic) == {}

    kc.open_gate()
    assert kc.wait() == 0
    assert sorted(kc.ledger()) == numbered(5)
    assert real_kafka.committed(topic, topic) == {0: 5}


@pytest.mark.timeout(180)
def test_a_shutdown_in_the_middle_of_a_commit_waits_for_the_answer(
    private_kafka: LocalKafka, running: Callable[..., Run], tmp_path: Path
) -> None:
    """SPEC: E2E - Shutdown During Commit."""
    values = numbered(300)
    topic = private_kafka.create_topic(partitions=3)
    private_kafka.produce(topic, values)
    gate = threading.Event()
    ledger = Ledger(lambda value: gate.wait(60))

    options = {"kafka": private_kafka, "folder": tmp_path / "one", "kafka_options": SHORT_SESSION}
    run = running(topic, ledger, **options)
    eventually(lambda: run.totals.polled == 300, 30, what="all to be polled")
    private_kafka.suspend()
    gate.set()
    # The commit is under way, and the broker doesn't answer.
    eventually(lambda: run.consumer._committer.committing and run.finished() > 0, what="a commit under way")
    run.consumer.stop("in the middle of a commit")
    assert not run.consumer.join(1)
    assert run.consumer._committer.committing
    private_kafka.resume()

    assert run.wait_end() == 0
    assert private_kafka.committed(topic, topic) == {0: 100, 1: 100, 2: 100}
    assert ledger.counts() == dict.fromkeys(values, 1)

    # The next run finds a clean state: nothing to repeat, and files that go on.
    private_kafka.produce(topic, numbered(30, text="later"))
    later = Ledger()
    again = running(topic, later, **options)
    again.wait_committed(30)
    assert sorted(later.values) == sorted(numbered(30, text="later"))
    assert again.end() == 0
    assert Counter(again.backup()) == Counter([*values, *later.values])


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_commit_that_gets_no_answer_before_the_deadline_fails_whole_and_its_messages_are_repeated(
    private_kafka: LocalKafka, command: Callable[..., Command]
) -> None:
    """SPEC: E2E - Shutdown During Commit."""
    values = numbered(300)
    topic = private_kafka.create_topic(partitions=3)
    private_kafka.produce(topic, values)
    short = [part for name, value in SHORT_SESSION.items() for part in ("-X", f"{name}={value}")]

    kc = command(topic, "--shutdown-timeout", "2", *short, kafka=private_kafka, body="wait_for_gate()")
    eventually(lambda: len(kc.backup()) == 300, 30, what="all to be polled")
    private_kafka.kill()
    kc.open_gate()
    kc.wait_ledger(300)
    kc.terminate()

    assert kc.wait() == 1
    assert "commit failed, will be tried again: no answer from Kafka within 2 s" in kc.log
    assert "finished work stays uncommitted" in kc.log or "the last commit got no answer from Kafka" in kc.log
    private_kafka.start()
    assert private_kafka.committed(topic, topic) == {}

    again = command(topic, *short, kafka=private_kafka)
    again.wait_ledger(600)
    private_kafka.wait_for_lag(topic, topic)
    assert again.end() == 0
    assert Counter(again.ledger()) == dict.fromkeys(values, 2)
    assert private_kafka.committed(topic, topic) == {0: 100, 1: 100, 2: 100}


def test_a_shutdown_at_the_turn_of_the_hour_rotates_and_loses_no_row(
    real_kafka: Kafka, running: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SPEC: E2E - Shutdown During CSV Rotation."""
    values = [b"invalid-%d" % n if n % 2 else b"valid-%d" % n for n in range(400)]
    topic = real_kafka.create_topic()
    real_kafka.produce(topic, values[:200])
    before, after = (datetime(2026, 11, 22, hour, minute, 30, tzinfo=UTC) for hour, minute in ((10, 59), (11, 0)))
    struck = threading.Event()
    stopped = threading.Event()
    gate = threading.Event()

    def clock() -> datetime:
        if not struck.is_set():
            return before
        if not stopped.is_set():
            stopped.set()
            # The writer that is the first to read the new hour is about to rotate: at this very moment the run ends.
            run.consumer.stop("the hour strikes")
        return after

    def work(value: bytes) -> None:
        if int(value.rpartition(b"-")[2]) >= 200:
            gate.wait(30)
        if value.startswith(b"invalid"):
            raise ValueError("no")

    monkeypatch.setattr(csv_writers, "now", clock)
    # Rows wait for a full batch or the end: what was taken before the hour is still in memory when it strikes.
    run = running(topic, work, csv_batch_size=1000, csv_flush_interval_seconds=3600.0, worker_count=8)
    run.wait_finished(200)
    real_kafka.produce(topic, values[200:])
    eventually(lambda: run.totals.polled == 400, what="all to be polled")
    struck.set()
    assert stopped.wait(10)
    gate.set()

    assert run.wait_end() == 0
    for base in (run.config.backup_path, run.config.dlq_path):
        assert [path[-11:] for path in hourly_files(base)] == ["hour_10.csv", "hour_11.csv"]
    assert run.backup() == values
    bad = [value for value in values if value.startswith(b"invalid")]
    rows = read_rows(run.config.dlq_path)
    assert sorted(row["value"].encode() for row in rows) == sorted(bad)
    late = {row["value"] for row in rows if row["failed_at"].startswith("2026-11-22T11")}
    assert late == {value.decode() for value in bad if int(value.rpartition(b"-")[2]) >= 200}
    assert run.committed() == {0: 400}


def test_further_signals_while_draining_are_ignored(real_kafka: Kafka, command: Callable[..., Command]) -> None:
    """SPEC: E2E - Double Shutdown (Multiple SIGTERMs)."""
    topic = real_kafka.create_topic()
    real_kafka.produce(topic, numbered(20))

    kc = command(topic, body=AT_THE_GATE.format(first=10))
    kc.wait_ledger(10)
    eventually(lambda: len(kc.backup()) == 20, what="all to be polled")
    kc.terminate()
    kc.wait_log("SIGTERM received: shutting down")
    for count in (1, 2):
        kc.terminate()
        kc.wait_log("SIGTERM received again: already shutting down", count=count)
    assert kc.process.poll() is None
    kc.open_gate()

    assert kc.wait() == 0
    assert sorted(kc.ledger()) == sorted(numbered(20))
    assert real_kafka.committed(topic, topic) == {0: 20}
    assert kc.log.count("stopped by a signal; draining") == 1
    assert kc.log.count("ended: ") == 1
    assert kc.lines("ERROR") == kc.lines("CRITICAL") == []


def test_a_stop_target_is_processed_and_committed_and_nothing_behind_it(
    real_kafka: Kafka, command: Callable[..., Command]
) -> None:
    """SPEC: E2E - Stop at Offset."""
    values = numbered(200)
    topic = real_kafka.create_topic()
    real_kafka.produce(topic, values)

    kc = command(topic, "--stop-at", f"{topic}:0:100")

    assert kc.wait() == 0
    assert sorted(kc.ledger()) == sorted(values[:101])
    assert kc.backup() == values[:101]
    assert real_kafka.committed(topic, topic) == {0: 101}
    (line,) = [line for line in kc.lines("INFO") if "INFO stop target reached" in line and "draining" not in line]
    assert f"{topic}-0@100" in line

    # The same again has nothing to do; without the target the rest follows.
    assert command(topic, "--stop-at", f"{topic}:0:100").wait() == 0
    assert real_kafka.committed(topic, topic) == {0: 101}
    rest = command(topic)
    rest.wait_ledger(200)
    assert rest.end() == 0
    assert sorted(rest.ledger()) == sorted(values)


def test_dev_mode_commits_nothing_so_a_restart_processes_all_again(
    real_kafka: Kafka, command: Callable[..., Command]
) -> None:
    """SPEC: E2E - Dev Mode Restart."""
    values = numbered(100)
    topic = real_kafka.create_topic()
    real_kafka.produce(topic, values)

    for time in (1, 2):
        kc = command(topic, "--dev-mode")
        kc.wait_ledger(100 * time)
        kc.wait_log("dev mode: not committed")
        assert kc.end() == 0
        assert f"{topic}-0@100" in kc.log
        assert Counter(kc.ledger()) == dict.fromkeys(values, time)
        assert real_kafka.committed(topic, topic) == {}
