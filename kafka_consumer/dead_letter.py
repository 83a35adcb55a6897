"""From a message and an error to a ``DeadLetter``; never fails, whatever the message or the error do."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from kafka_consumer.errors import DecodeError
from kafka_consumer.ports import MessageLike
from kafka_consumer.types import DeadLetter, Headers

T = TypeVar("T")

MESSAGE_LIMIT = 10_000
TRACE_LIMIT = 100_000


def dead_letter(message: MessageLike, error: BaseException, attempts: int, worker_id: int | None) -> DeadLetter:
    """Return the record of a message that failed for good with ``error`` after ``attempts`` processor calls."""
    return DeadLetter(
        topic=message.topic(),
        partition=message.partition(),
        offset=message.offset(),
        timestamp=timestamp_of(message),
        key=_as_bytes(_try(message.key, None)),
        value=_as_bytes(_try(message.value, None)),
        headers=headers_of(message),
        error_type=type(error).__name__,
        error_message=_cut(_try(lambda: str(error), "(the error can't be shown: its __str__ raises)"), MESSAGE_LIMIT),
        stack_trace=_cut(_trace(error), TRACE_LIMIT),
        attempts=attempts - isinstance(error, DecodeError),  # the processor wasn't called
        worker_id=worker_id,
    )


def timestamp_of(message: Any) -> int | None:
    """Return a message's timestamp in milliseconds since the epoch, or None where it has none."""
    try:
        kind, milliseconds = message.timestamp()
    except Exception:  # noqa: BLE001 - made by hand, without one; or a hostile one
        return None
    return None if kind == 0 else milliseconds


def headers_of(message: Any) -> Headers:
    """Return a message's headers in their order; empty where it has none."""
    try:
        headers = message.headers()
    except Exception:  # noqa: BLE001 - made by hand, without any; or a hostile one
        return ()
    return as_headers(headers)


def as_headers(headers: Any) -> Headers:
    """Return what a message's ``headers()`` gave as they are kept; empty for none."""
    return tuple([(name, _as_bytes(value)) for name, value in headers]) if headers else ()


def _as_bytes(value: Any) -> bytes | None:
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value


def _try(read: Callable[[], T], fallback: T) -> T:
    try:
        return read()
    except Exception:  # noqa: BLE001 - the worker that crashed on this message must still be able to record it
        return fallback


def _trace(error: BaseException) -> str:
    # format_exception prints no local variables: they may hold secrets.
    return _try(lambda: "".join(traceback.format_exception(error)), f"{type(error).__name__}: (its traceback can't be shown)")


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 20] + " … (cut)"
