"""``Child``: one worker process as its owner sees it: start it, hand it work, hear from it, know how it died.

Nothing is shared with it but a socket, 32 bytes of memory and a file for its last words: no Kafka connection, no open file, no
option. It is started as a new interpreter; a fork of a process with threads may hang on a lock that another thread held.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import pickle
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import spawn
from typing import IO, Any, NamedTuple

from kafka_consumer.errors import KafkaConsumerError
from kafka_consumer.process_child import (
    BEGUN,
    CELL_BYTES,
    CHILD_PROGRAM,
    DUMP_SIGNAL,
    FINISHED,
    LENGTH_BYTES,
    LIMIT,
    OWN_THREAD,
    SHIELDED,
    SINCE,
)

START_SECONDS = 120.0  # how long a process may take to import the processor's module
LOOK_SECONDS = 0.1  # how often it is asked meanwhile whether that is still wanted
EXIT_SECONDS = 5.0  # how long its end may take once its pipe is closed; then it is killed
DEATH_SECONDS = 1.0  # how long it may live on after it has closed the pipe itself
DUMP_SECONDS = 0.1  # how long it is waited for the stack of a call that ran out of time
UNLIMITED = 2**62
EVIDENCE_LIMIT = 20_000  # bytes
ANSWER_LIMIT = 1 << 24  # bytes; all that a process has to say is cut long before


class StartError(KafkaConsumerError):
    """A worker process can't be started, or can't import the processor; the message says why."""


class Progress(NamedTuple):
    """How many messages of the chunk a process has begun and finished, and when it began the last one (monotonic seconds)."""

    begun: int
    finished: int
    since: float

    @property
    def in_work(self) -> bool:
        """Whether it is inside the processor."""
        return self.begun > self.finished


class Child:
    """A worker process. Owned by one thread, which starts it, and closes or kills it; ``progress`` may be called by any.

    ``setup`` is what ``process_child.main`` is told first. Errors: ``StartError``.
    """

    def __init__(self, setup: dict[str, Any]) -> None:
        self.ready = False
        self._killed = False  # because it didn't end by itself
        self._started = time.monotonic()
        self._buffer = bytearray()
        self._evidence = _memory_file("kc-evidence")
        with _memory_file("kc-cells") as shared:
            shared.truncate(CELL_BYTES)
            self._cells = memoryview(mmap.mmap(shared.fileno(), CELL_BYTES)).cast("q")
            self._socket, theirs = socket.socketpair()
            with theirs:
                descriptors = (theirs.fileno(), shared.fileno(), self._evidence.fileno())
                # A terminal is the parent's: its screen may be a console. What is no terminal (a file, a journal) is inherited.
                terminals = [name for name, fd in (("stdout", 1), ("stderr", 2)) if _is_terminal(fd)]
                try:
                    with _blocked_signals():
                        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, on a file of ours
                            [
                                os.fsdecode(spawn.get_executable()), *_interpreter_flags(), "-P", CHILD_PROGRAM,
                                *map(str, descriptors), str(os.getpid()),
                            ],
                            pass_fds=descriptors, stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL if "stdout" in terminals else None,
                            stderr=subprocess.DEVNULL if "stderr" in terminals else None,
                        )  # fmt: skip
                except OSError as error:
                    self._socket.close()
                    self._evidence.close()
                    raise StartError(f"a process can't be started: {error}") from None
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._send({**setup, "terminals": terminals})

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    # --- work ---------------------------------------------------------------------------------------------------------

    def wait_ready(self, unless: Callable[[], bool] | None = None) -> None:
        """Wait until it has imported the processor, or until ``unless()`` says not to. Errors: ``StartError``."""
        while not self.ready and not (unless is not None and unless()):
            left = self._started + START_SECONDS - time.monotonic()
            try:
                answer = self.receive(min(LOOK_SECONDS, left))
            except EOFError:
                raise StartError(f"a process {self.how_it_ended()} before it had imported the processor") from None
            if answer is None:
                if left <= 0:
                    raise StartError(f"a process hasn't imported the processor within {START_SECONDS:g} s")
                continue
            if "unable" in answer:
                raise StartError(f"a new process can't import the processor: {' '.join(str(answer['unable']).split())[:500]}")
            self.ready = "ready" in answer

    def is_ready(self) -> bool:
        """Return whether it has imported the processor by now."""
        if not self.ready:
            with contextlib.suppress(EOFError):
                answer = self.receive(0)
                self.ready = answer is not None and "ready" in answer
        return self.ready

    def reset(self) -> None:
        """Forget the last chunk; called between two portions, when it waits."""
        self._cells[BEGUN] = self._cells[FINISHED] = 0

    def begin(self, start: int, values: Sequence[bytes | None], *, careful: bool) -> None:
        """Have it process these values, messages ``start`` and following of a chunk; ``careful``: stop after a failure.

        Errors: ``EOFError`` when it is dead.
        """
        cells = self._cells
        cells[BEGUN] = cells[FINISHED] = start
        cells[LIMIT] = UNLIMITED
        if not self._send((start, careful, values)):
            raise EOFError

    def _send(self, request: Any) -> bool:
        body = pickle.dumps(request, protocol=pickle.HIGHEST_PROTOCOL)
        try:
            self._socket.sendall(len(body).to_bytes(LENGTH_BYTES, "big") + body)
        except OSError:  # it died; what it said before can still be read
            return False
        return True

    def receive(self, timeout: float) -> dict[str, Any] | None:
        """Return what it says next; None after ``timeout`` seconds of silence. Errors: ``EOFError`` when it is dead."""
        while True:
            answer = self._parse()
            if answer is not None:
                return answer
            if not self._poll.poll(max(0.0, timeout) * 1000):
                # Should a process that it started hold its end of the pipe, there is no end of file.
                if self._process.poll() is not None and not self._poll.poll(0):
                    raise EOFError
                return None
            try:
                data = self._socket.recv(1 << 16)
            except ConnectionError:
                data = b""
            if not data:
                raise EOFError
            self._buffer += data

    def _parse(self) -> dict[str, Any] | None:
        buffer = self._buffer
        if len(buffer) < LENGTH_BYTES:
            return None
        end = LENGTH_BYTES + int.from_bytes(buffer[:LENGTH_BYTES], "big")
        if end > ANSWER_LIMIT:
            raise EOFError  # as below
        if len(buffer) < end:
            return None
        body = bytes(buffer[LENGTH_BYTES:end])
        del buffer[:end]
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise EOFError  # noqa: TRY004 - its memory is damaged: as good as dead
        return answer

    def progress(self) -> Progress:
        """Return how far it is; from any thread, also when it is dead: what it had in work then."""
        cells = self._cells
        # In this order a message that it takes up meanwhile can't look older than it is.
        begun, finished = cells[BEGUN], cells[FINISHED]
        return Progress(begun, finished, cells[SINCE] / 1e9)

    def limit(self) -> int:
        """Have it begin no further message; return how many it has begun by then."""
        self._cells[LIMIT] = self._cells[BEGUN]
        time.sleep(0.001)  # until the other processor core has seen it, which takes nanoseconds: what began meanwhile is counted
        return self._cells[BEGUN]

    # --- its end ------------------------------------------------------------------------------------------------------

    def dump(self) -> str:
        """Have it write where it is, and return that, outermost call last; empty when it doesn't answer."""
        if DUMP_SIGNAL is None:
            return ""
        os.ftruncate(self._evidence.fileno(), 0)
        os.lseek(self._evidence.fileno(), 0, os.SEEK_SET)  # the position is its, too
        before = -1
        deadline = time.monotonic() + DUMP_SECONDS
        self._process.send_signal(DUMP_SIGNAL)
        while time.monotonic() < deadline:
            time.sleep(0.005)
            size = os.fstat(self._evidence.fileno()).st_size
            if 0 < size == before:
                break
            before = size
        return self.evidence()

    def evidence(self) -> str:
        """Return its last words: the stacks that were written on a fatal signal or on demand; most often there are none."""
        text = os.pread(self._evidence.fileno(), EVIDENCE_LIMIT, 0).decode(errors="replace")
        return "\n\n".join(part for part in text.split("\n\n") if OWN_THREAD not in part)

    def condemn(self) -> None:
        """End it, now, because what it says can't be true."""
        self._killed = self._process.poll() is None
        self.kill()

    def kill(self) -> None:
        """End it, now; it may be dead already."""
        self._process.kill()
        self._process.wait()

    def bury(self) -> Iterator[dict[str, Any]]:
        """Wait for the end of one that is dying, killing it if it must be; yield what it said before that wasn't heard."""
        self._wait(DEATH_SECONDS)
        with contextlib.suppress(EOFError):
            while (answer := self.receive(0)) is not None:
                yield answer

    def how_it_ended(self) -> str:
        """Return in words how it ended."""
        self._wait(DEATH_SECONDS)
        if self._killed:
            return "closed its connection or talked nonsense, and was killed"
        code = self._process.returncode
        if code is None or code >= 0:
            return f"ended with exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = ", which is also how the kernel ends a process when memory runs out" if -code == signal.SIGKILL else ""
        return f"was ended by {name}{hint}"

    def close(self) -> None:
        """Let it end as an interpreter ends, exit handlers and all; kill it if that takes long. Idempotent."""
        self._socket.close()
        self._wait(EXIT_SECONDS)
        self._evidence.close()

    def _wait(self, timeout: float) -> None:
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._killed = True
            self.kill()


def _memory_file(name: str) -> IO[bytes]:
    """Return a file without a name on any disk, where the system has such a thing."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create(name), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False


def _interpreter_flags() -> list[str]:
    return list(subprocess._args_from_interpreter_flags())  # type: ignore[attr-defined]  # noqa: SLF001 - as multiprocessing does


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
    """Start a process that a signal to the group can't end before it has its handlers: it inherits what this thread blocks."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SHIELDED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
