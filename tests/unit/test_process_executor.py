"""Workers with a process each: the same books as with threads, whatever becomes of the process."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from kafka_consumer import child as child_module
from kafka_consumer import process_executor, worker_loop
from kafka_consumer.assignment import Assignment
from kafka_consumer.child import Child, StartError
from kafka_consumer.chunk import Chunk
from kafka_consumer.errors import ConfigError, WorkerProcessDiedError
from kafka_consumer.process_setup import check_process, setup_of
from kafka_consumer.shared_state import SharedState
from kafka_consumer.types import DeadLetter, WorkerState
from kafka_consumer.worker_pool import WorkerPool
from tests import processors
from tests.fakes import MockMessage
from tests.helpers import background, eventually, make_config, make_state
from tests.processors import Fault, Flaky, Gate, Notes

TOPIC = "test-topic"
EXECUTORS = ("thread", "process")


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> None:
    """Every record of the package is captured."""
    caplog.set_level(logging.DEBUG, "kafka_consumer")


def _message(offset: int, value: bytes | None, key: bytes | None = None) -> MockMessage:
    return MockMessage(TOPIC, 0, offset, key, value)


def _state(folder: Path, processor: Any, **options: Any) -> SharedState:
    return make_state(folder, **{"processor_callable": processor, "executor": "process", "worker_count": 1, **options})


@contextmanager
def pool_of(state: SharedState) -> Iterator[WorkerPool]:
    """Run a pool, and end it."""
    pool = WorkerPool(state)
    pool.start()
    try:
        yield pool
    finally:
        state.stop("enough")
        assert pool.join(20)


def put_chunk(state: SharedState, values: list[bytes | None], key: bytes | None = None) -> Assignment:
    """Put the values as one chunk, as polled, that a worker will take whole."""
    assignment = Assignment(TOPIC, 0)
    assignment.delivered(range(len(values)), time.monotonic())
    messages: Any = [_message(offset, value, key) for offset, value in enumerate(values)]
    size = sum(len(value or b"") for value in values)
    state.processing_queue.pace.measured(1e-6)
    state.processing_queue.put_chunks([Chunk(messages, assignment, range(len(values)), values, size)])
    return assignment


def outcomes(state: SharedState, count: int) -> dict[int, str]:
    """Return what became of the next ``count`` results; each offset has exactly one."""
    found = [state.processed_queue.get(timeout=30) for _ in range(count)]
    by_offset = {offset: outcome for _, offset, outcome in found}
    assert len(by_offset) == count, f"expected one result a message, got {found}"
    return by_offset


def failed(state: SharedState, count: int) -> list[int]:
    """Return which offsets of the next ``count`` results failed."""
    return sorted(offset for offset, outcome in outcomes(state, count).items() if outcome == "failed")


def letters(state: SharedState) -> dict[int, DeadLetter]:
    return {letter.offset: letter for letter in state.dlq_queue.get_many(0)}


def numbers(count: int) -> list[bytes | None]:
    return [b"%d" % number for number in range(count)]


def alive(pid: int) -> bool:
    """Whether this process exists and isn't just waiting to be reaped."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# --- the same as with threads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", EXECUTORS)
def test_each_message_has_exactly_one_result_whatever_becomes_of_it(tmp_path: Path, executor: str):
    state = _state(tmp_path, notes := Fault(tmp_path), executor=executor, worker_count=2)
    with pool_of(state):
        put_chunk(state, [b"fail:%d" % n if n % 7 == 0 else b"%d" % n for n in range(100)])
        assert failed(state, 100) == list(range(0, 100, 7))
    assert len(notes.values) == 100
    found = letters(state)
    assert sorted(found) == list(range(0, 100, 7))
    assert (found[7].error_type, found[7].error_message, found[7].attempts) == ("ValueError", "no good", 1)
    assert 'raise ValueError("no good")\nValueError: no good' in found[7].stack_trace
    assert (state.processing_queue.taken, state.processing_queue.in_flight_bytes) == (0, 0)
    assert (os.getpid() in notes.pids) == (executor == "thread")


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_message_that_the_processor_must_not_see_never_reaches_it(tmp_path: Path, executor: str):
    state = _state(tmp_path, notes := Notes(tmp_path), executor=executor, max_message_size=10)
    with background(worker_loop, state, 0, stop=lambda: state.stop("enough")):
        for offset, value in enumerate([b"a", b"x" * 11, b"\xff", None, b"b"]):
            state.processing_queue.put(_message(offset, value))
        assert failed(state, 5) == [1, 2]
    assert notes.values == [b"a", b"(none)", b"b"]
    assert {o: (x.error_type, x.attempts) for o, x in letters(state).items()} == {
        1: ("MessageTooLargeError", 0), 2: ("UnicodeDecodeError", 0)
    }  # fmt: skip


