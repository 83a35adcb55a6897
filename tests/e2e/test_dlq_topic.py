"""``dlq_topic`` on a real broker: what failed is in the topic, byte for byte, before its offset is committed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from kafka_consumer.dlq_topic import HEADER
from kafka_consumer.producer_options import reliable_producer
from tests.fake_producer import check
from tests.helpers import eventually
from tests.kafka import Kafka, LocalKafka
from tests.letters import DIFFICULT, HEADERS
from tests.runs import ROOT, Command, Note, Run

pytestmark = [pytest.mark.e2e, pytest.mark.needs_real_broker]

Where = tuple[str, int, int]


def fail_unless_ok(value: bytes | None) -> None:
    if value is None or not value.startswith(b"ok"):
        raise ValueError(f"can't use {value!r}")


FORGOTTEN_SOON = ("-X", "session.timeout.ms=6000")
"""For a command that is killed: so long the group keeps its partitions for it."""

FAIL_TENTH = "if int(value) % 10 == 0:\n    raise ValueError(value)\ntime.sleep(0.004)"
"""The body of a command's function."""


def read_all(kafka: Kafka, topic: str) -> list[Any]:
    """Return all that a topic holds."""
    return [*kafka.read(topic, sum(kafka.end_offsets(topic).values()))]


def context(message: Any) -> dict[str, bytes]:
    """Return the context headers, without what their names begin with."""
    return {name.removeprefix(HEADER): value for name, value in message.headers() if name.startswith(HEADER)}


def origin(message: Any) -> Where:
    """Return which message it was."""
    found = context(message)
    return found["topic"].decode(), int(found["partition"]), int(found["offset"])


