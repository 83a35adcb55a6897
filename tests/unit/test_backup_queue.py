"""The backup's queue is bounded by messages and by the bytes that aren't in the file yet."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from kafka_consumer.batch_queue import BackupQueue, RunningFlag
from kafka_consumer.csv_writers import WRITE_BYTES, BackupWriter
from tests.fakes import FakeMessage
from tests.helpers import background, eventually, make_state, read_rows

pytestmark = pytest.mark.unit


def messages(count: int, size: int) -> list[FakeMessage]:
    return [FakeMessage("t", 0, offset, None, b"x" * size) for offset in range(count)]


def test_it_takes_messages_until_their_bytes_are_used_up():
    queue = BackupQueue(RunningFlag(), 100, 1000)

    # The one that crosses the bound still fits: whatever its size, one always does.
    assert queue.put_many_nowait(messages(10, 400)) == 3
    assert queue.bytes == 1200
    assert queue.wait_for_room(0) == 0
    assert queue.put_many_nowait(messages(1, 1)) == 0


def test_it_takes_messages_until_their_number_is_reached():
    queue = BackupQueue(RunningFlag(), 3, 1000)

    assert queue.put_many_nowait(messages(10, 1)) == 3
    assert queue.wait_for_room(0) == 0


def test_bytes_count_until_they_are_written_and_then_wake_who_waits_for_room():
    queue = BackupQueue(RunningFlag(), 100, 1000)
    queue.put_many_nowait(messages(3, 400))
    taken = queue.get_many(0)
    assert queue.wait_for_room(0) == 0
    found: list[int] = []

    with background(lambda: found.append(queue.wait_for_room(10))):
        queue.written(taken[:1])
        eventually(lambda: found, what="room")

    assert found == [100]
    assert queue.bytes == 800


def test_a_message_that_cannot_be_read_has_no_size():
    class Unreadable(FakeMessage):
        def value(self):
            raise ValueError("no")

    queue = BackupQueue(RunningFlag(), 100, 1000)

    assert queue.put_many_nowait([Unreadable("t", 0, 0)]) == 1
    assert queue.bytes == 0


def test_large_rows_are_written_before_a_batch_is_full(tmp_path: Path):
    state = make_state(tmp_path, csv_batch_size=1000, csv_flush_interval_seconds=3600.0)
    writer = BackupWriter(state)
    ended = threading.Event()

    def run() -> None:
        writer.run()
        ended.set()

    with background(run, stop=state.stop):
        assert state.backup_csv_queue.put_many_nowait(messages(5, WRITE_BYTES // 2)) == 5
        eventually(lambda: state.counters.backup_written == 5, what="five rows in the file")
        assert state.backup_csv_queue.bytes == 0
        assert not ended.is_set()
    assert [row["offset"] for row in read_rows(state.config.backup_path)] == ["0", "1", "2", "3", "4"]
