"""One suite for the fake consumer of ``tests/fakes.py`` and for ``confluent_kafka.Consumer`` on this run's Kafka.

What the tests of the core take for granted about a Kafka client is written down here, and holds for both: so the fake can be
trusted. Whatever isn't about groups is done with ``assign``, which needs no rebalance.
"""

from __future__ import annotations

import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, TopicPartition

from kafka_consumer.kafka_consumer import client_options
from tests.fakes import FakeBroker, FakeConsumer
from tests.helpers import eventually, make_config
from tests.kafka import Kafka

GROUP_SECONDS = 20.0  # how long a rebalance may take: three seconds on the mock cluster, more on a busy machine
QUIET_SECONDS = 0.4  # how long nothing has to come for "nothing comes"


class Side(ABC):
    """A Kafka and its clients."""

    def __init__(self) -> None:
        self.clients: list[Any] = []

    def consumer(self, group: str, topic: str, **hooks: Any) -> Any:
        """Return a consumer with the options that ``KafkaConsumer`` gives it."""
        found = self._build(group, topic, **hooks)
        self.clients.append(found)
        return found

    def close(self) -> None:
        for client in self.clients:
            client.close()

    @abstractmethod
    def reporting(self, group: str, topic: str) -> Any:
        """Return a consumer that reports what isn't in the log, as ``KafkaConsumer`` has it."""

    @abstractmethod
    def delete_before(self, topic: str, partition: int, offset: int) -> None: ...

    @abstractmethod
    def beyond_the_mock_cluster(self, reason: str) -> None:
        """Skip where the real client's Kafka is librdkafka's mock cluster, which can't do this."""

    @abstractmethod
    def _build(self, group: str, topic: str, **hooks: Any) -> Any: ...

    @abstractmethod
    def topic(self, partitions: int = 1) -> str: ...

    @abstractmethod
    def produce(self, topic: str, partition: int, values: list[bytes | None], **options: Any) -> None: ...

    @abstractmethod
    def committed(self, group: str, topic: str) -> dict[int, int]: ...


class FakeSide(Side):
    def __init__(self) -> None:
        super().__init__()
        self.broker = FakeBroker()

    def beyond_the_mock_cluster(self, reason: str) -> None:
        """The fake can."""

    def reporting(self, group: str, topic: str) -> Any:
        return self.consumer(group, topic, auto_offset_reset="error")

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        self.broker.delete_before(topic, partition, offset)

    def _build(self, group: str, topic: str, **hooks: Any) -> Any:
        return FakeConsumer(self.broker, group, **hooks)

    def topic(self, partitions: int = 1) -> str:
        name = f"test-{uuid.uuid4().hex[:8]}"
        self.broker.create_topic(name, partitions)
        return name

    def produce(self, topic: str, partition: int, values: list[bytes | None], **options: Any) -> None:
        for value in values:
            self.broker.produce(topic, partition, value, **options)

    def committed(self, group: str, topic: str) -> dict[int, int]:
        with self.broker.changed:
            return {key[1]: offset for key, (offset, _) in self.broker.groups[group].committed.items() if key[0] == topic}


class RealSide(Side):
    def __init__(self, kafka: Kafka, folder: Any) -> None:
        super().__init__()
        self.kafka = kafka
        self.folder = folder

    def beyond_the_mock_cluster(self, reason: str) -> None:
        if not self.kafka.real:
            pytest.skip(f"librdkafka's mock cluster won't do: {reason}")

    def reporting(self, group: str, topic: str) -> Any:
        return self.consumer(group, topic, **{"auto.offset.reset": "error"})

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        self.kafka.delete_before(topic, {partition: offset})

    def _build(self, group: str, topic: str, **hooks: Any) -> Any:
        # A rebalance is heard of with the next heartbeat.
        options = {"log_level": 0, "fetch.wait.max.ms": 20, "heartbeat.interval.ms": 200, **self.kafka.client_options}
        names = {"bootstrap_servers": self.kafka.bootstrap, "group_id": group, "topic": topic}
        ours = client_options(make_config(self.folder, **names, kafka_options=options))
        # Ours has librdkafka report what isn't in the log; the behaviour looked at here is the same with a start of its own.
        return Consumer({**ours, "auto.offset.reset": "earliest", **hooks})

    def topic(self, partitions: int = 1) -> str:
        return self.kafka.create_topic(partitions=partitions)

    def produce(self, topic: str, partition: int, values: list[bytes | None], **options: Any) -> None:
        key, stamp = options.pop("key", None), options.pop("timestamp", 0)
        self.kafka.produce(topic, values, [key] * len(values), partition, timestamp_ms=stamp, **options)

    def committed(self, group: str, topic: str) -> dict[int, int]:
        return self.kafka.committed(group, topic)


