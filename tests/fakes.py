"""Stand-ins for Kafka: a mock as plain as can be, and an in-memory broker that behaves.

``MockMessage`` and ``MockKafkaConsumer`` feed one loop by hand. ``FakeBroker`` and ``FakeConsumer`` are enough of Kafka to run a
whole ``KafkaConsumer``: logs with holes, groups, rebalances, fencing, pausing, the ends of partitions, scripted errors::

    broker = FakeBroker({"orders": 3})
    broker.produce("orders", 0, b"value")
    KafkaConsumer(config, consumer=FakeConsumer(broker, "billing")).run()

As in librdkafka every callback runs inside a ``poll``, ``consume`` or ``close`` of the caller's thread, and never under a lock.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Condition, get_ident
from types import SimpleNamespace
from typing import Any, TypeAlias

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    OFFSET_INVALID,
    OFFSET_STORED,
    TIMESTAMP_CREATE_TIME,
    TIMESTAMP_NOT_AVAILABLE,
    KafkaError,
    KafkaException,
    TopicPartition,
)

Key: TypeAlias = tuple[str, int]
"""``(topic, partition)``."""

WAKE_SECONDS = 0.02  # how often a waiting poll looks again, for what nobody announces


# --- the plain mock ---------------------------------------------------------------------------------------------------


class MockMessage:
    """A message made by hand: it has neither a timestamp nor headers."""

    def __init__(self, topic: str, partition: int, offset: int, key: bytes | None, value: Any) -> None:
        self._topic = topic
        self._partition = partition
        self._offset = offset
        self._key = key
        self._value = value

    def topic(self) -> str:
        return self._topic

    def partition(self) -> int:
        return self._partition

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes | None:
        return self._key

    def value(self) -> Any:
        return self._value

    def error(self) -> Any:
        return None


class MockKafkaConsumer:
    """Hands out ``messages`` one a poll; an exception among them is raised, None is a poll without a message.

    ``committed_offsets`` is ``{(topic, partition): Kafka's next offset}``, ``commits`` the successful calls in their order. An
    exception in ``commit_errors`` is raised by the next commit.
    """

    def __init__(self, messages: Iterable[Any] | None = None) -> None:
        self.messages: list[Any] = list(messages or [])
        self.committed_offsets: dict[Any, int] = {}
        self.commits: list[dict[Key, int]] = []
        self.commit_errors: list[BaseException] = []
        self.commit_count = 0  # attempts, failed ones included
        self.poll_count = 0
        self.closed = False

    def poll(self, timeout: float = 1.0) -> Any:
        self.poll_count += 1
        item = self.messages.pop(0) if self.messages else None
        if isinstance(item, BaseException):
            raise item
        return item

    def commit(self, offsets: Any = None, asynchronous: bool = False) -> None:
        self.commit_count += 1
        if self.commit_errors:
            raise self.commit_errors.pop(0)
        call = dict(offsets) if isinstance(offsets, Mapping) else {(tp.topic, tp.partition): tp.offset for tp in offsets or []}
        self.commits.append(call)
        self.committed_offsets.update(call)

    def close(self) -> None:
        self.closed = True


# --- messages ---------------------------------------------------------------------------------------------------------


class FakeMessage(MockMessage):
    """A message as the client returns it; ``error`` makes it an event."""

    def __init__(
        self,
        topic: str | None,
        partition: int | None,
        offset: int | None,
        key: bytes | None = None,
        value: Any = None,
        *,
        headers: Sequence[tuple[str, bytes | None]] | None = None,
        timestamp: int | None = None,
        error: KafkaError | None = None,
    ) -> None:
        super().__init__(topic, partition, offset, key, value)  # type: ignore[arg-type]
        self._headers = list(headers) if headers else None
        self._timestamp = timestamp
        self._error = error

    def headers(self) -> list[tuple[str, bytes | None]] | None:
        return self._headers

    def timestamp(self) -> tuple[int, int]:
        if self._timestamp is None:
            return TIMESTAMP_NOT_AVAILABLE, 0
        return TIMESTAMP_CREATE_TIME, self._timestamp

    def error(self) -> KafkaError | None:
        return self._error

    def __len__(self) -> int:
        return len(self._value or b"")


@dataclass(frozen=True)
class PartitionResult:
    """A partition's own result of a commit: ``TopicPartition.error`` can't be set from Python."""

    topic: str
    partition: int
    offset: int
    error: KafkaError | None = None


# --- the broker -------------------------------------------------------------------------------------------------------


class _Log:
    """The records of a partition, by offset: some may be missing (compaction), ``end`` may lie beyond the last (markers)."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.records: list[FakeMessage] = []
        self.low = 0
        self.end = 0

    def after(self, position: int) -> FakeMessage | None:
        index = bisect_left(self.offsets, position)
        return self.records[index] if index < len(self.records) else None


@dataclass
class _Group:
    members: list[FakeConsumer] = field(default_factory=list)
    owned: dict[Key, FakeConsumer] = field(default_factory=dict)
    committed: dict[Key, tuple[int, str]] = field(default_factory=dict)


class FakeBroker:
    """Topics and groups in memory; every method may be called from any thread.

    ``topics`` is ``{name: number of partitions}``. ``commits`` is every accepted commit in order: ``(group, {(topic, partition):
    offset})``.
    """

    def __init__(self, topics: Mapping[str, int] | None = None) -> None:
        self.changed = Condition()  # its lock guards all state, the consumers' included; no callback runs under it
        self.logs: dict[Key, _Log] = {}
        self.groups: dict[str, _Group] = defaultdict(_Group)
        self.commits: list[tuple[str, dict[Key, int]]] = []
        for name, partitions in (topics or {}).items():
            self.create_topic(name, partitions)

    # --- topics -----------------------------------------------------------------------------------------------------------

    def create_topic(self, name: str, partitions: int = 1) -> None:
        """Create a topic, or add partitions to one."""
        with self.changed:
            for partition in range(partitions):
                self.logs.setdefault((name, partition), _Log())
            self.changed.notify_all()

    def recreate_topic(self, name: str) -> None:
        """Delete a topic and create it again, empty, while its consumers hold on to it."""
        with self.changed:
            for key in self._partitions_of({name}):
                self.logs[key] = _Log()
            self.changed.notify_all()

    def produce(
        self,
        topic: str,
        partition: int,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes | None]] | None = None,
        timestamp: int | None = None,
        offset: int | None = None,
    ) -> int:
        """Append a record and return its offset; an ``offset`` beyond the end leaves a hole before it."""
        with self.changed:
            log = self.logs[topic, partition]
            at = log.end if offset is None else offset
            if at < log.end:
                raise ValueError(f"expected an offset of at least {log.end}, got {offset}")
            stamp = int(time.time() * 1000) if timestamp is None else timestamp
            log.offsets.append(at)
            log.records.append(FakeMessage(topic, partition, at, key, value, headers=headers, timestamp=stamp))
            log.end = at + 1
            self.changed.notify_all()
            return at

    def produce_many(self, topic: str, partition: int, values: Iterable[bytes | None]) -> list[int]:
        """Append records; return their offsets."""
        return [self.produce(topic, partition, value) for value in values]

    def skip(self, topic: str, partition: int, count: int = 1) -> None:
        """Use up offsets without a record, as a transaction's marker does."""
        with self.changed:
            self.logs[topic, partition].end += count
            self.changed.notify_all()

    def compact(self, topic: str, partition: int, offsets: Iterable[int]) -> None:
        """Remove records from the middle of a log."""
        gone = set(offsets)
        with self.changed:
            log = self.logs[topic, partition]
            kept = [(offset, record) for offset, record in zip(log.offsets, log.records, strict=True) if offset not in gone]
            log.offsets, log.records = [offset for offset, _ in kept], [record for _, record in kept]

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        """Let retention remove the records before ``offset``."""
        with self.changed:
            log = self.logs[topic, partition]
            log.low = offset
            log.end = max(log.end, offset)
            self.compact(topic, partition, [at for at in log.offsets if at < offset])

    # --- groups -----------------------------------------------------------------------------------------------------------

    def committed(self, group: str, topic: str, partition: int = 0) -> int | None:
        """Return the next offset that a group has committed, None when it has none."""
        with self.changed:
            found = self.groups[group].committed.get((topic, partition))
            return None if found is None else found[0]

    def metadata(self, group: str, topic: str, partition: int = 0) -> str:
        """Return the metadata of a group's commit."""
        with self.changed:
            return self.groups[group].committed.get((topic, partition), (0, ""))[1]

    def set_committed(self, group: str, topic: str, partition: int, offset: int, metadata: str = "") -> None:
        """Commit for a group, as an administrator would."""
        with self.changed:
            self.groups[group].committed[topic, partition] = (offset, metadata)

    def lag(self, group: str, topic: str) -> int:
        """Return how many offsets of a topic a group hasn't committed."""
        with self.changed:
            done = self.groups[group].committed
            return sum(self.logs[k].end - done.get(k, (self.logs[k].low, ""))[0] for k in self._partitions_of({topic}))

    def owner(self, group: str, topic: str, partition: int = 0) -> FakeConsumer | None:
        """Return the member that has a partition."""
        with self.changed:
            return self.groups[group].owned.get((topic, partition))

    # --- for consumers, with the lock held ----------------------------------------------------------------------------------

    def _partitions_of(self, topics: Iterable[str]) -> list[Key]:
        wanted = set(topics)
        return sorted(key for key in self.logs if key[0] in wanted)

    def _expire(self, group: str) -> None:
        """Expel the members that haven't polled within their max.poll.interval.ms."""
        now = time.monotonic()
        for member in list(self.groups[group].members):
            if member.max_poll_interval is not None and not member.polling and now - member.polled_at > member.max_poll_interval:
                member.events.append(KafkaError(KafkaError._MAX_POLL_EXCEEDED, "Application maximum poll interval exceeded"))
                member.expel()

    def _target(self, group: str, member: FakeConsumer) -> set[Key]:
        """Return what a member is to have: shared evenly, topic by topic, and what somebody has stays where it is if it can."""
        state = self.groups[group]
        target: set[Key] = set()
        for topic in {key[0] for key in self.logs}:
            members = [m for m in state.members if topic in m.topics]
            if not members:
                continue
            keys = self._partitions_of({topic})
            least, extra = divmod(len(keys), len(members))
            counts = dict.fromkeys(members, 0)
            rest = []
            for key in keys:
                owner = state.owned.get(key)
                if owner in counts and key not in owner.banned and (counts[owner] < least or (counts[owner] == least and extra)):
                    extra -= counts[owner] == least
                    counts[owner] += 1
                    if owner is member:
                        target.add(key)
                else:
                    rest.append(key)
            for key in rest:
                able = [m for m in members if key not in m.banned]
                if able:
                    chosen = min(able, key=lambda m: counts[m])
                    counts[chosen] += 1
                    if chosen is member:
                        target.add(key)
        return target


