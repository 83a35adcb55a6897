"""From a peer's JSON to a ``Snapshot``.

The peer may be another version, broken or hostile: unknown fields are ignored, missing and wrong ones become their neutral
value, text is sanitised and cut, lists are bounded. Nothing here raises for what a peer can send, except ``WireError`` for
what isn't a snapshot at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Generic, TypeVar

from kafka_consumer.snapshot import (
    SNAPSHOT_VERSION,
    DeadLetterView,
    Latency,
    LogView,
    PartitionView,
    Percentiles,
    QueueView,
    Rates,
    Replay,
    Snapshot,
    Totals,
    WorkerView,
    view_of,
)
from tui.text import clean

MAX_ROWS = 20_000
MAX_TAIL = 1_000
MAX_TEXT = 4_000
MAX_STACK_LINES = 60
_LARGEST = 2**63
_NAME_CHARACTERS = 300

T = TypeVar("T")


class WireError(ValueError):
    """A line from a peer isn't what the protocol promises."""


def text(value: Any, limit: int = MAX_TEXT) -> str:
    """Return a clean text; empty for what isn't one."""
    return clean(value, limit) if isinstance(value, str) else ""


def optional_text(value: Any) -> str | None:
    """Return a clean text or None."""
    return clean(value, MAX_TEXT) if isinstance(value, str) else None


def number(value: Any) -> float | None:
    """Return a finite number or None; a bool isn't one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int):
        return float(value) if abs(value) <= _LARGEST else None
    return value if math.isfinite(value) else None


def real(value: Any) -> float:
    """Return a finite number; 0 for what isn't one."""
    return number(value) or 0.0


def whole(value: Any) -> int:
    """Return an integer; 0 for what isn't one."""
    return optional_whole(value) or 0


def optional_whole(value: Any) -> int | None:
    """Return an integer or None."""
    if type(value) is int and -_LARGEST <= value <= _LARGEST:
        return value
    found = number(value)
    if found is None:
        return None
    # An integer stays exact: offsets may exceed what a float holds.
    return value if isinstance(value, int) else int(found)


def mapping(value: Any) -> Mapping[str, Any]:
    """Return an object; empty for what isn't one."""
    return value if isinstance(value, Mapping) else {}


@lru_cache(maxsize=1024)
def _cleaned(value: str, limit: int) -> str:
    return clean(value, limit)


def word(value: Any, limit: int) -> str:
    """Return a clean text as ``text`` does. For what a thousand rows say in a few words: each word is cleaned once."""
    return _cleaned(value, limit) if isinstance(value, str) and len(value) <= _NAME_CHARACTERS else text(value, limit)


def _queue(item: Mapping[str, Any]) -> QueueView:
    return QueueView(whole(item.get("depth")), optional_whole(item.get("capacity")), whole(item.get("bytes")))


def _worker(item: Mapping[str, Any]) -> WorkerView:
    topic, stack = item.get("topic"), item.get("stack")
    return view_of(WorkerView, {
        "id": whole(item.get("id")),
        "state": word(item.get("state"), 20) or "unknown",
        "topic": word(topic, 300) if isinstance(topic, str) else None,
        "partition": optional_whole(item.get("partition")),
        "offset": optional_whole(item.get("offset")),
        "busy_seconds": real(item.get("busy_seconds")),
        "processed": whole(item.get("processed")),
        "failed": whole(item.get("failed")),
        # Its end is the call that holds the message; nearly every worker's is empty.
        "stack": tuple(text(line, 400) for line in stack[-MAX_STACK_LINES:]) if stack and isinstance(stack, list | tuple) else (),
    })  # fmt: skip


def _partition(item: Mapping[str, Any]) -> PartitionView:
    return view_of(PartitionView, {
        "topic": word(item.get("topic"), 300),
        "partition": whole(item.get("partition")),
        "state": word(item.get("state"), 20) or "unknown",
        "position": optional_whole(item.get("position")),
        "committed": optional_whole(item.get("committed")),
        "high_watermark": optional_whole(item.get("high_watermark")),
        "lag": optional_whole(item.get("lag")),
        "in_flight": whole(item.get("in_flight")),
        "stop_at": optional_whole(item.get("stop_at")),
        "rate": real(item.get("rate")),
        "eta_seconds": number(item.get("eta_seconds")),
        "oldest_seconds": number(item.get("oldest_seconds")),
        "time_lag_seconds": number(item.get("time_lag_seconds")),
        "note": word(item.get("note"), 200),
    })  # fmt: skip


def _percentiles(value: Any) -> Percentiles:
    item = mapping(value)
    return Percentiles(number(item.get("p50")), number(item.get("p95")), number(item.get("p99")))


def _headers(value: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list | tuple):
        return ()
    pairs = (pair for pair in value[:100] if isinstance(pair, list | tuple) and len(pair) == 2)
    return tuple((text(name, 300), text(content)) for name, content in pairs)


