"""Progress towards an end: of a replay, or of a drain."""

from __future__ import annotations

from collections.abc import Sequence

from kafka_consumer.snapshot import Snapshot, WorkerView
from tui.format import bar, count, duration, fraction, percent, remaining
from tui.text import Group, Line, arrange
from tui.trends import unfinished
from tui.view import View
from tui.widgets.drawing import LinesWidget


class ReplayBar(LinesWidget):
    """No line, one, or two: the second names the workers that a drain waits for."""

    def lines(self, view: View, width: int, height: int) -> Sequence[Line]:
        """Return the lines."""
        return progress_lines(view, width)


def progress_lines(view: View, width: int) -> list[Line]:
    """Return what is to be said of progress; nothing when there is no end in sight."""
    snapshot = view.snapshot
    if snapshot is None:
        return []
    if snapshot.phase == "draining":
        lines = [_drain(view, snapshot, width)]
        waits = _waits_for(snapshot, width)
        return [*lines, waits] if waits else lines
    return [_replay(snapshot, width)] if snapshot.replay is not None else []


def _replay(snapshot: Snapshot, width: int) -> Line:
    replay = snapshot.replay
    assert replay is not None  # noqa: S101 - the caller asked
    share = fraction(replay.done, replay.total) if replay.total else 1.0
    in_flight = sum(partition.in_flight for partition in snapshot.partitions)
    ages = [partition.oldest_seconds for partition in snapshot.partitions if partition.oldest_seconds is not None]
    groups: list[Group] = [
        (6, (("REPLAY", "accent"),)),
        (5, ((bar(share, 8 if width < 100 else 20 if width < 160 else 40, "▓"), "accent"),)),
        (9, ((percent(share), "strong"),)),
        (7, ((f"{count(replay.done)}/{count(replay.total)}", "plain"),)),
        (8, (("ETA ", "dim"), (remaining(replay.eta_seconds), "plain"))),
        (4, (("in flight ", "dim"), (f"{in_flight:,}", "plain"))),
        (3, (("oldest ", "dim"), (duration(max(ages)), "plain")) if ages else ()),
    ]
    return arrange(groups, width)


def _drain(view: View, snapshot: Snapshot, width: int) -> Line:
    left = unfinished(snapshot)
    total = max(view.trends.drain_total or left, 1)
    share = 1.0 - fraction(left, total)
    dead, backup = (snapshot.queues.get(name) for name in ("dlq", "backup"))
    rows = [f"{queue.depth:,} {name} rows" for name, queue in (("DLQ", dead), ("backup", backup)) if queue and queue.depth]
    groups: list[Group] = [
        (6, (("DRAINING", "warn"),)),
        (5, ((bar(share, 8 if width < 100 else 20 if width < 160 else 40, "▓"), "warn"),)),
        (9, ((f"{left:,} {'message' if left == 1 else 'messages'} left", "strong"),)),
        (4, ((f"of {total:,}", "dim"),)),
        (7, ((", ".join(rows) + " to write", "plain"),) if rows else ()),
    ]
    return arrange(groups, width)


def _waits_for(snapshot: Snapshot, width: int) -> Line:
    busy = [worker for worker in snapshot.workers if worker.state in ("busy", "stuck")]
    if not busy:
        return ()
    busy.sort(key=lambda worker: worker.busy_seconds, reverse=True)
    noun = "worker" if len(busy) == 1 else "workers"
    groups: list[Group] = [(100, ((f"waits for {len(busy):,} {noun}:", "dim"),))]
    groups += [(99 - rank, _holding(worker)) for rank, worker in enumerate(busy[:12])]
    return arrange(groups, width)


def _holding(worker: WorkerView) -> Line:
    where = f"{worker.id:02d} {worker.topic}-{worker.partition}@{worker.offset} {duration(worker.busy_seconds)}"
    return ((f"⚠ {where} STUCK", "bad"),) if worker.state == "stuck" else ((where, "plain"),)
