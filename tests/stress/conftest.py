"""Whole consumers on a real Apache Kafka, under load."""

from __future__ import annotations

from tests.runs import command, note, running

__all__ = ["command", "note", "running"]
