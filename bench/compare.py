"""Run the contestants in turn on one broker and print medians, spread and ratios.

  make bench                                  the quick comparison
  python bench/compare.py --rounds 5 --scenarios A,G,B50 [--bootstrap HOST:PORT] [--scale 0.1] [--out FILE.json]

Per scenario: one topic for all; a warm-up run that doesn't count; then rounds whose order alternates, each run a process of its
own. The host's speed drifts, so only figures of one table are comparable, and ratios more than rates.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from load import load  # noqa: E402 - a sibling script

TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class Scenario:
    """What is run: messages, their size, partitions, workers, the work; and who takes part."""

    title: str
    partitions: int
    count: int
    size: int
    work: str
    workers: int
    contestants: tuple[str, ...]


CONTESTANTS = {
    "raw": ["run_raw.py"],
    "kc": ["run_kc.py"],
    "kc+backup": ["run_kc.py", "--backup"],
}
SCENARIOS = {
    "A": Scenario("no-op, 100 B x 500k, 6 partitions, 8 workers", 6, 500_000, 100, "noop", 8, ("raw", "kc")),
    "G": Scenario("as A, with the backup on", 6, 500_000, 100, "noop", 8, ("raw", "kc+backup")),
    "B50": Scenario("5 ms wait x 20k, 6 partitions, 50 workers", 6, 20_000, 100, "sleep:5", 50, ("kc",)),
    "B200": Scenario("5 ms wait x 20k, 6 partitions, 200 workers", 6, 20_000, 100, "sleep:5", 200, ("kc",)),
}


def run(contestant: str, bootstrap: str, topic: str, scenario: Scenario, count: int) -> dict[str, object]:
    """Run one contestant once and return its line."""
    script, *extra = CONTESTANTS[contestant]
    command = [
        sys.executable, str(HERE / script), "--bootstrap", bootstrap, "--topic", topic, "--count", str(count),
        "--workers", str(scenario.workers), "--work", scenario.work, *extra,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, env=environment, check=False)
    try:
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))
    except (IndexError, ValueError):
        return {"error": f"exit {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"}


def compare(name: str, bootstrap: str, rounds: int, scale: float) -> list[dict[str, object]]:
    """Run a scenario and print its table; returns every run."""
    scenario = SCENARIOS[name]
    count = max(1000, int(scenario.count * scale))
    topic = f"bench-{count}x{scenario.size}-{scenario.partitions}"
    load(bootstrap, topic, scenario.partitions, count, scenario.size)
    run(scenario.contestants[0], bootstrap, topic, scenario, count)
    runs: list[dict[str, object]] = []
    for index in range(rounds):
        order = scenario.contestants if index % 2 == 0 else scenario.contestants[::-1]
        for contestant in order:
            result = run(contestant, bootstrap, topic, scenario, count)
            runs.append({**result, "scenario": name, "round": index, "contestant": contestant})
            what = result.get("error") or result["messages_per_second"]
            print(f"  {name} #{index} {contestant:10} {what}", file=sys.stderr, flush=True)
    print(table(name, scenario, runs))
    return runs


def table(name: str, scenario: Scenario, runs: list[dict[str, object]]) -> str:
    """Return a scenario's table in Markdown."""
    kind, _, amount = scenario.work.partition(":")
    rates = {c: sorted(_figures(runs, c, "messages_per_second")) for c in scenario.contestants}
    if kind == "sleep":
        base, base_name = scenario.workers / (float(amount) / 1e3), "the ideal"
    else:
        base, base_name = statistics.median(rates["raw"]) if rates.get("raw") else float("nan"), "raw"
    lines = [
        f"\n{name}: {scenario.title}; ratio to {base_name} ({base:,.0f}/s)\n",
        f"| contestant | min | median | max | of {base_name} | CPU us/message | peak RSS MB | runs |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for contestant in scenario.contestants:
        found = rates[contestant]
        if not found:
            lines.append(f"| {contestant} | failed: {next(r['error'] for r in runs if r['contestant'] == contestant)} |")
            continue
        cpu = statistics.median(_figures(runs, contestant, "cpu_us_per_message"))
        rss = statistics.median(_figures(runs, contestant, "peak_rss_mb"))
        median = statistics.median(found)
        rate = f"{found[0]:,.0f} | {median:,.0f} | {found[-1]:,.0f} | {median / base:.3f}"
        lines.append(f"| {contestant} | {rate} | {cpu:.2f} | {rss:.0f} | {len(found)} |")
    return "\n".join(lines)


def _figures(runs: list[dict[str, object]], contestant: str, field: str) -> list[float]:
    return [float(str(r[field])) for r in runs if r["contestant"] == contestant and "error" not in r]


def main() -> None:
    """Parse, start a broker unless one is given, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bootstrap", default=os.environ.get("KC_TEST_BOOTSTRAP"), help="default: a broker of its own")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scenarios", default="A,G,B50,B200")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the number of messages")
    parser.add_argument("--out", type=Path, help="write every run to this JSON file")
    a = parser.parse_args()
    unknown = [name for name in a.scenarios.split(",") if name not in SCENARIOS]
    if unknown:
        parser.error(f"expected --scenarios to be of {', '.join(SCENARIOS)}, got {', '.join(unknown)}")
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    runs: list[dict[str, object]] = []
    if a.bootstrap:
        for name in a.scenarios.split(","):
            runs += compare(name, a.bootstrap, a.rounds, a.scale)
    else:
        from tests.kafka import LocalKafka

        with LocalKafka(1) as broker:
            for name in a.scenarios.split(","):
                runs += compare(name, broker.bootstrap, a.rounds, a.scale)
    if a.out:
        a.out.write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
