"""Check what the tests covered against what the project asks for; ``make test`` runs it last.

Lines and branches together, from the coverage file in the current folder: 95 % of the consumer, 90 % of each of its modules, and
all of the modules that decide which offset is committed and when the process ends; 90 % of the console.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import PurePath
from tempfile import TemporaryFile
from typing import IO

import coverage

TOTALS = {"kafka_consumer": 95.0, "tui": 90.0}
EVERY_MODULE = 90.0
COMPLETE = ("offset_manager.py", "signal_handler.py")
EXTRAS = {"decoding.py": "confluent_kafka.schema_registry.avro"}
"""Modules most of which only runs with an extra that isn't among the tools of development: measured where it is installed."""


def shortcomings(totals: dict[str, float], modules: dict[str, float]) -> list[str]:
    """Return one line for each threshold that isn't met. Percentages; ``totals`` by package, ``modules`` by path."""
    found = [
        f"expected {package} to be at least {least:g} %, got {totals.get(package, 0.0):.2f} %"
        for package, least in TOTALS.items()
        if totals.get(package, 0.0) < least
    ]
    for path, percent in sorted(modules.items()):
        if not path.startswith("kafka_consumer"):
            continue
        name = PurePath(path).name
        if name in EXTRAS and not _installed(EXTRAS[name]):
            continue
        least = 100.0 if name in COMPLETE else EVERY_MODULE
        if percent < least:
            found.append(f"expected {path} to be at least {least:g} %, got {percent:.2f} %")
    measured = {PurePath(path).name for path in modules}
    found += [f"expected {name} to be measured, but no test imports it" for name in COMPLETE if name not in measured]
    return found


def _installed(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def main() -> int:
    """Print the report; return 1 where a threshold isn't met."""
    data = coverage.Coverage()
    data.load()
    data.report()
    totals = {package: _percent(data, f"{package}/*") or 0.0 for package in TOTALS}
    modules = {os.path.relpath(path): _percent(data, path) for path in data.get_data().measured_files()}
    problems = shortcomings(totals, {path: percent for path, percent in modules.items() if percent is not None})
    for problem in problems:
        print(f"coverage: {problem}")
    return 1 if problems else 0


def _percent(data: coverage.Coverage, path: str) -> float | None:
    with TemporaryFile("w") as nowhere:
        out: IO[str] = nowhere
        try:
            return data.report(include=[path], file=out)
        except coverage.exceptions.NoDataError:
            return None


if __name__ == "__main__":
    sys.exit(main())
