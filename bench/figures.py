"""The lines of a table of figures, each held against its limit, and how far a median can be trusted."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

DRAWINGS = 4000


@dataclass(frozen=True)
class Figure:
    """A line of the table. ``limit``: what the figure may be; None where the budget has no word about it. ``between``: where
    the figure may lie, by the scatter of what it is the median of.
    """

    what: str
    figure: float
    limit: float | None
    unit: str
    remark: str = ""
    between: tuple[float, float] | None = None

    def line(self) -> str:
        digits = 2 if self.unit == "%" else 1
        limit = "-" if self.limit is None else f"≤ {self.limit:g} {self.unit}"
        verdict = {"": "", "met": "✓", "missed": "✗", "undecided": "?"}[self.verdict]
        return f"| {self.what} | {self.figure:.{digits}f} {self.unit} | {limit} | {verdict} | {self.remark} |"

    @property
    def verdict(self) -> str:
        if self.limit is None:
            return ""
        if self.between is not None and self.between[0] <= self.limit < self.between[1]:
            return "undecided"
        return "met" if self.figure <= self.limit else "missed"


def interval(found: Sequence[float]) -> tuple[float, float]:
    """Return where the median of such figures lies, in 95 of 100 drawings of as many with replacement."""
    chance = random.Random(13)
    medians = sorted(statistics.median(chance.choices(found, k=len(found))) for _ in range(DRAWINGS))
    return medians[int(0.025 * DRAWINGS)], medians[int(0.975 * DRAWINGS)]
