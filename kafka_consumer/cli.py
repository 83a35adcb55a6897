"""The command line of ``kc``.

Exit codes: 0 stopped by a signal, a target or the operator; 1 a failure; 2 usage or configuration. What a user got wrong is
told in lines, never in a traceback.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import importlib
import importlib.util
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import click
from rich.console import Console

from kafka_consumer.completion import completion_command
from kafka_consumer.dlq_cli import COMMANDS
from kafka_consumer.errors import ConfigError, FilesInUseError, KafkaConsumerError
from kafka_consumer.logs import log_everything, setup_logging
from kafka_consumer.option_checks import SECRET
from kafka_consumer.options import (
    GroupedCommand,
    GroupedGroup,
    GroupedOption,
    combined,
    consumer_options,
    print_lines,
    settings_from,
)
from kafka_consumer.settings import Settings
from kafka_consumer.snapshot import sanitise

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2

_UNWRITABLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF})
"""Why printing may fail."""

logger = logging.getLogger("kafka_consumer.cli")


def version() -> str:
    """Return the version of the package."""
    import kafka_consumer

    return kafka_consumer.__version__


def _print_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"kc {version()}")
        ctx.exit()


_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


_EXAMPLES = """\b
Examples:
  kc --demo                                            the console, on a broker inside the process
  kc init billing                                      a kc.toml and a function to begin with
  kc check                                             is all of it right? The settings are those of ./kc.toml
  kc --headless --workers 50 --socket run/kc.sock      in production
  kc status --socket run/kc.sock                       how is it doing?
  kc --headless --from -2h --to latest                 the last two hours again, outside the group
  kc dlq list                                          what has failed, by type of error
  kc dlq redrive --error TimeoutError --max-rate 50    send it to its topic again
"""


@click.group(cls=GroupedGroup, invoke_without_command=True, context_settings=_CONTEXT, epilog=_EXAMPLES)
@click.option(
    "--headless", cls=GroupedOption, section="Run", is_flag=True, help="Run without the console: in production, in a container."
)
@click.option("--yes", cls=GroupedOption, section="Replay", is_flag=True, help="Don't ask before a replay with --commit.")
@consumer_options
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show the version and exit."
)
@click.pass_context
def cli(ctx: click.Context, /, headless: bool, yes: bool, **given: Any) -> None:
    """Consume a Kafka topic: each message goes to your function, what fails to the dead letters, nothing is lost.

    Every option may also stand in kc.toml (workers = 20) or in the environment (KC_WORKERS=20); the command line beats the
    environment, which beats the file.
    """
    ctx.obj = given
    if ctx.invoked_subcommand is None:
        ctx.exit(run_headless(settings_from(given), yes=yes) if headless else run_console(given, yes=yes))


@cli.command("config", cls=GroupedCommand, context_settings=_CONTEXT)
@consumer_options
@click.pass_context
def config_command(ctx: click.Context, /, **given: Any) -> None:
    """Show the effective settings and where each comes from; the values of librdkafka's options are hidden."""
    settings = settings_from(combined(ctx.obj, given))
    rows = settings.rows()
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, origin in rows:
        click.echo(f"{name:<{widths[0]}}  {value:<{min(widths[1], 40)}}  {origin}")
    print_lines(settings.warnings)
    ctx.exit(print_lines(settings.problems, EXIT_USAGE))


_CHECK_EXAMPLES = """\b
Exit codes: 0 all is well, 1 not now (a broker, the disk), 2 never as it is configured.
Examples:
  kc check --config billing/kc.toml
  kc check --demo --processor app:handle               your function, without a broker
"""


@cli.command("check", cls=GroupedCommand, context_settings=_CONTEXT, epilog=_CHECK_EXAMPLES)
@consumer_options
@click.pass_context
def check_command(ctx: click.Context, /, **given: Any) -> None:
    """Check configuration, processor, paths, broker and topic; say what is wrong and how to mend it."""
    from kafka_consumer.check import check
    from kafka_consumer.demo import demo_session

    settings = settings_from(combined(ctx.obj, given))
    print_lines(settings.warnings)
    codes = []
    # A demo's broker exists only as long as somebody runs it; it is started when there is nothing else to complain of.
    with demo_session(settings.without_demo() if settings.problems else settings) as (completed, _):
        for finding in check(completed):
            click.echo(str(finding))
            if not finding.good:
                codes.append(finding.exit_code)
    ctx.exit(max(codes, default=EXIT_OK))


