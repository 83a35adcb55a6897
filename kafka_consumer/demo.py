"""``--demo``: the mock cluster inside librdkafka and a producer of sample orders, all within this process.

The cluster lives as long as the producer that owns it. A partition of it keeps about 5 MB, so the producer never runs far
ahead of the consumer it feeds.
"""

from __future__ import annotations

import glob
import logging
import math
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from confluent_kafka import KafkaException, Producer

from kafka_consumer.demo_orders import SampleOrders
from kafka_consumer.errors import KafkaConsumerError
from kafka_consumer.settings import Settings
from kafka_consumer.settings_table import Source

_START_TIMEOUT_SECONDS = 15.0
_BACKLOG = 1_500
_MAX_AHEAD = 8_000
_TICK_SECONDS = 0.05
_WATCH_SECONDS = 0.1
_SLOW_FROM, _SLOW_TO = 35, 45

logger = logging.getLogger("kafka_consumer.demo")

# librdkafka announces its mock cluster as a configuration warning, which would only puzzle people.
_quiet = logging.getLogger("kafka_consumer.librdkafka.demo")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class DemoError(KafkaConsumerError, RuntimeError):
    """The demo's cluster didn't start."""


class Watched(Protocol):
    """The consumer that the demo feeds."""

    def snapshot(self) -> Any:
        """Return its state: ``phase``, and ``totals.processed`` and ``totals.failed``."""

    def stop(self, reason: str) -> None:
        """Stop it."""


class DemoCluster:
    """A one-broker cluster with a topic of four partitions that fills while the context is entered.

    With ``messages`` exactly so many are produced and a watched consumer is stopped when it has finished all of them, failed
    ones included; without, orders come at a pleasant, wavering rate, with a spell of slow ones now and then, until the exit.
    """

    def __init__(self, topic: str = "orders", messages: int | None = None, seed: int = 7) -> None:
        self.topic = topic
        self.messages = messages
        self.bootstrap = ""
        self._orders = SampleOrders(seed)  # the entering thread before the producing one starts, then that one
        self._producer: Producer | None = None  # the same
        self._closing = threading.Event()
        self._produced = 0  # written by the producing thread; an int is replaced whole, so reads need no lock
        self._undelivered = 0  # the same: delivery reports arrive within its poll()
        self._finished = 0  # written by the watching thread
        self._threads: list[threading.Thread] = []  # the entering thread

    @property
    def produced(self) -> int:
        """Messages produced so far."""
        return self._produced

    def __enter__(self) -> Self:
        """Start the cluster and produce the first message. Errors: ``DemoError``."""
        try:
            producer = self._producer = Producer(
                {"test.mock.num.brokers": 1, "bootstrap.servers": "demo", "linger.ms": 5, "client.id": "kc-demo"}, logger=_quiet
            )
            brokers = producer.list_topics(timeout=_START_TIMEOUT_SECONDS).brokers
            self.bootstrap = ",".join(f"{broker.host}:{broker.port}" for broker in brokers.values())
            # The topic appears with its first message: after this a consumer finds it.
            self._produce_one(producer, time.monotonic())
            waiting = producer.flush(_START_TIMEOUT_SECONDS)
        except KafkaException as error:
            raise DemoError(f"the demo's cluster didn't start: {error.args[0].str()}") from error
        if waiting or self._undelivered:
            raise DemoError("the demo's cluster didn't take the first message")
        self._start(lambda: self._produce(producer), "kc-demo-producer")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the producer, and with it the cluster."""
        self._closing.set()
        for thread in self._threads:
            thread.join(5.0)
        self._producer = None

    def watch(self, consumer: Watched) -> None:
        """Keep pace with the consumer, and stop it when the number of messages asked for is finished."""
        self._start(lambda: self._watch(consumer), "kc-demo-watch")

    def _start(self, target: Any, name: str) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _watch(self, consumer: Watched) -> None:
        while not self._closing.wait(_WATCH_SECONDS):
            snapshot = consumer.snapshot()
            self._finished = snapshot.totals.processed + snapshot.totals.failed
            if self.messages is not None and self._finished >= self.messages:
                consumer.stop(f"all {self.messages} messages of the demo are finished")
                return
            if snapshot.phase in ("stopped", "failed"):
                return

    def _produce(self, producer: Producer) -> None:
        start = time.monotonic()
        due = float(_BACKLOG)
        last = start
        while not self._closing.wait(_TICK_SECONDS):
            now = time.monotonic()
            due += self._rate(now - start) * (now - last)
            last = now
            target = int(due) if self.messages is None else self.messages
            target = min(target, self._finished + _MAX_AHEAD)
            while self._produced < target and not self._closing.is_set():
                self._produce_one(producer, start)
            if self._produced >= target:
                # What couldn't be produced while the consumer was behind isn't made up for in one burst later.
                due = min(due, self._produced + 1.0)
            producer.poll(0)

    @staticmethod
    def _rate(seconds: float) -> float:
        """Return orders a second: a slow wave around 220."""
        return 220 * (1 + 0.5 * math.sin(2 * math.pi * seconds / 40))

    def _produce_one(self, producer: Producer, start: float) -> None:
        # Ten slow seconds in each minute, so that lag grows and falls while somebody looks.
        slow = self.messages is None and _SLOW_FROM <= (time.monotonic() - start) % 60 < _SLOW_TO
        message = self._orders.next(slow=slow)
        while not self._closing.is_set():
            try:
                producer.produce(
                    self.topic, value=message.value, key=message.key, headers=list(message.headers), on_delivery=self._delivered
                )
            except BufferError:
                producer.poll(0.1)
            else:
                self._produced += 1
                return

    def _delivered(self, error: Any, _message: Any) -> None:
        if error is not None:
            self._undelivered += 1
            logger.error("the demo couldn't produce a message: %s", error)


@contextmanager
def demo_session(settings: Settings) -> Iterator[tuple[Settings, DemoCluster | None]]:
    """Run what ``settings`` ask for: yield them completed with the demo's servers and paths, and its cluster.

    Without ``--demo`` they are yielded as they are, with None. Paths that nobody gave lie in a new temporary folder, which
    stays, so that its files can be looked at. Errors: ``DemoError``.
    """
    if not settings.demo:
        yield settings, None
        return
    filled: dict[str, Any] = {}
    folder: Path | None = None
    unset = [key for key in ("backup_path", "dlq_path") if settings.origins[key].source is Source.DEFAULT]
    if unset:
        folder = Path(tempfile.mkdtemp(prefix="kc-demo-"))
        filled = {key: str(folder / settings[key]) for key in unset}
    try:
        with DemoCluster(settings["topic"], settings["demo_messages"]) as cluster:
            yield settings.with_values(bootstrap_servers=cluster.bootstrap, **filled), cluster
    finally:
        if folder is not None:
            # Succeeds only where nothing was written, as for a mere check.
            with suppress(OSError):
                folder.rmdir()


def demo_files(settings: Settings) -> list[str]:
    """Return the backup and dead-letter files that exist, for the line at the end of a demo."""
    found = []
    for key in ("backup_path", "dlq_path"):
        base = Path(settings[key])
        pattern = f"{glob.escape(base.stem)}_*_hour_*{glob.escape(base.suffix)}"
        found += sorted(str(path) for path in base.parent.glob(pattern))
    return found
