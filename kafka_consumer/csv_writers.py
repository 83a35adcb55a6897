"""The two writers: the backup of everything polled, and the dead letters. Each is one thread that owns its file.

A dead letter counts as written when it is synced; only then may its offset be committed. The backup is synced by time, at
each rotation and at the end. A failure to open, rotate, write or sync ends the consumer: what can't be recorded must not be
committed.
"""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from kafka_consumer.backup_rows import BACKUP_COLUMNS, format_messages
from kafka_consumer.batch_queue import BatchQueue, total_size, value_size
from kafka_consumer.csv_files import RotatingCsv, encode_headers, encode_pair, format_rows, hourly_path
from kafka_consumer.dead_letter import dead_letter
from kafka_consumer.errors import DeadLetterTopicError
from kafka_consumer.retention import Retention
from kafka_consumer.shared_state import SharedState
from kafka_consumer.types import DeadLetter

if TYPE_CHECKING:
    from kafka_consumer.dlq_topic import DeadLetterTopic

__all__ = ["BACKUP_COLUMNS", "DLQ_COLUMNS", "BackupWriter", "DeadLetterWriter", "backup_csv_loop", "dlq_csv_loop", "now"]

DLQ_COLUMNS = (
    "failed_at", "topic", "partition", "offset", "timestamp", "key", "value", "headers", "encoding",
    "error_type", "error_message", "stack_trace", "attempts", "worker_id",
)  # fmt: skip

TICK_SECONDS = 0.1  # how often an idle writer looks at the clock
WRITE_BYTES = 4 << 20  # formatted at once: as rows they take several times as much memory
WRITE_ROWS = 2000  # likewise; and how long other threads may have to wait for one call that formats them
DLQ_TAIL = 50
TAIL_BYTES = 4096


def now() -> datetime:
    """Return the local time, with its zone. The writers read the clock here and nowhere else."""
    return datetime.now().astimezone()


