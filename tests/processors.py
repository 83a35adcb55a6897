"""Processors that another process can import; what they do is seen in files, for they share no memory with the test.

Nothing but the standard library is imported here: each worker's process imports this module.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

PATIENCE_SECONDS = 20.0


class Notes:
    """Notes each value with the process that had it, one line each; any number of processes may write. ``calls`` reads them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notes"

    def __call__(self, value: bytes | None) -> None:
        self.note(value)

    def note(self, value: bytes | None) -> None:
        with self.path.open("ab", buffering=0) as notes:
            notes.write(b"%d %s\n" % (os.getpid(), b"(none)" if value is None else value))

    def calls(self) -> list[tuple[int, bytes]]:
        """Return (process id, value) of the calls so far."""
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        return [(int(pid), value) for pid, _, value in (line.partition(b" ") for line in lines)]

    @property
    def values(self) -> list[bytes]:
        return [value for _, value in self.calls()]

    @property
    def pids(self) -> set[int]:
        return {pid for pid, _ in self.calls()}


class Gate(Notes):
    """Notes each value; waits at those of ``stops`` until ``open()``."""

    def __init__(self, folder: Path, *stops: bytes) -> None:
        super().__init__(folder)
        self.stops = set(stops)
        self.gate = folder / "gate"

    def __call__(self, value: bytes | None) -> None:
        self.note(value)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while value in self.stops and not self.gate.exists():
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def open(self) -> None:
        self.gate.touch()


class Fault(Notes):
    """Notes each value and does what it says: ``raise``, ``exit``, ``segfault``, … see the branches; others are fine."""

    def __call__(self, value: bytes | None) -> None:
        self.note(value)
        name = (value or b"").split(b":")[0].decode()
        fault = getattr(self, name, None)
        if fault is not None:
            fault()

    def fail(self) -> None:
        raise ValueError("no good")

    def fatal(self) -> None:
        raise LookupError("never again")

    def odd(self) -> None:
        raise OddError(lambda: None)

    def unspeakable(self) -> None:
        raise UnspeakableError

    def exit(self) -> None:
        os._exit(7)

    def segfault(self) -> None:
        ctypes.string_at(0)

    def killed(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def hang(self) -> None:
        time.sleep(3600)

    def memory(self) -> None:
        bytearray(2**62)

    def recursion(self) -> None:
        self.recursion()

    def system_exit(self) -> None:
        sys.exit(3)

    def interrupt(self) -> None:
        raise KeyboardInterrupt

    def generator_exit(self) -> None:
        raise GeneratorExit

    def close(self) -> None:
        """Close every descriptor, as a careless library may: the pipe to the parent, too."""
        os.closerange(3, 256)

    def nonsense(self) -> None:
        """Write what is no frame of JSON to the parent."""
        self._write_all(b"\x00\x00\x00\x00\x00\x00\x00\x05hello", sockets=True)

    def huge(self) -> None:
        """Write the length of a frame that will never come."""
        self._write_all(b"\x7f" * 100, sockets=True)

    def lies(self) -> None:
        """Tell the parent of messages that it never gave."""
        body = b'{"done": 1000000}'
        self._write_all(len(body).to_bytes(8, "big") + body, sockets=True)

    def scribbles(self) -> None:
        """Write over the memory that is shared with the parent."""
        self._write_all(b"\x7f" * 8, sockets=False)

    def _write_all(self, data: bytes, *, sockets: bool) -> None:
        for descriptor in range(3, 64):
            try:
                if stat.S_ISSOCK(os.fstat(descriptor).st_mode) == sockets:
                    os.write(descriptor, data)
            except OSError:
                continue
        time.sleep(3600)

    def heirs(self) -> None:
        """Die, and leave a process behind that holds all descriptors until there is a file ``let-go``."""
        if os.fork():
            os._exit(9)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (self.path.parent / "let-go").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.note(b"let go")
        os._exit(0)

    def inheritable(self) -> None:
        """Note which descriptors a program that is started from here would get, beside the standard ones."""
        for descriptor in range(3, 256):
            try:
                if os.get_inheritable(descriptor):
                    self.note(b"inheritable: %d" % descriptor)
            except OSError:
                continue

    def logs(self) -> None:
        logging.getLogger("shop.orders").warning("low on %s\x1b]0;x\x07", "paper")

    def prints(self) -> None:
        print("to be seen")  # noqa: T201 - what it is for

    def garbage(self) -> None:
        gc.collect()


class OddError(Exception):
    """An error that doesn't pickle."""


class UnspeakableError(Exception):
    """An error that can't be shown."""

    def __str__(self) -> str:
        raise RuntimeError("not even this")


class Flaky(Notes):
    """Fails the first ``failures`` calls for each value of ``values`` (all, when there are none), by raising or by dying."""

    def __init__(self, folder: Path, failures: int, *values: bytes, die: bool = False) -> None:
        super().__init__(folder)
        self.failures = failures
        self.chosen = values
        self.die = die

    def __call__(self, value: bytes | None) -> None:
        self.note(value)
        if (not self.chosen or value in self.chosen) and self.values.count(value or b"") <= self.failures:
            if self.die:
                os._exit(1)
            raise ValueError("not yet")


def accept(value: bytes | None) -> None:
    """Do nothing."""


def compute(value: bytes | None) -> None:
    """Compute for some 200 µs."""
    total = 0
    for number in range(5000):
        total += number * number % 7


def start_sleeper(value: bytes | None) -> None:
    """Start a program that sleeps; its process id goes into the file that the value names."""
    sleeper = subprocess.Popen(["sleep", "60"])
    Path((value or b"").decode()).write_text(str(sleeper.pid))
    sleeper.wait()


lambda_at_top = lambda value: None  # noqa: E731 - what a decorator may leave behind: importable by name, not picklable
