from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest

from tests.tui.fakes import FakeFeed, healthy, idle, large, log, make_snapshot, partition, worker
from tests.tui.helpers import console
from tui.screens.main import layout_for
from tui.widgets.rowlist import RowList


@pytest.mark.parametrize(
    ("size", "layout"),
    [
        ((200, 60), "large"), ((120, 36), "medium"), ((100, 30), "medium"), ((99, 30), "small"), ((80, 24), "small"),
        ((61, 16), "small"), ((60, 15), "tiny"), ((60, 50), "tiny"), ((200, 15), "tiny"), ((1, 1), "tiny"),
    ],
)  # fmt: skip
def test_the_layout_follows_the_size(size, layout):
    assert layout_for(*size) == layout


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 2), (3, 3), (10, 2), (5, 40), (300, 1), (61, 16), (62, 17), (400, 100)])
async def test_no_size_hurts_on_any_screen(size):
    async with console(make_snapshot(), size=size) as shown:
        for keys in (
            ("question_mark",),
            ("h",),
            ("enter",),
            ("4", "enter"),
            ("T",),
            ("e",),
            ("R",),
            ("l",),
            ("ctrl+p",),
            ("slash",),
        ):
            await shown.press(*keys)
            while shown.screen_name != "MainScreen":
                await shown.press("escape")
        assert shown.app.crash is None


async def test_a_storm_of_sizes_hurts_nothing():
    rng = random.Random(7)
    async with console(make_snapshot()) as shown:
        for step in range(40):
            await shown.pilot.resize_terminal(
                rng.choice([1, 2, 20, 60, 61, 80, 120, 200]), rng.choice([1, 2, 15, 16, 24, 36, 60])
            )
            await shown.publish(make_snapshot() if step % 3 else healthy())
            if step % 5 == 0:
                await shown.press(rng.choice(["T", "question_mark", "4", "enter", "escape", "slash"]))
        while shown.screen_name != "MainScreen":
            await shown.press("escape")
        await shown.pilot.resize_terminal(120, 36)
        await shown.settle()
        assert "Partitions" in shown.text


async def test_a_small_screen_shows_one_panel_at_a_time():
    async with console(make_snapshot(), size=(80, 24)) as shown:
        for key, name in (("1", "Partitions"), ("2", "Workers"), ("3", "Queues"), ("4", "DLQ tail"), ("5", "Log")):
            await shown.press(key)
            titles = [line for line in shown.lines if line.startswith("─")]
            assert len(titles) == 1
            assert name in titles[0]
        assert shown.lines[0].startswith("kc orders")
        assert "REPLAY" in shown.lines[1]
        assert "rate" in shown.lines[2]


async def test_the_lag_is_a_lower_bound_while_that_of_some_partition_is_unknown():
    unread = partition(1, position=None, committed=None, lag=None)
    async with console(replace(healthy(), partitions=(partition(0, lag=2_400), unread))) as shown:
        assert "lag ≥2.4k" in shown.text
        await shown.publish(replace(healthy(), partitions=(partition(0, lag=2_400), partition(1, lag=600))))
        assert "lag 3.0k" in shown.text or "lag 3,000" in shown.text
        await shown.publish(replace(healthy(), partitions=(unread,)))
        assert "≥" not in shown.text


async def test_a_tiny_screen_shows_the_verdict_and_the_figures_alone():
    async with console(make_snapshot(), size=(60, 15)) as shown:
        assert "STUCK" in shown.lines[0]
        assert any("lag" in line for line in shown.lines)
        assert any("workers" in line for line in shown.lines)
        assert "Partitions" not in shown.text


async def test_the_verdict_is_on_the_first_line_at_every_width():
    for width in (200, 120, 100, 80, 61, 60, 40, 20, 12):
        async with console(make_snapshot(), size=(width, 24)) as shown:
            assert "⚠ STUCK" in shown.lines[0], width


async def test_a_dead_feed_says_so_and_the_last_figures_stay():
    feed = FakeFeed(healthy())
    async with console(None, feed=feed) as shown:
        feed.age, feed.problem = 12.0, "can't connect"
        await shown.settle()
        assert "NO DATA no snapshot for 12s: can't connect" in shown.lines[0]
        assert "orders" in shown.text


