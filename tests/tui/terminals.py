"""A process in a pseudo-terminal: what it writes, what it is sent, how it leaves the terminal behind."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Done by the child itself, once it is a process of its own: the terminal becomes its session's, as a login does it.
BOOT = """
import fcntl, json, runpy, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
for number in json.loads(sys.argv[1]):
    signal.signal(number, signal.SIG_IGN)
sys.argv = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


class Terminal:
    """Runs a Python module with a terminal of its own, as its session's leader."""

    def __init__(
        self, *arguments: str, size: tuple[int, int] = (80, 24), ignore: tuple[int, ...] = (), **environment: str
    ) -> None:
        self.master, slave = pty.openpty()
        self.before = termios.tcgetattr(slave)
        self.resize(*size)
        environ = {
            key: value for key, value in os.environ.items() if not key.startswith(("TEXTUAL", "NO_COLOR", "COLUMNS", "LINES"))
        }
        environ |= {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **environment}

        self.process = subprocess.Popen(
            [sys.executable, "-c", BOOT, json.dumps(ignore), *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env=environ,
            cwd=ROOT,
        )
        # Kept open: the modes are read from it when the process has ended.
        self.slave = slave
        self._output = bytearray()
        self._lock = threading.Lock()
        self._reading = threading.Event()
        self._reading.set()
        self._closing = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        os.set_blocking(self.master, False)
        while not self._closing.is_set():
            if not self._reading.wait(0.05):
                continue
            try:
                data = os.read(self.master, 65536)
            except BlockingIOError:
                time.sleep(0.01)
                continue
            except OSError:
                return
            with self._lock:
                self._output += data

    @property
    def output(self) -> bytes:
        """Everything written so far."""
        with self._lock:
            return bytes(self._output)

    @property
    def text(self) -> str:
        """The output without escape sequences."""
        return re.sub(
            r"\x1b(\[[0-9;?<>$ ]*[A-Za-z]|\][^\x07\x1b]*(\x07|\x1b\\)|[()][A-Z0-9]|[=>P])",
            "",
            self.output.decode("utf-8", "replace"),
        )

    def wait_for(self, words: str, seconds: float = 20.0) -> None:
        """Wait until the process wrote these words."""
        deadline = time.monotonic() + seconds
        while words not in self.text:
            assert time.monotonic() < deadline, f"no {words!r} in {self.text[-2000:]!r}"
            assert self.process.poll() is None or words in self.text, f"it ended without {words!r}: {self.text[-2000:]!r}"
            time.sleep(0.02)

    def wait_for_new(self, words: str, seen: int, seconds: float = 20.0) -> None:
        """Wait until the process wrote these words after the first ``seen`` characters."""
        deadline = time.monotonic() + seconds
        while words not in self.text[seen:]:
            assert time.monotonic() < deadline, f"no {words!r} in {self.text[seen:][-2000:]!r}"
            time.sleep(0.02)

    def send(self, keys: str) -> None:
        """Type."""
        os.write(self.master, keys.encode())

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        self.process.send_signal(number)

    def resize(self, columns: int, rows: int) -> None:
        """Change the size; the process gets SIGWINCH."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def stall(self) -> None:
        """Take nothing any more."""
        self._reading.clear()

    def vanish(self) -> None:
        """Close the terminal, as a lost connection does."""
        self._closing.set()
        self._reader.join(5)
        os.close(self.slave)
        os.close(self.master)
        self.master = self.slave = -1

    def wait(self, seconds: float = 20.0) -> int:
        """Wait for the end; return the exit code."""
        code = self.process.wait(seconds)
        time.sleep(0.05)
        return code

    def assert_restored(self) -> None:
        """The alternate screen is left, the mouse, the paste mode and the cursor are as before, and so are the line's modes."""
        output = self.output
        for on, off in ((b"\x1b[?1049h", b"\x1b[?1049l"), (b"\x1b[?1000h", b"\x1b[?1000l"), (b"\x1b[?1003h", b"\x1b[?1003l"),
                        (b"\x1b[?1006h", b"\x1b[?1006l"), (b"\x1b[?2004h", b"\x1b[?2004l"), (b"\x1b[?25l", b"\x1b[?25h"),
                        (b"\x1b[?1004h", b"\x1b[?1004l"), (b"\x1b[?7l", b"\x1b[?7h")):  # fmt: skip
            assert on in output, on
            assert output.rfind(off) > output.rfind(on), (on, off)
        assert termios.tcgetattr(self.slave)[:4] == self.before[:4]

    def after_the_screen(self) -> str:
        """What was printed once the alternate screen was left."""
        return self.output[self.output.rfind(b"\x1b[?1049l") :].decode("utf-8", "replace")

    def close(self) -> None:
        """End everything."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        self._closing.set()
        self._reading.set()
        self._reader.join(5)
        for fd in (self.slave, self.master):
            if fd >= 0:
                os.close(fd)
