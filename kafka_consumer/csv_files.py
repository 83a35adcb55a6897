"""Hourly CSV files that survive a crash: rows are appended whole, synced, and a torn last row is set aside on reopening."""

from __future__ import annotations

import base64
import binascii
import csv
import errno
import io
import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from json.encoder import encode_basestring_ascii as _json
from pathlib import Path
from typing import Any

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
    # What json.dumps makes of [[name, value], ...], at a third of its cost: every row has headers where tracing is on.
    return f"[{', '.join([f'[{_json(name)}, {_base64_or_null(value)}]' for name, value in headers])}]"


def _base64_or_null(data: bytes | None) -> str:
    return "null" if data is None else f'"{binascii.b2a_base64(data, newline=False).decode()}"'


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
    """The open file of the current hour. Owned by one writer thread; every method may raise ``OSError``.

    After an error nothing more can be recorded: what a failed write or sync has left behind is for the next start to sort out.
    """

    def __init__(self, base: str, columns: Sequence[str]) -> None:
        self._base = base
        self._columns = columns
        self._descriptor: int | None = None
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
        descriptor = self._descriptor = open_private(path, os.O_RDWR | os.O_APPEND)
        self.path = path
        whole = _whole_rows(descriptor)
        if whole < os.fstat(descriptor).st_size:
            self._set_aside(descriptor, path, whole)
        if whole == 0:
            self.write(format_rows([self._columns]))
        self.sync()
        # The name of a new file, and of one whose maker was killed before this.
        sync_directory(path)

    def _set_aside(self, descriptor: int, path: str, whole: int) -> None:
        torn = f"{path}.torn"
        target = open_private(torn, os.O_WRONLY | os.O_APPEND)
        try:
            for _, block in _blocks(descriptor, whole):
                write_all(target, block)
            os.fsync(target)
        finally:
            os.close(target)
        sync_directory(torn)  # only then may the row vanish from where it was
        os.ftruncate(descriptor, whole)
        self._unsynced = True
        self.torn = torn

    def write(self, data: bytes) -> None:
        """Append rows."""
        assert self._descriptor is not None, "open() comes first"  # noqa: S101 - a programming error, not an input's
        self._unsynced = True
        write_all(self._descriptor, data)

    def sync(self) -> None:
        """Return when all that was written is on disk.

        An error is final: the kernel may have dropped what it couldn't write, so a second call could succeed without it.
        """
        if self._descriptor is not None and self._unsynced:
            self._unsynced = False  # whatever comes of it: it is never tried again
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Sync and close; does nothing when nothing is open."""
        descriptor = self._descriptor
        if descriptor is None:
            return
        try:
            self.sync()
        finally:
            self._descriptor, self.path = None, None
            os.close(descriptor)


def open_private(path: str, flags: int) -> int:
    """Open a file of ours, creating it; return its descriptor.

    0600 whatever the umask: payloads are nobody else's business. O_NOFOLLOW: nobody redirects them with a link. O_NONBLOCK: a
    pipe in its place is refused, not waited for.
    """
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        try:
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            descriptor = os.open(path, flags)
        else:
            _make_private(descriptor)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "expected a regular file, got a symbolic link", path) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "expected a regular file, got something else", path)
    return descriptor


def _make_private(descriptor: int) -> None:
    # A umask only takes rights away; but one that takes the owner's, too, would leave a file that a restart can't open.
    if stat.S_IMODE(os.fstat(descriptor).st_mode) != 0o600:
        with suppress(OSError):  # a file system without rights of its own
            os.fchmod(descriptor, 0o600)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it, in as many calls as the kernel needs. Errors: ``OSError``; a part may be written then."""
    view = memoryview(data)
    while view:
        written = os.write(descriptor, view)
        if written <= 0:
            raise OSError(errno.EIO, "the kernel takes no bytes")
        view = view[written:]


def sync_directory(path: str) -> None:
    """Make the name of a new file durable."""
    descriptor = os.open(Path(path).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _blocks(descriptor: int, begin: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield ``(position, bytes)`` from ``begin`` to the end of a file."""
    while block := os.pread(descriptor, READ_SIZE, begin):
        yield begin, block
        begin += len(block)


def _whole_rows(descriptor: int) -> int:
    """Return the length of a file up to the end of its last whole row: the last line break outside quotes."""
    whole = 0
    quotes = 0  # before the current block; an odd count is inside a quoted field
    for begun, block in _blocks(descriptor):
        parts = block.split(b'"')
        end = len(block)
        for index in range(len(parts) - 1, -1, -1):
            begin = end - len(parts[index])
            if (quotes + index) % 2 == 0 and (at := parts[index].rfind(b"\n")) >= 0:
                whole = begun + begin + at + 1
                break
            end = begin - 1
        quotes += len(parts) - 1
    return whole
