"""What the crash-loop guard knows of each partition, and keeps beside the dead-letter file for the run that comes after a crash.

``DLQ.crash-loop`` is JSON, replaced whole when partitions come or go. What is read back may be anything: it is believed only
where it can be true.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Self

from kafka_consumer.csv_files import open_private, write_all
from kafka_consumer.errors import FileFormatError
from kafka_consumer.types import TopicPartitionKey

VERSION = 1
MAX_BYTES = 16 << 20  # of either file; ten thousand partitions take a tenth of it
MAX_OFFSET = 1 << 62
NOTHING_COMMITTED = -1  # the head of a partition that the group has committed nothing for
TIMES = 20  # ends whose times are remembered


@dataclass(slots=True)
class Record:
    """One partition. ``head`` was its first unfinished offset when it was assigned; the group's commit says so.

    ``count`` ends without a word in a row had that head; ``times`` is when the last ones were found, in seconds since the epoch.
    ``reach`` is the offset behind the last message that was handed out in any of these runs; ``until`` is set on probation: the
    offset that has to be committed before it is over. ``condemned`` are offsets that go to the dead letters without a call.
    ``held``: assigned in the run that wrote this, as ``slot`` of its notes. ``ended``: that run has ended without a word after
    messages of it were handed out, and the end isn't in ``count`` yet.
    """

    head: int
    reach: int = NOTHING_COMMITTED
    count: int = 0
    times: list[float] = field(default_factory=list)
    until: int | None = None
    condemned: list[int] = field(default_factory=list)
    held: bool = False
    ended: bool = False
    slot: int = 0

    def assigned(self, head: int, limit: int, at: float) -> Record:
        """Return the record of the partition that is assigned with this head, for the first time in this run."""
        goes_on = self.until is not None and self.head <= head < self.until
        if not goes_on and head != self.head:
            return Record(head, held=True)  # it has moved on; or back, and what was known is of another time
        self.head = head
        self.condemned = [offset for offset in self.condemned if offset >= head]
        if self.ended:
            self.ended = False
            self.count += 1
            self.times = [*self.times, at][-TIMES:]
        if self.until is None and self.count >= limit:
            self.until = self.reach
        self.held = True
        return self

    def condemn(self, offset: int) -> None:
        """This message was in work, alone, when the process ended."""
        self.condemned = sorted({*self.condemned, offset})
        self.reach = max(self.reach, offset + 1)
        self.until = max(self.reach, self.until or 0)

    def suspicious(self, limit: int) -> bool:
        """Whether its next assignment may begin a probation, or go on with one."""
        return self.until is not None or bool(self.condemned) or (self.ended and self.count + 1 >= limit)

    def check(self) -> None:
        """Refuse what can't be. Errors: ``ValueError``."""
        numbers = [self.head, self.reach, self.count, self.slot, *self.condemned, 0 if self.until is None else self.until]
        good = all(type(number) is int and NOTHING_COMMITTED <= number < MAX_OFFSET for number in numbers)
        good = good and all(type(flag) is bool for flag in (self.held, self.ended))
        if not good or not all(type(at) in (int, float) and 0 <= at < 1e11 for at in self.times):
            raise ValueError("a figure of a partition can't be")


@dataclass(slots=True)
class State:
    """The file of one group. ``life`` ties it to its notes, 0 to none; ``suspect`` was the last begun of several calls."""

    group: str
    life: int = 0
    suspect: tuple[str, int, int] | None = None
    records: dict[TopicPartitionKey, Record] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str, group: str) -> Self | None:
        """Return what a file holds; None where there is none.

        Errors: ``OSError``; ``FileFormatError`` for a damaged or a foreign one.
        """
        data = read(path)
        if data is None:
            return None
        try:
            found = json.loads(data)
            ours = found["version"] == VERSION and found["group"] == group
            records = {}
            for entry in found["partitions"]:
                topic, partition = str(entry.pop("topic")), int(entry.pop("partition"))
                records[topic, partition] = record = Record(**entry)
                record.check()
            suspect = found["suspect"]
            if suspect is not None:
                suspect = (str(suspect[0]), int(suspect[1]), int(suspect[2]))
            state = cls(group, int(found["life"]), suspect, records)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, OverflowError) as error:
            raise FileFormatError(f"it is damaged ({type(error).__name__})") from None
        if not ours:
            raise FileFormatError(f"expected version {VERSION}, and group {group!r}")
        return state

    def conclude(self, calls: list[tuple[int, int]], reaches: list[int]) -> str | None:
        """Find out how the run has ended that left this and these notes (see ``Notes.read``); return what is to be said."""
        keys = {record.slot: key for key, record in self.records.items() if record.held}
        probation = any(record.held and record.until is not None for record in self.records.values())
        for record in self.records.values():
            reach = reaches[record.slot] if record.held and record.slot < len(reaches) else NOTHING_COMMITTED
            record.ended = record.ended or reach > max(record.head, 0)
            record.reach = max(record.reach, reach)
            record.held = False
        in_work = [(*keys[slot], offset) for slot, offset in calls if slot in keys]
        before, self.suspect = self.suspect, None
        if not probation or not in_work:  # without probation several work at a time: they prove nothing
            silent = probation and any(record.ended for record in self.records.values())
            return (
                "the last run ended in its probation, but no message was in work: it wasn't one that did it" if silent else None
            )
        topic, partition, offset = youngest = in_work[-1]
        # Several: beside it ran calls that don't end in their time. The same one at two ends is no coincidence.
        if len(in_work) == 1 or youngest == before:
            self.records[topic, partition].condemn(offset)
            return f"{topic}-{partition}@{offset} was in work when the last run ended: it won't be called again"
        self.suspect = youngest
        where = f"{topic}-{partition}@{offset}"
        return f"the last run ended with {len(in_work)} messages in work; the one begun last, {where}, is suspected"

    def save(self, path: str) -> None:
        """Replace the file; whoever reads it finds the old one or the new one. Errors: ``OSError``."""
        partitions = [{"topic": key[0], "partition": key[1], **asdict(self.records[key])} for key in sorted(self.records)]
        content = {
            "version": VERSION, "group": self.group, "life": self.life, "suspect": self.suspect, "partitions": partitions,
        }  # fmt: skip
        new = f"{path}.new"
        descriptor = open_private(new, os.O_WRONLY | os.O_TRUNC)
        try:
            write_all(descriptor, json.dumps(content).encode() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(new, path)


def delete(path: str) -> None:
    """Delete a file, if it is there. Errors: ``OSError``."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def read(path: str) -> bytes | None:
    """Return what a regular file holds; None where there is none. Errors: ``OSError``, ``FileFormatError``."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileFormatError("expected a regular file, got something else")
    with os.fdopen(descriptor, "rb") as handle:
        data = handle.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise FileFormatError(f"expected {MAX_BYTES:,} bytes at the most")
    return data
