"""How long a thread may keep the interpreter's lock while hundreds of others want it.

A thread that waits for the lock looks every ``sys.getswitchinterval()`` seconds, 5 ms by default, whether its holder is to be
interrupted. Threads that mostly wait for something else give the lock up by themselves, within microseconds; but a thousand that
look two hundred times a second each take more time from one another than their work does. So with many workers each looks less
often. Where a processor does keep the lock, the others would wait too long for it: the supervisor sees that it wakes late, and
everything is as it was.

A build of Python without that lock has no use for any of this, and takes no harm.
"""

from __future__ import annotations

import sys

DEFAULT = 0.005
FEW = 250
"""Workers up to which nothing is changed."""
SECONDS_A_WORKER = 0.00025
MOST_SECONDS = 0.1
LATE_WEIGHT = 0.2
"""Of the supervisor's last wake in the average of how late it wakes; above an interval, it waits for somebody's computing."""


class ThreadSwitching:
    """The process's switch interval while a pool runs. One thread at a time: who starts the pool, its supervisor, who ends it."""

    def __init__(self) -> None:
        self._before: float | None = None  # what the interval was; None while it isn't ours
        self._ours = 0.0
        self._late = 0.0  # seconds, on average

    def ease(self, workers: int) -> None:
        """Have many threads fight less. Does nothing where few run, or where somebody has chosen an interval already."""
        before = sys.getswitchinterval()
        if workers <= FEW or self._before is not None or before != DEFAULT:
            return
        self._before, self._ours = before, min(MOST_SECONDS, workers * SECONDS_A_WORKER)
        sys.setswitchinterval(self._ours)

    def woke_late(self, seconds: float) -> None:
        """The supervisor's thread woke so much later than it wanted to."""
        if self._before is None:
            return
        self._late += LATE_WEIGHT * (seconds - self._late)
        if self._late > self._ours:
            self.restore()

    def restore(self) -> None:
        """Set it back, unless somebody else has set it since."""
        before, self._before = self._before, None
        if before is not None and abs(sys.getswitchinterval() - self._ours) < 1e-6:
            sys.setswitchinterval(before)
