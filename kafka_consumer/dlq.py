"""``kc dlq list`` and ``kc dlq show``: dead letters as groups, and one by one, for people and for programs.

What failed is what somebody else wrote: every text is sanitised before it is printed, and drawn as text, never as markup.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kafka_consumer.dlq_files import StoredMessage
from kafka_consumer.snapshot import sanitise

SHOWN_CHARACTERS = 4_000  # of a value, unless all of it is asked for
SHOWN_LINES = 200
_HEADINGS = ("hour", "error", "topic", "letters", "redriven", "first", "last")


@dataclass(slots=True)
class Group:
    """Dead letters of one hour, error type and topic. ``first`` and ``last`` are when they failed, in ISO 8601."""

    hour: str
    error: str
    topic: str
    letters: int = 0
    redriven: int = 0
    first: str = ""
    last: str = ""

    def add(self, at: str, *, redriven: bool) -> None:
        """Count one."""
        self.letters += 1
        self.redriven += redriven
        self.first = min(self.first or at, at)
        self.last = max(self.last, at)


def groups_of(messages: Iterable[StoredMessage], done: set[bytes]) -> list[Group]:
    """Return the groups, oldest hour first; ``done`` are the digests of what was redriven."""
    found: dict[tuple[str, str, str], Group] = {}
    for message in messages:
        error = "" if message.evidence is None else message.evidence.error_type
        key = (message.at[:13], error, message.topic)
        group = found.get(key)
        if group is None:
            group = found[key] = Group(*key)
        # A digest reads the whole message: only where there is something to compare it with.
        group.add(message.at, redriven=bool(done) and message.digest() in done)
    return [found[key] for key in sorted(found)]


# --- list -----------------------------------------------------------------------------------------------------------------------


def print_groups(groups: Sequence[Group], *, as_json: bool, terminal: bool) -> None:
    """Print them: as one line of JSON (a list of objects), as a table on a terminal, else as aligned columns."""
    if as_json:
        click.echo(json.dumps([{name: getattr(group, name) for name in Group.__dataclass_fields__} for group in groups]))
        return
    rows = [_row(group) for group in groups]
    total, redriven = sum(group.letters for group in groups), sum(group.redriven for group in groups)
    if not groups:
        click.echo("no dead letters")
        return
    if terminal:
        _print_table(rows)
    else:
        widths = [max(len(row[column]) for row in [_HEADINGS, *rows]) for column in range(len(_HEADINGS))]
        for row in [_HEADINGS, *rows]:
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    noun = "dead letter" if total == 1 else "dead letters"
    click.echo(f"{total:,} {noun}" + (f", {redriven:,} of them redriven" if redriven else ""))


def _row(group: Group) -> tuple[str, ...]:
    # Without the date, which the hour has, and without the zone: a table is for looking at.
    first, last = (_clock(text) for text in (group.first, group.last))
    hour = f"{group.hour.replace('T', ' ')}h"
    return (
        sanitise(hour, 40), sanitise(group.error, 60), sanitise(group.topic, 100), f"{group.letters:,}", f"{group.redriven:,}",
        first, last,
    )  # fmt: skip


def _clock(at: str) -> str:
    try:
        return f"{datetime.fromisoformat(at):%H:%M:%S}"
    except ValueError:
        return sanitise(at, 40)


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in _HEADINGS:
        table.add_column(Text(heading), justify="right" if heading in ("letters", "redriven") else "left", overflow="fold")
    for row in rows:
        cells = [Text(cell) for cell in row]
        cells[1].stylize("red")
        table.add_row(*cells)
    Console(markup=False, emoji=False, highlight=False).print(table)


# --- show -----------------------------------------------------------------------------------------------------------------------


def print_message(message: StoredMessage, *, full: bool = False, redriven: bool = False) -> None:
    """Print a dead letter: where and why, key, headers, value and trace; ``full``: the whole of it."""
    console = Console(markup=False, emoji=False, highlight=False, soft_wrap=True)
    place = f"{message.topic}-{message.partition}@{message.offset}"
    evidence = message.evidence
    error = f"{evidence.error_type}: {evidence.error_message}" if evidence is not None else ""
    console.print(Text.assemble((sanitise(place, 300), "bold"), "  ", (sanitise(error, 2_000), "red")))
    called = "" if evidence is None else _called(evidence.attempts, evidence.worker_id)
    _print_field(console, "failed", [f"{message.at}{called}{'; redriven since' if redriven else ''}"])
    _print_field(console, "stands in", [message.place])
    if message.timestamp is not None:
        _print_field(console, "timestamp", [_moment(message.timestamp)])
    _print_field(console, "key", _lines(message.key, full=full))
    for name, value in message.headers:
        first, *rest = _lines(value, full=full)
        _print_field(console, "header", [f"{name}: {first}", *rest])
    _print_field(console, "value", _lines(message.value, full=full))
    if evidence is not None:
        trace = evidence.stack_trace.rstrip("\n").split("\n")
        _print_field(console, "trace", trace if full else _shortened(trace))


def _called(attempts: int, worker: int | None) -> str:
    calls = "the processor wasn't called" if not attempts else "1 attempt" if attempts == 1 else f"{attempts:,} attempts"
    return f", {calls}" + ("" if worker is None else f", worker {worker}")


def _moment(milliseconds: int) -> str:
    try:
        return f"{datetime.fromtimestamp(milliseconds / 1000).astimezone().isoformat(timespec='milliseconds')} ({milliseconds})"
    except (OverflowError, ValueError, OSError):
        return str(milliseconds)


def _lines(data: bytes | None, *, full: bool) -> list[str]:
    """Return bytes for people; what isn't text is in base64."""
    if data is None:
        return ["(null)"]
    if not data:
        return ["(empty)"]
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = f"(not UTF-8; base64) {b64encode(data).decode()}"
    if full:
        return text.split("\n")
    cut = text[:SHOWN_CHARACTERS].split("\n")
    more = [f"… {len(data):,} bytes in all; --full shows them"] if len(text) > SHOWN_CHARACTERS else []
    return _shortened(cut) + more


def _shortened(lines: list[str]) -> list[str]:
    if len(lines) <= SHOWN_LINES:
        return lines
    half = SHOWN_LINES // 2
    return [*lines[:half], f"… {len(lines) - 2 * half:,} lines left out; --full shows them", *lines[-half:]]


def _print_field(console: Console, name: str, lines: Sequence[str]) -> None:
    for at, line in enumerate(lines):
        clean = sanitise(line, max(len(line) * 6 + 1, 1))  # an escape has six characters at the most: nothing is cut here
        console.print(Text.assemble((f"  {name if not at else '':<10}", "dim"), clean))


def json_line(message: StoredMessage, *, redriven: bool) -> str:
    """Return a dead letter as one line of JSON, ASCII only; key, value and headers as ``{"text": …}`` or ``{"base64": …}``."""
    evidence = message.evidence
    return json.dumps({
        "topic": message.topic, "partition": message.partition, "offset": message.offset, "timestamp": message.timestamp,
        "key": _plain(message.key), "value": _plain(message.value),
        "headers": [[name, _plain(value)] for name, value in message.headers], "failed_at": message.at,
        "error_type": evidence.error_type if evidence else None, "error_message": evidence.error_message if evidence else None,
        "stack_trace": evidence.stack_trace if evidence else None, "attempts": evidence.attempts if evidence else None,
        "worker_id": evidence.worker_id if evidence else None, "redriven": redriven, "file": message.path, "line": message.line,
    })  # fmt: skip


def _plain(data: bytes | None) -> dict[str, str] | None:
    if data is None:
        return None
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": b64encode(data).decode()}
