from __future__ import annotations

from dataclasses import replace

import pytest

from kafka_consumer.snapshot import Snapshot
from tests.tui.fakes import START, healthy, idle, make_snapshot, partition, worker
from tui.health import judge
from tui.trends import Trends, unfinished


def word(snapshot: Snapshot | None, age: float | None = 0.1, problem: str | None = None, trends: Trends | None = None) -> str:
    used = trends or Trends()
    if snapshot is not None and trends is None:
        used.feed(snapshot)
    verdict = judge(snapshot, used, age, problem)
    assert verdict.glyph
    return f"{verdict.word}: {verdict.reason}"


def over_time(*snapshots: Snapshot) -> Trends:
    trends = Trends()
    for snapshot in snapshots:
        trends.feed(snapshot)
    return trends


@pytest.mark.parametrize(
    ("snapshot", "said"),
    [
        (healthy(), "RUNNING: "),
        (healthy(phase="starting"), "STARTING: "),
        (healthy(phase="draining", stop_reason="stopped by SIGTERM"), "DRAINING: 820 left: stopped by SIGTERM"),
        (healthy(phase="stopped", stop_reason="all targets reached"), "STOPPED: all targets reached"),
        (healthy(phase="failed", stop_reason="disk full"), "FAILED: disk full"),
        (healthy(paused=True), "PAUSED: by operator"),
        (healthy(paused=True, pause_reason="150 of the last 200 messages failed"), "PAUSED: 150 of the last 200 messages failed"),
        (make_snapshot(workers=(worker(1), worker(2, state="stuck", busy_seconds=61.0))), "STUCK: 1 worker, longest 1m01s"),
        (make_snapshot(workers=(idle(1),)), "PAUSED: 1 of 12 partitions"),
        (replace(healthy(), partitions=()), "WAITING: no partition assigned"),
        (replace(healthy(), rates=replace(healthy().rates, processed=88.0, failed=12.0)), "FAILING: 12% of messages fail"),
        (None, "NO DATA: waiting for the first snapshot"),
    ],
)
def test_one_word_says_how_it_is(snapshot, said):
    assert word(snapshot) == said


def test_a_dead_feed_is_told_with_its_age_and_reason():
    assert word(healthy(), age=12.0, problem="can't connect") == "NO DATA: no snapshot for 12s: can't connect"
    assert word(None, problem="can't connect") == "NO DATA: can't connect"


def test_a_consumer_that_has_ended_is_not_blamed_for_silence():
    assert word(healthy(phase="stopped"), age=900.0).startswith("STOPPED")


def test_growing_lag_is_told_with_its_speed():
    first = replace(healthy(), partitions=(partition(0, lag=10_000),))
    later = replace(first, sequence=2, at=START + 10, partitions=(partition(0, lag=14_000),),
                    totals=replace(first.totals, processed=2_000_000))  # fmt: skip
    assert word(later, trends=over_time(first, later)) == "LAGGING: lag 14k grows +400/s"


def test_growing_lag_is_natural_without_commits():
    first = replace(healthy(dev_mode=True), partitions=(partition(0, lag=10_000),))
    later = replace(first, sequence=2, at=START + 10, partitions=(partition(0, lag=14_000),))
    assert word(later, trends=over_time(first, later)) == "RUNNING: "


def test_a_partition_whose_lag_becomes_known_is_no_growth():
    first = replace(healthy(), partitions=(partition(0, lag=10_000), partition(1, lag=None)))
    later = replace(first, sequence=2, at=START + 10, partitions=(partition(0, lag=9_000), partition(1, lag=80_000)))
    assert word(later, trends=over_time(first, later)) == "RUNNING: "


def test_a_small_lag_may_grow():
    first = replace(healthy(), partitions=(partition(0, lag=10),))
    later = replace(first, sequence=2, at=START + 10, partitions=(partition(0, lag=900),))
    assert word(later, trends=over_time(first, later)) == "RUNNING: "


def test_nothing_finished_for_half_a_minute_while_messages_wait_is_a_stall():
    first = healthy()
    later = replace(first, sequence=2, at=START + 31)
    assert word(later, trends=over_time(first, later)) == "STALLED: nothing finished for 31s"
    assert word(replace(later, paused=True), trends=over_time(first, later)) == "PAUSED: by operator"


def test_commits_that_fail_are_told_for_a_minute():
    first = healthy()
    later = replace(first, sequence=2, at=START + 1, totals=replace(first.totals, commit_failures=2, processed=2_000_000))
    trends = over_time(first, later)
    assert word(later, trends=trends) == "COMMITS FAIL: 2 in the last minute"
    much_later = replace(later, sequence=3, at=START + 100, totals=replace(later.totals, processed=3_000_000))
    trends.feed(much_later)
    trends.feed(replace(much_later, sequence=4, at=START + 101))
    assert word(much_later, trends=trends) == "RUNNING: "


def test_a_crashed_worker_is_told_for_a_minute():
    first = healthy()
    later = replace(first, sequence=2, at=START + 1, totals=replace(first.totals, crashed_workers=1))
    assert word(later, trends=over_time(first, later)) == "CRASHED: 1 worker in the last minute, replaced"


def test_a_snapshot_seen_already_is_skipped():
    trends = Trends()
    assert trends.feed(healthy())
    assert not trends.feed(healthy())
    assert len(trends.rate) == 1


def test_another_process_starts_the_trends_anew():
    first = healthy()
    other = replace(first, pid=99, sequence=1, totals=replace(first.totals, dlq_written=900))
    trends = over_time(first, other)
    assert trends.dead_letters_recent == 0
    assert len(trends.rate) == 1


def test_the_change_of_a_partitions_lag_is_a_second():
    first = replace(healthy(), partitions=(partition(0, lag=1000),))
    later = replace(first, sequence=2, at=START + 5, partitions=(partition(0, lag=500), partition(1, lag=7)))
    trends = over_time(first, later)
    assert trends.change(later.partitions[0]) == -100
    assert trends.change(later.partitions[1]) is None


def test_dead_letters_of_the_last_minute_are_counted():
    first = healthy()
    later = replace(first, sequence=2, at=START + 30, totals=replace(first.totals, dlq_written=16))
    assert over_time(first, later).dead_letters_recent == 2


def test_a_drain_remembers_how_much_there_was():
    first = healthy(phase="draining")
    later = replace(first, sequence=2, at=START + 5, queues={}, partitions=(), workers=())
    trends = over_time(first, later)
    assert (trends.drain_total, unfinished(later)) == (820, 0)
