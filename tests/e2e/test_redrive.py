"""``kc dlq redrive`` on a real broker: each dead letter once, the bytes it had, whatever kills the command."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from kafka_consumer.dlq_files import Problems, read_messages
from kafka_consumer.redrive import Redrive
from kafka_consumer.redrive_journal import Journal, journal_path
from kafka_consumer.redrive_kafka import KafkaSender
from kafka_consumer.types import DeadLetter
from tests.helpers import eventually
from tests.kafka import Kafka, LocalKafka
from tests.kafka.choice import local_missing
from tests.letters import letter, letters_of, write_dlq
from tests.runs import ROOT, Command, Note

pytestmark = [pytest.mark.e2e, pytest.mark.needs_real_broker]

Message = tuple[bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]


def as_sent(letters: Sequence[DeadLetter]) -> Counter[Message]:
    return Counter((each.key, each.value, tuple(each.headers)) for each in letters)


def read_committed(kafka: Kafka, topic: str) -> list[Any]:
    """Return the messages of a topic as a consumer of committed transactions sees them, up to the end."""
    consumer = Consumer({
        "bootstrap.servers": kafka.bootstrap, "group.id": "looks-at-a-redrive", "enable.auto.commit": False,
        "isolation.level": "read_committed", "enable.partition.eof": True, "auto.offset.reset": "earliest",
    })  # fmt: skip
    found: list[Any] = []
    ended: set[int | None] = set()
    deadline = time.monotonic() + 30
    try:
        consumer.assign([TopicPartition(topic, number, 0) for number in range(kafka.partitions(topic))])
        while len(ended) < kafka.partitions(topic):
            assert time.monotonic() < deadline, f"expected the ends of {topic}, got those of {ended}"
            for message in consumer.consume(1000, 0.2):
                if message.error() is None:
                    found.append(message)
                else:
                    ended.add(message.partition())
    finally:
        consumer.close()
    return found


def contents(messages: Sequence[Any]) -> Counter[Message]:
    return Counter((m.key(), m.value(), tuple(m.headers() or ())) for m in messages)


def kc(folder: Path, kafka: Kafka, *arguments: str) -> subprocess.Popen[str]:
    """Start a command that ends by itself."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KC_")}
    return subprocess.Popen(
        [sys.executable, "-m", "kafka_consumer", "--bootstrap-server", kafka.bootstrap, *arguments],
        cwd=folder, env={**environment, "PYTHONPATH": str(ROOT)}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def redrive(folder: Path, kafka: Kafka, *arguments: str) -> tuple[int, str, str]:
    """Run the command to its end; return the exit code and what it printed."""
    process = kc(folder, kafka, "dlq", "redrive", "--yes", *arguments)
    out, err = process.communicate(timeout=90)
    return process.returncode, out, err


def journal_lines(folder: Path, mark: bytes) -> int:
    """Return how many lines of the journal hold this."""
    path = folder / "dlq.csv.redriven"
    return path.read_bytes().count(mark) if path.exists() else 0


def wait_for(process: subprocess.Popen[str], folder: Path, mark: bytes, count: int) -> None:
    """Wait until so many lines of the journal hold this; fail when the process ends before."""
    deadline = time.monotonic() + 60
    while journal_lines(folder, mark) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.001)


def journal_size(folder: Path) -> int:
    path = folder / "dlq.csv.redriven"
    return path.stat().st_size if path.exists() else 0


