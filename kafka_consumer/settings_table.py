"""Every setting of the command line, ``kc.toml`` and the environment: its names, how text is read, its place in the help.

Derived from ``config.OPTIONS``: an option added there is settable everywhere without a change here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from kafka_consumer.config import OPTIONS
from kafka_consumer.logs import FORMATS
from kafka_consumer.option_checks import LOG_LEVELS, Check, integer, one_of, optional
from kafka_consumer.unix_socket import accepted_path


class Source(StrEnum):
    """Where a value comes from; a later one beats an earlier one, except that ``DEMO`` only fills what nobody gave."""

    DEFAULT = "default"
    DEMO = "demo"
    FILE = "file"
    ENVIRONMENT = "environment"
    COMMAND_LINE = "command line"


STRENGTH: Mapping[Source, int] = {source: rank for rank, source in enumerate(Source)}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was written: ``label`` as the user wrote it (``--workers``, ``KC_WORKERS``, ``workers in kc.toml``)."""

    source: Source
    label: str


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. ``key`` is the configuration's name (``worker_count``), ``name`` the option's (``workers``).

    ``read`` turns text into a value and returns the text itself when it can't; ``check`` then says what is accepted.
    """

    key: str
    name: str
    default: Any
    check: Check
    help: str
    section: str
    metavar: str
    read: Callable[[str], Any]
    flag: bool = False
    multiple: bool = False

    @property
    def option(self) -> str:
        """The option on the command line."""
        return "-X" if self.key == "kafka_options" else f"--{self.name}"

    @property
    def file_names(self) -> tuple[str, ...]:
        """The keys in kc.toml, underscores for dashes; the first is the one to show."""
        return tuple(dict.fromkeys((self.name.replace("-", "_"), self.key)))

    @property
    def environment_names(self) -> tuple[str, ...]:
        """The environment variables; the first is the one to show."""
        return tuple(f"KC_{name.upper()}" for name in self.file_names)

    @property
    def in_config(self) -> bool:
        """Whether it is an option of ``KafkaConsumerConfig``; the others steer the command line only."""
        return self.key in OPTIONS


def _text(text: str) -> Any:
    return text


def _integer(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        return text


def _number(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text


def _optional_number(text: str) -> Any:
    return None if text.strip().lower() == "none" else _number(text)


def _boolean(text: str) -> Any:
    return {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}.get(
        text.strip().lower(), text
    )


def _level(text: str) -> Any:
    level = text.strip().upper()
    return level if level in LOG_LEVELS else text


def _check_boolean(value: Any) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def _check_folder(value: Any) -> str | None:
    return None if isinstance(value, str) and Path(value).is_dir() else "an existing folder"


def _check_text(value: Any) -> str | None:
    return None if isinstance(value, str) and value else "a non-empty string"


def _check_socket(value: Any) -> str | None:
    return None if value is None else accepted_path(value)


_NAMES = {
    "bootstrap_servers": "bootstrap-server", "group_id": "group", "processor_callable": "processor", "worker_count": "workers",
    "stop_at_offset": "stop-at", "replay_from": "from", "replay_to": "to", "replay_commit": "commit",
    "fatal_exceptions": "fatal-exception", "kafka_options": "kafka",
}

_READERS: Mapping[str, Callable[[str], Any]] = {
    "max_rate": _optional_number,
    "processing_timeout": _optional_number, "backup_retention_hours": _optional_number, "log_level": _level,
    "shutdown_drain_seconds": _optional_number, "max_failure_ratio": _optional_number,
    "crash_loop_limit": _optional_number,
}

_METAVARS = {
    "bootstrap_servers": "HOST:PORT[,…]", "processor_callable": "MODULE:CALLABLE", "log_level": "LEVEL",
    "stop_at_offset": "TOPIC:PARTITION:OFFSET", "processing_timeout": "SECONDS", "backup_path": "FILE", "dlq_path": "FILE",
    "dlq_topic": "TOPIC",
    "max_message_size": "BYTES", "max_inflight_bytes": "BYTES", "value_encoding": "utf-8|binary",
    "backup_retention_hours": "HOURS",
    "ordering": "unordered|key|partition", "executor": "thread|process|asyncio", "event_loop": "asyncio|uvloop",
    "backup_mode": "best-effort|strict|off",
    "replay_from": "WHERE", "replay_to": "WHERE", "max_rate": "N", "fatal_exceptions": "EXCEPTION",
    "decode": "raw|json|avro|protobuf", "schema_registry_url": "URL", "protobuf_type": "MODULE:CLASS",
    "kafka_options": "KEY=VALUE", "topic": "TOPIC", "group_id": "GROUP",
    "on_offset_out_of_range": "fail|earliest|latest", "max_failure_ratio": "RATIO", "shutdown_drain_seconds": "SECONDS",
    "crash_loop_limit": "N",
}

_SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Kafka": ("bootstrap_servers", "topic", "group_id", "command_config", "kafka_options"),
    "Processing": (
        "processor_callable", "app_dir", "worker_count", "executor", "event_loop", "ordering", "queue_size", "max_inflight_bytes",
        "max_message_size", "value_encoding", "decode", "schema_registry_url", "protobuf_type",
    ),
    "Failures": (
        "max_attempts", "retry_backoff_seconds", "retry_backoff_max_seconds", "fatal_exceptions", "processing_timeout",
        "max_failure_ratio", "crash_loop_limit",
    ),
    "Offsets": (
        "stop_at_offset", "on_offset_out_of_range", "commit_interval_seconds", "commit_metadata", "max_uncommitted_span",
        "dev_mode",
    ),
    "Replay": ("replay_from", "replay_to", "replay_commit", "max_rate", "fail_on_dlq"),
    "Files": (
        "backup_path", "dlq_path", "dlq_topic", "backup_mode", "backup_retention_hours", "backup_compress", "csv_batch_size",
        "csv_flush_interval_seconds", "dlq_csv_batch_size",
    ),
    "Shutdown": ("shutdown_warning_seconds", "shutdown_drain_seconds", "shutdown_timeout_seconds"),
    "Logging": ("log_level", "log_format"),
    "Operation": ("socket", "metrics_port", "metrics_address", "tracing"),
    "Demo": ("demo", "demo_messages"),
}

_HELP = {
    "processor_callable": "The function called with each message's value (bytes); it raises to fail.",
    "stop_at_offset": "Stop when this offset, inclusive, is processed; repeatable: all of them must be reached.",
    "replay_from": "Begin at earliest, latest, TOPIC:PARTITION:OFFSET, an ISO time, or -2h; with --to, outside the group.",
    "replay_to": "End there, as it is at the start: the same words; an offset is inclusive, a time isn't.",
    "fatal_exceptions": "An exception that is never retried: a builtin's name or module:Class; repeatable.",
    "kafka_options": "Any option of librdkafka; repeatable, beats --command-config. Its value is never shown, but ps shows a "
                     "command line: give secrets by --command-config or KC_KAFKA.",
    "processing_timeout": "Seconds after which a call's message goes to the dead letters, or none.",
}


def _own(
    key: str, default: Any, check: Check, text: str, *, metavar: str = "", read: Callable[[str], Any] = _text, flag: bool = False
) -> Setting:
    return Setting(key, key.replace("_", "-"), default, check, text, _section(key), metavar, read, flag)


def _section(key: str) -> str:
    return next((section for section, keys in _SECTIONS.items() if key in keys), "Other")


def _from_config(key: str) -> Setting:
    option = OPTIONS[key]
    default = option.default
    read, metavar = _text, "TEXT"
    if isinstance(default, bool):
        read, metavar = _boolean, ""
    elif isinstance(default, int):
        read, metavar = _integer, "N"
    elif isinstance(default, float):
        read, metavar = _number, "SECONDS"
    return Setting(
        key=key,
        name=_NAMES.get(key, key.removesuffix("_seconds").replace("_", "-")),
        default=default,
        check=option.check,
        help=_HELP.get(key, option.help),
        section=_section(key),
        metavar=_METAVARS.get(key, metavar),
        read=_READERS.get(key, read),
        flag=isinstance(default, bool),
        multiple=key in ("stop_at_offset", "fatal_exceptions", "kafka_options", "replay_from", "replay_to"),
    )


def _table() -> dict[str, Setting]:
    settings = {key: _from_config(key) for key in OPTIONS}
    for own in (
        _own("command_config", None, optional(_check_text), "A client.properties with librdkafka's names.", metavar="FILE"),
        _own("app_dir", ".", _check_folder, "The folder of the processor's module, first on Python's path.", metavar="FOLDER"),
        _own("log_format", "rich", one_of(*FORMATS), "rich is plain text in a pipe; json is one object a line.",
             metavar="|".join(FORMATS)),
        _own("socket", None, _check_socket, "A Unix socket to listen on, for kc-tui --attach and kc status.",
             metavar="PATH"),
        _own("metrics_port", None, optional(integer(0, 65535)),
             "A port for /metrics, /livez and /readyz; 0 takes a free one. Needs kc[metrics].", metavar="PORT", read=_integer),
        _own("metrics_address", "127.0.0.1", _check_text, "The address of --metrics-port; others may read it, too, at 0.0.0.0.",
             metavar="ADDRESS"),
        _own("demo", False, _check_boolean, "Run on a broker and sample messages inside this process; nothing else needed.",
             read=_boolean, flag=True),
        _own("demo_messages", None, optional(integer(1)), "Produce this many sample messages and end when all are finished.",
             metavar="N", read=_integer),
    ):
        settings[own.key] = own
    order = [key for keys in _SECTIONS.values() for key in keys]
    return {key: settings[key] for key in sorted(settings, key=lambda key: order.index(key) if key in order else len(order))}


SETTINGS: Mapping[str, Setting] = _table()
"""Every setting by the configuration's name, in the order of the help."""
