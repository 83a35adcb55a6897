"""``crash_loop_limit``: a message that takes the process down each time is found and left out, by processes that really die."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.helpers import eventually, read_rows
from tests.kafka import Kafka
from tests.runs import Command, numbered

pytestmark = [pytest.mark.stress, pytest.mark.stress_short, pytest.mark.needs_real_broker, pytest.mark.timeout(300)]

# With this interval no run lives long enough for a commit before it has crashed: each one begins at the same place.
ARGUMENTS = (
    "--crash-loop-limit", "3", "--workers", "8", "--commit-interval", "5", "-X", "session.timeout.ms=1500",
    "-X", "heartbeat.interval.ms=300",
)  # fmt: skip
MOST_RUNS = 12

_POISONED = """
import asyncio
import os

LEDGER = os.open({ledger!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
POISON = {poison!r}


def process(value):
    os.write(LEDGER, b"begin " + value + b"\\n")
    if value in POISON:
        os._exit(9)
    os.write(LEDGER, b"done " + value + b"\\n")


async def process_async(value):
    os.write(LEDGER, b"begin " + value + b"\\n")
    await asyncio.sleep(0.001)
    if value in POISON:
        os._exit(9)
    os.write(LEDGER, b"done " + value + b"\\n")
"""


class Service:
    """A consumer whose processor ends the process for some values, and a supervisor that starts it again."""

    def __init__(self, folder: Path, start: Callable[..., Command], kafka: Kafka, topic: str, name: str = "process") -> None:
        self.kafka = kafka
        self.topic = topic
        self.ledger = folder / "poisoned-ledger"
        self.home = folder / "command"
        self._module = folder / "poisoned.py"
        self._start = start
        self._name = name
        self.runs: list[Command] = []

    def poison(self, values: Iterable[bytes]) -> None:
        self._module.write_text(_POISONED.format(ledger=str(self.ledger), poison=set(values)))

    def start(self) -> Command:
        self.runs.append(
            self._start(self.topic, *ARGUMENTS, "--processor", f"poisoned:{self._name}", "--app-dir", str(self._module.parent))
        )
        return self.runs[-1]

    def supervise(self, total: int) -> list[int]:
        """Start it until it has committed all; return the exit codes."""
        codes: list[int] = []
        while len(codes) < MOST_RUNS:
            process = self.start().process
            self._wait_for_a_crash_or_the_end(process, total)
            if process.poll() is None:
                if "Probation" in self.runs[-1].log:
                    self.runs[-1].wait_log("probation is over, 8 workers again")
                codes.append(self.runs[-1].end())
                return codes
            codes.append(process.wait())
        raise AssertionError(f"expected an end within {MOST_RUNS} runs, got {codes}:\n{self.runs[-1].log[-3000:]}")

    def _wait_for_a_crash_or_the_end(self, process: subprocess.Popen[bytes], total: int) -> None:
        def ended() -> bool:
            return process.poll() is not None or sum(self.kafka.committed(self.topic, self.topic).values()) == total

        eventually(ended, 60, what="a crash or the end")

    def calls(self, what: bytes) -> Counter[bytes]:
        """Return how often a call for each value was begun, or done."""
        lines = self.ledger.read_bytes().splitlines()
        return Counter(line.partition(b" ")[2] for line in lines if line.startswith(what + b" "))

    def said(self, text: str) -> list[str]:
        """Return the lines of all runs with this in them."""
        return [line for run in self.runs for line in run.log.splitlines() if text in line]


@pytest.fixture
def service(tmp_path: Path, command: Callable[..., Command], real_kafka: Kafka) -> Callable[..., Service]:
    """Return a function that makes a ``Service``: ``service(partitions, name)``."""

    def make(partitions: int = 1, name: str = "process") -> Service:
        return Service(tmp_path, command, real_kafka, real_kafka.create_topic(partitions=partitions), name)

    return make


def check(service: Service, values: list[bytes], poison: list[bytes]) -> None:
    """The poison, and nothing else, is a dead letter, with the evidence; everything else was processed."""
    rows = read_rows(service.runs[-1].dlq_path)
    assert {row["value"].encode() for row in rows} == set(poison)
    # What was recorded, and not committed yet when the next one ended the process, is recorded again.
    assert len(poison) <= len(rows) <= len(service.said("goes to the dead letters, it isn't called again"))
    assert set(service.calls(b"done")) == set(values) - set(poison)
    for row in rows:
        assert row["error_type"] == "CrashLoopError"
        place = f"{row['topic']}-{row['partition']}@{row['offset']}"
        assert f"{place} was the message in work when the process ended" in row["stack_trace"]
        assert "such ends in a row" in row["stack_trace"]
        assert service.said(f"crash-loop guard: {place} goes to the dead letters, it isn't called again")
    assert not list(service.home.glob("dlq.csv.crash-loop*")), "expected a clean end to leave nothing behind"


@pytest.mark.parametrize("name", ["process", "process_async"])
def test_a_message_that_ends_the_process_is_found_by_the_fourth_crash_and_left_out_by_the_fifth_run(
    service: Callable[..., Service], name: str
) -> None:
    values = numbered(2000)
    loop = service(name=name)
    loop.kafka.produce(loop.topic, values)
    loop.poison([values[3]])

    assert loop.supervise(2000) == [9, 9, 9, 9, 0]
    check(loop, values, [values[3]])
    assert loop.calls(b"begin")[values[3]] == 4
    assert len(loop.said("goes to the dead letters, it isn't called again")) == 1
    assert len(loop.said("Probation, one message at a time")) == 2
    assert len(loop.said("probation is over, 8 workers again")) == 1


@pytest.mark.parametrize("name", ["process", "process_async"])
def test_a_message_far_behind_the_first_unfinished_one_is_found(service: Callable[..., Service], name: str) -> None:
    """Its offset is the committed one + 700: whatever is before it is finished in each run, and never committed."""
    values = numbered(2000)
    loop = service(name=name)
    loop.poison([])
    loop.kafka.produce(loop.topic, values[:100])
    assert loop.supervise(100) == [0]

    loop.poison([values[800]])
    loop.kafka.produce(loop.topic, values[100:])
    assert loop.supervise(2000) == [9, 9, 9, 9, 0]
    check(loop, values, [values[800]])


def test_two_such_messages_in_three_partitions_are_found_one_after_the_other(service: Callable[..., Service]) -> None:
    values = numbered(1500)
    loop = service(3)
    for partition in range(3):
        loop.kafka.produce(loop.topic, values[partition * 500 : (partition + 1) * 500], None, partition)
    poison = [values[100], values[1200]]
    loop.poison(poison)

    assert loop.supervise(1500) == [9, 9, 9, 9, 9, 0]
    check(loop, values, poison)


def test_a_consumer_killed_again_and_again_at_the_same_place_leaves_nothing_out(
    real_kafka: Kafka, command: Callable[..., Command]
) -> None:
    """SIGKILL three times while messages wait at a gate; there is no bad one among them. Then a kill while it is stopping."""
    values = numbered(300)
    topic = real_kafka.create_topic()
    real_kafka.produce(topic, values)
    body = "if int(value.rpartition(b'-')[2]) >= 50: wait_for_gate()"
    for run in range(1, 4):
        kc = command(topic, *ARGUMENTS, body=body)
        kc.wait_ledger(50 * run)
        kc.kill()

    stopping = command(topic, *ARGUMENTS, body=body)
    stopping.wait_log("Probation, one message at a time")
    stopping.wait_ledger(50 * 4)
    stopping.terminate()
    stopping.wait_log("draining")
    stopping.kill()

    last = command(topic, *ARGUMENTS, body=body)
    last.open_gate()
    last.wait_log("Probation, one message at a time")
    last.wait_log("probation is over, 8 workers again", 60)
    assert last.end() == 0
    assert last.dead_letters() == []
    assert set(last.ledger()) == set(values)
    assert not list(last.folder.glob("dlq.csv.crash-loop*"))
