"""Time as the console reads it, in one place: a test freezes it."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class Clock:
    """The system's clocks. Safe from every thread."""

    def time(self) -> float:
        """Return seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()

    def local(self, at: float) -> datetime:
        """Return the local time of day for seconds since the epoch; the epoch itself for what no calendar holds."""
        try:
            return datetime.fromtimestamp(at).astimezone()
        except (ValueError, OverflowError, OSError):
            return datetime.fromtimestamp(0, UTC)
