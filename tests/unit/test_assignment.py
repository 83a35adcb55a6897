"""What may be committed, held against a naive model: holes, any order of finishing, duplicates, ends of partitions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kafka_consumer import find_max_contiguous
from kafka_consumer.assignment import Assignment, AssignmentView, CommitPoint, next_offset


def _assignment(*offsets: int, committed: int | None = None) -> Assignment:
    made = Assignment("t", 0, committed)
    if offsets:
        made.delivered(offsets, 0.0)
    return made


def _offset(assignment: Assignment) -> int | None:
    point = assignment.commit_point(beyond=False)
    return None if point is None else point.offset


# --- against a model --------------------------------------------------------------------------------------------------


class Model:
    """The same, as simply as can be: a list of what was delivered, a set of what is finished."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.done: set[int] = set()
        self.position: int | None = None
        self.settled: tuple[int | None, set[int]] = (None, set())

    def commit(self) -> tuple[int, set[int]] | None:
        """Return what is to be committed: Kafka's next offset, and the messages that are finished beyond."""
        contiguous = find_max_contiguous(-1, self.done) + 1  # how many, in the order of delivery
        beyond = {self.offsets[sequence] for sequence in self.done if sequence > contiguous}
        settled, settled_beyond = self.settled
        if contiguous == len(self.offsets) and self.position is not None:
            offset = self.position
        elif contiguous:
            offset = next_offset(self.offsets[contiguous - 1])
        elif beyond:
            offset = self.offsets[0] if settled is None else settled
        else:
            return None
        if settled is not None and offset < settled:
            return None
        return (offset, beyond) if offset not in (0, settled) or beyond != settled_beyond else None

    def of(self, point: CommitPoint | None) -> tuple[int, set[int]] | None:
        """Return a commit point in the same form; a range may cover holes, which hold no message."""
        if point is None:
            return None
        return point.offset, {offset for offset in self.offsets if any(low <= offset < high for low, high in point.beyond)}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("deliver"), st.lists(st.integers(0, 3), min_size=1, max_size=6)),  # holes before each message
        st.tuples(st.just("finish"), st.lists(st.integers(0, 40), max_size=8)),
        st.tuples(st.just("finish run"), st.tuples(st.integers(0, 40), st.integers(0, 12))),
        st.tuples(st.just("end"), st.integers(0, 3)),
        st.tuples(st.just("commit"), st.booleans()),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(st.none() | st.integers(0, 50), st.integers(0, 5), STEPS)
def test_it_commits_what_a_naive_model_commits(committed: int | None, first: int, steps: list[tuple[str, Any]]):
    assignment, model = Assignment("t", 0, committed), Model()
    model.settled = (committed, set())
    following = first
    for step, argument in steps:
        if step == "deliver":
            offsets = []
            for hole in argument:
                following += hole
                offsets.append(following)
                following += 1
            if not model.offsets and committed is not None and offsets[0] < committed:
                model.settled = (None, set())  # another log: what was committed says nothing about it
            assert assignment.delivered(offsets, 0.0) == len(model.offsets)
            model.offsets += offsets
            model.position = following
        elif step == "finish":
            sequences = [sequence for sequence in argument if sequence < len(model.offsets)]
            assert assignment.completed(sequences) is True
            model.done.update(sequences)
        elif step == "finish run":
            run = range(argument[0], min(argument[0] + argument[1], len(model.offsets)))
            assert assignment.completed(run) is True
            model.done.update(run)
        elif step == "end":
            following += argument
            assignment.reached_end(following)
            model.position = following
        else:
            point = assignment.commit_point()
            assert model.of(point) == model.commit()
            if point is not None:
                assignment.settled(point, committed=argument)
                model.settled = (point.offset, model.of(point)[1])  # type: ignore[index]
        assert assignment.unfinished == len(model.offsets) - len(model.done)
        assert assignment.position == model.position
    assert model.of(assignment.commit_point()) == model.commit()


