"""Offsets: what is contiguous, and a commit thread that commits exactly that, whatever Kafka answers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from kafka_consumer import commit_loop, find_max_contiguous, offset_manager
from kafka_consumer.assignment import Assignment
from kafka_consumer.chunk import Completion
from kafka_consumer.client import Client
from kafka_consumer.errors import RequestTimeoutError
from kafka_consumer.offset_manager import Committer
from kafka_consumer.shared_state import SharedState
from kafka_consumer.types import DeadLetter
from tests.fakes import MockKafkaConsumer, PartitionResult
from tests.helpers import background, eventually, make_state

TOPIC = "test-topic"


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> None:
    """Every record of the package is captured."""
    caplog.set_level(logging.DEBUG, "kafka_consumer")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[SharedState]:
    """A shared state with short intervals."""
    made = make_state(tmp_path, commit_interval_seconds=0.02)
    yield made
    made.stop("the test has ended")


# --- find_max_contiguous ----------------------------------------------------------------------------------------------


def test_a_perfect_sequence_is_contiguous_to_its_end():
    """SPEC: Max Contiguous - Perfect Sequence."""
    assert find_max_contiguous(1000, {1001, 1002, 1003, 1004, 1005}) == 1005


def test_a_gap_stops_the_contiguous_run():
    """SPEC: Max Contiguous - Single Gap."""
    assert find_max_contiguous(1000, {1001, 1002, 1003, 1005, 1006}) == 1003


def test_of_several_gaps_the_first_one_counts():
    """SPEC: Max Contiguous - Multiple Gaps."""
    assert find_max_contiguous(1000, {1001, 1003, 1005, 1007}) == 1001


def test_without_processed_offsets_nothing_changes():
    """SPEC: Max Contiguous - Empty Set."""
    assert find_max_contiguous(1000, set()) == 1000


def test_a_single_offset_is_a_run():
    """SPEC: Max Contiguous - Single Offset."""
    assert find_max_contiguous(1000, {1001}) == 1001


def test_a_gap_at_the_start_stops_at_once():
    """SPEC: Max Contiguous - Gap at Start."""
    assert find_max_contiguous(1000, {1002, 1003, 1004}) == 1000


def test_the_order_of_the_input_does_not_matter():
    """SPEC: Max Contiguous - Out of Order Input."""
    assert find_max_contiguous(1000, [1005, 1001, 1003, 1002, 1004]) == 1005


def test_offsets_at_or_below_the_committed_one_and_duplicates_are_passed_over():
    assert find_max_contiguous(1000, [998, 999, 1000, 1001, 1001, 1002, 1002]) == 1002
    assert find_max_contiguous(1000, [5, 6]) == 1000
    assert find_max_contiguous(-1, iter([0, 1, 3])) == 1


@settings(deadline=None)
@given(st.integers(-1, 50), st.lists(st.integers(0, 60), max_size=60))
def test_it_is_the_longest_run_that_a_naive_walk_finds(last: int, processed: list[int]):
    walk = last
    while walk + 1 in processed:
        walk += 1
    assert find_max_contiguous(last, processed) == walk


# --- commit_loop, fed by hand -----------------------------------------------------------------------------------------


@contextmanager
def committing(state: SharedState, consumer: Any) -> Iterator[None]:
    """Run ``commit_loop`` in a thread, and end it."""
    with background(commit_loop, state, consumer, stop=lambda: state.stop("enough")):
        yield


def _feed(state: SharedState, partition: int, *offsets: int, outcome: str = "success") -> None:
    for offset in offsets:
        state.processed_queue.put((partition, offset, outcome))


def test_the_commit_loop_commits_the_next_offset_after_the_contiguous_run(state: SharedState):
    """SPEC: Commit Thread - Normal Operation."""
    consumer = MockKafkaConsumer()
    _feed(state, 0, 1003, 1001, 1002, 1005)
    with committing(state, consumer):
        eventually(lambda: consumer.committed_offsets == {(TOPIC, 0): 1004})
        _feed(state, 0, 1004)
        eventually(lambda: consumer.committed_offsets == {(TOPIC, 0): 1006})
    assert state.processed_queue.empty()
    assert state.counters.committed == state.counters.processed == 5


def test_the_last_commit_comes_without_waiting_for_the_interval(tmp_path: Path):
    """SPEC: Commit Thread - Normal Operation."""
    state = make_state(tmp_path, commit_interval_seconds=3600)
    consumer = MockKafkaConsumer()
    with committing(state, consumer):
        _feed(state, 0, *range(7))
        eventually(lambda: state.counters.processed == 7)
        assert consumer.commits == []
    assert consumer.commits == [{(TOPIC, 0): 7}]


def test_clearing_running_ends_the_loop_as_stop_does(state: SharedState):
    consumer = MockKafkaConsumer()
    _feed(state, 0, 0)
    state.running.clear()
    commit_loop(state, consumer)
    assert consumer.committed_offsets == {(TOPIC, 0): 1}


def test_dev_mode_commits_nothing_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """SPEC: Commit Thread - Dev Mode Skip."""
    state = make_state(tmp_path, dev_mode=True, commit_interval_seconds=0.02)
    consumer = MockKafkaConsumer()
    _feed(state, 0, *range(1001, 1006))
    with committing(state, consumer):
        record = eventually(lambda: next((r for r in caplog.records if "dev mode" in r.getMessage()), None))
    assert record.levelno == logging.INFO
    assert "test-topic-0@1006" in record.getMessage()
    assert consumer.commit_count == 0
    # Tracking is cleared as if it had been committed: it is told once.
    assert sum("dev mode" in message for message in caplog.messages) == 1


def test_a_failed_commit_is_logged_and_tried_again(state: SharedState, caplog: pytest.LogCaptureFixture):
    """SPEC: Commit Thread - Commit Failure."""
    consumer = MockKafkaConsumer()
    consumer.commit_errors = [
        KafkaException(KafkaError(KafkaError.COORDINATOR_NOT_AVAILABLE, "no coordinator")),
        RuntimeError("something odd"),
        RequestTimeoutError("no answer from Kafka within 2 s"),
        KafkaException("without a KafkaError"),
    ]
    with committing(state, consumer) as _:
        _feed(state, 0, 1, 2)
        eventually(lambda: consumer.committed_offsets == {(TOPIC, 0): 3})
    errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert errors == [
        "commit failed, will be tried again: no coordinator (test-topic-0@3)",
        "commit failed, will be tried again: RuntimeError: something odd (test-topic-0@3)",
        "commit failed, will be tried again: no answer from Kafka within 2 s (test-topic-0@3)",
        "commit failed, will be tried again: KafkaException: without a KafkaError (test-topic-0@3)",
    ]
    assert state.counters.commit_failures == 4
    assert state.counters.committed == 2


def test_a_commit_in_the_middle_of_a_rebalance_is_tried_again_long_before_the_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(offset_manager, "AFTER_REBALANCE_SECONDS", 0.01)
    state = make_state(tmp_path, commit_interval_seconds=0.5)
    consumer = MockKafkaConsumer()
    rebalancing = KafkaError(KafkaError.REBALANCE_IN_PROGRESS, "rebalancing")
    consumer.commit_errors = [KafkaException(rebalancing) for _ in range(30)]  # a quarter of a minute at the interval
    with committing(state, consumer):
        _feed(state, 0, 1, 2)
        eventually(lambda: consumer.committed_offsets == {(TOPIC, 0): 3}, 7)


def test_a_group_that_refuses_the_commit_is_asked_once_more_at_the_end_and_not_at_each_interval(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    state = make_state(tmp_path, commit_interval_seconds=0.02)
    consumer = MockKafkaConsumer()
    refused = KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED, "Broker: Group authorization failed")
    consumer.commit_errors = [KafkaException(refused) for _ in range(100)]
    state.processed_queue.hold()  # as the workers' results do, until they have drained
    with committing(state, consumer):
        _feed(state, 0, 1, 2)
        eventually(state.shutdown_event.is_set)  # the run ends for it
        for offset in range(3, 9):  # while it drains
            _feed(state, 0, offset)
            time.sleep(0.03)
        eventually(lambda: state.counters.processed == 8)
        state.processed_queue.let_go()
    assert consumer.commit_count == 2
    assert sum(record.levelno == logging.ERROR for record in caplog.records) <= 3
    assert len([r for r in caplog.records if r.levelno == logging.CRITICAL]) == 1


def test_the_last_commit_is_given_up_at_its_deadline(state: SharedState, caplog: pytest.LogCaptureFixture):
    """SPEC: Commit Thread - Commit Failure."""
    consumer = MockKafkaConsumer()
    consumer.commit_errors = [RuntimeError("down")] * 1000
    committer = Committer(state, consumer, final_seconds=0.25)
    _feed(state, 0, 1)
    state.stop()
    begun = time.monotonic()
    committer.run()
    assert time.monotonic() - begun < 5
    assert committer.clean is False
    assert consumer.commit_count == 2
    assert "finished work stays uncommitted and will be repeated after a restart" in caplog.messages


def test_each_partition_is_committed_as_far_as_it_is_contiguous(state: SharedState):
    """SPEC: Commit Thread - Multi-Partition."""
    consumer = MockKafkaConsumer()
    _feed(state, 0, 10, 11, 12)
    _feed(state, 1, 500, 502)
    _feed(state, 2, 0, 2, 1, 7)
    with committing(state, consumer):
        eventually(lambda: len(consumer.committed_offsets) == 3)
    assert consumer.committed_offsets == {(TOPIC, 0): 13, (TOPIC, 1): 501, (TOPIC, 2): 3}


def test_what_was_committed_is_forgotten_and_the_rest_is_kept(state: SharedState):
    """SPEC: Commit Thread - Remove Committed from Tracking."""
    consumer = MockKafkaConsumer()
    committer = Committer(state, consumer)
    _feed(state, 0, 1001, 1002, 1003, 1005)
    committer.collect()
    assert committer.commit_now() is True
    assignment = committer._by_hand[0]
    assert consumer.commits == [{(TOPIC, 0): 1004}]
    assert (assignment._done_below, assignment._starts, assignment._ends) == (3, [4], [5])  # 1005 alone
    assert assignment.sequence_of(1003) is None
    assert committer.commit_now() is True
    assert len(consumer.commits) == 1  # nothing new
    _feed(state, 0, 1004)
    committer.collect()
    committer.commit_now()
    assert consumer.commits == [{(TOPIC, 0): 1004}, {(TOPIC, 0): 1006}]


def test_an_offset_before_the_start_of_a_partition_fed_by_hand_is_ignored(state: SharedState):
    consumer = MockKafkaConsumer()
    committer = Committer(state, consumer)
    _feed(state, 0, 100)
    committer.collect()
    _feed(state, 0, 50, 101)
    _feed(state, 0, 51, outcome="failed")
    committer.collect()
    assert committer.commit_now()
    assert consumer.committed_offsets == {(TOPIC, 0): 102}
    assert committer.waiting_for_disk == 0


def test_a_failed_message_by_hand_without_a_dead_letter_is_committed(state: SharedState):
    consumer = MockKafkaConsumer()
    _feed(state, 0, 1, 3)
    _feed(state, 0, 2, outcome="failed")
    with committing(state, consumer):
        eventually(lambda: consumer.committed_offsets == {(TOPIC, 0): 4})
    assert (state.counters.processed, state.counters.failed) == (2, 1)


# --- failures and their dead letters ----------------------------------------------------------------------------------


def _letter(offset: int, partition: int = 0) -> DeadLetter:
    return DeadLetter(TOPIC, partition, offset, None, None, b"v", (), "ValueError", "no", "", 1, 0)


def _delivered(count: int, *, first: int = 0, partition: int = 0, committed: int | None = None) -> Assignment:
    assignment = Assignment(TOPIC, partition, committed)
    assignment.delivered(range(first, first + count), time.monotonic())
    return assignment


def test_a_failed_message_is_not_committed_before_its_dead_letter_is_on_disk(state: SharedState):
    consumer = MockKafkaConsumer()
    committer = Committer(state, consumer)
    assignment = _delivered(3)
    state.dlq_queue.put(_letter(1))
    state.processed_queue.add(Completion(assignment, [0, 2], failed=False))
    state.processed_queue.add(Completion(assignment, [1], failed=True))
    committer.collect()
    committer.commit_now()
    assert consumer.committed_offsets == {(TOPIC, 0): 1}
    assert committer.waiting_for_disk == 1
    state.dlq_queue.written(state.dlq_queue.get_many(0))
    committer.commit_now()
    assert consumer.committed_offsets == {(TOPIC, 0): 3}
    assert committer.waiting_for_disk == 0


def test_a_commit_asks_the_dead_letters_to_disk_first(state: SharedState):
    consumer = MockKafkaConsumer()
    committer = Committer(state, consumer)
    state.dlq_queue.put(_letter(0))
    state.processed_queue.add(Completion(_delivered(1), [0], failed=True))
    committer.collect()

    def write() -> None:
        eventually(lambda: state.dlq_queue.flush_wanted)
        state.dlq_queue.written(state.dlq_queue.get_many(0))

    with background(write):
        eventually(committer.commit_now)
        eventually(lambda: committer.commit_now() and consumer.committed_offsets == {(TOPIC, 0): 1})
    assert not state.dlq_queue.flush_wanted


def test_dead_letters_that_never_reach_the_disk_are_told_at_the_end(state: SharedState, caplog: pytest.LogCaptureFixture):
    consumer = MockKafkaConsumer()
    committer = Committer(state, consumer, final_seconds=0)
    assignment = _delivered(2)
    state.dlq_queue.put(_letter(1))
    state.processed_queue.add(Completion(assignment, [0], failed=False))
    state.processed_queue.add(Completion(assignment, [1], failed=True))
    state.stop()
    committer.run()
    assert committer.clean is False
    assert consumer.committed_offsets == {(TOPIC, 0): 1}
    assert "1 failed messages stay uncommitted: their dead letters aren't recorded" in caplog.messages


# --- assignments: revoked, refused, in dev mode -----------------------------------------------------------------------


def test_results_of_a_revoked_partition_are_dropped(state: SharedState):
    consumer = MockKafkaConsumer()
    committer = Committer(state, consumer)
    gone, kept = _delivered(3), _delivered(3, partition=1)
    state.dlq_queue.put(_letter(2))
    for assignment in (gone, kept):
        state.processed_queue.add(Completion(assignment, range(2), failed=False))
        state.processed_queue.add(Completion(assignment, [2], failed=True))
    committer.collect()
    gone.close()
    state.processed_queue.add(Completion(gone, [0], failed=False))
    committer.collect()
    committer.commit_now()
    assert consumer.committed_offsets == {(TOPIC, 1): 3}
    assert committer.waiting_for_disk == 0  # its dead letter is nobody's business here any more


def test_results_of_a_partition_revoked_at_that_very_moment_are_dropped(state: SharedState):
    class JustRevoked(Assignment):
        """Open when it is looked at, closed when its work is reported."""

        closed = property(lambda self: False)

    assignment = JustRevoked(TOPIC, 0)
    assignment.delivered(range(2), time.monotonic())
    assignment.close()
    committer = Committer(state, MockKafkaConsumer())
    state.processed_queue.add(Completion(assignment, range(2), failed=False))
    committer.collect()
    assert state.counters.processed == 0


def test_a_partition_that_is_revoked_between_two_commits_is_forgotten(state: SharedState):
    consumer = MockKafkaConsumer()
    committer = Committer(state, consumer)
    gone = _delivered(1)
    state.processed_queue.add(Completion(gone, [0], failed=False))
    committer.collect()
    gone.close()
    assert committer.commit_now() is True
    assert gone not in committer._assignments
    assert consumer.commit_count == 0


def test_only_the_leaving_partitions_are_committed_on_a_revocation(state: SharedState):
    consumer = MockKafkaConsumer()
    committer = Committer(state, consumer)
    leaving, staying = _delivered(2), _delivered(2, partition=1)
    for assignment in (leaving, staying):
        state.processed_queue.add(Completion(assignment, range(2), failed=False))
    committer.collect()
    assert committer.commit_now([leaving]) is True
    assert consumer.commits == [{(TOPIC, 0): 2}]


class RefusingConsumer(MockKafkaConsumer):
    """Commits, but for the partitions in ``refused``; answers each partition's own result."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: set[int] = set()

    def commit(self, offsets: Any = None, asynchronous: bool = False) -> Any:
        super().commit([tp for tp in offsets if tp.partition not in self.refused])
        error = KafkaError(KafkaError.OFFSET_METADATA_TOO_LARGE, "too large")
        return [
            PartitionResult(tp.topic, tp.partition, tp.offset, error if tp.partition in self.refused else None) for tp in offsets
        ]