_STATUS_EXAMPLES = """\b
Exit codes: 0 it answers, 1 it can't be reached.
Examples:
  kc status --socket run/kc.sock --watch
  kc status --socket run/kc.sock --json | jq '.partitions[] | {partition, lag}'
"""


@cli.command("status", cls=GroupedCommand, context_settings=_CONTEXT, epilog=_STATUS_EXAMPLES)
@click.option("--socket", "path", metavar="PATH", default=None, help="The socket of the consumer. [default: the setting]")
@click.option("--json", "as_json", is_flag=True, help="The snapshot as one line of JSON.")
@click.option("--watch", is_flag=True, help="Again every second, until interrupted.")
@click.pass_context
def status_command(ctx: click.Context, /, path: str | None, as_json: bool, watch: bool) -> None:
    """Show a running consumer once, in plain text or as JSON; it must have been given a --socket."""
    from kafka_consumer.status import show_status

    path = settings_from(ctx.obj or {})["socket"] if path is None else path
    if not isinstance(path, str):
        missing = "--socket: missing; the path that the consumer was given (or KC_SOCKET, or socket in kc.toml)"
        ctx.exit(print_lines([missing], EXIT_USAGE))
    ctx.exit(show_status(path, as_json=as_json, watch=watch))


for each in (*COMMANDS, completion_command):
    cli.add_command(each)


def run_headless(settings: Settings, *, yes: bool = False) -> int:
    """Run the consumer until it is stopped; return the exit code. ``yes``: a replay that commits isn't asked about."""
    try:
        return _run_headless(settings, yes)
    except KeyboardInterrupt:
        # The consumer had no handlers of its own yet: a processor's module may take long to import.
        click.echo("stopped by a signal before it began", err=True)
        return EXIT_OK


def _run_headless(settings: Settings, yes: bool) -> int:
    problems = [*settings.problems, *settings.import_problems()]
    if problems:
        return print_lines(problems, EXIT_USAGE)
    from kafka_consumer.control import serve
    from kafka_consumer.demo import demo_files, demo_session
    from kafka_consumer.kafka_consumer import KafkaConsumer
    from kafka_consumer.metrics_server import serve_metrics
    from kafka_consumer.replay_report import confirm, has_end, progress, summary
    from kafka_consumer.systemd_notify import notifying

    setup_logging(settings["log_level"], settings["log_format"], secrets=settings["kafka_options"])
    log_everything()
    for warning in settings.warnings:
        logger.warning("%s", warning)
    with demo_session(settings) as (completed, demo):
        config = completed.build_config()
        if config.replay_commit and not yes:
            refused = confirm(config, sys.stdin, Console(stderr=True))
            if refused:
                return print_lines(refused, EXIT_USAGE)
        consumer = KafkaConsumer(config)
        # First of all: where somebody listens already, nothing is begun.
        with (
            serve(consumer, completed["socket"]) if completed["socket"] is not None else contextlib.nullcontext(),
            serve_metrics(consumer, completed["metrics_address"], completed["metrics_port"]),
        ):
            if demo is not None:
                demo.watch(consumer)
            with progress(consumer) if has_end(config) else contextlib.nullcontext(), notifying(consumer):
                code = consumer.run()
    if config.replay_from is not None or config.replay_to is not None:
        Console().print(summary(consumer.snapshot()))
    if demo is not None:
        click.echo("\n".join(["The demo's files:", *(f"  {path}" for path in demo_files(completed))]))
    return code


