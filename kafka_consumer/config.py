"""``KafkaConsumerConfig``: every option once, with its check, its default and its explanation.

``OPTIONS`` is the single table: validation, the command line, ``kc.toml`` and docs/CONFIGURATION.md are derived from it.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kafka_consumer.errors import ConfigError, CrashLoopError, DecodeError
from kafka_consumer.option_checks import (
    LOG_LEVELS,
    MIB,
    SECRET,
    Check,
    at_least,
    boolean,
    bound,
    csv_path,
    exceptions,
    hours,
    integer,
    kafka_options,
    one_of,
    optional,
    processor,
    ratio,
    registry_url,
    resolve_processor,
    seconds,
    servers,
    stop_at_offset,
    text,
    topic_name,
    without_passwords,
)
from kafka_consumer.replay_bounds import parse_bound

REQUIRED = object()
"""The default of an option that has none."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option: ``check`` says what is accepted; ``help`` is one sentence with the unit."""

    default: Any
    check: Check
    help: str


OPTIONS: Mapping[str, Option] = {
    "bootstrap_servers": Option(REQUIRED, servers, "Kafka's addresses, host:port, separated by commas."),
    "topic": Option(REQUIRED, text, "The topic to consume."),
    "group_id": Option(REQUIRED, text, "The consumer group whose offsets are committed."),
    "processor_callable": Option(REQUIRED, processor, "The function called with each message's value; it raises to fail."),
    "backup_path": Option("backup.csv", csv_path, "Base name of the hourly backup files."),
    "dlq_path": Option("dlq.csv", csv_path, "Base name of the hourly dead-letter files."),
    "dlq_topic": Option(
        None, optional(topic_name), "A topic that dead letters are sent to as well, before their offsets are committed."
    ),
    "worker_count": Option(10, integer(1, 1000), "Workers that call the function at the same time."),
    "queue_size": Option(1000, integer(10, 1_000_000), "Messages that wait for a worker, at the most."),
    "commit_interval_seconds": Option(5.0, seconds(), "Seconds between commits."),
    "log_level": Option("INFO", one_of(*LOG_LEVELS), "The least severe level that is logged."),
    "stop_at_offset": Option(None, stop_at_offset, "Targets, inclusive; the consumer stops when all are reached."),
    "dev_mode": Option(False, boolean, "Process without committing: a restart processes everything again."),
    "max_message_size": Option(10 * MIB, integer(1), "Bytes of a value above which the message goes to the dead letters."),
    "processing_timeout": Option(None, optional(seconds()), "Seconds after which a call's message goes to the dead letters."),
    "csv_batch_size": Option(100, integer(1), "Backup rows written at once."),
    "csv_flush_interval_seconds": Option(5.0, seconds(), "Seconds after which rows are written, full batch or not."),
    "dlq_csv_batch_size": Option(100, integer(1), "Dead-letter rows written at once."),
    "max_inflight_bytes": Option(256 * MIB, integer(1), "Bytes of message values held in memory before polling waits."),
    "value_encoding": Option("utf-8", one_of("utf-8", "binary"), "utf-8 sends other values to the dead letters; binary doesn't."),
    "ordering": Option("unordered", one_of("unordered", "key", "partition"), "What is processed in order, one at a time."),
    "max_attempts": Option(1, integer(1, 1_000_000), "Calls for one message before it goes to the dead letters."),
    "retry_backoff_seconds": Option(1.0, seconds(zero=True), "Seconds before the second attempt; doubled for each further one."),
    "retry_backoff_max_seconds": Option(60.0, seconds(zero=True), "The longest pause between two attempts, in seconds."),
    "fatal_exceptions": Option((), exceptions, "Exception classes that are never retried."),
    "executor": Option("thread", one_of("thread", "process", "asyncio"), "Where the function runs; async def: on an event loop."),
    "event_loop": Option("asyncio", one_of("asyncio", "uvloop"), "The event loop that async def functions run on."),
    "backup_mode": Option("best-effort", one_of("best-effort", "strict", "off"), "What becomes of the backup under pressure."),
    "backup_retention_hours": Option(
        None, optional(hours), "Hours after which closed backup files are deleted; without it, never. Dead letters never are."
    ),
    "backup_compress": Option(False, boolean, "Compress the backup files of closed hours with gzip."),
    "commit_metadata": Option(True, boolean, "Record what is finished beyond a gap in the commit's metadata."),
    "max_uncommitted_span": Option(
        20_000, integer(1), "Offsets that may be finished after an unfinished message before polling of its partition pauses."
    ),
    "on_offset_out_of_range": Option(
        "fail",
        one_of("fail", "earliest", "latest"),
        "What to do when messages were deleted from the topic before they were read.",
    ),
    "max_failure_ratio": Option(
        None, optional(ratio()), "Failed share of the last 200 messages or more at which polling pauses until it is resumed."
    ),
    "crash_loop_limit": Option(
        None, optional(integer(2)), "Crashes in a row at the same place after which the message at fault is found and left out."
    ),
    "shutdown_warning_seconds": Option(30.0, seconds(), "Seconds of draining after which the busy workers are named."),
    "shutdown_drain_seconds": Option(
        None, optional(seconds()), "Seconds of draining after which busy workers are given up, uncommitted; None: never."
    ),
    "shutdown_timeout_seconds": Option(30.0, seconds(), "Seconds that the final commit may take."),
    "replay_from": Option(None, bound, "Where to begin, whatever the group has committed."),
    "replay_to": Option(None, bound, "Where to end, as it is at the start."),
    "replay_commit": Option(False, boolean, "Replay in the group, and commit: it goes on from there afterwards."),
    "max_rate": Option(None, optional(at_least(1)), "Messages a second that are taken, at the most."),
    "fail_on_dlq": Option(False, boolean, "End with exit code 1 when a message has failed."),
    "decode": Option(
        "raw", one_of("raw", "json", "avro", "protobuf"), "What the function gets: bytes, or what they decode to."
    ),
    "schema_registry_url": Option(
        None, optional(registry_url), "The schema registry that decode asks; json does without one, too."
    ),
    "protobuf_type": Option(None, optional(text), "With decode protobuf, the generated class of the messages."),
    "tracing": Option(False, boolean, "A span of OpenTelemetry for each call of the function."),
    "kafka_options": Option({}, kafka_options, "Any option of librdkafka, passed through; values are never shown."),
}


