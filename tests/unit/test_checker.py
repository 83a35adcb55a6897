"""The checker finds what it is for: each kind of broken promise, fed to it in a history made by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Self

import pytest

from kafka_consumer.commit_metadata import encode
from tests.checker import Kind, Report, check
from tests.evidence import read_files, read_ledger
from tests.history import Commit, Event, History, Row
from tests.recorder import Message, append, pack, unpack


class Story:
    """A history, told step by step; each step takes a second. Partition 0 holds ``count`` messages, their keys a, b, a, b, …"""

    def __init__(self, count: int = 4) -> None:
        self.values = {(0, offset): b"message-%d" % offset for offset in range(count)}
        self.keys = {(0, offset): "ab"[offset % 2] for offset in range(count)}
        self.events: list[Event] = []
        self.commits: list[Commit] = []
        self.letters: list[Row] = []
        self.backup: list[Row] = []
        self.now = 1000.0

    def note(self, what: str, pid: int = 1, offset: int = -1, thread: int = 0, partition: int = 0) -> Self:
        self.now += 1
        key = self.keys.get((partition, offset), "")
        at = int(self.now * 1e9)
        self.events.append(Event(what, partition, offset, key, pid, thread, at, at))
        return self

    def call(self, *offsets: int, pid: int = 1, outcome: str = "done", thread: int = 0) -> Self:
        for offset in offsets:
            self.note("begin", pid, offset, thread).note(outcome, pid, offset, thread)
        return self

    def fail(self, offset: int, pid: int = 1) -> Self:
        return self.call(offset, pid=pid, outcome="failed")

    def letter(self, offset: int, value: bytes | None = None) -> Self:
        self.now += 1
        self.letters.append(Row(self.now, 0, offset, value or b"message-%d" % offset))
        return self

    def commit(self, offset: int, *finished: tuple[int, int], metadata: str | None = None) -> Self:
        self.now += 1
        self.commits.append(Commit(self.now, 0, offset, encode(offset, finished) if metadata is None else metadata))
        return self

    def judge(self, **options: Any) -> Report:
        return check(History(self.values, self.events, self.letters, self.backup, self.commits, self.keys, **options))


def good(offsets: int = 4) -> Story:
    return Story(offsets).note("assigned").call(*range(offsets)).commit(offsets).note("ended")


def kinds(report: Report) -> set[Kind]:
    return set(report.kinds())


# --- histories without fault ------------------------------------------------------------------------------------------


def test_a_run_without_fault_has_no_violation() -> None:
    report = good().judge(ordered=True)
    assert report.violations == []
    assert report.figures["calls"] == report.figures["messages"] == 4
    assert report.figures["repeats"] == 0


def test_failed_messages_with_their_dead_letters_are_finished() -> None:
    story = Story().note("assigned").call(0).fail(1).letter(1).call(2, 3).commit(4).note("ended")
    assert story.judge(ordered=True).violations == []


def test_after_a_kill_unfinished_and_uncommitted_work_may_be_repeated_and_is_counted() -> None:
    story = Story().note("assigned").call(0).commit(1).call(1).note("begin", 1, 2).note("killed")
    story.note("assigned", 2).call(1, 2, 3, pid=2).commit(4).note("ended", 2)
    report = story.judge(ordered=True)
    assert report.violations == []
    figures = report.figures
    assert (figures["repeats"], figures["repeats_not_yet_committed"], figures["repeats_unfinished"]) == (2, 1, 1)
    assert (figures["kills"], figures["cut"]) == (1, 1)


def test_what_the_metadata_calls_finished_is_skipped_after_a_kill() -> None:
    story = Story().note("assigned").note("begin", 1, 0).call(1, 2, 3, thread=1).commit(0, (1, 4)).note("killed")
    story.note("assigned", 2).call(0, pid=2).commit(4).note("ended", 2)
    assert story.judge().violations == []


def test_an_expelled_member_that_has_not_noticed_may_work_beside_its_successor() -> None:
    story = Story().note("assigned").call(0).note("suspended").note("assigned", 2).call(0, 1, pid=2, thread=2).commit(2)
    story.note("resumed").call(1).note("lost").call(2, 3, pid=2).commit(4).note("ended", 1).note("ended", 2)
    report = story.judge(ordered=True)
    assert report.violations == []
    assert report.figures["repeats_by_two_owners"] == 1
    assert report.figures["lost_partitions"] == 1


def test_attempts_of_a_failing_message_are_no_repeats() -> None:
    story = Story(1).note("assigned").fail(0).fail(0).letter(0).commit(1).note("ended")
    report = story.judge(attempts=2, ordered=True)
    assert report.violations == []
    assert report.figures["retries"] == 1
    assert kinds(story.judge(attempts=1)) == {Kind.WHILE_OWNED}


def test_a_run_that_goes_on_need_not_have_finished_everything() -> None:
    story = Story().note("assigned").call(0, 1).commit(2)
    assert story.judge(complete=False).violations == []
    assert kinds(story.judge()) == {Kind.LOST, Kind.NOT_COMMITTED}


# --- loss -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropped", range(4))
def test_each_message_whose_call_is_missing_is_lost_and_was_committed_early(dropped: int) -> None:
    story = Story().note("assigned").call(*(offset for offset in range(4) if offset != dropped)).commit(4).note("ended")
    report = story.judge()
    assert kinds(report) == {Kind.LOST, Kind.EARLY}
    assert {each.message for each in report.violations} == {(0, dropped)}


def test_a_message_whose_only_call_was_cut_off_is_lost() -> None:
    story = Story().note("assigned").call(0, 1).note("begin", 1, 2).call(3, thread=1).commit(4).note("killed")
    assert kinds(story.judge()) == {Kind.LOST, Kind.EARLY}


def test_a_commit_that_precedes_the_end_of_its_work_is_early_though_the_work_is_done_later() -> None:
    story = Story().note("assigned").call(0, 1).note("begin", 1, 2).commit(3).note("done", 1, 2).call(3).commit(4).note("ended")
    report = story.judge()
    assert kinds(report) == {Kind.EARLY}
    assert "0@2, finished 1.000 s after it" in str(report)


def test_a_commit_past_the_end_of_the_log_is_early() -> None:
    story = Story().note("assigned").call(0, 1, 2, 3).commit(5).note("ended")
    assert kinds(story.judge()) == {Kind.EARLY}


def test_a_commit_before_the_dead_letter_was_written_is_early() -> None:
    story = Story().note("assigned").call(0).fail(1).commit(2).letter(1).call(2, 3).commit(4).note("ended")
    assert kinds(story.judge()) == {Kind.EARLY}


def test_a_failed_message_without_a_dead_letter_is_named() -> None:
    story = Story().note("assigned").call(0).fail(1).call(2, 3).commit(4).note("ended")
    assert kinds(story.judge()) == {Kind.NO_LETTER, Kind.EARLY}


def test_a_commit_that_is_set_back_is_named() -> None:
    story = Story().note("assigned").call(0, 1, 2, 3).commit(3).commit(2).commit(4).note("ended")
    assert kinds(story.judge()) == {Kind.SET_BACK}


def test_work_left_uncommitted_at_the_end_is_named() -> None:
    story = Story().note("assigned").call(0, 1, 2, 3).commit(3).note("ended")
    assert kinds(story.judge()) == {Kind.NOT_COMMITTED}


# --- metadata ---------------------------------------------------------------------------------------------------------


def test_metadata_that_claims_unfinished_work_is_named() -> None:
    story = Story().note("assigned").call(0, 2).commit(1, (2, 4)).call(1, 3).commit(4).note("ended")
    report = story.judge()
    assert kinds(report) == {Kind.CLAIMED}
    assert [each.message for each in report.violations] == [(0, 3)]


def test_metadata_that_claims_a_failed_message_before_its_dead_letter_is_named() -> None:
    story = Story().note("assigned").call(0).fail(2).commit(1, (2, 3)).letter(2).call(1, 3).commit(4).note("ended")
    assert kinds(story.judge()) == {Kind.CLAIMED}


@pytest.mark.parametrize("metadata", ["kc1.AAAA", "nonsense", encode(3, [(5, 6)])])
def test_metadata_that_the_next_owner_could_not_read_is_named(metadata: str) -> None:
    story = Story().note("assigned").call(0).commit(1, metadata=metadata).call(1, 2, 3).commit(4).note("ended")
    assert kinds(story.judge()) == {Kind.UNREADABLE}


# --- repeats ----------------------------------------------------------------------------------------------------------


def test_a_repeat_after_a_clean_stop_is_named() -> None:
    story = Story().note("assigned").call(0, 1).commit(1).note("ended")
    story.note("assigned", 2).call(1, 2, 3, pid=2).commit(4).note("ended", 2)
    assert kinds(story.judge()) == {Kind.AFTER_CLEAN_STOP}


def test_a_repeat_of_what_was_finished_before_a_clean_revocation_is_named() -> None:
    story = Story().note("assigned").call(0, 1).note("revoked").note("assigned", 2).call(0, 1, 2, 3, pid=2).commit(4)
    assert kinds(story.note("ended", 2).judge()) == {Kind.AFTER_CLEAN_STOP}


def test_a_call_that_ended_after_its_partition_was_given_up_may_be_repeated() -> None:
    story = Story().note("assigned").call(0).commit(1).note("begin", 1, 1).note("revoked").note("done", 1, 1)
    story.note("assigned", 2).call(1, 2, 3, pid=2).commit(4).note("ended", 2)
    assert story.judge().violations == []


def test_a_message_with_an_attempt_left_may_go_to_the_next_owner_of_a_revoked_partition() -> None:
    story = Story(1).note("assigned").fail(0).note("revoked").note("assigned", 2).fail(0, 2).fail(0, 2).letter(0).commit(1)
    assert story.judge(attempts=2).violations == []
    story = Story(1).note("assigned").fail(0).fail(0).letter(0).note("revoked").note("assigned", 2).fail(0, 2).commit(1)
    assert kinds(story.judge(attempts=2)) == {Kind.AFTER_CLEAN_STOP}


def test_a_repeat_of_what_was_committed_before_the_kill_is_named() -> None:
    story = Story().note("assigned").call(0, 1).commit(2).note("killed").note("assigned", 2).call(1, 2, 3, pid=2).commit(4)
    assert kinds(story.judge()) == {Kind.ALTHOUGH_COMMITTED}


def test_a_repeat_of_what_the_metadata_called_finished_is_named() -> None:
    story = Story().note("assigned").note("begin", 1, 0).call(2, thread=1).commit(0, (2, 3)).note("killed")
    story.note("assigned", 2).call(0, 1, 2, 3, pid=2).commit(4)
    report = story.judge()
    assert kinds(report) == {Kind.ALTHOUGH_COMMITTED}
    assert [each.message for each in report.violations] == [(0, 2)]


def test_a_later_commit_without_metadata_excuses_the_repeat() -> None:
    story = Story().note("assigned").note("begin", 1, 0).call(2, thread=1).commit(0, (2, 3)).commit(0).note("killed")
    story.note("assigned", 2).call(0, 1, 2, 3, pid=2).commit(4)
    assert story.judge().violations == []


def test_a_message_handed_out_twice_in_one_assignment_is_named() -> None:
    story = Story().note("assigned").call(0, 1, 1, 2, 3).commit(4).note("ended")
    assert kinds(story.judge()) == {Kind.WHILE_OWNED}


def test_a_call_by_a_process_that_was_never_given_the_partition_is_named() -> None:
    story = good()
    story.call(2, pid=7)
    assert kinds(story.judge()) == {Kind.UNASSIGNED}


# --- order ------------------------------------------------------------------------------------------------------------


def test_messages_of_a_key_in_the_wrong_order_are_named_and_those_of_different_keys_are_not() -> None:
    assert good().judge(ordered=True).violations == []
    different = Story().note("assigned").call(1, 0, 3, 2).commit(4).note("ended")
    assert different.judge(ordered=True).violations == []
    wrong = Story().note("assigned").call(2, 0, 1, 3).commit(4).note("ended")
    assert kinds(wrong.judge(ordered=True)) == {Kind.OUT_OF_ORDER}
    assert wrong.judge(ordered=False).violations == []


def test_two_messages_of_a_key_in_work_at_once_are_named() -> None:
    story = Story().note("assigned").note("begin", 1, 0, 1).note("begin", 1, 2, 2).note("done", 1, 0, 1).note("done", 1, 2, 2)
    report = story.call(1, 3).commit(4).note("ended").judge(ordered=True)
    assert kinds(report) == {Kind.OUT_OF_ORDER}
    assert "0@2 in process 1 of key a began while 0 was in work" in str(report)


def test_a_key_that_does_not_wait_for_another_attempt_is_out_of_order() -> None:
    waits = Story().note("assigned").fail(0).fail(0).letter(0).call(1, 2, 3).commit(4).note("ended")
    assert waits.judge(ordered=True, attempts=2).violations == []
    goes_on = Story().note("assigned").fail(0).call(2).fail(0).letter(0).call(1, 3).commit(4).note("ended")
    report = goes_on.judge(ordered=True, attempts=2)
    assert kinds(report) == {Kind.OUT_OF_ORDER}
    assert "0@2 in process 1 of key a began before 0 was finished" in str(report)


def test_a_new_owner_that_skips_an_unfinished_message_of_a_key_is_out_of_order() -> None:
    story = Story().note("assigned").note("begin", 1, 0).note("killed").note("assigned", 2).call(2, 0, 1, 3, pid=2).commit(4)
    assert kinds(story.judge(ordered=True)) == {Kind.OUT_OF_ORDER}


def test_a_new_owner_that_repeats_a_key_from_the_committed_offset_keeps_its_order() -> None:
    story = Story().note("assigned").call(0, 1, 2).note("killed").note("assigned", 2).call(0, 1, 2, 3, pid=2).commit(4)
    assert story.judge(ordered=True).violations == []


def test_a_repeat_within_an_assignment_that_goes_back_is_out_of_order() -> None:
    story = Story().note("assigned").call(0, 1, 2).note("killed").note("assigned", 2).call(1, 3, 2, 0, pid=2).commit(4)
    assert kinds(story.judge(ordered=True)) == {Kind.OUT_OF_ORDER}


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_row_that_differs_from_what_was_produced_is_named() -> None:
    story = good()
    story.backup.append(Row(0.0, 0, 1, b"message-2"))
    assert kinds(story.judge()) == {Kind.DAMAGED}
    story.backup[-1] = Row(0.0, 0, 1, b"message-1")
    assert story.judge().violations == []
    story.backup.append(Row(0.0, -1, -1, None))
    assert kinds(story.judge()) == {Kind.DAMAGED}


def test_a_dead_letter_of_a_message_that_did_not_fail_is_named() -> None:
    assert kinds(good().letter(2).judge()) == {Kind.STRANGE_LETTER}


# --- the evidence -----------------------------------------------------------------------------------------------------


def test_a_ledger_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="to end a call that was begun"):
        Story().note("assigned").note("done", 1, 0).judge()
    with pytest.raises(ValueError, match="to say what happened"):
        Story().note("exploded").judge()


def test_a_ledger_is_read_back_but_for_a_torn_last_line(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    append(ledger, "begin", 42, Message(3, 17, "key-5", "good"))
    append(ledger, "killed", 42)
    with ledger.open("ab") as handle:
        handle.write(b"begin 3 18 key")
    begun, killed = read_ledger(ledger)
    assert begun[:5] == ("begin", 3, 17, "key-5", 42)
    assert (killed.what, killed.pid, killed.key) == ("killed", 42, "")
    assert begun.monotonic <= killed.monotonic


def test_a_message_packed_into_a_value_is_unpacked_again() -> None:
    for message in (Message(3, 17, "key-5", "good"), Message(0, 0, "", "bad")):
        assert unpack(pack(message)) == message
        assert unpack(pack(message, size=100)) == message
        assert len(pack(message, size=100)) == 100


def test_a_row_torn_by_a_kill_is_left_out_and_a_damaged_one_is_kept_for_the_checker(tmp_path: Path) -> None:
    whole = "2026-11-22T10:00:00+00:00,t,0,1,,\\N,value,[],utf-8\r\n"
    damaged = "2026-11-22T10:00:00+00:00,t,zero,1,,\\N,value,[],utf-8\r\n"
    header = "received_at,topic,partition,offset,timestamp,key,value,headers,encoding\r\n"
    (tmp_path / "backup_20261122_hour_10.csv").write_bytes((header + whole + damaged + whole[:40]).encode())
    first, second = read_files([tmp_path / "backup.csv"], "received_at")
    assert first == Row(1795341600.0, 0, 1, b"value")
    assert second == Row(0.0, -1, -1, None)


def test_the_report_names_the_message_and_counts(tmp_path: Path) -> None:
    report = Story().note("assigned").call(0, 2, 3).commit(4).note("ended").judge()
    assert "lost: 1" in str(report)
    assert "0@1 has 0 calls, none of them was done" in str(report)
    assert dataclasses.replace(report, violations=[]).kinds() == {}
