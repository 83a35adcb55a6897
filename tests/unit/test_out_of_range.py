"""Where a partition goes on when its next offset isn't in the log, and what is said about it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException, TopicPartition

from kafka_consumer import out_of_range
from kafka_consumer.errors import ConfigError
from kafka_consumer.kafka_consumer import KafkaConsumer, client_options
from kafka_consumer.out_of_range import STARTS, start_of_new_group
from kafka_consumer.polling_thread import Poller
from tests.fakes import FakeBroker, FakeConsumer, FakeMessage
from tests.helpers import eventually, make_config, make_state

TOPIC = "test-topic"
GROUP = "test-group"


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> None:
    """Every record of the package is captured."""
    caplog.set_level(logging.DEBUG, "kafka_consumer")


class Eager(FakeConsumer):
    """A member of a group that rebalances eagerly: single partitions can't be assigned."""

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        raise KafkaException(KafkaError(KafkaError._STATE, "Changes must be made using assign()"))


class Polling:
    """A poller of a member that reports what isn't in the log, driven step by step."""

    def __init__(self, folder: Path, broker: FakeBroker, kind: type[FakeConsumer] = FakeConsumer, **options: Any) -> None:
        self.state = make_state(folder, **{"queue_size": 1000, **options})
        self.broker = broker
        self.client = kind(broker, auto_offset_reset="error")
        self.poller = Poller(self.state, self.client)
        self.poller.partitions.subscribed = True
        callbacks = self.poller.partitions
        self.client.subscribe([TOPIC], on_assign=callbacks.on_assign, on_revoke=callbacks.on_revoke, on_lost=callbacks.on_lost)

    def offsets(self, count: int, partition: int = 0) -> list[int]:
        """Poll until so many messages of a partition have come, and return their offsets."""
        queue = self.state.processing_queue
        found: list[int] = []

        def enough() -> bool:
            self.poller.step()
            while queue.qsize():
                message = queue.get_nowait()
                if message.partition() == partition:
                    found.append(message.offset())
            return len(found) >= count

        eventually(enough, what=f"{count} messages")
        return found

    def until(self, condition: Any) -> None:
        def step() -> bool:
            self.poller.step()
            return bool(condition())

        eventually(step)

    @property
    def lost(self) -> int:
        return self.state.counters.records_lost


@pytest.fixture
def broker() -> FakeBroker:
    """Partition 0 holds 100 to 199; what was before is deleted. Partition 1 holds 0 to 9."""
    made = FakeBroker({TOPIC: 2})
    made.produce_many(TOPIC, 0, [b"x"] * 200)
    made.produce_many(TOPIC, 1, [b"x"] * 10)
    made.delete_before(TOPIC, 0, 100)
    return made


def problems(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(r.levelno, r.getMessage()) for r in caplog.records if r.levelno >= logging.WARNING]


