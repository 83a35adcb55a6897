"""Messages that were deleted before they were read: by retention, or by an administrator. Never passed over in silence."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from itertools import pairwise

import pytest

from tests.helpers import eventually
from tests.kafka import Kafka
from tests.runs import Command, Ledger, Run, numbered

pytestmark = [pytest.mark.e2e, pytest.mark.needs_real_broker]

# A prefetch of a few messages, so that the fetch position stays behind what is deleted.
SMALL_PREFETCH = {"queued.min.messages": 10, "queued.max.messages.kbytes": 1, "fetch.message.max.bytes": 500}


def levels_of(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    """Return the levels of the warnings, and what is worse, that hold a text."""
    records = [record for record in list(caplog.records) if record.levelno >= logging.WARNING]
    return [record.levelname for record in records if text in record.getMessage()]


def test_messages_deleted_below_the_committed_offset_end_the_run_with_nothing_committed_past_the_hole(
    real_kafka: Kafka, command: Callable[..., Command]
) -> None:
    topic = real_kafka.create_topic()
    real_kafka.produce(topic, numbered(1000))
    real_kafka.set_committed(topic, topic, {0: 100})
    real_kafka.delete_before(topic, {0: 500})

    kc = command(topic)

    assert kc.wait() == 1
    (line,) = kc.lines("CRITICAL")
    assert f"{topic}-0: offset 100, which was to be read next (committed: 100), isn't in the log, from 500 to 1000" in line
    assert "up to 400 messages are gone for ever" in line
    assert "on_offset_out_of_range=fail" in line
    assert kc.ledger() == []
    assert real_kafka.committed(topic, topic) == {0: 100}
    assert "Traceback" not in kc.log

    # Knowing what is lost, the operator goes on.
    again = command(topic, "--on-offset-out-of-range", "earliest")
    again.wait_ledger(500)
    real_kafka.wait_for_lag(topic, topic)
    assert again.end() == 0
    assert sorted(again.ledger()) == sorted(numbered(500, start=500))


@pytest.mark.parametrize(("policy", "starts"), [("earliest", 500), ("latest", 1000)])
def test_a_run_that_is_to_go_on_says_what_is_lost_and_where_it_goes_on(
    real_kafka: Kafka, running: Callable[..., Run], caplog: pytest.LogCaptureFixture, policy: str, starts: int
) -> None:
    topic = real_kafka.create_topic(partitions=2)
    real_kafka.produce(topic, numbered(1000), partition=0)
    real_kafka.produce(topic, numbered(10, text="other"), partition=1)
    real_kafka.set_committed(topic, topic, {0: 100, 1: 0})
    real_kafka.delete_before(topic, {0: 500})
    ledger = Ledger()

    run = running(topic, ledger, on_offset_out_of_range=policy)
    eventually(lambda: run.committed() == {0: 1000, 1: 10}, 30, what="commits up to both ends")
    real_kafka.produce(topic, numbered(10, text="later"), partition=0)
    eventually(lambda: run.committed() == {0: 1010, 1: 10}, 30, what="commits of what came later")

    assert levels_of(caplog, "up to 400 messages are gone for ever") == ["ERROR"]
    assert levels_of(caplog, f"going on at offset {starts}") == ["ERROR"]
    assert run.totals.records_lost == 400
    assert run.end() == 0
    expected = [*numbered(1000)[starts:], *numbered(10, text="later"), *numbered(10, text="other")]
    assert sorted(ledger.values) == sorted(expected)


@pytest.mark.parametrize("policy", ["fail", "earliest"])
def test_messages_deleted_ahead_of_a_slow_run_are_noticed_in_the_middle_of_it(
    real_kafka: Kafka, running: Callable[..., Run], caplog: pytest.LogCaptureFixture, policy: str
) -> None:
    values = [b"%04d-" % number + b"x" * 400 for number in range(600)]
    topic = real_kafka.create_topic()
    for start in range(0, 600, 20):  # a fetch returns whole batches, however small it is to be
        real_kafka.produce(topic, values[start : start + 20])
    gate = threading.Event()
    ledger = Ledger(lambda value: gate.wait(60) if int(value[:4]) >= 10 else None)

    run = running(topic, ledger, queue_size=10, on_offset_out_of_range=policy, kafka_options=SMALL_PREFETCH)
    run.wait_finished(10)
    real_kafka.delete_before(topic, {0: 550})
    gate.set()

    if policy == "earliest":
        eventually(lambda: run.committed() == {0: 600}, 30, what="commits up to the end")
        assert run.end() == 0
    else:
        assert run.wait_end() == 1
    lost = run.totals.records_lost
    taken = [number for number in range(600) if values[number] in set(ledger.values)]
    holes = [(a, b) for a, b in pairwise(taken) if b != a + 1]
    level, text = ("ERROR", "going on at offset 550") if policy == "earliest" else ("CRITICAL", "on_offset_out_of_range=fail")
    assert levels_of(caplog, f"up to {lost} messages are gone for ever") == [level]
    assert levels_of(caplog, text) == [level]
    # What was taken before is finished and committed, each message once; what is lost is exactly the hole.
    assert len(ledger.values) == len(taken)
    if policy == "earliest":
        assert holes == [(549 - lost, 550)]
        assert taken[-1] == 599
    else:
        assert holes == []
        assert run.committed() == {0: 550 - lost}
        assert taken[-1] == 549 - lost


def test_a_group_that_has_committed_nothing_begins_without_a_complaint_where_it_is_told_to(
    real_kafka: Kafka, running: Callable[..., Run], caplog: pytest.LogCaptureFixture
) -> None:
    topic = real_kafka.create_topic(partitions=3)
    real_kafka.produce(topic, numbered(300))
    real_kafka.delete_before(topic, {0: 40})
    first, last = Ledger(), Ledger()

    begins = running(topic, first, group_id=f"{topic}-first")
    ends = running(topic, last, group_id=f"{topic}-last", kafka_options={"auto.offset.reset": "latest"})
    begins.wait_committed(260)
    eventually(lambda: ends.committed() == {0: 100, 1: 100, 2: 100}, 30, what="the ends to be committed")
    real_kafka.produce(topic, numbered(30, text="later"))
    begins.wait_committed(290)
    eventually(lambda: len(last.values) == 30, 30, what="what came later")

    assert begins.totals.records_lost == ends.totals.records_lost == 0
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []
    assert begins.end() == ends.end() == 0
    kept = [b"message-%d" % number for number in range(300) if number % 3 or number >= 120]
    assert sorted(first.values) == sorted([*kept, *numbered(30, text="later")])
    assert sorted(last.values) == sorted(numbered(30, text="later"))


def test_where_a_group_rebalances_eagerly_each_partition_goes_on_from_its_own_offset(
    real_kafka: Kafka, running: Callable[..., Run], caplog: pytest.LogCaptureFixture
) -> None:
    topic = real_kafka.create_topic(partitions=4)
    real_kafka.produce(topic, numbered(400))
    real_kafka.set_committed(topic, topic, {0: 10, 1: 30})
    real_kafka.delete_before(topic, {0: 50})
    ledger = Ledger()

    run = running(topic, ledger, on_offset_out_of_range="earliest", kafka_options={"partition.assignment.strategy": "range"})
    eventually(lambda: run.committed() == dict.fromkeys(range(4), 100), 30, what="commits up to the ends")

    assert run.totals.records_lost == 40
    assert levels_of(caplog, "gone for ever") == ["ERROR"]
    assert run.end() == 0
    # Of partition 0 from 50, of partition 1 from 30, of the others all; nothing twice.
    starts = {0: 50, 1: 30, 2: 0, 3: 0}
    assert sorted(ledger.values) == sorted(b"message-%d" % (4 * n + p) for p, start in starts.items() for n in range(start, 100))
