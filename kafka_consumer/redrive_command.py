"""What ``kc dlq redrive`` and ``kc replay-backup`` do with their arguments: preview, question, progress, summary, exit code."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kafka_consumer.dlq_files import Filter, Problems, read_messages
from kafka_consumer.errors import ConfigError, RedriveError
from kafka_consumer.logs import log_everything, setup_logging
from kafka_consumer.options import print_lines
from kafka_consumer.processor_run import ProcessorRun, RunFailedError
from kafka_consumer.redrive import Redrive, Result, undone
from kafka_consumer.redrive_journal import Journal, journal_path, read_done
from kafka_consumer.redrive_kafka import KafkaSender
from kafka_consumer.settings import Settings
from kafka_consumer.signal_handler import SignalHandler
from kafka_consumer.snapshot import sanitise

EXIT_OK, EXIT_FAILURE = 0, 1
LOG_SECONDS = 5.0  # between two lines about the progress, where there is no terminal
SHOWN_FAILURES = 20

logger = logging.getLogger("kafka_consumer.redrive")


@dataclass(frozen=True, slots=True)
class Order:
    """What a redrive is to do. ``files`` are all of one base; ``processor``: through the processor instead of to Kafka."""

    files: Sequence[str]
    base: str
    chosen: Filter
    to_topic: str | None
    processor: bool
    keep_timestamps: bool
    in_doubt: str | None
    dry_run: bool
    yes: bool


def redrive(settings: Settings, order: Order) -> int:
    """Show what would happen, ask, do it; return the exit code."""
    problems = Problems(lambda line: click.echo(sanitise(line, 2_000), err=True))
    journal = journal_path(order.base)
    count = _preview(order, journal, problems, settings["max_rate"])
    if order.dry_run or not count:
        return EXIT_FAILURE if problems.lost else EXIT_OK
    if not order.yes and not click.confirm("Do it?", default=False, err=True):
        print_lines(["nothing was done"])
        return EXIT_OK
    setup_logging(settings["log_level"], settings["log_format"], secrets=settings["kafka_options"])
    log_everything()
    # The preview has told what can't be read.
    silent = Problems(lambda _: None)
    messages = filter(order.chosen, read_messages(order.files, silent, dead_letters=True))
    with _until_signal() as signals, Journal(journal) as opened, _progress("redriven", count) as show:
        if order.processor:
            with ProcessorRun(settings.build_config(), record=False, stopping=signals.shutdown_event, progress=show) as run:
                result = run.redrive(messages, opened)
            left = opened.in_doubt
            if left is not None:
                show.note(
                    f"batch {left.number} of an interrupted redrive ({len(left.letters):,} dead letters) was left out: "
                    "a redrive to Kafka finds out whether it was sent"
                )
        else:
            stopping = signals.shutdown_event
            sender = KafkaSender(settings["bootstrap_servers"], settings["kafka_options"], opened.id, stopping.is_set)
            job = Redrive(
                opened, sender, to_topic=order.to_topic, max_rate=settings["max_rate"], keep_timestamps=order.keep_timestamps,
                in_doubt=order.in_doubt, stopping=stopping, progress=show,
            )  # fmt: skip
            try:
                result = job.run(messages)
            except RedriveError as error:
                print_lines([str(error)])
                _summary("redriven", job.result, problems)
                return EXIT_FAILURE
    return _summary("redriven", result, problems)


def replay(settings: Settings, files: Sequence[str]) -> int:
    """Feed the rows of backup or dead-letter files to the processor; return the exit code."""
    config = settings.build_config()
    setup_logging(settings["log_level"], settings["log_format"], secrets=settings["kafka_options"])
    log_everything()
    problems = Problems(lambda line: logger.warning("%s", line))
    with _until_signal() as signals, _progress("processed", None) as show:
        run = ProcessorRun(config, record=True, stopping=signals.shutdown_event, progress=show)
        try:
            with run:
                run.replay(read_messages(files, problems))
        except RunFailedError as error:
            print_lines([str(error)])
            _summary("processed", run.result, problems)
            return EXIT_FAILURE
    return _summary("processed", run.result, problems, settings["dlq_path"])


# --- before -------------------------------------------------------------------------------------------------------------------


def _preview(order: Order, journal: str, problems: Problems, rate: float | None) -> int:
    """Print what would be done; return how many dead letters that are."""
    done = read_done(journal)
    result = Result()
    ways: Counter[tuple[str, str]] = Counter()
    chosen = filter(order.chosen, read_messages(order.files, problems, dead_letters=True))
    for _, message in undone(chosen, done, result):
        ways[message.topic, "the processor" if order.processor else order.to_topic or message.topic] += 1
    count = sum(ways.values())
    already = f"{result.already:,} redriven already or recorded twice" if result.already else ""
    if not count:
        click.echo(f"nothing to redrive{f' ({already})' if already else ''}")
        return 0
    click.echo(f"{count:,} {'dead letter' if count == 1 else 'dead letters'} to redrive{f', {already}' if already else ''}:")
    for (topic, target), number in sorted(ways.items()):
        click.echo(f"  {sanitise(topic, 200)} → {sanitise(target, 200)}: {number:,}")
    if rate is not None:
        click.echo(f"  at {rate:g} a second: {count / rate:,.0f} s or more")
    click.echo(f"  journal: {sanitise(journal, 500)}")
    return count


# --- meanwhile ----------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _until_signal() -> Iterator[SignalHandler]:
    """Have a signal end the run after what is at hand."""
    signals = SignalHandler()
    signals.register()
    try:
        yield signals
    finally:
        signals.restore()


class _Show:
    """Called with the result as it is so far: moves a bar on a terminal, writes a line now and then elsewhere."""

    def __init__(self, verb: str, total: int | None, bar: Progress | None) -> None:
        self._verb = verb
        self._total = total
        self._bar = bar
        self._task = None if bar is None else bar.add_task(verb, total=total)
        self._told = time.monotonic()
        self.notes: list[str] = []

    def __call__(self, result: Result) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=result.done + result.failed)
        elif time.monotonic() - self._told >= LOG_SECONDS:
            self._told = time.monotonic()
            of = "" if self._total is None else f" of {self._total:,}"
            logger.info("%s: %d%s, %d failed", self._verb, result.done, of, result.failed)

    def note(self, line: str) -> None:
        """Have a line printed at the end."""
        self.notes.append(line)


@contextlib.contextmanager
def _progress(verb: str, total: int | None) -> Iterator[_Show]:
    bar = None
    if sys.stderr.isatty():
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        bar = Progress(*columns, console=Console(stderr=True, markup=False, emoji=False, highlight=False))
    show = _Show(verb, total, bar)
    with bar or contextlib.nullcontext():
        yield show
    print_lines(show.notes)


# --- after --------------------------------------------------------------------------------------------------------------------


def _summary(verb: str, result: Result, problems: Problems, dlq_path: str | None = None) -> int:
    for failure in result.failures[:SHOWN_FAILURES]:
        where = f" ({failure.place})" if failure.place else ""
        print_lines([f"failed: {failure.topic}-{failure.partition}@{failure.offset}{where}: {failure.reason[:500]}"])
    if result.failed > SHOWN_FAILURES:
        print_lines([f"and {result.failed - SHOWN_FAILURES:,} more that failed"])
    parts = [f"{result.done:,} {verb}", f"{result.failed:,} failed"]
    parts += [f"{result.already:,} redriven already or recorded twice"] if result.already else []
    parts += [f"{problems.lost:,} rows unreadable"] if problems.lost else []
    parts += [f"{problems.torn:,} last rows unfinished"] if problems.torn else []
    parts += ["stopped by a signal before the end"] if result.stopped else []
    click.echo(", ".join(parts))
    if dlq_path is not None and result.failed:
        click.echo(f"what failed is in the dead-letter files of {sanitise(dlq_path, 500)}")
    return EXIT_FAILURE if result.failed or problems.lost or result.stopped else EXIT_OK


def usable_base(bases: Sequence[str]) -> str:
    """Return the one base of the files. Errors: ``ConfigError`` for several: each has a journal of its own."""
    if len(set(bases)) > 1:
        raise ConfigError(f"FILE: expected files of one dlq_path, got those of {' and '.join(sorted(set(bases))[:3])}")
    return bases[0]
