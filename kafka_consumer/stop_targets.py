"""``stop_at_offset``: what is past a target is never processed, and the consumer stops when every target is reached."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from kafka_consumer.assignment import next_offset
from kafka_consumer.types import TopicPartitionKey


class StopTargets:
    """The targets, inclusive offsets. Used by the polling thread alone."""

    def __init__(
        self,
        targets: Mapping[TopicPartitionKey, int] | None,
        topic: str,
        ours: Callable[[], Collection[TopicPartitionKey]] | None = None,
    ) -> None:
        """``ours``: of several members each waits for what is assigned to it alone; without it, for all targets."""
        self._targets = dict(targets or {})
        self._ours = ours
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
    def offsets(self) -> Mapping[TopicPartitionKey, int]:
        """The targets. Never changed, so that snapshots may read them from other threads."""
        return self._targets

    @property
    def all_reached(self) -> bool:
        """Whether there is nothing left to wait for."""
        if self._ours is None:
            return bool(self._targets) and self._missing <= self.reached
        ours = self._missing.intersection(self._ours())
        return bool(ours) and ours <= self.reached

    def describe(self) -> str:
        """Return the targets for a log line."""
        shown = ", ".join(f"{topic}-{partition}@{offset}" for (topic, partition), offset in sorted(self._targets.items())[:10])
        return shown if len(self._targets) <= 10 else f"{shown} and {len(self._targets) - 10} more"


def out_of_topic(targets: Iterable[TopicPartitionKey], partitions: Collection[int]) -> str | None:
    """Return what is wrong when a target's partition isn't one of its topic's ``partitions``: it would never be reached."""
    wrong = sorted(key for key in targets if key[1] not in partitions)
    if not wrong:
        return None
    names = ", ".join(f"{topic}-{partition}" for topic, partition in wrong[:10])
    known = f"{len(partitions):,} partitions, 0 to {max(partitions)}" if len(partitions) > 1 else "one partition, 0"
    return f"stop_at_offset: no such partition: {names}; the topic has {known}"
