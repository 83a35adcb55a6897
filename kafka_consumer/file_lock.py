"""One process a file: a second consumer that writes the same backup or dead-letter files is refused."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable

from kafka_consumer.csv_files import open_private
from kafka_consumer.errors import FilesInUseError


class FileLocks:
    """Advisory locks on ``PATH.lock``, released by ``release()`` or, after a crash, by the kernel."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = list(paths)
        self._descriptors: list[int] = []

    def acquire(self) -> None:
        """Take all locks or none. Errors: ``FilesInUseError`` when another consumer holds one, ``OSError``."""
        try:
            for path in self._paths:
                descriptor = open_private(f"{path}.lock", os.O_RDWR)
                self._descriptors.append(descriptor)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    message = f"{path} is in use by another consumer: stop it, or give this one a path of its own"
                    raise FilesInUseError(message) from None
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """Let go; does nothing when nothing is held. The empty lock files stay: removing them would race with the next taker."""
        while self._descriptors:
            os.close(self._descriptors.pop())
