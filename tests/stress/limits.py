"""Half a processor and half a gigabyte for one process: by control groups where they may be made, else by what signals can do."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_PERIOD_MICROSECONDS = 100_000


@contextlib.contextmanager
def limited(pid: int, *, memory: int, cpus: float) -> Iterator[str]:
    """Limit a running process's memory, in bytes, and its share of processors; yields which means were found.

    Without control groups the processor's share alone is limited, by suspending the process: limit its memory when it starts.
    """
    groups = _groups(memory, cpus)
    if groups:
        try:
            for group in groups:
                (group / "cgroup.procs").write_text(str(pid))
            yield "control groups"
        finally:
            _remove(pid, groups)
        return
    enough = threading.Event()
    thread = threading.Thread(target=_suspend_in_turn, args=(pid, cpus, enough), name="limits", daemon=True)
    thread.start()
    try:
        yield "suspending in turn"
    finally:
        enough.set()
        thread.join()


def _groups(memory: int, cpus: float) -> list[Path]:
    """Make a group for each limit; an empty list where that isn't allowed."""
    quota = int(cpus * _PERIOD_MICROSECONDS)
    if (_ROOT / "cgroup.controllers").exists():
        settings = {"": {"memory.max": str(memory), "cpu.max": f"{quota} {_PERIOD_MICROSECONDS}"}}
    else:
        settings = {
            "memory": {"memory.limit_in_bytes": str(memory)},
            "cpu": {"cpu.cfs_period_us": str(_PERIOD_MICROSECONDS), "cpu.cfs_quota_us": str(quota)},
        }
    made: list[Path] = []
    try:
        for controller, values in settings.items():
            group = _ROOT / controller / _own(controller) / f"kc-test-{os.getpid()}"
            group.mkdir()
            made.append(group)
            for name, value in values.items():
                (group / name).write_text(value)
    except OSError:
        for group in made:
            group.rmdir()
        return []
    return made


def _own(controller: str) -> str:
    """Return the group of this process, relative to the root: a part of it is made."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            return path.lstrip("/")
    return ""


def _remove(pid: int, groups: list[Path]) -> None:
    for group in groups:
        with contextlib.suppress(OSError):  # the process has ended
            (group.parent / "cgroup.procs").write_text(str(pid))
        group.rmdir()


def _suspend_in_turn(pid: int, cpus: float, enough: threading.Event) -> None:
    """Leave a process the share that a quota would leave it: 50 ms in each 100 for half a processor."""
    with contextlib.suppress(ProcessLookupError):
        while not enough.is_set():
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.1 * (1 - cpus))
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.1 * cpus)
