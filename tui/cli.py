"""The command line of ``kc-tui``: a consumer under the console, or the console attached to a running one.

Exit codes: those of ``kc``; attached, 0 when the operator left and 1 when no consumer can be reached.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click
from rich.console import Console

from kafka_consumer.cli import EXIT_FAILURE, EXIT_OK, EXIT_USAGE, leave, prepare_streams, show_refusal, version
from kafka_consumer.errors import ConfigError, FilesInUseError, KafkaConsumerError
from kafka_consumer.logs import log_everything, setup_logging
from kafka_consumer.options import GroupedCommand, GroupedOption, consumer_options, settings_from
from kafka_consumer.settings import Settings
from kafka_consumer.snapshot import sanitise
from tui.app import THEMES

logger = logging.getLogger("kafka_consumer.cli")

WEB_PORT = 8000


def _print_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"kc-tui {version()}")
        ctx.exit()


@click.command(
    cls=GroupedCommand, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, name="kc-tui"
)
@click.option(
    "--attach",
    cls=GroupedOption,
    section="Console",
    metavar="SOCKET",
    multiple=True,
    help="Look at the consumer listening there; several times: at all of them.",
)
@click.option(
    "--read-only", cls=GroupedOption, section="Console", is_flag=True, help="Refuse every command; the console only shows."
)
@click.option(
    "--theme", cls=GroupedOption, section="Console", type=click.Choice(THEMES), help="Colours to start with; t changes them."
)
@click.option(
    "--web",
    cls=GroupedOption,
    section="Console",
    is_flag=True,
    help="With --attach: serve the console to browsers on 127.0.0.1, read-only.",
)
@click.option(
    "--web-port",
    cls=GroupedOption,
    section="Console",
    type=click.IntRange(1, 65535),
    default=WEB_PORT,
    metavar="PORT",
    help=f"Where --web listens. [default: {WEB_PORT}]",
)
@click.option("--web-write", cls=GroupedOption, section="Console", is_flag=True, help="Let browsers give commands, too.")
@click.option("--yes", cls=GroupedOption, section="Replay", is_flag=True, help="Don't ask before a replay with --commit.")
@consumer_options
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version, help="Show the version and exit."
)
@click.pass_context
def cli(
    ctx: click.Context,
    /,
    attach: tuple[str, ...],
    read_only: bool,
    theme: str | None,
    web: bool,
    web_port: int,
    web_write: bool,
    yes: bool,
    **given: Any,
) -> None:
    """Consume a Kafka topic under a console, or look at a consumer that runs elsewhere on this machine (--attach).

    In one process with the consumer, quitting drains it; attached, quitting only detaches.
    """
    if web:
        ctx.exit(serve(attach, port=web_port, write=web_write, theme=theme))
    if not _on_a_terminal():
        ctx.exit(EXIT_USAGE)
    if attach:
        ctx.exit(attach_to(attach, read_only=read_only, theme=theme))
    ctx.exit(run_console(settings_from(given), read_only=read_only, theme=theme, yes=yes))


def run_console(settings: Settings, *, read_only: bool = False, theme: str | None = None, yes: bool = False) -> int:
    """Run the consumer that these settings describe under the console; return the exit code. Errors: ``KafkaConsumerError``.

    A replay that commits is asked about first, unless ``yes``.
    """
    try:
        return _run_console(settings, read_only=read_only, theme=theme, yes=yes)
    except KeyboardInterrupt:
        # Nothing had begun: a processor's module may take long to import.
        return _print_lines(["stopped by a signal before it began"], EXIT_OK)


def _run_console(settings: Settings, *, read_only: bool, theme: str | None, yes: bool) -> int:
    problems = [*settings.problems, *settings.import_problems()]
    if problems:
        return _print_lines(problems, EXIT_USAGE)
    from kafka_consumer.control import serve as listen
    from kafka_consumer.demo import demo_files, demo_session
    from kafka_consumer.kafka_consumer import KafkaConsumer
    from kafka_consumer.metrics_server import serve_metrics
    from kafka_consumer.replay_report import confirm
    from tui.runtime import run_in_process

    log_everything()
    with demo_session(settings) as (completed, demo):
        config = completed.build_config()
        if config.replay_commit and not yes:
            refused = confirm(config, sys.stdin, Console(stderr=True))
            if refused:
                return _print_lines(list(refused), EXIT_USAGE)
        consumer = KafkaConsumer(config)
        for warning in settings.warnings:
            logger.warning("%s", warning)
        # First of all: where somebody listens already, nothing is begun.
        with (
            listen(consumer, completed["socket"]) if completed["socket"] is not None else contextlib.nullcontext(),
            serve_metrics(consumer, completed["metrics_address"], completed["metrics_port"]),
        ):
            if demo is not None:
                demo.watch(consumer)
            code = run_in_process(
                consumer,
                read_only=read_only,
                theme=theme,
                start_logging=lambda: setup_logging(
                    settings["log_level"], settings["log_format"], secrets=settings["kafka_options"]
                ),
            )
    if demo is not None:
        click.echo("\n".join(["The demo's files:", *(f"  {path}" for path in demo_files(completed))]))
    return code


def attach_to(paths: Sequence[str], *, read_only: bool = False, theme: str | None = None) -> int:
    """Look at the consumers that listen on these sockets, those that can't be reached yet included; return the exit code."""
    from tui.runtime import run_attached
    from tui.socket_feed import SocketFeed

    refused = _refusal(paths)
    if refused is not None:
        return refused
    return run_attached(*[SocketFeed(path, read_only=read_only) for path in paths], theme=theme)