class CsvWriter(ABC):
    """One writer thread: takes items, writes rows in batches, rotates each hour, syncs. ``tail`` is read by snapshots."""

    name: str
    columns: Sequence[str]

    def __init__(self, shared_state: SharedState, pipe: BatchQueue, path: str, batch_size: int) -> None:
        self.shared_state = shared_state
        self._pipe = pipe
        self._batch_size = batch_size
        self._flush_seconds = shared_state.config.csv_flush_interval_seconds
        self._base = path
        self._file = RotatingCsv(path, self.columns)
        # Taken from the pipe and not written yet: (when they were taken in ISO 8601, the items). All are of the open file's hour.
        self._waiting: deque[tuple[str, list[Any]]] = deque()
        self.waiting_rows = 0  # in there; written by this thread, read by tests
        self._waiting_bytes = 0  # their size()
        self._waiting_since = 0.0  # seconds since the epoch, by now()
        self._flushed_at = time.monotonic()

    @abstractmethod
    def format(self, at: str, items: list[Any]) -> bytes:
        """Return items, taken ``at`` (ISO 8601), as rows."""

    @abstractmethod
    def written(self, items: list[Any]) -> None:
        """Rows of these items were written (for the dead letters: and synced)."""

    @abstractmethod
    def flush_wanted(self) -> bool:
        """Whether somebody waits for what isn't written."""

    @abstractmethod
    def size(self, items: list[Any]) -> int:
        """Return about how many bytes these items take."""

    def begin(self) -> None:  # noqa: B027 - for writers that need it
        """The first file is open; nothing was taken yet."""

    def synced(self) -> None:  # noqa: B027 - for writers that need it
        """All that was written is on disk."""

    def opening(self, at: datetime) -> None:  # noqa: B027 - for writers that need it
        """The file of another hour is about to be opened, the one before it is closed."""

    def lost(self) -> None:  # noqa: B027 - for writers that need it
        """The file has failed: nothing more will be written."""

    def ended(self) -> None:  # noqa: B027 - for writers that need it
        """Nothing more comes, the file is closed."""

    def run(self) -> None:
        """Write until the consumer has stopped and the pipe is dry; end the consumer when a file fails."""
        try:
            self._open(now())
            self.begin()
            while not self._pipe.ended:
                self.step()
            self.step(final=True)
            self._close()
        except DeadLetterTopicError as error:
            self.shared_state.logger.critical("%s; stopping", error)
            self.shared_state.fail(str(error))
            self._abandon()
        except Exception as error:  # whatever it is, nothing more can be recorded
            self.shared_state.logger.critical(
                "%s file %s failed: %s: %s; stopping", self.name, self._file.path or self._base, type(error).__name__, error,
                exc_info=not isinstance(error, OSError),
            )  # fmt: skip
            self.shared_state.fail(f"the {self.name} file failed: {error}")
            self._abandon()
        finally:
            self.ended()

    def step(self, *, final: bool = False) -> None:
        """Take what is there, and write what is due."""
        items = self._pipe.get_many(0 if final else min(TICK_SECONDS, self._flush_seconds))
        at = now()
        if self._file.due(at):
            # Rows taken before the hour ended belong to it; those just taken to the new one.
            self._write(self.waiting_rows)
            self._open(at)
        if items:
            if not self._waiting:
                self._waiting_since = at.timestamp()
            self._waiting.append((at.isoformat(), items))
            self.waiting_rows += len(items)
            self._waiting_bytes += self.size(items)
        whole_batches = self.waiting_rows // self._batch_size * self._batch_size
        if final or self._due(at):
            self._write(self.waiting_rows)
            self._file.sync()
            self.synced()
            self._flushed_at = time.monotonic()
        elif whole_batches or self._waiting_bytes >= WRITE_BYTES:
            self._write(whole_batches if self._waiting_bytes < WRITE_BYTES else self.waiting_rows)

    def _due(self, at: datetime) -> bool:
        if self.flush_wanted():
            return True
        # Both clocks: a wall clock that was set back must not keep rows in memory.
        waited = time.monotonic() - self._flushed_at
        waited_by_now = at.timestamp() - self._waiting_since if self._waiting else 0.0
        return max(waited, waited_by_now) >= self._flush_seconds

    def _open(self, at: datetime) -> None:
        self._close()
        self.opening(at)
        self._file.open(at)
        if self._file.torn is not None:
            self.shared_state.logger.warning(
                "%s file %s ended in a torn row, moved to %s", self.name, self._file.path, self._file.torn
            )
            self._file.torn = None

    def _close(self) -> None:
        self._file.close()
        self.synced()

    def _write(self, count: int) -> None:
        """Write that many rows, the oldest; about ``WRITE_BYTES`` at a time."""
        while count > 0:
            rows: list[bytes] = []
            taken: list[Any] = []
            room = WRITE_BYTES
            while count > 0 and room > 0:
                at, items = self._take(min(count, WRITE_ROWS), room)
                rows.append(self.format(at, items))
                taken += items
                size = self.size(items)
                self._waiting_bytes -= size
                room -= size
                count -= len(items)
            self._file.write(b"".join(rows))
            self.written(taken)

    def _take(self, most: int, room: int) -> tuple[str, list[Any]]:
        """Remove and return the oldest items, all taken at the same time: at least one, and no more than fill the room."""
        at, items = self._waiting.popleft()
        if self._waiting_bytes > room:
            fitting = 0
            while fitting < min(most, len(items)) and room > 0:
                room -= self.size(items[fitting : fitting + 1])
                fitting += 1
            most = fitting
        if most < len(items):
            self._waiting.appendleft((at, items[most:]))
            items = items[:most]
        self.waiting_rows -= len(items)
        return at, items

    def _abandon(self) -> None:
        """The file is lost: close it if that still works, and keep the pipe from filling memory until all have ended."""
        self.lost()
        try:
            self._file.close()
        except OSError as error:
            self.shared_state.logger.error("closing the %s file failed as well: %s", self.name, error)  # noqa: TRY400 - one line will do
        while not self._pipe.ended:
            self._pipe.get_many(TICK_SECONDS)


class BackupWriter(CsvWriter):
    """Writes every polled message."""

    name = "backup"
    columns = BACKUP_COLUMNS

    def __init__(self, shared_state: SharedState) -> None:
        config = shared_state.config
        self._messages = shared_state.backup_csv_queue
        self._written_total = 0  # in the order in which they were put
        hours, compress = config.backup_retention_hours, config.backup_compress
        self._retention = Retention(config.backup_path, hours, compress, shared_state.logger)
        super().__init__(shared_state, self._messages, config.backup_path, config.csv_batch_size)

    def format(self, at: str, items: list[Any]) -> bytes:
        """Return messages as rows."""
        return format_messages(at, items)

    def size(self, items: list[Any]) -> int:
        """Return the bytes of their values."""
        return total_size(items)

    def written(self, items: list[Any]) -> None:
        """Count them, and make room for others."""
        self._messages.written(items)
        self._written_total += len(items)
        self.shared_state.counters.backup_written += len(items)

    def synced(self) -> None:
        """Let those go on who wait for the backup."""
        self._messages.synced(self._written_total)

    def flush_wanted(self) -> bool:
        """Somebody waits until what was polled is on disk (``backup_mode`` "strict")."""
        return self._messages.flush_wanted

    def opening(self, at: datetime) -> None:
        """Look after the hours before this one."""
        self._retention.look(at, hourly_path(self._base, at))

    def lost(self) -> None:
        """Let nobody wait for the backup."""
        self._messages.give_up()

    def ended(self) -> None:
        """Nothing is deleted or compressed any more."""
        self._retention.stop()


