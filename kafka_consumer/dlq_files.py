"""Read dead-letter and backup files back: the exact bytes that were in Kafka, a row at a time, however large the files are.

A file may be read while a consumer writes it, and may end where a crash tore it: what isn't a whole row is left out, and said.
Files of closed hours may be compressed (``.csv.gz``).
"""

from __future__ import annotations

import csv
import glob
import gzip
import hashlib
import io
import os
import re
import sys
import zlib
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO

from kafka_consumer.csv_files import decode_field, decode_headers
from kafka_consumer.errors import FileFormatError
from kafka_consumer.types import Headers

_NEEDED = ("topic", "partition", "offset", "timestamp", "key", "value", "headers", "encoding")
_EVIDENCE = ("error_type", "error_message", "stack_trace", "attempts", "worker_id")
_HOURLY = re.compile(r"(?P<stem>.+)_\d{8}_hour_\d{2}(?P<suffix>\.[^./]+?)(?:(?:\.\d+)?\.gz)?", re.ASCII | re.DOTALL)


class Problems:
    """Counts what couldn't be read, and says it, a line each: last rows ``torn`` by a crash, and rows that are ``lost``."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.torn = 0
        self.lost = 0

    def tear(self, line: str) -> None:
        """A file ends within a row: its message wasn't committed, or is still being written."""
        self.torn += 1
        self._say(line)

    def lose(self, line: str) -> None:
        """A row can't be read although it has its end."""
        self.lost += 1
        self._say(line)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why a message went to the dead letters; ``worker_id`` is None when no worker saw it."""

    error_type: str
    error_message: str
    stack_trace: str
    attempts: int
    worker_id: int | None


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One row. ``at`` is when it failed, or was received, in ISO 8601; ``timestamp`` the message's own, in milliseconds, or None.

    ``evidence`` is None in a backup. ``place`` is the row's file and line, for people.
    """

    at: str
    topic: str
    partition: int
    offset: int
    timestamp: int | None
    key: bytes | None
    value: bytes | None
    headers: Headers
    evidence: Evidence | None
    path: str
    line: int

    @property
    def place(self) -> str:
        """The row's file and line, for people."""
        return f"{self.path}:{self.line}"

    @property
    def moment(self) -> float:
        """``at`` in seconds since the epoch; a time without a zone is local. Errors: ``ValueError``."""
        return datetime.fromisoformat(self.at).timestamp()

    @property
    def size(self) -> int:
        """The bytes of key, value and headers."""
        held = [self.key, self.value, *(value for _, value in self.headers)]
        return sum(len(part) for part in held if part) + sum(len(name) for name, _ in self.headers)

    def digest(self) -> bytes:
        """Return 16 bytes that tell this message from every other: its place in Kafka, its timestamp and its bytes.

        The place alone won't do: a topic that is deleted and created anew begins again at offset 0. A message that was recorded
        twice, as after a crash, has one digest.
        """
        found = hashlib.sha256()
        parts: list[bytes | None] = [
            self.topic.encode("utf-8", "surrogatepass"), b"%d" % self.partition, b"%d" % self.offset,
            None if self.timestamp is None else b"%d" % self.timestamp, self.key, self.value,
        ]  # fmt: skip
        for name, value in self.headers:
            parts += [name.encode("utf-8", "surrogatepass"), value]
        for part in parts:
            # The length first: ("ab", "c") and ("a", "bc") are different messages, null and empty are different values.
            found.update(b"-" if part is None else b"%d:" % len(part))
            found.update(part or b"")
        return found.digest()[:16]

    def __repr__(self) -> str:
        """Where it comes from, never the payload: it may hold secrets, and it may be huge."""
        return f"StoredMessage({self.topic}-{self.partition}@{self.offset}, {self.place})"


# --- which files ----------------------------------------------------------------------------------------------------------------


