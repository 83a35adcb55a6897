"""A partition's next offset isn't in its log: messages were deleted before they were read, or the log has become shorter.

librdkafka alone would go on elsewhere without a word. So it is told to report it (``auto.offset.reset=error``): it stops fetching
the partition, and here it is decided where to go on, loudly, or whether to end. A partition for which the group has committed
nothing arrives here too: it begins where the user's ``auto.offset.reset`` says. All of it is the polling thread's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from confluent_kafka import OFFSET_BEGINNING, KafkaException, TopicPartition

from kafka_consumer.errors import ConfigError

if TYPE_CHECKING:
    from kafka_consumer.assignment import Assignment
    from kafka_consumer.rebalance import Partitions
    from kafka_consumer.shared_state import SharedState

ASK_SECONDS = 2.0  # how long the broker may take to say where a log begins and ends
AGAIN_SECONDS = 2.0  # between two attempts, while it doesn't

STARTS: Mapping[str, str] = {
    "smallest": "earliest", "earliest": "earliest", "beginning": "earliest", "largest": "latest", "latest": "latest",
    "end": "latest", "error": "error",
}  # fmt: skip
"""What librdkafka accepts for ``auto.offset.reset``, and what it means."""


def start_of_new_group(kafka_options: Mapping[str, Any]) -> str:
    """Return where a partition begins without a committed offset: earliest, latest or error. Errors: ``ConfigError``."""
    value = kafka_options.get("auto.offset.reset", "earliest")
    start = STARTS.get(str(value).lower())
    if start is None:
        raise ConfigError("kafka_options: auto.offset.reset: expected earliest, latest or error")
    return start


class OutOfRange:
    """Takes note of partitions that librdkafka has stopped fetching, and sends each on its way."""

    def __init__(self, shared_state: SharedState, consumer: Any, partitions: Partitions) -> None:
        config = shared_state.config
        self._shared_state = shared_state
        self._consumer = consumer
        self._partitions = partitions
        self._policy = config.on_offset_out_of_range
        self._kafka_options = config.kafka_options
        # What librdkafka wanted to read next (None: nothing is committed), and its own words.
        self._waiting: dict[Assignment, tuple[int | None, str]] = {}
        self._sent_to: dict[Assignment, int] = {}  # where one went on; counts until something of it was delivered
        self._ask_at = 0.0

    def came(self, message: Any, text: str) -> bool:
        """Take note of librdkafka's report; returns False when it isn't about a partition of ours."""
        if not self._partitions.subscribed or message is None:
            return False
        assignment = self._partitions.open.get((message.topic(), message.partition()))
        if assignment is not None:
            self._waiting[assignment] = (message.offset(), text)
        return True

    def look(self) -> None:
        """Decide about the partitions that wait; those about which the broker says nothing now wait on."""
        now = time.monotonic()
        if not self._waiting or now < self._ask_at:
            return
        self._sent_to = {assignment: at for assignment, at in self._sent_to.items() if not assignment.closed}
        going: dict[Assignment, int] = {}
        for assignment, (wanted, text) in list(self._waiting.items()):
            if self._shared_state.running.is_set() and not assignment.closed:
                try:
                    going.update(self._decide(assignment, wanted, text))
                except KafkaException as error:
                    self._ask_at = now + AGAIN_SECONDS
                    self._shared_state.logger.error(  # noqa: TRY400 - asked again soon: one line will do
                        "%s: where its log begins isn't known, asking again: %s", _name(assignment), error
                    )
                    break
            del self._waiting[assignment]
        if going:
            self._sent_to.update(going)
            self._partitions.go_on_at(self._consumer, going)

    def _decide(self, assignment: Assignment, wanted: int | None, text: str) -> dict[Assignment, int]:
        """Return where to go on, ``{assignment: offset}``; nothing when the run ends. Errors: ``KafkaException``."""
        at = self._next_offset(assignment, wanted)
        if at is None:
            if assignment in self._sent_to:
                self._not_at_once(assignment, text)
            return self._begin(assignment)
        low, high = self._consumer.get_watermark_offsets(_tp(assignment), timeout=ASK_SECONDS)
        if low <= at <= high:
            # It is there after all: a broker was behind the others. Or an older report: what came since is gone on from.
            if at == self._sent_to.get(assignment):
                self._not_at_once(assignment, text)
            return {assignment: at}
        self._shared_state.counters.records_lost += max(0, low - at)
        problem = f"{_name(assignment)}: {_where(assignment, at)} isn't in the log, from {low} to {high}: {_loss(at, low)}"
        if self._policy == "fail":
            self._fail(f"{problem} (on_offset_out_of_range=fail; earliest or latest would go on)")
            return {}
        target = low if self._policy == "earliest" else high
        skipped = f", skipping up to {high - low:,} messages that are still there" if target > low else ""
        self._shared_state.logger.error(
            "%s; going on at offset %d%s (on_offset_out_of_range=%s)", problem, target, skipped, self._policy
        )
        if target < at:
            # The log is shorter than what was read: another log. What is in flight belongs to the former one.
            assignment = self._partitions.renew((assignment.topic, assignment.partition))
        return {assignment: target}

    def _not_at_once(self, assignment: Assignment, text: str) -> None:
        """It was told where to go on, and says that it can't: the next look is in a while."""
        self._ask_at = time.monotonic() + AGAIN_SECONDS
        self._shared_state.logger.error("%s: trying again to go on: %s", _name(assignment), text)

    def _next_offset(self, assignment: Assignment, wanted: int | None) -> int | None:
        """Return what is to be read next: what librdkafka wanted, unless the report is older than what came since.

        None when nothing is committed for the partition.
        """
        known = [at for at in (wanted, self._sent_to.get(assignment), assignment.position) if at is not None and at >= 0]
        return max(known, default=None)

    def _begin(self, assignment: Assignment) -> dict[Assignment, int]:
        """Return where a partition begins for which nothing is committed."""
        start = start_of_new_group(self._kafka_options)
        if start == "error":
            self._fail(f"{_name(assignment)}: the group has committed nothing, and auto.offset.reset=error")
            return {}
        if start == "earliest":
            return {assignment: OFFSET_BEGINNING}
        # A number, so that the end stays where it was should the partition have to be assigned once more.
        _, high = self._consumer.get_watermark_offsets(_tp(assignment), timeout=ASK_SECONDS)
        return {assignment: high}

    def _fail(self, reason: str) -> None:
        self._shared_state.logger.critical("%s; stopping", reason)
        self._shared_state.fail(reason)


def _tp(assignment: Assignment) -> TopicPartition:
    return TopicPartition(assignment.topic, assignment.partition)


def _name(assignment: Assignment) -> str:
    return f"{assignment.topic}-{assignment.partition}"


def _where(assignment: Assignment, at: int) -> str:
    committed = assignment.view().committed
    return f"offset {at}, which was to be read next (committed: {'nothing' if committed is None else committed}),"


def _loss(at: int, low: int) -> str:
    if at < low:
        return f"up to {low - at:,} messages are gone for ever"
    return "the topic was recreated, or has lost its last messages"
