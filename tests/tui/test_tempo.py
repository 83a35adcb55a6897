from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import pytest

from kafka_consumer.snapshot import Snapshot
from tests.tui.fakes import FrozenClock, log, make_snapshot, partition, worker
from tests.tui.helpers import console
from tui.tempo import Tempo, unchanged
from tui.trends import Trends


def again(snapshot: Snapshot, seconds: float = 0.5, **changes) -> Snapshot:
    """Return the next snapshot: its clocks have moved, its rows are equal and other objects."""
    rows = {name: tuple(replace(row) for row in getattr(snapshot, name)) for name in ("workers", "partitions")}
    clocks = {"sequence": snapshot.sequence + 1, "at": snapshot.at + seconds, "uptime_seconds": snapshot.uptime_seconds + seconds}
    return replace(snapshot, **{**rows, **clocks, **changes})


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Snapshot)])
def test_everything_but_the_clocks_counts_as_a_change(name):
    first = make_snapshot()
    assert unchanged(first, again(first))
    changes: dict[str, Any] = {name: "another"}
    other = replace(first, **changes)
    assert unchanged(first, other) is (name in ("sequence", "at", "uptime_seconds"))


def test_after_ten_seconds_without_a_change_the_interval_is_four_times_as_long():
    clock = FrozenClock()
    tempo = Tempo(0.5, clock)
    snapshot = tempo.take(make_snapshot())
    clock.advance(9.9)
    snapshot = tempo.take(again(snapshot))
    assert tempo.interval == 0.5
    clock.advance(0.1)
    assert tempo.interval == 2.0
    tempo.take(again(snapshot, log_tail=(log(99),)))
    assert tempo.interval == 0.5
    clock.advance(10)
    assert tempo.interval == 2.0
    tempo.hurry()
    assert tempo.interval == 0.5


def test_an_unchanged_snapshot_brings_the_same_rows_with_its_own_clocks():
    tempo = Tempo(0.5, FrozenClock())
    first = tempo.take(make_snapshot())
    second = tempo.take(again(first))
    assert second.workers is first.workers
    assert second.partitions is first.partitions
    assert (second.sequence, second.at) == (first.sequence + 1, first.at + 0.5)
    third = tempo.take(again(second, workers=(worker(1),)))
    assert third.workers == (worker(1),)
    assert third.partitions is not first.partitions


def test_what_a_lag_changes_by_stands_still_only_when_no_lag_has_moved_for_ten_seconds():
    tempo, trends = Tempo(0.5, FrozenClock()), Trends()
    snapshot = tempo.take(make_snapshot(partitions=(partition(0, lag=900),)))
    trends.feed(snapshot)
    snapshot = tempo.take(again(snapshot, seconds=1.0, partitions=(partition(0, lag=1000),)))
    trends.feed(snapshot)
    seen = []
    for _ in range(14):
        before = trends.changes
        snapshot = tempo.take(again(snapshot, seconds=1.0))
        trends.feed(snapshot)
        seen.append((trends.change(snapshot.partitions[0]), trends.lag_change, trends.changes is before))
    assert seen[0] == (50.0, 50.0, False)
    # The last change is ten seconds ago, and is forgotten then; from the next snapshot on it's the same nothing.
    changes = [change for change, _, _ in seen]
    settled = changes.index(0.0)
    assert [same for _, _, same in seen] == [False] * (settled + 1) + [True] * (13 - settled)
    assert seen[-1] == (0.0, 0.0, True)
    assert 8 <= settled <= 10


@pytest.mark.parametrize("hidden", [False, True])
async def test_when_lags_come_to_rest_no_old_change_is_shown(hidden):
    tempo = Tempo(0.5, FrozenClock())
    snapshot = tempo.take(make_snapshot(partitions=(partition(0, lag=9_000), partition(1, lag=7_000))))
    async with console(snapshot, size=(80, 24)) as shown:

        async def publish(following: Snapshot) -> Snapshot:
            await shown.publish(tempo.take(following), seconds=2.0)
            return following

        moved = (partition(0, lag=9_000), partition(1, lag=7_400))
        snapshot = await publish(again(snapshot, seconds=2.0, partitions=moved))
        # In the order of what changes by most.
        await shown.press("s", "s")
        assert "+200" in shown.text
        if hidden:
            await shown.press("2")
        for _ in range(10):
            snapshot = await publish(again(snapshot, seconds=2.0))
        await shown.press("1")
        assert "7,400" in shown.text
        assert "+200" not in shown.text
        main = shown.app.main
        assert main is not None
        assert [row.partition for row in main.panel(1)._rows] == [0, 1]
