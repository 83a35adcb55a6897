"""One process of ``console.py``: a consumer alone, under the console or behind its socket; the console attached to one; or a
bystander, an event loop with nothing to do, that tells what the machine does to one.

What it is told comes as lines on the descriptor ``--control``; each is answered with a line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import json
import os
import socket
import statistics
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import FETCHING, Meter, work

import tui.app
import tui.runtime
from kafka_consumer import KafkaConsumer, KafkaConsumerConfig
from kafka_consumer.control import serve
from kafka_consumer.control_protocol import snapshot_line
from tui.runtime import run_attached, run_in_process
from tui.socket_feed import SocketFeed

TICK = 0.005
# Whatever else runs in Python belongs to the console; what runs in librdkafka isn't Python's.
CONSUMERS_THREADS = ("worker-", "polling", "commit", "dead-letters", "backup", "shutdown", "supervisor", "control", "bench")


class Gaps:
    """How long the event loop goes without a turn: a ticker in it, that runs while it is asked to."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.found: list[tuple[float, float]] = []  # seconds, and how many of them this thread had the processor
        self._ticking = False

    def start(self) -> dict[str, Any]:
        while self.loop is None:
            time.sleep(0.01)
        self.found, self._ticking = [], True
        asyncio.run_coroutine_threadsafe(self._tick(), self.loop)
        return {}

    def stop(self) -> dict[str, Any]:
        self._ticking = False
        gaps = self.found
        longest, of_it_on_cpu = max(gaps)
        return {"longest": longest, "of_it_on_cpu": of_it_on_cpu}

    async def _tick(self) -> None:
        at, cpu = time.perf_counter(), time.thread_time()
        while self._ticking:
            await asyncio.sleep(TICK)
            now, used = time.perf_counter(), time.thread_time()
            self.found.append((now - at, used - cpu))
            at, cpu = now, used


gaps = Gaps()


class WatchedApp(tui.app.ConsoleApp):
    """The console, with its loop known."""

    CSS_PATH = str(Path(tui.app.__file__).parent / "console.tcss")

    def on_mount(self) -> None:  # besides that of the class above, as Textual has it
        gaps.loop = asyncio.get_running_loop()


class WaitingConsumer(KafkaConsumer):
    """Joins its group and takes nothing until it is told."""

    def start(self) -> None:
        super().start()
        self.pause()


def cpu_seconds(mine: Callable[[str], bool]) -> float:
    """Return the processor time of the Python threads whose name is accepted."""
    total = 0.0
    for thread in threading.enumerate():
        if thread.ident is not None and mine(thread.name):
            with contextlib.suppress(OSError, ProcessLookupError):
                total += time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    return total