async def test_a_feed_that_never_gave_anything_says_so():
    async with console(None) as shown:
        assert "NO DATA waiting for the first snapshot" in shown.lines[0]
        assert "no snapshot yet" in shown.text


async def test_a_replay_shows_its_progress_and_its_end():
    async with console(make_snapshot()) as shown:
        assert "REPLAY" in shown.lines[1]
        assert "63%" in shown.lines[1]
        assert "ETA 04:12" in shown.lines[1]
        await shown.publish(make_snapshot(replay=None))
        assert "REPLAY" not in shown.text
        assert shown.lines[1].startswith("rate")


async def test_a_drain_shows_what_is_left_and_who_is_waited_for():
    async with console(make_snapshot(phase="draining")) as shown:
        assert "842 messages left" in shown.lines[1]
        assert "waits for 30 workers:" in shown.lines[2]
        assert "⚠ 11 orders-3@99120 47s STUCK" in shown.lines[2]
        rows = tuple(idle(number) for number in range(1, 30))
        parts = tuple(replace(partition(number), in_flight=0) for number in range(3))
        queues = {**make_snapshot().queues, "processing": replace(make_snapshot().queues["processing"], depth=0)}
        await shown.publish(make_snapshot(phase="draining", workers=(*rows, worker(30)), partitions=parts, queues=queues))
        assert "1 message left  of 842" in shown.lines[1]
        assert "waits for 1 worker:  30 orders-6" in shown.lines[2]


async def test_the_log_follows_its_end_until_the_cursor_goes_up_and_again_from_the_end():
    records = [log(number, message=f"record {number}") for number in range(100)]
    async with console(make_snapshot(log_tail=tuple(records[:50]))) as shown:
        assert "record 49" in shown.text
        await shown.publish(make_snapshot(log_tail=tuple(records[10:60])))
        assert "record 59" in shown.text
        await shown.press("5", "k", "k")
        await shown.publish(make_snapshot(log_tail=tuple(records[20:70])))
        assert "record 57" in shown.text
        assert "record 69" not in shown.text
        await shown.press("G")
        await shown.publish(make_snapshot(log_tail=tuple(records[30:80])))
        assert "record 79" in shown.text


async def test_the_same_record_twice_is_two_rows():
    async with console(make_snapshot(log_tail=(log(1, message="again"),) * 3)) as shown:
        rows = shown.app.screen.query_one("#panel-5", RowList)
        await shown.press("5", "k")
        assert rows._cursor == 1
        await shown.press("k")
        assert rows._cursor == 0


async def test_a_click_takes_the_row_and_a_double_click_opens_it():
    async with console(make_snapshot()) as shown:
        row = next(y for y, line in enumerate(shown.lines) if "18,217,114" in line)
        await shown.pilot.click(offset=(10, row))
        await shown.settle()
        assert shown.app.screen.query_one("#panel-1", RowList).cursor_key == ("orders", 3)
        await shown.pilot.double_click(offset=(10, row))
        await shown.settle()
        assert shown.screen_name == "PartitionPage"


async def test_an_unchanged_snapshot_draws_nothing():
    feed = FakeFeed(healthy())
    async with console(None, feed=feed) as shown:
        await shown.settle()
        drawn = []

        def watched(panel: RowList) -> None:
            real = panel.refresh

            def refresh(*regions, **options):
                drawn.append(regions)
                return real(*regions, **options)

            panel.refresh = refresh  # type: ignore[method-assign]

        for panel in shown.app.screen.query(RowList):
            watched(panel)
        for _ in range(3):
            shown.app.tick()
        assert drawn == []


async def test_a_tick_with_a_thousand_workers_and_partitions_is_short():
    feed = FakeFeed(large())
    async with console(None, feed=feed, size=(200, 60)) as shown:
        snapshots = [large(step=step) for step in range(1, 8)]
        took = []
        for snapshot in snapshots:
            feed.snapshot = snapshot
            started = time.perf_counter()
            shown.app.tick()
            took.append(time.perf_counter() - started)
            await shown.pilot.pause()
        # The median: the machine may be busy with something else now and then.
        assert sorted(took)[len(took) // 2] < 0.05, took