# --- the consumer -----------------------------------------------------------------------------------------------------


class FakeConsumer:
    """``confluent_kafka.Consumer`` on a ``FakeBroker``, rebalancing cooperatively.

    For a test to steer: ``script`` (errors, exceptions, calls), ``commit_hook`` and ``commit_errors``, ``revoke``, ``bounce``,
    ``give_back``, ``lose``, ``expel``. To look at: ``callers``, ``paused``, ``closed``, ``commit_calls``.
    """

    def __init__(
        self,
        broker: FakeBroker,
        group_id: str = "test-group",
        *,
        auto_offset_reset: str = "earliest",
        partition_eof: bool = True,
        max_poll_interval: float | None = None,
        on_commit: Callable[[KafkaError | None, list[Any]], None] | None = None,
    ) -> None:
        self.broker = broker
        self.group_id = group_id
        self.auto_offset_reset = auto_offset_reset
        self.partition_eof = partition_eof
        self.max_poll_interval = max_poll_interval
        self.topics: set[str] = set()
        self.banned: set[Key] = set()  # what the group's coordinator keeps from this member
        self.paused: set[Key] = set()  # survives a revocation, as in librdkafka
        self.events: deque[Any] = deque()
        self.commit_errors: deque[BaseException] = deque()
        self.commit_hook: Callable[[list[TopicPartition]], None] | None = None
        self.refused_commits: dict[Key, KafkaError] = {}  # a partition's own result, while it stands here
        self.commit_calls = 0
        self.callers: dict[str, set[int]] = defaultdict(set)  # method -> ids of the threads that called it
        self.polled_at = time.monotonic()
        self.polling = False
        self.closed = False
        self._on_commit = on_commit
        self._callbacks: dict[str, Callable[[Any, list[TopicPartition]], Any] | None] = {}
        self._positions: dict[Key, int | None] = {}  # the assignment: the next offset to be fetched, None: to be decided
        self._delivered: dict[Key, int] = {}  # the next offset after the last one returned
        self._highs: dict[Key, int] = {}  # as of the last fetch; frozen while paused
        self._ends_told: dict[Key, int] = {}
        self._halted: set[Key] = set()  # reported as out of range, with auto.offset.reset=error: fetched no more
        self._explicit: dict[Key, int] | None = None  # what the callback itself assigned
        self._forced: list[tuple[set[Key], bool]] = []  # (partitions, lost)
        self._joined = False
        self._fenced = False
        self._turn = 0

    # --- steering, from any thread --------------------------------------------------------------------------------------

    def script(self, *items: Any) -> None:
        """Queue what the next polls meet, one each: a ``KafkaError`` arrives as a message, an exception is raised, a callable is
        called inside the poll."""
        with self.broker.changed:
            self.events.extend(items)
            self.broker.changed.notify_all()

    def revoke(self, *keys: Key) -> None:
        """Have the group take partitions away (all when none is named) until ``give_back``."""
        with self.broker.changed:
            chosen = set(keys or self._positions)
            self.banned |= chosen
            self._force(chosen, lost=False)

    def bounce(self, *keys: Key) -> None:
        """Have partitions revoked and assigned again, within one poll."""
        with self.broker.changed:
            self._force(set(keys or self._positions), lost=False)

    def lose(self, *keys: Key) -> None:
        """Have partitions gone without notice, as after a session timeout, until ``give_back``."""
        with self.broker.changed:
            chosen = set(keys or self._positions)
            self.banned |= chosen
            self._drop_ownership(chosen)
            self._fenced = True
            self._force(chosen, lost=True)

    def give_back(self, *keys: Key) -> None:
        """Let the group assign partitions (all when none is named) to this member again."""
        with self.broker.changed:
            self.banned -= set(keys or self.banned)
            self.broker.changed.notify_all()

    def expel(self) -> None:
        """Have the group throw this member out; it joins again with its next poll."""
        with self.broker.changed:
            group = self.broker.groups[self.group_id]
            if self in group.members:
                group.members.remove(self)
            self._joined = False
            self._fenced = True
            self._drop_ownership(set(self._positions))
            self._force(set(self._positions), lost=True)

    def _force(self, keys: set[Key], *, lost: bool) -> None:
        self._forced.append((keys, lost))
        self.broker.changed.notify_all()

    def _drop_ownership(self, keys: set[Key]) -> None:
        owned = self.broker.groups[self.group_id].owned
        for key in keys:
            if owned.get(key) is self:
                del owned[key]

    # --- subscribing ----------------------------------------------------------------------------------------------------

    def subscribe(
        self,
        topics: list[str],
        on_assign: Callable[[Any, list[TopicPartition]], Any] | None = None,
        on_revoke: Callable[[Any, list[TopicPartition]], Any] | None = None,
        on_lost: Callable[[Any, list[TopicPartition]], Any] | None = None,
    ) -> None:
        self._enter("subscribe")
        with self.broker.changed:
            self.topics = set(topics)
            self._callbacks = {"assign": on_assign, "revoke": on_revoke, "lost": on_lost or on_revoke}
            self._joined = False
            self.events.extend(
                KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, f"Subscribed topic not available: {topic}: Broker: Unknown topic")
                for topic in sorted(self.topics)
                if not self.broker._partitions_of({topic})
            )

    def unsubscribe(self) -> None:
        self._enter("unsubscribe")
        self._leave()

    def assign(self, partitions: list[TopicPartition]) -> None:
        """Assign by hand; inside ``on_assign`` it says where to begin."""
        self._enter("assign")
        with self.broker.changed:
            if self._explicit is None:
                self._positions = {}
            self._assign_explicitly(partitions)

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        self._enter("incremental_assign")
        with self.broker.changed:
            self._assign_explicitly(partitions)

    def _assign_explicitly(self, partitions: list[TopicPartition]) -> None:
        for tp in partitions:
            key = (tp.topic, tp.partition)
            if self._explicit is not None:
                self._explicit[key] = tp.offset
            self._begin(key, tp.offset)

    def unassign(self) -> None:
        self._enter("unassign")
        with self.broker.changed:
            self._forget(set(self._positions))

    def incremental_unassign(self, partitions: list[TopicPartition]) -> None:
        self._enter("incremental_unassign")
        with self.broker.changed:
            self._forget({(tp.topic, tp.partition) for tp in partitions})

    def assignment(self) -> list[TopicPartition]:
        self._enter("assignment")
        with self.broker.changed:
            return _partitions(self._positions)

    # --- polling --------------------------------------------------------------------------------------------------------

    def poll(self, timeout: float | None = None) -> Any:
        self._enter("poll")
        found = self._wait_for(1, timeout)
        return found[0] if found else None

    def consume(self, num_messages: int = 1, timeout: float | None = -1) -> list[Any]:
        self._enter("consume")
        return self._wait_for(num_messages, None if timeout is None or timeout < 0 else timeout)

    def _wait_for(self, count: int, timeout: float | None) -> list[Any]:
        deadline = None if timeout is None else time.monotonic() + timeout
        found: list[Any] = []
        with self.broker.changed:
            self.broker._expire(self.group_id)
            self.polling = True
        try:
            while True:
                self._serve()
                with self.broker.changed:
                    raised = self._raised(found)
                    if raised is not None:
                        raise raised
                    found += self._take(count - len(found))
                    left = WAKE_SECONDS if deadline is None else deadline - time.monotonic()
                    if len(found) >= count or left <= 0:
                        return found
                    self.broker.changed.wait(min(left, WAKE_SECONDS))
        finally:
            with self.broker.changed:
                self.polling = False
                self.polled_at = time.monotonic()

    def _raised(self, found: list[Any]) -> BaseException | None:
        if self.events and isinstance(self.events[0], BaseException) and not isinstance(self.events[0], KafkaError) and not found:
            return self.events.popleft()
        return None

    def _serve(self) -> None:
        """Run what is due in the caller's thread: scripted calls, answers to commits, the group's changes."""
        while True:
            with self.broker.changed:
                callback = self.events.popleft() if self.events and _is_call(self.events[0]) else None
            if callback is None:
                break
            callback()
        if not self.topics:
            return
        while (change := self._next_change()) is not None:
            kind, keys = change
            self._rebalance(kind, keys)

    def _next_change(self) -> tuple[str, set[Key]] | None:
        """Decide, under the lock, what the group wants of this member next."""
        with self.broker.changed:
            self.broker._expire(self.group_id)
            group = self.broker.groups[self.group_id]
            while self._forced:
                keys, lost = self._forced.pop(0)
                keys &= set(self._positions)
                if keys:
                    return ("lost" if lost else "revoke"), keys
            self._fenced = False
            joins = not self._joined
            if self not in group.members:
                group.members.append(self)
                self.broker.changed.notify_all()
            self._joined = True
            target = self.broker._target(self.group_id, self)
            mine = set(self._positions)
            if mine - target:
                return "revoke", mine - target
            new = {key for key in target - mine if key not in group.owned}
            if new or (joins and not mine):
                for key in new:
                    group.owned[key] = self
                return "assign", new
            return None

    def _rebalance(self, kind: str, keys: set[Key]) -> None:
        callback = self._callbacks.get(kind)
        with self.broker.changed:
            self._explicit = {}
        if callback is not None:
            callback(self, _partitions(keys))
        with self.broker.changed:
            if kind == "assign":
                for key in keys - set(self._explicit):
                    self._begin(key, OFFSET_STORED)
            else:
                self._forget(keys)
                if kind == "revoke":
                    self._drop_ownership(keys)
            self._explicit = None
            self.broker.changed.notify_all()

    def _begin(self, key: Key, offset: int) -> None:
        self._halted.discard(key)
        self._positions[key] = self._resolve(key, offset)
        self._delivered.pop(key, None)
        self._highs.pop(key, None)
        self._ends_told.pop(key, None)

    def _forget(self, keys: set[Key]) -> None:
        for key in keys:
            for table in (self._positions, self._delivered, self._highs, self._ends_told):
                table.pop(key, None)
        self._halted -= keys

    def _resolve(self, key: Key, offset: int) -> int | None:
        log = self.broker.logs.get(key)
        if log is None:
            return None
        if offset in {OFFSET_STORED, OFFSET_INVALID}:
            stored = self.broker.groups[self.group_id].committed.get(key)
            return self._reset(key, "no previously committed offset available", None) if stored is None else stored[0]
        if offset == OFFSET_BEGINNING:
            return log.low
        return log.end if offset == OFFSET_END else offset

    def _reset(self, key: Key, text: str, wanted: int | None) -> int | None:
        log = self.broker.logs[key]
        if self.auto_offset_reset == "error":
            self._halted.add(key)
            self.events.append(FakeMessage(*key, wanted, error=KafkaError(KafkaError._AUTO_OFFSET_RESET, text)))
            return None
        return log.end if self.auto_offset_reset == "latest" else log.low

    def _take(self, count: int) -> list[Any]:
        """Fetch up to ``count`` messages and events; a partition's turn comes round."""
        found: list[Any] = []
        while self.events and len(found) < count and isinstance(self.events[0], KafkaError | FakeMessage):
            event = self.events.popleft()
            found.append(event if isinstance(event, FakeMessage) else FakeMessage(None, None, None, error=event))
        keys = sorted(set(self._positions) - self.paused - self._halted)
        self._turn += 1
        for key in keys[self._turn % len(keys) :] + keys[: self._turn % len(keys)] if keys else []:
            found += self._fetch(key, count - len(found))
        return found

    def _fetch(self, key: Key, count: int) -> list[Any]:
        log = self.broker.logs[key]
        position = self._positions[key]
        if position is None or not log.low <= position <= log.end:
            position = self._reset(key, "Broker: Offset out of range", position)
        if position is None:
            return []
        self._highs[key] = log.end
        found: list[Any] = []
        while len(found) < count and (record := log.after(position)) is not None:
            found.append(record)
            position = self._delivered[key] = record.offset() + 1
        if log.after(position) is None:
            position = log.end
            if self.partition_eof and len(found) < count and self._ends_told.get(key) != log.end:
                self._ends_told[key] = log.end
                error = KafkaError(KafkaError._PARTITION_EOF, "Broker: No more messages")
                found.append(FakeMessage(*key, log.end, error=error))
        self._positions[key] = position
        return found

    # --- offsets --------------------------------------------------------------------------------------------------------

    def commit(self, message: Any = None, offsets: list[TopicPartition] | None = None, asynchronous: bool = True) -> Any:
        self._enter("commit")
        if message is not None:
            offsets = [TopicPartition(message.topic(), message.partition(), message.offset() + 1)]
        if offsets is None:
            with self.broker.changed:
                offsets = [TopicPartition(*key, offset) for key, offset in self._delivered.items()]
        try:
            answer = self._commit(offsets)
        except KafkaException as error:
            if not asynchronous:
                raise
            self._answer(error.args[0], offsets)
            return None
        if asynchronous:
            self._answer(None, answer)
            return None
        return answer

    def _answer(self, error: KafkaError | None, partitions: list[Any]) -> None:
        answered = self._on_commit
        if answered is not None:
            self.script(lambda: answered(error, partitions))

    def _commit(self, offsets: list[TopicPartition]) -> list[Any]:
        self.commit_calls += 1
        if self.commit_hook is not None:
            self.commit_hook(offsets)
        if self.commit_errors:
            raise self.commit_errors.popleft()
        with self.broker.changed:
            if self._fenced:
                raise KafkaException(KafkaError(KafkaError.UNKNOWN_MEMBER_ID, "Broker: Unknown member"))
            stored = {}
            answer: list[Any] = []
            for tp in offsets:
                key = (tp.topic, tp.partition)
                refusal = self.refused_commits.get(key)
                if refusal is None and key not in self.broker.logs:
                    refusal = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, "Broker: Unknown topic or partition")
                if refusal is not None:
                    answer.append(PartitionResult(*key, tp.offset, refusal))
                    continue
                self.broker.groups[self.group_id].committed[key] = (tp.offset, getattr(tp, "metadata", None) or "")
                stored[key] = tp.offset
                answer.append(TopicPartition(*key, tp.offset))
            if stored:
                self.broker.commits.append((self.group_id, stored))
                self.broker.changed.notify_all()
            return answer

    def committed(self, partitions: list[TopicPartition], timeout: float | None = None) -> list[TopicPartition]:
        self._enter("committed")
        with self.broker.changed:
            stored = self.broker.groups[self.group_id].committed
            return [
                TopicPartition(tp.topic, tp.partition, *stored.get((tp.topic, tp.partition), (OFFSET_INVALID, "")))
                for tp in partitions
            ]

    def position(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        self._enter("position")
        with self.broker.changed:
            return [
                TopicPartition(tp.topic, tp.partition, self._delivered.get((tp.topic, tp.partition), OFFSET_INVALID))
                for tp in partitions
            ]

    def seek(self, partition: TopicPartition) -> None:
        self._enter("seek")
        key = (partition.topic, partition.partition)
        with self.broker.changed:
            if key not in self._positions:
                raise KafkaException(KafkaError(KafkaError._STATE, "Local: Erroneous state"))
            self._begin(key, partition.offset)

    def pause(self, partitions: list[TopicPartition]) -> None:
        self._enter("pause")
        with self.broker.changed:
            self.paused |= {(tp.topic, tp.partition) for tp in partitions}

    def resume(self, partitions: list[TopicPartition]) -> None:
        self._enter("resume")
        with self.broker.changed:
            self.paused -= {(tp.topic, tp.partition) for tp in partitions}
            self.broker.changed.notify_all()

    def get_watermark_offsets(
        self, partition: TopicPartition, timeout: float | None = None, cached: bool = False
    ) -> tuple[int, int]:
        self._enter("get_watermark_offsets")
        key = (partition.topic, partition.partition)
        with self.broker.changed:
            log = self.broker.logs.get(key)
            if log is None:
                raise KafkaException(KafkaError(KafkaError._UNKNOWN_PARTITION, "Local: Unknown partition"))
            if cached:
                return (log.low if key in self._highs else OFFSET_INVALID), self._highs.get(key, OFFSET_INVALID)
            return log.low, log.end

    def offsets_for_times(self, partitions: list[TopicPartition], timeout: float | None = None) -> list[TopicPartition]:
        """Look up the first record at or after a time (``offset`` in milliseconds); the end where there is none."""
        self._enter("offsets_for_times")
        found = []
        with self.broker.changed:
            for tp in partitions:
                log = self.broker.logs[tp.topic, tp.partition]
                later = (record.offset() for record in log.records if record.timestamp()[1] >= tp.offset)
                found.append(TopicPartition(tp.topic, tp.partition, next(later, OFFSET_END)))
        return found

    def list_topics(self, topic: str | None = None, timeout: float = -1) -> Any:
        self._enter("list_topics")
        with self.broker.changed:
            names = {key[0] for key in self.broker.logs} if topic is None else {topic}
            topics = {}
            for name in names:
                partitions = {p: SimpleNamespace(id=p) for _, p in self.broker._partitions_of({name})}
                error = None if partitions else KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART, "Broker: Unknown topic or partition")
                topics[name] = SimpleNamespace(topic=name, partitions=partitions, error=error)
            return SimpleNamespace(topics=topics, brokers={1: "fake:9092"})

    # --- the end --------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Leave the group: ``on_revoke`` for what is assigned (``on_lost`` for what was taken already)."""
        if self.closed:
            return
        self.callers["close"].add(get_ident())
        self._leave()
        self.closed = True

    def _leave(self) -> None:
        with self.broker.changed:
            kind = "lost" if self._fenced else "revoke"
            keys = set(self._positions)
        if keys:
            self._rebalance(kind, keys)
        with self.broker.changed:
            group = self.broker.groups[self.group_id]
            if self in group.members:
                group.members.remove(self)
            self.topics = set()
            self._joined = False
            self.broker.changed.notify_all()

    def _enter(self, method: str) -> None:
        if self.closed:
            raise RuntimeError("Consumer closed")
        self.callers[method].add(get_ident())


def _is_call(event: Any) -> bool:
    return callable(event) and not isinstance(event, KafkaError | BaseException)


def _partitions(keys: Iterable[Key]) -> list[TopicPartition]:
    return [TopicPartition(topic, partition) for topic, partition in sorted(keys)]
