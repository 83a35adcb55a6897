"""``Chunk``: messages of one partition on their way from the poll to a worker; and ``Completion``, their way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from kafka_consumer.assignment import Assignment
from kafka_consumer.ports import MessageLike


class Chunk:
    """Messages of one partition, in the order of delivery.

    ``assignment`` and ``sequences`` say where they belong; both are None for messages put into a queue by hand.
    ``values`` holds what the processor is called with (values, or views of messages) when the polling thread has checked the
    values (size, encoding), else None.
    ``size`` is the bytes of the values, ``attempts`` the processor calls that these messages have already had, ``lane`` what is
    processed in order with them (None: nothing). Owned by one thread at a time: whoever took it from a queue.
    """

    __slots__ = ("assignment", "attempts", "lane", "messages", "sequences", "size", "values")

    def __init__(
        self,
        messages: list[MessageLike],
        assignment: Assignment | None = None,
        sequences: Sequence[int] | None = None,
        values: list[Any] | None = None,
        size: int = 0,
        attempts: int = 0,
        lane: Any = None,
    ) -> None:
        self.messages = messages
        self.assignment = assignment
        self.sequences = sequences
        self.values = values
        self.size = size
        self.attempts = attempts
        self.lane = lane

    def __len__(self) -> int:
        return len(self.messages)

    @property
    def revoked(self) -> bool:
        """Whether the partition isn't ours any more, so that the work would be in vain."""
        return self.assignment is not None and self.assignment.closed

    def part(self, start: int, stop: int) -> Chunk:
        """Return messages ``start`` to ``stop`` as a chunk; its share of ``size`` is in proportion."""
        count = len(self.messages)
        return Chunk(
            self.messages[start:stop],
            self.assignment,
            None if self.sequences is None else self.sequences[start:stop],
            None if self.values is None else self.values[start:stop],
            self.size * stop // count - self.size * start // count,
            self.attempts,
            self.lane,
        )

    def pick(self, indices: list[int]) -> Chunk:
        """Return the messages at these indices, each once, as a chunk in the order of delivery; ``size`` as with ``part``."""
        indices.sort()
        start, stop = indices[0], indices[-1] + 1
        if stop - start == len(indices):
            return self if len(indices) == len(self.messages) else self.part(start, stop)
        messages, sequences, values = self.messages, self.sequences, self.values
        count = len(messages)
        return Chunk(
            [messages[index] for index in indices],
            self.assignment,
            None if sequences is None else [sequences[index] for index in indices],
            None if values is None else [values[index] for index in indices],
            sum([self.size * (index + 1) // count - self.size * index // count for index in indices]),
            self.attempts,
            self.lane,
        )


class Completion(NamedTuple):
    """Finished messages of one assignment, by sequence number, all with the same outcome."""

    assignment: Assignment
    sequences: Sequence[int]
    failed: bool
