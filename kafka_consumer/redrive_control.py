"""The redrive that an operator asks a running consumer for: a few dead letters by their place, one redrive at a time.

It runs in a thread of its own, so that no other command waits for it, and ends with the consumer, after the batch at hand.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable
from contextlib import closing

from kafka_consumer.config import KafkaConsumerConfig
from kafka_consumer.dlq_files import Problems, StoredMessage, files_of, read_messages, with_suffix
from kafka_consumer.errors import ConfigError, RedriveError
from kafka_consumer.option_checks import is_number
from kafka_consumer.redrive import Redrive, Result
from kafka_consumer.redrive_journal import Journal, journal_path
from kafka_consumer.redrive_kafka import KafkaSender

Place = tuple[str, int, int]
"""``(topic, partition, offset)``."""

ANSWER_SECONDS = 5.0  # how long whoever asked waits for the outcome; then it goes on without them, and the log tells it

logger = logging.getLogger(__name__)


def redrive_places(
    config: KafkaConsumerConfig, places: Collection[Place], per_second: float | None, stopping: threading.Event
) -> Result:
    """Send these dead letters of ``dlq_path`` to their topics, in the order given; what can't be found counts as failed.

    Errors: ``RedriveError``, ``FilesInUseError``, ``FileFormatError``, ``ConfigError``, ``OSError``.
    """
    found = find(config.dlq_path, places)
    with Journal(journal_path(with_suffix(config.dlq_path))) as journal:
        sender = KafkaSender(config.bootstrap_servers, config.kafka_options, journal.id, stopping.is_set)
        job = Redrive(journal, sender, max_rate=per_second, stopping=stopping)
        result = job.run(found[place] for place in dict.fromkeys(places) if place in found)
    missing = [place for place in dict.fromkeys(places) if place not in found]
    for topic, partition, offset in missing:
        result.fail_at((topic, partition, offset), "", "it isn't in the dead-letter files (any more)")
    return result


def find(base: str, places: Iterable[Place]) -> dict[Place, StoredMessage]:
    """Return the dead letters at these places, the latest row of each; the newest files are read first, no more than needed."""
    wanted = set(places)
    found: dict[Place, StoredMessage] = {}
    silent = Problems(lambda line: logger.warning("%s", line))
    for path in reversed(files_of(with_suffix(base))):
        if wanted <= found.keys():
            break
        here: dict[Place, StoredMessage] = {}
        with closing(read_messages([path], silent, dead_letters=True)) as messages:
            for message in messages:
                place = (message.topic, message.partition, message.offset)
                if place in wanted:
                    here[place] = message
        found = here | found
    return found


class Redrives:
    """The redrives of one consumer. Any thread may call ``begin``; a set ``stopping`` ends the one that runs."""

    def __init__(self, config: KafkaConsumerConfig, stopping: threading.Event) -> None:
        self._config = config
        self._stopping = stopping
        self._one = threading.Lock()  # held by the thread of the redrive that runs

    def begin(self, places: Iterable[Place], per_second: float | None) -> str:
        """Begin a redrive; return what came of it, or that it goes on.

        Errors: ``ConfigError``, ``RedriveError``, those of ``redrive_places`` in the first seconds; later ones are logged.
        """
        wanted = [(str(topic), int(partition), int(offset)) for topic, partition, offset in places]
        if not wanted:
            raise ConfigError("records: expected at least one [topic, partition, offset], got none")
        if per_second is not None and not (is_number(per_second) and per_second > 0):
            raise ConfigError(f"per_second: expected None or a number above 0, got {per_second!r}")
        if not self._one.acquire(blocking=False):
            raise RedriveError("a redrive is running already; its end will be in the log")
        run = _Run(self._config, wanted, per_second, self._stopping, self._one)
        run.thread.start()
        run.thread.join(ANSWER_SECONDS)
        return run.answer()


class _Run:
    """One redrive in its thread, which lets go of ``lock`` at its end."""

    def __init__(
        self, config: KafkaConsumerConfig, places: list[Place], per_second: float | None, stopping: threading.Event,
        lock: threading.Lock,
    ) -> None:  # fmt: skip
        self._arguments = (config, places, per_second, stopping)
        self._lock = lock
        self._result: Result | None = None  # written by the thread before it ends, as the next one
        self._error: Exception | None = None
        self.thread = threading.Thread(target=self._run, name="redrive", daemon=True)

    def answer(self) -> str:
        """Return what came of it so far. Errors: what ended it; ``RedriveError`` when letters failed."""
        if self.thread.is_alive():
            return "it goes on; its end will be in the log"
        if self._error is not None:
            raise self._error
        assert self._result is not None  # noqa: S101 - for the type checker: one of the two is there
        if self._result.failed:
            raise RedriveError(_told(self._result))
        return _told(self._result)

    def _run(self) -> None:
        places = self._arguments[1]
        rate = "" if self._arguments[2] is None else f" at {self._arguments[2]:g} a second"
        logger.info("redriving %d dead letters%s", len(places), rate)
        try:
            self._result = result = redrive_places(*self._arguments)
            log = logger.error if result.failed else logger.info
            log("redrive: %s", _told(result))
        except Exception as error:  # noqa: BLE001 - it belongs to whoever asked, and to the log
            self._error = error
            logger.error("the redrive failed: %s: %s", type(error).__name__, error)  # noqa: TRY400 - it has one line
        finally:
            self._lock.release()


def _told(result: Result) -> str:
    parts = [f"{result.done:,} sent"]
    parts += [f"{result.already:,} had been sent before"] if result.already else []
    parts += [f"{result.failed:,} failed"] if result.failed else []
    parts += ["stopped before the end"] if result.stopped else []
    first = result.failures[0] if result.failures else None
    why = "" if first is None else f" ({first.topic}-{first.partition}@{first.offset}: {first.reason})"
    return ", ".join(parts) + why
