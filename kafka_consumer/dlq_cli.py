"""The commands of ``kc`` around files: ``kc dlq list|show|redrive``, ``kc replay-backup`` and ``kc init``."""

from __future__ import annotations

import os
import re
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from kafka_consumer.config import REQUIRED
from kafka_consumer.dlq_files import Filter, Problems, base_of, files_of, read_messages, with_suffix
from kafka_consumer.errors import ConfigError, FileFormatError
from kafka_consumer.options import GroupedCommand, GroupedOption, combined, print_lines, settings_from, some_options
from kafka_consumer.redrive_journal import journal_path, read_done
from kafka_consumer.replay_bounds import parse_bound
from kafka_consumer.settings import Settings
from kafka_consumer.settings_table import SETTINGS
from kafka_consumer.snapshot import sanitise

F = TypeVar("F", bound=Callable[..., Any])

EXIT_OK, EXIT_FAILURE, EXIT_USAGE = 0, 1, 2

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}
_STAND_INS = {
    "bootstrap_servers": "nobody:9092", "topic": "-", "group_id": "-", "processor_callable": "kafka_consumer.demo_orders:process",
}  # fmt: skip
"""Required options that a command has no use for, so that nobody need give them."""

_POLLING = ("queue_size", "max_inflight_bytes", "max_failure_ratio", "crash_loop_limit")
_PROCESSING = tuple(
    key for key, setting in SETTINGS.items()
    if key == "tracing" or (setting.section in ("Processing", "Failures") and key not in _POLLING)
)  # fmt: skip
_LOGGING = ("log_level", "log_format")


def _settings(ctx: click.Context, given: Mapping[str, Any], *needed: str, files: Sequence[str] = ()) -> Settings:
    """Return the effective settings; of the required ones only those named are. Errors: ``ConfigError``."""
    wanted = {**combined(ctx.obj, given), "backup_mode": "off"}  # no command here writes a backup
    if files:
        wanted["dlq_path"] = wanted.get("dlq_path") or base_of(files[0])
    settings = settings_from(wanted)
    missing = {key: text for key, text in _STAND_INS.items() if key not in needed and settings[key] is REQUIRED}
    settings = settings_from({**wanted, **missing}) if missing else settings
    if settings.problems:
        raise ConfigError(list(settings.problems))
    print_lines(settings.warnings)
    return settings


def _files(ctx: click.Context, given: Mapping[str, Any], files: tuple[str, ...]) -> tuple[list[str], str]:
    """Return the files to read, and the base whose journal they have."""
    if files:
        return list(files), base_of(files[0])
    base = with_suffix(_settings(ctx, given)["dlq_path"])
    found = files_of(base)
    if not found:
        print_lines([f"no files of {base}"])
    return found, base


def _choice(*names: str, **more: Any) -> Callable[[F], F]:
    return click.option(*names, cls=GroupedOption, section="Which dead letters", **more)


def _deed(*names: str, **more: Any) -> Callable[[F], F]:
    return click.option(*names, cls=GroupedOption, section="What to do", **more)


def _filters(command: F) -> F:
    for option in (
        _choice("--until", "until", metavar="TIME", callback=_time, help="Failed before this time, in the same words."),
        _choice("--since", "since", metavar="TIME", callback=_time, help="Failed at this time or later: ISO 8601, or -2h."),
        _choice(
            "--offset",
            "offsets",
            metavar="TOPIC:PARTITION:OFFSET",
            multiple=True,
            callback=_offsets,
            help="This one; repeatable.",
        ),
        _choice("--key", "keys", metavar="KEY", multiple=True, help="With this key, as text; repeatable."),
        _choice("--topic", "topics", metavar="TOPIC", multiple=True, help="From this topic; repeatable."),
        _choice("--error", "errors", metavar="TYPE", multiple=True, help="Failed with this type of error; repeatable."),
    ):
        command = option(command)
    return command


def _time(_ctx: click.Context, _param: click.Parameter, text: str | None) -> float | None:
    if text is None:
        return None
    accepted = "an ISO time such as 2026-11-22T10:00:00+01:00, or -2h (also s, m, d)"
    try:
        moment = parse_bound([text]).time
    except (ValueError, OverflowError):
        moment = None
    if moment is None:
        raise click.BadParameter(f"expected {accepted}, got {sanitise(text, 100)}")
    return moment / 1000


