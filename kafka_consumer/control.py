"""The control socket of a running consumer: snapshots out, commands in. The messages are ``control_protocol``'s.

    with serve(consumer, "/run/kc/orders.sock"):
        consumer.run()

Two threads. One owns the socket and every client: it waits, and costs nothing, until somebody connects; then it builds a
snapshot for all clients that are due, and never waits for any of them. The other carries out commands in their order, for they
may have to wait for Kafka; only ``stop``, which never waits, doesn't queue behind them.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import selectors
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from kafka_consumer.control_commands import CommandThread, Controlled, Order
from kafka_consumer.control_protocol import (
    INTERVAL_SECONDS,
    MAX_LINE_BYTES,
    MIN_INTERVAL_SECONDS,
    Command,
    MalformedError,
    RefusedError,
    Status,
    error_line,
    hello_line,
    read_command,
    reply_line,
    snapshot_line,
)
from kafka_consumer.unix_socket import Listener, Peer, hung_up

__all__ = ["ControlServer", "Controlled", "serve"]

MAX_CLIENTS = 32
MAX_WAITING_COMMANDS = 32  # of one client
OWED_BYTES = 256 * 1024  # replies that a client may leave unread, besides a snapshot
STALL_SECONDS = 10.0  # a client that reads nothing of what it is sent for so long is dropped
SLACK_SECONDS = 0.05  # clients due within this time share a snapshot
FINISH_SECONDS = 0.5  # how long the last lines may take to be sent at the end
RETRY_SECONDS = 1.0  # after a failure to accept a connection: no file descriptors are left

logger = logging.getLogger(__name__)


def serve(consumer: Controlled, path: str) -> ControlServer:
    """Listen at ``path`` for a consumer, from now until the returned server is closed (it is a context manager).

    Errors: ``FilesInUseError`` when somebody listens there already, ``ConfigError`` when the path can't be used.
    """
    return ControlServer(consumer, path).start()


class _Client:
    """One connection. All of it belongs to the server's thread."""

    def __init__(self, connection: socket.socket, peer: Peer, now: float) -> None:
        self.socket = connection
        self.peer = peer
        self.open = True
        self.reading = True  # False once it has sent its last line, or a line too many
        self.events = 0  # what the selector waits for
        self.incoming = bytearray()
        self.outgoing = bytearray()
        self.room = OWED_BYTES  # how much may wait in ``outgoing``
        self.progress_at = now  # when it last took something of what waits
        self.interval: float | None = INTERVAL_SECONDS
        self.due = now
        self.sent_at = float("-inf")  # the last snapshot
        self.waiting = 0  # commands that wait or run


