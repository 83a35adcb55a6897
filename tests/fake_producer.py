"""A stand-in for ``confluent_kafka.Producer`` and the topics behind it, as far as ``dlq_topic`` uses them.

``check`` is what both have to do: the unit tests ask the stand-in, the end-to-end tests a real one on a real broker.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from confluent_kafka import KafkaError, KafkaException

AWAY_SECONDS = 0.005  # how long a flush waits for brokers that are away, at the most
TOO_LARGE = KafkaError.MSG_SIZE_TOO_LARGE


class Record(NamedTuple):
    """A message as the topic has it."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]

    @property
    def size(self) -> int:
        """About how many bytes it takes."""
        return len(self.key or b"") + len(self.value or b"") + sum(len(name) + len(value or b"") for name, value in self.headers)


class FakeTopics:
    """The brokers' side. A test sets what it likes at any time: ``away``, ``largest``, ``refusal``, ``complaint``."""

    def __init__(self, *names: str) -> None:
        self.records: dict[str, list[Record]] = {name: [] for name in names}
        self.away = False  # nothing is answered
        self.largest = 1_000_000  # bytes of a request
        self.room = 100_000  # messages in a producer's queue
        self.refusal: KafkaError | None = None  # what each message is answered with
        self.complaints: list[KafkaError] = []  # what error_cb hears at the next poll or flush
        self.calls: Counter[str] = Counter()
        self.producers: list[FakeProducer] = []

    def producer(self, options: dict[str, Any], logger: Any = None) -> FakeProducer:
        """Make a producer: to stand in for the class."""
        made = FakeProducer(self, options)
        self.producers.append(made)
        return made


class FakeProducer:
    """One producer. As in librdkafka every callback runs within ``poll`` or ``flush``."""

    def __init__(self, topics: FakeTopics, options: dict[str, Any]) -> None:
        self.topics = topics
        self.options = options
        self._waiting: list[tuple[str, Record, Callable[[KafkaError | None, Any], None]]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def produce(
        self, topic: str, value: bytes | None = None, key: bytes | None = None, *,
        headers: Sequence[tuple[str, bytes | None]] = (), on_delivery: Callable[[KafkaError | None, Any], None],
    ) -> None:  # fmt: skip
        self.topics.calls["produce"] += 1
        record = Record(key, value, tuple(headers))
        if record.size > self.options.get("message.max.bytes", 1_000_000):
            raise KafkaException(KafkaError(TOO_LARGE))
        if len(self._waiting) >= self.topics.room:
            raise BufferError("Local: Queue full")
        self._waiting.append((topic, record, on_delivery))

    def poll(self, timeout: float) -> int:
        self._complain()
        return 0

    def flush(self, timeout: float) -> int:
        self.topics.calls["flush"] += 1
        deadline = time.monotonic() + min(timeout, AWAY_SECONDS)
        while self._waiting and self.topics.away and time.monotonic() < deadline:
            time.sleep(0.001)
        self._complain()
        if not self.topics.away:
            most = self.options.get("batch.num.messages", 10_000)
            while self._waiting:
                request, self._waiting = self._waiting[:most], self._waiting[most:]
                self._answer(request)
        return len(self._waiting)

    def purge(self, in_queue: bool = True, in_flight: bool = True, blocking: bool = True) -> None:
        self._waiting, gone = [], self._waiting
        for _, _, heard in gone:
            heard(KafkaError(KafkaError._PURGE_QUEUE), None)

    def list_topics(self, topic: str, timeout: float) -> Any:
        self.topics.calls["list_topics"] += 1
        if self.topics.away:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        there = topic in self.topics.records
        error = None if there else KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
        return SimpleNamespace(topics={topic: SimpleNamespace(error=error, partitions={0: "p"} if there else {})})

    def _complain(self) -> None:
        while self.topics.complaints:
            complaint = self.topics.complaints.pop(0)
            if complaint.fatal():  # as the binding does
                raise KafkaException(complaint)
            self.options["error_cb"](complaint)

    def _answer(self, request: list[tuple[str, Record, Callable[[KafkaError | None, Any], None]]]) -> None:
        """Take a request, or refuse all of it: brokers don't say which of its messages is too large."""
        error = self.topics.refusal
        if error is None and sum(record.size for _, record, _ in request) > self.topics.largest:
            error = KafkaError(TOO_LARGE)
        for topic, record, heard in request:
            if error is None:
                self.topics.records[topic].append(record)
            heard(error, None)


def check(producer: Callable[[dict[str, Any]], Any], topic: str, unknown: str) -> None:
    """Assert what ``dlq_topic`` takes for granted of a producer; ``topic`` takes no request of more than 5,000 bytes."""
    heard: list[KafkaError | None] = []

    def send(to: Any, *values: bytes | None) -> list[int | None]:
        heard.clear()
        for value in values:
            to.produce(topic, value=value, key=None, headers=[("h", None)], on_delivery=lambda error, _: heard.append(error))
        assert heard == [], "expected no answer before somebody listens"
        assert len(to) == len(values)
        assert to.flush(20) == 0
        return [None if error is None else error.code() for error in heard]

    together, alone = producer({}), producer({"batch.num.messages": 1})
    for _ in range(2):  # a refusal spoils nothing that comes later
        assert send(together, b"a", None) == [None, None]
        assert send(together, b"a", b"x" * 6000) == [TOO_LARGE, TOO_LARGE]
        assert send(alone, b"a", b"x" * 6000, None, b"b") == [None, TOO_LARGE, None, None]
    tiny = producer({"message.max.bytes": 2000})
    with pytest.raises(KafkaException) as raised:
        tiny.produce(topic, value=b"x" * 3000, key=None, headers=[], on_delivery=lambda *_: None)
    assert raised.value.args[0].code() == TOO_LARGE
    together.produce(topic, value=b"a", key=None, headers=[], on_delivery=lambda error, _: heard.append(error))
    together.purge(blocking=False)
    assert together.flush(20) == 0
    found = together.list_topics(topic, timeout=10).topics[topic]
    assert found.error is None
    assert found.partitions
    assert together.list_topics(unknown, timeout=10).topics[unknown].error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART
