"""librdkafka's mock cluster: what is left where no broker can be had. It serves groups, commits and watermarks."""

from __future__ import annotations

import uuid
from typing import Self

import pytest
from confluent_kafka import Producer

from tests.kafka.tools import ANSWER_SECONDS, Kafka

# Fixed in librdkafka; only its C interface can choose another number.
TOPIC_PARTITIONS = 4


class MockKafka(Kafka):
    """A cluster inside librdkafka that lives as long as its producer.

    A topic always has four partitions there; ``produce()`` and the offsets keep to the number that ``create_topic()`` was
    asked for, the others stay empty. What it can't do skips the test that asks for it.
    """

    real = False
    description = "librdkafka's mock cluster"

    def __init__(self) -> None:
        super().__init__()
        self._cluster: Producer | None = None
        self._bootstrap = ""

    @property
    def bootstrap(self) -> str:
        return self._bootstrap

    def start(self) -> Self:
        self._cluster = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "replaced", "log_level": 0})
        brokers = self._cluster.list_topics(timeout=ANSWER_SECONDS).brokers
        self._bootstrap = ",".join(f"{broker.host}:{broker.port}" for broker in brokers.values())
        return self

    def create_topic(self, name: str | None = None, partitions: int = 1, **config: str) -> str:
        if config or partitions > TOPIC_PARTITIONS:
            pytest.skip(f"librdkafka's mock cluster has no topic options and {TOPIC_PARTITIONS} partitions a topic")
        name = name or f"test-{uuid.uuid4().hex[:12]}"
        # There is no CreateTopics; asking for a topic's metadata makes it.
        self._wait_for_leaders(name, TOPIC_PARTITIONS)
        with self._lock:
            self._partitions[name] = partitions
        return name

    def close(self) -> None:
        super().close()
        self._cluster = None
