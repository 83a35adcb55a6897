"""The two writers: files from the start, rows by batch and by time, a file an hour, and an end when a file fails."""

from __future__ import annotations

import base64
import errno
import json
import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kafka_consumer import backup_csv_loop, csv_writers, dlq_csv_loop
from kafka_consumer.csv_files import RotatingCsv, decode_field, decode_headers
from kafka_consumer.csv_writers import BACKUP_COLUMNS, DLQ_COLUMNS, DLQ_TAIL, TAIL_BYTES, BackupWriter, DeadLetterWriter
from kafka_consumer.dead_letter import dead_letter
from kafka_consumer.shared_state import SharedState
from kafka_consumer.types import DeadLetter
from tests.fakes import FakeMessage, MockMessage
from tests.helpers import background, eventually, hourly_files, make_state, read_rows

LATE = datetime(2026, 11, 22, 10, 59, 50).astimezone()


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> None:
    """Every record of the package is captured."""
    caplog.set_level(logging.DEBUG, "kafka_consumer")


class Clock:
    """A wall clock that moves when a test moves it."""

    def __init__(self) -> None:
        self.now = LATE

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **duration: float) -> None:
        self.now += timedelta(**duration)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Ten seconds to eleven."""
    made = Clock()
    monkeypatch.setattr(csv_writers, "now", made)
    return made


def _messages(count: int, first: int = 0) -> list[MockMessage]:
    return [MockMessage("test-topic", 0, offset, b"k", b"value %d" % offset) for offset in range(first, first + count)]


def _letters(count: int, first: int = 0) -> list[DeadLetter]:
    try:
        raise ValueError("no good")
    except ValueError as error:
        return [dead_letter(message, error, 1, 3) for message in _messages(count, first)]


@contextmanager
def running(state: SharedState, loop: Any) -> Iterator[None]:
    """Run a writer's loop in a thread, and end it."""
    arguments = () if isinstance(loop, type(state.stop)) else (state,)
    with background(loop, *arguments, stop=lambda: state.stop("enough")):
        yield


def _backup(state: SharedState) -> list[dict[str, str]]:
    return read_rows(state.config.backup_path)


def _dlq(state: SharedState) -> list[dict[str, str]]:
    return read_rows(state.config.dlq_path)


def _offsets(rows: list[dict[str, str]]) -> list[int]:
    return [int(row["offset"]) for row in rows]


# --- the backup -------------------------------------------------------------------------------------------------------


def test_the_backup_file_and_its_header_are_there_before_any_row(tmp_path: Path, clock: Clock):
    """SPEC: Backup CSV - Initial Creation."""
    state = make_state(tmp_path)
    path = tmp_path / "backup_20261122_hour_10.csv"
    with running(state, backup_csv_loop):
        eventually(lambda: path.exists() and path.read_text())
        assert path.read_bytes() == b"received_at,topic,partition,offset,timestamp,key,value,headers,encoding\r\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert tuple(BACKUP_COLUMNS) == tuple(path.read_text().strip().split(","))


def test_rows_are_written_a_batch_at_a_time(tmp_path: Path):
    """SPEC: Backup CSV - Batch Writing."""
    state = make_state(tmp_path, csv_batch_size=10, csv_flush_interval_seconds=60)
    writer = BackupWriter(state)
    with running(state, writer.run):
        state.backup_csv_queue.put_many_nowait(_messages(15))
        eventually(lambda: len(_backup(state)) == 10)
        eventually(lambda: writer.waiting_rows == 5)
        assert _offsets(_backup(state)) == list(range(10))
        state.backup_csv_queue.put_many_nowait(_messages(5, first=15))
        eventually(lambda: len(_backup(state)) == 20)
    assert state.counters.backup_written == 20


def test_rows_are_written_by_time_too(tmp_path: Path):
    """SPEC: Backup CSV - Time-Based Flush."""
    state = make_state(tmp_path, csv_flush_interval_seconds=0.1)
    with running(state, backup_csv_loop):
        state.backup_csv_queue.put_many_nowait(_messages(5))
        eventually(lambda: len(_backup(state)) == 5)


