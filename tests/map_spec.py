"""Which test shows which case of the founding test specification: writes the table in docs/TESTING.md.

A test says so in its docstring: ``SPEC: <name>``, further names after a semicolon. Run it after a docstring has changed;
``--check`` only says whether the page is current. Exit code 1 when a case has no test in the file that it belongs to, or a
docstring names a case that there isn't.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PAGE = TESTS.parent / "docs" / "TESTING.md"
BEGIN, END = "<!-- cases: written by tests/map_spec.py -->", "<!-- end of cases -->"
ANYWHERE = "anywhere"

# The cases by the file that they belong to, in the specification's order.
CASES: dict[str, tuple[str, ...]] = {
    "unit/test_shared_state.py": (
        "Config Validation - Valid Inputs", "Config Validation - Missing Required Params", "Config Validation - Invalid Types",
        "Config Validation - Out of Range Values", "Config Validation - Invalid File Paths",
        "Config Validation - stop_at_offset Format", "SharedState Initialization", "SharedState.stop()",
        "Logger Setup - INFO Level", "Logger Setup - DEBUG Level",
    ),
    "unit/test_signal_handler.py": (
        "Signal Handler Registration", "Signal Handler Callback Execution", "Signal Handler Without Callback",
        "Signal Handler Callback Exception", "Signal Handler Wait", "Signal Handler Restore",
    ),
    "unit/test_offset_manager.py": (
        "Max Contiguous - Perfect Sequence", "Max Contiguous - Single Gap", "Max Contiguous - Multiple Gaps",
        "Max Contiguous - Empty Set", "Max Contiguous - Single Offset", "Max Contiguous - Gap at Start",
        "Max Contiguous - Out of Order Input", "Commit Thread - Normal Operation", "Commit Thread - Dev Mode Skip",
        "Commit Thread - Commit Failure", "Commit Thread - Multi-Partition", "Commit Thread - Remove Committed from Tracking",
    ),
    "unit/test_worker_pool.py": (
        "Worker - Successful Processing", "Worker - Processing Exception", "Worker - Message Too Large",
        "Worker - Processing Timeout (if implemented)", "Worker - Worker Thread Crash", "Worker - Queue Empty Handling",
        "Worker - UTF-8 Decode Error", "Worker - Shutdown While Processing",
    ),
    "unit/test_csv_writers.py": (
        "Backup CSV - Initial Creation", "Backup CSV - Batch Writing", "Backup CSV - Time-Based Flush",
        "Backup CSV - Hourly Rotation", "Backup CSV - Rotation Failure Triggers Shutdown",
        "Backup CSV - Write Failure Triggers Shutdown", "Backup CSV - Final Flush on Shutdown", "DLQ CSV - Normal Operation",
        "DLQ CSV - Batch Writing", "DLQ CSV - Write Failure Triggers Shutdown",
    ),
    "integration/test_polling_thread.py": (
        "Polling - Normal Message Flow", "Polling - Backpressure", "Polling - Backup Queue Full (Non-Blocking)",
        "Polling - Stop at Offset Trigger", "Polling - Kafka Poll Error", "Polling - UTF-8 Decode Error",
    ),
    "integration/test_commit_flow.py": ("Commit Flow - End to End", "Commit Flow - With Failures", "Commit Flow - Dev Mode"),
    "integration/test_csv_rotation.py": (
        "CSV Rotation - Hour Boundary", "CSV Rotation - Multiple Rotations", "CSV Rotation - Rotation During Shutdown",
    ),
    "integration/test_dlq_flow.py": ("DLQ Flow - End to End", "DLQ Flow - Multiple Error Types"),
    "e2e/test_happy_path.py": ("E2E - Complete Happy Path", "E2E - Multiple Partitions", "E2E - High Throughput"),
    "e2e/test_failure_scenarios.py": (
        "E2E - Mixed Success and Failure", "E2E - All Messages Fail", "E2E - Slow Processing", "E2E - Worker Crash Recovery",
        "E2E - Kafka Connection Loss", "E2E - Disk Full (CSV Write)",
    ),
    "e2e/test_shutdown.py": (
        "E2E - Clean Shutdown", "E2E - Shutdown with Slow Workers", "E2E - Shutdown During Commit",
        "E2E - Shutdown During CSV Rotation", "E2E - Double Shutdown (Multiple SIGTERMs)", "E2E - Stop at Offset",
        "E2E - Dev Mode Restart",
    ),
    "e2e/test_performance.py": (
        "Performance - Throughput Benchmark", "Performance - Latency Measurement", "Performance - Memory Stability",
        "Performance - Worker Utilization",
    ),
    "stress/test_stress.py": (
        "Stress - Long Running (24 Hours)", "Stress - High Message Rate", "Stress - Large Messages", "Stress - High Failure Rate",
    ),
    "stress/test_chaos.py": (
        "Chaos - Random Worker Kills", "Chaos - Network Partitions", "Chaos - Resource Exhaustion",
    ),
    ANYWHERE: ("Concurrency Race Conditions", "Memory Leak Detection", "CSV File Integrity"),
}  # fmt: skip

_NAMES = sorted((name for names in CASES.values() for name in names), key=len, reverse=True)
_NAME = re.compile(rf"(?:{'|'.join(map(re.escape, _NAMES))})(?!\w)")


def tests_with_docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """Yield ``(name, docstring on one line)`` of each test in a file; a method's name has its class before it."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        owner = f"{node.name}." if isinstance(node, ast.ClassDef) else ""
        for found in inside:
            if isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef) and found.name.startswith("test_"):
                yield f"{owner}{found.name}", " ".join((ast.get_docstring(found) or "").split())