def test_committed_advances_only_on_a_partitions_own_success(state: SharedState, caplog: pytest.LogCaptureFixture):
    """SPEC: Commit Thread - Commit Failure."""
    consumer = RefusingConsumer()
    committer = Committer(state, consumer)
    good, bad = _delivered(3), _delivered(3, partition=1)
    for assignment in (good, bad):
        state.processed_queue.add(Completion(assignment, range(3), failed=False))
    committer.collect()
    consumer.refused = {1}
    assert committer.commit_now() is False
    assert (good.view().committed, bad.view().committed) == (3, None)
    assert "commit of test-topic-1@3 failed, will be tried again: too large" in caplog.messages
    consumer.refused = set()
    assert committer.commit_now() is True
    assert bad.view().committed == 3
    assert consumer.commits[-1] == {(TOPIC, 1): 3}  # the other one isn't repeated
    assert state.counters.committed == 6


def test_what_dev_mode_let_go_of_is_committed_once_it_is_off(state: SharedState):
    consumer = MockKafkaConsumer()
    committer = Committer(state, consumer)
    assignment = _delivered(3)
    state.dev_mode.set()
    state.processed_queue.add(Completion(assignment, range(3), failed=False))
    committer.collect()
    assert committer.commit_now() is True
    assert committer.commit_now() is True
    assert consumer.commit_count == 0
    state.dev_mode.clear()
    assert committer.commit_now() is True
    assert consumer.commit_count == 0  # still settled, until somebody says so
    assignment.unsettle()
    assert committer.commit_now() is True
    assert consumer.commits == [{(TOPIC, 0): 3}]