# --- the promise ------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(240)
def test_a_redrive_of_a_thousand_killed_twice_in_the_middle_repeats_none_and_loses_none(
    real_kafka: Kafka, tmp_path: Path, chance: random.Random, note: Note
) -> None:
    topic = real_kafka.create_topic(partitions=3)
    letters = letters_of(1000, chance, topic=topic)
    write_dlq(tmp_path / "dlq_20261122_hour_13.csv", letters[:400])
    write_dlq(tmp_path / "dlq_20261122_hour_14.csv", letters[400:])

    for _ in range(2):
        process = kc(tmp_path, real_kafka, "dlq", "redrive", "--yes", "--max-rate", "100")
        # Two to four batches of 50 more; then the next one is begun, and the kill falls anywhere within it.
        wanted = journal_lines(tmp_path, b'"sent": true') + chance.randrange(2, 5)
        wait_for(process, tmp_path, b'"sent": true', wanted)
        begun = journal_lines(tmp_path, b'"letters"')
        wait_for(process, tmp_path, b'"letters"', begun + 1)
        time.sleep(chance.uniform(0, 0.03))
        process.kill()
        process.communicate()
        seen = len(read_committed(real_kafka, topic))
        note("sent_before_the_kill", seen)
        assert 0 < seen < 1000

    code, out, err = redrive(tmp_path, real_kafka)
    note("last_run", out)
    assert code == 0, err

    messages = read_committed(real_kafka, topic)
    assert contents(messages) == as_sent(letters)
    # In the partition it came from.
    numbers = {(m.partition(), int(dict(m.headers())["number"])) for m in messages}
    assert numbers == {(each.partition, each.offset) for each in letters}

    code, out, err = redrive(tmp_path, real_kafka)
    assert (code, err) == (0, "")
    assert "nothing to redrive (1,000 redriven already" in out
    assert len(read_committed(real_kafka, topic)) == 1000


class _Killed(BaseException):
    """Stands for a SIGKILL at a chosen instant."""


class DyingSender(KafkaSender):
    """Dies at one of the instants that matter."""

    die = ""

    def send(self, batch: Any, marker: str, number: int) -> Any:
        if self.die == "before":
            raise _Killed
        if self.die == "within":
            self._producer.begin_transaction()
            for message in batch:
                self._produce(message, lambda *_: None)
            self._producer.flush(20)
            raise _Killed
        answer = super().send(batch, marker, number)
        if self.die == "after":
            raise _Killed
        return answer


@pytest.mark.parametrize("instant", ["before", "within", "after"])
def test_whenever_it_dies_the_next_run_knows_what_was_sent(real_kafka: Kafka, tmp_path: Path, instant: str) -> None:
    """Before the transaction, within it with all delivered, after it and before the journal's second line."""
    topic = real_kafka.create_topic(partitions=3)
    letters = letters_of(50, topic=topic)
    path = write_dlq(tmp_path / "dlq_20261122_hour_13.csv", letters)

    with Journal(journal_path(path)) as journal:
        sender = DyingSender(real_kafka.bootstrap, {}, journal.id)
        sender.die = instant
        with pytest.raises(_Killed), closing(read_messages([path], Problems(print))) as messages:
            Redrive(journal, sender).run(messages)
    with Journal(journal_path(path)) as journal:
        assert journal.in_doubt is not None

    code, _, err = redrive(tmp_path, real_kafka)
    assert code == 0, err
    assert (": it had been sent" in err) == (instant == "after")
    assert ("nothing of it had been sent" in err) == (instant != "after")
    assert contents(read_committed(real_kafka, topic)) == as_sent(letters)


def test_a_forgotten_marker_is_a_question_never_a_guess(real_kafka: Kafka, tmp_path: Path) -> None:
    """The broker forgets a group's offsets after a week; then nobody knows, and the operator decides."""
    topic = real_kafka.create_topic(partitions=3)
    letters = letters_of(10, topic=topic)
    path = write_dlq(tmp_path / "dlq_20261122_hour_13.csv", letters)
    with Journal(journal_path(path)) as journal:
        sender = KafkaSender(real_kafka.bootstrap, {}, journal.id)
        sender.open()
        digests = [message.digest() for message in read_messages([path], Problems(print))]
        journal.begin(sender.cluster, topic, digests[:4])
        sender.close()

    code, _, err = redrive(tmp_path, real_kafka)
    assert code == 1
    assert "Kafka no longer knows whether it was sent" in err
    assert read_committed(real_kafka, topic) == []

    code, _, err = redrive(tmp_path, real_kafka, "--in-doubt", "skip")
    assert code == 0, err
    assert contents(read_committed(real_kafka, topic)) == as_sent(letters[4:])


