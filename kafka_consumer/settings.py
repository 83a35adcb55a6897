"""The effective settings of ``kc``: command line over environment over ``kc.toml`` over defaults, each with its origin.

``load_settings()`` never raises for what a user wrote: ``problems`` holds a line for each mistake, all of them at once.
``Settings.build_config()`` imports the processor and returns the ``KafkaConsumerConfig``.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kafka_consumer.config import OPTIONS, REQUIRED, KafkaConsumerConfig, executor_problems
from kafka_consumer.errors import ConfigError
from kafka_consumer.kafka_properties import check_kafka_options, parse_properties
from kafka_consumer.option_checks import SECRET, without_passwords
from kafka_consumer.settings_sources import (
    KAFKA,
    Given,
    Layer,
    config_file,
    read_command_line,
    read_environment,
    read_file,
    read_text,
    take_back,
)
from kafka_consumer.settings_table import SETTINGS, STRENGTH, Origin, Setting, Source
from kafka_consumer.snapshot import sanitise
from kafka_consumer.user_code import folder_warning, load_exception, load_processor

__all__ = ["SETTINGS", "Origin", "Setting", "Settings", "Source", "load_settings"]

DEMO_VALUES: Mapping[str, Any] = {
    "topic": "orders",
    "group_id": "kc-demo",
    "processor_callable": "kafka_consumer.demo_orders:process",
}
"""What a demo uses where the user says nothing; servers and paths are known once it runs."""

_DEMO_FILLS = {
    "bootstrap_servers": "(inside the process)", "backup_path": "(in a new temporary folder)",
    "dlq_path": "(in a new temporary folder)",
}

_DEMO_OWN = frozenset({
    *DEMO_VALUES, "bootstrap_servers", "backup_path", "dlq_path", "dlq_topic", "stop_at_offset", "command_config", "socket",
    "metrics_port", "metrics_address", KAFKA,
})  # fmt: skip
"""Where to read, write and listen. A demo takes these only from the source that asks for the demo or a stronger one:
``kc --demo`` in a folder with a production kc.toml must touch neither its broker nor its files."""


@dataclass(frozen=True)
class Settings:
    """Effective values by the configuration's name, and where each comes from.

    ``values["kafka_options"]`` is the merged mapping of librdkafka's options; ``kafka_origins`` says where each was written.
    ``problems`` and ``warnings`` are lines for the user; ``config_path`` is the kc.toml that was read, if any.
    """

    values: Mapping[str, Any]
    origins: Mapping[str, Origin]
    kafka_origins: Mapping[str, Origin] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    config_path: str | None = None

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def __repr__(self) -> str:
        """Every value with its origin; librdkafka's are hidden."""
        return f"Settings({', '.join(f'{key}={text} ({origin})' for key, text, origin in self.rows())})"

    @property
    def demo(self) -> bool:
        """Whether this is a run on the broker inside the process."""
        return self.values["demo"] is True

    def with_values(self, **values: Any) -> Settings:
        """Return a copy in which the demo's servers and paths are filled in."""
        origins = {**self.origins, **dict.fromkeys(values, Origin(Source.DEMO, "demo"))}
        return replace(self, values={**self.values, **values}, origins=origins)

    def without_demo(self) -> Settings:
        """Return a copy that doesn't start the demo's cluster."""
        return replace(self, values={**self.values, "demo": False})

    def rows(self) -> list[tuple[str, str, str]]:
        """Return ``(name, value, origin)`` as text, for people; the values of librdkafka's options are hidden."""
        rows = []
        for key, setting in SETTINGS.items():
            if key == KAFKA:
                rows += [(f"kafka {name}", SECRET, origin.label) for name, origin in sorted(self.kafka_origins.items())]
            elif self.demo and key in _DEMO_FILLS and self.origins[key].source is Source.DEFAULT:
                rows.append((setting.name, _DEMO_FILLS[key], "demo"))
            else:
                rows.append((setting.name, show(key, self.values[key]), self.origins[key].label))
        return [(sanitise(name), sanitise(value), sanitise(origin)) for name, value, origin in rows]

    def build_config(self) -> KafkaConsumerConfig:
        """Import the processor and build the configuration. Errors: ``ConfigError`` with every problem, a line each."""
        problems = [*self.problems, *self.import_problems()]
        if problems:
            raise ConfigError(problems)
        values = self._config_values()
        folder = self.values["app_dir"]
        load_processor(self.values["processor_callable"], folder)  # complains in more detail than the configuration does
        values["fatal_exceptions"] = tuple(load_exception(name, folder) for name in self.values["fatal_exceptions"])
        try:
            return KafkaConsumerConfig(**values)
        except ConfigError as error:
            raise ConfigError(_relabelled(error, self.origins)) from None

    def import_problems(self) -> list[str]:
        """Import what the user names (processor, exceptions); return a line for each that can't be used."""
        folder, problems = self.values["app_dir"], []
        if not isinstance(folder, str) or not Path(folder).is_dir():
            return []  # reported already, and nothing can be found without it
        processor = self.values["processor_callable"]
        if isinstance(processor, str) and all(processor.partition(":")):  # else reported already
            try:
                target = load_processor(processor, folder)
                problems += _relabelled(ConfigError(executor_problems(self.values["executor"], target)), self.origins)
            except ConfigError as error:
                problems.append(f"{self.origins['processor_callable'].label}: can't use {processor!r}: {error}")
        for name in self.values["fatal_exceptions"]:
            try:
                load_exception(name, folder)
            except ConfigError as error:
                problems.append(f"{self.origins['fatal_exceptions'].label}: can't use {name!r}: {error}")
        return [sanitise(problem, 2_000) for problem in problems]

    def _config_values(self) -> dict[str, Any]:
        return {key: self.values[key] for key in OPTIONS if self.values[key] is not REQUIRED}