def test_a_flush_is_due_after_the_interval_and_not_before(tmp_path: Path, clock: Clock):
    """SPEC: Backup CSV - Time-Based Flush."""
    state = make_state(tmp_path, csv_flush_interval_seconds=5)
    writer = BackupWriter(state)
    writer._open(clock())
    state.backup_csv_queue.put_many_nowait(_messages(5))
    writer.step()
    clock.advance(seconds=4.9)
    writer.step()
    assert _backup(state) == []
    clock.advance(seconds=0.1)
    writer.step()
    assert len(_backup(state)) == 5
    writer._file.close()


def test_a_wall_clock_that_was_set_back_keeps_no_rows_in_memory(tmp_path: Path, clock: Clock):
    state = make_state(tmp_path, csv_flush_interval_seconds=0.05)
    with running(state, backup_csv_loop):
        eventually(lambda: hourly_files(state.config.backup_path))
        state.backup_csv_queue.put_many_nowait(_messages(3))
        clock.advance(minutes=-30)
        eventually(lambda: len(_backup(state)) == 3)


def test_at_the_hour_the_old_file_is_closed_and_a_new_one_begun(tmp_path: Path, clock: Clock):
    """SPEC: Backup CSV - Hourly Rotation."""
    state = make_state(tmp_path, csv_flush_interval_seconds=60)
    writer = BackupWriter(state)
    with running(state, writer.run):
        state.backup_csv_queue.put_many_nowait(_messages(3))
        eventually(lambda: writer.waiting_rows == 3)
        clock.advance(seconds=20)
        state.backup_csv_queue.put_many_nowait(_messages(2, first=3))
        eventually(lambda: len(hourly_files(state.config.backup_path)) == 2)
        old, new = hourly_files(state.config.backup_path)
        eventually(lambda: writer._file.path == new)
        assert f"/proc/self/fd -> {old}" not in _open_files()
    assert [Path(p).name for p in (old, new)] == ["backup_20261122_hour_10.csv", "backup_20261122_hour_11.csv"]
    header = ",".join(BACKUP_COLUMNS)
    for path, expected in ((old, [0, 1, 2]), (new, [3, 4])):
        lines = Path(path).read_text().splitlines()
        assert lines[0] == header
        assert [int(line.split(",")[3]) for line in lines[1:]] == expected


def _open_files() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(f"/proc/self/fd -> {os.readlink(f'/proc/self/fd/{name}')}")
        except OSError:
            continue  # closed meanwhile
    return found


def test_an_idle_writer_rotates_as_well(tmp_path: Path, clock: Clock):
    """SPEC: Backup CSV - Hourly Rotation."""
    state = make_state(tmp_path)
    with running(state, backup_csv_loop):
        eventually(lambda: len(hourly_files(state.config.backup_path)) == 1)
        clock.advance(hours=1)
        eventually(lambda: len(hourly_files(state.config.backup_path)) == 2)


def test_an_hour_that_is_opened_again_gets_no_second_header(tmp_path: Path, clock: Clock):
    """SPEC: Backup CSV - Initial Creation."""
    state = make_state(tmp_path)
    for first in (0, 2):
        state = make_state(tmp_path)
        with running(state, backup_csv_loop):
            state.backup_csv_queue.put_many_nowait(_messages(2, first))
    assert _offsets(_backup(state)) == [0, 1, 2, 3]
    text = Path(hourly_files(state.config.backup_path)[0]).read_text()
    assert text.count("received_at") == 1


def test_a_rotation_that_fails_ends_the_consumer(tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture):
    """SPEC: Backup CSV - Rotation Failure Triggers Shutdown."""
    state = make_state(tmp_path)
    (tmp_path / "backup_20261122_hour_11.csv").mkdir()  # in the new file's place
    with running(state, backup_csv_loop):
        state.backup_csv_queue.put_many_nowait(_messages(2))
        eventually(lambda: len(_backup_rows_of_ten(tmp_path)) == 2)
        clock.advance(seconds=20)
        assert state.shutdown_event.wait(10)
    assert not state.running.is_set()
    assert state.lifecycle.failed is True
    critical = [r for r in caplog.records if r.levelno == logging.CRITICAL]
    assert len(critical) == 1
    assert "backup file" in critical[0].getMessage()
    assert "IsADirectoryError" in critical[0].getMessage()
    assert "the backup file failed" in (state.lifecycle.stop_reason or "")


