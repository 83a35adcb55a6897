"""Coroutines: many in flight on one event loop; and, as with threads, one result for each message whatever happens."""

from __future__ import annotations

import asyncio
import functools
import logging
import random
import re
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kafka_consumer import coroutine_executor, loop_watch, worker_loop
from kafka_consumer import supervisor as supervisor_module
from kafka_consumer.assignment import Assignment
from kafka_consumer.chunk import Chunk, Completion
from kafka_consumer.coroutine_executor import REMEMBERED, CoroutinePool
from kafka_consumer.errors import ConfigError
from kafka_consumer.event_loop import coroutine_stack
from kafka_consumer.shared_state import SharedState
from kafka_consumer.types import WorkerState
from kafka_consumer.worker_pool import WorkerPool, new_pool
from tests.fakes import FakeMessage, MockMessage
from tests.helpers import background, eventually, make_config, make_state

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


def deliver(state: SharedState, values: list[bytes], keys: list[bytes] | None = None) -> Assignment:
    """Put checked messages of one partition into the processing queue, as the polling thread does, and return its assignment."""
    assignment = Assignment(TOPIC, 0)
    first = assignment.delivered(range(len(values)), time.monotonic())
    messages: list[Any] = [_message(o, value, key=keys[o] if keys else b"same") for o, value in enumerate(values)]
    chunk = Chunk(messages, assignment, range(first, first + len(values)), list(values), sum(map(len, values)))
    state.processing_queue.put_chunks([chunk])
    return assignment


def numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def nothing_is_left(state: SharedState) -> bool:
    return (state.processing_queue.taken, state.processing_queue.in_flight_bytes, state.processing_queue.qsize()) == (0, 0, 0)


@contextmanager
def one_worker(state: SharedState) -> Iterator[threading.Thread]:
    """Run ``worker_loop`` in a thread, and end it."""
    with background(worker_loop, state, 0, stop=lambda: state.stop("enough")) as thread:
        yield thread


@contextmanager
def pool_of(state: SharedState) -> Iterator[CoroutinePool]:
    """Run a pool, and end it."""
    pool = CoroutinePool(state)
    pool.start()
    try:
        yield pool
    finally:
        state.stop("enough")
        assert pool.join(10)
    assert nothing_is_left(state)


class Gate:
    """A processor that waits at values of ``stops`` (none: at all) until it is opened; ``deaf`` to cancellation if asked."""

    def __init__(self, *stops: bytes, deaf: bool = False) -> None:
        self.stops = set(stops)
        self.deaf = deaf
        self.inside = 0
        self.most = 0
        self.open = threading.Event()
        self.seen: list[bytes | None] = []
        self.cancelled: list[bytes | None] = []

    async def __call__(self, value: bytes | None) -> None:
        if not self.stops or value in self.stops:
            self.inside += 1
            self.most = max(self.most, self.inside)
            try:
                await self.wait_here(value)
            finally:
                self.inside -= 1
        self.seen.append(value)

    async def wait_here(self, value: bytes | None) -> None:
        while not self.open.is_set():
            try:
                await asyncio.sleep(0.002)
            except asyncio.CancelledError:
                self.cancelled.append(value)
                if not self.deaf:
                    raise


async def accept(value: bytes | None) -> None:
    await asyncio.sleep(0)


# --- which executor ---------------------------------------------------------------------------------------------------


class Callable_:  # noqa: N801 - an instance of it is the processor
    async def __call__(self, value: bytes) -> None:
        pass


@pytest.mark.parametrize(
    "processor", [accept, Callable_(), functools.partial(accept), "tests.unit.test_coroutine_executor:accept"]
)
@pytest.mark.parametrize("executor", ["thread", "asyncio"])
def test_a_coroutine_function_gets_the_event_loop_whatever_it_looks_like(tmp_path: Path, processor: Any, executor: str):
    assert isinstance(new_pool(make_state(tmp_path, processor_callable=processor, executor=executor)), CoroutinePool)


def test_a_plain_function_gets_threads(tmp_path: Path):
    assert isinstance(new_pool(make_state(tmp_path, processor_callable=print)), WorkerPool)


@pytest.mark.parametrize(
    ("processor", "executor", "said"),
    [
        (print, "asyncio", "executor: expected 'thread' or 'process' for a plain function, got 'asyncio'"),
        ("builtins:print", "asyncio", "executor: expected 'thread' or 'process' for a plain function, got 'asyncio'"),
        (accept, "process", "executor: expected 'asyncio' for an 'async def' function (it runs on an event loop), got 'process'"),
    ],
)
def test_an_executor_that_cannot_run_the_function_is_refused_in_one_line(
    tmp_path: Path, processor: Any, executor: str, said: str
):
    with pytest.raises(ConfigError) as raised:
        make_config(tmp_path, processor_callable=processor, executor=executor)
    assert str(raised.value).startswith(said)
    assert "\n" not in str(raised.value)


# --- success and failure ----------------------------------------------------------------------------------------------


def test_a_processed_message_is_a_success_whatever_the_coroutine_returns(tmp_path: Path):
    seen: list[bytes | None] = []

    async def process(value: bytes | None) -> bool:
        await asyncio.sleep(0)
        seen.append(value)
        return False

    state = make_state(tmp_path, processor_callable=process)
    with one_worker(state):
        state.processing_queue.put(_message(7, b"hello", partition=3))
        state.processing_queue.put(_message(8, None, partition=3))
        assert _results(state, 2) == [(3, 7, "success"), (3, 8, "success")]
    assert seen == [b"hello", None]
    assert state.dlq_queue.empty()


