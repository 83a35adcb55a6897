"""The ceiling: a bare ``consume()`` loop that calls the function and commits its position each second; nothing is tracked.

Dead letters are rows of a file, on disk before the commit that passes them.
"""

from __future__ import annotations

import csv
import os
import tempfile
import time

from common import FETCHING, Meter, Work, WorkError, arguments, finish, version
from confluent_kafka import Consumer, KafkaException

a = arguments("raw")
consumer = Consumer({
    "bootstrap.servers": a.bootstrap, "group.id": a.group, "auto.offset.reset": "earliest", "enable.auto.commit": False,
    **FETCHING,
})  # fmt: skip
consumer.subscribe([a.topic])
work, meter, done, failed, committed_at = Work(a.work, a.keys), Meter(), 0, 0, time.monotonic()
process, fails = work.call, work.kind == "fail"

with tempfile.TemporaryFile("w", newline="") as file:
    rows = csv.writer(file)

    def to_disk() -> None:
        """Dead letters first, then the commit."""
        file.flush()
        os.fsync(file.fileno())

    while done < a.count:
        batch = consumer.consume(min(1000, a.count - done), 0.1)
        if not batch:
            continue
        meter.first()
        for message in batch:
            if message.error():
                raise KafkaException(message.error())
            try:
                process(message.value())
            except WorkError as error:
                rows.writerow([message.topic(), message.partition(), message.offset(), message.value(), error])
                failed += 1
        done += len(batch)
        if time.monotonic() - committed_at >= a.commit_interval:
            if fails:
                to_disk()
            consumer.commit(asynchronous=True)
            committed_at = time.monotonic()
    if fails:
        to_disk()
    # By name: right after the commit of an interval nothing is left to commit, which librdkafka calls an error.
    reached = [place for place in consumer.position(consumer.assignment()) if place.offset >= 0]
    consumer.commit(offsets=reached, asynchronous=False)
    meter.end()
consumer.close()
finish("raw", a, done, meter, work=work, dead_letters=failed if fails else None, version=version("confluent-kafka"))