@pytest.fixture(params=["fake", "real"])
def side(request, tmp_path) -> Iterator[Side]:
    found = FakeSide() if request.param == "fake" else RealSide(request.getfixturevalue("kafka"), tmp_path)
    yield found
    found.close()


@pytest.fixture
def group() -> str:
    return f"group-{uuid.uuid4().hex[:8]}"


def polled(consumer: Any, count: int, *, ends: bool = False) -> list[Any]:
    """Poll until so many messages (``ends``: and ends of partitions) have come."""
    found: list[Any] = []

    def enough() -> bool:
        message = consumer.poll(0.05)
        if message is not None and (ends or message.error() is None):
            found.append(message)
        return len(found) >= count

    eventually(enough, GROUP_SECONDS)
    return found


def quiet(consumer: Any, seconds: float = QUIET_SECONDS) -> list[Any]:
    """Poll for a while; return the messages that came, without the ends of partitions."""
    until = time.monotonic() + seconds
    found = []
    while time.monotonic() < until:
        message = consumer.poll(0.05)
        if message is not None and message.error() is None:
            found.append(message)
    return found


def poll_until(condition: Callable[[], Any], *consumers: Any) -> None:
    def step() -> Any:
        for consumer in consumers:
            consumer.poll(0.02)
        return condition()

    eventually(step, GROUP_SECONDS)


def values(messages: list[Any]) -> list[bytes]:
    return [message.value() for message in messages]


def numbers(count: int, start: int = 0) -> list[bytes | None]:
    return [b"%d" % n for n in range(start, start + count)]


class Member:
    """A consumer in a group; ``calls`` are the callbacks: (name, partitions, thread)."""

    def __init__(self, side: Side, group: str, topic: str) -> None:
        self.calls: list[tuple[str, list[int], int]] = []
        self.owned: set[int] = set()
        self.consumer = side.consumer(group, topic)
        self.consumer.subscribe([topic], on_assign=self._on("assign"), on_revoke=self._on("revoke"), on_lost=self._on("lost"))

    def _on(self, name: str) -> Callable[[Any, list[TopicPartition]], None]:
        def called(consumer: Any, partitions: list[TopicPartition]) -> None:
            assert consumer is self.consumer
            found = sorted(tp.partition for tp in partitions)
            self.calls.append((name, found, threading.get_ident()))
            self.owned = self.owned | set(found) if name == "assign" else self.owned - set(found)

        return called


# --- groups -----------------------------------------------------------------------------------------------------------


def test_callbacks_run_inside_a_poll_in_its_thread_and_close_leaves_the_group(side, group):
    side.beyond_the_mock_cluster("a group that had a member takes no other one for long")
    topic = side.topic(2)
    side.produce(topic, 0, numbers(3))
    first = Member(side, group, topic)
    time.sleep(0.1)
    assert first.calls == [], "expected nothing to be called before a poll"
    poll_until(lambda: first.owned >= {0, 1}, first.consumer)
    assert {name for name, _, _ in first.calls} == {"assign"}
    assert {thread for _, _, thread in first.calls} == {threading.get_ident()}
    assert {tp.partition for tp in first.consumer.assignment()} == first.owned

    first.consumer.close()
    assert first.owned == set()
    assert first.calls[-1][0] == "revoke"
    with pytest.raises(RuntimeError):
        first.consumer.poll(0)

    second = Member(side, group, topic)
    began = time.monotonic()
    poll_until(lambda: second.owned >= {0, 1}, second.consumer)
    assert time.monotonic() - began < 10, "expected the group not to wait for the member that has left"


