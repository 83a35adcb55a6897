"""One partition, one worker, one dead letter: everything a snapshot knows of it."""

from __future__ import annotations

from collections.abc import Sequence

from kafka_consumer.snapshot import DeadLetterView, PartitionView, Snapshot, WorkerView
from tui.format import UNKNOWN, count, date_time, duration, fraction, full, percent, remaining, signed
from tui.screens.base import PageScreen, fact
from tui.text import Line
from tui.view import View
from tui.widgets.dlq import place
from tui.widgets.partitions import state_part
from tui.widgets.workers import holds, worker_state_part


class PartitionPage(PageScreen):
    """A partition, followed by its name."""

    def __init__(self, row: PartitionView) -> None:
        super().__init__()
        self._last = row

    def heading(self, view: View) -> str:
        """Return the partition's name."""
        return f"Partition {self._last.topic}-{self._last.partition}"

    def lines(self, view: View) -> Sequence[Line]:
        """Return the page."""
        snapshot = view.snapshot
        found = next((row for row in _partitions(snapshot) if (row.topic, row.partition) == self._identity), None)
        row = self._last = found or self._last
        glyph, tone = state_part(row.state)
        change = view.trends.change(row) if found else None
        lines: list[Line] = []
        if found is None:
            lines += [(("⚠ not assigned any more; this is how it was last seen", "warn"),), ()]
        lines += [
            fact("state", f"{glyph}  {row.note}", tone),
            fact("position", full(row.position)),
            fact("committed", full(row.committed)),
            fact("high watermark", full(row.high_watermark)),
            fact("lag", full(row.lag), "strong"),
            fact("lag changes by", f"{signed(change)}/s"),
            fact("time lag", duration(row.time_lag_seconds)),
            fact("finished", f"{count(row.rate)}/s"),
            fact("in flight", f"{row.in_flight:,}"),
            fact("oldest", duration(row.oldest_seconds)),
            fact("stop at", full(row.stop_at)),
            fact("ETA", remaining(row.eta_seconds)),
        ]
        if row.stop_at is not None and row.committed is not None:
            lines.append(fact("to the target", f"{max(0, row.stop_at + 1 - row.committed):,} offsets"))
        lines += [(), (("Workers that hold its messages", "title"),)]
        workers = snapshot.workers if snapshot else ()
        holding = [worker for worker in workers if (worker.topic, worker.partition) == self._identity]
        for worker in sorted(holding, key=lambda worker: worker.offset or 0):
            word, worker_tone = worker_state_part(worker.state)
            lines.append(
                ((f"  {worker.id:02d} ", "strong"), (f"{word} ", worker_tone),
                 (f"{holds(worker)}  {duration(worker.busy_seconds)}", "plain"))
            )  # fmt: skip
        if not holding:
            lines.append((("  none", "dim"),))
        lines += [(), (("Its latest dead letters", "title"),)]
        letters = snapshot.dlq_tail if snapshot else ()
        dead = [letter for letter in letters if (letter.topic, letter.partition) == self._identity]
        lines += [((f"  {place(letter)}  ", "plain"), (f"{letter.error_type}: {letter.error_message}", "dim")) for letter in dead]
        return lines if dead else [*lines, (("  none", "dim"),)]

    @property
    def _identity(self) -> tuple[str, int]:
        return self._last.topic, self._last.partition


def _partitions(snapshot: Snapshot | None) -> Sequence[PartitionView]:
    return snapshot.partitions if snapshot else ()


class WorkerPage(PageScreen):
    """A worker, followed by its number; in the same process with its stack of now, else with the snapshot's."""

    def __init__(self, row: WorkerView) -> None:
        super().__init__()
        self._last = row

    def heading(self, view: View) -> str:
        """Return the worker's name."""
        return f"Worker {self._last.id:02d}"

    def lines(self, view: View) -> Sequence[Line]:
        """Return the page."""
        workers = view.snapshot.workers if view.snapshot else ()
        found = next((row for row in workers if row.id == self._last.id), None)
        row = self._last = found or self._last
        word, tone = worker_state_part(row.state)
        lines: list[Line] = []
        if found is None:
            lines += [(("⚠ this worker is gone; this is how it was last seen", "warn"),), ()]
        done = row.processed + row.failed
        lines += [
            fact("state", word, tone),
            fact("holds", holds(row) or "nothing"),
            fact("for", duration(row.busy_seconds) if holds(row) else UNKNOWN),
            fact("processed", f"{row.processed:,}"),
            fact("failed", f"{row.failed:,}" + (f"  ({percent(fraction(row.failed, done))})" if done else "")),
            (),
        ]
        # A frozen view shows nothing newer than its snapshot.
        stack = self.console_app.feed.worker_stack(row.id) if view.frozen_for is None else None
        title = "Where it is in its code"
        if stack is None and row.stack:
            title, stack = "Where it was in its code when the snapshot was taken", row.stack
        lines.append(((title, "title"),))
        if stack is None:
            return [*lines, ((f"  not known here: {_no_stack(view)}", "dim"),)]
        return [*lines, *[((f"  {line}", "plain"),) for line in stack]]


def _no_stack(view: View) -> str:
    """Return why neither the process nor the snapshot says where a worker is."""
    if view.frozen_for is not None:
        return "the view is frozen"
    if view.role == "attached":
        return "a consumer sends it of the 20 workers that have held their message longest, a second or more"
    return "it has no thread of its own"


class DeadLetterPage(PageScreen):
    """A dead letter as it was when it was opened: it doesn't change."""

    keys_text = "esc back  j k scroll  y copy the payload"

    def __init__(self, row: DeadLetterView) -> None:
        super().__init__()
        self._row = row

    def heading(self, view: View) -> str:
        """Return where the message stands."""
        return f"Dead letter {place(self._row)}"

    def clipboard(self) -> str:
        """Return the payload, as it is shown."""
        return self._row.value or ""

    def lines(self, view: View) -> Sequence[Line]:
        """Return the page."""
        row = self._row
        lines: list[Line] = [
            fact("failed at", date_time(view.clock.local(row.at))),
            fact("error", row.error_type, "bad"),
            fact("message", row.error_message),
            fact("attempts", f"{row.attempts}" + ("  (the processor was never called)" if row.attempts == 0 else "")),
            fact("worker", "none" if row.worker_id is None else f"{row.worker_id:02d}"),
            fact("key", "none" if row.key is None else row.key, "dim" if row.key is None else "plain"),
            (),
            (("Payload", "title"),),
            ((f"  {row.value}", "plain"),) if row.value is not None else (("  none: a tombstone", "dim"),),
            (),
            (("Headers", "title"),),
        ]
        lines += [((f"  {name}: ", "dim"), (value, "plain")) for name, value in row.headers] or [(("  none", "dim"),)]
        lines += [(), (("Trace", "title"),)]
        lines += [((f"  {line}", "plain"),) for line in row.stack_trace] or [(("  none", "dim"),)]
        return [*lines, (), (("The dead-letter file holds it whole; long texts are cut here.", "dim"),)]
