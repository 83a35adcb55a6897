"""Messages as rows of the backup, a batch at a time: byte for byte what ``csv.writer`` makes of ``row_of``, four times as fast.

Each column is read by one list comprehension and looked at as a whole: one search over all values tells whether any of them needs
quotes, or isn't text. A batch with anything out of the ordinary (a message made by hand, say) is formatted row by row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

from kafka_consumer.csv_files import NULL, encode_headers, encode_pair, format_rows
from kafka_consumer.dead_letter import as_headers, headers_of, timestamp_of

BACKUP_COLUMNS = ("received_at", "topic", "partition", "offset", "timestamp", "key", "value", "headers", "encoding")

_NULL = NULL.encode()
_SPECIAL = re.compile(rb'[",\r\n]')  # what csv's "excel" dialect puts between quotes


def format_messages(at: str, messages: Sequence[Any]) -> bytes:
    """Return messages, taken ``at`` (ISO 8601), as rows. Errors: what a message raises when it is read."""
    try:
        return _in_bulk(at, messages)
    except Exception:  # noqa: BLE001 - a message out of the ordinary, whatever it raised: alone it may do, or tell what is wrong
        return format_rows([row_of(at, message) for message in messages])


def row_of(at: str, message: Any) -> tuple[Any, ...]:
    """Return one message as a row."""
    key, value, encoding = encode_pair(message.key(), message.value())
    return (
        at, message.topic(), message.partition(), message.offset(), timestamp_of(message), key, value,
        encode_headers(headers_of(message)), encoding,
    )  # fmt: skip


def _in_bulk(at: str, messages: Sequence[Any]) -> bytes:
    topics = [message.topic() for message in messages]
    times = [message.timestamp() for message in messages]
    # Each column is one value for all, or as many as there are messages: what is equal in all of them stands in the template.
    one_topic = topics.count(topics[0]) == len(topics)
    known = 0 not in [kind for kind, _ in times]
    keys, values, encoding = _keys_and_values([message.key() for message in messages], [message.value() for message in messages])
    columns: list[tuple[bytes, Sequence[Any] | bytes]] = [
        (b"%b", _quoted(at.encode())),
        (b"%b", _text(topics[0]) if one_topic else [*map(_text, topics)]),
        (b"%d", [message.partition() for message in messages]),
        (b"%d", [message.offset() for message in messages]),
        (b"%d", [at for _, at in times]) if known else (b"%b", [b"%d" % at if kind else b"" for kind, at in times]),
        (b"%b", keys),
        (b"%b", values),
        (b"%b", _headers([message.headers() for message in messages])),
        (b"%b", encoding),
    ]
    # A constant goes through the template: a per cent sign in it is doubled.
    fields = [column.replace(b"%", b"%%") if isinstance(column, bytes) else form for form, column in columns]
    varying = [column for _, column in columns if not isinstance(column, bytes)]
    return (b",".join(fields) + b"\r\n") * len(messages) % tuple(chain.from_iterable(zip(*varying, strict=True)))


def _keys_and_values(
    keys: list[bytes | None], values: list[bytes | None]
) -> tuple[list[bytes] | bytes, list[bytes] | bytes, list[bytes] | bytes]:
    """Return three columns: the keys, the values, and how both are encoded."""
    joined_keys, joined_values = _joined(keys), _joined(values)
    if _readable(joined_keys) and _readable(joined_values):
        return _column(keys, joined_keys), _column(values, joined_values), b"utf-8"
    pairs = [encode_pair(key, value) for key, value in zip(keys, values, strict=True)]
    text_keys, text_values = [key.encode() for key, _, _ in pairs], [value.encode() for _, value, _ in pairs]
    encodings = [encoding.encode() for _, _, encoding in pairs]
    return _column(text_keys, _joined(text_keys)), _column(text_values, _joined(text_values)), encodings


def _joined(column: Sequence[bytes | None]) -> bytes:
    # NUL is no part of a longer UTF-8 sequence, so the whole is UTF-8 if, and only if, each part is.
    return b"\0".join(filter(None, column))


def _readable(joined: bytes) -> bool:
    """Whether all of a column can stand as it is: UTF-8, and nothing in it that reads as null."""
    if _NULL in joined:
        return False
    if not joined.isascii():
        try:
            joined.decode()
        except UnicodeDecodeError:
            return False
    return True


def _column(column: Sequence[bytes | None], joined: bytes) -> list[bytes] | bytes:
    """Return a column with quotes where they are needed and nulls as they are written."""
    if not joined and not any(value is not None for value in column):
        return _NULL
    if b"," in joined or b'"' in joined or b"\n" in joined or b"\r" in joined:
        return [_NULL if value is None else _quoted(value) for value in column]
    return [_NULL if value is None else value for value in column]


def _headers(column: list[Any]) -> list[bytes] | bytes:
    if not any(column):
        return b"[]"
    return [_quoted(encode_headers(as_headers(headers)).encode()) if headers else b"[]" for headers in column]


def _text(text: str) -> bytes:
    return _quoted(text.encode("utf-8", "backslashreplace"))


def _quoted(value: bytes) -> bytes:
    return value if _SPECIAL.search(value) is None else b'"%b"' % value.replace(b'"', b'""')
