"""Send dead letters back to Kafka: each once, however often the redrive is begun, and whatever kills it.

What is on disk in the journal (redrive_journal.py) and in Kafka (redrive_kafka.py) for each batch, in this order:

1. journal: "batch 7, these letters" (synced);
2. Kafka: one transaction with the letters and the marker "7";
3. journal: "batch 7 was sent" (synced), or "wasn't".

Killed before 2: nothing was sent. Killed within 2 or before 3: the batch is in doubt, and the next run finds out from the marker
before it does anything else. Nothing else can happen, so none is lost and none is sent twice. A letter is known by its digest
(place in Kafka, timestamp and bytes): sent once it is done, wherever it was sent, and also when it stands in two rows. Who really
wants to send it again moves the journal away.

Key, value and headers are the bytes they were. In its own topic a letter goes to its own partition, so that it meets the others
of its key whatever partitioner chose it; in another topic by its key. Its timestamp is the time of the redrive: with the original
one a message older than the topic's retention could be deleted before anybody reads it. ``keep_timestamps`` keeps it anyway.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from kafka_consumer.dlq_files import StoredMessage
from kafka_consumer.errors import RedriveError
from kafka_consumer.redrive_journal import Journal
from kafka_consumer.redrive_kafka import AbortedError, Outgoing, Refusal

BATCH_LETTERS = 500
BATCH_BYTES = 8 << 20
RATE_SECONDS = 0.5  # a capped redrive sends about this much of its rate at once
SHOWN_FAILURES = 100

logger = logging.getLogger(__name__)


class Sender(Protocol):
    """What is needed of Kafka's side; see ``KafkaSender``."""

    cluster: str

    def open(self) -> None: ...
    def close(self) -> None: ...
    def partitions(self, topic: str) -> frozenset[int] | None: ...
    def marked(self, marker: str) -> int | None: ...
    def mark(self, marker: str, number: int) -> None: ...
    def send(self, batch: list[Outgoing], marker: str, number: int) -> Refusal | None: ...


@dataclass(frozen=True, slots=True)
class Failure:
    """A letter that couldn't be sent, or whose processing failed again, and why."""

    topic: str
    partition: int
    offset: int
    place: str
    reason: str


@dataclass(slots=True)
class Result:
    """What became of the letters. ``already``: done by an earlier run, or in a second row. ``failures``: the first ones."""

    done: int = 0
    failed: int = 0
    already: int = 0
    stopped: bool = False
    failures: list[Failure] = field(default_factory=list)

    def fail(self, message: StoredMessage, reason: str) -> None:
        """Count a letter that failed."""
        self.fail_at((message.topic, message.partition, message.offset), message.place, reason)

    def fail_at(self, where: tuple[str, int, int], place: str, reason: str) -> None:
        """Count a letter that failed: where it was in Kafka, and its file and line."""
        self.failed += 1
        if len(self.failures) < SHOWN_FAILURES:
            self.failures.append(Failure(*where, place, reason))


def undone(messages: Iterable[StoredMessage], done: set[bytes], result: Result) -> Iterator[tuple[bytes, StoredMessage]]:
    """Yield what isn't done, each message once, with its digest; count the others. ``done`` may grow meanwhile."""
    seen: set[bytes] = set()
    for message in messages:
        digest = message.digest()
        if digest in done or digest in seen:
            result.already += 1
        else:
            seen.add(digest)
            yield digest, message


