"""Workers: one result for each message, one dead letter for each failure; timeouts, crashes, retries, and the end."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kafka_consumer import supervisor as supervisor_module
from kafka_consumer import worker_loop
from kafka_consumer.assignment import Assignment
from kafka_consumer.chunk import Chunk, Completion
from kafka_consumer.errors import MessageTooLargeError
from kafka_consumer.shared_state import SharedState
from kafka_consumer.supervisor import Supervisor
from kafka_consumer.types import WorkerState
from kafka_consumer.worker import Worker
from kafka_consumer.worker_pool import REMEMBERED, WorkerPool
from tests.conftest import mock_processor_failure, mock_processor_selective, mock_processor_success
from tests.fakes import FakeMessage, MockMessage
from tests.helpers import background, eventually, make_state

TOPIC = "test-topic"


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> None:
    """Every record of the package is captured."""
    caplog.set_level(logging.DEBUG, "kafka_consumer")


def _message(offset: int, value: Any = b"value", partition: int = 0, key: bytes | None = None) -> MockMessage:
    return MockMessage(TOPIC, partition, offset, key, value)


def _results(state: SharedState, count: int) -> list[tuple[int, int, str]]:
    """Return the next results, sorted; ``queue.Empty`` when they don't come."""
    return sorted(state.processed_queue.get(timeout=10) for _ in range(count))


@contextmanager
def one_worker(state: SharedState) -> Iterator[threading.Thread]:
    """Run ``worker_loop`` in a thread, and end it."""
    with background(worker_loop, state, 0, stop=lambda: state.stop("enough")) as thread:
        yield thread


@contextmanager
def pool_of(state: SharedState) -> Iterator[WorkerPool]:
    """Run a pool, and end it."""
    pool = WorkerPool(state)
    pool.start()
    try:
        yield pool
    finally:
        state.stop("enough")
        assert pool.join(10)


class Gate:
    """A processor that waits at values of ``stops`` until it is opened."""

    def __init__(self, *stops: bytes) -> None:
        self.stops = set(stops)
        self.reached = threading.Semaphore(0)
        self.open = threading.Event()
        self.seen: list[bytes | None] = []

    def __call__(self, value: bytes | None) -> None:
        if not self.stops or value in self.stops:
            self.reached.release()
            assert self.open.wait(20)
        self.seen.append(value)


# --- success and failure ----------------------------------------------------------------------------------------------


def test_a_processed_message_is_a_success(tmp_path: Path):
    """SPEC: Worker - Successful Processing."""
    seen: list[bytes | None] = []
    state = make_state(tmp_path, processor_callable=seen.append)
    with one_worker(state):
        state.processing_queue.put(_message(7, b"hello", partition=3))
        assert state.processed_queue.get(timeout=10) == (3, 7, "success")
    assert seen == [b"hello"]
    assert state.dlq_queue.empty()


def test_what_the_processor_returns_does_not_matter(tmp_path: Path):
    """SPEC: Worker - Successful Processing."""
    state = make_state(tmp_path, processor_callable=lambda value: False)
    with one_worker(state):
        state.processing_queue.put(_message(0))
        assert state.processed_queue.get(timeout=10) == (0, 0, "success")
    state = make_state(tmp_path, processor_callable=mock_processor_success)
    with one_worker(state):
        state.processing_queue.put(_message(0))
        assert state.processed_queue.get(timeout=10) == (0, 0, "success")


def test_a_message_that_fails_goes_to_the_dead_letters_and_counts_as_failed(tmp_path: Path):
    """SPEC: Worker - Processing Exception."""
    state = make_state(tmp_path, processor_callable=mock_processor_failure)
    with one_worker(state):
        state.processing_queue.put(_message(5, b"bad", key=b"k"))
        assert state.processed_queue.get(timeout=10) == (0, 5, "failed")
    letter = state.dlq_queue.get_nowait()
    assert (letter.topic, letter.partition, letter.offset, letter.key, letter.value) == (TOPIC, 0, 5, b"k", b"bad")
    assert (letter.error_type, letter.error_message, letter.attempts, letter.worker_id) == (
        "ValueError",
        "Processing failed",
        1,
        0,
    )
    assert "raise ValueError(message)\nValueError: Processing failed" in letter.stack_trace
    assert state.dlq_queue.empty()


