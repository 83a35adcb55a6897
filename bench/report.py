"""From runs to rows and Markdown tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from scenarios import CONTESTANTS, SCENARIOS

# Cores that others may take during a run, the broker among them, before the run is left out where two quiet ones remain.
NOISY_CORES = 0.7
ENOUGH_RUNS = 3  # of each of two contestants, to say which one is faster
Run = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A contestant's figures in one scenario. ``rates`` are sorted; none where every run failed: ``remarks`` say why."""

    contestant: str
    rates: tuple[float, ...]
    base: float
    cpu_us: float
    rss_mb: float
    remarks: tuple[str, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rates)


def faster(one: Row, other: Row) -> bool:
    """Whether a row is faster beyond doubt: enough runs of each, and none of the other's reaches any of its own."""
    return min(len(one.rates), len(other.rates)) >= ENOUGH_RUNS and one.rates[0] > other.rates[-1]


def counted(runs: Sequence[Run]) -> list[Run]:
    """Return the runs that count: those on a quiet machine where there are two of them, else all that went well."""
    well = [r for r in runs if "messages_per_second" in r and "error" not in r]
    quiet = [r for r in well if r.get("other_cores", 0) + r.get("stolen_cores", 0) <= NOISY_CORES]
    return quiet if len(quiet) >= 2 else well


def base_of(scenario: str, runs: Sequence[Run]) -> tuple[str, float]:
    """Return what rates are compared with: the ideal where the work takes time, else the bare loop."""
    ideal = SCENARIOS[scenario].ideal
    if ideal is not None:
        return "the ideal", ideal
    raw = [r["messages_per_second"] for r in counted([r for r in runs if r["contestant"] == "raw"])]
    return "raw", statistics.median(raw) if raw else float("nan")


def rows(scenario: str, runs: Iterable[Run]) -> list[Row]:
    """Return a scenario's rows, the fastest first."""
    mine = [r for r in runs if r["scenario"] == scenario]
    _, base = base_of(scenario, mine)
    found = []
    for who in dict.fromkeys(r["contestant"] for r in mine):
        his = [r for r in mine if r["contestant"] == who]
        good = counted(his)
        remarks = [CONTESTANTS[who].remark]
        errors = [r["error"] for r in his if "error" in r]
        remarks += [r["skipped"] for r in his if "skipped" in r][:1]
        if errors:
            remarks.append(f"{len(errors)} of {len(his)} failed: {errors[0]}")
        if good and good[0]["messages"] < his[0]["count"]:
            remarks.append(f"{good[0]['messages']:,} messages")
        if any("out_of_order" in r for r in good):
            worst = max(r.get("out_of_order", 0) for r in good)
            if worst:
                remarks.append(f"up to {worst:,} out of order")
        rates = tuple(sorted(r["messages_per_second"] for r in good))
        cpu, rss = (statistics.median(r[field] for r in good) if good else 0.0 for field in ("cpu_us_per_message", "peak_rss_mb"))
        found.append(Row(who, rates, base, cpu, rss, tuple(remark for remark in remarks if remark)))
    return sorted(found, key=lambda row: -row.median if row.rates else 0.0)


def table(scenario: str, runs: Sequence[Run], *, title: bool = True) -> str:
    """Return a scenario's table in Markdown."""
    mine = [r for r in runs if r["scenario"] == scenario]
    base_name, base = base_of(scenario, mine)
    lines = [f"\n{scenario}: {SCENARIOS[scenario].title}; ratio to {base_name} ({base:,.0f}/s)\n"] if title else []
    lines += [
        f"| contestant | min | median | max | of {base_name} | CPU us/message | peak RSS MB | runs | |",
        "|---|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in rows(scenario, mine):
        remarks = "; ".join(row.remarks).replace("|", "\\|")
        if not row.rates:
            lines.append(f"| {row.contestant} | | | | | | | 0 | {remarks} |")
            continue
        rate = f"{row.rates[0]:,.0f} | {row.median:,.0f} | {row.rates[-1]:,.0f} | {row.median / row.base:.3f}"
        lines.append(f"| {row.contestant} | {rate} | {row.cpu_us:.2f} | {row.rss_mb:.0f} | {len(row.rates)} | {remarks} |")
    return "\n".join(lines)
