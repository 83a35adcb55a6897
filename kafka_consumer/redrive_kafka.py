"""Kafka's side of a redrive: a batch of dead letters is sent whole or not at all, and one can ask afterwards which.

Each batch is one transaction of a transactional, idempotent producer. Within the same transaction the batch's number is committed
as an offset, of partition 0 of a topic that exists, for the group ``kc.redrive.<journal id>``: the *marker*. Messages and marker
become visible together. A process that dies between its two lines in the journal leaves a batch in doubt; the next one

1. calls ``init_transactions()`` with the same ``transactional.id``: the broker aborts what was still open, or completes what was
   being committed, and turns away whatever the dead process may yet have on the wire. From here on the batch's fate is settled;
2. reads the marker. It is the batch's number: the batch was sent. It is a smaller one: nothing of it was.

A broker forgets offsets (``offsets.retention.minutes``, a week by default), and with a deleted topic its markers go. So that this
is never taken for "not sent", the marker is committed, with the number of the batch before, ahead of the first batch of each
run; one that isn't there any more means that nobody knows, and the operator is asked.

Consumers that read with ``isolation.level=read_committed`` (librdkafka's default, and kc's) never see an aborted batch.

The user needs: Write on the transactional id and Read on the group, both ``kc.redrive.*``; Write on the destination; Read on the
topic of the marker, which is the dead letters' own topic, or the destination where that doesn't exist any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from kafka_consumer.errors import ConfigError, RedriveError
from kafka_consumer.kafka_properties import mask_values
from kafka_consumer.producer_options import THE_LETTERS, connection_options, quiet_logger, reliable_producer
from kafka_consumer.redaction import Redactor
from kafka_consumer.refusals import REFUSED

T = TypeVar("T")

OPEN_SECONDS = 30.0  # how long the brokers may take to answer at all
TRANSACTION_SECONDS = 60.0  # how long they may take for one batch; also transaction.timeout.ms
ATTEMPT_SECONDS = 2.0  # one call; what didn't end in time is called again

_THE_TOPICS = frozenset({
    KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_EXCEPTION,
    KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
})  # fmt: skip

_quiet = quiet_logger("redrive")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message on its way. ``partition`` None leaves the choice to the key; ``timestamp`` (milliseconds) None is now."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    timestamp: int | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a batch was taken back: one of its messages, or (``topic_wide``) whatever goes to one of its topics."""

    reason: str
    topic_wide: bool


def producer_options(bootstrap_servers: str, kafka_options: Mapping[str, Any], transactional_id: str) -> dict[str, Any]:
    """Return librdkafka's options for the producer: the user's where a producer takes them, then ours."""
    return {
        **reliable_producer(bootstrap_servers, kafka_options),
        "transactional.id": transactional_id,
        "transaction.timeout.ms": int(TRANSACTION_SECONDS * 1000),
    }


class AbortedError(RedriveError):
    """The brokers failed at a batch, which was taken back: nothing of it was sent."""


