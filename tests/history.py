"""What is known of a run from outside of the consumers: the evidence that ``tests/checker.py`` judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

MessageId: TypeAlias = tuple[int, int]
"""Partition and offset."""


class Event(NamedTuple):
    """A line of the ledger; its place in the file is when it happened, relative to the others.

    ``what``: begin, done, failed (of a call); assigned, revoked, lost (a partition); ended, killed, suspended, resumed (a
    process, noted by the test). ``monotonic`` and ``wall`` are in nanoseconds.
    """

    what: str
    partition: int
    offset: int
    key: str
    pid: int
    thread: int
    monotonic: int
    wall: int


class Commit(NamedTuple):
    """A commit as the broker logged it: ``at`` in seconds since the epoch, ``offset`` is Kafka's next one."""

    at: float
    partition: int
    offset: int
    metadata: str


class Row(NamedTuple):
    """A row of a dead-letter or backup file; ``at`` in seconds since the epoch; ``value`` None where it couldn't be read."""

    at: float
    partition: int
    offset: int
    value: bytes | None


@dataclass
class History:
    """All evidence of a run.

    ``values`` is what was produced: each partition's offsets from 0 on without a gap; ``keys`` has the keys of those with one.
    ``complete``: the run is over and was to finish and commit everything. ``attempts`` is ``max_attempts``. ``ordered``: the
    consumers were to keep the order of keys.
    """

    values: Mapping[MessageId, bytes]
    events: Sequence[Event]
    letters: Sequence[Row] = ()
    backup: Sequence[Row] = ()
    commits: Sequence[Commit] = ()
    keys: Mapping[MessageId, str] = field(default_factory=dict)
    complete: bool = True
    attempts: int = 1
    ordered: bool = False
