"""Closed hours of the backup: compressed whole or not at all, deleted in time, and nothing else in the folder is touched."""

from __future__ import annotations

import errno
import gzip
import logging
import os
import stat
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kafka_consumer import ConfigError, csv_files, csv_writers, retention
from kafka_consumer.csv_writers import BackupWriter, DeadLetterWriter
from kafka_consumer.retention import Retention
from kafka_consumer.shared_state import SharedState
from tests.fakes import FakeMessage
from tests.helpers import background, eventually, make_config, make_state

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 22, 14, 5).astimezone()
LOGGER = logging.getLogger("kafka_consumer")
ROWS = b"offset,value\r\n1,a\r\n" * 1000


def name(at: datetime, base: str = "backup", suffix: str = ".csv") -> str:
    return f"{base}_{at:%Y%m%d}_hour_{at:%H}{suffix}"


def hour(folder: Path, ago: float, content: bytes = ROWS, *, base: str = "backup", suffix: str = ".csv") -> Path:
    """Write the file of so many hours ago, last written to when its hour ended."""
    at = NOW - timedelta(hours=ago)
    path = folder / name(at, base, suffix)
    path.write_bytes(content)
    ended = (at.replace(minute=0) + timedelta(hours=1)).timestamp()
    os.utime(path, (ended, ended))
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def look(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Callable[..., None]:
    """Return a function that has a Retention look at ``tmp_path`` once, in this thread."""
    caplog.set_level(logging.DEBUG, "kafka_consumer")

    def once(hours: float | None = None, *, compress: bool = False, opening: Path | None = None, at: datetime = NOW) -> None:
        found = Retention(str(tmp_path / "backup.csv"), hours, compress, LOGGER)
        found._open = str(opening or tmp_path / name(at))
        found._look(at)

    return once


# --- deleting ---------------------------------------------------------------------------------------------------------


def test_files_are_deleted_once_they_are_older_than_asked_for(tmp_path: Path, look, caplog):
    hour(tmp_path, 4)
    hour(tmp_path, 3)
    kept = hour(tmp_path, 2)  # it ended 1 hour and 5 minutes ago
    opened = hour(tmp_path, 0)

    look(1.1)

    assert names(tmp_path) == sorted([kept.name, opened.name])
    assert sum("deleted: it is older than 1.1 hours" in message for message in caplog.messages) == 2


@pytest.mark.parametrize(("hours", "kept"), [(1.0, False), (65 / 60, False), (66 / 60, True)])
def test_the_age_counts_from_the_end_of_the_hour(tmp_path: Path, look, hours: float, kept: bool):
    path = hour(tmp_path, 2)
    look(hours)
    assert path.exists() is kept


def test_a_file_that_was_written_to_lately_is_kept_whatever_its_name_says(tmp_path: Path, look):
    path = hour(tmp_path, 100)
    recently = (NOW - timedelta(minutes=30)).timestamp()
    os.utime(path, (recently, recently))
    look(1.0)
    assert path.exists()


def test_compressed_and_torn_ones_are_deleted_as_well(tmp_path: Path, look):
    for suffix in (".csv", ".csv.gz", ".csv.2.gz", ".csv.torn"):
        hour(tmp_path, 5, suffix=suffix)
    look(1.0)
    assert names(tmp_path) == []


@pytest.mark.parametrize("compress", [False, True])
def test_nothing_else_is_touched(tmp_path: Path, look, compress: bool):
    old = NOW - timedelta(hours=100)
    others = [
        hour(tmp_path, 100, base="dlq"),
        hour(tmp_path, 100, base="other_backup"),
        hour(tmp_path, 100, base="backup_eu"),
        hour(tmp_path, 100, base="backup_20261118_hour_10"),
        hour(tmp_path, 100, suffix=".csv.bak"),
        hour(tmp_path, 100, suffix=".tsv"),
        tmp_path / "backup.csv",
        tmp_path / "backup.csv.lock",
        tmp_path / "backup_20269999_hour_10.csv",
        tmp_path / "backup_20261118_hour_77.csv",
        tmp_path / "backup_\uff12\uff10\uff12\uff161118_hour_10.csv",  # full-width digits
        tmp_path / "backup_20261118_hour_1.csv",
    ]
    for path in others:
        path.touch()
        os.utime(path, (old.timestamp(), old.timestamp()))
    folder = tmp_path / name(old - timedelta(hours=1))
    folder.mkdir()
    link = tmp_path / name(old - timedelta(hours=2))
    link.symlink_to(others[0])
    before = names(tmp_path)

    look(1.0, compress=compress)

    assert names(tmp_path) == before


def test_an_open_file_is_never_touched_even_when_the_clock_was_set_back(tmp_path: Path, look):
    opened = hour(tmp_path, 5)
    look(1.0, compress=True, opening=opened)
    assert names(tmp_path) == [opened.name]


def test_a_name_with_special_characters_is_taken_literally(tmp_path: Path):
    ours = hour(tmp_path, 5, base="a+b[1]")
    other = hour(tmp_path, 5, base="aab1")
    found = Retention(str(tmp_path / "a+b[1].csv"), 1.0, False, LOGGER)
    found._look(NOW)
    assert not ours.exists()
    assert other.exists()


def test_a_file_that_cannot_be_deleted_is_a_warning_and_the_others_are(tmp_path: Path, look, caplog, monkeypatch):
    stuck, other = hour(tmp_path, 6), hour(tmp_path, 5)
    real = os.unlink

    def unlink(path: str) -> None:
        if path == str(stuck):
            raise PermissionError(errno.EPERM, "Operation not permitted", path)
        real(path)

    monkeypatch.setattr(os, "unlink", unlink)
    look(1.0)
    assert stuck.exists()
    assert not other.exists()
    [record] = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert record.levelno == logging.WARNING
    assert f"{stuck} couldn't be deleted" in record.getMessage()


# --- compressing ------------------------------------------------------------------------------------------------------


def test_closed_hours_are_compressed_and_hold_the_same(tmp_path: Path, look):
    content = os.urandom(3 << 20) + ROWS
    first, second = hour(tmp_path, 2, content), hour(tmp_path, 1, b"")
    opened = hour(tmp_path, 0)
    modified = first.stat().st_mtime_ns

    look(compress=True)

    assert names(tmp_path) == sorted([f"{first.name}.gz", f"{second.name}.gz", opened.name])
    packed = Path(f"{first}.gz")
    assert gzip.decompress(packed.read_bytes()) == content
    assert gzip.decompress(Path(f"{second}.gz").read_bytes()) == b""
    assert stat.S_IMODE(packed.stat().st_mode) == 0o600
    assert packed.stat().st_mtime_ns == modified


def test_a_compressed_file_is_durable_before_its_original_goes(tmp_path: Path, look, monkeypatch):
    path = hour(tmp_path, 2)
    steps: list[str] = []
    for operation in ("fsync", "rename", "unlink"):
        real = getattr(os, operation)

        def watch(*arguments: Any, operation: str = operation, real: Any = real) -> None:
            at = arguments[0]
            steps.append(f"{operation} {Path(os.readlink(f'/proc/self/fd/{at}') if isinstance(at, int) else at).name}")
            real(*arguments)

        monkeypatch.setattr(os, operation, watch)

    look(compress=True)

    temporary = f"{path.name}.gz.tmp"
    assert [step for step in steps if step != f"unlink {temporary}"] == [
        f"fsync {temporary}", f"rename {temporary}", f"fsync {tmp_path.name}", f"unlink {path.name}",
    ]  # fmt: skip


def test_what_a_crash_left_half_done_is_done_again(tmp_path: Path, look):
    path = hour(tmp_path, 2)
    Path(f"{path}.gz.tmp").write_bytes(b"half")
    look(compress=True)
    assert names(tmp_path) == [f"{path.name}.gz"]
    assert gzip.decompress(Path(f"{path}.gz").read_bytes()) == ROWS


def test_a_temporary_file_is_cleared_away_when_compressing_was_turned_off(tmp_path: Path, look):
    path = hour(tmp_path, 2)
    Path(f"{path}.gz.tmp").write_bytes(b"half")
    look(1000.0)
    assert names(tmp_path) == [path.name]


def test_a_crash_before_the_original_was_removed_leaves_one_file_with_its_rows(tmp_path: Path, look):
    path = hour(tmp_path, 2)
    Path(f"{path}.gz").write_bytes(gzip.compress(ROWS))
    look(compress=True)
    assert names(tmp_path) == [f"{path.name}.gz"]


@pytest.mark.parametrize(
    "earlier",
    [gzip.compress(b"other rows"), gzip.compress(ROWS)[:-4], gzip.compress(ROWS[:-1]), b"", b"no gzip"],
    ids=["other rows", "cut off", "one byte less", "empty", "no gzip"],
)
def test_an_hour_that_was_written_again_never_overwrites_what_was_compressed(tmp_path: Path, look, earlier: bytes):
    path = hour(tmp_path, 2)
    Path(f"{path}.gz").write_bytes(earlier)
    look(compress=True)
    assert names(tmp_path) == [f"{path.name}.2.gz", f"{path.name}.gz"]
    assert Path(f"{path}.gz").read_bytes() == earlier
    assert gzip.decompress(Path(f"{path}.2.gz").read_bytes()) == ROWS


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/hostname", path)])
def test_something_odd_in_the_place_of_the_compressed_file_is_left_alone(tmp_path: Path, look, make: Callable[[Path], None]):
    path = hour(tmp_path, 2)
    make(Path(f"{path}.gz"))
    look(compress=True)
    assert names(tmp_path) == [f"{path.name}.2.gz", f"{path.name}.gz"]
    assert gzip.decompress(Path(f"{path}.2.gz").read_bytes()) == ROWS


def test_a_file_that_grows_while_it_is_compressed_stays(tmp_path: Path, look, monkeypatch):
    path = hour(tmp_path, 2)
    real = os.utime

    def utime(*arguments: Any, **options: Any) -> None:
        with path.open("ab") as handle:
            handle.write(b"2,late\r\n")
        real(*arguments, **options)

    monkeypatch.setattr(os, "utime", utime)
    look(compress=True)
    assert names(tmp_path) == [path.name]
    assert path.read_bytes() == ROWS + b"2,late\r\n"


@pytest.mark.parametrize("operation", ["open", "write", "fsync", "rename", "utime", "close"])
@pytest.mark.parametrize("nth", [1, 2])
def test_whatever_fails_while_compressing_is_a_warning_and_no_row_is_lost(
    tmp_path: Path, look, caplog, monkeypatch, operation: str, nth: int
):
    path = hour(tmp_path, 2)
    real = getattr(os, operation)
    calls = 0

    def fail(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth:
            if operation == "close":
                real(*arguments)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, operation, fail)
        look(compress=True)
    warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
    if calls >= nth:
        assert [record.levelno for record in warned] == [logging.WARNING]
        assert "couldn't be compressed: [Errno 28] No space left on device; it stays" in warned[0].getMessage()
    assert not Path(f"{path}.gz.tmp").exists()
    copies = [p.read_bytes() if p == path else gzip.decompress(p.read_bytes()) for p in tmp_path.iterdir()]
    assert copies
    assert set(copies) == {ROWS}

    look(compress=True)  # the next rotation finishes it
    assert names(tmp_path) == [f"{path.name}.gz"]
    assert gzip.decompress(Path(f"{path}.gz").read_bytes()) == ROWS


def test_a_folder_that_cannot_be_read_is_a_warning(tmp_path: Path, caplog, monkeypatch):
    def fail(path: str) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", fail)
    found = Retention(str(tmp_path / "backup.csv"), 1.0, False, LOGGER)
    found.look(NOW, str(tmp_path / name(NOW)))
    eventually(lambda: "looking after the backup's closed hours failed: PermissionError" in caplog.text)
    found.stop()
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]


