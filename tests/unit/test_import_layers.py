"""Imports run downward, and the console knows the public API alone: read from the source, whatever is imported when.

The layers of ``kafka_consumer``, from below: the foundation (errors, types, configuration, and what the loops share), the loops,
which never import one another, the composition root, and what surrounds it (command line, settings, control, …). What only the
type checker reads doesn't count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FOUNDATION = {
    "assignment", "batch_queue", "calling", "chunk", "commit_metadata", "config", "dead_letter", "decoding", "errors",
    "lifecycle", "message_view", "option_checks", "ordered_queue", "ports", "producer_options", "redaction", "refusals",
    "replay_bounds", "shared_state", "snapshot", "stats", "tracing", "types", "work_queue",
}  # fmt: skip
LOOPS = {
    "polling": {
        "failure_breaker",
        "intake",
        "out_of_range",
        "pausing",
        "poll_errors",
        "polling_thread",
        "rebalance",
        "replay",
        "stop_targets",
    },
    "workers": {
        "child",
        "coroutine_backlog",
        "coroutine_executor",
        "coroutine_results",
        "event_loop",
        "loop_watch",
        "process_child",
        "process_executor",
        "process_setup",
        "supervisor",
        "thread_switching",
        "worker",
        "worker_pool",
    },
    "commits": {"client", "offset_manager"},
    "files": {"backup_rows", "csv_files", "csv_writers", "dlq_files", "dlq_topic", "file_lock", "redrive_journal", "retention"},
    "signals": {"signal_handler"},
}
ROOT_LAYER = {
    "crash_loop", "crash_loop_notes", "crash_loop_state", "kafka_consumer", "operations", "redrive", "redrive_control",
    "redrive_kafka", "snapshot_builder",
}  # fmt: skip
CORE = FOUNDATION | set().union(*LOOPS.values()) | ROOT_LAYER

CONSOLE = {"", "errors", "logs", "snapshot", "unix_socket"}
"""What the console's parts may import: the public names, the snapshot they draw, logs, which the terminal must not get, and
who listens at a socket."""

COMMAND_LINE = {"cli", "control", "demo", "kafka_consumer", "metrics_server", "options", "replay_report", "settings"}
"""What the console's command line may import as well: it starts the same consumer as the other one, from the same settings."""

TERMINAL = {"click", "rich", "textual", "prometheus_client"}


def _imports(path: Path) -> Iterator[str]:
    """Yield the modules that a file imports when it runs, whether at its top or inside a function."""

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                for other in child.orelse:
                    yield from walk(other)
                continue
            yield child
            yield from walk(child)

    for node in walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            yield node.module
            if node.module in {"kafka_consumer", "tui"}:  # a module taken from its package
                yield from (f"{node.module}.{a.name}" for a in node.names if (ROOT / node.module / f"{a.name}.py").exists())


def _own(path: Path) -> set[str]:
    """Return the modules of ``kafka_consumer`` that a file imports; ``""`` is the package itself."""
    names = [name for name in _imports(path) if name.split(".")[0] == "kafka_consumer"]
    return {name.partition(".")[2] for name in names}


GRAPH = {path.stem: _own(path) for path in sorted((ROOT / "kafka_consumer").glob("*.py")) if path.stem != "__init__"}


def test_the_modules_named_here_exist():
    assert set(GRAPH) >= CORE
    assert (CONSOLE | COMMAND_LINE) - {""} <= set(GRAPH)


def test_no_module_imports_itself_by_a_detour():
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above, module))
        if module in done:
            return
        for below in GRAPH.get(module, set()):
            visit(below, (*above, module))
        done.add(module)

    for module in GRAPH:
        visit(module, ())


@pytest.mark.parametrize("module", sorted(FOUNDATION))
def test_the_foundation_imports_only_the_foundation(module: str):
    assert GRAPH[module] <= FOUNDATION


@pytest.mark.parametrize("name", sorted(LOOPS))
def test_the_loops_never_import_one_another(name: str):
    for module in LOOPS[name]:
        assert GRAPH[module] <= FOUNDATION | LOOPS[name], module


def test_the_core_knows_nothing_of_what_surrounds_it():
    for module in ROOT_LAYER:
        assert GRAPH[module] <= CORE | {"logs", "kafka_properties"}, module


def test_the_parts_import_modules_never_the_package():
    for module in CORE:
        assert "" not in GRAPH[module], module


@pytest.mark.parametrize("module", sorted(CORE))
def test_the_core_needs_no_terminal(module: str):
    used = {name.split(".")[0] for name in _imports(ROOT / "kafka_consumer" / f"{module}.py")}
    assert not used & (TERMINAL | {"tui"})


def test_the_consumer_never_imports_the_console():
    for path in (ROOT / "kafka_consumer").glob("*.py"):
        assert "tui" not in {name.split(".")[0] for name in _imports(path)}, path.name


@pytest.mark.parametrize("path", sorted((ROOT / "tui").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_console_imports_the_public_api_alone(path: Path):
    assert _own(path) <= (CONSOLE | COMMAND_LINE if path == ROOT / "tui" / "cli.py" else CONSOLE)
