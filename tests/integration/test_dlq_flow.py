"""From an exception in the user's function to a row on disk with all the evidence."""

from __future__ import annotations

import base64
import json
import os
import stat
import time
from datetime import datetime

import pytest

from kafka_consumer.csv_files import decode_field, decode_headers
from kafka_consumer.csv_writers import DLQ_COLUMNS, dlq_csv_loop
from kafka_consumer.worker_pool import worker_loop
from tests.fakes import MockMessage
from tests.helpers import background, eventually, hourly_files, make_state, read_rows
from tests.integration.conftest import TOPIC


class BrokenOrderError(Exception):
    """A user's own exception."""


class UnshowableError(Exception):
    """An exception that breaks whoever prints it."""

    def __str__(self) -> str:
        raise RuntimeError("no")


def fail(value: bytes | None) -> None:
    raise ValueError(f"can't process {value!r}")


def raise_by_name(value: bytes) -> None:
    kinds = {
        b"ValueError": ValueError("bad value"),
        b"KeyError": KeyError("missing"),
        b"TimeoutError": TimeoutError("too slow"),
        b"BrokenOrderError": BrokenOrderError("order 17"),
        b"UnshowableError": UnshowableError(),
        b"UnicodeEncodeError": UnicodeEncodeError("ascii", "\udcff", 0, 1, "not in range"),
    }
    raise kinds[value]


# --- SPEC -------------------------------------------------------------------------------------------------------------


def test_a_failure_goes_from_the_worker_through_the_queue_to_the_file(tmp_path):
    """SPEC: DLQ Flow - End to End."""
    state = make_state(tmp_path, processor_callable=fail)
    with background(worker_loop, state, 7, stop=state.stop):
        for offset in range(5):
            state.processing_queue.put(MockMessage(TOPIC, 2, offset, b"key", b"value"))
        eventually(lambda: state.dlq_queue.qsize() == 5)
        results = [state.processed_queue.get(timeout=5) for _ in range(5)]
        assert sorted(results) == [(2, offset, "failed") for offset in range(5)]
        with background(dlq_csv_loop, state, stop=state.stop):
            eventually(lambda: len(read_rows(state.config.dlq_path)) == 5)
    assert state.dlq_queue.qsize() == 0
    assert {row["worker_id"] for row in read_rows(state.config.dlq_path)} == {"7"}


def test_a_row_has_all_there_is_to_know_about_a_failure(broker, live):
    """SPEC: DLQ Flow - End to End."""
    life = live(processor_callable=fail, worker_count=1)
    before = datetime.now().astimezone()
    headers = [("trace", b"\x00\xff"), ("trace", None)]
    broker.produce(TOPIC, 1, b'pay\nload,"x"', key=b"k-1", headers=headers, timestamp=1_700_000_000_123)
    life.wait_committed(1, 1)
    after = datetime.now().astimezone()

    [row] = life.dead_letters()
    assert tuple(row) == DLQ_COLUMNS
    assert before <= datetime.fromisoformat(row["failed_at"]) <= after
    assert (row["topic"], row["partition"], row["offset"], row["timestamp"]) == (TOPIC, "1", "0", "1700000000123")
    assert (row["key"], row["value"], row["encoding"]) == ("k-1", 'pay\nload,"x"', "utf-8")
    assert json.loads(row["headers"]) == [["trace", base64.b64encode(b"\x00\xff").decode()], ["trace", None]]
    assert decode_headers(row["headers"]) == (("trace", b"\x00\xff"), ("trace", None))
    assert (row["error_type"], row["error_message"]) == ("ValueError", "can't process b'pay\\nload,\"x\"'")
    assert "in fail" in row["stack_trace"]
    assert row["stack_trace"].rstrip().endswith("ValueError: can't process b'pay\\nload,\"x\"'")
    assert (row["attempts"], row["worker_id"]) == ("1", "0")
    [path] = hourly_files(life.consumer.config.dlq_path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("ValueError", "bad value"),
        ("KeyError", "'missing'"),
        ("TimeoutError", "too slow"),
        ("BrokenOrderError", "order 17"),
        ("UnshowableError", "(the error can't be shown: its __str__ raises)"),
        ("UnicodeEncodeError", "'ascii' codec can't encode character '\\udcff' in position 0: not in range"),
    ],
)
def test_each_kind_of_exception_is_recorded_as_what_it_is(tmp_path, kind, message):
    """SPEC: DLQ Flow - Multiple Error Types."""
    state = make_state(tmp_path, processor_callable=raise_by_name)
    with background(dlq_csv_loop, state, stop=state.stop), background(worker_loop, state, 0, stop=state.stop):
        state.processing_queue.put(MockMessage(TOPIC, 0, 0, None, kind.encode()))
        [row] = eventually(lambda: read_rows(state.config.dlq_path))

    assert row["error_type"] == kind
    assert row["error_message"] == message
    assert "in raise_by_name" in row["stack_trace"]


