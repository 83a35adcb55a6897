"""Ordered work: a lane is never in two hands, its order is kept through retries, nothing is lost."""

from __future__ import annotations

import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kafka_consumer.assignment import Assignment
from kafka_consumer.batch_queue import RunningFlag
from kafka_consumer.chunk import Chunk
from kafka_consumer.ordered_queue import OrderedQueue
from tests.fakes import MockMessage
from tests.helpers import eventually


def _chunk(partition: int, first: int, keys: list[bytes | None], assignment: Assignment | None = None, size: int = 0) -> Chunk:
    offsets = range(first, first + len(keys))
    messages = [MockMessage("t", partition, offset, key, b"v") for offset, key in zip(offsets, keys, strict=True)]
    return Chunk(messages, assignment, offsets, [b"v"] * len(keys), size)  # type: ignore[arg-type]


def _queue(ordering: str = "key") -> OrderedQueue:
    return OrderedQueue(RunningFlag(), 10_000, 1 << 30, ordering)


def _take(work: OrderedQueue) -> list[tuple[int, int]] | None:
    chunk = work.take(timeout=0)
    return None if chunk is None else [(message.partition(), message.offset()) for message in chunk.messages]


# --- one thing at a time ----------------------------------------------------------------------------------------------


def test_the_second_message_of_a_key_waits_for_the_first():
    work = _queue()
    work.put_chunks([_chunk(0, 0, [b"a", b"a", b"b"])])
    first = work.take(timeout=0)
    assert first is not None
    assert _take(work) == [(0, 2)]  # b goes on
    assert _take(work) is None
    assert work.qsize() == 1
    assert work.take(first, timeout=0) is not None


def test_the_same_key_in_another_partition_is_another_lane():
    work = _queue()
    work.put_chunks([_chunk(0, 0, [b"a"]), _chunk(1, 0, [b"a"])])
    assert [_take(work), _take(work)] == [[(0, 0)], [(1, 0)]]


def test_messages_without_a_key_have_no_order_to_keep():
    work = _queue()
    work.put_chunks([_chunk(0, 0, [None, None, None])])
    assert [_take(work), _take(work), _take(work)] == [[(0, 0)], [(0, 1)], [(0, 2)]]


def test_by_partition_a_run_goes_to_one_worker_and_the_rest_waits():
    work = _queue("partition")
    work.pace.measured(0.001)  # five at a time
    work.put_chunks([_chunk(0, 0, [None] * 8), _chunk(1, 0, [b"k"] * 2)])
    held = work.take(timeout=0)
    assert held is not None
    assert len(held) == 5
    assert _take(work) == [(1, 0), (1, 1)]
    assert _take(work) is None
    work.release(held)
    assert _take(work) == [(0, 5), (0, 6), (0, 7)]


def test_a_retry_goes_before_what_waits_in_its_lane():
    work = _queue()
    work.put_chunks([_chunk(0, 0, [b"a", b"a"])])
    held = work.take(timeout=0)
    assert held is not None
    work.put_back(held, retry=True)
    again = work.take(timeout=0)
    assert again is held
    assert _take(work) is None  # the other still waits
    work.release(again)
    assert _take(work) == [(0, 1)]


def test_what_was_not_begun_goes_back_to_the_front_of_its_lane():
    work = _queue("partition")
    work.pace.measured(0.001)
    work.put_chunks([_chunk(0, 0, [None] * 5), _chunk(0, 5, [None] * 2)])
    held = work.take(timeout=0)
    assert held is not None
    work.put_back(held.part(2, 5))
    assert _take(work) is None  # messages 0 and 1 are still with the worker
    work.release(held.part(0, 2))
    assert _take(work) == [(0, 2), (0, 3), (0, 4)]


def test_a_lane_waits_until_all_that_was_taken_of_it_is_finished():
    work = _queue("partition")
    work.pace.measured(0.001)
    work.put_chunks([_chunk(0, 0, [None] * 8)])
    held = work.take(timeout=0)
    assert held is not None
    work.release(held.part(0, 4))  # the fifth waits for its retry
    assert _take(work) is None
    work.release(held.part(4, 5))
    assert _take(work) == [(0, 5), (0, 6), (0, 7)]


def test_work_put_back_whole_is_ready_at_once():
    work = _queue("partition")
    work.put_chunks([_chunk(0, 0, [None])])
    held = work.take(timeout=0)
    assert held is not None
    work.put_back(held)
    assert _take(work) == [(0, 0)]


def test_a_lane_without_messages_is_forgotten():
    work = _queue()
    for number in range(100):
        work.put_chunks([_chunk(0, number, [b"%d" % number])])
        held = work.take(timeout=0)
        assert held is not None
        work.release(held)
    assert work._lanes == {}


def test_dropping_a_partition_leaves_the_others_and_keeps_the_books():
    work = _queue()
    gone, kept = Assignment("t", 0), Assignment("t", 1)
    work.put_chunks([_chunk(0, 0, [b"a", b"a", b"b", None], gone, size=40), _chunk(1, 0, [b"a", b"a"], kept, size=20)])
    busy = work.take(timeout=0)  # the message without a key
    held = work.take(timeout=0)  # a of partition 0
    assert busy is not None
    assert held is not None
    work.put_back(held, retry=True)  # a retry that is due when the partition goes
    gone.close()
    assert work.drop(gone) == 3
    work.release(busy)
    assert work.in_flight_bytes == 20
    assert [_take(work), _take(work)] == [[(1, 0)], None]
    assert list(work._lanes) == [("t", 1, b"a")]


