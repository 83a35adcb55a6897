"""Where the console's snapshots come from and where its commands go.

``Feed`` is what the screen knows; ``LocalFeed`` is a consumer in the same process, ``tui.socket_feed.SocketFeed`` a running one
behind its socket. No method of a feed blocks: snapshots travel through a latest-only slot, commands through a queue.
"""

from __future__ import annotations

import getpass
import itertools
import os
import queue
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from kafka_consumer.errors import LostPartitionError
from kafka_consumer.snapshot import Snapshot
from tui.clock import Clock
from tui.commands import CommandHandle, CommandState, CommandView
from tui.tempo import INTERVAL_SECONDS, Tempo
from tui.text import clean
from tui.wire import WireError, snapshot_from_dict

__all__ = ["COMMANDS", "Feed", "LocalFeed", "WireError", "describe_error", "operator_name", "snapshot_from_dict"]

COMMANDS = (
    "stop", "pause", "resume", "set_dev_mode", "set_workers", "set_log_level", "set_rate_limit", "seek", "redrive",
)  # fmt: skip

HISTORY = 200
"""Commands remembered."""


def operator_name() -> str:
    """Return who gives the commands: user@terminal, or the user alone."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = f"uid {os.getuid()}" if hasattr(os, "getuid") else "operator"
    try:
        return f"{user}@{os.ttyname(0).removeprefix('/dev/')}"
    except (OSError, AttributeError):
        return user


def describe_error(error: BaseException) -> str:
    """Return an exception on one clean line."""
    said = " ".join(str(error).split())
    return clean(said or type(error).__name__, 300)


class Feed(Protocol):
    """A source of snapshots and a sink of commands. Every member may be used by the screen's thread without waiting."""

    @property
    def role(self) -> str:
        """``in-process``: the consumer ends with the console; ``attached``: it doesn't."""

    @property
    def source(self) -> str:
        """Where the snapshots come from, for the header."""

    @property
    def read_only(self) -> bool:
        """Whether every command is refused here."""

    @property
    def age(self) -> float | None:
        """Seconds since the last snapshot came, None before the first."""

    @property
    def problem(self) -> str | None:
        """Why no snapshots come, in one clean line; None while all is well."""

    def start(self) -> None:
        """Start the feed's threads."""

    def close(self) -> None:
        """End the feed's threads; returns at once."""

    def latest(self) -> Snapshot | None:
        """Return the latest snapshot and ask for the next one."""

    def request(self, command: str, args: Mapping[str, Any], *, summary: str = "") -> CommandHandle:
        """Send a command on its way; ``summary`` is how the history names it."""

    def history(self) -> tuple[CommandView, ...]:
        """Return the commands given through this feed, oldest first."""

    def worker_stack(self, worker_id: int) -> tuple[str, ...] | None:
        """Return where a worker is in its code now, without values; None where only its snapshot may tell."""


class FeedBase:
    """What every feed shares: the numbering and the memory of commands."""

    def __init__(self, *, read_only: bool, clock: Clock, who: str | None) -> None:
        self.clock = clock
        self._who = who if who is not None else operator_name()
        self._read_only = read_only
        self._numbers = itertools.count(1)
        # Appended by the screen's thread, read by it; the handles inside are locked themselves.
        self._history: deque[CommandHandle] = deque(maxlen=HISTORY)

    @property
    def read_only(self) -> bool:
        """Whether every command is refused here."""
        return self._read_only

    def request(self, command: str, args: Mapping[str, Any], *, summary: str = "") -> CommandHandle:
        """Send a command on its way and return its handle; a refusal is in the handle, never raised."""
        handle = CommandHandle(
            f"{os.getpid()}-{next(self._numbers)}", command, args, summary=summary or command, who=self._who, clock=self.clock
        )
        self._history.append(handle)
        if self.read_only:
            handle.advance(CommandState.REFUSED, "this console is read-only (--read-only)")
        elif command not in COMMANDS:
            handle.advance(CommandState.REFUSED, f"unknown command {command!r}")
        else:
            self._send(handle)
        return handle

    def history(self) -> tuple[CommandView, ...]:
        """Return the commands given through this feed, oldest first."""
        handles = tuple(self._history)
        for handle in handles:
            handle.expire_if_due()
        return tuple(handle.view() for handle in handles)

    def worker_stack(self, worker_id: int) -> tuple[str, ...] | None:
        """Return None: another process sends the stacks of slow workers in its snapshots."""
        return None

    def _send(self, handle: CommandHandle) -> None:
        raise NotImplementedError


class LocalConsumer(Protocol):
    """The part of a consumer that the console uses; commands are looked up by name when they are given."""

    def snapshot(self) -> Snapshot: ...


