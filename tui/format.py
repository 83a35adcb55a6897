"""Numbers, durations and bars as an operator reads them. Pure functions; widths are terminal cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

UNKNOWN = "\u2013"
"""What stands for a figure that isn't known."""

_SPARKS = "▁▂▃▄▅▆▇█"
_UNITS = ("", "k", "M", "G", "T", "P", "E")


def count(number: float | None) -> str:
    """Return a count in at most five characters: 999, 1.2k, 18k, 3.4M."""
    if number is None or not math.isfinite(number):
        return UNKNOWN
    sign = "-" if number < 0 else ""
    value = abs(number)
    if value < 1000:
        whole = value == int(value) or value >= 100
        return f"{sign}{value:.0f}" if whole else f"{sign}{value:.1f}"
    unit = 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value /= 1000
        unit += 1
    return f"{sign}{value:.1f}{_UNITS[unit]}" if value < 9.95 else f"{sign}{value:.0f}{_UNITS[unit]}"


def full(number: int | None) -> str:
    """Return an exact count with thousands separated: 18,220,114."""
    return UNKNOWN if number is None else f"{number:,}"


def signed(number: float | None) -> str:
    """Return a change with its sign: +410, -1.2k, 0."""
    if number is None or not math.isfinite(number):
        return UNKNOWN
    rounded = round(number)
    return "0" if rounded == 0 else ("+" if rounded > 0 else "") + count(rounded)


def size(number: float | None) -> str:
    """Return bytes in binary units: 512 B, 1.5 KiB, 256 MiB."""
    if number is None or not math.isfinite(number):
        return UNKNOWN
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 10 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def duration(seconds: float | None) -> str:
    """Return a duration in its two most telling units: 84ms, 1.2s, 47s, 4m12s, 31m, 3h05m, 3d02h."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    value = max(0.0, seconds)
    if value == 0:
        return "0s"
    if value < 0.001:
        return f"{value * 1_000_000:.0f}µs"
    if value < 0.9995:
        return f"{value * 1000:.0f}ms"
    if value < 9.95:
        return f"{value:.1f}s"
    whole = round(value)
    if whole < 60:
        return f"{whole}s"
    if whole < 600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 3600:
        return f"{whole // 60}m"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    if whole < 100 * 86400:
        return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"
    return f"{whole // 86400}d"


def age(seconds: float | None) -> str:
    """Return an age for the header: 0.4s, 12s, 5m03s; tenths below ten seconds, never milliseconds."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    value = max(0.0, seconds)
    return f"{value:.1f}s" if value < 9.95 else duration(value)


def remaining(seconds: float | None) -> str:
    """Return a remaining time as a clock: 04:12, 1:02:09, 2d04h."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    whole = max(0, round(seconds))
    if whole >= 86400:
        return duration(whole)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60:02d}:{rest % 60:02d}"


def percent(fraction: float | None) -> str:
    """Return a fraction as a percentage; small ones keep two significant digits: 63%, 4.1%, 0.02%."""
    if fraction is None or not math.isfinite(fraction):
        return UNKNOWN
    value = fraction * 100
    if value == 0:
        return "0%"
    if abs(value) < 0.01:
        return "<0.01%"
    if abs(value) < 1:
        return f"{value:.2f}%"
    if 99 < value < 100:
        # Nothing that isn't finished says it is.
        return f"{math.floor(value * 10) / 10:.1f}%"
    return f"{value:.1f}%" if abs(value) < 9.95 else f"{value:.0f}%"


def fraction(part: float, whole: float | None) -> float:
    """Return part / whole between 0 and 1; 0 when there is no whole."""
    if not whole or whole < 0 or not math.isfinite(part):
        return 0.0
    return min(1.0, max(0.0, part / whole))


def bar(share: float, width: int, filled: str = "█", empty: str = "░") -> str:
    """Return a bar of ``width`` cells; full only at 1.0, empty only at 0."""
    if width <= 0:
        return ""
    share = min(1.0, max(0.0, share)) if math.isfinite(share) else 0.0
    cells = int(share * width)
    if share > 0 and cells == 0:
        cells = 1
    return filled * cells + empty * (width - cells)


def sparkline(values: Sequence[float | None], width: int) -> str:
    """Return the last ``width`` values as bars from zero to their maximum, padded on the left; a gap is a blank."""
    if width <= 0:
        return ""
    last = list(values)[-width:]
    top = max((value for value in last if value is not None and math.isfinite(value)), default=0.0)
    drawn = []
    for value in last:
        if value is None or not math.isfinite(value):
            drawn.append(" ")
        elif top <= 0 or value <= 0:
            drawn.append(_SPARKS[0])
        else:
            drawn.append(_SPARKS[min(7, int(value / top * 7.999))])
    return "".join(drawn).rjust(width)


def clock_time(at: datetime) -> str:
    """Return the time of day: 11:02:14."""
    return at.strftime("%H:%M:%S")


def date_time(at: datetime) -> str:
    """Return date and time: 2026-08-01 11:02:14."""
    return at.strftime("%Y-%m-%d %H:%M:%S")
