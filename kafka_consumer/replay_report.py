"""What a replay shows while it runs and when it has ended, and what is asked before one that moves the group."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any, Protocol

from confluent_kafka import Consumer, KafkaException, TopicPartition
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from kafka_consumer.config import KafkaConsumerConfig
from kafka_consumer.kafka_consumer import client_options
from kafka_consumer.replay import ASK_SECONDS, Plan, make_plan
from kafka_consumer.snapshot import Snapshot

BAR_SECONDS = 0.5  # between two looks on a terminal
LINE_SECONDS = 10.0  # between two lines elsewhere

logger = logging.getLogger(__name__)


class Observed(Protocol):
    """What is needed of a consumer."""

    def snapshot(self) -> Snapshot: ...


def has_end(config: KafkaConsumerConfig) -> bool:
    """Whether a run with this configuration has progress to show."""
    return config.replay_to is not None or bool(config.stop_at_offset)


@contextmanager
def progress(consumer: Observed) -> Iterator[None]:
    """Show how far a run with an end has come: a bar on a terminal, a line in the log now and then elsewhere."""
    ended = threading.Event()
    console = _log_console()
    watch = (lambda: _lines(consumer, ended)) if console is None else (lambda: _bar(consumer, ended, console))
    thread = threading.Thread(target=watch, name="replay-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(2 * BAR_SECONDS)


def _log_console() -> Console | None:
    """Return the terminal that the log is written to, so that its lines appear above the bar; None where it is none."""
    for handler in (*logging.getLogger().handlers, *logging.getLogger("kafka_consumer").handlers):
        found = getattr(handler, "console", None)
        if isinstance(found, Console) and found.is_terminal:
            return found
    return None


def _bar(consumer: Observed, ended: threading.Event, console: Console) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
               TimeElapsedColumn(), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("replay", total=None, rate="")
        while not ended.wait(BAR_SECONDS):
            now = consumer.snapshot()
            if now.replay is not None:
                rate = now.rates.processed
                shown.update(task, completed=now.replay.done, total=now.replay.total, rate=f"{rate:,.0f}/s")


def _lines(consumer: Observed, ended: threading.Event) -> None:
    while not ended.wait(LINE_SECONDS):
        now = consumer.snapshot()
        if now.replay is None or not now.replay.total:
            continue
        eta = now.replay.eta_seconds
        logger.info(
            "replay: %d of %d (%.0f %%), %.0f/s, %s", now.replay.done, now.replay.total,
            100 * now.replay.done / now.replay.total, now.rates.processed,
            "no end in sight" if eta is None else f"about {eta:.0f} s left",
        )  # fmt: skip


def summary(snapshot: Snapshot) -> Table:
    """Return what a replay has done, as a table."""
    table = Table(title="replay", show_header=False, title_justify="left")
    totals = snapshot.totals
    for name, value in (
        ("messages", totals.processed + totals.failed),
        ("processed", totals.processed),
        ("failed, in the dead letters", totals.failed),
        ("committed", totals.committed),
    ):
        table.add_row(name, f"{value:,}")
    table.add_row("seconds", f"{snapshot.uptime_seconds:,.1f}")
    table.add_row("ended because", snapshot.stop_reason or "")
    return table


# --- before a replay that moves the group -------------------------------------------------------------------------------------


def preview(config: KafkaConsumerConfig) -> tuple[Plan, Mapping[tuple[str, int], int]]:
    """Return the plan of a run, and what the group has committed. Errors: ``KafkaException``, ``ReplayError``."""
    consumer = Consumer({**client_options(config), "auto.offset.reset": "earliest"})
    try:
        plan = make_plan(config, consumer)
        assert plan is not None  # noqa: S101 - for the type checker: the configuration has bounds
        keys = sorted({*plan.starts, *plan.ends})
        answer = consumer.committed([TopicPartition(*key) for key in keys], timeout=ASK_SECONDS)
        return plan, {(tp.topic, tp.partition): tp.offset for tp in answer if tp.error is None and tp.offset >= 0}
    finally:
        consumer.close()


def effect(plan: Plan, committed: Mapping[tuple[str, int], int]) -> Table:
    """Return what a replay that commits would repeat and skip, as a table."""
    table = Table("partition", "committed", "from", "to", "repeated", "skipped", title="what --commit does to the group")
    for key in sorted({*plan.starts, *plan.ends}):
        at = committed.get(key)
        start = plan.starts.get(key, at if at is not None else 0)
        end = plan.ends.get(key)
        repeated = max(0, (at or 0) - start)
        skipped = 0 if at is None else max(0, start - at)
        table.add_row(
            f"{key[0]}-{key[1]}", "none" if at is None else f"{at:,}", f"{start:,}", "goes on" if end is None else f"{end:,}",
            f"{repeated:,}", f"{skipped:,}",
        )  # fmt: skip
    return table


def confirm(config: KafkaConsumerConfig, stdin: IO[str], console: Console) -> Sequence[str]:
    """Show what a replay would do to the group and ask; returns lines that say why it isn't begun, or nothing."""
    try:
        plan, committed = preview(config)
    except KafkaException as error:
        said: Any = error.args[0] if error.args else error
        return [f"--commit: what it would repeat and skip can't be asked of the brokers: {getattr(said, 'str', lambda: said)()}"]
    console.print(effect(plan, committed))
    if not stdin.isatty():
        return ["--commit moves the group: --yes says that this is wanted where nobody can be asked"]
    console.print("Move the group? [y/N] ", end="", markup=False)
    return [] if stdin.readline().strip().lower() in ("y", "yes") else ["--commit: not confirmed; nothing was done"]
