"""``kc init``: a kc.toml that explains every option, and a sample processor; what exists is left as it is."""

from __future__ import annotations

import json
import os
import shlex
import textwrap
from collections.abc import Mapping
from typing import Any

import click

from kafka_consumer.config import REQUIRED
from kafka_consumer.csv_files import sync_directory, write_all
from kafka_consumer.settings import SETTINGS, Setting, show
from kafka_consumer.snapshot import sanitise

EXIT_OK, EXIT_FAILURE, EXIT_USAGE = 0, 1, 2

_WIDTH = 110
_SAMPLES: Mapping[str, Any] = {
    "bootstrap_servers": "localhost:9092",
    "topic": "orders",
    "group_id": "orders-consumer",
    "processor_callable": "processor:process",
}
"""What stands in the new file for the options that must be given."""

_LEFT_OUT = frozenset({"demo", "demo_messages", "kafka_options"})
"""A demo is for the command line; the table of librdkafka's options comes last, as TOML wants it."""

_EXAMPLES: Mapping[str, str] = {
    "stop_at_offset": '["orders:0:1000"]', "fatal_exceptions": '["ValueError"]', "replay_from": '["-2h"]',
    "replay_to": '["latest"]', "command_config": '"client.properties"', "socket": '"run/kc.sock"', "processing_timeout": "30",
    "backup_retention_hours": "168", "max_failure_ratio": "0.5", "schema_registry_url": '"http://localhost:8081"',
    "protobuf_type": '"orders_pb2:Order"', "metrics_port": "9308", "shutdown_drain_seconds": "300", "max_rate": "100",
    "crash_loop_limit": "3",
}  # fmt: skip
"""Examples of options that have no default."""

_HEAD = """\
# The settings of kc. The command line beats the environment (KC_WORKERS=20), which beats this file, which beats the defaults.
# Lines that begin with "# " and an option are the defaults: take the "#" away to change one. Durations are in seconds, sizes
# in bytes. `kc check` says whether all of it is right, `kc config` what is in effect.
"""

_TAIL = """

# --- Kafka's client -------------------------------------------------------------------------------------------

# Any option of librdkafka. Secrets are better kept out of this file: --command-config FILE, or KC_KAFKA.
[kafka]
# "security.protocol" = "SASL_SSL"
# "sasl.mechanism" = "SCRAM-SHA-512"
# "auto.offset.reset" = "earliest"
"""

_PROCESSOR = '''\
"""What is done with each message. kc calls process() in several threads at a time: see workers and ordering in kc.toml."""

from __future__ import annotations

import json
import logging

logger = logging.getLogger(__name__)


def process(value: bytes | None) -> None:
    """Handle one message's value; None is a tombstone.

    Returning means success: its offset may be committed. Raising means failure: after max_attempts the message goes to the dead
    letters (kc dlq list), and the others go on. A crash may bring a message back, so doing it twice must do no harm.
    """
    if value is None:
        return
    order = json.loads(value)
    logger.info("order %s", order.get("id", "without an id") if isinstance(order, dict) else type(order).__name__)
'''


def init(folder: str) -> int:
    """Write the files, print what was written and the two next commands; return the exit code."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        click.echo(f"{sanitise(folder, 500)}: {error.strerror}", err=True)
        return EXIT_USAGE if isinstance(error, FileExistsError | NotADirectoryError) else EXIT_FAILURE
    written = 0
    for name, text in (("kc.toml", config_text()), ("processor.py", _PROCESSOR)):
        path = name if folder == "." else os.path.join(folder, name)
        shown = sanitise(path, 500)
        try:
            _write_new(path, text)
        except FileExistsError:
            click.echo(f"{shown} exists: left as it is", err=True)
        except OSError as error:
            click.echo(f"{shown}: {error.strerror}", err=True)
            return EXIT_FAILURE
        else:
            written += 1
            click.echo(f"written: {shown}")
    if not written:
        return EXIT_USAGE
    go_there = "" if folder == "." else f"cd {sanitise(shlex.quote(folder), 500)} && "
    click.echo(f"Say in kc.toml where your Kafka is; then:\n  {go_there}kc check\n  {go_there}kc --headless")
    return EXIT_OK


def _write_new(path: str, text: str) -> None:
    """Write a file that wasn't there; a half-written one doesn't stay. Errors: ``OSError``."""
    # As other files of source and settings, not 0600: the umask says who may read them. Nobody else may write them, for they
    # name code to run.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        write_all(descriptor, text.encode())
        os.fsync(descriptor)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)
    sync_directory(path)


def config_text() -> str:
    """Return a kc.toml with every option: those that must be given live, the others as comments with their defaults."""
    lines = [_HEAD]
    section = ""
    for key, setting in SETTINGS.items():
        if key in _LEFT_OUT:
            continue
        if setting.section != section:
            section = setting.section
            lines.append(f"\n# --- {section} {'-' * (_WIDTH - len(section) - 7)}\n")
        lines += [f"# {line}" for line in textwrap.wrap(setting.help, _WIDTH - 2)]
        lines.append(_line(setting))
    return "\n".join(lines) + _TAIL


def _line(setting: Setting) -> str:
    name = setting.name
    if setting.default is REQUIRED:
        return f"{name} = {json.dumps(_SAMPLES[setting.key])}\n"
    if setting.default in (None, ()) or setting.multiple:
        example = _EXAMPLES.get(setting.key) or json.dumps(setting.metavar)
        return f"# {name} = {example}  # an example; the default is {show(setting.key, setting.default)}\n"
    return f"# {name} = {_value(setting.default)}\n"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)
