"""kc, with everything on that makes it at least once: tracking of each message, dead letters, commits of what is contiguous."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from common import FETCHING, Meter, arguments, finish, work

from kafka_consumer import KafkaConsumer, KafkaConsumerConfig

a = arguments("kc")
process, meter = work(a.work), Meter()

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