def check_option(name: str, value: Any) -> None:
    """Check one option's value. Errors: ``ConfigError``."""
    accepted = OPTIONS[name].check(value)
    if accepted is not None:
        raise ConfigError(f"{name}: expected {accepted}, got {_show(name, value)}")


def _show(name: str, value: Any) -> str:
    """Return the value for a message: short, and never one of kafka_options."""
    if name == "kafka_options":
        return f"{type(value).__name__} {SECRET}"
    text = without_passwords(repr(value)) if name in ("bootstrap_servers", "schema_registry_url") else repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _texts(value: Any) -> tuple[str, ...] | None:
    return None if value is None else (value,) if isinstance(value, str) else tuple(value)


class KafkaConsumerConfig:
    """The configuration of one consumer; keyword arguments only, checked when built: an invalid one never exists.

    Errors: ``ConfigError`` with one line for each problem. After assigning a field, call ``validate_config()``.
    """

    bootstrap_servers: str
    topic: str
    group_id: str
    processor_callable: Callable[[bytes | None], Any]
    backup_path: str
    dlq_path: str
    dlq_topic: str | None
    worker_count: int
    queue_size: int
    commit_interval_seconds: float
    log_level: str
    stop_at_offset: dict[tuple[str, int], int] | None
    dev_mode: bool
    max_message_size: int
    processing_timeout: float | None
    csv_batch_size: int
    csv_flush_interval_seconds: float
    dlq_csv_batch_size: int
    max_inflight_bytes: int
    value_encoding: str
    ordering: str
    max_attempts: int
    retry_backoff_seconds: float
    retry_backoff_max_seconds: float
    fatal_exceptions: tuple[type[Exception], ...]
    executor: str
    event_loop: str
    backup_mode: str
    backup_retention_hours: float | None
    backup_compress: bool
    commit_metadata: bool
    max_uncommitted_span: int
    on_offset_out_of_range: str
    max_failure_ratio: float | None
    crash_loop_limit: int | None
    shutdown_warning_seconds: float
    shutdown_drain_seconds: float | None
    shutdown_timeout_seconds: float
    replay_from: tuple[str, ...] | None
    replay_to: tuple[str, ...] | None
    replay_commit: bool
    max_rate: float | None
    fail_on_dlq: bool
    decode: str
    schema_registry_url: str | None
    protobuf_type: str | None
    tracing: bool
    kafka_options: dict[str, Any]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        problems = []
        if arguments:
            problems.append(f"options are given by name, got {len(arguments)} without one")
        for name in options:
            if name not in OPTIONS:
                near = difflib.get_close_matches(name, OPTIONS, 1)
                problems.append(f"{name}: unknown option" + (f"; did you mean {near[0]}?" if near else ""))
        for name, option in OPTIONS.items():
            if name in options:
                value = options[name]
            elif option.default is REQUIRED:
                problems.append(f"{name}: missing; it is required")
                continue
            else:
                value = option.default
            # Mutable values are copied: a caller's dict that changes later doesn't change a checked configuration.
            setattr(self, name, dict(value) if isinstance(value, Mapping) else value)
        problems += self._problems()
        if problems:
            raise ConfigError(problems)
        self._normalise()

    def _problems(self) -> list[str]:
        problems = []
        for name, option in OPTIONS.items():
            if not hasattr(self, name):
                continue
            value = getattr(self, name)
            if name == "backup_path" and getattr(self, "backup_mode", None) == "off":
                continue
            accepted = option.check(value)
            if accepted is not None:
                problems.append(f"{name}: expected {accepted}, got {_show(name, value)}")
        if not problems and self.backup_mode != "off" and _same_file(self.backup_path, self.dlq_path):
            problems.append(f"dlq_path: expected another file than backup_path, got {_show('dlq_path', self.dlq_path)} for both")
        if not problems and self.dlq_topic is not None and self.dlq_topic == getattr(self, "topic", None):
            problems.append(f"dlq_topic: expected another topic than the one consumed, got {self.topic!r} for both: a loop")
        if not problems:
            problems += self._replay_problems() + self._decode_problems()
        if self.event_loop == "uvloop" and importlib.util.find_spec("uvloop") is None:
            problems.append("event_loop: expected 'asyncio', got 'uvloop', which isn't installed: install the extra, kc[uvloop]")
        if not problems and self.executor != "thread":
            target: Any = self.processor_callable
            problems += executor_problems(self.executor, resolve_processor(target) if isinstance(target, str) else target)
        return problems

    def _replay_problems(self) -> list[str]:
        if self.replay_commit and self.replay_from is None and self.replay_to is None:
            return ["replay_commit: expected replay_from or replay_to with it: every other run commits anyway"]
        problems = []
        for name in ("replay_from", "replay_to"):
            texts = _texts(getattr(self, name))
            others = {key[0] for key in parse_bound(texts).offsets} - {self.topic} if texts else set()
            problems += [f"{name}: expected offsets of topic {self.topic!r}, got one of {topic!r}" for topic in sorted(others)]
        return problems

    def _decode_problems(self) -> list[str]:
        problems = []
        if self.decode in ("avro", "protobuf") and self.schema_registry_url is None:
            problems.append(f"schema_registry_url: missing; decode={self.decode} needs it")
        if self.decode == "raw" and self.schema_registry_url is not None:
            problems.append("schema_registry_url: expected decode with it, got decode=raw, which asks nobody")
        if (self.decode == "protobuf") is (self.protobuf_type is None):
            problems.append(f"protobuf_type: expected 'module:Class' with decode=protobuf, and only then; decode={self.decode}")
        if self.tracing and self.executor == "process":
            problems.append("tracing: expected executor 'thread' or 'asyncio' with it: spans aren't carried over from processes")
        if self.crash_loop_limit is not None and self.executor == "process":
            what = "a process that dies costs its message an attempt, and nothing else"
            problems.append(f"crash_loop_limit: expected executor 'thread' or 'asyncio' with it: {what}")
        return problems

    def _normalise(self) -> None:
        if isinstance(self.processor_callable, str):
            spec = self.processor_callable
            self.processor_callable = resolve_processor(spec)
            self._named = (spec, self.processor_callable)
        self.backup_path = os.fspath(self.backup_path)
        self.dlq_path = os.fspath(self.dlq_path)
        self.fatal_exceptions = tuple(self.fatal_exceptions)
        if self.decode != "raw" and DecodeError not in self.fatal_exceptions:
            self.fatal_exceptions += (DecodeError,)  # the same bytes decode no better the next time
        if self.crash_loop_limit is not None and CrashLoopError not in self.fatal_exceptions:
            self.fatal_exceptions += (CrashLoopError,)
        self.replay_from, self.replay_to = _texts(self.replay_from), _texts(self.replay_to)

    def validate_config(self) -> None:
        """Validate again after a field was assigned. Errors: ``ConfigError``."""
        problems = self._problems()
        if problems:
            raise ConfigError(problems)
        self._normalise()

    @property
    def processor_spec(self) -> str | None:
        """The ``module:name`` that the processor was given as; None where it was given as an object."""
        spec, target = getattr(self, "_named", (None, None))
        return spec if target is self.processor_callable else None

    @property
    def processor_name(self) -> str:
        """The processor as ``module:name``, for people."""
        target = self.processor_callable
        if not hasattr(target, "__qualname__"):
            target = type(target)
        return f"{target.__module__}:{target.__qualname__}"

    @property
    def only_text(self) -> bool:
        """Whether a value that isn't UTF-8 goes to the dead letters as it comes; what is decoded is the decoder's affair."""
        return self.value_encoding == "utf-8" and self.decode == "raw"

    @property
    def is_coroutine(self) -> bool:
        """Whether calling the processor returns a coroutine."""
        return _is_coroutine(self.processor_callable)

    def __repr__(self) -> str:
        """Every option; the values of kafka_options are hidden."""
        shown = []
        for name in OPTIONS:
            value = getattr(self, name, None)
            if name == "kafka_options" and isinstance(value, Mapping):
                value = dict.fromkeys(value, SECRET)
            elif name in ("bootstrap_servers", "schema_registry_url") and value is not None:
                value = without_passwords(value)
            shown.append(f"{name}={value!r}")
        return f"KafkaConsumerConfig({', '.join(shown)})"


def executor_problems(executor: str, processor: Callable[..., Any]) -> list[str]:
    """Return a line when the function can't run there: a coroutine function runs on an event loop, and nothing else does."""
    coroutine = _is_coroutine(processor)
    if executor == "asyncio" and not coroutine:
        return ["executor: expected 'thread' or 'process' for a plain function, got 'asyncio': it takes an 'async def' one"]
    if executor == "process" and coroutine:
        return ["executor: expected 'asyncio' for an 'async def' function (it runs on an event loop), got 'process'"]
    return []


def _is_coroutine(target: Any) -> bool:
    return inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(getattr(target, "__call__", None))  # noqa: B004


def _same_file(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def validate_config(config: KafkaConsumerConfig) -> None:
    """Validate a configuration again after a field was assigned; returns None. Errors: ``ConfigError``."""
    config.validate_config()
