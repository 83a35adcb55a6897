"""What becomes of the backup's closed hours: compressed, and deleted once they are old enough. Dead letters are never touched.

A thread of its own, so that nothing here holds up the writer; it works at the start and at each rotation. Whatever goes wrong is
a warning: the file stays, and the next rotation tries again.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import threading
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from kafka_consumer.csv_files import open_private, sync_directory, write_all

READ_SIZE = 1 << 20
STOP_SECONDS = 5.0  # how long the end of the consumer may wait for this thread, which looks after each block
GZIP = 31  # zlib's way to ask for the format of gzip


class Stopped(Exception):  # noqa: N818 - no error: the consumer ends
    """The consumer ends while a file is being compressed."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file of the backup: ``hour`` is in local time, without a zone, as its name has it; ``kind`` is what follows ``.csv``."""

    path: str
    hour: datetime
    kind: str
    modified: float  # seconds since the epoch


class Retention:
    """Looks after the hourly files of ``base``; does nothing when neither is asked for.

    ``hours`` is how long a file is kept after its hour has ended and nothing was written to it any more, None for ever;
    ``compress`` makes ``.gz`` files of closed hours. The writer's thread calls the public methods.
    """

    def __init__(self, base: str, hours: float | None, compress: bool, logger: logging.Logger) -> None:
        self._folder = os.path.dirname(os.path.abspath(base))
        stem, suffix = os.path.splitext(os.path.basename(base))
        name = rf"{re.escape(stem)}_(\d{{8}})_hour_(\d{{2}}){re.escape(suffix or '.csv')}"
        self._pattern = re.compile(rf"{name}((?:\.torn|(?:\.\d+)?\.gz|\.gz\.tmp)?)", re.ASCII)
        self._hours = hours
        self._compress = compress
        self._logger = logger
        # Guards the four below, and the moment in which a file vanishes: the writer may be about to open it again.
        self._changed = threading.Condition()
        self._open: str | None = None
        self._asked: datetime | None = None
        self._stopping = False
        self._thread: threading.Thread | None = None

    def look(self, at: datetime, opening: str) -> None:
        """Look after the hours before ``at`` (local, with its zone); ``opening`` is the writer's from now on. Doesn't wait."""
        if self._hours is None and not self._compress:
            return
        with self._changed:
            self._open = os.path.abspath(opening)
            self._asked = at
            if self._thread is None and not self._stopping:
                self._thread = threading.Thread(target=self._run, name="retention", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def stop(self) -> None:
        """End; what is half done is undone."""
        with self._changed:
            self._stopping = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join(STOP_SECONDS)

    # --- the thread -----------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._asked is None and not self._stopping:
                    self._changed.wait()
                if self._stopping:
                    return
                at, self._asked = self._asked, None
            assert at is not None  # noqa: S101 - for the type checker: the loop above ends with one
            try:
                self._look(at)
            except Stopped:
                return
            except Exception as error:  # noqa: BLE001 - whatever it is, the backup itself must not suffer
                self._logger.warning("looking after the backup's closed hours failed: %s: %s", type(error).__name__, error)

    def _look(self, at: datetime) -> None:
        for found in self._closed(at):
            self._look_if_stopping()
            doing = "deleted"
            try:
                if found.kind == ".gz.tmp":
                    self._remove(found.path)  # left behind by a crash; its original is still there
                elif self._too_old(found, at):
                    if self._remove(found.path):
                        self._logger.info("backup file %s deleted: it is older than %g hours", found.path, self._hours)
                elif self._compress and not found.kind:
                    doing = "compressed"
                    self._pack(found)
            except OSError as error:
                self._logger.warning("backup file %s couldn't be %s: %s; it stays", found.path, doing, error)

    def _closed(self, at: datetime) -> list[Found]:
        """Return the files of the hours before ``at``, oldest first."""
        found = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                match = self._pattern.fullmatch(entry.name)
                if match is None or not entry.is_file(follow_symlinks=False):
                    continue
                try:
                    hour = datetime.strptime(match[1] + match[2], "%Y%m%d%H")  # noqa: DTZ007 - local, as the name has it
                    modified = entry.stat(follow_symlinks=False).st_mtime
                except (ValueError, FileNotFoundError):
                    continue  # no hour, so none of ours; or just removed by somebody
                found.append(Found(os.path.join(self._folder, entry.name), hour, match[3], modified))
        now = at.replace(tzinfo=None, minute=0, second=0, microsecond=0)
        return sorted((f for f in found if f.hour < now), key=lambda f: (f.hour, f.path))

    def _too_old(self, found: Found, at: datetime) -> bool:
        if self._hours is None:
            return False
        # Both: a clock that was set back has the writer append to an old hour.
        kept = timedelta(hours=self._hours)
        ended = found.hour + timedelta(hours=1)
        return at.replace(tzinfo=None) - ended >= kept and at.timestamp() - found.modified >= kept.total_seconds()

    def _remove(self, path: str) -> bool:
        with self._changed:
            if path == self._open:
                return False
            os.unlink(path)
            return True

    # --- compressing ----------------------------------------------------------------------------------------------------------

    def _pack(self, found: Found) -> None:
        target = self._target(found.path)
        if target is None:  # a crash came between the last two steps, or an error did
            sync_directory(found.path)
            self._remove(found.path)
            return
        temporary = f"{found.path}.gz.tmp"
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        try:
            before, after = self._pack_into(found.path, temporary)
            with self._changed:
                if found.path == self._open or os.stat(found.path, follow_symlinks=False).st_size != before:
                    return
                os.rename(temporary, target)
                sync_directory(target)  # only then may the original vanish
                os.unlink(found.path)
        finally:
            with suppress(OSError):
                os.unlink(temporary)
        self._logger.info("backup file %s compressed: %d bytes, they were %d", target, after, before)

    def _target(self, path: str) -> str | None:
        """Return a free name; None when one of those that aren't free holds the same."""
        number = 1
        while True:
            name = f"{path}.gz" if number == 1 else f"{path}.{number}.gz"
            if not os.path.lexists(name):
                return name
            if self._same(path, name):
                return None
            number += 1

    def _pack_into(self, path: str, temporary: str) -> tuple[int, int]:
        """Return the bytes before and after."""
        source = _open_to_read(path)
        try:
            target = open_private(temporary, os.O_WRONLY)
            try:
                packer = zlib.compressobj(wbits=GZIP)
                before = 0
                for block in self._blocks(source):
                    before += len(block)
                    write_all(target, packer.compress(block))
                write_all(target, packer.flush())
                times = os.fstat(source)
                os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))  # its age is the original's
                os.fsync(target)
                return before, os.fstat(target).st_size
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _same(self, path: str, packed: str) -> bool:
        """Whether a compressed file holds what the other one does."""
        try:
            one, other = _open_to_read(path), _open_to_read(packed)
        except OSError:
            return False
        try:
            unpacker = zlib.decompressobj(wbits=GZIP)
            for block in self._blocks(other):
                data = unpacker.decompress(block, READ_SIZE)
                while data:
                    if os.read(one, len(data)) != data:
                        return False
                    data = unpacker.decompress(unpacker.unconsumed_tail, READ_SIZE)
            return unpacker.eof and not unpacker.unused_data and not os.read(one, 1)
        except zlib.error:
            return False
        finally:
            os.close(one)
            os.close(other)

    def _blocks(self, descriptor: int) -> Iterator[bytes]:
        while block := os.read(descriptor, READ_SIZE):
            yield block
            self._look_if_stopping()

    def _look_if_stopping(self) -> None:
        if self._stopping:
            raise Stopped


def _open_to_read(path: str) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"expected {path} to be a regular file")
    return descriptor
