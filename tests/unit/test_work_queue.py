"""The processing queue: bounded by messages and bytes, chunks as large as is fair, an end when all is done."""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kafka_consumer.assignment import Assignment
from kafka_consumer.batch_queue import RunningFlag
from kafka_consumer.chunk import Chunk
from kafka_consumer.work_queue import GRAB_SECONDS, Pace, WorkQueue
from tests.fakes import MockMessage
from tests.helpers import background, eventually


@pytest.fixture
def running() -> RunningFlag:
    """A run that goes on."""
    return RunningFlag()


def _chunk(count: int, first: int = 0, *, size: int = 0, assignment: Assignment | None = None) -> Chunk:
    messages = [MockMessage("t", 0, offset, None, b"v") for offset in range(first, first + count)]
    return Chunk(messages, assignment, range(first, first + count), [b"v"] * count, size)  # type: ignore[arg-type]


def _offsets(chunk: Chunk | None) -> list[int]:
    assert chunk is not None
    return [message.offset() for message in chunk.messages]


# --- Pace -------------------------------------------------------------------------------------------------------------


def test_an_unknown_function_gets_one_message_at_a_time():
    assert Pace().limit(1000, 1) == 1


def test_a_slow_function_gets_one_message_a_fast_one_hundreds():
    pace = Pace()
    pace.measured(1.0)
    assert pace.limit(1000, 2) == 1
    fast = Pace()
    fast.measured(1e-5)
    assert fast.limit(10_000, 2) == int(GRAB_SECONDS / 1e-5)
    instant = Pace()
    instant.measured(0.0)
    assert instant.limit(10_000, 2) == 5000  # no division by zero


def test_nobody_takes_so_much_that_others_go_without():
    pace = Pace()
    pace.measured(0.001)
    assert pace.limit(8, 4) == 2
    assert pace.limit(8, 8) == 1
    assert pace.limit(8, 0) == 5


def test_the_estimate_follows_what_is_measured():
    pace = Pace()
    pace.measured(1.0)
    for _ in range(50):
        pace.measured(0.0)
    assert pace.seconds is not None
    assert pace.seconds < 0.001
    assert pace.samples.percentiles().p99 == 1.0


# --- a queue.Queue ----------------------------------------------------------------------------------------------------


def test_it_is_a_bounded_queue_of_messages(running: RunningFlag):
    work = WorkQueue(running, 10, 1 << 30)
    messages = [MockMessage("t", 0, offset, None, b"v") for offset in range(10)]
    for message in messages:
        work.put(message)
    assert work.full()
    with pytest.raises(queue.Full):
        work.put_nowait(messages[0])
    with pytest.raises(queue.Full):
        work.put(messages[0], timeout=0.01)
    assert [work.get() for _ in range(10)] == messages
    with pytest.raises(queue.Empty):
        work.get_nowait()


def test_messages_come_out_of_chunks_one_by_one(running: RunningFlag):
    work = WorkQueue(running, 10, 1 << 30)
    work.put(_chunk(3, size=10))
    assert (work.qsize(), work.in_flight_bytes) == (3, 10)
    assert [work.get().offset() for _ in range(3)] == [0, 1, 2]
    assert (work.qsize(), work.in_flight_bytes) == (0, 0)


# --- room -------------------------------------------------------------------------------------------------------------


def test_room_is_bounded_by_messages_and_by_bytes(running: RunningFlag):
    work = WorkQueue(running, 100, 1000)
    assert work.room() == 100
    work.put_chunks([_chunk(40, size=999)])
    assert work.room() == 60
    work.put_chunks([_chunk(1, 40, size=1)])
    assert work.room() == 0
    taken = work.take()
    assert taken is not None
    assert work.room() == 0  # with a worker it still takes memory
    work.release(taken)
    assert work.room() == 60
    work.put_chunks([_chunk(200, 41)])
    assert work.room() == 0


def test_waiting_for_room_ends_when_a_quarter_is_free(running: RunningFlag):
    work = WorkQueue(running, 100, 1 << 30)
    work.put_chunks([_chunk(100)])
    assert work.wait_for_room(0.01) == 0
    work.pace.measured(1e-6)
    found: list[int] = []
    with background(lambda: found.append(work.wait_for_room(30))):
        for _ in range(24):
            work.get()
        assert found == []
        work.take()
    assert found[0] >= 25


def test_waiting_for_bytes_ends_when_they_are_free(running: RunningFlag):
    work = WorkQueue(running, 100, 1000)
    work.put_chunks([_chunk(1, size=5000)])
    taken = work.take()
    found: list[int] = []
    with background(lambda: found.append(work.wait_for_room(30))):
        assert taken is not None
        work.release(taken)
    assert found == [100]


def test_nobody_waits_for_room_at_the_end(running: RunningFlag):
    work = WorkQueue(running, 10, 1 << 30)
    work.put_chunks([_chunk(10)])
    begun = time.monotonic()
    with background(work.wait_for_room, 30):
        running.clear()
    assert time.monotonic() - begun < 10


# --- taking -----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), max_size=10), st.floats(1e-6, 0.1), st.integers(1, 5), st.integers(0, 1000))
def test_nothing_is_lost_or_doubled_and_the_order_is_kept(sizes: list[int], pace: float, workers: int, size: int):
    running = RunningFlag()
    work = WorkQueue(running, 10_000, 1 << 30)
    work.workers = workers
    work.pace.measured(pace)
    first = 0
    for count in sizes:
        work.put_chunks([_chunk(count, first, size=size)])
        first += count
    running.clear()
    seen: list[int] = []
    finished = None
    while (chunk := work.take(finished)) is not None:
        assert chunk.values is not None
        assert chunk.sequences is not None
        assert list(chunk.sequences) == _offsets(chunk)
        assert len(chunk.values) == len(chunk)
        seen += _offsets(chunk)
        finished = chunk
    assert seen == list(range(first))
    assert (work.qsize(), work.taken, work.in_flight_bytes) == (0, 0, 0)


