"""The client: one thread makes every call, others ask it; commits are answered in any order, or too late, or never."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from kafka_consumer import client as client_module
from kafka_consumer.client import Client
from kafka_consumer.errors import ClientClosedError, RequestTimeoutError
from tests.fakes import FakeBroker, FakeConsumer, MockKafkaConsumer
from tests.helpers import background, eventually


class AsyncConsumer:
    """Takes asynchronous commits and answers them when, and in the order in which, a test says so."""

    def __init__(self) -> None:
        self.asked: list[list[TopicPartition]] = []
        self.synchronous: list[list[TopicPartition]] = []
        self.threads: set[int] = set()
        self.assigned = [TopicPartition("t", 0)]
        self.unsubscribed = False
        self.closed = False
        self.refuse: KafkaException | None = None

    def commit(self, offsets: list[TopicPartition], asynchronous: bool) -> Any:
        self.threads.add(threading.get_ident())
        if self.refuse is not None:
            raise self.refuse
        if not asynchronous:
            self.synchronous.append(offsets)
            return offsets
        self.asked.append(offsets)
        return None

    def assignment(self) -> list[TopicPartition]:
        return list(self.assigned)

    def unsubscribe(self) -> None:
        self.unsubscribed = True

    def memberid(self) -> str | None:
        return None

    def close(self) -> None:
        self.closed = True


def _client(consumer: Any, *, asynchronous: bool = True) -> Client:
    client = Client(consumer)
    client._asynchronous = asynchronous  # as after connect(), without a broker
    return client


def _tp(partition: int, offset: int) -> TopicPartition:
    return TopicPartition("t", partition, offset)


@contextmanager
def owned(client: Client, step: Callable[[], None] = lambda: None) -> Iterator[threading.Thread]:
    """Serve the client's requests in a thread of its own."""
    end = threading.Event()
    ready = threading.Event()

    def own() -> None:
        client.own()
        ready.set()
        while not end.is_set():
            client.posted.wait(0.002)
            client.serve()
            step()

    with background(own, stop=end.set) as thread:
        assert ready.wait(5)
        yield thread


# --- requests ---------------------------------------------------------------------------------------------------------


def test_a_request_is_executed_by_the_owner():
    client = _client(AsyncConsumer())
    with owned(client) as owner:
        assert client.call(threading.get_ident) == owner.ident
        assert owner.ident != threading.get_ident()


def test_the_owner_itself_does_not_wait_for_itself():
    client = Client(MockKafkaConsumer())
    client.own()
    assert client.call(lambda: 7, timeout=0.01) == 7
    assert not client.posted.is_set()


def test_what_a_request_raises_is_raised_where_it_was_asked():
    client = _client(AsyncConsumer())

    def fail() -> None:
        raise KeyError("odd")

    def leave() -> None:
        raise SystemExit(3)

    def time_out() -> None:
        raise TimeoutError("the function's own")

    with owned(client):
        with pytest.raises(KeyError, match="odd"):
            client.call(fail)
        with pytest.raises(SystemExit):
            client.call(leave)
        with pytest.raises(TimeoutError, match="the function's own") as caught:
            client.call(time_out)
        assert not isinstance(caught.value, RequestTimeoutError)
        assert client.call(lambda: "alive") == "alive"


def test_a_request_that_nobody_serves_is_given_up_and_never_executed():
    client = Client(MockKafkaConsumer())
    calls: list[int] = []
    with pytest.raises(RequestTimeoutError, match=r"no answer from Kafka within 0\.02 s"):
        client.call(lambda: calls.append(1), timeout=0.02)
    assert client.posted.is_set()
    client.own()
    client.serve()
    assert calls == []
    assert not client.posted.is_set()


def test_requests_of_many_threads_are_served_in_their_order():
    client = _client(AsyncConsumer())
    with owned(client), ThreadPoolExecutor(16) as threads:
        assert list(threads.map(lambda number: client.call(lambda: number * 2), range(200))) == [n * 2 for n in range(200)]


# --- commits ----------------------------------------------------------------------------------------------------------


def test_a_given_consumer_commits_in_the_owners_thread():
    broker = FakeBroker({"t": 2})
    consumer = FakeConsumer(broker, "g")
    client = Client(consumer)
    with owned(client) as owner:
        client.commit(offsets=[_tp(0, 5), _tp(1, 7)])
    assert (broker.committed("g", "t", 0), broker.committed("g", "t", 1)) == (5, 7)
    assert consumer.callers["commit"] == {owner.ident}