def files_of(base: str) -> list[str]:
    """Return the hourly files of ``base`` (``dir/dlq.csv``), compressed ones included, oldest first."""
    stem, suffix = os.path.splitext(with_suffix(base))
    found = glob.glob(f"{glob.escape(stem)}_*_hour_*{glob.escape(suffix)}*")
    return sorted(path for path in found if base_of(path) == f"{stem}{suffix}")


def with_suffix(base: str) -> str:
    """Return a base as its hourly files have it: one without a suffix has ``.csv``."""
    return base if os.path.splitext(base)[1] else f"{base}.csv"


def base_of(path: str) -> str:
    """Return the base of an hourly file, ``dir/dlq.csv`` of ``dir/dlq_20261122_hour_14.csv``; any other file is its own."""
    found = _HOURLY.fullmatch(path)
    return path if found is None else f"{found['stem']}{found['suffix']}"


# --- reading --------------------------------------------------------------------------------------------------------------------


def read_messages(
    paths: Iterable[str], problems: Problems, *, dead_letters: bool = False
) -> Generator[StoredMessage, None, None]:
    """Yield the rows of the files, in their order. What can't be read is told to ``problems`` and left out.

    ``dead_letters``: a backup isn't taken. Errors: ``OSError``; ``FileFormatError`` for a file that is neither.
    """
    csv.field_size_limit(sys.maxsize)  # a value may be as long as Kafka allows; the default would refuse 128 KiB
    for path in paths:
        with open(path, "rb") as raw:
            data = gzip.GzipFile(fileobj=raw) if path.endswith(".gz") else raw
            with data, closing(_Lines(data)) as lines:
                yield from _read(path, lines, problems, dead_letters=dead_letters)


class _Lines:
    """A file's lines as text, for the CSV reader: cut at line feeds alone, since a payload may hold any other separator."""

    def __init__(self, raw: BinaryIO | gzip.GzipFile) -> None:
        # surrogateescape: bytes that aren't UTF-8 make one field unreadable, not the file.
        self._text = io.TextIOWrapper(raw, encoding="utf-8", errors="surrogateescape", newline="\n")
        self.last = ""
        self.ended = False
        self.damage: str | None = None

    def close(self) -> None:
        self._text.close()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            self.last = next(self._text)
        except StopIteration:
            self.ended = True
            raise
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            self.ended, self.damage = True, str(error) or type(error).__name__
            raise StopIteration from None
        return self.last


def _read(path: str, lines: _Lines, problems: Problems, *, dead_letters: bool) -> Iterator[StoredMessage]:
    reader = csv.reader(lines, strict=True)
    columns: list[str] | None = None
    torn = False
    first = 0
    while not torn:
        first = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            torn = lines.ended or not _whole(lines)  # within quotes
            if not torn:
                problems.lose(f"{path}:{first}: not a row ({error}): left out")
            continue
        torn = not _whole(lines)
        if torn:
            continue
        if columns is None:
            columns = _header(path, row, dead_letters=dead_letters)
            continue
        try:
            if len(row) != len(columns):
                raise ValueError(f"expected {len(columns)} columns, got {len(row)}")  # noqa: TRY301 - one warning for all of them
            yield _message(path, first, dict(zip(columns, row, strict=True)))
        except ValueError as error:
            problems.lose(f"{path}:{first}: not a row that kc wrote ({error}): left out")
    if lines.damage is not None:
        problems.lose(f"{path}: the compressed file is damaged ({lines.damage}): what follows line {reader.line_num} is lost")
    elif torn:
        problems.tear(f"{path}:{first}: ends within a row, torn by a crash or still being written: left out")


def _whole(lines: _Lines) -> bool:
    """Whether the line that was read last has its end: a file's writer appends whole rows, a crash may cut the last one."""
    return lines.last.endswith("\n")


