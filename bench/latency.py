"""How long a message takes at a steady 1,000 messages a second: from produced to processed, and from polled to committed.

  python bench/latency.py [--intervals 0.02,0.1,1,5] [--rate 1000] [--seconds 20] [--scale 0.1] [--out FILE.json]

A process of its own produces; one partition, so that the totals of polled and committed messages, noted each millisecond, say
when each message was. A message is committed when the broker has acknowledged its commit.
"""

from __future__ import annotations

import argparse
import bisect
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from load import create
from machine import HERE, broker, keep, parser, tell

from kafka_consumer import KafkaConsumer, KafkaConsumerConfig

WARM_UP = 0.2  # share of the messages that doesn't count
LEAST_SECONDS = 4.0


def produce(bootstrap: str, topic: str, rate: float, count: int) -> None:
    """Produce evenly, each message with its time in it."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0, "acks": "1"})
    begun = time.monotonic()
    for index in range(count):
        wait = begun + index / rate - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        producer.produce(topic, b"%020d" % time.time_ns(), partition=0)
        producer.poll(0)
    producer.flush(30)


def percentiles(milliseconds: list[float]) -> dict[str, float]:
    """Return p50, p95, p99 and the longest."""
    cuts = statistics.quantiles(milliseconds, n=100, method="inclusive")
    return {"p50": round(cuts[49], 2), "p95": round(cuts[94], 2), "p99": round(cuts[98], 2), "max": round(max(milliseconds), 2)}


def when(samples: list[tuple[float, int]], count: int) -> list[float]:
    """Return when each of the first ``count`` messages was there, from totals noted in time."""
    totals = [total for _, total in samples]
    return [samples[bisect.bisect_left(totals, number)][0] for number in range(1, count + 1)]


def measure(bootstrap: str, interval: float, rate: float, seconds: float) -> dict[str, Any]:
    """Return the latencies with one commit interval."""
    topic = f"bench-latency-{uuid.uuid4().hex[:8]}"
    create(bootstrap, topic, 1)
    count = int(rate * max(seconds, LEAST_SECONDS, 3 * interval))
    ends: list[float] = []

    def process(value: bytes) -> None:
        ends.append((time.time_ns() - int(value)) / 1e6)

    polled: list[tuple[float, int]] = []
    committed: list[tuple[float, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        consumer = KafkaConsumer(
            KafkaConsumerConfig(
                bootstrap_servers=bootstrap, topic=topic, group_id=topic, processor_callable=process, worker_count=8,
                commit_interval_seconds=interval, backup_mode="off", dlq_path=str(Path(folder) / "dlq.csv"), log_level="ERROR",
            )
        )  # fmt: skip
        counters, over = consumer.shared_state.counters, threading.Event()

        def sample() -> None:
            while not over.wait(0.001):
                now = time.monotonic()
                for samples, total in ((polled, counters.polled), (committed, counters.committed)):
                    if not samples or samples[-1][1] != total:
                        samples.append((now, total))

        consumer.start()
        while not consumer.snapshot().partitions:
            time.sleep(0.05)
        sampler = threading.Thread(target=sample, daemon=True)
        sampler.start()
        command = [sys.executable, str(HERE / "latency.py"), "--produce", topic, "--rate", str(rate), "--count", str(count)]
        subprocess.run([*command, "--bootstrap", bootstrap], check=True, timeout=600)
        deadline = time.monotonic() + 30 + interval
        while counters.committed < count and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        over.set()
        sampler.join()
        consumer.stop()
        consumer.join()
    if counters.committed < count:
        raise SystemExit(f"committed {counters.committed} of {count}")
    skipped = int(count * WARM_UP)
    commits = [(then - now) * 1e3 for now, then in zip(when(polled, count), when(committed, count), strict=True)]
    return {
        "interval": interval,
        "rate": rate,
        "messages": count - skipped,
        "processed_ms": percentiles(ends[skipped:]),
        "committed_ms": percentiles(commits[skipped:]),
    }


def table(found: list[dict[str, Any]]) -> str:
    """Return the table in Markdown."""
    lines = [
        "| commit interval | produced to processed, ms: p50 | p95 | p99 | polled to committed, ms: p50 | p95 | p99 |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for one in found:
        cells = [f"{one[of][p]:,.1f}" for of in ("processed_ms", "committed_ms") for p in ("p50", "p95", "p99")]
        lines.append(f"| {one['interval']:g} s | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Parse and measure; or be the producer."""
    options = parser(__doc__)
    options.add_argument("--intervals", default="0.02,0.1,1,5")
    options.add_argument("--rate", type=float, default=1000)
    options.add_argument("--seconds", type=float, default=20)
    options.add_argument("--produce", help=argparse.SUPPRESS)
    options.add_argument("--count", type=int, help=argparse.SUPPRESS)
    a = options.parse_args()
    if a.produce:
        produce(a.bootstrap, a.produce, a.rate, a.count)
        return
    found = []
    with broker(a.bootstrap) as bootstrap:
        measure(bootstrap, 1.0, a.rate, LEAST_SECONDS)  # a broker that has just started is slow: this one doesn't count
        for interval in map(float, a.intervals.split(",")):
            found.append(measure(bootstrap, interval, a.rate, a.seconds * a.scale))
            tell(f"  commit interval {interval:g} s: {found[-1]['committed_ms']}")
    keep(a.out, "latency", found, a.scale)
    print(table(found))


if __name__ == "__main__":
    main()