def test_different_failures_side_by_side_are_all_recorded_and_committed(broker, live):
    """SPEC: DLQ Flow - Multiple Error Types."""
    kinds = ["ValueError", "KeyError", "TimeoutError", "BrokenOrderError"] * 5
    broker.produce_many(TOPIC, 0, [kind.encode() for kind in kinds])
    life = live(processor_callable=raise_by_name)
    life.wait_committed(20)

    rows = {int(row["offset"]): row for row in life.dead_letters()}
    assert [rows[offset]["error_type"] for offset in range(20)] == kinds
    assert all(row["stack_trace"].startswith("Traceback") for row in rows.values())
    eventually(lambda: life.state.counters.dlq_written == 20)


# --- every way into the dead letters ----------------------------------------------------------------------------------


def test_a_chained_exception_shows_its_cause(broker, live):
    def processor(value: bytes) -> None:
        try:
            int(value)
        except ValueError as error:
            raise BrokenOrderError("order 17") from error

    broker.produce(TOPIC, 0, b"x")
    life = live(processor_callable=processor)
    life.wait_committed(1)
    [row] = life.dead_letters()
    assert "invalid literal for int()" in row["stack_trace"]
    assert "The above exception was the direct cause" in row["stack_trace"]


def test_a_message_over_the_limit_is_recorded_whole_without_a_call(broker, live, gate):
    broker.produce(TOPIC, 0, b"x" * 2000)
    broker.produce(TOPIC, 0, b"x" * 1000)
    gate.open.set()
    life = live(processor_callable=gate, max_message_size=1000)
    life.wait_committed(2)
    [row] = life.dead_letters()
    assert (row["offset"], row["error_type"], row["attempts"]) == ("0", "MessageTooLargeError", "0")
    assert row["error_message"] == "the value has 2,000 bytes; max_message_size is 1,000"
    assert row["value"] == "x" * 2000
    assert gate.begun == [b"x" * 1000]


def test_bytes_that_aren_t_text_come_back_exactly(broker, live, gate):
    gate.open.set()
    hostile = b'\xff\x00\x1b[2J\n",\r\\N'
    broker.produce(TOPIC, 0, hostile, key=b"\x80")
    life = live(processor_callable=gate)
    life.wait_committed(1)
    [row] = life.dead_letters()
    assert (row["error_type"], row["encoding"], row["worker_id"]) == ("UnicodeDecodeError", "base64", "")
    assert decode_field(row["value"], row["encoding"]) == hostile
    assert decode_field(row["key"], row["encoding"]) == b"\x80"
    assert gate.begun == []


@pytest.mark.parametrize("value", [None, b"", b"\\N", b"=1+1", "ünïcode \u202e".encode(), b"a\r\nb\x00c"])
def test_what_is_written_reads_back_as_it_was(broker, live, value):
    broker.produce(TOPIC, 0, value, key=value)
    life = live(processor_callable=fail)
    life.wait_committed(1)
    [row] = life.dead_letters()
    assert decode_field(row["value"], row["encoding"]) == value
    assert decode_field(row["key"], row["encoding"]) == value


def test_a_call_that_takes_too_long_is_recorded_with_where_it_was(broker, live, gate):
    broker.produce(TOPIC, 0, b"slow")
    life = live(processor_callable=gate, processing_timeout=0.05)
    began = time.monotonic()
    life.wait_committed(1)
    assert gate.done == [], "expected the record while the call still ran"
    assert time.monotonic() - began < 5
    [row] = life.dead_letters()
    assert row["error_type"] == "TimeoutError"
    assert "processing_timeout=0.05 s" in row["error_message"]
    assert "in __call__" in row["stack_trace"]


def test_a_dead_letter_is_written_once_even_where_the_commit_has_to_be_tried_again(broker, live):
    broker.produce_many(TOPIC, 0, [b"x"] * 5)
    life = live(start=False, processor_callable=fail)
    life.client.commit_errors.extend(RuntimeError("not now") for _ in range(3))
    life.consumer.start()
    life.wait_committed(5)
    assert sorted(int(row["offset"]) for row in life.dead_letters()) == list(range(5))


def test_thousands_of_failures_are_all_on_disk_before_they_are_committed(broker, live):
    broker.produce_many(TOPIC, 0, [b"x"] * 3000)
    life = live(start=False, processor_callable=fail, queue_size=1000)
    on_disk_at_commit: list[tuple[int, int]] = []

    def look(offsets) -> None:
        on_disk_at_commit.append((offsets[0].offset, len(life.dead_letters())))

    life.client.commit_hook = look
    life.consumer.start()
    life.wait_committed(3000)
    assert all(rows >= committed for committed, rows in on_disk_at_commit)
    assert life.end() == 0
    assert len(life.dead_letters()) == 3000


def test_the_last_dead_letters_are_in_the_snapshot(broker, live):
    broker.produce_many(TOPIC, 0, [b"x%d" % n for n in range(60)])
    life = live(processor_callable=fail, worker_count=1)
    life.wait_committed(60)
    eventually(lambda: life.state.counters.dlq_written == 60)
    eventually(lambda: len(life.consumer._dead_letters.tail) == 50 and life.consumer._dead_letters.tail[-1][1].offset == 59)
    tail = life.consumer.snapshot().dlq_tail
    assert [letter.offset for letter in tail] == list(range(10, 60))
    assert (tail[-1].error_type, tail[-1].value) == ("ValueError", "x59")
