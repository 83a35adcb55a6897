"""Run the contestants in turn on one broker and print medians, spread and ratios.

  make bench                                  the quick comparison: A, G, B50, B200; a bare loop, a thread pool by hand, kc
  python bench/compare.py --full              every scenario, every contestant that is installed
  python bench/compare.py --rounds 5 --scenarios A,B50L --only raw,kc,aiokafka [--bootstrap HOST:PORT] [--scale 0.1]
  python bench/compare.py --table FILE.json   the tables of an earlier run

Per scenario: one topic for all; a warm-up run that doesn't count; then rounds whose order alternates, each run a process of its
own. The host's speed drifts, so only figures of one table are comparable, and ratios more than rates. Before each run it waits
for a quiet machine, and each run notes what others took of it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from load import load
from machine import HERE, broker, contestant, environment, keep, kept, parser, scaled, tell, wait_until_quiet
from peers import missing, python
from report import table
from scenarios import CONTESTANTS, QUICK, QUICK_CONTESTANTS, SCENARIOS, Scenario

TIMEOUT_SECONDS = 300


def run(name: str, bootstrap: str, scenario: Scenario, count: int) -> dict[str, Any]:
    """Run one contestant once and return its line."""
    who = CONTESTANTS[name]
    most = min(count, who.most or count)
    command = [
        str(python(who.environment)), str(HERE / who.script), "--bootstrap", bootstrap, "--topic", scenario.topic(count),
        "--count", str(most), "--workers", str(scenario.workers), "--work", scenario.work, "--keys", str(scenario.keys),
        *who.options,
    ]  # fmt: skip
    return contestant(command, TIMEOUT_SECONDS)


def compare(name: str, bootstrap: str, rounds: int, scale: float, only: tuple[str, ...], quiet: float) -> list[dict[str, Any]]:
    """Run a scenario; returns every run."""
    scenario = SCENARIOS[name]
    names = [who for who in scenario.contestants if who in only]
    if not names:
        return []
    count = scaled(scenario.count, scale)
    load(bootstrap, scenario.topic(count), scenario.partitions, count, scenario.size, scenario.keys)
    run(names[0], bootstrap, scenario, count)
    runs: list[dict[str, Any]] = []
    for index in range(rounds):
        for who in names if index % 2 == 0 else names[::-1]:
            if not wait_until_quiet(quiet):
                tell(f"  the machine isn't quiet: {who} runs anyway")
            result = run(who, bootstrap, scenario, count)
            runs.append({**result, "scenario": name, "round": index, "contestant": who, "count": count})
            what = result.get("error") or result.get("skipped") or f"{result['messages_per_second']:,.0f}/s"
            others = f"others {result.get('other_cores', 0)}, stolen {result.get('stolen_cores', 0)} cores"
            tell(f"  {time.strftime('%H:%M:%S')} {name} #{index} {who:22} {what}  ({others})")
        names = [who for who in names if not any("skipped" in r for r in runs if r["contestant"] == who)]
    return runs


def _chosen(given: str | None, default: tuple[str, ...], known: dict[str, Any], option: str) -> tuple[str, ...]:
    chosen = tuple(given.split(",")) if given else default
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise SystemExit(f"expected {option} to be of {', '.join(known)}, got {', '.join(unknown)}")
    return chosen


def main() -> None:
    """Parse, start a broker unless one is given, compare."""
    options = parser(__doc__)
    options.add_argument("--full", action="store_true", help="every scenario and contestant, and five rounds")
    options.add_argument("--rounds", type=int)
    options.add_argument("--scenarios", help=f"of {','.join(SCENARIOS)}")
    options.add_argument("--only", help=f"contestants: of {','.join(CONTESTANTS)}")
    options.add_argument("--quiet-wait", type=float, default=20.0, help="seconds to wait for a quiet machine before a run")
    options.add_argument("--table", type=Path, help="print the tables of these results, and run nothing")
    a = options.parse_args()
    if a.table:
        runs = json.loads(a.table.read_text())["runs"]
        for name in dict.fromkeys(r["scenario"] for r in runs):
            print(table(name, runs))
        return
    scenarios = _chosen(a.scenarios, tuple(SCENARIOS) if a.full else QUICK, SCENARIOS, "--scenarios")
    only = _chosen(a.only, tuple(CONTESTANTS) if a.full else QUICK_CONTESTANTS, CONTESTANTS, "--only")
    absent = {who: reason for who in only if (reason := missing(CONTESTANTS[who].environment)) is not None}
    for who, reason in absent.items():
        tell(f"{who} takes no part: {reason}")
    only = tuple(who for who in only if who not in absent)
    found = environment()
    print(f"{found['cpu']}, {found['cores']} cores, Python {found['python']}, load {found['load_before']}")
    sys.stdout.flush()
    runs = []
    with broker(a.bootstrap) as bootstrap:
        for name in scenarios:
            runs += compare(name, bootstrap, a.rounds or (5 if a.full else 3), a.scale, only, a.quiet_wait)
            if any(r["scenario"] == name for r in runs):
                print(table(name, runs), flush=True)
            others = [run for run in kept(a.out, "runs") if run["scenario"] not in scenarios]
            keep(a.out, "runs", others + runs, a.scale)


if __name__ == "__main__":
    main()
