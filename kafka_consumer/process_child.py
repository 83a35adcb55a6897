"""What runs in a worker's process: ``python -P process_child.py PIPE CELLS EVIDENCE PARENT`` (three descriptors, and a pid).

It imports the standard library alone, so that a process starts in milliseconds and has no Kafka client in it. It is started by
``process_executor.Child`` and by nobody else.

Over the pipe come frames (eight bytes of length, then the frame): first the setup, then portions of work; both are pickled, by a
parent this process trusts. Back go frames of JSON, which can't do any harm to the parent should this process have gone mad:

* ``{"ready": pid}``, or ``{"unable": text}``: the processor can't be imported;
* ``{"failed": index, "type": …, "text": …, "trace": …, "final": bool}`` for a message, before the next one is begun;
* ``{"done": index}``: the messages of the portion before this index are finished;
* ``{"log": level, "name": …, "text": …}`` and ``{"print": text, "stream": "stdout" | "stderr"}``.

``CELLS`` is memory that both sides see, of four integers. The child alone writes how many messages of the chunk it has begun and
finished, and when it began the last one; the parent alone writes the limit, below which it may go on.
"""

from __future__ import annotations

import faulthandler
import importlib
import io
import json
import logging
import mmap
import os
import pickle
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any

CHILD_PROGRAM = os.path.abspath(__file__)
BEGUN, FINISHED, SINCE, LIMIT = range(4)
CELL_BYTES = 32
LENGTH_BYTES = 8

MESSAGE_LIMIT = 10_000  # characters of an error's message, and of its trace; as in dead_letter.py
TRACE_LIMIT = 100_000
LOG_LIMIT = 10_000
NO_PARENT_CODE = 70  # the exit code when there is nobody to talk to
EXIT_SECONDS = 3.0  # how long what the processor's modules left behind may take after the parent has gone

SHIELDED = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""They reach a whole process group, and are the parent's affair: it drains first."""
DUMP_SIGNAL: int | None = getattr(signal, "SIGUSR2", None)
"""Asks this process for its stack, which goes to EVIDENCE."""
OWN_THREAD = "in _watch_parent"
"""In the stack of the one thread that isn't the processor's."""


class Answers:
    """The way back to the parent; any thread may send."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe
        self._lock = threading.RLock()  # reentrant: a signal handler or a finalizer may log, too

    def send(self, answer: dict[str, Any]) -> None:
        """Send a frame. Where that can't be done the process ends: a failure that isn't heard of would pass for a success."""
        body = json.dumps(answer).encode()
        rest = memoryview(len(body).to_bytes(LENGTH_BYTES, "big") + body)
        with self._lock:
            try:
                while rest:
                    rest = rest[os.write(self._pipe, rest) :]
            except OSError:
                os._exit(NO_PARENT_CODE)


class Tell(logging.Handler):
    """Log records go to the parent, whose handlers format and sanitise them."""

    def __init__(self, answers: Answers) -> None:
        super().__init__()
        self._answers = answers

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001 - formatting calls __str__ of any object that was logged
            text = f"{record.msg} (the arguments don't fit this message)"
        self._answers.send({"log": record.levelno, "name": record.name, "text": text[:LOG_LIMIT]})


class Print(io.TextIOBase):
    """Stands for a stream that is the terminal: the parent alone writes there, its screen may be a console."""

    def __init__(self, answers: Answers, stream: str) -> None:
        self._answers = answers
        self._stream = stream

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Send the text."""
        for start in range(0, len(text), LOG_LIMIT):
            self._answers.send({"print": text[start : start + LOG_LIMIT], "stream": self._stream})
        return len(text)


def main(pipe: int, cells: int, evidence: int, parent: int) -> int:
    """Serve the parent until it closes the pipe; return the exit code."""
    _shield()
    for descriptor in (pipe, cells, evidence):
        os.set_inheritable(descriptor, False)  # the processor's own subprocesses have no part in this
    _die_with(parent, pipe)
    faulthandler.enable(evidence, all_threads=True)
    if DUMP_SIGNAL is not None:
        faulthandler.register(DUMP_SIGNAL, evidence, all_threads=True)
    answers = Answers(pipe)
    requests = os.fdopen(os.dup(pipe), "rb")
    first = _read(requests)
    if first is None:
        return 0
    setup: dict[str, Any] = pickle.loads(first)  # noqa: S301 - from the parent
    try:
        process, fatal = _load(setup, answers)
    except BaseException as error:  # noqa: BLE001 - the user's module may do anything at import, sys.exit() too
        answers.send({"unable": ": ".join(filter(None, (type(error).__name__, _said(error))))})
        return 1
    with mmap.mmap(cells, CELL_BYTES) as memory, memoryview(memory).cast("q") as view:
        answers.send({"ready": os.getpid()})
        _serve(requests, answers, view, process, fatal, timed=setup["timed"])
    return 0