def test_a_message_that_fails_goes_to_the_dead_letters_and_counts_as_failed(tmp_path: Path):
    async def fail(value: bytes) -> None:
        await asyncio.sleep(0)
        raise ValueError("no good")

    state = make_state(tmp_path, processor_callable=fail)
    with background(worker_loop, state, 7, stop=lambda: state.stop("enough")):
        state.processing_queue.put(_message(5, b"bad", key=b"k"))
        assert state.processed_queue.get(timeout=10) == (0, 5, "failed")
    letter = state.dlq_queue.get_nowait()
    assert (letter.topic, letter.partition, letter.offset, letter.key, letter.value) == (TOPIC, 0, 5, b"k", b"bad")
    assert (letter.error_type, letter.error_message, letter.attempts, letter.worker_id) == ("ValueError", "no good", 1, 7)
    assert 'raise ValueError("no good")\nValueError: no good' in letter.stack_trace
    assert state.dlq_queue.empty()


def test_each_message_has_exactly_one_result_whatever_becomes_of_it(tmp_path: Path):
    chance = random.Random(7)

    async def process(value: bytes) -> None:
        await asyncio.sleep(chance.random() * 0.005)
        match int(value) % 5:
            case 0:
                raise ValueError(value)
            case 1:
                raise asyncio.CancelledError
            case 2 if int(value) % 10 == 2:
                raise SystemExit(3)

    state = make_state(tmp_path, processor_callable=process, worker_count=20)
    with pool_of(state):
        assignment = deliver(state, numbers(300))
        eventually(lambda: state.processing_queue.taken == 0 and not state.processing_queue.qsize())
    outcomes: dict[int, list[bool]] = defaultdict(list)
    for completion in state.processed_queue.take_all():
        for sequence in completion.sequences:
            outcomes[sequence].append(completion.failed)
    assert outcomes == {n: [n % 5 in {0, 1} or n % 10 == 2] for n in range(300)}
    letters = Counter(letter.offset for letter in state.dlq_queue.get_many(0))
    assert letters == {n: 1 for n, (failed,) in outcomes.items() if failed}
    assert assignment.offset_of(0) == 0


def test_the_dead_letter_comes_before_its_completion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def fail(value: bytes) -> None:
        raise ValueError

    state = make_state(tmp_path, processor_callable=fail)
    pending: list[bool] = []
    add = state.processed_queue.add

    def look(completion: Completion) -> None:
        pending.append(state.dlq_queue.is_pending(0, 0))
        add(completion)

    monkeypatch.setattr(state.processed_queue, "add", look)
    with pool_of(state):
        deliver(state, [b"a"])
        assert state.processed_queue.get(timeout=10) == (0, 0, "failed")
    assert pending == [True]


def test_a_run_of_messages_is_one_completion(tmp_path: Path):
    state = make_state(tmp_path, processor_callable=accept, worker_count=50)
    with pool_of(state):
        state.processing_queue.pace.measured(1e-6)
        deliver(state, numbers(200))
        eventually(lambda: state.processing_queue.taken == 0 and not state.processing_queue.qsize())
    completions = state.processed_queue.take_all()
    assert sorted(sequence for completion in completions for sequence in completion.sequences) == list(range(200))
    assert len(completions) <= 40, "expected far fewer completions than messages"


# --- size and encoding ------------------------------------------------------------------------------------------------


def test_what_the_checks_refuse_never_reaches_the_processor_and_is_not_retried(tmp_path: Path):
    seen: list[bytes] = []

    async def process(value: bytes) -> None:
        seen.append(value)

    state = make_state(tmp_path, processor_callable=process, max_message_size=1000, max_attempts=5, retry_backoff_seconds=0)
    with one_worker(state):
        for offset, value in enumerate([b"x" * 2000, b"x" * 1000, b"\xff\xfe"]):
            state.processing_queue.put(_message(offset, value))
        assert _results(state, 3) == [(0, 0, "failed"), (0, 1, "success"), (0, 2, "failed")]
    large, bad = state.dlq_queue.get_many(0)
    assert (large.error_type, large.error_message) == (
        "MessageTooLargeError",
        "the value has 2,000 bytes; max_message_size is 1,000",
    )
    assert (bad.error_type, bad.value) == ("UnicodeDecodeError", b"\xff\xfe")
    assert (large.attempts, bad.attempts, state.counters.retried) == (0, 0, 0)
    assert seen == [b"x" * 1000]


def test_binary_lets_every_byte_through(tmp_path: Path):
    state = make_state(tmp_path, processor_callable=accept, value_encoding="binary")
    with one_worker(state):
        state.processing_queue.put(_message(0, b"\xff\xfe"))
        assert state.processed_queue.get(timeout=10) == (0, 0, "success")


# --- in flight --------------------------------------------------------------------------------------------------------


def test_as_many_are_in_flight_as_there_are_workers_and_no_more(tmp_path: Path):
    gate = Gate()
    state = make_state(tmp_path, processor_callable=gate, worker_count=30)
    with pool_of(state):
        deliver(state, numbers(100))
        eventually(lambda: gate.inside == 30)
        time.sleep(0.05)  # nothing is to happen
        gate.open.set()
        assert len(_results(state, 100)) == 100
    assert gate.most == 30
    assert sorted(gate.seen, key=lambda value: int(value or 0)) == numbers(100)


def test_a_slow_message_holds_up_neither_those_behind_it_nor_their_reports(tmp_path: Path):
    gate = Gate(b"3")
    state = make_state(tmp_path, processor_callable=gate, worker_count=2)
    state.processing_queue.pace.measured(1e-6)
    with pool_of(state):
        deliver(state, numbers(50))
        assert [offset for _, offset, _ in _results(state, 49)] == [offset for offset in range(50) if offset != 3]
        assert state.processing_queue.taken == 1
        gate.open.set()
        assert state.processed_queue.get(timeout=10) == (0, 3, "success")


