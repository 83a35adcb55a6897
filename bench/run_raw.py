"""The ceiling: a bare ``consume()`` loop that calls the function and commits its position each second; nothing is tracked."""

from __future__ import annotations

import time

from common import FETCHING, Meter, arguments, finish, work
from confluent_kafka import Consumer, KafkaException

a = arguments("raw")
consumer = Consumer({
    "bootstrap.servers": a.bootstrap, "group.id": a.group, "auto.offset.reset": "earliest", "enable.auto.commit": False,
    **FETCHING,
})  # fmt: skip
consumer.subscribe([a.topic])
process, meter, done, committed_at = work(a.work), Meter(), 0, time.monotonic()
while done < a.count:
    batch = consumer.consume(min(1000, a.count - done), 0.1)
    if not batch:
        continue
    meter.first()
    for message in batch:
        if message.error():
            raise KafkaException(message.error())
        process(message.value())
    done += len(batch)
    if time.monotonic() - committed_at >= a.commit_interval:
        consumer.commit(asynchronous=True)
        committed_at = time.monotonic()
consumer.commit(asynchronous=False)
meter.end()
consumer.close()
finish("raw", a, done, meter)