def test_each_message_has_exactly_one_result_whatever_becomes_of_it(tmp_path: Path):
    state = make_state(tmp_path, processor_callable=mock_processor_selective, worker_count=4)
    with pool_of(state):
        for offset in range(100):
            state.processing_queue.put(_message(offset, b'{"invalid": true}' if offset % 3 == 0 else b"{}"))
        found = _results(state, 100)
    assert found == [(0, offset, "failed" if offset % 3 == 0 else "success") for offset in range(100)]
    assert state.processed_queue.empty()
    assert sorted(letter.offset for letter in state.dlq_queue.get_many(0)) == list(range(0, 100, 3))


def test_a_tombstone_reaches_the_processor_as_none(tmp_path: Path):
    seen: list[bytes | None] = []
    state = make_state(tmp_path, processor_callable=seen.append)
    with one_worker(state):
        state.processing_queue.put(_message(0, None))
        assert state.processed_queue.get(timeout=10) == (0, 0, "success")
    assert seen == [None]


@pytest.mark.parametrize(
    "error", [ValueError("v"), KeyError("k"), TimeoutError("t"), AssertionError(), type("Odd", (Exception,), {})()]
)
def test_whatever_the_processor_raises_is_an_ordinary_failure(tmp_path: Path, error: Exception):
    """SPEC: Worker - Processing Exception."""

    def fail(value: bytes) -> None:
        raise error

    state = make_state(tmp_path, processor_callable=fail, processing_timeout=20)
    with one_worker(state):
        state.processing_queue.put(_message(0))
        assert state.processed_queue.get(timeout=10) == (0, 0, "failed")
        state.processing_queue.put(_message(1))  # the worker lives
        assert state.processed_queue.get(timeout=10) == (0, 1, "failed")
    assert state.dlq_queue.get_nowait().error_type == type(error).__name__


def test_a_coroutine_function_is_run_to_its_end(tmp_path: Path):
    seen: list[bytes] = []

    async def process(value: bytes) -> None:
        await asyncio.sleep(0)
        if value == b"bad":
            raise ValueError("no good")
        seen.append(value)

    state = make_state(tmp_path, processor_callable=process)
    with one_worker(state):
        for offset, value in enumerate([b"a", b"bad", b"b"]):
            state.processing_queue.put(_message(offset, value))
        assert _results(state, 3) == [(0, 0, "success"), (0, 1, "failed"), (0, 2, "success")]
    assert seen == [b"a", b"b"]
    assert state.dlq_queue.get_nowait().error_message == "no good"


# --- size and encoding ------------------------------------------------------------------------------------------------


def test_a_message_that_is_too_large_never_reaches_the_processor(tmp_path: Path):
    """SPEC: Worker - Message Too Large."""
    seen: list[bytes | None] = []
    state = make_state(tmp_path, processor_callable=seen.append, max_message_size=1000)
    with one_worker(state):
        state.processing_queue.put(_message(0, b"x" * 2000))
        state.processing_queue.put(_message(1, b"x" * 1000))
        assert _results(state, 2) == [(0, 0, "failed"), (0, 1, "success")]
    letter = state.dlq_queue.get_nowait()
    assert letter.error_type == MessageTooLargeError.__name__ == "MessageTooLargeError"
    assert letter.error_message == "the value has 2,000 bytes; max_message_size is 1,000"
    assert letter.attempts == 0
    assert letter.value == b"x" * 2000
    assert seen == [b"x" * 1000]


def test_a_value_that_is_not_utf8_goes_to_the_dead_letters(tmp_path: Path):
    """SPEC: Worker - UTF-8 Decode Error."""
    seen: list[bytes | None] = []
    state = make_state(tmp_path, processor_callable=seen.append)
    with one_worker(state):
        state.processing_queue.put(_message(0, b"\xff\xfe"))
        assert state.processed_queue.get(timeout=10) == (0, 0, "failed")
    letter = state.dlq_queue.get_nowait()
    assert (letter.error_type, letter.value, letter.attempts) == ("UnicodeDecodeError", b"\xff\xfe", 0)
    assert seen == []


def test_binary_lets_every_byte_through(tmp_path: Path):
    """SPEC: Worker - UTF-8 Decode Error."""
    seen: list[bytes | None] = []
    state = make_state(tmp_path, processor_callable=seen.append, value_encoding="binary")
    with one_worker(state):
        state.processing_queue.put(_message(0, b"\xff\xfe"))
        assert state.processed_queue.get(timeout=10) == (0, 0, "success")
    assert seen == [b"\xff\xfe"]


