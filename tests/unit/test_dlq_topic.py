"""Dead letters for a topic: which headers they get, how they are cut, what the topic may refuse, and what ends the run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from hypothesis import given
from hypothesis import strategies as st

from kafka_consumer import dlq_topic
from kafka_consumer.config import KafkaConsumerConfig
from kafka_consumer.dlq_topic import HEADER, ROOMS, DeadLetterTopic, cut
from kafka_consumer.errors import ConfigError, DeadLetterTopicError
from kafka_consumer.settings import load_settings
from tests.fake_producer import FakeTopics, check
from tests.helpers import accept, background, eventually, make_config, make_state
from tests.letters import DIFFICULT, HEADERS, letter

DLQ = "orders.dlq"
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture
def topics(monkeypatch: pytest.MonkeyPatch) -> FakeTopics:
    """Brokers with the topic; each producer is one of theirs."""
    found = FakeTopics(DLQ)
    monkeypatch.setattr(dlq_topic, "Producer", found.producer)
    return found


@pytest.fixture
def topic(tmp_path: Path, topics: FakeTopics) -> Iterator[DeadLetterTopic]:
    """The topic, connected and found."""
    state = make_state(tmp_path, dlq_topic=DLQ, group_id="billing", shutdown_timeout_seconds=0.1)
    made = DeadLetterTopic(state)
    made.connect()
    made.open()
    yield made
    state.stop("the test has ended")


def added(record: Any) -> dict[str, bytes | None]:
    """Return the context headers of a record, without what their names begin with."""
    return {name.removeprefix(HEADER): value for name, value in record.headers if name.startswith(HEADER)}


def test_the_stand_in_does_what_a_producer_does():
    topics = FakeTopics("t")
    topics.largest = 5000
    check(topics.producer, "t", "nowhere")


# --- the option -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "orders/dlq", "ключ", "x" * 250, "orders\n", 7, b"dlq"])
def test_a_name_that_is_no_topic_is_refused_in_one_line(tmp_path: Path, name: Any):
    with pytest.raises(ConfigError) as error:
        make_config(tmp_path, dlq_topic=name)
    (line,) = error.value.problems
    assert line.startswith("dlq_topic: expected None or the name of a topic")


def test_the_topic_that_is_consumed_is_refused_for_it_would_be_a_loop(tmp_path: Path):
    with pytest.raises(ConfigError) as error:
        make_config(tmp_path, topic=DLQ, dlq_topic=DLQ)
    assert error.value.problems == ["dlq_topic: expected another topic than the one consumed, got 'orders.dlq' for both: a loop"]
    (line,) = [p for p in load_settings({"topic": DLQ, "dlq_topic": DLQ}, environ={}).problems if "loop" in p]
    assert line.startswith("--dlq-topic: ")


def test_without_the_option_there_is_no_topic(tmp_path: Path):
    config: KafkaConsumerConfig = make_config(tmp_path)
    assert config.dlq_topic is None


def test_the_producer_has_the_connection_of_the_consumer_and_nothing_that_would_weaken_it(tmp_path: Path, topics: FakeTopics):
    given_options = {
        "client.id": "billing-1", "security.protocol": "SASL_SSL", "sasl.password": "x", "acks": "0", "group.instance.id": "a",
        "fetch.min.bytes": 5, "retries": 0, "compression.type": "zstd", "schema.registry.basic.auth.user.info": "a:b",
    }  # fmt: skip
    DeadLetterTopic(make_state(tmp_path, dlq_topic=DLQ, bootstrap_servers="b:1", kafka_options=given_options)).connect()
    options = topics.producers[0].options
    del options["error_cb"]
    assert options == {
        "bootstrap.servers": "b:1", "client.id": "billing-1", "security.protocol": "SASL_SSL", "sasl.password": "x",
        "compression.type": "zstd", "acks": "all", "enable.idempotence": True, "message.timeout.ms": 0, "linger.ms": 5,
        "message.max.bytes": 1_000_000_000, "partitioner": "murmur2_random",
    }  # fmt: skip
    Producer({**options, "security.protocol": "PLAINTEXT"})  # librdkafka takes them all


def test_options_that_librdkafka_refuses_are_an_error_at_once(tmp_path: Path):
    with pytest.raises(KafkaException):
        DeadLetterTopic(make_state(tmp_path, dlq_topic=DLQ, kafka_options={"compression.type": "nonsense"})).connect()


# --- headers ----------------------------------------------------------------------------------------------------------


def test_the_headers_are_kafka_connects(topic: DeadLetterTopic, topics: FakeTopics):
    topic.publish([letter(17, partition=2, attempts=3, worker_id=4)])
    (record,) = topics.records[DLQ]
    assert [name for name, _ in record.headers] == [f"__connect.errors.{name}" for name in (
        "topic", "partition", "offset", "connector.name", "task.id", "stage", "class.name", "exception.class.name",
        "exception.message", "exception.stacktrace",
    )]  # fmt: skip
    assert added(record) == {
        "topic": b"orders", "partition": b"2", "offset": b"17", "connector.name": b"billing", "task.id": b"4",
        "stage": b"TASK_PUT", "class.name": f"{accept.__module__}:accept".encode(), "exception.class.name": b"ValueError",
        "exception.message": b"bad order", "exception.stacktrace": b"Traceback\n  line 1\nValueError: bad order\n",
    }  # fmt: skip


def test_a_message_that_the_function_never_got_has_another_stage_and_no_task(topic: DeadLetterTopic, topics: FakeTopics):
    topic.publish([letter(attempts=0, worker_id=None)])
    (record,) = topics.records[DLQ]
    assert added(record)["stage"] == b"VALUE_CONVERTER"
    assert "task.id" not in added(record)


def test_key_value_and_headers_are_the_bytes_they_were_and_ours_come_last(topic: DeadLetterTopic, topics: FakeTopics):
    mine = (*HEADERS, (f"{HEADER}topic", b"an earlier one"))
    topic.publish([letter(number, key=key, value=value, headers=mine) for number, (key, value) in enumerate(DIFFICULT)])
    assert [(record.key, record.value) for record in topics.records[DLQ]] == list(DIFFICULT)
    for number, record in enumerate(topics.records[DLQ]):
        assert record.headers[: len(mine)] == mine
        assert record.headers[len(mine) :] == topic.context(letter(number))


def test_text_that_is_not_unicode_is_escaped(topic: DeadLetterTopic, topics: FakeTopics):
    topic.publish([letter(error_message="a\udcffb")])
    assert added(topics.records[DLQ][0])["exception.message"] == b"a\\udcffb"


@given(TEXT, st.integers(0, 100))
def test_what_is_cut_fits_and_keeps_its_beginning_and_its_end(text: str, room: int):
    found = cut(text, room)
    if found is None:
        assert room == 0 or len(text.encode()) > room
        return
    assert len(found.encode()) <= room
    if found != text:
        begin, end = found.split("\n… (cut) …\n")
        assert text.startswith(begin)
        assert text.endswith(end)


# --- publishing -------------------------------------------------------------------------------------------------------


def test_a_batch_costs_one_flush(topic: DeadLetterTopic, topics: FakeTopics):
    topic.publish([letter(number) for number in range(500)])
    assert [added(record)["offset"] for record in topics.records[DLQ]] == [b"%d" % number for number in range(500)]
    assert topics.calls["flush"] == 1
    assert topic._state.counters.dlq_published == 500


def test_a_huge_trace_is_cut_so_that_the_message_fits_again(topic: DeadLetterTopic, topics: FakeTopics):
    topics.largest = 10_000
    topic.publish([letter(1), letter(2, value=b"v" * 7000, stack_trace="begin " + "x" * 90_000 + " end"), letter(3)])
    by_offset = {added(record)["offset"]: record for record in topics.records[DLQ]}
    assert by_offset.keys() == {b"1", b"2", b"3"}
    assert len(topics.records[DLQ]) == 3, "expected each once"
    trace = added(by_offset[b"2"])["exception.stacktrace"] or b""
    assert len(trace) <= ROOMS[1]
    assert (trace[:6], trace[-4:]) == (b"begin ", b" end")
    assert added(by_offset[b"3"])["exception.stacktrace"] == letter(3).stack_trace.encode()
    assert by_offset[b"2"].value == b"v" * 7000


def test_where_no_text_fits_at_all_it_is_left_out(topic: DeadLetterTopic, topics: FakeTopics):
    topics.largest = 10_000
    topic.publish([letter(2, value=b"v" * 9_500, error_message="x" * 5000)])
    (record,) = topics.records[DLQ]
    assert {"exception.message", "exception.stacktrace"}.isdisjoint(added(record))
    assert added(record)["exception.class.name"] == b"ValueError"


def test_a_message_that_does_not_fit_is_said_and_counted_and_the_others_are_published(
    topic: DeadLetterTopic, topics: FakeTopics, caplog: pytest.LogCaptureFixture
):
    topics.largest = 5_000
    topic.publish([letter(number, value=b"v" * (9000 if number in (3, 4) else 1)) for number in range(100)])
    assert sorted(int(added(record)["offset"] or b"") for record in topics.records[DLQ]) == [*range(3), *range(5, 100)]
    assert (topic._state.counters.dlq_published, topic._state.counters.dlq_unpublished) == (98, 2)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert line == (
        "topic orders.dlq doesn't take the dead letter of orders-0@3 and 1 more, which the file has: "
        "Broker: Message size too large"
    )


def test_a_limit_of_the_producers_own_is_the_same(tmp_path: Path, topics: FakeTopics):
    state = make_state(tmp_path, dlq_topic=DLQ, kafka_options={"message.max.bytes": 2_000})
    topic = DeadLetterTopic(state)
    topic.connect()
    topic.publish([letter(1, value=b"v" * 3000), letter(2), letter(3, stack_trace="x" * 9_000)])
    assert sorted(added(record)["offset"] or b"" for record in topics.records[DLQ]) == [b"2", b"3"]
    assert state.counters.dlq_unpublished == 1


def test_a_full_queue_of_the_producer_is_flushed(topic: DeadLetterTopic, topics: FakeTopics):
    topics.room = 10
    topic.publish([letter(number) for number in range(95)])
    assert len(topics.records[DLQ]) == 95
    topics.room = 0  # not even one fits
    topic.publish([letter(1)])
    assert topic._state.counters.dlq_unpublished == 1


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, "Kafka refuses access"),
        (KafkaError._UNKNOWN_TOPIC, "it doesn't exist (any more)"),
        (KafkaError.INVALID_REQUIRED_ACKS, "Invalid required acks value"),
    ],
)
def test_what_waiting_does_not_mend_is_an_error_and_stays_one(topic: DeadLetterTopic, topics: FakeTopics, code: int, words: str):
    topics.refusal = KafkaError(code)
    with pytest.raises(DeadLetterTopicError) as error:
        topic.publish([letter(1), letter(2)])
    assert str(error.value).startswith("dead letters can't be sent to topic orders.dlq: ")
    assert words in str(error.value)
    topics.refusal = None
    with pytest.raises(DeadLetterTopicError):
        topic.look()


@pytest.mark.parametrize(
    "complaint",
    [KafkaError(KafkaError._AUTHENTICATION, "SASL authentication failed"), KafkaError(KafkaError._FATAL, "fenced", fatal=True)],
)
def test_a_refused_login_and_a_fatal_error_end_a_wait_at_once(topic: DeadLetterTopic, topics: FakeTopics, complaint: KafkaError):
    topics.away = True
    topics.complaints.append(complaint)
    with pytest.raises(DeadLetterTopicError, match=complaint.str()):
        topic.publish([letter(1)])
    assert not any(len(producer) for producer in topics.producers), "expected nothing to be sent any more"


def test_an_error_that_produce_raises_is_not_waited_for(topic: DeadLetterTopic, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any, **__: Any) -> None:
        raise KafkaException(KafkaError(KafkaError._FATAL, "fenced"))

    monkeypatch.setattr(topic._producer, "produce", fail)
    with pytest.raises(DeadLetterTopicError, match="fenced"):
        topic.publish([letter(1)])


def test_a_flush_that_raises_is_never_taken_for_an_answer(topic: DeadLetterTopic, monkeypatch: pytest.MonkeyPatch):
    def fail(_: float) -> int:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "odd"))

    monkeypatch.setattr(topic._producer, "flush", fail)
    with pytest.raises(DeadLetterTopicError, match="odd"):
        topic.publish([letter(1)])
    assert topic._state.counters.dlq_published == 0


def test_at_the_end_the_wait_is_bounded(topic: DeadLetterTopic, topics: FakeTopics):
    topics.away = True
    topic._state.stop("enough")
    with pytest.raises(DeadLetterTopicError, match=r"hasn't acknowledged 2 dead letters within shutdown_timeout_seconds=0\.1"):
        topic.publish([letter(1), letter(2)])


def test_connections_that_are_lost_are_no_error(topic: DeadLetterTopic, topics: FakeTopics):
    topics.complaints += [KafkaError(KafkaError._TRANSPORT, "refused"), KafkaError(KafkaError._ALL_BROKERS_DOWN, "all down")]
    topic.look()
    assert topic._said == "refused"


# --- is it there? -----------------------------------------------------------------------------------------------------


def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, topics: FakeTopics) -> DeadLetterTopic:
    monkeypatch.setattr(dlq_topic, "Producer", topics.producer)
    monkeypatch.setattr(dlq_topic, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(dlq_topic, "CREATION_SECONDS", 0.1)
    topic = DeadLetterTopic(make_state(tmp_path, dlq_topic=DLQ))
    topic.connect()
    return topic


def test_a_topic_that_does_not_exist_is_an_error_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    topic = fresh(tmp_path, monkeypatch, FakeTopics())
    with pytest.raises(DeadLetterTopicError) as error:
        topic.open()
    assert str(error.value) == "dlq_topic: topic 'orders.dlq' doesn't exist: create it, or check the name"


def test_a_topic_that_the_brokers_create_when_they_are_asked_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    topics = FakeTopics()
    topic = fresh(tmp_path, monkeypatch, topics)
    monkeypatch.setattr(dlq_topic, "CREATION_SECONDS", 10)
    with background(topic.open) as thread:
        eventually(lambda: topics.calls["list_topics"] >= 2)
        topics.records[DLQ] = []
        thread.join(10)
        assert not thread.is_alive()


def test_brokers_that_are_away_are_waited_for_until_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    topics = FakeTopics(DLQ)
    topics.away = True
    topic = fresh(tmp_path, monkeypatch, topics)
    with background(topic.open) as thread:
        eventually(lambda: topics.calls["list_topics"] >= 3)
        assert thread.is_alive()
        topic._state.stop("enough")
        thread.join(10)
        assert not thread.is_alive()


def test_a_topic_that_may_not_be_seen_is_an_error_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    topic = fresh(tmp_path, monkeypatch, FakeTopics())
    monkeypatch.setattr(topic, "_ask", lambda: KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
    with pytest.raises(DeadLetterTopicError, match="Kafka refuses access"):
        topic.open()