def _shield() -> None:
    """Let signals to the whole group pass. A handler, not SIG_IGN, which the processor's own subprocesses would inherit."""
    for number in SHIELDED:
        signal.signal(number, _nothing)
        signal.siginterrupt(number, False)
    # The parent has blocked them until here.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SHIELDED)


def _nothing(_number: int, _frame: FrameType | None) -> None:
    pass


def _die_with(parent: int, pipe: int) -> None:
    """See to it that this process doesn't outlive its parent, however that ends."""
    if sys.platform == "linux":
        import ctypes

        # PR_SET_PDEATHSIG: even inside a call that never gives up the interpreter's lock. It is bound to the thread that started
        # this process: the worker's, which ends this process before it ends.
        prctl = getattr(ctypes.CDLL(None), "prctl", None)
        if prctl is not None:
            prctl(1, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(NO_PARENT_CODE)
    threading.Thread(target=_watch_parent, args=(pipe,), name="kc-parent", daemon=True).start()


def _watch_parent(pipe: int) -> None:
    """Wait until the parent has closed the pipe; end what hasn't ended by itself soon after."""
    hang_up = select.poll()
    hang_up.register(pipe, 0)
    hang_up.poll()
    time.sleep(EXIT_SECONDS)
    os._exit(NO_PARENT_CODE)


def _load(setup: dict[str, Any], answers: Answers) -> tuple[Callable[[Any], Any], tuple[type[BaseException], ...]]:
    """Make this process like its parent as far as imports go; return the processor and the fatal exceptions."""
    sys.path[:] = setup["path"]
    sys.argv[:] = setup["argv"]
    root = logging.getLogger()
    root.addHandler(Tell(answers))
    root.setLevel(setup["log_level"])
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if name in setup["terminals"]:
            setattr(sys, name, Print(answers, name))
        elif stream is not None:
            stream.reconfigure(line_buffering=True)  # what was printed mustn't die with this process
    if setup["main"]:
        from multiprocessing import spawn

        spawn.prepare(setup["main"])
    if setup["spec"] is not None:
        module, _, path = setup["spec"].partition(":")
        process: Any = importlib.import_module(module)
        for part in path.split("."):
            process = getattr(process, part)
    else:
        process = pickle.loads(setup["processor"])  # noqa: S301 - from the parent
    return process, pickle.loads(setup["fatal"])  # noqa: S301 - from the parent


def _read(requests: io.BufferedReader) -> bytes | None:
    """Return the next frame; None when the parent has closed the pipe."""
    try:
        head = requests.read(LENGTH_BYTES)
        if len(head) < LENGTH_BYTES:
            return None
        length = int.from_bytes(head, "big")
        body = requests.read(length)
    except OSError:  # also a pipe that the processor has closed
        return None
    return body if len(body) == length else None


def _serve(
    requests: io.BufferedReader, answers: Answers, cells: memoryview[int], process: Callable[[Any], Any],
    fatal: tuple[type[BaseException], ...], *, timed: bool,
) -> None:  # fmt: skip
    now = time.monotonic_ns
    while (frame := _read(requests)) is not None:
        index, careful, values = pickle.loads(frame)  # noqa: S301 - from the parent
        for value in values:
            if timed:
                cells[SINCE] = now()
            # First this, then the look at the limit: the parent lowers that, and then looks at this. One sees the other.
            cells[BEGUN] = index + 1
            if index >= cells[LIMIT]:
                cells[BEGUN] = index
                break
            failed = False
            try:
                process(value)
            except BaseException as error:  # noqa: BLE001 - also SystemExit: this process is good for more, the message isn't
                failed = True
                final = not isinstance(error, Exception) or isinstance(error, fatal)
                answers.send(
                    {"failed": index, "type": type(error).__name__, "text": _said(error), "trace": _trace(error), "final": final}
                )
            index += 1
            # After the failure was sent: what is finished has been told.
            cells[FINISHED] = index
            if failed and careful:
                break
        answers.send({"done": index})


def _said(error: BaseException) -> str:
    try:
        return str(error)[:MESSAGE_LIMIT]
    except Exception:  # noqa: BLE001 - whatever the error's own __str__ raises
        return "(the error can't be shown: its __str__ raises)"


def _trace(error: BaseException) -> str:
    try:
        # format_exception prints no local variables: they may hold secrets.
        return "".join(traceback.format_exception(error))[:TRACE_LIMIT]
    except Exception:  # noqa: BLE001 - as above
        return f"{type(error).__name__}: (its traceback can't be shown)"


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:5])))
