"""What the loops share: pipes and flags, nothing else. Configuration lives in ``config`` and is importable from here, too."""

from __future__ import annotations

import logging
import threading

from kafka_consumer.batch_queue import BackupQueue, CompletionQueue, DeadLetterQueue, RunningFlag
from kafka_consumer.calling import argument_of, processor_of, takes_messages
from kafka_consumer.config import KafkaConsumerConfig, check_option, validate_config
from kafka_consumer.errors import ConfigError
from kafka_consumer.lifecycle import Lifecycle
from kafka_consumer.ordered_queue import OrderedQueue
from kafka_consumer.redaction import Redactor
from kafka_consumer.work_queue import WorkQueue

__all__ = ["ConfigError", "Counters", "KafkaConsumerConfig", "SharedState", "validate_config"]

LOGGER_NAME = "kafka_consumer"


class Counters:
    """Totals since the start. Each field has one writing thread, named beside it; reads need no lock."""

    def __init__(self) -> None:
        self.polled = 0  # polling thread
        self.backup_skipped = 0  # polling thread
        self.skipped = 0  # polling thread: finished under an earlier assignment, as its last commit tells
        self.poll_errors = 0  # polling thread
        self.records_lost = 0  # polling thread: deleted before they were read, at the most
        self.rebalances = 0  # polling thread
        self.processed = 0  # commit thread: successes it has seen
        self.failed = 0  # commit thread
        self.committed = 0  # commit thread: messages covered by acknowledged commits
        self.commit_failures = 0  # commit thread
        self.retried = 0  # supervisor thread
        self.timed_out = 0  # supervisor thread; with executor="process" the workers, under its lock
        self.crashed_workers = 0  # supervisor thread, and the same workers: under its lock
        self.dlq_written = 0  # dead-letter writer
        self.dlq_published = 0  # dead-letter writer: acknowledged by dlq_topic
        self.dlq_unpublished = 0  # dead-letter writer: refused by dlq_topic for good
        self.backup_written = 0  # backup writer


class SharedState:
    """Pipes and flags of one consumer.

    ``running`` is set until the consumer is to end; clearing it is the same as ``stop()`` for every loop. ``dev_mode`` may be
    switched while it runs. All four queues are usable as a ``queue.Queue``.
    """

    def __init__(self, config: KafkaConsumerConfig) -> None:
        self.config = config
        self.redactor = Redactor(config.kafka_options)
        self.processor = processor_of(config)  # what workers call, with argument(message, value)
        self.argument = argument_of(config)
        self.takes_messages = takes_messages(config)
        self.running = RunningFlag()
        self.shutdown_event = threading.Event()
        self.lifecycle = Lifecycle()
        self.counters = Counters()
        self.dev_mode = threading.Event()
        if config.dev_mode:
            self.dev_mode.set()
        size, max_bytes = config.queue_size, config.max_inflight_bytes
        self.processing_queue: WorkQueue = (
            WorkQueue(self.running, size, max_bytes)
            if config.ordering == "unordered"
            else OrderedQueue(self.running, size, max_bytes, config.ordering)
        )
        self.processed_queue = CompletionQueue(self.running)
        self.dlq_queue = DeadLetterQueue(self.running)
        # What waits for its row may be finished, and then counts here alone.
        self.backup_csv_queue = BackupQueue(self.running, size, max(1, max_bytes // 2))
        self.logger = self._setup_logger()

    def _setup_logger(self) -> logging.Logger:
        """Return the package's logger at ``log_level``. Handlers are the application's affair: records propagate."""
        logger = logging.getLogger(LOGGER_NAME)
        logger.setLevel(self.config.log_level)
        logger.propagate = True
        return logger

    def set_log_level(self, level: str) -> None:
        """Change the level of the package's logger. Errors: ``ConfigError`` for an unknown one."""
        check_option("log_level", level)
        self.logger.setLevel(level)

    def stop(self, reason: str = "stop() was called") -> None:
        """End the run: polling stops, queues drain. Idempotent; the first reason is kept."""
        self.lifecycle.stop(self.redactor.redact(reason), failed=False)
        self._end()

    def fail(self, reason: str) -> None:
        """End the run because of a failure: as ``stop()``, and the exit code is 1."""
        self.lifecycle.stop(self.redactor.redact(reason), failed=True)
        self.stop(reason)

    def _end(self) -> None:
        self.running.clear()
        self.shutdown_event.set()
