"""The processing queue when order matters: by key or by partition, one message of a lane at a time, retries included.

A lane is what must stay in order: a partition, or a key within its partition. While a lane has a message with a worker, or
waiting for its retry, its other messages wait in the lane; other lanes go on at full parallelism. Each operation is O(1) a
message, and a lane without messages is forgotten. Messages without a key have no order to keep.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from kafka_consumer.assignment import Assignment
from kafka_consumer.batch_queue import RunningFlag
from kafka_consumer.chunk import Chunk
from kafka_consumer.work_queue import WorkQueue


class _Lane:
    __slots__ = ("outstanding", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Chunk] = deque()
        self.outstanding = 0  # messages with a worker, or waiting for their retry


class OrderedQueue(WorkQueue):
    """A ``WorkQueue`` with lanes; every method here runs with the mutex held."""

    def __init__(self, running: RunningFlag, maxsize: int, max_bytes: int, ordering: str) -> None:
        self._by_key = ordering == "key"
        self._lanes: dict[Any, _Lane] = {}
        self._ready: deque[Any] = deque()  # lanes with messages and nothing outstanding, in turn
        super().__init__(running, maxsize, max_bytes)

    # self._chunks holds what may go at once whatever its lane does: keyless messages, and retries that are due.

    def _append(self, chunk: Chunk) -> None:
        self._depth += len(chunk)
        self.in_flight_bytes += chunk.size
        if not self._by_key:
            message = chunk.messages[0]
            self._enter((message.topic(), message.partition()), chunk)
            return
        for index, message in enumerate(chunk.messages):
            single = chunk.part(index, index + 1)
            key = message.key()
            if key is None:
                self._chunks.append(single)
            else:
                self._enter((message.topic(), message.partition(), key), single)

    def _enter(self, name: Any, chunk: Chunk) -> None:
        chunk.lane = name
        lane = self._lanes.get(name)
        if lane is None:
            lane = self._lanes[name] = _Lane()
        if not lane.waiting and not lane.outstanding:
            self._ready.append(name)
        lane.waiting.append(chunk)

    def _available(self) -> bool:
        return bool(self._chunks or self._ready)

    def _next(self, limit: int) -> Chunk | None:
        if self._chunks:
            return super()._next(limit)
        if not self._ready:
            return None
        lane = self._lanes[self._ready.popleft()]
        chunk = lane.waiting[0]
        if len(chunk) <= limit:
            lane.waiting.popleft()
        else:
            lane.waiting[0] = chunk.part(limit, len(chunk))
            chunk = chunk.part(0, limit)
        lane.outstanding += len(chunk)
        self._depth -= len(chunk)
        return chunk

    def _return(self, chunk: Chunk, retry: bool) -> None:
        if retry or chunk.lane is None:
            self._put_first(chunk)  # still outstanding: its lane waits for it
            return
        lane = self._lanes[chunk.lane]
        lane.waiting.appendleft(chunk)
        lane.outstanding -= len(chunk)
        if not lane.outstanding:
            self._ready.append(chunk.lane)

    def _finished(self, chunk: Chunk) -> None:
        if chunk.lane is None:
            return
        lane = self._lanes[chunk.lane]
        lane.outstanding -= len(chunk)
        if lane.outstanding:
            return
        if lane.waiting:
            self._ready.append(chunk.lane)
            self.not_empty.notify()
        else:
            del self._lanes[chunk.lane]

    def _remove(self, assignment: Assignment) -> list[Chunk]:
        gone = super()._remove(assignment)
        for chunk in gone:  # retries that were due
            if chunk.lane is not None:
                self._lanes[chunk.lane].outstanding -= len(chunk)
        for name, lane in list(self._lanes.items()):
            gone += [chunk for chunk in lane.waiting if chunk.assignment is assignment]
            lane.waiting = deque(chunk for chunk in lane.waiting if chunk.assignment is not assignment)
            if not lane.waiting and not lane.outstanding:
                del self._lanes[name]
        self._ready = deque(
            name for name, lane in self._lanes.items() if lane.waiting and not lane.outstanding
        )
        return gone
