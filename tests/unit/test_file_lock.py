"""One process a file: a second one is refused, and nothing stays locked after it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kafka_consumer.errors import FilesInUseError, KafkaConsumerError
from kafka_consumer.file_lock import FileLocks


def test_a_second_consumer_on_the_same_file_is_refused(tmp_path: Path):
    path = str(tmp_path / "dlq.csv")
    first, second = FileLocks([path]), FileLocks([str(tmp_path / "other.csv"), path])
    first.acquire()
    with pytest.raises(FilesInUseError, match=f"^{path} is in use by another consumer") as caught:
        second.acquire()
    assert isinstance(caught.value, KafkaConsumerError | RuntimeError)
    first.release()
    second.acquire()
    second.release()


def test_all_locks_are_taken_or_none(tmp_path: Path):
    one, two = str(tmp_path / "one.csv"), str(tmp_path / "two.csv")
    holder = FileLocks([two])
    holder.acquire()
    with pytest.raises(FilesInUseError):
        FileLocks([one, two]).acquire()
    free = FileLocks([one])
    free.acquire()
    free.release()
    holder.release()


def test_releasing_twice_does_nothing(tmp_path: Path):
    locks = FileLocks([str(tmp_path / "a.csv")])
    locks.release()
    locks.acquire()
    locks.release()
    locks.release()


def test_a_lock_file_is_private_and_no_symlink(tmp_path: Path):
    locks = FileLocks([str(tmp_path / "a.csv")])
    locks.acquire()
    assert stat.S_IMODE((tmp_path / "a.csv.lock").stat().st_mode) == 0o600
    locks.release()
    os.symlink(tmp_path / "elsewhere", tmp_path / "b.csv.lock")
    with pytest.raises(OSError, match="symbolic link"):
        FileLocks([str(tmp_path / "b.csv")]).acquire()
    assert not (tmp_path / "elsewhere").exists()


def test_a_missing_folder_is_an_os_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        FileLocks([str(tmp_path / "absent" / "a.csv")]).acquire()


def test_the_lock_of_a_process_that_died_is_free(tmp_path: Path):
    path = str(tmp_path / "a.csv")
    code = (
        "import os, sys\nfrom kafka_consumer.file_lock import FileLocks\n"
        "FileLocks([sys.argv[1]]).acquire()\nprint('held', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        locks = FileLocks([path])
        with pytest.raises(FilesInUseError):
            locks.acquire()
        process.kill()
        process.wait(10)
    locks.acquire()
    locks.release()
