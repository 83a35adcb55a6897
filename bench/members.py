"""One to four members of a group on one topic of twelve partitions: how far more of them help.

  python bench/members.py [--rounds 3] [--scale 0.1] [--bootstrap HOST:PORT] [--out FILE.json]

All members join, paused; once each has its share of the partitions they are let go together, and the clock runs until the last
message is processed. They share the machine's cores with each other and with the broker: a function that waits can show that more
members do more; one that does nothing can only show what sharing the cores leaves.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from common import FETCHING, delete_group, work
from machine import HERE, broker, keep, parser, scaled, tell
from memory import filled

from kafka_consumer import KafkaConsumer, KafkaConsumerConfig

PARTITIONS = 12
MEMBERS = (1, 2, 3, 4)
# Work: messages, workers of each member.
WORKS = {"sleep:5": (100_000, 50), "noop": (500_000, 8)}
WAIT_SECONDS = 120


def member(bootstrap: str, topic: str, group: str, spec: str, workers: int) -> None:
    """Be one: a line each 20 ms on stdout, ``go`` and the end of stdin as commands."""
    with tempfile.TemporaryDirectory() as folder:
        consumer = KafkaConsumer(
            KafkaConsumerConfig(
                bootstrap_servers=bootstrap, topic=topic, group_id=group, processor_callable=work(spec), worker_count=workers,
                commit_interval_seconds=1.0, queue_size=10_000, backup_mode="off", dlq_path=str(Path(folder) / "dlq.csv"),
                log_level="ERROR", kafka_options=FETCHING,
            )
        )  # fmt: skip
        consumer.start()
        consumer.pause()

        def listen() -> None:
            for _line in sys.stdin:
                consumer.resume()
            consumer.stop()

        threading.Thread(target=listen, daemon=True).start()
        counters, told = consumer.shared_state.counters, -1
        while not consumer.join(0.02):
            owned = 0
            if not counters.processed:
                owned = len(consumer.snapshot().partitions)
            if counters.processed != told or not told:
                told = counters.processed
                print(json.dumps({"at": time.monotonic(), "processed": told, "owned": owned}), flush=True)


class Member:
    """A member's process, and what it said last."""

    def __init__(self, *options: object) -> None:
        command = [sys.executable, str(HERE / "members.py"), "--member", *map(str, options)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.last: dict[str, Any] = {"at": 0.0, "processed": 0, "owned": 0}
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.last = json.loads(line)

    def go(self) -> None:
        """Let it take messages."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """Let it stop, and wait for that."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


def _until(what: str, true: Any, members: list[Member]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not true():
        if time.monotonic() > deadline or any(one.process.poll() is not None for one in members):
            raise SystemExit(f"expected {what} within {WAIT_SECONDS} s, got {[one.last for one in members]}")
        time.sleep(0.02)


def measure(bootstrap: str, topic: str, count: int, number: int, spec: str, workers: int) -> float:
    """Return the messages a second that so many members process together."""
    group = f"bench-members-{uuid.uuid4().hex[:8]}"
    members = [Member(bootstrap, topic, group, spec, workers) for _ in range(number)]
    try:
        share = PARTITIONS // number
        _until("each member's share", lambda: all(one.last["owned"] == share for one in members), members)
        begun = time.monotonic()
        for one in members:
            one.go()
        _until("all processed", lambda: sum(one.last["processed"] for one in members) >= count, members)
        return count / (max(one.last["at"] for one in members) - begun)
    finally:
        for one in members:
            one.end()
        delete_group(bootstrap, group)


def table(found: list[dict[str, Any]], spec: str) -> str:
    """Return the table of one kind of work in Markdown."""
    mine = [one for one in found if one["work"] == spec]
    lines = ["| members | messages/s: min | median | max | of one member |", "|--:|--:|--:|--:|--:|"]
    for one in mine:
        rates = f"{one['min']:,.0f} | {one['median']:,.0f} | {one['max']:,.0f}"
        lines.append(f"| {one['members']} | {rates} | {one['median'] / mine[0]['median']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Parse and measure; or be a member."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--member", nargs=5, help=argparse.SUPPRESS)
    a = options.parse_args()
    if a.member:
        *where, workers = a.member
        member(*where, int(workers))
        return
    found: list[dict[str, Any]] = []
    with broker(a.bootstrap) as bootstrap:
        for spec, (full, workers) in WORKS.items():
            count = scaled(full, a.scale)
            topic = filled(bootstrap, count, partitions=PARTITIONS)
            for number in MEMBERS:
                rates = sorted(measure(bootstrap, topic, count, number, spec, workers) for _ in range(a.rounds))
                found.append({
                    "work": spec, "members": number, "min": round(rates[0]), "median": round(statistics.median(rates)),
                    "max": round(rates[-1]), "workers": workers, "messages": count,
                })  # fmt: skip
                tell(f"  {spec}, {number} members: {found[-1]['median']:,}/s")
    keep(a.out, "members", found, a.scale)
    print("\n\n".join(f"{spec}\n\n{table(found, spec)}" for spec in WORKS))


if __name__ == "__main__":
    main()
