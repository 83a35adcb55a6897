"""Call the processor with messages from files, without Kafka: the same workers, retries, timeouts and order as in a consumer.

Each message has one result. What fails goes to ``failed`` of the result, and with ``record`` to the dead-letter files as usual,
synced, before the run ends.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Self

from kafka_consumer.chunk import Chunk
from kafka_consumer.config import KafkaConsumerConfig
from kafka_consumer.csv_writers import DeadLetterWriter, as_letter
from kafka_consumer.dead_letter import dead_letter
from kafka_consumer.dlq_files import FileMessage, StoredMessage
from kafka_consumer.errors import KafkaConsumerError
from kafka_consumer.file_lock import FileLocks
from kafka_consumer.process_setup import check_process
from kafka_consumer.redrive import Result, undone
from kafka_consumer.redrive_journal import Journal
from kafka_consumer.shared_state import SharedState
from kafka_consumer.types import DeadLetter
from kafka_consumer.worker_pool import new_pool

TICK_SECONDS = 0.02  # how often results are looked for
BATCH_MESSAGES = 500  # of a redrive: what a crash may repeat


class RunFailedError(KafkaConsumerError, RuntimeError):
    """The dead letters of a run couldn't be written; the message says why."""


class ProcessorRun:
    """One run of one configuration's processor; use it as a context. For one thread.

    ``record``: failures are written to ``dlq_path``. A set ``stopping`` ends it after the messages at hand.
    Errors of entering: ``ConfigError``, ``FilesInUseError``, ``OSError``.
    """

    def __init__(
        self, config: KafkaConsumerConfig, *, record: bool, stopping: threading.Event | None = None,
        progress: Callable[[Result], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self._state = SharedState(config)
        self._pool = new_pool(self._state)
        self._stopping = stopping or threading.Event()
        self._progress = progress
        self._locks = FileLocks([config.dlq_path] if record else [])
        self._writer = _Writer(self._state) if record else None
        self._given = 0  # messages handed to the workers, or failed before
        self._results = 0
        self._places: dict[tuple[str, int, int], str] = {}  # of a redrive's batch: where its letters stand
        self._failed_again: set[tuple[str, int, int]] = set()  # likewise
        self._due = 0.0  # by the monotonic clock: when the next message may go
        self.result = Result()

    def __enter__(self) -> Self:
        if self._state.config.executor == "process":
            check_process(self._state.config)
        self._locks.acquire()
        for pipe in (self._state.processing_queue, self._state.dlq_queue, self._state.processed_queue):
            pipe.hold()
        if self._writer is not None:
            self._writer.thread.start()
        self._pool.start()
        return self

    def __exit__(self, *_: object) -> None:
        state = self._state
        state.stop("all is processed")
        state.processing_queue.let_go()
        self._pool.join()
        state.dlq_queue.let_go()
        if self._writer is not None:
            self._writer.thread.join()
            self._take_results()  # those that were written last
        state.processed_queue.let_go()
        self._locks.release()
        if state.lifecycle.failed:
            raise RunFailedError(state.lifecycle.stop_reason or "the dead letters couldn't be written")

    def replay(self, messages: Iterable[StoredMessage]) -> Result:
        """Process them all, in the order of the files."""
        for message in messages:
            if not self._give(message):
                break
        self._wait_for_results()
        return self.result

    def redrive(self, messages: Iterable[StoredMessage], journal: Journal) -> Result:
        """Process dead letters that weren't redriven yet, and record those that succeed. A crash may repeat the last few."""
        done = set(journal.done)
        if journal.in_doubt is not None:
            done.update(journal.in_doubt.letters)  # they may be in Kafka: whoever consumes them there would be the second
        for batch in _batches(undone(messages, done, self.result)):
            given = {}
            for digest, message in batch:
                place = (message.topic, message.partition, message.offset)
                self._places[place] = message.place
                if not self._give(message):
                    break
                given[digest] = place
            if self._wait_for_results():
                journal.processed(digest for digest, place in given.items() if place not in self._failed_again)
            self._places.clear()
            self._failed_again.clear()
            if self.result.stopped:
                break
        return self.result

    # --- one message ----------------------------------------------------------------------------------------------------------

    def _give(self, stored: StoredMessage) -> bool:
        """Hand a message to the workers as soon as there is room; returns False when the run is to end."""
        queue = self._state.processing_queue
        self._wait_for_turn()
        # Also where dead letters wait for the disk: they are held in memory, too.
        while not queue.room() or self._state.dlq_queue.bytes >= self._state.config.max_inflight_bytes:
            if self._ending():
                return False
            queue.wait_for_room(TICK_SECONDS)
            self._take_results()
        if self._ending():
            return False
        message = FileMessage(stored)
        self._given += 1
        error = self._not_text(stored.value)
        if error is not None:  # as when it is polled: the processor isn't called
            self._state.dlq_queue.put(dead_letter(message, error, 0, None))
            self._state.processed_queue.put((stored.partition, stored.offset, "failed"))
        else:
            queue.put_chunks([Chunk([message], size=len(stored.value or b""))])
        if self._given % 100 == 0:
            self._take_results()
        return True

    def _not_text(self, value: bytes | None) -> UnicodeDecodeError | None:
        if value is None or not self._state.config.only_text:
            return None
        try:
            value.decode()
        except UnicodeDecodeError as error:
            return error
        return None

    def _ending(self) -> bool:
        if self._stopping.is_set():
            self.result.stopped = True
        return self.result.stopped or not self._state.running.is_set()

    def _wait_for_turn(self) -> None:
        rate = self._state.config.max_rate
        if rate is None:
            return
        now = time.monotonic()
        while (left := self._due - time.monotonic()) > 0 and not self._ending():
            self._stopping.wait(min(left, TICK_SECONDS))
            self._take_results()
        self._due = max(now, self._due) + 1 / rate

    # --- results --------------------------------------------------------------------------------------------------------------

    def _wait_for_results(self) -> bool:
        """Wait until each message has its result; returns whether it has: False when the dead letters can't be written."""
        while self._results < self._given:
            if not self._state.running.is_set():
                return False
            self._state.processed_queue.wait(TICK_SECONDS)
            self._take_results()
        self._take_results()
        return True

    def _take_results(self) -> None:
        for _, _, outcome in self._state.processed_queue.take_all():
            self._results += 1
            self.result.done += outcome == "success"
        # A worker hands over the dead letter first, so that those of all results are there.
        letters = self._state.dlq_queue.get_many(0) if self._writer is None else self._writer.take()
        for letter in map(as_letter, letters):
            self._note_failure(letter)
        self._progress(self.result)

    def _note_failure(self, letter: DeadLetter) -> None:
        place = (letter.topic, letter.partition, letter.offset)
        self._failed_again.add(place)
        self.result.fail_at(place, self._places.get(place, ""), f"{letter.error_type}: {letter.error_message}")


class _Writer(DeadLetterWriter):
    """Writes the dead letters, and tells the run's thread which ones. ``thread`` is the writer's own."""

    def __init__(self, shared_state: SharedState) -> None:
        super().__init__(shared_state)
        self._told: deque[Any] = deque()  # appended to by this thread, taken from by the run's: both atomic
        self.thread = threading.Thread(target=self.run, name="dead-letters", daemon=True)

    def written(self, items: list[Any]) -> None:
        """They are on disk: tell so."""
        super().written(items)
        self._told.extend(items)

    def take(self) -> list[Any]:
        """Return what was written since the last call."""
        return [self._told.popleft() for _ in range(len(self._told))]


def _batches(letters: Iterable[tuple[bytes, StoredMessage]]) -> Iterator[list[tuple[bytes, StoredMessage]]]:
    letters = iter(letters)
    while batch := list(islice(letters, BATCH_MESSAGES)):
        yield batch
