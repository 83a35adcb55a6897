"""Whole consumers on a Kafka: in this process (``running``) or as the real command in one of their own (``command``).

Import the fixtures in a conftest.py to use them.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from kafka_consumer import KafkaConsumer
from kafka_consumer.csv_files import decode_field
from tests.helpers import eventually, make_config, read_rows
from tests.kafka import Kafka

END_SECONDS = 45.0
ROOT = Path(__file__).parent.parent


Note = Callable[[str, object], None]


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Note:
    """Return a function that notes a figure: printed (``pytest -s`` shows it), and a property of the test in a JUnit report."""

    def take(name: str, value: object) -> None:
        # What record_property does, which with the usual kind of report also warns.
        request.node.user_properties.append((name, value))
        print(f"{name}: {value}")  # noqa: T201 - what it is for

    return take


@pytest.fixture
def chance(note: Note) -> random.Random:
    """Chance whose seed is noted; ``KC_TEST_SEED`` plays it again."""
    seed = int(os.environ.get("KC_TEST_SEED") or random.randrange(2**32))
    note("seed", seed)
    return random.Random(seed)


class Ledger:
    """A processor that notes each value it has processed; any thread may call it or look. ``work`` is done before the note."""

    def __init__(self, work: Callable[[bytes], Any] | None = None) -> None:
        self._work = work
        self.values: list[bytes] = []

    def __call__(self, value: bytes) -> None:
        if self._work is not None:
            self._work(value)
        self.values.append(value)

    def counts(self) -> Counter[bytes]:
        return Counter(self.values)


# --- in this process --------------------------------------------------------------------------------------------------


class Run:
    """A ``KafkaConsumer`` that was started, and what a test asks about it."""

    def __init__(self, consumer: KafkaConsumer, kafka: Kafka) -> None:
        self.consumer = consumer
        self.kafka = kafka

    @property
    def config(self) -> Any:
        return self.consumer.config

    @property
    def totals(self) -> Any:
        return self.consumer.snapshot().totals

    def finished(self) -> int:
        """Return how many messages are processed or failed for good."""
        totals = self.totals
        return int(totals.processed + totals.failed)

    def wait_finished(self, count: int, timeout: float = 30.0) -> None:
        eventually(lambda: self.finished() >= count, timeout, what=f"{count} finished messages")

    def wait_committed(self, count: int, timeout: float = 30.0) -> None:
        """Return when Kafka has acknowledged commits that cover so many messages."""
        eventually(lambda: self.totals.committed >= count, timeout, what=f"commits of {count} messages")

    def committed(self) -> dict[int, int]:
        return self.kafka.committed(self.config.group_id, self.config.topic)

    def lag(self) -> int:
        return self.kafka.lag(self.config.group_id, self.config.topic)

    def backup(self) -> list[bytes | None]:
        return values_in(self.config.backup_path)

    def dead_letters(self) -> list[dict[str, str]]:
        return read_rows(self.config.dlq_path)

    def wait_end(self, timeout: float = END_SECONDS) -> int | None:
        """Wait for the end and return the exit code."""
        assert self.consumer.join(timeout), f"expected the consumer to end within {timeout:g} s"
        return self.consumer.exit_code

    def end(self) -> int | None:
        """Stop, wait for the end and return the exit code."""
        self.consumer.stop("the test has seen enough")
        return self.wait_end()


@pytest.fixture
def running(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Run]]:
    """Return a function that starts a consumer of a topic in this process: ``running(topic, processor, **options)``.

    Its files lie in a folder of their own unless ``folder`` is given; the group is the topic's name; ``kafka`` is the shared one
    unless another is given. All are ended with the test.
    """
    runs: list[Run] = []

    def start(
        topic: str, processor: Callable[..., Any], *, kafka: Kafka | None = None, folder: Path | None = None, **options: Any
    ) -> Run:
        where = kafka or request.getfixturevalue("real_kafka")
        home = folder or tmp_path / f"run-{len(runs)}"
        home.mkdir(exist_ok=True)
        defaults = {
            "bootstrap_servers": where.bootstrap, "topic": topic, "group_id": topic, "processor_callable": processor,
            "worker_count": 4, "shutdown_timeout_seconds": 15.0,
        }  # fmt: skip
        run = Run(KafkaConsumer(make_config(home, **{**defaults, **options})), where)
        runs.append(run)
        run.consumer.start()
        return run

    yield start
    for run in runs:
        run.consumer.stop("the test has ended")
    for run in runs:
        assert run.consumer.join(END_SECONDS), "expected the consumer to end with its test"


# --- a process of its own ---------------------------------------------------------------------------------------------

_PROCESSOR = """
import os
import time