class LocalFeed(FeedBase):
    """A consumer in this process. ``interval``: seconds between snapshots while somebody looks and something changes.

    One thread builds snapshots; one carries out commands in their order; stopping has a thread of its own, so that it
    never waits behind a command that hangs.
    """

    role = "in-process"

    def __init__(
        self,
        consumer: LocalConsumer,
        *,
        interval: float = INTERVAL_SECONDS,
        read_only: bool = False,
        clock: Clock | None = None,
        who: str | None = None,
    ) -> None:
        super().__init__(read_only=read_only, clock=clock or Clock(), who=who)
        self._consumer = consumer
        self._tempo = Tempo(interval, self.clock)
        self.source = f"pid {os.getpid()}"
        self._wanted = threading.Event()
        self._hurried = threading.Event()
        self._closed = threading.Event()
        # The slot: written by the snapshot thread alone, one reference, replaced whole.
        self._slot: tuple[Snapshot, float] | None = None
        self._problem: str | None = None
        self._orders: queue.SimpleQueue[CommandHandle | None] = queue.SimpleQueue()
        self._urgent: queue.SimpleQueue[CommandHandle | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    @property
    def age(self) -> float | None:
        """Seconds since the last snapshot was built."""
        slot = self._slot
        return None if slot is None else max(0.0, self.clock.monotonic() - slot[1])

    @property
    def problem(self) -> str | None:
        """Why the last snapshot couldn't be built."""
        return self._problem

    def start(self) -> None:
        """Start the threads; once."""
        if self._threads:
            return
        targets: tuple[tuple[str, Callable[[], None]], ...] = (
            ("kc-console-snapshots", self._build),
            ("kc-console-commands", lambda: self._carry_out(self._orders)),
            ("kc-console-stop", lambda: self._carry_out(self._urgent)),
        )
        for name, target in targets:
            # Daemons: a consumer that hangs in a command must not keep the process from ending.
            thread = threading.Thread(target=target, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Ask the threads to end."""
        self._closed.set()
        self._wanted.set()
        self._hurried.set()
        self._orders.put(None)
        self._urgent.put(None)

    def latest(self) -> Snapshot | None:
        """Return the latest snapshot; a new one is built only because somebody called this."""
        self._wanted.set()
        slot = self._slot
        return None if slot is None else slot[0]

    def worker_stack(self, worker_id: int) -> tuple[str, ...] | None:
        """Return the calls of a worker's thread, found by its name, outermost first; None when there is none such."""
        for thread in threading.enumerate():
            if thread.name == f"worker-{worker_id}" and thread.ident is not None:
                frame = sys._current_frames().get(thread.ident)  # noqa: SLF001 - there is no public name
                if frame is None:
                    return None
                calls = traceback.StackSummary.extract(traceback.walk_stack(frame), limit=60, capture_locals=False)
                calls.reverse()
                lines: list[str] = []
                for call in calls:
                    lines.append(clean(f"{call.filename}:{call.lineno} in {call.name}", 400))
                    if call.line:
                        lines.append(clean(f"    {call.line}", 400))
                return tuple(lines)
        return None

    def _send(self, handle: CommandHandle) -> None:
        self._tempo.hurry()
        self._hurried.set()
        (self._urgent if handle.command == "stop" else self._orders).put(handle)

    def _build(self) -> None:
        while not self._closed.is_set():
            self._wanted.wait()
            self._wanted.clear()
            if self._closed.is_set():
                return
            try:
                self._slot = (self._tempo.take(self._consumer.snapshot()), self.clock.monotonic())
                self._problem = None
            except Exception as error:  # noqa: BLE001
                # The screen must outlive whatever the consumer does; it says so and shows the age of what it has.
                self._problem = f"no snapshot: {type(error).__name__}: {describe_error(error)}"
            self._hurried.clear()
            # Closing sets both; the other way round it would be waited out.
            if not self._closed.is_set():
                self._hurried.wait(self._tempo.interval)

    def _carry_out(self, orders: queue.SimpleQueue[CommandHandle | None]) -> None:
        while (handle := orders.get()) is not None:
            handle.advance(CommandState.ACCEPTED)
            state, reason = self._apply(handle)
            handle.advance(state, reason)

    def _apply(self, handle: CommandHandle) -> tuple[CommandState, str]:
        method = getattr(self._consumer, handle.command, None)
        if not callable(method):
            return CommandState.REFUSED, "not supported by this consumer"
        try:
            answer = method(**_arguments(handle.args))
        except NotImplementedError as error:
            said = describe_error(error) if str(error) else ""
            return CommandState.REFUSED, "not supported by this consumer" + (f": {said}" if said else "")
        except TimeoutError as error:
            return CommandState.EXPIRED, describe_error(error)
        except LostPartitionError as error:
            return CommandState.LOST_PARTITION, describe_error(error)
        except Exception as error:  # noqa: BLE001 - whatever a consumer raises is the reason of a refusal
            return CommandState.REFUSED, describe_error(error)
        return CommandState.APPLIED, clean(answer, 300) if isinstance(answer, str) else ""


def _arguments(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments for the consumer: pairs that travel as JSON lists become tuples."""
    return {name: [tuple(item) if isinstance(item, list) else item for item in value] if isinstance(value, list) else value
            for name, value in args.items()}  # fmt: skip
