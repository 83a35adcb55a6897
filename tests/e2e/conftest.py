"""Whole consumers on a real Apache Kafka."""

from __future__ import annotations

from tests.fleet import fleets
from tests.runs import chance, command, note, running

__all__ = ["chance", "command", "fleets", "note", "running"]
