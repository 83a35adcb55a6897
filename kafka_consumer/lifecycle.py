"""The phase of a consumer: one way, and remembered why it ended."""

from __future__ import annotations

import threading

from kafka_consumer.types import Phase

_ORDER = {Phase.STARTING: 0, Phase.RUNNING: 1, Phase.DRAINING: 2, Phase.STOPPED: 3, Phase.FAILED: 3}


class Lifecycle:
    """The phase and the first reason to stop. Any thread may write, under the lock; reads need none (single fields)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.phase = Phase.STARTING
        self.stop_reason: str | None = None
        self.failed = False

    def advance(self, phase: Phase) -> bool:
        """Go to a later phase; returns False when it was reached or passed already."""
        with self._lock:
            if _ORDER[phase] <= _ORDER[self.phase]:
                return False
            self.phase = phase
            return True

    def stop(self, reason: str, *, failed: bool) -> bool:
        """Remember why it ends; a failure outweighs an earlier ordinary reason. Returns True for the first call."""
        with self._lock:
            first = self.stop_reason is None
            if first or (failed and not self.failed):
                self.stop_reason = reason
            self.failed = self.failed or failed
            return first
