"""``--from`` and ``--to``: where a run begins, and where it ends by itself.

With both, it is a replay: what lies between them is processed outside the group, and nothing is committed, unless
``replay_commit`` says so. With one of them the run is the group's: ``--from`` overrides what the group has committed, ``--to``
ends a run that begins where the group is. The ends are those of the beginning: what arrives later belongs to the next run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaException, TopicPartition

from kafka_consumer.assignment import next_offset
from kafka_consumer.errors import ReplayError
from kafka_consumer.replay_bounds import Bound, parse_bound
from kafka_consumer.types import TopicPartitionKey

if TYPE_CHECKING:
    from kafka_consumer.config import KafkaConsumerConfig

ASK_SECONDS = 10.0  # how long the brokers may take for each question


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run with bounds does. ``starts`` and ``ends`` are offsets, the end exclusive; without an entry: as the group has it.

    ``outside`` is a replay outside the group, of just the partitions in ``starts``; ``only`` are those that a replay in the group
    takes, where it doesn't take all.
    """

    starts: Mapping[TopicPartitionKey, int]
    ends: Mapping[TopicPartitionKey, int]
    outside: bool
    only: frozenset[TopicPartitionKey] | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to replay."""
        return self.outside and not self.starts

    def describe(self) -> str:
        """Return it for a log line."""
        keys = sorted({*self.starts, *self.ends})
        shown = ", ".join(
            f"{topic}-{partition} [{self.starts.get((topic, partition), 'committed')}, {self.ends.get((topic, partition), '…')})"
            for topic, partition in keys[:20]
        )
        more = f" and {len(keys) - 20} more partitions" if len(keys) > 20 else ""
        count = sum(max(0, self.ends[key] - self.starts[key]) for key in keys if key in self.starts and key in self.ends)
        return f"{shown}{more}" + (f"; up to {count:,} messages" if self.outside else "")


def make_plan(config: KafkaConsumerConfig, consumer: Any) -> Plan | None:
    """Ask the brokers what the bounds of a configuration mean; None when it has none.

    Errors: ``KafkaException`` when they don't answer; ``ReplayError`` for a topic or a partition that doesn't exist.
    """
    if config.replay_from is None and config.replay_to is None:
        return None
    begin = None if config.replay_from is None else parse_bound(config.replay_from)
    end = None if config.replay_to is None else parse_bound(config.replay_to)
    keys = _partitions(config.topic, consumer)
    for bound in (begin, end):
        missing = sorted(set(bound.offsets) - keys) if bound is not None else []
        if missing:
            raise ReplayError(f"the topic has no such partition: {', '.join(f'{t}-{p}' for t, p in missing[:10])}")
    outside = is_outside(config)
    only = None
    if begin is not None and end is not None:  # where a replay names offsets, those partitions are meant and no others
        for bound in (begin, end):
            if bound.offsets:
                only = keys = keys & set(bound.offsets)
    starts = {} if begin is None else resolve(begin, sorted(keys), consumer)
    ends = {} if end is None else resolve(end, sorted(keys), consumer, inclusive=True)
    if outside:
        starts = {key: start for key, start in starts.items() if start < ends[key]}
        ends = {key: ends[key] for key in starts}
    return Plan(starts, ends, outside, None if only is None else frozenset(only))


def is_outside(config: KafkaConsumerConfig) -> bool:
    """Whether a run with this configuration doesn't join the group, and commits nothing."""
    return config.replay_from is not None and config.replay_to is not None and not config.replay_commit


def _partitions(topic: str, consumer: Any) -> set[TopicPartitionKey]:
    found = consumer.list_topics(topic, timeout=ASK_SECONDS).topics.get(topic)
    if found is None or found.error is not None:
        raise ReplayError(f"topic {topic!r} doesn't exist: create it, or check the name")
    return {(topic, partition) for partition in found.partitions}


def resolve(
    bound: Bound, keys: Sequence[TopicPartitionKey], consumer: Any, *, inclusive: bool = False
) -> dict[TopicPartitionKey, int]:
    """Return the offset of each partition. An offset that is an end is ``inclusive``, as that of a stop target; a time isn't."""
    if bound.offsets:
        return {key: next_offset(at) if inclusive else at for key, at in bound.offsets.items() if key in keys}
    found: dict[TopicPartitionKey, int] = {}
    if bound.time is not None:
        asked = [TopicPartition(*key, bound.time) for key in keys]
        for answer in consumer.offsets_for_times(asked, timeout=ASK_SECONDS):
            if answer.error is not None:
                raise KafkaException(answer.error)
            if answer.offset >= 0:
                found[answer.topic, answer.partition] = answer.offset
    for key in keys:
        if key not in found:  # or nothing in it is as late as that time
            low, high = consumer.get_watermark_offsets(TopicPartition(*key), timeout=ASK_SECONDS)
            found[key] = low if bound.word == "earliest" else high
    return found