def test_a_processor_that_never_waits_leaves_the_loop_its_turn(tmp_path: Path):
    seen: list[bytes] = []
    turns: list[int] = []
    tasks = []

    async def turn() -> None:
        turns.append(len(seen))

    async def process(value: bytes) -> None:
        if not seen:
            tasks.append(asyncio.create_task(turn()))
        seen.append(value)

    state = make_state(tmp_path, processor_callable=process, worker_count=1, queue_size=10_000)
    state.processing_queue.pace.measured(1e-7)
    deliver(state, numbers(5000))
    with pool_of(state):
        eventually(lambda: len(seen) == 5000)
    assert 0 < turns[0] <= 2 * 256, "expected the other task's turn to come after a few hundred messages"


def test_with_nothing_to_do_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    state = make_state(tmp_path, processor_callable=accept, worker_count=1000)
    with pool_of(state) as pool:
        deliver(state, numbers(1000))
        _results(state, 1000)
        eventually(lambda: state.processing_queue.taken == 0 and pool._watch._asked_at is None)
        assert pool._thread is not None
        selector: Any = pool._thread.loop._selector  # type: ignore[attr-defined]
        turns: list[float | None] = []
        select = selector.select

        def counted(timeout: float | None = None) -> Any:
            turns.append(timeout)
            return select(timeout)

        monkeypatch.setattr(selector, "select", counted)
        time.sleep(0.3)
        assert len(turns) <= 1, "expected an idle loop to sleep"
        deliver(state, [b"a"])
        assert state.processed_queue.get(timeout=10) == (0, 0, "success")


@pytest.mark.parametrize("waits", [0.0005, 0.003])
def test_timers_of_the_loop_are_exact(tmp_path: Path, waits: float):
    took: list[float] = []

    async def process(value: bytes) -> None:
        began = time.perf_counter()
        await asyncio.sleep(waits)
        took.append(time.perf_counter() - began)

    state = make_state(tmp_path, processor_callable=process, worker_count=1)
    with pool_of(state):
        deliver(state, numbers(100))
        _results(state, 100)
    assert min(took) < waits + 0.0005, "expected the system's timers to be exact, not rounded up to milliseconds"


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("deaf", [True, False])
def test_a_message_over_its_time_goes_to_the_dead_letters_at_that_moment(
    tmp_path: Path, pooled: bool, deaf: bool, caplog: pytest.LogCaptureFixture
):
    gate = Gate(deaf=deaf)
    state = make_state(tmp_path, processor_callable=gate, processing_timeout=0.05, worker_count=1)
    with pool_of(state) if pooled else one_worker(state):
        began = time.monotonic()
        state.processing_queue.put(_message(0))
        assert state.processed_queue.get(timeout=10) == (0, 0, "failed")
        assert time.monotonic() - began >= 0.05
        assert gate.seen == []  # the call hasn't returned
        eventually(lambda: gate.cancelled)
        letter = state.dlq_queue.get_nowait()
        gate.open.set()
        eventually(lambda: not gate.inside)
    assert (letter.error_type, letter.attempts) == ("TimeoutError", 1)
    assert letter.error_message == "the processor took longer than processing_timeout=0.05 s"
    assert "Stack when the time ran out:" in letter.stack_trace
    assert "await self.wait_here(value)" in letter.stack_trace
    assert "await asyncio.sleep(0.002)" in letter.stack_trace  # where it hangs
    assert "kafka_consumer/coroutine_executor.py" not in letter.stack_trace
    assert state.counters.timed_out == 1
    assert any("test-topic-0@0 took longer than processing_timeout=0.05 s" in m for m in caplog.messages)
    assert state.processed_queue.empty()  # the late result was dropped


def test_a_call_that_ends_when_cancelled_keeps_its_worker(tmp_path: Path):
    gate = Gate(b"slow")
    state = make_state(tmp_path, processor_callable=gate, processing_timeout=0.03, worker_count=1)
    with pool_of(state) as pool:
        deliver(state, [b"a", b"slow", b"b", b"slow", b"c"])
        outcomes = ["success", "failed", "success", "failed", "success"]
        assert _results(state, 5) == [(0, offset, outcome) for offset, outcome in enumerate(outcomes)]
        assert pool.stuck_threads == 0
        (status,) = pool.statuses()
        assert (status.id, status.state, status.processed, status.failed) == (0, WorkerState.IDLE, 3, 2)


def test_a_pool_keeps_its_strength_when_a_call_is_deaf_to_cancellation(tmp_path: Path):
    gate = Gate(b"slow", deaf=True)
    state = make_state(tmp_path, processor_callable=gate, processing_timeout=0.05, worker_count=1)
    with pool_of(state) as pool:
        state.processing_queue.put(_message(0, b"slow"))
        state.processing_queue.put(_message(1, b"fast"))
        assert _results(state, 2) == [(0, 0, "failed"), (0, 1, "success")]
        assert pool.stuck_threads == 1
        assert pool.statuses()[0].state is WorkerState.STUCK
        assert pool.statuses()[0].offset == 0
        assert len(pool.alive()) == 1
        gate.open.set()
        eventually(lambda: pool.stuck_threads == 0)
        assert [slot.id for slot in pool.workers] == [1]