def test_taking_waits_and_gives_up(running: RunningFlag):
    work = WorkQueue(running, 10, 1 << 30)
    assert work.take(timeout=0.01) is None
    got: list[Chunk | None] = []
    with background(lambda: got.append(work.take())):
        eventually(lambda: work.idle_workers == 1)
        work.put_chunks([_chunk(1)])
    assert _offsets(got[0]) == [0]
    assert work.idle_workers == 0


def test_a_worker_does_not_end_while_work_may_come_back(running: RunningFlag):
    work = WorkQueue(running, 10, 1 << 30)
    work.put_chunks([_chunk(1)])
    running.clear()
    held = work.take()
    assert held is not None
    assert work.take(timeout=0.01) is None
    got: list[Chunk | None] = []
    with background(lambda: got.append(work.take())):
        eventually(lambda: work.idle_workers == 1)
        work.put_back(held, retry=True)  # it failed, and its next attempt is due
    assert got == [held]
    work.release(held)
    assert work.take() is None


def test_all_workers_end_when_the_last_one_is_done(running: RunningFlag):
    work = WorkQueue(running, 10, 1 << 30)
    work.put_chunks([_chunk(1)])
    held = work.take()
    with ThreadPoolExecutor(3) as threads:
        others = [threads.submit(work.take) for _ in range(3)]
        eventually(lambda: work.idle_workers == 3)
        running.clear()
        assert not any(future.done() for future in others)
        assert held is not None
        work.release(held)
        assert [future.result(10) for future in others] == [None, None, None]


def test_a_worker_that_is_dismissed_ends_and_its_work_stays(running: RunningFlag):
    work = WorkQueue(running, 10, 1 << 30)
    work.put_chunks([_chunk(2)])
    held = work.take()
    work.dismiss(1)
    assert work.take(held) is None
    assert _offsets(work.take()) == [1]


def test_what_is_put_back_is_next(running: RunningFlag):
    work = WorkQueue(running, 10, 1 << 30)
    work.put_chunks([_chunk(5)])
    first = work.take()
    assert first is not None
    work.put_back(first)
    assert (work.qsize(), work.taken) == (5, 0)
    assert [_offsets(work.take()) for _ in range(5)] == [[0], [1], [2], [3], [4]]


def test_a_second_worker_is_woken_when_there_is_enough_left(running: RunningFlag):
    work = WorkQueue(running, 100, 1 << 30)
    work.pace.measured(0.01)
    taken: list[Chunk | None] = []
    with ThreadPoolExecutor(3) as threads:
        for _ in range(3):
            threads.submit(lambda: taken.append(work.take()))
        eventually(lambda: work.idle_workers == 3)
        work.put_chunks([_chunk(3)])  # one notification; each wakes the next
        eventually(lambda: len(taken) == 3)
    assert sorted(_offsets(chunk)[0] for chunk in taken) == [0, 1, 2]


def test_a_nudge_wakes_a_worker_that_was_not_worth_waking(running: RunningFlag):
    work = WorkQueue(running, 100, 1 << 30)
    work.nudge()
    woken = threading.Event()

    def wait() -> None:
        work.take()
        woken.set()

    with background(wait):
        eventually(lambda: work.idle_workers == 1)
        with work.mutex:
            work._append(_chunk(1))  # as if it had been left over: nobody was notified
        work.nudge()
        assert woken.wait(10)


# --- revocation -------------------------------------------------------------------------------------------------------


def test_what_waits_of_a_revoked_partition_is_dropped(running: RunningFlag):
    work = WorkQueue(running, 100, 1000)
    gone, kept = Assignment("t", 0), Assignment("t", 1)
    work.put_chunks(
        [_chunk(5, size=500, assignment=gone), _chunk(3, size=300, assignment=kept), _chunk(2, 5, size=200, assignment=gone)]
    )
    assert work.drop(gone) == 7
    assert (work.qsize(), work.in_flight_bytes) == (3, 300)
    assert work.drop(gone) == 0
    assert _offsets(work.take()) == [0]


def test_dropping_the_last_work_ends_those_who_wait(running: RunningFlag):
    work = WorkQueue(running, 100, 1000)
    gone = Assignment("t", 0)
    work.put_chunks([_chunk(5, assignment=gone)])
    running.clear()
    assert work.drop(gone) == 5
    assert work.take() is None


def test_work_of_a_revoked_partition_is_not_put_back(running: RunningFlag):
    work = WorkQueue(running, 100, 1000)
    gone = Assignment("t", 0)
    gone.delivered([0], 0.0)
    work.put_chunks([_chunk(1, size=100, assignment=gone)])
    held = work.take()
    assert held is not None
    gone.close()
    work.put_back(held)
    assert (work.qsize(), work.taken, work.in_flight_bytes) == (0, 0, 0)


def test_the_parts_of_a_chunk_share_its_bytes_without_a_remainder():
    chunk = _chunk(7, size=100)
    parts = [chunk.part(index, index + 1) for index in range(7)]
    assert sum(part.size for part in parts) == 100
    assert chunk.part(2, 5).sequences == range(2, 5)
    by_hand = Chunk([MockMessage("t", 0, 1, None, b"v"), MockMessage("t", 0, 2, None, b"v")])
    assert (by_hand.part(1, 2).sequences, by_hand.part(1, 2).values, by_hand.revoked) == (None, None, False)