class KafkaSender:
    """Sends batches, each whole or not at all. For one thread. Errors of every method but the first: ``RedriveError``.

    ``stopping`` is asked while the brokers are waited for at the start.
    """

    def __init__(
        self, bootstrap_servers: str, kafka_options: Mapping[str, Any], journal_id: str,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        """Build the clients; nothing is connected yet. Errors: ``ConfigError`` for options that librdkafka refuses."""
        self._servers = bootstrap_servers
        self._redactor = Redactor(kafka_options)
        self._stopping = stopping
        self._said = ""
        self._refused = False
        name = f"kc.redrive.{journal_id}"
        common = {"client.id": "kc", **connection_options(kafka_options), "bootstrap.servers": bootstrap_servers}
        self._options = {**producer_options(bootstrap_servers, kafka_options, name), "error_cb": self._on_error}
        try:
            self._producer = Producer(self._options, logger=_quiet)
            self._markers = Consumer(
                {**common, "group.id": name, "enable.auto.commit": False, "error_cb": self._on_error}, logger=_quiet
            )
        except KafkaException as error:
            raise ConfigError(f"kafka options: {mask_values(error.args[0].str(), kafka_options)}") from None
        self._partitions: dict[str, frozenset[int] | None] = {}
        self.cluster = ""

    def open(self) -> None:
        """Connect, and settle what an earlier process with the same journal may have left open."""
        self._start_transactions()
        self.cluster = self._ask("the brokers don't answer", self._list_topics).cluster_id or ""

    def _start_transactions(self) -> None:
        self._ask("no transaction can be begun", lambda: self._producer.init_transactions(ATTEMPT_SECONDS))

    def _start_producer(self) -> None:
        """Go on with a new producer: after a refused message librdkafka's own (2.16) spoils the next transaction, too.

        Its sequence numbers have a gap then, which it takes for an error of its own.
        """
        self._producer = Producer(self._options, logger=_quiet)
        self._start_transactions()

    def close(self) -> None:
        """Close the clients."""
        self._markers.close()

    def partitions(self, topic: str) -> frozenset[int] | None:
        """Return a topic's partitions, None for one that doesn't exist. Asked once."""
        if topic not in self._partitions:
            found = self._ask(f"topic {topic}", lambda: self._list_topics(topic)).topics.get(topic)
            known = found is not None and found.error is None and found.partitions
            self._partitions[topic] = frozenset(found.partitions) if found is not None and known else None
        return self._partitions[topic]

    def marked(self, marker: str) -> int | None:
        """Return the number of the last batch that was sent with this marker; None where none is known (any more)."""
        wanted = [TopicPartition(marker, 0)]
        (found,) = self._ask("the marker can't be read", lambda: self._markers.committed(wanted, timeout=ATTEMPT_SECONDS * 2))
        if found.error is not None:
            raise RedriveError(self._told("the marker can't be read", found.error))
        return found.offset if found.offset >= 0 else None

    def mark(self, marker: str, number: int) -> None:
        """Set a marker outside any transaction: the last batch before those to come."""
        self.marked(marker)  # unlike a commit, it tells in time that this user may not use the group
        wanted = [TopicPartition(marker, 0, number)]
        self._ask("the marker can't be set", lambda: self._markers.commit(offsets=wanted, asynchronous=False))

    def send(self, batch: Sequence[Outgoing], marker: str, number: int) -> Refusal | None:
        """Send a batch; None when all of it was. After a ``Refusal`` nothing of it was; after an error nobody knows yet."""
        faults: list[KafkaError] = []

        def delivered(error: KafkaError | None, _message: Any) -> None:
            if error is not None:
                faults.append(error)

        try:
            self._producer.begin_transaction()
            for message in batch:
                self._produce(message, delivered)
            offsets = [TopicPartition(marker, 0, number)]
            group = self._markers.consumer_group_metadata()
            send_marker = partial(self._producer.send_offsets_to_transaction, offsets, group, ATTEMPT_SECONDS)
            try:
                self._again(send_marker)
            except KafkaException as error:
                if error.args[0].code() != KafkaError._STATE:  # noqa: SLF001 - how the binding names librdkafka's own codes
                    raise
                send_marker()  # a failed message comes first; asked once more, librdkafka says why that failed
                raise
            # Waits until every message was delivered.
            self._again(lambda: self._producer.commit_transaction(ATTEMPT_SECONDS))
        except KafkaException as error:
            return self._taken_back(error, faults)
        return None

    def _produce(self, message: Outgoing, delivered: Callable[[KafkaError | None, Any], None]) -> None:
        more: dict[str, Any] = {}
        if message.partition is not None:
            more["partition"] = message.partition
        if message.timestamp is not None:
            more["timestamp"] = message.timestamp
        if message.headers:
            more["headers"] = list(message.headers)
        deadline = time.monotonic() + TRANSACTION_SECONDS
        while True:
            try:
                self._producer.produce(message.topic, value=message.value, key=message.key, on_delivery=delivered, **more)
            except BufferError as error:
                if time.monotonic() >= deadline:
                    raise RedriveError(f"the brokers of {self._servers} take no messages") from error
                self._producer.poll(0.1)
            else:
                return

    def _taken_back(self, error: KafkaException, faults: Sequence[KafkaError]) -> Refusal:
        """Abort the transaction and return why. Errors: ``RedriveError`` when it isn't one message's, or one topic's, fault."""
        try:
            self._again(lambda: self._producer.abort_transaction(ATTEMPT_SECONDS))
        except KafkaException as failed:
            cause = next((each for each in faults if each.code() != KafkaError._PURGE_QUEUE), failed.args[0])  # noqa: SLF001
            raise RedriveError(self._told("the last batch is in doubt, the next run finds out", cause)) from None
        for codes, topic_wide in ((_THE_TOPICS, True), (THE_LETTERS, False)):
            # What came of each message is told while it aborts.
            for reason in [*faults, error.args[0]]:
                if reason.code() in codes:
                    self._start_producer()
                    return Refusal(self._redactor.redact(reason.str()), topic_wide)
        raise AbortedError(self._told("the last batch was taken back", error.args[0]))

    def _again(self, call: Callable[[], T]) -> T:
        """Call until it has ended: what takes longer than one call may be called again. Errors: ``KafkaException``."""
        deadline = time.monotonic() + TRANSACTION_SECONDS
        while True:
            try:
                return call()
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() >= deadline:
                    raise

    def _ask(self, what: str, call: Callable[[], T]) -> T:
        """Call until it is answered, refused, or the time is up."""
        deadline = time.monotonic() + OPEN_SECONDS
        while True:
            try:
                return call()
            except KafkaException as error:
                self._listen()
                problem = error.args[0]
                final = self._refused or problem.fatal() or problem.code() in REFUSED or problem.code() in _THE_TOPICS
                if final or self._stopping() or time.monotonic() >= deadline:
                    raise RedriveError(self._told(what, problem)) from None
            time.sleep(0.05)

    def _list_topics(self, topic: str | None = None) -> Any:
        # The consumer's: a producer's question would create the topic where brokers do so.
        asked = {} if topic is None else {"topic": topic}
        return self._markers.list_topics(**asked, timeout=ATTEMPT_SECONDS)

    def _listen(self) -> None:
        """Hear what the clients' attempts have come to."""
        try:
            self._producer.poll(0)
            found = self._markers.poll(0)
        except KafkaException as error:
            self._on_error(error.args[0])
            return
        problem = None if found is None else found.error()
        if problem is not None:
            self._on_error(problem)

    def _on_error(self, error: KafkaError) -> None:
        """What librdkafka complains about; called within its methods. Must not raise."""
        self._refused = self._refused or error.code() in REFUSED
        if error.code() != KafkaError._ALL_BROKERS_DOWN or not self._said:  # noqa: SLF001 - it follows each refusal and says less
            self._said = error.str()

    def _told(self, what: str, error: KafkaError) -> str:
        said = f"{error.str()}; {self._said}" if self._said and self._said != error.str() else error.str()
        return self._redactor.redact(f"{what}: {said} (brokers: {self._servers})")
