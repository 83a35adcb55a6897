"""How much memory a consumer takes: over a long run, against the backlog, the size of messages and the number of workers.

  python bench/memory.py [--scale 0.1] [--bootstrap HOST:PORT] [--out FILE.json]

Each figure is a process of its own, its resident memory; "peak" is the most it ever had.
"""

from __future__ import annotations

import sys
from typing import Any

from load import load
from machine import HERE, broker, contestant, keep, parser, scaled, tell

MARKS = (100_000, 500_000, 1_000_000)
BACKLOGS = (10_000, 100_000, 1_000_000)
SIZES = (100, 1_000, 10_000, 100_000)
WORKERS = (1, 10, 100, 1_000)
BYTES = 200_000_000  # of values, at the most, in the run of one size
TIMEOUT_SECONDS = 300


def kc(bootstrap: str, topic: str, count: int, *options: object) -> dict[str, Any]:
    """Run kc; returns its line."""
    command = [sys.executable, str(HERE / "run_kc.py"), "--bootstrap", bootstrap, "--topic", topic, "--count", str(count)]
    result = contestant([*command, *map(str, options)], TIMEOUT_SECONDS)
    if "error" in result:
        raise SystemExit(f"{topic}: {result['error']}")
    return result


def filled(bootstrap: str, count: int, size: int = 100, partitions: int = 6) -> str:
    """Return a topic that holds so many messages."""
    topic = f"bench-{count}x{size}-{partitions}"
    load(bootstrap, topic, partitions, count, size)
    return topic


def measure(bootstrap: str, scale: float) -> dict[str, Any]:
    """Return the four series; each ``[[what, MB], ...]``."""
    marks = [scaled(mark, scale) for mark in MARKS]
    long = kc(bootstrap, filled(bootstrap, marks[-1]), marks[-1], "--rss-at", ",".join(map(str, marks)))
    series: dict[str, Any] = {"progress": [[int(mark), mb] for mark, mb in long["rss_mb_at"].items()]}
    tell("  messages:", series["progress"])
    series["backlog"] = []
    for backlog in [scaled(backlog, scale) for backlog in BACKLOGS]:
        result = kc(bootstrap, filled(bootstrap, backlog), min(scaled(BACKLOGS[0], scale), backlog))
        series["backlog"].append([backlog, result["peak_rss_mb"]])
    tell("  backlog:", series["backlog"])
    series["size"] = []
    for size in SIZES:
        count = scaled(min(200_000, BYTES // size), scale)
        series["size"].append([size, kc(bootstrap, filled(bootstrap, count, size), count)["peak_rss_mb"]])
    tell("  size:", series["size"])
    count = scaled(20_000, scale)
    topic = filled(bootstrap, count)
    series["workers"] = [
        [workers, kc(bootstrap, topic, count, "--workers", workers, "--work", "sleep:1")["peak_rss_mb"]] for workers in WORKERS
    ]
    tell("  workers:", series["workers"])
    return series


HEADINGS = {
    "progress": ("messages finished", "RSS MB then"),
    "backlog": ("messages in the topic", "peak RSS MB while its first are read"),
    "size": ("bytes a message", "peak RSS MB"),
    "workers": ("workers, each waiting", "peak RSS MB"),
}


def tables(series: dict[str, Any]) -> str:
    """Return the tables in Markdown."""
    parts = []
    for name, (what, mb) in HEADINGS.items():
        lines = [f"| {what} | {mb} |", "|--:|--:|"]
        parts.append("\n".join(lines + [f"| {amount:,} | {figure:.0f} |" for amount, figure in series[name]]))
    return "\n\n".join(parts)


def main() -> None:
    """Parse and measure."""
    a = parser(__doc__).parse_args()
    with broker(a.bootstrap) as bootstrap:
        series = measure(bootstrap, a.scale)
    keep(a.out, "memory", series, a.scale)
    print(tables(series))


if __name__ == "__main__":
    main()
