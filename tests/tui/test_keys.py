"""Every key of the table, on the main screen and on the pages."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kafka_consumer.snapshot import Snapshot
from tests.tui.fakes import FakeFeed, dead_letter, healthy, idle, make_snapshot, partition, worker
from tests.tui.helpers import Console, console
from tui.bindings import KEYS, key_name, keys_of, markdown_table
from tui.commands import CommandState
from tui.widgets.rowlist import RowList

APPLIED = (CommandState.APPLIED, "")


def panel(shown: Console, number: int) -> RowList:
    return shown.app.screen.query_one(f"#panel-{number}", RowList)


async def test_every_key_of_the_table_is_bound_by_its_id_once():
    async with console(healthy()) as shown:
        bound = [binding for _, binding, _, _ in shown.app.screen.active_bindings.values()]
        for key in keys_of(several=False):
            for name in key.keys:
                active = shown.app.screen.active_bindings.get(name)
                assert active is not None, key
                assert active.binding.id == key.id, key
                assert active.binding.tooltip == key.tooltip
        assert len({key.id for key in KEYS}) == len(KEYS)
        assert len({name for key in KEYS for name in key.keys}) == sum(len(key.keys) for key in KEYS)
        assert all(
            binding.id for binding in bound if binding.action not in ("app.focus_next", "app.focus_previous") and binding.show
        )


def test_dangerous_keys_are_upper_case_and_nothing_else_that_acts_is():
    for key in KEYS:
        if key.changes:
            assert key.dangerous == key_name(key.keys[0]).isupper(), key


def test_the_readme_table_names_every_key():
    table = markdown_table()
    for key in KEYS:
        for name in key.keys:
            assert f"`{key_name(name)}`" in table
    assert table.count("\n") == len(KEYS) + 2


async def test_question_mark_shows_the_help_with_every_key():
    async with console(healthy()) as shown:
        await shown.press("question_mark")
        assert shown.screen_name == "HelpPage"
        for key in keys_of(several=False):
            assert key.tooltip.split(";")[0] in shown.page.replace("\n" + " " * 18, "")
        await shown.press("escape")
        assert shown.screen_name == "MainScreen"


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
async def test_a_digit_goes_to_its_panel(number):
    async with console(healthy()) as shown:
        await shown.press(str(number))
        assert panel(shown, number).has_focus


async def test_tab_goes_round_the_panels_both_ways():
    async with console(healthy()) as shown:
        seen = []
        for _ in range(5):
            await shown.press("tab")
            seen.append(next(number for number in range(1, 6) if panel(shown, number).has_focus))
        assert seen == [2, 3, 4, 5, 1]
        await shown.press("shift+tab")
        assert panel(shown, 5).has_focus


@pytest.mark.parametrize(
    ("keys", "row"),
    [
        (("j",), 1),
        (("down", "down"), 2),
        (("j", "j", "k"), 1),
        (("G",), 11),
        (("end", "g"), 0),
        (("G", "home"), 0),
        (("j", "up"), 0),
    ],
)
async def test_the_cursor_moves(keys, row):
    async with console(make_snapshot()) as shown:
        order = list(panel(shown, 1)._keys)
        await shown.press(*keys)
        assert panel(shown, 1).cursor_key == order[row]


async def test_pages_move_the_cursor_by_what_is_visible():
    async with console(make_snapshot(partitions=tuple(partition(n) for n in range(100)))) as shown:
        rows = panel(shown, 1)
        visible = rows.visible_rows
        await shown.press("pagedown")
        assert rows._cursor == visible - 1
        await shown.press("ctrl+d", "pageup")
        assert rows._cursor == visible - 1
        await shown.press("ctrl+u")
        assert rows._cursor == 0


async def test_the_cursor_stays_on_its_row_when_the_order_changes():
    rows = [partition(number, lag=1000 * number) for number in range(50)]
    async with console(make_snapshot(partitions=tuple(rows))) as shown:
        await shown.press("j", "j")
        held = panel(shown, 1).cursor_key
        assert held == ("orders", 47)
        rows[47] = replace(rows[47], lag=1)
        await shown.publish(make_snapshot(partitions=tuple(rows)))
        assert panel(shown, 1).cursor_key == held
        assert panel(shown, 1)._cursor == 48
        assert ">  orders  47" in shown.text


async def test_a_held_row_that_is_gone_is_never_replaced_by_another_as_the_one_acted_on():
    rows = [partition(number, lag=1000 * number) for number in range(5)]
    async with console(make_snapshot(partitions=tuple(rows))) as shown:
        await shown.press("j", "space", "k")
        assert panel(shown, 1).marks == {("orders", 3)}
        await shown.publish(make_snapshot(partitions=tuple(row for row in rows if row.partition != 3)))
        assert panel(shown, 1).marks == frozenset()


async def test_enter_opens_the_partition_under_the_cursor():
    async with console(make_snapshot()) as shown:
        await shown.press("j", "enter")
        assert shown.screen_name == "PartitionPage"
        assert "18,220,114" in shown.page
        assert "Workers that hold its messages" in shown.page
        await shown.press("q")
        assert shown.screen_name == "MainScreen"


async def test_a_partition_that_is_revoked_says_so_on_its_page():
    async with console(make_snapshot()) as shown:
        await shown.press("enter")
        await shown.publish(make_snapshot(partitions=()))
        assert "not assigned any more" in shown.page


async def test_enter_opens_a_worker_with_its_stack():
    feed = FakeFeed(make_snapshot())
    feed.stack = ("shop/orders.py:41 in process", "    check(order)")
    async with console(None, feed=feed) as shown:
        await shown.press("2", "enter")
        assert shown.screen_name == "WorkerPage"
        assert "STUCK" in shown.page
        assert "orders-3@99120" in shown.page
        assert "shop/orders.py:41 in process" in shown.page


async def test_an_attached_console_shows_the_stack_that_a_slow_worker_was_sent_with():
    async with console(make_snapshot(), role="attached") as shown:
        await shown.press("2", "enter")
        assert "when the snapshot was taken" in shown.page
        assert "stock = warehouse.reserve(order)" in shown.page


async def test_an_attached_console_says_whose_stacks_it_is_sent():
    async with console(make_snapshot(workers=(worker(3),)), role="attached") as shown:
        await shown.press("2", "enter")
        assert "not known here: a consumer sends it of the 20 workers" in shown.page


async def test_the_stack_of_now_comes_before_that_of_the_snapshot():
    feed = FakeFeed(make_snapshot())
    feed.stack = ("shop/mail.py:7 in send",)
    async with console(None, feed=feed) as shown:
        await shown.press("2", "enter")
        assert "shop/mail.py:7 in send" in shown.page
        assert "warehouse" not in shown.page


async def test_a_frozen_view_shows_the_stack_of_its_snapshot():
    feed = FakeFeed(make_snapshot())
    feed.stack = ("shop/mail.py:7 in send",)
    async with console(None, feed=feed) as shown:
        await shown.press("z", "2", "enter")
        assert "warehouse.reserve" in shown.page
        assert "shop/mail.py" not in shown.page


async def test_enter_opens_a_dead_letter_with_payload_headers_and_trace():
    async with console(make_snapshot()) as shown:
        await shown.press("4", "enter")
        assert shown.screen_name == "DeadLetterPage"
        for part in (
            '{"order": 4711, "qty": -3}',
            "trace-id: ab12",
            "shop/orders.py",
            "customer-13",
            "ValidationError",
            "attempts",
        ):
            assert part in shown.page
        await shown.press("y")
        assert shown.app.clipboard == '{"order": 4711, "qty": -3}'


async def test_a_tombstone_says_that_it_has_no_payload():
    async with console(
        make_snapshot(dlq_tail=(dead_letter(0, value=None, key=None, headers=(), stack_trace=(), attempts=0),))
    ) as shown:
        await shown.press("4", "enter")
        assert "none: a tombstone" in shown.page
        assert "the processor was never called" in shown.page


async def test_slash_filters_while_typing_and_escape_takes_the_filter_away():
    async with console(make_snapshot()) as shown:
        await shown.press("slash", *"paused")
        assert len(panel(shown, 1)._rows) == 1
        await shown.press("enter")
        assert panel(shown, 1).has_focus
        assert "/paused" in shown.text
        await shown.press("escape")
        assert len(panel(shown, 1)._rows) == 12


async def test_escape_while_filtering_closes_the_line():
    async with console(make_snapshot()) as shown:
        await shown.press("slash", *"zzz")
        assert "no row matches" in shown.text
        await shown.press("escape")
        assert len(panel(shown, 1)._rows) == 12
        assert not shown.app.screen.query_one("#filter").has_class("open")


async def test_every_word_of_a_filter_must_occur():
    async with console(make_snapshot()) as shown:
        await shown.press("2", "slash", *"busy", "space", *"orders-3@", "enter")
        assert {row.partition for row in panel(shown, 2)._rows} == {3}


async def test_s_goes_through_the_orders_and_comes_back():
    async with console(make_snapshot()) as shown:
        rows = panel(shown, 1)
        first = list(rows._keys)
        await shown.press("s")
        assert rows._keys == [("orders", number) for number in range(12)]
        for _ in range(len(rows.sorts) - 1):
            await shown.press("s")
        assert rows._keys == first


async def test_z_freezes_the_view_asks_for_no_snapshot_and_says_so():
    feed = FakeFeed(healthy())
    async with console(None, feed=feed) as shown:
        await shown.press("z")
        looks = feed.looks
        await shown.publish(healthy(phase="draining"), seconds=3)
        assert "FROZEN for 3.0s" in shown.lines[0]
        assert "DRAINING" not in shown.text
        assert feed.looks == looks
        await shown.press("z")
        assert "DRAINING" in shown.lines[0]


async def test_a_frozen_view_is_not_acted_on():
    feed = FakeFeed(healthy())
    async with console(None, feed=feed) as shown:
        await shown.press("z", "p", "x", "plus")
        assert feed.sent == []
        assert "frozen" in shown.text


async def test_y_copies_the_row():
    async with console(make_snapshot()) as shown:
        await shown.press("y")
        assert shown.app.clipboard == "orders-1 paused position=17990000 committed=17990000 lag=1010000"
        for number, part in ((2, "worker 11 stuck"), (3, "processing 812/2000"), (4, "ValidationError"), (5, "broker 2 is down")):
            await shown.press(str(number), "y")
            assert part in shown.app.clipboard


async def test_t_goes_through_the_themes():
    async with console(healthy()) as shown:
        seen = [shown.app.theme]
        for _ in range(4):
            await shown.press("t")
            seen.append(shown.app.theme)
        assert seen == ["textual-dark", "textual-light", "ansi-dark", "ansi-light", "textual-dark"]


# Acting


async def test_p_pauses_everything_and_then_resumes_it():
    feed = FakeFeed(healthy())
    async with console(None, feed=feed) as shown:
        await shown.press("p")
        await shown.publish(healthy(paused=True))
        await shown.press("p")
        assert feed.commands() == [("pause", {}), ("resume", {})]


async def test_p_pauses_the_marked_partitions_and_resumes_them_when_all_are_paused():
    feed = FakeFeed(healthy())
    rows = tuple(partition(number) for number in range(4))
    async with console(None, feed=feed) as shown:
        await shown.press("space", "space", "p")
        assert feed.commands() == [("pause", {"partitions": [["orders", 0], ["orders", 1]]})]
        assert "* 2 marked" in shown.text
        paused = tuple(replace(row, state="paused") if row.partition < 2 else row for row in rows)
        await shown.publish(healthy().__class__(**{**fields(healthy()), "partitions": paused}))
        await shown.press("p")
        assert feed.commands()[-1] == ("resume", {"partitions": [["orders", 0], ["orders", 1]]})
        await shown.press("escape")
        assert "marked" not in shown.text


def fields(snapshot: Snapshot) -> dict:
    return {name: getattr(snapshot, name) for name in Snapshot.__dataclass_fields__}


async def test_x_turns_commits_off_and_on():
    feed = FakeFeed(healthy())
    async with console(None, feed=feed) as shown:
        assert "commits ON" in shown.lines[0]
        await shown.press("x")
        await shown.publish(healthy(dev_mode=True))
        assert "commits OFF" in shown.lines[0]
        await shown.press("x")
        assert feed.commands() == [("set_dev_mode", {"enabled": True}), ("set_dev_mode", {"enabled": False})]


async def test_plus_and_minus_count_from_what_was_asked_for():
    feed = FakeFeed(healthy())
    async with console(None, feed=feed) as shown:
        await shown.press("plus", "plus", "minus", "plus")
        assert [args["count"] for _, args in feed.commands()] == [9, 10, 9, 10]


async def test_after_a_refusal_the_count_starts_from_what_is_there():
    feed = FakeFeed(healthy())
    feed.answers["set_workers"] = (CommandState.REFUSED, "not now")
    async with console(None, feed=feed) as shown:
        await shown.press("plus", "plus")
        assert [args["count"] for _, args in feed.commands()] == [9, 9]


async def test_there_is_always_one_worker():
    feed = FakeFeed(replace(healthy(), workers=(worker(1), replace(idle(2), state="crashed"))))
    async with console(None, feed=feed) as shown:
        await shown.press("minus")
        assert feed.sent == []
        assert "between 1 and 1,000" in shown.text


async def test_l_chooses_the_log_level():
    feed = FakeFeed(healthy())
    async with console(None, feed=feed) as shown:
        await shown.press("l")
        assert shown.screen_name == "Choose"
        await shown.press("right", "enter")
        assert feed.commands() == [("set_log_level", {"level": "WARNING"})]


@pytest.mark.parametrize(("typed", "sent"), [("250", 250.0), ("0", None)])
async def test_r_limits_the_rate(typed, sent):
    feed = FakeFeed(healthy())
    async with console(None, feed=feed) as shown:
        await shown.press("r", "backspace", *typed, "enter")
        assert feed.commands() == [("set_rate_limit", {"per_second": sent})]


@pytest.mark.parametrize("typed", ["x", "-3", "0.5", "nan"])
async def test_a_rate_that_makes_no_sense_is_not_sent(typed):
    feed = FakeFeed(healthy())
    async with console(None, feed=feed) as shown:
        await shown.press("r", "backspace", *typed, "enter")
        assert feed.sent == []
        assert shown.screen_name == "Ask"
        assert "expected" in shown.dialog


async def test_e_previews_and_seeks_the_partition_under_the_cursor():
    feed = FakeFeed(healthy())
    async with console(None, feed=feed) as shown:
        await shown.press("e")
        assert "Seek orders-0" in shown.dialog
        await shown.press("ctrl+u", *"18220000")
        assert "back from 18,220,114 to 18,220,000: 114 offsets are processed again" in shown.dialog
        await shown.press("enter")
        assert feed.commands() == [("seek", {"partitions": [["orders", 0]], "to": 18220000})]


@pytest.mark.parametrize(
    ("typed", "said", "possible"),
    [
        ("latest", "offsets are never processed", True),
        ("earliest", "to the log's start", True),
        ("2026-08-01T00:00", "the first offset at or after", True),
        ("-2h", "at or after 2h ago", True),
        ("-2 hours", "expected an offset", False),
        ("99999999999", "beyond the end", False),
        ("yesterday", "expected an offset", False),
        ("18220114", "stays at", True),
    ],
)
async def test_a_seek_is_previewed_for_what_it_is(typed, said, possible):
    feed = FakeFeed(healthy())
    async with console(None, feed=feed) as shown:
        await shown.press("e", "ctrl+u", *typed.replace(":", "!").replace("!", ":"))
        assert said in shown.dialog
        await shown.press("enter")
        assert bool(feed.sent) == possible


async def test_a_seek_that_the_consumer_does_not_have_is_refused_on_the_screen():
    feed = FakeFeed(healthy())
    feed.answers["seek"] = (CommandState.REFUSED, "not supported by this consumer")
    async with console(None, feed=feed) as shown:
        await shown.press("e", "enter")
        assert "refused: not supported by this consumer" in shown.text


async def test_redrive_asks_with_figures_and_sends_the_marked_dead_letters():
    feed = FakeFeed(make_snapshot())
    async with console(None, feed=feed) as shown:
        await shown.press("4", "k", "space", "space", "R")
        assert "Redrive 2 dead letters?" in shown.dialog
        assert "writes 2 dead letters to orders at 10/s: takes 200ms" in shown.dialog
        await shown.press("enter")
        records = [["orders", 1, 17_989_933], ["orders", 1, 17_989_934]]
        assert feed.commands() == [("redrive", {"records": records, "per_second": 10.0})]


async def test_redrive_can_be_left_without_doing_anything():
    feed = FakeFeed(make_snapshot())
    async with console(None, feed=feed) as shown:
        await shown.press("4", "R", "escape")
        assert feed.sent == []


async def test_stopping_states_the_effect_in_figures_that_go_on_moving():
    feed = FakeFeed(make_snapshot())
    async with console(None, feed=feed) as shown:
        await shown.press("T")
        assert "drains 842 messages, commits, exits" in shown.dialog
        assert "waits for a stuck worker, for 47s now" in shown.dialog
        queues = {**make_snapshot().queues, "processing": replace(make_snapshot().queues["processing"], depth=600)}
        await shown.publish(make_snapshot(queues=queues))
        assert "drains 630 messages" in shown.dialog
        await shown.press("enter")
        assert feed.sent == [], "the harmless answer has the focus"
        await shown.press("T", "y")
        assert feed.commands() == [("stop", {"reason": "stopped by the operator"})]


async def test_stopping_in_dev_mode_says_that_nothing_is_committed():
    async with console(healthy(dev_mode=True)) as shown:
        await shown.press("T")
        assert "commits nothing (commits are OFF)" in shown.dialog


@pytest.mark.parametrize("keys", [("n",), ("escape",), ("enter",)])
async def test_a_stop_can_be_cancelled(keys):
    feed = FakeFeed(healthy())
    async with console(None, feed=feed) as shown:
        await shown.press("T", *keys)
        assert feed.sent == []
        assert shown.screen_name == "MainScreen"


@pytest.mark.parametrize("key", ["q", "ctrl+c", "ctrl+q"])
async def test_quitting_a_console_with_its_own_consumer_asks_first(key):
    feed = FakeFeed(healthy())
    async with console(None, feed=feed) as shown:
        await shown.press(key)
        assert shown.screen_name == "Confirm"
        assert "The consumer runs in this process" in shown.dialog
        await shown.press(key if key != "q" else "n")
        assert feed.sent == []
        while shown.screen_name != "MainScreen":
            await shown.press("n")
        await shown.press(key, "y")
        assert feed.commands() == [("stop", {"reason": "the operator quit"})]
        assert shown.app.is_running, "the screen shows the drain"


@pytest.mark.parametrize("key", ["q", "ctrl+c", "ctrl+q"])
async def test_quitting_an_attached_console_detaches_without_a_command(key):
    feed = FakeFeed(healthy(), role="attached")
    async with console(None, feed=feed) as shown:
        await shown.pilot.press(key)
        await shown.pilot.pause()
        assert not shown.app.is_running or shown.app._exit
    assert shown.app.return_code == 0
    assert feed.sent == []


async def test_ctrl_c_works_while_a_filter_is_written():
    feed = FakeFeed(healthy())
    async with console(None, feed=feed) as shown:
        await shown.press("slash", "a", "ctrl+c")
        assert shown.screen_name == "Confirm"


async def test_quitting_while_draining_only_says_so():
    feed = FakeFeed(healthy(phase="draining"))
    async with console(None, feed=feed) as shown:
        await shown.press("q")
        assert "already draining" in shown.text
        assert feed.sent == []


async def test_quitting_after_a_failure_ends_with_its_exit_code():
    async with console(healthy(phase="failed", stop_reason="disk full")) as shown:
        await shown.pilot.press("q")
        await shown.pilot.pause()
    assert shown.app.return_code == 1


@pytest.mark.parametrize("key", [key.keys[0] for key in keys_of(several=False) if key.changes])
async def test_a_read_only_console_refuses_every_command_with_a_visible_reason(key):
    feed = FakeFeed(make_snapshot(), read_only=True)
    async with console(None, feed=feed) as shown:
        await shown.press("4" if key == "R" else "1", key)
        assert feed.sent == []
        assert "read-only" in shown.lines[-1]
        assert shown.screen_name == "MainScreen"
        assert feed.history()[-1].state is CommandState.REFUSED


async def test_a_command_shows_its_way_on_the_last_line():
    feed = FakeFeed(healthy())
    async with console(None, feed=feed) as shown:
        await shown.press("p")
        assert "… pause everything requested" in shown.lines[-1]
        feed.sent[0].advance(CommandState.ACCEPTED)
        await shown.settle()
        assert "→ pause everything accepted" in shown.lines[-1]
        feed.frozen_clock.advance(0.3)
        feed.sent[0].advance(CommandState.APPLIED)
        await shown.settle()
        assert "✔ pause everything applied in 0.3s" in shown.lines[-1]
        feed.frozen_clock.advance(20)
        await shown.settle()
        assert "pause everything" not in shown.lines[-1]


async def test_a_command_without_an_answer_expires():
    feed = FakeFeed(healthy())
    async with console(None, feed=feed) as shown:
        await shown.press("p")
        feed.frozen_clock.advance(31)
        await shown.settle()
        assert "expired" in shown.text


async def test_h_shows_who_did_what_and_how_it_ended():
    feed = FakeFeed(make_snapshot())
    feed.answers = {"pause": APPLIED, "set_dev_mode": (CommandState.REFUSED, "not while draining"),
                    "seek": (CommandState.LOST_PARTITION, "orders-1 was revoked")}  # fmt: skip
    async with console(None, feed=feed) as shown:
        await shown.press("h")
        assert "no command was given" in shown.page
        await shown.press("escape", "p", "x", "e", "enter", "plus", "h")
        lines = shown.page.splitlines()
        assert [line.split()[1] for line in lines[:4]] == ["olga@pts/3"] * 4
        assert all(line.startswith("11:02:14") for line in lines[:4])
        assert "33 workers" in lines[0]
        assert "requested" in lines[0]
        assert "lost partition: orders-1 was revoked" in shown.page
        assert "refused: not while draining" in shown.page
        assert "applied in 0.0s" in shown.page


async def test_the_palette_has_every_action():
    async with console(healthy()) as shown:
        titles = [command.title for command in shown.app.get_system_commands(shown.app.screen)]
        wanted = {key.title for key in keys_of(several=False) if key.group != "Move" and key.id != "palette"}
        assert set(titles) == wanted
        assert len(titles) == len(wanted)
        await shown.press("ctrl+p")
        assert shown.screen_name == "CommandPalette"


async def test_an_action_of_the_palette_runs():
    feed = FakeFeed(healthy())
    async with console(None, feed=feed) as shown:
        command = next(
            command for command in shown.app.get_system_commands(shown.app.screen) if command.title == "Pause or resume"
        )
        command.callback()
        await shown.settle()
        assert feed.commands() == [("pause", {})]


async def test_the_palette_is_typed_and_run_by_keys():
    feed = FakeFeed(healthy())
    async with console(None, feed=feed) as shown:
        await shown.press("ctrl+p", *"dev mode")
        await shown.app.workers.wait_for_complete()
        await shown.press("down", "enter")
        await shown.app.workers.wait_for_complete()
        await shown.settle()
        assert feed.commands() == [("set_dev_mode", {"enabled": True})]


@pytest.mark.parametrize("kind", ["none", "empty"])
async def test_no_key_hurts_without_data(kind):
    empty = make_snapshot(partitions=(), workers=(), dlq_tail=(), log_tail=(), queues={}, replay=None)
    async with console(None if kind == "none" else empty) as shown:
        for name in (name for key in KEYS for name in key.keys):
            await shown.pilot.press(name)
            while shown.screen_name != "MainScreen":
                await shown.pilot.press("escape")
        assert shown.app.crash is None
        assert shown.app.is_running
