"""What one writes by hand: ``consume()`` feeds a thread pool, a semaphore bounds what is under way, and each second the longest
finished run of every partition is committed. It stops at the first failure, knows no rebalance and no order of keys.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from concurrent.futures import Future, ThreadPoolExecutor
from threading import BoundedSemaphore

from common import FETCHING, Meter, Work, arguments, finish, version
from confluent_kafka import Consumer, KafkaException, TopicPartition

a = arguments("pool")
consumer = Consumer({
    "bootstrap.servers": a.bootstrap, "group.id": a.group, "auto.offset.reset": "earliest", "enable.auto.commit": False,
    **FETCHING,
})  # fmt: skip
consumer.subscribe([a.topic])
work, meter, handed_out, done, committed_at = Work(a.work, a.keys), Meter(), 0, 0, time.monotonic()
process = work.call
room = BoundedSemaphore(max(10_000, 4 * a.workers))
under_way: defaultdict[int, deque[tuple[int, Future[None]]]] = defaultdict(deque)


def call(value: bytes) -> None:
    """Run in the pool."""
    try:
        process(value)
    finally:
        room.release()


def commit(*, asynchronous: bool) -> int:
    """Commit what is finished without a gap; returns how many messages that is."""
    finished, offsets = 0, []
    for partition, waiting in under_way.items():
        position = None
        while waiting and waiting[0][1].done():
            offset, future = waiting.popleft()
            future.result()
            position = offset + 1
            finished += 1
        if position is not None:
            offsets.append(TopicPartition(a.topic, partition, position))
    if offsets:
        consumer.commit(offsets=offsets, asynchronous=asynchronous)
    return finished


with ThreadPoolExecutor(a.workers) as pool:
    while handed_out < a.count:
        for message in consumer.consume(min(500, a.count - handed_out), 0.1):
            if message.error():
                raise KafkaException(message.error())
            meter.first()
            room.acquire()
            under_way[message.partition()].append((message.offset(), pool.submit(call, message.value())))
            handed_out += 1
        if time.monotonic() - committed_at >= a.commit_interval:
            done += commit(asynchronous=True)
            committed_at = time.monotonic()
done += commit(asynchronous=False)
meter.end()
consumer.close()
finish("pool", a, done, meter, work=work, version=version("confluent-kafka"))