def _header(path: str, row: list[str], *, dead_letters: bool) -> list[str]:
    if not set(_NEEDED) <= set(row) or not {"failed_at", "received_at"} & set(row):
        shown = ", ".join(row)[:200]
        raise FileFormatError(f"{path}: expected a dead-letter or a backup file of kc, got one whose first row is: {shown}")
    if dead_letters and not set(_EVIDENCE) <= set(row):
        raise FileFormatError(f"{path}: expected a dead-letter file, got a backup: kc replay-backup processes it")
    return row


def _message(path: str, line: int, row: dict[str, str]) -> StoredMessage:
    """Return a row's message. Errors: ``ValueError`` (``UnicodeError`` is one)."""
    encoding = row["encoding"]
    if encoding not in ("utf-8", "base64"):
        raise ValueError("expected encoding to be utf-8 or base64")
    try:
        headers = decode_headers(row["headers"])
    except (TypeError, ValueError, RecursionError):
        raise ValueError("expected headers to be a JSON list of pairs with base64 values") from None
    evidence = None
    if "error_type" in row:
        worker = row["worker_id"]
        evidence = Evidence(
            row["error_type"], row["error_message"], row["stack_trace"], _number("attempts", row["attempts"]),
            None if worker == "" else _number("worker_id", worker),
        )  # fmt: skip
    return StoredMessage(
        at=row["failed_at"] if "failed_at" in row else row["received_at"],
        topic=row["topic"],
        partition=_number("partition", row["partition"]),
        offset=_number("offset", row["offset"]),
        timestamp=None if row["timestamp"] == "" else _number("timestamp", row["timestamp"]),
        key=_bytes("key", row["key"], encoding),
        value=_bytes("value", row["value"], encoding),
        headers=headers,
        evidence=evidence,
        path=path,
        line=line,
    )


def _number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"expected {name} to be a number") from None


def _bytes(name: str, text: str, encoding: str) -> bytes | None:
    try:
        return decode_field(text, encoding)
    except ValueError:
        # Neither text nor base64 is shown: it is payload.
        raise ValueError(f"expected {name} in {encoding}") from None


# --- choosing -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters are meant; what is empty or None leaves all of them in. ``since`` is inclusive, ``until`` isn't.

    Times are seconds since the epoch, compared with when a message failed; ``offsets`` are ``(topic, partition, offset)``.
    """

    errors: Collection[str] = ()
    topics: Collection[str] = ()
    keys: Collection[bytes] = ()
    offsets: Collection[tuple[str, int, int]] = ()
    since: float | None = None
    until: float | None = None

    def __call__(self, message: StoredMessage) -> bool:
        """Whether this one is meant."""
        if self.topics and message.topic not in self.topics:
            return False
        if self.errors and (message.evidence is None or message.evidence.error_type not in self.errors):
            return False
        if self.keys and message.key not in self.keys:
            return False
        if self.offsets and (message.topic, message.partition, message.offset) not in self.offsets:
            return False
        return (self.since is None and self.until is None) or self._in_time(message)

    def _in_time(self, message: StoredMessage) -> bool:
        try:
            moment = message.moment
        except ValueError:
            return False  # nobody knows when
        return (self.since is None or moment >= self.since) and (self.until is None or moment < self.until)


class FileMessage:
    """A row with the methods of a Kafka message, for the processor's side."""

    __slots__ = ("stored",)

    def __init__(self, stored: StoredMessage) -> None:
        self.stored = stored

    def topic(self) -> str:
        return self.stored.topic

    def partition(self) -> int:
        return self.stored.partition

    def offset(self) -> int:
        return self.stored.offset

    def key(self) -> bytes | None:
        return self.stored.key

    def value(self) -> bytes | None:
        return self.stored.value

    def headers(self) -> Headers:
        return self.stored.headers

    def error(self) -> Any:
        return None

    def timestamp(self) -> tuple[int, int]:
        """Return the kind of timestamp (0: there is none) and milliseconds since the epoch."""
        return (0, -1) if self.stored.timestamp is None else (1, self.stored.timestamp)
