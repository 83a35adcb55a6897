"""What systemd is told about a consumer that it runs (``Type=notify``): that it is ready, alive, what it does, that it stops.

    with notifying(consumer):
        consumer.run()

One datagram a message over the socket in ``$NOTIFY_SOCKET``; without that variable nothing happens. ``READY=1`` is sent once the
loops run. With ``WatchdogSec=`` a thread sends ``WATCHDOG=1`` three times in that period, as long as the polling and the commit
thread turn: when one hangs it falls silent, and systemd kills and restarts the process. A broker that is away isn't a hang.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator, MutableMapping
from typing import Any, Protocol

from kafka_consumer.snapshot import sanitise
from kafka_consumer.types import Phase

STATUS_SECONDS = 10.0  # between two STATUS= lines
LOOK_SECONDS = 0.1  # how soon a change of phase is told

logger = logging.getLogger("kafka_consumer.systemd")


class Watched(Protocol):
    """The consumer that is told about."""

    shared_state: Any

    def silent(self) -> str | None:
        """Say which loop hangs; None while all beat."""


class Notifier:
    """Sends messages to the socket that ``environ`` names, and takes its name away: child processes aren't the service."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        self._address = environ.pop("NOTIFY_SOCKET", "")
        watchdog, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        mine = not pid or pid == str(os.getpid())
        self.watchdog_seconds = int(watchdog) / 1e6 if mine and watchdog.isascii() and watchdog.isdigit() else 0.0
        self._failed = False

    @property
    def wanted(self) -> bool:
        """Whether anybody listens."""
        return self._address.startswith(("/", "@"))

    def send(self, *lines: str) -> None:
        """Send a message; one that can't be sent is logged once. Never blocks."""
        # A name that begins with @ is in Linux's abstract namespace, where it begins with NUL.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_NONBLOCK", 0)) as sender:
                sender.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            if not self._failed:
                logger.warning("systemd can't be told (NOTIFY_SOCKET): %s", error)
            self._failed = True


@contextlib.contextmanager
def notifying(consumer: Watched, environ: MutableMapping[str, str] = os.environ) -> Iterator[None]:
    """Tell systemd about the consumer from a thread of its own while the context is entered."""
    notifier = Notifier(environ)
    if not notifier.wanted:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_tell, args=(notifier, consumer, ended), name="systemd", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(2 * LOOK_SECONDS + 1)
        notifier.send("STOPPING=1", f"STATUS={_status(consumer)}")


def _tell(notifier: Notifier, consumer: Watched, ended: threading.Event) -> None:
    ready = stopping = False
    beat_every = notifier.watchdog_seconds / 3
    beat_due = status_due = time.monotonic()
    said: str | None = None
    while not ended.wait(LOOK_SECONDS if not beat_every else min(LOOK_SECONDS, beat_every)):
        now = time.monotonic()
        phase = consumer.shared_state.lifecycle.phase
        if not ready and phase is not Phase.STARTING:
            notifier.send("READY=1", f"STATUS={_status(consumer)}")
            ready = True
        # A signal is what clears `running`; the phase follows when polling has noticed.
        if not stopping and not consumer.shared_state.running.is_set():
            notifier.send("STOPPING=1", f"STATUS={_status(consumer)}")
            stopping = True
        hung = consumer.silent()
        if hung is not None and said is None:
            logger.critical("%s: systemd's watchdog gets no more signs of life", hung)
        said = hung
        if beat_every and now >= beat_due and hung is None:
            notifier.send("WATCHDOG=1")
            beat_due = now + beat_every
        if ready and now >= status_due:
            notifier.send(f"STATUS={hung or _status(consumer)}")
            status_due = now + STATUS_SECONDS


def _status(consumer: Watched) -> str:
    """Return a line for ``systemctl status``: the phase, why it ends, and the counts."""
    state = consumer.shared_state
    counters, lifecycle = state.counters, state.lifecycle
    draining = lifecycle.phase is Phase.RUNNING and not state.running.is_set()
    phase = Phase.DRAINING if draining else lifecycle.phase
    why = f" ({lifecycle.stop_reason})" if lifecycle.stop_reason else ""
    counts = f"{counters.processed:,} processed, {counters.failed:,} failed, {counters.committed:,} committed"
    return sanitise(f"{phase}{why}: {counts}", 300)
