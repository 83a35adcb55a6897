from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_consumer.snapshot import Snapshot
from tests.tui.fakes import make_snapshot
from tests.tui.hostile import FORBIDDEN, hostile_snapshot
from tui.feed import WireError, snapshot_from_dict
from tui.wire import SnapshotReader

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


def texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for key, item in value.items() for text in (*texts(key), *texts(item))]
    if isinstance(value, list | tuple):
        return [text for item in value for text in texts(item)]
    return []


def test_a_snapshot_survives_the_way_over_the_socket():
    snapshot = make_snapshot()
    assert snapshot_from_dict(json.loads(snapshot.to_json())) == snapshot


def test_every_text_of_a_hostile_peer_is_made_harmless():
    received = snapshot_from_dict(json.loads(json.dumps(hostile_snapshot().to_dict())))
    assert not [text for text in texts(received.to_dict()) if FORBIDDEN.search(text)]


@pytest.mark.parametrize("value", [None, [], "snapshot", 7, {}, {"phase": None}, {"phase": 3}])
def test_what_is_no_snapshot_at_all_is_refused(value):
    with pytest.raises(WireError):
        snapshot_from_dict(value)


@given(st.dictionaries(st.sampled_from(sorted(Snapshot.__dataclass_fields__)), JSON))
def test_any_fields_of_any_kind_give_a_snapshot(fields):
    snapshot = snapshot_from_dict({**fields, "phase": "running"})
    assert isinstance(snapshot, Snapshot)
    json.dumps(snapshot.to_dict(), allow_nan=False)


def test_missing_and_unknown_fields_are_taken_with_calm():
    snapshot = snapshot_from_dict({"phase": "running", "of_the_future": 1, "workers": [{"id": 3, "new": True}, "x", None]})
    assert [worker.id for worker in snapshot.workers] == [3]
    assert snapshot.workers[0].state == "unknown"
    assert snapshot.replay is None


def test_offsets_stay_exact():
    partitions = [{"topic": "t", "partition": 0, "position": 2**62 + 1, "committed": 10**30, "lag": True}]
    row = snapshot_from_dict({"phase": "running", "partitions": partitions}).partitions[0]
    assert (row.position, row.committed, row.lag) == (2**62 + 1, None, None)


def test_the_stack_of_a_worker_is_cleaned_and_cut_to_its_innermost_calls():
    lines = [f"call {number}" for number in range(200)] + ["\x1b[2J" + "x" * 1000, 7]
    workers = [{"id": 1, "stack": lines}, {"id": 2, "stack": "no list"}, {"id": 3, "stack": {}}, {"id": 4}]
    first, *others = snapshot_from_dict({"phase": "running", "workers": workers}).workers
    assert len(first.stack) == 60
    assert (first.stack[0], first.stack[-3], first.stack[-1]) == ("call 142", "call 199", "")
    assert first.stack[-2].startswith(r"\x1b[2Jxxx")
    assert len(first.stack[-2]) == 400
    assert [worker.stack for worker in others] == [(), (), ()]


def test_rows_that_come_as_they_came_before_are_the_same_objects():
    reader = SnapshotReader()
    value = json.loads(make_snapshot().to_json())
    first = reader.read(copy.deepcopy(value))
    again = reader.read(copy.deepcopy(value))
    for name in ("workers", "partitions", "dlq_tail", "log_tail"):
        assert getattr(again, name) is getattr(first, name), name
    value["partitions"][3]["lag"] = 7
    moved = reader.read(copy.deepcopy(value))
    assert [row.lag for row in moved.partitions][2:4] == [first.partitions[2].lag, 7]
    assert [now is before for now, before in zip(moved.partitions, first.partitions, strict=True)].count(False) == 1
    assert moved.workers is first.workers


@pytest.mark.parametrize("change", [list.reverse, list.clear, lambda rows: rows.pop(0), lambda rows: rows.insert(0, {}),
                                    lambda rows: rows.extend(rows[:2])])  # fmt: skip
def test_whatever_came_before_a_snapshot_is_read_as_if_it_were_the_first(change):
    reader = SnapshotReader()
    value = json.loads(make_snapshot().to_json())
    reader.read(copy.deepcopy(value))
    for name in ("workers", "partitions", "dlq_tail", "log_tail"):
        change(value[name])
    assert reader.read(copy.deepcopy(value)) == snapshot_from_dict(value)


def test_lists_and_texts_are_bounded():
    value = {"phase": "running", "topic": "x" * 10_000, "workers": [{}] * 30_000, "log_tail": [{"message": "m"}] * 5_000}
    snapshot = snapshot_from_dict(value)
    assert len(snapshot.topic) == 300
    assert len(snapshot.workers) == 20_000
    assert len(snapshot.log_tail) == 1_000
