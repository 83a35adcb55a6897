"""One fault, anywhere: whichever call of the file writers fails or is the last, nothing is committed that isn't on disk.

A failure ends the consumer with one line that says why and exit code 1; the next start mends what was left and loses nothing.
"""

from __future__ import annotations

import csv
import errno
import gzip
import io
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kafka_consumer import KafkaConsumer, csv_writers
from tests.disk_faults import Disk, FailNth
from tests.fakes import FakeBroker, FakeConsumer
from tests.helpers import eventually, hourly_files, make_config, read_rows
from tests.integration.conftest import GROUP, TOPIC, Life
from tests.integration.rotation_runner import AFTER, BEFORE, SECOND_HOUR, fail_odd, options

ROOT = Path(__file__).resolve().parents[2]
MOST = 3000  # messages after which a fault must have come
HOUR_OF = 50  # messages an hour has, by the tests' clock


def numbers(start: int, count: int) -> list[bytes]:
    return [b"%d" % n for n in range(start, start + count)]


class Clock:
    """What the writers take for the time: an hour passes with each ``HOUR_OF`` messages."""

    def __init__(self) -> None:
        self.at = datetime(2026, 11, 22, 0, 30).astimezone()

    def __call__(self) -> datetime:
        return self.at


@pytest.fixture
def clock(monkeypatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(csv_writers, "now", found)
    return found


def until_it_fails(broker: FakeBroker, life: Life, clock: Clock) -> int:
    """Produce a few messages at a time, hour after hour, until the consumer ends, and some more; return how many."""
    broker.produce_many(TOPIC, 0, numbers(0, 10))
    produced = 10
    while life.state.running.is_set() and produced < MOST:
        broker.produce_many(TOPIC, 0, numbers(produced, 10))
        produced += 10
        if produced % HOUR_OF == 0:
            clock.at += timedelta(hours=1)
        life.state.shutdown_event.wait(0.01)
    return produced


def offsets(rows: list[dict[str, str]]) -> set[int]:
    return {int(row["offset"]) for row in rows}


def odd(below: int) -> set[int]:
    return set(range(1, below, 2))


SETTINGS: dict[str, Any] = {
    "processor_callable": fail_odd, "backup_mode": "strict", "dlq_csv_batch_size": 1, "csv_flush_interval_seconds": 0.02,
    "shutdown_timeout_seconds": 0.3, "worker_count": 2,
}  # fmt: skip
# Opening: the file, its folder's name made durable; a row: written, synced; the hour's end: synced, closed.
OPERATIONS = ["open", "opendir", "syncdir", "closedir", "write", "short", "fsync", "close"]


@pytest.mark.parametrize(("nth", "code"), [(1, errno.ENOSPC), (2, errno.EIO), (4, errno.ENOSPC)])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("writer", ["backup", "dlq"])
def test_whatever_fails_ends_with_1_commits_nothing_that_is_not_on_disk_and_a_restart_completes(
    broker, live, log, clock, monkeypatch, writer, operation, nth, code
):
    first = live(start=False, **SETTINGS)
    config = first.consumer.config
    fault = FailNth(writer, operation, nth, code)
    with monkeypatch.context() as patched:
        disk = Disk(fault).install(patched)
        first.consumer.start()
        produced = until_it_fails(broker, first, clock)
        assert first.wait_end() == 1
    assert fault.failed
    committed = first.committed() or 0

    # It says so, once.
    [line] = log(logging.CRITICAL)
    assert {"backup": "backup file", "dlq": "dead-letter file"}[writer] in line
    assert os.strerror(code) in line
    assert line.endswith("; stopping")
    # What a sync has failed for is never synced or written to again: the kernel would say that all is well.
    assert disk.used_after_failed_sync == []

    # Power fails, too: what was never synced is gone.
    disk.cut_power(os.path.dirname(config.backup_path))
    assert odd(committed) <= _whole_offsets(config.dlq_path)
    assert set(range(committed)) <= _whole_offsets(config.backup_path)

    second = live(**{**SETTINGS, "shutdown_timeout_seconds": 5.0}, backup_path=config.backup_path, dlq_path=config.dlq_path)
    second.wait_committed(produced)
    assert second.end() == 0
    assert offsets(second.dead_letters()) == odd(produced)
    assert offsets(second.backup()) == set(range(produced))
    assert len(log(logging.CRITICAL)) == 1


@pytest.mark.parametrize("writer", ["backup", "dlq"])
def test_a_row_of_which_half_was_written_is_set_aside_by_the_next_start(broker, live, log, clock, monkeypatch, writer):
    first = live(start=False, **SETTINGS)
    config = first.consumer.config
    base = config.backup_path if writer == "backup" else config.dlq_path
    with monkeypatch.context() as patched:
        Disk(FailNth(writer, "short", 3, errno.ENOSPC)).install(patched)
        first.consumer.start()
        produced = until_it_fails(broker, first, clock)
        assert first.wait_end() == 1
    torn = hourly_files(base)[-1]
    assert not Path(torn).read_bytes().endswith(b"\n")
    half = Path(torn).read_bytes().rpartition(b"\r\n")[2]

    clock.at = datetime.strptime(Path(torn).stem[-16:], "%Y%m%d_hour_%H").astimezone()  # the same hour
    second = live(**SETTINGS, backup_path=config.backup_path, dlq_path=config.dlq_path)
    second.wait_committed(produced)
    assert second.end() == 0
    assert Path(f"{torn}.torn").read_bytes().endswith(half)
    assert f"{'backup' if writer == 'backup' else 'dead-letter'} file {torn} ended in a torn row, moved to {torn}.torn" in log(
        logging.WARNING
    )
    assert offsets(second.dead_letters()) == odd(produced)
    assert offsets(second.backup()) == set(range(produced))


@pytest.mark.parametrize("operation", ["open", "write", "short", "fsync", "close", "rename", "syncdir", "unlink"])
def test_a_failure_of_the_retention_is_a_warning_and_the_consumer_goes_on(broker, live, log, clock, monkeypatch, operation):
    life = live(start=False, **{**SETTINGS, "shutdown_timeout_seconds": 5.0}, backup_compress=True)
    fault = FailNth("retention", operation, 1, errno.ENOSPC)
    Disk(fault).install(monkeypatch)
    life.consumer.start()
    for hour in range(3):
        broker.produce_many(TOPIC, 0, numbers(10 * hour, 10))
        life.wait_committed(10 * (hour + 1))
        clock.at += timedelta(hours=1)
        eventually(lambda hour=hour: len(hourly_files(life.consumer.config.dlq_path)) == hour + 2)  # type: ignore[misc]
    folder = Path(life.consumer.config.backup_path).parent
    eventually(lambda: len(list(folder.glob("backup_*.csv.gz"))) == 3 and len(list(folder.glob("backup_*.csv"))) == 1)
    assert life.end() == 0
    assert fault.failed
    [line] = log(logging.WARNING)
    assert "couldn't be compressed: [Errno 28] No space left on device" in line
    packed = [gzip.decompress(path.read_bytes()).decode() for path in sorted(folder.glob("*.gz"))]
    rows = [row for text in packed for row in csv.DictReader(io.StringIO(text, newline=""))]
    assert offsets(rows) == set(range(30))


# --- a link in the file's place ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["backup_path", "dlq_path"])
def test_a_link_in_the_place_of_the_day_s_file_is_refused_with_one_line(broker, live, log, clock, tmp_path, base):
    life = live(start=False, **SETTINGS)
    precious = tmp_path / "precious"
    precious.write_text("precious")
    stem, suffix = os.path.splitext(getattr(life.consumer.config, base))
    link = f"{stem}_20261122_hour_00{suffix}"
    os.symlink(precious, link)
    broker.produce_many(TOPIC, 0, numbers(0, 2))
    assert life.consumer.run() == 1
    [line] = log(logging.CRITICAL)
    assert f"expected a regular file, got a symbolic link: '{link}'" in line
    assert precious.read_text() == "precious"
    assert life.committed() in {None, 0, 1}  # 1: message 0 needs no dead letter


# --- a disk that is really full ---------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Return a function that mounts a tmpfs of a size, or gives it another one, and returns its folder."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        remount = "remount," if mounted else ""
        answer = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"{remount}size={size}", "tmpfs", str(folder)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if answer.returncode != 0:
            pytest.skip(f"a tmpfs can't be mounted here: {answer.stderr.strip()}")
        mounted.append(folder)
        return folder

    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    yield mount
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("mode", ["strict", "best-effort"])
def test_a_disk_that_fills_up_ends_it_and_with_room_again_it_goes_on(broker, live, log, small_disk, mode):
    folder = small_disk("256k")
    files = {"backup_path": str(folder / "backup.csv"), "dlq_path": str(folder / "dlq.csv")}
    values = [b"%d" % n + b" " * 1000 for n in range(600)]
    broker.produce_many(TOPIC, 0, values)
    first = live(**{**SETTINGS, "backup_mode": mode}, **files)
    assert first.wait_end() == 1
    lines = log(logging.CRITICAL)
    assert lines
    assert all("No space left on device" in line for line in lines)
    assert len(lines) <= 2  # both files may meet the end of the disk
    committed = first.committed() or 0
    assert committed < len(values)
    assert odd(committed) <= _whole_offsets(files["dlq_path"])
    if mode == "strict":
        assert set(range(committed)) <= _whole_offsets(files["backup_path"])

    small_disk("16m")
    second = live(**{**SETTINGS, "backup_mode": mode}, **files)
    second.wait_committed(len(values))
    assert second.end() == 0
    assert offsets(read_rows(files["dlq_path"])) == odd(len(values))
    if mode == "strict":
        assert offsets(read_rows(files["backup_path"])) == set(range(len(values)))


def _whole_offsets(base: str) -> set[int]:
    """Return the offsets of the rows that are whole: the last one may be torn."""
    found: set[int] = set()
    for path in hourly_files(base):
        text = Path(path).read_text()
        rows = list(csv.reader(io.StringIO(text, newline="")))
        whole = rows[1:] if text.endswith("\n") else rows[1:-1]
        found |= {int(row[3]) for row in whole}
    return found


# --- killed -----------------------------------------------------------------------------------------------------------


def test_killed_at_any_step_of_a_rotation_it_has_committed_what_is_recorded_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch, caplog
):
    """SPEC: CSV File Integrity."""
    subprocess.run(
        [sys.executable, "-m", "tests.integration.rotation_runner", str(tmp_path)], cwd=ROOT, check=True, timeout=100,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    runs = sorted((path for path in tmp_path.iterdir() if path.is_dir()), key=lambda path: int(path.name))
    steps = set((runs[-1] / "whole").read_text().splitlines())
    for writer in ("backup", "dlq"):
        assert {f"{writer} {step}" for step in ("open", "write", "fsync", "close", "opendir", "syncdir", "closedir")} <= steps
    assert {"retention rename", "retention unlink", "retention syncdir"} <= steps
    assert len(runs) > len(steps)

    monkeypatch.setattr(csv_writers, "now", lambda: SECOND_HOUR)
    for folder in runs:
        committed = max(map(int, (folder / "committed").read_text().split()), default=0)
        assert odd(committed) <= _whole_offsets(str(folder / "dlq.csv")), folder
        assert set(range(committed)) <= _backed_up(folder), folder
        _go_on(folder, committed)
        assert offsets(read_rows(folder / "dlq.csv")) == odd(BEFORE + AFTER), folder
        assert _backed_up(folder) == set(range(BEFORE + AFTER)), folder
        assert not list(folder.glob("*.tmp")), folder
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def _go_on(folder: Path, committed: int) -> None:
    broker = FakeBroker({TOPIC: 1})
    broker.produce_many(TOPIC, 0, numbers(0, BEFORE + AFTER))
    if committed:
        broker.set_committed(GROUP, TOPIC, 0, committed)
    consumer = KafkaConsumer(make_config(folder, **options(folder)), consumer=FakeConsumer(broker, GROUP))
    consumer.start()
    try:
        eventually(lambda: broker.committed(GROUP, TOPIC) == BEFORE + AFTER)
        eventually(lambda: [path.name for path in folder.glob("backup_*.csv*")] and not _unpacked(folder))
    finally:
        consumer.stop("the test has ended")
        assert consumer.join(10)
    assert consumer.exit_code == 0


def _unpacked(folder: Path) -> list[Path]:
    return [path for path in folder.glob("backup_*") if not path.name.endswith(".gz") and "hour_10" in path.name]


def _backed_up(folder: Path) -> set[int]:
    """Return the offsets of the whole rows in all files of the backup, compressed ones too."""
    found = _whole_offsets(str(folder / "backup.csv"))
    for path in folder.glob("backup_*.gz"):
        text = gzip.decompress(path.read_bytes()).decode()
        assert text.endswith("\n")
        found |= offsets(list(csv.DictReader(io.StringIO(text, newline=""))))
    return found
