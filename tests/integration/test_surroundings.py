"""``kc`` as a process in odd surroundings: optimised Python, warnings as errors, no locale, no terminal, no streams, no room."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import read_rows
from tests.integration.test_cli import COMPLETE, UNREACHABLE, environment

MESSAGES = 40
DEMO = (
    "--headless", "--demo", "--demo-messages", str(MESSAGES), "--backup-path", "backup.csv", "--dlq-path", "dlq.csv",
    "--processor", "app:handle", "--value-encoding", "binary",
)  # fmt: skip
CONFIGURED = (*COMPLETE, *UNREACHABLE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an application that prints, as people's functions do; one message in four fails."""
    (tmp_path / "app.py").write_text(
        "import itertools, os\ncount = itertools.count()\n"
        "def handle(value):\n    number = next(count)\n    os.write(1, b'printed below python\\n')\n"
        "    if number % 4 == 0:\n        raise ValueError('one in four')\n"
    )
    return tmp_path


def run(
    folder: Path,
    *arguments: str,
    redirect: str = "",
    python: tuple[str, ...] = (),
    module: str = "kafka_consumer",
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run a command line to its end, its streams redirected as a shell does it."""
    words = [sys.executable, *python, "-m", module, *arguments]
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirect}', "sh", *words], cwd=folder, env=environment(folder, **variables),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8", errors="backslashreplace", timeout=90,
        check=False,
    )  # fmt: skip


def assert_whole(folder: Path) -> None:
    """All was consumed, and nothing but rows is in the files, whatever number their descriptors got."""
    assert len(read_rows(folder / "backup.csv")) == MESSAGES
    assert len(read_rows(folder / "dlq.csv")) == MESSAGES // 4
    for path in folder.glob("*.csv"):
        assert b"printed below python" not in path.read_bytes()


SURROUNDINGS: dict[str, dict[str, object]] = {
    "python -O": {"python": ("-O",)},
    "python -OO": {"python": ("-OO",)},
    "python -W error": {"python": ("-W", "error")},
    "python -X dev": {"python": ("-X", "dev")},
    "LC_ALL=C": {"LC_ALL": "C"},
    "ASCII alone": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "TERM=dumb": {"TERM": "dumb"},
    "without TERM and HOME": {"TERM": "", "HOME": ""},
}


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_a_run_goes_well(name: str, folder: Path):
    done = run(folder, *DEMO, **SURROUNDINGS[name])  # type: ignore[arg-type]
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    assert_whole(folder)


@pytest.mark.parametrize("name", ["python -OO", "ASCII alone"])
def test_a_mistake_is_a_line_and_exit_code_2(name: str, folder: Path):
    # Validation isn't made of assert statements.
    done = run(folder, "--headless", *CONFIGURED, "--workers", "0", **SURROUNDINGS[name])  # type: ignore[arg-type]
    assert done.returncode == 2
    assert done.stderr == "--workers: expected an integer from 1 to 1,000, got 0\n"


@pytest.mark.parametrize("redirect", [">&-", "2>&-", "<&-", ">&- 2>&- <&-", "2>/dev/full"])
def test_a_run_with_closed_or_full_streams_goes_well_and_no_file_gets_what_is_printed(redirect: str, folder: Path):
    done = run(folder, *DEMO, redirect=redirect)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert_whole(folder)


@pytest.mark.parametrize("redirect", [">&-", ">&- 2>&- <&-", "2>/dev/full"])
@pytest.mark.parametrize(("arguments", "code"), [
    (("config", *CONFIGURED), 0), (("--headless", *CONFIGURED, "--workers", "0"), 2), (("--nonsense",), 2), (CONFIGURED, 2),
    (("status", "--socket", "nowhere.sock"), 1),
])  # fmt: skip
def test_exit_codes_are_the_same_with_closed_or_full_streams(redirect: str, arguments: tuple[str, ...], code: int, folder: Path):
    done = run(folder, *arguments, redirect=redirect)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("config", *CONFIGURED), ("--help",), ("check", *CONFIGURED)])
def test_a_stdout_that_is_full_is_a_line_and_exit_code_1(arguments: tuple[str, ...], folder: Path):
    done = run(folder, *arguments, redirect=">/dev/full")
    assert (done.returncode, done.stderr) == (1, "stdout can't be written: No space left on device\n")


def test_a_reader_that_has_gone_is_no_traceback(folder: Path):
    done = run(folder, "config", *CONFIGURED, redirect="| head -n 1")
    assert "Traceback" not in done.stderr
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("redirect", ["<&-", ">&- 2>&- <&-"])
def test_the_console_without_its_streams_says_so_where_it_can(redirect: str, folder: Path):
    done = run(folder, *CONFIGURED, redirect=redirect, module="tui.cli")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.fixture
def seal() -> Callable[[Path], None]:
    """Return a function that makes a folder read-only."""
    if os.geteuid() == 0:
        pytest.skip("root writes into any folder")
    return lambda path: path.chmod(0o555)


def test_a_current_folder_that_is_read_only_is_a_line_and_exit_code_2(folder: Path, seal: Callable[[Path], None]):
    seal(folder)
    done = run(folder, "--headless", *CONFIGURED)
    assert done.returncode == 2
    assert "is not writable for this user" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that nobody can write into, root included")
def test_a_current_folder_that_nobody_can_write_into_is_a_line_and_exit_code_2(folder: Path):
    done = run(Path("/proc/self"), "--headless", *CONFIGURED, "--app-dir", str(folder))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_with_its_files_elsewhere_such_a_folder_will_do(folder: Path):
    files = ("--backup-path", str(folder / "backup.csv"), "--dlq-path", str(folder / "dlq.csv"), "--app-dir", str(folder))
    where = Path("/proc/self") if os.path.isdir("/proc/self") else folder
    demo = [word for word in DEMO if word not in {"--backup-path", "backup.csv", "--dlq-path", "dlq.csv"}]
    done = run(where, *demo, *files)
    assert done.returncode == 0, done.stderr
    assert_whole(folder)
