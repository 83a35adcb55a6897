"""Small types that travel between the loops."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

TopicPartitionKey: TypeAlias = tuple[str, int]
"""``(topic, partition)``."""

Headers: TypeAlias = tuple[tuple[str, bytes | None], ...]
"""Message headers in their order; names may repeat."""


class Phase(StrEnum):
    """The life of a consumer; it goes one way."""

    STARTING = "starting"
    RUNNING = "running"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


class Outcome(StrEnum):
    """How a message ended."""

    SUCCESS = "success"
    FAILED = "failed"


class WorkerState(StrEnum):
    """What a worker is doing."""

    IDLE = "idle"
    BUSY = "busy"
    STUCK = "stuck"
    CRASHED = "crashed"
    STOPPED = "stopped"


class PartitionStatus(StrEnum):
    """What becomes of a partition's messages right now."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that failed for good, with the evidence.

    ``timestamp`` is the record's own, in milliseconds since the epoch, or None; ``attempts`` counts processor calls
    (0 when it was never called); ``worker_id`` is None when no worker saw the message.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int | None
    key: bytes | None
    value: bytes | None
    headers: Headers
    error_type: str
    error_message: str
    stack_trace: str
    attempts: int
    worker_id: int | None

    def __repr__(self) -> str:
        """Where and why, never the payload: it may hold secrets, and it may be huge."""
        return (
            f"DeadLetter({self.topic}-{self.partition}@{self.offset}, {self.error_type}: {self.error_message[:200]!r}, "
            f"attempts={self.attempts})"
        )