@pytest.mark.parametrize("executor", EXECUTORS)
def test_refused_messages_among_others_of_a_chunk_are_found(tmp_path: Path, executor: str):
    state = _state(tmp_path, notes := Notes(tmp_path), executor=executor, max_message_size=5)
    messages: Any = [_message(offset, value) for offset, value in enumerate([b"1", b"2", b"too long", b"3", b"\xff"])]
    state.processing_queue.pace.measured(1e-6)
    with pool_of(state):
        state.processing_queue.put_chunks([Chunk(messages)])
        assert failed(state, 5) == [2, 4]
    assert notes.values == [b"1", b"2", b"3"]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_failure_is_tried_again_until_it_succeeds_or_the_attempts_are_used_up(tmp_path: Path, executor: str):
    state = _state(tmp_path, notes := Flaky(tmp_path, 2, b"1"), executor=executor, max_attempts=3, retry_backoff_seconds=0.01)
    with pool_of(state):
        put_chunk(state, numbers(3))
        assert failed(state, 3) == []
    assert sorted(notes.values) == [b"0", b"1", b"1", b"1", b"2"]
    assert state.counters.retried == 2
    state = _state(
        tmp_path, Fault(tmp_path), executor=executor, max_attempts=3, retry_backoff_seconds=0, fatal_exceptions=(LookupError,)
    )
    with pool_of(state):
        put_chunk(state, [b"fail", b"fatal"])
        assert failed(state, 2) == [0, 1]
    assert [letter.attempts for _, letter in sorted(letters(state).items())] == [3, 1]


@pytest.mark.parametrize(("executor", "die"), [("thread", False), ("process", False), ("process", True)])
@pytest.mark.parametrize("ordering", ["key", "partition"])
def test_attempts_keep_the_order_of_their_lane(tmp_path: Path, executor: str, ordering: str, die: bool):
    state = _state(
        tmp_path, notes := Flaky(tmp_path, 1, b"1", b"3", die=die), executor=executor, ordering=ordering, max_attempts=2,
        retry_backoff_seconds=0.005, worker_count=2,
    )  # fmt: skip
    with pool_of(state):
        put_chunk(state, numbers(5), key=b"same")
        assert failed(state, 5) == []
    assert notes.values == [b"0", b"1", b"1", b"2", b"3", b"3", b"4"]
    assert (state.processing_queue.taken, state.processing_queue.in_flight_bytes) == (0, 0)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("ordering", ["key", "partition"])
def test_the_last_failure_of_a_lane_does_not_hold_up_what_is_behind(tmp_path: Path, executor: str, ordering: str):
    state = _state(
        tmp_path, notes := Fault(tmp_path), executor=executor, ordering=ordering, max_attempts=2, retry_backoff_seconds=0.005
    )
    with pool_of(state):
        put_chunk(state, [b"1", b"fail", b"fatal", b"2"], key=b"same")
        assert failed(state, 4) == [1, 2]
    assert notes.values == [b"1", b"fail", b"fail", b"fatal", b"fatal", b"2"]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_what_waits_behind_a_slow_message_goes_to_an_idle_worker(tmp_path: Path, executor: str):
    state = _state(tmp_path, gate := Gate(tmp_path, b"3"), executor=executor, worker_count=2)
    with pool_of(state):
        put_chunk(state, numbers(50))
        assert sorted(outcomes(state, 49)) == [offset for offset in range(50) if offset != 3]
        assert state.processing_queue.taken == 4, "expected the slow one and those before it to be in hand, no other"
        gate.open()
        assert outcomes(state, 1) == {3: "success"}
    assert set(gate.values) == set(numbers(50))
    assert len(gate.values) == 50, "expected no message to be called twice"
    assert (state.processing_queue.taken, state.processing_queue.in_flight_bytes) == (0, 0)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_worker_shows_what_it_does(tmp_path: Path, executor: str):
    state = _state(tmp_path, gate := Gate(tmp_path, b"1"), executor=executor)
    with pool_of(state) as pool:
        assert pool.statuses()[0].state is WorkerState.IDLE
        put_chunk(state, numbers(2))
        eventually(lambda: gate.values == numbers(2))
        status = pool.statuses()[0]
        assert (status.state, status.topic, status.partition, status.offset) == (WorkerState.BUSY, TOPIC, 0, 1)
        assert 0 <= time.monotonic() - status.since < 30
        stack = "".join(pool.stacks({0})[0])
        assert ("in process " + str(max(gate.pids)) if executor == "process" else "in __call__") in stack
        gate.open()
        eventually(lambda: pool.statuses()[0].processed == 2)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_what_was_put_is_processed_before_the_end(tmp_path: Path, executor: str):
    state = _state(tmp_path, notes := Notes(tmp_path), executor=executor, worker_count=2)
    put_chunk(state, numbers(300))
    with pool_of(state):
        pass
    assert len(notes.values) == 300
    assert set(notes.values) == set(numbers(300))
    assert failed(state, 300) == []


