"""The console in a real pseudo-terminal: signals, a lost and a stalled terminal, a crash, and what it leaves behind."""

from __future__ import annotations

import os
import re
import resource
import signal
import time

import pytest

from tests.tui.console_script import SECRET
from tests.tui.hostile import HOSTILE
from tests.tui.terminals import Terminal

SCRIPT = ("tests.tui.console_script",)


@pytest.fixture
def start(tmp_path):
    started: list[Terminal] = []

    def run(kind: str, **options) -> Terminal:
        terminal = Terminal(*SCRIPT, kind, str(tmp_path / "notes"), **options)
        started.append(terminal)
        return terminal

    yield run
    for terminal in started:
        terminal.close()


@pytest.fixture
def notes(tmp_path):
    def read() -> list[str]:
        path = tmp_path / "notes"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    return read


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_the_consumer_under_the_screen_and_gives_the_terminal_back(start, notes, number):
    terminal = start("local")
    terminal.wait_for("STUCK")
    terminal.signal(number)
    terminal.wait_for("DRAINING")
    assert terminal.wait() == 0
    assert notes() == ["started", f"stop: stopped by {signal.Signals(number).name}", "drained"]
    terminal.assert_restored()


def test_a_hangup_drains_the_consumer_without_the_screen(start, notes):
    terminal = start("local")
    terminal.wait_for("STUCK")
    terminal.signal(signal.SIGHUP)
    assert terminal.wait() == 0
    assert notes() == ["started", "stop: the terminal was lost", "drained"]
    terminal.assert_restored()


@pytest.mark.parametrize("ignore", [(), (signal.SIGHUP,)], ids=["as usual", "with hangups ignored"])
@pytest.mark.parametrize("kind", ["local", "attached"])
def test_a_terminal_that_vanishes_ends_the_console_without_spinning(start, notes, kind, ignore):
    terminal = start(kind, ignore=ignore)
    terminal.wait_for("STUCK")
    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    terminal.vanish()
    assert terminal.wait() == 0
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - used < 8
    if kind == "local":
        assert notes()[0] == "started"
        assert notes()[1] == "stop: the terminal was lost"
        assert notes()[-1] == "drained"
    else:
        assert notes() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_an_attached_console_and_nothing_else(start, notes, number):
    terminal = start("attached")
    terminal.wait_for("STUCK")
    terminal.signal(number)
    assert terminal.wait() == 0
    assert notes() == []
    terminal.assert_restored()


def test_detaching_leaves_the_terminal_as_it_was(start):
    terminal = start("attached")
    terminal.wait_for("STUCK")
    terminal.send("q")
    assert terminal.wait() == 0
    terminal.assert_restored()


def test_quitting_asks_and_drains(start, notes):
    terminal = start("local")
    terminal.wait_for("STUCK")
    terminal.send("q")
    terminal.wait_for("The consumer runs in this process")
    terminal.send("y")
    assert terminal.wait() == 0
    assert notes() == ["started", "stop: the operator quit", "drained"]
    terminal.assert_restored()


def test_ctrl_c_does_what_q_does(start, notes):
    terminal = start("local")
    terminal.wait_for("STUCK")
    terminal.send("\x03")
    terminal.wait_for("The consumer runs in this process")
    terminal.send("n")
    time.sleep(0.3)
    assert notes() == ["started"]
    terminal.signal(signal.SIGTERM)
    assert terminal.wait() == 0


def test_a_consumer_that_ends_by_itself_ends_the_console_with_its_exit_code(start, notes):
    terminal = start("failing")
    assert terminal.wait() == 1
    assert notes() == ["started", "drained"]
    terminal.assert_restored()


def test_a_crash_of_the_screen_shows_no_values_and_drains_the_consumer(start, notes):
    terminal = start("crash")
    assert terminal.wait() == 1
    assert notes() == ["started", "stop: the console crashed", "drained"]
    assert SECRET not in terminal.output.decode("utf-8", "replace")
    assert "Traceback" in terminal.after_the_screen()
    terminal.assert_restored()


def test_what_is_printed_meanwhile_never_disturbs_the_screen_and_is_shown_afterwards(start):
    terminal = start("printing")
    terminal.wait_for("STUCK")
    time.sleep(1.5)
    assert "below python" not in terminal.text
    terminal.signal(signal.SIGTERM)
    assert terminal.wait() == 0
    after = terminal.after_the_screen()
    for line in ("below python", "\\x1b]0;owned\\x07error below python", "from python"):
        assert line in after
    assert b"\x1b]0;" not in terminal.output
    terminal.assert_restored()


def test_a_terminal_that_takes_nothing_does_not_hold_up_the_end(start, notes):
    terminal = start("local", size=(200, 60))
    terminal.wait_for("STUCK")
    terminal.stall()
    for step in range(30):
        terminal.resize(200 - step % 2 * 40, 60 - step % 2 * 10)
        time.sleep(0.05)
    terminal.signal(signal.SIGTERM)
    assert terminal.wait(30) == 0
    assert notes() == ["started", "stop: stopped by SIGTERM", "drained"]


def test_no_hostile_sequence_reaches_the_terminal(start):
    terminal = start("hostile", size=(200, 60))
    terminal.wait_for("owned")
    for keys in ("1", "\r", "q", "2", "\r", "q", "4", "\r", "q", "5", "3", "T", "n"):
        terminal.send(keys)
        time.sleep(0.15)
    time.sleep(0.5)
    terminal.signal(signal.SIGTERM)
    assert terminal.wait() == 0
    # Textual sets the pointer's shape: its own sequence, without data.
    output = re.sub(rb"\x1b\]22;[a-z]+\x07", b"", terminal.output)
    shown = output.decode("utf-8")
    for forbidden in (b"\x1b]52", b"\x1b]0;", b"\x1b[2J\x1b[H", b"\x1bP+q", b"\x07"):
        assert forbidden not in output, forbidden
    for character in "\x9b\x9d\x90\x9c\u202e\u2066\u2069\u200f\u2028\ufeff\x7f":
        assert character not in shown, hex(ord(character))
    assert "\\x1b]52;c;ZXZpbA==\\x07" in shown
    assert HOSTILE
    terminal.assert_restored()


@pytest.mark.parametrize("size", [(80, 24), (60, 15), (1, 1), (200, 60)])
def test_it_draws_in_a_terminal_of_any_size(start, size):
    terminal = start("attached", size=size)
    deadline = time.monotonic() + 15
    while b"\x1b[?1049h" not in terminal.output:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for columns, rows in ((120, 36), (3, 2), (80, 24)):
        terminal.resize(columns, rows)
        time.sleep(0.15)
    terminal.wait_for("commits ON")
    terminal.send("q")
    assert terminal.wait() == 0
    terminal.assert_restored()


def test_an_ended_console_leaves_no_process_behind(start):
    terminal = start("attached")
    terminal.wait_for("STUCK")
    terminal.send("q")
    terminal.wait()
    with pytest.raises(ProcessLookupError):
        os.killpg(terminal.process.pid, 0)
