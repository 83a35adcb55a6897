"""The crash-loop guard in a whole consumer on the fake broker.

A death is told by its traces: the guard's files as they were at one moment, and the group's commit as it was then.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kafka_consumer.crash_loop_state import State
from tests.fakes import FakeBroker
from tests.helpers import eventually
from tests.integration.conftest import GROUP, TOPIC, Life

FILES = ("dlq.csv.crash-loop", "dlq.csv.crash-loop-notes")


class Trap:
    """A processor that stays in the calls for some values until it is let go; ``seen`` are the values of all calls."""

    def __init__(self, *values: bytes) -> None:
        self.values = values
        self.seen: list[bytes | None] = []
        self.inside: list[bytes | None] = []
        self.most = 0
        self.open = threading.Event()
        self._calls = 0
        self._lock = threading.Lock()

    def __call__(self, value: bytes | None) -> None:
        with self._lock:
            self._calls += 1
            self.most = max(self.most, self._calls)
            self.seen.append(value)
        if value in self.values:
            self.inside.append(value)
            self.open.wait(20)
        with self._lock:
            self._calls -= 1

    async def awaited(self, value: bytes | None) -> None:
        self.seen.append(value)
        self._calls += 1
        self.most = max(self.most, self._calls)
        await asyncio.sleep(0)
        if value in self.values:
            self.inside.append(value)
            while not self.open.is_set():
                await asyncio.sleep(0.002)
        self._calls -= 1


class Loop:
    """A consumer that dies again and again, and is started again on the same files."""

    def __init__(self, folder: Path, broker: FakeBroker, live: Callable[..., Life], *, coroutine: bool = False) -> None:
        self._folder = folder
        self._broker = broker
        self._live = live
        self._coroutine = coroutine

    def start(self, trap: Trap, **options: Any) -> Life:
        return self._live(
            processor_callable=trap.awaited if self._coroutine else trap, worker_count=8, crash_loop_limit=2,
            dlq_path=str(self._folder / "dlq.csv"), **{"commit_interval_seconds": 0.02, **options},
        )  # fmt: skip

    def die(self, trap: Trap, life: Life, until: Callable[[], Any]) -> None:
        """Have the run's traces stay as they are once this is true, whatever it still does."""
        eventually(until)
        committed = life.committed()
        files = {name: (self._folder / name).read_bytes() for name in FILES}
        trap.open.set()
        life.end()
        if committed is not None:
            self._broker.set_committed(GROUP, TOPIC, 0, committed)
        else:
            self._broker.groups[GROUP].committed.pop((TOPIC, 0), None)
        for name, content in files.items():
            (self._folder / name).write_bytes(content)

    def state(self) -> State | None:
        return State.load(str(self._folder / "dlq.csv.crash-loop"), GROUP)


@pytest.fixture(params=["threads", "coroutines"])
def loop(request: pytest.FixtureRequest, tmp_path: Path, broker: FakeBroker, live: Callable[..., Life]) -> Loop:
    return Loop(tmp_path, broker, live, coroutine=request.param == "coroutines")


