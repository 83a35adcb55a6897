"""Fill a topic for the benchmarks: keyless messages, spread evenly over the partitions. A topic that holds them is left alone."""

from __future__ import annotations

import random
import string
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic


def held(bootstrap: str, topic: str) -> int:
    """Return how many messages a topic holds; 0 when it doesn't exist."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "bench-load"})
    try:
        found = consumer.list_topics(timeout=10).topics.get(topic)
        if found is None:
            return 0
        marks = [consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10) for p in found.partitions]
        return sum(high - low for low, high in marks)
    finally:
        consumer.close()


def load(bootstrap: str, topic: str, partitions: int, count: int, size: int) -> None:
    """Make sure that ``topic`` holds ``count`` messages of ``size`` bytes in ``partitions`` partitions."""
    if held(bootstrap, topic) == count:
        return
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(30)
    _wait_for_leaders(bootstrap, topic)
    filler = "".join(random.Random(7).choices(string.ascii_letters + string.digits, k=size)).encode()
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 50, "queue.buffering.max.messages": 500_000, "acks": "1"})
    for index in range(count):
        value = (b"%012d" % index + filler)[:size]
        while True:
            try:
                producer.produce(topic, value, partition=index % partitions)
                break
            except BufferError:
                producer.poll(0.1)
        if index % 10_000 == 0:
            producer.poll(0)
    producer.flush(120)
    if held(bootstrap, topic) != count:
        raise SystemExit(f"{topic} holds {held(bootstrap, topic)} messages, expected {count}: give another broker")


def _wait_for_leaders(bootstrap: str, topic: str) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            held(bootstrap, topic)
        except KafkaException:
            time.sleep(0.1)
        else:
            return
