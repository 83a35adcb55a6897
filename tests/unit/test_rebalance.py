"""What a group gives and takes: committed before it goes, never after; nothing of the past reaches the next assignment."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from kafka_consumer import rebalance
from kafka_consumer.chunk import Chunk, Completion
from kafka_consumer.client import Client
from kafka_consumer.offset_manager import Committer
from kafka_consumer.rebalance import Partitions
from kafka_consumer.shared_state import SharedState
from kafka_consumer.types import DeadLetter
from tests.fakes import FakeBroker, FakeConsumer, MockMessage, PartitionResult
from tests.helpers import background, eventually, make_state

GROUP = "test-group"
TOPIC = "test-topic"
KEY = (TOPIC, 0)


class Group:
    """A member of a group with everything around it but the polling loop and the workers; a test plays those."""

    def __init__(self, folder: Path, *, partitions: int = 2, **options: Any) -> None:
        self.state: SharedState = make_state(folder, **options)
        self.broker = FakeBroker({TOPIC: partitions})
        self.consumer = FakeConsumer(self.broker, GROUP, partition_eof=False)
        self.client = Client(self.consumer)
        self.client.own()
        self.committer = Committer(self.state, self.client)
        self.partitions = Partitions(self.state, self.committer, self.client.serve)
        self.partitions.subscribed = True
        self.consumer.subscribe(
            [TOPIC],
            on_assign=self.partitions.on_assign,
            on_revoke=self.partitions.on_revoke,
            on_lost=self.partitions.on_lost,
        )

    def poll(self) -> Any:
        return self.consumer.poll(0)

    def deliver(self, count: int, partition: int = 0) -> list[Chunk]:
        """Hand out messages as the polling loop does: chunks of one, in the processing queue."""
        assignment = self.partitions.open[TOPIC, partition]
        first = assignment.position or 0
        sequence = assignment.delivered(range(first, first + count), time.monotonic())
        chunks = [
            Chunk(
                [MockMessage(TOPIC, partition, first + n, None, b"v")],
                assignment,
                range(sequence + n, sequence + n + 1),
                [b"v"],
                1,
            )
            for n in range(count)
        ]
        self.state.processing_queue.put_chunks(chunks)
        return chunks

    def take(self) -> Chunk:
        """Take one message, as a worker does."""
        chunk = self.state.processing_queue.take(timeout=0)
        assert chunk is not None
        return chunk

    def finish(self, chunk: Chunk, *, failed: bool = False) -> None:
        """Report a message, as a worker does."""
        assert chunk.assignment is not None
        assert chunk.sequences is not None
        self.state.processed_queue.add(Completion(chunk.assignment, chunk.sequences, failed))
        self.state.processing_queue.release(chunk)

    def committed(self, partition: int = 0) -> int | None:
        return self.broker.committed(GROUP, TOPIC, partition)


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> None:
    """Every record of the package is captured."""
    caplog.set_level(logging.DEBUG, "kafka_consumer")


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    """A member that has polled once and has both partitions."""
    made = Group(tmp_path)
    made.poll()
    yield made
    made.state.stop("the test has ended")


# --- assigned ---------------------------------------------------------------------------------------------------------


def test_an_assigned_partition_is_open_with_what_the_group_has_committed(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    group = Group(tmp_path)
    group.broker.set_committed(GROUP, TOPIC, 1, 42)
    assert not group.partitions.ever_assigned
    group.poll()
    assert set(group.partitions.open) == {(TOPIC, 0), (TOPIC, 1)}
    assert [group.partitions.open[TOPIC, p].view().committed for p in (0, 1)] == [None, 42]
    assert group.partitions.ever_assigned
    assert group.partitions.changed
    assert "assigned: test-topic-0, test-topic-1" in caplog.messages


def test_an_assignment_of_nothing_proves_nothing_about_the_topic(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    group = Group(tmp_path)
    group.partitions.on_assign(group.consumer, [])
    assert not group.partitions.ever_assigned
    assert "assigned: no partitions" in caplog.messages


def test_committed_offsets_that_cannot_be_read_are_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    group = Group(tmp_path)

    def fail(*arguments: Any, **options: Any) -> None:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "too slow"))

    monkeypatch.setattr(group.consumer, "committed", fail)
    group.poll()
    assert group.partitions.open[KEY].view().committed is None
    assert any("committed offsets couldn't be read" in m and "too slow" in m for m in caplog.messages)
    assert group.state.running.is_set()


def test_a_partitions_own_error_leaves_its_committed_offset_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    group = Group(tmp_path)
    answer = [
        PartitionResult(TOPIC, 0, 5, KafkaError(KafkaError.UNSTABLE_OFFSET_COMMIT, "unstable")),
        TopicPartition(TOPIC, 1, 7),
    ]
    monkeypatch.setattr(group.consumer, "committed", lambda *a, **k: answer)
    group.poll()
    assert [group.partitions.open[TOPIC, p].view().committed for p in (0, 1)] == [None, 7]


def test_a_partition_that_is_assigned_twice_begins_anew(group: Group):
    old = group.partitions.open[KEY]
    group.deliver(3)
    group.partitions.on_assign(group.consumer, [TopicPartition(*KEY)])
    assert group.partitions.open[KEY] is not old
    assert old.closed
    assert group.state.processing_queue.qsize() == 0


# --- revoked ----------------------------------------------------------------------------------------------------------


def test_what_is_finished_is_committed_before_the_partition_goes(group: Group, caplog: pytest.LogCaptureFixture):
    for chunk in group.deliver(3):
        assert chunk
    for _ in range(3):
        group.finish(group.take())
    assignment = group.partitions.open[KEY]
    group.consumer.revoke(KEY)
    group.poll()
    assert group.committed() == 3
    assert assignment.closed
    assert set(group.partitions.open) == {(TOPIC, 1)}
    assert "revoked: test-topic-0" in caplog.messages


def test_what_waits_is_dropped_and_what_is_in_work_is_waited_for(group: Group):
    group.deliver(5)
    first, second = group.take(), group.take()
    began = threading.Event()

    def work() -> None:
        eventually(lambda: group.state.processing_queue.qsize() == 0)  # the revocation has dropped the rest
        began.set()
        group.finish(second)
        group.finish(first)

    group.consumer.revoke(KEY)
    with background(work):
        group.poll()
    assert began.is_set()
    assert group.committed() == 2  # its next owner begins with the third
    assert group.state.processing_queue.taken == 0


def test_a_revocation_waits_no_longer_than_its_bound(
    group: Group, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(rebalance, "REVOKE_SECONDS", 0.1)
    group.deliver(3)
    done, hanging = group.take(), group.take()
    group.finish(done)
    group.consumer.revoke(KEY)
    begun = time.monotonic()
    group.poll()
    assert 0.1 <= time.monotonic() - begun < 5
    assert group.committed() == 1
    assert "1 messages of revoked partitions weren't finished within 0.1 s: their next owner gets them" in caplog.messages
    group.finish(hanging)  # too late
    group.committer.collect()
    group.committer.commit_now()
    assert group.committed() == 1


def test_a_late_result_does_not_reach_the_next_assignment_of_the_same_partition(group: Group, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rebalance, "REVOKE_SECONDS", 0.02)
    group.deliver(3)
    late = group.take()
    group.consumer.bounce(KEY)
    group.poll()
    again = group.partitions.open[KEY]
    assert again is not late.assignment
    group.deliver(3)
    group.finish(late)
    group.committer.collect()
    group.committer.commit_now()
    assert group.committed() is None
    assert again.view().in_flight == 3


def test_a_failed_message_is_committed_when_its_dead_letter_gets_to_disk_in_time(group: Group):
    group.deliver(1)
    chunk = group.take()
    group.state.dlq_queue.put(DeadLetter(TOPIC, 0, 0, None, None, b"v", (), "E", "m", "", 1, 0))
    group.finish(chunk, failed=True)

    def write() -> None:
        eventually(lambda: group.state.dlq_queue.flush_wanted)  # the revocation asks for it
        group.state.dlq_queue.written(group.state.dlq_queue.get_many(0))

    group.consumer.revoke(KEY)
    with background(write):
        group.poll()
    assert group.committed() == 1


def test_requests_of_other_threads_are_served_while_a_revocation_waits(group: Group):
    group.deliver(1)
    chunk = group.take()
    answers: list[int] = []

    def ask() -> None:
        answers.append(group.client.call(lambda: 7, timeout=10))  # needs the very thread that waits
        group.finish(chunk)

    group.consumer.revoke(KEY)
    with background(ask):
        group.poll()
    assert answers == [7]
    assert group.committed() == 1


def test_only_what_is_revoked_is_committed_and_given_up(group: Group):
    for partition in (0, 1):
        group.deliver(2, partition)
    for _ in range(4):
        group.finish(group.take())
    group.consumer.revoke((TOPIC, 1))
    group.poll()
    assert (group.committed(0), group.committed(1)) == (None, 2)
    assert not group.partitions.open[KEY].closed


def test_a_commit_that_fails_in_a_revocation_does_not_stop_it(group: Group, caplog: pytest.LogCaptureFixture):
    group.deliver(1)
    group.finish(group.take())
    group.consumer.commit_errors.append(KafkaException(KafkaError(KafkaError.REBALANCE_IN_PROGRESS, "rebalancing")))
    group.consumer.revoke(KEY)
    group.poll()
    assert group.committed() is None
    assert KEY not in group.partitions.open
    assert any("commit failed" in m for m in caplog.messages)
    assert group.state.running.is_set()


def test_revoking_what_is_not_ours_does_nothing(group: Group, caplog: pytest.LogCaptureFixture):
    caplog.clear()
    group.partitions.on_revoke(group.consumer, [TopicPartition("other", 3)])
    assert len(group.partitions.open) == 2
    assert not any(m.startswith("revoked") for m in caplog.messages)


def test_without_a_commit_thread_a_revocation_just_gives_up(tmp_path: Path):
    state = make_state(tmp_path)
    partitions = Partitions(state, None, lambda: None)
    broker = FakeBroker({TOPIC: 1})
    consumer = FakeConsumer(broker, GROUP)
    partitions.on_assign(consumer, [TopicPartition(*KEY)])
    assignment = partitions.open[KEY]
    assignment.delivered([0], 0.0)
    partitions.on_revoke(consumer, [TopicPartition(*KEY)])
    assert assignment.closed
    assert partitions.open == {}


def test_closing_the_consumer_commits_what_is_left(group: Group):
    group.deliver(2)
    group.finish(group.take())
    group.finish(group.take())
    group.consumer.close()
    assert group.committed() == 2
    assert group.partitions.open == {}


# --- lost -------------------------------------------------------------------------------------------------------------


def test_nothing_of_a_lost_partition_is_committed(group: Group, caplog: pytest.LogCaptureFixture):
    group.deliver(3)
    held = group.take()
    group.finish(group.take())
    group.consumer.lose(KEY)
    group.poll()
    group.finish(held)
    group.committer.collect()
    group.committer.commit_now()
    assert group.committed() is None
    assert group.consumer.commit_calls == 0
    assert KEY not in group.partitions.open
    assert "lost, without a commit: test-topic-0" in caplog.messages
    assert (group.state.processing_queue.qsize(), group.state.processing_queue.taken) == (0, 0)


def test_a_membership_lost_while_draining_fails_when_work_stays_uncommitted(group: Group, caplog: pytest.LogCaptureFixture):
    group.deliver(3)
    group.finish(group.take())
    group.state.stop("the test drains")
    group.consumer.lose(KEY)
    group.poll()
    assert group.state.lifecycle.failed
    assert "the membership was lost before the last commit: 3 messages will be repeated" in caplog.messages


def test_a_member_that_was_expelled_comes_back_and_begins_with_what_is_committed(group: Group):
    group.deliver(2)
    group.finish(group.take())
    group.committer.collect()
    group.committer.commit_now()
    before = group.partitions.open[KEY]
    group.consumer.expel()
    group.poll()
    after = group.partitions.open[KEY]
    assert before.closed
    assert after is not before
    assert after.view().committed == 1


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_a_callback_never_raises_it_ends_the_consumer(
    group: Group, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fail(*arguments: Any) -> None:
        raise RuntimeError("impossible")

    monkeypatch.setattr(group.partitions, "_lost", fail)
    group.partitions.on_lost(group.consumer, [TopicPartition(*KEY)])
    assert group.state.lifecycle.failed
    assert group.state.lifecycle.stop_reason == "a rebalance failed: impossible"
    assert any(r.levelno == logging.CRITICAL and r.exc_info for r in caplog.records)


def test_rebalances_are_counted(group: Group):
    before = group.state.counters.rebalances
    group.consumer.bounce()
    group.poll()
    assert group.state.counters.rebalances == before + 2


def test_without_a_subscription_a_partition_is_taken_as_it_appears(tmp_path: Path):
    partitions = Partitions(make_state(tmp_path), None, lambda: None)
    found = partitions.of(KEY)
    assert found is not None
    assert partitions.of(KEY) is found
    partitions.subscribed = True
    assert partitions.of((TOPIC, 9)) is None


def test_a_log_that_jumped_back_begins_anew(group: Group):
    old = group.partitions.open[KEY]
    group.deliver(3)
    new = group.partitions.renew(KEY)
    assert old.closed
    assert group.partitions.open[KEY] is new
    assert group.state.processing_queue.qsize() == 0


def test_what_is_open_is_replaced_never_changed(group: Group):
    before = group.partitions.open
    group.consumer.revoke(KEY)
    group.poll()
    assert len(before) == 2
    assert group.partitions.open is not before


def test_many_partitions_are_told_in_short():
    assert rebalance._show([TopicPartition("t", n) for n in range(21)]).endswith("t-19 and 1 more")


@pytest.mark.parametrize(("reset", "begins"), [(None, OFFSET_BEGINNING), ("earliest", OFFSET_BEGINNING), ("latest", None)])
def test_partitions_without_a_commit_begin_together_and_at_once_where_that_needs_no_question(
    tmp_path: Path, reset: str | None, begins: int | None
):
    group = Group(tmp_path, kafka_options={} if reset is None else {"auto.offset.reset": reset})
    for partition in (0, 1):
        group.broker.produce_many(TOPIC, partition, [b"a", b"b", b"c"])
    group.broker.set_committed(GROUP, TOPIC, 0, 2)
    first = group.poll()
    assert [group.partitions.open[TOPIC, partition].begins_at for partition in (0, 1)] == [None, begins]
    if begins is not None:
        came = [first, *(group.poll() for _ in range(8))]
        found = {(m.partition(), m.offset()) for m in came if m is not None and m.error() is None}
        assert found == {(0, 2), (1, 0), (1, 1), (1, 2)}
