from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kafka_consumer.control import serve
from tests.tui.terminals import ROOT, Terminal
from tests.tui.test_feeds import FakeConsumer
from tui.bindings import KEYS
from tui.cli import invoke


@pytest.fixture
def terminals():
    started: list[Terminal] = []

    def run(*arguments: str, module: str = "tui.cli", **options) -> Terminal:
        started.append(Terminal(module, *arguments, **options))
        return started[-1]

    yield run
    for terminal in started:
        terminal.close()


def test_the_help_names_the_options_of_the_console_and_of_the_consumer(capsys):
    assert invoke(["--help"]) == 0
    shown = capsys.readouterr().out
    for option in ("--attach", "--read-only", "--theme", "--web", "--demo", "--bootstrap-server", "--processor", "--socket"):
        assert option in shown


def test_the_version_is_told(capsys):
    assert invoke(["--version"]) == 0
    assert capsys.readouterr().out.startswith("kc-tui ")


def test_without_a_terminal_it_says_what_to_do_instead():
    command = [sys.executable, "-m", "tui.cli", "--demo"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert done.stderr == "the console needs a terminal, and stdin isn't one: use kc --headless\n"


def test_an_unknown_option_is_a_usage_error(capsys):
    assert invoke(["--atach", "x"]) == 2
    assert "--attach" in capsys.readouterr().err


def test_web_needs_something_to_attach_to(capsys):
    assert invoke(["--web"]) == 2
    assert "--attach" in capsys.readouterr().err


def test_web_says_at_once_that_nobody_listens(tmp_path, capsys):
    assert invoke(["--web", "--attach", str(tmp_path / "none.sock")]) == 1
    assert "no consumer can be reached" in capsys.readouterr().err


def test_attaching_to_nothing_is_one_line_and_exit_code_1(terminals, tmp_path):
    terminal = terminals("--attach", str(tmp_path / "none.sock"))
    assert terminal.wait() == 1
    assert "no consumer can be reached at" in terminal.text
    assert terminal.text.strip().count("\n") == 0
    assert b"\x1b[?1049h" not in terminal.output


def test_every_mistake_in_the_settings_is_a_line_before_the_screen(terminals):
    terminal = terminals("--workers", "0", "--topic", "orders")
    assert terminal.wait() == 2
    assert "--workers" in terminal.text
    assert "--group" in terminal.text
    assert b"\x1b[?1049h" not in terminal.output


def test_attached_to_a_running_consumer_it_shows_pauses_and_detaches(terminals, tmp_path):
    consumer = FakeConsumer()
    with serve(consumer, str(tmp_path / "orders.sock")):
        terminal = terminals("--attach", str(tmp_path / "orders.sock"), size=(120, 36))
        terminal.wait_for("RUNNING")
        terminal.wait_for("attached to")
        terminal.send("p")
        terminal.wait_for("applied")
        assert consumer.calls == [("pause", None)]
        terminal.send("q")
        assert terminal.wait() == 0
        terminal.assert_restored()
    assert consumer.calls == [("pause", None)]


def test_a_read_only_console_refuses(terminals, tmp_path):
    consumer = FakeConsumer()
    with serve(consumer, str(tmp_path / "orders.sock")):
        terminal = terminals("--attach", str(tmp_path / "orders.sock"), "--read-only", size=(120, 36))
        terminal.wait_for("RUNNING")
        terminal.send("T")
        terminal.wait_for("this console is read-only")
        terminal.send("q")
        assert terminal.wait() == 0
    assert consumer.calls == []


def test_a_consumer_that_goes_away_is_told_and_found_again(terminals, tmp_path):
    path = str(tmp_path / "orders.sock")
    with serve(FakeConsumer(), path):
        terminal = terminals("--attach", path, size=(120, 36))
        terminal.wait_for("RUNNING")
    terminal.wait_for("NO DATA")
    seen = len(terminal.text)
    with serve(FakeConsumer(), path):
        terminal.wait_for_new("RUNNING", seen)
        terminal.send("q")
        assert terminal.wait() == 0


@pytest.mark.slow
def test_the_demo_runs_under_the_console_and_ends_by_itself(terminals, tmp_path):
    terminal = terminals("--demo", "--demo-messages", "300", "--socket", str(tmp_path / "demo.sock"), size=(120, 36))
    terminal.wait_for("kc-demo", 60)
    assert terminal.wait(90) == 0
    terminal.assert_restored()
    assert "all 300 messages of the demo are finished" in terminal.after_the_screen()
    assert "The demo's files:" in terminal.after_the_screen()
    assert not os.path.exists(tmp_path / "demo.sock")


@pytest.mark.slow
def test_a_real_consumer_is_paused_and_drained_from_the_keyboard(terminals):
    terminal = terminals("--demo", size=(120, 36))
    terminal.wait_for("BUSY", 60)
    terminal.send("p")
    terminal.wait_for("pause everything applied", 30)
    terminal.wait_for("PAUSED", 30)
    terminal.send("p")
    terminal.wait_for("resume everything applied", 30)
    terminal.send("q")
    terminal.wait_for("The consumer runs in this process")
    terminal.send("y")
    assert terminal.wait(60) == 0
    terminal.assert_restored()
    assert "the operator quit" in terminal.after_the_screen()


REPLAY = ("--demo", "--demo-messages", "300", "--from", "earliest", "--commit")


@pytest.mark.slow
@pytest.mark.parametrize("module", ["tui.cli", "kafka_consumer"])
@pytest.mark.parametrize("answer", ["n\n", "\n"])
def test_a_replay_that_commits_is_not_begun_without_a_yes(terminals, module, answer):
    terminal = terminals(*REPLAY, module=module, size=(120, 36))
    terminal.wait_for("Move the group? [y/N]", 60)
    assert "what --commit does to the group" in terminal.text
    terminal.send(answer)
    assert terminal.wait(60) == 2
    assert "--commit: not confirmed; nothing was done" in terminal.text
    assert b"\x1b[?1049h" not in terminal.output


@pytest.mark.slow
def test_a_replay_that_commits_opens_the_screen_after_a_yes(terminals):
    terminal = terminals(*REPLAY, size=(120, 36))
    terminal.wait_for("Move the group? [y/N]", 60)
    terminal.send("y\n")
    terminal.wait_for("kc-demo", 60)
    assert terminal.wait(90) == 0
    terminal.assert_restored()


@pytest.mark.slow
@pytest.mark.parametrize("module", ["tui.cli", "kafka_consumer"])
def test_told_yes_on_the_command_line_nothing_is_asked(terminals, module):
    terminal = terminals(*REPLAY, "--yes", module=module, size=(120, 36))
    terminal.wait_for("kc-demo", 60)
    assert terminal.wait(90) == 0
    assert "Move the group?" not in terminal.text


def test_the_table_of_keys_for_the_readme_is_printed_by_the_module():
    done = subprocess.run(
        [sys.executable, "-m", "tui.bindings"], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True
    )
    assert done.stdout.count("\n") == len(KEYS) + 2