def test_an_asynchronous_commit_is_refused_its_result_matters():
    with pytest.raises(ValueError, match="expected asynchronous to be False"):
        Client(MockKafkaConsumer()).commit(offsets=[], asynchronous=True)


def test_commits_may_be_answered_in_any_order():
    consumer = AsyncConsumer()
    client = _client(consumer)
    with owned(client), ThreadPoolExecutor(3) as threads:
        asked = [threads.submit(client.commit, offsets=[_tp(1, 10 * n), _tp(0, n)]) for n in (1, 2, 3)]
        eventually(lambda: len(consumer.asked) == 3)
        by_offset = {offsets[-1].offset: offsets for offsets in consumer.asked}
        error = KafkaError(KafkaError.REBALANCE_IN_PROGRESS, "rebalancing")
        client.call(lambda: client._on_commit(None, list(reversed(by_offset[3]))))  # librdkafka sorts the partitions
        assert asked[2].result(5)[0].offset == 3
        client.call(lambda: client._on_commit(error, by_offset[1]))
        with pytest.raises(KafkaException, match="rebalancing"):
            asked[0].result(5)
        assert not asked[1].done()
        client.call(lambda: client._on_commit(None, by_offset[2]))
        assert asked[1].result(5)[1].offset == 2
    assert client._commits == []


def test_a_commit_without_an_answer_is_given_up_and_a_late_answer_does_no_harm():
    consumer = AsyncConsumer()
    client = _client(consumer)
    with owned(client):
        begun = time.monotonic()
        with pytest.raises(RequestTimeoutError):
            client.commit(offsets=[_tp(0, 1)], timeout=0.05)
        assert time.monotonic() - begun < 5
        client.call(lambda: client._on_commit(None, consumer.asked[0]))  # it must not raise inside a poll
        client.call(lambda: client._on_commit(KafkaError(KafkaError._TIMED_OUT), []))


def test_an_answer_at_the_very_moment_of_giving_up_does_no_harm():
    client = _client(AsyncConsumer())
    future: Future[list[TopicPartition]] = Future()
    client._commits.append(([("t", 0, 1)], future))
    future.cancel()  # what the thread that asked does, just before it takes the commit off the list
    client._on_commit(None, [_tp(0, 1)])
    assert client._commits == []
    given_up: Future[list[TopicPartition]] = Future()
    client._commits.append(([("t", 0, 1)], given_up))
    given_up.cancel()
    client.disown()
    assert future.cancelled()
    assert given_up.cancelled()


def test_what_librdkafka_refuses_at_once_is_raised():
    consumer = AsyncConsumer()
    consumer.refuse = KafkaException(KafkaError(KafkaError._STATE, "no state"))
    client = _client(consumer)
    with owned(client), pytest.raises(KafkaException, match="no state"):
        client.commit(offsets=[_tp(0, 1)])
    assert client._commits == []


def test_the_owner_commits_synchronously_in_a_revocation():
    consumer = AsyncConsumer()
    client = _client(consumer)
    client.own()
    assert client.commit(offsets=[_tp(0, 1)])[0].offset == 1
    assert len(consumer.synchronous) == 1
    assert consumer.asked == []


def test_a_commit_that_the_owner_serves_for_another_is_asynchronous():
    """Even when it is served inside a revocation: the owner must not wait for a coordinator on another's behalf."""
    consumer = AsyncConsumer()
    client = _client(consumer)
    with owned(client), ThreadPoolExecutor(1) as threads:
        asked = threads.submit(client.commit, offsets=[_tp(0, 1)])
        eventually(lambda: consumer.asked)
        client.call(lambda: client._on_commit(None, consumer.asked[0]))
        asked.result(5)
    assert consumer.synchronous == []


