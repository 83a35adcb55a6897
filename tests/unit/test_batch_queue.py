"""The pipes: whole ``queue.Queue``s with bulk operations, which know when no more will come and what isn't on disk."""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from kafka_consumer.assignment import Assignment
from kafka_consumer.batch_queue import BatchQueue, CompletionQueue, DeadLetterQueue, Pipe, RunningFlag
from kafka_consumer.chunk import Completion
from kafka_consumer.types import DeadLetter
from tests.fakes import MockMessage
from tests.helpers import background, eventually


@pytest.fixture
def running() -> RunningFlag:
    """A run that goes on."""
    return RunningFlag()


def _letter(offset: int, value: bytes | None = b"12345") -> DeadLetter:
    return DeadLetter("t", 0, offset, None, None, value, (), "E", "m", "", 1, 0)


# --- ends -------------------------------------------------------------------------------------------------------------


def test_a_pipe_ends_when_nobody_runs_or_holds_it_and_it_is_empty(running: RunningFlag):
    pipe = BatchQueue(running)
    pipe.put(1)
    pipe.hold()
    pipe.hold()
    running.clear()
    pipe.let_go()
    assert not pipe.ended
    pipe.let_go()
    assert not pipe.ended  # something is left
    assert pipe.get_many(0) == [1]
    assert pipe.ended


@pytest.mark.parametrize("how", ["clear", "let_go"])
def test_a_reader_that_waits_is_woken_by_the_end(running: RunningFlag, how: str):
    pipe = BatchQueue(running)
    pipe.hold()
    if how == "let_go":
        running.clear()
    got: list[list[int]] = []
    begun = time.monotonic()
    with background(lambda: got.append(pipe.get_many(30))):
        if how == "clear":
            pipe.let_go()
            running.clear()
        else:
            pipe.let_go()
    assert got == [[]]
    assert time.monotonic() - begun < 10


def test_clearing_the_flag_wakes_every_pipe(running: RunningFlag):
    pipes = [BatchQueue(running), CompletionQueue(running), DeadLetterQueue(running)]
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(pipes[0].get_many, 30), threads.submit(pipes[1].wait, 30)]  # type: ignore[attr-defined]
        running.clear()
        for future in waiting:
            future.result(10)
    assert all(pipe.ended for pipe in pipes)


def test_a_pipe_is_a_queue(running: RunningFlag):
    pipe = Pipe(running, 2)
    pipe.put("a")
    pipe.put_nowait("b")
    assert pipe.full()
    with pytest.raises(queue.Full):
        pipe.put("c", timeout=0.01)
    assert [pipe.get(), pipe.get_nowait()] == ["a", "b"]
    with pytest.raises(queue.Empty):
        pipe.get_nowait()
    pipe.task_done()
    pipe.task_done()
    pipe.join()


# --- BatchQueue -------------------------------------------------------------------------------------------------------


def test_as_many_are_put_as_fit_in_order(running: RunningFlag):
    pipe = BatchQueue(running, 5)
    assert pipe.put_many_nowait([1, 2, 3]) == 3
    assert pipe.put_many_nowait([4, 5, 6, 7]) == 2
    assert pipe.put_many_nowait([8]) == 0
    assert pipe.get_many(0) == [1, 2, 3, 4, 5]
    for number in range(5):
        pipe.put_nowait(number)
    with pytest.raises(queue.Full):
        pipe.put_nowait(5)


def test_without_a_bound_all_fit(running: RunningFlag):
    pipe = BatchQueue(running)
    assert pipe.put_many_nowait(list(range(10_000))) == 10_000
    assert pipe.qsize() == 10_000


def test_getting_many_waits_for_the_first(running: RunningFlag):
    pipe = BatchQueue(running)
    assert pipe.get_many(0.01) == []
    got: list[list[int]] = []
    with background(lambda: got.append(pipe.get_many(30))):
        pipe.put(7)
    assert got == [[7]]


def test_waiting_for_room_ends_when_somebody_takes(running: RunningFlag):
    pipe = BatchQueue(running, 2)
    assert pipe.wait_for_room(0) == 2
    pipe.put_many_nowait([1, 2])
    assert pipe.wait_for_room(0.01) == 0
    found: list[int] = []
    with background(lambda: found.append(pipe.wait_for_room(30))):
        pipe.get_many(0)
    assert found == [2]
    pipe.put_many_nowait([1, 2])
    running.clear()
    assert pipe.wait_for_room(30) == 0  # nobody waits for room at the end


