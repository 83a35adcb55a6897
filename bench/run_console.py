"""One process of ``console.py``: a consumer under the console or behind its socket; the console attached to one; or a
bystander, an event loop with nothing to do, that tells what the machine does to one.

What it is told comes as lines on the descriptor ``--control``; each is answered with a line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import itertools
import json
import os
import socket
import statistics
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common import FETCHING, work

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
    """How long the event loop goes without a turn: a ticker in it, that runs while it is asked to.

    A gap is told without the time in which the loop's thread could have run and had no processor: other processes had them.
    """

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.found: list[tuple[float, float, float]] = []  # without waits for a processor, on one, by the clock; seconds
        self._ticking = False

    def start(self) -> dict[str, Any]:
        deadline = time.monotonic() + 30
        while self.loop is None:
            if time.monotonic() > deadline:
                raise TimeoutError("no event loop is known after 30 s")
            time.sleep(0.01)
        self.found, self._ticking = [], True
        asyncio.run_coroutine_threadsafe(self._tick(), self.loop)
        return {}

    def stop(self) -> dict[str, Any]:
        self._ticking = False
        gaps = self.found
        longest, of_it_on_cpu, _ = max(gaps)
        return {"longest": longest, "of_it_on_cpu": of_it_on_cpu, "by_the_clock": max(gap[2] for gap in gaps)}

    async def _tick(self) -> None:
        with _waits_for_a_processor() as waited:
            before = time.perf_counter(), time.thread_time(), waited()
            while self._ticking:
                await asyncio.sleep(TICK)
                now = time.perf_counter(), time.thread_time(), waited()
                gap, used, waits = (new - old for new, old in zip(now, before, strict=True))
                self.found.append((gap - waits, used, gap))
                before = now


@contextlib.contextmanager
def _waits_for_a_processor() -> Iterator[Callable[[], float]]:
    """Give what tells for how many seconds this thread has waited for a processor so far; 0 where the system doesn't tell."""
    try:
        found = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY)
    except OSError:
        yield lambda: 0.0
        return
    try:
        yield lambda: int(os.pread(found, 100, 0).split()[1]) / 1e9
    finally:
        os.close(found)


gaps = Gaps()


class WatchedApp(tui.app.ConsoleApp):
    """The console, with its loop known. While it isn't ``looking`` it asks for no snapshot and draws nothing."""

    CSS_PATH = str(Path(tui.app.__file__).parent / "console.tcss")
    running: WatchedApp | None = None
    looking = True

    def on_mount(self) -> None:  # besides that of the class above, as Textual has it
        gaps.loop = asyncio.get_running_loop()
        WatchedApp.running = self

    def tick(self) -> None:
        if self.looking:
            super().tick()

    def look(self, looking: bool) -> None:
        self.looking = looking
        feed = self.feed
        if isinstance(feed, SocketFeed) and not looking:
            feed.look_away()
            while feed.interval:
                time.sleep(0.005)


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
            "look": self.look, "calls": self.calls,
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

    def go(self, per_second: str = "") -> dict[str, Any]:
        """Take messages, at this rate or as fast as it goes."""
        self.running.set_rate_limit(float(per_second) if per_second else None)
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

    def look(self, looking: str) -> dict[str, Any]:
        """Have the console look, or not."""
        assert WatchedApp.running is not None
        WatchedApp.running.look(looking == "on")
        return {}

    def calls(self) -> dict[str, Any]:
        """Return how many calls of the processor have begun, and when that was."""
        return {"at": time.perf_counter(), "calls": next(calls)}


calls = itertools.count()


def looping(turns: int) -> Callable[[bytes], None]:
    """Return a processor that never waits. Its work is a number of turns, not a time: whoever is kept from them takes longer."""
    steps = range(turns)

    def process(_value: bytes) -> None:
        next(calls)
        for _ in steps:
            pass

    return process


async def stand_by() -> None:
    """Do nothing until the process ends."""
    gaps.loop = asyncio.get_running_loop()
    await asyncio.Event().wait()


def consumer_of(options: argparse.Namespace, folder: str) -> KafkaConsumer:
    kind, _, amount = options.work.partition(":")
    return WaitingConsumer(KafkaConsumerConfig(
        bootstrap_servers=options.bootstrap, topic=options.topic, group_id=options.group, worker_count=options.workers,
        processor_callable=looping(int(amount)) if kind == "loop" else work(options.work), commit_interval_seconds=1.0,
        queue_size=10_000, backup_mode="off", dlq_path=f"{folder}/dlq.csv", log_level="ERROR", kafka_options=FETCHING,
    ))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("in-process", "served", "attached", "bystander"))
    parser.add_argument("--control", type=int, required=True)
    parser.add_argument("--socket", default="")
    parser.add_argument("--bootstrap", default="")
    parser.add_argument("--topic", default="")
    parser.add_argument("--group", default="")
    parser.add_argument("--partitions", type=int, default=0)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--work", default="noop")
    options = parser.parse_args()
    if os.isatty(0):
        # As a login does it: a change of the terminal's size is told to its session.
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    tui.runtime.make_app = lambda feeds, **of_the_app: WatchedApp(feeds[0], **of_the_app)
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
            with serve(consumer, options.socket):
                code = consumer.run()
    bench.answering.acquire(timeout=30)
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