@pytest.mark.parametrize("asynchronous", [True, False])
def test_what_was_revoked_meanwhile_is_not_committed(asynchronous: bool):
    consumer = AsyncConsumer()
    client = _client(consumer, asynchronous=asynchronous)
    gone = {0}
    asking_threads: set[int] = set()

    def still_ours(tp: TopicPartition) -> bool:
        asking_threads.add(threading.get_ident())
        return tp.partition not in gone

    with owned(client) as owner, ThreadPoolExecutor(1) as threads:
        asked = threads.submit(client.commit, offsets=[_tp(0, 1), _tp(1, 2)], still_ours=still_ours)
        if asynchronous:
            eventually(lambda: consumer.asked)
            client.call(lambda: client._on_commit(None, consumer.asked[0]))
        assert [tp.partition for tp in asked.result(5)] == [1]
        gone.add(1)
        assert client.commit(offsets=[_tp(0, 1), _tp(1, 2)], still_ours=still_ours) == []
        assert asking_threads == {owner.ident}
    assert len(consumer.asked + consumer.synchronous) == 1


# --- the end ----------------------------------------------------------------------------------------------------------


def test_closing_fails_what_waits_and_what_comes_later():
    consumer = AsyncConsumer()
    client = _client(consumer)
    client.own()
    with ThreadPoolExecutor(2) as threads:
        commit = threads.submit(client.commit, offsets=[_tp(0, 1)])
        assert client.posted.wait(5)
        client.serve()
        assert consumer.asked
        waiting = threads.submit(client.call, lambda: 1)
        assert client.posted.wait(5)
        client.close()
        for future in (commit, waiting):
            with pytest.raises(ClientClosedError, match="the Kafka client is closed"):
                future.result(5)
    assert consumer.closed
    with pytest.raises(ClientClosedError):
        client.call(lambda: 1)  # the former owner, or a thread that has inherited its id


@pytest.mark.parametrize(("partitions", "leaves", "unsubscribed"), [([], True, True), ([0], True, False), ([], False, False)])
def test_a_member_without_partitions_unsubscribes_before_it_closes(
    partitions: list[int], leaves: bool, unsubscribed: bool
) -> None:
    """Closing alone wouldn't make librdkafka leave the group; a static member is to stay in it."""
    consumer = AsyncConsumer()
    consumer.assigned = [TopicPartition("t", number) for number in partitions]
    client = _client(consumer)
    client._leaves = leaves
    client.close()
    assert consumer.closed
    assert consumer.unsubscribed is unsubscribed


def test_leaving_waits_for_a_rebalance_that_is_under_way() -> None:
    class Rebalancing(AsyncConsumer):
        polls = 0

        def poll(self, timeout: float) -> None:
            self.polls += 1

        def memberid(self) -> str | None:
            return "member" if self.polls < 3 else None

    consumer = Rebalancing()
    consumer.assigned = []
    client = _client(consumer)
    client._leaves = True
    client.close()
    assert consumer.polls == 3
    assert consumer.closed


def test_a_consumer_that_fails_to_close_leaves_nobody_waiting():
    class Failing(AsyncConsumer):
        def close(self) -> None:
            raise RuntimeError("stuck")

    client = _client(Failing())
    with pytest.raises(RuntimeError, match="stuck"):
        client.close()
    with pytest.raises(ClientClosedError):
        client.call(lambda: 1)


def test_closing_without_a_consumer_does_nothing():
    Client().close()


def test_connecting_builds_a_consumer_that_reports_its_commits(monkeypatch: pytest.MonkeyPatch):
    built: list[tuple[dict[str, Any], Any]] = []

    def build(options: dict[str, Any], logger: Any) -> AsyncConsumer:
        built.append((options, logger))
        return AsyncConsumer()

    monkeypatch.setattr(client_module, "Consumer", build)
    client = Client()
    client.connect({"group.id": "g"})
    (options, logger) = built[0]
    assert options == {"group.id": "g", "on_commit": client._on_commit}
    assert client.consumer is not None
    assert logger.name == "kafka_consumer.librdkafka"
    assert client._asynchronous


def test_an_invalid_option_is_a_kafka_exception():
    with pytest.raises(KafkaException, match=r"no\.such\.option"):
        Client().connect({"group.id": "g", "no.such.option": "1"})


@pytest.mark.parametrize(("level", "expected"), [(logging.DEBUG, logging.DEBUG), (logging.INFO, logging.CRITICAL)])
def test_librdkafkas_own_lines_are_shown_at_debug_only(level: int, expected: int):
    package = logging.getLogger("kafka_consumer")
    before = package.level
    package.setLevel(level)
    try:
        assert client_module._quiet_logger().level == expected
    finally:
        package.setLevel(before)
