"""A disk that fails, or kills, at a call of a test's choice: real files, and a layer over ``os`` in the modules that write them.

What the layer has seen synced is what would be left after a power failure: ``cut_power()`` leaves just that.
"""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from kafka_consumer import csv_files, retention

WRITERS = {"backup": "backup", "dlq": "dead-letters", "retention": "retention"}
"""The thread that writes each kind of file."""


class Disk:
    """Stands in for ``os`` in ``csv_files`` and ``retention``.

    ``before`` is called with the writer's name (``backup``, ``dlq``, ``retention``) and the operation before each call that
    changes something; what it raises, the call raises. Operations: ``open write fsync close rename unlink truncate`` and, of a
    directory, ``opendir syncdir closedir``.
    """

    def __init__(self, before: Callable[[str, str], None]) -> None:
        self._before = before
        self._lock = threading.Lock()
        self._paths: dict[int, str] = {}  # open descriptors
        self._failed: set[int] = set()  # whose sync has failed
        self._synced: dict[str, int] = {}  # path -> bytes on disk
        self._named: set[str] = set()  # whose directory was synced
        self.used_after_failed_sync: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def install(self, monkeypatch: Any) -> Disk:
        """Put it in place; a ``pytest.MonkeyPatch`` undoes it."""
        monkeypatch.setattr(csv_files, "os", self)
        monkeypatch.setattr(retention, "os", self)
        return self

    def _step(self, operation: str) -> None:
        thread = threading.current_thread().name
        for writer, name in WRITERS.items():
            if name == thread:
                self._before(writer, operation)

    def _is_folder(self, descriptor: int) -> bool:
        return stat.S_ISDIR(os.fstat(descriptor).st_mode)

    # --- the calls --------------------------------------------------------------------------------------------------------------

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        self._step("opendir" if flags & os.O_DIRECTORY else "open")
        descriptor = os.open(path, flags, mode)
        with self._lock:
            self._paths[descriptor] = os.fspath(path)
        return descriptor

    def write(self, descriptor: int, data: Any) -> int:
        self._check(descriptor, "write")
        try:
            self._step("write")
        except HalfWrittenError:
            half = bytes(data[: len(data) // 2])
            return os.write(descriptor, half.removesuffix(b"\n"))  # a torn row in any case
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        self._check(descriptor, "fsync")
        folder = self._is_folder(descriptor)
        path = self._paths[descriptor]
        size = os.fstat(descriptor).st_size
        try:
            self._step("syncdir" if folder else "fsync")
        except OSError:
            self._failed.add(descriptor)
            raise
        with self._lock:
            if folder:
                self._named |= {os.path.join(path, name) for name in os.listdir(path)}
            else:
                self._synced[path] = size

    def _check(self, descriptor: int, operation: str) -> None:
        if descriptor in self._failed:
            self.used_after_failed_sync.append(f"{operation} {self._paths[descriptor]}")

    def close(self, descriptor: int) -> None:
        folder = self._is_folder(descriptor)
        with self._lock:
            self._paths.pop(descriptor, None)
            self._failed.discard(descriptor)
        try:
            self._step("closedir" if folder else "close")
        finally:
            os.close(descriptor)

    def ftruncate(self, descriptor: int, length: int) -> None:
        self._step("truncate")
        os.ftruncate(descriptor, length)

    def rename(self, source: str, target: str) -> None:
        self._step("rename")
        os.rename(source, target)
        with self._lock:
            if source in self._synced:
                self._synced[target] = self._synced.pop(source)

    def unlink(self, path: str) -> None:
        if os.path.lexists(path):
            self._step("unlink")
        os.unlink(path)

    # --- afterwards -------------------------------------------------------------------------------------------------------------

    def cut_power(self, folder: str) -> None:
        """Leave what was synced: of each CSV file the bytes, and the file itself only where its directory was synced since."""
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if not name.endswith(".csv"):
                continue
            if path not in self._named:
                os.unlink(path)
            else:
                os.truncate(path, min(self._synced.get(path, 0), os.stat(path).st_size))


class HalfWrittenError(Exception):
    """Raised by ``before``: the kernel takes half of this write, as it does when the disk fills up in its middle."""


class FailNth:
    """Fails the N-th call of an operation by one writer, once: a ``before`` for ``Disk``.

    The operation ``short`` is a write of which half is taken; the next write fails.
    """

    def __init__(self, writer: str, operation: str, nth: int, code: int) -> None:
        self._writer = writer
        self._short = operation == "short"
        self._operation = "write" if self._short else operation
        self._left = nth
        self._code = code
        self.failed = False

    def __call__(self, writer: str, operation: str) -> None:
        if (writer, operation) != (self._writer, self._operation) or self.failed:
            return
        self._left -= 1
        if self._left > 0:
            return
        if self._short and self._left == 0:
            raise HalfWrittenError
        self.failed = True
        raise OSError(self._code, os.strerror(self._code))


class KillNth:
    """Kills the process with SIGKILL before the N-th call of those that come once ``armed`` is set: for ``Disk``."""

    def __init__(self, nth: int) -> None:
        self._left = nth
        self._lock = threading.Lock()
        self.armed = threading.Event()
        self.seen: Counter[tuple[str, str]] = Counter()

    def __call__(self, writer: str, operation: str) -> None:
        if not self.armed.is_set():
            return
        with self._lock:
            self.seen[writer, operation] += 1
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