def test_a_batch_in_doubt_of_another_cluster_is_not_settled_here(real_kafka: Kafka, tmp_path: Path) -> None:
    topic = real_kafka.create_topic()
    path = write_dlq(tmp_path / "dlq_20261122_hour_13.csv", [letter(topic=topic)])
    with Journal(journal_path(path)) as journal:
        journal.begin("another-cluster", topic, [b"x" * 16])

    code, _, err = redrive(tmp_path, real_kafka)

    assert code == 1
    assert "another cluster (another-cluster" in err
    assert read_committed(real_kafka, topic) == []


# --- where to, and what -----------------------------------------------------------------------------------------------


def test_the_key_decides_in_another_topic_and_the_timestamp_is_new_unless_it_is_kept(real_kafka: Kafka, tmp_path: Path) -> None:
    topic = real_kafka.create_topic(partitions=1)
    kept = real_kafka.create_topic(partitions=1)
    letters = letters_of(22, topic="gone")
    (tmp_path / "kept").mkdir()
    write_dlq(tmp_path / "dlq_20261122_hour_13.csv", letters)
    write_dlq(tmp_path / "kept" / "dlq_20261122_hour_13.csv", letters)
    before = int(time.time() * 1000)

    code, out, err = redrive(tmp_path, real_kafka, "--to-topic", topic)
    assert code == 0, err
    assert f"gone → {topic}: 22" in out
    code, _, err = redrive(tmp_path / "kept", real_kafka, "--to-topic", kept, "--keep-timestamps")
    assert code == 0, err

    messages = read_committed(real_kafka, topic)
    assert contents(messages) == as_sent(letters)
    assert all(message.timestamp()[1] >= before - 1000 for message in messages)
    assert [m.timestamp()[1] for m in read_committed(real_kafka, kept)] == [each.timestamp for each in letters]


def test_one_that_the_broker_refuses_fails_alone_and_the_others_go(real_kafka: Kafka, tmp_path: Path) -> None:
    topic = real_kafka.create_topic(partitions=3, max_message_bytes="10000")
    letters = letters_of(40, topic=topic)
    bad = letter(1000, topic=topic, value=os.urandom(20_000))
    lost = letter(1, topic="never-created")
    write_dlq(tmp_path / "dlq_20261122_hour_13.csv", [*letters[:17], bad, lost, *letters[17:]])

    code, out, err = redrive(tmp_path, real_kafka)

    assert code == 1
    assert "40 redriven, 2 failed" in out
    assert f"{topic}-0@1000" in err
    assert "topic never-created doesn't exist" in err
    assert contents(read_committed(real_kafka, topic)) == as_sent(letters)


def test_a_rate_is_kept(real_kafka: Kafka, tmp_path: Path) -> None:
    topic = real_kafka.create_topic(partitions=1)
    write_dlq(tmp_path / "dlq_20261122_hour_13.csv", letters_of(60, topic=topic))

    code, _, err = redrive(tmp_path, real_kafka, "--max-rate", "20")

    assert code == 0, err
    at = [message.timestamp()[1] for message in read_committed(real_kafka, topic)]
    assert len(at) == 60
    # Six batches of ten, half a second apart.
    assert 2.2 <= (max(at) - min(at)) / 1000 < 10


def test_a_signal_ends_it_after_the_batch_and_the_next_run_sends_the_rest(real_kafka: Kafka, tmp_path: Path) -> None:
    topic = real_kafka.create_topic(partitions=3)
    letters = letters_of(200, topic=topic)
    write_dlq(tmp_path / "dlq_20261122_hour_13.csv", letters)
    process = kc(tmp_path, real_kafka, "dlq", "redrive", "--yes", "--max-rate", "20")
    eventually(lambda: journal_size(tmp_path) > 1000, 60, what="a first batch")
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "stopped by a signal before the end" in out
    with Journal(str(tmp_path / "dlq.csv.redriven")) as journal:
        assert journal.in_doubt is None
        assert 0 < len(journal.done) < 200

    code, _, err = redrive(tmp_path, real_kafka)
    assert code == 0, err
    assert contents(read_committed(real_kafka, topic)) == as_sent(letters)


