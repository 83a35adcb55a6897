"""The backup's queue is bounded by messages and by the bytes that aren't in the file yet."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from kafka_consumer import csv_writers
from kafka_consumer.batch_queue import BackupQueue, RunningFlag
from kafka_consumer.csv_files import RotatingCsv
from kafka_consumer.csv_writers import WRITE_BYTES, BackupWriter
from tests.fakes import FakeMessage
from tests.helpers import background, eventually, hourly_files, make_state, read_rows

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


@pytest.mark.parametrize("value", ["text", 5, None, b"four"])
def test_a_value_of_whatever_kind_is_counted_alike_when_it_comes_and_when_it_is_written(value: object):
    queue = BackupQueue(RunningFlag(), 100, 1000)
    items = [*messages(2, 10), FakeMessage("t", 0, 2, None, value)]

    assert queue.put_many_nowait(items) == 3
    for item in queue.get_many(0):
        queue.written([item])

    assert queue.bytes == 0


def test_what_exactly_fills_the_bytes_fits_and_nothing_after_it():
    queue = BackupQueue(RunningFlag(), 100, 1000)

    assert queue.put_many_nowait(messages(2, 500)) == 2
    assert queue.put_many_nowait(messages(1, 0)) == 0


# --- how far the file has got -----------------------------------------------------------------------------------------


def test_every_message_that_was_put_is_counted_in_whatever_way_it_was_put():
    queue = BackupQueue(RunningFlag(), 4, 1000)

    queue.put(messages(1, 1)[0])
    queue.put_many_nowait(messages(10, 1))
    queue.put_all(messages(5, 1))

    assert queue.put_total == 9
    assert queue.durable == 0


def test_a_flush_returns_when_all_that_was_put_is_on_disk(tmp_path: Path):
    state = make_state(tmp_path, csv_batch_size=1000, csv_flush_interval_seconds=3600.0)
    queue = state.backup_csv_queue
    with background(BackupWriter(state).run, stop=state.stop):
        for total in (3, 6):
            queue.put_many_nowait(messages(3, 10))
            assert queue.flush(10)
            assert queue.durable == queue.put_total == total
            assert len(read_rows(state.config.backup_path)) == total
        assert queue.flush(0)


def test_a_flush_wakes_the_writer_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(csv_writers, "TICK_SECONDS", 3600.0)  # it would sleep for an hour
    state = make_state(tmp_path, csv_batch_size=1000, csv_flush_interval_seconds=3600.0)
    queue = state.backup_csv_queue
    writer = BackupWriter(state)
    with background(writer.run, stop=state.stop):
        queue.put_many_nowait(messages(3, 10))
        eventually(lambda: writer.waiting_rows == 3)
        assert queue.flush(10)


def test_a_writer_that_comes_to_look_after_a_flush_was_asked_for_does_not_wait():
    queue = BackupQueue(RunningFlag(), 10, 1000)
    queue.put_many_nowait(messages(1, 1))
    assert len(queue.get_many(0)) == 1

    with background(queue.flush, 10):
        eventually(lambda: queue.flush_wanted, what="a flush")
        begun = time.monotonic()
        assert queue.get_many(60) == []
        assert time.monotonic() - begun < 30
        queue.synced(1)
    assert not queue.flush_wanted


def test_durable_never_runs_ahead_of_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    state = make_state(tmp_path, csv_batch_size=1, csv_flush_interval_seconds=0.01)
    queue = state.backup_csv_queue
    real = os.fsync
    ahead: list[tuple[int, int]] = []
    counted = 0

    def sync(descriptor: int) -> None:
        nonlocal counted
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        before = queue.durable
        if before > counted:
            ahead.append((before, counted))
        real(descriptor)
        if name.endswith(".csv"):
            counted = Path(name).read_bytes().count(b"\n") - 1

    monkeypatch.setattr(os, "fsync", sync)
    with background(BackupWriter(state).run, stop=state.stop):
        for _ in range(20):
            queue.put_many_nowait(messages(3, 10))
            assert queue.flush(10)
            assert queue.durable <= counted
    assert ahead == []
    assert queue.durable == queue.put_total == 60


def test_the_end_of_the_writer_makes_all_durable(tmp_path: Path):
    state = make_state(tmp_path, csv_batch_size=1000, csv_flush_interval_seconds=3600.0)
    with background(BackupWriter(state).run, stop=state.stop):
        state.backup_csv_queue.put_many_nowait(messages(7, 10))
    assert state.backup_csv_queue.durable == 7


def test_a_flush_that_gets_no_answer_gives_up_in_time():
    queue = BackupQueue(RunningFlag(), 10, 1000)
    queue.put_many_nowait(messages(1, 1))

    assert queue.flush(0.02) is False
    assert queue.flush_wanted


def test_nobody_waits_for_a_file_that_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    state = make_state(tmp_path, csv_batch_size=1000, csv_flush_interval_seconds=3600.0)
    queue = state.backup_csv_queue
    queue.hold()
    with background(BackupWriter(state).run):
        eventually(lambda: hourly_files(state.config.backup_path), what="the file")
        monkeypatch.setattr(RotatingCsv, "sync", _fail)
        queue.put_many_nowait(messages(1, 10))
        begun = time.monotonic()
        assert queue.flush(60) is False
        assert time.monotonic() - begun < 30
        assert state.shutdown_event.wait(10)
        assert queue.flush(60) is False
        assert queue.durable == 0
        queue.let_go()


def _fail(*arguments: object) -> None:
    raise OSError("no")


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