def test_no_more_calls_get_stuck_than_there_are_workers(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    gate = Gate(deaf=True)
    state = make_state(tmp_path, processor_callable=gate, processing_timeout=0.02, worker_count=2)
    with pool_of(state) as pool:
        deliver(state, numbers(10))
        eventually(lambda: any("no further replacement" in m for m in caplog.messages))
        eventually(lambda: pool.stuck_threads == 4)
        assert len(pool.workers) == 4
        gate.open.set()  # they return, and the rest is done
        assert sorted(offset for _, offset, _ in _results(state, 10)) == list(range(10))


def test_a_pool_ends_although_a_call_is_deaf_to_cancellation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr("kafka_consumer.event_loop.END_SECONDS", 0.1)
    gate = Gate(deaf=True)
    state = make_state(tmp_path, processor_callable=gate, processing_timeout=0.02, worker_count=1)
    with pool_of(state):
        deliver(state, [b"a"])
        assert state.processed_queue.get(timeout=10) == (0, 0, "failed")
    assert any("1 tasks don't end when they are cancelled" in m for m in caplog.messages)


def test_a_timeout_that_the_processor_itself_raises_is_an_ordinary_failure(tmp_path: Path):
    async def fail(value: bytes) -> None:
        async with asyncio.timeout(0.001):
            await asyncio.sleep(10)

    state = make_state(tmp_path, processor_callable=fail, processing_timeout=30, worker_count=1)
    with pool_of(state):
        deliver(state, [b"a", b"b"])
        assert _results(state, 2) == [(0, 0, "failed"), (0, 1, "failed")]
    assert [letter.error_type for letter in state.dlq_queue.get_many(0)] == ["TimeoutError", "TimeoutError"]
    assert state.counters.timed_out == 0


@pytest.mark.parametrize("late", ["returns", "raises"])
def test_a_late_result_is_dropped_and_the_worker_goes_on(tmp_path: Path, late: str):
    async def process(value: bytes) -> None:
        if value != b"slow":
            return
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if late == "raises":
                raise ValueError("too late") from None

    state = make_state(tmp_path, processor_callable=process, processing_timeout=0.03, worker_count=1)
    with pool_of(state):
        deliver(state, [b"slow", b"fast"])
        assert _results(state, 2) == [(0, 0, "failed"), (0, 1, "success")]
    assert [letter.error_type for letter in state.dlq_queue.get_many(0)] == ["TimeoutError"]
    assert state.processed_queue.empty()


def test_a_lane_goes_on_after_a_message_that_ran_out_of_time(tmp_path: Path):
    gate = Gate(b"1")
    state = make_state(tmp_path, processor_callable=gate, processing_timeout=0.03, ordering="partition")
    state.processing_queue.pace.measured(1e-6)
    with pool_of(state):
        deliver(state, numbers(4))
        assert _results(state, 4) == [(0, 0, "success"), (0, 1, "failed"), (0, 2, "success"), (0, 3, "success")]
    assert gate.seen == [b"0", b"2", b"3"]


# --- a loop that is blocked -------------------------------------------------------------------------------------------


class Blocker:
    """A processor that blocks the loop at b"block" until it is opened; at b"wait" it waits as it should."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.inside = threading.Event()
        self.seen: list[bytes] = []

    async def __call__(self, value: bytes) -> None:
        if value == b"block":
            self.inside.set()
            self.open.wait(20)
        elif value == b"wait":
            await asyncio.sleep(0.05)
        self.seen.append(value)


def test_a_function_that_blocks_the_loop_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(loop_watch, "BLOCKED_SECONDS", 0.15)
    blocker = Blocker()
    state = make_state(tmp_path, processor_callable=blocker, worker_count=2)
    with pool_of(state) as pool:
        deliver(state, [b"wait", b"block", b"wait"])
        said = eventually(lambda: [r for r in caplog.records if "the event loop is blocked" in r.getMessage()])
        time.sleep(supervisor_module.TICK_SECONDS * 2.5)  # two more looks: nothing is to happen
        (worker,) = [status.id for status in pool.statuses() if status.offset == 1]
        assert "self.open.wait(20)" in "".join(pool.stacks({worker})[worker])
        blocker.open.set()
        assert len(_results(state, 3)) == 3
        eventually(lambda: any("the event loop moves again, after" in m for m in caplog.messages))
    assert said[0].levelno == logging.WARNING
    assert f"worker {worker} with test-topic-0@1 hasn't let it move for 0." in said[0].getMessage()
    assert re.search(r'it is here: File ".*threading\.py", line \d+, in wait ', said[0].getMessage())
    assert "in _work" not in said[0].getMessage()
    assert sum("the event loop is blocked" in m for m in caplog.messages) == 1


def test_a_task_of_the_processor_that_blocks_the_loop_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(loop_watch, "BLOCKED_SECONDS", 0.15)
    blocker = Blocker()

    async def process(value: bytes) -> None:
        await asyncio.create_task(blocker(value))

    state = make_state(tmp_path, processor_callable=process, worker_count=1)
    with pool_of(state):
        deliver(state, [b"block"])
        eventually(lambda: any("a task that the processor has made hasn't let it move" in m for m in caplog.messages))
        blocker.open.set()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_message_that_blocks_the_loop_beyond_its_time_is_a_dead_letter_at_that_moment_and_the_others_are_not(
    tmp_path: Path, loop: str
):
    if loop == "uvloop":  # it looks at its timers before it takes calls from other threads
        pytest.importorskip("uvloop")
    blocker = Blocker()
    state = make_state(tmp_path, processor_callable=blocker, worker_count=3, processing_timeout=0.3, event_loop=loop)
    with pool_of(state) as pool:
        deliver(state, [b"wait", b"wait", b"block"])
        assert state.processed_queue.get(timeout=10) == (0, 2, "failed")
        assert not blocker.open.is_set()
        assert next(s.state for s in pool.statuses() if s.offset == 2) is WorkerState.STUCK
        time.sleep(0.3)  # the time of the others would be up as well
        blocker.open.set()
        assert _results(state, 2) == [(0, 0, "success"), (0, 1, "success")]
        deliver(state, [b"wait"])
        assert state.processed_queue.get(timeout=10) == (0, 0, "success")
    (letter,) = state.dlq_queue.get_many(0)
    assert "self.open.wait(20)" in letter.stack_trace
    assert state.counters.timed_out == 1


@pytest.mark.parametrize("others", [0, 2])
def test_draining_gives_a_loop_up_that_is_blocked_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: int):
    monkeypatch.setattr(coroutine_executor, "GIVE_UP_SECONDS", 0.4)
    blocker = Blocker()
    state = make_state(tmp_path, processor_callable=blocker, worker_count=3, processing_timeout=0.2)
    pool = CoroutinePool(state)
    pool.start()
    try:
        deliver(state, [b"wait"] * others + [b"block"])
        assert blocker.inside.wait(10)
        state.stop("enough")
        assert pool.join(10)
        assert state.lifecycle.failed == (others > 0), "expected a failure when something will be repeated"
        assert state.processed_queue.get_nowait() == (0, others, "failed")
    finally:
        blocker.open.set()
        assert pool.join(10)
        eventually(lambda: pool._thread is not None and not pool._thread.thread.is_alive())


# --- what isn't an Exception ------------------------------------------------------------------------------------------


class Unreadable(MockMessage):
    """A message whose value can't be read: it breaks the loop, not the processor."""

    def value(self) -> Any:
        raise MemoryError("no value for you")


def test_a_message_that_cannot_be_read_is_a_crash_that_loses_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    state = make_state(tmp_path, processor_callable=accept, worker_count=2)
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


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
@pytest.mark.parametrize("waits", [True, False])
def test_a_processor_that_would_end_the_loop_ends_its_message_alone(tmp_path: Path, error: BaseException, waits: bool):
    async def process(value: bytes) -> None:
        if waits:
            await asyncio.sleep(0.001)
        if value == b"2":
            raise error

    state = make_state(tmp_path, processor_callable=process, worker_count=1)
    state.processing_queue.pace.measured(1e-6)
    with pool_of(state) as pool:
        deliver(state, numbers(5))
        assert _results(state, 5) == [(0, o, "failed" if o == 2 else "success") for o in range(5)]
        eventually(lambda: state.counters.crashed_workers == 1)
        assert pool.shared_state.running.is_set()
    (letter,) = state.dlq_queue.get_many(0)
    assert (letter.error_type, letter.attempts) == (type(error).__name__, 1)


def test_a_task_of_the_processor_that_exits_does_not_end_the_loop(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    tasks = []

    async def leave() -> None:
        sys.exit(3)

    async def process(value: bytes) -> None:
        if value == b"0":
            tasks.append(asyncio.create_task(leave()))
        await asyncio.sleep(0.001)

    state = make_state(tmp_path, processor_callable=process, worker_count=2)
    with pool_of(state):
        deliver(state, numbers(20))
        assert len(_results(state, 20)) == 20
    assert any("event loop: a task ended with SystemExit: 3" in m for m in caplog.messages)
    assert isinstance(tasks[0].exception(), SystemExit)


def test_a_crash_of_the_pool_itself_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    state = make_state(tmp_path, processor_callable=accept, worker_count=1)
    take, broken = state.processing_queue.take_now, [True]

    def break_once(*arguments: Any) -> Any:
        if broken:
            broken.clear()
            raise RuntimeError("the queue is odd")
        return take(*arguments)

    monkeypatch.setattr(state.processing_queue, "take_now", break_once)
    with pool_of(state):
        state.processing_queue.put(_message(0))
        assert state.processed_queue.get(timeout=10) == (0, 0, "success")
    assert any("RuntimeError: the queue is odd" in m for m in caplog.messages)


def test_only_the_last_crashed_workers_are_remembered(tmp_path: Path):
    async def leave(value: bytes) -> None:
        raise SystemExit

    state = make_state(tmp_path, processor_callable=leave, worker_count=1)
    with pool_of(state) as pool:
        deliver(state, numbers(REMEMBERED + 15))
        _results(state, REMEMBERED + 15)
        eventually(lambda: state.counters.crashed_workers == REMEMBERED + 15)
        eventually(lambda: len(pool.alive()) == 1)
        crashed = [status for status in pool.statuses() if status.state is WorkerState.CRASHED]
        assert REMEMBERED <= len(crashed) <= REMEMBERED + 1


# --- cancellation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("returns", [True, False])
def test_a_processor_that_cancels_its_own_task_hurts_no_other_message(tmp_path: Path, returns: bool):
    async def process(value: bytes) -> None:
        if value == b"1":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            if returns:
                return
        await asyncio.sleep(0.001)

    state = make_state(tmp_path, processor_callable=process, worker_count=1)
    state.processing_queue.pace.measured(1e-6)
    with pool_of(state):
        deliver(state, numbers(5))
        found = _results(state, 5)
    assert found == [(0, o, "failed" if o == 1 and not returns else "success") for o in range(5)]
    assert [letter.error_type for letter in state.dlq_queue.get_many(0)] == ([] if returns else ["CancelledError"])


def test_a_processor_that_cancels_every_task_leaves_the_pool_whole(tmp_path: Path):
    async def process(value: bytes) -> None:
        if value == b"cancel":
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
        await asyncio.sleep(0.001)

    state = make_state(tmp_path, processor_callable=process, worker_count=5)
    with pool_of(state) as pool:
        for _ in range(5):
            deliver(state, [b"a", b"cancel", b"b"])  # the others wait for work, or have one of these
            assert len(_results(state, 3)) == 3
        eventually(lambda: len(pool._backlog.idle) >= 5)
        assert pool._backlog.waking == 0
        deliver(state, numbers(20))
        assert [outcome for _, _, outcome in _results(state, 20)] == ["success"] * 20
        assert len(pool.alive()) == 5


def test_a_cancelled_call_of_the_processors_own_is_an_ordinary_failure_that_may_be_retried(tmp_path: Path):
    calls: list[bytes] = []

    async def process(value: bytes) -> None:
        calls.append(value)
        if len(calls) == 1:
            inner = asyncio.ensure_future(asyncio.sleep(60))
            inner.cancel()
            await inner

    state = make_state(tmp_path, processor_callable=process, max_attempts=2, retry_backoff_seconds=0.001)
    with pool_of(state):
        deliver(state, [b"a"])
        assert state.processed_queue.get(timeout=10) == (0, 0, "success")
    assert calls == [b"a", b"a"]
    assert state.counters.crashed_workers == 0


# --- an empty queue, and the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [lambda state: state.stop(), lambda state: state.running.clear()])
def test_a_worker_finishes_its_message_and_the_queue_before_it_ends(tmp_path: Path, stop: Callable[[SharedState], None]):
    gate = Gate(b"first")
    state = make_state(tmp_path, processor_callable=gate)
    with background(worker_loop, state, 0) as thread:
        for offset, value in enumerate([b"first", b"second", b"third"]):
            state.processing_queue.put(_message(offset, value))
        eventually(lambda: gate.inside)
        stop(state)
        assert thread.is_alive()
        gate.open.set()
        thread.join(10)
        assert not thread.is_alive()
    assert gate.seen == [b"first", b"second", b"third"]
    assert _results(state, 3) == [(0, 0, "success"), (0, 1, "success"), (0, 2, "success")]


def test_joining_a_pool_that_is_busy_says_so(tmp_path: Path):
    gate = Gate()
    state = make_state(tmp_path, processor_callable=gate, worker_count=2)
    pool = CoroutinePool(state)
    pool.start()
    state.processing_queue.put(_message(0))
    eventually(lambda: gate.inside)
    state.stop("enough")
    assert pool.join(0.05) is False
    status = next(s for s in pool.statuses() if s.state is WorkerState.BUSY)
    assert (status.topic, status.partition, status.offset) == (TOPIC, 0, 0)
    gate.open.set()
    assert pool.join() is True
    assert {s.state for s in pool.statuses()} == {WorkerState.STOPPED}


def test_tasks_that_the_processor_left_behind_are_cancelled_in_the_end(tmp_path: Path):
    ended: list[str] = []
    tasks = []

    async def left_behind() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("cancelled")

    async def process(value: bytes) -> None:
        tasks.append(asyncio.create_task(left_behind()))

    state = make_state(tmp_path, processor_callable=process)
    with pool_of(state):
        deliver(state, [b"a"])
        _results(state, 1)
    assert ended == ["cancelled"]


def test_a_pool_that_was_stopped_before_it_started_ends_with_the_queue(tmp_path: Path):
    state = make_state(tmp_path, processor_callable=accept)
    deliver(state, numbers(10))
    state.stop("at once")
    pool = CoroutinePool(state)
    assert pool.statuses() == []
    pool.start()
    assert pool.join(10)
    assert len(_results(state, 10)) == 10


# --- retries, order, revocation ---------------------------------------------------------------------------------------


class Flaky:
    """Fails ``failures`` times for each value, then succeeds."""

    def __init__(self, failures: int, error: type[Exception] = ValueError) -> None:
        self.failures = failures
        self.error = error
        self.calls: list[bytes] = []

    async def __call__(self, value: bytes) -> None:
        self.calls.append(value)
        count = self.calls.count(value)
        await asyncio.sleep(0)
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


def test_a_message_that_waits_for_its_retry_holds_no_worker_up_and_draining_does_not_wait(tmp_path: Path):
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


@pytest.mark.parametrize("ordering", ["key", "partition"])
def test_retries_keep_the_order_of_their_lane(tmp_path: Path, ordering: str):
    flaky = Flaky(1)
    state = make_state(tmp_path, processor_callable=flaky, max_attempts=2, retry_backoff_seconds=0.005, ordering=ordering)
    state.processing_queue.pace.measured(1e-6)
    with pool_of(state):
        deliver(state, numbers(5))
        _results(state, 5)
    assert flaky.calls == [b"%d" % (n // 2) for n in range(10)]


@pytest.mark.parametrize("crashes", [True, False])
@pytest.mark.parametrize("ordering", ["key", "partition"])
def test_a_lane_has_one_message_in_work_in_order_while_others_go_on(tmp_path: Path, ordering: str, crashes: bool):
    chance = random.Random(11)
    done: dict[bytes, list[int]] = defaultdict(list)
    inside: Counter[bytes] = Counter()
    most = [0]

    async def process(value: bytes) -> None:
        lane, _, number = value.partition(b"-")
        inside[lane] += 1
        most[0] = max(most[0], inside.total())
        try:
            assert inside[lane] == 1
            await asyncio.sleep(chance.random() * 0.004)
            if crashes and chance.random() < 0.05:
                raise SystemExit
            if chance.random() < 0.2:
                raise ValueError("again")
        finally:
            inside[lane] -= 1
        done[lane].append(int(number))

    state = make_state(
        tmp_path, processor_callable=process, ordering=ordering, worker_count=8, max_attempts=50, retry_backoff_seconds=0.001
    )
    lanes = 6
    with pool_of(state):
        if ordering == "key":
            deliver(state, [b"%d-%d" % (n % lanes, n) for n in range(240)], [b"%d" % (n % lanes) for n in range(240)])
        else:
            for lane in range(lanes):
                assignment = Assignment(TOPIC, lane)
                assignment.delivered(range(40), 0.0)
                values: list[bytes | None] = [b"%d-%d" % (lane, n) for n in range(40)]
                messages: list[Any] = [_message(n, value, lane) for n, value in enumerate(values)]
                state.processing_queue.put_chunks([Chunk(messages, assignment, range(40), values, 100)])
        failed = [result for result in _results(state, 240) if result[2] == "failed"]
    assert all(numbers == sorted(numbers) for numbers in done.values())
    assert sum(map(len, done.values())) + len(failed) == 240
    assert crashes or not failed
    assert 1 < most[0] <= lanes


def test_a_retry_of_a_revoked_partition_is_dropped(tmp_path: Path):
    flaky = Flaky(99)
    state = make_state(tmp_path, processor_callable=flaky, max_attempts=9, retry_backoff_seconds=30, worker_count=1)
    with pool_of(state) as pool:
        assignment = deliver(state, [b"a"])
        eventually(lambda: pool.waiting_retries == 1)
        assignment.close()
        eventually(lambda: state.processing_queue.taken == 0)
        assert pool.waiting_retries == 0
    assert state.dlq_queue.empty()
    assert len(flaky.calls) == 1


def test_what_was_taken_of_a_revoked_partition_and_not_begun_is_dropped(tmp_path: Path):
    gate = Gate(b"0")
    state = make_state(tmp_path, processor_callable=gate, worker_count=1)
    state.processing_queue.pace.measured(1e-6)
    with pool_of(state):
        assignment = deliver(state, numbers(50))
        eventually(lambda: gate.inside == 1 and state.processing_queue.taken == 50)
        assignment.close()
        gate.open.set()
        eventually(lambda: state.processing_queue.taken == 0)
    assert gate.seen == [b"0"]


@pytest.mark.parametrize("ordering", ["unordered", "key", "partition"])
def test_what_was_taken_and_not_begun_can_be_withdrawn_for_the_next_owner(tmp_path: Path, ordering: str):
    gate = Gate(b"0", b"x")
    state = make_state(tmp_path, processor_callable=gate, worker_count=1, ordering=ordering)
    state.processing_queue.pace.measured(1e-6)
    other = Assignment(TOPIC, 1)
    other.delivered(range(1), 0.0)
    with pool_of(state) as pool:
        assignment = deliver(state, numbers(50), numbers(50))
        eventually(lambda: gate.inside == 1)
        state.processing_queue.put_chunks([Chunk([_message(0, b"other", 1, b"k")], other, range(1), [b"other"], 5)])
        dropped = state.processing_queue.drop(assignment)
        # Of a partition in order one message was taken: those behind it come with it.
        assert dropped == (0 if ordering == "partition" else 49)
        assert (state.processing_queue.taken + state.processing_queue.qsize()) == 51 - dropped
        gate.open.set()
        eventually(lambda: b"other" in gate.seen)
        assert len(pool.alive()) == 1
    assert len(gate.seen) == 51 - dropped


def test_a_failure_of_a_revoked_partition_leaves_no_dead_letter(tmp_path: Path):
    gate = Gate()

    async def fail(value: bytes) -> None:
        await gate(value)
        raise ValueError

    state = make_state(tmp_path, processor_callable=fail)
    with one_worker(state):
        assignment = deliver(state, [b"a"])
        eventually(lambda: gate.inside)
        assignment.close()
        gate.open.set()
        eventually(lambda: state.processing_queue.taken == 0)
    assert state.dlq_queue.empty()
    assert state.processed_queue.take_all() == []


@pytest.mark.parametrize("ordering", ["unordered", "key", "partition"])
def test_in_a_storm_of_everything_each_message_has_exactly_one_result(tmp_path: Path, ordering: str):
    seed = random.randrange(1000)
    chance = random.Random(seed)

    async def process(value: bytes) -> None:
        await storm(chance)

    state = make_state(
        tmp_path, processor_callable=process, processing_timeout=0.03, ordering=ordering, max_attempts=2,
        retry_backoff_seconds=0.002, worker_count=20,
    )  # fmt: skip
    assignments = [Assignment(TOPIC, partition) for partition in range(3)]
    with pool_of(state) as pool:
        for batch in range(30):
            assignment = assignments[batch % 3]
            if batch == 20:
                assignment.close()
                state.processing_queue.drop(assignment)
                assignment = assignments[batch % 3] = Assignment(TOPIC, batch % 3)
            first = assignment.delivered(range(assignment.unfinished, assignment.unfinished + 20), 0.0)
            keys = [chance.choice([None, b"a", b"b", b"c"]) for _ in range(20)]
            messages: list[Any] = [_message(first + n, b"v", batch % 3, key) for n, key in enumerate(keys)]
            values: list[bytes | None] | None = [b"v"] * 20 if batch % 4 else None
            state.processing_queue.put_chunks([Chunk(messages, assignment, range(first, first + 20), values, 20)])
            pool.resize(chance.choice([3, 20, 40]))
            pool.statuses()
            pool.stacks(set(range(50)))
    seen = Counter[tuple[Assignment, int]]()
    failed = 0
    for completion in state.processed_queue.take_all():
        seen.update((completion.assignment, sequence) for sequence in completion.sequences)
        failed += len(completion.sequences) if completion.failed else 0
    assert set(seen.values()) == {1}, seed
    assert {(a, n) for a in assignments for n in range(a.unfinished)} <= set(seen), seed
    assert state.dlq_queue.qsize() == failed, seed


async def storm(chance: random.Random) -> None:
    """Do one of the many things that a coroutine may do to its event loop."""
    what = chance.random()
    if what < 0.6:
        await asyncio.sleep(chance.random() * 0.004)
    elif what < 0.66:
        await asyncio.sleep(60)
    elif what < 0.75:
        raise chance.choice([ValueError, SystemExit, asyncio.CancelledError, GeneratorExit])
    elif what < 0.78:
        for task in asyncio.all_tasks() if what < 0.76 else {asyncio.current_task()}:
            assert task is not None
            task.cancel()
        if what < 0.77:
            await asyncio.sleep(0)
    elif what < 0.79:
        time.sleep(chance.random() * 0.05)  # noqa: ASYNC251 - what it should not do
    elif what < 0.82:
        until = time.monotonic() + 0.08
        while time.monotonic() < until:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue


# --- what others see --------------------------------------------------------------------------------------------------


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


def test_a_pool_grows_and_shrinks(tmp_path: Path):
    gate = Gate()
    state = make_state(tmp_path, processor_callable=gate, worker_count=1)
    with pool_of(state) as pool:
        pool.resize(4)
        deliver(state, numbers(6))
        eventually(lambda: gate.inside == 4)
        assert state.processing_queue.workers == 4
        pool.resize(2)
        gate.open.set()
        eventually(lambda: len(pool.alive()) == 2)
        assert state.processing_queue.workers == 2
        _results(state, 6)
        pool.resize(5)
        eventually(lambda: len(pool.alive()) == 5)
        gate.open.clear()
        gate.most = 0
        deliver(state, numbers(9))
        eventually(lambda: gate.inside == 5)
        pool.resize(1)  # while all are busy
        pool.resize(3)  # and some of them may stay after all
        gate.open.set()
        _results(state, 9)
        eventually(lambda: len(pool.workers) == 3)
        pool.resize(1)  # while all are idle
        eventually(lambda: len(pool.alive()) == 1)


def test_a_pool_can_be_resized_before_it_starts(tmp_path: Path):
    pool = CoroutinePool(make_state(tmp_path, processor_callable=accept, worker_count=1))
    pool.resize(7)
    pool.start()
    eventually(lambda: len(pool.alive()) == 7)
    pool.shared_state.stop("enough")
    assert pool.join(10)


def test_a_worker_shows_what_it_does_and_where(tmp_path: Path):
    gate = Gate()
    state = make_state(tmp_path, processor_callable=gate, worker_count=2)
    with pool_of(state) as pool:
        eventually(lambda: len(pool.statuses()) == 2)
        assert {status.state for status in pool.statuses()} == {WorkerState.IDLE}
        assert (pool.statuses()[0].topic, pool.statuses()[0].offset) == (None, None)
        before = time.monotonic()
        state.processing_queue.put(FakeMessage(TOPIC, 4, 9, None, b"v"))
        eventually(lambda: gate.inside)
        (status,) = [status for status in pool.statuses() if status.state is WorkerState.BUSY]
        assert (status.topic, status.partition, status.offset) == (TOPIC, 4, 9)
        assert before <= status.since <= time.monotonic()
        lines = eventually(lambda: pool.stacks({status.id})[status.id])
        assert any("await self.wait_here(value)" in line for line in lines)
        gate.open.set()
        eventually(lambda: pool.statuses()[status.id].processed == 1)
    assert pool.statuses()[status.id].failed == 0


def test_the_stack_of_a_coroutine_goes_through_generators_to_the_innermost_call():
    class Awaited:
        def __await__(self) -> Generator[None, None, None]:
            yield

    async def numbers_come() -> Any:
        await Awaited()
        yield 1

    async def outer() -> None:
        async for _ in numbers_come():
            pass

    coroutine = outer()
    coroutine.send(None)
    stack = coroutine_stack(coroutine)
    coroutine.close()
    assert "in outer" in stack[0]
    assert coroutine_stack(coroutine) == []
    assert coroutine_stack(None) == []


def test_the_measured_pace_is_that_of_a_message(tmp_path: Path):
    async def process(value: bytes) -> None:
        await asyncio.sleep(0.01)

    state = make_state(tmp_path, processor_callable=process, worker_count=50)
    with pool_of(state):
        deliver(state, numbers(300))
        _results(state, 300)
    middle = state.processing_queue.pace.samples.percentiles().p50
    assert middle is not None
    assert 0.01 <= middle < 0.5


def test_coroutines_run_on_the_loop_that_was_chosen(tmp_path: Path):
    uvloop = pytest.importorskip("uvloop")
    loops: list[asyncio.AbstractEventLoop] = []

    async def process(value: bytes) -> None:
        loops.append(asyncio.get_running_loop())

    for kind in ("asyncio", "uvloop"):
        state = make_state(tmp_path, processor_callable=process, worker_count=2, event_loop=kind)
        with pool_of(state):
            deliver(state, [b"a"])
            assert state.processed_queue.get(timeout=10) == (0, 0, "success")
    assert [isinstance(loop, uvloop.Loop) for loop in loops] == [False, True]


def test_a_loop_that_is_not_installed_is_refused_with_the_extra_that_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "uvloop", None)
    with pytest.raises(ConfigError, match=r"event_loop: expected 'asyncio', got 'uvloop', which isn't installed.*kc\[uvloop\]"):
        make_config(tmp_path, event_loop="uvloop")