class Redrive:
    """One run. ``sender`` is opened and closed by it; ``progress`` is called after each batch, by the thread that runs.

    ``max_rate`` is letters a second, None for no limit. ``in_doubt`` decides about a batch whose marker Kafka has forgotten:
    "resend", "skip", or None, with which the run ends with an error that says so.
    """

    def __init__(
        self, journal: Journal, sender: Sender, *, to_topic: str | None = None, max_rate: float | None = None,
        keep_timestamps: bool = False, in_doubt: str | None = None, stopping: threading.Event | None = None,
        progress: Callable[[Result], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._journal = journal
        self._sender = sender
        self._to_topic = to_topic
        self._max_rate = max_rate
        self._keep_timestamps = keep_timestamps
        self._in_doubt = in_doubt
        self._stopping = stopping or threading.Event()
        self._progress = progress
        self._marked: set[str] = set()  # markers that this run has set
        self._refused: dict[str, str] = {}  # destinations, and why nothing can be sent there
        self._due = 0.0  # by the monotonic clock: when the next batch may go
        self.result = Result()

    def run(self, messages: Iterable[StoredMessage]) -> Result:
        """Send them; return what became of them. Errors: ``RedriveError``, ``OSError`` of the journal; ``result`` holds what was.

        A set ``stopping`` ends it after the batch at hand.
        """
        try:
            self._sender.open()
            self._settle()
            for batch in self._batches(undone(messages, self._journal.done, self.result)):
                if not self._wait_for_turn(len(batch)):
                    self.result.stopped = True
                    break
                self._send(batch)
                self._progress(self.result)
        finally:
            self._sender.close()
        return self.result

    # --- before the first batch -------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Find out what became of the batch that an earlier run had begun."""
        batch = self._journal.in_doubt
        if batch is None:
            return
        what = f"batch {batch.number} ({len(batch.letters):,} dead letters, begun {batch.begun})"
        if batch.cluster != self._sender.cluster:
            raise RedriveError(
                f"{what} is in doubt, and was sent to another cluster ({batch.cluster}, this one is {self._sender.cluster}): "
                "run the redrive with that cluster first"
            )
        marked = self._sender.marked(batch.marker)
        if marked is not None:
            sent = marked >= batch.number
        elif self._in_doubt is not None:
            sent = self._in_doubt == "skip"
        else:
            raise RedriveError(
                f"{what} was interrupted, and Kafka no longer knows whether it was sent (its marker is gone from the group's "
                "offsets): look whether its messages arrived, then give --in-doubt skip if they did, --in-doubt resend if not"
            )
        self._journal.end(sent=sent)
        logger.info("%s was interrupted: %s", what, "it had been sent" if sent else "nothing of it had been sent, it is now")

    # --- batches ----------------------------------------------------------------------------------------------------------------

    def _batches(self, letters: Iterable[tuple[bytes, StoredMessage]]) -> Iterator[list[tuple[bytes, StoredMessage]]]:
        most = BATCH_LETTERS
        if self._max_rate is not None:
            most = max(1, min(most, int(self._max_rate * RATE_SECONDS)))
        batch: list[tuple[bytes, StoredMessage]] = []
        size = 0
        for digest, message in letters:
            reason = self._obstacle(message)
            if reason is not None:
                self.result.fail(message, reason)
                continue
            if batch and (len(batch) >= most or size + message.size > BATCH_BYTES):
                yield batch
                batch, size = [], 0
            batch.append((digest, message))
            size += message.size
        if batch:
            yield batch

    def _obstacle(self, message: StoredMessage) -> str | None:
        """Return why a letter can't be sent, or None."""
        topic = self._to_topic or message.topic
        if topic not in self._refused and self._sender.partitions(topic) is None:
            self._refused[topic] = f"topic {topic} doesn't exist, or this user may not describe it"
        return self._refused.get(topic)

    def _wait_for_turn(self, count: int) -> bool:
        """Wait as the rate wants it; returns False when the run is to end."""
        if self._max_rate is not None:
            now = time.monotonic()
            self._stopping.wait(max(0.0, self._due - now))
            self._due = max(now, self._due) + count / self._max_rate
        return not self._stopping.is_set()

    def _send(self, batch: list[tuple[bytes, StoredMessage]]) -> None:
        """Send a batch; where Kafka refuses one of its letters, the others all the same."""
        waiting = [part for part in [self._sendable(batch)] if part]
        while waiting:
            part = waiting.pop()
            refusal = self._attempt(part)
            if refusal is None:
                self.result.done += len(part)
            elif len(part) == 1 or (refusal.topic_wide and len({self._to_topic or m.topic for _, m in part}) == 1):
                self._give_up(part, refusal)
            else:
                # Which one it was isn't said: Kafka refuses messages by the request.
                half = len(part) // 2
                waiting += [self._sendable(part[half:]), self._sendable(part[:half])]
            waiting = [part for part in waiting if part]

    def _give_up(self, part: list[tuple[bytes, StoredMessage]], refusal: Refusal) -> None:
        for _, message in part:
            if refusal.topic_wide:
                self._refused[self._to_topic or message.topic] = refusal.reason
            self.result.fail(message, refusal.reason)

    def _sendable(self, part: list[tuple[bytes, StoredMessage]]) -> list[tuple[bytes, StoredMessage]]:
        """Return those whose topic isn't known to be refused; the others have failed."""
        found = []
        for digest, message in part:
            reason = self._obstacle(message)
            if reason is None:
                found.append((digest, message))
            else:
                self.result.fail(message, reason)
        return found

    def _attempt(self, part: list[tuple[bytes, StoredMessage]]) -> Refusal | None:
        marker = self._marker(part[0][1])
        number = self._journal.begin(self._sender.cluster, marker, (digest for digest, _ in part))
        try:
            refusal = self._sender.send([self._outgoing(message) for _, message in part], marker, number)
        except AbortedError:
            self._journal.end(sent=False)
            raise
        self._journal.end(sent=refusal is None)
        return refusal

    def _marker(self, message: StoredMessage) -> str:
        """Return the topic whose offset marks the batch, after setting it to the batch before."""
        own = message.topic
        marker = own if self._to_topic is None or self._sender.partitions(own) is not None else self._to_topic
        if marker not in self._marked:
            self._sender.mark(marker, self._journal.last_number)
            self._marked.add(marker)
        return marker

    def _outgoing(self, message: StoredMessage) -> Outgoing:
        topic = self._to_topic or message.topic
        own = topic == message.topic and message.partition in (self._sender.partitions(topic) or ())
        return Outgoing(
            topic, message.partition if own else None, message.key, message.value, message.headers,
            message.timestamp if self._keep_timestamps else None,
        )  # fmt: skip
