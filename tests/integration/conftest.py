"""A whole consumer on the fake broker, ended at the end of each test."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kafka_consumer import KafkaConsumer
from tests.fakes import FakeBroker, FakeConsumer
from tests.helpers import PATIENCE_SECONDS, eventually, make_config, read_rows

TOPIC = "test-topic"
GROUP = "test-group"


class Gate:
    """A processor that holds each message until it is let go; ``begun`` and ``done`` are the values, in their order."""

    def __init__(self) -> None:
        self.begun: list[bytes | None] = []
        self.done: list[bytes | None] = []
        self.open = threading.Event()
        self._passes = threading.Semaphore(0)

    def __call__(self, value: bytes | None) -> None:
        self.begun.append(value)
        while not self.open.is_set() and not self._passes.acquire(timeout=0.005):
            pass
        self.done.append(value)

    def let_go(self, count: int = 1) -> None:
        """Let that many messages end."""
        self._passes.release(count)


class Life:
    """A ``KafkaConsumer`` on a fake broker, and what a test asks about it."""

    def __init__(self, consumer: KafkaConsumer, client: FakeConsumer, broker: FakeBroker) -> None:
        self.consumer = consumer
        self.client = client
        self.broker = broker

    @property
    def state(self) -> Any:
        return self.consumer.shared_state

    def committed(self, partition: int = 0) -> int | None:
        """Return Kafka's next offset as the broker has it."""
        return self.broker.committed(GROUP, TOPIC, partition)

    def wait_committed(self, offset: int, partition: int = 0) -> None:
        """Return when exactly this is committed."""
        eventually(lambda: self.committed(partition) == offset, what=f"a commit of {offset} (it is {self.committed(partition)})")

    def wait_assigned(self, *partitions: int) -> None:
        """Return when these partitions, and only these, are ours."""
        wanted = [(TOPIC, partition) for partition in partitions]
        eventually(lambda: sorted(self._open()) == wanted, what=f"the assignment of {partitions}")

    def _open(self) -> list[tuple[str, int]]:
        poller = self.consumer._poller
        return [] if poller is None else list(poller.partitions.open)

    def dead_letters(self) -> list[dict[str, str]]:
        """Return the rows on disk."""
        return read_rows(self.consumer.config.dlq_path)

    def backup(self) -> list[dict[str, str]]:
        """Return the rows on disk."""
        return read_rows(self.consumer.config.backup_path)

    def end(self) -> int | None:
        """Stop, wait for the end, and return the exit code."""
        self.consumer.stop()
        return self.wait_end()

    def wait_end(self) -> int | None:
        """Wait for the end, and return the exit code."""
        assert self.consumer.join(PATIENCE_SECONDS), "expected the consumer to end"
        return self.consumer.exit_code


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A processor that waits; opened at the end."""
    found = Gate()
    yield found
    found.open.set()


@pytest.fixture
def broker() -> FakeBroker:
    """A broker with the topic, of three partitions."""
    return FakeBroker({TOPIC: 3})


@pytest.fixture
def live(tmp_path: Path, broker: FakeBroker) -> Iterator[Callable[..., Life]]:
    """Return a function that builds a consumer; keyword arguments are options. Started unless ``start=False``.

    A client that is given commits at once; ``asynchronous=True`` has it commit as one that the consumer builds for itself: the
    answer comes in a later poll.
    """
    lives: list[Life] = []

    def build(
        *, start: bool = True, client: FakeConsumer | None = None, asynchronous: bool = False, **options: Any
    ) -> Life:
        number = len(lives)
        folder = tmp_path / f"files-{number}"
        folder.mkdir()
        config = make_config(folder, **{"log_level": "DEBUG", **options})
        fake = FakeConsumer(broker, GROUP) if client is None else client
        life = Life(KafkaConsumer(config, consumer=fake), fake, broker)
        if asynchronous:
            life.consumer._client._asynchronous = True
            fake._on_commit = life.consumer._client._on_commit
        lives.append(life)
        if start:
            life.consumer.start()
        return life

    yield build
    for life in lives:
        processor = life.consumer.config.processor_callable
        if isinstance(processor, Gate):
            processor.open.set()
        life.consumer.stop("the test has ended")
    for life in lives:
        if life.consumer._threads:
            assert life.consumer.join(PATIENCE_SECONDS), "expected the consumer to end with its test"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[..., list[str]]:
    """Return a function that returns the messages logged so far, at least as severe as ``level``."""

    def messages(level: int = logging.DEBUG) -> list[str]:
        return [record.getMessage() for record in list(caplog.records) if record.levelno >= level]

    return messages