def _offsets(_ctx: click.Context, _param: click.Parameter, texts: tuple[str, ...]) -> tuple[tuple[str, int, int], ...]:
    found = []
    for text in texts:
        match = re.fullmatch(r"(.+):(\d{1,9}):(\d{1,18})", text, re.ASCII)
        if match is None:
            raise click.BadParameter(f"expected TOPIC:PARTITION:OFFSET, got {sanitise(text, 100)}")
        found.append((match[1], int(match[2]), int(match[3])))
    return tuple(found)


def _filter(given: dict[str, Any]) -> Filter:
    """Take the filters out of a command's arguments."""
    keys = frozenset(os.fsencode(key) for key in given.pop("keys"))
    return Filter(
        errors=frozenset(given.pop("errors")), topics=frozenset(given.pop("topics")), keys=keys,
        offsets=frozenset(given.pop("offsets")), since=given.pop("since"), until=given.pop("until"),
    )  # fmt: skip


def _reading(work: Callable[[], int]) -> int:
    """Do what reads files; a file that can't be read is a line and a failure."""
    try:
        return work()
    except FileFormatError as error:
        return print_lines([str(error)], EXIT_FAILURE)
    except OSError as error:
        if error.filename is None:
            raise
        return print_lines([f"{error.filename}: {error.strerror}"], EXIT_FAILURE)


def _problems() -> Problems:
    return Problems(lambda line: click.echo(sanitise(line, 2_000), err=True))


_FILES = click.argument("files", metavar="[FILE]...", nargs=-1, type=click.Path())


@click.group("dlq", context_settings=_CONTEXT, invoke_without_command=True, short_help="Dead letters: list, show, send again.")
@click.pass_context
def dlq(ctx: click.Context) -> None:
    """Look at dead letters, and send them to their topic or through the processor again."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(EXIT_USAGE)


@dlq.command("list", cls=GroupedCommand, context_settings=_CONTEXT, short_help="Count them by hour, error and topic.")
@_FILES
@_filters
@_deed("--json", "as_json", is_flag=True, help="One line: a list of objects.")
@some_options("dlq_path")
@click.pass_context
def list_command(ctx: click.Context, /, files: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Count the dead letters by hour, type of error and topic.

    Without FILE: those of --dlq-path.
    """
    from kafka_consumer.dlq import groups_of, print_groups

    def work() -> int:
        chosen = _filter(given)
        paths, base = _files(ctx, given, files)
        messages = filter(chosen, read_messages(paths, _problems(), dead_letters=True))
        print_groups(groups_of(messages, read_done(journal_path(base))), as_json=as_json, terminal=sys.stdout.isatty())
        return EXIT_OK

    ctx.exit(_reading(work))


@dlq.command("show", cls=GroupedCommand, context_settings=_CONTEXT, short_help="Payload, headers and stack trace.")
@_FILES
@_filters
@_deed("--last", metavar="N", type=click.IntRange(1), help="The last N of them. [default: 1, or all that --offset names]")
@_deed("--full", is_flag=True, help="All of a long payload and trace.")
@_deed("--json", "as_json", is_flag=True, help="One object a line, whole.")
@some_options("dlq_path")
@click.pass_context
def show_command(
    ctx: click.Context, /, files: tuple[str, ...], last: int | None, full: bool, as_json: bool, **given: Any
) -> None:
    """Show dead letters whole: payload, headers and stack trace.

    Without FILE: those of --dlq-path.
    """
    from kafka_consumer.dlq import json_line, print_message

    def work() -> int:
        chosen = _filter(given)
        paths, base = _files(ctx, given, files)
        done = read_done(journal_path(base))
        messages = filter(chosen, read_messages(paths, _problems(), dead_letters=True))
        most = last if last is not None or chosen.offsets else 1
        number = 0
        for number, message in enumerate(messages if most is None else deque(messages, most), start=1):
            redriven = bool(done) and message.digest() in done
            if as_json:
                click.echo(json_line(message, redriven=redriven))
            else:
                if number > 1:
                    click.echo()
                print_message(message, full=full, redriven=redriven)
        if not number:
            print_lines(["no such dead letter"])
        return EXIT_OK if number else EXIT_FAILURE

    ctx.exit(_reading(work))


