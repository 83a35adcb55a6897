"""From a finished message to the offset that Kafka has: the loops together, with the commits looked at one by one."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException

from kafka_consumer.csv_writers import dlq_csv_loop
from kafka_consumer.offset_manager import Committer, commit_loop
from kafka_consumer.polling_thread import polling_loop
from kafka_consumer.shared_state import SharedState
from kafka_consumer.worker_pool import worker_loop
from tests.fakes import MockKafkaConsumer, MockMessage
from tests.helpers import background, eventually, make_state, read_rows
from tests.integration.conftest import GROUP, TOPIC


def messages(count: int, partition: int = 0, start: int = 0) -> list[MockMessage]:
    return [MockMessage(TOPIC, partition, offset, None, str(offset).encode()) for offset in range(start, start + count)]


def fail_odd(value: bytes) -> None:
    if int(value) % 2:
        raise ValueError(f"{value.decode()} is odd")


@pytest.fixture
def all_loops():
    """Run every loop but the backup's, each bare, as SPEC.md has them; stopped at the end."""
    with ExitStack() as running:

        def start(state: SharedState, consumer: MockKafkaConsumer, workers: int = 3) -> None:
            # The last one in is the first one out: polling stops first.
            running.enter_context(background(dlq_csv_loop, state, stop=state.stop))
            running.enter_context(background(commit_loop, state, consumer, stop=state.stop))
            for number in range(workers):
                running.enter_context(background(worker_loop, state, number, stop=state.stop))
            running.enter_context(background(polling_loop, state, consumer, stop=state.stop))

        yield start


# --- SPEC -------------------------------------------------------------------------------------------------------------


def test_what_was_processed_is_committed_up_to_the_last_one_without_a_gap(tmp_path, all_loops):
    """SPEC: Commit Flow - End to End."""
    done: list[bytes] = []
    state = make_state(tmp_path, processor_callable=done.append)
    consumer = MockKafkaConsumer(messages(100))
    all_loops(state, consumer)

    eventually(lambda: consumer.committed_offsets == {(TOPIC, 0): 100})
    assert sorted(map(int, done)) == list(range(100))
    assert state.counters.processed == 100
    eventually(lambda: state.counters.committed == 100)
    assert state.processed_queue.qsize() == 0


def test_results_collect_until_the_commit_thread_takes_them(tmp_path):
    """SPEC: Commit Flow - End to End."""
    state = make_state(tmp_path)
    consumer = MockKafkaConsumer(messages(100))
    with background(polling_loop, state, consumer, stop=state.stop), background(worker_loop, state, 0, stop=state.stop):
        eventually(lambda: state.processed_queue.qsize() == 100)
        assert consumer.commit_count == 0
        with background(commit_loop, state, consumer, stop=state.stop):
            eventually(lambda: consumer.committed_offsets == {(TOPIC, 0): 100})


def test_commits_only_ever_go_up_and_never_past_what_is_finished(tmp_path, all_loops):
    """SPEC: Commit Flow - End to End."""
    finished: set[int] = set()
    state = make_state(tmp_path, commit_interval_seconds=0.002, processor_callable=lambda value: finished.add(int(value)))
    consumer = MockKafkaConsumer(messages(2000))
    beyond: list[int] = []
    commit = consumer.commit

    def checking(offsets=None, asynchronous=False):
        assert not asynchronous
        beyond.extend(o for tp in offsets for o in range(tp.offset) if o not in finished)
        commit(offsets, asynchronous)

    consumer.commit = checking  # type: ignore[method-assign]
    all_loops(state, consumer)

    eventually(lambda: consumer.committed_offsets == {(TOPIC, 0): 2000})
    order = [call[TOPIC, 0] for call in consumer.commits]
    assert order == sorted(set(order))
    assert beyond == []


def test_failed_messages_are_committed_too_and_are_in_the_dead_letters(tmp_path, all_loops):
    """SPEC: Commit Flow - With Failures."""
    state = make_state(tmp_path, processor_callable=fail_odd)
    consumer = MockKafkaConsumer(messages(100))
    all_loops(state, consumer)

    eventually(lambda: consumer.committed_offsets == {(TOPIC, 0): 100})
    assert (state.counters.processed, state.counters.failed) == (50, 50)
    assert sorted(int(row["offset"]) for row in read_rows(state.config.dlq_path)) == list(range(1, 100, 2))


