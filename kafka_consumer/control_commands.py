"""Carries out what comes over the control socket, in its order, in a thread of its own: a command may wait for Kafka."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from kafka_consumer.control_protocol import Command, Status
from kafka_consumer.errors import KafkaConsumerError, LostPartitionError
from kafka_consumer.snapshot import Snapshot
from kafka_consumer.types import Phase, TopicPartitionKey
from kafka_consumer.unix_socket import Peer

C = TypeVar("C")

logger = logging.getLogger(__name__)


class Controlled(Protocol):
    """What the socket needs of a consumer. Any method may be called from any thread; what can't be done is raised."""

    def snapshot(self) -> Snapshot: ...
    def stop(self, reason: str) -> None: ...
    def pause(self, partitions: Iterable[TopicPartitionKey] | None = None) -> None: ...
    def resume(self, partitions: Iterable[TopicPartitionKey] | None = None) -> None: ...
    def set_dev_mode(self, enabled: bool) -> None: ...
    def set_workers(self, count: int) -> None: ...
    def set_log_level(self, level: str) -> None: ...
    def set_rate_limit(self, per_second: float | None) -> None: ...
    def seek(self, partitions: Iterable[TopicPartitionKey], to: int | str) -> None: ...
    def redrive(self, records: Iterable[tuple[str, int, int]], per_second: float | None = None) -> str: ...


@dataclass(frozen=True, slots=True)
class Order(Generic[C]):
    """A command with who gave it. ``client`` is passed through; it isn't begun after ``deadline`` (monotonic)."""

    client: C
    peer: Peer
    command: Command
    deadline: float


class CommandThread(Generic[C]):
    """``answered(order, status, reason)`` is called once for each order, by the thread that carried it out; it must not raise."""

    def __init__(self, consumer: Controlled, answered: Callable[[Order[C], Status, str], None]) -> None:
        self._consumer = consumer
        self._answered = answered
        self._orders: queue.SimpleQueue[Order[C] | None] = queue.SimpleQueue()
        # A daemon: a command that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="control-commands", daemon=True)

    def start(self) -> None:
        """Start the thread; once."""
        self._thread.start()

    def close(self) -> None:
        """End after the orders that wait; returns at once."""
        self._orders.put(None)

    def put(self, order: Order[C]) -> None:
        """Have the thread carry it out, after those before it."""
        self._orders.put(order)

    def carry_out(self, order: Order[C]) -> None:
        """Carry it out in the calling thread, now."""
        command = order.command
        if time.monotonic() >= order.deadline:
            status, reason = Status.EXPIRED, "it expired before its turn came; nothing was done"
        else:
            status, reason = self._apply(command, order.peer)
        if status is not Status.APPLIED:
            logger.info("%s of %s: %s: %s", command.name, order.peer, status.value, reason)
        self._answered(order, status, reason)

    def _run(self) -> None:
        while (order := self._orders.get()) is not None:
            self.carry_out(order)

    def _apply(self, command: Command, peer: Peer) -> tuple[Status, str]:
        name, args = command.name, dict(command.args)
        try:
            if name == "stop":
                args["reason"] = args.get("reason") or f"stopped through the control socket ({peer})"
            else:
                obstacle = _obstacle(name, self._consumer.snapshot())
                if obstacle is not None:
                    return Status.REFUSED, obstacle
            answer = getattr(self._consumer, name)(**args)
        except TimeoutError as error:
            return Status.EXPIRED, str(error)
        except LostPartitionError as error:
            return Status.LOST_PARTITION, str(error)
        except KafkaConsumerError as error:
            return Status.REFUSED, str(error)
        except Exception as error:
            logger.exception("%s failed", name)
            # Its text is for the log: it may quote anything.
            return Status.REFUSED, f"unexpected {type(error).__name__}; see the consumer's log"
        return Status.APPLIED, answer if isinstance(answer, str) else ""


def _obstacle(name: str, snapshot: Snapshot) -> str | None:
    """Return why a command can't be carried out as things are; None when it can."""
    if name == "set_log_level":
        return None
    if snapshot.phase == Phase.STARTING:
        return "the consumer is still starting"
    if snapshot.phase in (Phase.STOPPED, Phase.FAILED):
        return "the consumer has ended"
    return None
