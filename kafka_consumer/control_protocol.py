"""What travels over the control socket: one JSON object a line, each with a ``type``.

From the consumer: ``hello`` once, then ``snapshot``, ``reply`` (to a command) and ``error`` (to a line that is none). From the
client: commands, ``{"id": 1, "command": "pause", "args": {"partitions": [["orders", 0]]}, "expires_seconds": 10}``.

``read_command`` checks everything about a command that can be checked without a consumer. What it doesn't know it refuses: a
misspelt ``partitions`` must not pause them all.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NoReturn

from kafka_consumer.option_checks import LOG_LEVELS
from kafka_consumer.replay_bounds import parse_bound
from kafka_consumer.snapshot import Snapshot, sanitise

PROTOCOL = 1
MAX_LINE_BYTES = 64 * 1024
EXPIRES_SECONDS = 30.0
"""A command that nobody began by then isn't carried out: whoever gave it no longer expects it."""

INTERVAL_SECONDS = 0.5
"""Between two snapshots, unless the client subscribes to another interval."""
MIN_INTERVAL_SECONDS = 0.1
MAX_SECONDS = 86_400.0
MAX_PER_SECOND = 1e9


class Status(StrEnum):
    """How a command fares; all but ``ACCEPTED`` are final."""

    ACCEPTED = "accepted"
    APPLIED = "applied"
    REFUSED = "refused"
    LOST_PARTITION = "lost_partition"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Command:
    """A sound command: ``args`` are keyword arguments for the consumer's method of that name."""

    id: str | int
    name: str
    args: dict[str, Any]
    expires_seconds: float = EXPIRES_SECONDS

    def __str__(self) -> str:
        """Return it on one clean line, for the log."""
        return sanitise(" ".join([self.name, *(f"{name}={json.dumps(value)}" for name, value in self.args.items())]), 300)


class MalformedError(ValueError):
    """A line isn't a command, so there is nothing to reply to; answered with an ``error``."""


class RefusedError(ValueError):
    """A command can't be carried out as it stands; answered with a ``reply``. ``id`` is the command's."""

    def __init__(self, identity: str | int, reason: str) -> None:
        super().__init__(reason)
        self.id = identity


# --- arguments ----------------------------------------------------------------------------------------------------------------


def _shown(value: Any) -> str:
    return sanitise(repr(value), 100)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, got {_shown(value)}")  # noqa: TRY004 - each refusal is a ValueError
    return value


def _worker_count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1000:
        raise ValueError(f"expected an integer from 1 to 1,000, got {_shown(value)}")
    return value


def _level(value: Any) -> str:
    if not isinstance(value, str) or value.upper() not in LOG_LEVELS:
        raise ValueError(f"expected one of {', '.join(LOG_LEVELS)}, got {_shown(value)}")
    return value.upper()


def _is_number(value: Any, least: float, most: float) -> bool:
    # The comparison comes first: an integer may be too large to become a float.
    return not isinstance(value, bool) and isinstance(value, int | float) and least <= value <= most and math.isfinite(value)


def _rate(value: Any) -> float | None:
    if value is None:
        return None
    if not _is_number(value, 1, MAX_PER_SECOND):
        raise ValueError(f"expected null or a number from 1 to {MAX_PER_SECOND:,.0f}, got {_shown(value)}")
    return float(value)


def _interval(value: Any) -> float:
    if not (_is_number(value, 0, 0) or _is_number(value, MIN_INTERVAL_SECONDS, MAX_SECONDS)):
        raise ValueError(f"expected 0 (none) or from {MIN_INTERVAL_SECONDS:g} to {MAX_SECONDS:,.0f} seconds, got {_shown(value)}")
    return float(value)


def _reason(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"expected a text, got {_shown(value)}")  # noqa: TRY004 - each refusal is a ValueError
    return sanitise(value, 200).strip() or None


def _partitions(value: Any) -> list[tuple[str, int]] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value:
        raise ValueError(f"expected null (all) or a list of [topic, partition], got {_shown(value)}")
    return [_partition(item) for item in value]


def _some_partitions(value: Any) -> list[tuple[str, int]]:
    found = _partitions(value)
    if found is None:
        raise ValueError("expected a list of [topic, partition], got null")
    return found


def _where(value: Any) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63:
        return value
    try:
        if isinstance(value, str) and not parse_bound([value]).offsets:
            return value
    except ValueError:
        pass
    raise ValueError(f"expected an offset, earliest, latest, an ISO time or -2h, got {_shown(value)}")


def _partition(item: Any) -> tuple[str, int]:
    if isinstance(item, dict) and item.keys() == {"topic", "partition"}:
        item = [item["topic"], item["partition"]]
    if isinstance(item, list) and len(item) == 2:
        topic, partition = item
        if isinstance(topic, str) and topic and isinstance(partition, int) and not isinstance(partition, bool) and partition >= 0:
            return topic, partition
    raise ValueError(f"expected [topic, partition], got {_shown(item)}")


def _records(value: Any) -> list[tuple[str, int, int]]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"expected a list of [topic, partition, offset], got {_shown(value)}")
    return [_record(item) for item in value]


def _record(item: Any) -> tuple[str, int, int]:
    if isinstance(item, list) and len(item) == 3:
        topic, *numbers = item
        sound = all(isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 1 << 63 for number in numbers)
        if isinstance(topic, str) and topic and sound:
            return topic, numbers[0], numbers[1]
    raise ValueError(f"expected [topic, partition, offset], got {_shown(item)}")


