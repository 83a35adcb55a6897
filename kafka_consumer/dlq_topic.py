"""``dlq_topic``: the dead letters in a topic of Kafka as well. The dead-letter thread's alone, but for ``connect``.

A dead letter is in the file, synced, before it is produced, and its offset may be committed once the brokers have acknowledged
it, too: ``acks=all``, idempotent, a flush for each batch of the file. Brokers that are away are waited for (librdkafka tries
again without an end). Meanwhile nothing of the batch counts as written, and what fails after it waits in the queue; so polling is
held back as by a slow disk. At the end the wait is bounded. What waiting doesn't mend ends the consumer, as a file does that
can't be written.

A message that the topic refuses, alone and with shortened evidence, is in the file only: said, counted, and no reason to end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException, Producer

from kafka_consumer.errors import DeadLetterTopicError
from kafka_consumer.producer_options import THE_LETTERS, quiet_logger, reliable_producer
from kafka_consumer.refusals import refusal
from kafka_consumer.types import DeadLetter, Headers

if TYPE_CHECKING:
    from kafka_consumer.shared_state import SharedState

HEADER = "__connect.errors."  # what Kafka Connect's dead-letter queues begin the names of their context headers with
ROOMS = (32_000, 2_000, 0)  # bytes of the error's message, and of its stack trace: less when the message is too large with them
ASK_SECONDS = 2.0  # how long the brokers may take for one question
PAUSE_SECONDS = 0.25  # between two questions
CREATION_SECONDS = 5.0  # how long brokers that create topics by themselves may take for it
SLICE_SECONDS = 0.2  # how long one wait for acknowledgements lasts before it is looked whether to go on
FIRST_WORD_SECONDS = 5.0  # of waiting, until it is said; doubled up to the longest
LONGEST_WORD_SECONDS = 60.0

_ALL_DOWN = KafkaError._ALL_BROKERS_DOWN  # noqa: SLF001 - how the binding names librdkafka's own codes
_UNKNOWN = frozenset({
    KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.LEADER_NOT_AVAILABLE, KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
})  # fmt: skip
_REFUSED = THE_LETTERS | {KafkaError._INVALID_DIFFERENT_RECORD}  # noqa: SLF001 - another message of the request was at fault

Refused = list[tuple[DeadLetter, str]]
"""Dead letters that the topic doesn't take, each with the reason."""


