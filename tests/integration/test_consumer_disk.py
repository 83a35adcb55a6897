"""Files that fail, and files that somebody else has: what can't be recorded isn't committed."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kafka_consumer import FilesInUseError, csv_files
from tests.fakes import FakeBroker
from tests.helpers import eventually, hourly_files, read_rows
from tests.integration.conftest import TOPIC

ROOT = Path(__file__).resolve().parents[2]


def numbers(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % n for n in range(start, start + count)]


def fail_odd(value: bytes) -> None:
    if int(value) % 2:
        raise ValueError("odd")


def trickle(broker: FakeBroker, life, produced: int = 0) -> int:
    """Produce a few messages at a time until the consumer ends, so that its files are written and synced many times."""
    while life.state.running.is_set() and produced < 2000:
        broker.produce_many(TOPIC, 0, numbers(10, produced))
        produced += 10
        life.state.shutdown_event.wait(0.01)
    return produced


class FailingDisk:
    """Fails the N-th write, sync or opening of one of the consumer's files, and every one after it.

    ``durable`` is what the file held at its last good sync.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, base: str, operation: str, nth: int, code: int = errno.ENOSPC) -> None:
        self.base = base
        self.operation = operation
        self.left = nth
        self.code = code
        self.durable = 0
        self.reals: dict[str, Callable[..., Any]] = {
            "write": csv_files.write_all, "sync": os.fsync, "open": csv_files.open_private,
        }  # fmt: skip
        monkeypatch.setattr(csv_files, "write_all", self._write)
        monkeypatch.setattr(os, "fsync", self._sync)
        monkeypatch.setattr(csv_files, "open_private", self._open)

    def _count(self, operation: str) -> None:
        if operation != self.operation:
            return
        self.left -= 1
        if self.left <= 0:
            raise OSError(self.code, os.strerror(self.code))

    def _is_ours(self, descriptor: int) -> bool:
        found = os.fstat(descriptor)
        return any(os.path.samestat(found, os.stat(path)) for path in hourly_files(self.base))

    def _write(self, descriptor: int, data: bytes) -> None:
        if self._is_ours(descriptor):
            self._count("write")
        self.reals["write"](descriptor, data)

    def _sync(self, descriptor: int) -> None:
        ours = self._is_ours(descriptor)
        if ours:
            self._count("sync")
        self.reals["sync"](descriptor)
        if ours:
            self.durable = os.fstat(descriptor).st_size

    def _open(self, path: str, flags: int) -> int:
        if os.path.basename(path).startswith(Path(self.base).stem):
            self._count("open")
        return self.reals["open"](path, flags)


@pytest.mark.parametrize(("operation", "nth"), [("open", 1), *((op, n) for op in ("write", "sync") for n in (1, 2, 3, 7))])
def test_a_dead_letter_file_that_fails_ends_with_1_and_nothing_unrecorded_is_committed(
    broker, live, monkeypatch, log, operation, nth
):
    life = live(start=False, processor_callable=fail_odd, worker_count=2, dlq_csv_batch_size=1, shutdown_timeout_seconds=0.3)
    disk = FailingDisk(monkeypatch, life.consumer.config.dlq_path, operation, nth)
    broker.produce_many(TOPIC, 0, numbers(2))
    life.consumer.start()
    produced = trickle(broker, life, 2)

    assert life.wait_end() == 1
    [line] = log(logging.CRITICAL)
    assert "dead-letter file" in line
    assert "No space left on device" in line
    for path in hourly_files(life.consumer.config.dlq_path):
        os.truncate(path, disk.durable)
    recorded = {int(row["offset"]) for row in life.dead_letters()}
    committed = life.committed() or 0
    assert [offset for offset in range(1, committed, 2) if offset not in recorded] == []
    assert committed < produced
    assert life.client.closed


@pytest.mark.parametrize(("operation", "nth"), [("open", 1), ("write", 1), ("write", 3), ("sync", 1), ("sync", 3)])
def test_a_backup_file_that_fails_ends_with_1_and_what_was_polled_is_still_finished(
    broker, live, monkeypatch, log, operation, nth
):
    life = live(start=False, csv_batch_size=5, csv_flush_interval_seconds=0.02)
    FailingDisk(monkeypatch, life.consumer.config.backup_path, operation, nth, errno.EIO)
    life.consumer.start()
    trickle(broker, life)

    assert life.wait_end() == 1
    assert [("backup file" in m, "Input/output error" in m) for m in log(logging.CRITICAL)] == [(True, True)]
    assert (life.committed() or 0) == life.state.counters.processed == life.state.counters.polled


