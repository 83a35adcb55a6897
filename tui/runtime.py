"""Runs the console to its end: signals, a lost terminal, a crash of the screen, a consumer that ends by itself.

In one process with the consumer, whatever ends the console drains the consumer, and the exit code is the consumer's. Attached,
whatever ends the console ends the console alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TextIO, cast

from textual.driver import Driver

from kafka_consumer.logs import PlainFormatter
from kafka_consumer.snapshot import Snapshot
from tui.app import ConsoleApp
from tui.feed import Feed, FeedBase, LocalFeed
from tui.several import make_app
from tui.terminal import ConsoleDriver, Output, own_terminal

EXIT_OK = 0
EXIT_FAILURE = 1
GRACE_SECONDS = 5.0
"""How long the screen may take to end once it was told to; then the process ends without it."""
SHOWN_LINES = 20
GARBAGE = 10_000
"""Objects made, and not ended, until the youngest are looked through for garbage; Python's own is 700."""

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name))


class Consumer(Protocol):
    """A consumer that the console runs in its own process."""

    exit_code: int | None

    def start(self) -> None: ...
    def stop(self, reason: str) -> None: ...
    def join(self, timeout: float | None = None) -> bool: ...
    def snapshot(self) -> Snapshot: ...


class Session:
    """One run of the console. Signals arrive in a queue that a thread reads: a handler may do no more."""

    def __init__(self, feeds: Sequence[Feed], consumer: Consumer | None, *, theme: str | None, output: Output) -> None:
        self._feeds = feeds
        self._consumer = consumer
        self._output = output
        self._theme = theme
        # Reentrant, so a signal handler may put into it.
        self._signals: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leaving = threading.Event()
        self._left = threading.Event()
        self._code = EXIT_OK
        self.app: ConsoleApp | None = None
        self.lost_terminal = False
        self.asked_to_stop = False
        """Whether a signal has asked the consumer to stop."""
        self._driver: ConsoleDriver | None = None
        self._thresholds: tuple[int, int, int] | None = None

    def run(self) -> int:
        """Run the screen until it ends; return 1 when it crashed, else what it was told to end with."""
        # The driver is made by the application; this is how it is found again.
        app = self.app = make_app(
            self._feeds, theme=self._theme, driver_class=cast("type[Driver]", ConsoleDriver), on_mounted=self._mounted,
            may_draw=self._may_draw, output=cast("TextIO", self._output),
        )  # fmt: skip
        self._spawn(self._guard_the_end, "kc-console-guard")
        if self._consumer is not None:
            self._spawn(self._watch_consumer, "kc-console-watch")
        try:
            app.run()
        finally:
            gc.unfreeze()
            if self._thresholds is not None:
                gc.set_threshold(*self._thresholds)
            self._left.set()
            self._leaving.set()
        return EXIT_FAILURE if app.crash is not None else app.return_code or self._code

    @property
    def stuck(self) -> bool:
        """Whether the terminal takes nothing: who prints to it now waits for ever."""
        return self._driver is not None and self._driver.stuck

    @property
    def speechless(self) -> bool:
        """Whether nothing can be printed after the screen: the terminal is gone or takes nothing."""
        return self.lost_terminal or self.stuck

    def leave(self, code: int = EXIT_OK) -> None:
        """Have the screen end; any thread."""
        self._code = code
        self._leaving.set()
        loop, app = self._loop, self.app
        if loop is not None and app is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(app.end, code)

    def _mounted(self) -> None:
        self._loop = asyncio.get_running_loop()
        # A full collection stops every thread while it visits all that the imports made, 60 ms and more, and finds nothing:
        # what is here by now stays to the end. With it set aside, one takes a few milliseconds.
        gc.collect()
        gc.freeze()
        # A snapshot is thousands of objects that replace as many: by the usual thresholds each one has everything of the last
        # seconds visited, several times, to find nothing.
        self._thresholds = gc.get_threshold()
        if 0 < self._thresholds[0] < GARBAGE:
            gc.set_threshold(GARBAGE, *self._thresholds[1:])
        if self._leaving.is_set() and self.app is not None:
            self.app.end(self._code)

    def _may_draw(self) -> bool:
        """Notice a lost terminal and end; skip what a stalled one wouldn't take."""
        driver = self.app._driver if self.app is not None else None  # noqa: SLF001 - it has no public face
        if not isinstance(driver, ConsoleDriver):
            return True
        self._driver = driver
        if driver.lost:
            if not self.lost_terminal:
                self._signals.put(signal.SIGHUP)
            self.lost_terminal = True
            return False
        if driver.stalled:
            return False
        if driver.behind and self.app is not None:
            driver.behind = False
            self.app.refresh(layout=True)
        return True

    # Threads

    def _spawn(self, target: Callable[[], None], name: str) -> None:
        threading.Thread(target=target, name=name, daemon=True).start()

    def _watch_signals(self) -> None:
        while (number := self._signals.get()) is not None:
            name = signal.Signals(number).name
            hangup = name == "SIGHUP"
            self.lost_terminal = self.lost_terminal or hangup
            if self._consumer is None:
                self.leave(EXIT_OK)
                continue
            self.asked_to_stop = True
            self._consumer.stop("the terminal was lost" if hangup else f"stopped by {name}")
            if hangup:
                # Nobody sees the screen any more; the drain goes on without it.
                self.leave(EXIT_OK)

    def _watch_consumer(self) -> None:
        consumer = self._consumer
        if consumer is not None:
            consumer.join()
            self.leave(consumer.exit_code if consumer.exit_code is not None else EXIT_FAILURE)

    def _guard_the_end(self) -> None:
        """A screen that doesn't end within its grace (a terminal that takes nothing) must not keep the process."""
        self._leaving.wait()
        if self._left.wait(GRACE_SECONDS):
            return
        if self._consumer is not None:
            self._consumer.join()
        if not self._left.wait(0.1):
            code = self._consumer.exit_code if self._consumer is not None else EXIT_OK
            os._exit(EXIT_FAILURE if code is None else code)

    @contextlib.contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Take SIGTERM, SIGINT and SIGHUP from here on, before the screen, under it and after it."""
        self._spawn(self._watch_signals, "kc-console-signals")
        before = {number: signal.signal(number, lambda received, _: self._signals.put(received)) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
            self._signals.put(None)


class _Keeping(logging.Handler):
    """Keeps the log's last lines while the console is up, where stderr is the terminal."""

    def __init__(self, output: Output) -> None:
        super().__init__()
        self._output = output
        self.setFormatter(PlainFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record."""
        try:
            self._output.write(self.format(record) + "\n")
        except Exception:  # noqa: BLE001 - as every handler does
            self.handleError(record)


def run_attached(*feeds: FeedBase, theme: str | None = None) -> int:
    """Show a running consumer, or several, until the operator detaches; return the exit code."""
    output = Output()
    typed = [cast("Feed", feed) for feed in feeds]
    for feed in typed:
        feed.start()
    try:
        session = Session(typed, None, theme=theme, output=output)
        with session.handling_signals(), own_terminal(output):
            code = session.run()
    finally:
        for feed in typed:
            feed.close()
    if session.stuck:
        os._exit(code)
    if not session.speechless:
        _say(output, code)
    return code


def run_in_process(
    consumer: Consumer,
    *,
    read_only: bool = False,
    theme: str | None = None,
    start_logging: Callable[[], object] | None = None,
) -> int:
    """Run a consumer under the console; return the consumer's exit code, or 1 when the screen crashed.

    ``start_logging`` sends the log to stderr: called first where stderr isn't the terminal, else once the screen is gone.
    Errors: whatever ``consumer.start()`` raises.
    """
    output = Output()
    feed = LocalFeed(consumer, read_only=read_only)
    session = Session([feed], consumer, theme=theme, output=output)
    with session.handling_signals(), _log_kept_from_the_screen(output, start_logging) as kept:
        consumer.start()
        feed.start()
        with own_terminal(output):
            code = session.run()
        feed.close()
        kept.let_go(speak=not session.speechless)
        crashed = session.app is not None and session.app.crash is not None
        if not session.speechless:
            _say(output, code)
        reason = None if session.asked_to_stop else "the console crashed" if crashed else "the console ended"
        ended = _drain(consumer, reason, speechless=session.speechless) or (EXIT_FAILURE if crashed else EXIT_OK)
    if session.stuck:
        # Whatever came after might print.
        os._exit(ended)
    return ended


class _Log:
    """Where the log goes: into the kept lines while stderr is the screen, to stderr afterwards."""

    def __init__(self, keeping: _Keeping | None, start_logging: Callable[[], object] | None) -> None:
        self._keeping = keeping
        self._start_logging = start_logging

    def let_go(self, *, speak: bool) -> None:
        """The screen is gone: send the log to stderr when somebody reads it there."""
        if self._keeping is not None:
            logging.getLogger().removeHandler(self._keeping)
            if self._start_logging is not None and speak:
                self._start_logging()
            self._keeping = None


@contextlib.contextmanager
def _log_kept_from_the_screen(output: Output, start_logging: Callable[[], object] | None) -> Iterator[_Log]:
    keeping: _Keeping | None = None
    if start_logging is not None and not sys.stderr.isatty():
        start_logging()
    else:
        keeping = _Keeping(output)
        logging.getLogger().addHandler(keeping)
    log = _Log(keeping, start_logging)
    try:
        yield log
    finally:
        log.let_go(speak=False)


def _drain(consumer: Consumer, reason: str | None, *, speechless: bool) -> int:
    """Wait for the consumer's end without a screen, after asking for it unless that was done."""
    if not consumer.join(0):
        if reason is not None:
            consumer.stop(reason)
        if not speechless:
            _print("draining; the console is gone, the consumer finishes what it has")
        while not consumer.join(0.5):
            # In slices, so that signals are taken meanwhile.
            pass
    return consumer.exit_code if consumer.exit_code is not None else EXIT_FAILURE


def _say(output: Output, code: int) -> None:
    """Print what was said while the screen was up: the end of it, more when something went wrong."""
    lines = output.lines()
    shown = lines[-(SHOWN_LINES if code == EXIT_OK else len(lines)) :] if lines else []
    if shown:
        _print("\n".join(shown))


def _print(text: str) -> None:
    # The terminal may be gone.
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - the screen is gone, this is the command line again
