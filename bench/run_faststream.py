"""faststream on confluent-kafka, in its two ways.

``--mode workers``: ``max_workers`` of its own. It takes no acknowledgement policy but ``ACK_FIRST`` then: at most once.
``--mode batch``: at least once, a commit a batch; the concurrency is the handler's own, as with aiokafka.
Logging, dependency injection and decoding are off.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from common import FETCHING, Meter, Work, arguments, finish, use_uvloop, version
from confluent_kafka import KafkaError, KafkaException
from faststream.confluent import KafkaBroker
from faststream.middlewares import AckPolicy

a = arguments("faststream", mode={"choices": ("workers", "batch"), "default": "workers"})
work, meter = Work(a.work, a.keys), Meter()
call, coroutine = work.call, work.coroutine
# A commit a batch: small ones would measure the commits.
BATCH = 50 * a.workers if work.waits else 5000
processed = 0


async def raw_body(message: Any) -> Any:
    """Decode nothing."""
    return message.body


async def worker(values: Iterator[bytes]) -> None:
    """Take one value after the other off the batch."""
    for value in values:
        await coroutine(value)


async def main() -> None:
    """Consume."""
    over = asyncio.Event()
    broker = KafkaBroker(a.bootstrap, logger=None, apply_types=False, allow_auto_create_topics=False, config=dict(FETCHING))
    common: dict[str, Any] = {"group_id": a.group, "auto_offset_reset": "earliest", "decoder": raw_body, "no_reply": True}

    def count(messages: int) -> None:
        global processed  # noqa: PLW0603 - a script
        processed += messages
        if processed >= a.count:
            over.set()

    if a.mode == "workers":
        subscriber = broker.subscriber(
            a.topic, max_workers=a.workers, ack_policy=AckPolicy.ACK_FIRST,
            auto_commit_interval_ms=int(a.commit_interval * 1000), **common,
        )  # fmt: skip

        @subscriber
        async def handle(value: bytes) -> None:
            meter.first()
            await coroutine(value)
            count(1)

    else:
        # It waits polling_interval for a full batch: less than the default of 0.1 s, for the last one's sake.
        subscriber = broker.subscriber(
            a.topic, batch=True, max_records=BATCH, polling_interval=0.02, ack_policy=AckPolicy.ACK, **common
        )

        @subscriber
        async def handle_batch(values: list[bytes]) -> None:
            meter.first()
            if work.waits:
                rest = iter(values)
                await asyncio.gather(*(worker(rest) for _ in range(a.workers)))
            else:
                for value in values:
                    call(value)
            count(len(values))

    await broker.start()
    await over.wait()
    try:
        await subscriber.consumer.commit(asynchronous=False)
    except KafkaException as error:
        if error.args[0].code() != KafkaError._NO_OFFSET:  # noqa: SLF001 - that one: all is committed
            raise
    meter.end()
    await broker.stop()


loop = use_uvloop()
asyncio.run(main())
finish(f"faststream-{a.mode}", a, processed, meter, work=work, version=version("faststream"), loop=loop)