def values(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def dead_twice(loop: Loop, *bad: bytes) -> None:
    """Let two runs die; no commit comes in the way."""
    for _ in range(2):
        trap = Trap(*bad)
        life = loop.start(trap, commit_interval_seconds=60.0)
        loop.die(trap, life, lambda trap=trap: trap.inside)  # type: ignore[misc]


def test_the_message_in_work_at_the_third_death_is_a_dead_letter_and_no_other_one_is(broker: FakeBroker, loop: Loop, log: Any):
    broker.produce_many(TOPIC, 0, values(300))
    dead_twice(loop, b"200")
    trap = Trap(b"200")
    life = loop.start(trap, commit_interval_seconds=60.0)
    loop.die(trap, life, lambda: trap.inside)
    # Afterwards all workers are back and work at a time; while it was on probation one did.
    assert trap.seen[:201] == values(201), "expected one message at a time, in their order"

    trap = Trap()
    life = loop.start(trap)
    life.wait_committed(300)
    eventually(lambda: any("probation is over, 8 workers again" in line for line in log()))
    assert life.end() == 0
    assert trap.most == 1
    assert sorted(trap.seen, key=lambda value: int(value or 0)) == [value for value in values(300) if value != b"200"]
    (row,) = life.dead_letters()
    assert (row["offset"], row["error_type"], row["attempts"]) == ("200", "CrashLoopError", "1")
    assert f"{TOPIC}-0@200 was the message in work when the process ended" in row["stack_trace"]
    assert "3 such ends in a row" in row["stack_trace"]
    assert loop.state() is None


def test_in_a_probation_without_another_death_nothing_is_left_out(broker: FakeBroker, loop: Loop):
    broker.produce_many(TOPIC, 0, values(50))
    dead_twice(loop, b"7")
    trap = Trap()
    life = loop.start(trap, max_attempts=2)
    life.wait_committed(50)
    assert life.end() == 0
    assert (trap.most, len(trap.seen)) == (1, 50)
    assert life.dead_letters() == []


def test_the_operator_s_workers_come_after_the_probation(broker: FakeBroker, loop: Loop):
    broker.produce_many(TOPIC, 0, values(50))
    dead_twice(loop, b"7")
    trap = Trap(b"3")
    life = loop.start(trap)
    eventually(lambda: trap.inside)
    life.consumer.set_workers(4)
    assert len(life.consumer._pool.alive()) == 1
    trap.open.set()
    life.wait_committed(50)
    eventually(lambda: len(life.consumer._pool.alive()) == 4)
    assert life.end() == 0


def test_a_revocation_suspends_a_probation_and_an_assignment_goes_on_with_it(broker: FakeBroker, loop: Loop):
    broker.produce_many(TOPIC, 0, values(50))
    dead_twice(loop, b"7")
    trap = Trap(b"3")
    life = loop.start(trap)
    eventually(lambda: trap.inside)
    guard = life.consumer._guard
    assert guard is not None
    assert guard.probation
    threading.Timer(0.05, trap.open.set).start()  # while the revocation waits for the message in work
    life.client.revoke((TOPIC, 0))
    eventually(lambda: not guard.probation)
    assert (life.committed() or 0) >= 4, "expected what was in work to be finished"
    life.client.give_back((TOPIC, 0))
    life.wait_committed(50)
    assert trap.most == 1
    assert life.end() == 0
    assert life.dead_letters() == []
    assert set(trap.seen) == set(values(50))


def test_a_failure_that_is_tried_again_in_a_probation_is_a_failure_like_any_other(
    tmp_path: Path, broker: FakeBroker, live: Callable[..., Life]
):
    broker.produce_many(TOPIC, 0, values(20))
    loop = Loop(tmp_path, broker, live)
    dead_twice(loop, b"7")
    calls: list[bytes | None] = []

    def process(value: bytes | None) -> None:
        calls.append(value)
        if value in (b"5", b"6"):
            raise ValueError("no good")

    life = live(
        processor_callable=process, worker_count=8, crash_loop_limit=2, dlq_path=str(tmp_path / "dlq.csv"), max_attempts=3,
        retry_backoff_seconds=0.01,
    )  # fmt: skip
    life.wait_committed(20)
    assert life.end() == 0
    assert {(row["offset"], row["error_type"]) for row in life.dead_letters()} == {("5", "ValueError"), ("6", "ValueError")}
    assert (calls.count(b"5"), calls.count(b"4")) == (3, 1)


def test_a_replay_outside_the_group_and_dev_mode_have_no_guard(live: Callable[..., Life]):
    for options in ({"dev_mode": True}, {"replay_from": "earliest", "replay_to": "latest"}):
        assert live(start=False, crash_loop_limit=2, **options).consumer._guard is None
    assert live(start=False, crash_loop_limit=2, replay_from="earliest").consumer._guard is not None