def test_the_failure_stays_the_reason_when_the_operator_had_stopped_it_before(broker, live, monkeypatch, gate):
    life = live(start=False, processor_callable=gate)
    FailingDisk(monkeypatch, life.consumer.config.backup_path, "write", 2)
    broker.produce(TOPIC, 0, b"x")
    life.consumer.start()
    eventually(lambda: gate.begun)
    life.consumer.stop("enough")
    gate.open.set()
    assert life.wait_end() == 1
    assert "the backup file failed" in (life.state.lifecycle.stop_reason or "")


def test_after_a_failed_disk_a_restart_repeats_what_wasn_t_committed_and_finds_a_whole_file(broker, live, monkeypatch):
    with monkeypatch.context() as patched:
        first = live(start=False, processor_callable=fail_odd, dlq_csv_batch_size=1, shutdown_timeout_seconds=0.3)
        FailingDisk(patched, first.consumer.config.dlq_path, "write", 4)
        first.consumer.start()
        produced = trickle(broker, first)
        assert first.wait_end() == 1
    paths = {"dlq_path": first.consumer.config.dlq_path, "backup_path": first.consumer.config.backup_path}
    second = live(processor_callable=fail_odd, **paths)
    second.wait_committed(produced)
    assert second.end() == 0
    assert {int(row["offset"]) for row in read_rows(paths["dlq_path"])} == set(range(1, produced, 2))


def test_a_torn_last_row_is_set_aside_with_a_warning(broker, live, log):
    first = live(processor_callable=fail_odd)
    broker.produce_many(TOPIC, 0, numbers(4))
    first.wait_committed(4)
    assert first.end() == 0
    [path] = hourly_files(first.consumer.config.dlq_path)
    with open(path, "ab") as handle:
        handle.write(b'2026-11-22T10:00:00,test-topic,0,99,,\\N,"torn')

    second = live(processor_callable=fail_odd, dlq_path=first.consumer.config.dlq_path)
    broker.produce_many(TOPIC, 0, [b"5"])
    second.wait_committed(5)
    assert second.end() == 0
    assert sorted(row["offset"] for row in read_rows(first.consumer.config.dlq_path)) == ["1", "3", "4"]
    assert any("ended in a torn row" in m for m in log(logging.WARNING))
    assert b"torn" in Path(f"{path}.torn").read_bytes()


# --- one consumer a file ----------------------------------------------------------------------------------------------

HOLD = """
import sys
from kafka_consumer.file_lock import FileLocks
FileLocks(sys.argv[1:]).acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("which", ["backup_path", "dlq_path"])
def test_files_that_another_process_has_end_run_with_2_and_are_free_once_it_was_killed(broker, live, log, which):
    life = live(start=False)
    path = getattr(life.consumer.config, which)
    other = subprocess.Popen([sys.executable, "-c", HOLD, path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert life.consumer.run() == 2
        [line] = log(logging.ERROR)
        assert path in line
        assert "in use by another consumer" in line
        assert not life.client.callers
    finally:
        other.send_signal(signal.SIGKILL)
        other.communicate(timeout=10)

    next_one = live(backup_path=life.consumer.config.backup_path, dlq_path=life.consumer.config.dlq_path)
    assert next_one.end() == 0


def test_a_consumer_that_has_ended_leaves_its_files_to_the_next(live):
    first = live()
    config = first.consumer.config
    with pytest.raises(FilesInUseError):
        live(backup_path=config.backup_path, dlq_path=config.dlq_path)
    assert first.end() == 0
    assert live(backup_path=config.backup_path, dlq_path=config.dlq_path).end() == 0


def test_a_folder_that_can_t_be_written_is_found_out_at_the_start(live, log):
    life = live(start=False)
    folder = Path(life.consumer.config.dlq_path).parent
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert life.consumer.run() == 2
    assert len(log(logging.ERROR)) == 1
    assert "No such file or directory" in log(logging.ERROR)[0]
