"""What the process says while it runs: Rich on a terminal, plain lines in a pipe, JSON on request.

Messages may carry payloads, and payloads are hostile: every text is sanitised before it leaves, in each format, so that
one record is one line and no escape sequence reaches a terminal. Tracebacks keep their lines and never show local variables.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console, ConsoleRenderable
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler
from rich.text import Text

from kafka_consumer.redaction import Redactor
from kafka_consumer.snapshot import LogView, sanitise

LOGGER_NAME = "kafka_consumer"
FORMATS = ("rich", "json")

_MESSAGE_LIMIT = 10_000
_LINE_LIMIT = 2_000
_TRACEBACK_LINES = 200


def one_line(record: logging.LogRecord, limit: int = _MESSAGE_LIMIT) -> str:
    """Return the record's message on one line, sanitised; a record whose arguments don't fit is still shown."""
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001 - formatting calls __str__ of any object that was logged
        # logging would print its own traceback with the raw arguments to stderr; the template alone is safe to show.
        message = f"{record.msg} (the arguments don't fit this message)"
    return sanitise(message, limit)


def traceback_lines(record: logging.LogRecord) -> list[str]:
    """Return the record's traceback and stack, a sanitised line each, without local variables; empty when there is none."""
    text = ""
    if record.exc_info:
        kind, error, trace = _exception(record.exc_info)
        if kind is not None:
            text = "".join(traceback.format_exception(kind, error, trace))
    if record.stack_info:
        text = f"{text.rstrip()}\n{record.stack_info}" if text else record.stack_info
    # split, not splitlines: only the newline separates lines here, other separators are data and become visible escapes.
    lines = [sanitise(line, _LINE_LIMIT) for line in text.rstrip("\n").split("\n")] if text else []
    if len(lines) > _TRACEBACK_LINES:
        half = _TRACEBACK_LINES // 2
        lines = [*lines[:half], f"... {len(lines) - 2 * half} lines left out ...", *lines[-half:]]
    return lines


def _exception(exc_info: Any) -> tuple[type[BaseException] | None, BaseException | None, TracebackType | None]:
    if isinstance(exc_info, BaseException):
        return type(exc_info), exc_info, exc_info.__traceback__
    if isinstance(exc_info, tuple):
        kind, error, trace = exc_info
        return kind, error, trace
    return sys.exc_info()


class PlainFormatter(logging.Formatter):
    """``2026-11-22 14:01:02 WARNING message`` in local time, a traceback below it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text; only a traceback adds lines."""
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        return "\n".join([f"{at} {record.levelname} {one_line(record)}", *traceback_lines(record)])


class MessageFormatter(logging.Formatter):
    """The message and its traceback; Rich adds the time and the level."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text; only a traceback adds lines."""
        return "\n".join([one_line(record), *traceback_lines(record)])


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``ts`` (ISO 8601 with the zone), ``level``, ``logger``, ``message`` and, for errors, ``exc``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON, ASCII only."""
        entry = {
            "ts": datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": sanitise(record.name),
            "message": one_line(record),
        }
        lines = traceback_lines(record)
        if lines:
            entry["exc"] = "\n".join(lines)
        return json.dumps(entry)


class SafeRichHandler(RichHandler):
    """Rich's handler that draws text as text, even for a record that asks for markup or a highlighter of its own."""

    def render_message(self, record: logging.LogRecord, message: str) -> ConsoleRenderable:  # noqa: ARG002 - Rich's signature
        """Return the message without markup, emoji or highlighting."""
        return Text(message)


class LogTail(logging.Handler):
    """The most recent records, for snapshots: bounded, sanitised, shared by threads.

    Any thread logs into it (``logging`` holds the handler's lock around ``emit``), any thread reads a copy with ``tail()``.
    """

    def __init__(self, capacity: int = 200) -> None:
        super().__init__()
        self._records: deque[LogView] = deque(maxlen=capacity)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record; called by ``logging`` with the handler's lock held."""
        message = one_line(record, 500)
        lines = traceback_lines(record) if record.exc_info else []
        if lines:
            # The traceback is in the log; its last line names the error, which is what a tail has room for.
            message = sanitise(f"{message} ({lines[-1]})")
        self._records.append(LogView(at=record.created, level=record.levelname, message=message))

    def tail(self) -> tuple[LogView, ...]:
        """Return the records kept, oldest first."""
        self.acquire()
        try:
            return tuple(self._records)
        finally:
            self.release()


def setup_logging(
    level: str = "INFO", fmt: str = "rich", stream: TextIO | None = None, *, secrets: Mapping[str, Any] | None = None
) -> logging.Handler:
    """Send the whole process's records to ``stream`` (default: stderr) and return the handler that does.

    ``fmt`` is "rich" (plain lines when the stream isn't a terminal) or "json". A handler set up before is replaced;
    other handlers are left alone. ``secrets``: librdkafka's options, whose secret values are hidden. Errors:
    ``ValueError`` for another format or an unknown level.
    """
    if fmt not in FORMATS:
        raise ValueError(f"expected fmt to be one of {', '.join(FORMATS)}, got {fmt!r}")
    target = sys.stderr if stream is None else stream
    handler: logging.Handler
    if fmt == "json":
        handler = logging.StreamHandler(target)
        handler.setFormatter(JsonFormatter())
    elif target.isatty():
        handler = SafeRichHandler(
            console=Console(file=target, markup=False, emoji=False, highlight=False),
            show_path=False, markup=False, rich_tracebacks=False, tracebacks_show_locals=False,
            highlighter=NullHighlighter(), keywords=[], log_time_format="%Y-%m-%d %H:%M:%S", omit_repeated_times=False,
        )
        handler.setFormatter(MessageFormatter())
    else:
        handler = logging.StreamHandler(target)
        handler.setFormatter(PlainFormatter())
    handler.set_name("kc")
    handler.addFilter(Redactor(secrets or {}))
    root = logging.getLogger()
    root.setLevel(level)
    for old in [old for old in root.handlers if old.get_name() == "kc"]:
        root.removeHandler(old)
    root.addHandler(handler)
    return handler


def log_everything() -> None:
    """Send warnings and exceptions that nothing caught to the log, sanitised, instead of raw to stderr; for a process's entry."""
    logging.captureWarnings(True)
    logger = logging.getLogger(LOGGER_NAME)

    def from_main(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        logger.critical("unexpected error: %s", kind.__name__, exc_info=(kind, error, trace))

    def from_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is None or issubclass(args.exc_type, SystemExit):
            return
        name = args.thread.name if args.thread is not None else "unknown"
        logger.critical("unexpected error in thread %s: %s", name, args.exc_type.__name__,
                        exc_info=(args.exc_type, args.exc_value, args.exc_traceback))

    sys.excepthook = from_main
    threading.excepthook = from_thread
