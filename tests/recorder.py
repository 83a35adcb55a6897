"""The ledger's writer: runs inside the consumer's process, around a test's processor.

Every line is one ``write`` to a file opened with ``O_APPEND``: lines of several processes never mix, their order in the file is
the order in which they were written, and what was written stays, whatever becomes of the process. A call's "done" is written
before the consumer can know of it, so nothing that the consumer does because of it can come first.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from kafka_consumer.logs import LOGGER_NAME

_ASSIGNMENT = re.compile(r"(assigned|revoked|lost)(?:, without a commit)?: ")


class Message(NamedTuple):
    """What a test's message says of itself: a processor gets nothing but the value."""

    partition: int
    offset: int
    key: str
    kind: str


def pack(message: Message, size: int = 0) -> bytes:
    """Return the value of a message, filled up to ``size`` bytes."""
    return f"{message.partition} {message.offset} {message.key or '-'} {message.kind} ".encode().ljust(size, b".")


def unpack(value: bytes) -> Message:
    """Return what a value says of its message."""
    partition, offset, key, kind, _ = value.split(b" ", 4)
    return Message(int(partition), int(offset), "" if key == b"-" else key.decode(), kind.decode())


def append(ledger: str | os.PathLike[str], what: str, pid: int, message: Message | None = None) -> None:
    """Append one line to a ledger, for what a test does to a process."""
    handle = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(handle, _line(what, message or _NONE, pid))
    finally:
        os.close(handle)


_NONE = Message(-1, -1, "", "")


def _line(what: str, message: Message, pid: int) -> bytes:
    return (
        f"{what} {message.partition} {message.offset} {message.key or '-'} {pid} {threading.get_ident()}"
        f" {time.monotonic_ns()} {time.time_ns()}\n"
    ).encode()


class Recorder(logging.Handler):
    """Records the calls of a processor, and which partitions its consumer was given and gave up."""

    def __init__(self, ledger: str | os.PathLike[str]) -> None:
        super().__init__()
        self._ledger = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._pid = os.getpid()
        logging.getLogger(LOGGER_NAME).addHandler(self)

    def around(self, work: Callable[[Message], object]) -> Callable[[bytes], None]:
        """Return the processor that calls ``work`` and records it."""

        def process(value: bytes) -> None:
            message = unpack(value)
            self._write("begin", message)
            try:
                work(message)
            except BaseException:
                self._write("failed", message)
                raise
            self._write("done", message)

        return process

    def emit(self, record: logging.LogRecord) -> None:
        """Record the lines of the log that say which partitions came and went."""
        found = _ASSIGNMENT.match(record.getMessage())
        if found:
            text = record.getMessage()[found.end() :]
            if " more" in text:
                raise ValueError(f"expected every partition to be named, got {text!r}")
            for partition in re.findall(r"-(\d+)(?:,|$)", text):
                self._write(found[1], Message(int(partition), -1, "", ""))

    def _write(self, what: str, message: Message) -> None:
        os.write(self._ledger, _line(what, message, self._pid))
