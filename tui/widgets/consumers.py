"""Several consumers: a row for each, their sums, the line that names them over the screen of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tui.bindings import KEYS, Key
from tui.clock import Clock
from tui.format import UNKNOWN, age, count, fraction, full, percent, signed
from tui.health import Verdict
from tui.text import Group, Line, Part, arrange
from tui.trends import Trends, total_lag
from tui.view import ConsumerView, View
from tui.widgets.drawing import LinesWidget
from tui.widgets.figures import busy_workers, failed_fraction
from tui.widgets.header import verdict_line
from tui.widgets.keybar import KeyBar
from tui.widgets.rowlist import Column, RowList, Sort, widest

_RANKS = {"bad": 0, "warn": 1, "accent": 2, "ok": 3}
_ENDED = ("stopped", "failed")


def rank(verdict: Verdict) -> int:
    """Return how bad a verdict is; 0 is the worst."""
    return _RANKS.get(verdict.tone, 4)


def is_counted(view: View) -> bool:
    """Whether a consumer's figures are of now: one that has ended or isn't heard of may have handed its work to the others."""
    return view.snapshot is not None and view.verdict.word != "NO DATA" and view.snapshot.phase not in _ENDED


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the consumers whose figures are of now, of ``known`` consumers. Rates are messages a second."""

    counted: int
    known: int
    processed: float
    failed: float
    lag: int | None
    lag_change: float | None
    partitions: int
    in_flight: int
    busy: int
    workers: int
    dead_letters: int
    dead_letters_recent: int


def totals_of(consumers: Sequence[ConsumerView]) -> Totals:
    """Return the sums."""
    views = [consumer.view for consumer in consumers if is_counted(consumer.view)]
    snapshots = [view.snapshot for view in views if view.snapshot is not None]
    lags = [lag for lag in map(total_lag, snapshots) if lag is not None]
    changes = [view.trends.lag_change for view in views if view.trends.lag_change is not None]
    hands = [busy_workers(snapshot) for snapshot in snapshots]
    return Totals(
        counted=len(snapshots),
        known=len(consumers),
        processed=sum(snapshot.rates.processed for snapshot in snapshots),
        failed=sum(snapshot.rates.failed for snapshot in snapshots),
        lag=sum(lags) if lags else None,
        lag_change=sum(changes) if changes else None,
        partitions=sum(len(snapshot.partitions) for snapshot in snapshots),
        in_flight=sum(row.in_flight for snapshot in snapshots for row in snapshot.partitions),
        busy=sum(busy for busy, _ in hands),
        workers=sum(alive for _, alive in hands),
        dead_letters=sum(snapshot.totals.dlq_written for snapshot in snapshots),
        dead_letters_recent=sum(view.trends.dead_letters_recent for view in views),
    )


def overall(consumers: tuple[ConsumerView, ...], clock: Clock, frozen_for: float | None) -> View:
    """Return the view of all consumers: the worst verdict with the consumer's name, everybody's commands by time."""
    worst = min(consumers, key=lambda consumer: rank(consumer.view.verdict))
    verdict = worst.view.verdict
    if rank(verdict) < _RANKS["ok"]:
        verdict = replace(verdict, reason=f"{worst.name}: {verdict.reason}" if verdict.reason else worst.name)
    history = sorted(
        (replace(command, summary=f"{consumer.name}: {command.summary}")
         for consumer in consumers for command in consumer.view.history),
        key=lambda command: command.requested_at,
    )  # fmt: skip
    trends = Trends()
    return View(
        snapshot=None, verdict=verdict, trends=trends, changes=trends.changes, clock=clock, age=None, frozen_for=frozen_for,
        role="attached", source="", read_only=all(consumer.view.read_only for consumer in consumers), problem=None,
        last_command=history[-1] if history else None, history=tuple(history), consumers=consumers,
    )  # fmt: skip


def _word(verdict: Verdict) -> str:
    return f"{verdict.glyph} {verdict.word}"


class AllHeader(LinesWidget):
    """The first line: how many there are, and how they are, the worst first."""

    def lines(self, view: View, width: int, height: int) -> Sequence[Line]:
        """Return the line."""
        verdicts = Counter((consumer.view.verdict.glyph, consumer.view.verdict.word, consumer.view.verdict.tone)
                           for consumer in view.consumers)  # fmt: skip
        groups: list[Group] = [(100, (("kc ", "dim"), (f"{len(view.consumers):,} consumers", "title")))]
        if view.frozen_for is not None:
            groups.append((101, verdict_line(view)[:1]))
        for (glyph, word, tone), number in sorted(verdicts.items(), key=lambda found: (_RANKS.get(found[0][2], 4), found[0])):
            groups.append((90 - _RANKS.get(tone, 4), ((f"{glyph} {number:,} {word}", tone),)))
        groups.append((2, (("attached", "dim"),)))
        groups.append((3, (("read-only", "warn") if view.read_only else ("read-write", "dim"),)))
        return (arrange(groups, width),)