class DeadLetterTopic:
    """Publishes dead letters to ``dlq_topic``. After ``connect`` and ``open``: ``publish``, and ``look`` now and then.

    Errors of all but ``connect``: ``DeadLetterTopicError``, after which nothing more can be published.
    """

    def __init__(self, shared_state: SharedState) -> None:
        self._state = shared_state
        self._config = shared_state.config
        self.name = str(shared_state.config.dlq_topic)
        self._producer: Any = None
        self._alone: Any = None  # likewise, with each message in a request of its own; made when it is needed
        self._final: str | None = None  # why nothing more can be published
        self._said = ""  # what librdkafka complained about last

    def connect(self) -> None:
        """Build the producer; nothing is connected yet. Errors: ``KafkaException`` for options that librdkafka refuses."""
        self._producer = self._new_producer()

    def _new_producer(self, **more: Any) -> Any:
        options = reliable_producer(self._config.bootstrap_servers, self._config.kafka_options)
        # No timeout: librdkafka tries again until we give up, and knows what has arrived.
        return Producer({**options, "message.timeout.ms": 0, "error_cb": self._on_error, **more}, logger=quiet_logger("dlq"))

    def open(self) -> None:
        """Wait until the brokers answer, and see that the topic is there; where brokers create topics, asking is enough."""
        missing_since = None
        while not self._state.shutdown_event.is_set():
            problem = self._ask()
            if problem is None:
                self._state.logger.info("dead letters go to topic %s as well", self.name)
                return
            self.look()
            code = problem.code()
            if code in _UNKNOWN:
                missing_since = time.monotonic() if missing_since is None else missing_since
                if time.monotonic() - missing_since >= CREATION_SECONDS:
                    raise DeadLetterTopicError(f"dlq_topic: topic {self.name!r} doesn't exist: create it, or check the name")
            elif code == KafkaError.TOPIC_EXCEPTION or refusal(problem) is not None:
                raise DeadLetterTopicError(self._told(problem))
            self._state.shutdown_event.wait(PAUSE_SECONDS)

    def _ask(self) -> KafkaError | None:
        """Return what is wrong with the topic, or with asking; None when it is there."""
        try:
            found = self._producer.list_topics(self.name, timeout=ASK_SECONDS).topics.get(self.name)
        except KafkaException as error:
            problem: KafkaError = error.args[0]
            return problem
        if found is None or (found.error is None and not found.partitions):
            return KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
        return found.error  # type: ignore[no-any-return]

    def look(self) -> None:
        """Hear what the connections have come to: without this, complaints would pile up in librdkafka."""
        for producer in (self._producer, self._alone):
            if producer is not None:
                self._serve(producer.poll, 0)
        self._raise_if_final()

    def _serve(self, call: Callable[[float], int], seconds: float) -> int:
        """Let librdkafka call back, and return what ``call`` does; it raises fatal errors instead of calling ``error_cb``."""
        try:
            return call(seconds)
        except KafkaException as error:
            self._final = self._final or self._told(error.args[0])
            return 0

    def close(self) -> None:
        """Let go of the connections."""
        self._producer = self._alone = None

    # --- publishing -------------------------------------------------------------------------------------------------------------

    def publish(self, letters: Sequence[DeadLetter]) -> None:
        """Return when each is acknowledged, or refused for good."""
        refused = self._send(self._producer, letters, ROOMS[0])
        if refused and self._alone is None:
            self._alone = self._new_producer(**{"batch.num.messages": 1})
        # Brokers refuse by the request, and don't say which of its messages it was: from here on each goes alone.
        for room in ROOMS:
            if refused:
                refused = self._send(self._alone, [letter for letter, _ in refused], room)
        if refused:
            self._state.counters.dlq_unpublished += len(refused)
            letter, reason = refused[0]
            more = f" and {len(refused) - 1:,} more" if len(refused) > 1 else ""
            self._state.logger.error(
                "topic %s doesn't take the dead letter of %s-%d@%d%s, which the file has: %s",
                self.name, letter.topic, letter.partition, letter.offset, more, self._state.redactor.redact(reason),
            )  # fmt: skip

    def _send(self, producer: Any, letters: Sequence[DeadLetter], room: int) -> Refused:
        """Produce them and wait for the answers; return what was refused."""
        refused: Refused = []
        for letter in letters:
            self._produce(producer, letter, room, refused)
        self._flush(producer)
        self._state.counters.dlq_published += len(letters) - len(refused)
        return refused

    def _produce(self, producer: Any, letter: DeadLetter, room: int, refused: Refused) -> None:
        headers = [*letter.headers, *self.context(letter, room)]
        heard = partial(self._heard, letter, refused)
        while True:
            try:
                producer.produce(self.name, value=letter.value, key=letter.key, headers=headers, on_delivery=heard)
            except BufferError as error:
                if not len(producer):  # librdkafka's queue is smaller than this message
                    refused.append((letter, str(error)))
                    return
                self._flush(producer)
            except KafkaException as error:
                self._heard(letter, refused, error.args[0], None)
                self._raise_if_final()
                return
            else:
                return

    def _heard(self, letter: DeadLetter, refused: Refused, error: KafkaError | None, _message: Any) -> None:
        """What became of a dead letter; called within ``flush``. Must not raise."""
        if error is None:
            return
        if error.code() in _REFUSED:
            refused.append((letter, error.str()))
        elif self._final is None:
            self._final = self._told(error)

    def _flush(self, producer: Any) -> None:
        """Wait until all that was produced has its answer."""
        begun = time.monotonic()
        next_word, pause = begun + FIRST_WORD_SECONDS, FIRST_WORD_SECONDS
        ending: float | None = None
        while (left := self._serve(producer.flush, SLICE_SECONDS)) and self._final is None:
            now = time.monotonic()
            if self._state.shutdown_event.is_set():
                ending = now if ending is None else ending
                if now - ending >= self._config.shutdown_timeout_seconds:
                    self._final = (
                        f"topic {self.name} hasn't acknowledged {left:,} dead letters within "
                        f"shutdown_timeout_seconds={self._config.shutdown_timeout_seconds:g}: their offsets stay uncommitted"
                    )
            if now >= next_word:
                pause = min(LONGEST_WORD_SECONDS, pause * 2)
                next_word = now + pause
                self._state.logger.error(
                    "%d dead letters wait for topic %s for %.0f s, trying again: %s",
                    left, self.name, now - begun, self._state.redactor.redact(self._said) or "no answer",
                )  # fmt: skip
        if self._final is not None:
            producer.purge(blocking=False)  # what isn't acknowledged is in the file, and will be repeated
        elif pause > FIRST_WORD_SECONDS:
            self._state.logger.info("topic %s takes dead letters again, after %.0f s", self.name, time.monotonic() - begun)
        self._raise_if_final()

    def _raise_if_final(self) -> None:
        if self._final is not None:
            raise DeadLetterTopicError(self._final)

    def _on_error(self, error: KafkaError) -> None:
        """What librdkafka complains about, fatal errors apart; called within its methods. Must not raise."""
        if error.code() != _ALL_DOWN or not self._said:  # it follows each other one and says less
            self._said = error.str()
        if self._final is None and refusal(error) is not None:
            self._final = self._told(error)

    def _told(self, error: KafkaError) -> str:
        code, text = error.code(), refusal(error) or error.str()
        if code in _UNKNOWN:
            text = f"it doesn't exist (any more): {text}"
        return self._state.redactor.redact(f"dead letters can't be sent to topic {self.name}: {text}")

    # --- evidence ---------------------------------------------------------------------------------------------------------------

    def context(self, letter: DeadLetter, room: int = ROOMS[0]) -> Headers:
        """Return the headers that are added, in the words of Kafka Connect; docs/DEAD_LETTERS.md says what they mean here.

        The error's message and the stack trace are cut to ``room`` bytes each; without any they are left out.
        """
        values: dict[str, str | None] = {
            "topic": letter.topic, "partition": str(letter.partition), "offset": str(letter.offset),
            "connector.name": self._config.group_id, "task.id": None if letter.worker_id is None else str(letter.worker_id),
            "stage": "TASK_PUT" if letter.attempts else "VALUE_CONVERTER", "class.name": self._config.processor_name,
            "exception.class.name": letter.error_type, "exception.message": cut(letter.error_message, room),
            "exception.stacktrace": cut(letter.stack_trace, room),
        }  # fmt: skip
        return tuple((HEADER + name, _utf8(text)) for name, text in values.items() if text is not None)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def cut(text: str, room: int) -> str | None:
    """Return a text that takes ``room`` bytes at the most, its beginning and its end; None where there is no room."""
    raw = _utf8(text)
    if len(raw) <= room:
        return text if room else None
    mark = "\n… (cut) …\n"
    half = (room - len(_utf8(mark))) // 2
    if half <= 0:
        return None
    return raw[:half].decode("utf-8", "ignore") + mark + raw[-half:].decode("utf-8", "ignore")
