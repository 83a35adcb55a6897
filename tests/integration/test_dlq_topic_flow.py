"""A whole consumer with ``dlq_topic``: what isn't acknowledged isn't committed, whatever the topic does."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError

from kafka_consumer import dlq_topic
from kafka_consumer.config import KafkaConsumerConfig
from kafka_consumer.dlq_files import StoredMessage
from kafka_consumer.dlq_topic import HEADER
from kafka_consumer.processor_run import ProcessorRun
from tests.fake_producer import FakeTopics, Record
from tests.fakes import FakeBroker
from tests.helpers import eventually, make_config, read_rows
from tests.integration.conftest import TOPIC, Life

DLQ = "test-topic.dlq"


def fail_odd(value: bytes) -> None:
    if int(value) % 2:
        raise ValueError(f"odd: {value!r}")


@pytest.fixture
def topics(monkeypatch: pytest.MonkeyPatch) -> FakeTopics:
    """The brokers behind the dead-letter topic, which is there."""
    found = FakeTopics(DLQ)
    monkeypatch.setattr(dlq_topic, "Producer", found.producer)
    monkeypatch.setattr(dlq_topic, "SLICE_SECONDS", 0.01)
    monkeypatch.setattr(dlq_topic, "PAUSE_SECONDS", 0.01)
    return found


@pytest.fixture
def odd(live: Callable[..., Life], topics: FakeTopics) -> Callable[..., Life]:
    """Return a function that starts a consumer for which every other message fails; the topic is ``DLQ``."""
    return lambda **options: live(**{"processor_callable": fail_odd, "dlq_topic": DLQ, "worker_count": 1, **options})


def offsets(records: list[Record]) -> list[int]:
    """Return the offsets of the messages that these were."""
    return [int(dict(record.headers)[f"{HEADER}offset"] or b"") for record in records]


def numbers(broker: FakeBroker, count: int) -> None:
    broker.produce_many(TOPIC, 0, [b"%d" % number for number in range(count)])


def test_what_fails_is_in_the_file_and_in_the_topic_and_is_committed(
    broker: FakeBroker, odd: Callable[..., Life], topics: FakeTopics
):
    numbers(broker, 1000)
    life = odd()
    life.wait_committed(1000)
    assert [int(row["offset"]) for row in life.dead_letters()] == list(range(1, 1000, 2))
    assert offsets(topics.records[DLQ]) == list(range(1, 1000, 2))
    assert topics.calls["flush"] < 100, "expected batches, not one flush a message"
    totals = life.consumer.snapshot().totals
    assert (totals.dlq_written, totals.dlq_published, totals.dlq_unpublished) == (500, 500, 0)
    assert life.end() == 0


def test_nothing_is_committed_that_the_topic_has_not_acknowledged(
    broker: FakeBroker, odd: Callable[..., Life], topics: FakeTopics
):
    numbers(broker, 4)
    life = odd(start=False)
    life.consumer.start()
    eventually(lambda: topics.calls["list_topics"])
    topics.away = True
    eventually(life.dead_letters, what="a dead letter in the file, which comes first")
    life.wait_committed(1)
    flushes = topics.calls["flush"]
    eventually(lambda: topics.calls["flush"] > flushes + 20)
    assert life.committed() == 1
    assert topics.records[DLQ] == []
    topics.away = False
    life.wait_committed(4)
    assert offsets(topics.records[DLQ]) == [1, 3]
    assert life.end() == 0


def test_brokers_that_are_away_are_said_now_and_then_and_when_they_are_back(
    broker: FakeBroker, odd: Callable[..., Life], topics: FakeTopics, log: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setattr(dlq_topic, "FIRST_WORD_SECONDS", 0.1)
    life = odd(kafka_options={"sasl.password": "hunter2-the-secret"})
    eventually(lambda: topics.calls["list_topics"])
    topics.away = True
    topics.complaints.append(KafkaError(KafkaError._TRANSPORT, "connection with hunter2-the-secret refused"))
    numbers(broker, 2)
    eventually(lambda: [line for line in log(logging.ERROR) if "wait for topic" in line])
    eventually(lambda: topics.calls["flush"] > 100)
    said = [line for line in log(logging.ERROR) if "wait for topic" in line]
    assert said[0].startswith("1 dead letters wait for topic test-topic.dlq for ")
    assert said[0].endswith("trying again: connection with [hidden] refused")
    assert len(said) < 10, "expected a line now and then, not a flood"
    topics.away = False
    life.wait_committed(2)
    eventually(lambda: [line for line in log(logging.INFO) if "takes dead letters again, after" in line])
    assert not any("hunter2" in line for line in log())


def test_a_message_that_is_too_large_for_the_topic_is_in_the_file_and_the_others_go_on(
    broker: FakeBroker, live: Callable[..., Life], topics: FakeTopics, log: Callable[..., list[str]]
):
    def fail(value: bytes) -> None:
        raise ValueError("no")

    topics.largest = 3_000
    broker.produce_many(TOPIC, 0, [b"x" * (5_000 if number == 5 else 10) for number in range(10)])
    life = live(processor_callable=fail, dlq_topic=DLQ)
    life.wait_committed(10)
    assert len(life.dead_letters()) == 10
    assert sorted(offsets(topics.records[DLQ])) == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    (line,) = [line for line in log(logging.ERROR) if "doesn't take" in line]
    assert "test-topic-0@5, which the file has: Broker: Message size too large" in line
    totals = life.consumer.snapshot().totals
    assert (totals.dlq_written, totals.dlq_published, totals.dlq_unpublished) == (10, 9, 1)
    assert life.end() == 0


def test_the_end_is_bounded_when_the_topic_does_not_answer(
    broker: FakeBroker, odd: Callable[..., Life], topics: FakeTopics, log: Callable[..., list[str]]
):
    life = odd(shutdown_timeout_seconds=0.5)
    eventually(lambda: topics.calls["list_topics"])
    topics.away = True
    numbers(broker, 2)
    eventually(lambda: len(life.dead_letters()) == 1)
    begun = time.monotonic()
    assert life.end() == 1
    assert time.monotonic() - begun < 5
    assert life.committed() == 1
    assert any("hasn't acknowledged 1 dead letters within shutdown_timeout_seconds=0.5" in t for t in log(logging.CRITICAL))


@pytest.mark.parametrize("code", [KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._UNKNOWN_TOPIC])
def test_a_topic_that_may_not_be_written_ends_the_consumer_as_a_file_would(
    broker: FakeBroker, odd: Callable[..., Life], topics: FakeTopics, log: Callable[..., list[str]], code: int
):
    topics.refusal = KafkaError(code)
    numbers(broker, 100)
    life = odd()
    assert life.wait_end() == 1
    assert life.committed() == 1, "expected what came before the first failure"
    (line,) = log(logging.CRITICAL)
    assert line.startswith("dead letters can't be sent to topic test-topic.dlq: ")
    assert line.endswith("; stopping")
    assert "dead letters can't be sent" in (life.consumer.snapshot().stop_reason or "")


def test_a_fatal_error_of_the_producer_ends_the_consumer_even_when_nothing_fails(
    broker: FakeBroker, odd: Callable[..., Life], topics: FakeTopics
):
    life = odd()
    eventually(lambda: topics.calls["list_topics"])
    topics.complaints.append(KafkaError(KafkaError._FATAL, "fenced", fatal=True))
    assert life.wait_end() == 1
    assert "fenced" in (life.consumer.snapshot().stop_reason or "")


def test_a_topic_that_does_not_exist_ends_the_consumer_with_one_line(
    broker: FakeBroker, odd: Callable[..., Life], topics: FakeTopics, log: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setattr(dlq_topic, "CREATION_SECONDS", 0.1)
    del topics.records[DLQ]
    life = odd()
    assert life.wait_end() == 1
    assert log(logging.CRITICAL) == ["dlq_topic: topic 'test-topic.dlq' doesn't exist: create it, or check the name; stopping"]


def test_dev_mode_publishes_as_it_writes(broker: FakeBroker, odd: Callable[..., Life], topics: FakeTopics):
    numbers(broker, 10)
    life = odd(dev_mode=True)
    eventually(lambda: offsets(topics.records[DLQ]) == [1, 3, 5, 7, 9])
    assert life.end() == 0
    assert len(life.dead_letters()) == 5
    assert life.committed() is None


def test_a_replay_of_files_asks_no_kafka_and_writes_the_file_alone(tmp_path: Path, topics: FakeTopics):
    config: KafkaConsumerConfig = make_config(tmp_path, processor_callable=fail_odd, dlq_topic=DLQ)
    made: list[Any] = [
        StoredMessage("2026-11-22T14:00:00+00:00", TOPIC, 0, n, None, None, b"%d" % n, (), None, "f", n) for n in range(4)
    ]
    with ProcessorRun(config, record=True) as run:
        result = run.replay(made)
    assert (result.done, result.failed) == (2, 2)
    assert len(read_rows(config.dlq_path)) == 2
    assert topics.producers == []


def test_thousands_of_failures_are_acknowledged_before_they_are_committed(
    broker: FakeBroker, live: Callable[..., Life], topics: FakeTopics
):
    def fail(value: bytes) -> None:
        raise ValueError("no")

    broker.produce_many(TOPIC, 0, [b"x"] * 3000)
    life = live(start=False, processor_callable=fail, dlq_topic=DLQ)
    seen: list[tuple[int, int]] = []
    life.client.commit_hook = lambda tps: seen.append((tps[0].offset, len(topics.records[DLQ])))
    life.consumer.start()
    life.wait_committed(3000)
    assert all(published >= committed for committed, published in seen)
    assert sorted(offsets(topics.records[DLQ])) == list(range(3000))
    assert life.end() == 0
