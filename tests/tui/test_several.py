"""Several consumers in one console: all of them with their sums, the screen of each, and on whom a command acts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from kafka_consumer.control import serve
from kafka_consumer.snapshot import Snapshot
from tests.tui.fakes import FakeFeed, FrozenClock, healthy, make_snapshot, partition
from tests.tui.helpers import Console, consoles
from tests.tui.pictures import assert_picture
from tests.tui.terminals import ROOT, Terminal
from tests.tui.test_feeds import FakeConsumer
from tests.tui.test_pictures import SIZES
from tui.bindings import keys_of
from tui.cli import invoke
from tui.commands import CommandState
from tui.screens.dialogs import Confirm
from tui.several import names_of
from tui.socket_feed import can_connect
from tui.widgets.partitions import Partitions

APPLIED = (CommandState.APPLIED, "")


def make_feeds(*names: str, **snapshots: Snapshot | None) -> list[FakeFeed]:
    """Return an attached feed for each name; a healthy one unless its snapshot is given."""
    clock = FrozenClock()
    feeds = []
    for number, name in enumerate(names):
        snapshot = snapshots.get(name, healthy(topic=name, group_id=f"{name}-group", pid=100 + number, replay=None))
        feed = FakeFeed(snapshot, role="attached", clock=clock)
        feed.source = f"/run/kc/{name}.sock"
        feed.answers = {"pause": APPLIED, "resume": APPLIED, "stop": APPLIED}
        feeds.append(feed)
    return feeds


def row_of(shown: Console, name: str) -> str:
    """Return the line of a consumer."""
    return next(line for line in shown.lines[3:] if line.lstrip(" >*").startswith(name))


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/run/kc/orders.sock", "/run/kc/bills.sock"], ["orders", "bills"]),
        (["/run/a/kc.sock", "/run/b/kc.sock", "x.sock"], ["a/kc", "b/kc", "x"]),
        (["kc.sock", "run/kc.sock"], ["kc", "run/kc"]),
        (["/tmp/with.dots", "./one"], ["with.dots", "one"]),
    ],
)
def test_a_name_is_as_much_of_the_path_as_tells_it_from_the_others(paths, names):
    assert names_of(paths) == names


async def test_it_starts_with_a_row_for_each_and_the_sums():
    two = (partition(0, lag=1000, in_flight=5), partition(1, lag=200, in_flight=2))
    orders = replace(healthy(topic="orders"), partitions=two)
    bills = replace(healthy(topic="bills"), partitions=(partition(0, lag=34, in_flight=4),))
    async with consoles(make_feeds("orders", "bills", orders=orders, bills=bills), size=(160, 40)) as shown:
        assert shown.screen_name == "AllScreen"
        assert "2 consumers" in shown.lines[0]
        assert "● 2 RUNNING" in shown.lines[0]
        assert "rate 8.4k/s" in shown.lines[1]
        assert "lag 1.2k" in shown.lines[1]
        assert "in flight 11" in shown.lines[1]
        assert "workers 16/16" in shown.lines[1]
        assert "partitions 3" in shown.lines[1]
        assert "DLQ 28" in shown.lines[1]
        row = row_of(shown, "bills")
        for figure in ("● RUNNING", "running", "billing", "8/8", "34", "4.2k"):
            assert figure in row, figure


async def test_a_dead_feed_says_since_when_leaves_the_sums_and_holds_up_nobody():
    feeds = make_feeds("orders", "bills", "mails")
    async with consoles(feeds) as shown:
        feeds[1].age, feeds[1].problem = 12.0, "can't connect"
        feeds[0].publish(replace(healthy(topic="orders"), partitions=(partition(0, lag=7777),)))
        await shown.settle()
        assert "? 1 NO DATA" in shown.lines[0]
        assert "● 2 RUNNING" in shown.lines[0]
        assert "⚠ of 2 of 3 consumers" in shown.lines[1]
        assert "rate 8.4k/s" in shown.lines[1]
        assert "? NO DATA" in row_of(shown, "bills")
        assert " 12s" in row_of(shown, "bills")
        assert "7.8k" in row_of(shown, "orders")


async def test_one_that_was_never_reached_has_its_row_and_its_reason():
    feeds = make_feeds("orders", "bills", bills=None)
    feeds[1].problem = "can't connect to /run/kc/bills.sock"
    async with consoles(feeds, size=(200, 30)) as shown:
        assert "NO DATA" in row_of(shown, "bills")
        assert "can't connect to /run/kc/bills.sock" in row_of(shown, "bills")
        assert "⚠ of 1 of 2 consumers" in shown.lines[1]
        await shown.press("j", "enter")
        assert shown.screen_name == "MainScreen"
        await shown.press("p", "e", "T", "n", "0")
        assert shown.screen_name == "AllScreen"
        assert feeds[1].sent == []


async def test_a_consumer_that_has_ended_leaves_the_sums():
    ended = healthy(topic="bills", phase="stopped", stop_reason="by SIGTERM")
    async with consoles(make_feeds("orders", "bills", bills=ended)) as shown:
        assert "⚠ of 1 of 2 consumers" in shown.lines[1]
        assert "rate 4.2k/s" in shown.lines[1]
        assert "■ STOPPED" in row_of(shown, "bills")


async def test_enter_opens_the_consumer_under_the_cursor_and_0_goes_back():
    async with consoles(make_feeds("orders", "bills")) as shown:
        await shown.press("j", "enter")
        assert shown.screen_name == "MainScreen"
        assert "orders ●  [bills ●]" in shown.lines[0]
        assert "kc bills" in shown.lines[1]
        await shown.press("0")
        assert shown.screen_name == "AllScreen"


async def test_n_and_b_go_round_the_consumers():
    async with consoles(make_feeds("orders", "bills", "mails")) as shown:
        for key, name in (("n", "orders"), ("n", "bills"), ("n", "mails"), ("n", "orders"), ("b", "mails"), ("b", "bills")):
            await shown.press(key)
            assert f"[{name} ●]" in shown.lines[0]
            assert f"kc {name}" in shown.lines[1]
        await shown.press("0", "b")
        assert "[mails ●]" in shown.lines[0]


async def test_trouble_elsewhere_is_seen_from_every_screen():
    feeds = make_feeds("orders", "bills")
    async with consoles(feeds) as shown:
        await shown.press("n")
        feeds[1].publish(make_snapshot(topic="bills"))
        await shown.settle()
        assert "bills ⚠ STUCK" in shown.lines[0]
        feeds[1].age = 9.0
        await shown.settle()
        assert "bills ? NO DATA 9.0s" in shown.lines[0]


async def test_a_command_goes_to_the_consumer_that_is_shown_alone():
    feeds = make_feeds("orders", "bills", "mails")
    async with consoles(feeds) as shown:
        await shown.press("n", "n", "p", "x")
        assert feeds[1].commands() == [("pause", {}), ("set_dev_mode", {"enabled": True})]
        await shown.press("n", "T", "y")
        assert feeds[2].commands() == [("stop", {"reason": "stopped by the operator"})]
        assert feeds[0].sent == []


async def test_marks_cursor_and_filter_belong_to_one_consumer():
    feeds = make_feeds("orders", "bills")
    async with consoles(feeds) as shown:
        await shown.press("n", "space", "n")
        assert shown.app.screen.query_one(Partitions).marked() == []
        await shown.press("p")
        assert feeds[1].commands() == [("pause", {})]
        await shown.press("b")
        assert shown.app.screen.query_one(Partitions).marked() == [("orders", 0)]
        await shown.press("p")
        assert feeds[0].commands() == [("pause", {"partitions": [["orders", 0]]})]


async def test_an_answer_acts_on_the_consumer_that_was_asked_about_whatever_follows_at_once():
    feeds = make_feeds("orders", "bills")
    async with consoles(feeds) as shown:
        await shown.press("n", "T")
        question = shown.app.screen
        assert isinstance(question, Confirm)
        question.dismiss(True)
        # The question is closed, its answer isn't told yet.
        await shown.app.run_action("app.consumer(1)")
        await shown.settle()
        assert "[bills ●]" in shown.lines[0]
        assert [command for command, _ in feeds[0].commands()] == ["stop"]
        assert feeds[1].sent == []


async def test_no_other_consumer_is_shown_while_a_question_is_open():
    feeds = make_feeds("orders", "bills")
    async with consoles(feeds) as shown:
        await shown.press("n", "T")
        await shown.app.run_action("app.consumer(1)")
        await shown.settle()
        assert shown.screen_name == "Confirm"
        await shown.press("y")
        assert [command for command, _ in feeds[0].commands()] == ["stop"]
        assert "[orders ●]" in shown.lines[0]


async def test_from_a_page_the_next_consumer_is_shown_and_the_page_is_closed():
    async with consoles(make_feeds("orders", "bills")) as shown:
        await shown.press("n", "enter")
        assert shown.screen_name == "PartitionPage"
        await shown.press("n")
        assert shown.screen_name == "MainScreen"
        assert "[bills ●]" in shown.lines[0]
        await shown.press("b")
        assert shown.screen_name == "MainScreen"


async def test_stopping_all_asks_with_figures_and_acts_after_yes():
    feeds = make_feeds("orders", "bills", bills=healthy(topic="bills", dev_mode=True))
    async with consoles(feeds) as shown:
        await shown.press("D")
        assert "Stop all 2 consumers?" in shown.dialog
        assert "orders: drains 820 messages, commits, exits" in shown.dialog
        assert "bills: drains 820 messages, commits nothing (commits are OFF), exits" in shown.dialog
        await shown.press("enter")
        assert shown.screen_name == "AllScreen"
        assert [feed.sent for feed in feeds] == [[], []]
        await shown.press("D", "y")
        assert [feed.commands() for feed in feeds] == [[("stop", {"reason": "stopped by the operator"})]] * 2


async def test_of_several_only_the_marked_ones_are_paused_and_then_resumed():
    feeds = make_feeds("orders", "bills", "mails")
    async with consoles(feeds) as shown:
        await shown.press("space", "j", "space", "P")
        assert "Pause 2 consumers?" in shown.dialog
        assert "bills" not in shown.dialog
        await shown.press("y")
        assert [feed.commands() for feed in feeds] == [[("pause", {})], [], [("pause", {})]]
        for number in (0, 2):
            feeds[number].publish(healthy(paused=True))
        await shown.settle()
        await shown.press("g", "space", "j", "space", "P")
        assert "Resume 2 consumers?" in shown.dialog
        await shown.press("y")
        assert [command for command, _ in feeds[2].commands()] == ["pause", "resume"]
        assert feeds[1].sent == []


async def test_one_that_cannot_be_reached_is_named_in_the_question():
    feeds = make_feeds("orders", "bills")
    async with consoles(feeds) as shown:
        feeds[1].age = 20.0
        await shown.settle()
        await shown.press("D")
        assert "bills: NO DATA: no snapshot for 20s" in shown.dialog


async def test_what_acts_on_several_is_asked_for_among_all_only_and_what_acts_on_one_only_there():
    feeds = make_feeds("orders", "bills")
    async with consoles(feeds) as shown:
        await shown.press("p", "T", "x", "e", "R")
        assert shown.screen_name == "AllScreen"
        await shown.press("n", "D", "P")
        assert shown.screen_name == "MainScreen"
        assert [feed.sent for feed in feeds] == [[], []]


async def test_read_only_refuses_commands_to_several():
    feeds = make_feeds("orders", "bills")
    for feed in feeds:
        feed._read_only = True
    async with consoles(feeds) as shown:
        await shown.press("D")
        assert shown.screen_name == "AllScreen"
        assert "read-only" in shown.lines[0]
        assert [feed.history()[-1].state for feed in feeds] == [CommandState.REFUSED] * 2
        assert [feed.sent for feed in feeds] == [[], []]


async def test_a_read_only_consumer_among_others_is_named_in_the_question():
    feeds = make_feeds("orders", "bills")
    feeds[1]._read_only = True
    async with consoles(feeds) as shown:
        await shown.press("P")
        assert "bills: refuses commands (read-only)" in shown.dialog
        await shown.press("y")
        assert feeds[0].commands() == [("pause", {})]
        assert feeds[1].sent == []


async def test_the_history_of_all_names_the_consumer():
    feeds = make_feeds("orders", "bills")
    async with consoles(feeds) as shown:
        await shown.press("n", "p", "n", "x", "0")
        assert "bills: commits OFF (dev mode) requested" in shown.lines[-1]
        await shown.press("h")
        assert "orders: pause everything applied" in shown.page
        assert "bills: commits OFF (dev mode) requested" in shown.page


async def test_freezing_asks_none_of_them():
    feeds = make_feeds("orders", "bills")
    async with consoles(feeds) as shown:
        await shown.press("z")
        looks = [feed.looks for feed in feeds]
        await shown.settle()
        await shown.press("n")
        assert [feed.looks for feed in feeds] == looks
        assert "FROZEN" in shown.lines[1]
        await shown.press("z")
        assert all(feed.looks > before for feed, before in zip(feeds, looks, strict=True))


async def test_frozen_a_dead_feed_stays_what_it_was_and_a_live_one_too():
    feeds = make_feeds("orders", "bills")
    async with consoles(feeds) as shown:
        feeds[1].age = 12.0
        await shown.settle()
        await shown.press("z")
        feeds[0].frozen_clock.advance(30)
        feeds[0].age, feeds[1].age = 30.4, 42.0
        await shown.settle()
        assert "FROZEN for 30s" in shown.lines[0]
        assert "? NO DATA" in row_of(shown, "bills")
        assert "● RUNNING" in row_of(shown, "orders")
        assert "⚠ of 1 of 2 consumers" in shown.lines[1]


async def test_the_rows_are_sorted_by_the_worst_and_the_cursor_stays_on_its_consumer():
    feeds = make_feeds("orders", "bills", bills=make_snapshot(topic="bills"))
    async with consoles(feeds) as shown:
        names = [line.lstrip(" >*").split()[0] for line in shown.lines[4:6]]
        assert names == ["orders", "bills"]
        await shown.press("s")
        names = [line.lstrip(" >*").split()[0] for line in shown.lines[4:6]]
        assert names == ["bills", "orders"]
        await shown.press("j", "enter")
        assert "[orders ●]" in shown.lines[0]


async def test_the_help_and_the_palette_have_the_keys_of_several():
    async with consoles(make_feeds("orders", "bills"), size=(160, 60)) as shown:
        await shown.press("n", "question_mark")
        for key in keys_of(several=True):
            assert key.tooltip.split(";")[0] in shown.page
        await shown.press("escape")
        titles = {command.title for command in shown.app.get_system_commands(shown.app.screen)}
        assert {"All consumers", "Next consumer", "Pause or resume"} <= titles
        await shown.press("0")
        titles = {command.title for command in shown.app.get_system_commands(shown.app.screen)}
        assert {"Stop several", "History"} <= titles
        assert not {"Pause or resume", "Stop", "Seek"} & titles


async def test_no_key_hurts_among_several():
    async with consoles(make_feeds("orders", "bills", bills=None)) as shown:
        for start in ("0", "n", "n"):
            await shown.press(start)
            for name in (name for key in keys_of(several=True) if key.group != "Leave" for name in key.keys):
                await shown.pilot.press(name)
                while shown.screen_name not in ("MainScreen", "AllScreen"):
                    await shown.pilot.press("escape")
        assert shown.app.crash is None
        assert shown.app.is_running


async def test_q_detaches_from_all_without_a_command():
    feeds = make_feeds("orders", "bills")
    async with consoles(feeds) as shown:
        await shown.pilot.press("q")
        await shown.pilot.pause()
    assert shown.app.return_code == 0
    assert [feed.sent for feed in feeds] == [[], []]


@pytest.mark.parametrize("size", [(1, 1), (10, 2), (60, 15), (80, 24), (200, 60)])
async def test_any_size_will_do_and_a_screen_takes_the_size_it_is_shown_in(size):
    async with consoles(make_feeds("orders", "bills"), size=(120, 36)) as shown:
        await shown.press("n", "0")
        await shown.pilot.resize_terminal(*size)
        await shown.settle()
        assert len(shown.lines) == size[1]
        await shown.press("n")
        assert len(shown.lines) == size[1]
        assert shown.app.crash is None
        if size[0] >= 80:
            assert "RUNNING" in shown.text


async def test_in_80_columns_a_row_still_tells_health_lag_rate_and_age():
    async with consoles(make_feeds("orders", "bills"), size=(80, 24)) as shown:
        for column in ("CONSUMER", "HEALTH", "LAG", "RATE/s", "SEEN", "DLQ"):
            assert column in shown.lines[3]


@pytest.mark.parametrize("size", SIZES)
async def test_all_consumers_look_as_they_should(size, tmp_path):
    feeds = make_feeds("orders", "bills", "mails", bills=make_snapshot(topic="bills"), mails=None)
    feeds[2].problem = "can't connect to /run/kc/mails.sock: Connection refused"
    async with consoles(feeds, size=SIZES[size]) as shown:
        await shown.press("j", "space")
        assert_picture(shown, f"several-{size}", tmp_path)
        await shown.press("D")
        assert_picture(shown, f"several-stop-{size}", tmp_path)
        await shown.press("n", "n", "n")
        shown.app.clear_notifications()
        await shown.settle()
        assert_picture(shown, f"several-one-{size}", tmp_path)


# The command line


def test_the_same_socket_twice_is_a_mistake(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tui.cli._on_a_terminal", lambda: True)
    path = str(tmp_path / "kc.sock")
    assert invoke(["--attach", path, "--attach", f"{tmp_path}/./kc.sock"]) == 2
    assert "the same socket twice" in capsys.readouterr().err


def test_when_none_can_be_reached_each_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tui.cli._on_a_terminal", lambda: True)
    assert invoke(["--attach", str(tmp_path / "a.sock"), "--attach", str(tmp_path / "b.sock")]) == 1
    said = capsys.readouterr().err
    assert said.count("no consumer can be reached") == 2


@pytest.fixture
def terminals():
    started: list[Terminal] = []

    def run(*arguments: str, **options) -> Terminal:
        started.append(Terminal("tui.cli", *arguments, **options))
        return started[-1]

    yield run
    for terminal in started:
        terminal.close()


def test_one_that_comes_later_is_found(terminals, tmp_path):
    first, second = str(tmp_path / "first.sock"), str(tmp_path / "second.sock")
    with serve(FakeConsumer(), first):
        terminal = terminals("--attach", first, "--attach", second, size=(120, 36))
        terminal.wait_for("1 NO DATA")
        with serve(FakeConsumer(), second):
            terminal.wait_for("2 RUNNING")
            terminal.send("q")
            assert terminal.wait() == 0
    terminal.assert_restored()


def test_a_browser_gets_all_of_them(tmp_path):
    first, second = str(tmp_path / "first.sock"), str(tmp_path / "second.sock")
    with serve(FakeConsumer(), first), serve(FakeConsumer(), second):
        # What kc-tui --web starts for each browser, here in a terminal.
        terminal = Terminal("tui.web", "--attach", first, "--attach", second, "--read-only", size=(120, 36))
        try:
            terminal.wait_for("2 RUNNING")
            terminal.wait_for("read-only")
            terminal.send("q")
            assert terminal.wait() == 0
        finally:
            terminal.close()


@pytest.fixture
def demos(tmp_path):
    """Two real consumers, each with a broker of its own, and the folders that their sockets are in."""
    started = []
    paths = [tmp_path / name / "run" / f"{name}.sock" for name in ("orders", "bills")]
    for path in paths:
        folder = path.parent.parent
        folder.mkdir()
        command = [sys.executable, "-m", "kafka_consumer", "--demo", "--headless", "--socket", str(path)]
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        with (folder / "log").open("wb") as log:
            started.append(subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ))
    try:
        deadline = time.monotonic() + 60
        for process, path in zip(started, paths, strict=True):
            while can_connect(str(path)) is not None:
                assert process.poll() is None, Path(path.parent.parent / "log").read_text(encoding="utf-8")
                assert time.monotonic() < deadline, Path(path.parent.parent / "log").read_text(encoding="utf-8")
                time.sleep(0.05)
        yield started, [str(path) for path in paths]
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
            process.wait(10)


@pytest.mark.slow
def test_of_two_real_consumers_one_is_paused_one_is_killed_and_the_other_is_stopped(terminals, demos):
    (orders, bills), (first, second) = demos
    terminal = terminals("--attach", first, "--attach", second, size=(160, 40))
    terminal.wait_for("2 consumers", 60)
    terminal.send("n")
    terminal.wait_for("attached to orders.sock", 30)
    terminal.send("p")
    terminal.wait_for("pause everything applied", 30)
    terminal.wait_for("orders ■ PAUSED", 30)
    terminal.send("0")
    terminal.wait_for("1 PAUSED", 30)
    bills.send_signal(signal.SIGKILL)
    terminal.wait_for("1 NO DATA", 30)
    terminal.wait_for("of 1 of 2 consumers", 30)
    assert orders.poll() is None
    terminal.send("D")
    terminal.wait_for("Stop all 2 consumers?", 30)
    terminal.wait_for("bills: NO DATA", 30)
    terminal.send("y")
    assert orders.wait(60) == 0
    terminal.send("q")
    assert terminal.wait() == 0
    terminal.assert_restored()
