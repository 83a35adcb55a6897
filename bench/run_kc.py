"""kc, with everything on that makes it at least once: tracking of each message, dead letters, commits of what is contiguous.

``--work async-noop`` and ``--work async-sleep:MILLISECONDS`` are coroutine functions: ``--workers`` of them are in flight.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from common import FETCHING, Meter, arguments, finish, work

from kafka_consumer import KafkaConsumer, KafkaConsumerConfig


def async_work(spec: str) -> Callable[[Any], Awaitable[None]]:
    """Return the user's function as a coroutine function; ``spec`` is one of ``common.work``'s."""
    kind, _, amount = spec.partition(":")
    if kind == "noop":

        async def process(_value: Any) -> None:
            pass

    elif kind == "sleep":
        seconds = float(amount) / 1e3

        async def process(_value: Any) -> None:
            await asyncio.sleep(seconds)

    else:
        raise SystemExit(f"expected --work to be async-noop or async-sleep:MILLISECONDS, got async-{spec!r}")
    return process


a = arguments("kc")
meter = Meter()
process = async_work(a.work.removeprefix("async-")) if a.work.startswith("async-") else work(a.work)

with tempfile.TemporaryDirectory() as folder:
    config = KafkaConsumerConfig(
        bootstrap_servers=a.bootstrap,
        topic=a.topic,
        group_id=a.group,
        processor_callable=process,
        worker_count=a.workers,
        commit_interval_seconds=a.commit_interval,
        queue_size=10_000,
        backup_mode="best-effort" if a.backup else "off",
        backup_path=str(Path(folder) / "backup.csv"),
        dlq_path=str(Path(folder) / "dlq.csv"),
        log_level="ERROR",
        kafka_options=FETCHING,
    )
    consumer = KafkaConsumer(config)
    state = consumer.shared_state
    consumer.start()
    counters = state.counters
    while not counters.polled:
        time.sleep(0.0005)
    meter.first()
    while counters.polled < a.count:
        time.sleep(0.002)
    # The last message is polled: a clean stop drains, and makes the last commit at once, as the bare loop does.
    consumer.stop("all was polled")
    while counters.committed < a.count and not consumer.join(0.001):
        pass
    meter.end()
    consumer.join()
    done = counters.processed
    if a.backup and counters.backup_written < a.count:
        raise SystemExit(f"the backup has {counters.backup_written} of {a.count} rows")
    finish("kc", a, done, meter)
