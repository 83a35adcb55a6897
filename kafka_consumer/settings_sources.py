"""Read settings as they are written in ``kc.toml``, in the environment and on the command line; nothing is merged here.

Each source yields a ``Layer``: values with their origin, the librdkafka options it gives, and the problems met while reading.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kafka_consumer.kafka_properties import is_option_name, is_utf8, parse_properties
from kafka_consumer.option_checks import SECRET
from kafka_consumer.redaction import is_secret
from kafka_consumer.settings_table import SETTINGS, Origin, Setting, Source
from kafka_consumer.trust import OPTIONS_THAT_RUN_CODE, file_problem

KAFKA = "kafka_options"
DEFAULT_FILE = "kc.toml"
CONFIG_VARIABLE = "KC_CONFIG"

_SHOWN_LENGTH = 120


@dataclass(frozen=True, slots=True)
class Given:
    """A value somebody gave, and where."""

    value: Any = field(repr=False)  # it may be a secret
    origin: Origin


@dataclass(slots=True)
class Layer:
    """What one source says: settings by the configuration's name, librdkafka's options by theirs."""

    source: Source
    values: dict[str, Given] = field(default_factory=dict)
    kafka: dict[str, Given] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    spoiled: set[str] = field(default_factory=set)
    """Settings that were given but couldn't be read: to call them missing, too, would mislead."""

    def put(self, setting: Setting, value: Any, label: str) -> None:
        """Add a value of this source; what can't be read becomes a problem."""
        if setting.key == "stop_at_offset":
            value = _stop_targets(value, label, self.problems)
        elif setting.key in ("fatal_exceptions", "replay_from", "replay_to"):
            value = _names(value, label, self.problems)
        elif isinstance(value, str) and not _is_clean(value, is_path=setting.key in _PATHS):
            self.problems.append(f"{label}: expected UTF-8 text without NUL characters, got {_short(value)}")
            value = _UNREADABLE
        elif isinstance(value, int) and abs(value) >= _TOO_LARGE:
            value = str(value)  # no option takes such a number; as text it fails its check instead of an overflow
        if value is _UNREADABLE:
            self.spoiled.add(setting.key)
        else:
            self.values[setting.key] = Given(value, Origin(self.source, label))

    def put_kafka(self, options: Mapping[str, Any], where: str) -> None:
        """Add options of librdkafka; ``where`` follows the option's name in a label."""
        for name, raw in options.items():
            if not is_option_name(name):
                # Not echoed: what is no name may be a value.
                self.problems.append(f"an option {where}: expected a name of lower-case letters, digits and dots, got {SECRET}")
                continue
            label = f"{name} {where}"
            # librdkafka reads "true", not Python's "True".
            value = str(raw).lower() if isinstance(raw, bool) else raw
            if isinstance(value, str | int | float):
                self.kafka[name] = Given(value, Origin(self.source, label))
            else:
                self.problems.append(f"{label}: expected a string, a number, true or false, got {type(value).__name__} {SECRET}")


_UNREADABLE = object()
_NAME_CODE = frozenset({"processor_callable", "app_dir", "fatal_exceptions", "protobuf_type"})
_TOO_LARGE = 2**63
_PATHS = frozenset({"backup_path", "dlq_path", "command_config", "app_dir", "socket"})


def _is_clean(text: str, *, is_path: bool) -> bool:
    """Whether librdkafka and the file system can take the text; a path may hold bytes that aren't UTF-8."""
    return "\0" not in text and (is_path or is_utf8(text))