def show(key: str, value: Any) -> str:
    """Return a value for people, as one would write it on the command line."""
    if value is REQUIRED:
        return "(missing)"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if key == "stop_at_offset" and isinstance(value, Mapping):
        return " ".join(f"{topic}:{partition}:{offset}" for (topic, partition), offset in value.items())
    if key in ("bootstrap_servers", "schema_registry_url"):
        return without_passwords(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple | list):
        return " ".join(map(str, value)) or "none"
    return str(value)


def load_settings(
    given: Mapping[str, Any], *, config: str | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Merge what the command line gave with the environment, the file and the defaults.

    ``given`` is by the configuration's name: text, True or False, several texts, or None for not given. ``config`` is the
    path of ``--config``. Mistakes are in the result's ``problems``; nothing of the user's is imported.
    """
    environ = os.environ if environ is None else environ
    path = config_file(config, environ)
    layers = [read_file(*path) if path is not None else Layer(Source.FILE), read_environment(environ), read_command_line(given)]
    problems = [problem for layer in layers for problem in layer.problems]
    warnings = [warning for layer in layers for warning in layer.warnings]

    demo = _effective("demo", layers)
    floor = 0
    if demo is not None and demo.value is True:
        floor = STRENGTH[demo.origin.source]
        ignored = _ignored_by_demo(layers, floor)
        if ignored:
            warnings.append(f"the demo ignores {', '.join(ignored)}")
    is_demo = floor > 0

    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for key, setting in SETTINGS.items():
        found = _effective(key, layers, floor if key in _DEMO_OWN else 0)
        if found is not None:
            values[key], origins[key] = found.value, found.origin
        elif is_demo and key in DEMO_VALUES:
            values[key], origins[key] = DEMO_VALUES[key], Origin(Source.DEMO, "demo")
        else:
            values[key], origins[key] = setting.default, Origin(Source.DEFAULT, "default")

    kafka = _merge_kafka(layers, floor, values["command_config"], origins["command_config"], problems)
    values[KAFKA] = {name: option.value for name, option in kafka.items()}
    kafka_origins = {name: option.origin for name, option in kafka.items()}
    warnings += folder_warning(values["app_dir"], label_of("app_dir", origins))
    spoiled = set().union(*(layer.spoiled for layer in layers))
    problems += _problems(values, origins, kafka_origins, spoiled, is_demo=is_demo)
    return Settings(
        values, origins, kafka_origins, tuple(sanitise(line, 2_000) for line in problems),
        tuple(sanitise(line, 2_000) for line in warnings), path[0] if path is not None else None,
    )


def _effective(key: str, layers: list[Layer], floor: int = 0) -> Given | None:
    """Return the value of the strongest source that gives one, those weaker than ``floor`` left out."""
    for layer in reversed(layers):
        if key in layer.values and STRENGTH[layer.source] >= floor:
            return layer.values[key]
    return None


def _ignored_by_demo(layers: list[Layer], floor: int) -> list[str]:
    weaker = [layer for layer in layers if STRENGTH[layer.source] < floor]
    return [given.origin.label for layer in weaker
            for given in [*(layer.values[key] for key in sorted(_DEMO_OWN & layer.values.keys())), *layer.kafka.values()]]


def _merge_kafka(layers: list[Layer], floor: int, properties: Any, origin: Origin, problems: list[str]) -> dict[str, Given]:
    """Merge librdkafka's options: within a source, client.properties is beaten by what the source says itself."""
    merged: dict[str, Given] = {}
    for layer in layers:
        if STRENGTH[layer.source] < floor:
            continue
        if origin.source is layer.source and isinstance(properties, str) and properties:
            text = read_text(properties, origin.label, problems)
            if text is not None:
                options, found = parse_properties(text, properties)
                problems += found
                take_back(options, properties, problems)
                merged |= {name: Given(value, Origin(layer.source, f"{name} in {properties}")) for name, value in options.items()}
        merged |= layer.kafka
    return merged


def _problems(
    values: Mapping[str, Any], origins: Mapping[str, Origin], kafka_origins: Mapping[str, Origin], spoiled: set[str], *,
    is_demo: bool,
) -> list[str]:
    """Check the merged values; what the user's modules do isn't looked at here."""
    problems = []
    stand_in = _async_stand_in if values["executor"] == "asyncio" else _stand_in
    stand_ins: dict[str, Any] = {"processor_callable": stand_in, "fatal_exceptions": (), KAFKA: {}}
    for key, setting in SETTINGS.items():
        value = values[key]
        if not setting.in_config:
            accepted = setting.check(value)
            if accepted is not None:
                problems.append(f"{label_of(key, origins)}: expected {accepted}, got {value!r}")
        elif value is REQUIRED:
            stand_ins[key] = stand_in if key == "processor_callable" else "stand-in"
            if key not in spoiled and not (is_demo and key == "bootstrap_servers"):
                problems.append(f"{setting.option}: missing; it is required (or {setting.environment_names[0]}, "
                                f"or {setting.file_names[0]} in kc.toml)")
    processor = values["processor_callable"]
    if processor is not REQUIRED and not (isinstance(processor, str) and all(processor.partition(":"))):
        problems.append(f"{label_of('processor_callable', origins)}: expected MODULE:CALLABLE, got {processor!r}")
    if is_demo:
        if origins["bootstrap_servers"].source is not Source.DEFAULT:
            problems.append(f"{label_of('bootstrap_servers', origins)}: a demo brings its own broker; leave one of the two out")
        for key in ("backup_path", "dlq_path"):
            if origins[key].source is Source.DEFAULT:
                stand_ins[key] = str(Path(tempfile.gettempdir(), f"kc-demo-{key}.csv"))
    elif values["demo_messages"] is not None:
        problems.append(f"{label_of('demo_messages', origins)}: only together with --demo")
    try:
        KafkaConsumerConfig(**{key: values[key] for key in OPTIONS} | stand_ins)
    except ConfigError as error:
        problems += _relabelled(error, origins)
    problems += check_kafka_options(values[KAFKA], {name: origin.label for name, origin in kafka_origins.items()})
    return problems


def _stand_in(_value: bytes | None) -> None:
    """Take the processor's place while everything else is checked."""


async def _async_stand_in(_value: bytes | None) -> None:
    """Take the place of a coroutine function."""


def label_of(key: str, origins: Mapping[str, Origin]) -> str:
    """Return the setting as the user wrote it; for a default, as the option that would change it."""
    origin = origins[key]
    return f"{SETTINGS[key].option} ({origin.label})" if STRENGTH[origin.source] <= STRENGTH[Source.DEMO] else origin.label


def _relabelled(error: ConfigError, origins: Mapping[str, Origin]) -> list[str]:
    """Name each problem's option as the user wrote it instead of by the configuration's name."""
    lines = []
    for problem in error.problems:
        key, colon, rest = problem.partition(":")
        # As it is written on a command line and in TOML, not in Python.
        rest = rest.replace("expected True or False", "expected true or false").replace("expected None or", "expected none or")
        lines.append(f"{label_of(key, origins)}:{rest}" if colon and key in origins else problem)
    return lines
