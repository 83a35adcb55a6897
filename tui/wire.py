"""From a peer's JSON to a ``Snapshot``.

The peer may be another version, broken or hostile: unknown fields are ignored, missing and wrong ones become their neutral
value, text is sanitised and cut, lists are bounded. Nothing here raises for what a peer can send, except ``WireError`` for
what isn't a snapshot at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

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
)
from tui.text import clean

MAX_ROWS = 20_000
MAX_TAIL = 1_000
MAX_TEXT = 4_000
MAX_STACK_LINES = 60
_LARGEST = 2**63

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
    found = number(value)
    if found is None:
        return None
    # An integer stays exact: offsets may exceed what a float holds.
    return value if isinstance(value, int) else int(found)


def mapping(value: Any) -> Mapping[str, Any]:
    """Return an object; empty for what isn't one."""
    return value if isinstance(value, Mapping) else {}


def rows(value: Any, build: Callable[[Mapping[str, Any]], T], limit: int = MAX_ROWS) -> tuple[T, ...]:
    """Return the objects of a list, at most ``limit``; what isn't an object is left out."""
    if not isinstance(value, list | tuple):
        return ()
    return tuple(build(item) for item in value[:limit] if isinstance(item, Mapping))


def _last_rows(value: Any, build: Callable[[Mapping[str, Any]], T]) -> tuple[T, ...]:
    return rows(value[-MAX_TAIL:], build) if isinstance(value, list | tuple) else ()


def _queue(item: Mapping[str, Any]) -> QueueView:
    return QueueView(whole(item.get("depth")), optional_whole(item.get("capacity")), whole(item.get("bytes")))


def _worker(item: Mapping[str, Any]) -> WorkerView:
    topic, stack = item.get("topic"), item.get("stack")
    return WorkerView(
        id=whole(item.get("id")),
        state=text(item.get("state"), 20) or "unknown",
        topic=clean(topic, 300) if isinstance(topic, str) else None,
        partition=optional_whole(item.get("partition")),
        offset=optional_whole(item.get("offset")),
        busy_seconds=real(item.get("busy_seconds")),
        processed=whole(item.get("processed")),
        failed=whole(item.get("failed")),
        # Its end is the call that holds the message; nearly every worker's is empty.
        stack=tuple(text(line, 400) for line in stack[-MAX_STACK_LINES:]) if stack and isinstance(stack, list | tuple) else (),
    )


def _partition(item: Mapping[str, Any]) -> PartitionView:
    return PartitionView(
        topic=text(item.get("topic"), 300),
        partition=whole(item.get("partition")),
        state=text(item.get("state"), 20) or "unknown",
        position=optional_whole(item.get("position")),
        committed=optional_whole(item.get("committed")),
        high_watermark=optional_whole(item.get("high_watermark")),
        lag=optional_whole(item.get("lag")),
        in_flight=whole(item.get("in_flight")),
        stop_at=optional_whole(item.get("stop_at")),
        rate=real(item.get("rate")),
        eta_seconds=number(item.get("eta_seconds")),
        oldest_seconds=number(item.get("oldest_seconds")),
        time_lag_seconds=number(item.get("time_lag_seconds")),
        note=text(item.get("note"), 200),
    )


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


def snapshot_from_dict(value: Any) -> Snapshot:
    """Return the snapshot that a peer sent as a JSON object. Errors: ``WireError`` when it isn't one."""
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
        workers=rows(value.get("workers"), _worker),
        partitions=rows(value.get("partitions"), _partition),
        totals=Totals(**{name: whole(totals.get(name)) for name in Totals.__dataclass_fields__}),
        rates=Rates(**{name: real(rates.get(name)) for name in Rates.__dataclass_fields__}),
        latency=Latency(_percentiles(latency.get("processing")), _percentiles(latency.get("poll_to_commit"))),
        replay=_replay(value.get("replay")),
        dlq_tail=_last_rows(value.get("dlq_tail"), _dead_letter),
        log_tail=_last_rows(value.get("log_tail"), _log),
        stop_reason=optional_text(value.get("stop_reason")),
        log_level=text(value.get("log_level"), 20) or "INFO",
        stuck_threads=whole(value.get("stuck_threads")),
    )
