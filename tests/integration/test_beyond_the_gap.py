"""Guarantee 5: what is finished beyond a message that isn't is recorded with the commit, and not repeated after a crash."""

from __future__ import annotations

import logging
import threading

import pytest
from confluent_kafka import KafkaError, KafkaException

from kafka_consumer.commit_metadata import decode, encode
from tests.fakes import FakeBroker, FakeConsumer
from tests.helpers import eventually
from tests.integration.conftest import GROUP, TOPIC


def numbers(count: int) -> list[bytes]:
    return [b"%d" % n for n in range(count)]


class Blocking:
    """A processor that doesn't come back from one message until it is let go; it keeps a list of those it has finished."""

    def __init__(self, value: bytes = b"0") -> None:
        self.value = value
        self.open = threading.Event()
        self.done: list[int] = []

    def __call__(self, value: bytes | None) -> None:
        if value == self.value:
            self.open.wait(20)
        self.done.append(int(value or b"-1"))


def after_a_crash(broker: FakeBroker, count: int) -> FakeConsumer:
    """Return a new client of a broker that has what a crash leaves behind: the same log, and what was committed last."""
    again = FakeBroker({TOPIC: 3})
    again.produce_many(TOPIC, 0, numbers(count))
    again.set_committed(GROUP, TOPIC, 0, broker.committed(GROUP, TOPIC) or 0, broker.metadata(GROUP, TOPIC))
    return FakeConsumer(again, GROUP)


@pytest.fixture
def blocked(broker, live):
    """Five hundred messages, of which the first doesn't end; the others are finished and recorded."""
    broker.produce_many(TOPIC, 0, numbers(501))
    processor = Blocking()
    life = live(processor_callable=processor)
    eventually(lambda: len(processor.done) == 500)
    eventually(lambda: broker.metadata(GROUP, TOPIC) and decode(broker.metadata(GROUP, TOPIC), 0) == [(1, 501)])
    yield life
    processor.open.set()


def test_after_a_crash_none_of_the_five_hundred_behind_the_first_is_repeated(broker, live, blocked, log):
    assert broker.committed(GROUP, TOPIC) == 0
    client = after_a_crash(broker, 501)
    processor = Blocking(b"none")
    second = live(processor_callable=processor, client=client)
    eventually(lambda: client.broker.committed(GROUP, TOPIC) == 501)
    assert processor.done == [0]
    assert second.state.counters.skipped == 500
    assert any(f"{TOPIC}-0: 500 offsets beyond 0 were finished before" in line for line in log(logging.INFO))
    assert second.end() == 0
    assert client.broker.metadata(GROUP, TOPIC) == ""


def test_a_crash_while_skipping_forgets_nothing(broker, live):
    broker.produce_many(TOPIC, 0, numbers(100))
    broker.set_committed(GROUP, TOPIC, 0, 10, encode(10, [(11, 50), (60, 100)]))
    processor = Blocking(b"10")
    live(processor_callable=processor)
    eventually(lambda: sorted(processor.done) == list(range(50, 60)))
    eventually(lambda: decode(broker.metadata(GROUP, TOPIC), 10) == [(11, 100)])
    client = after_a_crash(broker, 100)
    processor.open.set()
    again = Blocking(b"none")
    live(processor_callable=again, client=client)
    eventually(lambda: client.broker.committed(GROUP, TOPIC) == 100)
    assert again.done == [10]


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ("written by something else", "another program"),
        (encode(10, [(11, 50)])[:-3] + "AAA", "damaged"),
        (encode(9, [(11, 50)]), "belongs to offset 9"),
        (encode(10, [(11, 101)]), "up to 101, the log ends at 100"),
    ],
)
def test_metadata_that_can_not_be_trusted_is_ignored_with_a_warning(broker, live, log, metadata, reason):
    broker.produce_many(TOPIC, 0, numbers(100))
    broker.set_committed(GROUP, TOPIC, 0, 10, metadata)
    processor = Blocking(b"none")
    life = live(processor_callable=processor)
    eventually(lambda: broker.committed(GROUP, TOPIC) == 100)
    assert life.end() == 0
    assert sorted(processor.done) == list(range(10, 100))
    assert any("isn't used" in line and reason in line for line in log(logging.WARNING))


