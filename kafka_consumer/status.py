"""``kc status``: a running consumer in plain text, for scripts and for people without a console.

What comes over the socket may be of another version, so it is read with care, and sanitised before it is printed.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import click

from kafka_consumer.errors import KafkaConsumerError
from kafka_consumer.snapshot import sanitise
from kafka_consumer.unix_socket import accepted_path, stranger

EXIT_OK = 0
EXIT_FAILURE = 1

ANSWER_SECONDS = 10.0  # for a connection and for whatever comes next
SECOND_SECONDS = 2.0  # for the second snapshot
WAKE_SECONDS = 0.3  # between the first snapshot and one that is shown
WATCH_SECONDS = 1.0
MAX_BYTES = 64 * 1024 * 1024
FAILING_FRACTION = 0.05

_ENDED = ("stopped", "failed")


class StatusError(KafkaConsumerError, RuntimeError):
    """No snapshot can be had; the message is one line for the user."""


def show_status(path: str, *, as_json: bool = False, watch: bool = False) -> int:
    """Print a consumer's status, once or every second until interrupted or until it has ended; return the exit code."""
    phase = None
    try:
        with _connect(path) as connection:
            for snapshot in _snapshots(connection, path, watch=watch):
                text = json.dumps(snapshot, separators=(",", ":")) if as_json else _described(snapshot, path)
                click.echo(text if as_json or phase is None else f"\n{text}")
                phase = str(snapshot.get("phase"))
                if not watch:
                    return EXIT_OK
    except StatusError as error:
        click.echo(str(error), err=True)
        return EXIT_FAILURE
    except KeyboardInterrupt:
        if not watch:
            raise
        return EXIT_OK
    ended = phase in _ENDED
    click.echo(f"{sanitise(path, 200)}: {'the consumer has ended' if ended else 'the connection was closed'}", err=True)
    return EXIT_OK if ended else EXIT_FAILURE


# --- the socket ---------------------------------------------------------------------------------------------------------------


def _connect(path: str) -> socket.socket:
    expected = accepted_path(path)
    if expected is not None:
        raise StatusError(f"no consumer can be reached at {sanitise(path, 200)}: expected {expected}")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(ANSWER_SECONDS)
    try:
        connection.connect(path)
        said = stranger(connection)
    except OSError as error:
        said = os.strerror(error.errno) if error.errno else str(error)
    if said is not None:
        connection.close()
        raise StatusError(f"no consumer can be reached at {sanitise(path, 200)}: {said}")
    return connection


def _snapshots(connection: socket.socket, path: str, *, watch: bool) -> Iterator[dict[str, Any]]:
    """Yield snapshots until the consumer has ended.

    The first one is passed over: high watermarks and rates are kept up only while somebody looks, so it would tell those of
    the last time. Where no second one follows, the first is better than none.
    """
    if watch:
        request = {"id": "status", "command": "subscribe", "args": {"interval_seconds": WATCH_SECONDS}}
        # Refused already: why is still to be read.
        with suppress(OSError):
            connection.sendall(json.dumps(request).encode() + b"\n")
    first: dict[str, Any] | None = None
    first_at = 0.0
    told = False
    try:
        for line in _lines(connection, path):
            snapshot = _snapshot(line, path)
            if snapshot is None:
                continue
            now = time.monotonic()
            if first is None:
                first, first_at = snapshot, now
                connection.settimeout(SECOND_SECONDS)
            if told or snapshot.get("phase") in _ENDED or now - first_at >= WAKE_SECONDS:
                told = True
                connection.settimeout(ANSWER_SECONDS)
                yield snapshot
    except TimeoutError:
        if told or first is None:
            raise StatusError(f"{sanitise(path, 200)}: no answer within {ANSWER_SECONDS:g} s") from None
    if first is None:
        raise StatusError(f"{sanitise(path, 200)}: the connection was closed before a snapshot came")
    if not told:
        yield first


def _lines(connection: socket.socket, path: str) -> Iterator[bytes]:
    """Yield complete lines until the other end closes the connection."""
    incoming = bytearray()
    while True:
        try:
            data = connection.recv(1024 * 1024)
        except ConnectionResetError:
            return
        except TimeoutError:
            raise
        except OSError as error:
            raise StatusError(f"{sanitise(path, 200)}: {os.strerror(error.errno) if error.errno else error}") from None
        if not data:
            return
        incoming += data
        *lines, incoming = incoming.split(b"\n")
        yield from map(bytes, lines)
        if len(incoming) > MAX_BYTES:
            raise StatusError(f"{sanitise(path, 200)}: expected lines of JSON, got one without end")