@pytest.mark.parametrize("executor", EXECUTORS)
def test_retries_of_a_revoked_partition_are_let_go(tmp_path: Path, executor: str):
    state = _state(tmp_path, Fault(tmp_path), executor=executor, max_attempts=9, retry_backoff_seconds=0.05)
    with pool_of(state) as pool:
        assignment = put_chunk(state, [b"fail"])
        eventually(lambda: pool.waiting_retries)
        assignment.close()
        eventually(lambda: state.processing_queue.taken == 0)
    assert state.dlq_queue.empty()


# --- a process that dies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "how"),
    [
        (b"exit", "ended with exit code 7"),
        (b"segfault", "was ended by SIGSEGV"),
        (b"killed", "was ended by SIGKILL, which is also how the kernel ends a process when memory runs out"),
    ],
)
def test_the_message_in_work_alone_is_a_dead_letter_when_a_process_dies(
    tmp_path: Path, fault: bytes, how: str, caplog: pytest.LogCaptureFixture
):
    state = _state(tmp_path, notes := Fault(tmp_path))
    with pool_of(state):
        put_chunk(state, [b"0", b"fail", b"2", fault, b"4", b"5"])
        assert failed(state, 6) == [1, 3]
    assert notes.values == [b"0", b"fail", b"2", fault, b"4", b"5"], "expected each message to be called once, in order"
    assert len(notes.pids) == 2, "expected another process to go on"
    letter = letters(state)[3]
    assert (letter.error_type, letter.attempts) == ("WorkerProcessDiedError", 1)
    assert letter.error_message == f"the worker's process {how} while it had this message in work"
    assert f"worker 0: its process {notes.calls()[0][0]} {how} at test-topic-0@3" in caplog.messages
    assert state.counters.crashed_workers == 1
    assert state.counters.timed_out == 0
    assert (state.processing_queue.taken, state.processing_queue.in_flight_bytes) == (0, 0)


def test_a_death_is_seen_though_a_process_that_it_left_behind_holds_its_pipe(tmp_path: Path):
    state = _state(tmp_path, notes := Fault(tmp_path))
    with pool_of(state):
        put_chunk(state, [b"0", b"heirs", b"1"])
        assert failed(state, 3) == [1]
        assert b"let go" not in notes.values, "expected the pipe to be still held"
        (tmp_path / "let-go").touch()
        eventually(lambda: b"let go" in notes.values)
    assert "ended with exit code 9" in letters(state)[1].error_message


def test_a_segmentation_fault_leaves_its_stack_as_evidence(tmp_path: Path):
    state = _state(tmp_path, Fault(tmp_path))
    with pool_of(state):
        put_chunk(state, [b"segfault"])
        assert failed(state, 1) == [0]
    trace = letters(state)[0].stack_trace
    assert trace.startswith("Fatal Python error: Segmentation fault")
    assert "in segfault" in trace
    assert "_watch_parent" not in trace