@settings(deadline=None)
@given(st.integers(-1, 30), st.lists(st.integers(0, 60), max_size=80))
def test_without_holes_it_is_find_max_contiguous(last: int, processed: list[int]):
    assignment = Assignment("t", 0, None if last < 0 else last + 1)
    assignment.delivered(range(last + 1, 61), 0.0)
    for offset in processed:
        assignment.completed_offset(offset)
    expected = find_max_contiguous(last, processed)
    assert _offset(assignment) == (None if expected == last else expected + 1)


@settings(deadline=None)
@given(st.permutations(list(range(12))))
def test_in_whatever_order_work_is_finished_no_commit_passes_what_is_not(order: list[int]):
    offsets = [3, 4, 7, 8, 9, 20, 21, 22, 23, 30, 40, 41]
    assignment = _assignment(*offsets)
    done: set[int] = set()
    for sequence in order:
        assignment.completed([sequence])
        done.add(offsets[sequence])
        committed = _offset(assignment) or 0
        assert all(offset in done for offset in offsets if offset < committed)
    assert _offset(assignment) == 42


@settings(deadline=None)
@given(st.integers(0, 20), st.lists(st.integers(0, 30), min_size=1, max_size=40))
def test_a_partition_never_announced_is_contiguous_from_its_start(start: int, processed: list[int]):
    assignment = Assignment.never_announced("t", 0, start)
    for offset in processed:
        assert assignment.completed_offset(offset) is (offset >= start)
    expected = find_max_contiguous(start - 1, processed)
    assert _offset(assignment) == (None if expected < start else expected + 1)


# --- one thing at a time ----------------------------------------------------------------------------------------------


def test_holes_in_the_offsets_do_not_block_a_commit():
    assignment = _assignment(0, 5, 6, 100)
    assignment.completed(range(3))
    assert _offset(assignment) == 7
    assignment.completed(range(3, 4))
    assert _offset(assignment) == 101


def test_nothing_finished_is_nothing_to_commit():
    assert Assignment("t", 0).commit_point() is None
    assert _assignment(5, 6).commit_point() is None
    assignment = _assignment(5, 6)
    assignment.completed([1])
    assert assignment.commit_point(beyond=False) is None


def test_what_is_finished_twice_counts_once():
    assignment = _assignment(*range(10))
    for run in (range(2, 6), range(4, 8), range(2, 8), range(3, 4), range(0)):
        assignment.completed(run)
    assert assignment.unfinished == 4
    assignment.completed([0, 1, 1, 0])
    assert assignment.unfinished == 2
    assert _offset(assignment) == 8
    assignment.completed(range(8))
    assert assignment.unfinished == 2


def test_ranges_that_touch_are_merged():
    assignment = _assignment(*range(20))
    for run in (range(4, 6), range(8, 10), range(12, 14), range(6, 8), range(10, 12)):
        assignment.completed(run)
    assert (assignment._starts, assignment._ends) == ([4], [14])
    assignment.completed(range(4))
    assert (assignment._done_below, assignment._starts) == (14, [])


def test_the_markers_at_the_end_of_a_partition_are_passed_once_all_is_finished():
    assignment = _assignment(0, 1, 2)
    assignment.reached_end(5)
    assignment.completed([0, 1])
    assert _offset(assignment) == 2
    assignment.completed([2])
    assert _offset(assignment) == 5


def test_an_end_behind_what_was_delivered_changes_nothing():
    assignment = _assignment(0, 1, 2)
    assignment.reached_end(1)
    assignment.completed(range(3))
    assert _offset(assignment) == 3


def test_once_cut_off_the_end_of_the_log_says_nothing():
    assignment = _assignment(0, 1)
    assignment.cut_off()  # 2 to 9 were polled and not delivered: they are past a stop target
    assignment.reached_end(10)
    assignment.completed(range(2))
    assert _offset(assignment) == 2


def test_what_is_unfinished_before_an_offset_is_known():
    assert not Assignment("t", 0).unfinished_before(100)
    assignment = _assignment(5, 6, 7, 20, 21)
    assert [assignment.unfinished_before(offset) for offset in (5, 6, 100)] == [False, True, True]
    assignment.completed(range(3))
    assert [assignment.unfinished_before(offset) for offset in (20, 21)] == [False, True]
    assignment.commit_point()  # what is finished is forgotten
    assignment.completed(range(3, 5))
    assert not assignment.unfinished_before(100)