# --- its thread -------------------------------------------------------------------------------------------------------


def test_without_a_wish_there_is_no_thread(tmp_path: Path):
    found = Retention(str(tmp_path / "backup.csv"), None, False, LOGGER)
    found.look(NOW, str(tmp_path / name(NOW)))
    assert found._thread is None
    found.stop()


def test_its_end_interrupts_a_long_compression_and_leaves_the_original(tmp_path: Path, monkeypatch):
    path = hour(tmp_path, 2, os.urandom(200_000))
    monkeypatch.setattr(retention, "READ_SIZE", 1000)
    reached, go_on = threading.Event(), threading.Event()
    real = csv_files.write_all

    def write(descriptor: int, data: bytes) -> None:
        reached.set()
        assert go_on.wait(10)
        real(descriptor, data)

    monkeypatch.setattr(retention, "write_all", write)
    found = Retention(str(tmp_path / "backup.csv"), None, True, LOGGER)
    found.look(NOW, str(tmp_path / name(NOW)))
    assert reached.wait(10)
    with background(found.stop):
        eventually(lambda: found._stopping)
        go_on.set()
    assert found._thread is not None
    assert not found._thread.is_alive()
    assert names(tmp_path) == [path.name]


def test_the_writer_may_open_an_hour_again_while_it_is_compressed(tmp_path: Path, monkeypatch):
    path = hour(tmp_path, 2)
    reached, go_on = threading.Event(), threading.Event()
    real = csv_files.write_all

    def write(descriptor: int, data: bytes) -> None:
        reached.set()
        assert go_on.wait(10)
        real(descriptor, data)

    monkeypatch.setattr(retention, "write_all", write)
    found = Retention(str(tmp_path / "backup.csv"), None, True, LOGGER)
    found.look(NOW, str(tmp_path / name(NOW)))
    assert reached.wait(10)
    found.look(NOW - timedelta(hours=2), str(path))  # the clock was set back
    go_on.set()
    eventually(lambda: found._asked is None and names(tmp_path) == [path.name])
    found.stop()
    assert path.read_bytes() == ROWS