def test_a_death_counts_as_an_attempt(tmp_path: Path):
    state = _state(tmp_path, notes := Flaky(tmp_path, 2, b"1", die=True), max_attempts=3, retry_backoff_seconds=0.01)
    with pool_of(state):
        put_chunk(state, numbers(3))
        assert failed(state, 3) == []
    assert sorted(notes.values) == [b"0", b"1", b"1", b"1", b"2"]
    state = _state(tmp_path, Fault(tmp_path), max_attempts=3, retry_backoff_seconds=0.01)
    with pool_of(state):
        put_chunk(state, [b"exit"])
        assert failed(state, 1) == [0]
    assert letters(state)[0].attempts == 3
    state = _state(
        tmp_path, Fault(tmp_path), max_attempts=3, retry_backoff_seconds=0.01, fatal_exceptions=(WorkerProcessDiedError,)
    )
    with pool_of(state):
        put_chunk(state, [b"exit"])
        assert failed(state, 1) == [0]
    assert letters(state)[0].attempts == 1


@pytest.mark.parametrize(("fault", "dead"), [(b"nonsense", [2]), (b"huge", [2]), (b"lies", [2]), (b"scribbles", [1, 2])])
def test_a_process_that_talks_nonsense_is_as_good_as_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: bytes, dead: list[int]
):
    monkeypatch.setattr(child_module, "DEATH_SECONDS", 0.1)
    state = _state(tmp_path, notes := Fault(tmp_path))
    with pool_of(state):
        put_chunk(state, [b"fail", b"1", fault, b"3"])
        # Of one that has written over its account nobody knows what it did last: the first one that wasn't told of is blamed.
        assert failed(state, 4) == [0, *dead]
        pids = notes.pids
    assert len(pids) == 1 + len(dead)
    found = letters(state)
    assert found.pop(0).error_type == "ValueError"
    assert {letter.error_message for letter in found.values()} == {
        "the worker's process closed its connection or talked nonsense, and was killed while it had this message in work"
    }
    assert not any(alive(pid) for pid in pids)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_message_that_cannot_be_read_crashes_the_worker_and_is_recorded(
    tmp_path: Path, executor: str, caplog: pytest.LogCaptureFixture
):
    class Broken(MockMessage):
        def value(self) -> Any:
            raise RuntimeError("broken message")

    state = _state(tmp_path, notes := Notes(tmp_path), executor=executor)
    messages: Any = [_message(0, b"0"), _message(1, b"1"), Broken(TOPIC, 0, 2, None, b""), _message(3, b"3")]
    state.processing_queue.pace.measured(1e-6)
    with pool_of(state) as pool:
        state.processing_queue.put_chunks([Chunk(messages)])
        assert failed(state, 4) == [2]
        eventually(lambda: len(pool.alive()) == 1)
    assert notes.values == [b"0", b"1", b"3"]
    letter = letters(state)[2]
    assert (letter.error_type, letter.error_message, letter.attempts) == ("RuntimeError", "broken message", 0)
    assert state.counters.crashed_workers == 1
    assert any("worker 0 crashed at test-topic-0@2: RuntimeError: broken message" in m for m in caplog.messages)


def test_a_process_that_closes_its_pipe_ends_without_harm_to_the_messages(tmp_path: Path):
    state = _state(tmp_path, notes := Fault(tmp_path))
    with pool_of(state):
        put_chunk(state, [b"close", b"1"])
        assert failed(state, 2) == []
        put_chunk(state, [b"2", b"close", b"fail", b"3"])  # this failure can't be told any more
        assert failed(state, 4) == [2]
        assert len(notes.pids) >= 2
    assert notes.values[:2] == [b"close", b"1"]
    assert letters(state)[2].error_type == "WorkerProcessDiedError"


def test_a_process_that_dies_between_two_messages_takes_none_with_it(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    state = _state(tmp_path, notes := Notes(tmp_path))
    with pool_of(state):
        put_chunk(state, numbers(2))
        outcomes(state, 2)
        (pid,) = notes.pids
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not alive(pid))
        put_chunk(state, numbers(3))
        assert failed(state, 3) == []
    assert notes.values == [*numbers(2), *numbers(3)]
    assert any("with no message in work" in message for message in caplog.messages)
    assert state.counters.crashed_workers == 1


def test_processes_that_die_at_once_are_replaced_ever_more_slowly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(process_executor, "PAUSE_SECONDS", 0.2)
    state = _state(tmp_path, notes := Fault(tmp_path), worker_count=1)
    with pool_of(state):
        began = time.monotonic()
        put_chunk(state, [b"exit"] * 4)
        assert failed(state, 4) == [0, 1, 2, 3]
        # After the second death 0.2 s, after the third 0.4 s.
        assert time.monotonic() - began >= 0.6
        assert len(notes.pids) == 4


