"""Errors of polling: some pass, some end the consumer with a clear reason, and none floods the log."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from kafka_consumer import poll_errors
from kafka_consumer.poll_errors import PollErrors
from kafka_consumer.rebalance import Partitions
from kafka_consumer.shared_state import SharedState
from tests.fakes import FakeBroker, FakeConsumer
from tests.helpers import make_state

TOPIC = "test-topic"


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> None:
    """Every record of the package is captured."""
    caplog.set_level(logging.DEBUG, "kafka_consumer")


class Clock:
    """A monotonic clock that moves when a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of ``poll_errors``."""
    made = Clock()
    monkeypatch.setattr(poll_errors, "time", made)
    return made


class Errors:
    """A ``PollErrors`` with what it decides about."""

    def __init__(self, folder: Path, *, topics: dict[str, int] | None = None, subscribed: bool = True, **options: Any) -> None:
        self.state: SharedState = make_state(folder, **options)
        self.broker = FakeBroker({TOPIC: 1} if topics is None else topics)
        self.consumer = FakeConsumer(self.broker)
        self.partitions = Partitions(self.state, None, lambda: None)
        self.partitions.subscribed = subscribed
        self.errors = PollErrors(self.state, self.consumer, self.partitions)
        self.asked = 0  # calls of list_topics
        self._list_topics = self.consumer.list_topics
        self.consumer.list_topics = self._ask  # type: ignore[method-assign]
        self.waited: list[float | None] = []
        self.state.shutdown_event.wait = self._wait  # type: ignore[method-assign]

    def _ask(self, topic: str | None = None, timeout: float = -1) -> Any:
        self.asked += 1
        return self._list_topics(topic, timeout)

    def _wait(self, timeout: float | None = None) -> bool:
        self.waited.append(timeout)
        return False


@pytest.fixture
def errors(tmp_path: Path) -> Errors:
    """Of a subscribed consumer whose topic exists."""
    return Errors(tmp_path)


def _error(code: int, text: str = "something", *, fatal: bool = False) -> KafkaError:
    return KafkaError(code, text, fatal=fatal)


def test_the_end_of_a_partition_is_no_error(errors: Errors):
    assert errors.errors.is_end(_error(KafkaError._PARTITION_EOF))
    assert not errors.errors.is_end(_error(KafkaError._TRANSPORT))
    assert not errors.errors.is_end("a text")


def test_an_error_that_passes_is_logged_and_followed_by_a_growing_pause(errors: Errors, caplog: pytest.LogCaptureFixture):
    for _ in range(8):
        errors.errors.came(_error(KafkaError._TRANSPORT, "connection reset"))
    assert errors.waited == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert errors.state.counters.poll_errors == 8
    assert errors.state.running.is_set()
    assert [r.levelno for r in caplog.records] == [logging.ERROR] * 8
    assert caplog.messages[0] == "poll error, going on in 0.1 s: connection reset"
    errors.errors.none()
    errors.errors.came(_error(KafkaError._TRANSPORT))
    assert errors.waited[-1] == 0.1  # messages came in between


def test_while_draining_an_error_neither_pauses_for_long_nor_floods_the_log(
    errors: Errors, clock: Clock, caplog: pytest.LogCaptureFixture
):
    errors.state.shutdown_event.set()
    for _ in range(20):
        errors.errors.came(_error(KafkaError._TRANSPORT))
    assert errors.waited == []
    assert clock.slept == [poll_errors.DRAINING_PAUSE_SECONDS] * 20
    assert len(caplog.records) == 1
    clock.now += 60
    errors.errors.came(_error(KafkaError._TRANSPORT))
    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    ("exception", "text"),
    [
        (KafkaException(KafkaError(KafkaError._TRANSPORT, "reset")), "reset"),
        (KafkaException("a text"), "a text"),
        (KafkaException(), ""),
    ],
)
def test_an_exception_is_an_error_like_any_other(
    errors: Errors, exception: KafkaException, text: str, caplog: pytest.LogCaptureFixture
):
    errors.errors.raised(exception)
    assert caplog.messages == [f"poll error, going on in 0.1 s: {text}"]
    assert errors.state.running.is_set()


@pytest.mark.parametrize(
    "code",
    [
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    ],
)
@pytest.mark.parametrize("way", ["came", "on_client_error"])
def test_refused_access_ends_the_consumer(errors: Errors, code: int, way: str, caplog: pytest.LogCaptureFixture):
    getattr(errors.errors, way)(_error(code, "not you"))
    assert errors.state.lifecycle.failed
    assert errors.state.lifecycle.stop_reason == "Kafka refuses access: not you"
    assert [r.levelno for r in caplog.records] == [logging.CRITICAL]
    assert errors.waited == []


def test_refused_access_is_said_once_however_often_it_comes(errors: Errors, caplog: pytest.LogCaptureFixture):
    for _ in range(20):
        errors.errors.on_client_error(_error(KafkaError._AUTHENTICATION, "not you"))
    assert caplog.messages == ["Kafka refuses access: not you; stopping"]


def test_once_it_has_ended_the_consumer_that_connections_are_lost_is_no_news(errors: Errors, caplog: pytest.LogCaptureFixture):
    errors.errors.on_client_error(_error(KafkaError._AUTHENTICATION, "not you"))
    errors.errors.on_client_error(_error(KafkaError._ALL_BROKERS_DOWN, "all down"))
    assert [record.levelname for record in caplog.records] == ["CRITICAL"]


def test_an_invalid_topic_name_ends_the_consumer(errors: Errors):
    errors.errors.came(_error(KafkaError.TOPIC_EXCEPTION, "invalid"))
    assert errors.state.lifecycle.failed
    assert "isn't a valid topic name" in (errors.state.lifecycle.stop_reason or "")


def test_a_fatal_error_ends_the_consumer(errors: Errors):
    errors.errors.came(_error(KafkaError._FENCED, "fenced by another instance", fatal=True))
    assert errors.state.lifecycle.stop_reason == "fatal error of the Kafka client: fenced by another instance"
    assert errors.state.lifecycle.failed


# --- a topic that isn't there -----------------------------------------------------------------------------------------


def test_without_a_subscription_an_unknown_topic_ends_the_consumer_at_once(tmp_path: Path):
    errors = Errors(tmp_path, subscribed=False)
    errors.errors.came(_error(KafkaError.UNKNOWN_TOPIC_OR_PART, "unknown"))
    assert errors.state.lifecycle.stop_reason == f"topic {TOPIC!r} doesn't exist: unknown"


@pytest.mark.parametrize("code", [KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC])
def test_a_topic_that_never_was_there_ends_the_consumer(tmp_path: Path, code: int):
    errors = Errors(tmp_path, topics={})
    errors.errors.look()  # nobody has complained
    errors.errors.came(_error(code))
    assert errors.state.running.is_set()
    errors.errors.look()
    assert errors.state.lifecycle.failed
    assert errors.state.lifecycle.stop_reason == f"topic {TOPIC!r} doesn't exist: create it, or check the name"


def test_a_topic_that_exists_after_all_ends_nothing(errors: Errors):
    errors.errors.came(_error(KafkaError.UNKNOWN_TOPIC_OR_PART))
    errors.errors.look()
    errors.errors.look()
    assert errors.state.running.is_set()
    assert len(errors.consumer.callers["list_topics"]) == 1


def test_a_topic_that_was_there_may_be_missing_for_a_while(tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture):
    errors = Errors(tmp_path, topics={})
    errors.partitions.ever_assigned = True
    errors.errors.came(_error(KafkaError.UNKNOWN_TOPIC_OR_PART))
    errors.errors.came(_error(KafkaError.UNKNOWN_TOPIC_OR_PART))
    for _ in range(5):
        errors.errors.look()
        clock.now += 1
    assert sum("waiting for it to come back" in m for m in caplog.messages) == 1  # it isn't asked at every poll
    clock.now += poll_errors.METADATA_SECONDS
    errors.errors.look()
    assert sum("waiting for it to come back" in m for m in caplog.messages) == 2
    assert errors.state.running.is_set()
    clock.now += poll_errors.UNKNOWN_TOPIC_SECONDS
    errors.errors.look()
    assert errors.state.lifecycle.failed


def test_a_topic_that_comes_back_in_time_ends_nothing(tmp_path: Path, clock: Clock):
    errors = Errors(tmp_path, topics={})
    errors.partitions.ever_assigned = True
    errors.errors.came(_error(KafkaError.UNKNOWN_TOPIC_OR_PART))
    errors.errors.look()
    errors.broker.create_topic(TOPIC)
    clock.now += poll_errors.UNKNOWN_TOPIC_SECONDS * 2
    errors.errors.look()
    assert errors.state.running.is_set()
    clock.now += poll_errors.UNKNOWN_TOPIC_SECONDS * 2
    errors.errors.look()
    assert errors.state.running.is_set()


def test_messages_say_that_the_topic_is_there(tmp_path: Path):
    errors = Errors(tmp_path, topics={})
    errors.errors.came(_error(KafkaError.UNKNOWN_TOPIC_OR_PART))
    errors.errors.none()
    errors.errors.look()
    assert errors.state.running.is_set()


def test_no_answer_is_no_proof_that_a_topic_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    errors = Errors(tmp_path, topics={})

    def fail(*arguments: Any, **options: Any) -> None:
        raise KafkaException(KafkaError(KafkaError._TRANSPORT, "down"))

    monkeypatch.setattr(errors.consumer, "list_topics", fail)
    errors.errors.came(_error(KafkaError.UNKNOWN_TOPIC_OR_PART))
    errors.errors.look()
    assert errors.state.running.is_set()


@pytest.mark.parametrize(
    ("topics", "exists"),
    [
        ({}, False),
        ({TOPIC: SimpleNamespace(error=None)}, True),
        ({TOPIC: SimpleNamespace(error=KafkaError(KafkaError.LEADER_NOT_AVAILABLE))}, True),
        ({TOPIC: SimpleNamespace(error=KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))}, False),
    ],
)
def test_only_a_clear_answer_says_that_a_topic_is_missing(
    errors: Errors, monkeypatch: pytest.MonkeyPatch, topics: dict[str, Any], exists: bool
):
    monkeypatch.setattr(errors.consumer, "list_topics", lambda *a, **k: SimpleNamespace(topics=topics))
    errors.errors.came(_error(KafkaError.UNKNOWN_TOPIC_OR_PART))
    errors.errors.look()
    assert errors.state.running.is_set() is exists


# --- brokers that can't be reached ------------------------------------------------------------------------------------


def test_brokers_that_cannot_be_reached_are_told_now_and_then(errors: Errors, clock: Clock, caplog: pytest.LogCaptureFixture):
    for _ in range(1200):
        errors.errors.on_client_error(_error(KafkaError._ALL_BROKERS_DOWN, "all down"))
        clock.now += 0.1
    assert errors.state.running.is_set()
    assert 5 <= len(caplog.messages) <= 10  # two minutes
    assert caplog.messages[0] == "no connection to Kafka at localhost:9092, trying again: all down"
    errors.errors.none()
    clock.now += 1
    errors.errors.on_client_error(_error(KafkaError._RESOLVE, "no such host"))
    assert caplog.messages[-1].endswith("no such host")


def test_another_error_of_the_client_is_logged(errors: Errors, caplog: pytest.LogCaptureFixture):
    errors.errors.on_client_error(_error(KafkaError._INVALID_ARG, "odd"))
    assert caplog.messages == ["Kafka client: odd"]
    assert errors.state.running.is_set()


def _down(errors: Errors, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise KafkaException(KafkaError(KafkaError._TRANSPORT, "down"))

    monkeypatch.setattr(errors.consumer, "list_topics", fail)


def test_brokers_that_stay_away_are_told_at_growing_intervals_though_librdkafka_says_it_once(
    errors: Errors, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    with monkeypatch.context() as patched:
        _down(errors, patched)
        errors.errors.on_client_error(_error(KafkaError._TRANSPORT, "connection refused"))
        said_at = []
        for _ in range(1500):
            before = len(caplog.messages)
            errors.errors.look()
            if len(caplog.messages) > before:
                said_at.append(round(clock.now - 1000))
            clock.now += 0.1
    assert said_at == [1, 3, 7, 15, 31, 61, 91, 121]
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    assert caplog.messages[0] == "no connection to Kafka at localhost:9092, trying again: connection refused"
    assert caplog.messages[3] == "no connection to Kafka at localhost:9092 for 7 s, trying again: connection refused"
    # It answers: said once, and the next loss begins anew.
    clock.now += 30
    errors.errors.look()
    errors.errors.look()
    assert caplog.messages[-1] == "Kafka answers again, 180 s after a connection was lost"
    assert len(caplog.messages) == len(said_at) + 2
    assert len(errors.consumer.callers["list_topics"]) == 1
    errors.errors.on_client_error(_error(KafkaError._TRANSPORT, "reset"))
    assert caplog.messages[-1] == "no connection to Kafka at localhost:9092, trying again: reset"
    assert errors.state.running.is_set()


def test_a_connection_that_is_lost_for_a_moment_is_asked_about_once(errors: Errors, clock: Clock):
    errors.errors.on_client_error(_error(KafkaError._TRANSPORT, "reset"))
    for _ in range(100):
        errors.errors.look()
        clock.now += 0.1
    assert errors.asked == 1


# --- stop targets -----------------------------------------------------------------------------------------------------


def test_a_stop_target_in_a_partition_that_does_not_exist_ends_the_consumer(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    errors = Errors(tmp_path, stop_at_offset={(TOPIC, 1): 5, ("other", 7): 1})
    errors.errors.look()
    assert errors.state.running.is_set()  # nothing is known yet
    errors.partitions.ever_assigned = True
    errors.errors.look()
    assert errors.state.lifecycle.failed
    assert caplog.messages == [f"stop_at_offset: no such partition: {TOPIC}-1; the topic has one partition, 0; stopping"]


def test_stop_targets_that_exist_are_looked_for_once(tmp_path: Path):
    errors = Errors(tmp_path, stop_at_offset={(TOPIC, 0): 5, ("other", 7): 1})
    errors.partitions.ever_assigned = True
    for _ in range(3):
        errors.errors.look()
    assert errors.state.running.is_set()
    assert errors.asked == 1


def test_stop_targets_that_cannot_be_checked_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    errors = Errors(tmp_path, stop_at_offset={(TOPIC, 1): 5})
    errors.partitions.ever_assigned = True
    _down(errors, monkeypatch)
    errors.errors.look()
    errors.errors.look()
    assert errors.state.running.is_set()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_consumer_that_knows_no_topics_has_its_stop_targets_waited_for(tmp_path: Path):
    errors = Errors(tmp_path, stop_at_offset={(TOPIC, 1): 5})
    errors.partitions.ever_assigned = True
    errors.errors._consumer = SimpleNamespace()
    errors.errors.look()
    assert errors.state.running.is_set()


# --- the pause --------------------------------------------------------------------------------------------------------


def test_the_pause_is_a_real_one_and_ends_with_the_run(tmp_path: Path):
    state = make_state(tmp_path)
    errors = PollErrors(state, None, Partitions(state, None, lambda: None))
    begun = time.monotonic()
    errors.came(_error(KafkaError._TRANSPORT))
    assert time.monotonic() - begun >= 0.1
    errors._pause = 5.0
    state.stop("enough")
    begun = time.monotonic()
    errors.came(_error(KafkaError._TRANSPORT))
    assert time.monotonic() - begun < 2
