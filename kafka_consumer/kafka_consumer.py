"""The whole: builds the parts, starts their threads, and takes them down in the order in which nothing is lost.

    polling ──► processing queue ──► workers ──► processed queue ──► commit
        └─────► backup queue ─► file     └─────► dead-letter queue ─► file

Shutdown follows the flow. Polling stops taking messages, though it keeps the group membership alive; the workers finish what
was taken; the files are synced; then the last commit; then the group is left. Each pipe is held open by this module until
the threads that write into it have ended.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaException

from kafka_consumer.client import Client, librdkafka_logger
from kafka_consumer.config import KafkaConsumerConfig
from kafka_consumer.crash_loop import guard_of
from kafka_consumer.csv_writers import BackupWriter, DeadLetterWriter
from kafka_consumer.dlq_topic import DeadLetterTopic
from kafka_consumer.errors import ClientClosedError, ConfigError, FilesInUseError, ReplayError, RequestTimeoutError
from kafka_consumer.file_lock import FileLocks
from kafka_consumer.kafka_properties import mask_values
from kafka_consumer.logs import LogTail
from kafka_consumer.offset_manager import Committer
from kafka_consumer.operations import Operations
from kafka_consumer.option_checks import for_librdkafka
from kafka_consumer.out_of_range import start_of_new_group
from kafka_consumer.polling_thread import Poller
from kafka_consumer.process_setup import check_process
from kafka_consumer.redrive_control import Redrives
from kafka_consumer.replay import Plan, is_outside, make_plan
from kafka_consumer.shared_state import SharedState
from kafka_consumer.signal_handler import SignalHandler
from kafka_consumer.snapshot import Snapshot
from kafka_consumer.snapshot_builder import SnapshotBuilder
from kafka_consumer.stats import Distribution
from kafka_consumer.types import Phase, WorkerState
from kafka_consumer.worker_pool import new_pool

LOOK_SECONDS = 0.5  # how often the shutdown thread looks whether the run is over, should polling be stuck
SIGNAL_SECONDS = 0.5  # how long a signal that another thread was given may wait for its handler
SILENT_SECONDS = 60.0  # how long a loop may say nothing before it is taken for hung; Kafka's slowest answer takes less
CLOSE_SECONDS = 10.0  # how long leaving the group may take before it is given up
USAGE_EXIT_CODE = 2


class KafkaConsumer(Operations):
    """A consumer: ``run()`` does all of it; or ``start()``, ``stop()``, ``join()``. It is used once.

    ``consumer`` may be given: anything with ``confluent_kafka.Consumer``'s methods; it is subscribed and closed here. Every
    public method may be called from any thread; ``run`` installs signal handlers when it is called in the main thread.
    """

    def __init__(self, config: KafkaConsumerConfig, consumer: Any = None) -> None:
        self.config = config
        self.shared_state = SharedState(config)
        self.exit_code: int | None = None
        self._client = Client(consumer)
        self._committer = Committer(self.shared_state, self._client)
        if is_outside(config):
            self._committer.outside = True
            self.shared_state.dev_mode.set()  # so that everybody sees that nothing is committed
        self._pool = new_pool(self.shared_state)
        self._guard = guard_of(self.shared_state, self._pool)
        self._topic = None if config.dlq_topic is None else DeadLetterTopic(self.shared_state)
        self._dead_letters = DeadLetterWriter(self.shared_state, self._topic)
        self._backup = BackupWriter(self.shared_state) if config.backup_mode != "off" else None
        self._log_tail = LogTail()
        self._redrives = Redrives(config, self.shared_state.shutdown_event)
        self._locks = FileLocks([config.dlq_path] + ([config.backup_path] if self._backup else []))
        self._poller: Poller | None = None
        self._polled_out = threading.Event()  # the polling thread takes no more messages
        self._leave = threading.Event()  # all is committed: the polling thread may close the consumer
        self._ended = threading.Event()
        self._builder: SnapshotBuilder | None = None
        self._threads: dict[str, threading.Thread] = {}

    # --- life -----------------------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Start, wait for the end, and return the exit code: 0 stopped, 1 failed, 2 not startable as configured."""
        signals = SignalHandler(lambda: self.stop("stopped by a signal"))
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread:
            signals.register()
        try:
            self.start()
            # In steps: a signal that came while the process was suspended may go to any thread, and wouldn't wake this one, in
            # which Python runs the handlers.
            while not self.join(SIGNAL_SECONDS):
                pass
        except (ConfigError, FilesInUseError) as error:
            self.shared_state.logger.error("%s", error)  # noqa: TRY400 - a user's mistake gets one line
            self.exit_code = USAGE_EXIT_CODE
        finally:
            if in_main_thread:
                signals.restore()
        return 1 if self.exit_code is None else self.exit_code

    def start(self) -> None:
        """Start the threads and return. Errors: ``ConfigError``, ``FilesInUseError``; nothing runs then."""
        if self.config.executor == "process":
            check_process(self.config, unless=lambda: not self.shared_state.running.is_set())
        try:
            self._locks.acquire()
        except OSError as error:
            raise ConfigError(f"the files of backup_path and dlq_path can't be locked: {error}") from error
        self._listen()
        try:
            self._poller = self._connect()
        except BaseException:
            self._locks.release()
            self._stop_listening()
            raise
        if self._guard is not None:
            self._guard.start()
            self._poller.guard = self._guard
        self._builder = self._snapshots(self._poller)
        for pipe in self._pipes():
            pipe.hold()
        self._spawn("dead-letters", self._dead_letters.run)
        if self._backup is not None:
            self._spawn("backup", self._backup.run)
        self._spawn("commit", self._committer.run)
        self._pool.start()
        self._spawn("polling", self._poll)
        self._spawn("shutdown", self._shut_down)
        self.shared_state.lifecycle.advance(Phase.RUNNING)
        self.shared_state.logger.info(
            "consuming %s as %s with %d workers%s", self.config.topic, self.config.group_id, self.config.worker_count,
            "; dev mode: nothing will be committed" if self.config.dev_mode else "",
        )  # fmt: skip

    def stop(self, reason: str = "stopped by the operator") -> None:
        """Ask for a clean end; returns at once."""
        self.shared_state.stop(reason)

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end, up to ``timeout`` seconds; returns whether it has come."""
        return self._ended.wait(timeout)

    def silent(self) -> str | None:
        """Say which loop hangs although the consumer runs; None while all beat, and while it starts or drains.

        For a watchdog: a broker that is away, a slow processor or a paused consumer are no reason to restart it; a loop that
        doesn't turn any more is.
        """
        poller, running = self._poller, self.shared_state.lifecycle.phase is Phase.RUNNING
        if poller is None or not running or not self.shared_state.running.is_set():
            return None
        now = time.monotonic()
        # A commit may wait for its answer as long as it is allowed to.
        commit_limit = SILENT_SECONDS + self.config.shutdown_timeout_seconds
        beats = {"polling": (poller.beat_at, SILENT_SECONDS), "commit": (self._committer.beat_at, commit_limit)}
        for name, (beat_at, limit) in beats.items():
            if now - beat_at > limit:
                return f"the {name} thread hasn't moved for {now - beat_at:.0f} s"
        return None

    # --- the operator ---------------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Return a frozen picture of this moment. Built for the caller; nothing is kept up to date for its sake."""
        return (self._builder or self._snapshots(None)).build()

    def distributions(self) -> dict[str, Distribution]:
        """Return how durations since the start are distributed, by the name of the metric."""
        return {
            "kc_processing_duration_seconds": self.shared_state.processing_queue.pace.samples.distribution(),
            "kc_poll_to_commit_duration_seconds": self._committer.poll_to_commit.distribution(),
            "kc_commit_duration_seconds": self._committer.commit_seconds.distribution(),
        }

    def look(self) -> None:
        """Have the high watermarks kept fresh for the next seconds, as a snapshot does."""
        if self._poller is not None:
            self._poller.looked_at = time.monotonic()

    @property
    def in_group(self) -> bool:
        """Whether the group knows this consumer, or it replays outside of it."""
        return self._poller is not None and self._poller.partitions.member

    # --- building -------------------------------------------------------------------------------------------------------------

    def _connect(self) -> Poller:
        start_of_new_group(self.config.kafka_options)  # raises here what would be too late later
        holder: list[Poller] = []
        try:
            if self._topic is not None:
                self._topic.connect()
            if self._client.consumer is None:
                self._client.connect(client_options(self.config, lambda error: holder[0].errors.on_client_error(error)))  # noqa: PLW0108 - the holder is empty yet
        except KafkaException as error:
            said = error.args[0].str() if error.args and hasattr(error.args[0], "str") else str(error)
            raise ConfigError(f"kafka_options: {mask_values(said, self.config.kafka_options)}") from None
        poller = Poller(self.shared_state, self._client.consumer, self._committer, self._client.serve)
        poller.partitions.subscribed = True
        poller.breaker.recent_errors = lambda: [letter.error_type for _, letter in self._dead_letters.tail]
        holder.append(poller)
        return poller

    def _listen(self) -> None:
        """Keep the latest records, and secrets out of all of them, whoever handles them."""
        redactor = self.shared_state.redactor
        self._log_tail.addFilter(redactor)
        for logger in (self.shared_state.logger, librdkafka_logger()):
            logger.addFilter(redactor)
        self.shared_state.logger.addHandler(self._log_tail)

    def _stop_listening(self) -> None:
        self.shared_state.logger.removeHandler(self._log_tail)
        for logger in (self.shared_state.logger, librdkafka_logger()):
            logger.removeFilter(self.shared_state.redactor)

    def _snapshots(self, poller: Poller | None) -> SnapshotBuilder:
        return SnapshotBuilder(self.shared_state, poller, self._pool, self._committer, self._dead_letters, self._log_tail)

    def _pipes(self) -> list[Any]:
        state = self.shared_state
        return [state.processing_queue, state.dlq_queue, state.backup_csv_queue, state.processed_queue]

    def _spawn(self, name: str, work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                work()
            except Exception as error:
                kind = type(error).__name__
                self.shared_state.logger.critical("the %s thread failed: %s: %s", name, kind, error, exc_info=True)
                self.shared_state.fail(f"the {name} thread failed: {error}")

        thread = self._threads[name] = threading.Thread(target=guarded, name=name, daemon=True)
        thread.start()

    # --- the polling thread ---------------------------------------------------------------------------------------------------

    def _poll(self) -> None:
        poller = self._poller
        assert poller is not None  # noqa: S101 - for the type checker: start() has set it
        self._client.own()
        callbacks = poller.partitions
        try:
            self._begin(poller)
            poller.run()
            self._polled_out.set()
            poller.linger(self._leave)
        finally:
            self.shared_state.stop("polling ended")
            self._polled_out.set()
            try:
                # A crash of polling: others may still finish and commit through this thread before the consumer is closed.
                while not self._leave.wait(0.02):
                    self._client.serve()
                callbacks.drained = True
                self._client.close()
            finally:
                self._client.disown()

    def _begin(self, poller: Poller) -> None:
        """Join the group; or, for a replay, take what is to be replayed."""
        consumer, callbacks = self._client.consumer, poller.partitions
        plan = self._plan()
        if plan is not None:
            self.shared_state.logger.info("replay%s: %s", " outside the group, nothing is committed" if plan.outside else "",
                                          plan.describe() or "nothing lies between its bounds")  # fmt: skip
            poller.follow(plan)
        if plan is None or not plan.outside:
            if self.shared_state.running.is_set():
                consumer.subscribe(
                    [self.config.topic], on_assign=callbacks.on_assign, on_revoke=callbacks.on_revoke, on_lost=callbacks.on_lost
                )
        elif plan.empty:
            self.stop("nothing to replay")
        else:
            callbacks.assign(consumer)

    def _plan(self) -> Plan | None:
        """Ask the brokers what the bounds mean, again and again while they don't answer."""
        while self.shared_state.running.is_set():
            if self._poller is not None:
                self._poller.beat_at = time.monotonic()
            try:
                return make_plan(self.config, self._client.consumer)
            except ReplayError as error:
                self.shared_state.logger.critical("%s; stopping", error)
                self.shared_state.fail(str(error))
            except KafkaException as error:
                self.shared_state.logger.error("where the replay begins and ends can't be asked, trying again: %s", error)  # noqa: TRY400
                self._client.serve()
                self.shared_state.shutdown_event.wait(LOOK_SECONDS)
        return None

    # --- the shutdown thread --------------------------------------------------------------------------------------------------

    def _shut_down(self) -> None:
        state = self.shared_state
        self._wait_until_polled_out()
        state.lifecycle.advance(Phase.DRAINING)
        waiting = state.processing_queue.qsize() + state.processing_queue.taken
        state.logger.info("%s; draining %d messages", state.lifecycle.stop_reason, waiting)
        if self._guard is not None:
            self._guard.draining()
        state.processing_queue.let_go()
        self._join_workers()
        state.dlq_queue.let_go()
        state.backup_csv_queue.let_go()
        self._join("dead-letters")
        if self._backup is not None:
            self._join("backup")
        state.processed_queue.let_go()
        if not self._join("commit", self.config.shutdown_timeout_seconds + CLOSE_SECONDS):
            self._fail("the last commit got no answer from Kafka")
        elif not self._committer.clean:
            self._fail(f"finished work stays uncommitted: {self._uncommitted():,} messages will be repeated after a restart")
        self._leave.set()
        if not self._join("polling", CLOSE_SECONDS):
            state.logger.error("leaving the group got no answer from Kafka within %g s: given up", CLOSE_SECONDS)
        if self._guard is not None:
            self._guard.end()
        self._locks.release()
        self._end()

    def _wait_until_polled_out(self) -> None:
        """Wait until polling takes no more messages; when the run is over, no longer than Kafka may take for the last commit."""
        deadline = math.inf
        while not self._polled_out.wait(LOOK_SECONDS):
            if deadline == math.inf and not self.shared_state.running.is_set():
                deadline = time.monotonic() + self.config.shutdown_timeout_seconds
            if time.monotonic() >= deadline:
                self._fail(f"the polling thread got no answer from Kafka within {self.config.shutdown_timeout_seconds:g} s")
                return

    def _join_workers(self) -> None:
        """Wait for the workers, however long they take, unless ``shutdown_drain_seconds`` bounds it."""
        warn_after = self.config.shutdown_warning_seconds
        bound = self.config.shutdown_drain_seconds
        deadline = math.inf if bound is None else time.monotonic() + bound
        while not self._pool.join(min(warn_after, max(0.0, deadline - time.monotonic()))):
            count, names = self._busy_workers()
            if time.monotonic() >= deadline:
                self._give_up_workers(f"{count} workers: {names}")
                return
            self.shared_state.logger.warning("still draining after %g s, waiting for %d workers: %s", warn_after, count, names)

    def _busy_workers(self) -> tuple[int, str]:
        """Return how many workers are busy, and for people which, with what, for how long."""
        now = time.monotonic()
        busy = [s for s in self._pool.statuses() if s.state is WorkerState.BUSY]
        names = (f"worker {s.id} ({s.topic}-{s.partition}@{s.offset}, {now - s.since:.0f} s)" for s in busy[:20])
        return len(busy), ", ".join(names)

    def _give_up_workers(self, whom: str) -> None:
        """Go on without the workers. What they hold, and what waits for them, isn't finished: no commit passes it."""
        ours = [] if self._poller is None else list(self._poller.partitions.open.values())
        unfinished = sum(assignment.unfinished for assignment in ours)
        for assignment in ours:
            self.shared_state.processing_queue.drop(assignment)
        self._fail(
            f"draining took longer than shutdown_drain_seconds={self.config.shutdown_drain_seconds:g}: {unfinished:,} messages "
            f"stay unfinished and will be repeated after a restart; given up: {whom}"
        )

    def _join(self, name: str, timeout: float | None = None) -> bool:
        thread = self._threads[name]
        thread.join(timeout)
        return not thread.is_alive()

    def _fail(self, reason: str) -> None:
        self.shared_state.logger.error("%s", reason)
        self.shared_state.fail(reason)

    def _uncommitted(self) -> int:
        return 0 if self._poller is None else sum(a.uncommitted for a in self._poller.partitions.open.values())

    def _end(self) -> None:
        state = self.shared_state
        failed = state.lifecycle.failed
        c = state.counters
        self.exit_code = 1 if failed or (self.config.fail_on_dlq and c.failed) else 0
        state.lifecycle.advance(Phase.FAILED if failed else Phase.STOPPED)
        state.logger.info(
            "ended: %d polled, %d processed, %d failed (%d dead letters written), %d backed up, %d not backed up; %s",
            c.polled, c.processed, c.failed, c.dlq_written, c.backup_written, c.backup_skipped, state.lifecycle.stop_reason,
        )  # fmt: skip
        self._stop_listening()
        self._ended.set()


def client_options(config: KafkaConsumerConfig, on_error: Callable[[Any], None] | None = None) -> dict[str, Any]:
    """Return librdkafka's options for a configuration: ours, then the user's on top."""
    options: dict[str, Any] = {
        "bootstrap.servers": config.bootstrap_servers,
        "group.id": config.group_id,
        "client.id": "kc",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # The end of a partition lets a commit pass the transaction markers there, and a stop target see that it can't come.
        "enable.partition.eof": True,
        # The prefetch counts against memory, too.
        "queued.max.messages.kbytes": 16_384,
        "queued.min.messages": 10_000,
        "fetch.queue.backoff.ms": 100,
    }
    if config.kafka_options.get("group.protocol", "classic") == "classic":
        options["partition.assignment.strategy"] = "cooperative-sticky"
    options.update(for_librdkafka(config.kafka_options))
    # An offset that isn't in the log is reported, never passed over in silence; out_of_range.py decides, a new group's start too.
    options["auto.offset.reset"] = "error"
    if on_error is not None:
        options["error_cb"] = on_error
    return options


__all__ = ["ClientClosedError", "KafkaConsumer", "RequestTimeoutError", "client_options"]
