"""A command on its way to a consumer, and how it ended."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tui.clock import Clock
from tui.text import clean

EXPIRES_AFTER_SECONDS = 30.0
"""A command nobody answered by then has expired: the screen never shows "requested" for ever."""


class CommandState(StrEnum):
    """The way of a command. The last four are final, but a late answer still replaces ``EXPIRED``."""

    REQUESTED = "requested"
    ACCEPTED = "accepted"
    APPLIED = "applied"
    REFUSED = "refused"
    LOST_PARTITION = "lost_partition"
    EXPIRED = "expired"


FINAL = frozenset({CommandState.APPLIED, CommandState.REFUSED, CommandState.LOST_PARTITION, CommandState.EXPIRED})


@dataclass(frozen=True, slots=True)
class CommandView:
    """A command at one moment. Times are seconds since the epoch; ``seconds`` is how long it took or has taken."""

    id: str
    command: str
    summary: str
    who: str
    requested_at: float
    state: CommandState
    reason: str
    seconds: float

    @property
    def final(self) -> bool:
        """Whether it has ended."""
        return self.state in FINAL


class CommandHandle:
    """One command. Written by the feed's threads, read by the screen; every access holds its lock, which guards no I/O."""

    def __init__(self, identity: str, command: str, args: Mapping[str, Any], *, summary: str, who: str, clock: Clock) -> None:
        self.id = identity
        self.command = command
        self.args = dict(args)
        self._clock = clock
        self._summary = clean(summary, 200)
        self._who = clean(who, 100)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._requested_at = clock.time()
        self._started = clock.monotonic()
        self._took: float | None = None
        self._state = CommandState.REQUESTED
        self._reason = ""

    def advance(self, state: CommandState, reason: str = "") -> None:
        """Move on to ``state``; ignored when the command has already ended otherwise than by expiring."""
        with self._lock:
            if self._state in FINAL and self._state is not CommandState.EXPIRED:
                return
            if self._state is CommandState.EXPIRED and state not in FINAL:
                return
            if state is CommandState.REQUESTED:
                return
            late = self._state is CommandState.EXPIRED and state is not CommandState.EXPIRED
            self._state = state
            self._reason = clean(("late: " + reason if reason else "late") if late else reason, 500)
            if state in FINAL:
                self._took = self._clock.monotonic() - self._started
        if state in FINAL:
            self._ended.set()

    def expire_if_due(self) -> None:
        """Expire when no answer came in ``EXPIRES_AFTER_SECONDS``."""
        with self._lock:
            waited = self._clock.monotonic() - self._started
            due = self._state not in FINAL and waited >= EXPIRES_AFTER_SECONDS
        if due:
            self.advance(CommandState.EXPIRED, f"no answer within {EXPIRES_AFTER_SECONDS:.0f} s; it may still happen")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it ended; for tests and scripts, never for the screen."""
        return self._ended.wait(timeout)

    def view(self) -> CommandView:
        """Return what to show."""
        with self._lock:
            took = self._took if self._took is not None else self._clock.monotonic() - self._started
            return CommandView(
                self.id, self.command, self._summary, self._who, self._requested_at, self._state, self._reason, took
            )