def _pace(value: Any) -> float | None:
    if value is None:
        return None
    if not (_is_number(value, 0, MAX_PER_SECOND) and value > 0):
        raise ValueError(f"expected null or a number above 0, up to {MAX_PER_SECOND:,.0f}, got {_shown(value)}")
    return float(value)


@dataclass(frozen=True, slots=True)
class _Argument:
    read: Callable[[Any], Any]  # returns the value for the consumer, or raises ValueError: "expected ..., got ..."
    required: bool = True


_ARGUMENTS: Mapping[str, Mapping[str, _Argument]] = {
    "stop": {"reason": _Argument(_reason, required=False)},
    "pause": {"partitions": _Argument(_partitions, required=False)},
    "resume": {"partitions": _Argument(_partitions, required=False)},
    "set_dev_mode": {"enabled": _Argument(_boolean)},
    "set_workers": {"count": _Argument(_worker_count)},
    "set_log_level": {"level": _Argument(_level)},
    "set_rate_limit": {"per_second": _Argument(_rate)},
    "seek": {"partitions": _Argument(_some_partitions), "to": _Argument(_where)},
    "redrive": {"records": _Argument(_records), "per_second": _Argument(_pace, required=False)},
    "subscribe": {"interval_seconds": _Argument(_interval)},
}
_FIELDS = ("type", "id", "command", "args", "expires_seconds")
_ARGUMENT_NAMES = frozenset(name for arguments in _ARGUMENTS.values() for name in arguments)

COMMANDS = tuple(_ARGUMENTS)
"""Every command that is answered by name."""


# --- from the client ----------------------------------------------------------------------------------------------------------


def read_command(line: bytes) -> Command:
    """Return the command on a line. Errors: ``MalformedError``, ``RefusedError``; their text is clean and short."""
    try:
        message = json.loads(line.decode(), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise MalformedError(f"expected UTF-8, got something else at byte {error.start}") from None
    except (ValueError, RecursionError):
        raise MalformedError("expected a line of JSON, got something else") from None
    if not isinstance(message, dict):
        raise MalformedError(f"expected a JSON object, got {_shown(message)}")
    identity = message.get("id")
    if isinstance(identity, bool) or not isinstance(identity, str | int) or len(str(identity)) > 200:
        raise MalformedError(f"expected an id, a text of at most 200 characters or an integer, got {_shown(identity)}")
    try:
        return _read(identity, message)
    except ValueError as error:
        raise RefusedError(identity, str(error)) from None


def _read(identity: str | int, message: Mapping[str, Any]) -> Command:
    if message.get("type", "command") != "command":
        raise ValueError(f"type: expected 'command', got {_shown(message['type'])}")
    name = message.get("command")
    if not isinstance(name, str) or name not in _ARGUMENTS:
        raise ValueError(f"command: expected one of {', '.join(COMMANDS)}, got {_shown(name)}")
    # Other fields are a later protocol's; an argument in the wrong place is a mistake with consequences.
    misplaced = [field for field in message if field not in _FIELDS and field in _ARGUMENT_NAMES]
    if misplaced:
        raise ValueError(f"{misplaced[0]}: expected within args")
    expires = message.get("expires_seconds")
    if expires is None:
        expires = EXPIRES_SECONDS
    elif not _is_number(expires, 0, MAX_SECONDS):
        raise ValueError(f"expires_seconds: expected from 0 to {MAX_SECONDS:,.0f}, got {_shown(expires)}")
    return Command(identity, name, _read_arguments(name, message.get("args")), float(expires))


def _read_arguments(command: str, given: Any) -> dict[str, Any]:
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise ValueError(f"args: expected an object, got {_shown(given)}")  # noqa: TRY004 - each refusal is a ValueError
    accepted = _ARGUMENTS[command]
    for name in given:
        if name not in accepted:
            raise ValueError(f"args: {command} takes {' and '.join(accepted)}, got {_shown(name)}")
    values = {}
    for name, argument in accepted.items():
        if name in given:
            try:
                values[name] = argument.read(given[name])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        elif argument.required:
            raise ValueError(f"{name}: missing from args")
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} isn't JSON")


# --- from the consumer --------------------------------------------------------------------------------------------------------


def hello_line() -> bytes:
    """Return what a client hears first. ``role`` is what it may do: an operator may do everything."""
    from kafka_consumer import __version__

    about = {"protocol": PROTOCOL, "version": __version__, "pid": os.getpid(), "role": "operator", "commands": COMMANDS}
    return _line({"type": "hello", **about})


def snapshot_line(snapshot: Snapshot) -> bytes:
    """Return a snapshot on its way."""
    return _line({"type": "snapshot", "snapshot": snapshot})


def reply_line(identity: str | int, status: Status, reason: str = "") -> bytes:
    """Return what became of a command."""
    return _line({"type": "reply", "id": identity, "status": status.value, "reason": sanitise(reason)})


def error_line(error: str) -> bytes:
    """Return what was wrong with a line, or why the connection ends."""
    return _line({"type": "error", "error": sanitise(error)})


def _line(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":"), default=_fields).encode() + b"\n"


def _fields(value: Any) -> dict[str, Any]:
    """Return a frozen view's fields, for JSON; unlike ``dataclasses.asdict`` nothing is copied that is only read."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}
