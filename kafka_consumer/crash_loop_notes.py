"""The notes of the crash-loop guard: which messages are in work, and how far each partition was handed out.

``DLQ.crash-loop-notes`` is written in place, by ``pwrite``. What the kernel has taken survives the process, however that ends,
and needs no sync. A map of the file would kill the process by itself when the disk is full, or somebody truncates the file. What
is read back may be anything: it is believed only where it can be true.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections import deque
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from kafka_consumer.crash_loop_state import MAX_OFFSET, delete, read
from kafka_consumer.csv_files import open_private, write_all
from kafka_consumer.message_view import Message
from kafka_consumer.types import TopicPartitionKey

IN_WORK = 64  # calls at a time that there is room for: those of a probation, and those that don't end in their time

_MAGIC = b"kc-notes"
_HEADER = struct.Struct("<8sq")  # the magic, and the life of the state that they belong to
_NOTE = struct.Struct("<qqq")  # the partition's slot + 1 (0: nothing), the offset, the number of the call
_REACH = struct.Struct("<q")
_REACHES_AT = _HEADER.size + IN_WORK * _NOTE.size


class Notes:
    """What is written while messages are worked on. ``reached`` is called by one thread, ``enter`` and ``leave`` by any.

    Errors of all methods: ``OSError``.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._reaches = bytearray()
        self._free = deque(range(IN_WORK))  # popped and appended to: both atomic
        self._numbers = itertools.count(1)

    def read(self, life: int) -> tuple[list[tuple[int, int]], list[int]]:
        """Return what the run of this ``life`` has left: ``(slot, offset)`` of the calls, oldest first; and the reach by slot."""
        data = read(self._path) or b""
        if len(data) < _REACHES_AT or _HEADER.unpack_from(data) != (_MAGIC, life):
            return [], []
        calls = [_NOTE.unpack_from(data, _HEADER.size + entry * _NOTE.size) for entry in range(IN_WORK)]
        in_work = sorted((number, who - 1, offset) for who, offset, number in calls if who > 0 and 0 <= offset < MAX_OFFSET)
        end = len(data) - (len(data) - _REACHES_AT) % _REACH.size
        reaches = [reach for (reach,) in _REACH.iter_unpack(data[_REACHES_AT:end])]
        return [(slot, offset) for _, slot, offset in in_work], [reach if 0 < reach < MAX_OFFSET else -1 for reach in reaches]

    def begin(self, life: int) -> None:
        """Forget what the last run has left, and begin anew."""
        self._descriptor = open_private(self._path, os.O_WRONLY | os.O_TRUNC)
        write_all(self._descriptor, _HEADER.pack(_MAGIC, life) + bytes(_REACHES_AT - _HEADER.size))

    def reached(self, reaches: Mapping[int, int]) -> None:
        """Messages below these offsets, by slot, are about to be handed out. One write, whatever their number."""
        low, high = min(reaches), max(reaches) + 1
        self._reaches.extend(bytes(max(0, high * _REACH.size - len(self._reaches))))
        changed = False
        for slot, reach in reaches.items():
            if reach > _REACH.unpack_from(self._reaches, slot * _REACH.size)[0]:
                _REACH.pack_into(self._reaches, slot * _REACH.size, reach)
                changed = True
        if changed and self._descriptor is not None:
            part = self._reaches[low * _REACH.size : high * _REACH.size]
            os.pwrite(self._descriptor, part, _REACHES_AT + low * _REACH.size)

    def enter(self, slot: int, offset: int) -> int | None:
        """A message is about to be worked on; return what ``leave`` wants. None: there is no room, and nothing was noted."""
        try:
            entry = self._free.pop()
        except IndexError:
            return None
        if self._descriptor is not None:
            note = _NOTE.pack(slot + 1, offset, next(self._numbers))
            os.pwrite(self._descriptor, note, _HEADER.size + entry * _NOTE.size)
        return entry

    def leave(self, entry: int) -> None:
        """The call has ended."""
        if self._descriptor is not None:
            os.pwrite(self._descriptor, bytes(_NOTE.size), _HEADER.size + entry * _NOTE.size)
        self._free.append(entry)

    def remove(self) -> None:
        """Delete the file. Where a call was given up it stays open: a descriptor's number is soon another file's."""
        delete(self._path)
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None and len(self._free) == IN_WORK:
            os.close(descriptor)


class Calls:
    """The workers' side of the guard: a note before each call of the processor, and none after it.

    The polling thread writes ``condemned`` and ``noting``, replaced as a whole, and adds to ``slots``; workers read them.
    """

    def __init__(self, notes: Notes, evidence: Callable[[str, int, int], Exception]) -> None:
        """``evidence`` returns the error of a condemned message."""
        self.condemned: frozenset[tuple[str, int, int]] = frozenset()
        self.noting = False  # a probation is on, or may still come: what is begun before it must be in the notes, too
        self.slots: dict[TopicPartitionKey, int] = {}
        self.failed: OSError | None = None  # written by whoever meets it: nothing can be noted any more
        self._notes = notes
        self._evidence = evidence

    def around(self, process: Callable[[Any], Any], *, whole: bool, coroutine: bool) -> Callable[[Message], Any]:
        """Return what workers call with a ``Message``: the processor, which gets it (``whole``) or its value, between notes."""

        @wraps(process)
        def call(message: Message) -> Any:
            argument = message if whole else message.value
            if not self.noting:
                return process(argument)
            entry = self._enter(message)
            try:
                return process(argument)
            finally:
                self._leave(entry)

        @wraps(process)
        async def call_coroutine(message: Message) -> Any:
            argument = message if whole else message.value
            if not self.noting:
                return await process(argument)
            entry = self._enter(message)
            try:
                return await process(argument)
            finally:
                self._leave(entry)

        return call_coroutine if coroutine else call

    def _enter(self, message: Message) -> int | None:
        topic, partition, offset = message.topic, message.partition, message.offset
        if (topic, partition, offset) in self.condemned:
            raise self._evidence(topic, partition, offset)
        slot = self.slots.get((topic, partition))
        if slot is None or self.failed is not None:
            return None
        try:
            return self._notes.enter(slot, offset)
        except OSError as error:
            self.failed = error
            return None

    def _leave(self, entry: int | None) -> None:
        if entry is not None and self.failed is None:
            try:
                self._notes.leave(entry)
            except OSError as error:
                self.failed = error