class Sums(LinesWidget):
    """The figures of all consumers together, and of how many they are when some are missing."""

    def lines(self, view: View, width: int, height: int) -> Sequence[Line]:
        """Return the line."""
        sums = totals_of(view.consumers)
        failed = fraction(sums.failed, sums.processed + sums.failed)
        growing = "warn" if sums.lag_change is not None and sums.lag_change > 1 else "strong"
        change: Line = ((f" {signed(sums.lag_change)}/s", "plain"),) if sums.lag_change is not None else ()
        recent: Line = ((f" (+{sums.dead_letters_recent:,})", "bad"),) if sums.dead_letters_recent else ()
        groups: list[Group] = [
            (9, (("rate ", "dim"), (f"{count(sums.processed)}/s", "strong"))),
            (10, (("lag ", "dim"), (count(sums.lag), growing), *change)),
            (8, (("failed ", "dim"), (percent(failed), "bad" if failed >= 0.05 else "warn" if failed > 0 else "strong"))),
            (6, (("in flight ", "dim"), (f"{sums.in_flight:,}", "strong"))),
            (5, (("workers ", "dim"), (f"{sums.busy:,}/{sums.workers:,}", "strong"))),
            (4, (("partitions ", "dim"), (f"{sums.partitions:,}", "strong"))),
            (7, (("DLQ ", "dim"), (full(sums.dead_letters), "strong"), *recent)),
        ]
        if sums.counted < sums.known:
            groups.append((11, ((f"⚠ of {sums.counted:,} of {sums.known:,} consumers", "warn"),)))
        return (arrange(groups, width),)


class AllKeys(KeyBar):
    """The last line."""

    shown = ("help", "detail", "mark", "several.pause", "several.stop", "freeze", "quit")
    names = {"detail": "open", "mark": "mark", "several.pause": "pause", "several.stop": "stop"}

    def keys(self, view: View) -> Sequence[Key]:
        """Return the keys that matter among all consumers."""
        table = {key.id: key for key in KEYS}
        return [replace(table[name], hint=self.names.get(name, table[name].hint)) for name in self.shown]


class Tabs(LinesWidget):
    """Over the screen of one consumer: which it is, and how the others are."""

    def lines(self, view: View, width: int, height: int) -> Sequence[Line]:
        """Return the line."""
        groups: list[Group] = [(200, (("0 ", "key"), ("all", "dim")))]
        for consumer in view.consumers:
            verdict = consumer.view.verdict
            said = _word(verdict) if rank(verdict) < _RANKS["accent"] else verdict.glyph
            if verdict.word == "NO DATA" and consumer.view.age is not None:
                said += f" {age(consumer.view.age)}"
            status: Part = (said, verdict.tone)
            if consumer.shown:
                groups.append((300, (("[", "accent"), (f"{consumer.name} ", "title"), status, ("]", "accent"))))
            else:
                groups.append((100 - rank(verdict), ((f"{consumer.name} ", "dim"), status)))
        return (arrange(groups, width),)


def _snapshot_part(row: ConsumerView, text: str, tone: str = "plain") -> Part:
    """Return a figure; dim where it is the last one known of a consumer that isn't counted."""
    return text, tone if is_counted(row.view) else "dim"


def _verdict(row: ConsumerView, view: View) -> Part:
    return _word(row.view.verdict), row.view.verdict.tone


def _text(name: str) -> Column[ConsumerView]:
    """Return a column of a snapshot's text."""
    field = {"PHASE": "phase", "TOPIC": "topic", "GROUP": "group_id"}[name]

    def value(row: ConsumerView) -> str:
        return str(getattr(row.view.snapshot, field)) if row.view.snapshot is not None else UNKNOWN

    priority = {"PHASE": 40, "TOPIC": 45, "GROUP": 35}[name]
    return Column(name, lambda rows: widest({value(row) for row in rows}, 5, 20), priority,
                  lambda row, view: _snapshot_part(row, value(row)))  # fmt: skip


def _partitions(row: ConsumerView, view: View) -> Part:
    snapshot = row.view.snapshot
    return _snapshot_part(row, UNKNOWN if snapshot is None else f"{len(snapshot.partitions):,}")