def read_text(path: str, label: str, problems: list[str]) -> str | None:
    """Return the file's text, or None and a problem."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        problems.append(f"{label}: expected a file of UTF-8 text, {path!r} isn't (byte {error.start})")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        problems.append(f"{label}: expected a readable file, got {path!r}: {reason}")
    return None


def read_file(path: str, label: str) -> Layer:
    """Read a kc.toml; ``label`` names the option that gave the path."""
    layer = Layer(Source.FILE)
    text = read_text(path, label, layer.problems)
    if text is None:
        layer.spoiled.update(SETTINGS)
        return layer
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        layer.problems.append(_toml_problem(path, str(error), text))
        layer.spoiled.update(SETTINGS)
        return layer
    except RecursionError:
        layer.problems.append(f"{path}: nested too deeply")
        layer.spoiled.update(SETTINGS)
        return layer
    by_name = {name: setting for setting in SETTINGS.values() for name in setting.file_names}
    runs = [key for key in table if getattr(by_name.get(key.replace("-", "_")), "key", None) in _NAME_CODE]
    refused = refusal(path, runs)
    if refused is not None:
        layer.problems.append(refused)
    written: dict[str, str] = {}
    for key, value in table.items():
        setting = by_name.get(key.replace("-", "_"))
        if setting is None:
            shown = sorted(by_name)
            near = difflib.get_close_matches(key.replace("-", "_"), shown, 1)
            layer.problems.append(f"{key} in {path}: unknown option" + (f"; did you mean {near[0]}?" if near else ""))
        elif setting.key in written:
            layer.problems.append(f"{key} in {path}: the same option as {written[setting.key]}; keep one of them")
        else:
            written[setting.key] = key
            if setting.key == KAFKA:
                _put_kafka_table(layer, value, key, path)
                take_back(layer.kafka, path, layer.problems)
            elif setting.key in _NAME_CODE and refused is not None:
                layer.spoiled.add(setting.key)  # and nothing is imported
            else:
                # Where TOML has no value of its own, null, or spells it in lower case, the text is read as elsewhere.
                read = setting.read if isinstance(value, str) and setting.key in ("processing_timeout", "log_level") else _as_is
                layer.put(setting, read(value), f"{key} in {path}")
    return layer


def refusal(path: str, names: Iterable[str]) -> str | None:
    """Return why a file may not name code to run, or None; ``names`` are those of its entries that do."""
    listed = ", ".join(names)
    if not listed:
        return None
    try:
        problem = file_problem(path)
    except OSError as error:
        problem = f"who can write it can't be found out: {error.strerror or error}"
    return None if problem is None else f"{path}: refused, for it names code to run ({listed}) and {problem}"


def take_back(options: dict[str, Any], path: str, problems: list[str]) -> None:
    """Take the options that run code out again where the file may not name any: even a check by librdkafka would run it."""
    names = [name for name in options if name in OPTIONS_THAT_RUN_CODE]
    problem = refusal(path, names)
    if problem is not None:
        problems.append(problem)
        for name in names:
            del options[name]


def _as_is(value: Any) -> Any:
    return value


def _toml_problem(path: str, message: str, text: str) -> str:
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", message, re.DOTALL)
    if found is None:
        return f"{path}: {message}"
    if found[2] is None:
        lines = text.split("\n")
        return f"{path}, line {len(lines)}, column {len(lines[-1]) + 1}: {found[1]}"
    return f"{path}, line {found[2]}, column {found[3]}: {found[1]}"


def _put_kafka_table(layer: Layer, value: Any, key: str, path: str) -> None:
    if isinstance(value, dict):
        layer.put_kafka(_flatten(value), f"in {path} [{key}]")
    else:
        layer.problems.append(f"{key} in {path}: expected a table of librdkafka's options, got {type(value).__name__} {SECRET}")


def _flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``sasl.username = "x"`` is a nested table to TOML: return the dotted names that were written."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def read_environment(environ: Mapping[str, str]) -> Layer:
    """Read the KC_ variables; an empty one counts as not set."""
    layer = Layer(Source.ENVIRONMENT)
    known = {CONFIG_VARIABLE}
    for setting in SETTINGS.values():
        known.update(setting.environment_names)
        names = [name for name in setting.environment_names if environ.get(name)]
        if len(names) > 1:
            layer.problems.append(f"{names[0]} and {names[1]}: both are set and mean the same option; keep one of them")
            layer.spoiled.add(setting.key)
        elif names and setting.key == KAFKA:
            options, problems = parse_properties(environ[names[0]], names[0])
            layer.problems += problems
            layer.put_kafka(options, f"in {names[0]}")
        elif names:
            text = environ[names[0]]
            layer.put(setting, text.replace(",", " ").split() if setting.multiple else setting.read(text), names[0])
    for name in sorted(environ):
        # Other programs use the prefix too (Keycloak does), so that only what looks like a slip is mentioned.
        near = difflib.get_close_matches(name, known, 1, 0.87) if name.startswith("KC_") and name not in known else []
        if near:
            layer.warnings.append(f"{name}: not a variable of kc, ignored; did you mean {near[0]}?")
    return layer


def read_command_line(given: Mapping[str, Any]) -> Layer:
    """Read what the command line gave: text, True or False, or several texts, by the configuration's name; None: not given."""
    layer = Layer(Source.COMMAND_LINE)
    for key, value in given.items():
        setting = SETTINGS.get(key)
        if setting is None or value is None or value == ():
            continue
        if key == KAFKA:
            for number, text in enumerate(value, start=1):
                name, equals, option_value = text.partition("=")
                if equals and is_option_name(name.strip()):
                    if is_secret(name.strip(), option_value):
                        layer.warnings.append(f"-X {name.strip()}: every user of this machine can read a command line while it "
                                              "runs; give a secret by --command-config FILE or KC_KAFKA")
                    layer.kafka[name.strip()] = Given(option_value, Origin(Source.COMMAND_LINE, f"-X {name.strip()}"))
                else:
                    # The text isn't echoed: it may be a secret whose name was forgotten.
                    layer.problems.append(f"-X (number {number}): expected KEY=VALUE, got {SECRET}")
        else:
            layer.put(setting, setting.read(value) if isinstance(value, str) else value, setting.option)
            if setting.flag and value is False and key in layer.values:
                layer.values[key] = Given(False, Origin(Source.COMMAND_LINE, f"--no-{setting.name}"))
    return layer