def run_console(given: Mapping[str, Any], *, yes: bool = False) -> int:
    """Run the consumer under the console; return the exit code. ``yes``: a replay that commits isn't asked about."""
    console = _console()
    if console is None:
        click.echo("the console isn't part of this version yet: use kc --headless", err=True)
        return EXIT_USAGE
    for stream, name in ((sys.stdin, "stdin"), (sys.stdout, "stdout")):
        if not stream.isatty():
            return print_lines([f"the console needs a terminal, and {name} isn't one: use kc --headless"], EXIT_USAGE)
    settings = settings_from(given)
    problems = [*settings.problems, *settings.import_problems()]
    if problems:
        return print_lines(problems, EXIT_USAGE)
    return console(settings, yes=yes)


def _console() -> Callable[..., int] | None:
    """Return the console's entry point, imported only when it is wanted, or None where it isn't installed."""
    try:
        if importlib.util.find_spec("tui.cli") is None:
            return None
    except ModuleNotFoundError:
        return None
    console: Callable[..., int] | None = getattr(importlib.import_module("tui.cli"), "run_console", None)
    return console


def show_refusal(error: click.ClickException, arguments: Sequence[str]) -> None:
    """Print what click says, on one line, without a value: ``kc sasl.password=...`` and ``-X sasl.password ...`` are slips."""
    message = error.format_message()
    for option, name, value in zip(arguments, arguments[1:], arguments[2:], strict=False):
        if option == "-X" and "=" not in name:
            message = message.replace(value, SECRET)
    clean = re.sub(r"=.*", f"={SECRET}", sanitise(message, 1_000))
    with contextlib.suppress(OSError):
        (click.UsageError(clean, error.ctx) if isinstance(error, click.UsageError) else click.ClickException(clean)).show()


def invoke(arguments: list[str]) -> int:
    """Run a command line; return its exit code. What is a user's mistake is printed, what isn't is logged with its traceback."""
    try:
        code = cli.main(args=arguments, prog_name="kc", standalone_mode=False)
    except click.ClickException as error:
        show_refusal(error, arguments)
        return error.exit_code
    except click.Abort:
        if "--headless" in arguments:  # a signal ends a consumer with 0, however early it comes
            click.echo("stopped by a signal before it began", err=True)
            return EXIT_OK
        click.echo("interrupted", err=True)
        return EXIT_FAILURE
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else EXIT_FAILURE
    except ConfigError as error:
        return print_lines(error.problems, EXIT_USAGE)
    except KafkaConsumerError as error:
        # The errors of this package are written for people: the line says it all.
        print_lines([str(error)])
        return EXIT_USAGE if isinstance(error, FilesInUseError) else EXIT_FAILURE
    except OSError as error:
        if error.filename is not None or error.errno not in _UNWRITABLE:
            return _defect(error)
        return print_lines([f"stdout can't be written: {os.strerror(error.errno)}"], EXIT_FAILURE)
    except Exception as error:  # noqa: BLE001 - it is logged, with its traceback
        return _defect(error)
    return code if isinstance(code, int) else EXIT_OK


def _defect(error: Exception) -> int:
    """Log an error that nobody foresaw; return the exit code."""
    if not logging.getLogger().handlers:
        setup_logging()
    logger.critical("unexpected error; this is a defect in kc", exc_info=error)
    return EXIT_FAILURE


def main() -> NoReturn:
    """Run ``kc`` as a process; never returns."""
    # As the first process of a container it would otherwise not get a SIGTERM before the consumer handles it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    prepare_streams()
    leave(invoke(sys.argv[1:]))


def prepare_streams() -> None:
    """Make stdin, stdout and stderr usable, whatever the process was started with; first of all.

    One that was closed (``>&-``) is nowhere from now on: else the next file or socket would get its number, and what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A terminal that has no ✓ must not end in a traceback.
            stream.reconfigure(errors="backslashreplace")


def leave(code: int) -> NoReturn:
    """End the process now, whatever its threads do: one that hangs in a processor would hold up an ordinary exit for ever."""
    # What users and libraries registered still runs, and the log is flushed by it.
    atexit._run_exitfuncs()  # noqa: SLF001 - there is no public way to run them before os._exit
    for stream in (sys.stdout, sys.stderr):
        # A closed pipe: nobody is there to read it.
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