@dlq.command("redrive", cls=GroupedCommand, context_settings=_CONTEXT, short_help="Send them to their topic again.")
@_FILES
@_filters
@_deed("--to-topic", metavar="TOPIC", help="Send them to this topic. [default: the topic they came from]")
@_deed("--through-processor", is_flag=True, help="Call the processor with them instead; nothing is sent to Kafka.")
@_deed("--keep-timestamps", is_flag=True, help="Send them with their own timestamps; retention may delete them.")
@_deed("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@_deed("--yes", is_flag=True, help="Do it without asking; needed where there is no terminal.")
@_deed(
    "--in-doubt",
    type=click.Choice(["resend", "skip"]),
    help="What to do with an interrupted batch of which Kafka no longer knows whether it was sent.",
)
@some_options("bootstrap_servers", "command_config", "kafka_options", "dlq_path", "max_rate", *_PROCESSING, *_LOGGING)
@click.pass_context
def redrive_command(
    ctx: click.Context, /, files: tuple[str, ...], to_topic: str | None, through_processor: bool, keep_timestamps: bool,
    dry_run: bool, yes: bool, in_doubt: str | None, **given: Any,
) -> None:  # fmt: skip
    """Send dead letters to their topic again, each once: a second run, or one after a crash, sends only what is left.

    Key, value and headers are the bytes they were. Without FILE: those of --dlq-path. A journal beside them records
    what was done.
    """
    from kafka_consumer.redrive_command import Order, redrive, usable_base

    if through_processor and (to_topic is not None or keep_timestamps or in_doubt is not None):
        raise click.UsageError("--through-processor sends nothing to Kafka: not with --to-topic, --keep-timestamps or --in-doubt")
    if to_topic is not None and not to_topic.strip():
        raise click.UsageError("--to-topic: expected the name of a topic")
    if not (yes or dry_run) and not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError("expected --yes, or --dry-run, where there is no terminal to ask at")

    def work() -> int:
        chosen = _filter(given)
        base = usable_base([base_of(path) for path in files]) if files else None
        settings = _settings(ctx, given, "processor_callable" if through_processor else "bootstrap_servers", files=files)
        imports = settings.import_problems() if through_processor else []
        if imports:
            return print_lines(imports, EXIT_USAGE)
        base = base or with_suffix(settings["dlq_path"])
        order = Order(files or files_of(base), base, chosen, to_topic, through_processor, keep_timestamps, in_doubt, dry_run, yes)
        return redrive(settings, order)

    ctx.exit(_reading(work))


@click.command(
    "replay-backup", cls=GroupedCommand, context_settings=_CONTEXT, short_help="Call the processor with backed-up messages."
)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path())
@some_options(*_PROCESSING, "dlq_path", "max_rate", *_LOGGING)
@click.pass_context
def replay_command(ctx: click.Context, /, files: tuple[str, ...], **given: Any) -> None:
    """Call the processor with the messages of backup or dead-letter files, without Kafka.

    In the order of the files, by as many workers as configured; what fails goes to the dead-letter files of --dlq-path.
    """
    from kafka_consumer.redrive_command import replay

    def work() -> int:
        settings = _settings(ctx, given, "processor_callable")
        imports = settings.import_problems()
        if imports:
            return print_lines(imports, EXIT_USAGE)
        return replay(settings, files)

    ctx.exit(_reading(work))


@click.command("init", context_settings=_CONTEXT, short_help="Write a kc.toml and a sample processor.")
@click.argument("folder", metavar="[FOLDER]", default=".", type=click.Path())
@click.pass_context
def init_command(ctx: click.Context, /, folder: str) -> None:
    """Write a kc.toml with every option explained, and a sample processor; nothing that exists is overwritten."""
    from kafka_consumer.init_project import init

    ctx.exit(init(folder))


COMMANDS = (dlq, replay_command, init_command)
"""What cli.py adds to ``kc``."""
