"""What others see of a consumer: one frozen object, JSON-able, the same in process and over the control socket.

A snapshot is built when somebody asks, never in between. Text from messages is sanitised here, at the boundary:
whatever draws a snapshot may print it without another thought.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Any, TypeVar

SNAPSHOT_VERSION = 1

# C0 and C1 controls, DEL, bidirectional overrides and isolates, zero-width and line separators, lone surrogates, BOM.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def sanitise(text: str, limit: int = 500) -> str:
    """Return the text on one line, with every control and direction character visible as an escape, cut at ``limit``."""
    cut = text[: limit + 1]
    clean = _UNSAFE.sub(lambda match: _escape(match.group()), cut)
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def _escape(character: str) -> str:
    if character == "\n":
        return "⏎"
    if character == "\t":
        return " "
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


T = TypeVar("T")


def view_of(kind: type[T], fields: dict[str, Any]) -> T:
    """Return a frozen view with exactly these fields.

    A frozen dataclass without slots, filled at once: its own ``__init__`` sets field by field, which is most of the cost of a
    snapshot with a thousand partitions. A test holds that the fields are the class's.
    """
    view = object.__new__(kind)
    view.__dict__.update(fields)
    return view


@dataclass(frozen=True, slots=True)
class QueueView:
    """A queue: messages waiting, how many fit (None: unbounded), bytes of their values."""

    depth: int
    capacity: int | None
    bytes: int


@dataclass(frozen=True)
class WorkerView:
    """A worker: ``partition`` and ``offset`` of the message in its hands, and for how many seconds it has held it.

    ``stack`` is where a slow one's thread is, outermost call first: of the 20 that have held theirs longest, a second or more.
    """

    id: int
    state: str
    topic: str | None
    partition: int | None
    offset: int | None
    busy_seconds: float
    processed: int
    failed: int
    stack: tuple[str, ...] = ()


@dataclass(frozen=True)
class PartitionView:
    """A partition: offsets are Kafka's (the next one); ``rate`` in messages finished a second; ages in seconds.

    ``lag`` is high watermark - committed (- position when nothing is committed), None while unknown.
    """

    topic: str
    partition: int
    state: str
    position: int | None
    committed: int | None
    high_watermark: int | None
    lag: int | None
    in_flight: int
    stop_at: int | None
    rate: float
    eta_seconds: float | None
    oldest_seconds: float | None
    time_lag_seconds: float | None
    note: str


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts of messages since the start; ``rebalances`` counts assignments and revocations.

    ``records_lost``: deleted from the topic before they were read, at the most. ``dlq_published`` and ``dlq_unpublished``: dead
    letters that ``dlq_topic`` has acknowledged, and refused.
    """

    polled: int
    processed: int
    failed: int
    retried: int
    committed: int
    dlq_written: int
    backup_written: int
    backup_skipped: int
    timed_out: int
    crashed_workers: int
    commit_failures: int
    poll_errors: int
    rebalances: int
    records_lost: int = 0
    dlq_published: int = 0
    dlq_unpublished: int = 0


@dataclass(frozen=True, slots=True)
class Rates:
    """Messages a second, over the last few seconds."""

    polled: float
    processed: float
    failed: float
    committed: float


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Latency in seconds over the recent past; None before the first sample."""

    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Latency:
    """``processing``: one call of the processor; ``poll_to_commit``: from the poll to Kafka's acknowledgement."""

    processing: Percentiles
    poll_to_commit: Percentiles


@dataclass(frozen=True, slots=True)
class Replay:
    """Progress towards the stop targets, in offsets."""

    done: int
    total: int
    eta_seconds: float | None


@dataclass(frozen=True, slots=True)
class DeadLetterView:
    """A recent dead letter, sanitised and cut; the file holds it whole. ``at`` is seconds since the epoch."""

    at: float
    topic: str
    partition: int
    offset: int
    key: str | None
    value: str | None
    headers: tuple[tuple[str, str], ...]
    error_type: str
    error_message: str
    stack_trace: tuple[str, ...]
    attempts: int
    worker_id: int | None


@dataclass(frozen=True, slots=True)
class LogView:
    """A recent log record, sanitised. ``at`` is seconds since the epoch."""

    at: float
    level: str
    message: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A consumer at one moment; ``at`` is seconds since the epoch, durations are seconds.

    ``pause_reason`` says why polling was paused when no operator did it.
    """

    version: int
    sequence: int
    at: float
    phase: str
    pid: int
    group_id: str
    topic: str
    uptime_seconds: float
    dev_mode: bool
    paused: bool
    queues: dict[str, QueueView]
    workers: tuple[WorkerView, ...]
    partitions: tuple[PartitionView, ...]
    totals: Totals
    rates: Rates
    latency: Latency
    replay: Replay | None
    dlq_tail: tuple[DeadLetterView, ...]
    log_tail: tuple[LogView, ...]
    stop_reason: str | None
    log_level: str
    stuck_threads: int
    pause_reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists, strings, numbers and None."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        # The long lists are flat: their views' own dicts will do, where asdict would copy each figure.
        plain["workers"] = [dict(vars(view)) for view in self.workers]
        plain["partitions"] = [dict(vars(view)) for view in self.partitions]
        plain["queues"] = {name: dataclasses.asdict(view) for name, view in self.queues.items()}
        for name in ("totals", "rates", "latency"):
            plain[name] = dataclasses.asdict(plain[name])
        plain["replay"] = None if self.replay is None else dataclasses.asdict(self.replay)
        plain["dlq_tail"] = [dataclasses.asdict(view) for view in self.dlq_tail]
        plain["log_tail"] = [dataclasses.asdict(view) for view in self.log_tail]
        return plain

    def to_json(self) -> str:
        """Return the snapshot as one line of JSON."""
        return json.dumps(self.to_dict(), separators=(",", ":"))