def test_every_failure_is_among_the_results(tmp_path):
    """SPEC: Commit Flow - With Failures."""
    state = make_state(tmp_path, processor_callable=fail_odd)
    with background(polling_loop, state, MockKafkaConsumer(messages(100)), stop=state.stop):
        with background(worker_loop, state, 0, stop=state.stop):
            eventually(lambda: state.processed_queue.qsize() == 100)

    results = [state.processed_queue.get_nowait() for _ in range(100)]
    assert sorted(results) == [(0, offset, "failed" if offset % 2 else "success") for offset in range(100)]
    assert state.dlq_queue.qsize() == 50


def test_a_failed_message_s_offset_waits_for_its_dead_letter_to_be_on_disk(tmp_path):
    """SPEC: Commit Flow - With Failures."""
    state = make_state(tmp_path, processor_callable=fail_odd)
    consumer = MockKafkaConsumer(messages(10))
    with (
        background(commit_loop, state, consumer, stop=state.stop),
        background(worker_loop, state, 0, stop=state.stop),
        background(polling_loop, state, consumer, stop=state.stop),
    ):
        eventually(lambda: state.dlq_queue.qsize() == 5)
        eventually(lambda: consumer.committed_offsets == {(TOPIC, 0): 1}, what="a commit up to the first failure")
        state.shutdown_event.wait(0.2)  # several intervals without a writer
        assert consumer.committed_offsets == {(TOPIC, 0): 1}

        with background(dlq_csv_loop, state, stop=state.stop):
            eventually(lambda: consumer.committed_offsets == {(TOPIC, 0): 10})


def test_in_dev_mode_nothing_is_committed_and_the_log_says_what_would_have_been(tmp_path, all_loops, caplog):
    """SPEC: Commit Flow - Dev Mode."""
    state = make_state(tmp_path, dev_mode=True)
    consumer = MockKafkaConsumer(messages(100))
    all_loops(state, consumer)

    def said() -> list[str]:
        return [r.getMessage() for r in caplog.records if r.levelno == logging.INFO and "dev mode" in r.getMessage()]

    eventually(lambda: said() and "test-topic-0@100" in said()[-1])
    assert consumer.commit_count == 0
    assert state.counters.processed == 100
    assert state.counters.committed == 0


def test_in_dev_mode_the_tracking_is_cleared_as_if_it_had_been_committed(tmp_path, caplog):
    """SPEC: Commit Flow - Dev Mode."""
    state = make_state(tmp_path, dev_mode=True)
    consumer = MockKafkaConsumer()
    committer = Committer(state, consumer)
    for offset in range(100):
        state.processed_queue.put((0, offset, "success"))
    committer.collect()
    assignment = committer._by_hand[0]
    assert assignment.commit_point() is not None

    assert committer.commit_now()

    assert assignment.commit_point() is None
    assert state.processed_queue.qsize() == 0
    caplog.clear()
    assert committer.commit_now()
    assert "dev mode" not in caplog.text, "expected the same offsets not to be let go twice"
    assert consumer.commit_count == 0


# --- gaps, failures of the commit, partitions -------------------------------------------------------------------------


def test_a_message_in_work_holds_the_commit_at_its_offset(tmp_path, all_loops):
    release = threading.Event()

    def processor(value: bytes) -> None:
        if value == b"5":
            release.wait(10)

    state = make_state(tmp_path, processor_callable=processor)
    consumer = MockKafkaConsumer(messages(50))
    try:
        all_loops(state, consumer)
        eventually(lambda: state.counters.processed == 49 and consumer.committed_offsets == {(TOPIC, 0): 5})
        state.shutdown_event.wait(0.15)  # three intervals
        assert consumer.committed_offsets == {(TOPIC, 0): 5}
    finally:
        release.set()
    eventually(lambda: consumer.committed_offsets == {(TOPIC, 0): 50})


def test_offsets_that_were_never_delivered_are_no_gap(tmp_path, all_loops):
    """Compaction and transactions leave holes; only what was delivered has to be finished."""
    state = make_state(tmp_path)
    holey = [m for m in messages(100) if m.offset() % 7 and not 30 <= m.offset() < 60]
    consumer = MockKafkaConsumer(holey)
    all_loops(state, consumer)
    eventually(lambda: consumer.committed_offsets == {(TOPIC, 0): 100})
    eventually(lambda: state.counters.committed == len(holey))