def test_the_time_from_poll_to_commit_is_measured(state: SharedState):
    committer = Committer(state, MockKafkaConsumer())
    assignment = Assignment(TOPIC, 0)
    assignment.delivered(range(2), time.monotonic() - 7)
    state.processed_queue.add(Completion(assignment, range(2), failed=False))
    committer.collect()
    committer.commit_now()
    assert committer.poll_to_commit.percentiles().p50 == pytest.approx(7, abs=1)


def test_many_partitions_are_told_in_short(state: SharedState, caplog: pytest.LogCaptureFixture):
    consumer = MockKafkaConsumer()
    committer = Committer(state, consumer)
    state.dev_mode.set()
    for partition in range(25):
        state.processed_queue.add(Completion(_delivered(1, partition=partition), [0], failed=False))
    committer.collect()
    committer.commit_now()
    assert caplog.messages[-1].endswith("test-topic-9@1 and 15 more partitions")


def test_the_loop_commits_through_the_client_and_never_what_was_revoked_meanwhile(state: SharedState):
    """The commit waits in the owner's inbox while the partition is revoked there: it must not set the group back."""
    consumer = MockKafkaConsumer()
    client = Client(consumer)
    committer = Committer(state, client, final_seconds=5)
    gone, kept = _delivered(3), _delivered(3, partition=1)
    for assignment in (gone, kept):
        state.processed_queue.add(Completion(assignment, range(3), failed=False))
    committer.collect()
    owned = threading.Event()

    def own() -> None:
        client.own()
        client.posted.wait(5)
        assert committer.committing
        gone.close()  # as a revocation does, in the owner's thread
        client.serve()
        owned.set()

    with background(own):
        assert committer.commit_now() is True
    assert owned.is_set()
    assert not committer.committing
    assert consumer.commits == [{(TOPIC, 1): 3}]


def test_an_answer_that_is_no_list_means_that_all_is_committed():
    assert offset_manager._refused(None) == {}
    assert offset_manager._refused([TopicPartition("t", 0, 5)]) == {}
