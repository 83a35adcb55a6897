"""The figures that tell how it goes: rate, lag, latency, failures, queue, workers, dead letters."""

from __future__ import annotations

from collections.abc import Sequence

from kafka_consumer.snapshot import Snapshot
from tui.format import UNKNOWN, bar, count, duration, fraction, full, percent, signed, sparkline
from tui.text import Group, Line, arrange, fit
from tui.trends import total_lag
from tui.view import View
from tui.widgets.drawing import LinesWidget
from tui.widgets.replaybar import progress_lines


def _lag(snapshot: Snapshot) -> str:
    """Return the lag of all partitions; as a lower bound while that of some isn't known."""
    known = total_lag(snapshot)
    at_least = known is not None and any(partition.lag is None for partition in snapshot.partitions)
    return f"≥{count(known)}" if at_least else count(known)


class Figures(LinesWidget):
    """One line; on a tiny screen a line for each figure."""

    def lines(self, view: View, width: int, height: int) -> Sequence[Line]:
        """Return the line, or the lines."""
        if height > 1 or width <= 60:
            return tiny_lines(view, width, height)
        return (figures_line(view, width),)


def busy_workers(snapshot: Snapshot) -> tuple[int, int]:
    """Return how many workers are busy (stuck ones included), and how many there are."""
    alive = [worker for worker in snapshot.workers if worker.state not in ("crashed", "stopped")]
    return sum(1 for worker in alive if worker.state in ("busy", "stuck")), len(alive)


def failed_fraction(snapshot: Snapshot) -> float:
    """Return the share of the messages finished in the last seconds that failed."""
    rates = snapshot.rates
    return fraction(rates.failed, rates.processed + rates.failed)


def figures_line(view: View, width: int) -> Line:
    """Return the figures on one line of ``width`` cells."""
    snapshot, trends = view.snapshot, view.trends
    if snapshot is None:
        return ()
    spark = 16 if width >= 180 else 7 if width >= 112 else 0
    busy, alive = busy_workers(snapshot)
    failed = failed_fraction(snapshot)
    queue = snapshot.queues.get("processing")
    share = fraction(queue.depth, queue.capacity) if queue else 0.0
    dead = snapshot.totals.dlq_written
    groups: list[Group] = [
        (9, _figure("rate", f"{count(snapshot.rates.processed)}/s", sparkline(trends.rate, spark))),
        (10, _figure("lag", _lag(snapshot), sparkline(trends.lag, spark), _growing(trends.lag_change))),
        (6, _figure("p99", duration(snapshot.latency.processing.p99), sparkline(trends.p99, spark))),
        (8, _figure("failed", percent(failed), tone="bad" if failed >= 0.05 else "warn" if failed > 0 else "plain")),
        (5, _queue_figure(queue.depth, queue.capacity, share, width) if queue else ()),
        (4, _figure("workers", f"{busy}/{alive}")),
        (7, _dead_letters(dead, trends.dead_letters_recent)),
    ]
    if snapshot.stuck_threads:
        groups.append((3, ((f"⚠ {snapshot.stuck_threads} stuck threads", "bad"),)))
    return arrange(groups, width)


def tiny_lines(view: View, width: int, height: int) -> list[Line]:
    """Return a line for each figure, the most telling first; the first ``height`` of them are seen."""
    snapshot, trends = view.snapshot, view.trends
    if snapshot is None:
        return []
    busy, alive = busy_workers(snapshot)
    queue = snapshot.queues.get("processing")
    room = max(0, min(20, width - 24))
    lines: list[Line] = list(progress_lines(view, width))
    rows = [
        ("lag", _lag(snapshot), sparkline(trends.lag, room), _growing(trends.lag_change)),
        ("rate", f"{count(snapshot.rates.processed)}/s", sparkline(trends.rate, room), "plain"),
        ("failed", percent(failed_fraction(snapshot)), "", "bad" if failed_fraction(snapshot) >= 0.05 else "plain"),
        ("DLQ", f"{full(snapshot.totals.dlq_written)} ({signed(trends.dead_letters_recent)})", "", "plain"),
        ("p99", duration(snapshot.latency.processing.p99), sparkline(trends.p99, room), "plain"),
        ("queue", f"{queue.depth}/{queue.capacity}" if queue else UNKNOWN, "", "plain"),
        ("workers", f"{busy}/{alive}", "", "plain"),
        ("commits", "OFF" if snapshot.dev_mode else "ON", "", "warn" if snapshot.dev_mode else "plain"),
    ]
    lines += [((fit(name, 8), "dim"), (fit(value, 14), tone), (graph, "accent")) for name, value, graph, tone in rows]
    return lines[:height]


def _figure(name: str, value: str, graph: str = "", tone: str = "plain") -> Line:
    line: Line = ((f"{name} ", "dim"), (value, tone if tone != "plain" else "strong"))
    return (*line, (f" {graph}", "accent")) if graph.strip() else line


def _growing(change: float | None) -> str:
    return "warn" if change is not None and change > 1 else "plain"


def _queue_figure(depth: int, capacity: int | None, share: float, width: int) -> Line:
    value = f"{depth}/{capacity}" if capacity else f"{depth}"
    graph = bar(share, 10 if width >= 180 else 5) if capacity and width >= 100 else ""
    return _figure("queue", value, graph, "warn" if share >= 0.95 else "plain")


def _dead_letters(total: int, recent: int) -> Line:
    line = _figure("DLQ", f"{total:,}")
    return (*line, (f" (+{recent:,})", "bad")) if recent else line
