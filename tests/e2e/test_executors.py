"""Wherever the function runs, a real Kafka sees the same: processed or in the dead letters, then committed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from kafka_consumer.commit_metadata import decode
from tests.helpers import eventually
from tests.kafka import Kafka
from tests.runs import Run, numbered

pytestmark = [pytest.mark.e2e, pytest.mark.needs_real_broker]


def fails_for_each_tenth(value: bytes | None) -> None:
    """Fail for 0, 10, 20, …; importable, as processes want it."""
    if int((value or b"").rsplit(b"-", 1)[-1]) % 10 == 0:
        raise ValueError("each tenth fails")


async def fails_for_each_tenth_later(value: bytes | None) -> None:
    """Do the same on an event loop."""
    await asyncio.sleep(0.001)
    fails_for_each_tenth(value)


@pytest.mark.parametrize(
    ("executor", "processor"),
    [("thread", fails_for_each_tenth), ("process", fails_for_each_tenth), ("asyncio", fails_for_each_tenth_later)],
)
def test_what_fails_is_in_the_dead_letters_and_all_is_committed(
    real_kafka: Kafka, running: Callable[..., Run], executor: str, processor: Callable[..., Any]
) -> None:
    values = numbered(1000)
    topic = real_kafka.create_topic(partitions=3)
    for partition in range(3):
        real_kafka.produce(topic, values[partition::3], partition=partition)
    run = running(topic, processor, executor=executor, worker_count=4)
    run.wait_committed(1000, timeout=60)
    assert run.end() == 0
    assert run.lag() == 0
    failed = sorted(int(row["value"].rsplit("-", 1)[-1]) for row in run.dead_letters())
    assert failed == list(range(0, 1000, 10))
    assert (run.totals.processed, run.totals.failed) == (900, 100)
    assert sorted(value or b"" for value in run.backup()) == sorted(values)


def test_what_is_finished_beyond_a_message_that_does_not_end_is_skipped_by_the_next_run(
    real_kafka: Kafka, running: Callable[..., Run]
) -> None:
    topic = real_kafka.create_topic()
    real_kafka.produce(topic, numbered(501))
    release = asyncio.Event()
    called: list[bytes] = []

    async def stuck_at_the_first(value: bytes) -> None:
        if value.endswith(b"-0"):
            await release.wait()
        called.append(value)

    first = running(topic, stuck_at_the_first, worker_count=10, shutdown_drain_seconds=0.5)
    eventually(lambda: len(called) == 500, 30)

    def recorded() -> bool:
        text = real_kafka.committed_metadata(first.config.group_id, topic).get(0, "")
        return bool(text) and decode(text, 0) == [(1, 501)]

    eventually(recorded, 30)
    assert first.end() == 1, "the first message was given up"
    again: list[bytes] = []
    second = running(topic, again.append, folder=None)
    second.wait_committed(501)
    assert second.end() == 0
    assert [value.rsplit(b"-", 1)[-1] for value in again] == [b"0"]
    assert second.lag() == 0


def test_a_replay_between_two_offsets_commits_nothing_and_ends_by_itself(real_kafka: Kafka, running: Callable[..., Run]) -> None:
    topic = real_kafka.create_topic(partitions=2)
    for partition in range(2):
        real_kafka.produce(topic, numbered(1000, text=f"p{partition}"), partition=partition)
    seen: list[bytes] = []
    run = running(topic, seen.append, replay_from=(f"{topic}:0:100", f"{topic}:1:900"), replay_to="latest")
    assert run.wait_end() == 0
    assert len(seen) == 900 + 100
    assert run.committed() == {}
    group = running(topic, seen.append, replay_from="earliest", replay_to="latest", replay_commit=True)
    assert group.wait_end() == 0
    assert group.committed() == {0: 1000, 1: 1000}
    assert len(seen) == 1000 + 2000


def test_a_seek_sends_a_running_consumer_elsewhere(real_kafka: Kafka, running: Callable[..., Run]) -> None:
    topic = real_kafka.create_topic(partitions=2)
    for partition in range(2):
        real_kafka.produce(topic, numbered(100, text=f"p{partition}"), partition=partition)
    seen: list[bytes] = []
    run = running(topic, seen.append)
    run.wait_committed(200)
    run.consumer.seek([(topic, 0)], 90)
    eventually(lambda: len(seen) == 210, 30)
    run.consumer.seek([(topic, 0), (topic, 1)], "earliest")
    eventually(lambda: len(seen) == 410, 30)
    assert run.end() == 0
    assert run.lag() == 0
    assert len(seen) == 410
