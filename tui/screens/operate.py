"""What an operator can do: each action turns into a command, the dangerous ones after a question that states the effect."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from textual.screen import Screen

from kafka_consumer.snapshot import DeadLetterView, PartitionView, Snapshot
from tui.commands import CommandHandle, CommandState
from tui.feed import Feed
from tui.format import duration
from tui.screens.dialogs import Ask, Choose, Confirm
from tui.text import Line
from tui.trends import unfinished
from tui.view import View
from tui.widgets.dlq import DeadLetters
from tui.widgets.figures import busy_workers
from tui.widgets.partitions import Partitions

if TYPE_CHECKING:
    from tui.app import ConsoleApp

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
MAX_WORKERS = 1000
_AGO = re.compile(r"-(\d+(?:\.\d+)?[smhd])")
NOT_DONE = (CommandState.REFUSED, CommandState.EXPIRED, CommandState.LOST_PARTITION)


class Operating(Screen[None]):
    """The actions of the main screen that act on the consumer."""

    view: View | None
    feed: Feed
    """Of the consumer that this screen shows, whatever else is shown by the time a question is answered."""
    _wanted_workers: tuple[int, CommandHandle] | None = None

    @property
    def console_app(self) -> ConsoleApp:
        """The application."""
        raise NotImplementedError

    # Sending

    def send(self, command: str, args: Mapping[str, Any], summary: str) -> CommandHandle:
        """Send a command on its way and show that it was."""
        handle = self.feed.request(command, args, summary=summary)
        self.console_app.tick()
        return handle

    def _ready(self, command: str, summary: str) -> Snapshot | None:
        """Return the snapshot to act on; None, with the reason on the screen, when nothing may be done now."""
        app = self.console_app
        if self.feed.read_only:
            self.send(command, {}, summary)
            return None
        if app.frozen:
            app.say("the view is frozen: press z, look, and try again", severity="warning")
            return None
        snapshot = self.view.snapshot if self.view else None
        if snapshot is None:
            app.say("there is no snapshot yet: nothing to act on", severity="warning")
        elif snapshot.phase in ("stopped", "failed"):
            app.say(f"the consumer has {snapshot.phase}", severity="warning")
            return None
        return snapshot

    # Without a question

    def action_pause(self) -> None:
        """Pause or resume the marked partitions, or everything."""
        marked = self.query_one(Partitions).marked()
        snapshot = self._ready("pause", "pause or resume")
        if snapshot is None:
            return
        if not marked:
            command = "resume" if snapshot.paused else "pause"
            self.send(command, {}, f"{command} everything")
            return
        states = {(row.topic, row.partition): row.state for row in snapshot.partitions}
        command = "resume" if all(states.get(mark) == "paused" for mark in marked) else "pause"
        self.send(command, {"partitions": [list(mark) for mark in marked]}, f"{command} {name_partitions(marked)}")

    def action_dev_mode(self) -> None:
        """Turn commits off or on."""
        snapshot = self._ready("set_dev_mode", "turn commits off or on")
        if snapshot is not None:
            off = not snapshot.dev_mode
            self.send("set_dev_mode", {"enabled": off}, "commits OFF (dev mode)" if off else "commits ON")

    def action_workers(self, change: int) -> None:
        """One worker more or less; pressed again it counts from what was asked for, not from what is there yet."""
        snapshot = self._ready("set_workers", "change the number of workers")
        if snapshot is None:
            return
        wanted = self._wanted_workers
        underway = wanted is not None and wanted[1].view().state not in NOT_DONE
        now = wanted[0] if wanted is not None and underway else busy_workers(snapshot)[1]
        count = min(MAX_WORKERS, max(1, now + change))
        if count == now:
            self.console_app.say(f"there are between 1 and {MAX_WORKERS:,} workers")
            return
        handle = self.send("set_workers", {"count": count}, f"{count} workers")
        self._wanted_workers = (count, handle)

    def wait_for_count(self, view: View) -> None:
        """Forget the number of workers asked for once it is reached, or won't be."""
        if self._wanted_workers is None or view.snapshot is None:
            return
        count, handle = self._wanted_workers
        way = handle.view()
        reached = busy_workers(view.snapshot)[1] == count
        if way.final and (reached or way.state.value != "applied" or way.seconds > 10):
            self._wanted_workers = None

    # With a choice or a value

    def action_log_level(self) -> None:
        """Choose the log level."""
        snapshot = self._ready("set_log_level", "change the log level")
        if snapshot is None:
            return

        def chosen(level: str | None) -> None:
            if level:
                self.send("set_log_level", {"level": level}, f"log level {level}")

        text: tuple[Line, ...] = ((("Log level", "title"),), (("The least severe level that is logged.", "plain"),))
        self.app.push_screen(Choose(lambda view: text, LOG_LEVELS, snapshot.log_level), chosen)

    def action_rate_limit(self) -> None:
        """Ask for a limit of messages a second."""
        if self._ready("set_rate_limit", "limit the rate") is None:
            return

        def preview(view: View, entered: str) -> tuple[Sequence[Line], bool]:
            limit = read_number(entered)
            if limit is None or 0 < limit < 1:
                return ((("expected a number of messages a second of at least 1, or 0 for no limit", "warn"),),), False
            said = f"at most {limit:g} messages a second are taken" if limit else "no limit: as fast as the workers go"
            return (((said, "plain"),),), True

        def entered(value: str | None) -> None:
            if value is not None:
                limit = read_number(value) or None
                self.send("set_rate_limit", {"per_second": limit}, f"rate limit {limit:g}/s" if limit else "no rate limit")

        text: tuple[Line, ...] = ((("Rate limit", "title"),), (("Messages a second; 0 lifts the limit.", "plain"),))
        self.app.push_screen(Ask(lambda view: text, preview, value="0", yes="set"), entered)

    def action_seek(self) -> None:
        """Ask where to move the marked partitions, or the one under the cursor, with a preview."""
        panel = self.query_one(Partitions)
        snapshot = self._ready("seek", "seek")
        if snapshot is None:
            return
        row = panel.current()
        targets = panel.marked() or ([(row.topic, row.partition)] if row else [])
        if not targets:
            self.console_app.say("there is no partition to seek", severity="warning")
            return

        def preview(view: View, entered: str) -> tuple[Sequence[Line], bool]:
            rows = view.snapshot.partitions if view.snapshot else ()
            return seek_preview([row for row in rows if (row.topic, row.partition) in targets], entered)

        def entered(value: str | None) -> None:
            if value:
                args = {"partitions": [list(target) for target in targets], "to": seek_target(value)}
                self.send("seek", args, f"seek {name_partitions(targets)} to {value}")

        text: tuple[Line, ...] = (
            ((f"Seek {name_partitions(targets)}", "title"),),
            (("An offset, earliest, latest, a time such as 2026-08-01T00:00, or -2h: two hours ago.", "plain"),),
        )
        value = str(row.position) if row and row.position is not None else "latest"
        self.app.push_screen(Ask(lambda view: text, preview, value=value, yes="seek"), entered)

    # With a question

    def action_redrive(self) -> None:
        """Ask at what rate to send the marked dead letters, or the one under the cursor, to their topic again."""
        panel = self.query_one(DeadLetters)
        if self._ready("redrive", "redrive") is None:
            return
        marked = [row for row in (panel.find(mark) for mark in panel.marks) if row is not None]
        row = panel.current()
        records: list[DeadLetterView] = marked or ([row] if row is not None else [])
        if not records:
            self.console_app.say("there is no dead letter to redrive", severity="warning")
            return
        records.sort(key=lambda record: (record.topic, record.partition, record.offset))
        noun = "1 dead letter" if len(records) == 1 else f"{len(records):,} dead letters"

        def preview(view: View, entered: str) -> tuple[Sequence[Line], bool]:
            rate = read_number(entered)
            if not rate:
                return ((("expected a number of messages a second above 0", "warn"),),), False
            takes = duration(len(records) / rate)
            return (((f"writes {noun} to {name_topics(records)} at {rate:g}/s: takes {takes}", "strong"),),
                    (("every consumer group of the topic receives them again", "plain"),)), True  # fmt: skip

        def entered(value: str | None) -> None:
            rate = read_number(value) if value else None
            if rate:
                places = [[record.topic, record.partition, record.offset] for record in records]
                self.send("redrive", {"records": places, "per_second": rate}, f"redrive {noun} at {rate:g}/s")
                panel.clear_marks()

        names = [f"{record.topic}-{record.partition}@{record.offset}  {record.error_type}" for record in records[:5]]
        more = [f"and {len(records) - 5:,} more"] if len(records) > 5 else []
        text: tuple[Line, ...] = (
            ((f"Redrive {noun}?", "bad"),),
            *[((f"  {name}", "plain"),) for name in names + more],
            (("Messages a second:", "plain"),),
        )
        self.app.push_screen(Ask(lambda view: text, preview, value="10", yes="redrive", dangerous=True), entered)

    def action_stop(self) -> None:
        """Ask whether to stop the consumer."""
        self._ask_to_stop("Stop the consumer?", "stop", "stop it", "stopped by the operator")

    def ask_to_leave(self) -> None:
        """Detach when attached; else ask: drain or cancel."""
        app = self.console_app
        if self.feed.role == "attached":
            app.end(0)
            return
        phase = self.view.snapshot.phase if self.view and self.view.snapshot else ""
        if phase in ("stopped", "failed"):
            app.end(1 if phase == "failed" else 0)
        elif phase == "draining":
            app.say("already draining: the console ends with the consumer")
        else:
            self._ask_to_stop("Quit? The consumer runs in this process.", "drain and quit", "drain", "the operator quit")

    def _ask_to_stop(self, title: str, summary: str, yes: str, reason: str) -> None:
        app = self.console_app
        if self.feed.read_only:
            self.send("stop", {}, summary)
            return
        if any(isinstance(screen, Confirm) for screen in app.screen_stack):
            return
        if app.frozen:
            # A question about the consumer is answered from what is, not from what was.
            app.freeze(False)

        def answered(yes: bool | None) -> None:
            if yes:
                self.send("stop", {"reason": reason}, summary)

        def text(view: View) -> Sequence[Line]:
            return (((title, "bad"),), (), *stop_effect(view.snapshot, view.role))

        app.push_screen(Confirm(text, yes), answered)


