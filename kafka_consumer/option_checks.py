"""What each option accepts. A check returns what is accepted when a value isn't, else None; messages are built from that."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

from kafka_consumer.errors import ConfigError
from kafka_consumer.replay_bounds import parse_bound

MIB = 1024 * 1024
MAX_HOURS = 1_000_000  # a century: what dates can be compared with
SECRET = "[hidden]"  # noqa: S105 - the mask, not a secret

Check = Callable[[Any], str | None]
"""Returns what is accepted when the value isn't, else None."""

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

MANAGED_KAFKA_OPTIONS: Mapping[str, str] = {
    "bootstrap.servers": "use the option bootstrap_servers",
    "group.id": "use the option group_id",
    "enable.auto.commit": "offsets are committed by kc, only up to what is really finished",
    "enable.auto.offset.store": "offsets are committed by kc, only up to what is really finished",
}
"""Options of librdkafka that would break a guarantee or contradict an option of ours."""


def is_int(value: Any) -> bool:
    """Whether this is an integer, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether this is a finite number, and not a bool."""
    # The upper bound is what a lock can wait for: some 290 years. It also keeps out inf, nan and integers no float can hold.
    return (is_int(value) or isinstance(value, float)) and -threading.TIMEOUT_MAX < value < threading.TIMEOUT_MAX


def integer(low: int, high: int | None = None) -> Check:
    """Accept an integer from ``low`` to ``high``, both included."""
    accepted = f"an integer of at least {low:,}" if high is None else f"an integer from {low:,} to {high:,}"

    def check(value: Any) -> str | None:
        return None if is_int(value) and value >= low and (high is None or value <= high) else accepted

    return check


def seconds(*, zero: bool = False) -> Check:
    """Accept a finite number of seconds above zero, or from zero."""
    accepted = "a number of seconds of at least 0" if zero else "a number of seconds above 0"

    def check(value: Any) -> str | None:
        return None if is_number(value) and (value > 0 or (zero and value == 0)) else accepted

    return check


def hours(value: Any) -> str | None:
    """Accept a number of hours above zero."""
    return None if is_number(value) and 0 < value <= MAX_HOURS else f"a number of hours above 0, at the most {MAX_HOURS:,}"


def ratio() -> Check:
    """Accept a number above 0, up to 1."""

    def check(value: Any) -> str | None:
        return None if is_number(value) and 0 < value <= 1 else "a number above 0, up to 1"

    return check


def at_least(low: float) -> Check:
    """Accept a finite number from ``low`` on."""

    def check(value: Any) -> str | None:
        return None if is_number(value) and value >= low else f"a number of at least {low:g}"

    return check


def one_of(*choices: str) -> Check:
    """Accept one of a few strings."""
    accepted = "one of " + ", ".join(choices)

    def check(value: Any) -> str | None:
        return None if isinstance(value, str) and value in choices else accepted

    return check


def optional(check: Check) -> Check:
    """Accept None too."""

    def check_optional(value: Any) -> str | None:
        if value is None:
            return None
        accepted = check(value)
        return None if accepted is None else f"None or {accepted}"

    return check_optional


def text(value: Any) -> str | None:
    """Accept a non-empty string."""
    return None if isinstance(value, str) and value.strip() else "a non-empty string"


def topic_name(value: Any) -> str | None:
    """Accept a name that Kafka takes for a topic."""
    good = isinstance(value, str) and re.fullmatch(r"[a-zA-Z0-9._-]{1,249}", value) and value not in (".", "..")
    return None if good else "the name of a topic: 1 to 249 letters, digits, dots, underscores and dashes"


def servers(value: Any) -> str | None:
    """Accept Kafka's addresses without credentials in them."""
    if isinstance(value, str) and "@" in value:
        return "HOST:PORT, separated by commas, without a user (that is sasl.username and sasl.password)"
    return text(value)


def without_passwords(servers: Any) -> str:
    """Return bootstrap servers for people: what stands before an ``@`` is hidden."""
    return re.sub(r"[^,\s]*@", f"{SECRET}@", str(servers))


def boolean(value: Any) -> str | None:
    """Accept True or False."""
    return None if isinstance(value, bool) else "True or False"