class ControlServer:
    """Listens at ``path``; see the module. ``stall_seconds``: how long a client may take nothing of what it is sent."""

    def __init__(self, consumer: Controlled, path: str, *, stall_seconds: float = STALL_SECONDS) -> None:
        self.path = path
        self._consumer = consumer
        self._stall_seconds = stall_seconds
        self._listener = Listener(path)
        self._closing = threading.Event()
        self._commands: CommandThread[_Client] = CommandThread(consumer, self._answered)
        self._answers: queue.SimpleQueue[tuple[_Client, bytes]] = queue.SimpleQueue()  # from the command thread
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        # Of the server's thread alone.
        self._selector = selectors.DefaultSelector()
        self._clients: set[_Client] = set()
        self._retry_at: float | None = None
        self._trouble = ""
        # A daemon: nothing here may keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)

    def start(self) -> Self:
        """Start the threads; once."""
        logger.info("listening for consoles at %s", self.path)
        self._thread.start()
        self._commands.start()
        return self

    def close(self) -> None:
        """Send the last snapshot, end every connection and remove the socket. A command under way goes on, unanswered."""
        self._closing.set()
        self._commands.close()
        self._wake()
        if self._thread.is_alive():
            self._thread.join()
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close."""
        self.close()

    def _wake(self) -> None:
        # Full: the thread will wake anyway. Closed: it has ended.
        with contextlib.suppress(OSError):
            self._wake_out.send(b"\0")

    # --- the server's thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._selector.register(self._listener.socket, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wake_in, selectors.EVENT_READ, self._woken)
        try:
            while not self._closing.is_set():
                self._turn(self._timeout())
            self._finish()
        except Exception:
            logger.critical("the control socket failed; the consumer goes on without it", exc_info=True)
            self._listener.close()
        finally:
            for client in list(self._clients):
                self._drop(client)

    def _turn(self, timeout: float | None) -> None:
        for key, events in self._selector.select(timeout):
            key.data(events)
        now = time.monotonic()
        self._answer()
        self._publish(now)
        for client in [c for c in self._clients if c.outgoing and now - c.progress_at >= self._stall_seconds]:
            logger.warning("a console (%s) doesn't read what it is sent: its connection is closed", client.peer)
            self._drop(client)
        if self._retry_at is not None and now >= self._retry_at:
            self._retry_at = None
            self._selector.register(self._listener.socket, selectors.EVENT_READ, self._accept)

    def _timeout(self) -> float | None:
        """Return how long there is nothing to do unless somebody sends something; None: for ever."""
        times = [] if self._retry_at is None else [self._retry_at]
        for client in self._clients:
            if client.outgoing:
                times.append(client.progress_at + self._stall_seconds)
            elif client.interval is not None:
                times.append(client.due)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _finish(self) -> None:
        """Tell everybody how it ended; wait a moment for what is still on its way."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(self._listener.socket)
        self._retry_at = None
        self._answer()
        for client in self._clients:
            client.due = 0.0
        self._publish(time.monotonic())
        deadline = time.monotonic() + FINISH_SECONDS
        while any(client.outgoing for client in self._clients) and (left := deadline - time.monotonic()) > 0:
            for client in self._clients:
                client.interval = None
            self._turn(left)

    def _woken(self, _events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_in.recv(4096)

    def _accept(self, _events: int) -> None:
        try:
            connection, peer = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            # It would be reported again at once, and again.
            self._retry_at = time.monotonic() + RETRY_SECONDS
            self._selector.unregister(self._listener.socket)
            logger.warning("a console couldn't be let in: %s", error)
            return
        refusal = ""
        if not peer.allowed:
            logger.warning("a console of another user (%s) was refused", peer)
            refusal = "refused: this consumer belongs to another user"
        elif len(self._clients) >= MAX_CLIENTS:
            logger.warning("a console (%s) was refused: there are %d already", peer, MAX_CLIENTS)
            refusal = f"refused: {MAX_CLIENTS} consoles are connected already"
        if refusal:
            with contextlib.suppress(OSError):
                connection.send(error_line(refusal))
            connection.close()
            return
        logger.debug("a console connected: %s", peer)
        client = _Client(connection, peer, time.monotonic())
        self._clients.add(client)
        self._send(client, hello_line())

    def _handler(self, client: _Client) -> Callable[[int], None]:
        def ready(events: int) -> None:
            try:
                if client.open and events & selectors.EVENT_WRITE:
                    self._flush(client)
                if client.open and client.reading and events & selectors.EVENT_READ:
                    self._read(client)
            except Exception:
                logger.exception("the connection of a console (%s) failed and is closed", client.peer)
                self._drop(client)

        return ready

    # --- one client, out ----------------------------------------------------------------------------------------------------

    def _send(self, client: _Client, line: bytes) -> None:
        if not client.open:
            return
        if len(client.outgoing) + len(line) > client.room:
            logger.warning("a console (%s) doesn't read the answers it gets: its connection is closed", client.peer)
            self._drop(client)
            return
        if not client.outgoing:
            client.progress_at = time.monotonic()
        client.outgoing += line
        self._flush(client)

    def _flush(self, client: _Client) -> None:
        try:
            while client.outgoing:
                del client.outgoing[: client.socket.send(client.outgoing)]
                client.progress_at = time.monotonic()
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)
            return
        self._await(client)

    def _await(self, client: _Client) -> None:
        """Wait for what this client may do next; close it when that is nothing."""
        if not (client.reading or client.outgoing or client.waiting or client.interval is not None):
            self._drop(client)
            return
        events = (selectors.EVENT_READ if client.reading else 0) | (selectors.EVENT_WRITE if client.outgoing else 0)
        if events == client.events:
            return
        if not client.events:
            self._selector.register(client.socket, events, self._handler(client))
        elif events:
            self._selector.modify(client.socket, events, self._handler(client))
        else:
            self._selector.unregister(client.socket)
        client.events = events

    def _drop(self, client: _Client) -> None:
        if not client.open:
            return
        client.open = False
        self._clients.discard(client)
        if client.events:
            self._selector.unregister(client.socket)
        client.socket.close()
        logger.debug("a console is gone: %s", client.peer)

    def _publish(self, now: float) -> None:
        """Build one snapshot for all that are due. Whoever hasn't taken the last one yet gets none: it costs nothing."""
        due = [c for c in self._clients if c.interval is not None and not c.outgoing and c.due <= now + SLACK_SECONDS]
        if not any(client.due <= now for client in due):
            return
        try:
            line = snapshot_line(self._consumer.snapshot())
            self._trouble = ""
        except Exception as error:
            trouble = f"no snapshot can be made: {type(error).__name__}; see the consumer's log"
            if trouble != self._trouble:
                logger.exception("no snapshot can be made")
            self._trouble = trouble
            line = error_line(trouble)
        for client in due:
            client.sent_at = now
            # On a common grid: clients that came at different times are due together from their second snapshot on.
            interval = client.interval or INTERVAL_SECONDS
            client.due = ((now + SLACK_SECONDS) // interval + 1) * interval
            client.room = len(line) + OWED_BYTES
            self._send(client, line)

    # --- one client, in -----------------------------------------------------------------------------------------------------

    def _read(self, client: _Client) -> None:
        try:
            data = client.socket.recv(MAX_LINE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)
            return
        if not data:
            client.reading = False
            # It may have ended its sending alone, and go on to read.
            if hung_up(client.socket):
                self._drop(client)
            else:
                self._await(client)
            return
        client.incoming += data
        *lines, rest = client.incoming.split(b"\n")
        client.incoming = rest
        for line in lines:
            if len(line) > MAX_LINE_BYTES:
                self._cut_off(client)
            elif line.strip():
                self._take(client, bytes(line))
            if not (client.open and client.reading):
                return
        if len(rest) > MAX_LINE_BYTES:
            self._cut_off(client)

    def _cut_off(self, client: _Client) -> None:
        """Say why, and hang up."""
        client.reading = False
        client.interval = None
        client.incoming.clear()
        # Closing a socket with unread data would reach the client as a reset; so its sending ends, and what came is read.
        with contextlib.suppress(OSError):
            client.socket.shutdown(socket.SHUT_RD)
            for _ in range(64):
                if not client.socket.recv(MAX_LINE_BYTES):
                    break
        logger.warning("a console (%s) sent a line of more than %d bytes: its connection is closed", client.peer, MAX_LINE_BYTES)
        self._send(client, error_line(f"expected lines of at most {MAX_LINE_BYTES:,} bytes, got a longer one; closing"))

    def _take(self, client: _Client, line: bytes) -> None:
        try:
            command = read_command(line)
        except MalformedError as error:
            self._send(client, error_line(str(error)))
        except RefusedError as error:
            logger.info("a command of %s was refused: %s", client.peer, error)
            self._send(client, reply_line(error.id, Status.REFUSED, str(error)))
        else:
            if command.name == "subscribe":
                self._subscribe(client, command)
            else:
                self._order(client, command)

    def _subscribe(self, client: _Client, command: Command) -> None:
        interval = command.args["interval_seconds"]
        client.interval = interval or None
        client.due = max(time.monotonic(), client.sent_at + MIN_INTERVAL_SECONDS)
        self._send(client, reply_line(command.id, Status.APPLIED))

    def _order(self, client: _Client, command: Command) -> None:
        if client.waiting >= MAX_WAITING_COMMANDS:
            self._send(client, reply_line(command.id, Status.REFUSED, f"{client.waiting} commands are waiting already"))
            return
        logger.info("%s asks: %s", client.peer, command)
        client.waiting += 1
        self._send(client, reply_line(command.id, Status.ACCEPTED))
        order = Order(client, client.peer, command, time.monotonic() + command.expires_seconds)
        if command.name == "stop":
            # It only sets a flag, and it must not wait for a command that waits for Kafka.
            self._commands.carry_out(order)
            self._answer()
        else:
            self._commands.put(order)

    def _answer(self) -> None:
        """Pass on what became of commands."""
        while True:
            try:
                client, line = self._answers.get_nowait()
            except queue.Empty:
                return
            client.waiting -= 1
            self._send(client, line)

    def _answered(self, order: Order[_Client], status: Status, reason: str) -> None:
        """Take what became of a command; called by the thread that carried it out."""
        self._answers.put((order.client, reply_line(order.command.id, status, reason)))
        self._wake()