def test_a_partition_of_nothing_but_markers_is_committed_to_its_end():
    assignment = Assignment("t", 0)
    assignment.reached_end(7)
    assert _offset(assignment) == 7


def test_an_untouched_empty_partition_is_not_worth_a_commit():
    assignment = Assignment("t", 0)
    assignment.reached_end(0)
    assert assignment.commit_point() is None


def test_what_is_committed_already_is_not_committed_again():
    assignment = _assignment(committed=9)
    assignment.reached_end(9)
    assert assignment.commit_point() is None
    assignment.delivered([9], 0.0)
    assignment.completed([0])
    assert _offset(assignment) == 10


def test_a_closed_assignment_takes_nothing_and_commits_nothing():
    assignment = _assignment(0, 1)
    assignment.completed([0])
    assert not assignment.closed
    assignment.close()
    assert assignment.closed
    assert assignment.completed([1]) is False
    assert assignment.completed_offset(1) is False
    assert assignment.commit_point() is None
    assert assignment.unfinished == 1


def test_settling_counts_messages_and_tells_when_they_were_polled():
    assignment = Assignment("t", 0)
    assignment.delivered([0, 1], 10.0)
    assignment.delivered([2, 3], 20.0)
    assignment.completed(range(3))
    point = assignment.commit_point()
    assert point == CommitPoint(assignment, 3, 3)
    assert point is not None
    assert assignment.settled(point, committed=True) == (3, [10.0])
    assert assignment.settled(point, committed=True) == (0, [])
    assignment.completed([3])
    point = assignment.commit_point()
    assert point is not None
    assert assignment.settled(point, committed=True) == (1, [20.0])


def test_what_dev_mode_let_go_of_comes_back_when_it_is_unsettled():
    assignment = _assignment(0, 1, committed=None)
    assignment.completed(range(2))
    point = assignment.commit_point()
    assert point is not None
    assignment.settled(point, committed=False)
    assert assignment.commit_point() is None
    assert assignment.view().committed is None
    assignment.unsettle()
    assert _offset(assignment) == 2


def test_sequences_and_offsets_translate_into_each_other():
    assignment = _assignment(10, 11, 20)
    assert [assignment.sequence_of(offset) for offset in (9, 10, 11, 12, 20, 21)] == [None, 0, 1, None, 2, None]
    assert [assignment.offset_of(sequence) for sequence in range(3)] == [10, 11, 20]
    for sequence in (-1, 3):
        with pytest.raises(KeyError):
            assignment.offset_of(sequence)
    assert assignment.completed_offset(12) is False


def test_what_is_committed_is_forgotten():
    assignment = _assignment(*range(0, 100, 2))
    assignment.completed(range(30))
    assert assignment.commit_point() is not None
    assert len(assignment._runs) == 20
    assert assignment.sequence_of(0) is None
    assert assignment.offset_of(30) == 60


def test_a_run_of_any_length_costs_as_much_as_one():
    assignment = Assignment("t", 0)
    for batch in range(100):
        assignment.delivered(range(batch * 1000, (batch + 1) * 1000), 0.0)
    assert len(assignment._runs) == 1


def test_a_view_is_a_frozen_copy():
    assignment = Assignment("t", 0, committed=5)
    assert assignment.view() == AssignmentView(None, 5, 0, 0, None, None)
    assignment.delivered([5, 6], 42.0, timestamp=1234)
    assignment.completed([0])
    view = assignment.view()
    assert view == AssignmentView(position=7, committed=5, in_flight=1, finished=1, oldest=42.0, timestamp=1234)
    with pytest.raises(AttributeError):
        view.position = 9  # type: ignore[misc]
    assignment.completed([1])
    assert assignment.view().oldest is None
    assert view.in_flight == 1


