"""The polling loop with the real queues, on a mock as plain as can be or on the fake broker."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException

from kafka_consumer import polling_thread
from kafka_consumer.polling_thread import Poller, polling_loop
from kafka_consumer.shared_state import SharedState
from tests.fakes import FakeBroker, FakeConsumer, FakeMessage, MockKafkaConsumer, MockMessage
from tests.helpers import background, eventually, make_state

TOPIC = "test-topic"


def messages(count: int, start: int = 0, partition: int = 0) -> list[MockMessage]:
    return [MockMessage(TOPIC, partition, offset, None, f"value-{offset}".encode()) for offset in range(start, start + count)]


def offsets_in(queue) -> list[int]:
    """Take everything out of a queue of messages."""
    found = []
    while queue.qsize():
        found.append(queue.get_nowait().offset())
    return found


@pytest.fixture
def state(tmp_path: Path):
    found = make_state(tmp_path, log_level="DEBUG")
    yield found
    found.stop("the test has ended")


def polling(state: SharedState, consumer):
    return background(polling_loop, state, consumer, stop=state.stop)


# --- the flow ---------------------------------------------------------------------------------------------------------


def test_what_is_polled_goes_to_the_workers_and_to_the_backup_in_order(state):
    """SPEC: Polling - Normal Message Flow."""
    with polling(state, MockKafkaConsumer(messages(100))):
        eventually(lambda: state.processing_queue.qsize() == 100 and state.backup_csv_queue.qsize() == 100)

        assert offsets_in(state.processing_queue) == list(range(100))
        assert offsets_in(state.backup_csv_queue) == list(range(100))
    assert state.counters.polled == 100


def test_a_consumer_that_has_consume_is_polled_in_batches(state):
    """SPEC: Polling - Normal Message Flow."""
    broker = FakeBroker({TOPIC: 1})
    broker.produce_many(TOPIC, 0, [b"x"] * 100)
    consumer = FakeConsumer(broker)
    sizes = []
    consume = consumer.consume

    def counting(num_messages=1, timeout=-1):
        found = consume(num_messages, timeout)
        sizes.append(len(found))
        return found

    consumer.consume = counting  # type: ignore[method-assign]
    consumer.subscribe([TOPIC])
    with polling(state, consumer):
        eventually(lambda: state.processing_queue.qsize() == 100)

    assert max(sizes) >= 99, "expected the hundred messages in one batch, but for the first, which ends the wait"


def test_messages_of_several_partitions_keep_their_order_within_each(state):
    mixed = [message for pair in zip(messages(20, partition=0), messages(20, partition=1), strict=True) for message in pair]
    with polling(state, MockKafkaConsumer(mixed)):
        eventually(lambda: state.processing_queue.qsize() == 40)
        taken = [state.processing_queue.get_nowait() for _ in range(40)]

    for partition in (0, 1):
        assert [m.offset() for m in taken if m.partition() == partition] == list(range(20))


def test_a_backup_that_is_off_gets_nothing(tmp_path):
    state = make_state(tmp_path, backup_mode="off")
    with polling(state, MockKafkaConsumer(messages(10))):
        eventually(lambda: state.processing_queue.qsize() == 10)

    assert state.backup_csv_queue.qsize() == 0
    assert state.counters.backup_skipped == 0


def test_a_tombstone_is_polled_as_any_other_message(state):
    with polling(state, MockKafkaConsumer([MockMessage(TOPIC, 0, 0, b"key", None)])):
        eventually(lambda: state.processing_queue.qsize() == 1)

    assert state.processing_queue.get_nowait().value() is None
    assert state.dlq_queue.qsize() == 0


def test_a_message_with_text_for_a_value_made_by_hand_is_polled(state):
    with polling(state, MockKafkaConsumer([MockMessage(TOPIC, 0, 0, None, "text")])):
        eventually(lambda: state.processing_queue.qsize() == 1)


def test_clearing_running_alone_ends_polling(state):
    with background(polling_loop, state, MockKafkaConsumer()) as thread:
        state.running.clear()
        thread.join(5)
        assert not thread.is_alive()


def test_a_source_that_returns_at_once_doesn_t_make_the_loop_spin(state):
    consumer = MockKafkaConsumer()
    with polling(state, consumer):
        eventually(lambda: consumer.poll_count >= 2)
        before = consumer.poll_count
        time.sleep(0.1)  # a span of time is what is measured
        assert consumer.poll_count - before < 60


# --- back-pressure ----------------------------------------------------------------------------------------------------


def test_a_full_queue_blocks_polling_until_there_is_room_and_loses_nothing(tmp_path):
    """SPEC: Polling - Backpressure."""
    state = make_state(tmp_path, queue_size=10)
    consumer = MockKafkaConsumer(messages(50))
    with polling(state, consumer):
        eventually(lambda: state.processing_queue.qsize() == 10)
        state.shutdown_event.wait(0.1)  # a chance to poll too much
        assert state.processing_queue.qsize() == 10
        assert len(consumer.messages) == 40, "expected nothing to be polled that has no room"

        taken: list[int] = []

        def drained() -> bool:
            taken.extend(offsets_in(state.processing_queue))
            return len(taken) == 50

        eventually(drained)
    assert taken == list(range(50))


def test_when_the_queue_stays_full_partitions_are_paused_and_polling_goes_on(tmp_path, monkeypatch, caplog):
    """SPEC: Polling - Backpressure."""
    monkeypatch.setattr(polling_thread, "PAUSE_AFTER_SECONDS", 0.02)
    state = make_state(tmp_path, queue_size=10)
    broker = FakeBroker({TOPIC: 1})
    broker.produce_many(TOPIC, 0, [b"x"] * 50)
    consumer = FakeConsumer(broker)
    consumer.subscribe([TOPIC])
    with polling(state, consumer):
        eventually(lambda: consumer.paused == {(TOPIC, 0)})
        polled_at = consumer.polled_at
        eventually(lambda: consumer.polled_at > polled_at, what="another poll while paused")
        assert state.processing_queue.qsize() == 10
        assert "back-pressure" in caplog.text

        taken: list[int] = []

        def drained() -> bool:
            taken.extend(offsets_in(state.processing_queue))
            return len(taken) == 50

        eventually(drained)
        eventually(lambda: consumer.paused == set(), what="the partition's resumption")
    assert taken == list(range(50))


def test_a_pause_lasts_until_the_queue_is_half_empty(tmp_path, monkeypatch):
    monkeypatch.setattr(polling_thread, "PAUSE_AFTER_SECONDS", 0.02)
    state = make_state(tmp_path, queue_size=10)
    broker = FakeBroker({TOPIC: 1})
    broker.produce_many(TOPIC, 0, [b"x"] * 50)
    consumer = FakeConsumer(broker)
    consumer.subscribe([TOPIC])
    with polling(state, consumer):
        eventually(lambda: consumer.paused == {(TOPIC, 0)})
        for _ in range(4):
            state.processing_queue.get_nowait()
        polled_at = consumer.polled_at
        eventually(lambda: consumer.polled_at > polled_at + 0.1)
        assert consumer.paused == {(TOPIC, 0)}
        state.processing_queue.get_nowait()
        eventually(lambda: consumer.paused == set() or state.processing_queue.qsize() == 10)


def test_the_byte_budget_blocks_polling_as_the_count_does(tmp_path):
    state = make_state(tmp_path, max_inflight_bytes=1000)
    consumer = MockKafkaConsumer([MockMessage(TOPIC, 0, offset, None, b"x" * 600) for offset in range(20)])
    with polling(state, consumer):
        eventually(lambda: state.processing_queue.in_flight_bytes >= 1000)
        left = len(consumer.messages)
        state.shutdown_event.wait(0.1)
        assert len(consumer.messages) == left
        taken: list[int] = []

        def drained() -> bool:
            taken.extend(offsets_in(state.processing_queue))
            return len(taken) == 20

        eventually(drained)


def test_dead_letters_that_wait_for_the_disk_hold_polling_back(tmp_path):
    state = make_state(tmp_path, max_inflight_bytes=1000)
    consumer = MockKafkaConsumer(messages(5))
    state.dlq_queue.put(MockMessage(TOPIC, 1, 0, None, b"x" * 1001))
    with polling(state, consumer):
        state.shutdown_event.wait(0.1)
        assert len(consumer.messages) == 5
        state.dlq_queue.written(state.dlq_queue.get_many(0))
        eventually(lambda: state.processing_queue.qsize() == 5)


def test_a_full_backup_queue_skips_rows_with_a_warning_and_processing_goes_on(tmp_path, caplog, monkeypatch):
    """SPEC: Polling - Backup Queue Full (Non-Blocking)."""
    monkeypatch.setattr(polling_thread, "BACKUP_WAIT_SECONDS", 0.01)
    state = make_state(tmp_path, queue_size=100)
    for message in messages(100, start=1000):
        state.backup_csv_queue.put_nowait(message)
    with polling(state, MockKafkaConsumer(messages(50))):
        eventually(lambda: state.processing_queue.qsize() == 50)

    assert state.counters.backup_skipped == 50
    assert offsets_in(state.backup_csv_queue) == list(range(1000, 1100))
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1, "expected one warning for all of them, not one a row"
    assert "the backup queue is full" in warnings[0]


def test_the_backup_has_a_moment_to_catch_up_before_rows_are_skipped(tmp_path):
    """SPEC: Polling - Backup Queue Full (Non-Blocking)."""
    state = make_state(tmp_path, queue_size=10)
    rows: list[int] = []

    def slow_writer() -> None:
        while len(rows) < 60:
            rows.extend(m.offset() for m in state.backup_csv_queue.get_many(0.01))
            time.sleep(0.005)

    def workers() -> None:
        while len(rows) < 60:
            offsets_in(state.processing_queue)
            time.sleep(0.001)

    with background(slow_writer), background(workers), polling(state, MockKafkaConsumer(messages(60))):
        eventually(lambda: len(rows) == 60)
    assert state.counters.backup_skipped == 0


# --- stop targets -----------------------------------------------------------------------------------------------------


def test_reaching_the_target_stops_the_consumer_and_nothing_past_it_is_handed_out(tmp_path, caplog):
    """SPEC: Polling - Stop at Offset Trigger."""
    state = make_state(tmp_path, stop_at_offset={(TOPIC, 0): 100})
    with background(polling_loop, state, MockKafkaConsumer(messages(200))) as thread:
        thread.join(5)
        assert not thread.is_alive()

    assert offsets_in(state.processing_queue) == list(range(101))
    assert offsets_in(state.backup_csv_queue) == list(range(101))
    assert state.shutdown_event.is_set()
    assert not state.running.is_set()
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.INFO and "stop target reached" in r.getMessage()]
    assert told == ["stop target reached: test-topic-0@100"]
    assert not state.lifecycle.failed


def test_with_several_targets_each_partition_goes_to_its_own_and_all_are_waited_for(tmp_path):
    state = make_state(tmp_path, stop_at_offset={(TOPIC, 0): 3, (TOPIC, 1): 30})
    mixed = [message for pair in zip(messages(40, partition=0), messages(40, partition=1), strict=True) for message in pair]
    with background(polling_loop, state, MockKafkaConsumer(mixed)) as thread:
        thread.join(5)
        assert not thread.is_alive()

    taken = [state.processing_queue.get_nowait() for _ in range(state.processing_queue.qsize())]
    assert [m.offset() for m in taken if m.partition() == 0] == list(range(4))
    assert [m.offset() for m in taken if m.partition() == 1] == list(range(31))


def test_a_target_the_log_jumps_past_counts_as_reached(tmp_path):
    state = make_state(tmp_path, stop_at_offset={(TOPIC, 0): 100})
    with background(polling_loop, state, MockKafkaConsumer([*messages(50), *messages(10, start=150)])) as thread:
        thread.join(5)
        assert not thread.is_alive()

    assert offsets_in(state.processing_queue) == list(range(50))


def test_a_target_in_another_topic_stops_nothing_while_there_is_one_in_ours(tmp_path):
    state = make_state(tmp_path, stop_at_offset={("other", 0): 0, (TOPIC, 0): 5})
    with background(polling_loop, state, MockKafkaConsumer(messages(50))) as thread:
        thread.join(5)
        assert not thread.is_alive()
    assert offsets_in(state.processing_queue) == list(range(6))


def test_without_a_target_in_the_topic_polling_doesn_t_end(tmp_path):
    state = make_state(tmp_path, stop_at_offset={("other", 0): 0})
    with polling(state, MockKafkaConsumer(messages(50))):
        eventually(lambda: state.processing_queue.qsize() == 50)
        assert state.running.is_set()


# --- errors -----------------------------------------------------------------------------------------------------------


def raised(code: int = KafkaError._TRANSPORT) -> KafkaException:
    return KafkaException(KafkaError(code, "Broker transport failure"))


def test_an_exception_of_poll_is_logged_and_polling_goes_on_after_a_pause(state, caplog):
    """SPEC: Polling - Kafka Poll Error."""
    consumer = MockKafkaConsumer([raised(), *messages(5)])
    began = time.monotonic()
    with polling(state, consumer) as thread:
        eventually(lambda: state.processing_queue.qsize() == 5)
        assert thread.is_alive()

    assert time.monotonic() - began >= 0.1, "expected a pause before the next poll"
    errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "Broker transport failure" in errors[0]
    assert state.counters.poll_errors == 1
    assert not state.lifecycle.failed


def test_the_pause_grows_with_each_error_in_a_row_and_starts_again_after_a_message(state, caplog):
    """SPEC: Polling - Kafka Poll Error."""
    with polling(state, MockKafkaConsumer([raised(), raised(), raised(), *messages(1), raised(), *messages(1, start=1)])):
        eventually(lambda: state.processing_queue.qsize() == 2)

    pauses = [r.getMessage().split(":")[0] for r in caplog.records if r.levelno == logging.ERROR]
    assert [p.removeprefix("poll error, going on in ") for p in pauses] == ["0.1 s", "0.2 s", "0.4 s", "0.1 s"]


def test_an_error_that_comes_as_a_message_is_logged_and_polling_goes_on(state, caplog):
    """SPEC: Polling - Kafka Poll Error."""
    event = FakeMessage(None, None, None, error=KafkaError(KafkaError._TRANSPORT, "connection reset"))
    with polling(state, MockKafkaConsumer([event, *messages(5)])):
        eventually(lambda: state.processing_queue.qsize() == 5)
    assert "connection reset" in caplog.text
    assert state.backup_csv_queue.qsize() == 5, "expected no row for an error"


def test_messages_polled_before_an_error_in_the_same_batch_are_handed_out(state):
    """A message left out would look like a hole in the log, and a commit would jump over it."""
    with polling(state, MockKafkaConsumer([*messages(3), raised(), *messages(3, start=3)])):
        eventually(lambda: state.processing_queue.qsize() >= 6)
        assert offsets_in(state.processing_queue) == list(range(6))


def test_messages_polled_before_consume_raises_are_handed_out(state):
    """A message left out would look like a hole in the log, and a commit would jump over it."""
    broker = FakeBroker({TOPIC: 1})
    broker.produce_many(TOPIC, 0, [b"x"] * 10)
    consumer = FakeConsumer(broker)
    consume, failures = consumer.consume, [raised()]

    def failing(num_messages=1, timeout=-1):
        if failures:
            raise failures.pop()
        return consume(num_messages, timeout)

    consumer.consume = failing  # type: ignore[method-assign]
    consumer.subscribe([TOPIC])
    with polling(state, consumer):
        eventually(lambda: state.processing_queue.qsize() >= 10)
        assert offsets_in(state.processing_queue) == list(range(10))


@pytest.mark.parametrize(
    "code",
    [KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError.TOPIC_AUTHORIZATION_FAILED,
     KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.UNKNOWN_TOPIC_OR_PART],
)  # fmt: skip
def test_an_error_that_won_t_pass_stops_the_consumer_as_failed(state, code, caplog):
    with background(polling_loop, state, MockKafkaConsumer([raised(code)])) as thread:
        thread.join(5)
        assert not thread.is_alive()

    assert state.lifecycle.failed
    assert len([r for r in caplog.records if r.levelno == logging.CRITICAL]) == 1


def test_a_fatal_error_stops_the_consumer_as_failed(state):
    fatal = KafkaException(KafkaError(KafkaError._FATAL, "static member fenced by another", fatal=True))
    with background(polling_loop, state, MockKafkaConsumer([fatal])) as thread:
        thread.join(5)
        assert not thread.is_alive()
    assert state.lifecycle.failed
    assert "static member fenced by another" in state.lifecycle.stop_reason


def test_a_pause_after_an_error_ends_with_the_run(state):
    consumer = MockKafkaConsumer([raised() for _ in range(8)])
    with polling(state, consumer):
        eventually(lambda: state.counters.poll_errors >= 3)
        began = time.monotonic()
    assert time.monotonic() - began < 0.3, "expected stop() to end the pause"


# --- values that aren't text ------------------------------------------------------------------------------------------


def test_a_value_that_isn_t_utf_8_goes_to_the_dead_letters_and_polling_goes_on(state):
    """SPEC: Polling - UTF-8 Decode Error."""
    mixed = [*messages(2), MockMessage(TOPIC, 0, 2, b"key", b"\xff\xfe not text"), *messages(2, start=3)]
    with polling(state, MockKafkaConsumer(mixed)):
        eventually(lambda: state.processing_queue.qsize() == 4)
        assert offsets_in(state.processing_queue) == [0, 1, 3, 4]

    letter = state.dlq_queue.get_nowait()
    assert (letter.offset, letter.error_type, letter.value) == (2, "UnicodeDecodeError", b"\xff\xfe not text")
    assert "invalid start byte" in letter.error_message
    assert letter.attempts == 0
    assert state.processed_queue.get_nowait() == (0, 2, "failed")
    assert state.dlq_queue.qsize() == 0
    assert state.processed_queue.qsize() == 0
    assert state.backup_csv_queue.qsize() == 5, "expected the backup to have it all the same"


def test_a_batch_of_nothing_but_bad_values_leaves_nothing_for_the_workers(state):
    bad = [MockMessage(TOPIC, 0, offset, None, b"\xc3\x28") for offset in range(10)]
    with polling(state, MockKafkaConsumer(bad)):
        eventually(lambda: state.dlq_queue.qsize() == 10)
    assert state.processing_queue.qsize() == 0
    assert [state.processed_queue.get_nowait() for _ in range(10)] == [(0, offset, "failed") for offset in range(10)]


def test_binary_values_are_let_through_where_that_is_configured(tmp_path):
    state = make_state(tmp_path, value_encoding="binary")
    with polling(state, MockKafkaConsumer([MockMessage(TOPIC, 0, 0, None, b"\xff\x00")])):
        eventually(lambda: state.processing_queue.qsize() == 1)
    assert state.dlq_queue.qsize() == 0


def test_a_message_whose_value_can_t_be_read_is_left_to_a_worker(state):
    class Unreadable(MockMessage):
        def value(self):
            raise RuntimeError("broken")

    with polling(state, MockKafkaConsumer([Unreadable(TOPIC, 0, 0, None, None), *messages(1, start=1)])) as thread:
        eventually(lambda: state.processing_queue.qsize() == 2)
        assert thread.is_alive()


# --- the log jumps ----------------------------------------------------------------------------------------------------


def test_a_log_that_jumps_back_is_processed_again_from_there(state, caplog):
    with polling(state, MockKafkaConsumer([*messages(10), None, None, *messages(5)])):
        eventually(lambda: state.counters.polled == 15)
        # What of the first ten hadn't begun is dropped: it comes again.
        assert offsets_in(state.processing_queue) == list(range(5))
    assert "jumped back from offset 10 to 0" in caplog.text


def test_the_end_that_comes_with_the_messages_before_it_isn_t_a_jump_back(state, caplog):
    broker = FakeBroker({TOPIC: 1})
    broker.produce_many(TOPIC, 0, [b"x"] * 10)
    consumer = FakeConsumer(broker)
    consumer.subscribe([TOPIC])
    poller = Poller(state, consumer)
    batch = poller._fetch(100, 1.0)
    assert [message.error() is None for message in batch] == [True] * 10 + [False]
    poller._take(batch)

    assert "jumped back" not in caplog.text
    assert poller.partitions.open[TOPIC, 0].position == 10


def test_only_the_thread_that_polls_calls_the_consumer(state):
    broker = FakeBroker({TOPIC: 1})
    broker.produce_many(TOPIC, 0, [b"x"] * 10)
    consumer = FakeConsumer(broker)
    consumer.subscribe([TOPIC])
    consumer.callers.clear()
    with polling(state, consumer) as thread:
        eventually(lambda: state.processing_queue.qsize() == 10)
        assert set().union(*consumer.callers.values()) == {thread.ident}
        assert threading.get_ident() not in set().union(*consumer.callers.values())


def test_a_message_whose_partition_goes_and_comes_back_in_the_very_next_call_is_left_to_the_new_assignment(state):
    broker = FakeBroker({TOPIC: 1})
    broker.produce_many(TOPIC, 0, [b"x"] * 5)
    consumer = FakeConsumer(broker)
    poller = Poller(state, consumer)
    poller.partitions.subscribed = True
    callbacks = poller.partitions
    consumer.subscribe([TOPIC], on_assign=callbacks.on_assign, on_revoke=callbacks.on_revoke, on_lost=callbacks.on_lost)
    consume = consumer.consume

    def bouncing(num_messages=1, timeout=-1):
        consumer.bounce()
        return consume(num_messages, timeout)

    consumer.consume = bouncing  # type: ignore[method-assign]
    batch = poller._fetch(100, 1.0)
    assert [message.offset() for message in batch if message.error() is None] == [0, 1, 2, 3, 4]
