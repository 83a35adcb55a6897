"""Gathers the evidence for ``tests/checker.py``: the ledger, dead letters and backups, the broker's log of commits."""

from __future__ import annotations

import csv
import io
import sys
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, TopicPartition

from kafka_consumer.csv_files import decode_field
from tests.helpers import hourly_files
from tests.history import Commit, Event, Row
from tests.kafka import Kafka

_OFFSETS_TOPIC = "__consumer_offsets"
_READ_SECONDS = 30.0


def read_ledger(path: Path) -> list[Event]:
    """Return the lines of a ledger. A last line without an end was being written when the processes were killed: left out."""
    text = path.read_text() if path.exists() else ""
    return [_event(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def _event(line: str) -> Event:
    what, partition, offset, key, pid, thread, monotonic, wall = line.split(" ")
    return Event(
        what, int(partition), int(offset), "" if key == "-" else key, int(pid), int(thread), int(monotonic), int(wall)
    )  # fmt: skip


def read_files(bases: Iterable[Path], at_column: str) -> list[Row]:
    """Return the rows of the hourly files of several consumers; ``at_column`` is "failed_at" or "received_at"."""
    csv.field_size_limit(sys.maxsize)
    rows: list[Row] = []
    for path in (path for base in bases for path in hourly_files(base)):
        text = Path(path).read_bytes().decode()
        found = list(csv.DictReader(io.StringIO(text, newline="")))
        # A kill may tear the last row; it doesn't count as written, and the next start would set it aside.
        rows += [_row(row, at_column) for row in (found if text.endswith("\r\n") else found[:-1])]
    return rows


def _row(row: dict[str, str], at_column: str) -> Row:
    try:
        value = decode_field(row["value"], row["encoding"])
        return Row(datetime.fromisoformat(row[at_column]).timestamp(), int(row["partition"]), int(row["offset"]), value)
    except (TypeError, ValueError, KeyError):  # the checker names it
        return Row(0.0, -1, -1, None)


def read_commits(kafka: Kafka, group: str, topic: str) -> list[Commit]:
    """Return every commit of a group on a topic, oldest first, as the broker logged them.

    Errors: ``ValueError`` when the broker has compacted its log of commits meanwhile, so that the history isn't whole.
    """
    consumer = Consumer({**kafka.client_options, "bootstrap.servers": kafka.bootstrap, "group.id": "reads-commits",
                         "enable.auto.commit": False, "enable.partition.eof": False})  # fmt: skip
    try:
        ends = {}
        for number in range(kafka.partitions(_OFFSETS_TOPIC)):
            low, high = consumer.get_watermark_offsets(TopicPartition(_OFFSETS_TOPIC, number), timeout=_READ_SECONDS)
            if low:
                raise ValueError(f"expected the log of commits to begin at 0, got {low}: it isn't whole any more")
            ends[number] = high
        consumer.assign([TopicPartition(_OFFSETS_TOPIC, number, 0) for number in ends])
        found: list[Commit] = []
        next_offsets = dict.fromkeys(ends, 0)
        deadline = time.monotonic() + _READ_SECONDS
        while any(next_offsets[number] < end for number, end in ends.items()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"expected the log of commits up to {ends} within {_READ_SECONDS:g} s, got {next_offsets}")
            for message in consumer.consume(5000, 0.2):
                if message.error() is not None:
                    raise KafkaException(message.error())
                at, offset = message.partition() or 0, message.offset() or 0
                if offset != next_offsets[at]:
                    raise ValueError(f"expected {at}@{next_offsets[at]} in the log of commits, got {offset}: it was compacted")
                next_offsets[at] = offset + 1
                commit = _commit(message.key() or b"", message.value(), group, topic)
                if commit is not None:
                    found.append(commit)
        return found
    finally:
        consumer.close()


class _Fields:
    """Reads Kafka's fields one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def integer(self, size: int) -> int:
        self._at += size
        return int.from_bytes(self._data[self._at - size : self._at], "big", signed=True)

    def text(self) -> str:
        return self._text(self.integer(2))

    def compact_text(self) -> str:
        """Return a text whose length, plus one, is a varint."""
        length = shift = 0
        while True:
            byte = self.integer(1) & 0xFF
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return self._text(length - 1)

    def _text(self, size: int) -> str:
        self._at += max(size, 0)
        return self._data[self._at - max(size, 0) : self._at].decode()


def _commit(key: bytes, value: bytes | str | None, group: str, topic: str) -> Commit | None:
    """Return a record of the log of commits as a ``Commit``; None when it is something else, or another group's or topic's.

    The schemas are Kafka's OffsetCommitKey and OffsetCommitValue. Errors: ``ValueError`` for a version that isn't known here.
    """
    fields = _Fields(key)
    if fields.integer(2) not in (0, 1) or fields.text() != group or fields.text() != topic:
        return None
    partition = fields.integer(4)
    if value is None:
        return None  # the group forgot it
    assert isinstance(value, bytes)
    fields = _Fields(value)
    version = fields.integer(2)
    if not 0 <= version <= 4:
        raise ValueError(f"expected a commit of version 0 to 4, got {version}")
    offset = fields.integer(8)
    if version >= 3:
        fields.integer(4)  # the leader's epoch
    metadata = fields.text() if version < 4 else fields.compact_text()
    # librdkafka writes a C string, with its end; and drops that when it reads.
    return Commit(fields.integer(8) / 1000, partition, offset, metadata.removesuffix("\0"))