LEDGER = os.open({ledger!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
GATE = {gate!r}


def wait_for_gate():
    while not os.path.exists(GATE):
        time.sleep(0.005)


def work(value):
{body}


def process(value):
    work(value)
    # One write a message: what was processed is in the file, whatever becomes of this process.
    os.write(LEDGER, value[:100] + b"\\n")
"""


class Command:
    """``kc --headless`` in a process of its own.

    ``body`` is the Python of its processor's ``work(value)``, which may call ``wait_for_gate()``; ``open_gate()`` lets it go.
    What was processed is in ``ledger()``, the first 100 bytes of each. Everything lies in ``folder``: another ``Command`` there
    goes on where this one ended.
    """

    def __init__(
        self, folder: Path, kafka: Kafka | str, topic: str, *arguments: str, body: str = "pass", group: str | None = None,
        file_size: int | None = None, memory: int | None = None, ledger: Path | None = None,
    ) -> None:  # fmt: skip
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.backup_path = folder / "backup.csv"
        self.dlq_path = folder / "dlq.csv"
        self._ledger = ledger or folder / "ledger"
        self._gate = folder / "gate"
        source = _PROCESSOR.format(ledger=str(self._ledger), gate=str(self._gate), body=textwrap.indent(body, "    "))
        (folder / "processor.py").write_text(source)
        self._log = folder / f"log-{len(list(folder.glob('log-*')))}"
        bootstrap = kafka if isinstance(kafka, str) else kafka.bootstrap
        defaults = {
            "--bootstrap-server": bootstrap, "--topic": topic, "--group": group or topic, "--processor": "processor:process",
            "--app-dir": str(folder), "--backup-path": str(self.backup_path), "--dlq-path": str(self.dlq_path),
            "--workers": "4", "--commit-interval": "0.05", "--csv-flush-interval": "0.05", "--shutdown-timeout": "15",
        }  # fmt: skip
        given = [part for name, value in defaults.items() if name not in arguments for part in (name, value)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KC_")}

        def limit() -> None:
            if file_size is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
            if memory is not None:
                resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))

        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kafka_consumer", "--headless", *given, *arguments],
                cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**environment, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"},
                preexec_fn=limit if file_size or memory else None,  # noqa: PLW1509 - it only sets limits
            )  # fmt: skip

    # --- what it says and does

    @property
    def log(self) -> str:
        """Return all that it has printed."""
        return self._log.read_text(errors="replace")

    def lines(self, level: str) -> list[str]:
        """Return the log's lines of a level."""
        return [line for line in self.log.splitlines() if f" {level} " in line]

    def wait_log(self, text: str, timeout: float = 30.0, count: int = 1) -> None:
        """Return when the log holds this so many times; fail when the process ends before."""
        deadline = time.monotonic() + timeout
        while self.log.count(text) < count:
            ended = self.process.poll()
            assert ended is None or self.log.count(text) >= count, f"ended with {ended} before it said {text!r}:\n{self.log}"
            assert time.monotonic() < deadline, f"expected {text!r} in the log within {timeout:g} s, got:\n{self.log}"
            time.sleep(0.01)

    def ledger(self) -> list[bytes]:
        """Return the values processed (100 bytes of each), in the order of their ends."""
        return self._ledger.read_bytes().split(b"\n")[:-1] if self._ledger.exists() else []

    def wait_ledger(self, count: int, timeout: float = 30.0) -> None:
        """Return when so many values were processed; fail when the process ends before."""
        deadline = time.monotonic() + timeout
        while (now := len(self.ledger())) < count:
            ended = self.process.poll()
            assert ended is None or len(self.ledger()) >= count, f"ended with {ended} after {now} of {count}:\n{self.log[-5000:]}"
            assert time.monotonic() < deadline, f"expected {count} processed within {timeout:g} s, got {now}:\n{self.log[-5000:]}"
            time.sleep(0.01)

    def open_gate(self) -> None:
        """Let every processor that waits at the gate go, now and later."""
        self._gate.touch()

    def backup(self) -> list[bytes | None]:
        return values_in(self.backup_path)

    def dead_letters(self) -> list[bytes | None]:
        return values_in(self.dlq_path)

    def memory(self) -> int:
        """Return its resident memory, in bytes."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    # --- its end

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL and wait until it is gone."""
        self.process.kill()
        self.process.wait(END_SECONDS)

    def wait(self, timeout: float = END_SECONDS) -> int:
        """Wait for its end and return the exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"expected the command to end within {timeout:g} s:\n{self.log[-5000:]}") from None

    def end(self) -> int:
        """Send SIGTERM, wait for the end and return the exit code."""
        self.terminate()
        return self.wait()


@pytest.fixture
def command(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Command]]:
    """Return a function that starts the command on a topic: ``command(topic, *arguments, ...)``, see ``Command``.

    ``folder`` is a name: the same one again goes on with the same files. ``kafka`` is the shared one unless another is given.
    """
    started: list[Command] = []

    def start(topic: str, *arguments: str, folder: str = "command", kafka: Kafka | str | None = None, **more: Any) -> Command:
        found = Command(tmp_path / folder, kafka or request.getfixturevalue("real_kafka"), topic, *arguments, **more)
        started.append(found)
        return found

    yield start
    for each in started:
        if each.process.poll() is None:
            each.kill()


# --- files ------------------------------------------------------------------------------------------------------------


def values_in(base: str | os.PathLike[str]) -> list[bytes | None]:
    """Return the values in all hourly files of ``base``, as they were in Kafka."""
    return [decode_field(row["value"], row["encoding"]) for row in read_rows(base)]


def numbered(count: int, start: int = 0, text: str = "message") -> list[bytes]:
    """Return so many different values."""
    return [f"{text}-{number}".encode() for number in range(start, start + count)]


def repeats(values: Sequence[bytes]) -> int:
    """Return how many of the values had been there before."""
    return len(values) - len(set(values))