def test_the_first_member_gets_every_partition_and_what_it_hasn_t_committed(side, group):
    topic = side.topic(1)
    side.produce(topic, 0, numbers(5))
    member = Member(side, group, topic)
    assert values(polled(member.consumer, 5)) == numbers(5)
    assert 0 in member.owned
    assert {thread for _, _, thread in member.calls} == {threading.get_ident()}
    member.consumer.close()
    assert member.owned == set()
    assert side.committed(group, topic) == {}, "expected nothing to be committed that nobody committed"


def test_a_second_member_gets_a_share_and_only_what_moves_is_revoked(side, group):
    side.beyond_the_mock_cluster("a group that had a member takes no other one for long")
    topic = side.topic(4)
    first = Member(side, group, topic)
    poll_until(lambda: len(first.owned) == 4, first.consumer)
    before = len(first.calls)
    second = Member(side, group, topic)
    poll_until(lambda: len(first.owned) == len(second.owned) == 2, first.consumer, second.consumer)
    assert first.owned | second.owned == {0, 1, 2, 3}
    revoked = [partitions for name, partitions, _ in first.calls[before:] if name == "revoke"]
    assert revoked == [sorted(second.owned)]
    assert not [c for c in (*first.calls, *second.calls) if c[0] == "lost"]

    second.consumer.close()
    poll_until(lambda: len(first.owned) == 4, first.consumer)


def test_a_commit_inside_on_revoke_counts(side, group):
    side.beyond_the_mock_cluster("a group that had a member takes no other one for long")
    topic = side.topic(1)
    side.produce(topic, 0, numbers(10))
    consumer = side.consumer(group, topic)
    answers: list[Any] = []

    def on_revoke(client: Any, partitions: list[TopicPartition]) -> None:
        answers.append(client.commit(offsets=[TopicPartition(topic, 0, 4)], asynchronous=False))

    consumer.subscribe([topic], on_revoke=on_revoke)
    assert values(polled(consumer, 10)) == numbers(10)
    consumer.close()
    assert [(tp.partition, tp.offset, tp.error) for tp in answers[0]] == [(0, 4, None)]
    assert side.committed(group, topic) == {0: 4}

    again = side.consumer(group, topic)
    again.subscribe([topic])
    assert values(polled(again, 6)) == numbers(6, 4)


def test_the_message_of_an_earlier_poll_isn_t_returned_after_a_revocation(side, group):
    """What follows on_assign begins at the committed offset, whatever was returned before."""
    side.beyond_the_mock_cluster("a group that had a member takes no other one for long")
    topic = side.topic(1)
    side.produce(topic, 0, numbers(5))
    member = Member(side, group, topic)
    assert values(polled(member.consumer, 3)) == numbers(3)
    member.consumer.unsubscribe()
    poll_until(lambda: not member.consumer.assignment(), member.consumer)
    member.consumer.subscribe([topic])
    assert values(polled(member.consumer, 5)) == numbers(5)


