"""What a message costs as a consumer grows: 1 to 1,000 workers, 1 to 1,000 partitions, a queue of 10^2 to 10^6 messages.

  python bench/growth.py [--rounds 3] [--scale 0.1] [--bootstrap HOST:PORT] [--out FILE.json]

A function that does nothing: what is left is kc's own. The cost is processor time of the consumer's process, in microseconds a
message; it moves less than a rate does on a machine that others share.
"""

from __future__ import annotations

import statistics
from typing import Any

from machine import broker, keep, parser, scaled, tell
from memory import filled, kc

COUNT = 200_000
AXES = {
    "workers": (1, 10, 100, 1_000),
    "partitions": (1, 10, 100, 1_000),
    "queue_size": (100, 1_000, 10_000, 100_000, 1_000_000),
}


def measure(bootstrap: str, axis: str, amount: int, count: int, rounds: int) -> dict[str, Any]:
    """Return the median cost and rate at one point."""
    topic = filled(bootstrap, count, partitions=amount if axis == "partitions" else 6)
    options = {"workers": ("--workers", amount), "partitions": (), "queue_size": ("--queue-size", amount)}[axis]
    runs = [kc(bootstrap, topic, count, *options) for _ in range(rounds)]
    costs = sorted(r["cpu_us_per_message"] for r in runs)
    return {
        "axis": axis,
        "amount": amount,
        "cpu_us": statistics.median(costs),
        "cpu_us_min": costs[0],
        "cpu_us_max": costs[-1],
        "rate": round(statistics.median(r["messages_per_second"] for r in runs)),
    }


def table(points: list[dict[str, Any]], axis: str) -> str:
    """Return the table of one axis in Markdown."""
    lines = [f"| {axis.replace('_', ' ')} | CPU us/message: min | median | max | messages/s |", "|--:|--:|--:|--:|--:|"]
    for p in points:
        if p["axis"] == axis:
            costs = f"{p['cpu_us_min']:.2f} | {p['cpu_us']:.2f} | {p['cpu_us_max']:.2f}"
            lines.append(f"| {p['amount']:,} | {costs} | {p['rate']:,} |")
    return "\n".join(lines)


def main() -> None:
    """Parse and measure."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=3)
    a = options.parse_args()
    points = []
    with broker(a.bootstrap) as bootstrap:
        for axis, amounts in AXES.items():
            for amount in amounts:
                points.append(measure(bootstrap, axis, amount, scaled(COUNT, a.scale), a.rounds))
                tell(f"  {axis} {amount}: {points[-1]['cpu_us']} us")
    keep(a.out, "growth", points, a.scale)
    print("\n\n".join(table(points, axis) for axis in AXES))


if __name__ == "__main__":
    main()
