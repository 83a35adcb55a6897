"""Hold the console against its budget, in a real pseudo-terminal, on a real consumer and a real broker.

  make bench-console                          everything, with a broker of its own
  python bench/console.py --rounds 9 [--quick] [--only screen|throughput] [--bootstrap HOST:PORT] [--out FILE.json]

Processor time is that of the threads that the console adds to a consumer's process, or of the attached console's whole process;
100 % is one core. Throughput: rounds of a consumer alone, alone once more (what a difference of nothing looks like here), with
the console in its process, and with one attached; each is compared with the first of its round, and the median counts; `?` where
the rounds differ too much to tell on which side of the limit it is: more rounds, or a quieter machine, would. A gap of the event
loop is told beside that of a bystander, a process with nothing to do: what is in both, the machine did.
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

from common import committed_total  # noqa: E402 - siblings
from load import load  # noqa: E402

SIZES = ((120, 36), (200, 60))
MANY = 1000  # partitions, and workers
PER_SECOND = 2000  # messages of the large consumer: every partition moves at each tick
LARGE_WORK = "sleep:400"  # so that 800 of 1,000 workers are busy
ANSWER_SECONDS = 300.0
SETTLE_SECONDS = 3.0
# The row under the cursor is drawn in reverse; its first cell is the pointer.
CURSOR = re.compile(rb"\x1b\[(\d+);1H\x1b\[(?:\d+;)*7[;m][^>]{0,40}?>")


@dataclass(frozen=True)
class Figure:
    """A line of the table. ``limit``: what the figure may be; None where the budget has no word about it. ``doubt``: how far
    off the figure may be, by the scatter of what it is the median of.
    """

    what: str
    figure: float
    limit: float | None
    unit: str
    remark: str = ""
    doubt: float = 0.0

    def line(self) -> str:
        digits = 2 if self.unit == "%" else 1
        limit = "-" if self.limit is None else f"≤ {self.limit:g} {self.unit}"
        verdict = {"": "", "met": "✓", "missed": "✗", "undecided": "?"}[self.verdict]
        return f"| {self.what} | {self.figure:.{digits}f} {self.unit} | {limit} | {verdict} | {self.remark} |"

    @property
    def verdict(self) -> str:
        if self.limit is None:
            return ""
        if abs(self.figure - self.limit) < self.doubt:
            return "undecided"
        return "met" if self.figure <= self.limit else "missed"


class Process:
    """``run_console.py`` as a process, with a terminal where it draws."""

    def __init__(self, kind: str, *options: str, size: tuple[int, int] = SIZES[0]) -> None:
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
    """The measurements. ``figures`` is the table, ``runs`` each run of the throughput."""

    def __init__(self, bootstrap: str, *, rounds: int, quick: bool) -> None:
        self.bootstrap = bootstrap
        self.rounds = rounds
        self.quick = quick
        self.figures: list[Figure] = []
        self.runs: list[dict[str, Any]] = []
        self.window = 3.0 if quick else 6.0

    def consumer(self, topic: str, partitions: int, workers: int, work: str, count: int = 0) -> list[str]:
        return [
            "--bootstrap", self.bootstrap, "--topic", topic, "--group", f"bench-{uuid.uuid4().hex[:10]}", "--partitions",
            str(partitions), "--workers", str(workers), "--work", work, "--count", str(count),
        ]  # fmt: skip

    @contextlib.contextmanager
    def stage(self, kind: str, options: Sequence[str]) -> Iterator[Stage]:
        """A consumer ready to go, and a console that shows it; alone: the consumer twice."""
        with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory(prefix="kc-bench-") as folder:
            path = f"{folder}/kc.sock"
            works = Process("served" if kind == "attached" else "alone" if kind == "again" else kind, "--socket", path, *options)
            stack.callback(works.close)
            works.ask("ready")
            looks = works
            if kind == "attached":
                looks = Process("attached", "--socket", path)
                stack.callback(looks.close)
            if kind in ("attached", "in-process"):
                looks.await_output(4000)
            time.sleep(SETTLE_SECONDS)
            yield Stage(kind.replace("-", " "), looks, works)

    # --- the screen -----------------------------------------------------------------------------------------------------------

    def screen(self) -> None:
        few, many = "bench-console-few", "bench-console-many"
        load(self.bootstrap, few, 6, 6, 100)
        load(self.bootstrap, many, MANY, MANY * 400, 100)
        for kind in ("in-process", "attached"):
            with self.stage(kind, self.consumer(few, 6, 8, "noop")) as stage:
                stage.works.ask(f"go {PER_SECOND}")
                time.sleep(SETTLE_SECONDS)
                self.cpu(stage, "idle, 6 partitions, 8 workers", 2.0)
            with self.stage(kind, self.consumer(many, MANY, MANY, LARGE_WORK)) as stage:
                self.cpu(stage, f"idle, {MANY:,} partitions and workers", None)
                stage.works.ask(f"go {PER_SECOND}")
                time.sleep(SETTLE_SECONDS)
                if kind == "in-process":
                    self.cost(stage)
                for size in SIZES:
                    self.large(stage, size)
                stage.looks.type("z")
                time.sleep(SETTLE_SECONDS)
                self.cpu(stage, f"frozen, {MANY:,} partitions and workers", 2.0)

    def large(self, stage: Stage, size: tuple[int, int]) -> None:
        """Everything that is measured of a console with a thousand moving rows."""
        stage.looks.resize(size)
        time.sleep(SETTLE_SECONDS)
        what = f"{MANY:,} partitions and workers, {size[0]}x{size[1]}"
        self.cpu(stage, what, 12.0)
        self.gaps(stage, what)
        presses = self.presses(stage.looks, 30 if self.quick else 60)
        remark = f"median {statistics.median(presses) * 1e3:.1f} ms of {len(presses)} presses"
        self.add(f"key to paint, slowest, {what}, {stage.name}", max(presses) * 1e3, 100.0, "ms", remark)

    def gaps(self, stage: Stage, what: str) -> None:
        bystander = Process("bystander")
        try:
            found = []
            for _ in range(3):
                for process in (stage.looks, bystander):
                    process.ask("watch")
                time.sleep(self.window * 2)
                found.append((stage.looks.ask("gaps"), bystander.ask("gaps")))
        finally:
            bystander.close()
        ours, others = ([f"{pair[side]['longest'] * 1e3:.0f}" for pair in found] for side in (0, 1))
        worst = max((pair[0] for pair in found), key=lambda gap: float(gap["longest"]))
        drawing = f"of it drawing {worst['of_it_on_cpu'] * 1e3:.0f} ms"
        remark = f"{drawing}; by window {', '.join(ours)}, a bystander's {', '.join(others)}"
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
        costs = stage.works.ask(f"cost {20 if self.quick else 50}")
        for name, what in (("snapshot", "a snapshot"), ("line", f"its line of JSON, {costs['bytes'] / 1024:.0f} KiB")):
            remark = f"{costs[name + '_wall'] * 1e3:.1f} ms by the clock, beside {PER_SECOND:,} messages a second"
            self.add(f"{what}, {MANY:,} partitions and workers", costs[name] * 1e3, None, "ms", remark)

    # --- throughput -----------------------------------------------------------------------------------------------------------

    def throughput(self) -> None:
        scale = 5 if self.quick else 1
        for work, workers, count in (("noop", 8, 3_000_000 // scale), ("sleep:1", 50, 300_000 // scale)):
            topic = f"bench-{count}x100-6"
            load(self.bootstrap, topic, 6, count, 100)
            self.race(topic, work, workers, count, "warm-up", -1)
            kinds = ["alone", "in-process", "attached", "again"]
            results: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
            for number in range(self.rounds):
                for kind in kinds[number % 4 :] + kinds[: number % 4]:
                    results[kind].append(self.race(topic, work, workers, count, kind, number))
            self.compare(f"{work}, {workers} workers", results)

    def race(self, topic: str, work: str, workers: int, count: int, kind: str, number: int) -> dict[str, Any]:
        options = self.consumer(topic, 6, workers, work, count)
        with self.stage("alone" if kind == "warm-up" else kind, options) as stage:
            result = stage.works.ask("race")
        committed = committed_total(self.bootstrap, options[options.index("--group") + 1], topic)
        if committed != count:
            raise SystemExit(f"{kind}: committed {committed} of {count}")
        self.runs.append({"work": work, "kind": kind, "round": number, **result})
        print(f"  {work} #{number} {kind:10} {result['rate']:,.0f}/s {result['cpu_us']:.2f} us", file=sys.stderr, flush=True)
        return result

    def compare(self, what: str, results: dict[str, list[dict[str, Any]]]) -> None:
        base = results["alone"]
        for kind, name, limit in (
            ("in-process", "with the console in process", 3.0), ("attached", "with a console attached", 1.0),
            ("again", "with nothing: the noise", None),
        ):  # fmt: skip
            lost = [(1 - result["rate"] / alone["rate"]) * 100 for result, alone in zip(results[kind], base, strict=True)]
            medians = statistics.median(run["rate"] for run in results[kind]) / statistics.median(run["rate"] for run in base)
            cpu = [statistics.median(run["cpu_us"] for run in runs) for runs in (base, results[kind])]
            remark = f"{min(lost):.1f} to {max(lost):.1f} in {len(lost)} rounds; ratio of medians {medians:.3f}; CPU a message "
            remark += f"{cpu[0]:.2f} → {cpu[1]:.2f} us"
            quarters = statistics.quantiles(lost) if len(lost) > 1 else [-100.0, 0.0, 100.0]
            # Where the median of other rounds would be, in 95 of 100 cases.
            doubt = 1.57 * (quarters[2] - quarters[0]) / len(lost) ** 0.5
            self.add(f"throughput lost {name}, {what}", statistics.median(lost), limit, "%", remark, doubt)
            if limit is not None:
                taken = [run["console"] + run["control"] for run in results[kind]]
                remark = "of a core, all the time: what is lost at least, where Python runs one thread at a time"
                self.add(f"CPU of the threads added {name}, {what}", statistics.median(taken), None, "%", remark)

    def add(self, what: str, figure: float, limit: float | None, unit: str, remark: str, doubt: float = 0.0) -> None:
        remark += f"; give or take {doubt:.1f}" if doubt else ""
        self.figures.append(Figure(what, figure, limit, unit, remark, doubt))
        print(f"  {self.figures[-1].line()}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def broker(bootstrap: str | None) -> Iterator[str]:
    if bootstrap:
        yield bootstrap
        return
    from tests.kafka import LocalKafka

    with LocalKafka(1) as kafka:
        yield kafka.bootstrap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bootstrap", default=os.environ.get("KC_TEST_BOOTSTRAP"), help="default: a broker of its own")
    parser.add_argument("--rounds", type=int, default=5, help="of the throughput")
    parser.add_argument("--quick", action="store_true", help="shorter windows, fewer messages: to see that it runs")
    parser.add_argument("--only", choices=("screen", "throughput"))
    parser.add_argument("--out", type=Path, help="write the figures and every run of the throughput to this JSON file")
    a = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n", flush=True)
    with broker(a.bootstrap) as bootstrap:
        bench = Bench(bootstrap, rounds=a.rounds, quick=a.quick)
        if a.only != "throughput":
            bench.screen()
        if a.only != "screen":
            bench.throughput()
    print("| | figure | limit | | |\n|---|--:|--:|:-:|---|")
    print("\n".join(figure.line() for figure in bench.figures))
    for verdict, words in (("missed", "Not met"), ("undecided", "Undecided: the rounds scatter too widely")):
        found = [figure.what for figure in bench.figures if figure.verdict == verdict]
        print(f"\n{words}: {'; '.join(found) or 'none'}.")
    if a.out:
        figures = [{**asdict(figure), "verdict": figure.verdict} for figure in bench.figures]
        a.out.write_text(json.dumps({"figures": figures, "runs": bench.runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
