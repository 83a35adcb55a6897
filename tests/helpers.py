"""What tests need again and again: waiting for something to come true, and running a loop in a thread."""

from __future__ import annotations

import csv
import glob
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kafka_consumer.config import KafkaConsumerConfig
from kafka_consumer.shared_state import SharedState

PATIENCE_SECONDS = 10.0
"""How long a test waits for what should take milliseconds: long enough for a busy machine, short enough to end."""


def accept(value: bytes | None) -> None:
    """Process a message: nothing to do."""


def make_config(folder: str | os.PathLike[str], **options: Any) -> KafkaConsumerConfig:
    """Return a configuration with short intervals and its files in ``folder``."""
    defaults: dict[str, Any] = {
        "bootstrap_servers": "localhost:9092",
        "topic": "test-topic",
        "group_id": "test-group",
        "processor_callable": accept,
        "backup_path": str(Path(folder) / "backup.csv"),
        "dlq_path": str(Path(folder) / "dlq.csv"),
        "worker_count": 3,
        "commit_interval_seconds": 0.05,
        "csv_flush_interval_seconds": 0.05,
        "shutdown_timeout_seconds": 2.0,
    }
    return KafkaConsumerConfig(**{**defaults, **options})


def make_state(folder: str | os.PathLike[str], **options: Any) -> SharedState:
    """Return the shared state of such a configuration."""
    return SharedState(make_config(folder, **options))


def eventually(predicate: Callable[[], Any], timeout: float = PATIENCE_SECONDS, *, what: str = "the condition") -> Any:
    """Return the predicate's first true value; ``AssertionError`` when it has none within ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        found = predicate()
        if found:
            return found
        if time.monotonic() >= deadline:
            raise AssertionError(f"expected {what} to come true within {timeout:g} s; the last answer was {found!r}")
        time.sleep(0.002)


@contextmanager
def background(work: Callable[..., Any], *arguments: Any, stop: Callable[[], Any] | None = None) -> Iterator[threading.Thread]:
    """Run ``work`` in a thread; at the end call ``stop``, wait for the thread, and raise what it raised."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work(*arguments)
        except BaseException as error:  # it is raised in the test's own thread
            errors.append(error)

    thread = threading.Thread(target=run, name=f"test-{getattr(work, '__name__', 'work')}", daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        if stop is not None:
            stop()
        thread.join(PATIENCE_SECONDS)
    if thread.is_alive():
        raise AssertionError(f"expected {thread.name} to end within {PATIENCE_SECONDS:g} s")
    if errors:
        raise errors[0]


def read_rows(base: str | os.PathLike[str]) -> list[dict[str, str]]:
    """Return the rows of all hourly files of ``base`` (``dir/backup.csv``), oldest file first."""
    csv.field_size_limit(sys.maxsize)
    rows: list[dict[str, str]] = []
    for path in hourly_files(base):
        with open(path, newline="", encoding="utf-8") as handle:
            # Read at once: a file that is being written grows between two of the reader's lines.
            rows += csv.DictReader(io.StringIO(handle.read(), newline=""))
    return rows


def hourly_files(base: str | os.PathLike[str]) -> list[str]:
    """Return the hourly files of ``base``, oldest first."""
    stem, suffix = os.path.splitext(os.fspath(base))
    return sorted(glob.glob(f"{glob.escape(stem)}_*_hour_*{suffix}"))