class Bench:
    """Answers. One thread."""

    def __init__(self, consumer: KafkaConsumer | None, options: argparse.Namespace) -> None:
        self.consumer = consumer
        self.options = options
        self.answering = threading.Lock()  # held from a question to its answer: the process doesn't end in between
        self.answers: dict[str, Callable[..., dict[str, Any]]] = {
            "cpu": self.cpu, "watch": gaps.start, "gaps": gaps.stop, "ready": self.ready, "go": self.go, "cost": self.cost,
            "race": self.race,
        }  # fmt: skip

    def run(self) -> None:
        with socket.socket(fileno=self.options.control) as line, line.makefile("rw") as file:
            for told in file:
                name, *arguments = told.split()
                with self.answering:
                    try:
                        answer = self.answers[name](*arguments)
                    except Exception as error:  # noqa: BLE001 - told to whoever asked
                        answer = {"error": f"{name}: {type(error).__name__}: {error}"}
                    file.write(json.dumps(answer) + "\n")
                    file.flush()
        os._exit(0)  # nobody asks any more

    @property
    def running(self) -> KafkaConsumer:
        assert self.consumer is not None
        return self.consumer

    def cpu(self) -> dict[str, Any]:
        if self.consumer is None:
            return {"at": time.perf_counter(), "console": time.process_time()}
        # The main thread draws, or waits for the end.
        console = cpu_seconds(lambda name: not name.startswith(CONSUMERS_THREADS))
        control = cpu_seconds(lambda name: name.startswith("control"))
        return {"at": time.perf_counter(), "console": console, "control": control, "process": time.process_time()}

    def ready(self) -> dict[str, Any]:
        """Wait until every partition is assigned."""
        deadline = time.monotonic() + 60
        while (count := len(self.running.snapshot().partitions)) < self.options.partitions:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{count} of {self.options.partitions} partitions are assigned")
            time.sleep(0.1)
        return {"partitions": count}

    def go(self, per_second: str) -> dict[str, Any]:
        """Take messages, at this rate."""
        self.running.set_rate_limit(float(per_second))
        self.running.resume()
        return {}

    def cost(self, times: str) -> dict[str, Any]:
        """Return what a snapshot and its line cost, in seconds of this thread's processor time and of the clock."""
        costs: dict[str, list[float]] = {name: [] for name in ("snapshot", "snapshot_wall", "line", "line_wall")}
        size = 0
        for _ in range(int(times)):
            time.sleep(0.1)
            clocks = [(time.thread_time(), time.perf_counter())]
            snapshot = self.running.snapshot()
            clocks.append((time.thread_time(), time.perf_counter()))
            size = len(snapshot_line(snapshot))
            clocks.append((time.thread_time(), time.perf_counter()))
            for name, before, after in zip(("snapshot", "line"), clocks, clocks[1:], strict=False):
                costs[name].append(after[0] - before[0])
                costs[name + "_wall"].append(after[1] - before[1])
        return {"bytes": size, **{name: statistics.median(found) for name, found in costs.items()}}

    def race(self) -> dict[str, Any]:
        """Process everything. The clock runs from the end of the first quarter, by when what was fetched in advance is used up,
        to the last commit.
        """
        consumer, count, meter = self.running, self.options.count, Meter()
        counters = consumer.shared_state.counters
        consumer.resume()
        while counters.polled < count // 4:
            time.sleep(0.001)
        meter.first()
        before, first = self.cpu(), counters.processed
        while counters.polled < count:
            time.sleep(0.005)
        consumer.stop("all was polled")
        while counters.committed < count and not consumer.join(0.001):
            pass
        meter.end()
        after = self.cpu()
        if counters.processed < count or counters.committed < count:
            raise RuntimeError(f"processed {counters.processed} and committed {counters.committed} of {count}")
        done = count - first
        return {
            "rate": done / meter.seconds, "seconds": meter.seconds, "cpu_us": meter.cpu / done * 1e6,
            **{name: (after[name] - before[name]) / meter.seconds * 100 for name in ("console", "control")},
        }  # fmt: skip


async def stand_by() -> None:
    """Do nothing until the process ends."""
    gaps.loop = asyncio.get_running_loop()
    await asyncio.Event().wait()


def consumer_of(options: argparse.Namespace, folder: str) -> KafkaConsumer:
    return WaitingConsumer(KafkaConsumerConfig(
        bootstrap_servers=options.bootstrap, topic=options.topic, group_id=options.group, worker_count=options.workers,
        processor_callable=work(options.work), commit_interval_seconds=1.0, queue_size=10_000, backup_mode="off",
        dlq_path=f"{folder}/dlq.csv", log_level="ERROR", kafka_options=FETCHING,
    ))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("alone", "in-process", "served", "attached", "bystander"))
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--socket", default="")
    parser.add_argument("--bootstrap", default="")
    parser.add_argument("--topic", default="")
    parser.add_argument("--group", default="")
    parser.add_argument("--partitions", type=int, default=0)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--work", default="noop")
    parser.add_argument("--count", type=int, default=0)
    options = parser.parse_args()
    if os.isatty(0):
        # As a login does it: a change of the terminal's size is told to its session.
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    tui.runtime.ConsoleApp = WatchedApp
    with tempfile.TemporaryDirectory() as folder:
        consumer = None if options.kind in ("attached", "bystander") else consumer_of(options, folder)
        bench = Bench(consumer, options)
        threading.Thread(target=bench.run, name="bench", daemon=True).start()
        if options.kind == "bystander":
            asyncio.run(stand_by())
            return
        if consumer is None:
            code = run_attached(SocketFeed(options.socket))
        elif options.kind == "in-process":
            code = run_in_process(consumer)
        else:
            with serve(consumer, options.socket) if options.kind == "served" else contextlib.nullcontext():
                code = consumer.run()
    bench.answering.acquire(timeout=30)
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