def _workers(row: ConsumerView, view: View) -> Part:
    snapshot = row.view.snapshot
    return _snapshot_part(row, UNKNOWN if snapshot is None else "{:,}/{:,}".format(*busy_workers(snapshot)))


def _lag(row: ConsumerView) -> int | None:
    return None if row.view.snapshot is None else total_lag(row.view.snapshot)


def _change(row: ConsumerView, view: View) -> Part:
    change = row.view.trends.lag_change
    return _snapshot_part(row, signed(change), "warn" if change is not None and change > 1 else "plain")


def _rate(row: ConsumerView) -> float | None:
    """Return the messages processed a second; None where nobody knows, 0 where the consumer has ended."""
    snapshot = row.view.snapshot
    if snapshot is None or snapshot.phase in _ENDED:
        return None if snapshot is None else 0.0
    return snapshot.rates.processed


def _failed(row: ConsumerView, view: View) -> Part:
    snapshot = row.view.snapshot
    if snapshot is None:
        return UNKNOWN, "dim"
    failed = failed_fraction(snapshot)
    return _snapshot_part(row, percent(failed), "bad" if failed >= 0.05 else "warn" if failed > 0 else "plain")


def _in_flight(row: ConsumerView, view: View) -> Part:
    snapshot = row.view.snapshot
    return _snapshot_part(row, UNKNOWN if snapshot is None else f"{sum(each.in_flight for each in snapshot.partitions):,}")


def _dead_letters(row: ConsumerView, view: View) -> Part:
    snapshot = row.view.snapshot
    tone = "warn" if row.view.trends.dead_letters_recent else "plain"
    return _snapshot_part(row, UNKNOWN if snapshot is None else count(snapshot.totals.dlq_written), tone)


def _why(row: ConsumerView, view: View) -> Part:
    return row.view.verdict.reason, "plain"


_COLUMNS: tuple[Column[ConsumerView], ...] = (
    Column("CONSUMER", lambda rows: widest((row.name for row in rows), 9, 24), 100, lambda row, view: (row.name, "strong")),
    Column("HEALTH", 14, 95, _verdict),
    _text("PHASE"),
    _text("TOPIC"),
    _text("GROUP"),
    Column("PARTS", 5, 60, _partitions, "right"),
    Column("WORKERS", 9, 55, _workers, "right"),
    Column("LAG", 7, 90, lambda row, view: _snapshot_part(row, count(_lag(row)), "strong"), "right"),
    Column("Δ/s", 6, 50, _change, "right"),
    Column("RATE/s", 6, 85, lambda row, view: _snapshot_part(row, count(_rate(row))), "right"),
    Column("FAILED", 6, 65, _failed, "right"),
    Column("IN FLIGHT", 9, 52, _in_flight, "right"),
    Column("DLQ", 5, 70, _dead_letters, "right"),
    Column("SEEN", 6, 80, lambda row, view: (age(row.view.age), "plain"), "right"),
    Column("WHY", 0, 30, _why, least=12),
)  # fmt: skip


class Consumers(RowList[ConsumerView]):
    """A row for each consumer, as they were given; a row stays when its feed is dead."""

    number = 0
    name_of_panel = "Consumers"
    markable = True
    sorts = (
        Sort("as given", "CONSUMER", lambda row, view: row.number),
        Sort("worst ▲", "HEALTH", lambda row, view: (rank(row.view.verdict), row.number)),
        Sort("lag ▼", "LAG", lambda row, view: (-1 if _lag(row) is None else _lag(row) or 0, -row.number), descending=True),
        Sort("rate ▼", "RATE/s", lambda row, view: (_rate(row) or 0.0, -row.number), descending=True),
    )

    def show(self, view: View) -> None:
        """Take a view; the rows are few, and some of them moves nearly always."""
        self._view = view
        self._take_rows(view)

    def all_rows(self, view: View) -> Sequence[ConsumerView]:
        """Return the consumers."""
        return view.consumers

    def key(self, row: ConsumerView) -> int:
        """Return the consumer's number."""
        return row.number

    def search_text(self, row: ConsumerView) -> str:
        """Return name and verdict."""
        return f"{row.name} {row.view.verdict.word}"

    def columns(self) -> Sequence[Column[ConsumerView]]:
        """Return the columns."""
        return _COLUMNS

    def describe(self, row: ConsumerView) -> str:
        """Return a consumer as text."""
        verdict = row.view.verdict
        said = f"{row.name} {verdict.word}" + (f": {verdict.reason}" if verdict.reason else "")
        return f"{said} lag={_lag(row)} socket={row.view.source}"
