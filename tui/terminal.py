"""The terminal under the console: what is printed meanwhile is kept, a lost terminal is noticed, the screen is given back.

Textual draws on stderr and blocks its event loop when the terminal takes no more; a lost one leaves it spinning or waiting for
ever. The driver here drops what can't be written, tells so, and lets the caller end.
"""

from __future__ import annotations

import contextlib
import io
import os
import queue
import select
import sys
import termios
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any, cast

from rich.text import Text
from textual.app import App
from textual.drivers.linux_driver import LinuxDriver

from tui.text import clean

KEPT_LINES = 200
STALL_SECONDS = 0.5
BUSY_WRITES = 8
RESTORE = "\x1b[?2004l\x1b[?7h\x1b[?1000l\x1b[?1003l\x1b[?1015l\x1b[?1006l\x1b[?1004l\x1b[<u\x1b[?25h\x1b[0m"
LEAVE_ALTERNATE = "\x1b[?1049l"


class Output(io.TextIOBase):
    """What is printed while the console owns the terminal: the last lines, clean. Any thread may write."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._rest = ""

    def writable(self) -> bool:
        """Return True."""
        return True

    def isatty(self) -> bool:
        """Return False."""
        return False

    def write(self, text: str) -> int:
        """Keep the text's lines."""
        with self._lock:
            *lines, rest = (self._rest + text).split("\n")
            self._rest = rest[-4000:]
            self._lines.extend(clean(line.rstrip("\r"), 2_000) for line in lines[-KEPT_LINES:])
        return len(text)

    def lines(self) -> list[str]:
        """Return the lines kept, the unfinished one included."""
        with self._lock:
            return [*self._lines, *([clean(self._rest, 2_000)] if self._rest else [])]


class Screen:
    """The descriptor that the driver draws on. Written by Textual's output thread; ``lost`` is read by others.

    Unbuffered: a buffer's lock, held by a write that the terminal doesn't take, would block whoever closes it.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.lost = False

    def write(self, text: str) -> None:
        """Write all of it, however long the terminal takes."""
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        while data and not self.lost:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                # Another process made the terminal non-blocking.
                select.select([], [self._fd], [], 1.0)
            except (OSError, ValueError):
                self.lost = True

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd


class ConsoleDriver(LinuxDriver):
    """Textual's driver for a terminal that may stall or vanish. ``screen_fd`` is where it draws: set by ``own_terminal``."""

    screen_fd: int | None = None

    def __init__(self, app: App[Any], *, debug: bool = False, mouse: bool = True, size: tuple[int, int] | None = None) -> None:
        super().__init__(app, debug=debug, mouse=mouse, size=size)
        self._screen = Screen(2 if self.screen_fd is None else self.screen_fd)
        self._file = cast("Any", self._screen)
        self._input_lost = False
        self.behind = False
        """Whether something wasn't drawn: the whole screen has to be, once the terminal takes text again."""
        self.stuck = False
        """Whether the terminal took nothing to the very end: who prints to it now waits for ever."""

    def _get_terminal_size(self) -> tuple[int, int]:
        # Textual asks stdout, which is a pipe here.
        try:
            width, height = os.get_terminal_size(self.fileno)
        except OSError:
            return super()._get_terminal_size()
        return width or 80, height or 24

    @property
    def lost(self) -> bool:
        """Whether the terminal is gone."""
        if self._screen.lost or self._input_lost:
            return True
        try:
            termios.tcgetattr(self.fileno)
        except termios.error:
            return True
        return False

    @property
    def stalled(self) -> bool:
        """Whether the terminal doesn't take what was already written."""
        thread = self._writer_thread
        return thread is not None and thread._queue.qsize() > BUSY_WRITES  # noqa: SLF001 - it has no public face

    def write(self, data: str) -> None:
        """Hand text to the output thread; what it can't take within half a second is dropped."""
        thread = self._writer_thread
        if thread is None or not thread.is_alive() or self._screen.lost:
            return
        try:
            thread._queue.put(data, timeout=0 if self.behind else STALL_SECONDS)  # noqa: SLF001
        except queue.Full:
            self.behind = True

    def close(self) -> None:
        """End the output thread; a stalled terminal is given two seconds."""
        thread = self._writer_thread
        if thread is None:
            return
        with contextlib.suppress(queue.Full):
            thread._queue.put(None, timeout=STALL_SECONDS)  # noqa: SLF001
        thread.join(2.0)
        self.stuck = thread.is_alive()

    def _run_input_thread(self) -> None:
        try:
            self.run_input_thread()
        except OSError:
            self._input_lost = True
        except Exception as error:  # noqa: BLE001
            # Textual would print the values of variables here.
            self._app.call_later(self._app.panic, Text(f"reading the keyboard failed: {type(error).__name__}"))


@contextlib.contextmanager
def own_terminal(output: Output) -> Iterator[None]:
    """Keep what anybody writes to stdout and stderr from the screen, below Python too, and give the terminal back at the end.

    The driver draws on a descriptor of its own. A stream that isn't the terminal (``2> kc.log``) is left alone.
    """
    out, err = sys.__stdout__, sys.__stderr__
    if out is None or err is None:
        raise OSError("expected stdout and stderr to be open")
    for stream in (out, err):
        stream.flush()
    redirected = [fd for fd in (1, 2) if os.isatty(fd)]
    if not redirected:
        raise OSError("expected stdout or stderr to be a terminal")
    saved = {fd: os.dup(fd) for fd in redirected}
    attributes = _attributes(0)
    screen = os.dup(saved[redirected[-1]])
    reading, writing = os.pipe()
    reader = threading.Thread(target=_keep, args=(reading, output), name="kc-console-output", daemon=True)
    reader.start()
    for fd in redirected:
        os.dup2(writing, fd)
    os.close(writing)
    ConsoleDriver.screen_fd = screen
    try:
        yield
    finally:
        ConsoleDriver.screen_fd = None
        for stream in (out, err):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        for fd, original in saved.items():
            os.dup2(original, fd)
            os.close(original)
        # A child process may hold the pipe open: its end isn't waited for.
        reader.join(0.5)
        give_back(0, attributes, screen)
        os.close(screen)


def give_back(keyboard: int, attributes: list[Any] | None, screen: int, *, alternate: bool = False) -> None:
    """Undo every mode of the terminal that the console sets; harmless when it is undone already, or the terminal is gone."""
    sequence = ((LEAVE_ALTERNATE if alternate else "") + RESTORE).encode()
    with contextlib.suppress(OSError, ValueError):
        # A stalled terminal must not hold up the end.
        os.set_blocking(screen, False)
        try:
            os.write(screen, sequence)
        finally:
            os.set_blocking(screen, True)
    if attributes is not None:
        with contextlib.suppress(termios.error):
            termios.tcsetattr(keyboard, termios.TCSANOW, attributes)


def _attributes(fd: int) -> list[Any] | None:
    try:
        return termios.tcgetattr(fd)
    except termios.error:
        return None


def _keep(reading: int, output: Output) -> None:
    try:
        while data := os.read(reading, 65536):
            output.write(data.decode("utf-8", "backslashreplace"))
    finally:
        os.close(reading)