def _backup_rows_of_ten(folder: Path) -> list[str]:
    path = folder / "backup_20261122_hour_10.csv"
    return path.read_text().splitlines()[1:] if path.exists() else []


def test_a_first_opening_that_fails_ends_the_consumer(tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture):
    """SPEC: Backup CSV - Rotation Failure Triggers Shutdown."""
    state = make_state(tmp_path)
    (tmp_path / "backup_20261122_hour_10.csv").mkdir()
    with running(state, backup_csv_loop):
        assert state.shutdown_event.wait(10)
    assert state.lifecycle.failed


@pytest.mark.parametrize("operation", ["write", "sync"])
def test_a_write_that_fails_ends_the_consumer(
    tmp_path: Path, operation: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """SPEC: Backup CSV - Write Failure Triggers Shutdown."""
    state = make_state(tmp_path)
    state.backup_csv_queue.hold()  # as the composition root does while polling goes on
    with running(state, backup_csv_loop):
        eventually(lambda: hourly_files(state.config.backup_path))
        monkeypatch.setattr(RotatingCsv, operation, _raise_full)
        state.backup_csv_queue.put_many_nowait(_messages(2))
        assert state.shutdown_event.wait(10)
        state.backup_csv_queue.put_many_nowait(_messages(1000))  # the pipe is emptied all the same
        eventually(state.backup_csv_queue.empty)
        state.backup_csv_queue.let_go()
    assert state.lifecycle.failed
    assert any(r.levelno == logging.CRITICAL and "No space left on device" in r.getMessage() for r in caplog.records)


def _raise_full(*arguments: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_that_cannot_even_be_closed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """SPEC: Backup CSV - Write Failure Triggers Shutdown."""
    state = make_state(tmp_path)
    writer = BackupWriter(state)
    close = writer._file.close
    with running(state, writer.run):
        eventually(lambda: hourly_files(state.config.backup_path))
        monkeypatch.setattr(writer._file, "write", _raise_full)
        monkeypatch.setattr(writer._file, "close", _raise_full)
        state.backup_csv_queue.put_many_nowait(_messages(1))
        assert state.shutdown_event.wait(10)
    close()
    assert any("closing the backup file failed as well" in m for m in caplog.messages)


def test_a_row_that_cannot_be_made_ends_the_consumer_with_its_traceback(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    class Odd(MockMessage):
        """Its key can't be read."""

        def key(self) -> bytes:
            raise RuntimeError("no key")

    state = make_state(tmp_path)
    with running(state, backup_csv_loop):
        state.backup_csv_queue.put(Odd("t", 0, 0, None, None))
        assert state.shutdown_event.wait(10)
    record = next(r for r in caplog.records if r.levelno == logging.CRITICAL)
    assert record.exc_info


def test_the_last_rows_are_written_at_the_end(tmp_path: Path):
    """SPEC: Backup CSV - Final Flush on Shutdown."""
    state = make_state(tmp_path, csv_flush_interval_seconds=3600, csv_batch_size=100)
    writer = BackupWriter(state)
    with running(state, writer.run):
        state.backup_csv_queue.put_many_nowait(_messages(5))
        eventually(lambda: writer.waiting_rows == 5)
        assert _backup(state) == []
        state.running.clear()
    assert _offsets(_backup(state)) == [0, 1, 2, 3, 4]
    assert writer._file.path is None  # closed
    assert not any(str(tmp_path) in name for name in _open_files())


def test_the_writer_goes_on_while_somebody_holds_its_pipe(tmp_path: Path):
    """SPEC: Backup CSV - Final Flush on Shutdown."""
    state = make_state(tmp_path)
    state.backup_csv_queue.hold()
    with running(state, backup_csv_loop):
        state.stop("enough")
        state.backup_csv_queue.put_many_nowait(_messages(3))
        state.backup_csv_queue.let_go()
    assert len(_backup(state)) == 3


def test_a_backup_row_gives_back_the_message(tmp_path: Path, clock: Clock):
    state = make_state(tmp_path)
    message = FakeMessage(
        "test-topic", 3, 7, b"k\xff", 'ä, "b"\r\nc'.encode(), headers=[("h", b"\x00"), ("h", None)], timestamp=1_700_000_000_123
    )
    with running(state, backup_csv_loop):
        state.backup_csv_queue.put(message)
        state.backup_csv_queue.put(MockMessage("test-topic", 3, 8, None, b""))
    first, second = _backup(state)
    assert (first["topic"], first["partition"], first["offset"], first["timestamp"]) == ("test-topic", "3", "7", "1700000000123")
    assert datetime.fromisoformat(first["received_at"]) == LATE
    assert first["encoding"] == "base64"
    assert decode_field(first["key"], "base64") == message.key()
    assert decode_field(first["value"], "base64") == message.value()
    assert json.loads(first["headers"]) == [["h", base64.b64encode(b"\x00").decode()], ["h", None]]
    assert decode_headers(first["headers"]) == (("h", b"\x00"), ("h", None))
    assert (second["encoding"], second["key"], second["value"], second["timestamp"], second["headers"]) == (
        "utf-8",
        "\\N",
        "",
        "",
        "[]",
    )


def test_a_torn_row_left_by_a_crash_is_set_aside_and_told(tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture):
    """SPEC: CSV File Integrity."""
    state = make_state(tmp_path)
    with running(state, backup_csv_loop):
        state.backup_csv_queue.put_many_nowait(_messages(3))
    path = Path(hourly_files(state.config.backup_path)[0])
    path.write_bytes(path.read_bytes()[:-4])
    state = make_state(tmp_path)
    with running(state, backup_csv_loop):
        state.backup_csv_queue.put_many_nowait(_messages(1, first=3))
    assert _offsets(_backup(state)) == [0, 1, 3]
    assert b"value" in Path(f"{path}.torn").read_bytes()
    assert f"backup file {path} ended in a torn row, moved to {path}.torn" in caplog.messages


def test_the_real_clock_is_local_and_knows_its_zone():
    assert abs(csv_writers.now().timestamp() - time.time()) < 5
    assert csv_writers.now().utcoffset() is not None


# --- the dead letters -------------------------------------------------------------------------------------------------


def test_a_dead_letter_is_written_with_its_evidence(tmp_path: Path, clock: Clock):
    """SPEC: DLQ CSV - Normal Operation."""
    state = make_state(tmp_path)
    with running(state, dlq_csv_loop):
        for letter in _letters(2):
            state.dlq_queue.put(letter)
        eventually(lambda: len(_dlq(state)) == 2)
    path = tmp_path / "dlq_20261122_hour_10.csv"
    assert tuple(path.read_text().splitlines()[0].split(",")) == DLQ_COLUMNS
    row = _dlq(state)[0]
    assert (row["topic"], row["partition"], row["offset"], row["key"], row["value"]) == ("test-topic", "0", "0", "k", "value 0")
    assert (row["error_type"], row["error_message"], row["attempts"], row["worker_id"]) == ("ValueError", "no good", "1", "3")
    assert "Traceback (most recent call last)" in row["stack_trace"]
    assert row["stack_trace"].endswith("ValueError: no good\n")
    assert datetime.fromisoformat(row["failed_at"]) == LATE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert state.counters.dlq_written == 2


def test_dead_letters_are_written_a_batch_at_a_time(tmp_path: Path):
    """SPEC: DLQ CSV - Batch Writing."""
    state = make_state(tmp_path, dlq_csv_batch_size=100, csv_flush_interval_seconds=60)
    writer = DeadLetterWriter(state)
    with running(state, writer.run):
        state.dlq_queue.put_many_nowait(_letters(150))
        eventually(lambda: state.counters.dlq_written == 100)
        eventually(lambda: writer.waiting_rows == 50)
        assert len(_dlq(state)) == 100
        assert not state.dlq_queue.is_pending(0, 99)
        assert state.dlq_queue.is_pending(0, 100)
    assert _offsets(_dlq(state)) == list(range(150))


def test_dead_letters_are_written_by_time_too(tmp_path: Path):
    state = make_state(tmp_path, csv_flush_interval_seconds=0.1)
    with running(state, dlq_csv_loop):
        state.dlq_queue.put(_letters(1)[0])
        eventually(lambda: len(_dlq(state)) == 1)


def test_somebody_who_waits_for_a_dead_letter_gets_it_written_at_once(tmp_path: Path):
    state = make_state(tmp_path, csv_flush_interval_seconds=3600)
    with running(state, dlq_csv_loop):
        state.dlq_queue.put(_letters(1)[0])
        assert state.dlq_queue.is_pending(0, 0)
        assert state.dlq_queue.flush(10) is True
        assert len(_dlq(state)) == 1
        assert not state.dlq_queue.is_pending(0, 0)


@pytest.mark.parametrize("operation", ["write", "sync"])
def test_a_dead_letter_that_cannot_be_written_ends_the_consumer_and_stays_pending(
    tmp_path: Path, operation: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """SPEC: DLQ CSV - Write Failure Triggers Shutdown."""
    state = make_state(tmp_path)
    with running(state, dlq_csv_loop):
        eventually(lambda: hourly_files(state.config.dlq_path))
        monkeypatch.setattr(RotatingCsv, operation, _raise_full)
        state.dlq_queue.put(_letters(1)[0])
        assert state.shutdown_event.wait(10)
    assert not state.running.is_set()
    assert state.lifecycle.failed
    assert any(r.levelno == logging.CRITICAL and "dead-letter file" in r.getMessage() for r in caplog.records)
    assert state.dlq_queue.is_pending(0, 0)  # so its offset is never committed
    assert state.counters.dlq_written == 0


def test_a_dead_letter_counts_as_written_only_when_it_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    state = make_state(tmp_path)
    pending_at_sync: list[bool] = []
    fsync = os.fsync

    def watch(descriptor: int) -> None:
        pending_at_sync.append(state.dlq_queue.is_pending(0, 0))
        fsync(descriptor)

    with running(state, dlq_csv_loop):
        eventually(lambda: hourly_files(state.config.dlq_path))
        monkeypatch.setattr(os, "fsync", watch)
        state.dlq_queue.put(_letters(1)[0])
        eventually(lambda: state.counters.dlq_written == 1)
    assert pending_at_sync[0] is True


def test_a_bare_message_put_by_hand_becomes_a_dead_letter(tmp_path: Path):
    state = make_state(tmp_path)
    with running(state, dlq_csv_loop):
        state.dlq_queue.put(_messages(1)[0])
    assert [(row["offset"], row["error_type"], row["worker_id"]) for row in _dlq(state)] == [("0", "LookupError", "")]


def test_the_tail_keeps_the_last_dead_letters_cut(tmp_path: Path):
    state = make_state(tmp_path)
    writer = DeadLetterWriter(state)
    with running(state, writer.run):
        state.dlq_queue.put_many_nowait(_letters(DLQ_TAIL + 30))
        huge = dead_letter(MockMessage("test-topic", 0, 9999, b"K" * 10_000, b"V" * 10_000), ValueError(), 1, 0)
        state.dlq_queue.put(huge)
        state.dlq_queue.put(dead_letter(MockMessage("test-topic", 0, 10_000, None, None), ValueError(), 1, 0))
        eventually(lambda: len(_dlq(state)) == DLQ_TAIL + 32)
    assert len(writer.tail) == DLQ_TAIL
    assert [letter.offset for _, letter in writer.tail[-2:]] == [9999, 10_000]
    cut = writer.tail[-2][1]
    assert (cut.key, cut.value) == (b"K" * TAIL_BYTES, b"V" * TAIL_BYTES)
    assert (writer.tail[-1][1].key, writer.tail[-1][1].value) == (None, None)
    assert _dlq(state)[-2]["value"] == "V" * 10_000  # the file has it whole


def test_hostile_text_in_an_error_is_written_and_read_back(tmp_path: Path):
    state = make_state(tmp_path)
    message = MockMessage("test-topic", 0, 0, b'"; DROP', b'=cmd()\r\n\x1b[2J,"')
    with running(state, dlq_csv_loop):
        state.dlq_queue.put(dead_letter(message, ValueError('\ud800 lone, \r\n"quoted"'), 1, 0))
    row = _dlq(state)[0]
    assert row["value"].encode() == message.value()
    assert row["error_message"] == '\\ud800 lone, \r\n"quoted"'
