"""Runs the console on made-up figures in the terminal it is started in; for the pseudo-terminal tests, and to look at.

Usage: python -m tests.tui.console_script KIND [NOTES]. KIND: attached, local, large, hostile, draining, dead, crash, printing,
failing, stubborn. What happened to the consumer is written into the file NOTES, a line each.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from dataclasses import replace

from kafka_consumer.snapshot import Snapshot
from tests.tui.fakes import FakeFeed, large, make_snapshot
from tests.tui.hostile import hostile_snapshot
from tui.clock import Clock
from tui.runtime import run_attached, run_in_process

SECRET = "hunter2-in-a-local-variable"


def snapshots(kind: str):
    """Yield snapshots whose figures move with real time."""
    prepared = [large(step=step) for step in range(6)] if kind == "large" else []
    for step in itertools.count():
        base = prepared[step % 6] if prepared else hostile_snapshot() if kind == "hostile" else make_snapshot()
        totals = replace(base.totals, processed=base.totals.processed + 2100 * step)
        yield replace(base, sequence=step + 1, at=time.time(), pid=os.getpid(), totals=totals)


class LiveFeed(FakeFeed):
    """A feed of a running consumer."""

    def __init__(self, kind: str) -> None:
        super().__init__(make_snapshot(), role="attached")
        self.kind = kind
        self.clock = Clock()
        self._snapshots = snapshots(kind)

    def latest(self) -> Snapshot | None:
        if self.kind == "dead":
            return None
        self.age = 0.1
        return next(self._snapshots)


class ScriptedConsumer:
    """A consumer that drains in a moment and notes what it was told."""

    def __init__(self, kind: str, notes: str | None) -> None:
        self.kind = kind
        self.exit_code: int | None = None
        self._notes = notes
        self._snapshots = snapshots(kind)
        self._phase = "draining" if kind == "draining" else "running"
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._asked = 0

    def note(self, text: str) -> None:
        if self._notes:
            with open(self._notes, "a", encoding="utf-8") as file:
                file.write(text + "\n")

    def start(self) -> None:
        self.note("started")
        threading.Thread(target=self._live, name="scripted-consumer", daemon=True).start()

    def _live(self) -> None:
        if self.kind == "printing":
            time.sleep(1.0)
            os.write(1, b"below python\n")
            os.write(2, b"\x1b]0;owned\x07error below python\n")
            print("from python")  # noqa: T201 - what a processor might do
        if self.kind == "failing":
            time.sleep(1.0)
        else:
            self._stopping.wait()
        self._phase = "draining"
        time.sleep(1.0)
        self.note("drained")
        self._phase = "failed" if self.kind == "failing" else "stopped"
        self.exit_code = 1 if self.kind == "failing" else 0
        self._ended.set()

    def stop(self, reason: str) -> None:
        self.note(f"stop: {reason}")
        self._stopping.set()

    def join(self, timeout: float | None = None) -> bool:
        return self._ended.wait(timeout)

    def snapshot(self) -> Snapshot:
        self._asked += 1
        if self.kind == "crash" and self._asked > 3:
            # What no consumer may hand out: the screen stumbles over it.
            return replace(next(self._snapshots), partitions=SECRET)
        return replace(next(self._snapshots), phase=self._phase)


def main() -> int:
    kind = sys.argv[1] if len(sys.argv) > 1 else "attached"
    notes = sys.argv[2] if len(sys.argv) > 2 else None
    if kind in ("attached", "dead", "large", "hostile"):
        return run_attached(LiveFeed(kind))
    return run_in_process(ScriptedConsumer(kind, notes))


if __name__ == "__main__":
    sys.stdout.flush()
    code = main()
    sys.stderr.flush()
    os._exit(code)
