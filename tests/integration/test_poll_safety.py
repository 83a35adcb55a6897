"""What the polling thread must never do: let a commit pass a message that was polled and isn't finished.

Every case is one that a real client can produce: the end of a partition in one batch with its last messages, an error
behind a message, messages handed out twice. Each is played step by step, without a thread, so that it happens every time.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from kafka_consumer.chunk import Completion
from kafka_consumer.offset_manager import Committer
from kafka_consumer.polling_thread import Poller
from tests.fakes import FakeMessage
from tests.helpers import make_state

TOPIC = "test-topic"


def messages(*offsets: int) -> list[Any]:
    return [FakeMessage(TOPIC, 0, offset, None, b"v") for offset in offsets]


def end(offset: int) -> Any:
    """Return what the client hands out at the end of a partition; ``offset`` is that of the next message to come."""
    return FakeMessage(TOPIC, 0, offset, None, None, error=KafkaError(KafkaError._PARTITION_EOF))


class Batches:
    """A client that hands out prepared batches: ``poll()`` the first of a batch, ``consume()`` the rest of it, or its error."""

    def __init__(self, batches: Iterable[list[Any]]) -> None:
        self.batches = list(batches)
        self.commits: list[int] = []

    def poll(self, timeout: float = 0) -> Any:
        if not self.batches:
            return None
        if not self.batches[0]:
            self.batches.pop(0)
            return None
        return self.batches[0].pop(0)

    def consume(self, num_messages: int, timeout: float) -> list[Any]:
        if not self.batches:
            return []
        batch = self.batches.pop(0)
        if batch and isinstance(batch[0], Exception):
            raise batch[0]
        return batch

    def committed(self, partitions: list[TopicPartition], timeout: float = 0) -> list[TopicPartition]:
        return [TopicPartition(tp.topic, tp.partition, 0) for tp in partitions]

    def commit(self, offsets: list[TopicPartition], asynchronous: bool = False) -> None:
        self.commits += [tp.offset for tp in offsets]

    def pause(self, partitions: list[TopicPartition]) -> None:
        """Nothing: a message may come in spite of it, as one does that was on its way."""

    def resume(self, partitions: list[TopicPartition]) -> None:
        """Nothing."""


class Scene:
    """A poller, a committer and the workers' queue around such a client; one partition is assigned, committed up to 0."""

    def __init__(self, folder: Path, *batches: list[Any], **options: Any) -> None:
        self.state = make_state(folder, topic=TOPIC, backup_mode="off", **options)
        self.client = Batches(batches)
        self.committer = Committer(self.state, self.client)
        self.poller = Poller(self.state, self.client, self.committer)
        self.poller.partitions.subscribed = True
        self.poller.partitions.on_assign(self.client, [TopicPartition(TOPIC, 0)])

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.poller.step()

    def commit(self) -> list[int]:
        """Commit what may be committed; return every offset committed so far."""
        self.committer.collect()
        assert self.committer.commit_now()
        return self.client.commits

    def work(self) -> list[int]:
        """Process all that waits; return the offsets, in their order."""
        done: list[int] = []
        while (chunk := self.state.processing_queue.take(timeout=0)) is not None:
            done += [message.offset() for message in chunk.messages]
            assert chunk.assignment is not None
            assert chunk.sequences is not None
            self.state.processed_queue.add(Completion(chunk.assignment, chunk.sequences, failed=False))
            self.state.processing_queue.release(chunk)
        return done


def test_the_end_in_one_batch_with_the_last_message_takes_nothing_from_the_queue(tmp_path: Path) -> None:
    scene = Scene(tmp_path, messages(0, 1, 2, 3, 4), [*messages(5), end(6)])
    scene.steps(2)

    assert scene.work() == [0, 1, 2, 3, 4, 5]
    assert scene.commit() == [6]


def test_a_commit_between_a_poll_and_its_delivery_passes_nothing_that_was_polled(tmp_path: Path, monkeypatch: Any) -> None:
    scene = Scene(tmp_path, [*messages(0, 1, 2), end(3)])
    deliver = scene.poller._deliver

    def commit_first(*arguments: Any) -> Any:
        scene.commit()
        return deliver(*arguments)

    monkeypatch.setattr(scene.poller, "_deliver", commit_first)
    scene.steps(1)

    assert scene.client.commits == []
    assert scene.work() == [0, 1, 2]
    assert scene.commit() == [3]


def test_the_end_behind_messages_past_a_stop_target_commits_none_of_them(tmp_path: Path) -> None:
    scene = Scene(tmp_path, [*messages(*range(101, 200)), end(200)], stop_at_offset={(TOPIC, 0): 100})
    scene.steps(1)

    assert scene.work() == []
    assert all(offset <= 101 for offset in scene.commit())


@pytest.mark.parametrize("polled_one_by_one", [False, True], ids=["consume", "poll"])
def test_an_error_behind_a_message_does_not_drop_the_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, polled_one_by_one: bool
) -> None:
    error = KafkaException(KafkaError(KafkaError._TRANSPORT))
    scene = Scene(tmp_path, [*messages(0), error], messages(1, 2))
    if polled_one_by_one:
        prepared = iter([*messages(0), error, *messages(1, 2)])

        def poll(timeout: float = 0) -> Any:
            found = next(prepared, None)
            if isinstance(found, Exception):
                raise found
            return found

        scene.poller._bulk = False
        scene.client.poll = poll  # type: ignore[method-assign]
    scene.steps(4)

    assert scene.work() == [0, 1, 2]
    assert scene.commit() == [3]
    assert [r.levelname for r in caplog.records if "poll error" in r.getMessage()] == ["ERROR"]


def test_messages_handed_out_again_while_older_ones_wait_take_nothing_from_the_queue(tmp_path: Path) -> None:
    scene = Scene(tmp_path, messages(0, 1, 2, 3, 4, 5), messages(4, 5), messages(5, 6))
    scene.steps(3)

    assert scene.work() == [0, 1, 2, 3, 4, 5, 6]
    assert scene.commit() == [7]


def test_messages_handed_out_again_after_all_was_finished_are_processed_again(tmp_path: Path) -> None:
    scene = Scene(tmp_path, messages(0, 1, 2), messages(1, 2))
    scene.steps(1)
    assert scene.work() == [0, 1, 2]
    assert scene.commit() == [3]
    scene.steps(2)

    # The log was cut back, or somebody sought: what it holds now counts.
    assert scene.work() == [1, 2]


def test_a_message_that_comes_while_draining_is_not_committed_by_the_end_behind_it(tmp_path: Path) -> None:
    scene = Scene(tmp_path, messages(0), [*messages(1), end(2)])

    class Until:
        """True once the poller has looked at it often enough to have taken both batches."""

        looks = 0

        def is_set(self) -> bool:
            self.looks += 1
            return self.looks > 6

    scene.state.stop("the test drains")
    scene.poller.linger(Until())  # type: ignore[arg-type]

    assert scene.client.batches == []
    assert scene.commit() == []
