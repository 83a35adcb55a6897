"""The journal of a redrive: which dead letters were sent or processed, on disk before and after each batch.

A file of JSON lines beside the dead letters, ``dlq.csv.redriven``: 0600, only ever appended to, synced after each line. The
first line names the journal; then

* ``{"batch": 3, "cluster": "…", "marker": "orders", "letters": [...]}``: this batch is about to be sent,
* ``{"batch": 3, "sent": true}``: it was; or ``false``: nothing of it was, and nothing of it will be,
* ``{"processed": [...]}``: these were processed without Kafka.

Letters are digests, no payload is repeated here. A batch that was begun and has no end is *in doubt*: the process died, or lost
Kafka, in between; redrive.py finds out. A last line without its end was never synced, so nothing was done on its strength:
it is cut off.
"""

from __future__ import annotations

import fcntl
import json
import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from kafka_consumer.csv_files import open_private, sync_directory, write_all
from kafka_consumer.dlq_files import base_of
from kafka_consumer.errors import FileFormatError, FilesInUseError

FORMAT = 1
SUFFIX = ".redriven"


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch that was begun: its number, the cluster it goes to, the topic whose offset marks it, and its letters."""

    number: int
    cluster: str
    marker: str
    letters: tuple[bytes, ...]
    begun: str  # ISO 8601


def journal_path(path: str) -> str:
    """Return the journal of a dead-letter file, or of its base."""
    return f"{base_of(path)}{SUFFIX}"


def read_done(path: str) -> set[bytes]:
    """Return what a journal says is done, without taking or mending it; empty where there is none.

    What is in doubt isn't in it. Errors: ``OSError``, ``FileFormatError``.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return set()
    story = _Story(path)
    story.read(data[: data.rfind(b"\n") + 1])
    return story.done


class Journal:
    """The open journal, locked: two redrives of the same files at a time would send twice. For one thread.

    ``done`` are the digests of what was sent or processed; ``in_doubt`` is the batch whose end isn't known. Use it as a context.
    Errors of every writing method: ``OSError``; nothing may be done then that it should have recorded.
    """

    def __init__(self, path: str) -> None:
        """Open or begin it. Errors: ``FilesInUseError``, ``FileFormatError``, ``OSError``."""
        self.path = path
        self._descriptor = open_private(path, os.O_RDWR | os.O_APPEND)
        try:
            self._lock()
            story = _Story(path)
            data = self._whole_lines()
            if data:
                story.read(data)
            else:
                story.id = uuid.uuid4().hex
                self._append({"kc_redrive": FORMAT, "journal": story.id})
                sync_directory(path)
        except BaseException:
            os.close(self._descriptor)
            raise
        self.id: str = story.id
        self.done = story.done
        self.in_doubt = story.in_doubt
        self.last_number = story.last_number

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close it, and let others have it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def begin(self, cluster: str, marker: str, letters: Iterable[bytes]) -> int:
        """Record that a batch is about to be sent; return its number, once that is on disk."""
        assert self.in_doubt is None, "the batch before this one has no end"  # noqa: S101 - a programming error
        batch = Batch(self.last_number + 1, cluster, marker, tuple(letters), _now())
        hexes = [letter.hex() for letter in batch.letters]
        self._append({"batch": batch.number, "cluster": cluster, "marker": marker, "letters": hexes})
        self.in_doubt, self.last_number = batch, batch.number
        return batch.number

    def end(self, *, sent: bool) -> None:
        """Record what became of the batch."""
        batch = self.in_doubt
        assert batch is not None, "no batch was begun"  # noqa: S101 - a programming error
        self._append({"batch": batch.number, "sent": sent})
        if sent:
            self.done.update(batch.letters)
        self.in_doubt = None

    def processed(self, letters: Iterable[bytes]) -> None:
        """Record that these were processed without Kafka."""
        given = list(letters)
        if given:
            self._append({"processed": [letter.hex() for letter in given]})
            self.done.update(given)

    def _append(self, entry: dict[str, Any]) -> None:
        try:
            write_all(self._descriptor, json.dumps({**entry, "at": _now()}).encode() + b"\n")
            os.fsync(self._descriptor)
        except OSError:
            self.close()  # a part of the line may be there: nothing may follow it
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FilesInUseError(f"{self.path} is in use: another redrive of these dead letters is running") from None

    def _whole_lines(self) -> bytes:
        """Return the lines that have their end; cut off the rest of one that hasn't."""
        with open(self._descriptor, "rb", closefd=False) as file:
            data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.ftruncate(self._descriptor, whole)
            os.fsync(self._descriptor)
        return data[:whole]


class _Story:
    """What the lines of a journal tell."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.id = ""
        self.done: set[bytes] = set()
        self.in_doubt: Batch | None = None
        self.last_number = 0

    def read(self, data: bytes) -> None:
        for number, line in enumerate(data.splitlines(), start=1):
            try:
                self._take(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError):
                message = f"{self._path}:{number}: expected a line of a redrive's journal, got something else: it is damaged"
                raise FileFormatError(message) from None

    def _take(self, entry: Any) -> None:
        if not self.id:
            if entry["kc_redrive"] != FORMAT:
                raise ValueError("of another version")
            self.id = str(uuid.UUID(entry["journal"]).hex)
        elif "processed" in entry:
            self.done.update(map(bytes.fromhex, entry["processed"]))
        elif "letters" in entry:
            if self.in_doubt is not None or entry["batch"] != self.last_number + 1:
                raise ValueError("out of order")
            letters = tuple(map(bytes.fromhex, entry["letters"]))
            self.in_doubt = Batch(int(entry["batch"]), str(entry["cluster"]), str(entry["marker"]), letters, str(entry["at"]))
            self.last_number = self.in_doubt.number
        else:
            batch, sent = self.in_doubt, entry["sent"]
            if batch is None or batch.number != entry["batch"] or not isinstance(sent, bool):
                raise ValueError("out of order")
            if sent:
                self.done.update(batch.letters)
            self.in_doubt = None


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="milliseconds")
