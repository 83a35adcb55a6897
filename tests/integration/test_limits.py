"""Limits of a whole consumer: a bounded drain, too many failures, commits that are refused, messages that are gone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import pytest
from confluent_kafka import KafkaError, KafkaException

from tests.fakes import FakeBroker, FakeConsumer
from tests.helpers import eventually
from tests.integration.conftest import GROUP, TOPIC, Gate, Life


def numbers(count: int, start: int = 0) -> list[bytes | None]:
    return [b"%d" % number for number in range(start, start + count)]


def severe(caplog: pytest.LogCaptureFixture, level: int = logging.ERROR) -> list[str]:
    return [r.getMessage() for r in list(caplog.records) if r.levelno >= level]


# --- a bounded drain --------------------------------------------------------------------------------------------------


def test_workers_that_do_not_end_are_given_up_when_draining_is_bounded(
    broker: FakeBroker, live: Callable[..., Life], gate: Gate, caplog: pytest.LogCaptureFixture
):
    broker.produce_many(TOPIC, 0, numbers(50))
    broker.produce_many(TOPIC, 1, numbers(5))

    def work(value: bytes | None) -> None:
        if value in {b"20", b"30"}:
            gate(value)

    life = live(processor_callable=work, worker_count=4, shutdown_drain_seconds=0.3, shutdown_warning_seconds=0.1)
    eventually(lambda: life.state.counters.processed == 53)
    begun = time.monotonic()
    life.consumer.stop("enough")
    assert life.wait_end() == 1
    assert 0.25 < time.monotonic() - begun < 5

    (said,) = severe(caplog)
    assert said.startswith(
        "draining took longer than shutdown_drain_seconds=0.3: 2 messages stay unfinished and will be repeated after a restart; "
        "given up: 2 workers: worker "
    )
    assert f"({TOPIC}-0@20, " in said
    assert f"({TOPIC}-0@30, " in said
    assert life.state.lifecycle.stop_reason == said
    assert life.committed() == 20
    assert life.committed(1) == 5
    # Named before, too, at the interval for that.
    assert any("still draining after 0.1 s, waiting for 2 workers" in r.getMessage() for r in caplog.records)
    assert life.client.closed


def test_what_waits_behind_workers_that_were_given_up_is_not_begun_any_more(
    broker: FakeBroker, live: Callable[..., Life], gate: Gate
):
    broker.produce_many(TOPIC, 0, numbers(50))
    life = live(processor_callable=gate, worker_count=2, shutdown_drain_seconds=0.1)
    eventually(lambda: len(gate.begun) == 2 and life.state.counters.polled == 50)
    life.consumer.stop("enough")
    assert life.wait_end() == 1
    gate.open.set()
    eventually(lambda: len(gate.done) == 2)
    eventually(lambda: not life.consumer._pool.alive(), what="the workers' end")
    assert len(gate.begun) == 2
    assert life.committed() is None


def test_a_drain_within_the_bound_is_a_clean_end(broker: FakeBroker, live: Callable[..., Life], gate: Gate):
    broker.produce_many(TOPIC, 0, numbers(5))
    life = live(processor_callable=gate, worker_count=2, shutdown_drain_seconds=30)
    eventually(lambda: len(gate.begun) == 2)
    life.consumer.stop("enough")
    gate.open.set()
    assert life.wait_end() == 0
    assert life.committed() == 5


# --- too many failures ------------------------------------------------------------------------------------------------


def test_polling_pauses_when_too_many_fail_and_goes_on_when_it_is_resumed(
    broker: FakeBroker, live: Callable[..., Life], caplog: pytest.LogCaptureFixture
):
    broker.produce_many(TOPIC, 0, numbers(5000))
    broken = [True]

    def work(value: bytes | None) -> None:
        if broken[0]:
            raise LookupError("the table is away")

    life = live(processor_callable=work, queue_size=50, max_failure_ratio=0.8)
    eventually(lambda: life.consumer.snapshot().paused, what="the pause")
    eventually(lambda: life.committed() == life.state.counters.polled, what="what was queued to be finished")
    snapshot = life.consumer.snapshot()
    (said,) = severe(caplog, logging.CRITICAL)
    assert snapshot.pause_reason is not None
    assert "messages failed (100%; max_failure_ratio=0.8), most often LookupError" in snapshot.pause_reason
    assert said.startswith(snapshot.pause_reason)
    assert {view.note for view in snapshot.partitions} == {"too many messages fail"}
    assert {view.state for view in snapshot.partitions} == {"paused"}
    assert snapshot.to_dict()["pause_reason"] == snapshot.pause_reason
    assert snapshot.phase == "running"
    polled = life.state.counters.polled
    assert 200 <= polled < 2000
    assert len(life.dead_letters()) == polled

    broken[0] = False
    life.consumer.resume()
    life.wait_committed(5000)
    snapshot = life.consumer.snapshot()
    assert (snapshot.paused, snapshot.pause_reason) == (False, None)
    assert life.end() == 0


def test_it_trips_again_when_nothing_was_mended(broker: FakeBroker, live: Callable[..., Life], caplog: pytest.LogCaptureFixture):
    broker.produce_many(TOPIC, 0, numbers(5000))

    def work(value: bytes | None) -> None:
        raise LookupError("the table is away")

    life = live(processor_callable=work, queue_size=50, max_failure_ratio=0.8)
    eventually(lambda: life.consumer.snapshot().paused, what="the pause")
    eventually(lambda: life.committed() == life.state.counters.polled)
    life.consumer.resume([(TOPIC, 0)])
    eventually(lambda: len(severe(caplog, logging.CRITICAL)) == 2, what="the second pause")
    assert life.consumer.snapshot().paused
    assert life.end() == 0


def test_a_run_that_ends_while_it_is_paused_ends_as_any_other(broker: FakeBroker, live: Callable[..., Life]):
    broker.produce_many(TOPIC, 0, numbers(1000))

    def work(value: bytes | None) -> None:
        raise LookupError("the table is away")

    life = live(processor_callable=work, queue_size=50, max_failure_ratio=1.0)
    eventually(lambda: life.consumer.snapshot().paused, what="the pause")
    assert life.end() == 0
    assert life.committed() == life.state.counters.polled == len(life.dead_letters())


# --- commits that are refused -----------------------------------------------------------------------------------------


def test_a_commit_that_is_refused_for_want_of_rights_ends_the_run_at_once(
    broker: FakeBroker, live: Callable[..., Life], caplog: pytest.LogCaptureFixture
):
    broker.produce_many(TOPIC, 0, numbers(10))
    client = FakeConsumer(broker, GROUP)

    def refuse(_offsets: object) -> None:
        raise KafkaException(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED, "not you"))

    client.commit_hook = refuse
    life = live(client=client, shutdown_timeout_seconds=30.0)
    begun = time.monotonic()
    assert life.wait_end() == 1
    assert time.monotonic() - begun < 5, "expected the last commit not to be tried again"
    assert severe(caplog, logging.CRITICAL) == ["Kafka refuses access: not you; stopping"]
    assert life.state.lifecycle.stop_reason == "Kafka refuses access: not you"
    assert life.state.counters.processed == 10
    assert life.committed() is None


# --- messages that are gone -------------------------------------------------------------------------------------------


def test_messages_deleted_before_they_were_read_end_the_run_with_what_was_taken_committed(
    broker: FakeBroker, live: Callable[..., Life], caplog: pytest.LogCaptureFixture
):
    broker.produce_many(TOPIC, 0, numbers(100))
    client = FakeConsumer(broker, GROUP, auto_offset_reset="error")
    life = live(client=client)
    life.wait_committed(100)
    life.consumer.pause()
    broker.produce_many(TOPIC, 0, numbers(100, 100))
    broker.delete_before(TOPIC, 0, 150)
    life.consumer.resume()
    assert life.wait_end() == 1
    assert life.committed() == 100
    (said,) = severe(caplog)
    assert "up to 50 messages are gone for ever" in said
    assert life.consumer.snapshot().totals.records_lost == 50


def test_told_to_go_on_the_commit_passes_the_hole(broker: FakeBroker, live: Callable[..., Life]):
    broker.produce_many(TOPIC, 0, numbers(200))
    broker.set_committed(GROUP, TOPIC, 0, 100)
    broker.delete_before(TOPIC, 0, 150)
    client = FakeConsumer(broker, GROUP, auto_offset_reset="error")
    life = live(client=client, on_offset_out_of_range="earliest")
    life.wait_committed(200)
    assert life.state.counters.processed == 50
    assert life.end() == 0


def test_a_partition_whose_messages_are_all_gone_is_committed_up_to_its_end(broker: FakeBroker, live: Callable[..., Life]):
    broker.produce_many(TOPIC, 0, numbers(200))
    broker.set_committed(GROUP, TOPIC, 0, 100)
    broker.delete_before(TOPIC, 0, 200)
    client = FakeConsumer(broker, GROUP, auto_offset_reset="error")
    life = live(client=client, on_offset_out_of_range="latest")
    life.wait_committed(200)
    assert life.consumer.snapshot().totals.records_lost == 100
    assert life.end() == 0
