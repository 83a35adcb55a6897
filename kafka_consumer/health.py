"""Whether a consumer lives and whether it is ready, for whoever restarts it and routes around it. Any thread may ask.

*Alive*: the polling and the commit thread move. What a restart mends, and nothing else: no broker, a slow processor, a full disk
don't make it dead. *Ready*: it runs, the group knows it, and what it has to record can be recorded.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from kafka_consumer.types import Phase

if TYPE_CHECKING:
    from kafka_consumer.config import KafkaConsumerConfig
    from kafka_consumer.shared_state import SharedState


class Watched(Protocol):
    """What is asked: a ``KafkaConsumer``."""

    @property
    def config(self) -> KafkaConsumerConfig: ...
    @property
    def shared_state(self) -> SharedState: ...
    @property
    def in_group(self) -> bool: ...
    def silent(self) -> str | None: ...


def not_live(consumer: Watched) -> str | None:
    """Return why the consumer is to be restarted, or None: a loop hangs, while it neither starts nor drains."""
    return consumer.silent()


def not_ready(consumer: Watched) -> str | None:
    """Return why the consumer does no work right now, or None."""
    lifecycle = consumer.shared_state.lifecycle
    if lifecycle.failed or lifecycle.phase is Phase.FAILED:
        return f"failed: {lifecycle.stop_reason}"
    if not consumer.shared_state.running.is_set() or lifecycle.phase is not Phase.RUNNING:
        return f"{'draining' if lifecycle.phase is Phase.RUNNING else lifecycle.phase.value}"
    if not consumer.in_group:
        return "not in the group (yet): no assignment has come, not even an empty one"
    paths = [("dlq_path", consumer.config.dlq_path)]
    if consumer.config.backup_mode != "off":
        paths.append(("backup_path", consumer.config.backup_path))
    return next((reason for name, path in paths if (reason := _unwritable(name, path)) is not None), not_live(consumer))


def _unwritable(name: str, path: str) -> str | None:
    folder = os.path.dirname(os.path.abspath(path))
    try:
        if not os.access(folder, os.W_OK | os.X_OK):
            return f"the folder of {name} can't be written"
        if os.statvfs(folder).f_bavail == 0:
            return f"no space left on the disk of {name}"
    except OSError as error:
        return f"the folder of {name}: {error.strerror}"
    return None