def test_a_topic_that_doesn_t_exist_comes_as_an_error_of_a_poll(side, group):
    side.beyond_the_mock_cluster("it makes every topic that is asked for")
    name = f"missing-{uuid.uuid4().hex[:8]}"
    member = Member(side, group, name)
    errors: list[KafkaError] = []

    def told() -> bool:
        message = member.consumer.poll(0.05)
        if message is not None:
            errors.append(message.error())
        return bool(errors)

    eventually(told, GROUP_SECONDS)
    assert errors[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART
    assert not errors[0].fatal()
    found = member.consumer.list_topics(name, timeout=10).topics[name]
    assert found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART
    assert found.partitions == {}
    assert member.owned == set()


# --- offsets ----------------------------------------------------------------------------------------------------------


def test_committed_offsets_and_their_metadata_come_back(side, group):
    topic = side.topic(2)
    consumer = side.consumer(group, topic)
    asked = [TopicPartition(topic, 0), TopicPartition(topic, 1)]
    assert [tp.offset for tp in consumer.committed(asked, timeout=10)] == [OFFSET_INVALID] * 2

    consumer.assign([TopicPartition(topic, 0, 0)])
    answer = consumer.commit(offsets=[TopicPartition(topic, 0, 7, metadata="kc1.x")], asynchronous=False)
    assert [(tp.topic, tp.partition, tp.offset, tp.error) for tp in answer] == [(topic, 0, 7, None)]

    found = consumer.committed(asked, timeout=10)
    assert [(tp.partition, tp.offset, tp.error) for tp in found] == [(0, 7, None), (1, OFFSET_INVALID, None)]
    assert found[0].metadata == "kc1.x"
    assert side.committed(group, topic) == {0: 7}


def test_a_commit_may_go_back(side, group):
    topic = side.topic(1)
    consumer = side.consumer(group, topic)
    consumer.assign([TopicPartition(topic, 0, 0)])
    for offset in (9, 3):
        consumer.commit(offsets=[TopicPartition(topic, 0, offset)], asynchronous=False)
    assert side.committed(group, topic) == {0: 3}


def test_the_answer_to_an_asynchronous_commit_comes_in_a_later_poll(side, group):
    topic = side.topic(1)
    answers: list[tuple[Any, list[tuple[int, int]], int]] = []

    def on_commit(error: Any, partitions: list[TopicPartition]) -> None:
        answers.append((error, [(tp.partition, tp.offset) for tp in partitions], threading.get_ident()))

    consumer = side.consumer(group, topic, on_commit=on_commit)
    consumer.assign([TopicPartition(topic, 0, 0)])
    assert consumer.commit(offsets=[TopicPartition(topic, 0, 5)], asynchronous=True) is None
    time.sleep(0.1)
    assert answers == [], "expected no answer outside a poll"
    poll_until(lambda: answers, consumer)
    assert answers == [(None, [(0, 5)], threading.get_ident())]
    assert side.committed(group, topic) == {0: 5}


def test_a_position_is_the_next_offset_after_what_was_returned(side, group):
    topic = side.topic(1)
    side.produce(topic, 0, numbers(5))
    consumer = side.consumer(group, topic)
    consumer.assign([TopicPartition(topic, 0, 0)])
    assert consumer.position([TopicPartition(topic, 0)])[0].offset == OFFSET_INVALID
    polled(consumer, 3)
    assert consumer.position([TopicPartition(topic, 0)])[0].offset == 3


def test_a_seek_goes_on_from_there(side, group):
    topic = side.topic(1)
    side.produce(topic, 0, numbers(10))
    consumer = side.consumer(group, topic)
    consumer.assign([TopicPartition(topic, 0, 0)])
    assert values(polled(consumer, 2)) == numbers(2)
    consumer.seek(TopicPartition(topic, 0, 7))
    assert values(polled(consumer, 3)) == numbers(3, 7)


def test_watermarks_are_asked_of_the_broker_or_remembered_from_the_last_fetch(side, group):
    topic = side.topic(1)
    side.produce(topic, 0, numbers(5))
    consumer = side.consumer(group, topic)
    tp = TopicPartition(topic, 0, 0)
    assert consumer.get_watermark_offsets(tp, timeout=10) == (0, 5)
    consumer.assign([tp])
    assert consumer.get_watermark_offsets(tp, cached=True)[1] == OFFSET_INVALID
    polled(consumer, 5)
    poll_until(lambda: consumer.get_watermark_offsets(tp, cached=True)[1] == 5, consumer)

    consumer.pause([tp])
    side.produce(topic, 0, numbers(5))
    quiet(consumer)
    # No fetch renews it while paused; one that was under way may have.
    assert consumer.get_watermark_offsets(tp, cached=True)[1] in {5, 10}
    assert consumer.get_watermark_offsets(tp, timeout=10) == (0, 10)


def test_offsets_are_found_by_time(side, group):
    side.beyond_the_mock_cluster("it looks nothing up by time")
    topic = side.topic(1)
    for stamp in (1_000_000, 2_000_000, 3_000_000):
        side.produce(topic, 0, [b"x"], timestamp=stamp)
    consumer = side.consumer(group, topic)
    asked = [(1_500_000, 1), (2_000_000, 1), (9_000_000, -1)]
    for stamp, offset in asked:
        [found] = consumer.offsets_for_times([TopicPartition(topic, 0, stamp)], timeout=10)
        assert found.offset == offset, stamp


# --- messages and ends ------------------------------------------------------------------------------------------------


def test_a_message_has_what_was_produced(side, group):
    topic = side.topic(1)
    side.produce(topic, 0, [b"value"], key=b"key", headers=[("a", b"1"), ("a", None)], timestamp=1_700_000_000_123)
    side.produce(topic, 0, [None])
    side.produce(topic, 0, [b""], key=b"")
    consumer = side.consumer(group, topic)
    consumer.assign([TopicPartition(topic, 0, 0)])
    full, tombstone, empty = polled(consumer, 3)
    assert (full.topic(), full.partition(), full.offset(), full.error()) == (topic, 0, 0, None)
    assert (full.key(), full.value(), full.headers()) == (b"key", b"value", [("a", b"1"), ("a", None)])
    assert full.timestamp() == (1, 1_700_000_000_123)
    assert (tombstone.offset(), tombstone.key(), tombstone.value(), tombstone.headers()) == (1, None, None, None)
    assert (empty.key(), empty.value()) == (b"", b"")
    assert tombstone.timestamp()[0] == 1
    assert abs(tombstone.timestamp()[1] / 1000 - time.time()) < 60


def test_the_end_of_a_partition_is_told_once_and_again_after_more_messages(side, group):
    topic = side.topic(1)
    side.produce(topic, 0, numbers(3))
    consumer = side.consumer(group, topic)
    consumer.assign([TopicPartition(topic, 0, 0)])
    *_, end = polled(consumer, 4, ends=True)
    assert end.error().code() == KafkaError._PARTITION_EOF
    assert (end.topic(), end.partition(), end.offset()) == (topic, 0, 3)
    assert not [m for m in (consumer.poll(0.05) for _ in range(6)) if m is not None]

    side.produce(topic, 0, numbers(1, 3))
    message, end = polled(consumer, 2, ends=True)
    assert message.offset() == 3
    assert (end.error().code(), end.offset()) == (KafkaError._PARTITION_EOF, 4)
    assert consumer.position([TopicPartition(topic, 0)])[0].offset == 4


def test_an_empty_partition_tells_its_end_too(side, group):
    topic = side.topic(1)
    consumer = side.consumer(group, topic)
    consumer.assign([TopicPartition(topic, 0, 0)])
    [end] = polled(consumer, 1, ends=True)
    assert (end.error().code(), end.offset()) == (KafkaError._PARTITION_EOF, 0)


def test_consume_returns_what_is_there_ends_included_without_waiting(side, group):
    topic = side.topic(1)
    side.produce(topic, 0, numbers(20))
    consumer = side.consumer(group, topic)
    consumer.assign([TopicPartition(topic, 0, 0)])
    assert polled(consumer, 1)[0].offset() == 0  # now they are fetched
    found: list[Any] = []
    while len(found) < 20 and len(got := consumer.consume(5, 0)) <= 5:
        found += got
    assert [m.offset() for m in found] == list(range(1, 21))
    assert [m.error() is None for m in found] == [True] * 19 + [False]

    began = time.monotonic()
    assert consumer.consume(5, 0) == []
    assert time.monotonic() - began < 0.15


def test_a_poll_with_nothing_to_return_waits_for_its_timeout(side, group):
    topic = side.topic(1)
    consumer = side.consumer(group, topic)
    consumer.assign([TopicPartition(topic, 0, 0)])
    polled(consumer, 1, ends=True)
    began = time.monotonic()
    assert consumer.poll(0.2) is None
    assert 0.15 <= time.monotonic() - began < 2


# --- pausing ----------------------------------------------------------------------------------------------------------


def test_a_paused_partition_returns_nothing_and_goes_on_where_it_was(side, group):
    topic = side.topic(2)
    for partition in (0, 1):
        side.produce(topic, partition, numbers(10))
    consumer = side.consumer(group, topic)
    consumer.assign([TopicPartition(topic, 0, 0)])
    assert values(polled(consumer, 3)) == numbers(3)
    consumer.pause([TopicPartition(topic, 0)])
    assert quiet(consumer) == []
    consumer.pause([TopicPartition(topic, 0)])  # again: no matter
    consumer.resume([TopicPartition(topic, 0)])
    assert values(polled(consumer, 7)) == numbers(7, 3)


def test_other_partitions_go_on_while_one_is_paused(side, group):
    topic = side.topic(2)
    consumer = side.consumer(group, topic)
    consumer.assign([TopicPartition(topic, 0, 0), TopicPartition(topic, 1, 0)])
    polled(consumer, 2, ends=True)
    consumer.pause([TopicPartition(topic, 0)])
    for partition in (0, 1):
        side.produce(topic, partition, numbers(5))
    found = polled(consumer, 5)
    assert {m.partition() for m in found} == {1}
    assert quiet(consumer) == []
    consumer.resume([TopicPartition(topic, 0)])
    assert {m.partition() for m in polled(consumer, 5)} == {0}


def test_a_pause_survives_a_rebalance_until_it_is_lifted(side, group):
    side.beyond_the_mock_cluster("a group that had a member takes no other one for long")
    topic = side.topic(1)
    side.produce(topic, 0, numbers(5))
    member = Member(side, group, topic)
    assert values(polled(member.consumer, 5)) == numbers(5)
    member.consumer.pause([TopicPartition(topic, 0)])
    member.consumer.unsubscribe()
    poll_until(lambda: not member.consumer.assignment(), member.consumer)
    member.consumer.subscribe([topic])
    poll_until(member.consumer.assignment, member.consumer)
    assert quiet(member.consumer) == []
    member.consumer.resume([TopicPartition(topic, 0)])
    assert values(polled(member.consumer, 5)) == numbers(5)


# --- what isn't in the log --------------------------------------------------------------------------------------------


def reports(messages: list[Any]) -> list[tuple[int, int | None]]:
    """Return the partition and the offset of each report that an offset isn't in the log."""
    codes = {KafkaError._AUTO_OFFSET_RESET}
    return [(m.partition(), m.offset()) for m in messages if m.error() is not None and m.error().code() in codes]


def test_a_partition_without_a_committed_offset_is_reported_and_fetched_no_more_until_it_is_assigned_again(side, group):
    side.beyond_the_mock_cluster("a group that had a member takes no other one for long")
    topic = side.topic(2)
    for partition in (0, 1):
        side.produce(topic, partition, numbers(5))
    consumer = side.reporting(group, topic)
    consumer.subscribe([topic])
    found = polled(consumer, 2, ends=True)
    assert sorted(reports(found)) == [(0, None), (1, None)]
    assert quiet(consumer) == []
    consumer.incremental_unassign([TopicPartition(topic, 1)])
    consumer.incremental_assign([TopicPartition(topic, 1, 2)])
    assert values(polled(consumer, 3)) == numbers(3, 2)
    assert quiet(consumer) == []


def test_a_committed_offset_whose_message_was_deleted_is_reported(side, group):
    side.beyond_the_mock_cluster("it deletes no records, and a group that had a member takes no other one for long")
    topic = side.topic(1)
    side.produce(topic, 0, numbers(10))
    before = side.consumer(group, topic)
    before.commit(offsets=[TopicPartition(topic, 0, 2)], asynchronous=False)
    before.close()
    side.delete_before(topic, 0, 5)
    consumer = side.reporting(group, topic)
    consumer.subscribe([topic])
    assert reports(polled(consumer, 1, ends=True)) == [(0, 2)]
    assert consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10) == (5, 10)
    consumer.incremental_unassign([TopicPartition(topic, 0)])
    consumer.incremental_assign([TopicPartition(topic, 0, 5)])
    assert values(polled(consumer, 5)) == numbers(5, 5)


def test_what_was_fetched_before_the_hole_comes_before_the_report(side, group):
    side.beyond_the_mock_cluster("it deletes no records")
    topic = side.topic(1)
    side.produce(topic, 0, numbers(5))
    consumer = side.reporting(group, topic)
    consumer.assign([TopicPartition(topic, 0, 0)])
    assert values(polled(consumer, 5)) == numbers(5)
    consumer.pause([TopicPartition(topic, 0)])
    side.produce(topic, 0, numbers(5, 5))
    side.delete_before(topic, 0, 8)
    consumer.resume([TopicPartition(topic, 0)])
    found = [m for m in polled(consumer, 1, ends=True) if m.error().code() != KafkaError._PARTITION_EOF]
    assert reports(found or polled(consumer, 1, ends=True)) == [(0, 5)]