def produce_difficult(kafka: Kafka, topic: str, count: int) -> None:
    """Produce messages every tenth of which fails: of all difficult kinds, with headers of all kinds."""
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for number in range(count):
        key, value = (b"k%d" % number, b"ok-%d" % number) if number % 10 else DIFFICULT[number // 10 % len(DIFFICULT)]
        headers: Any = [*HEADERS[: number // 10 % (len(HEADERS) + 1)], ("number", b"%d" % number)]
        producer.produce(topic, value=value, key=key, headers=headers, partition=number % 3)
    assert producer.flush(30) == 0


def kc(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    (folder / "app.py").write_text("def handle(value):\n    pass\n")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KC_")}
    return subprocess.run(
        [sys.executable, "-m", "kafka_consumer", *arguments], cwd=folder, env={**inherited, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def kc_check(folder: Path, kafka: Kafka, topic: str, dead_letters: str) -> tuple[int, list[str]]:
    """Return the exit code of ``kc check``, and its lines about the dead-letter topic."""
    done = kc(folder, "check", "--processor", "app:handle", "--bootstrap-server", kafka.bootstrap, "--topic", topic,
              "--group", topic, "--dlq-topic", dead_letters)  # fmt: skip
    return done.returncode, [line for line in done.stdout.splitlines() if "dead-letter topic" in line]


def test_a_real_producer_does_what_is_taken_for_granted(real_kafka: Kafka):
    topic = real_kafka.create_topic(max_message_bytes="5000")

    def producer(options: dict[str, Any]) -> Producer:
        return Producer({**reliable_producer(real_kafka.bootstrap, {}), "message.timeout.ms": 0, **options})

    check(producer, topic, f"{topic}-nowhere")


def test_the_topic_holds_exactly_what_failed_byte_for_byte(real_kafka: Kafka, running: Callable[..., Run]):
    topic, dlq = real_kafka.create_topic(partitions=3), real_kafka.create_topic(partitions=2)
    produce_difficult(real_kafka, topic, 1000)
    run = running(topic, fail_unless_ok, dlq_topic=dlq, value_encoding="binary", group_id=f"{topic}-group")
    run.wait_committed(1000)

    originals = {(m.topic(), m.partition(), m.offset()): m for m in read_all(real_kafka, topic)}
    failed = {where for where, m in originals.items() if m.value() is None or not m.value().startswith(b"ok")}
    letters = read_all(real_kafka, dlq)
    assert len(letters) == 100
    assert {origin(m) for m in letters} == failed
    for letter in letters:
        original = originals[origin(letter)]
        headers = original.headers()
        assert (letter.key(), letter.value(), letter.headers()[: len(headers)]) == (original.key(), original.value(), headers)
        assert len(letter.headers()) == len(headers) + 10
        found = context(letter)
        assert (found["connector.name"], found["stage"]) == (f"{topic}-group".encode(), b"TASK_PUT")
        assert found["class.name"] == f"{__name__}:fail_unless_ok".encode()
        assert found["exception.class.name"] == b"ValueError"
        assert found["exception.message"] == f"can't use {original.value()!r}".encode()
        assert b"in fail_unless_ok" in found["exception.stacktrace"]
        assert int(found["task.id"]) in range(4)
    # A key has one partition, as with Java's producers.
    partitions = Counter(key for key, _ in {(m.key(), m.partition()) for m in letters if m.key() is not None})
    assert set(partitions.values()) == {1}

    assert run.lag() == 0
    assert (run.totals.dlq_written, run.totals.dlq_published, run.totals.dlq_unpublished) == (100, 100, 0)
    assert len(run.dead_letters()) == 100
    assert run.end() == 0


@pytest.mark.timeout(180)
def test_killed_in_the_middle_no_dead_letter_is_missing(real_kafka: Kafka, command: Callable[..., Command], note: Note):
    topic, dlq = real_kafka.create_topic(partitions=3), real_kafka.create_topic()
    real_kafka.produce(topic, [b"%d" % number for number in range(4000)])
    failing = {(m.topic(), m.partition(), m.offset()) for m in read_all(real_kafka, topic) if int(m.value()) % 10 == 0}
    assert len(failing) == 400

    for step in (300, 1500):
        process = command(topic, "--dlq-topic", dlq, *FORGOTTEN_SOON, body=FAIL_TENTH)
        eventually(lambda: sum(real_kafka.committed(topic, topic).values()) >= step, 60, what=f"commits of {step} messages")  # noqa: B023 - it is called in this turn
        process.kill()
        committed = real_kafka.committed(topic, topic)
        there = {origin(m) for m in read_all(real_kafka, dlq)}
        due = {where for where in failing if where[2] < committed.get(where[1], 0)}
        note("committed, failed among them, in the topic", (committed, len(due), len(there)))
        assert due
        assert due <= there, "expected each failure that is committed to be in the topic"
        assert len(there) < 400, "expected the kill to fall into the middle"

    process = command(topic, "--dlq-topic", dlq, *FORGOTTEN_SOON, body=FAIL_TENTH)
    real_kafka.wait_for_lag(topic, topic, timeout=60)
    assert process.end() == 0
    letters = read_all(real_kafka, dlq)
    note("dead letters in the topic", len(letters))
    assert {origin(m) for m in letters} == failing
    assert {(origin(m), m.value()) for m in letters} == {
        ((m.topic(), m.partition(), m.offset()), m.value()) for m in read_all(real_kafka, topic) if int(m.value()) % 10 == 0
    }


def test_a_topic_that_does_not_exist_is_one_line_and_the_check_says_how_to_mend_it(
    real_kafka: Kafka, command: Callable[..., Command], tmp_path: Path
):
    topic = real_kafka.create_topic()
    process = command(topic, "--dlq-topic", f"{topic}-nowhere")
    assert process.wait() == 1
    assert [line.partition("CRITICAL ")[2] for line in process.lines("CRITICAL")] == [
        f"dlq_topic: topic '{topic}-nowhere' doesn't exist: create it, or check the name; stopping"
    ]
    code, lines = kc_check(tmp_path, real_kafka, topic, f"{topic}-nowhere")
    assert code == 1
    assert lines[0].startswith(f"✗ dead-letter topic {topic}-nowhere: ")
    assert "create it, or check --dlq-topic" in lines[0]

    there = real_kafka.create_topic(partitions=3)
    code, lines = kc_check(tmp_path, real_kafka, topic, there)
    assert (code, lines[0]) == (0, f"✓ dead-letter topic {there}: 3 partitions")
    assert kc_check(tmp_path, real_kafka, topic, topic)[0] == 2, "expected a loop to be a mistake of the configuration"


def test_brokers_that_create_topics_create_this_one_too(private_kafka: LocalKafka, running: Callable[..., Run], tmp_path: Path):
    private_kafka.stop()
    private_kafka.configure({"auto.create.topics.enable": "true"})
    private_kafka.start()
    topic = private_kafka.create_topic()
    code, lines = kc_check(tmp_path, private_kafka, topic, f"{topic}.dlq")
    assert code == 0, lines
    assert lines[0] == (f"✓ dead-letter topic {topic}.dlq: doesn't exist yet, the brokers create it (auto.create.topics.enable)")
    private_kafka.produce(topic, [b"ok", b"no"])
    run = running(topic, fail_unless_ok, kafka=private_kafka, dlq_topic=f"{topic}.dlq")
    run.wait_committed(2)
    assert [m.value() for m in read_all(private_kafka, f"{topic}.dlq")] == [b"no"]
    assert run.end() == 0


@pytest.mark.timeout(180)
def test_a_broker_that_is_frozen_is_waited_for_and_one_that_stays_away_bounds_the_end(
    private_kafka: LocalKafka, command: Callable[..., Command]
):
    topic, dlq = private_kafka.create_topic(), private_kafka.create_topic()
    options = {"kafka": private_kafka, "body": "wait_for_gate()\nraise ValueError(value)"}
    private_kafka.produce(topic, [b"%d" % number for number in range(50)])
    process = command(topic, "--dlq-topic", dlq, **options)
    process.wait_log("dead letters go to topic")
    process.wait_log("assigned")
    eventually(process.backup, 30, what="messages that were polled")
    private_kafka.suspend()
    process.open_gate()
    process.wait_log(f"dead letters wait for topic {dlq} for 5 s, trying again")
    assert process.process.poll() is None
    private_kafka.resume()
    process.wait_log(f"topic {dlq} takes dead letters again")
    private_kafka.wait_for_lag(topic, topic)
    assert process.end() == 0
    assert sorted(int(m.value()) for m in read_all(private_kafka, dlq)) == list(range(50))

    private_kafka.produce(topic, [b"%d" % number for number in range(50, 60)])
    (process.folder / "gate").unlink()
    process = command(topic, "--dlq-topic", dlq, "--shutdown-timeout", "2", **options)
    eventually(lambda: len(process.backup()) == 60, 30, what="messages that were polled")
    private_kafka.suspend()
    process.open_gate()
    eventually(lambda: len(process.dead_letters()) > 50, 30, what="a dead letter in the file, which comes first")
    begun = time.monotonic()
    process.terminate()
    assert process.wait() == 1
    assert time.monotonic() - begun < 30
    assert "within shutdown_timeout_seconds=2: their offsets stay uncommitted" in process.log
    private_kafka.resume()
    assert private_kafka.committed(topic, topic) == {0: 50}


def test_messages_near_the_limit_fit_again_and_one_that_cannot_is_in_the_file(real_kafka: Kafka, running: Callable[..., Run]):
    def fail(value: bytes) -> None:
        raise ValueError("x" * 9_000)

    topic, dlq = real_kafka.create_topic(), real_kafka.create_topic(max_message_bytes="100000")
    values = [b"a" * size for size in (10, 20, 70_000, 95_000, 99_000, 120_000, 30, 40)]
    real_kafka.produce(topic, values)
    run = running(topic, fail, dlq_topic=dlq)
    run.wait_committed(len(values))
    letters = read_all(real_kafka, dlq)
    assert sorted(len(m.value()) for m in letters) == [10, 20, 30, 40, 70_000, 95_000, 99_000]
    traces = {len(m.value()): len(context(m).get("exception.stacktrace", b"")) for m in letters}
    assert traces[10] > 9_000
    assert 0 < traces[95_000] <= 2_000
    assert traces[99_000] == 0
    assert (run.totals.dlq_published, run.totals.dlq_unpublished) == (7, 1)
    assert len(run.dead_letters()) == 8
    assert run.end() == 0
