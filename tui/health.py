"""One word on whether the consumer is healthy, with a glyph and the reason: the first thing an operator reads."""

from __future__ import annotations

from dataclasses import dataclass

from kafka_consumer.snapshot import Snapshot
from tui.format import age as show_age
from tui.format import count, duration, percent, signed
from tui.trends import Trends, total_lag, unfinished

STALE_SECONDS = 5.0
STALLED_SECONDS = 30.0
FAILING_FRACTION = 0.05
LAG_NOTICED = 1000


@dataclass(frozen=True, slots=True)
class Verdict:
    """``word`` and ``glyph`` say it without colour; ``tone`` is one of tui.text.TONES."""

    word: str
    glyph: str
    tone: str
    reason: str


def judge(
    snapshot: Snapshot | None, trends: Trends, age: float | None, problem: str | None = None, stale_after: float = STALE_SECONDS
) -> Verdict:
    """Return the verdict; the worst of what is true. ``age``: seconds since the last snapshot came."""
    if snapshot is None:
        return Verdict("NO DATA", "?", "warn", problem or "waiting for the first snapshot")
    if snapshot.phase not in ("stopped", "failed") and age is not None and age > stale_after:
        return Verdict("NO DATA", "?", "bad", f"no snapshot for {show_age(age)}" + (f": {problem}" if problem else ""))
    return _by_phase(snapshot) or _by_trouble(snapshot, trends) or _by_load(snapshot, trends)


def _by_phase(snapshot: Snapshot) -> Verdict | None:
    reason = snapshot.stop_reason or ""
    match snapshot.phase:
        case "failed":
            return Verdict("FAILED", "✖", "bad", reason)
        case "stopped":
            return Verdict("STOPPED", "■", "dim", reason)
        case "draining":
            left = f"{unfinished(snapshot):,} left"
            return Verdict("DRAINING", "▼", "warn", f"{left}: {reason}" if reason else left)
        case "starting":
            return Verdict("STARTING", "○", "accent", "")
    return None


def _by_trouble(snapshot: Snapshot, trends: Trends) -> Verdict | None:
    stuck = sum(1 for worker in snapshot.workers if worker.state == "stuck")
    if trends.crashes_recent:
        return Verdict("CRASHED", "✖", "bad", f"{_workers(trends.crashes_recent)} in the last minute, replaced")
    if stuck:
        longest = max(worker.busy_seconds for worker in snapshot.workers if worker.state == "stuck")
        return Verdict("STUCK", "⚠", "bad", f"{_workers(stuck)}, longest {duration(longest)}")
    if trends.commit_failures_recent:
        return Verdict("COMMITS FAIL", "⚠", "bad", f"{trends.commit_failures_recent:,} in the last minute")
    waiting = unfinished(snapshot) > 0
    if waiting and not snapshot.paused and trends.idle_seconds >= STALLED_SECONDS:
        return Verdict("STALLED", "⚠", "bad", f"nothing finished for {duration(trends.idle_seconds)}")
    return None


def _by_load(snapshot: Snapshot, trends: Trends) -> Verdict:
    if snapshot.paused and snapshot.pause_reason:
        return Verdict("PAUSED", "■", "bad", snapshot.pause_reason)
    if snapshot.paused:
        return Verdict("PAUSED", "■", "warn", "by operator")
    rate = snapshot.rates.processed + snapshot.rates.failed
    if snapshot.rates.failed > 0 and snapshot.rates.failed >= FAILING_FRACTION * rate:
        return Verdict("FAILING", "▲", "bad", f"{percent(snapshot.rates.failed / rate)} of messages fail")
    lag = total_lag(snapshot)
    grows = trends.lag_change is not None and trends.lag_growth > max(50.0, 0.01 * (lag or 0))
    # Without commits the lag grows by nature; it says nothing then.
    if grows and lag is not None and lag >= LAG_NOTICED and not snapshot.dev_mode:
        return Verdict("LAGGING", "▲", "warn", f"lag {count(lag)} grows {signed(trends.lag_change)}/s")
    paused = sum(1 for partition in snapshot.partitions if partition.state == "paused")
    if paused:
        return Verdict("PAUSED", "■", "warn", f"{paused:,} of {len(snapshot.partitions):,} partitions")
    if not snapshot.partitions:
        return Verdict("WAITING", "○", "accent", "no partition assigned")
    return Verdict("RUNNING", "●", "ok", "")


def _workers(number: int) -> str:
    return "1 worker" if number == 1 else f"{number:,} workers"
