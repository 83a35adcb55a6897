"""What one tick hands to every widget: the snapshot with all that surrounds it. Frozen, made by the screen's thread."""

from __future__ import annotations

from dataclasses import dataclass

from kafka_consumer.snapshot import Snapshot
from tui.clock import Clock
from tui.commands import CommandView
from tui.health import Verdict
from tui.trends import Trends


@dataclass(frozen=True)
class View:
    """``age`` is seconds since the snapshot came, ``frozen_for`` since the operator froze the view (None: it is live).

    ``trends`` lives on; ``changes`` are its own, as they were at this tick. ``consumers``: all of them, where several are
    attached; the other fields are those of the one that is shown.
    """

    snapshot: Snapshot | None
    verdict: Verdict
    trends: Trends
    changes: object
    clock: Clock
    age: float | None
    frozen_for: float | None
    role: str
    source: str
    read_only: bool
    problem: str | None
    last_command: CommandView | None
    history: tuple[CommandView, ...] = ()
    consumers: tuple[ConsumerView, ...] = ()


@dataclass(frozen=True)
class ConsumerView:
    """One of several attached consumers; ``number`` counts from 0 in the order of the command line."""

    number: int
    name: str
    view: View
    shown: bool