def processor(value: Any) -> str | None:
    """Accept a callable, or the ``module:name`` of one."""
    if isinstance(value, str):
        try:
            resolve_processor(value)
        except ConfigError as error:
            return f"a callable or 'module:name' ({error})"
        return None
    if not callable(value):
        return "a callable that takes the value as bytes, or 'module:name'"
    if inspect.isgeneratorfunction(value) or inspect.isasyncgenfunction(value):
        return "a function that does its work when called; a generator function does nothing until somebody iterates"
    return None


def csv_path(value: Any) -> str | None:
    """Accept the path of a file in an existing, writable directory."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        return "the path of a CSV file in an existing, writable directory"
    path = os.fspath(value)
    directory = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(directory):
        return f"a path in an existing directory; {directory!r} is not a directory: create it first"
    if not os.access(directory, os.W_OK | os.X_OK):
        return f"a path in a writable directory; {directory!r} is not writable for this user"
    if os.path.isdir(path) or path.endswith(os.sep):
        return "the path of a CSV file; this is a directory"
    return None


def stop_at_offset(value: Any) -> str | None:
    """Accept targets by topic and partition."""
    accepted = "None or {(topic, partition): offset} with a non-empty topic, a partition >= 0 and an offset >= 0"
    if value is None:
        return None
    if not isinstance(value, Mapping):
        return accepted
    for key, offset in value.items():
        if not (isinstance(key, tuple) and len(key) == 2):
            return accepted
        topic, partition = key
        if not (isinstance(topic, str) and topic and is_int(partition) and partition >= 0):
            return accepted
        if not (is_int(offset) and offset >= 0):
            return accepted
    return None


def exceptions(value: Any) -> str | None:
    """Accept exception classes."""
    good = isinstance(value, tuple | list) and all(isinstance(e, type) and issubclass(e, Exception) for e in value)
    return None if good else "a tuple of exception classes"


REGISTRY_PREFIX = "schema.registry."
"""What options of the schema registry's client begin with, among those of librdkafka, which doesn't get them."""


def for_librdkafka(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options without those of the schema registry's client."""
    return {name: value for name, value in options.items() if not name.startswith(REGISTRY_PREFIX)}


def registry_url(value: Any) -> str | None:
    """Accept URLs without credentials in them."""
    urls = value.split(",") if isinstance(value, str) else [""]
    if not all(re.fullmatch(r"https?://[^\s@/]+(/[^\s@]*)?", url.strip()) for url in urls):
        return "http://HOST:PORT or https://…, without a user (that is schema.registry.basic.auth.user.info in kafka_options)"
    return None


def kafka_options(value: Any) -> str | None:
    """Accept librdkafka's options, without those that would break a guarantee."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        return "a mapping of librdkafka's option names to values"
    if f"{REGISTRY_PREFIX}url" in value:
        return f"options other than {REGISTRY_PREFIX}url: use the option schema_registry_url"
    for name, reason in MANAGED_KAFKA_OPTIONS.items():
        if name in value:
            return f"options of librdkafka other than {name!r}: {reason}"
    return None


def bound(value: Any) -> str | None:
    """Accept one side of a replay."""
    if value is None:
        return None
    texts = [value] if isinstance(value, str) else value
    try:
        parse_bound(list(texts) if isinstance(texts, list | tuple) else ())
    except ValueError as error:
        return f"None or {str(error).removeprefix('expected ')}"
    return None


def resolve_processor(spec: str) -> Callable[..., Any]:
    """Import ``module:name`` (``name`` may be dotted) and return the callable; a ``ConfigError`` says what is wrong."""
    module_name, colon, name = spec.partition(":")
    if not colon or not module_name or not name:
        raise ConfigError(f"expected 'module:callable', got {spec!r}")
    try:
        target: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ConfigError(f"no module named {error.name!r}: check the name and --app-dir") from None
        raise ConfigError(f"module {module_name!r} can't be imported: it needs {error.name!r}, which isn't installed") from None
    except Exception as error:
        # The user's module may do anything at import: what it says, in one line.
        line = " ".join(str(error).split())[:200]
        raise ConfigError(f"module {module_name!r} can't be imported: {type(error).__name__}: {line}") from error
    for part in name.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            raise ConfigError(f"module {module_name!r} has no {name!r}") from None
    if not callable(target):
        raise ConfigError(f"{spec!r} is a {type(target).__name__}, not a callable")
    return target  # type: ignore[no-any-return]
