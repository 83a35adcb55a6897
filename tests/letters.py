"""Dead-letter and backup files made by hand, with the writers' own formatting; and letters of every difficult kind."""

from __future__ import annotations

import gzip
import os
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kafka_consumer.backup_rows import BACKUP_COLUMNS
from kafka_consumer.csv_files import encode_headers, encode_pair, format_rows
from kafka_consumer.csv_writers import DLQ_COLUMNS
from kafka_consumer.types import DeadLetter

FAILED_AT = "2026-11-22T14:05:06.000007+01:00"

DIFFICULT: tuple[tuple[bytes | None, bytes | None], ...] = (
    (b"k", b"v"), (None, b"no key"), (b"tombstone", None), (None, None), (b"", b""), (b"k", b"\\N"), (b"\\N", b"v"),
    (b"\xff\x00", b"\xfe"), (b"k", b'a,b"c"\r\nd\ne\rf'), ("ключ".encode(), "🙂\u2028".encode()), (b"k", b"\x00\x1b[2J"),
)  # fmt: skip
"""Keys and values that a careless reader would get wrong."""

HEADERS: tuple[tuple[str, bytes | None], ...] = (
    ("trace", b"1"), ("trace", b"\xff"), ("null", None), ("empty", b""), ("naïve", "é".encode()),
)  # fmt: skip


def letter(offset: int = 0, **fields: Any) -> DeadLetter:
    """Return a dead letter; what isn't given is ordinary."""
    ordinary: dict[str, Any] = {
        "topic": "orders", "partition": 0, "offset": offset, "timestamp": 1_763_000_000_000 + offset, "key": b"key",
        "value": b'{"order": %d}' % offset, "headers": (), "error_type": "ValueError", "error_message": "bad order",
        "stack_trace": "Traceback\n  line 1\nValueError: bad order\n", "attempts": 1, "worker_id": 3,
    }  # fmt: skip
    return DeadLetter(**{**ordinary, **fields})


def letters_of(count: int, chance: random.Random | None = None, **fields: Any) -> list[DeadLetter]:
    """Return so many letters over three partitions, each kind of key, value and headers among them."""
    chance = chance or random.Random(1)
    found = []
    for offset in range(count):
        key, value = DIFFICULT[offset % len(DIFFICULT)]
        mark = b"%d-" % offset
        # Each one is different, so that a repetition shows; the null ones are told apart by their headers.
        headers = (*HEADERS[: chance.randrange(len(HEADERS) + 1)], ("number", b"%d" % offset))
        found.append(letter(offset, key=key, value=None if value is None else mark + value, headers=headers,
                            partition=offset % 3, **fields))  # fmt: skip
    return found


def dlq_rows(letters: Iterable[DeadLetter], at: str = FAILED_AT) -> bytes:
    """Return letters as rows of a file, without the header."""
    rows = []
    for each in letters:
        key, value, encoding = encode_pair(each.key, each.value)
        rows.append((
            at, each.topic, each.partition, each.offset, each.timestamp, key, value, encode_headers(each.headers), encoding,
            each.error_type, each.error_message, each.stack_trace, each.attempts, each.worker_id,
        ))  # fmt: skip
    return format_rows(rows)


def write_dlq(path: str | os.PathLike[str], letters: Iterable[DeadLetter], at: str = FAILED_AT) -> str:
    """Write, or append to, a dead-letter file; a ``.gz`` is compressed. Return its path."""
    return _write(path, format_rows([DLQ_COLUMNS]), dlq_rows(letters, at))


def write_backup(path: str | os.PathLike[str], letters: Iterable[DeadLetter], at: str = FAILED_AT) -> str:
    """Write, or append to, a backup file of these messages. Return its path."""
    rows = []
    for each in letters:
        key, value, encoding = encode_pair(each.key, each.value)
        headers = encode_headers(each.headers)
        rows.append((at, each.topic, each.partition, each.offset, each.timestamp, key, value, headers, encoding))
    return _write(path, format_rows([BACKUP_COLUMNS]), format_rows(rows))


def _write(path: str | os.PathLike[str], header: bytes, rows: bytes) -> str:
    target = Path(path)
    data = rows if target.exists() else header + rows
    with target.open("ab") as file:
        # Members of gzip may follow one another.
        file.write(gzip.compress(data) if target.suffix == ".gz" else data)
    return str(target)
