"""A group of consumers, each a process of its own, all recorded in one ledger, and the checker that judges them.

Import the fixture ``fleets`` in a conftest.py to use it.
"""

from __future__ import annotations

import signal
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.checker import Report, check
from tests.evidence import read_commits, read_files, read_ledger
from tests.history import History, MessageId
from tests.kafka import Kafka
from tests.recorder import Message, append, pack
from tests.runs import END_SECONDS, Command, Note

_PROCESSOR = """
import os
import time

from tests.recorder import Recorder

GATE = {gate!r}


def wait_for_gate():
    while not os.path.exists(GATE):
        time.sleep(0.005)


def work(message):
{body}


process = Recorder({ledger!r}).around(work)
"""

FAIL_THE_BAD = "if message.kind == 'bad': raise ValueError('bad')"
"""The body of a processor that fails for the messages of kind "bad"."""


class Member(Command):
    """``kc --headless`` as one member of a fleet. ``body`` is its processor's ``work(message)``, see ``recorder.Message``."""

    def __init__(self, fleet: Fleet, name: str, *arguments: str, body: str, **more: Any) -> None:
        self._fleet_ledger = fleet.ledger
        folder = fleet.folder / name
        folder.mkdir(exist_ok=True)
        source = _PROCESSOR.format(ledger=str(fleet.ledger), gate=str(folder / "gate"), body=textwrap.indent(body, "    "))
        (folder / "recorded.py").write_text(source)
        super().__init__(folder, fleet.kafka, fleet.topic, "--processor", "recorded:process", *arguments, **more)

    def suspend(self) -> None:
        """Freeze it (SIGSTOP): it answers nobody, and notices nothing."""
        append(self._fleet_ledger, "suspended", self.process.pid)
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        append(self._fleet_ledger, "resumed", self.process.pid)
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        super().kill()
        append(self._fleet_ledger, "killed", self.process.pid)

    def wait(self, timeout: float = END_SECONDS) -> int:
        code = super().wait(timeout)
        # One that ended with a failure promises no more than one that was killed.
        append(self._fleet_ledger, "ended" if code == 0 else "killed", self.process.pid)
        return code


class Fleet:
    """A topic, its messages, the members of a group that share it, and the evidence of what they did."""

    def __init__(self, folder: Path, kafka: Kafka, *, partitions: int = 1, keys: int = 0) -> None:
        self.folder = folder
        self.kafka = kafka
        self.topic = kafka.create_topic(partitions=partitions)
        self.ledger = folder / "ledger"
        self.values: dict[MessageId, bytes] = {}
        self.keys: dict[MessageId, str] = {}
        self.members: list[Member] = []
        self._partitions = partitions
        self._keys = keys
        self._ends = [0] * partitions
        self._read = 0  # bytes of the ledger
        self._rest = b""
        self._finished: set[bytes] = set()

    def produce(self, count: int, kind: Callable[[int, int], str] = lambda _partition, _offset: "good", *, size: int = 0) -> None:
        """Write so many messages, the same number to each partition; ``kind`` says what each is, by partition and offset."""
        share = -(-count // self._partitions)
        for partition in range(self._partitions):
            lot = range(self._ends[partition], self._ends[partition] + share)
            self._ends[partition] += share
            # A key belongs to one partition, as it does wherever keys choose the partition.
            names = [f"{partition}-{offset * 7 % self._keys}" if self._keys else "" for offset in lot]
            values = [
                pack(Message(partition, offset, name, kind(partition, offset)), size)
                for offset, name in zip(lot, names, strict=True)
            ]
            self.kafka.produce(self.topic, values, [name or None for name in names], partition)
            for offset, name, value in zip(lot, names, values, strict=True):
                self.values[partition, offset] = value
                if name:
                    self.keys[partition, offset] = name

    def feed(self, enough: threading.Event, *, count: int = 120, pause: float = 0.05) -> None:
        """Write messages, again and again, until that is enough; for a thread of its own."""
        while not enough.wait(pause):
            self.produce(count)

    def start(self, name: str, *arguments: str, body: str = "pass", **more: Any) -> Member:
        """Start a member (again), on the files of its name."""
        member = Member(self, name, *arguments, body=body, **more)
        self.members.append(member)
        return member

    def finished(self) -> int:
        """Return how many different messages a call has been done for, or has failed for. For one thread."""
        if self.ledger.exists():
            with self.ledger.open("rb") as handle:
                handle.seek(self._read)
                data = handle.read()
            self._read += len(data)
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                what, partition, offset, _ = line.split(b" ", 3)
                if what in (b"done", b"failed"):
                    self._finished.add(partition + b"@" + offset)
        return len(self._finished)

    def wait_finished(self, count: int, timeout: float = 60.0) -> None:
        """Return when calls for so many different messages have ended."""
        deadline = time.monotonic() + timeout
        while (now := self.finished()) < count:
            if time.monotonic() > deadline:
                raise AssertionError(f"expected {count} finished messages within {timeout:g} s, got {now}:\n{self.logs()}")
            time.sleep(0.01)

    def wait_committed(self, timeout: float = 90.0) -> None:
        """Return when the group has committed all that was produced."""
        try:
            self.kafka.wait_for_lag(self.topic, self.topic, timeout=timeout)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def logs(self) -> str:
        """Return the end of what the last members have said."""
        return "\n".join(f"--- {member.folder.name}\n{member.log[-3000:]}" for member in self.members[-4:])

    def judge(self, **options: Any) -> Report:
        """Gather all evidence and have it judged; ``options`` are those of ``History``."""
        folders = sorted({member.folder for member in self.members})
        return check(
            History(
                values=self.values,
                events=read_ledger(self.ledger),
                letters=read_files([folder / "dlq.csv" for folder in folders], "failed_at"),
                backup=read_files([folder / "backup.csv" for folder in folders], "received_at"),
                commits=read_commits(self.kafka, self.topic, self.topic),
                keys=self.keys,
                **options,
            )
        )

    def close(self) -> None:
        """Kill what still runs."""
        for member in self.members:
            if member.process.poll() is None:
                member.kill()


def note_figures(note: Note, report: Report, names: Sequence[str] = ()) -> None:
    """Note a report's figures: those named, or all that aren't 0."""
    for name, number in report.figures.items():
        if name in names or (not names and number):
            note(name, number)


@pytest.fixture
def fleets(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Fleet]]:
    """Return a function that makes a ``Fleet``; on the shared Kafka unless ``kafka`` is given. All members end with the test."""
    made: list[Fleet] = []

    def make(*, kafka: Kafka | None = None, **options: Any) -> Fleet:
        folder = tmp_path / f"fleet-{len(made)}"
        folder.mkdir()
        fleet = Fleet(folder, kafka or request.getfixturevalue("real_kafka"), **options)
        made.append(fleet)
        return fleet

    yield make
    for fleet in made:
        fleet.close()
