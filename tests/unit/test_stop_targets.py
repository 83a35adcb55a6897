"""Stop targets: inclusive, reached by a message or by a log that jumps past, and all of them have to be."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kafka_consumer.stop_targets import StopTargets, out_of_topic

KEY = ("t", 0)


def test_without_targets_everything_is_processed_and_nothing_is_reached():
    for targets in (StopTargets(None, "t"), StopTargets({}, "t")):
        assert not targets
        assert targets.within(KEY, [1, 2, 3]) == 3
        targets.at_end(KEY, 10)
        assert targets.all_reached is False
        assert targets.up_to(KEY, 10) == 10


def test_a_target_is_inclusive():
    targets = StopTargets({KEY: 100}, "t")
    assert targets
    assert targets.within(KEY, [98, 99]) == 2
    assert not targets.all_reached
    assert targets.within(KEY, [100, 101, 102]) == 1
    assert targets.all_reached
    assert targets.within(KEY, [103]) == 0


def test_a_log_that_jumps_past_the_target_has_reached_it():
    targets = StopTargets({KEY: 100}, "t")
    assert targets.within(KEY, [98, 105]) == 1
    assert targets.all_reached


def test_the_end_of_the_log_past_the_target_has_reached_it_and_one_before_waits():
    targets = StopTargets({KEY: 100}, "t")
    targets.at_end(KEY, 100)  # the next offset is 100: the target may still come
    assert not targets.all_reached
    targets.at_end(KEY, 101)  # offset 100 was a marker
    assert targets.all_reached


def test_all_targets_of_the_topic_have_to_be_reached():
    targets = StopTargets({("t", 0): 5, ("t", 1): 5, ("other", 0): 5}, "t")
    targets.within(("t", 0), [5])
    assert not targets.all_reached
    targets.within(("t", 1), [9])
    assert targets.all_reached  # the other topic isn't consumed here
    assert targets.reached == {("t", 0), ("t", 1)}


def test_a_target_of_another_topic_alone_is_waited_for():
    targets = StopTargets({("other", 0): 5}, "t")
    assert targets.within(KEY, [100]) == 1
    assert not targets.all_reached


def test_a_partition_without_a_target_is_not_cut():
    targets = StopTargets({KEY: 5}, "t")
    assert targets.within(("t", 1), [4, 5, 6]) == 3
    targets.at_end(("t", 1), 100)
    assert targets.reached == set()


def test_a_commit_never_passes_a_target():
    targets = StopTargets({KEY: 100}, "t")
    assert [targets.up_to(KEY, end) for end in (50, 101, 200)] == [50, 101, 101]


def test_targets_in_partitions_that_do_not_exist_are_named():
    assert out_of_topic([], [0]) is None
    assert out_of_topic([("t", 0), ("t", 2)], range(3)) is None
    assert out_of_topic({("t", 9): 1, ("t", 3): 1, ("t", 0): 1}, {0: "a", 1: "b", 2: "c"}) == (
        "stop_at_offset: no such partition: t-3, t-9; the topic has 3 partitions, 0 to 2"
    )
    assert out_of_topic([("t", 1)], [0]) == "stop_at_offset: no such partition: t-1; the topic has one partition, 0"


def test_they_are_described_for_people():
    assert StopTargets({("t", 1): 7, ("t", 0): 5}, "t").describe() == "t-0@5, t-1@7"


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, unique=True).map(sorted), st.integers(0, 60))
def test_exactly_what_is_not_past_the_target_is_processed(offsets: list[int], target: int):
    targets = StopTargets({KEY: target}, "t")
    kept = offsets[: targets.within(KEY, offsets)]
    assert kept == [offset for offset in offsets if offset <= target]
    assert targets.all_reached is (offsets[-1] >= target)
