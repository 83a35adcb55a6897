"""The crash-loop guard: what it keeps on disk, when it counts an end, whom it condemns, and when its probation is over."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kafka_consumer import crash_loop
from kafka_consumer.assignment import Assignment
from kafka_consumer.chunk import Chunk
from kafka_consumer.config import KafkaConsumerConfig
from kafka_consumer.crash_loop import CrashLoopGuard, guard_of
from kafka_consumer.crash_loop_notes import IN_WORK, Notes
from kafka_consumer.crash_loop_state import MAX_OFFSET, NOTHING_COMMITTED, Record, State
from kafka_consumer.errors import ConfigError, CrashLoopError, FileFormatError
from kafka_consumer.message_view import Message
from kafka_consumer.types import TopicPartitionKey
from tests.fakes import FakeMessage
from tests.helpers import make_config, make_state

ORDERS: TopicPartitionKey = ("orders", 0)


# --- the file -----------------------------------------------------------------------------------------------------------

offsets = st.integers(NOTHING_COMMITTED, MAX_OFFSET - 1)
records = st.builds(
    Record,
    head=offsets,
    reach=offsets,
    count=st.integers(0, 1000),
    times=st.lists(st.floats(0, 1e10), max_size=5),
    until=st.none() | offsets,
    condemned=st.lists(st.integers(0, MAX_OFFSET - 1), max_size=5),
    held=st.booleans(),
    ended=st.booleans(),
    slot=st.integers(0, 10_000),
)
states = st.builds(
    State,
    group=st.just("billing"),
    life=st.integers(0, 1 << 62),
    suspect=st.none() | st.tuples(st.text(max_size=10), st.integers(0, 99), st.integers(0, MAX_OFFSET - 1)),
    records=st.dictionaries(st.tuples(st.text(min_size=1, max_size=10), st.integers(0, 99)), records, max_size=5),
)


@settings(deadline=None, max_examples=50)
@given(state=states)
def test_what_is_saved_is_loaded(tmp_path_factory: pytest.TempPathFactory, state: State):
    path = str(tmp_path_factory.mktemp("state") / "dlq.csv.crash-loop")
    state.save(path)
    assert State.load(path, "billing") == state


def test_the_files_are_private_and_replaced_whole(tmp_path: Path):
    path = tmp_path / "dlq.csv.crash-loop"
    State("billing").save(str(path))
    before = path.stat().st_ino
    State("billing", life=7).save(str(path))
    Notes(str(tmp_path / "notes")).begin(7)
    assert path.stat().st_ino != before
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["dlq.csv.crash-loop", "notes"]


def test_a_file_that_is_not_there_is_no_error(tmp_path: Path):
    assert State.load(str(tmp_path / "none"), "billing") is None
    assert Notes(str(tmp_path / "none")).read(1) == ([], [])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@settings(deadline=None, max_examples=150)
@given(data=st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_whatever_a_file_holds_it_is_refused_with_one_kind_of_error(tmp_path_factory: pytest.TempPathFactory, data: bytes):
    path = tmp_path_factory.getbasetemp() / "any.crash-loop"
    path.write_bytes(data)
    with pytest.raises(FileFormatError):
        State.load(str(path), "billing")


@settings(deadline=None, max_examples=150)
@given(
    name=st.sampled_from(
        ["topic", "partition", "head", "reach", "count", "times", "until", "condemned", "held", "ended", "slot"]
    ),
    value=json_values,
)
def test_a_field_that_is_wrong_is_refused_or_harmless(tmp_path_factory: pytest.TempPathFactory, name: str, value: Any):
    path = tmp_path_factory.getbasetemp() / "field.crash-loop"
    state = State("billing", life=1, records={ORDERS: Record(100, 200, 2, [1.0], None, [], held=True)})
    state.save(str(path))
    content = json.loads(path.read_text())
    content["partitions"][0][name] = value
    path.write_text(json.dumps(content))
    try:
        found = State.load(str(path), "billing")
    except FileFormatError:
        return
    assert found is not None
    found.conclude([(0, 100)], [200])
    for record in found.records.values():
        record.assigned(100, 3, 1.0)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"group": "other"}, "group 'billing'"),
        ({"version": 2}, "version 1"),
        ({"partitions": 5}, "damaged"),
        ({"life": "x"}, "damaged"),
    ],
)
def test_a_foreign_or_damaged_file_says_what_is_wrong(tmp_path: Path, content: dict[str, Any], why: str):
    path = tmp_path / "state"
    State("billing", records={ORDERS: Record(1)}).save(str(path))
    path.write_text(json.dumps({**json.loads(path.read_text()), **content}))
    with pytest.raises(FileFormatError, match=why):
        State.load(str(path), "billing")


def test_links_folders_and_endless_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    State("billing").save(str(tmp_path / "real"))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(OSError, match="symbolic"):
        State.load(str(tmp_path / "link"), "billing")
    with pytest.raises(FileFormatError, match="regular file"):
        State.load(str(tmp_path), "billing")
    monkeypatch.setattr("kafka_consumer.crash_loop_state.MAX_BYTES", 10)
    with pytest.raises(FileFormatError, match="10 bytes at the most"):
        State.load(str(tmp_path / "real"), "billing")


# --- the notes ------------------------------------------------------------------------------------------------------------


def test_notes_tell_what_is_in_work_in_the_order_of_the_beginning_and_how_far_it_was_handed_out(tmp_path: Path):
    notes = Notes(str(tmp_path / "notes"))
    notes.begin(42)
    entries = [notes.enter(slot, offset) for slot, offset in [(0, 10), (3, 99), (1, 7)]]
    assert entries[0] is not None
    notes.leave(entries[0])
    notes.enter(0, 11)
    notes.reached({0: 500, 3: 900})
    notes.reached({1: 30, 0: 400})  # never back
    assert Notes(str(tmp_path / "notes")).read(42) == ([(3, 99), (1, 7), (0, 11)], [500, 30, -1, 900])
    assert Notes(str(tmp_path / "notes")).read(43) == ([], []), "expected notes of another life to say nothing"


def test_more_calls_than_there_is_room_for_are_not_noted(tmp_path: Path):
    notes = Notes(str(tmp_path / "notes"))
    notes.begin(1)
    entries = [notes.enter(0, offset) for offset in range(IN_WORK + 1)]
    assert entries.count(None) == 1
    assert len(notes.read(1)[0]) == IN_WORK


@settings(deadline=None, max_examples=100)
@given(data=st.binary(max_size=4000), head=st.booleans())
def test_whatever_notes_hold_only_what_can_be_is_believed(tmp_path_factory: pytest.TempPathFactory, data: bytes, head: bool):
    path = tmp_path_factory.getbasetemp() / "any-notes"
    path.write_bytes(b"kc-notes" + (5).to_bytes(8, "little") + data if head else data)
    calls, reaches = Notes(str(path)).read(5)
    assert all(slot >= 0 and 0 <= offset < MAX_OFFSET for slot, offset in calls)
    assert all(-1 <= reach < MAX_OFFSET for reach in reaches)


# --- counting -------------------------------------------------------------------------------------------------------------


def end(record: Record, reach: int, *calls: int) -> str | None:
    """Let the run that holds a partition end without a word, with these offsets in work."""
    return State("g", records={ORDERS: record}).conclude([(record.slot, offset) for offset in calls], [reach])


def test_ends_with_the_same_head_are_counted_and_the_limit_begins_a_probation():
    record = Record(100, held=True)
    for count in (1, 2, 3):
        end(record, 150 + count)
        assert record.suspicious(3) is (count == 3)
        record = record.assigned(100, 3, float(count))
        assert (record.count, record.until) == (count, 153 if count == 3 else None)
    assert record.times == [1.0, 2.0, 3.0]


def test_a_head_that_has_moved_begins_anew():
    record = Record(100, held=True)
    end(record, 150)
    record = record.assigned(100, 2, 1.0)
    end(record, 150)
    assert record.assigned(101, 2, 2.0) == Record(101, held=True)


def test_an_end_before_anything_was_handed_out_is_not_counted():
    record = Record(100, 180, 1, held=True)
    end(record, 100)
    end(record, -1)
    assert record.assigned(100, 2, 1.0).count == 1


def test_an_end_is_counted_once_however_often_the_start_is_repeated():
    record = Record(100, held=True)
    end(record, 150)
    end(record, -1)  # runs that never got the partition
    end(record, -1)
    assert record.assigned(100, 5, 1.0).count == 1


def test_a_probation_goes_on_while_the_head_moves_on_and_its_end_is_not_reached():
    record = Record(100, 200, 3, [1.0], until=200, condemned=[120, 150], held=True)
    end(record, 260)
    record = record.assigned(130, 3, 2.0)
    assert (record.head, record.until, record.count, record.condemned) == (130, 200, 4, [150])
    end(record, 260)
    assert record.assigned(200, 3, 3.0) == Record(200, held=True)


def test_a_head_that_went_back_forgets_what_was_condemned():
    record = Record(100, 200, 3, [1.0], until=200, condemned=[150])
    assert record.assigned(50, 3, 2.0) == Record(50, held=True)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-1, 8)), max_size=12))
def test_a_probation_needs_as_many_ends_in_a_row_as_the_limit_says(lives: list[tuple[int, int]]):
    record = Record(0, held=True)
    same = 0
    for head, reach in lives:
        worked = reach > max(record.head, 0)
        end(record, reach)
        was_on, last = record.until is not None, record.head
        record = record.assigned(head, 3, 1.0)
        if was_on:
            return
        same = same + worked if head == last else 0
        assert record.count == same
        assert (record.until is not None) is (same >= 3)


# --- whom it condemns -------------------------------------------------------------------------------------------------------


def on_probation() -> Record:
    return Record(100, 200, 3, [1.0], until=200, held=True)


def test_the_one_message_in_work_at_the_end_of_a_probation_is_condemned():
    record = on_probation()
    assert end(record, 200, 140) == "orders-0@140 was in work when the last run ended: it won't be called again"
    assert (record.condemned, record.until) == ([140], 200)


def test_without_a_probation_nobody_is_condemned():
    record = Record(100, 200, 2, [1.0], held=True)
    assert end(record, 200, 140) is None
    assert record.condemned == []


def test_an_end_with_no_message_in_work_condemns_nobody_and_says_so():
    record = on_probation()
    assert "but no message was in work" in (end(record, 200) or "")
    assert record.condemned == []


def test_of_several_in_work_the_last_begun_is_condemned_when_it_was_so_twice():
    record = on_probation()
    state = State("g", records={ORDERS: record})
    assert "2 messages in work; the one begun last, orders-0@141" in (state.conclude([(0, 140), (0, 141)], [200]) or "")
    assert record.condemned == []
    record.held = True
    state.conclude([(0, 120), (0, 130)], [200])
    assert record.condemned == []
    record.held = True
    state.conclude([(0, 110), (0, 130)], [200])
    assert record.condemned == [130]


def test_a_message_of_a_partition_that_wasn_t_on_probation_is_condemned_too():
    other = Record(5, slot=1, held=True)
    State("g", records={ORDERS: on_probation(), ("orders", 1): other}).conclude([(1, 7)], [200, 8])
    assert (other.condemned, other.until) == ([7], 8)


# --- the guard --------------------------------------------------------------------------------------------------------------


class FakePool:
    """Workers that only remember how many they are to be."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.stuck_threads = 0

    def resize(self, count: int) -> None:
        self.counts.append(count)


