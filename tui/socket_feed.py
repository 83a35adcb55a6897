"""A running consumer behind its Unix socket: newline-delimited JSON, every line an object with a ``type``.

One thread owns the socket: it connects, reads, writes, and connects again with growing pauses. Lines that are no JSON, of an
unknown type or without end never end it. A command is sent while connected or refused: none is kept for a consumer that
may be another one by then.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import random
import selectors
import socket
import threading
from collections.abc import Mapping
from typing import Any

from kafka_consumer.snapshot import Snapshot
from kafka_consumer.unix_socket import stranger
from tui.clock import Clock
from tui.commands import CommandHandle, CommandState
from tui.feed import FeedBase, describe_error
from tui.tempo import INTERVAL_SECONDS, Tempo
from tui.wire import SnapshotReader, WireError, mapping, optional_whole, text

PROTOCOL = 1
MAX_LINE = 32 * 1024 * 1024
CONNECT_SECONDS = 2.0
BACKOFF_SECONDS = (0.2, 5.0)
WATCHED_SECONDS = 3.0
"""For how long after the last look snapshots are asked for and unpacked; then none are, until somebody looks again."""

_READ_ONLY_ROLES = ("read-only", "readonly", "viewer")


class SocketFeed(FeedBase):
    """The console's end of a consumer's socket. While nobody looks it asks the consumer to send no snapshots."""

    role = "attached"

    def __init__(self, path: str, *, read_only: bool = False, clock: Clock | None = None, who: str | None = None) -> None:
        super().__init__(read_only=read_only, clock=clock or Clock(), who=who)
        self.path = path
        self.source = text(path, 200)
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        # The slot and the fields below are written by the socket's thread alone; each is one reference, replaced whole.
        self._slot: tuple[Snapshot, float] | None = None
        self._problem: str | None = f"connecting to {self.source}"
        self._connected = False
        self._peer_read_only = False
        self._peer_commands: frozenset[str] | None = None
        self._packed: tuple[bytes, float] | None = None
        self._backoff = BACKOFF_SECONDS[0]
        # Written by the screen's thread.
        self._looked_at = float("-inf")
        self._outgoing: queue.SimpleQueue[CommandHandle] = queue.SimpleQueue()
        # Of the socket's thread alone.
        self._pending: dict[str, CommandHandle] = {}
        self._subscribed: float = INTERVAL_SECONDS
        self._tempo = Tempo(INTERVAL_SECONDS, self.clock)
        self._reader = SnapshotReader()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)

    @property
    def read_only(self) -> bool:
        """Whether this console or the consumer refuses commands."""
        return self._read_only or self._peer_read_only

    @property
    def age(self) -> float | None:
        """Seconds since the last snapshot came."""
        slot = self._slot
        return None if slot is None else max(0.0, self.clock.monotonic() - slot[1])

    @property
    def problem(self) -> str | None:
        """Why nothing comes; None while connected."""
        return self._problem

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self._connected

    def start(self) -> None:
        """Start the thread; once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="kc-console-socket", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Ask the thread to end."""
        self._closed.set()
        self._wake()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread has ended; for tests."""
        if self._thread is not None:
            self._thread.join(timeout)

    def latest(self) -> Snapshot | None:
        """Return the latest snapshot; one that came while nobody looked is unpacked now, by the socket's thread."""
        self._looked_at = self.clock.monotonic()
        if self._packed is not None or not self._subscribed:
            self._wake()
        slot = self._slot
        return None if slot is None else slot[0]

    @property
    def interval(self) -> float:
        """Seconds between the snapshots that the consumer was asked for last; 0: none."""
        return self._subscribed

    def look_away(self) -> None:
        """Ask for no more snapshots, at once, until somebody looks again."""
        self._looked_at = float("-inf")
        self._wake()

    def _send(self, handle: CommandHandle) -> None:
        known = self._peer_commands
        if not self._connected:
            handle.advance(CommandState.REFUSED, f"not connected: {self._problem or 'connecting'}")
        elif known is not None and handle.command not in known:
            handle.advance(CommandState.REFUSED, "not supported by this consumer")
        else:
            self._tempo.hurry()
            self._outgoing.put(handle)
            self._wake()

    def _wake(self) -> None:
        # Full means that the thread will wake anyway; closed means that it has ended.
        with contextlib.suppress(OSError):
            self._wake_out.send(b"\0")

    # The socket's thread

    def _run(self) -> None:
        try:
            while not self._closed.is_set():
                peer = self._connect()
                if peer is not None:
                    try:
                        self._converse(peer)
                    finally:
                        self._connected = False
                        peer.close()
                        self._forget("the connection was lost before an answer came; it may still happen")
                if not self._closed.is_set():
                    self._closed.wait(self._backoff * random.uniform(0.8, 1.2))  # noqa: S311 - spreads reconnects, hides nothing
                    self._backoff = min(BACKOFF_SECONDS[1], self._backoff * 2)
        finally:
            self._forget("this console was closed before an answer came; it may still happen")
            self._wake_in.close()
            self._wake_out.close()

    def _connect(self) -> socket.socket | None:
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            peer.settimeout(CONNECT_SECONDS)
            peer.connect(self.path)
            said = stranger(peer)
        except (OSError, ValueError) as error:
            said = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else describe_error(error)
        if said is not None:
            peer.close()
            self._problem = f"can't connect to {self.source}: {said}"
            return None
        peer.setblocking(False)
        self._connected, self._problem = True, None
        self._peer_read_only, self._peer_commands = False, None
        self._subscribed = INTERVAL_SECONDS
        return peer

    def _converse(self, peer: socket.socket) -> None:
        """Read and write until the connection ends; the problem says why it did."""
        incoming, searched, outgoing = bytearray(), 0, bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_in, selectors.EVENT_READ)
            selector.register(peer, selectors.EVENT_READ)
            while not self._closed.is_set():
                # Half a second at most: a clock that stands still in a test, or a wake-up that was lost, costs no more.
                ready = {key.fileobj: events for key, events in selector.select(0.5)}
                if self._wake_in in ready:
                    with contextlib.suppress(OSError):
                        self._wake_in.recv(4096)
                self._take_outgoing(outgoing)
                self._subscribe(outgoing)
                try:
                    if outgoing:
                        del outgoing[: self._write(peer, outgoing)]
                    if ready.get(peer, 0) & selectors.EVENT_READ:
                        data = peer.recv(256 * 1024)
                        if not data:
                            self._problem = f"{self.source} closed the connection"
                            return
                        incoming += data
                except BlockingIOError:
                    pass
                except OSError as error:
                    self._problem = f"the connection to {self.source} broke: {describe_error(error)}"
                    return
                searched = self._split(incoming, searched)
                if len(incoming) > MAX_LINE:
                    self._problem = f"{self.source} sent a line without end"
                    return
                self._unpack()
                selector.modify(peer, selectors.EVENT_READ | (selectors.EVENT_WRITE if outgoing else 0))

    def _write(self, peer: socket.socket, outgoing: bytearray) -> int:
        try:
            return peer.send(outgoing)
        except BlockingIOError:
            return 0

    def _take_outgoing(self, outgoing: bytearray) -> None:
        while True:
            try:
                handle = self._outgoing.get_nowait()
            except queue.Empty:
                break
            self._pending[handle.id] = handle
            line = {"type": "command", "id": handle.id, "command": handle.command, "args": handle.args}
            outgoing += json.dumps(line, separators=(",", ":")).encode() + b"\n"
        done = [identity for identity, handle in self._pending.items() if handle.view().final and not self._awaited(handle)]
        for identity in done:
            del self._pending[identity]

    def _subscribe(self, outgoing: bytearray) -> None:
        """Ask for snapshots as often as somebody looks and something changes, where the consumer can be asked."""
        watched = self.clock.monotonic() - self._looked_at <= WATCHED_SECONDS
        interval = self._tempo.interval if watched else 0
        if interval == self._subscribed or self._peer_commands is None or "subscribe" not in self._peer_commands:
            return
        self._subscribed = interval
        args = {"interval_seconds": interval}
        line = {"type": "command", "id": "subscription", "command": "subscribe", "args": args}
        outgoing += json.dumps(line, separators=(",", ":")).encode() + b"\n"

    def _awaited(self, handle: CommandHandle) -> bool:
        """Whether a late answer may still be told: for ten minutes."""
        view = handle.view()
        return view.state is CommandState.EXPIRED and self.clock.time() - view.requested_at < 600

    def _split(self, incoming: bytearray, searched: int) -> int:
        """Take the complete lines out of the buffer; return how far the rest was searched."""
        end = incoming.rfind(b"\n", searched)
        if end < 0:
            return len(incoming)
        lines = bytes(incoming[:end]).split(b"\n")
        del incoming[: end + 1]
        for line in lines:
            if line.strip():
                # A snapshot tells so at its start; only the last one of a batch is worth unpacking.
                if b'"snapshot"' in line[:80]:
                    self._packed = (line, self.clock.monotonic())
                else:
                    self._take(line, self.clock.monotonic())
        return len(incoming)

    def _unpack(self) -> None:
        packed = self._packed
        if packed is not None and self.clock.monotonic() - self._looked_at <= WATCHED_SECONDS:
            self._packed = None
            self._take(*packed)

    def _take(self, line: bytes, at: float) -> None:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            self._problem = f"{self.source} sent a line that isn't JSON"
            return
        message = mapping(value)
        match message.get("type"):
            case "snapshot":
                try:
                    snapshot = self._tempo.take(self._reader.read(message.get("snapshot")))
                except (WireError, RecursionError) as error:
                    self._problem = describe_error(error)
                    return
                self._slot, self._problem = (snapshot, at), None
                self._backoff = BACKOFF_SECONDS[0]
            case "hello":
                self._hello(message)
            case "reply":
                self._reply(message)
            case "error":
                self._problem = f"the consumer says: {text(message.get('error'), 300)}"

    def _hello(self, message: Mapping[str, Any]) -> None:
        commands = message.get("commands")
        if isinstance(commands, list):
            self._peer_commands = frozenset(name for name in commands if isinstance(name, str))
        self._peer_read_only = message.get("role") in _READ_ONLY_ROLES
        spoken = optional_whole(message.get("protocol"))
        if spoken is not None and spoken != PROTOCOL:
            self._problem = f"it speaks protocol {spoken}, this console protocol {PROTOCOL}: update the older one"

    def _reply(self, message: Mapping[str, Any]) -> None:
        identity = message.get("id")
        handle = self._pending.get(identity) if isinstance(identity, str) else None
        if handle is None:
            return
        reason = text(message.get("reason"), 500)
        try:
            state = CommandState(str(message.get("status")))
        except ValueError:
            state, reason = CommandState.REFUSED, f"an answer that this console doesn't know: {text(message.get('status'), 40)}"
        handle.advance(state, reason)

    def _forget(self, reason: str) -> None:
        while True:
            try:
                handle = self._outgoing.get_nowait()
            except queue.Empty:
                break
            self._pending[handle.id] = handle
        for handle in self._pending.values():
            handle.advance(CommandState.EXPIRED, reason)
        self._pending.clear()


def can_connect(path: str) -> str | None:
    """Return why nothing listens at a socket's path, in one clean line; None when something does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_SECONDS)
        try:
            probe.connect(path)
            said = stranger(probe)
        except (OSError, ValueError) as error:
            said = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else describe_error(error)
    return None if said is None else f"no consumer can be reached at {text(path, 200)}: {said}"