def test_each_partition_is_committed_on_its_own(tmp_path, all_loops):
    state = make_state(tmp_path)
    consumer = MockKafkaConsumer([*messages(10, 0), *messages(20, 1, start=500), *messages(30, 2)])
    all_loops(state, consumer)
    eventually(lambda: consumer.committed_offsets == {(TOPIC, 0): 10, (TOPIC, 1): 520, (TOPIC, 2): 30})


def test_a_commit_that_fails_is_logged_and_tried_again(tmp_path, all_loops, caplog):
    state = make_state(tmp_path)
    consumer = MockKafkaConsumer(messages(10))
    consumer.commit_errors = [KafkaException(KafkaError(KafkaError._TRANSPORT, "no coordinator")), RuntimeError("odd")]
    all_loops(state, consumer)

    eventually(lambda: consumer.committed_offsets == {(TOPIC, 0): 10})
    errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert len(errors) == 2
    assert "commit failed, will be tried again: no coordinator (test-topic-0@" in errors[0]
    assert "RuntimeError: odd" in errors[1]
    assert state.counters.commit_failures == 2


def test_what_remains_is_committed_when_the_run_ends(tmp_path, all_loops):
    state = make_state(tmp_path, commit_interval_seconds=3600.0)
    consumer = MockKafkaConsumer(messages(10))
    all_loops(state, consumer)
    eventually(lambda: state.processed_queue.qsize() == 0 and state.counters.processed == 10)
    assert consumer.commit_count == 0

    state.stop()
    eventually(lambda: consumer.committed_offsets == {(TOPIC, 0): 10})


def test_results_put_by_hand_are_committed_from_the_lowest_of_the_first_drain(tmp_path):
    state = make_state(tmp_path)
    consumer = MockKafkaConsumer()
    for offset in (1003, 1001, 1002, 1005):
        state.processed_queue.put((0, offset, "success"))
    state.processed_queue.put((1, 7, "failed"))
    with background(commit_loop, state, consumer, stop=state.stop):
        eventually(lambda: consumer.committed_offsets == {(TOPIC, 0): 1004, (TOPIC, 1): 8})
        state.processed_queue.put((0, 1004, "success"))
        eventually(lambda: consumer.committed_offsets == {(TOPIC, 0): 1006, (TOPIC, 1): 8})


# --- the whole, on the fake broker ------------------------------------------------------------------------------------


def test_the_end_of_a_partition_lets_the_commit_pass_what_is_no_message(broker, live):
    broker.produce_many(TOPIC, 0, [b"x"] * 10)
    broker.skip(TOPIC, 0, 3)  # markers of transactions
    life = live()
    life.wait_committed(13)
    assert broker.lag(GROUP, TOPIC) == 0


def test_a_partition_s_own_refusal_is_tried_again_while_the_others_are_committed(broker, live, log):
    broker.produce_many(TOPIC, 0, [b"x"] * 10)
    broker.produce_many(TOPIC, 1, [b"x"] * 10)
    life = live(start=False)
    life.client.refused_commits[TOPIC, 1] = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, "not here")
    life.consumer.start()

    life.wait_committed(10)
    eventually(lambda: any("commit of test-topic-1@10 failed, will be tried again: not here" in m for m in log(logging.ERROR)))
    assert life.committed(1) is None
    eventually(lambda: life.state.counters.committed == 10)
    del life.client.refused_commits[TOPIC, 1]
    life.wait_committed(10, 1)
    eventually(lambda: life.state.counters.committed == 20)


def test_a_partition_without_anything_new_isn_t_committed_again(broker, live):
    broker.produce_many(TOPIC, 0, [b"x"] * 10)
    life = live()
    life.wait_committed(10)
    calls = life.client.commit_calls
    life.state.shutdown_event.wait(0.25)  # five intervals
    assert life.client.commit_calls == calls
    assert life.end() == 0
    assert life.client.commit_calls == calls


def test_a_restart_after_a_clean_stop_repeats_nothing(broker, live, tmp_path: Path):
    seen: list[bytes | None] = []
    broker.produce_many(TOPIC, 0, [b"%d" % n for n in range(100)])
    first = live(processor_callable=seen.append)
    first.wait_committed(100)
    assert first.end() == 0

    broker.produce_many(TOPIC, 0, [b"%d" % n for n in range(100, 150)])
    second = live(processor_callable=seen.append)
    second.wait_committed(150)
    assert second.end() == 0
    assert sorted(map(int, seen)) == list(range(150))  # type: ignore[arg-type]
