"""kc, with everything on that makes it at least once: tracking of each message, dead letters, commits of what is contiguous."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from common import FETCHING, Meter, Work, arguments, finish, rss_mb, watched_consumer

import kafka_consumer.client
from kafka_consumer import KafkaConsumer, KafkaConsumerConfig

LOOK_SECONDS = 0.2

a = arguments(
    "kc",
    executor={"choices": ("thread", "process", "asyncio"), "default": "thread"},
    event_loop={"choices": ("asyncio", "uvloop"), "default": "asyncio"},
    backup={"action": "store_true", "help": "write the backup files, too"},
    queue_size={"type": int, "default": 10_000},
    rss_at={"default": "", "help": "note the memory when so many messages are finished: 100000,500000"},
)
work, meter = Work(a.work, a.keys), Meter()
processor: Any = {"thread": work.call, "process": work, "asyncio": work.coroutine}[a.executor]
marks = [int(mark) for mark in a.rss_at.split(",") if mark]
more: dict[str, Any] = {"rss_mb_at": {}} if marks else {}

with tempfile.TemporaryDirectory() as folder:
    config = KafkaConsumerConfig(
        bootstrap_servers=a.bootstrap,
        topic=a.topic,
        group_id=a.group,
        processor_callable=processor,
        executor=a.executor,
        event_loop=a.event_loop,
        ordering=a.ordering,
        worker_count=a.workers,
        commit_interval_seconds=a.commit_interval,
        queue_size=a.queue_size,
        backup_mode="best-effort" if a.backup else "off",
        backup_path=str(Path(folder) / "backup.csv"),
        dlq_path=str(Path(folder) / "dlq.csv"),
        log_level="ERROR",
        kafka_options=FETCHING,
    )
    kafka_consumer.client.Consumer = watched_consumer(meter)
    consumer = KafkaConsumer(config)
    state = consumer.shared_state
    consumer.start()
    counters = state.counters
    looked_at = time.monotonic()
    while counters.polled < a.count:
        time.sleep(0.002)
        while marks and counters.polled >= marks[0]:
            more["rss_mb_at"][marks.pop(0)] = round(rss_mb(), 1)
        if a.executor == "process" and time.monotonic() - looked_at > LOOK_SECONDS:
            meter.look()
            looked_at = time.monotonic()
    for mark in marks:
        more["rss_mb_at"][mark] = round(rss_mb(), 1)
    meter.look()
    # The last message is polled: a clean stop drains, and makes the last commit at once, as the bare loop does.
    consumer.stop("all was polled")
    while counters.committed < a.count and not consumer.join(0.001):
        pass
    meter.end()
    consumer.join()
    if a.backup and counters.backup_written < a.count:
        raise SystemExit(f"the backup has {counters.backup_written} of {a.count} rows")
    dead_letters = counters.dlq_written if work.kind == "fail" else None
    finish("kc", a, counters.processed + counters.failed, meter, work=work, dead_letters=dead_letters, **more)