# --- DeadLetterQueue --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bulk", [False, True])
def test_a_dead_letter_is_pending_until_it_is_written(running: RunningFlag, bulk: bool):
    letters = DeadLetterQueue(running)
    if bulk:
        letters.put_many_nowait([_letter(1), _letter(1), _letter(2, None)])
    else:
        for letter in (_letter(1), _letter(1), _letter(2, None)):
            letters.put(letter)
    assert [letters.is_pending(0, offset) for offset in (1, 2, 3)] == [True, True, False]
    assert not letters.is_pending(1, 1)
    assert letters.bytes == 10
    taken = letters.get_many(0)
    assert letters.is_pending(0, 1)  # taken isn't written
    letters.written(taken[:1])
    assert letters.is_pending(0, 1)  # the same message, failed twice
    letters.written(taken[1:])
    assert [letters.is_pending(0, offset) for offset in (1, 2)] == [False, False]
    assert letters.bytes == 0


def test_a_message_put_by_hand_is_a_dead_letter_too(running: RunningFlag):
    letters = DeadLetterQueue(running)
    message = MockMessage("t", 3, 9, None, b"123")
    letters.put(message)
    assert letters.is_pending(3, 9)
    assert letters.bytes == 3
    letters.written([message])
    assert not letters.is_pending(3, 9)


def test_a_flush_waits_until_all_is_on_disk(running: RunningFlag):
    letters = DeadLetterQueue(running)
    assert letters.flush(0) is True
    letters.put(_letter(1))
    assert letters.flush(0.01) is False
    assert letters.flush_wanted

    def write() -> None:
        letters.written(eventually(lambda: letters.get_many(0)))

    with background(write):
        assert letters.flush(10) is True
    assert not letters.flush_wanted


def test_a_flush_wakes_the_writer(running: RunningFlag):
    letters = DeadLetterQueue(running)
    letters.put(_letter(1))
    letters.get_many(0)
    woken = threading.Event()

    def wait() -> None:
        letters.get_many(30)
        woken.set()

    with background(wait):
        eventually(lambda: letters.flush(0) is False and woken.wait(0.01))
    assert woken.is_set()


# --- CompletionQueue --------------------------------------------------------------------------------------------------


def test_results_come_out_one_by_one(running: RunningFlag):
    results = CompletionQueue(running)
    assignment = Assignment("t", 4)
    assignment.delivered([10, 11, 20], 0.0)
    results.add(Completion(assignment, range(2), failed=False))
    results.add(Completion(assignment, range(0), failed=False))
    results.add(Completion(assignment, [2], failed=True))
    results.put((9, 1, "success"))
    assert results.qsize() == 4
    assert not results.empty()
    assert [results.get(), results.get_nowait()] == [(4, 10, "success"), (4, 11, "success")]
    assert [results.get(timeout=1), results.get()] == [(4, 20, "failed"), (9, 1, "success")]


def test_getting_from_an_empty_queue_of_results_gives_up(running: RunningFlag):
    results = CompletionQueue(running)
    with pytest.raises(queue.Empty):
        results.get(block=False)
    with pytest.raises(queue.Empty):
        results.get(timeout=0.01)


def test_getting_waits_for_a_result_that_is_added(running: RunningFlag):
    results = CompletionQueue(running)
    assignment = Assignment("t", 0)
    assignment.delivered([0], 0.0)
    got: list[object] = []
    with background(lambda: got.append(results.get())):
        results.add(Completion(assignment, [0], failed=False))
    assert got == [(0, 0, "success")]


def test_everything_is_taken_at_once_the_rest_of_a_result_included(running: RunningFlag):
    results = CompletionQueue(running)
    assignment = Assignment("t", 0)
    assignment.delivered(range(3), 0.0)
    results.add(Completion(assignment, range(3), failed=False))
    completion = Completion(assignment, [0], failed=True)
    results.add(completion)
    assert results.get() == (0, 0, "success")
    assert results.take_all() == [(0, 1, "success"), (0, 2, "success"), completion]
    assert results.take_all() == []
    assert results.qsize() == 0


def test_waiting_for_results_is_over_at_once_when_the_run_is(running: RunningFlag):
    results = CompletionQueue(running)
    results.wait(0.001)
    running.clear()
    begun = time.monotonic()
    results.wait(30)
    assert time.monotonic() - begun < 10
