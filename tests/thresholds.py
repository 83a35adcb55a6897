"""Check what the tests covered against what the project asks for; ``make test`` runs it last.

Lines and branches together, from the coverage file in the current folder: 95 % of all, 90 % of every module, and all of
the modules that decide which offset is committed and when the process ends.
"""

from __future__ import annotations

import os
import sys
from pathlib import PurePath
from tempfile import TemporaryFile
from typing import IO

import coverage

TOTAL = 95.0
EVERY_MODULE = 90.0
COMPLETE = ("offset_manager.py", "signal_handler.py")


def shortcomings(total: float, modules: dict[str, float]) -> list[str]:
    """Return one line for each threshold that isn't met. Percentages; ``modules`` by path."""
    found = []
    if total < TOTAL:
        found.append(f"expected the total to be at least {TOTAL:g} %, got {total:.2f} %")
    for path, percent in sorted(modules.items()):
        least = 100.0 if PurePath(path).name in COMPLETE else EVERY_MODULE
        if percent < least:
            found.append(f"expected {path} to be at least {least:g} %, got {percent:.2f} %")
    measured = {PurePath(path).name for path in modules}
    found += [f"expected {name} to be measured, but no test imports it" for name in COMPLETE if name not in measured]
    return found


def main() -> int:
    """Print the report; return 1 where a threshold isn't met."""
    data = coverage.Coverage()
    data.load()
    total = data.report()
    modules = {os.path.relpath(path): _percent(data, path) for path in data.get_data().measured_files()}
    problems = shortcomings(total, {path: percent for path, percent in modules.items() if percent is not None})
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