def test_a_lane_whose_worker_is_busy_survives_the_drop():
    work = _queue()
    gone = Assignment("t", 0)
    work.put_chunks([_chunk(0, 0, [b"a", b"a"], gone)])
    held = work.take(timeout=0)
    gone.close()
    assert work.drop(gone) == 1
    again = Assignment("t", 0)
    work.put_chunks([_chunk(0, 1, [b"a"], again)])
    assert _take(work) is None  # the old one is still being processed: order, also across the assignments
    assert held is not None
    work.release(held)
    assert _take(work) == [(0, 1)]


def test_it_is_a_queue_by_hand_too():
    work = _queue()
    for offset in range(3):
        work.put(MockMessage("t", 0, offset, b"a", b"v"))
    assert [work.get().offset() for _ in range(3)] == [0, 1, 2]
    work.put_chunks([_chunk(0, 0, [b"a", b"a"])])
    work.take(timeout=0)
    with pytest.raises(IndexError):  # all that waits is behind a message in flight
        work.get_nowait()


# --- properties -------------------------------------------------------------------------------------------------------

ACTIONS = st.lists(
    st.one_of(
        st.tuples(
            st.just("put"),
            st.tuples(st.integers(0, 2), st.lists(st.sampled_from([b"a", b"b", b"c", None]), min_size=1, max_size=8)),
        ),
        st.tuples(st.just("take"), st.none()),
        st.tuples(st.just("finish"), st.integers(0, 10)),
        st.tuples(st.just("retry"), st.integers(0, 10)),
        st.tuples(st.just("unbegun"), st.integers(0, 10)),
        st.tuples(st.just("drop"), st.integers(0, 2)),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["key", "partition"]), st.sampled_from([1.0, 0.002, 1e-6]), ACTIONS)
def test_order_is_kept_in_each_lane_and_nothing_is_lost(ordering: str, pace: float, actions: list[tuple[str, Any]]):
    work = _queue(ordering)
    assignments = [Assignment("t", partition) for partition in range(3)]
    offsets = [0, 0, 0]
    put: set[tuple[int, int]] = set()
    dropped: set[tuple[int, int]] = set()
    done: list[tuple[int, int, Any]] = []
    held: list[Chunk] = []

    def place(message: Any) -> tuple[int, int]:
        return message.partition(), message.offset()

    def lane(message: Any) -> Any:
        return message.partition() if ordering == "partition" else (message.partition(), message.key())

    def finish(chunk: Chunk) -> None:
        done.extend((*place(message), lane(message)) for message in chunk.messages)
        work.release(chunk)

    def take() -> Chunk | None:
        work.pace.seconds = pace
        chunk = work.take(timeout=0)
        if chunk is not None:
            lanes = {lane(message) for message in chunk.messages if chunk.lane is not None}
            assert len(lanes) <= 1
            for other in held:  # no lane is in two hands
                assert chunk.lane is None or other.lane != chunk.lane
            held.append(chunk)
        return chunk

    for action, argument in actions:
        if action == "put":
            partition, keys = argument
            chunk = _chunk(partition, offsets[partition], keys, assignments[partition], size=len(keys))
            put |= {place(message) for message in chunk.messages}
            offsets[partition] += len(keys)
            work.put_chunks([chunk])
        elif action == "take":
            take()
        elif action == "drop":
            waiting = work.qsize()
            gone = {p for p in put if p[0] == argument}
            gone -= {(p, o) for p, o, _ in done} | dropped
            gone -= {place(message) for chunk in held for message in chunk.messages}
            assert work.drop(assignments[argument]) == len(gone)
            assert work.qsize() == waiting - len(gone)
            dropped |= gone
        elif held:
            chunk = held.pop(argument % len(held))
            if action == "finish":
                finish(chunk)
            elif action == "retry":
                finish(chunk.part(0, len(chunk) - 1)) if len(chunk) > 1 else None
                work.put_back(chunk.part(len(chunk) - 1, len(chunk)), retry=True)
            else:
                split = argument % (len(chunk) + 1)
                if split < len(chunk):
                    work.put_back(chunk.part(split, len(chunk)))
                if split:
                    held.append(chunk.part(0, split))
    while held or work.qsize():
        while held:
            finish(held.pop())
        take()
    finished = [(partition, offset) for partition, offset, _ in done]
    assert sorted(finished) == sorted(put - dropped)
    by_lane = defaultdict(list)
    for _, offset, name in done:
        by_lane[name].append(offset)
    for name, seen in by_lane.items():
        keyless = ordering == "key" and name[1] is None
        assert keyless or seen == sorted(seen)
    assert (work.taken, work.in_flight_bytes, work._lanes) == (0, 0, {})


def test_many_threads_keep_every_keys_order():
    running = RunningFlag()
    work = OrderedQueue(running, 100_000, 1 << 30, "key")
    work.pace.measured(1e-6)
    seen: dict[bytes, list[int]] = defaultdict(list)
    hands: set[bytes] = set()
    guard = threading.Lock()
    clashes: list[bytes] = []

    def run() -> None:
        finished = None
        while (chunk := work.take(finished)) is not None:
            key = chunk.messages[0].key()
            assert key is not None
            with guard:
                if key in hands:
                    clashes.append(key)
                hands.add(key)
            seen[key] += [message.offset() for message in chunk.messages]
            with guard:
                hands.discard(key)
            finished = chunk

    with ThreadPoolExecutor(8) as threads:
        futures = [threads.submit(run) for _ in range(8)]
        for first in range(0, 4000, 100):
            work.put_chunks([_chunk(0, first, [b"k%d" % (offset % 13) for offset in range(100)])])
        eventually(lambda: sum(map(len, list(seen.values()))) == 4000)
        running.clear()
        for future in futures:
            future.result(20)
    assert clashes == []
    assert all(offsets == sorted(offsets) for offsets in seen.values())
