"""Fill a topic for the benchmarks; a topic that holds what is wanted is left alone.

  python bench/load.py --bootstrap HOST:PORT --topic NAME --partitions 6 --count 100000 --size 100 [--keys 10000]

Keyless messages are spread evenly over the partitions; with keys, message n has key n modulo their number. A value begins with
the message's number in twelve digits.
"""

from __future__ import annotations

import argparse
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


def create(bootstrap: str, topic: str, partitions: int) -> None:
    """Create a topic, and wait until every partition has a leader."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(topic, partitions, 1)])[topic].result(30)
    _wait_for_leaders(bootstrap, topic)


def delete(bootstrap: str, topic: str) -> None:
    """Delete a topic."""
    admin = AdminClient({"bootstrap.servers": bootstrap})  # held: the request ends with it
    admin.delete_topics([topic])[topic].result(30)


def load(bootstrap: str, topic: str, partitions: int, count: int, size: int, keys: int = 0) -> None:
    """Make sure that ``topic`` holds ``count`` messages of ``size`` bytes in ``partitions`` partitions."""
    if held(bootstrap, topic) == count:
        return
    create(bootstrap, topic, partitions)
    filler = "".join(random.Random(7).choices(string.ascii_letters + string.digits, k=size)).encode()
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 50, "queue.buffering.max.messages": 500_000, "acks": "1"})
    for index in range(count):
        value = (b"%012d" % index + filler)[:size]
        where = {"key": b"key-%d" % (index % keys)} if keys else {"partition": index % partitions}
        while True:
            try:
                producer.produce(topic, value, **where)
                break
            except BufferError:
                producer.poll(0.1)
        if index % 10_000 == 0:
            producer.poll(0)
    producer.flush(120)
    if held(bootstrap, topic) != count:
        raise SystemExit(f"{topic} holds {held(bootstrap, topic)} messages, expected {count}: give another broker")


def _wait_for_leaders(bootstrap: str, topic: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            held(bootstrap, topic)
        except KafkaException:
            time.sleep(0.1)
        else:
            return


def main() -> None:
    """Fill one topic."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    for name in ("partitions", "count", "size"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--keys", type=int, default=0)
    a = parser.parse_args()
    load(a.bootstrap, a.topic, a.partitions, a.count, a.size, a.keys)


if __name__ == "__main__":
    main()