def test_what_stays_uncommitted_is_counted_in_offsets():
    assert Assignment("t", 0).uncommitted == 0
    assert _assignment(5, 6, 7, committed=5).uncommitted == 3
    assignment = _assignment(5, 6, 7)
    assert assignment.uncommitted == 3
    assignment.completed(range(3))
    point = assignment.commit_point()
    assert point is not None
    assignment.settled(point, committed=True)
    assert assignment.uncommitted == 0
    empty = Assignment("t", 0)
    empty.reached_end(9)
    assert empty.uncommitted == 0


# --- beyond the first gap ----------------------------------------------------------------------------------------------


def test_what_is_finished_beyond_a_gap_goes_with_the_commit_and_holes_belong_to_it():
    assignment = _assignment(10, 11, 12, 20, 21, 30)
    assignment.completed([0, 2, 3, 5])
    point = assignment.commit_point()
    assert point == CommitPoint(assignment, 11, 1, ((12, 21), (30, 31)))


def test_the_first_message_does_not_end_and_the_others_are_recorded_all_the_same():
    assignment = _assignment(*range(7, 20), committed=5)
    assignment.completed(range(1, 13))
    point = assignment.commit_point()
    assert point == CommitPoint(assignment, 5, 0, ((8, 20),))
    assert point is not None
    assignment.settled(point, committed=True)
    assert assignment.commit_point() is None  # nothing has changed
    fresh = _assignment(0, 1)
    fresh.completed([1])
    assert fresh.commit_point() == CommitPoint(fresh, 0, 0, ((1, 2),))
    assert fresh.commit_point(beyond=False) is None


def test_what_was_finished_before_is_skipped_and_stays_recorded_until_it_is_passed():
    assignment = Assignment("t", 0, 100, [(101, 106), (110, 120)])
    assert assignment.skips
    first = assignment.delivered([100, 101, 102, 104], 0.0)
    assert assignment.skip([100, 101, 102, 104], first) == [0]
    assert assignment.commit_point() is None  # as it was committed
    first = assignment.delivered([105, 106, 107], 0.0)
    assert assignment.skip([105, 106, 107], first) == [1, 2]
    assignment.completed([0])
    assert assignment.commit_point() == CommitPoint(assignment, 106, 5, ((110, 120),))
    first = assignment.delivered([112, 119], 0.0)
    assert assignment.skip([112, 119], first) == []
    assert not assignment.skips
    assignment.completed([5, 6])
    assert assignment.commit_point() == CommitPoint(assignment, 120, 9)


def test_what_was_finished_before_is_forgotten_when_the_log_is_another_one():
    assignment = Assignment("t", 0, 100, [(101, 106)])
    assignment.delivered([0, 1], 0.0)
    assert not assignment.skips
    assignment.completed([0])
    assert assignment.commit_point() == CommitPoint(assignment, 1, 1)  # back to where this log is


def test_a_commit_waits_for_the_backup_when_it_is_strict():
    assignment = Assignment("t", 0)
    assignment.delivered([0, 1, 2], 0.0)
    assignment.backed_up(ticket=10)
    assignment.delivered([3, 4, 5], 0.0)
    assignment.backed_up(ticket=20)
    assignment.completed([0, 1, 2, 3, 5])
    assert assignment.commit_point(durable=9) is None
    assert assignment.commit_point(durable=10) == CommitPoint(assignment, 3, 3)
    assert assignment.commit_point(durable=20) == CommitPoint(assignment, 4, 4, ((5, 6),))


def test_how_much_a_message_that_does_not_end_holds_back_is_known():
    assignment = _assignment(*range(10, 20))
    assert assignment.held_back == 0
    assignment.completed(range(1, 8))
    assert assignment.held_back == 7
    assignment.completed([0])
    assert assignment.held_back == 0


def test_progress_is_what_is_finished_without_a_gap_whether_committed_or_not():
    assignment = Assignment("t", 0)
    assert assignment.progress() is None
    assignment.delivered([10, 11, 15], 0.0)
    assert assignment.progress() == (10, 10)
    assignment.completed([0, 2])
    assert assignment.progress() == (10, 11)
    assignment.completed([1])
    assignment.reached_end(20)
    assert assignment.progress() == (10, 20)
    sent = Assignment("t", 0, 100)
    assert sent.progress() == (100, 100)
    sent.begins_at = 50
    assert sent.progress() == (50, 50)