def test_without_the_option_nothing_is_written_and_nothing_read(broker, live):
    broker.produce_many(TOPIC, 0, numbers(100))
    broker.set_committed(GROUP, TOPIC, 0, 10, encode(10, [(11, 50)]))
    processor = Blocking(b"20")
    life = live(processor_callable=processor, commit_metadata=False)
    eventually(lambda: len(processor.done) == 89)
    eventually(lambda: broker.committed(GROUP, TOPIC) == 20)
    assert broker.metadata(GROUP, TOPIC) == ""
    processor.open.set()
    assert life.end() == 0


def test_dev_mode_writes_none(broker, live):
    broker.produce_many(TOPIC, 0, numbers(100))
    processor = Blocking()
    life = live(processor_callable=processor, dev_mode=True)
    eventually(lambda: len(processor.done) == 99)
    processor.open.set()
    assert life.end() == 0
    assert broker.committed(GROUP, TOPIC) is None


def test_after_a_revocation_the_next_owner_skips_what_was_finished_beyond_the_gap(broker, live, blocked, monkeypatch):
    monkeypatch.setattr("kafka_consumer.rebalance.REVOKE_SECONDS", 0.1)
    blocked.client.revoke((TOPIC, 0))
    eventually(lambda: broker.owner(GROUP, TOPIC) is None)
    processor = Blocking(b"none")
    second = live(processor_callable=processor)
    eventually(lambda: broker.committed(GROUP, TOPIC) == 501)
    assert processor.done == [0]
    assert second.end() == 0


def test_polling_of_a_partition_pauses_while_one_message_holds_back_too_much_and_goes_on_after_it(broker, live, log):
    broker.produce_many(TOPIC, 0, numbers(300))
    processor = Blocking()
    life = live(processor_callable=processor, max_uncommitted_span=100, queue_size=20)
    eventually(lambda: (TOPIC, 0) in life.client.paused)
    broker.produce_many(TOPIC, 0, [b"%d" % n for n in range(300, 2000)])
    broker.produce_many(TOPIC, 1, [b"2000"])
    eventually(lambda: 2000 in processor.done, what="the other partitions to go on")
    assert max(n for n in processor.done if n != 2000) < 300
    assert any("max_uncommitted_span=100" in line for line in log(logging.WARNING))
    processor.open.set()
    eventually(lambda: broker.committed(GROUP, TOPIC) == 2000)
    assert sorted(processor.done) == list(range(2001))
    assert life.end() == 0


def test_a_broker_that_takes_less_metadata_gets_commits_without_it(broker, live, log):
    broker.produce_many(TOPIC, 0, numbers(50))
    processor = Blocking(b"20")

    def refuse(offsets):
        if any(tp.metadata for tp in offsets):
            raise KafkaException(KafkaError(KafkaError.OFFSET_METADATA_TOO_LARGE))

    life = live(processor_callable=processor, start=False)
    life.client.commit_hook = refuse
    life.consumer.start()
    eventually(lambda: broker.committed(GROUP, TOPIC) == 20)
    assert broker.metadata(GROUP, TOPIC) == ""
    assert any("don't take the metadata" in line for line in log(logging.WARNING))
    processor.open.set()
    assert life.end() == 0
    assert broker.committed(GROUP, TOPIC) == 50


def test_messages_that_wait_for_another_attempt_do_not_hold_up_a_revocation(broker, live):
    broker.produce_many(TOPIC, 0, numbers(5))
    tried = []

    def fails(value: bytes | None) -> None:
        tried.append(value)
        raise ValueError("no")

    life = live(processor_callable=fails, max_attempts=5, retry_backoff_seconds=3600.0, retry_backoff_max_seconds=3600.0)
    eventually(lambda: len(tried) == 5)
    life.client.revoke((TOPIC, 0))
    eventually(lambda: broker.owner(GROUP, TOPIC) is None, 2.0)
    queue = life.state.processing_queue
    assert (queue.qsize(), queue.taken, queue.in_flight_bytes) == (0, 0, 0)