def test_a_refused_message_is_not_retried(tmp_path: Path):
    state = make_state(tmp_path, max_attempts=5, max_message_size=1, retry_backoff_seconds=0)
    with one_worker(state):
        state.processing_queue.put(_message(0, b"12"))
        assert state.processed_queue.get(timeout=10) == (0, 0, "failed")
    assert state.counters.retried == 0


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooled", [True, False])
def test_a_message_over_its_time_goes_to_the_dead_letters_at_that_moment(
    tmp_path: Path, pooled: bool, caplog: pytest.LogCaptureFixture
):
    """SPEC: Worker - Processing Timeout (if implemented)."""
    gate = Gate()
    state = make_state(tmp_path, processor_callable=gate, processing_timeout=0.05, worker_count=1)
    with pool_of(state) if pooled else one_worker(state):
        state.processing_queue.put(_message(0))
        assert gate.reached.acquire(timeout=10)
        assert state.processed_queue.get(timeout=10) == (0, 0, "failed")
        assert gate.seen == []  # the call hasn't returned
        letter = state.dlq_queue.get_nowait()
        gate.open.set()
    assert (letter.error_type, letter.attempts) == ("TimeoutError", 1)
    assert letter.error_message == "the processor took longer than processing_timeout=0.05 s"
    assert "Stack when the time ran out:" in letter.stack_trace
    assert "self.open.wait" in letter.stack_trace  # where it hangs
    assert state.counters.timed_out == 1
    assert any("test-topic-0@0 took longer than processing_timeout=0.05 s" in m for m in caplog.messages)
    assert state.processed_queue.empty()  # the late result was dropped


def test_a_pool_keeps_its_strength_when_a_thread_is_stuck(tmp_path: Path):
    """SPEC: Worker - Processing Timeout (if implemented)."""
    gate = Gate(b"slow")
    state = make_state(tmp_path, processor_callable=gate, processing_timeout=0.05, worker_count=1)
    with pool_of(state) as pool:
        state.processing_queue.put(_message(0, b"slow"))
        state.processing_queue.put(_message(1, b"fast"))
        assert _results(state, 2) == [(0, 0, "failed"), (0, 1, "success")]
        assert pool.stuck_threads == 1
        assert next(status.state for status in pool.statuses()) is WorkerState.STUCK
        assert pool.statuses()[0].offset == 0
        assert len(pool.alive()) == 1
        gate.open.set()
        eventually(lambda: pool.stuck_threads == 0)


