"""What a processor may do wrong, with either executor: its message is a dead letter, all others are processed and committed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers import eventually
from tests.integration.conftest import TOPIC
from tests.processors import Fault, Gate, Notes

EXECUTORS = ("thread", "process")


@pytest.fixture(params=EXECUTORS)
def faulty(live, broker, tmp_path, request) -> Callable[..., Any]:
    """Return a function that runs a consumer over ten good messages with these values in their middle."""

    def build(*values: bytes, processor: Notes | None = None, **options: Any) -> Any:
        found = [*(b"%d" % n for n in range(5)), *values, *(b"%d" % n for n in range(5, 10))]
        broker.produce_many(TOPIC, 0, found)
        return live(
            **{
                "processor_callable": processor or Fault(tmp_path), "executor": request.param, "worker_count": 2,
                "retry_backoff_seconds": 0.01, **options,
            }
        )  # fmt: skip

    return build


@pytest.mark.parametrize(
    ("fault", "error_type"),
    [
        ("fail", "ValueError"),
        ("memory", "MemoryError"),
        ("recursion", "RecursionError"),
        ("odd", "OddError"),
        ("unspeakable", "UnspeakableError"),
        ("system_exit", "SystemExit"),
        ("interrupt", "KeyboardInterrupt"),
        ("generator_exit", "GeneratorExit"),
    ],
)
def test_whatever_a_processor_raises_costs_its_message_alone(faulty, fault: str, error_type: str):
    life = faulty(fault.encode())
    life.wait_committed(11)
    [row] = life.dead_letters()
    assert (row["offset"], row["error_type"], row["attempts"]) == ("5", error_type, "1")
    assert f"in {fault}" in row["stack_trace"]
    assert len(life.consumer.config.processor_callable.values) == 11
    eventually(lambda: len(life.consumer._pool.alive()) == 2)
    assert life.end() == 0
    assert (life.state.counters.processed, life.state.counters.failed) == (10, 1)


@pytest.mark.parametrize("fault", ["system_exit", "interrupt", "generator_exit"])
def test_what_is_no_ordinary_exception_is_not_tried_again(faulty, fault: str):
    life = faulty(fault.encode(), max_attempts=5)
    life.wait_committed(11)
    assert [(row["offset"], row["attempts"]) for row in life.dead_letters()] == [("5", "1")]
    assert life.end() == 0


@pytest.mark.parametrize("fault", ["memory", "recursion"])
def test_exhaustion_is_tried_again_like_any_failure(faulty, fault: str):
    life = faulty(fault.encode(), max_attempts=3)
    life.wait_committed(11)
    assert [(row["offset"], row["attempts"]) for row in life.dead_letters()] == [("5", "3")]
    assert life.end() == 0


def test_every_message_may_be_at_fault_at_once(faulty):
    values = [f"{fault}:{n}".encode() for n in range(10) for fault in ("fail", "memory", "system_exit", "recursion", "fatal")]
    life = faulty(*values)
    life.wait_committed(60, 0)
    assert sorted(int(row["offset"]) for row in life.dead_letters()) == list(range(5, 55))
    assert life.end() == 0
    assert (life.state.counters.processed, life.state.counters.failed) == (10, 50)


def test_a_call_that_hangs_is_a_dead_letter_when_its_time_is_over(faulty, tmp_path):
    gate = Gate(tmp_path, b"stop")
    life = faulty(b"stop", processor=gate, processing_timeout=0.3)
    try:
        life.wait_committed(11)
        [row] = life.dead_letters()
        assert (row["offset"], row["error_type"]) == ("5", "TimeoutError")
        assert "tests/processors.py" in row["stack_trace"]
        assert life.state.counters.timed_out == 1
    finally:
        gate.open()
    assert life.end() == 0


def test_a_result_that_comes_after_the_timeout_changes_nothing(faulty, tmp_path):
    gate = Gate(tmp_path, b"stop")
    life = faulty(b"stop", processor=gate, processing_timeout=0.3)
    life.wait_committed(11)
    gate.open()
    eventually(lambda: life.consumer.snapshot().stuck_threads == 0)
    assert life.end() == 0
    assert len(life.dead_letters()) == 1
    assert (life.state.counters.processed, life.state.counters.failed) == (10, 1)
    assert gate.values.count(b"stop") == 1


def test_a_call_that_hangs_without_a_timeout_holds_up_its_own_commit_alone(faulty, tmp_path):
    gate = Gate(tmp_path, b"stop")
    life = faulty(b"stop", processor=gate)
    try:
        eventually(lambda: len(gate.values) == 11)
        life.wait_committed(5)
        assert life.state.counters.failed == 0
    finally:
        gate.open()
    life.wait_committed(11)
    assert life.end() == 0
