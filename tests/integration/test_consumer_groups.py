"""Partitions that come and go while a whole consumer works: what is drained, what is committed, and what is dropped."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter

import pytest
from confluent_kafka import KafkaError, KafkaException

from kafka_consumer import polling_thread, rebalance
from tests.fakes import FakeConsumer
from tests.helpers import eventually
from tests.integration.conftest import GROUP, TOPIC

ZERO = (TOPIC, 0)


def numbers(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % n for n in range(start, start + count)]


def nothing_in_flight(life) -> bool:
    queue = life.state.processing_queue
    return (queue.qsize(), queue.taken, queue.in_flight_bytes) == (0, 0, 0)


# --- revoked ----------------------------------------------------------------------------------------------------------


def test_a_revocation_waits_for_what_workers_have_begun_commits_it_and_leaves_the_rest(broker, live, gate):
    broker.produce_many(TOPIC, 0, numbers(20))
    life = live(processor_callable=gate, worker_count=3, commit_interval_seconds=3600.0)
    eventually(lambda: len(gate.begun) == 3 and life.state.processing_queue.qsize() == 17)
    life.client.revoke(ZERO)
    eventually(lambda: life.state.processing_queue.qsize() == 0)
    assert broker.owner(GROUP, TOPIC) is life.client, "expected the partition to be kept until its work is done"
    gate.let_go(3)

    eventually(lambda: broker.owner(GROUP, TOPIC) is None)
    assert life.committed() == 3
    assert len(gate.begun) == 3
    assert nothing_in_flight(life)

    gate.open.set()
    life.client.give_back()
    eventually(lambda: len(gate.done) == 20)
    assert life.end() == 0
    assert sorted(map(int, gate.done)) == list(range(20)), "expected each message exactly once"
    assert life.committed() == 20


def test_a_revocation_commits_failed_messages_too_with_their_dead_letters_on_disk(broker, live, gate):
    def processor(value: bytes | None) -> None:
        gate(value)
        raise ValueError("no")

    broker.produce_many(TOPIC, 0, numbers(20))
    life = live(
        processor_callable=processor, worker_count=3, commit_interval_seconds=3600.0, csv_flush_interval_seconds=3600.0
    )
    eventually(lambda: len(gate.begun) == 3 and life.state.processing_queue.qsize() == 17)
    life.client.revoke(ZERO)
    eventually(lambda: life.state.processing_queue.qsize() == 0)
    gate.let_go(3)
    eventually(lambda: broker.owner(GROUP, TOPIC) is None)
    assert life.committed() == 3
    assert sorted(int(row["offset"]) for row in life.dead_letters()) == [0, 1, 2]


def test_what_isn_t_finished_in_time_is_left_and_its_late_result_dropped(broker, live, gate, monkeypatch, log):
    monkeypatch.setattr(rebalance, "REVOKE_SECONDS", 0.1)
    broker.produce_many(TOPIC, 0, numbers(20))
    life = live(processor_callable=gate, worker_count=3)
    eventually(lambda: len(gate.begun) == 3)
    life.client.revoke(ZERO)
    eventually(lambda: broker.owner(GROUP, TOPIC) is None)
    assert any("3 messages of revoked partitions weren't finished" in m for m in log(logging.WARNING))
    gate.open.set()
    eventually(lambda: len(gate.done) == 3)
    life.state.shutdown_event.wait(0.15)  # three intervals
    assert life.client.commit_calls == 0
    assert life.state.counters.processed == 0
    assert nothing_in_flight(life)


def test_a_late_result_doesn_t_count_for_the_partition_that_has_come_back(broker, live, monkeypatch):
    monkeypatch.setattr(rebalance, "REVOKE_SECONDS", 0.05)
    calls: list[bytes | None] = []
    gates = [threading.Event(), threading.Event()]

    def processor(value: bytes | None) -> None:
        if value == b"0":
            calls.append(value)
            gates[len(calls) - 1].wait(10)

    broker.produce_many(TOPIC, 0, numbers(10))
    life = live(processor_callable=processor, worker_count=3)
    try:
        eventually(lambda: life.state.counters.processed == 9)
        life.client.bounce(ZERO)
        eventually(lambda: len(calls) == 2, what="the first message's second call")
        gates[0].set()  # the call of the former assignment returns
        eventually(lambda: life.state.processing_queue.taken == 1)
        life.state.shutdown_event.wait(0.15)  # three intervals
        assert not life.committed(), "expected none but a commit of what is finished beyond the first message"
    finally:
        for gate in gates:
            gate.set()
    life.wait_committed(10)


def test_other_partitions_go_on_and_are_committed_while_one_is_taken_away(broker, live, gate):
    def processor(value: bytes | None) -> None:
        if value == b"slow":
            gate(value)

    broker.produce(TOPIC, 0, b"slow")
    life = live(processor_callable=processor)
    eventually(lambda: gate.begun)
    life.client.revoke(ZERO)
    gate.open.set()
    eventually(lambda: broker.owner(GROUP, TOPIC) is None)
    broker.produce_many(TOPIC, 1, numbers(10))
    life.wait_committed(10, 1)
    assert life.committed() == 1


def test_a_message_that_waits_for_its_next_attempt_goes_with_its_partition(broker, live, monkeypatch):
    monkeypatch.setattr(rebalance, "REVOKE_SECONDS", 0.1)
    calls: list[bytes | None] = []

    def processor(value: bytes | None) -> None:
        calls.append(value)
        if len(calls) == 1:
            raise ValueError("not yet")

    broker.produce(TOPIC, 0, b"x")
    life = live(processor_callable=processor, max_attempts=5, retry_backoff_seconds=3600.0, retry_backoff_max_seconds=3600.0)
    eventually(lambda: life.consumer._pool.waiting_retries == 1)
    life.client.revoke(ZERO)
    eventually(lambda: broker.owner(GROUP, TOPIC) is None)
    eventually(lambda: nothing_in_flight(life))
    life.client.give_back()
    life.wait_committed(1)
    assert len(calls) == 2
    assert life.dead_letters() == []


@pytest.mark.parametrize("ordering", ["unordered", "key", "partition"])
def test_the_queue_s_books_are_right_after_partitions_came_and_went(broker, live, gate, monkeypatch, ordering):
    monkeypatch.setattr(rebalance, "REVOKE_SECONDS", 0.05)
    for number in range(60):
        broker.produce(TOPIC, number % 3, b"%d" % number, key=b"key-%d" % (number % 5) if number % 7 else None)
    life = live(processor_callable=gate, ordering=ordering, worker_count=4)
    for _ in range(3):
        eventually(lambda: gate.begun and len(life.client.assignment()) == 3)
        rebalances = life.state.counters.rebalances
        life.client.bounce()
        wanted = rebalances + 2
        eventually(lambda wanted=wanted: life.state.counters.rebalances >= wanted)  # type: ignore[misc]
    gate.open.set()
    for partition in range(3):
        life.wait_committed(20, partition)
    eventually(lambda: nothing_in_flight(life))
    assert life.end() == 0


# --- lost -------------------------------------------------------------------------------------------------------------


def test_what_was_finished_of_a_lost_partition_is_never_committed(broker, live, log):
    done: list[bytes | None] = []
    broker.produce_many(TOPIC, 0, numbers(10))
    life = live(processor_callable=done.append, commit_interval_seconds=3600.0)
    eventually(lambda: life.state.counters.processed == 10)
    life.client.lose(ZERO)
    eventually(lambda: any("lost, without a commit: test-topic-0" in m for m in log(logging.WARNING)))
    assert life.client.commit_calls == 0
    life.client.give_back()
    eventually(lambda: len(done) == 20)
    assert life.end() == 0
    assert life.committed() == 10


def test_what_is_in_flight_of_a_lost_partition_is_dropped(broker, live, gate):
    broker.produce_many(TOPIC, 0, numbers(10))
    life = live(processor_callable=gate, worker_count=2)
    eventually(lambda: len(gate.begun) == 2)
    life.client.lose(ZERO)
    eventually(lambda: ZERO not in life.consumer._poller.partitions.open)
    gate.open.set()
    eventually(lambda: nothing_in_flight(life))
    life.state.shutdown_event.wait(0.15)  # three intervals
    assert life.client.commit_calls == 0
    assert len(gate.done) == 2
    assert life.end() == 0
    assert life.committed() is None


def test_a_failure_after_the_partition_was_lost_leaves_no_dead_letter(broker, live, gate):
    def processor(value: bytes | None) -> None:
        gate(value)
        raise ValueError("no")

    broker.produce(TOPIC, 0, b"x")
    life = live(processor_callable=processor)
    eventually(lambda: gate.begun)
    life.client.lose(ZERO)
    eventually(lambda: ZERO not in life.consumer._poller.partitions.open)
    gate.open.set()
    eventually(lambda: nothing_in_flight(life))
    assert life.end() == 0
    assert life.dead_letters() == [], "expected its next owner to find out for itself"


def test_a_member_that_was_expelled_joins_again_and_nothing_is_lost(broker, live):
    done: list[bytes | None] = []
    broker.produce_many(TOPIC, 0, numbers(100))

    def processor(value: bytes | None) -> None:
        time.sleep(0.001)
        done.append(value)

    life = live(processor_callable=processor)
    eventually(lambda: len(done) > 10)
    life.client.expel()
    life.wait_committed(100)
    assert set(done) == set(numbers(100))
    assert life.end() == 0


def test_a_commit_that_finds_the_member_fenced_is_reported_and_nothing_is_lost(broker, live, log):
    done: list[bytes | None] = []
    broker.produce_many(TOPIC, 0, numbers(10))
    life = live(start=False, processor_callable=done.append)
    life.client.commit_errors.append(KafkaException(KafkaError(KafkaError.UNKNOWN_MEMBER_ID, "Unknown member")))
    life.consumer.start()
    life.wait_committed(10)
    assert ["Unknown member" in m for m in log(logging.ERROR)] == [True]


# --- assigned ---------------------------------------------------------------------------------------------------------


def test_consumption_starts_where_the_group_has_committed(broker, live):
    done: list[bytes | None] = []
    broker.produce_many(TOPIC, 0, numbers(50))
    broker.set_committed(GROUP, TOPIC, 0, 30)
    life = live(processor_callable=done.append)
    life.wait_committed(50)
    assert sorted(map(int, done)) == list(range(30, 50))  # type: ignore[arg-type]
    eventually(lambda: life.state.counters.committed == 20)


def test_committed_offsets_that_can_t_be_read_are_a_warning(broker, live, log):
    class Forgetful(FakeConsumer):
        def committed(self, partitions, timeout=None):
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "timed out"))

    broker.produce_many(TOPIC, 0, numbers(10))
    life = live(client=Forgetful(broker, GROUP))
    life.wait_committed(10)
    assert any("committed offsets couldn't be read" in m for m in log(logging.WARNING))


def test_a_rebalance_that_fails_in_an_unforeseen_way_ends_the_consumer_with_1(broker, live, log):
    class Broken(FakeConsumer):
        def committed(self, partitions, timeout=None):
            raise ValueError("a bug")

    life = live(client=Broken(broker, GROUP))
    assert life.wait_end() == 1
    assert any("a rebalance failed: a bug" in m for m in log(logging.CRITICAL))


def test_a_partition_that_comes_back_is_resumed_or_paused_as_it_is_to_be(broker, live):
    life = live()
    life.wait_assigned(0, 1, 2)
    life.consumer.pause([(TOPIC, 1)])
    eventually(lambda: life.client.paused == {(TOPIC, 1)})
    life.client.revoke((TOPIC, 1))
    life.wait_assigned(0, 2)
    life.client.resume(life.client.assignment())
    life.client.paused.clear()  # librdkafka may have forgotten
    life.client.give_back()
    life.wait_assigned(0, 1, 2)
    eventually(lambda: life.client.paused == {(TOPIC, 1)})
    life.client.revoke((TOPIC, 1))
    life.wait_assigned(0, 2)
    life.consumer.resume()
    life.client.give_back()
    life.wait_assigned(0, 1, 2)
    eventually(lambda: life.client.paused == set(), what="the partition's resumption, though it was paused when it went")


def test_back_pressure_outlasts_a_rebalance(broker, live, gate, monkeypatch):
    monkeypatch.setattr(polling_thread, "PAUSE_AFTER_SECONDS", 0.05)
    monkeypatch.setattr(rebalance, "REVOKE_SECONDS", 0.05)
    for partition in range(3):
        broker.produce_many(TOPIC, partition, numbers(50))
    life = live(processor_callable=gate, queue_size=10, worker_count=1)
    eventually(lambda: len(life.client.paused) == 3)
    life.client.bounce(ZERO)
    eventually(lambda: life.state.counters.rebalances >= 3)
    gate.open.set()
    for partition in range(3):
        life.wait_committed(50, partition)
    eventually(lambda: life.client.paused == set())


# --- several members --------------------------------------------------------------------------------------------------


def test_a_second_member_takes_its_share_and_hands_it_back_and_nothing_is_processed_twice(broker, live):
    done: list[bytes | None] = []

    def processor(value: bytes | None) -> None:
        time.sleep(0.0005)
        done.append(value)

    def produce(start: int) -> None:
        for number in range(start, start + 300):
            broker.produce(TOPIC, number % 3, b"%d" % number)

    produce(0)
    first = live(processor_callable=processor, queue_size=20)
    eventually(lambda: len(done) > 30)
    second = live(processor_callable=processor, queue_size=20)
    eventually(lambda: second.state.counters.processed > 0)
    produce(300)
    eventually(lambda: broker.lag(GROUP, TOPIC) == 0)
    assert {broker.owner(GROUP, TOPIC, partition) for partition in range(3)} == {first.client, second.client}
    assert second.end() == 0
    produce(600)
    eventually(lambda: broker.lag(GROUP, TOPIC) == 0)
    assert first.end() == 0
    assert sorted(map(int, done)) == list(range(900))  # type: ignore[arg-type]


@pytest.mark.parametrize(("ordering", "asynchronous"), [("unordered", False), ("unordered", True), ("key", True)])
def test_whatever_a_group_goes_through_nothing_is_lost_and_no_commit_is_ahead_of_the_work(
    broker, live, monkeypatch, ordering, asynchronous
):
    monkeypatch.setattr(rebalance, "REVOKE_SECONDS", 0.05)
    chance = random.Random(11)
    finished: set[tuple[int, int]] = set()
    ahead: list[str] = []
    total = 1500

    def processor(value: bytes | None) -> None:
        assert value is not None
        number = int(value)
        if number % 10 == 0:
            time.sleep(0.002)
        finished.add((number % 3, number // 3))

    def look(offsets) -> None:
        for tp in offsets:
            ahead.extend(f"{tp.partition}@{o} in {tp.offset}" for o in range(tp.offset) if (tp.partition, o) not in finished)

    for number in range(total):
        broker.produce(TOPIC, number % 3, b"%d" % number, key=b"%d" % (number % 20))
    lives = [
        live(start=False, asynchronous=asynchronous, processor_callable=processor, ordering=ordering, queue_size=50)
        for _ in range(2)
    ]
    for life in lives:
        life.client.commit_hook = look
        life.consumer.start()
    events: Counter[str] = Counter()
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        client = chance.choice(lives).client
        event = chance.choice(["bounce", "revoke", "lose", "expel", "fail"])
        if event == "fail":
            client.commit_errors.append(KafkaException(KafkaError(KafkaError._TRANSPORT)))
        else:
            getattr(client, event)()
        events[event] += 1
        time.sleep(chance.random() * 0.03)
        client.give_back()
    for life in lives:
        life.client.give_back()
        life.client.commit_errors.clear()
    eventually(lambda: broker.lag(GROUP, TOPIC) == 0, what="all to be committed")
    assert [life.end() for life in lives] == [0, 0]
    assert len(events) == 5
    assert ahead == []
    assert len(finished) == total
    for life in lives:
        assert nothing_in_flight(life)
