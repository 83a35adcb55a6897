"""What tests ask of a Kafka, whichever it is: topics, messages, offsets.

One object may be used by several threads: librdkafka's admin client and producer allow that, and what is kept here is
written under a lock.
"""

from __future__ import annotations

import threading
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self, TypeVar

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    OffsetSpec,
    ResourcePatternType,
    ResourceType,
)

from tests.kafka.properties import MESSAGE_MAX_BYTES

ANSWER_SECONDS = 30.0
_ATTEMPT_SECONDS = 6.0
_POLL_SECONDS = 0.02
# What a broker answers in its first moments, and a client while leaders and coordinators move: the answer is "not yet".
_NOT_YET = frozenset(
    {
        KafkaError._NOENT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT, KafkaError._WAIT_COORD,
        KafkaError._WAIT_CACHE, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.REQUEST_TIMED_OUT, KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.NOT_COORDINATOR, KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.OFFSET_NOT_AVAILABLE, KafkaError.FENCED_LEADER_EPOCH, KafkaError.UNKNOWN_LEADER_EPOCH,
    }
)  # fmt: skip

_T = TypeVar("_T")


def _acl(user: str, kind: ResourceType, name: str) -> AclBinding:
    literal, allow = ResourcePatternType.LITERAL, AclPermissionType.ALLOW
    return AclBinding(kind, name, literal, f"User:{user}", "*", AclOperation.READ, allow)


Headers = Sequence[tuple[str, str | bytes | None]]


