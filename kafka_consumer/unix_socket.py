"""A listening Unix socket that is its owner's alone: one consumer a path, one user a socket.

What a crash left behind is taken over; what somebody listens on, or what isn't a socket, is refused and never touched.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import struct
import sys
from dataclasses import dataclass

from kafka_consumer.errors import ConfigError, FilesInUseError
from kafka_consumer.file_lock import FileLocks
from kafka_consumer.snapshot import sanitise
from kafka_consumer.trust import folder_problem

MAX_PATH_BYTES = 107 if sys.platform == "linux" else 103
"""How long a socket's path may be: the kernel's field, less its final NUL."""

BACKLOG = 64
PROBE_SECONDS = 1.0

_LOCAL_PEERCRED, _XUCRED_BYTES = 1, 76  # where SO_PEERCRED doesn't exist: macOS and the BSDs, at level 0


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end; ``pid`` is None where the system doesn't tell."""

    uid: int
    pid: int | None

    def __str__(self) -> str:
        return f"uid {self.uid}" if self.pid is None else f"uid {self.uid}, pid {self.pid}"

    @property
    def allowed(self) -> bool:
        """Whether it is the user this process runs as, or root."""
        return self.uid in (0, os.geteuid())


def peer_of(connection: socket.socket) -> Peer:
    """Return who connected, as the kernel knows it. Errors: ``OSError``."""
    if hasattr(socket, "SO_PEERCRED"):
        size = struct.calcsize("=iII")
        pid, uid, _ = struct.unpack("=iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        return Peer(uid, pid)
    _, uid = struct.unpack_from("=II", connection.getsockopt(0, _LOCAL_PEERCRED, _XUCRED_BYTES))
    return Peer(uid, None)


def stranger(connection: socket.socket) -> str | None:
    """Return who listens at the other end when that is a user whose word can't be taken for the consumer's, or None."""
    peer = peer_of(connection)
    return None if peer.allowed or os.geteuid() == 0 else f"it belongs to another user (uid {peer.uid})"


def hung_up(connection: socket.socket) -> bool:
    """Whether the other end is closed altogether, where ``recv`` says only that it has sent its last."""
    poll = select.poll()
    poll.register(connection, 0)
    return bool(poll.poll(0))  # with no event asked for, only hang-ups and errors are reported


def accepted_path(path: object) -> str | None:
    """Return what a socket's path is expected to be, None when it is that."""
    if isinstance(path, str) and path and "\0" not in path and len(os.fsencode(path)) <= MAX_PATH_BYTES:
        return None
    return f"a path of 1 to {MAX_PATH_BYTES} bytes"


class Listener:
    """Listens at ``path`` from the start to ``close()``. The folder is made 0700 when absent; the socket is 0600.

    Errors: ``FilesInUseError`` when somebody listens there; ``ConfigError`` when the path can't be used.
    """

    def __init__(self, path: str) -> None:
        expected = accepted_path(path)
        if expected is not None:
            raise ConfigError(f"socket: expected {expected}, got {len(os.fsencode(path))} bytes: {sanitise(path, 200)}")
        self.path = path
        self._shown = sanitise(path, 200)
        self._locks = FileLocks([path])
        self._identity: tuple[int, int] | None = None
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._claim()
        except OSError as error:
            self.close()
            said = os.strerror(error.errno) if error.errno else str(error)
            raise ConfigError(f"socket {self._shown}: can't listen there: {said}") from None
        except BaseException:
            self.close()
            raise

    def accept(self) -> tuple[socket.socket, Peer]:
        """Return who waits to be let in: a connection that doesn't block. Errors: ``OSError``, ``BlockingIOError`` for nobody."""
        connection, _ = self.socket.accept()
        try:
            connection.setblocking(False)
            return connection, peer_of(connection)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Stop listening and remove the socket's file, unless it has become somebody else's."""
        # The file goes first: whoever finds it gone sees at once that nobody is there.
        if self._identity is not None:
            with contextlib.suppress(OSError):
                if _identity(os.lstat(self.path)) == self._identity:
                    os.unlink(self.path)
            self._identity = None
        self.socket.close()
        self._locks.release()

    def _claim(self) -> None:
        folder = os.path.dirname(self.path)
        if folder:
            os.makedirs(folder, mode=0o700, exist_ok=True)
        problem = folder_problem(folder or ".")
        if problem is not None:
            raise ConfigError(f"socket {self._shown}: {sanitise(problem, 300)}: another user could listen in its place")
        self._refuse_what_is_no_socket()
        # Held as long as this listens: two that start at the same moment can't both take over what a third left behind.
        self._locks.acquire()
        self._take_over()
        self.socket.bind(self.path)
        self._identity = _identity(os.lstat(self.path))
        # Nobody can connect before listen(), so there is no moment at which the umask's permissions count.
        os.chmod(self.path, 0o600)
        self.socket.listen(BACKLOG)
        self.socket.setblocking(False)

    def _refuse_what_is_no_socket(self) -> bool:
        """Return whether there is a socket's file."""
        try:
            found = os.lstat(self.path)
        except FileNotFoundError:
            return False
        if not stat.S_ISSOCK(found.st_mode):
            raise ConfigError(f"socket {self._shown}: there is something else by that name; it is left as it is")
        if found.st_uid != os.geteuid():
            raise ConfigError(f"socket {self._shown}: it belongs to another user (uid {found.st_uid}); it is left as it is")
        return True

    def _take_over(self) -> None:
        if not self._refuse_what_is_no_socket():
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(PROBE_SECONDS)
            try:
                probe.connect(self.path)
            except ConnectionRefusedError:
                os.unlink(self.path)  # what a crash left behind
                return
            except (TimeoutError, BlockingIOError):
                pass  # it has no room for another client: somebody is there
        raise FilesInUseError(f"{self._shown} is in use by another process: stop it, or give this one a path of its own")


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
