"""What is paused, and why: the operator, back-pressure, a stop target, a message that holds back too much.

All of it is the polling thread's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaException, TopicPartition

from kafka_consumer.errors import LostPartitionError

if TYPE_CHECKING:
    from kafka_consumer.rebalance import Commits, Partitions
    from kafka_consumer.shared_state import SharedState
    from kafka_consumer.types import TopicPartitionKey


class Pauses:
    """Works out which partitions are to be paused, and tells the consumer what changed."""

    def __init__(self, shared_state: SharedState, consumer: Any, partitions: Partitions, commits: Commits | None) -> None:
        self._shared_state = shared_state
        self._consumer = consumer
        self._partitions = partitions
        self._commits = commits
        self.told: set[TopicPartitionKey] = set()  # what the consumer was told to pause
        self.pressed = False  # back-pressure
        self.lingering = False  # no message is taken any more
        # Written by this thread, read by snapshots; replaced as a whole. None: all.
        self.operator: frozenset[TopicPartitionKey] | None = frozenset()

    def pause(self, keys: set[TopicPartitionKey] | None) -> None:
        """Pause partitions (None: all) for the operator; in this thread, through ``serve``. Errors: ``LostPartitionError``."""
        self.check_ours(keys)
        if keys is None or self.operator is None:
            self.operator = None
        else:
            self.operator |= keys

    def resume(self, keys: set[TopicPartitionKey] | None) -> None:
        """Resume partitions (None: all) for the operator; in this thread, through ``serve``. Errors: ``LostPartitionError``."""
        self.check_ours(keys)
        if keys is None:
            self.operator = frozenset()
            return
        paused = frozenset(self._partitions.open) if self.operator is None else self.operator
        self.operator = paused - keys

    def check_ours(self, keys: set[TopicPartitionKey] | None) -> None:
        """Refuse what isn't assigned. Errors: ``LostPartitionError``."""
        lost = sorted((keys or set()) - set(self._partitions.open))
        if lost:
            names = ", ".join(f"{topic}-{partition}" for topic, partition in lost[:10])
            raise LostPartitionError(f"not assigned to this consumer: {names}; nothing was done")

    @property
    def possible(self) -> bool:
        """Whether there is something to pause, and a consumer that can."""
        return callable(getattr(self._consumer, "pause", None)) and bool(self._partitions.open)

    def _wanted(self, reached: set[TopicPartitionKey]) -> set[TopicPartitionKey]:
        ours = set(self._partitions.open)
        if self.pressed or self.lingering or self.operator is None:
            return ours
        held_back: frozenset[TopicPartitionKey] = frozenset() if self._commits is None else self._commits.held_back
        others = frozenset() if self._partitions.only is None else ours - self._partitions.only
        return set(others | (ours & (self.operator | reached | held_back)))

    def apply(self, reached: set[TopicPartitionKey]) -> None:
        """Tell the consumer what changed.

        A pause survives a revocation inside librdkafka, so what comes back is resumed or paused again. Nothing else is resumed:
        resuming a partition that isn't paused makes librdkafka fetch again what it has just handed out.
        """
        wanted = self._wanted(reached)
        if self._partitions.changed:
            self._partitions.changed = False
            self.told -= wanted
        pausing = wanted - self.told
        resuming = (self.told - wanted) & set(self._partitions.open)
        if not (pausing or resuming) or not self.possible:
            return
        try:
            if pausing:
                self._consumer.pause([_tp(key) for key in pausing])
                self.told |= pausing
            if resuming:
                self._consumer.resume([_tp(key) for key in resuming])
                self.told -= resuming
        except KafkaException as error:
            self._shared_state.logger.warning("pausing or resuming partitions failed, will be tried again: %s", error)


def _tp(key: TopicPartitionKey) -> TopicPartition:
    return TopicPartition(*key)
