"""Whole consumers on a real Apache Kafka, under load.

Tests marked ``stress_short`` have two lengths: short, a minute at the most, which `make test` runs, and full, which
`make test-stress` asks for with ``KC_STRESS_FULL=1``.
"""

from __future__ import annotations

import os

import pytest

from tests.fleet import fleets
from tests.runs import chance, command, note, running

__all__ = ["chance", "command", "fleets", "full", "note", "running"]


@pytest.fixture(scope="session")
def full() -> bool:
    """Whether the full length was asked for."""
    return os.environ.get("KC_STRESS_FULL", "") not in ("", "0")