class Kafka:
    """A Kafka that tests use. ``description`` says which; ``real`` is False for librdkafka's mock cluster only."""

    real = True
    description = "a Kafka cluster"

    def __init__(self, client_options: Mapping[str, Any] | None = None) -> None:
        # Options that every client here needs to be let in, such as SASL.
        self.client_options: dict[str, Any] = dict(client_options or {})
        self._lock = threading.Lock()
        self._admin_client: AdminClient | None = None
        self._producer_client: Producer | None = None
        self._partitions: dict[str, int] = {}

    @property
    def bootstrap(self) -> str:
        """``host:port[,host:port...]``, as ``bootstrap.servers`` wants it."""
        raise NotImplementedError

    def start(self) -> Self:
        """Start it where that is ours to do; return self when it answers."""
        return self

    def close(self) -> None:
        """End our clients and what was started; idempotent."""
        self._close_clients()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # --- topics ---------------------------------------------------------------------------------------------------

    def create_topic(self, name: str | None = None, partitions: int = 1, **config: str) -> str:
        """Create a topic and return its name (a unique one if none is given) once every partition has a leader.

        ``config`` is the topic's, underscores standing for dots: ``cleanup_policy="compact"``.
        """
        ours = name is None
        name = name or f"test-{uuid.uuid4().hex[:12]}"
        options = {key.replace("_", "."): str(value) for key, value in config.items()}
        new = NewTopic(name, num_partitions=partitions, replication_factor=-1, config=options)

        def ask(admin: AdminClient) -> None:
            admin.create_topics([new], operation_timeout=_ATTEMPT_SECONDS)[new.topic].result(_ATTEMPT_SECONDS)

        try:
            self._until_answered(ask)
        except KafkaException as error:
            # A name of our own exists already: an attempt that wasn't answered in time had been heard.
            if not (ours and error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS):
                raise
        self._wait_for_leaders(name, partitions)
        with self._lock:
            self._partitions[name] = partitions
        return name

    def _wait_for_leaders(self, topic: str, partitions: int) -> None:
        deadline = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < deadline:
            found = self._until_answered(lambda admin: admin.list_topics(topic, timeout=_ATTEMPT_SECONDS).topics[topic])
            if not found.error and sum(p.leader >= 0 for p in found.partitions.values()) >= partitions:
                return
            time.sleep(_POLL_SECONDS)
        message = f"expected every partition of {topic} to have a leader within {ANSWER_SECONDS:g} s"
        raise TimeoutError(message)

    def partitions(self, topic: str) -> int:
        """Return how many partitions a topic has."""
        with self._lock:
            known = self._partitions.get(topic)
        if known is not None:
            return known
        found = self._until_answered(lambda admin: admin.list_topics(topic, timeout=_ATTEMPT_SECONDS).topics[topic])
        if found.error is not None:
            raise KafkaException(found.error)
        with self._lock:
            self._partitions[topic] = len(found.partitions)
        return len(found.partitions)

    # --- messages -------------------------------------------------------------------------------------------------

    def produce(
        self,
        topic: str,
        values: Iterable[bytes | str | None],
        keys: Iterable[bytes | str | None] | None = None,
        partition: int | None = None,
        headers: Headers | None = None,
        *,
        timestamp_ms: int = 0,
    ) -> None:
        """Write one message for each value and return when the broker has acknowledged all of them.

        Without ``partition``, keyed messages go where their key says, and the others to the partitions in turn: the first
        to 0, the second to 1, ... ``headers`` and ``timestamp_ms`` (0 is now) go onto every message. Raises KafkaException
        for the first message that wasn't delivered.
        """
        producer = self._producer()
        count = self.partitions(topic)
        failed: list[KafkaError] = []

        def delivered(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                failed.append(error)

        shared: dict[str, Any] = {"on_delivery": delivered, "timestamp": timestamp_ms}
        if headers is not None:
            shared["headers"] = list(headers)
        key_of = iter(keys) if keys is not None else None
        for number, value in enumerate(values):
            key = next(key_of) if key_of is not None else None
            target = self._partition_for(key, number, count) if partition is None else partition
            while True:
                try:
                    producer.produce(topic, value, key, target, **shared)
                    break
                except BufferError:
                    producer.poll(0.1)
        left = producer.flush(ANSWER_SECONDS * 2)
        if failed:
            raise KafkaException(failed[0])
        if left:
            message = f"expected every message to be acknowledged within {ANSWER_SECONDS * 2:g} s, got {left} left"
            raise TimeoutError(message)

    def _partition_for(self, key: bytes | str | None, number: int, count: int) -> int:
        if key is None:
            return number % count
        return zlib.crc32(key.encode() if isinstance(key, str) else key) % count

    def read(self, topic: str, count: int, *, timeout: float = ANSWER_SECONDS) -> list[Message]:
        """Return the first ``count`` messages of a topic, by partition and offset, without joining a group.

        Raises TimeoutError when there aren't that many within ``timeout`` seconds.
        """
        consumer = Consumer(self._options({"group.id": "read-for-tests", "enable.auto.commit": False}))
        got: list[Message] = []
        try:
            consumer.assign([TopicPartition(topic, number, 0) for number in range(self.partitions(topic))])
            deadline = time.monotonic() + timeout
            while len(got) < count:
                if time.monotonic() > deadline:
                    message = f"expected {count} messages in {topic} within {timeout:g} s, got {len(got)}"
                    raise TimeoutError(message)
                for polled in consumer.consume(count - len(got), 0.1):
                    error = polled.error()
                    if error is None:
                        got.append(polled)
                    elif not error.retriable():
                        raise KafkaException(error)
        finally:
            consumer.close()
        return sorted(got, key=lambda m: (m.partition() or 0, m.offset() or 0))

    # --- offsets --------------------------------------------------------------------------------------------------

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """Return what a group has committed, as Kafka's next offset; a partition without a commit isn't in it."""
        return {number: found.offset for number, found in self._committed(group, topic).items()}

    def committed_metadata(self, group: str, topic: str) -> dict[int, str]:
        """Return the metadata of a group's commits, "" where there is none; only partitions with a commit."""
        return {number: found.metadata or "" for number, found in self._committed(group, topic).items()}

    def _committed(self, group: str, topic: str) -> dict[int, TopicPartition]:
        asked = [TopicPartition(topic, number) for number in range(self.partitions(topic))]

        # By a consumer that never joins the group, not by AdminClient.list_consumer_group_offsets(): a broker that has just
        # begun to coordinate the group may answer NOT_COORDINATOR, which librdkafka hands to the group of its client. An
        # admin client has none: the process would die of a null pointer.
        def ask(_admin: AdminClient) -> list[TopicPartition]:
            # read_uncommitted: the offsets of a transaction that is still open don't delay the answer.
            options = {"group.id": group, "enable.auto.commit": False, "isolation.level": "read_uncommitted"}
            consumer = Consumer(self._options(options))
            try:
                return consumer.committed(asked, timeout=_ATTEMPT_SECONDS)
            finally:
                consumer.close()

        try:
            found = self._until_answered(ask)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                return {}
            raise
        return {each.partition: each for each in found if each.error is None and each.offset != OFFSET_INVALID}

    def allow(self, user: str, *, topic: str, group: str) -> None:
        """Allow a user to consume a topic as a group, and nothing else."""
        wanted = [_acl(user, ResourceType.TOPIC, topic), _acl(user, ResourceType.GROUP, group)]
        self._until_answered(lambda admin: [answer.result(_ATTEMPT_SECONDS) for answer in admin.create_acls(wanted).values()])

    def forbid_topic(self, user: str, topic: str) -> None:
        """Take back what ``allow`` allowed with a topic."""
        self._forbid(user, ResourceType.TOPIC, topic)

    def forbid_group(self, user: str, group: str) -> None:
        """Take back what ``allow`` allowed with a group."""
        self._forbid(user, ResourceType.GROUP, group)

    def _forbid(self, user: str, kind: ResourceType, name: str) -> None:
        found = AclBindingFilter(
            kind, name, ResourcePatternType.LITERAL, f"User:{user}", "*", AclOperation.READ, AclPermissionType.ALLOW
        )
        self._until_answered(lambda admin: [answer.result(_ATTEMPT_SECONDS) for answer in admin.delete_acls([found]).values()])

    def set_committed(self, group: str, topic: str, offsets: Mapping[int, int]) -> None:
        """Commit for a group without a member, as an administrator would: ``{partition: next offset}``."""
        wanted = [TopicPartition(topic, number, offset) for number, offset in offsets.items()]

        def ask(_admin: AdminClient) -> None:
            consumer = Consumer(self._options({"group.id": group, "enable.auto.commit": False}))
            try:
                consumer.commit(offsets=wanted, asynchronous=False)
            finally:
                consumer.close()

        self._until_answered(ask)

    def delete_before(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Delete the messages before these offsets, ``{partition: first offset that stays}``, as retention would."""
        wanted = [TopicPartition(topic, number, offset) for number, offset in offsets.items()]

        def ask(admin: AdminClient) -> None:
            for answer in admin.delete_records(wanted, request_timeout=_ATTEMPT_SECONDS).values():
                answer.result(_ATTEMPT_SECONDS)

        self._until_answered(ask)

    def end_offsets(self, topic: str) -> dict[int, int]:
        """Return each partition's high watermark: the offset that the next message will get."""
        return self._list_offsets(topic, OffsetSpec.latest())

    def start_offsets(self, topic: str) -> dict[int, int]:
        """Return the first offset that each partition still holds."""
        return self._list_offsets(topic, OffsetSpec.earliest())

    def _list_offsets(self, topic: str, spec: OffsetSpec) -> dict[int, int]:
        asked = {TopicPartition(topic, number): spec for number in range(self.partitions(topic))}

        def ask(admin: AdminClient) -> dict[int, int]:
            answers = admin.list_offsets(asked, request_timeout=_ATTEMPT_SECONDS)
            found = {at.partition: answer.result(_ATTEMPT_SECONDS).offset for at, answer in answers.items()}
            if OFFSET_INVALID in found.values():
                # What librdkafka makes of a broker that was asked and didn't answer; not an error, to its mind.
                message = f"expected the offsets of every partition of {topic}, got {found}"
                raise TimeoutError(message)
            return found

        return self._until_answered(ask)

    def lag(self, group: str, topic: str) -> int:
        """Return how many offsets a group has yet to commit; where it has committed nothing, all that the log holds."""
        committed = self.committed(group, topic)
        starts = self.start_offsets(topic)
        return sum(end - committed.get(number, starts[number]) for number, end in self.end_offsets(topic).items())

    def wait_for_lag(self, group: str, topic: str, lag: int = 0, *, timeout: float = 30.0) -> None:
        """Return when a group's lag is at most ``lag``; raise TimeoutError after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while (now := self.lag(group, topic)) > lag:
            if time.monotonic() > deadline:
                message = f"expected the lag of {group} on {topic} to be at most {lag} within {timeout:g} s, got {now}"
                raise TimeoutError(message)
            time.sleep(_POLL_SECONDS * 5)

    def _until_answered(self, ask: Callable[[AdminClient], _T]) -> _T:
        """Return what ``ask`` returns, asking again while the cluster says "not yet" or nothing; at last raise its error."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            try:
                return ask(self._admin())
            except (KafkaException, TimeoutError) as error:
                not_yet = isinstance(error, TimeoutError) or error.args[0].code() in _NOT_YET
                if not not_yet or time.monotonic() > deadline:
                    raise
            # The client asked whom it took for the leader; a new one asks who that is.
            self._forget_metadata()
            time.sleep(_POLL_SECONDS)

    # --- clients --------------------------------------------------------------------------------------------------

    def _options(self, more: Mapping[str, Any]) -> dict[str, Any]:
        # log_level 0: a broker that a test has just killed isn't news, and librdkafka would write it to stderr.
        # socket.timeout.ms: a suspended node never answers; only then does a client ask another one who leads now.
        ours = {
            "bootstrap.servers": self.bootstrap,
            "log_level": 0,
            "socket.timeout.ms": 5000,
            "api.version.request.timeout.ms": 3000,
        }
        return {**ours, **self.client_options, **more}

    def _admin(self) -> AdminClient:
        with self._lock:
            if self._admin_client is None:
                self._admin_client = AdminClient(self._options({}))
            return self._admin_client

    def _producer(self) -> Producer:
        with self._lock:
            if self._producer_client is None:
                self._producer_client = Producer(
                    self._options(
                        {
                            "linger.ms": 5,
                            # A batch that a new topic's leader refuses at first is sent again before the next: order holds.
                            "max.in.flight.requests.per.connection": 1,
                            "message.max.bytes": MESSAGE_MAX_BYTES,
                            "queue.buffering.max.messages": 1_000_000,
                            # Acknowledgements would cost a Python call a message.
                            "delivery.report.only.error": True,
                            "delivery.timeout.ms": int(ANSWER_SECONDS * 1500),
                            "request.timeout.ms": 5000,
                        }
                    )
                )
            return self._producer_client

    def _forget_metadata(self) -> None:
        # An admin client keeps leaders and their epochs for minutes, and would ask a restarted broker by them.
        with self._lock:
            self._admin_client = None

    def _close_clients(self) -> None:
        # Under the lock for the swap alone: their destructors wait for librdkafka's threads.
        with self._lock:
            self._admin_client, self._producer_client = None, None
