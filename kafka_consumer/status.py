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
from contextlib import contextmanager
from typing import Any

import click

from kafka_consumer.errors import KafkaConsumerError
from kafka_consumer.snapshot import sanitise
from kafka_consumer.unix_socket import accepted_path

EXIT_OK = 0
EXIT_FAILURE = 1

ANSWER_SECONDS = 10.0  # for a connection and for each line
WATCH_SECONDS = 1.0
WAKE_SECONDS = 0.5  # between the first snapshot and the one that is shown
MAX_BYTES = 64 * 1024 * 1024
FAILING_FRACTION = 0.05


class StatusError(KafkaConsumerError, RuntimeError):
    """No snapshot can be had; the message is one line for the user."""


def show_status(path: str, *, as_json: bool = False, watch: bool = False) -> int:
    """Print a consumer's status, once or every second until interrupted or until it has ended; return the exit code."""
    shown = False
    try:
        with _connected(path) as connection:
            for snapshot in _snapshots(connection, path, WATCH_SECONDS if watch else WAKE_SECONDS):
                text = json.dumps(snapshot, separators=(",", ":")) if as_json else _described(snapshot, path)
                click.echo(text if as_json or not shown else f"\n{text}")
                shown = True
                if not watch:
                    return EXIT_OK
    except StatusError as error:
        click.echo(str(error), err=True)
        return EXIT_FAILURE
    except KeyboardInterrupt:
        return EXIT_OK
    click.echo(f"{sanitise(path, 200)}: the consumer has ended", err=True)
    return EXIT_OK


# --- the socket ---------------------------------------------------------------------------------------------------------------


@contextmanager
def _connected(path: str) -> Iterator[socket.socket]:
    shown = sanitise(path, 200)
    expected = accepted_path(path)
    if expected is not None:
        raise StatusError(f"no consumer can be reached at {shown}: expected {expected}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_SECONDS)
        try:
            connection.connect(path)
            yield connection
        except TimeoutError:
            raise StatusError(f"{shown}: no answer within {ANSWER_SECONDS:g} s") from None
        except OSError as error:
            said = os.strerror(error.errno) if error.errno else str(error)
            raise StatusError(f"no consumer can be reached at {shown}: {said}") from None


def _snapshots(connection: socket.socket, path: str, interval: float) -> Iterator[dict[str, Any]]:
    """Yield snapshots until the consumer has ended.

    The first one is passed over: high watermarks and rates are kept up only while somebody looks, so it would tell those of
    the last time. A consumer that ends before the second is told by the first.
    """
    connection.sendall(json.dumps({"id": "status", "command": "subscribe", "args": {"interval_seconds": interval}}).encode() + b"\n")
    first: dict[str, Any] | None = None
    started = time.monotonic()
    told = False
    for line in _lines(connection, path):
        message = _parsed(line, path)
        if message.get("type") == "error":
            raise StatusError(f"{sanitise(path, 200)}: {sanitise(str(message.get('error')), 300)}")
        snapshot = message.get("snapshot") if message.get("type") == "snapshot" else None
        if not isinstance(snapshot, dict):
            continue
        if first is None:
            first = snapshot
        # The subscription brings one at once: too early for figures that the first has only woken.
        if time.monotonic() - started >= WAKE_SECONDS or snapshot.get("phase") in ("stopped", "failed"):
            told = True
            yield snapshot
    if not told and first is not None:
        yield first
    elif not told:
        raise StatusError(f"{sanitise(path, 200)}: the connection was closed before a snapshot came")


def _lines(connection: socket.socket, path: str) -> Iterator[bytes]:
    """Yield complete lines until the other end closes the connection."""
    incoming = bytearray()
    while True:
        try:
            data = connection.recv(1024 * 1024)
        except ConnectionResetError:
            return
        if not data:
            return
        incoming += data
        *lines, incoming = incoming.split(b"\n")
        yield from map(bytes, lines)
        if len(incoming) > MAX_BYTES:
            raise StatusError(f"{sanitise(path, 200)}: expected lines of JSON, got one without end")


def _parsed(line: bytes, path: str) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise StatusError(f"{sanitise(path, 200)}: expected a consumer there, got something that doesn't speak its language")
    return message


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
    flags = [f"commits {'OFF (dev mode)' if s['dev_mode'] else 'on'}"] + (["paused by the operator"] if s["paused"] else [])
    lines = [
        f"{_text(s['topic'])}  group {_text(s['group_id'])}  pid {s['pid']}  up {_duration(s['uptime_seconds'])}  {', '.join(flags)}",
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
        return "PAUSED: by the operator"
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
        f"{'TOPIC':<20} {'PARTITION':>9}  {'STATE':<8} {'POSITION':>13} {'COMMITTED':>13} {'HIGH':>13} {'LAG':>11} {'IN FLIGHT':>9} "
        f"{'RATE':>9}  ETA",
    ]
    for view in partitions:
        offsets = " ".join(f"{_number(view[name]):>13}" for name in ("position", "committed", "high_watermark"))
        eta = "-" if view["eta_seconds"] is None else _duration(view["eta_seconds"])
        lines.append(
            f"{_text(view['topic']):<20} {view['partition']:>9}  {_text(view['state']):<8} {offsets} {_number(view['lag']):>11} "
            f"{view['in_flight']:>9,} {view['rate']:>7,.1f}/s  {eta}"
        )
    return lines


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