def test_a_process_that_did_some_work_is_replaced_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(process_executor, "PAUSE_SECONDS", 3600)
    monkeypatch.setattr(process_executor, "LONGEST_PAUSE_SECONDS", 3600)
    state = _state(tmp_path, Fault(tmp_path), worker_count=1)
    with pool_of(state):
        for _ in range(3):
            put_chunk(state, [b"fine"])
            assert failed(state, 1) == []
            put_chunk(state, [b"exit"])
            assert failed(state, 1) == [0]


def test_the_end_does_not_wait_for_a_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(process_executor, "PAUSE_SECONDS", 3600)
    monkeypatch.setattr(process_executor, "LONGEST_PAUSE_SECONDS", 3600)
    state = _state(tmp_path, Fault(tmp_path), worker_count=1)
    with pool_of(state):
        put_chunk(state, [b"exit", b"exit", b"1", b"exit"])
        assert failed(state, 2) == [0, 1]
    assert failed(state, 2) == [3], "expected what waited to be drained"


# --- time -------------------------------------------------------------------------------------------------------------


def test_a_process_whose_message_is_over_its_time_is_killed_at_that_moment(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    state = _state(tmp_path, notes := Fault(tmp_path), processing_timeout=0.3)
    with pool_of(state) as pool:
        put_chunk(state, [b"0", b"1"])
        outcomes(state, 2)  # it has started
        began = time.monotonic()
        put_chunk(state, [b"2", b"hang", b"3"])
        assert failed(state, 3) == [1]
        assert 0.3 <= time.monotonic() - began < 5
        assert pool.stuck_threads == 0
        assert len(pool.workers) == 1
    assert notes.values == [b"0", b"1", b"2", b"hang", b"3"]
    letter = letters(state)[1]
    assert (letter.error_type, letter.attempts) == ("TimeoutError", 1)
    assert letter.error_message == "the processor took longer than processing_timeout=0.3 s"
    assert letter.stack_trace.startswith("Stack when the time ran out:\n")
    assert "in hang" in letter.stack_trace
    assert state.counters.timed_out == 1
    assert state.counters.crashed_workers == 0
    killed = notes.calls()[0][0]
    assert not alive(killed)
    assert any(
        f"test-topic-0@1 took longer than processing_timeout=0.3 s: dead letter; its process {killed}" in m
        for m in caplog.messages
    )


def test_a_stopped_process_is_killed_in_time_without_its_stack(tmp_path: Path):
    state = _state(tmp_path, gate := Gate(tmp_path, b"stop"), processing_timeout=0.5)
    with pool_of(state):
        put_chunk(state, [b"stop"])
        eventually(lambda: gate.pids)
        os.kill(min(gate.pids), signal.SIGSTOP)
        assert failed(state, 1) == [0]
    assert "(the process didn't answer)" in letters(state)[0].stack_trace


def test_a_chunk_of_many_messages_may_take_longer_than_one_message_may(tmp_path: Path):
    state = _state(tmp_path, processors.compute, processing_timeout=0.1)
    with pool_of(state):
        put_chunk(state, numbers(2000))
        assert failed(state, 2000) == []
    assert state.counters.timed_out == 0


# --- what travels -----------------------------------------------------------------------------------------------------


def test_errors_that_do_not_pickle_or_cannot_be_shown_survive_as_text(tmp_path: Path):
    state = _state(tmp_path, Fault(tmp_path))
    with pool_of(state):
        put_chunk(state, [b"odd", b"unspeakable", b"memory", b"recursion"])
        assert failed(state, 4) == [0, 1, 2, 3]
    found = letters(state)
    assert [found[offset].error_type for offset in range(4)] == ["OddError", "UnspeakableError", "MemoryError", "RecursionError"]
    assert "<lambda>" in found[0].error_message
    assert found[1].error_message == "(the error can't be shown: its __str__ raises)"
    assert all("in __call__" in letter.stack_trace for letter in found.values())
    assert len(found[3].stack_trace) < 100_000


def test_large_values_travel_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(process_executor, "PORTION_BYTES", 1000)
    values: list[bytes | None] = [b"%d" % size + b"x" * size for size in (0, 999, 5_000_000, 400, 400, 400)]
    state = _state(tmp_path, notes := Notes(tmp_path))
    with pool_of(state):
        put_chunk(state, values)
        assert failed(state, 6) == []
    assert notes.values == values


def test_what_the_processor_logs_and_prints_comes_out_in_the_parent(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    state = _state(tmp_path, Fault(tmp_path))
    with pool_of(state):
        put_chunk(state, [b"logs"])
        outcomes(state, 1)
    records = [record for record in caplog.records if record.name == "shop.orders"]
    assert [(r.levelno, r.getMessage()) for r in records] == [(logging.WARNING, "low on paper\x1b]0;x\x07")]


def test_a_terminal_is_left_to_the_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(child_module, "_is_terminal", lambda fd: True)
    state = _state(tmp_path, Fault(tmp_path))
    with pool_of(state):
        put_chunk(state, [b"prints"])
        outcomes(state, 1)
    assert capsys.readouterr().out == "to be seen\n"


def test_what_was_printed_to_a_file_outlives_its_process(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    state = _state(tmp_path, Fault(tmp_path))
    with pool_of(state):
        put_chunk(state, [b"prints", b"exit"])
        outcomes(state, 2)
    assert capfd.readouterr().out == "to be seen\n"


# --- starting ---------------------------------------------------------------------------------------------------------


def test_a_processor_that_another_process_cannot_import_is_refused(tmp_path: Path):
    def closure(value: bytes) -> None:
        pass

    for target in (lambda value: None, closure, threading.Lock().acquire):
        with pytest.raises(
            ConfigError, match="executor: expected 'thread', or a processor that another process can import"
        ) as info:
            setup_of(make_config(tmp_path, executor="process", processor_callable=target))
        assert len(info.value.problems) == 1
        assert "\n" not in str(info.value)


def test_what_has_a_name_needs_not_pickle(tmp_path: Path):
    config = make_config(tmp_path, executor="process", processor_callable="tests.processors:lambda_at_top")
    check_process(config)
    config.processor_callable = processors.lambda_at_top
    config.validate_config()
    check_process(config)
    config.processor_callable = lambda value: None
    with pytest.raises(ConfigError):
        check_process(config)


def test_local_exception_classes_are_refused(tmp_path: Path):
    local = type("Local", (Exception,), {})
    with pytest.raises(ConfigError, match="fatal_exceptions: expected classes at a module's top level"):
        setup_of(make_config(tmp_path, executor="process", processor_callable=processors.accept, fatal_exceptions=(local,)))


def test_a_coroutine_function_is_refused(tmp_path: Path):
    async def process(value: bytes) -> None:
        pass

    with pytest.raises(ConfigError, match="executor"):
        make_config(tmp_path, executor="process", processor_callable=process)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import os\nif os.getppid() != {parent}: handle = print\n", None),
        ("import os\nassert os.getpid() == {parent}, 'not\\nhere'\ndef handle(value): pass\n", "AssertionError: not here"),
        ("import os, sys\nif os.getpid() != {parent}: sys.exit(5)\ndef handle(value): pass\n", "SystemExit: 5"),
        ("import os\nif os.getpid() != {parent}: os._exit(5)\ndef handle(value): pass\n", "ended with exit code 5 before"),
    ],
)
def test_a_module_that_another_process_cannot_import_is_told_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str | None
):
    name = f"picky_{abs(hash(source))}"
    (tmp_path / f"{name}.py").write_text(source.format(parent=os.getpid() if said else 1))
    monkeypatch.syspath_prepend(tmp_path)
    config = make_config(tmp_path, executor="process", processor_callable=f"{name}:handle")
    if said is None:
        check_process(config)
        return
    with pytest.raises(ConfigError, match=said) as info:
        check_process(config)
    assert str(info.value).startswith("executor: ")
    assert "\n" not in str(info.value)


