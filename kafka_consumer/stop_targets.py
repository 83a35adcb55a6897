"""``stop_at_offset``: what is past a target is never processed, and the consumer stops when every target is reached."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence

from kafka_consumer.assignment import next_offset
from kafka_consumer.types import TopicPartitionKey


class StopTargets:
    """The targets, inclusive offsets. Used by the polling thread alone."""

    def __init__(self, targets: Mapping[TopicPartitionKey, int] | None, topic: str) -> None:
        self._targets = dict(targets or {})
        # A target in a topic that isn't consumed is never reached; it counts only when there is no other.
        own = {key for key in self._targets if key[0] == topic}
        self._missing = own or set(self._targets)
        self.reached: set[TopicPartitionKey] = set()

    def __bool__(self) -> bool:
        return bool(self._targets)

    def within(self, key: TopicPartitionKey, offsets: Sequence[int]) -> int:
        """Return how many of these (ascending) offsets may be processed; notes when the target is reached or passed."""
        target = self._targets.get(key)
        if target is None:
            return len(offsets)
        if offsets[-1] >= target:
            self.reached.add(key)
        return bisect_right(offsets, target)

    def at_end(self, key: TopicPartitionKey, end: int) -> None:
        """The log of a partition ends at ``end`` (its next offset) for now: a target before that can't come any more."""
        target = self._targets.get(key)
        if target is not None and end > target:
            self.reached.add(key)

    def up_to(self, key: TopicPartitionKey, end: int) -> int:
        """Return the next offset that a commit may reach where the log ends at ``end``: never past the target."""
        target = self._targets.get(key)
        return end if target is None else min(end, next_offset(target))

    @property
    def all_reached(self) -> bool:
        """Whether there is nothing left to wait for."""
        return bool(self._targets) and self._missing <= self.reached

    def describe(self) -> str:
        """Return the targets for a log line."""
        return ", ".join(f"{topic}-{partition}@{offset}" for (topic, partition), offset in sorted(self._targets.items()))
