"""What ``--from`` and ``--to`` may say: a word, a time, or offsets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from kafka_consumer.types import TopicPartitionKey

ACCEPTED = "earliest, latest, TOPIC:PARTITION:OFFSET, an ISO time such as 2026-11-22T10:00:00+01:00, or -2h (also s, m, d)"

_RELATIVE = re.compile(r"-(\d+(?:\.\d+)?)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_OFFSET = re.compile(r"(.+):(\d+):(\d+)")


@dataclass(frozen=True, slots=True)
class Bound:
    """One side of a replay: a word (``earliest``, ``latest``), a time in milliseconds since the epoch, or offsets."""

    word: str | None = None
    time: int | None = None
    offsets: Mapping[TopicPartitionKey, int] = field(default_factory=dict)


def parse_bound(texts: Sequence[str], now: datetime | None = None) -> Bound:
    """Read one side; offsets may be several, one a partition. A time without a zone is local. Errors: ``ValueError``."""
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"expected {ACCEPTED}")
    offsets: dict[TopicPartitionKey, int] = {}
    for text in texts:
        found = _OFFSET.fullmatch(text)
        if found is None:
            break
        key = (found[1], int(found[2]))
        if key in offsets:
            raise ValueError(f"{key[0]}-{key[1]} is given twice")
        offsets[key] = int(found[3])
    else:
        return Bound(offsets=offsets)
    if len(texts) > 1:
        raise ValueError(f"several are TOPIC:PARTITION:OFFSET, one for each partition, got {', '.join(map(repr, texts))[:200]}")
    (text,) = texts
    if text in ("earliest", "latest"):
        return Bound(word=text)
    return Bound(time=_milliseconds(text, now or datetime.now().astimezone()))


def _milliseconds(text: str, now: datetime) -> int:
    relative = _RELATIVE.fullmatch(text)
    if relative is not None:
        moment = now - timedelta(**{_UNITS[relative[2]]: float(relative[1])})
    else:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(f"expected {ACCEPTED}, got {text!r:.100}") from None
        if moment.tzinfo is None:
            moment = moment.astimezone()
    return int(moment.timestamp() * 1000)