def test_no_more_threads_get_stuck_than_there_are_workers(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """SPEC: Worker - Processing Timeout (if implemented)."""
    gate = Gate()
    state = make_state(tmp_path, processor_callable=gate, processing_timeout=0.02, worker_count=2)
    pool = WorkerPool(state)
    pool.start()
    for offset in range(10):
        state.processing_queue.put(_message(offset))
    eventually(lambda: any("no further replacement" in m for m in caplog.messages))
    eventually(lambda: pool.stuck_threads == 4)
    assert len(pool.workers) == 4
    gate.open.set()  # they return, and the rest is done
    eventually(lambda: state.processing_queue.qsize() == 0)
    state.stop("enough")
    assert pool.join(10)
    assert sorted(offset for _, offset, _ in _results(state, 10)) == list(range(10))


def test_a_timeout_that_the_processor_itself_raises_is_an_ordinary_failure(tmp_path: Path):
    """SPEC: Worker - Processing Timeout (if implemented)."""

    def fail(value: bytes) -> None:
        raise TimeoutError("the database is slow")

    state = make_state(tmp_path, processor_callable=fail, processing_timeout=30)
    with one_worker(state):
        state.processing_queue.put(_message(0))
        assert state.processed_queue.get(timeout=10) == (0, 0, "failed")
    assert state.dlq_queue.get_nowait().error_message == "the database is slow"
    assert state.counters.timed_out == 0


def test_what_waits_behind_a_message_over_its_time_is_processed_by_others(tmp_path: Path):
    gate = Gate(b"slow")
    state = make_state(tmp_path, processor_callable=gate, processing_timeout=0.1, worker_count=1)
    assignment = Assignment(TOPIC, 0)
    messages = [_message(0, b"a"), _message(1, b"slow"), _message(2, b"b"), _message(3, b"c")]
    first = assignment.delivered(range(4), time.monotonic())
    state.processing_queue.pace.measured(1e-6)  # fast so far: all four go in one chunk
    state.processing_queue.put_chunks([Chunk(messages, assignment, range(first, first + 4), [m.value() for m in messages], 7)])  # type: ignore[arg-type]
    with pool_of(state):
        assert _results(state, 4) == [(0, 0, "success"), (0, 1, "failed"), (0, 2, "success"), (0, 3, "success")]
        gate.open.set()
    assert state.processing_queue.taken == 0
    assert state.processing_queue.in_flight_bytes == 0


def test_a_late_failure_is_dropped_and_the_worker_goes_on(tmp_path: Path):
    """SPEC: Worker - Processing Timeout (if implemented)."""
    gate = Gate(b"slow")

    def fail_late(value: bytes) -> None:
        gate(value)
        if value == b"slow":
            raise ValueError("too late")

    state = make_state(tmp_path, processor_callable=fail_late, processing_timeout=0.05)
    with one_worker(state):
        state.processing_queue.put(_message(0, b"slow"))
        assert state.processed_queue.get(timeout=10) == (0, 0, "failed")
        gate.open.set()
        state.processing_queue.put(_message(1, b"fast"))
        assert state.processed_queue.get(timeout=10) == (0, 1, "success")
    assert [letter.error_type for letter in state.dlq_queue.get_many(0)] == ["TimeoutError"]
    assert state.processed_queue.empty()


def test_a_stuck_thread_that_crashes_at_last_is_replaced_once(tmp_path: Path):
    gate = Gate()

    def leave(value: bytes) -> None:
        if value == b"stuck":
            gate(value)
            raise SystemExit(3)

    state = make_state(tmp_path, processor_callable=leave, processing_timeout=0.03, worker_count=1)
    with pool_of(state) as pool:
        state.processing_queue.put(_message(0, b"stuck"))
        assert state.processed_queue.get(timeout=10) == (0, 0, "failed")
        eventually(lambda: len(pool.workers) == 2)
        gate.open.set()
        eventually(lambda: state.counters.crashed_workers == 1)
        state.processing_queue.put(_message(1, b"fast"))
        assert state.processed_queue.get(timeout=10) == (0, 1, "success")
        assert len(pool.workers) == 2
        assert len(pool.alive()) == 1
    assert state.dlq_queue.qsize() == 1  # one result, one dead letter


def test_a_message_that_finishes_at_the_very_moment_its_time_is_up_has_one_result(tmp_path: Path):
    state = make_state(tmp_path, processing_timeout=0.001)
    supervisor = Supervisor(state, list)
    worker = Worker(state, 0, supervisor)
    supervisor._time_out(worker, time.monotonic())  # overdue when it was looked at, and finished since
    assert state.counters.timed_out == 0
    assert state.processed_queue.empty()


# --- the loop crashes -------------------------------------------------------------------------------------------------


class Unreadable(MockMessage):
    """A message whose value can't be read: it breaks the loop, not the processor."""

    def value(self) -> Any:
        raise MemoryError("no value for you")


def test_a_crash_of_the_loop_loses_nothing_and_the_others_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """SPEC: Worker - Worker Thread Crash."""
    state = make_state(tmp_path, worker_count=2)
    with pool_of(state) as pool:
        state.processing_queue.put(Unreadable(TOPIC, 0, 0, b"k", None))
        for offset in range(1, 20):
            state.processing_queue.put(_message(offset))
        found = _results(state, 20)
        eventually(lambda: state.counters.crashed_workers == 1)
        eventually(lambda: len(pool.alive()) == 2)  # a replacement has started
        assert WorkerState.CRASHED in {status.state for status in pool.statuses()}
    assert found == [(0, 0, "failed"), *((0, offset, "success") for offset in range(1, 20))]
    letter = state.dlq_queue.get_nowait()
    assert (letter.offset, letter.error_type, letter.key, letter.value, letter.attempts) == (0, "MemoryError", b"k", None, 0)
    critical = [r for r in caplog.records if r.levelno == logging.CRITICAL]
    assert len(critical) == 1
    assert "crashed at test-topic-0@0: MemoryError: no value for you" in critical[0].getMessage()


def test_a_processor_that_exits_the_thread_is_a_crash(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """SPEC: Worker - Worker Thread Crash."""

    def leave(value: bytes) -> None:
        if value == b"leave":
            raise SystemExit(3)

    state = make_state(tmp_path, processor_callable=leave, worker_count=1)
    with pool_of(state):
        state.processing_queue.put(_message(0, b"leave"))
        state.processing_queue.put(_message(1))
        assert _results(state, 2) == [(0, 0, "failed"), (0, 1, "success")]
    letter = state.dlq_queue.get_nowait()
    assert (letter.error_type, letter.attempts) == ("SystemExit", 1)
    assert state.running.is_set() is False


def test_a_crash_in_the_middle_of_a_chunk_reports_what_was_done_and_returns_the_rest(tmp_path: Path):
    """SPEC: Worker - Worker Thread Crash."""

    def leave(value: bytes) -> None:
        if value == b"2":
            raise KeyboardInterrupt

    state = make_state(tmp_path, processor_callable=leave, worker_count=1)
    assignment = Assignment(TOPIC, 0)
    assignment.delivered(range(5), 0.0)
    messages = [_message(offset, b"%d" % offset) for offset in range(5)]
    state.processing_queue.pace.measured(1e-6)
    state.processing_queue.put_chunks([Chunk(messages, assignment, range(5), [m.value() for m in messages], 5)])  # type: ignore[arg-type]
    with pool_of(state):
        assert _results(state, 5) == [(0, o, "failed" if o == 2 else "success") for o in range(5)]
    assert state.dlq_queue.qsize() == 1
    assert (state.processing_queue.taken, state.processing_queue.in_flight_bytes) == (0, 0)


def test_a_crash_outside_of_any_message_is_logged_and_the_worker_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """SPEC: Worker - Worker Thread Crash."""
    state = make_state(tmp_path, worker_count=1)
    take, broken = state.processing_queue.take, [True]

    def break_once(*arguments: Any, **options: Any) -> Any:
        if broken:
            broken.clear()
            raise RuntimeError("the queue is odd")
        return take(*arguments, **options)

    monkeypatch.setattr(state.processing_queue, "take", break_once)
    with pool_of(state):
        state.processing_queue.put(_message(0))
        assert state.processed_queue.get(timeout=10) == (0, 0, "success")
    assert any(m.endswith("crashed: RuntimeError: the queue is odd") for m in caplog.messages)
    assert state.counters.crashed_workers == 1


def test_a_bare_worker_that_crashes_ends_and_its_message_is_not_lost(tmp_path: Path):
    """SPEC: Worker - Worker Thread Crash."""
    state = make_state(tmp_path)
    state.processing_queue.put(Unreadable(TOPIC, 0, 0, None, None))
    worker_loop(state, 7)
    assert state.processed_queue.get_nowait() == (0, 0, "failed")
    assert state.dlq_queue.get_nowait().worker_id == 7
    assert state.running.is_set()


def test_only_the_last_crashed_workers_are_remembered(tmp_path: Path):
    state = make_state(tmp_path, worker_count=1)
    with pool_of(state) as pool:
        for offset in range(REMEMBERED + 15):
            state.processing_queue.put(Unreadable(TOPIC, 0, offset, None, None))
        _results(state, REMEMBERED + 15)
        eventually(lambda: state.counters.crashed_workers == REMEMBERED + 15)
        eventually(lambda: len(pool.alive()) == 1)
        crashed = [status for status in pool.statuses() if status.state is WorkerState.CRASHED]
        assert REMEMBERED <= len(crashed) <= REMEMBERED + 1


# --- an empty queue, and the end --------------------------------------------------------------------------------------


def test_a_worker_waits_at_an_empty_queue_and_goes_on(tmp_path: Path):
    """SPEC: Worker - Queue Empty Handling."""
    state = make_state(tmp_path)
    with one_worker(state) as thread:
        eventually(lambda: state.processing_queue.idle_workers == 1)
        assert thread.is_alive()
        with pytest.raises(queue.Empty):
            state.processing_queue.get_nowait()
        state.processing_queue.put(_message(0))
        assert state.processed_queue.get(timeout=10) == (0, 0, "success")
        eventually(lambda: state.processing_queue.idle_workers == 1)
        assert thread.is_alive()


@pytest.mark.parametrize("stop", [lambda state: state.stop(), lambda state: state.running.clear()])
def test_a_worker_finishes_its_message_and_the_queue_before_it_ends(tmp_path: Path, stop: Callable[[SharedState], None]):
    """SPEC: Worker - Shutdown While Processing."""
    gate = Gate(b"first")
    state = make_state(tmp_path, processor_callable=gate)
    with background(worker_loop, state, 0) as thread:
        for offset, value in enumerate([b"first", b"second", b"third"]):
            state.processing_queue.put(_message(offset, value))
        assert gate.reached.acquire(timeout=10)
        stop(state)
        assert thread.is_alive()
        gate.open.set()
        thread.join(10)
        assert not thread.is_alive()
    assert gate.seen == [b"first", b"second", b"third"]
    assert _results(state, 3) == [(0, 0, "success"), (0, 1, "success"), (0, 2, "success")]


def test_joining_a_pool_that_is_busy_says_so(tmp_path: Path):
    """SPEC: Worker - Shutdown While Processing."""
    gate = Gate()
    state = make_state(tmp_path, processor_callable=gate, worker_count=2)
    pool = WorkerPool(state)
    pool.start()
    state.processing_queue.put(_message(0))
    assert gate.reached.acquire(timeout=10)
    state.stop("enough")
    assert pool.join(0.05) is False
    status = next(s for s in pool.statuses() if s.state is WorkerState.BUSY)
    assert (status.topic, status.partition, status.offset) == (TOPIC, 0, 0)
    gate.open.set()
    assert pool.join() is True
    assert {s.state for s in pool.statuses()} == {WorkerState.STOPPED}


# --- retries ----------------------------------------------------------------------------------------------------------


class Flaky:
    """Fails ``failures`` times for each value, then succeeds."""

    def __init__(self, failures: int, error: type[Exception] = ValueError) -> None:
        self.failures = failures
        self.error = error
        self.calls: list[bytes] = []
        self._lock = threading.Lock()

    def __call__(self, value: bytes) -> None:
        with self._lock:
            self.calls.append(value)
            count = self.calls.count(value)
        if count <= self.failures:
            raise self.error(f"attempt {count}")


def test_a_message_is_retried_until_it_succeeds(tmp_path: Path):
    flaky = Flaky(2)
    state = make_state(tmp_path, processor_callable=flaky, max_attempts=3, retry_backoff_seconds=0.01)
    with pool_of(state):
        state.processing_queue.put(_message(0, b"a"))
        assert state.processed_queue.get(timeout=10) == (0, 0, "success")
    assert len(flaky.calls) == 3
    assert state.counters.retried == 2
    assert state.dlq_queue.empty()
    assert state.processing_queue.taken == 0


def test_a_message_that_fails_at_every_attempt_is_one_dead_letter_with_their_number(tmp_path: Path):
    flaky = Flaky(99)
    state = make_state(tmp_path, processor_callable=flaky, max_attempts=3, retry_backoff_seconds=0.001)
    with pool_of(state):
        state.processing_queue.put(_message(0, b"a"))
        state.processing_queue.put(_message(1, b"b"))
        assert _results(state, 2) == [(0, 0, "failed"), (0, 1, "failed")]
    letters = state.dlq_queue.get_many(0)
    assert [letter.attempts for letter in letters] == [3, 3]
    assert {letter.error_message for letter in letters} == {"attempt 3"}


def test_a_fatal_exception_is_not_retried(tmp_path: Path):
    flaky = Flaky(99, KeyError)
    state = make_state(tmp_path, processor_callable=flaky, max_attempts=9, fatal_exceptions=(LookupError,))
    with pool_of(state):
        state.processing_queue.put(_message(0, b"a"))
        assert state.processed_queue.get(timeout=10) == (0, 0, "failed")
    assert len(flaky.calls) == 1


def test_a_message_that_waits_for_its_retry_holds_no_worker_up(tmp_path: Path):
    flaky = Flaky(1)
    state = make_state(tmp_path, processor_callable=flaky, max_attempts=2, retry_backoff_seconds=30, worker_count=1)
    with pool_of(state) as pool:
        state.processing_queue.put(_message(0, b"a"))
        eventually(lambda: pool.waiting_retries == 1)
        flaky.failures = 0
        for offset in range(1, 5):
            state.processing_queue.put(_message(offset, b"%d" % offset))
        assert [o for _, o, _ in _results(state, 4)] == [1, 2, 3, 4]
        assert pool.waiting_retries == 1
        state.stop("drain")  # no pause any more
        assert state.processed_queue.get(timeout=10) == (0, 0, "success")


def test_the_pauses_between_attempts_double_up_to_the_longest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    state = make_state(tmp_path, max_attempts=99, retry_backoff_seconds=1, retry_backoff_max_seconds=5)
    supervisor = Supervisor(state, list)
    monkeypatch.setattr(supervisor._random, "uniform", lambda low, high: 1.0)
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    for attempts in range(1, 6):
        supervisor.retry(Chunk([_message(0)], attempts=attempts))
    supervisor.retry(Chunk([_message(0)], attempts=5000))
    assert sorted(due - 100 for due, _, _ in supervisor._retries) == [1, 2, 4, 5, 5, 5]


def test_a_retry_of_a_revoked_partition_is_dropped(tmp_path: Path):
    flaky = Flaky(99)
    state = make_state(tmp_path, processor_callable=flaky, max_attempts=9, retry_backoff_seconds=30, worker_count=1)
    assignment = Assignment(TOPIC, 0)
    assignment.delivered([0], 0.0)
    with pool_of(state) as pool:
        state.processing_queue.put_chunks([Chunk([_message(0, b"a")], assignment, range(1), [b"a"], 1)])
        eventually(lambda: pool.waiting_retries == 1)
        assignment.close()
        eventually(lambda: state.processing_queue.taken == 0)
        assert pool.waiting_retries == 0
        assert state.processing_queue.in_flight_bytes == 0
    assert state.dlq_queue.empty()
    assert len(flaky.calls) == 1


def test_a_failure_of_a_revoked_partition_leaves_no_dead_letter(tmp_path: Path):
    gate = Gate()

    def fail(value: bytes) -> None:
        gate(value)
        raise ValueError

    state = make_state(tmp_path, processor_callable=fail)
    assignment = Assignment(TOPIC, 0)
    assignment.delivered([0], 0.0)
    with one_worker(state):
        state.processing_queue.put_chunks([Chunk([_message(0)], assignment, range(1), [b"value"], 5)])
        assert gate.reached.acquire(timeout=10)
        assignment.close()
        gate.open.set()
        eventually(lambda: state.processing_queue.taken == 0)
    assert state.dlq_queue.empty()
    assert not [item for item in state.processed_queue.take_all() if isinstance(item, Completion) and item.failed]


@pytest.mark.parametrize("ordering", ["key", "partition"])
def test_retries_keep_the_order_of_their_lane(tmp_path: Path, ordering: str):
    flaky = Flaky(1)
    state = make_state(tmp_path, processor_callable=flaky, max_attempts=2, retry_backoff_seconds=0.005, ordering=ordering)
    assignment = Assignment(TOPIC, 0)
    assignment.delivered(range(5), 0.0)
    messages = [_message(offset, b"%d" % offset, key=b"same") for offset in range(5)]
    state.processing_queue.pace.measured(1e-6)
    with pool_of(state):
        state.processing_queue.put_chunks([Chunk(messages, assignment, range(5), [m.value() for m in messages], 5)])  # type: ignore[arg-type]
        _results(state, 5)
    assert flaky.calls == [b"%d" % (n // 2) for n in range(10)]
    assert (state.processing_queue.taken, state.processing_queue.in_flight_bytes) == (0, 0)


# --- slow messages, resizing ------------------------------------------------------------------------------------------


def test_what_waits_behind_a_slow_message_goes_to_an_idle_worker(tmp_path: Path):
    gate = Gate(b"slow")
    state = make_state(tmp_path, processor_callable=gate, worker_count=2)
    assignment = Assignment(TOPIC, 0)
    assignment.delivered(range(50), 0.0)
    messages = [_message(offset, b"slow" if offset == 3 else b"%d" % offset) for offset in range(50)]
    state.processing_queue.pace.measured(1e-6)
    with pool_of(state):
        state.processing_queue.put_chunks([Chunk(messages, assignment, range(50), [m.value() for m in messages], 50)])  # type: ignore[arg-type]
        eventually(lambda: len(gate.seen) == 49)
        assert [o for _, o, _ in _results(state, 49)] == [o for o in range(50) if o != 3]
        gate.open.set()
        assert state.processed_queue.get(timeout=10) == (0, 3, "success")
    assert state.processing_queue.taken == 0


def test_a_message_that_takes_very_long_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(supervisor_module, "SLOW_SECONDS", 0.02)
    gate = Gate()
    state = make_state(tmp_path, processor_callable=gate, worker_count=1)
    with pool_of(state):
        state.processing_queue.put(_message(7))
        eventually(lambda: any("slow processor" in m for m in caplog.messages))
        time.sleep(supervisor_module.TICK_SECONDS * 2.5)  # two more looks: nothing is to happen
        gate.open.set()
    told = [m for m in caplog.messages if "slow processor" in m]
    assert len(told) == 1
    assert "has held test-topic-0@7 for" in told[0]


def test_the_memory_of_slow_messages_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(supervisor_module, "SLOW_SECONDS", 0.0)
    gate = Gate()
    state = make_state(tmp_path, processor_callable=gate)
    worker = Worker(state, 0, supervisor := Supervisor(state, lambda: [worker]))
    supervisor._slow = {(0, float(number)) for number in range(10_001)}
    with background(worker.run, stop=lambda: state.stop("enough")):
        state.processing_queue.put(_message(0))
        assert gate.reached.acquire(timeout=10)
        supervisor._look(time.monotonic())
        supervisor._look(time.monotonic())  # the same message as before
        assert len(supervisor._slow) == 1
        gate.open.set()
    supervisor._look(time.monotonic())  # an idle worker is nothing to look at


def test_a_pool_grows_and_shrinks(tmp_path: Path):
    gate = Gate()
    state = make_state(tmp_path, processor_callable=gate, worker_count=1)
    with pool_of(state) as pool:
        pool.resize(4)
        for offset in range(4):
            state.processing_queue.put(_message(offset))
        for _ in range(4):
            assert gate.reached.acquire(timeout=10)  # all four at once
        assert state.processing_queue.workers == 4
        pool.resize(2)
        gate.open.set()
        eventually(lambda: len(pool.alive()) == 2)
        pool.resize(2)
        state.processing_queue.put(_message(4))
        _results(state, 5)
        assert len(pool.alive()) == 2


def test_a_worker_shows_what_it_does(tmp_path: Path):
    gate = Gate()
    state = make_state(tmp_path, processor_callable=gate, worker_count=1)
    with pool_of(state) as pool:
        assert pool.statuses()[0].state is WorkerState.IDLE
        assert (pool.statuses()[0].topic, pool.statuses()[0].offset) == (None, None)
        before = time.monotonic()
        state.processing_queue.put(FakeMessage(TOPIC, 4, 9, None, b"v"))
        assert gate.reached.acquire(timeout=10)
        status = pool.statuses()[0]
        assert (status.id, status.state, status.topic, status.partition, status.offset) == (0, WorkerState.BUSY, TOPIC, 4, 9)
        assert before <= status.since <= time.monotonic()
        gate.open.set()
        eventually(lambda: pool.statuses()[0].processed == 1)
    assert pool.statuses()[0].failed == 0


def test_a_worker_with_nothing_in_hand_gives_nothing_away(tmp_path: Path):
    state = make_state(tmp_path, processing_timeout=1)
    supervisor = Supervisor(state, list)
    worker = Worker(state, 0, supervisor)
    assert worker.progress() == (None, 0)
    assert worker.relieve() is None
    assert worker.time_out(time.monotonic()) is None
    worker._calling = True  # between two chunks
    assert worker.time_out(time.monotonic()) is None
    assert worker.stack() == []


def test_a_plain_function_that_returns_a_coroutine_has_done_nothing_and_fails(tmp_path: Path):
    async def work(value: bytes | None) -> None:
        raise AssertionError("nobody runs it")

    def plain(value: bytes | None) -> Any:
        return work(value)

    state = make_state(tmp_path, processor_callable=plain)
    with pool_of(state):
        state.processing_queue.put(_message(7))
        assert state.processed_queue.get(timeout=10) == (0, 7, "failed")
    (letter,) = state.dlq_queue.get_many(0)
    assert letter.error_type == "TypeError"
    assert "returned a coroutine" in letter.error_message