def named_in(docstring: str) -> tuple[list[str], list[str]]:
    """Return the cases that a docstring names, and what it names that is no case."""
    known: list[str] = []
    unknown: list[str] = []
    for part in docstring.split("SPEC:")[1:]:
        rest = part.lstrip()
        while True:
            match = _NAME.match(rest)
            if match is None:
                unknown.append(rest[:60])
                break
            known.append(match.group())
            rest = rest[match.end() :]
            if not rest.startswith(";"):
                break
            rest = rest[1:].lstrip()
    return known, unknown


def collect(folder: Path = TESTS) -> tuple[dict[str, list[tuple[str, str]]], list[str]]:
    """Return for each case its tests as (file, name), and what is wrong, one line each."""
    shown: dict[str, list[tuple[str, str]]] = {name: [] for names in CASES.values() for name in names}
    problems = []
    for path in sorted(folder.rglob("test_*.py")):
        file = path.relative_to(folder).as_posix()
        for name, docstring in tests_with_docstrings(path):
            known, unknown = named_in(docstring)
            for case in known:
                shown[case].append((file, name))
            problems += [f"{file}: {name} names no case of the specification: {text!r}" for text in unknown]
    for home, names in CASES.items():
        for case in names:
            if not any(home in (ANYWHERE, file) for file, _ in shown[case]):
                where = "" if home == ANYWHERE else f" in {home}"
                problems.append(f"no test{where} says 'SPEC: {case}'")
    return shown, problems


def table(shown: dict[str, list[tuple[str, str]]]) -> str:
    """Return the table, one row a case, with a title for each file."""
    lines = []
    for home, names in CASES.items():
        title = "Special cases" if home == ANYWHERE else f"tests/{home}"
        lines += ["", f"### {title}", "", "| Case | Tests |", "|---|---|"]
        for case in names:
            tests = [f"`{name}`" if file == home else f"`{name}` ({file})" for file, name in shown[case]]
            lines.append(f"| {case} | {'<br>'.join(tests) or 'none'} |")
    return "\n".join([*lines, ""])


def page(current: str, shown: dict[str, list[tuple[str, str]]]) -> str:
    """Return the page with its table replaced. Errors: ``ValueError`` when it has lost its marks."""
    head, begin, rest = current.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"expected {PAGE.name} to hold {BEGIN!r} and {END!r}")
    return f"{head}{begin}\n{table(shown)}\n{end}{tail}"


def main(arguments: list[str]) -> int:
    """Write the page, or check it; print what is wrong and return 1 if anything is."""
    shown, problems = collect()
    current = PAGE.read_text(encoding="utf-8")
    wanted = page(current, shown)
    if "--check" not in arguments:
        PAGE.write_text(wanted, encoding="utf-8")
    elif wanted != current:
        problems.append(f"{PAGE.name} isn't current: run python tests/map_spec.py")
    for problem in problems:
        print(problem)  # noqa: T201 - a script prints
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
