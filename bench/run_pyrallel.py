"""pyrallel-consumer: its asyncio engine, or its process engine for a function that computes. It commits as often as it can.

``max_in_flight`` is both how many calls run and how many messages are held: at the number of workers it pauses and resumes its
partitions all the time. So without an order it may hold more, and the function itself lets only so many run, as its user would
write it: several times as fast when both were tried, briefly. With the order of keys it was the other way round, and it gets what
was faster there, too. One attempt a message; dead letters go to a topic.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from common import FETCHING, Meter, Work, arguments, finish, version, watched_consumer
from load import create, delete, held
from pyrallel_consumer import ExecutionMode, KafkaConfig, OrderingMode, PyrallelConsumer, WorkItem
from pyrallel_consumer.control_plane import broker_poller

HELD = 5000  # messages; the default of its queue


class Tuned(KafkaConfig):
    """It has no setting for further options of librdkafka."""

    def get_consumer_config(self) -> dict[str, Any]:
        return super().get_consumer_config() | FETCHING


class Task:
    """The function on its items; it pickles, for the process engine."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __call__(self, item: WorkItem) -> None:
        self.work.call(item.payload)


async def main() -> None:
    """Consume."""
    a = arguments("pyrallel")
    work, meter = Work(a.work, a.keys), Meter()
    logging.getLogger("pyrallel_consumer").setLevel(logging.CRITICAL)
    processes = work.kind == "cpu"
    letters = f".{a.group}"
    config = Tuned(
        BOOTSTRAP_SERVERS=a.bootstrap, CONSUMER_GROUP=a.group, dlq_enabled=work.kind == "fail", DLQ_TOPIC_SUFFIX=letters
    )
    parallel = config.parallel_consumer
    parallel.ordering_mode = OrderingMode.KEY_HASH if a.ordering == "key" else OrderingMode.UNORDERED
    parallel.execution.max_in_flight = a.workers if a.ordering == "key" else max(HELD, a.workers)
    parallel.execution.max_retries = 1
    parallel.execution.mode = ExecutionMode.PROCESS if processes else ExecutionMode.ASYNC
    parallel.execution.process_config.process_count = a.workers
    if work.kind == "fail":
        create(a.bootstrap, a.topic + letters, 1)
    slots, coroutine = asyncio.Semaphore(a.workers), work.coroutine

    async def call(item: WorkItem) -> None:
        async with slots:
            await coroutine(item.payload)

    broker_poller.Consumer = watched_consumer(meter)
    consumer = PyrallelConsumer(config=config, worker=Task(work) if processes else call, topic=a.topic)
    await consumer.start()
    trackers = consumer._poller._offset_trackers  # noqa: SLF001 - its metrics tell the lag alone
    looked_at = 0
    while (done := sum(tracker.last_committed_offset + 1 for tracker in list(trackers.values()))) < a.count:
        await asyncio.sleep(0.002)
        looked_at += 1
        if processes and looked_at % 100 == 0:
            meter.look()
    meter.end()
    dead_letters = None
    if work.kind == "fail":
        dead_letters = held(a.bootstrap, a.topic + letters)
        delete(a.bootstrap, a.topic + letters)
    await consumer.stop()
    finish("pyrallel", a, done, meter, work=work, dead_letters=dead_letters, version=version("pyrallel-consumer"))


if __name__ == "__main__":
    asyncio.run(main())