def _texts(value: Any) -> list[str] | None:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return list(value)
    return None


def _names(value: Any, label: str, problems: list[str]) -> Any:
    texts = _texts(value)
    if texts is None:
        problems.append(f"{label}: expected one or more names, got {_short(value)}")
        return _UNREADABLE
    return tuple(texts)


def _stop_targets(value: Any, label: str, problems: list[str]) -> Any:
    accepted = "TOPIC:PARTITION:OFFSET with a partition and an offset of at least 0"
    texts = _texts(value)
    if texts is None:
        problems.append(f"{label}: expected {accepted}, got {_short(value)}")
        return _UNREADABLE
    targets: dict[tuple[str, int], int] = {}
    good = True
    for text in texts:
        found = re.fullmatch(r"(.+):(\d{1,9}):(\d{1,18})", text, re.ASCII)
        if found is None:
            problems.append(f"{label}: expected {accepted}, got {_short(text)}")
            good = False
            continue
        target, offset = (found[1], int(found[2])), int(found[3])
        if targets.setdefault(target, offset) != offset:
            problems.append(f"{label}: expected one offset for {found[1]}:{target[1]}, got {targets[target]} and {offset}")
            good = False
    return targets if good else _UNREADABLE


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_LENGTH else text[: _SHOWN_LENGTH - 3] + "..."


def config_file(given: str | None, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the path of the kc.toml to read and what named it, or None when there is none."""
    if given is not None:
        return given, "--config"
    if environ.get(CONFIG_VARIABLE):
        return environ[CONFIG_VARIABLE], CONFIG_VARIABLE
    return (DEFAULT_FILE, DEFAULT_FILE) if os.path.lexists(DEFAULT_FILE) else None
