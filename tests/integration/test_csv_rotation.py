"""The hourly files of a whole consumer, with a clock that a test moves."""

from __future__ import annotations

import csv
import logging
import os
import threading
from datetime import datetime, timedelta
from pathlib import Path

import psutil
import pytest

from kafka_consumer import csv_files, csv_writers
from kafka_consumer.csv_writers import BACKUP_COLUMNS, DLQ_COLUMNS, backup_csv_loop, dlq_csv_loop
from tests.fakes import MockMessage
from tests.helpers import background, eventually, hourly_files, make_state, read_rows
from tests.integration.conftest import TOPIC, Life

FIRST = datetime(2026, 11, 22, 10, 59, 50).astimezone()


class Clock:
    """What the writers take for the time."""

    def __init__(self) -> None:
        self.at = FIRST

    def __call__(self) -> datetime:
        return self.at

    def advance(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(csv_writers, "now", found)
    return found


def rows_of(path: str | Path) -> list[list[str]]:
    """Return all rows of a file, the header too."""
    with open(path, newline="", encoding="utf-8") as handle:
        return list(csv.reader(handle))


def offsets(path: str | Path) -> list[int]:
    return [int(row[3]) for row in rows_of(path)[1:]]


def names(base: str) -> list[str]:
    return [os.path.basename(path) for path in hourly_files(base)]


def wait_for_files(life: Life, count: int) -> None:
    for base in (life.consumer.config.backup_path, life.consumer.config.dlq_path):
        eventually(lambda base=base: len(names(base)) == count)  # type: ignore[misc]


def wait_for_backup(life: Life, rows: int) -> None:
    eventually(lambda: len(life.backup()) == rows)


def is_open(path: str) -> bool:
    return os.path.realpath(path) in {found.path for found in psutil.Process().open_files()}


def fail(value: bytes | None) -> None:
    raise ValueError("no")


# --- SPEC -------------------------------------------------------------------------------------------------------------


def test_at_the_hour_the_old_file_is_closed_and_a_new_one_begun(broker, live, clock):
    """SPEC: CSV Rotation - Hour Boundary."""
    life = live()
    base = life.consumer.config.backup_path
    broker.produce_many(TOPIC, 0, [b"before"] * 10)
    life.wait_committed(10)
    eventually(lambda: len(read_rows(base)) == 10)
    [old] = hourly_files(base)
    assert is_open(old)

    clock.advance(20)  # 11:00:10
    eventually(lambda: len(hourly_files(base)) == 2)
    broker.produce_many(TOPIC, 0, [b"after"] * 5)
    life.wait_committed(15)
    assert not is_open(old)
    assert life.end() == 0

    assert names(base) == ["backup_20261122_hour_10.csv", "backup_20261122_hour_11.csv"]
    ten, eleven = hourly_files(base)
    assert offsets(ten) == list(range(10))
    assert offsets(eleven) == list(range(10, 15))
    assert rows_of(ten)[0] == rows_of(eleven)[0] == list(BACKUP_COLUMNS)


def test_three_hours_give_three_files_with_a_header_and_their_own_rows_each(broker, live, clock):
    """SPEC: CSV Rotation - Multiple Rotations."""
    life = live(processor_callable=fail)
    for hour in range(3):
        if hour:
            clock.advance(3600)
        wait_for_files(life, hour + 1)
        broker.produce_many(TOPIC, 0, [f"hour-{10 + hour}".encode()] * 4)
        life.wait_committed(4 * (hour + 1))
        wait_for_backup(life, 4 * (hour + 1))
    assert life.end() == 0

    for base, columns in ((life.consumer.config.backup_path, BACKUP_COLUMNS), (life.consumer.config.dlq_path, DLQ_COLUMNS)):
        files = hourly_files(base)
        stem = Path(base).stem
        assert names(base) == [f"{stem}_20261122_hour_{hour}.csv" for hour in (10, 11, 12)]
        for number, path in enumerate(files):
            rows = rows_of(path)
            assert rows[0] == list(columns)
            assert [row[6] for row in rows[1:]] == [f"hour-{10 + number}"] * 4
            assert sorted(offsets(path)) == list(range(number * 4, number * 4 + 4))


def test_a_rotation_that_falls_into_the_shutdown_is_completed_and_the_new_file_gets_the_last_rows(broker, live, clock, gate):
    """SPEC: CSV Rotation - Rotation During Shutdown."""
    # Nothing is flushed before the end: what is taken out of the queue waits in memory, and the rotation has to write it.
    life = live(processor_callable=gate, csv_flush_interval_seconds=3600.0)
    base = life.consumer.config.backup_path
    broker.produce_many(TOPIC, 0, [b"x"] * 10)
    eventually(lambda: life.state.counters.polled == 10 and life.state.backup_csv_queue.qsize() == 0)
    assert read_rows(base) == []

    life.consumer.stop()
    clock.advance(20)
    gate.open.set()
    assert life.wait_end() == 0

    ten, eleven = hourly_files(base)
    assert offsets(ten) == list(range(10)), "expected the rows taken before the hour in the old hour's file"
    assert rows_of(eleven) == [list(BACKUP_COLUMNS)]
    assert not is_open(ten)
    assert not is_open(eleven)
    assert life.committed() == 10


@pytest.mark.parametrize("loop", ["backup", "dlq"])
def test_the_last_flush_goes_to_the_new_hour_s_file_when_both_come_together(tmp_path, clock, loop):
    """SPEC: CSV Rotation - Rotation During Shutdown."""
    state = make_state(tmp_path, csv_flush_interval_seconds=3600.0)
    queue, base, work = (
        (state.backup_csv_queue, state.config.backup_path, backup_csv_loop)
        if loop == "backup"
        else (state.dlq_queue, state.config.dlq_path, dlq_csv_loop)
    )
    with background(work, state, stop=state.stop) as thread:
        eventually(lambda: hourly_files(base))
        with queue.mutex:  # the writer sees the new hour, the rows and the end at the same look
            clock.advance(20)
            for offset in range(5):
                queue._put(MockMessage(TOPIC, 0, offset, None, b"x"))
            threading.Event.clear(state.running)  # without the wake-up of the pipes, which takes this very lock
        queue.wake()
        thread.join(5)
        assert not thread.is_alive()

    ten, eleven = hourly_files(base)
    assert offsets(ten) == []
    assert offsets(eleven) == list(range(5))
    assert not is_open(ten)
    assert not is_open(eleven)


# --- more -------------------------------------------------------------------------------------------------------------


def test_a_file_is_begun_for_an_hour_without_messages_too(live, clock):
    life = live()
    eventually(lambda: names(life.consumer.config.backup_path) == ["backup_20261122_hour_10.csv"])
    clock.advance(20)
    eventually(lambda: len(names(life.consumer.config.backup_path)) == 2)
    assert rows_of(hourly_files(life.consumer.config.backup_path)[1]) == [list(BACKUP_COLUMNS)]


def test_a_dead_letter_that_waits_when_the_hour_ends_is_committed_after_the_rotation(broker, live, clock):
    life = live(processor_callable=fail, csv_flush_interval_seconds=3600.0, commit_interval_seconds=0.3)
    broker.produce_many(TOPIC, 0, [b"x"] * 3)
    eventually(lambda: life.state.counters.polled == 3)
    clock.advance(20)
    life.wait_committed(3)
    assert sorted(int(row["offset"]) for row in life.dead_letters()) == [0, 1, 2]


def test_midnight_changes_the_date_in_the_name(live, clock):
    clock.at = datetime(2026, 12, 31, 23, 59, 59).astimezone()
    life = live()
    eventually(lambda: names(life.consumer.config.backup_path) == ["backup_20261231_hour_23.csv"])
    clock.advance(2)
    eventually(lambda: names(life.consumer.config.backup_path)[1:] == ["backup_20270101_hour_00.csv"])


def test_a_restart_in_the_same_hour_goes_on_in_the_same_file(tmp_path, clock):
    for start in (0, 10):
        state = make_state(tmp_path)
        with background(backup_csv_loop, state, stop=state.stop):
            for offset in range(start, start + 10):
                state.backup_csv_queue.put(MockMessage(TOPIC, 0, offset, None, b"x"))
    [path] = hourly_files(tmp_path / "backup.csv")
    assert offsets(path) == list(range(20))
    assert [row for row in rows_of(path) if row[0] == "received_at"] == [list(BACKUP_COLUMNS)]


def test_a_clock_set_back_appends_to_the_earlier_hour_and_loses_nothing(broker, live, clock):
    clock.at = datetime(2026, 11, 22, 11, 0, 5).astimezone()
    life = live()
    base = life.consumer.config.backup_path
    broker.produce_many(TOPIC, 0, [b"x"] * 5)
    eventually(lambda: len(read_rows(base)) == 5)
    clock.advance(-60)
    eventually(lambda: len(names(base)) == 2)
    broker.produce_many(TOPIC, 0, [b"x"] * 5)
    life.wait_committed(10)
    assert life.end() == 0
    ten, eleven = hourly_files(base)
    assert (offsets(eleven), offsets(ten)) == ([0, 1, 2, 3, 4], [5, 6, 7, 8, 9])


@pytest.mark.parametrize("base", ["backup", "dlq"])
def test_a_rotation_that_fails_ends_the_consumer_as_failed(live, clock, monkeypatch, log, base):
    life = live()
    eventually(lambda: hourly_files(life.consumer.config.backup_path) and hourly_files(life.consumer.config.dlq_path))
    real = csv_files.open_private

    def failing(path: str, flags: int) -> int:
        if f"{base}_20261122_hour_11" in path:
            raise OSError(28, "No space left on device", path)
        return real(path, flags)

    monkeypatch.setattr(csv_files, "open_private", failing)
    clock.advance(20)

    assert life.wait_end() == 1
    [line] = log(logging.CRITICAL)
    assert "No space left on device" in line
    assert f"{base}_20261122_hour_11.csv" in line