def _dead_letter(item: Mapping[str, Any]) -> DeadLetterView:
    trace = item.get("stack_trace")
    trace_lines = trace.splitlines() if isinstance(trace, str) else trace if isinstance(trace, list | tuple) else ()
    return DeadLetterView(
        at=real(item.get("at")),
        topic=text(item.get("topic"), 300),
        partition=whole(item.get("partition")),
        offset=whole(item.get("offset")),
        key=optional_text(item.get("key")),
        value=optional_text(item.get("value")),
        headers=_headers(item.get("headers")),
        error_type=text(item.get("error_type"), 200),
        error_message=text(item.get("error_message")),
        stack_trace=tuple(text(line) for line in list(trace_lines)[:500]),
        attempts=whole(item.get("attempts")),
        worker_id=optional_whole(item.get("worker_id")),
    )


def _log(item: Mapping[str, Any]) -> LogView:
    return LogView(real(item.get("at")), text(item.get("level"), 20) or "INFO", text(item.get("message")))


def _replay(value: Any) -> Replay | None:
    if not isinstance(value, Mapping):
        return None
    return Replay(whole(value.get("done")), whole(value.get("total")), number(value.get("eta_seconds")))


class _Rows(Generic[T]):
    """A list of a series of snapshots: an object that comes as it came before is the same row again, unread.

    ``last``: how many are taken, of the end; 0: the first MAX_ROWS.
    """

    def __init__(self, build: Callable[[Mapping[str, Any]], T], *, last: int = 0) -> None:
        self._build = build
        self._slice = slice(-last, None) if last else slice(MAX_ROWS)
        self._objects: list[Mapping[str, Any]] = []
        self._rows: tuple[T, ...] = ()

    def read(self, value: Any) -> tuple[T, ...]:
        """Return the rows of a list, what isn't an object left out; the tuple of the last time when nothing has changed."""
        objects = [item for item in value[self._slice] if isinstance(item, Mapping)] if isinstance(value, list | tuple) else []
        if objects == self._objects:
            return self._rows
        build = self._build
        kept = [
            row if item == before else build(item)
            for item, before, row in zip(objects, self._objects, self._rows, strict=False)
        ]  # fmt: skip
        self._rows = (*kept, *map(build, objects[len(kept) :]))
        self._objects = objects
        return self._rows


class SnapshotReader:
    """Reads the snapshots of one peer, one after the other. Used by one thread."""

    def __init__(self) -> None:
        self._workers = _Rows(_worker)
        self._partitions = _Rows(_partition)
        self._dlq_tail = _Rows(_dead_letter, last=MAX_TAIL)
        self._log_tail = _Rows(_log, last=MAX_TAIL)

    def read(self, value: Any) -> Snapshot:
        """Return the snapshot that a peer sent as a JSON object. Errors: ``WireError`` when it isn't one.

        ``RecursionError`` for an object of objects of objects, deeper than Python compares.
        """
        if not isinstance(value, Mapping) or not isinstance(value.get("phase"), str):
            raise WireError("expected a snapshot to be an object with a phase")
        queues = mapping(value.get("queues"))
        totals = mapping(value.get("totals"))
        rates = mapping(value.get("rates"))
        latency = mapping(value.get("latency"))
        return Snapshot(
            version=whole(value.get("version", SNAPSHOT_VERSION)),
            sequence=whole(value.get("sequence")),
            at=real(value.get("at")),
            phase=text(value["phase"], 20),
            pid=whole(value.get("pid")),
            group_id=text(value.get("group_id"), 300),
            topic=text(value.get("topic"), 300),
            uptime_seconds=real(value.get("uptime_seconds")),
            dev_mode=value.get("dev_mode") is True,
            paused=value.get("paused") is True,
            queues={text(name, 40): _queue(mapping(item)) for name, item in list(queues.items())[:20]},
            workers=self._workers.read(value.get("workers")),
            partitions=self._partitions.read(value.get("partitions")),
            totals=Totals(**{name: whole(totals.get(name)) for name in Totals.__dataclass_fields__}),
            rates=Rates(**{name: real(rates.get(name)) for name in Rates.__dataclass_fields__}),
            latency=Latency(_percentiles(latency.get("processing")), _percentiles(latency.get("poll_to_commit"))),
            replay=_replay(value.get("replay")),
            dlq_tail=self._dlq_tail.read(value.get("dlq_tail")),
            log_tail=self._log_tail.read(value.get("log_tail")),
            stop_reason=optional_text(value.get("stop_reason")),
            log_level=text(value.get("log_level"), 20) or "INFO",
            stuck_threads=whole(value.get("stuck_threads")),
            pause_reason=optional_text(value.get("pause_reason")),
        )


def snapshot_from_dict(value: Any) -> Snapshot:
    """Return one snapshot, as ``SnapshotReader`` does."""
    return SnapshotReader().read(value)
