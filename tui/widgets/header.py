"""The first line: who is consuming what, whether it is well, and how old this picture is."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tui.format import age, duration
from tui.text import Group, Line, arrange, fit, line_width, plain
from tui.view import View
from tui.widgets.drawing import LinesWidget

VERDICT = 10
REASON_CELLS = 36


def verdict_line(view: View) -> Line:
    """Return the verdict: glyph, word and reason; frozen views say that they are."""
    verdict = view.verdict
    if view.frozen_for is not None:
        frozen = f"‖ FROZEN for {age(view.frozen_for)}"
        return ((frozen, "warn"), (f"  was {verdict.glyph} {verdict.word}", "dim"))
    word = f"{verdict.glyph} {verdict.word}"
    return ((word, verdict.tone), (f" {verdict.reason}", "plain")) if verdict.reason else ((word, verdict.tone),)


class Header(LinesWidget):
    """One line."""

    def lines(self, view: View, width: int, height: int) -> Sequence[Line]:
        """Return the line."""
        return (header_line(view, width),)


def header_line(view: View, width: int) -> Line:
    """Return the header in ``width`` cells; what matters least is left out first."""
    snapshot = view.snapshot
    verdict = verdict_line(view)
    groups: list[Group] = []
    if snapshot is not None:
        groups = [
            (8, (("kc ", "dim"), (fit(snapshot.topic, min(24, len(snapshot.topic))), "title"))),
            (4, (("group ", "dim"), (snapshot.group_id, "plain"))),
            (1, ((f"pid {snapshot.pid}", "dim"),)),
            (VERDICT, verdict),
            (3, (("up ", "dim"), (duration(snapshot.uptime_seconds), "plain"))),
            (7, (("snapshot ", "dim"), (f"{age(view.age)} ago", "plain"))),
            (9, (("commits ", "dim"), ("OFF", "warn") if snapshot.dev_mode else ("ON", "ok"))),
        ]
    else:
        groups = [(8, (("kc", "title"),)), (VERDICT, verdict)]
    attached = view.role == "attached"
    groups.append((2, ((f"attached to {os.path.basename(view.source)}" if attached else view.role, "dim"),)))
    groups.append((6, (("read-only", "warn") if view.read_only else ("read-write", "dim"),)))
    # The reason may be long: what matters more than half of it keeps its place, then it gets all that is left.
    first = arrange(_with_reason(groups, REASON_CELLS), width)
    return arrange(_with_reason(groups, REASON_CELLS + max(0, width - line_width(first))), width)


def _with_reason(groups: list[Group], cells: int) -> list[Group]:
    """Return the groups with the verdict's reason cut to so many cells."""
    found: list[Group] = []
    for priority, line in groups:
        if priority == VERDICT and len(line) > 1 and line_width(line[1:]) > cells:
            found.append((priority, (line[0], (fit(plain(line[1:]), cells), "plain"))))
        else:
            found.append((priority, line))
    return found