def test_by_default_the_run_ends_with_what_is_lost(broker: FakeBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    broker.set_committed(GROUP, TOPIC, 0, 40)
    polling = Polling(tmp_path, broker)
    polling.until(lambda: not polling.state.running.is_set())
    reason = (
        f"{TOPIC}-0: offset 40, which was to be read next (committed: 40), isn't in the log, from 100 to 200: up to 60 messages "
        "are gone for ever (on_offset_out_of_range=fail; earliest or latest would go on)"
    )
    assert polling.state.lifecycle.stop_reason == reason
    assert polling.state.lifecycle.failed
    assert problems(caplog) == [(logging.CRITICAL, f"{reason}; stopping")]
    assert polling.lost == 60


@pytest.mark.parametrize("kind", [FakeConsumer, Eager])
@pytest.mark.parametrize(("policy", "first", "text"), [
    ("earliest", 100, "going on at offset 100 (on_offset_out_of_range=earliest)"),
    ("latest", 200, "going on at offset 200, skipping up to 100 messages that are still there (on_offset_out_of_range=latest)"),
])  # fmt: skip
def test_told_to_go_on_it_does_so_and_says_what_is_lost(
    broker: FakeBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture, policy: str, first: int, text: str,
    kind: type[FakeConsumer],
):  # fmt: skip
    broker.set_committed(GROUP, TOPIC, 0, 40)
    broker.set_committed(GROUP, TOPIC, 1, 5)
    polling = Polling(tmp_path, broker, kind, on_offset_out_of_range=policy)
    polling.until(lambda: polling.lost)
    broker.produce_many(TOPIC, 0, [b"later"] * 5)
    assert polling.offsets(205 - first) == list(range(first, 205))
    ((level, said),) = problems(caplog)
    assert level == logging.ERROR
    assert "up to 60 messages are gone for ever" in said
    assert text in said
    assert polling.lost == 60
    # The other partition goes on as it was, nothing twice.
    assert polling.poller.partitions.open[TOPIC, 1].view().in_flight == 5


def test_what_is_lost_in_mid_run_is_what_was_not_delivered(broker: FakeBroker, tmp_path: Path):
    polling = Polling(tmp_path, broker, on_offset_out_of_range="earliest")
    assert polling.offsets(100) == list(range(100, 200))
    broker.produce_many(TOPIC, 0, [b"x"] * 100)
    broker.delete_before(TOPIC, 0, 250)
    assert polling.offsets(50) == list(range(250, 300))
    assert polling.lost == 50
    # And once more: what was lost before isn't counted again.
    broker.produce_many(TOPIC, 0, [b"x"] * 10)
    broker.delete_before(TOPIC, 0, 305)
    assert polling.offsets(5) == list(range(305, 310))
    assert polling.lost == 55


def test_what_is_deleted_again_before_anything_came_is_counted_once(broker: FakeBroker, tmp_path: Path):
    broker.set_committed(GROUP, TOPIC, 0, 40)
    polling = Polling(tmp_path, broker, on_offset_out_of_range="earliest")
    polling.until(lambda: polling.lost == 60)  # it was told where to go on, and nothing has been fetched there
    broker.delete_before(TOPIC, 0, 150)
    assert polling.offsets(50) == list(range(150, 200))
    assert polling.lost == 110


def test_a_log_that_has_become_shorter_is_read_from_its_beginning_as_another_one(
    broker: FakeBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    polling = Polling(tmp_path, broker, on_offset_out_of_range="earliest")
    polling.offsets(100)
    before = polling.poller.partitions.open[TOPIC, 0]
    broker.recreate_topic(TOPIC)
    broker.produce_many(TOPIC, 0, [b"new"] * 10)
    assert polling.offsets(10) == list(range(10))
    assert before.closed
    assert any("the topic was recreated, or has lost its last messages" in text for _, text in problems(caplog))
    assert polling.lost == 0


def test_a_log_that_has_become_shorter_ends_the_run_by_default(broker: FakeBroker, tmp_path: Path):
    broker.set_committed(GROUP, TOPIC, 0, 5000)
    polling = Polling(tmp_path, broker)
    polling.until(lambda: not polling.state.running.is_set())
    assert "offset 5000, which was to be read next (committed: 5000), isn't in the log, from 100 to 200: the topic was" in (
        polling.state.lifecycle.stop_reason or ""
    )


# --- a group that has committed nothing -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FakeConsumer, Eager])
def test_a_new_group_begins_at_the_first_message_without_a_complaint(
    broker: FakeBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: type[FakeConsumer]
):
    polling = Polling(tmp_path, broker, kind)
    assert polling.offsets(100) == list(range(100, 200))
    assert polling.lost == 0
    assert problems(caplog) == []


def test_a_new_group_that_begins_at_the_end_misses_nothing_that_comes_afterwards(broker: FakeBroker, tmp_path: Path):
    polling = Polling(tmp_path, broker, kafka_options={"auto.offset.reset": "latest"})
    polling.until(lambda: len(polling.client._positions) == 2 and not polling.client._halted)
    broker.produce_many(TOPIC, 0, [b"later"] * 5)
    assert polling.offsets(5) == list(range(200, 205))


def test_a_new_group_that_may_not_begin_ends_the_run(broker: FakeBroker, tmp_path: Path):
    polling = Polling(tmp_path, broker, kafka_options={"auto.offset.reset": "error"})
    polling.until(lambda: not polling.state.running.is_set())
    assert "the group has committed nothing, and auto.offset.reset=error" in (polling.state.lifecycle.stop_reason or "")
    assert polling.state.lifecycle.failed


def test_a_committed_offset_that_could_not_be_read_at_the_assignment_is_what_librdkafka_says(
    broker: FakeBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    broker.set_committed(GROUP, TOPIC, 0, 40)
    polling = Polling(tmp_path, broker, on_offset_out_of_range="earliest")

    def fails(partitions: list[TopicPartition], timeout: float | None = None) -> Any:
        raise KafkaException(KafkaError(KafkaError._TRANSPORT, "down"))

    monkeypatch.setattr(polling.client, "committed", fails)
    assert polling.offsets(100) == list(range(100, 200))
    assert polling.lost == 60


def test_a_partition_that_cannot_begin_where_it_was_told_to_is_told_again_in_a_while(
    broker: FakeBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(out_of_range, "AGAIN_SECONDS", 0.05)
    polling = Polling(tmp_path, broker)
    assert polling.offsets(100)
    report = KafkaError(KafkaError._AUTO_OFFSET_RESET, "failed to query logical offset")
    assignment = polling.poller.partitions.renew((TOPIC, 0))
    polling.poller.errors._out_of_range._sent_to[assignment] = OFFSET_BEGINNING
    for _ in range(3):
        polling.poller.errors.came(report, FakeMessage(TOPIC, 0, None, error=report))
        polling.poller.errors.look()
    assert [text for _, text in problems(caplog)] == [f"{TOPIC}-0: trying again to go on: failed to query logical offset"]
    assert polling.offsets(100) == list(range(100, 200))


def test_while_the_broker_says_nothing_the_partition_waits(
    broker: FakeBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(out_of_range, "AGAIN_SECONDS", 0.01)
    broker.set_committed(GROUP, TOPIC, 0, 40)
    polling = Polling(tmp_path, broker, on_offset_out_of_range="earliest")
    answer, asked = polling.client.get_watermark_offsets, []

    def answers_late(partition: TopicPartition, timeout: float | None = None, cached: bool = False) -> Any:
        asked.append(partition)
        if len(asked) < 3:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "no answer"))
        return answer(partition, timeout, cached)

    polling.client.get_watermark_offsets = answers_late  # type: ignore[method-assign]
    assert polling.offsets(100) == list(range(100, 200))
    assert sum("isn't known, asking again" in text for _, text in problems(caplog)) == 2
    assert polling.lost == 60


def test_a_report_about_an_offset_that_is_there_goes_on_from_it(broker: FakeBroker, tmp_path: Path):
    polling = Polling(tmp_path, broker)
    assert polling.offsets(50)[:50] == list(range(100, 150))
    error = KafkaError(KafkaError._AUTO_OFFSET_RESET, "Broker: Offset out of range")
    polling.client.script(FakeMessage(TOPIC, 0, 150, error=error))
    polling.until(lambda: polling.client.callers["incremental_assign"])
    broker.produce(TOPIC, 0, b"later")
    assert polling.offsets(1)[-1] == 200
    assert polling.state.running.is_set()
    assert polling.lost == 0


def test_a_report_about_a_partition_that_is_gone_is_dropped(broker: FakeBroker, tmp_path: Path):
    polling = Polling(tmp_path, broker)
    polling.offsets(100)
    report = KafkaError(KafkaError._AUTO_OFFSET_RESET, "Broker: Offset out of range")
    errors = polling.poller.errors
    errors.came(report, FakeMessage(TOPIC, 0, 200, error=report))
    broker.delete_before(TOPIC, 0, 200)
    polling.poller.partitions.on_lost(polling.client, [TopicPartition(TOPIC, 0)])
    errors.look()  # it was reported, and then went
    errors.came(report, FakeMessage(TOPIC, 0, None, error=report))
    errors.look()  # it went, and then was reported
    assert polling.state.running.is_set()
    assert polling.lost == 0
    assert errors._out_of_range._waiting == {}


def test_a_report_while_draining_decides_nothing(broker: FakeBroker, tmp_path: Path):
    broker.set_committed(GROUP, TOPIC, 0, 40)
    polling = Polling(tmp_path, broker, on_offset_out_of_range="earliest")
    polling.poller.partitions.on_assign(polling.client, [TopicPartition(TOPIC, 0)])
    report = KafkaError(KafkaError._AUTO_OFFSET_RESET, "Broker: Offset out of range")
    polling.state.stop("enough")
    polling.poller.errors.came(report, FakeMessage(TOPIC, 0, None, error=report))
    polling.poller.errors.look()
    assert polling.lost == 0
    assert polling.state.counters.poll_errors == 0


# --- the options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", sorted(STARTS))
def test_every_start_that_librdkafka_accepts_is_known(value: str):
    from confluent_kafka import Consumer

    Consumer({"group.id": "x", "auto.offset.reset": value}).close()
    assert start_of_new_group({"auto.offset.reset": value.upper()}) == STARTS[value]


def test_a_start_that_librdkafka_does_not_accept_is_a_usage_error_before_anything_runs(tmp_path: Path):
    assert start_of_new_group({}) == "earliest"
    consumer = KafkaConsumer(make_config(tmp_path, kafka_options={"auto.offset.reset": "somewhere"}))
    with pytest.raises(ConfigError, match="expected earliest, latest or error"):
        consumer.start()
    assert consumer.run() == 2


def test_librdkafka_is_always_told_to_report(tmp_path: Path):
    config = make_config(tmp_path, kafka_options={"auto.offset.reset": "latest"})
    assert client_options(config)["auto.offset.reset"] == "error"