def stop_effect(snapshot: Snapshot | None, role: str) -> list[Line]:
    """Return what stopping does, in figures."""
    if snapshot is None:
        return [(("Drains, commits, exits; no snapshot says how much there is to drain.", "strong"),)]
    left = unfinished(snapshot)
    commits = "commits nothing (commits are OFF), " if snapshot.dev_mode else "commits, "
    noun = "message" if left == 1 else "messages"
    lines: list[Line] = [((f"drains {left:,} {noun}, {commits}exits", "strong"),)]
    if snapshot.dev_mode:
        lines.append((("a restart processes everything since the last commit again", "warn"),))
    rate = snapshot.rates.processed + snapshot.rates.failed
    if left and rate > 0:
        lines.append(((f"at {rate:,.0f} messages a second this takes about {duration(left / rate)}", "plain"),))
    stuck = [worker for worker in snapshot.workers if worker.state == "stuck"]
    if stuck:
        longest = max(worker.busy_seconds for worker in stuck)
        workers = "a stuck worker, for" if len(stuck) == 1 else f"{len(stuck):,} stuck workers, the longest for"
        lines.append(((f"⚠ it waits for {workers} {duration(longest)} now", "warn"),))
    if snapshot.partitions:
        goes = "partition goes" if len(snapshot.partitions) == 1 else f"{len(snapshot.partitions):,} partitions go"
        lines.append(((f"its {goes} to other members of group {snapshot.group_id}, if there are any", "plain"),))
    if role == "attached":
        lines.append(((f"the consumer is process {snapshot.pid}; this console stays", "plain"),))
    return lines


