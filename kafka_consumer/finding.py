"""One answer of ``kc check``."""

from __future__ import annotations

from dataclasses import dataclass

from kafka_consumer.snapshot import sanitise


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer. ``exit_code`` is what ``kc check`` exits with when it isn't ``good``."""

    good: bool
    text: str
    exit_code: int = 1

    def __str__(self) -> str:
        """Return the line to print."""
        return f"{'✓' if self.good else '✗'} {sanitise(self.text, 2_000)}"


def count(number: int, noun: str) -> str:
    """Return ``1 broker`` or ``1,000 brokers``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
