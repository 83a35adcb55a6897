"""Whole consumers on a real Apache Kafka, under load."""

from __future__ import annotations

from tests.runs import chance, command, note, running

__all__ = ["chance", "command", "note", "running"]