def name_partitions(keys: Sequence[tuple[str, int]]) -> str:
    """Return partitions by name, or their number when there are many."""
    if len(keys) > 4:
        return f"{len(keys):,} partitions"
    return ", ".join(f"{topic}-{partition}" for topic, partition in keys)


def name_topics(records: Sequence[DeadLetterView]) -> str:
    """Return the topics of dead letters."""
    return ", ".join(sorted({record.topic for record in records}))


def read_number(text: str) -> float | None:
    """Return a number from 0 to ten million, None for anything else."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value <= 10_000_000 else None


def seek_target(text: str) -> str | int:
    """Return an offset as a number; earliest, latest and times as they are."""
    text = text.strip()
    return int(text) if text.isdecimal() else text


def seek_preview(rows: Sequence[PartitionView], text: str) -> tuple[Sequence[Line], bool]:
    """Return what seeking would do to each partition, and whether the target makes sense."""
    text = text.strip()
    if not rows:
        return ((("⚠ not assigned any more", "warn"),),), False
    if not text.isdecimal() and text not in ("earliest", "latest"):
        ago = _AGO.fullmatch(text)
        try:
            if ago is None:
                datetime.fromisoformat(text)
        except ValueError:
            return ((("expected an offset, earliest, latest, an ISO time or -2h", "warn"),),), False
        since = text if ago is None else f"{ago[1]} ago"
        return (((f"Kafka looks up the first offset at or after {since}", "plain"),),), True
    lines: list[Line] = []
    good = True
    move: Callable[[PartitionView], tuple[str, str, bool]] = lambda row: _seek_move(row, text)  # noqa: E731
    for row in rows[:8]:
        said, tone, possible = move(row)
        good = good and possible
        lines.append(((f"{row.topic}-{row.partition}: ", "dim"), (said, tone)))
    good = good and all(move(row)[2] for row in rows[8:])
    if len(rows) > 8:
        lines.append(((f"and {len(rows) - 8:,} more", "dim"),))
    return lines, good


def _seek_move(row: PartitionView, text: str) -> tuple[str, str, bool]:
    if text == "earliest":
        return f"from {row.position:,} to the log's start" if row.position is not None else "to the log's start", "warn", True
    target = row.high_watermark if text == "latest" else int(text)
    if target is None or row.position is None:
        return f"to {text}; how far that is isn't known", "plain", True
    if row.high_watermark is not None and target > row.high_watermark:
        return f"{target:,} is beyond the end, {row.high_watermark:,}", "warn", False
    move = target - row.position
    if move < 0:
        return f"back from {row.position:,} to {target:,}: {-move:,} offsets are processed again", "warn", True
    if move > 0:
        return f"on from {row.position:,} to {target:,}: {move:,} offsets are never processed", "bad", True
    return f"stays at {target:,}", "plain", True
