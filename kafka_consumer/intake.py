"""What is read off a polled batch, once for all of its messages: whose they are, their values, sizes and encoding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kafka_consumer.chunk import Chunk, Completion
from kafka_consumer.dead_letter import dead_letter
from kafka_consumer.message_view import Message

if TYPE_CHECKING:
    from kafka_consumer.ports import MessageLike
    from kafka_consumer.shared_state import SharedState
    from kafka_consumer.types import TopicPartitionKey


def _is_text(value: Any) -> bool:
    if value is None or value.isascii():
        return True
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    except AttributeError:  # a str, from a message made by hand
        return True
    return True


def runs_of(batch: list[MessageLike]) -> list[tuple[TopicPartitionKey, list[MessageLike]]]:
    """Split a batch into runs of the same partition, in order."""
    topics = [message.topic() for message in batch]
    partitions = [message.partition() for message in batch]
    size = len(batch)
    if partitions.count(partitions[0]) == size and topics.count(topics[0]) == size:
        return [((topics[0], partitions[0]), batch)]
    runs = []
    start = 0
    for index in range(1, size + 1):
        if index == size or partitions[index] != partitions[start] or topics[index] != topics[start]:
            runs.append(((topics[start], partitions[start]), batch[start:index]))
            start = index
    return runs


def check_values(chunk: Chunk, shared_state: SharedState) -> Chunk | None:
    """Read the values once for all, and send those that aren't UTF-8 to the dead letters; None when nothing remains."""
    try:
        values = [message.value() for message in chunk.messages]
    except Exception:  # noqa: BLE001 - a message that can't be read: its worker finds out which, and survives it
        return chunk
    try:
        sizes = list(map(len, values))  # type: ignore[arg-type]
        plain = all(map(bytes.isascii, values))  # type: ignore[arg-type]
    except TypeError:  # tombstones among them
        sizes = [0 if value is None else len(value) for value in values]
        plain = False
    chunk.size = sum(sizes)
    if not plain and shared_state.config.only_text:
        bad = [index for index, value in enumerate(values) if not _is_text(value)]
        if bad:
            return _without(chunk, bad, shared_state)
    if max(sizes) <= shared_state.config.max_message_size:
        chunk.values = list(map(Message.of, chunk.messages, values)) if shared_state.takes_messages else values
    return chunk


def _without(chunk: Chunk, bad: list[int], shared_state: SharedState) -> Chunk | None:
    assignment, sequences = chunk.assignment, chunk.sequences
    assert assignment is not None and sequences is not None  # noqa: S101, PT018 - for the type checker: _deliver set both
    for index in bad:
        message = chunk.messages[index]
        value = message.value()
        try:
            (value or b"").decode()
        except UnicodeDecodeError as error:
            shared_state.dlq_queue.put(dead_letter(message, error, 0, None))
        shared_state.processed_queue.add(Completion(assignment, [sequences[index]], failed=True))
    rest = [index for index in range(len(chunk)) if index not in set(bad)]
    if not rest:
        return None
    messages = [chunk.messages[index] for index in rest]
    good = Chunk(messages, assignment, [sequences[index] for index in rest])
    return check_values(good, shared_state)
