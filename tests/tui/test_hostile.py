from __future__ import annotations

from dataclasses import replace

import pytest

from tests.tui.fakes import FakeFeed
from tests.tui.helpers import Console, console
from tests.tui.hostile import FORBIDDEN, HOSTILE, hostile_snapshot
from tui.commands import CommandState
from tui.wire import snapshot_from_dict

SIZES = [(200, 60), (120, 36), (80, 24), (60, 15), (20, 5)]


def assert_harmless(shown: Console) -> None:
    for line in shown.lines:
        assert not FORBIDDEN.search(line), line


@pytest.mark.parametrize("size", SIZES)
async def test_nothing_hostile_reaches_the_screen_even_from_a_snapshot_that_nobody_sanitised(size):
    async with console(hostile_snapshot(), size=size) as shown:
        for panel in "12345":
            await shown.press(panel)
            assert_harmless(shown)
            await shown.press("enter")
            assert_harmless(shown)
            while shown.screen_name != "MainScreen":
                await shown.press("escape")


async def test_markup_in_data_is_shown_letter_by_letter():
    async with console(hostile_snapshot(), size=(200, 60)) as shown:
        await shown.press("5")
        assert "[@click=app.quit]pay[/]" in shown.text
        assert "[red]x[/blue]" in shown.text


async def test_a_click_on_markup_in_data_runs_no_action():
    async with console(hostile_snapshot(), size=(120, 36)) as shown:
        await shown.press("5")
        row = next(y for y, line in enumerate(shown.lines) if "[@click=app.quit]" in line)
        column = shown.lines[row].index("[@click") + 20
        await shown.pilot.click(offset=(column, row))
        await shown.settle()
        assert shown.screen_name == "MainScreen"
        assert shown.app.is_running


@pytest.mark.parametrize("text", HOSTILE)
async def test_a_hostile_reason_of_a_refusal_is_shown_as_data(text):
    feed = FakeFeed(hostile_snapshot())
    feed.answers["pause"] = (CommandState.REFUSED, text)
    async with console(None, feed=feed) as shown:
        await shown.press("p")
        assert_harmless(shown)
        await shown.press("h")
        assert_harmless(shown)


async def test_dialogs_show_hostile_names_as_data():
    async with console(hostile_snapshot()) as shown:
        for keys in (("1", "e"), ("4", "R"), ("T",), ("l",), ("r",)):
            await shown.press(*keys)
            assert shown.screen_name != "MainScreen", keys
            assert_harmless(shown)
            await shown.press("escape")


async def test_what_is_copied_carries_no_escape_sequence():
    async with console(hostile_snapshot()) as shown:
        await shown.press("4", "y")
        assert shown.app.clipboard
        assert not FORBIDDEN.search(shown.app.clipboard)
        await shown.press("enter", "y")
        assert not FORBIDDEN.search(shown.app.clipboard.replace("\n", ""))


async def test_a_pasted_filter_loses_its_control_characters():
    async with console(replace(hostile_snapshot(), log_tail=())) as shown:
        await shown.press("slash")
        shown.app.screen.query_one("#filter").value = "\x1b]52;c;QQ==\x07"  # type: ignore[attr-defined]
        await shown.settle()
        assert_harmless(shown)


HUGE = "\x1b]0;owned\x07[red]" + "=1+1,\u202e" * 700_000


async def test_five_megabytes_on_one_line_are_cut_and_harmless_wherever_they_are_shown():
    base = hostile_snapshot()
    letter = replace(base.dlq_tail[0], key=HUGE, value=HUGE, error_message=HUGE, error_type=HUGE, stack_trace=(HUGE,))
    log = replace(base.log_tail[0], message=HUGE, level="ERROR")
    snapshot = replace(base, topic=HUGE, group_id=HUGE, stop_reason=HUGE, dlq_tail=(letter,), log_tail=(log,))
    # As it comes over a socket, from whoever listens there: in process the consumer has cut it already.
    async with console(snapshot_from_dict(snapshot.to_dict()), size=(120, 36)) as shown:
        assert_harmless(shown)
        for panel in "45":
            await shown.press(panel)
            assert "owned" in shown.text
            await shown.press("enter")
            assert_harmless(shown)
            await shown.press("y")
            assert not FORBIDDEN.search(shown.app.clipboard.replace("\n", ""))
            while shown.screen_name != "MainScreen":
                await shown.press("escape")


@pytest.mark.parametrize("text", [*HOSTILE, "=cmd|'/C calc'!A1"])
async def test_why_nothing_comes_any_more_is_shown_as_data(text):
    feed = FakeFeed(None)
    feed.problem = text
    async with console(None, feed=feed) as shown:
        assert_harmless(shown)
