"""The polling thread: polls batches, hands them to the backup and to the workers, waits when they can't keep up.

It never blocks for long: requests of other threads are served between two polls, and the broker must hear from the member
within ``max.poll.interval.ms`` however slow the processor is. So when the queue stays full the partitions are paused, and
polling goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from confluent_kafka import KafkaException, TopicPartition

from kafka_consumer.chunk import Chunk, Completion
from kafka_consumer.dead_letter import timestamp_of
from kafka_consumer.failure_breaker import FailureBreaker
from kafka_consumer.intake import check_values, runs_of
from kafka_consumer.pausing import Pauses
from kafka_consumer.poll_errors import PollErrors
from kafka_consumer.rebalance import Commits, Partitions
from kafka_consumer.replay import resolve
from kafka_consumer.stop_targets import StopTargets

if TYPE_CHECKING:
    import threading

    from kafka_consumer.assignment import Assignment
    from kafka_consumer.ports import MessageLike
    from kafka_consumer.replay import Plan
    from kafka_consumer.replay_bounds import Bound
    from kafka_consumer.shared_state import SharedState
    from kafka_consumer.types import TopicPartitionKey

MAX_BATCH = 2000  # messages a poll
POLL_SECONDS = 0.05  # also how long another thread's request may have to wait
SHORT_POLL_SECONDS = 0.002  # the same while draining, and right after messages came: a stop, or the last commit, waits for it
ROOM_SECONDS = 0.02  # how long the loop waits for room before it serves requests again
PAUSE_AFTER_SECONDS = 1.0  # a queue that stays full for this long gets the partitions paused
BACKUP_WAIT_SECONDS = 1.0  # how long polling waits for a full backup queue, once, before rows are skipped
WARN_SECONDS = 10.0  # between two warnings of the same kind
DLQ_DEPTH = 10_000  # dead letters that may wait for the disk
WATERMARK_SECONDS = 1.0
LOOKED_SECONDS = 10.0  # watermarks are asked for only while somebody has looked within this time


class Guard(Protocol):
    """What polling tells the crash-loop guard."""

    def look(self, ours: Mapping[TopicPartitionKey, Assignment]) -> None: ...
    def delivered(self, chunks: Iterable[Chunk], ours: Mapping[TopicPartitionKey, Assignment]) -> None: ...


class Poller:
    """The polling loop. All of its state belongs to its thread, but for what a comment says is read elsewhere."""

    def __init__(
        self,
        shared_state: SharedState,
        consumer: Any,
        commits: Commits | None = None,
        serve: Callable[[], None] = lambda: None,
    ) -> None:
        config = shared_state.config
        self._shared_state = shared_state
        self._config = config
        self._consumer = consumer
        self._serve = serve
        self._queue = shared_state.processing_queue
        self._counters = shared_state.counters
        self.partitions = Partitions(shared_state, commits, serve)
        self.targets = StopTargets(config.stop_at_offset, config.topic)
        self.errors = PollErrors(shared_state, consumer, self.partitions)
        self.pauses = Pauses(shared_state, consumer, self.partitions, commits)
        self.breaker = FailureBreaker(shared_state)
        self.guard: Guard | None = None  # set by whoever has one
        self._strict = config.backup_mode == "strict"
        self._bulk = callable(getattr(consumer, "consume", None))
        self._poll_seconds = min(POLL_SECONDS, config.commit_interval_seconds)
        self._patience = SHORT_POLL_SECONDS  # how long the next poll waits: twice as long as the last one that brought nothing
        self._held: list[MessageLike] = []  # came although the partitions were paused
        self._raised: KafkaException | None = None  # by the last fetch, after messages that are to be delivered first
        self._full_since: float | None = None
        self._warned_backup = 0.0
        self._backup_full_since: float | None = None
        self._allowance = 0.0
        self._allowed_at = time.monotonic()
        self._watched_at = 0.0
        # Written by the console's thread, read here; single fields.
        self.rate_limit: float | None = config.max_rate  # messages a second
        self.looked_at = 0.0  # monotonic: when somebody last asked for a snapshot
        self.beat_at = time.monotonic()  # written by this thread at every step; read by who asks whether it is alive
        # Written by this thread, read by snapshots; replaced as a whole.
        self.watermarks: dict[TopicPartitionKey, int] = {}

    def follow(self, plan: Plan) -> None:
        """Begin and end where a plan says. Before ``run``, in this thread."""
        self.partitions.starts = plan.starts
        self.partitions.only = plan.only
        if plan.ends:
            targets = dict(self._config.stop_at_offset or {})
            for key, end in plan.ends.items():
                targets[key] = min(end - 1, targets.get(key, end - 1))
            self.targets = StopTargets(targets, self._config.topic, None if plan.outside else lambda: self.partitions.open)

    def run(self) -> None:
        """Poll until ``running`` is clear."""
        while self._shared_state.running.is_set():
            self.step()
        if self._held:
            self._shared_state.logger.info("%d polled messages weren't begun: they will be polled again", len(self._held))

    def step(self) -> None:
        """Poll once, or wait once."""
        self.beat_at = time.monotonic()
        self.partitions.look_for_membership(self._consumer)
        self._serve()
        if self.guard is not None:
            self.guard.look(self.partitions.open)
        if self.breaker.look():
            self.pauses.operator = None
        room = self._room()
        self.pauses.apply(self.targets.reached)
        if room <= 0 or not self._shared_state.running.is_set():
            self._watch()
            return
        if self._held:
            batch, self._held = self._held[:room], self._held[room:]
        else:
            batch = self._fetch(min(room, MAX_BATCH), min(self._patience, self._poll_seconds))
            self._patience = SHORT_POLL_SECONDS if batch else min(2 * self._patience, self._poll_seconds)
        if batch:
            self._take(batch)
        self.errors.look()
        self._watch()

    def linger(self, until: threading.Event) -> None:
        """Keep the membership alive, without taking messages, until the workers have drained and all is committed."""
        self.pauses.lingering = True
        while not until.is_set():
            self._serve()
            self.pauses.apply(self.targets.reached)
            # A message that comes in spite of the pause isn't delivered, so its offset isn't committed: it will be polled again.
            # For the same reason the end of a partition means nothing from here on: what is before it may not be delivered.
            for message in self._fetch(1, SHORT_POLL_SECONDS):
                error = message.error()
                if error is not None and not self.errors.is_end(error):
                    self.errors.came(error)
            self._watch()

    # --- room -------------------------------------------------------------------------------------------------------------

    def _room(self) -> int:
        """Return how many messages may be polled now; waits a moment when none may, and pauses when that lasts."""
        room = self._free()
        if self.pauses.pressed and room < self._config.queue_size // 2:
            room = 0  # hysteresis: a pause throws prefetched messages away, so it must be worth it
        if room <= 0 and not self.pauses.pressed and not self._letters_full():
            room = self._free(ROOM_SECONDS)
        if room <= 0:
            self._stay_alive()
            return 0
        self._full_since = None
        self.pauses.pressed = False
        return self._within_rate(self._with_backup(room))

    def _free(self, wait: float = 0) -> int:
        """Return how many messages fit; waits up to so many seconds while none do, but not for the dead letters."""
        if self._letters_full():
            return 0
        room = self._queue.wait_for_room(wait) if wait else self._queue.room()
        if self._strict and room > 0:
            room = min(room, self._shared_state.backup_csv_queue.wait_for_room(wait))
        return room

    def _letters_full(self) -> bool:
        letters = self._shared_state.dlq_queue
        return letters.bytes + self._queue.in_flight_bytes > self._config.max_inflight_bytes or len(letters.queue) > DLQ_DEPTH

    def _stay_alive(self) -> None:
        now = time.monotonic()
        if self._full_since is None:
            self._full_since = now
        if now - self._full_since < PAUSE_AFTER_SECONDS or not self.pauses.possible:
            if self._letters_full():
                self._shared_state.shutdown_event.wait(ROOM_SECONDS)
            return
        if not self.pauses.pressed:
            self.pauses.pressed = True
            self._shared_state.logger.info("back-pressure: polling is paused until the workers catch up")
            self.pauses.apply(self.targets.reached)
        if not self._held:
            self._keep(self._fetch(1, self._poll_seconds))
        self._watch()

    def _keep(self, late: list[MessageLike]) -> None:
        """Lose nothing that came although the partitions were paused (just assigned, or a source that knows no pause)."""
        if self.partitions.subscribed:
            self._take(late)  # one more than fits; held back, it could outlive its assignment
        else:
            self._held = late

    def _with_backup(self, room: int) -> int:
        """Give the backup time to catch up: its rows are skipped only when it is really stuck, and then without a wait."""
        if self._strict or self._config.backup_mode == "off":
            return room
        now = time.monotonic()
        stuck = self._backup_full_since is not None and now - self._backup_full_since >= BACKUP_WAIT_SECONDS
        free = self._shared_state.backup_csv_queue.wait_for_room(0 if stuck else ROOM_SECONDS)
        if free > 0:
            self._backup_full_since = None
            return min(room, free)
        if self._backup_full_since is None:
            self._backup_full_since = now
        return room if stuck else 0

    def _within_rate(self, room: int) -> int:
        limit = self.rate_limit
        if limit is None:
            return room
        now = time.monotonic()
        self._allowance = min(limit, self._allowance + (now - self._allowed_at) * limit)
        self._allowed_at = now
        if self._allowance < 1:
            self._shared_state.shutdown_event.wait(min(ROOM_SECONDS, 1 / limit))
            return 0
        return min(room, int(self._allowance))

    # --- the operator -----------------------------------------------------------------------------------------------------

    def pause(self, keys: set[TopicPartitionKey] | None) -> None:
        """Pause partitions (None: all) for the operator; in this thread, through ``serve``. Errors: ``LostPartitionError``."""
        self.pauses.pause(keys)

    def resume(self, keys: set[TopicPartitionKey] | None) -> None:
        """Resume partitions (None: all) for the operator; in this thread, through ``serve``. Errors: ``LostPartitionError``."""
        self.pauses.resume(keys)
        self.breaker.reset()

    def seek(self, keys: set[TopicPartitionKey], where: Bound) -> None:
        """Go on elsewhere, for the operator; in this thread, through ``serve``. Errors: as ``KafkaConsumer.seek``."""
        self.pauses.check_ours(keys)
        for key, at in resolve(where, sorted(keys), self._consumer).items():
            assignment = self.partitions.renew(key)  # what is in flight belongs to the past
            self.partitions.go_on_at(self._consumer, {assignment: at})
            self.targets.reached.discard(key)
            self._shared_state.logger.info("seek: %s-%d goes on at offset %d", *key, at)

    # --- polling ----------------------------------------------------------------------------------------------------------

    def _fetch(self, count: int, timeout: float) -> list[MessageLike]:
        """Poll up to ``count`` messages; wait up to ``timeout`` seconds for the first, and no longer for the others."""
        if self._raised is not None:
            self.errors.raised(self._raised)
            self._raised = None
            return []
        begun = time.monotonic()
        came: list[tuple[dict[TopicPartitionKey, Assignment], MessageLike]] = []  # each with the assignments it came under
        more: list[MessageLike] = []
        try:
            while len(came) < count and (message := self._consumer.poll(0 if came else timeout)) is not None:
                came.append((self.partitions.open, message))
                if self._bulk and len(came) < count:
                    answer = self._consumer.consume(count - 1, 0)
                    if isinstance(answer, list):
                        more = answer
                        break
                    self._bulk = False
        except KafkaException as error:
            if not came:
                self.errors.raised(error)
            # What came before it is delivered first: left out, it would look like a hole, and a commit would jump over it.
            self._raised = error if came else None
        if not came and time.monotonic() - begun < timeout / 2:  # a source that doesn't wait must not make this loop spin
            time.sleep(timeout / 10)
        return [message for ours, message in came if self._still(ours, message)] + more

    def _still(self, ours: dict[TopicPartitionKey, Assignment], message: MessageLike) -> bool:
        """Whether a message (or the end of a partition) belongs to today's assignment.

        Its partition may have gone and come back in the very next call; taken for the first one of the new assignment, it would
        let a commit jump over those before it.
        """
        if self.partitions.open is ours:
            return True
        error = message.error()
        if error is not None and not self.errors.is_end(error):
            return True
        key = (message.topic(), message.partition())
        return ours.get(key) is self.partitions.open.get(key)

    def _take(self, batch: list[MessageLike]) -> None:
        at = time.monotonic()
        events = [message for message in batch if message.error() is not None]
        if events:
            batch = [message for message in batch if message.error() is None]
        if batch:
            self.errors.none()
            self._hand_out(batch, at)
        # After the messages: an end that came with them lies behind them; noted first, it would make them look like a jump back.
        self._note_ends(events)

    def _hand_out(self, batch: list[MessageLike], at: float) -> None:
        chunks: list[Chunk] = []
        for key, run in runs_of(batch):
            chunk = self._deliver(key, run, at)
            if chunk is not None:
                chunks.append(chunk)
        for chunk in chunks:
            self._back_up(chunk)
            self._counters.polled += len(chunk)
        if self.rate_limit is not None:
            self._allowance -= sum(map(len, chunks))
        chunks = [chunk for chunk in map(self._without_finished, chunks) if chunk is not None]
        good = [checked for chunk in chunks if (checked := check_values(chunk, self._shared_state)) is not None]
        if good:
            if self.guard is not None:
                self.guard.delivered(good, self.partitions.open)
            self._queue.put_chunks(good)
        self._stop_at_targets()

    def _deliver(self, key: TopicPartitionKey, run: list[MessageLike], at: float) -> Chunk | None:
        assignment = self.partitions.of(key)
        if assignment is None:
            return None  # revoked in the poll that returned it: its next owner gets it
        offsets = [message.offset() for message in run]
        if self.targets:
            keep = self.targets.within(key, offsets)
            if keep < len(run):
                assignment.cut_off()
                run, offsets = run[:keep], offsets[:keep]
            if not run:
                return None
        if assignment.position is not None and offsets[0] < assignment.position:
            if assignment.unfinished_before(offsets[0]):
                # Handed out again by the client while older messages are in work: only what is new among them is taken.
                fresh = [message for message in run if message.offset() >= (assignment.position or 0)]
                return self._deliver(key, fresh, at) if fresh else None
            self._shared_state.logger.warning(
                "%s-%d jumped back from offset %d to %d: it is processed again from there", *key, assignment.position, offsets[0]
            )
            assignment = self.partitions.renew(key)
        first = assignment.delivered(offsets, at, timestamp_of(run[-1]))
        return Chunk(run, assignment, range(first, first + len(run)))

    def _without_finished(self, chunk: Chunk) -> Chunk | None:
        """Leave out what was finished under an earlier assignment, beyond what was committed then; None when that is all."""
        assignment, sequences = chunk.assignment, chunk.sequences
        if assignment is None or sequences is None or not assignment.skips:
            return chunk
        todo = assignment.skip([message.offset() for message in chunk.messages], sequences[0])
        if len(todo) == len(chunk):
            return chunk
        self._counters.skipped += len(chunk) - len(todo)
        self._tell_commits(assignment)
        return Chunk([chunk.messages[i] for i in todo], assignment, [sequences[i] for i in todo]) if todo else None

    def _tell_commits(self, assignment: Assignment) -> None:
        """Nothing is finished by this; but the commit loop gets to know a partition in which nothing else may ever be."""
        self._shared_state.processed_queue.add(Completion(assignment, range(0), failed=False))

    def _back_up(self, chunk: Chunk) -> None:
        if self._config.backup_mode == "off":
            return
        queue = self._shared_state.backup_csv_queue
        if self._strict:
            queue.put_all(chunk.messages)  # there was room when they were polled, or almost
            assert chunk.assignment is not None  # noqa: S101 - for the type checker: _deliver set it
            chunk.assignment.backed_up(queue.put_total)
            return
        skipped = len(chunk) - queue.put_many_nowait(chunk.messages)
        if not skipped:
            return
        self._counters.backup_skipped += skipped
        now = time.monotonic()
        if now - self._warned_backup >= WARN_SECONDS or not self._warned_backup:
            self._warned_backup = now
            self._shared_state.logger.warning(
                "the backup queue is full: %d rows skipped, %d in all; processing goes on", skipped, self._counters.backup_skipped
            )

    def _note_ends(self, batch: Sequence[MessageLike]) -> None:
        """Sort out what isn't a message: the ends of partitions, and errors."""
        for message in batch:
            error = message.error()
            if error is None:
                continue
            if not self.errors.is_end(error):
                self.errors.came(error, message)
                continue
            key = (message.topic(), message.partition())
            end = message.offset()
            assignment: Assignment | None = self.partitions.open.get(key)
            if assignment is not None and end >= 0:
                if not self.pauses.lingering:  # what came while draining wasn't delivered: the end lies behind it
                    assignment.reached_end(self.targets.up_to(key, end))
                self.watermarks = {**self.watermarks, key: max(end, self.watermarks.get(key, 0))}
                self.targets.at_end(key, end)
                self._tell_commits(assignment)
                self._stop_at_targets()

    def _stop_at_targets(self) -> None:
        if self.targets and self.targets.all_reached and self._shared_state.running.is_set():
            self._shared_state.logger.info("stop target reached: %s", self.targets.describe())
            self._shared_state.stop(f"stop target reached: {self.targets.describe()}")

    # --- watermarks -------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Refresh the high watermarks, once a second, while somebody looks."""
        now = time.monotonic()
        if now - self._watched_at < WATERMARK_SECONDS or now - self.looked_at > LOOKED_SECONDS or not self.partitions.subscribed:
            return
        self._watched_at = now
        marks = {}
        for key in self.partitions.open:
            try:
                # Paused: librdkafka's own figure is frozen. One of them is asked of the broker, each in its turn.
                _, high = self._consumer.get_watermark_offsets(_tp(key), cached=True)
            except KafkaException:
                continue
            marks[key] = max(high, self.watermarks.get(key, high))
        paused = sorted(self.pauses.told & set(marks))
        if paused:
            key = paused[int(now / WATERMARK_SECONDS) % len(paused)]
            try:
                _, marks[key] = self._consumer.get_watermark_offsets(_tp(key), timeout=0.5)
            except KafkaException as error:
                self._shared_state.logger.debug("the high watermark of %s-%d couldn't be read: %s", *key, error)
        self.watermarks = marks


def _tp(key: TopicPartitionKey) -> TopicPartition:
    return TopicPartition(*key)


def polling_loop(shared_state: SharedState, consumer: Any) -> None:
    """Poll ``consumer`` (anything with ``poll(timeout)``) until the consumer has stopped."""
    Poller(shared_state, consumer).run()
