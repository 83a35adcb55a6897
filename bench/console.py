"""Hold the console against its budget, in a real pseudo-terminal, on a real consumer and a real broker.

  make bench-console                          everything, with a broker of its own
  python bench/console.py --blocks 30 [--quick] [--only screen|throughput] [--bootstrap HOST:PORT] [--out FILE.json]

Processor time is that of the threads that the console adds to a consumer's process, or of the attached console's whole process;
100 % is one core. A gap of the event loop is told without the time in which its thread waited for a processor that another
process had; by the clock, and what a bystander saw, a process with nothing to do, stands beside it.

Throughput: one run of a consumer that never waits, so that what the console takes is lost to it; a consumer with time to spare
loses nothing. In short windows the console looks (a snapshot and a tick twice a second) or doesn't (neither). Three windows are a
block, in an order by chance: on, off, and off once more. Told are the median of what the blocks lost and the interval where it
lies in 95 of 100 drawings with replacement (bootstrap); the second off against the first is the noise. `?` where the limit lies
within the interval: more blocks, or a quieter machine, would tell.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import platform
import pty
import random
import re
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from figures import Figure, interval  # noqa: E402 - siblings
from load import load  # noqa: E402
from machine import broker  # noqa: E402

from tui.socket_feed import WATCHED_SECONDS  # noqa: E402
from tui.tempo import QUIET_SECONDS  # noqa: E402

SIZE = (200, 60)
MANY = 1000  # partitions, and workers
PER_SECOND = 2000  # messages of the large consumer: every partition moves at each tick
LARGE_WORK = "sleep:400"  # so that 800 of 1,000 workers are busy
ANSWER_SECONDS = 300.0
SETTLE_SECONDS = 3.0
BUSY_WORK = "loop:2500"  # 40 microseconds or so
BUSY_MESSAGES = 150_000  # for each block
SWITCH_SECONDS = 0.1  # from switching the console to the beginning of a window: what is under way ends
WINDOW_SECONDS = 1.0  # two ticks
# The row under the cursor is drawn in reverse; its first cell is the pointer.
CURSOR = re.compile(rb"\x1b\[(\d+);1H\x1b\[(?:\d+;)*7[;m][^>]{0,40}?>")


class Process:
    """``run_console.py`` as a process, with a terminal where it draws."""

    def __init__(self, kind: str, *options: str, size: tuple[int, int] = SIZE) -> None:
        self.kind = kind
        self._chunks: list[tuple[float, bytes]] = []
        self._arrived = threading.Condition()
        ours, theirs = socket.socketpair()
        ours.settimeout(ANSWER_SECONDS)
        self._line = ours.makefile("rw")
        ours.close()  # the file holds it
        command = [sys.executable, str(HERE / "run_console.py"), kind, "--control", str(theirs.fileno()), *options]
        styling = ("TEXTUAL", "NO_COLOR", "COLUMNS", "LINES")
        environ = {key: value for key, value in os.environ.items() if not key.startswith(styling)}
        environ |= {"TERM": "xterm-256color", "PYTHONPATH": str(HERE.parent)}
        self.master, slave = pty.openpty()
        self.resize(size)
        streams: Any = slave if kind in ("in-process", "attached") else subprocess.DEVNULL
        self.process = subprocess.Popen(
            command, stdin=streams, stdout=streams, stderr=None if streams is subprocess.DEVNULL else slave,
            start_new_session=True, env=environ, pass_fds=(theirs.fileno(),),
        )  # fmt: skip
        theirs.close()
        os.close(slave)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self.master, 65536):
                with self._arrived:
                    self._chunks.append((time.perf_counter(), data))
                    self._arrived.notify_all()

    def resize(self, size: tuple[int, int]) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def await_cursor(self, row: int | None, seconds: float = 5.0) -> tuple[float, int]:
        """Return when the cursor was drawn, in this row of the screen or any, since ``forget``; and where."""
        deadline = time.perf_counter() + seconds
        with self._arrived:
            while True:
                text = b""
                for at, data in self._chunks:
                    text += data
                    found = [int(match.group(1)) for match in CURSOR.finditer(text)]
                    if found and row in (None, found[-1]):
                        return at, found[-1]
                if not self._arrived.wait(max(0.0, deadline - time.perf_counter())):
                    raise TimeoutError(f"{self.kind}: the cursor wasn't drawn within {seconds:g} s")

    def await_output(self, size: int, seconds: float = 60.0) -> None:
        deadline = time.perf_counter() + seconds
        with self._arrived:
            while sum(len(data) for _, data in self._chunks) < size:
                if not self._arrived.wait(max(0.0, deadline - time.perf_counter())):
                    raise TimeoutError(f"{self.kind}: nothing was drawn within {seconds:g} s")

    def forget(self) -> None:
        with self._arrived:
            self._chunks.clear()

    def ask(self, question: str) -> dict[str, Any]:
        answered = ""
        with contextlib.suppress(ConnectionError):
            self._line.write(question + "\n")
            self._line.flush()
            answered = self._line.readline()
        if not answered:
            last = b"".join(data for _, data in self._chunks)[-500:]
            raise RuntimeError(f"{self.kind} ended with {self.process.wait(10)} instead of an answer to {question!r}: {last!r}")
        answer: dict[str, Any] = json.loads(answered)
        if "error" in answer:
            raise RuntimeError(f"{self.kind}: {answer['error']}")
        return answer

    def close(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._line.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        with contextlib.suppress(OSError):
            os.close(self.master)


@dataclass
class Stage:
    """What is measured, and where: ``looks`` draws; ``works`` consumes; they are one process or two."""

    name: str
    looks: Process
    works: Process


class Bench:
    """The measurements. ``figures`` is the table, ``blocks`` each block of the throughput: calls a second by window, and
    ``taken``, what the console's threads took of a core, in %.
    """

    def __init__(self, bootstrap: str, *, blocks: int, quick: bool) -> None:
        self.bootstrap = bootstrap
        self.wanted = blocks
        self.quick = quick
        self.figures: list[Figure] = []
        self.blocks: dict[str, list[dict[str, float]]] = {}
        self.window = 1.5 if quick else 2.5

    def consumer(self, topic: str, partitions: int, workers: int, work: str) -> list[str]:
        return [
            "--bootstrap", self.bootstrap, "--topic", topic, "--group", f"bench-{uuid.uuid4().hex[:10]}", "--partitions",
            str(partitions), "--workers", str(workers), "--work", work,
        ]  # fmt: skip

    @contextlib.contextmanager
    def stage(self, kind: str, options: Sequence[str]) -> Iterator[Stage]:
        """A consumer ready to go, and a console that shows it."""
        with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory(prefix="kc-bench-") as folder:
            path = f"{folder}/kc.sock"
            works = Process("served" if kind == "attached" else kind, "--socket", path, *options)
            stack.callback(works.close)
            works.ask("ready")
            looks = works
            if kind == "attached":
                looks = Process("attached", "--socket", path)
                stack.callback(looks.close)
            looks.await_output(4000)
            time.sleep(SETTLE_SECONDS)
            yield Stage(kind.replace("-", " "), looks, works)

    # --- the screen -----------------------------------------------------------------------------------------------------------

    def screen(self) -> None:
        still, many = "bench-console-still", "bench-console-many"
        load(self.bootstrap, still, MANY, MANY, 100)
        load(self.bootstrap, many, MANY, MANY * 400, 100)
        for kind in ("in-process", "attached"):
            with self.stage(kind, self.consumer(still, MANY, MANY, LARGE_WORK)) as stage:
                stage.works.ask("go")
                # One message each, a commit, rates that go down to 0; and some time without a change.
                time.sleep(QUIET_SECONDS + 3 * SETTLE_SECONDS)
                self.cpu(stage, f"idle, {MANY:,} partitions and workers", 2.0)
            with self.stage(kind, self.consumer(many, MANY, MANY, LARGE_WORK)) as stage:
                stage.works.ask(f"go {PER_SECOND}")
                time.sleep(SETTLE_SECONDS)
                self.large(stage)
                stage.looks.type("z")
                time.sleep(SETTLE_SECONDS + WATCHED_SECONDS)
                self.cpu(stage, f"frozen, {MANY:,} partitions and workers", 2.0)

    def large(self, stage: Stage) -> None:
        """Everything that is measured of a console with a thousand moving rows."""
        what = f"{MANY:,} partitions and workers, {SIZE[0]}x{SIZE[1]}"
        self.cpu(stage, what, 12.0)
        self.gaps(stage, what)
        presses = self.presses(stage.looks, 12 if self.quick else 30)
        remark = f"median {statistics.median(presses) * 1e3:.1f} ms of {len(presses)} presses"
        self.add(f"key to paint, slowest, {what}, {stage.name}", max(presses) * 1e3, 100.0, "ms", remark)
        if stage.looks is stage.works:
            self.cost(stage)

    def gaps(self, stage: Stage, what: str) -> None:
        bystander = Process("bystander")
        try:
            found = []
            for _ in range(3):
                for process in (stage.looks, bystander):
                    process.ask("watch")
                time.sleep(self.window)
                found.append((stage.looks.ask("gaps"), bystander.ask("gaps")))
        finally:
            bystander.close()
        ours, others = ([f"{pair[side]['by_the_clock'] * 1e3:.0f}" for pair in found] for side in (0, 1))
        worst = max((pair[0] for pair in found), key=lambda gap: float(gap["longest"]))
        drawing = f"of it drawing {worst['of_it_on_cpu'] * 1e3:.0f} ms"
        remark = f"{drawing}; by the clock, in three windows, {', '.join(ours)} ms, a bystander's {', '.join(others)} ms"
        self.add(f"longest gap of a 5 ms ticker, {what}, {stage.name}", worst["longest"] * 1e3, 50.0, "ms", remark)

    def cpu(self, stage: Stage, what: str, limit: float | None) -> None:
        shares: dict[str, list[float]] = {"console": [], "control": []}
        for _ in range(3):
            before = stage.looks.ask("cpu"), stage.works.ask("cpu")
            time.sleep(self.window)
            after = stage.looks.ask("cpu"), stage.works.ask("cpu")
            for name, old, new in zip(shares, before, after, strict=True):
                shares[name].append((new[name] - old[name]) / (new["at"] - old["at"]) * 100)
        remark = f"{min(shares['console']):.1f} to {max(shares['console']):.1f}"
        if stage.looks is not stage.works:
            remark += f"; the consumer's side of the socket {statistics.median(shares['control']):.1f} %"
        self.add(f"CPU {what}, {stage.name}", statistics.median(shares["console"]), limit, "%", remark)

    def presses(self, process: Process, count: int) -> list[float]:
        """Return how long it takes from a key to the cursor in its new row, at any moment between two ticks."""
        found, chance = [], random.Random(7)
        # In the order of the partitions: under a lag that moves, rows would change places by themselves.
        process.type("1g")
        if not getattr(process, "sorted", False):
            process.type("s")
            process.sorted = True  # type: ignore[attr-defined]
        time.sleep(1.0)
        process.forget()
        process.type("j")
        _, row = process.await_cursor(None)
        for number in range(count):
            time.sleep(chance.uniform(0.1, 0.4))
            process.forget()
            key, wanted = ("j", row + 1) if number % 2 == 0 else ("k", row)
            begun = time.perf_counter()
            process.type(key)
            at, _ = process.await_cursor(wanted)
            found.append(at - begun)
        return found

    def cost(self, stage: Stage) -> None:
        costs = stage.works.ask(f"cost {10 if self.quick else 20}")
        for name, what in (("snapshot", "a snapshot"), ("line", f"its line of JSON, {costs['bytes'] / 1024:.0f} KiB")):
            remark = f"{costs[name + '_wall'] * 1e3:.1f} ms by the clock, beside {PER_SECOND:,} messages a second"
            self.add(f"{what}, {MANY:,} partitions and workers", costs[name] * 1e3, None, "ms", remark)

    # --- throughput -----------------------------------------------------------------------------------------------------------

    def throughput(self) -> None:
        self.messages = BUSY_MESSAGES * (self.wanted + 3)
        topic = f"bench-{self.messages}x100-6"
        load(self.bootstrap, topic, 6, self.messages, 100)
        for kind, limit in (("in-process", 3.0), ("attached", 1.0)):
            with self.stage(kind, self.consumer(topic, 6, 8, BUSY_WORK)) as stage:
                stage.works.ask("go")
                time.sleep(SETTLE_SECONDS)
                chance = random.Random(11)
                blocks = self.blocks[kind] = [self.block(stage, chance) for _ in range(self.wanted)]
            self.compare(stage.name, limit, blocks)

    def block(self, stage: Stage, chance: random.Random) -> dict[str, float]:
        """Return the calls a second in three windows: the console on, off, and off once more."""
        order, rates = ["on", "off", "again"], {}
        chance.shuffle(order)
        for name in order:
            stage.looks.ask("look on" if name == "on" else "look off")
            time.sleep(SWITCH_SECONDS)
            cpu, before = stage.works.ask("cpu"), stage.works.ask("calls")
            time.sleep(WINDOW_SECONDS)
            after, cpu_after = stage.works.ask("calls"), stage.works.ask("cpu")
            rates[name] = (after["calls"] - before["calls"]) / (after["at"] - before["at"])
            if name == "on":
                taken = sum(cpu_after[part] - cpu[part] for part in ("console", "control"))
                rates["taken"] = taken / (cpu_after["at"] - cpu["at"]) * 100
            if after["calls"] > 0.98 * self.messages:
                raise SystemExit(f"{self.messages:,} messages don't last for {self.wanted} blocks: this machine is too fast")
        return rates

    def compare(self, name: str, limit: float, blocks: list[dict[str, float]]) -> None:
        base = [(block["off"] + block["again"]) / 2 for block in blocks]
        lost = [(1 - block["on"] / off) * 100 for block, off in zip(blocks, base, strict=True)]
        noise = [(1 - block["again"] / block["off"]) * 100 for block in blocks]
        for what, found, most in (("throughput lost with the console", lost, limit), ("the noise: with nothing", noise, None)):
            low, high = interval(found)
            remark = f"95 % between {low:.2f} and {high:.2f}; {len(found)} blocks, {min(found):.1f} to {max(found):.1f}"
            if most is not None:
                remark += f"; {statistics.median(base):,.0f} messages a second without"
            self.add(f"{what}, 8 workers, {name}", statistics.median(found), most, "%", remark, (low, high))
        remark = "of a core: what is lost at least, where Python runs one thread at a time; it hardly depends on other processes"
        taken = statistics.median(block["taken"] for block in blocks)
        self.add(f"CPU of the threads that the console adds, 8 workers, {name}", taken, None, "%", remark)

    def add(
        self, what: str, figure: float, limit: float | None, unit: str, remark: str, between: tuple[float, float] | None = None
    ) -> None:
        self.figures.append(Figure(what, figure, limit, unit, remark, between))
        print(f"  {self.figures[-1].line()}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bootstrap", default=os.environ.get("KC_TEST_BOOTSTRAP"), help="default: a broker of its own")
    parser.add_argument("--blocks", type=int, help="of the throughput; default: 20, with --quick 4")
    parser.add_argument("--quick", action="store_true", help="shorter windows, fewer of them: to see that it runs")
    parser.add_argument("--only", choices=("screen", "throughput"))
    parser.add_argument("--out", type=Path, help="write the figures and every block of the throughput to this JSON file")
    a = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n", flush=True)
    with broker(a.bootstrap) as bootstrap:
        bench = Bench(bootstrap, blocks=a.blocks or (4 if a.quick else 20), quick=a.quick)
        if a.only != "throughput":
            bench.screen()
        if a.only != "screen":
            bench.throughput()
    print("| | figure | limit | | |\n|---|--:|--:|:-:|---|")
    print("\n".join(figure.line() for figure in bench.figures))
    for verdict, words in (("missed", "Not met"), ("undecided", "Undecided: the blocks scatter too widely")):
        found = [figure.what for figure in bench.figures if figure.verdict == verdict]
        print(f"\n{words}: {'; '.join(found) or 'none'}.")
    if a.out:
        figures = [{**asdict(figure), "verdict": figure.verdict} for figure in bench.figures]
        a.out.write_text(json.dumps({"figures": figures, "blocks": bench.blocks}, indent=1) + "\n")


if __name__ == "__main__":
    main()
