"""What every contestant shares: the arguments, the work, the meter, and the proof of the commit.

The contract of a contestant
  * it reads ``--count`` messages of ``--topic`` from the beginning, in a fresh group;
  * it calls one function for each message, with the value as bytes;
  * it commits every ``--commit-interval`` seconds;
  * it ends when all are processed and the last commit is acknowledged; it prints one line of JSON.

The clock runs from the first message in the application's hands to the acknowledgement of the last commit: neither joining the
group nor shutting down counts. Then the committed offsets are read back from the broker: a run that didn't commit everything is
an error, not a figure.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import uuid
from collections.abc import Callable
from typing import NoReturn

# For every contestant alike: with librdkafka's default of a second, a full queue turns into one-second stalls.
FETCHING = {"fetch.queue.backoff.ms": 10, "queued.min.messages": 100_000, "queued.max.messages.kbytes": 65_536}


def arguments(name: str) -> argparse.Namespace:
    """Parse the command line of a contestant."""
    parser = argparse.ArgumentParser(description=f"benchmark contestant: {name}")
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--work", default="noop", help="noop | sleep:MILLISECONDS")
    parser.add_argument("--commit-interval", type=float, default=1.0)
    parser.add_argument("--backup", action="store_true", help="kc: write the backup files, too")
    parser.add_argument("--group", default=f"bench-{name}-{uuid.uuid4().hex[:10]}")
    return parser.parse_args()


def work(spec: str) -> Callable[[bytes], None]:
    """Return the user's function."""
    kind, _, amount = spec.partition(":")
    if kind == "noop":
        return lambda _value: None
    if kind == "sleep":
        seconds = float(amount) / 1e3
        return lambda _value: time.sleep(seconds)
    raise SystemExit(f"expected --work to be noop or sleep:MILLISECONDS, got {spec!r}")


class Meter:
    """Wall and CPU seconds from the first message to the last commit."""

    def __init__(self) -> None:
        self.begun: float | None = None
        self.seconds = 0.0
        self.cpu = 0.0

    def first(self) -> None:
        """The first message is here; later calls do nothing."""
        if self.begun is None:
            self._cpu = _cpu_seconds()
            self.begun = time.perf_counter()

    def end(self) -> None:
        """The last commit is acknowledged."""
        assert self.begun is not None
        self.seconds = time.perf_counter() - self.begun
        self.cpu = _cpu_seconds() - self._cpu


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system


def peak_rss_mb() -> float:
    """Return the peak resident memory of this process in MB."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


def finish(name: str, a: argparse.Namespace, processed: int, meter: Meter) -> NoReturn:
    """Prove the commit, print the line, exit."""
    rss = peak_rss_mb()
    committed = committed_total(a.bootstrap, a.group, a.topic)
    result = {
        "name": name,
        "messages": processed,
        "seconds": round(meter.seconds, 4),
        "messages_per_second": round(processed / meter.seconds, 1),
        "cpu_us_per_message": round(meter.cpu / processed * 1e6, 2),
        "peak_rss_mb": round(rss, 1),
        "committed": committed,
    }
    if processed < a.count or committed < a.count:
        result["error"] = f"processed {processed} and committed {committed} of {a.count}"
    print(json.dumps(result), flush=True)
    sys.stdout.flush()
    os._exit(1 if "error" in result else 0)


def committed_total(bootstrap: str, group: str, topic: str) -> int:
    """Return the sum of a group's committed offsets."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False})
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        return sum(max(tp.offset, 0) for tp in consumer.committed([TopicPartition(topic, p) for p in partitions], timeout=10))
    finally:
        consumer.close()
