"""Runs a consumer through an hour's end, again and again, killed one step later each time; ``test_file_faults.py`` starts it.

    python -m tests.integration.rotation_runner FOLDER

Run N works in FOLDER/N, and is killed before the N-th call that changes a file once the hour has ended. ``committed`` in there
has every commit that was sent, one a line. The last run is the one that nothing was left to kill in; its folder has a file
``whole`` that names the steps.
``KC_TEST_KILL_FIRST`` is the N to begin with.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kafka_consumer import KafkaConsumer, csv_writers
from tests.disk_faults import Disk, KillNth
from tests.fakes import FakeBroker, FakeConsumer
from tests.helpers import make_config

TOPIC, GROUP = "test-topic", "test-group"
BEFORE, AFTER = 8, 8  # messages of the first hour, and of the second
FIRST_HOUR = datetime(2026, 11, 22, 10, 59, 50).astimezone()
SECOND_HOUR = FIRST_HOUR + timedelta(seconds=20)
RUN_SECONDS = 20.0
END_SECONDS = 10.0


def fail_odd(value: bytes) -> None:
    """Fail for odd numbers."""
    if int(value) % 2:
        raise ValueError("odd")


def options(folder: Path) -> dict[str, Any]:
    """Return what a run and the restart after it have in common."""
    return {
        "backup_path": str(folder / "backup.csv"), "dlq_path": str(folder / "dlq.csv"), "backup_mode": "strict",
        "backup_compress": True, "processor_callable": fail_odd, "dlq_csv_batch_size": 1, "csv_flush_interval_seconds": 0.01,
        "commit_interval_seconds": 0.01, "worker_count": 2,
    }  # fmt: skip


def run(folder: Path, nth: int) -> None:
    """Consume; be killed."""
    folder.mkdir()
    now = [FIRST_HOUR]
    csv_writers.now = lambda: now[0]
    kill = KillNth(nth)
    Disk(kill).install(pytest.MonkeyPatch())  # never undone: the process ends with the run
    broker = FakeBroker({TOPIC: 1})
    broker.produce_many(TOPIC, 0, [b"%d" % n for n in range(BEFORE)])
    client = FakeConsumer(broker, GROUP)
    sent = os.open(folder / "committed", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(offsets: list[Any]) -> None:
        os.write(sent, b"".join(b"%d\n" % tp.offset for tp in offsets))

    client.commit_hook = note
    consumer = KafkaConsumer(make_config(folder, **options(folder)), consumer=client)
    consumer.start()
    _wait(lambda: broker.committed(GROUP, TOPIC) == BEFORE)
    kill.armed.set()
    now[0] = SECOND_HOUR
    broker.produce_many(TOPIC, 0, [b"%d" % n for n in range(BEFORE, BEFORE + AFTER)])
    closed = folder / f"backup_{FIRST_HOUR:%Y%m%d_hour_%H}.csv"
    _wait(lambda: broker.committed(GROUP, TOPIC) == BEFORE + AFTER and not closed.exists())
    consumer.stop("all is done")
    if consumer.join(END_SECONDS) and consumer.exit_code == 0:
        (folder / "whole").write_text("\n".join(sorted({f"{writer} {operation}" for writer, operation in kill.seen})))


def _wait(predicate: Any) -> None:
    deadline = time.monotonic() + RUN_SECONDS
    while not predicate():
        if time.monotonic() > deadline:
            raise SystemExit("expected the consumer to get on")
        time.sleep(0.002)


def main(folder: Path) -> int:
    """Fork a run for each step: the imports are paid for once."""
    assert threading.active_count() == 1
    nth = int(os.environ.get("KC_TEST_KILL_FIRST", "1"))
    while True:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                run(folder / str(nth), nth)
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            return os.waitstatus_to_exitcode(status)
        nth += 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
