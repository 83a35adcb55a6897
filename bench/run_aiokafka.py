"""aiokafka: ``getmany()``, and for a function that waits as many coroutines as workers over each batch, commits in between.

It commits positions, so a batch must be finished before its commit: a barrier. A batch of fifty messages a worker keeps its cost
small where all messages wait equally long; with skewed waits it shows.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

from aiokafka import AIOKafkaConsumer
from common import Meter, Work, arguments, finish, use_uvloop, version

a = arguments("aiokafka")
work, meter = Work(a.work, a.keys), Meter()
call, coroutine = work.call, work.coroutine
BATCH = 50 * a.workers if work.waits else 2000


async def worker(messages: Iterator[Any]) -> None:
    """Take one message after the other off the batch."""
    for message in messages:
        await coroutine(message.value)


async def main() -> int:
    """Consume; returns how many messages."""
    done, committed_at = 0, time.monotonic()
    consumer = AIOKafkaConsumer(
        a.topic, bootstrap_servers=a.bootstrap, group_id=a.group, auto_offset_reset="earliest",
        enable_auto_commit=False, max_partition_fetch_bytes=4 << 20,
    )  # fmt: skip
    await consumer.start()
    while done < a.count:
        batch = await consumer.getmany(timeout_ms=100, max_records=min(BATCH, a.count - done))
        if not batch:
            continue
        meter.first()
        messages = [message for part in batch.values() for message in part]
        if work.waits:
            rest = iter(messages)
            await asyncio.gather(*(worker(rest) for _ in range(a.workers)))
        else:
            for message in messages:
                call(message.value)
        done += len(messages)
        if time.monotonic() - committed_at >= a.commit_interval:
            await consumer.commit()
            committed_at = time.monotonic()
    await consumer.commit()
    meter.end()
    await consumer.stop()
    return done


loop = use_uvloop()
processed = asyncio.run(main())
finish("aiokafka", a, processed, meter, work=work, version=version("aiokafka"), loop=loop)
