"""The circuit breaker: when too many messages fail, polling pauses, instead of filling the dead-letter file with a whole topic.

It looks at the totals that the commit thread keeps anyway, whenever the polling thread comes by; a message costs nothing.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kafka_consumer.shared_state import SharedState

WINDOW = 200  # the last so many finished messages, at least, are judged: fewer prove nothing
REMIND_SECONDS = 60.0
NAMED_LETTERS = 200  # of those on their way to the file, for the most frequent error


class FailureBreaker:
    """Belongs to the polling thread; ``reason`` is read by snapshots: why polling is paused, None while it isn't.

    ``recent_errors`` returns the error types of dead letters written lately; whoever has them sets it.
    """

    def __init__(self, shared_state: SharedState) -> None:
        self._shared_state = shared_state
        self._limit = shared_state.config.max_failure_ratio
        self._counters = shared_state.counters
        self.recent_errors: Callable[[], Iterable[str]] = tuple
        self.reason: str | None = None
        self._said_at = 0.0
        # (finished, failed) as seen before, oldest first: the first one is where the window begins.
        self._seen: deque[tuple[int, int]] = deque([(0, 0)])

    def look(self) -> bool:
        """Judge what has finished since; returns whether polling is to pause now. While it is paused: say so, now and then."""
        if self._limit is None or not self._shared_state.running.is_set():
            return False
        if self.reason is not None:
            self._remind()
            return False
        failed = self._counters.failed
        finished = self._counters.processed + failed
        if finished == self._seen[-1][0]:
            return False
        self._seen.append((finished, failed))
        while len(self._seen) > 1 and finished - self._seen[1][0] >= WINDOW:
            self._seen.popleft()
        count = finished - self._seen[0][0]
        bad = failed - self._seen[0][1]
        if count < WINDOW or bad < self._limit * count:
            return False
        self.reason = (
            f"{bad:,} of the last {count:,} messages failed ({bad / count:.0%}; max_failure_ratio={self._limit:g})"
            f"{self._most_frequent()}"
        )
        self._say("%s: polling is paused; what is queued is finished. Mend the cause, then resume")
        return True

    def reset(self) -> None:
        """The operator has polling resumed: what failed before counts no more."""
        if self.reason is not None:
            self.reason = None
            self._seen = deque([(self._counters.processed + self._counters.failed, self._counters.failed)])

    def _remind(self) -> None:
        if time.monotonic() - self._said_at >= REMIND_SECONDS:
            self._say("polling is still paused until it is resumed: %s")

    def _say(self, text: str) -> None:
        self._said_at = time.monotonic()
        self._shared_state.logger.critical(text, self.reason)

    def _most_frequent(self) -> str:
        waiting = self._shared_state.dlq_queue
        with waiting.mutex:
            letters = list(waiting.queue)[:NAMED_LETTERS]
        errors = Counter([*self.recent_errors(), *(letter.error_type for letter in letters)])
        if not errors:
            return ""
        kind, count = errors.most_common(1)[0]
        return f", most often {kind} ({count / errors.total():.0%} of the latest)"
