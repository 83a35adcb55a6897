"""What polling can run into: errors that pass, errors that don't, a topic that isn't there. The polling thread's alone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException

from kafka_consumer.out_of_range import OutOfRange
from kafka_consumer.refusals import refusal
from kafka_consumer.stop_targets import out_of_topic

if TYPE_CHECKING:
    from kafka_consumer.rebalance import Partitions
    from kafka_consumer.shared_state import SharedState

FIRST_PAUSE_SECONDS = 0.1
DRAINING_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 5.0  # well below any sensible max.poll.interval.ms
UNKNOWN_TOPIC_SECONDS = 30.0  # how long a topic that was there may be missing, while brokers restart
METADATA_SECONDS = 5.0
FIRST_UNREACHABLE_SECONDS = 1.0  # between two lines about brokers that can't be reached; doubled up to the longest
LONGEST_UNREACHABLE_SECONDS = 30.0
PROBE_SECONDS = 1.0  # how long a broker may take to show that it is there again

# The names with an underscore are librdkafka's own errors, public as any other.
# ruff: noqa: SLF001
UNKNOWN_TOPIC = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC}
UNREACHABLE = {KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE, KafkaError._SSL}


class PollErrors:
    """Decides what an error of the consumer means: wait and go on, or end with a clear reason."""

    def __init__(self, shared_state: SharedState, consumer: Any, partitions: Partitions) -> None:
        self._shared_state = shared_state
        self._consumer = consumer
        self._partitions = partitions
        self._topic = shared_state.config.topic
        self._pause = FIRST_PAUSE_SECONDS
        self._quiet_until = 0.0
        self._unknown_since: float | None = None
        self._asked_at = 0.0
        self._unreachable_at = 0.0
        self._unreachable_pause = FIRST_UNREACHABLE_SECONDS
        self._unreachable_since: float | None = None
        self._unreachable_text = ""
        self._has_ended = False  # by a reason found here
        self._out_of_range = OutOfRange(shared_state, consumer, partitions)
        # Stop targets of this topic, until it is known that their partitions exist.
        self._targets = {key: at for key, at in (shared_state.config.stop_at_offset or {}).items() if key[0] == self._topic}

    def is_end(self, error: Any) -> bool:
        """Whether this is the end of a partition, which is no error."""
        return bool(_code(error) == KafkaError._PARTITION_EOF)

    def none(self) -> None:
        """Messages came: all is well again."""
        self._pause = FIRST_PAUSE_SECONDS
        self._unreachable_pause = FIRST_UNREACHABLE_SECONDS
        self._unknown_since = None

    def raised(self, exception: KafkaException) -> None:
        """A call of the consumer raised."""
        self.came(exception.args[0] if exception.args else exception)

    def came(self, error: Any, message: Any = None) -> None:
        """A polled ``message`` was an error: log it, and pause for a growing while; end when it can't pass."""
        if self._final(error):
            return
        draining = self._shared_state.shutdown_event.is_set()
        if _code(error) == KafkaError._AUTO_OFFSET_RESET and (draining or self._out_of_range.came(message, _text(error))):
            return
        self._shared_state.counters.poll_errors += 1
        if _code(error) in UNKNOWN_TOPIC and self._partitions.subscribed:
            if self._unknown_since is None:
                self._unknown_since = time.monotonic()
                self._asked_at = 0.0
            return
        now = time.monotonic()
        if not draining or now >= self._quiet_until:
            self._quiet_until = now + self._pause
            self._shared_state.logger.error("poll error, going on in %.1f s: %s", self._pause, _text(error))
        if draining:  # the last commits wait for this thread
            time.sleep(DRAINING_PAUSE_SECONDS)
        else:
            self._shared_state.shutdown_event.wait(self._pause)
        self._pause = min(LONGEST_PAUSE_SECONDS, self._pause * 2)

    def on_client_error(self, error: KafkaError) -> None:
        """Librdkafka's error callback, inside a poll; must not raise. Brokers that can't be reached, refused authentication."""
        if self._final(error):
            return
        if self._has_ended and _code(error) in UNREACHABLE:
            return  # it was said why the consumer ends; that connections end with it is no news
        if _code(error) not in UNREACHABLE:
            self._shared_state.logger.error("Kafka client: %s", _text(error))
            return
        now = time.monotonic()
        self._unreachable_text = _text(error)
        if self._unreachable_since is None:
            self._unreachable_since = now
        if now - self._unreachable_at < self._unreachable_pause:
            return
        if self._unreachable_at:
            self._unreachable_pause = min(LONGEST_UNREACHABLE_SECONDS, self._unreachable_pause * 2)
        self._say_unreachable(now)

    def look(self) -> None:
        """Decide what is still open: the connection, where partitions go on, the topic, the stop targets. Between two polls."""
        self._look_for_connection()
        self._out_of_range.look()
        self._look_for_topic()
        self._look_for_targets()

    def _look_for_connection(self) -> None:
        """Librdkafka reports a lost connection once: while it stays away, say so; when it is back, too."""
        now = time.monotonic()
        if self._unreachable_since is None or now - self._unreachable_at < self._unreachable_pause:
            return
        try:
            self._consumer.list_topics(self._topic, timeout=PROBE_SECONDS)
        except KafkaException:
            self._unreachable_pause = min(LONGEST_UNREACHABLE_SECONDS, self._unreachable_pause * 2)
            self._say_unreachable(time.monotonic())
            return
        self._shared_state.logger.info("Kafka answers again, %.0f s after a connection was lost", now - self._unreachable_since)
        self._unreachable_since = None
        self._unreachable_pause = FIRST_UNREACHABLE_SECONDS

    def _say_unreachable(self, now: float) -> None:
        self._unreachable_at = now
        lasting = now - (self._unreachable_since or now)
        self._shared_state.logger.error(
            "no connection to Kafka at %s%s, trying again: %s",
            self._shared_state.config.bootstrap_servers, f" for {lasting:.0f} s" if lasting >= 1 else "", self._unreachable_text,
        )  # fmt: skip

    def _look_for_targets(self) -> None:
        """A stop target in a partition that the topic doesn't have would be waited for for ever."""
        if not self._targets or not self._partitions.ever_assigned:
            return
        if not callable(getattr(self._consumer, "list_topics", None)):  # a given consumer may have less
            self._targets = {}
            return
        try:
            metadata = self._consumer.list_topics(self._topic, timeout=METADATA_SECONDS)
        except KafkaException as error:
            self._shared_state.logger.warning("the partitions of the stop targets couldn't be checked: %s", error)
        else:
            topic = metadata.topics.get(self._topic)
            problem = None if topic is None or topic.error else out_of_topic(self._targets, topic.partitions)
            if problem is not None:
                self._end(problem)
        self._targets = {}

    def _look_for_topic(self) -> None:
        """Decide about a topic that was reported unknown: at once when it never was there, else when it doesn't come back."""
        if self._unknown_since is None:
            return
        now = time.monotonic()
        if now - self._asked_at < METADATA_SECONDS:
            return
        self._asked_at = now
        if self._topic_exists():
            self._unknown_since = None
            return
        if self._partitions.ever_assigned and now - self._unknown_since < UNKNOWN_TOPIC_SECONDS:
            self._shared_state.logger.error("topic %r is unknown to the brokers; waiting for it to come back", self._topic)
            return
        self._end(f"topic {self._topic!r} doesn't exist: create it, or check the name")

    def _topic_exists(self) -> bool:
        try:
            metadata = self._consumer.list_topics(self._topic, timeout=METADATA_SECONDS)
        except KafkaException:
            return True  # no answer is no proof
        topic = metadata.topics.get(self._topic)
        return topic is not None and (topic.error is None or topic.error.code() not in UNKNOWN_TOPIC)

    def _final(self, error: Any) -> bool:
        code = _code(error)
        if code == KafkaError.TOPIC_EXCEPTION:
            self._end(f"{self._topic!r} isn't a valid topic name: {_text(error)}")
            return True
        refused = refusal(error)
        if refused is not None:
            self._end(refused)
            return True
        fatal = getattr(error, "fatal", None)
        if callable(fatal) and fatal() is True:
            self._end(f"fatal error of the Kafka client: {_text(error)}")
            return True
        if code in UNKNOWN_TOPIC and not self._partitions.subscribed:
            self._end(f"topic {self._topic!r} doesn't exist: {_text(error)}")
            return True
        return False

    def _end(self, reason: str) -> None:
        if not self._has_ended:  # it may well be said again and again while draining
            self._shared_state.logger.critical("%s; stopping", reason)
        self._has_ended = True
        self._shared_state.fail(reason)


def _code(error: Any) -> Any:
    code = getattr(error, "code", None)
    return code() if callable(code) else None


def _text(error: Any) -> str:
    text = getattr(error, "str", None)
    return str(text()) if callable(text) else str(error)
