"""From a signal to a callback, without a way to deadlock.

Python runs a signal handler inside the main thread, between any two instructions: also while that thread holds the lock of an
event, of a queue or of the logging module. A handler that touches one of those may wait for itself for ever. So the handler
only starts a thread that does the work, and waits for it a moment: usually all is done when it returns; if the thread needs
a lock that the main thread holds, the handler gives way and the thread goes on.
"""

from __future__ import annotations

import itertools
import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

logger = logging.getLogger(__name__)

HANDED_OFF_SECONDS = 0.25  # how long the handler waits for the thread it started

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))


class SignalHandler:
    """The first SIGTERM, SIGINT or SIGHUP sets ``shutdown_event`` and calls ``callback`` once; later ones are only logged.

    ``original_handlers`` maps each signal to the handler that ``register()`` replaced. ``register()`` must be called in the main
    thread (``ValueError`` otherwise, from Python).
    """

    def __init__(self, callback: Callable[[], Any] | None = None) -> None:
        self.callback = callback
        self.shutdown_event = threading.Event()
        self.original_handlers: dict[int, Any] = {}
        # next() on a count is one atomic step: of several signals exactly one sees 0.
        self._signals = itertools.count()
        self._registered = False

    def register(self) -> None:
        """Install the handlers and remember what they replace. A signal that the parent process ignores stays ignored (nohup)."""
        for signum in SIGNALS:
            if signum == getattr(signal, "SIGHUP", None) and signal.getsignal(signum) is signal.SIG_IGN:
                continue
            self.original_handlers[signum] = signal.signal(signum, self._handle_signal)
        self._registered = True

    def restore(self) -> None:
        """Put the original handlers back; does nothing when they are."""
        if not self._registered:
            return
        for signum, handler in self.original_handlers.items():
            # None: it was installed by something other than Python and can't be put back.
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        self._registered = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the first signal; returns False when ``timeout`` seconds passed without one."""
        return self.shutdown_event.wait(timeout)

    def _handle_signal(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the form Python wants
        first = next(self._signals) == 0
        thread = threading.Thread(target=self._react, args=(signum, first), name="signal", daemon=True)
        thread.start()
        thread.join(HANDED_OFF_SECONDS)

    def _react(self, signum: int, first: bool) -> None:
        name = signal.Signals(signum).name
        if not first:
            logger.info("%s received again: already shutting down", name)
            return
        self.shutdown_event.set()
        logger.info("%s received: shutting down", name)
        if self.callback is None:
            return
        try:
            self.callback()
        except Exception:
            logger.exception("the shutdown callback failed")
