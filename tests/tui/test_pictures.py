"""Every screen at every size looks as it did when somebody looked at it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from tests.tui.fakes import STACK, START, FakeFeed, healthy, make_snapshot, partition
from tests.tui.helpers import Console, console
from tests.tui.pictures import assert_picture, normalise, text_of
from tui.commands import CommandState

SIZES = {"200x60": (200, 60), "120x36": (120, 36), "80x24": (80, 24), "60x15": (60, 15)}


def pressing(*keys: str) -> Callable[[Console], Awaitable[None]]:
    async def act(shown: Console) -> None:
        await shown.press(*keys)

    return act


async def with_trends(shown: Console) -> None:
    """Let the figures move, so that sparklines and changes have something to show."""
    for step in range(1, 13):
        rates = replace(make_snapshot().rates, processed=1000.0 + 300 * step)
        rows = tuple(partition(number, lag=(780_000 - 60_000 * number) - 900 * step * (number % 3 - 1)) for number in range(12))
        await shown.publish(make_snapshot(at=START + 2 * step, rates=rates, partitions=rows), seconds=2)


async def with_history(shown: Console) -> None:
    feed = shown.feed
    feed.answers = {"pause": (CommandState.APPLIED, ""), "set_dev_mode": (CommandState.REFUSED, "not while draining")}
    await shown.press("p", "x", "plus", "h")


def with_live_stack() -> FakeFeed:
    feed = FakeFeed(make_snapshot())
    feed.stack = STACK
    return feed


async def frozen(shown: Console) -> None:
    await shown.press("z")
    shown.feed.frozen_clock.advance(12)
    await shown.settle()


async def dead(shown: Console) -> None:
    shown.feed.age = 12.0
    shown.feed.problem = "can't connect to /run/kc/orders.sock: Connection refused"
    await shown.settle()


SCREENS: dict[str, tuple[Callable[[], FakeFeed], Callable[[Console], Awaitable[None]]]] = {
    "main": (lambda: FakeFeed(make_snapshot()), with_trends),
    "healthy": (lambda: FakeFeed(healthy(replay=None)), pressing("j")),
    "workers": (lambda: FakeFeed(make_snapshot()), pressing("2", "j", "j")),
    "queues": (lambda: FakeFeed(make_snapshot()), pressing("3")),
    "dead-letters": (lambda: FakeFeed(make_snapshot()), pressing("4", "k", "space")),
    "log": (lambda: FakeFeed(make_snapshot()), pressing("5")),
    "filter": (lambda: FakeFeed(make_snapshot()), pressing("slash", *"paused")),
    "draining": (lambda: FakeFeed(make_snapshot(phase="draining", stop_reason="stopped by SIGTERM")), pressing("j")),
    "failed": (lambda: FakeFeed(make_snapshot(phase="failed", stop_reason="dlq.csv: no space left on device")), pressing("j")),
    "no-data": (lambda: FakeFeed(None), pressing("j")),
    "dead": (lambda: FakeFeed(make_snapshot(), role="attached", read_only=True), dead),
    "frozen": (lambda: FakeFeed(make_snapshot()), frozen),
    "help": (lambda: FakeFeed(make_snapshot()), pressing("question_mark")),
    "history": (lambda: FakeFeed(make_snapshot()), with_history),
    "partition": (lambda: FakeFeed(make_snapshot()), pressing("j", "enter")),
    "worker": (with_live_stack, pressing("2", "enter")),
    "worker-attached": (lambda: FakeFeed(make_snapshot(), role="attached"), pressing("2", "enter")),
    "dead-letter": (lambda: FakeFeed(make_snapshot()), pressing("4", "enter")),
    "stop": (lambda: FakeFeed(make_snapshot()), pressing("T")),
    "quit": (lambda: FakeFeed(make_snapshot(dev_mode=True)), pressing("q")),
    "seek": (lambda: FakeFeed(make_snapshot()), pressing("space", "space", "e", "ctrl+u", *"18000000")),
    "redrive": (lambda: FakeFeed(make_snapshot()), pressing("4", "k", "space", "space", "R")),
    "log-level": (lambda: FakeFeed(make_snapshot()), pressing("l")),
    "rate-limit": (lambda: FakeFeed(make_snapshot()), pressing("r")),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SCREENS)
async def test_a_screen_looks_as_it_should(name, size, tmp_path):
    make, act = SCREENS[name]
    async with console(None, feed=make(), size=SIZES[size]) as shown:
        await act(shown)
        # No blinking cursor decides how a picture looks.
        for entry in shown.app.screen.query("Input"):
            entry.cursor_blink = False  # type: ignore[attr-defined]
        shown.app.clear_notifications()
        await shown.settle()
        assert_picture(shown, f"{name}-{size}", tmp_path)


@pytest.mark.parametrize("theme", ["textual-light", "ansi-dark", "ansi-light"])
async def test_a_theme_looks_as_it_should(theme, tmp_path):
    async with console(make_snapshot(), theme=theme) as shown:
        await with_trends(shown)
        assert_picture(shown, f"theme-{theme}", tmp_path)


async def test_without_colours_the_words_and_glyphs_say_it_all(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    async with console(make_snapshot()) as shown:
        await with_trends(shown)
        for word in ("⚠ STUCK", "● RUNNING", "● BUSY", "WARNING", "ERROR"):
            assert word in shown.text
        styles = [segment.style for strip in shown.app.screen._compositor.render_strips() for segment in strip]
        colours = {colour for style in styles if style is not None for colour in (style.color, style.bgcolor)}
        colours = {colour for colour in colours if colour is not None and not colour.is_default}
        assert colours == set()
        assert_picture(shown, "no-color", tmp_path)


def test_two_exports_of_one_screen_are_the_same_picture():
    one = '<svg class="terminal-123-matrix"><text class="terminal-123-r1" x="0" y="20">a&#160;b</text></svg>'
    other = one.replace("123", "987")
    assert normalise(one) == normalise(other)
    assert text_of(normalise(one)) == ["a b"]