def test_processes_that_cannot_be_started_any_more_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(process_executor, "PAUSE_SECONDS", 0.0001)
    monkeypatch.setattr(subprocess, "Popen", _refuse)
    state = _state(tmp_path, processors.accept)
    with pool_of(state):
        put_chunk(state, numbers(5))
        eventually(lambda: not state.running.is_set())
    assert state.lifecycle.failed
    assert state.lifecycle.stop_reason == (
        "worker processes can't be started: a process can't be started: [Errno 11] Resource temporarily unavailable"
    )
    assert sum("(attempt " in message for message in caplog.messages) == process_executor.MAX_FAILED_STARTS
    assert state.processed_queue.empty(), "expected what wasn't processed to have no result"
    assert state.processing_queue.qsize() == 5


def test_draining_does_not_wait_long_for_processes_that_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    state = _state(tmp_path, processors.accept)
    state.processing_queue.put(_message(0, b"x"))
    state.stop("enough")
    monkeypatch.setattr(subprocess, "Popen", _refuse)
    with pool_of(state):
        eventually(lambda: state.lifecycle.failed)
    assert state.processing_queue.qsize() == 1


def _refuse(*_: Any, **__: Any) -> None:
    raise BlockingIOError(11, "Resource temporarily unavailable")


def test_an_import_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "hanging_module.py").write_text(
        f"import os, time\nif os.getpid() != {os.getpid()}: time.sleep(3600)\nhandle = print"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(child_module, "START_SECONDS", 0.3)
    monkeypatch.setattr(child_module, "EXIT_SECONDS", 0.1)
    config = make_config(tmp_path, executor="process", processor_callable="hanging_module:handle")
    with pytest.raises(ConfigError, match=r"hasn't imported the processor within 0\.3 s"):
        check_process(config)
    monkeypatch.setattr(child_module, "START_SECONDS", 3600)
    began = time.monotonic()
    check_process(config, unless=lambda: time.monotonic() - began > 0.2)  # the operator has thought better of it
    assert 0.2 < time.monotonic() - began < 10


# --- what a process has, and its end -------------------------------------------------------------------------------------


def test_a_process_has_no_descriptors_of_its_parent(tmp_path: Path):
    with (tmp_path / "secret").open("w"), pool_of(_state(tmp_path, gate := Gate(tmp_path, b"stop"))) as pool:
        put_chunk(pool.shared_state, [b"stop"])
        eventually(lambda: gate.pids)
        process = psutil.Process(min(gate.pids))
        assert [opened.path for opened in process.open_files() if str(tmp_path) in opened.path] == []
        assert process.net_connections("inet") == []
        assert process.num_fds() < 12
        gate.open()


def test_processes_end_in_order_with_their_workers(tmp_path: Path):
    state = _state(tmp_path, notes := Notes(tmp_path), worker_count=3)
    with pool_of(state) as pool:
        eventually(lambda: all(worker._child is not None for worker in pool.workers))  # type: ignore[attr-defined]
        pids = [worker._child.pid for worker in pool.workers]  # type: ignore[attr-defined]
        put_chunk(state, numbers(10))
        outcomes(state, 10)
        pool.resize(1)
        eventually(lambda: sum(map(alive, pids)) == 1, what="the end of the processes of two workers")
    assert not any(map(alive, pids))
    assert notes.pids <= set(pids)


def test_a_process_runs_its_exit_handlers_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "leaving.py").write_text(
        "import atexit, os, pathlib\ndef handle(value): pass\n"
        f"if os.getpid() != {os.getpid()}:\n"
        f"    atexit.register(lambda: pathlib.Path({str(tmp_path)!r}, f'left-{{os.getpid()}}').touch())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    state = _state(tmp_path, "leaving:handle")
    with pool_of(state):
        put_chunk(state, numbers(1))
        outcomes(state, 1)
        assert not list(tmp_path.glob("left-*"))
    assert len(list(tmp_path.glob("left-*"))) == 1


def test_a_process_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(child_module, "EXIT_SECONDS", 0.2)
    child = Child(setup_of(make_config(tmp_path, executor="process", processor_callable=Fault(tmp_path))))
    child.wait_ready()
    child.reset()
    child.begin(0, [b"hang"], careful=False)
    eventually(lambda: child.progress().in_work)
    child.close()
    assert not alive(child.pid)
    child.close()


def test_work_for_a_dead_process_is_an_end_of_file(tmp_path: Path):
    child = Child(setup_of(make_config(tmp_path, executor="process", processor_callable=processors.accept)))
    child.wait_ready()
    child.kill()
    with pytest.raises(EOFError):
        child.begin(0, [b"x" * 1_000_000], careful=False)
    child.close()
    unborn = Child(setup_of(make_config(tmp_path, executor="process", processor_callable=processors.accept)))
    unborn.kill()
    with pytest.raises(StartError, match="was ended by SIGKILL"):
        unborn.wait_ready()
    unborn.close()


def test_a_signal_to_the_whole_group_does_not_end_a_process_that_just_starts(tmp_path: Path):
    child = Child(setup_of(make_config(tmp_path, executor="process", processor_callable=processors.accept)))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(child.pid, number)
    child.wait_ready()
    child.close()


def test_programs_that_the_processor_starts_get_none_of_the_descriptors(tmp_path: Path):
    state = _state(tmp_path, notes := Fault(tmp_path))
    with pool_of(state):
        put_chunk(state, [b"inheritable"])
        outcomes(state, 1)
    assert notes.values == [b"inheritable"]


def test_signals_to_the_whole_group_do_not_end_it_and_do_not_shield_its_own_programs(tmp_path: Path):
    state = _state(tmp_path, processors.start_sleeper)
    named = tmp_path / "pid"
    with pool_of(state) as pool:
        put_chunk(state, [os.fsencode(named)])
        eventually(lambda: named.exists() and named.read_text())
        pid = pool.workers[0]._child.pid  # type: ignore[attr-defined]
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
        assert alive(pid)
        os.kill(int(named.read_text()), signal.SIGTERM)
        assert failed(state, 1) == []
        assert alive(pid)


# --- whatever happens -------------------------------------------------------------------------------------------------


@pytest.mark.integration
@pytest.mark.parametrize("ordering", ["unordered", "key", "partition"])
def test_whatever_happens_to_the_processes_each_message_has_one_result(
    tmp_path: Path, ordering: str, monkeypatch: pytest.MonkeyPatch
):
    """Processes that die by themselves, hang, or are killed by somebody else at any moment."""
    monkeypatch.setattr(process_executor, "PAUSE_SECONDS", 0.01)
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    kinds = [b"fine"] * 14 + [b"fail", b"exit", b"killed", b"fatal", b"system_exit"]
    values: list[bytes | None] = [b"%s:%d" % (b"hang" if n == 45 else chance.choice(kinds), n) for n in range(120)]
    state = _state(
        tmp_path, notes := Fault(tmp_path), worker_count=3, ordering=ordering, processing_timeout=0.5, max_attempts=3,
        retry_backoff_seconds=0.002, fatal_exceptions=(LookupError,),
    )  # fmt: skip
    with pool_of(state) as pool:
        for start in range(0, 120, 40):
            assignment = Assignment(TOPIC, start)
            assignment.delivered(range(40), time.monotonic())
            part = values[start : start + 40]
            messages: Any = [MockMessage(TOPIC, start, n, b"k%d" % (n % 5), value) for n, value in enumerate(part)]
            state.processing_queue.put_chunks([Chunk(messages, assignment, range(40), part, 400)])
        killer = threading.Event()

        def kill_now_and_then() -> None:
            while not killer.wait(chance.uniform(0.05, 0.3)):
                child = chance.choice(pool.workers)._child  # type: ignore[attr-defined]
                if child is not None and child.ready:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child.pid, signal.SIGKILL)

        with background(kill_now_and_then, stop=killer.set):
            found = [state.processed_queue.get(timeout=60) for _ in range(120)]
    by_place = {(partition, offset): outcome for partition, offset, outcome in found}
    assert len(by_place) == 120, f"seed {seed}: expected one result a message"
    assert state.processed_queue.empty()
    calls = Counter(notes.values)
    recorded = {(letter.partition, letter.offset): letter for letter in state.dlq_queue.get_many(0)}
    for number, value in enumerate(values):
        assert value is not None
        place = (number // 40 * 40, number % 40)
        kind = value.split(b":")[0]
        assert (by_place[place] == "failed") == (place in recorded), f"seed {seed}: {value!r}"
        assert calls[value] >= 1, f"seed {seed}: {value!r} was never called"
        if kind != b"fine":
            assert by_place[place] == "failed", f"seed {seed}: {value!r}"
        if by_place[place] == "failed" and kind == b"fine":
            assert recorded[place].error_type == "WorkerProcessDiedError", f"seed {seed}: {value!r}"
            assert recorded[place].attempts == 3
    assert (state.processing_queue.taken, state.processing_queue.in_flight_bytes) == (0, 0), f"seed {seed}"