class DeadLetterWriter(CsvWriter):
    """Writes the dead letters, each synced before its offset may be committed; and then sent to ``topic``, where there is one."""

    name = "dead-letter"
    columns = DLQ_COLUMNS

    def __init__(self, shared_state: SharedState, topic: DeadLetterTopic | None = None) -> None:
        config = shared_state.config
        self._topic = topic
        self._letters = shared_state.dlq_queue
        super().__init__(shared_state, self._letters, config.dlq_path, config.dlq_csv_batch_size)
        # The last dead letters for the console: (seconds since the epoch, record). Written by this thread alone; a reader
        # gets a whole tuple.
        self.tail: tuple[tuple[float, DeadLetter], ...] = ()

    def begin(self) -> None:
        """See that the topic is there."""
        if self._topic is not None:
            self._topic.open()

    def step(self, *, final: bool = False) -> None:
        """Take what is there, and write what is due."""
        if self._topic is not None:
            self._topic.look()
        super().step(final=final)

    def format(self, at: str, items: list[Any]) -> bytes:
        """Return dead letters as rows."""
        return format_rows([self._row(at, as_letter(item)) for item in items])

    def _row(self, at: str, letter: DeadLetter) -> tuple[Any, ...]:
        key, value, encoding = encode_pair(letter.key, letter.value)
        return (
            at, letter.topic, letter.partition, letter.offset, letter.timestamp, key, value,
            encode_headers(letter.headers), encoding, letter.error_type, letter.error_message, letter.stack_trace,
            letter.attempts, letter.worker_id,
        )  # fmt: skip

    def size(self, items: list[Any]) -> int:
        """Return about how many bytes these take: a failure's trace may be longer than its value."""
        return sum([value_size(item) + (len(item.stack_trace) if isinstance(item, DeadLetter) else 0) for item in items])

    def written(self, items: list[Any]) -> None:
        """Sync, publish, then let their offsets go."""
        self._file.sync()
        self.shared_state.counters.dlq_written += len(items)
        self._show(items)
        if self._topic is not None:
            self._topic.publish([as_letter(item) for item in items])
        self._letters.written(items)

    def _show(self, items: list[Any]) -> None:
        seconds = now().timestamp()
        # Cut: fifty dead letters of 10 MB each have no place in memory. The file holds them whole.
        fresh = tuple((seconds, _cut(as_letter(item))) for item in items[-DLQ_TAIL:])
        self.tail = (self.tail + fresh)[-DLQ_TAIL:]

    def ended(self) -> None:
        """Nothing is published any more."""
        if self._topic is not None:
            self._topic.close()

    def flush_wanted(self) -> bool:
        """The commit loop waits for a failed message."""
        return bool(self._waiting) and self._letters.flush_wanted


def _cut(letter: DeadLetter) -> DeadLetter:
    return dataclasses.replace(
        letter,
        key=None if letter.key is None else letter.key[:TAIL_BYTES],
        value=None if letter.value is None else letter.value[:TAIL_BYTES],
    )


def as_letter(item: Any) -> DeadLetter:
    """Return a dead letter; a bare message put by hand becomes one without evidence."""
    return item if isinstance(item, DeadLetter) else dead_letter(item, LookupError("put without an error"), 0, None)


def backup_csv_loop(shared_state: SharedState) -> None:
    """Write what comes through ``backup_csv_queue`` until the consumer has stopped and the queue is empty."""
    BackupWriter(shared_state).run()


def dlq_csv_loop(shared_state: SharedState) -> None:
    """Write what comes through ``dlq_queue`` until the consumer has stopped and the queue is empty."""
    DeadLetterWriter(shared_state).run()