def test_a_broker_that_dies_with_the_redrive_comes_back_with_its_answer(private_kafka: LocalKafka, tmp_path: Path) -> None:
    topic = private_kafka.create_topic(partitions=3)
    letters = letters_of(100, topic=topic)
    write_dlq(tmp_path / "dlq_20261122_hour_13.csv", letters)
    process = kc(tmp_path, private_kafka, "dlq", "redrive", "--yes", "--max-rate", "40")
    eventually(lambda: journal_size(tmp_path) > 1000, 60, what="a first batch")
    private_kafka.kill()
    process.kill()
    process.communicate()

    private_kafka.start()
    code, _, err = redrive(tmp_path, private_kafka)
    assert code == 0, err
    assert contents(read_committed(private_kafka, topic)) == as_sent(letters)


# --- what a user may do ---------------------------------------------------------------------------------------------------


def deny(kafka: Kafka, kind: ResourceType, name: str, operation: AclOperation) -> None:
    """Forbid everybody an operation, on a resource or on all whose name begins so; reading stays allowed on topics."""
    pattern = ResourcePatternType.LITERAL if kind is ResourceType.TOPIC else ResourcePatternType.PREFIXED
    wanted = [AclBinding(kind, name, pattern, "User:ANONYMOUS", "*", operation, AclPermissionType.DENY)]
    if kind is ResourceType.TOPIC:
        wanted.append(AclBinding(kind, name, pattern, "User:ANONYMOUS", "*", AclOperation.READ, AclPermissionType.ALLOW))
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    for answer in admin.create_acls(wanted).values():
        answer.result(10)


def test_what_this_user_may_not_do_is_told_and_the_rest_is_done(tmp_path: Path) -> None:
    if reason := local_missing():
        pytest.skip(f"needs a broker of its own: {reason}")
    authorizer = "org.apache.kafka.metadata.authorizer.StandardAuthorizer"
    rules = {"authorizer.class.name": authorizer, "allow.everyone.if.no.acl.found": "true"}
    with LocalKafka(properties=rules) as kafka:
        kafka.start()
        closed, opened = kafka.create_topic(partitions=3), kafka.create_topic(partitions=3)
        letters = letters_of(30, topic=opened)
        pairs = zip(letters, letters_of(30, topic=closed), strict=True)
        write_dlq(tmp_path / "dlq_20261122_hour_13.csv", [each for pair in pairs for each in pair])
        deny(kafka, ResourceType.TOPIC, closed, AclOperation.WRITE)

        code, out, err = redrive(tmp_path, kafka)
        assert code == 1
        assert "30 redriven, 30 failed" in out
        assert err.count("Topic authorization failed") == 20, "the first ones by name"
        assert contents(read_committed(kafka, opened)) == as_sent(letters)

        deny(kafka, ResourceType.GROUP, "kc.redrive.", AclOperation.READ)
        code, _, err = redrive(tmp_path, kafka)
        assert code == 1
        assert "Group authorization failed" in err

        deny(kafka, ResourceType.TRANSACTIONAL_ID, "kc.redrive.", AclOperation.WRITE)
        code, _, err = redrive(tmp_path, kafka)
        assert code == 1
        assert "Transactional Id authorization failed" in err
        assert "Traceback" not in err


# --- with a consumer --------------------------------------------------------------------------------------------------


def test_what_failed_for_want_of_a_fix_succeeds_after_the_redrive(
    real_kafka: Kafka, command: Callable[..., Command], tmp_path: Path
) -> None:
    """The whole of it: a processor fails, is mended, and the dead letters are redriven, once, to be processed."""
    topic = real_kafka.create_topic(partitions=2)
    real_kafka.produce(topic, [b"order-%d" % number for number in range(100)])
    broken = command(topic, folder="app", body="if value.endswith(b'7'): raise ValueError('seven')")
    broken.wait_ledger(90)
    real_kafka.wait_for_lag(topic, topic)
    assert broken.end() == 0
    assert len(broken.dead_letters()) == 10

    for _ in range(2):
        code, _, err = redrive(tmp_path / "app", real_kafka)
        assert code == 0, err
    mended = command(topic, folder="app")
    mended.wait_ledger(100)
    real_kafka.wait_for_lag(topic, topic)
    assert mended.end() == 0
    assert sorted(mended.ledger()) == sorted(b"order-%d" % number for number in range(100))
