"""Small SVG plots: bars with a range, and lines over logarithmic axes. Readable on a light page and on a dark one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH = 720
INK, PALE, FAINT, PAPER, OURS, OTHERS = "#1f2933", "#5f6b76", "#d5dae0", "#ffffff", "#0b7a75", "#8b98a5"
LINES = (OURS, "#c2571a", "#5b4bb2", "#8a6d00")


def number(value: float) -> str:
    """Return a number for an axis: 0.5, 20, 1,000, 200k, 1M."""
    for limit, letter in ((1_000_000, "M"), (10_000, "k")):
        if abs(value) >= limit:
            return f"{value / (limit if letter == 'M' else 1000):,.3g}{letter}"
    return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"


def _text(x: float, y: float, what: str, *, anchor: str = "start", weight: str = "normal", color: str = INK) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    style = f'font-family="sans-serif" font-size="13" font-weight="{weight}" fill="{color}"'
    return f"<text {place} {style}>{escape(what)}</text>"


def _line(x1: float, y1: float, x2: float, y2: float, color: str = FAINT, width: float = 1) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" stroke-width="{width}"/>'


def _picture(height: float, title: str, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-label="{escape(title, quote=True)}">'
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="{PAPER}"/>'
    )
    return "\n".join([head, _text(12, 22, title, weight="bold"), *parts, "</svg>"]) + "\n"


def bars(title: str, rows: Sequence[tuple[str, float, float, float]], unit: str) -> str:
    """Return a bar for each row: name, smallest, median, largest. Names that begin with ``kc`` are ours."""
    left, right, step = 170, 90, 26
    most = max(row[3] for row in rows) or 1.0
    span = WIDTH - left - right
    parts = []
    for index, (name, low, median, high) in enumerate(rows):
        y = 40 + index * step
        ours = name.startswith("kc")
        parts.append(_text(left - 8, y + 14, name, anchor="end", weight="bold" if ours else "normal"))
        parts.append(
            f'<rect x="{left}" y="{y + 2}" width="{span * median / most:.1f}" height="16" fill="{OURS if ours else OTHERS}"/>'
        )
        parts.append(_line(left + span * low / most, y + 10, left + span * high / most, y + 10, INK, 2))
        parts.append(_text(left + span * high / most + 6, y + 14, number(median)))
    height = 40 + len(rows) * step + 24
    parts.append(_text(left, height - 10, f"{unit}; the line is from the smallest to the largest", color=PALE))
    return _picture(height, title, parts)


def lines(title: str, series: dict[str, Sequence[tuple[float, float]]], x_label: str, y_label: str) -> str:
    """Return lines over logarithmic axes."""
    left, right, top, bottom, height = 64, 36, 56, 48, 320
    points = [point for one in series.values() for point in one]
    x_low, x_high = (bound(math.log10(x) for x, _ in points) for bound in (min, max))
    y_low, y_high = math.floor(min(math.log10(y) for _, y in points)), math.ceil(max(math.log10(y) for _, y in points))
    y_high = max(y_high, y_low + 1)
    x_high = max(x_high, x_low + 1e-9)

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            left + (WIDTH - left - right) * (math.log10(x) - x_low) / (x_high - x_low),
            height - bottom - (height - top - bottom) * (math.log10(y) - y_low) / (y_high - y_low),
        )

    parts = []
    for power in range(y_low, y_high + 1):
        _, y = at(points[0][0], 10**power)
        parts += [_line(left, y, WIDTH - right, y), _text(left - 6, y + 4, number(10**power), anchor="end")]
    for x in sorted({x for x, _ in points}):
        across, _ = at(x, 10**y_low)
        parts += [
            _line(across, height - bottom, across, height - bottom + 5, INK),
            _text(across, height - bottom + 20, number(x), anchor="middle"),
        ]
    legend: float = left
    for index, (name, one) in enumerate(series.items()):
        color, places = LINES[index % len(LINES)], [at(x, y) for x, y in one]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"/>' for x, y in places]
        if len(series) > 1:
            parts += [_line(legend, 40, legend + 18, 40, color, 3), _text(legend + 24, 44, name)]
            legend += 46 + 6.4 * len(name)
    parts += [
        _text(WIDTH / 2, height - 8, x_label, anchor="middle"),
        _text(WIDTH - right, 22, y_label, anchor="end", color=PALE),
    ]
    return _picture(height, title, parts)