def _refusal(paths: Sequence[str]) -> int | None:
    """Print why these sockets can't be shown and return the exit code; None when one of them, at least, is served."""
    from tui.socket_feed import can_connect

    known = [os.path.realpath(path) for path in paths]
    twice = sorted({path for path, real in zip(paths, known, strict=True) if known.count(real) > 1})
    if twice:
        return _print_lines([f"--attach: the same socket twice: {', '.join(twice)}"], EXIT_USAGE)
    problems: list[str] = []
    for path in paths:
        problem = can_connect(path)
        if problem is None:
            return None
        problems.append(problem)
    return _print_lines(problems, EXIT_FAILURE)


def serve(attach: Sequence[str], *, port: int, write: bool, theme: str | None) -> int:
    """Serve the attached console to browsers on this machine until interrupted; return the exit code."""
    if not attach:
        return _print_lines(["--web: only together with --attach: every browser would start a consumer of its own"], EXIT_USAGE)
    if importlib.util.find_spec("textual_serve") is None:
        return _print_lines(["--web needs textual-serve: install the extra, kc[web]"], EXIT_USAGE)
    from tui.web_server import ConsoleServer

    refused = _refusal(attach)
    if refused is not None:
        return refused
    words = [sys.executable, "-m", "tui.web"]
    words += [word for path in attach for word in ("--attach", path)]
    words += [] if write else ["--read-only"]
    words += ["--theme", theme] if theme else []
    ConsoleServer(shlex.join(words), port).serve()
    return 0


def _on_a_terminal() -> bool:
    for stream, name in ((sys.stdin, "stdin"), (sys.stdout, "stdout")):
        if not stream.isatty():
            click.echo(f"the console needs a terminal, and {name} isn't one: use kc --headless", err=True)
            return False
    return True


def _print_lines(lines: list[str], code: int) -> int:
    for line in lines:
        click.echo(sanitise(line, 2_000), err=True)
    return code


def invoke(arguments: list[str]) -> int:
    """Run a command line; return its exit code. A user's mistake is printed in lines."""
    try:
        code = cli.main(args=arguments, prog_name="kc-tui", standalone_mode=False)
    except click.ClickException as error:
        show_refusal(error, arguments)
        return error.exit_code
    except click.Abort:
        return EXIT_FAILURE
    except ConfigError as error:
        return _print_lines(error.problems, EXIT_USAGE)
    except KafkaConsumerError as error:
        return _print_lines([str(error)], EXIT_USAGE if isinstance(error, FilesInUseError) else EXIT_FAILURE)
    except Exception:
        if not logging.getLogger().handlers:
            setup_logging()
        logger.critical("unexpected error; this is a defect in kc", exc_info=True)
        return EXIT_FAILURE
    return code if isinstance(code, int) else 0


def main() -> NoReturn:
    """Run ``kc-tui`` as a process; never returns."""
    prepare_streams()
    leave(invoke(sys.argv[1:]))


if __name__ == "__main__":
    main()
