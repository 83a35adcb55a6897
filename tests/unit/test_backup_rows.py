"""The backup's rows in bulk are, byte for byte, what ``csv.writer`` makes of them one by one."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Message
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kafka_consumer import backup_rows
from kafka_consumer.backup_rows import format_messages, row_of
from kafka_consumer.csv_files import NULL, decode_field, decode_headers, encode_headers
from tests.fakes import FakeMessage, MockMessage

pytestmark = pytest.mark.unit

AT = "2026-11-22T14:05:00.123456+02:00"
csv.field_size_limit(sys.maxsize)


def one_by_one(at: str, messages: list[Any]) -> bytes:
    """Say what the rows must be: the standard library's answer."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([row_of(at, message) for message in messages])
    return text.getvalue().encode("utf-8", "backslashreplace")


HOSTILE = [
    b"", b'"', b'""', b",", b"\r", b"\n", b"\r\n", b"\0", b" ", b"'", b"%", b"%d%s%b", b"%%", b"\\", NULL.encode(),
    NULL.encode() + b" ", b"\xff", b"\xc3", b"\xa9", "é".encode(), "\u2028".encode(), b"\xed\xa0\x80", b"\x1b[2J", b"=1+1",
    b"plain", b'{"a": "b, c"}',
]  # fmt: skip
BYTES = st.none() | st.sampled_from(HOSTILE) | st.binary(max_size=12)
HEADERS = st.none() | st.lists(st.tuples(st.text(max_size=4), st.none() | st.binary(max_size=6)), max_size=3)
TIMES = st.tuples(st.sampled_from([0, 1, 2]), st.integers(0, 2**62))
TOPICS = st.sampled_from(["orders", "orders", "payments", 'a "b", c', "100%d", "ünï", "\ud800"])


@st.composite
def _messages(draw: st.DrawFn, constant: bool) -> list[Message]:
    """Messages of the client's own type; ``constant`` has what is usual in common: topic, no key, no headers."""
    count = draw(st.integers(1, 6))
    return [
        Message(
            topic="orders" if constant else draw(TOPICS),
            partition=draw(st.integers(0, 2**31 - 1)),
            offset=draw(st.integers(0, 2**63 - 1)),
            key=None if constant else draw(BYTES),
            value=draw(BYTES),
            headers=None if constant else draw(HEADERS),  # type: ignore[arg-type]
            timestamp=draw(TIMES),
        )
        for _ in range(count)
    ]


def _with_values(*values: bytes | None, key: bytes | None = None) -> list[Message]:
    return [Message(topic="t", partition=0, offset=n, key=key, value=v, timestamp=(1, 5)) for n, v in enumerate(values)]


@settings(deadline=None, max_examples=400)
@given(_messages(constant=True) | _messages(constant=False))
@example(_with_values(None, None))
@example(_with_values(b"", b""))
@example(_with_values(b"", None, key=b""))
@example(_with_values(b"\xc3", b"\xa9"))  # the halves of one character
@example(_with_values(b"a", b"b", key=b'"'))
@example(_with_values(b"text", b"\xff", b"text"))
@example(_with_values(*HOSTILE))
@example(_with_values(*HOSTILE, key=b"\xff"))
def test_rows_in_bulk_are_what_csv_makes_of_them(messages: list[Message]):
    expected = one_by_one(AT, messages)
    assert backup_rows._in_bulk(AT, messages) == expected, "expected the bulk's own answer, not the fallback's"
    assert format_messages(AT, messages) == expected


@settings(deadline=None, max_examples=100)
@given(_messages(constant=False))
def test_what_is_read_back_is_what_came(messages: list[Message]):
    text = format_messages(AT, messages).decode()
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert len(rows) == len(messages)
    for row, message in zip(rows, messages, strict=True):
        assert row[0] == AT
        assert (int(row[2]), int(row[3])) == (message.partition(), message.offset())
        assert decode_field(row[5], row[8]) == message.key()
        assert decode_field(row[6], row[8]) == message.value()
        assert decode_headers(row[7]) == tuple(message.headers() or ())


@given(st.lists(st.tuples(st.text(), st.none() | st.binary())))
@settings(deadline=None)
def test_headers_are_written_as_json_would_write_them(headers: list[tuple[str, bytes | None]]):
    decoded = [[name, None if value is None else value] for name, value in decode_headers(encode_headers(tuple(headers)))]
    assert decoded == [list(pair) for pair in headers]
    text = encode_headers(tuple(headers))
    assert text == json.dumps(json.loads(text))


class Odd(FakeMessage):
    """One method of it answers, or raises, what a test says."""

    def __init__(self, method: str, answer: Callable[[], Any]) -> None:
        super().__init__("t", 0, 1, b"k", b"v", timestamp=7)
        setattr(self, method, answer)


def _raise() -> Any:
    raise RuntimeError("no")


@pytest.mark.parametrize(
    "odd",
    [
        MockMessage("t", 0, 1, None, b"by hand: neither timestamp nor headers"),
        Odd("timestamp", _raise),
        Odd("headers", _raise),
        Odd("headers", lambda: [("name", "text"), ("none", None)]),
        Odd("offset", lambda: None),
        Odd("topic", lambda: None),
        Odd("value", lambda: bytearray(b"no bytes")),
    ],
)
def test_a_message_out_of_the_ordinary_gets_its_row_and_so_do_its_neighbours(odd: Any):
    messages = [FakeMessage("t", 0, 0, None, b"before"), odd, FakeMessage("t", 0, 2, None, b"after", timestamp=1)]
    assert format_messages(AT, messages) == one_by_one(AT, messages)


@pytest.mark.parametrize("odd", [Odd("key", _raise), Odd("value", _raise), Odd("value", lambda: "text"), Odd("offset", _raise)])
def test_a_message_that_cannot_be_written_says_so(odd: Any):
    with pytest.raises((RuntimeError, AttributeError)):
        format_messages(AT, [FakeMessage("t", 0, 0, None, b"before"), odd])