def _snapshot(line: bytes, path: str) -> dict[str, Any] | None:
    """Return the snapshot on a line, None when it is about something else. Errors: ``StatusError``."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise StatusError(f"{sanitise(path, 200)}: expected a consumer there, got something that doesn't speak its language")
    if message.get("type") == "error":
        raise StatusError(f"{sanitise(path, 200)}: {sanitise(str(message.get('error')), 300)}")
    snapshot = message.get("snapshot") if message.get("type") == "snapshot" else None
    return snapshot if isinstance(snapshot, dict) else None


# --- the text -----------------------------------------------------------------------------------------------------------------


def _described(snapshot: Mapping[str, Any], path: str) -> str:
    try:
        return describe(snapshot)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        said = f"{type(error).__name__}: {sanitise(str(error), 100)}"
        raise StatusError(f"{sanitise(path, 200)}: a snapshot that this version can't read ({said}); try --json") from None


def describe(snapshot: Mapping[str, Any]) -> str:
    """Return a snapshot (as plain objects) as lines of text. Errors: those of Python for a field that is missing or odd."""
    s = snapshot
    flags = [f"commits {'OFF (dev mode)' if s['dev_mode'] else 'on'}"] + (["paused"] if s["paused"] else [])
    who = f"{_text(s['topic'])}  group {_text(s['group_id'])}  pid {s['pid']}"
    lines = [
        f"{who}  up {_duration(s['uptime_seconds'])}  {', '.join(flags)}",
        f"health      {health(s)}",
        f"phase       {_text(s['phase'])}" + (f": {_text(s['stop_reason'])}" if s["stop_reason"] else ""),
    ]
    lines += _replay(s["replay"])
    lines.append("rates       " + ", ".join(f"{name} {value:,.1f}/s" for name, value in s["rates"].items()))
    for name, figures in s["latency"].items():
        shown = ", ".join(f"{which} {_milliseconds(value)}" for which, value in figures.items())
        lines.append(f"latency     {_text(name).replace('_', ' ')}: {shown}")
    lines += _workers(s["workers"])
    lines.append("queues      " + ", ".join(_queue(name, queue) for name, queue in s["queues"].items()))
    lines.append("totals      " + ", ".join(f"{_text(name).replace('_', ' ')} {value:,}" for name, value in s["totals"].items()))
    lines += _dead_letters(s["dlq_tail"], s["totals"]["dlq_written"])
    lines += _partitions(s["partitions"])
    return "\n".join(lines)


def health(snapshot: Mapping[str, Any]) -> str:
    """Return the worst of what is true, a word first: OK, PAUSED, FAILING, STUCK, or the phase when it isn't running."""
    phase = snapshot["phase"]
    if phase != "running":
        return _text(phase).upper()
    stuck = [worker["busy_seconds"] for worker in snapshot["workers"] if worker["state"] == "stuck"]
    if stuck:
        return f"STUCK: {_count(len(stuck), 'worker')}, the longest for {_duration(max(stuck))}"
    if snapshot["paused"]:
        return f"PAUSED: {_text(snapshot['pause_reason'])}" if snapshot.get("pause_reason") else "PAUSED: by the operator"
    rates = snapshot["rates"]
    if rates["failed"] > 0 and rates["failed"] >= FAILING_FRACTION * (rates["processed"] + rates["failed"]):
        return f"FAILING: {rates['failed']:,.1f} messages a second fail"
    return "OK"


def _replay(replay: Mapping[str, Any] | None) -> list[str]:
    if replay is None:
        return []
    done, total = replay["done"], replay["total"]
    percent = 100 * done / total if total else 100.0
    eta = "" if replay["eta_seconds"] is None else f", {_duration(replay['eta_seconds'])} left"
    return [f"replay      {done:,} of {total:,} ({percent:.0f} %){eta}"]


def _workers(workers: list[Mapping[str, Any]]) -> list[str]:
    states = Counter(_text(worker["state"]) for worker in workers)
    order = [*("busy", "idle", "stuck"), *sorted(states.keys() - {"busy", "idle", "stuck"})]
    lines = ["workers     " + ", ".join(f"{states[state]} {state}" for state in order)]
    for worker in workers:
        if worker["state"] == "stuck":
            where = f"{_text(worker['topic'] or '')}-{worker['partition']}@{worker['offset']}"
            lines.append(f"            worker {worker['id']} is stuck with {where} for {_duration(worker['busy_seconds'])}")
    return lines


def _queue(name: str, queue: Mapping[str, Any]) -> str:
    capacity = "" if queue["capacity"] is None else f"/{queue['capacity']:,}"
    size = f" ({queue['bytes']:,} bytes)" if queue["bytes"] else ""
    return f"{_text(name)} {queue['depth']:,}{capacity}{size}"


def _dead_letters(tail: list[Mapping[str, Any]], written: int) -> list[str]:
    line = f"DLQ         {written:,} written"
    if tail:
        last = tail[-1]
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last["at"]))
        line += f"; the last at {at}: {_text(last['topic'])}-{last['partition']}@{last['offset']}"
        line += f" {_text(last['error_type'])}: {sanitise(str(last['error_message']), 120)}"
    return [line]


def _partitions(partitions: list[Mapping[str, Any]]) -> list[str]:
    if not partitions:
        return ["partitions  none assigned"]
    known = [view["lag"] for view in partitions if view["lag"] is not None]
    unknown = len(partitions) - len(known)
    lines = [
        f"partitions  {len(partitions)}, lag {sum(known):,}" + (f" ({unknown} unknown)" if unknown else ""),
        _row("TOPIC", "PARTITION", "STATE", "POSITION", "COMMITTED", "HIGH", "LAG", "IN FLIGHT", "RATE", "ETA"),
    ]
    for view in partitions:
        figures = (_number(view[name]) for name in ("position", "committed", "high_watermark", "lag", "in_flight"))
        eta = "-" if view["eta_seconds"] is None else _duration(view["eta_seconds"])
        rate = f"{view['rate']:,.1f}/s"
        lines.append(_row(_text(view["topic"]), str(view["partition"]), _text(view["state"]), *figures, rate, eta))
    return lines


def _row(topic: str, partition: str, state: str, *figures: str) -> str:
    """Return a line of the table of partitions; ``figures``: four offsets, messages in flight, the rate, the time left."""
    *numbers, eta = figures
    return f"{topic:<20} {partition:>9}  {state:<8} " + " ".join(f"{number:>12}" for number in numbers) + f"  {eta}"


def _text(value: Any) -> str:
    return sanitise(str(value), 200)


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:,}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:,.1f} ms"


def _duration(seconds: float) -> str:
    """Return ``47 s``, ``12 min 5 s``, ``3 h 12 min`` or ``5 d 2 h``."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"
