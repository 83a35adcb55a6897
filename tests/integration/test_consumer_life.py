"""The life of a whole consumer on the fake broker: start, drain, exit codes, and what an operator does to it on the way."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from kafka_consumer import ConfigError, kafka_consumer, poll_errors, polling_thread
from kafka_consumer.errors import ClientClosedError
from tests.fakes import FakeBroker, FakeConsumer
from tests.helpers import eventually
from tests.integration.conftest import GROUP, TOPIC


def numbers(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % n for n in range(start, start + count)]


# --- start, stop, join ------------------------------------------------------------------------------------------------


def test_a_clean_stop_ends_with_0_everything_committed_and_the_group_left(broker, live):
    broker.produce_many(TOPIC, 0, numbers(50))
    broker.produce_many(TOPIC, 2, numbers(50))
    life = live()
    life.wait_committed(50)
    life.wait_committed(50, 2)

    assert life.end() == 0
    assert life.client.closed
    assert broker.owner(GROUP, TOPIC, 0) is None
    assert broker.lag(GROUP, TOPIC) == 0
    assert len(life.backup()) == 100
    assert life.dead_letters() == []
    assert not [t for t in life.consumer._threads.values() if t.is_alive() and t.name != "shutdown"]


def test_the_phases_follow_one_another(broker, live, gate):
    life = live(start=False, processor_callable=gate)
    phases = [life.consumer.snapshot().phase]
    broker.produce(TOPIC, 0, b"x")
    life.consumer.start()
    eventually(lambda: gate.begun)
    phases.append(life.consumer.snapshot().phase)
    life.consumer.stop("enough")
    eventually(lambda: life.consumer.snapshot().phase == "draining")
    phases.append("draining")
    assert not life.consumer.join(0.01), "expected the consumer to wait for the message in work"
    gate.open.set()
    assert life.wait_end() == 0
    last = life.consumer.snapshot()
    assert [*phases, last.phase] == ["starting", "running", "draining", "stopped"]
    assert last.stop_reason == "enough"


def test_stopping_again_changes_nothing(live):
    life = live()
    for reason in ("first", "second", "third"):
        life.consumer.stop(reason)
    assert life.wait_end() == 0
    assert life.state.lifecycle.stop_reason == "first"
    life.consumer.stop("fourth")
    assert life.consumer.exit_code == 0


def test_a_consumer_stopped_before_it_starts_ends_at_once(broker, live):
    broker.produce_many(TOPIC, 0, numbers(10))
    life = live(start=False)
    life.consumer.stop("never mind")
    life.consumer.start()
    assert life.wait_end() == 0
    assert life.state.counters.polled == 0
    assert life.client.closed


def test_a_sigterm_ends_run_with_0_and_the_handlers_are_restored(broker, live):
    broker.produce_many(TOPIC, 0, numbers(10))
    life = live(start=False)
    before = signal.getsignal(signal.SIGTERM)

    def terminate() -> None:
        life.wait_committed(10)
        os.kill(os.getpid(), signal.SIGTERM)

    helper = threading.Thread(target=terminate, daemon=True)
    helper.start()
    assert life.consumer.run() == 0
    helper.join(5)
    assert signal.getsignal(signal.SIGTERM) == before
    assert life.state.lifecycle.stop_reason == "stopped by a signal"
    assert life.committed() == 10


def test_run_in_another_thread_leaves_the_signals_alone(live):
    life = live(start=False)
    codes: list[int] = []
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=lambda: codes.append(life.consumer.run()), daemon=True)
    thread.start()
    life.wait_assigned(0, 1, 2)
    assert signal.getsignal(signal.SIGTERM) == before
    life.consumer.stop()
    thread.join(5)
    assert codes == [0]


def test_a_configuration_that_can_t_be_started_ends_run_with_2_and_one_line(live, log):
    life = live(start=False, executor="process", processor_callable=lambda value: None)
    assert life.consumer.run() == 2
    assert len(log(logging.ERROR)) == 1
    assert "executor: expected 'thread', or a processor that another process can import" in log(logging.ERROR)[0]


# --- draining ---------------------------------------------------------------------------------------------------------


def test_a_stop_with_a_queue_full_finishes_and_commits_all_that_was_polled(broker, live, gate):
    broker.produce_many(TOPIC, 0, numbers(500))
    life = live(processor_callable=gate, queue_size=50, worker_count=2)
    eventually(lambda: life.state.processing_queue.qsize() >= 48)
    polled = life.state.counters.polled
    life.consumer.stop()
    gate.open.set()

    assert life.wait_end() == 0
    assert life.state.counters.polled == polled, "expected nothing to be taken after the stop"
    assert life.committed() == polled == len(gate.done)
    assert sorted(int(row["offset"]) for row in life.backup()) == list(range(polled))


def test_workers_that_are_slow_to_end_are_named_and_then_waited_for(broker, live, gate, log):
    broker.produce(TOPIC, 1, b"slow")
    life = live(processor_callable=gate, worker_count=1, shutdown_warning_seconds=0.05)
    eventually(lambda: gate.begun)
    life.consumer.stop()
    warnings = eventually(lambda: [m for m in log(logging.WARNING) if "still draining" in m])
    assert "waiting for 1 workers: worker 0 (test-topic-1@0," in warnings[0]
    gate.open.set()
    assert life.wait_end() == 0
    assert life.committed(1) == 1


def test_the_member_stays_in_its_group_while_slow_workers_drain(broker, live, gate):
    client = FakeConsumer(broker, GROUP, max_poll_interval=0.3)
    broker.produce_many(TOPIC, 0, numbers(5))
    life = live(client=client, processor_callable=gate, worker_count=1)
    eventually(lambda: gate.begun)
    life.consumer.stop()
    time.sleep(0.6)  # two intervals after which a silent member is expelled
    assert broker.owner(GROUP, TOPIC, 0) is client
    gate.open.set()
    assert life.wait_end() == 0
    assert life.committed() == 5


def test_messages_that_come_while_draining_are_left_for_later(broker, live, gate):
    broker.produce(TOPIC, 0, b"0")
    life = live(processor_callable=gate, worker_count=1)
    eventually(lambda: gate.begun)
    life.consumer.stop()
    eventually(lambda: life.consumer.snapshot().phase == "draining")
    broker.produce_many(TOPIC, 0, numbers(20, 1))
    broker.produce_many(TOPIC, 1, numbers(20))
    eventually(lambda: life.client.paused == {(TOPIC, 0), (TOPIC, 1), (TOPIC, 2)})
    gate.open.set()
    assert life.wait_end() == 0
    assert life.committed() == 1
    assert life.committed(1) is None


def test_errors_while_draining_neither_flood_the_log_nor_hold_the_end_up(broker, live, gate, log):
    broker.produce(TOPIC, 0, b"x")
    life = live(processor_callable=gate)
    eventually(lambda: gate.begun)
    life.consumer.stop()
    eventually(lambda: life.consumer.snapshot().phase == "draining")
    failure = KafkaException(KafkaError(KafkaError._TRANSPORT, "connection reset"))
    life.client.script(*[failure] * 100_000)
    time.sleep(0.3)  # a span of time is what is measured
    assert len([m for m in log(logging.ERROR) if "connection reset" in m]) < 30
    life.client.events.clear()
    gate.open.set()
    assert life.wait_end() == 0
    assert life.committed() == 1


# --- ends that are failures -------------------------------------------------------------------------------------------


def test_a_last_commit_that_fails_is_tried_again_before_the_end(broker, live, gate):
    broker.produce_many(TOPIC, 0, numbers(5))
    life = live(processor_callable=gate, commit_interval_seconds=3600.0)
    life.client.commit_errors.extend(KafkaException(KafkaError(KafkaError._TRANSPORT)) for _ in range(2))
    eventually(lambda: gate.begun)
    gate.open.set()
    assert life.end() == 0
    assert life.committed() == 5


def test_a_last_commit_that_never_succeeds_ends_with_1_and_says_what_is_repeated(broker, live, log):
    def refuse(offsets) -> None:
        raise KafkaException(KafkaError(KafkaError._TRANSPORT, "no coordinator"))

    broker.produce_many(TOPIC, 0, numbers(5))
    life = live(start=False, shutdown_timeout_seconds=0.3)
    life.client.commit_hook = refuse
    life.consumer.start()
    eventually(lambda: life.state.counters.processed == 5)
    assert life.end() == 1
    assert life.state.lifecycle.stop_reason == "finished work stays uncommitted: 5 messages will be repeated after a restart"
    assert life.client.closed


def test_a_broker_that_hangs_doesn_t_hang_the_end(broker, live, monkeypatch):
    monkeypatch.setattr(kafka_consumer, "CLOSE_SECONDS", 0.2)
    answer = threading.Event()
    broker.produce_many(TOPIC, 0, numbers(5))
    life = live(start=False, shutdown_timeout_seconds=0.3)
    life.client.commit_hook = lambda offsets: answer.wait(20)
    try:
        life.consumer.start()
        eventually(lambda: life.client.commit_calls)
        life.consumer.stop()
        assert life.consumer.join(5)
        assert life.consumer.exit_code == 1
    finally:
        answer.set()
    life.consumer._threads["polling"].join(5)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED, "Not authorized: topics"), "Kafka refuses access: Not authorized"),
        (KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED, "Not authorized: group"), "Kafka refuses access: Not authorized"),
        (KafkaError(KafkaError._AUTHENTICATION, "SASL authentication error"), "Kafka refuses access: SASL"),
        (KafkaError(KafkaError._FATAL, "fenced", fatal=True), "fatal error of the Kafka client: fenced"),
        (KafkaException(KafkaError(KafkaError._FATAL, "fenced", fatal=True)), "fatal error of the Kafka client: fenced"),
    ],
)
def test_an_error_that_won_t_pass_ends_with_1_and_one_clear_line(broker, live, log, error, said):
    broker.produce_many(TOPIC, 0, numbers(10))
    life = live()
    life.wait_committed(10)
    life.client.script(error)
    assert life.wait_end() == 1
    [line] = log(logging.ERROR)
    assert said in line
    assert said in (life.state.lifecycle.stop_reason or "")


def test_a_topic_that_doesn_t_exist_ends_with_1_and_one_clear_line(live, log):
    client = FakeConsumer(FakeBroker({"another": 1}), GROUP)
    life = live(client=client)
    assert life.wait_end() == 1
    assert log(logging.ERROR) == ["topic 'test-topic' doesn't exist: create it, or check the name; stopping"]


def test_a_topic_that_vanishes_is_waited_for_before_that_ends_the_consumer(broker, live, log, monkeypatch):
    monkeypatch.setattr(poll_errors, "METADATA_SECONDS", 0.01)
    life = live()
    life.wait_assigned(0, 1, 2)
    logs = dict(broker.logs)
    broker.logs.clear()
    life.client.pause(life.client.assignment())
    life.client.script(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, "unknown"))
    eventually(lambda: any("waiting for it to come back" in m for m in log(logging.ERROR)))
    broker.logs.update(logs)
    eventually(lambda: life.consumer._poller.errors._unknown_since is None)
    assert life.end() == 0


def test_polling_that_crashes_ends_with_1_and_what_is_in_flight_is_still_committed(broker, live, gate, log):
    broker.produce_many(TOPIC, 0, numbers(5))
    life = live(processor_callable=gate, worker_count=1)
    eventually(lambda: life.state.counters.polled == 5)
    life.client.script(RuntimeError("a bug"))
    eventually(lambda: life.consumer.snapshot().phase == "draining")
    gate.open.set()
    assert life.wait_end() == 1
    assert life.committed() == 5
    assert life.client.closed
    assert any("the polling thread failed: RuntimeError: a bug" in m for m in log(logging.CRITICAL))


def test_a_consumer_that_can_t_subscribe_ends_with_1(live, log, broker):
    class Refusing(FakeConsumer):
        def subscribe(self, *arguments, **options):
            raise KafkaException(KafkaError(KafkaError._INVALID_ARG, "bad topic"))

    life = live(client=Refusing(broker, GROUP))
    assert life.wait_end() == 1
    assert any("bad topic" in m for m in log(logging.CRITICAL))


def test_a_commit_thread_that_crashes_ends_with_1(broker, live, monkeypatch, log):
    life = live(start=False)
    monkeypatch.setattr(life.consumer._committer, "collect", lambda: 1 / 0)
    life.consumer.start()
    assert life.wait_end() == 1
    assert any("the commit thread failed: ZeroDivisionError" in m for m in log(logging.CRITICAL))


def test_errors_that_pass_are_logged_and_nothing_is_lost(broker, live, log):
    life = live()
    life.wait_assigned(0, 1, 2)
    life.client.script(KafkaError(KafkaError._TRANSPORT, "reset"), KafkaException(KafkaError(KafkaError._TRANSPORT, "again")))
    broker.produce_many(TOPIC, 0, numbers(20))
    life.wait_committed(20)
    assert len(log(logging.ERROR)) == 2
    assert life.end() == 0


# --- a commit on the way ----------------------------------------------------------------------------------------------


def test_a_commit_that_fails_is_tried_again_at_the_next_interval(broker, live, log):
    broker.produce_many(TOPIC, 0, numbers(5))
    life = live(start=False)
    life.client.commit_errors.append(KafkaException(KafkaError(KafkaError._TRANSPORT, "no coordinator")))
    life.consumer.start()
    life.wait_committed(5)
    assert ["no coordinator" in m for m in log(logging.ERROR)] == [True]
    assert life.consumer.snapshot().totals.commit_failures == 1


def test_a_commit_is_done_only_when_its_answer_has_come_in_a_later_poll(broker, live):
    life = live(start=False, asynchronous=True)
    answered, life.client._on_commit = life.client._on_commit, None
    broker.produce_many(TOPIC, 0, numbers(5))
    life.consumer.start()
    life.wait_committed(5)
    life.state.shutdown_event.wait(0.1)
    assert life.state.counters.committed == 0, "expected nothing to be taken for granted before the answer"
    [tp] = life.client.committed([TopicPartition(TOPIC, 0)])
    life.client.script(lambda: answered(None, [tp]))
    eventually(lambda: life.state.counters.committed == 5)
    life.client._on_commit = answered
    assert life.end() == 0


def test_a_refusal_that_comes_in_a_later_poll_is_tried_again(broker, live, log):
    broker.produce_many(TOPIC, 0, numbers(5))
    life = live(start=False, asynchronous=True)
    life.client.commit_errors.append(KafkaException(KafkaError(KafkaError._TRANSPORT, "no coordinator")))
    life.consumer.start()
    life.wait_committed(5)
    eventually(lambda: life.state.counters.committed == 5)
    assert ["no coordinator" in m for m in log(logging.ERROR)] == [True]


def test_a_last_commit_that_gets_no_answer_has_its_time_and_no_more(broker, live, log):
    broker.produce_many(TOPIC, 0, numbers(5))
    life = live(start=False, asynchronous=True, shutdown_timeout_seconds=0.3, commit_interval_seconds=3600.0)
    life.client._on_commit = None
    life.consumer.start()
    eventually(lambda: life.state.counters.polled == 5)
    began = time.monotonic()
    assert life.end() == 1
    assert time.monotonic() - began < 5
    assert any("no answer from Kafka within 0.3 s" in m for m in log(logging.ERROR))
    assert life.client.closed


def test_only_the_polling_thread_ever_calls_the_kafka_client(broker, live):
    broker.produce_many(TOPIC, 0, numbers(50))
    life = live()
    life.wait_committed(50)
    life.consumer.pause([(TOPIC, 0)])
    life.consumer.resume()
    life.consumer.snapshot()
    polling = life.consumer._threads["polling"].ident
    assert life.end() == 0
    assert {"poll", "commit", "pause", "close"} <= set(life.client.callers)
    assert set().union(*life.client.callers.values()) == {polling}


# --- the operator -----------------------------------------------------------------------------------------------------


def test_dev_mode_switched_off_commits_what_it_had_let_go(broker, live, log):
    life = live(dev_mode=True)
    broker.produce_many(TOPIC, 0, numbers(10))
    eventually(lambda: any("dev mode: not committed: test-topic-0@10" in m for m in log()))
    assert life.client.commit_calls == 0
    assert life.consumer.snapshot().dev_mode
    life.consumer.set_dev_mode(False)
    life.wait_committed(10)


def test_dev_mode_switched_on_ends_the_commits(broker, live):
    life = live()
    broker.produce_many(TOPIC, 0, numbers(10))
    life.wait_committed(10)
    life.consumer.set_dev_mode(True)
    broker.produce_many(TOPIC, 0, numbers(10))
    eventually(lambda: life.state.counters.processed == 20)
    assert life.end() == 0
    assert life.committed() == 10


def test_a_restart_after_dev_mode_processes_everything_again(broker, live):
    seen: list[bytes | None] = []
    broker.produce_many(TOPIC, 0, numbers(10))
    first = live(dev_mode=True, processor_callable=seen.append)
    eventually(lambda: len(seen) == 10)
    assert first.end() == 0
    second = live(processor_callable=seen.append)
    second.wait_committed(10)
    assert len(seen) == 20


def test_a_pause_of_everything_takes_no_more_messages_and_the_membership_lives_on(broker, live):
    client = FakeConsumer(broker, GROUP, max_poll_interval=0.3)
    life = live(client=client)
    life.wait_assigned(0, 1, 2)
    life.consumer.pause()
    eventually(lambda: client.paused == {(TOPIC, 0), (TOPIC, 1), (TOPIC, 2)})
    broker.produce_many(TOPIC, 0, numbers(10))
    time.sleep(0.5)  # longer than a silent member would be suffered
    assert life.state.counters.polled == 0
    assert broker.owner(GROUP, TOPIC, 0) is client
    snapshot = life.consumer.snapshot()
    assert snapshot.paused
    assert {view.state for view in snapshot.partitions} == {"paused"}

    life.consumer.resume()
    life.wait_committed(10)
    assert not life.consumer.snapshot().paused


def test_single_partitions_are_paused_and_resumed(broker, live):
    life = live()
    life.wait_assigned(0, 1, 2)
    life.consumer.pause([(TOPIC, 0), (TOPIC, 1)])
    eventually(lambda: life.client.paused == {(TOPIC, 0), (TOPIC, 1)})
    for partition in range(3):
        broker.produce_many(TOPIC, partition, numbers(10))
    life.wait_committed(10, 2)
    assert life.committed(0) is None
    life.consumer.resume([(TOPIC, 0)])
    life.wait_committed(10, 0)
    assert life.committed(1) is None
    states = {view.partition: view.state for view in life.consumer.snapshot().partitions}
    assert states == {0: "running", 1: "paused", 2: "running"}
    life.consumer.resume([(TOPIC, 1)])
    life.wait_committed(10, 1)


def test_one_partition_resumed_out_of_a_pause_of_all_leaves_the_others_paused(broker, live):
    life = live()
    life.wait_assigned(0, 1, 2)
    life.consumer.pause()
    life.consumer.resume([(TOPIC, 1)])
    eventually(lambda: life.client.paused == {(TOPIC, 0), (TOPIC, 2)})


def test_more_workers_process_more_at_once_and_fewer_fewer(broker, live, gate):
    broker.produce_many(TOPIC, 0, numbers(100))
    life = live(processor_callable=gate, worker_count=2)
    eventually(lambda: len(gate.begun) == 2)
    life.consumer.set_workers(6)
    eventually(lambda: len(gate.begun) == 6)
    life.consumer.set_workers(1)
    gate.let_go(6)
    eventually(lambda: len(gate.done) == 6)
    eventually(lambda: len(life.consumer._pool.alive()) == 1)
    eventually(lambda: len(gate.begun) == 7)
    gate.open.set()
    life.wait_committed(100)
    assert len(gate.done) == 100


@pytest.mark.parametrize("count", [0, -1, 1001, True, 2.5, "3"])
def test_a_number_of_workers_that_makes_no_sense_is_refused(live, count):
    life = live()
    with pytest.raises(ConfigError, match=r"worker_count: expected an integer from 1 to 1,000"):
        life.consumer.set_workers(count)


def test_a_rate_limit_holds_and_can_be_lifted(broker, live):
    life = live()
    life.wait_assigned(0, 1, 2)
    life.consumer.set_rate_limit(20)
    began = time.monotonic()
    broker.produce_many(TOPIC, 0, numbers(1000))
    eventually(lambda: life.state.counters.polled >= 30)
    assert time.monotonic() - began >= 0.4, "expected ten messages beyond the first second's worth to take half a second"
    assert life.state.counters.polled < 60
    life.consumer.set_rate_limit(None)
    life.wait_committed(1000)


@pytest.mark.parametrize("per_second", [0, -1, 0.5, True, "10"])
def test_a_rate_that_makes_no_sense_is_refused(live, per_second):
    life = live()
    with pytest.raises(ConfigError, match="per_second: expected None or a number of at least 1"):
        life.consumer.set_rate_limit(per_second)


def test_commands_to_a_consumer_that_has_ended_or_never_began_are_refused(live):
    life = live(start=False)
    with pytest.raises(ClientClosedError):
        life.consumer.pause()
    life.consumer.start()
    assert life.end() == 0
    with pytest.raises(ClientClosedError):
        life.consumer.pause()


def test_the_log_level_changes_at_run_time(live, log):
    life = live(log_level="INFO")
    life.consumer.set_log_level("ERROR")
    life.consumer.set_workers(2)
    assert not [m for m in log() if m == "2 workers"]
    with pytest.raises(ConfigError):
        life.consumer.set_log_level("LOUD")
    assert life.consumer.snapshot().log_level == "ERROR"


# --- back-pressure ----------------------------------------------------------------------------------------------------


def test_back_pressure_pauses_and_polling_never_stops_however_slow_the_processor(broker, live, gate, monkeypatch, log):
    monkeypatch.setattr(polling_thread, "PAUSE_AFTER_SECONDS", 0.05)
    client = FakeConsumer(broker, GROUP, max_poll_interval=0.3)
    for partition in range(3):
        broker.produce_many(TOPIC, partition, numbers(50))
    life = live(client=client, processor_callable=gate, queue_size=10, worker_count=1)
    eventually(lambda: client.paused == {(TOPIC, 0), (TOPIC, 1), (TOPIC, 2)})
    time.sleep(0.6)  # two intervals after which a silent member is expelled
    assert client.paused
    assert all(broker.owner(GROUP, TOPIC, partition) is client for partition in range(3))
    assert life.state.counters.polled < 20
    gate.open.set()
    for partition in range(3):
        life.wait_committed(50, partition)
    assert len(gate.done) == 150
    assert log(logging.ERROR) == []


def test_a_pause_by_the_operator_outlasts_one_by_back_pressure(broker, live, gate, monkeypatch):
    monkeypatch.setattr(polling_thread, "PAUSE_AFTER_SECONDS", 0.05)
    broker.produce_many(TOPIC, 0, numbers(50))
    life = live(processor_callable=gate, queue_size=10, worker_count=1)
    eventually(lambda: len(life.client.paused) == 3)
    life.consumer.pause([(TOPIC, 1)])
    gate.open.set()
    life.wait_committed(50)
    eventually(lambda: life.client.paused == {(TOPIC, 1)})


# --- stop targets -----------------------------------------------------------------------------------------------------


def test_a_stop_target_is_inclusive_and_nothing_past_it_is_processed_or_committed(broker, live, log):
    seen: list[bytes | None] = []
    broker.produce_many(TOPIC, 0, numbers(200))
    life = live(stop_at_offset={(TOPIC, 0): 100}, processor_callable=seen.append)
    assert life.wait_end() == 0
    assert sorted(map(int, seen)) == list(range(101))  # type: ignore[arg-type]
    assert life.committed() == 101
    assert len(life.backup()) == 101
    assert "stop target reached: test-topic-0@100" in log()


def test_a_target_beyond_the_end_is_waited_for(broker, live):
    broker.produce_many(TOPIC, 0, numbers(50))
    life = live(stop_at_offset={(TOPIC, 0): 60})
    life.wait_committed(50)
    assert not life.consumer.join(0.1)
    broker.produce_many(TOPIC, 0, numbers(20))
    assert life.wait_end() == 0
    assert life.committed() == 61


def test_a_target_that_only_markers_follow_up_to_is_reached_at_the_end_of_the_log(broker, live):
    broker.produce_many(TOPIC, 0, numbers(50))
    broker.skip(TOPIC, 0, 20)
    life = live(stop_at_offset={(TOPIC, 0): 60})
    assert life.wait_end() == 0
    assert life.committed() == 61


def test_a_target_the_log_jumps_past_is_reached_with_the_message_behind_it_untouched(broker, live):
    broker.produce_many(TOPIC, 0, numbers(50))
    broker.produce(TOPIC, 0, b"behind", offset=80)
    life = live(stop_at_offset={(TOPIC, 0): 60})
    assert life.wait_end() == 0
    assert life.state.counters.processed == 50
    assert 50 <= life.committed() <= 61


def test_a_target_that_was_passed_in_an_earlier_run_ends_this_one_at_once(broker, live):
    broker.produce_many(TOPIC, 0, numbers(50))
    broker.set_committed(GROUP, TOPIC, 0, 30)
    life = live(stop_at_offset={(TOPIC, 0): 10})
    assert life.wait_end() == 0
    assert life.state.counters.polled == 0
    assert life.committed() == 30


def test_partitions_without_a_target_are_not_committed_past_what_was_processed(broker, live):
    for partition in range(3):
        broker.produce_many(TOPIC, partition, numbers(100))
    seen: list[bytes | None] = []
    life = live(stop_at_offset={(TOPIC, 0): 20, (TOPIC, 1): 0}, processor_callable=seen.append, queue_size=10)
    assert life.wait_end() == 0
    assert (life.committed(0), life.committed(1)) == (21, 1)
    assert len(seen) == 21 + 1 + (life.committed(2) or 0)