class Clock:
    """A wall clock that moves when a test moves it."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


def _state(folder: Path, **options: Any) -> SharedState:
    return make_state(folder, csv_flush_interval_seconds=0.02, **options)


def test_the_writer_compresses_at_its_start_and_at_each_rotation(tmp_path: Path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(csv_writers, "now", clock)
    before = hour(tmp_path, 1)
    state = _state(tmp_path, backup_compress=True)
    with background(BackupWriter(state).run, stop=state.stop):
        eventually(lambda: Path(f"{before}.gz").exists() and not before.exists())
        state.backup_csv_queue.put(FakeMessage("t", 0, 7, None, b"x"))
        first = tmp_path / name(NOW)
        eventually(lambda: first.exists() and b",7," in first.read_bytes())
        clock.now += timedelta(hours=1)
        eventually(lambda: Path(f"{first}.gz").exists() and not first.exists())
    assert b",7," in gzip.decompress(Path(f"{first}.gz").read_bytes())
    assert names(tmp_path) == sorted([f"{before.name}.gz", f"{first.name}.gz", name(clock.now)])
    assert not [thread for thread in threading.enumerate() if thread.name == "retention"]


def test_the_writer_deletes_at_its_start(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(csv_writers, "now", Clock())
    old = hour(tmp_path, 30)
    state = _state(tmp_path, backup_retention_hours=24)
    with background(BackupWriter(state).run, stop=state.stop):
        eventually(lambda: not old.exists())


def test_dead_letters_are_kept_for_ever(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(csv_writers, "now", Clock())
    old = hour(tmp_path, 30, base="dlq")
    state = _state(tmp_path, backup_retention_hours=1, backup_compress=True)
    marker = hour(tmp_path, 30)
    with background(DeadLetterWriter(state).run, stop=state.stop), background(BackupWriter(state).run, stop=state.stop):
        eventually(lambda: not marker.exists())
    assert old.exists()


@pytest.mark.parametrize("hours", [0, -1, True, "24", float("nan"), float("inf"), 1e12])
def test_hours_that_are_none_are_refused(tmp_path: Path, hours: Any):
    with pytest.raises(ConfigError, match="backup_retention_hours: expected None or a number of hours above 0"):
        make_config(tmp_path, backup_retention_hours=hours)


def test_the_longest_time_can_be_reckoned_with(tmp_path: Path, look):
    path = hour(tmp_path, 100)
    look(float(make_config(tmp_path, backup_retention_hours=1_000_000).backup_retention_hours or 0))
    assert path.exists()