class Run:
    """One run's guard, without a consumer around it. Forget it, and it has ended without a word."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.seen: list[Any] = []
        options.setdefault("processor_callable", self.seen.append)
        self.state = make_state(folder, crash_loop_limit=2, worker_count=8, group_id="billing", **options)
        self.pool = FakePool()
        guard = guard_of(self.state, self.pool)
        assert guard is not None
        self.guard: CrashLoopGuard = guard
        self.guard.start()
        self.ours: dict[TopicPartitionKey, Assignment] = {}

    def assign(self, committed: int | None = 100, key: TopicPartitionKey = ORDERS, *, begins_at: int | None = None) -> Assignment:
        found = Assignment(*key, committed=committed)
        found.begins_at = begins_at
        self.ours = {**self.ours, key: found}
        self.guard.look(self.ours)
        return found

    def revoke(self, key: TopicPartitionKey = ORDERS) -> None:
        self.ours = {other: found for other, found in self.ours.items() if other != key}
        self.guard.look(self.ours)

    def deliver(self, assignment: Assignment, start: int, stop: int) -> None:
        assignment.delivered(range(start, stop), 0.0)
        messages: list[Any] = [
            FakeMessage(assignment.topic, assignment.partition, at, value=b"v%d" % at) for at in range(start, stop)
        ]
        self.guard.delivered([Chunk(messages, assignment, range(stop - start))], self.ours)

    def commit(self, assignment: Assignment, count: int) -> None:
        """Finish the first messages, and commit them."""
        assignment.completed(range(count))
        point = assignment.commit_point()
        assert point is not None
        assignment.settled(point, committed=True)

    def call(self, offset: int, key: TopicPartitionKey = ORDERS) -> Any:
        """Call the processor as a worker does."""
        message = FakeMessage(*key, offset, value=b"v%d" % offset)
        return self.state.processor(self.state.argument(message, message.value()))

    def look(self) -> None:
        self.guard._due = 0.0
        self.guard.look(self.ours)


def crash(folder: Path, times: int, *, committed: int | None = 100, upto: int = 150) -> None:
    """Let runs end without a word."""
    for _ in range(times):
        run = Run(folder)
        run.deliver(run.assign(committed), committed or 0, upto)


def die_at(run: Run, offset: int) -> None:
    """Let the process end while this message is in work."""
    entry = run.guard._notes.enter(0, offset)
    assert entry is not None


def test_there_is_no_guard_unless_it_is_wanted_and_something_is_committed(tmp_path: Path):
    assert guard_of(make_state(tmp_path), FakePool()) is None
    assert guard_of(make_state(tmp_path, crash_loop_limit=3, dev_mode=True), FakePool()) is None


def test_without_a_suspicion_workers_call_the_processor_itself(tmp_path: Path):
    crash(tmp_path, 1)
    run = Run(tmp_path)
    assert run.state.processor == run.state.config.processor_callable
    assert not run.state.takes_messages
    assert run.pool.counts == []


def test_the_limit_begins_a_probation_with_one_worker_and_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    crash(tmp_path, 2)
    run = Run(tmp_path)
    run.assign()
    assert run.pool.counts == [1]
    first, line = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert first == "crash-loop guard: the last run ended without a word, 1 in a row at the same place (crash_loop_limit=2)"
    assert (
        "(crash_loop_limit=2). Probation, one message at a time: orders-0, first unfinished at 100, until 150 is committed"
        in line
    )
    run.call(100)
    assert run.seen == [b"v100"]


def test_a_probation_ends_when_all_that_was_handed_out_is_committed(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO, "kafka_consumer")
    crash(tmp_path, 2)
    run = Run(tmp_path)
    assignment = run.assign()
    run.deliver(assignment, 100, 160)
    assert not run.guard.resize(5), "expected the operator's wish to wait"
    run.commit(assignment, 49)
    run.look()
    assert run.pool.counts == [1]
    run.commit(assignment, 50)
    run.look()
    assert run.pool.counts == [1, 5]
    assert run.guard.resize(6)
    assert "probation is over, 5 workers again" in caplog.text
    # And a crash from here on is the first one.
    run = Run(tmp_path)
    assert not run.assign(150).closed
    assert run.pool.counts == []


def test_without_commits_it_ends_when_all_is_finished(tmp_path: Path):
    crash(tmp_path, 2)
    run = Run(tmp_path)
    assignment = run.assign()
    run.deliver(assignment, 100, 160)
    run.state.dev_mode.set()
    assignment.completed(range(50))
    run.look()
    assert run.pool.counts == [1, 8]


def test_the_message_at_which_it_dies_again_is_not_called_and_the_evidence_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    crash(tmp_path, 2)
    run = Run(tmp_path)
    run.deliver(run.assign(), 100, 150)
    run.call(120)
    die_at(run, 130)

    run = Run(tmp_path)
    run.assign(110)
    with pytest.raises(CrashLoopError) as caught:
        run.call(130)
    run.call(131)
    assert run.seen == [b"v131"]
    notes = "\n".join(caught.value.__notes__)
    assert "orders-0@130 was the message in work when the process ended" in notes
    assert "3 such ends in a row had the same place in the partition, found at 2" in notes
    assert "crash_loop_limit=2" in notes
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.CRITICAL] == [
        "crash-loop guard: orders-0@130 goes to the dead letters, it isn't called again: it was in work when the process ended"
    ]
    assert run.guard.probation, "expected it to go on: there may be another one"


def test_a_condemned_message_stays_so_until_it_is_committed(tmp_path: Path):
    crash(tmp_path, 2)
    run = Run(tmp_path)
    run.deliver(run.assign(), 100, 150)
    die_at(run, 130)
    run = Run(tmp_path)  # a kill before its dead letter was committed
    run.deliver(run.assign(110), 110, 150)
    run = Run(tmp_path)  # and a clean end
    run.assign(110)
    run.guard.draining()
    run.guard.end()
    run = Run(tmp_path)
    assignment = run.assign(120)
    with pytest.raises(CrashLoopError):
        run.call(130)
    run.deliver(assignment, 120, 150)
    run.commit(assignment, 30)
    run.look()
    run.call(130)  # by hand, after a seek
    assert run.seen == [b"v130"]


def test_a_coroutine_is_noted_while_it_is_awaited(tmp_path: Path):
    begun: list[Any] = []

    async def process(value: bytes) -> None:
        begun.append((value, run.guard._notes.read(run.guard._state.life)[0]))
        await asyncio.sleep(0)

    crash(tmp_path, 2)
    run = Run(tmp_path, processor_callable=process)
    run.assign()
    asyncio.run(run.call(133))
    assert begun == [(b"v133", [(0, 133)])]
    assert run.guard._notes.read(run.guard._state.life)[0] == []


def test_a_processor_that_takes_messages_gets_them(tmp_path: Path):
    seen: list[Message] = []

    def process(message: Message) -> None:
        seen.append(message)

    crash(tmp_path, 2)
    run = Run(tmp_path, processor_callable=process)
    run.assign()
    run.call(133)
    assert (seen[0].offset, seen[0].value) == (133, b"v133")


def test_an_exception_of_the_processor_is_no_end(tmp_path: Path):
    def process(value: bytes) -> None:
        raise KeyError("no good")

    crash(tmp_path, 2)
    run = Run(tmp_path, processor_callable=process)
    run.deliver(run.assign(), 100, 150)
    with pytest.raises(KeyError):
        run.call(120)
    assert Run(tmp_path).guard._calls.condemned == frozenset()


def test_a_clean_end_leaves_nothing_behind(tmp_path: Path):
    crash(tmp_path, 1)
    run = Run(tmp_path)
    run.deliver(run.assign(), 100, 150)
    run.guard.draining()
    run.guard.end()
    assert not [path for path in tmp_path.iterdir() if "crash-loop" in path.name]


def test_a_kill_while_it_is_stopping_counts_for_nothing(tmp_path: Path):
    crash(tmp_path, 2)
    run = Run(tmp_path)
    run.deliver(run.assign(), 100, 150)
    run.guard.draining()
    die_at(run, 120)
    run = Run(tmp_path)
    run.assign()
    run.call(120)
    assert run.guard._state.records[ORDERS].count == 2


def test_a_partition_that_goes_and_comes_back_is_no_end(tmp_path: Path):
    crash(tmp_path, 1)
    run = Run(tmp_path)
    for _ in range(5):
        run.deliver(run.assign(), 100, 150)
        run.revoke()
    run.assign()
    assert run.guard._state.records[ORDERS].count == 1
    assert run.pool.counts == []


def test_a_probation_is_suspended_while_the_partition_is_elsewhere(tmp_path: Path):
    crash(tmp_path, 2)
    run = Run(tmp_path)
    run.assign(5, ("orders", 1))
    assert run.pool.counts == []
    run.assign()
    run.revoke()
    assert run.pool.counts == [1, 8]
    run.assign(120)
    assert run.pool.counts == [1, 8, 1]


def test_a_partition_that_the_group_has_committed_nothing_for_has_a_head_too(tmp_path: Path):
    crash(tmp_path, 2, committed=None)
    run = Run(tmp_path)
    run.assign(None, begins_at=-2)  # the beginning, by name
    assert run.pool.counts == [1]


def test_where_the_operator_has_it_begin_is_the_head(tmp_path: Path):
    for _ in range(2):
        run = Run(tmp_path)
        run.deliver(run.assign(500, begins_at=100), 100, 150)
    run = Run(tmp_path)
    assignment = run.assign(500, begins_at=100)
    assert run.pool.counts == [1]
    run.look()
    assert run.pool.counts == [1], "expected an old commit, beyond what is read again, to prove nothing"
    run.deliver(assignment, 100, 150)
    run.commit(assignment, 50)
    assert assignment.view().committed == 150
    run.look()
    assert run.pool.counts == [1, 8]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\x00" * 100, b'{"version": 1, "group": "other", "partitions": [], "suspect": null, "life": 1}']
)
def test_a_damaged_or_foreign_file_costs_a_warning_and_is_written_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
):
    path = tmp_path / "dlq.csv.crash-loop"
    path.write_bytes(content)
    run = Run(tmp_path)
    (line,) = [r.getMessage() for r in caplog.records]
    assert line.startswith(f"crash-loop guard: {path} isn't used, and written anew: ")
    run.assign()
    assert State.load(str(path), "billing") is not None


def test_files_that_can_t_be_written_turn_it_off_with_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "elsewhere").touch()
    (tmp_path / "dlq.csv.crash-loop-notes").symlink_to(tmp_path / "elsewhere")
    run = Run(tmp_path)
    assignment = run.assign()
    run.deliver(assignment, 100, 150)
    run.look()
    run.look()
    lines = [r.getMessage() for r in caplog.records]
    assert len(lines) == 1, lines
    assert "off for the rest of this run: its files can't be written: " in lines[0]
    run.call(100)
    run.guard.end()


def test_notes_that_fail_in_the_middle_end_the_probation_and_no_message_fails_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def refuse(*_: Any) -> int:
        raise OSError(5, "Input/output error")

    crash(tmp_path, 2)
    run = Run(tmp_path)
    run.assign()
    monkeypatch.setattr(os, "pwrite", refuse)
    run.call(100)
    assert run.seen == [b"v100"]
    run.look()
    assert run.pool.counts == [1, 8]
    assert "off for the rest of this run: its files can't be written: [Errno 5]" in caplog.text


def test_calls_that_never_end_turn_it_off_for_this_run(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """One worker is replaced once; two calls beyond their time would leave a probation without anybody."""
    crash(tmp_path, 2)
    run = Run(tmp_path)
    run.assign()
    run.pool.stuck_threads = 2
    run.look()
    run.look()
    assert run.pool.counts == [1, 8]
    die_at(run, 120)
    again = Run(tmp_path)
    assert again.guard._calls.condemned == frozenset()
    again.assign()
    assert again.pool.counts == [1], "expected the next run to try again"


def test_times_are_shown_the_last_ones_first_cut():
    assert crash_loop._times([]) == "no time"
    assert crash_loop._times([0.0] * 6).startswith("…, ")


# --- the option -------------------------------------------------------------------------------------------------------------


def test_with_processes_it_is_refused(tmp_path: Path):
    with pytest.raises(
        ConfigError, match="crash_loop_limit: expected executor 'thread' or 'asyncio' with it: a process that dies"
    ):
        make_config(tmp_path, executor="process", crash_loop_limit=3)


@pytest.mark.parametrize("limit", [1, 0, True, 2.5, "3"])
def test_a_limit_below_2_or_not_an_integer_is_refused(tmp_path: Path, limit: Any):
    with pytest.raises(ConfigError, match="crash_loop_limit: expected None or an integer of at least 2"):
        make_config(tmp_path, crash_loop_limit=limit)


def test_a_condemned_message_is_never_tried_again(tmp_path: Path):
    config: KafkaConsumerConfig = make_config(tmp_path, crash_loop_limit=2, fatal_exceptions=(KeyError,))
    assert config.fatal_exceptions == (KeyError, CrashLoopError)
    config.validate_config()
    assert config.fatal_exceptions == (KeyError, CrashLoopError)
