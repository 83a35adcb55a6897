"""Hourly CSV files that survive a crash: rows are appended whole, synced, and a torn last row is set aside on reopening."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import stat
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from kafka_consumer.types import Headers

NULL = "\\N"
READ_SIZE = 1 << 20


def hourly_path(base: str, at: datetime) -> str:
    """Return the file for an hour: ``dir/backup.csv`` at 14:05 gives ``dir/backup_20261122_hour_14.csv``."""
    stem, suffix = os.path.splitext(base)
    return f"{stem}_{at:%Y%m%d}_hour_{at:%H}{suffix or '.csv'}"


def encode_pair(key: bytes | None, value: bytes | None) -> tuple[str, str, str]:
    """Return ``(key, value, encoding)`` as they stand in a row: readable where both are UTF-8, else both in base64."""
    try:
        text_key = NULL if key is None else key.decode()
        text_value = NULL if value is None else value.decode()
    except UnicodeDecodeError:
        pass
    else:
        if (key is None or text_key != NULL) and (value is None or text_value != NULL):
            return text_key, text_value, "utf-8"
    return _base64(key), _base64(value), "base64"


def decode_field(text: str, encoding: str) -> bytes | None:
    """Return the bytes of a key or value as they were in Kafka. Errors: ``ValueError`` for damaged base64."""
    if text == NULL:
        return None
    return base64.b64decode(text, validate=True) if encoding == "base64" else text.encode()


def encode_headers(headers: Headers) -> str:
    """Return headers as a JSON list of pairs, values in base64 (null for none)."""
    if not headers:
        return "[]"
    return json.dumps([[name, None if value is None else _base64(value)] for name, value in headers])


def decode_headers(text: str) -> Headers:
    """Return the headers of a row. Errors: ``ValueError`` for damaged ones."""
    return tuple((name, None if value is None else base64.b64decode(value, validate=True)) for name, value in json.loads(text))


def _base64(data: bytes | None) -> str:
    return NULL if data is None else base64.b64encode(data).decode()


def format_rows(rows: Iterable[Sequence[Any]]) -> bytes:
    """Return rows as CSV in bytes. What UTF-8 can't hold (lone surrogates in an error message) is written as an escape."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


class RotatingCsv:
    """The open file of the current hour. Owned by one writer thread; every method may raise ``OSError``."""

    def __init__(self, base: str, columns: Sequence[str]) -> None:
        self._base = base
        self._columns = columns
        self._file: IO[bytes] | None = None
        self._unsynced = False
        self.path: str | None = None
        self.torn: str | None = None  # where the last torn row was moved, until somebody asks

    def due(self, at: datetime) -> bool:
        """Whether ``at`` belongs to another file than the open one."""
        return self.path != hourly_path(self._base, at)

    def open(self, at: datetime) -> None:
        """Open the file of that hour, closing the previous one; mend its end and write the header where needed."""
        self.close()
        path = hourly_path(self._base, at)
        new = not os.path.exists(path)
        handle = open(path, "ab", buffering=0, opener=_private)  # noqa: SIM115 - it stays open for an hour
        self._file, self.path = handle, path
        size = os.fstat(handle.fileno()).st_size
        whole = _whole_rows(path, size)
        if whole < size:
            self._set_aside(path, whole)
        if whole == 0:
            self.write(format_rows([self._columns]))
            self.sync()
        if new:
            _sync_directory(path)

    def _set_aside(self, path: str, whole: int) -> None:
        torn = f"{path}.torn"
        with open(path, "rb") as source:
            source.seek(whole)
            rest = source.read()
        with open(torn, "ab", buffering=0, opener=_private) as target:
            _write_all(target, rest)
            os.fsync(target.fileno())
        assert self._file is not None  # noqa: S101 - for the type checker: open() has just set it
        self._file.truncate(whole)
        self.torn = torn

    def write(self, data: bytes) -> None:
        """Append rows."""
        assert self._file is not None, "open() comes first"  # noqa: S101 - a programming error, not an input's
        self._unsynced = True
        _write_all(self._file, data)

    def sync(self) -> None:
        """Return when all that was written is on disk. An error is final: what the kernel dropped can't be written again."""
        if self._file is not None and self._unsynced:
            os.fsync(self._file.fileno())
            self._unsynced = False

    def close(self) -> None:
        """Sync and close; does nothing when nothing is open."""
        handle = self._file
        if handle is None:
            return
        try:
            self.sync()
        finally:
            self._file, self.path = None, None
            handle.close()


def _private(path: str, flags: int) -> int:
    # 0600: payloads are nobody else's business. O_NOFOLLOW: nobody redirects them with a link.
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"expected {path} to be a regular file")
    return descriptor


def _write_all(handle: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        written = handle.write(view)
        view = view[written:]


def _sync_directory(path: str) -> None:
    """Make a new file's name durable, too."""
    descriptor = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _whole_rows(path: str, size: int) -> int:
    """Return the length of the file up to the end of its last whole row: the last line break outside quotes."""
    if size == 0:
        return 0
    whole = 0
    begun = 0
    quotes = 0  # before the current block; an odd count is inside a quoted field
    with open(path, "rb") as handle:
        while block := handle.read(READ_SIZE):
            parts = block.split(b'"')
            end = len(block)
            for index in range(len(parts) - 1, -1, -1):
                begin = end - len(parts[index])
                if (quotes + index) % 2 == 0 and (at := parts[index].rfind(b"\n")) >= 0:
                    whole = begun + begin + at + 1
                    break
                end = begin - 1
            quotes += len(parts) - 1
            begun += len(block)
    return whole
