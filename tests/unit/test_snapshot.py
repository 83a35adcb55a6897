"""A snapshot is frozen, JSON-able and safe to print; its figures are those of the parts."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kafka_consumer.chunk import Chunk, Completion
from kafka_consumer.csv_writers import DeadLetterWriter
from kafka_consumer.dead_letter import dead_letter
from kafka_consumer.logs import LogTail
from kafka_consumer.offset_manager import Committer
from kafka_consumer.polling_thread import Poller
from kafka_consumer.snapshot import SNAPSHOT_VERSION, Percentiles, Snapshot, sanitise
from kafka_consumer.snapshot_builder import PAYLOAD_CHARACTERS, TRACE_LINES, SnapshotBuilder
from kafka_consumer.types import Phase
from kafka_consumer.worker import Worker
from kafka_consumer.worker_pool import WorkerPool
from tests.fakes import FakeBroker, FakeConsumer, FakeMessage, MockMessage
from tests.helpers import background, eventually, hourly_files, make_state

TOPIC = "test-topic"
HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202eevil\u2066\r\n\ud800[red]\x9b31m\u200b"


class Parts:
    """All that a snapshot is made of, without a thread."""

    def __init__(self, folder: Path, *, partitions: int = 2, polling: bool = True, **options: Any) -> None:
        self.state = make_state(folder, **options)
        self.broker = FakeBroker({TOPIC: partitions})
        self.consumer = FakeConsumer(self.broker)
        self.poller = Poller(self.state, self.consumer)
        self.poller.partitions.subscribed = True
        callbacks = self.poller.partitions
        self.consumer.subscribe([TOPIC], on_assign=callbacks.on_assign, on_revoke=callbacks.on_revoke, on_lost=callbacks.on_lost)
        self.pool = WorkerPool(self.state)
        self.committer = Committer(self.state, self.consumer)
        self.letters = DeadLetterWriter(self.state)
        self.log = LogTail()
        self.builder = SnapshotBuilder(
            self.state, self.poller if polling else None, self.pool, self.committer, self.letters, self.log
        )

    def build(self) -> Snapshot:
        return self.builder.build()

    def poll(self, times: int = 5) -> None:
        for _ in range(times):
            self.poller.step()

    def work(self) -> None:
        """Process what waits, as workers do, and take the results in."""
        while (chunk := self.state.processing_queue.take(timeout=0)) is not None:
            assert chunk.assignment is not None
            assert chunk.sequences is not None
            self.state.processed_queue.add(Completion(chunk.assignment, chunk.sequences, failed=False))
            self.state.processing_queue.release(chunk)
        self.committer.collect()


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    """A consumer of two partitions."""
    made = Parts(tmp_path)
    yield made
    made.state.stop("the test has ended")


def _check_json(snapshot: Snapshot) -> dict[str, Any]:
    line = snapshot.to_json()
    assert "\n" not in line
    found: dict[str, Any] = json.loads(line)
    assert found == json.loads(json.dumps(snapshot.to_dict()))
    assert list(found) == [field.name for field in dataclasses.fields(Snapshot)]
    return found


# --- before, during, after --------------------------------------------------------------------------------------------


def test_a_consumer_that_has_not_started_has_a_snapshot(tmp_path: Path):
    snapshot = Parts(tmp_path, polling=False).build()
    assert (snapshot.version, snapshot.sequence, snapshot.phase) == (SNAPSHOT_VERSION, 1, "starting")
    assert (snapshot.pid, snapshot.topic, snapshot.group_id) == (os.getpid(), TOPIC, "test-group")
    assert (snapshot.workers, snapshot.partitions, snapshot.replay, snapshot.stop_reason) == ((), (), None, None)
    assert (snapshot.paused, snapshot.dev_mode, snapshot.log_level) == (False, False, "INFO")
    assert abs(snapshot.at - time.time()) < 5
    found = _check_json(snapshot)
    assert set(found["queues"]) == {"processing", "processed", "dlq", "backup"}
    assert found["queues"]["processing"] == {"depth": 0, "capacity": 1000, "bytes": 0}
    assert found["latency"]["processing"] == {"p50": None, "p95": None, "p99": None}
    assert set(found["totals"]) >= {
        "polled", "processed", "failed", "retried", "committed", "dlq_written", "backup_written", "backup_skipped",
    }  # fmt: skip


def test_a_snapshot_shows_where_each_partition_is(parts: Parts):
    parts.broker.produce_many(TOPIC, 0, [b"12345"] * 4)
    parts.broker.produce(TOPIC, 1, b"1", timestamp=int(time.time() * 1000) - 60_000)
    parts.broker.produce(TOPIC, 1, b"2")
    parts.poll()
    first = parts.build()
    assert [(p.partition, p.position, p.committed, p.high_watermark, p.lag, p.in_flight) for p in first.partitions] == [
        (0, 4, None, 4, 0, 4),
        (1, 2, None, 2, 0, 2),
    ]
    assert first.queues["processing"].depth == 6
    assert first.queues["processing"].bytes == 22
    assert first.partitions[0].oldest_seconds is not None
    parts.work()
    parts.committer.commit_now()
    second = parts.build()
    assert [(p.committed, p.lag, p.in_flight, p.state) for p in second.partitions] == [(4, 0, 0, "running"), (2, 0, 0, "running")]
    assert (second.totals.polled, second.totals.processed, second.totals.committed) == (6, 6, 6)
    assert second.sequence == 2
    assert second.partitions[0].rate > 0
    assert second.partitions[0].eta_seconds == 0.0
    assert second.rates.processed > 0
    assert second.latency.poll_to_commit.p50 is not None
    _check_json(second)


def test_lag_is_what_lies_between_the_commit_and_the_end(parts: Parts):
    parts.broker.produce_many(TOPIC, 0, [b"v"] * 4)
    parts.poll()
    parts.work()
    parts.committer.commit_now()
    parts.broker.produce_many(TOPIC, 0, [b"v"] * 3)
    parts.poller.watermarks = {(TOPIC, 0): 7}
    view = parts.build().partitions[0]
    assert (view.committed, view.high_watermark, view.lag) == (4, 7, 3)
    assert view.time_lag_seconds is not None
    parts.poller.watermarks = {(TOPIC, 0): 2}  # cached, older than what was delivered
    assert parts.build().partitions[0].high_watermark == 4
    parts.poller.watermarks = {(TOPIC, 0): -1001}
    assert parts.build().partitions[0].lag is None
    parts.poller.watermarks = {}
    assert parts.build().partitions[0].high_watermark is None


def test_an_empty_partition_has_no_lag(parts: Parts):
    parts.poll()
    assert [(p.high_watermark, p.lag) for p in parts.build().partitions] == [(0, 0), (0, 0)]
    parts.consumer.bounce()  # nothing known yet
    parts.consumer.poll(0)
    parts.poller.watermarks = {(TOPIC, 0): 0, (TOPIC, 1): 5}
    assert [p.lag for p in parts.build().partitions] == [0, None]


def test_a_paused_partition_says_so(parts: Parts):
    parts.poll()
    parts.poller.pause({(TOPIC, 1)})
    one = parts.build()
    assert [p.state for p in one.partitions] == ["running", "paused"]
    assert one.partitions[1].note == "paused by the operator"
    assert one.paused is False
    parts.poller.pause(None)
    everything = parts.build()
    assert [p.state for p in everything.partitions] == ["paused", "paused"]
    assert everything.paused is True


def test_a_replay_shows_its_progress(tmp_path: Path):
    parts = Parts(tmp_path, stop_at_offset={(TOPIC, 0): 9})
    parts.broker.set_committed("test-group", TOPIC, 0, 0)
    parts.broker.produce_many(TOPIC, 0, [b"v"] * 20)
    parts.poll(1)
    first = parts.build()
    assert first.replay is not None
    assert (first.replay.done, first.replay.total) == (0, 10)
    assert first.partitions[0].stop_at == 9
    parts.work()
    parts.committer.commit_now()
    last = parts.build()
    assert last.replay is not None
    assert (last.replay.done, last.replay.total) == (10, 10)
    assert last.partitions[0].state == "stopped"
    assert last.stop_reason == "stop target reached: test-topic-0@9"
    _check_json(last)


def test_a_revoked_partition_is_gone_from_the_next_snapshot(parts: Parts):
    parts.poll()
    assert len(parts.build().partitions) == 2
    parts.consumer.revoke((TOPIC, 0))
    parts.poll()
    assert [p.partition for p in parts.build().partitions] == [1]


def test_asking_for_a_snapshot_has_the_watermarks_watched(parts: Parts):
    assert parts.poller.looked_at == 0.0
    parts.build()
    assert time.monotonic() - parts.poller.looked_at < 5


def test_the_end_and_its_reason_are_shown(parts: Parts):
    parts.state.lifecycle.advance(Phase.DRAINING)
    parts.state.fail(f"disk full{HOSTILE}")
    snapshot = parts.build()
    assert snapshot.phase == "draining"
    assert snapshot.stop_reason is not None
    assert snapshot.stop_reason.startswith("disk full\\x1b]0;owned")


def test_dev_mode_and_the_log_level_are_those_of_now(parts: Parts):
    parts.state.dev_mode.set()
    parts.state.set_log_level("WARNING")
    snapshot = parts.build()
    assert (snapshot.dev_mode, snapshot.log_level) == (True, "WARNING")


def test_a_rate_forgets_what_is_long_ago(parts: Parts, monkeypatch: pytest.MonkeyPatch):
    parts.poll()
    parts.broker.produce_many(TOPIC, 0, [b"v"] * 10)
    parts.poll()
    parts.build()
    parts.work()
    assert parts.build().partitions[0].rate > 0
    real = time.monotonic
    for seconds in (3, 6, 9, 12):
        monkeypatch.setattr(time, "monotonic", lambda later=seconds: real() + later)
        last = parts.build()
        assert last.sequence > 2
    assert parts.build().partitions[0].rate == 0.0


# --- hostile text -----------------------------------------------------------------------------------------------------


def _safe(value: Any) -> bool:
    if isinstance(value, str):
        return sanitise(value, len(value) + 1) == value
    if isinstance(value, dict):
        return all(map(_safe, value.values())) and all(map(_safe, value))
    return all(map(_safe, value)) if isinstance(value, list | tuple) else True


def test_nothing_that_a_message_or_an_error_says_reaches_a_screen_raw(parts: Parts):
    message = FakeMessage(
        TOPIC, 0, 5, HOSTILE.encode("utf-8", "surrogatepass"), b"\xff" * 50_000, headers=[(HOSTILE, b"\x1b[2J")] * 60
    )
    error = type("Evil\x1b[2J", (Exception,), {})(HOSTILE * 1000)
    with background(parts.letters.run, stop=lambda: parts.state.stop("enough")):
        parts.state.dlq_queue.put(dead_letter(message, error, 1, 0))
        parts.state.dlq_queue.put(dead_letter(MockMessage(TOPIC, 0, 6, None, None), ValueError("\n" * 500), 1, 0))
        eventually(lambda: len(parts.letters.tail) == 2)
    parts.log.emit(logging.LogRecord("kafka_consumer", logging.ERROR, "", 0, HOSTILE, None, None))
    snapshot = parts.build()
    first, second = snapshot.dlq_tail
    assert _safe(snapshot.to_dict())
    assert first.value is not None
    assert len(first.value) <= PAYLOAD_CHARACTERS
    assert len(first.headers) == 50
    assert len(first.stack_trace) <= TRACE_LINES
    assert (second.key, second.value, second.headers) == (None, None, ())
    assert snapshot.log_tail[-1].message.startswith("\\x1b]0;owned")
    _check_json(snapshot)
    assert parts.build().dlq_tail is snapshot.dlq_tail  # drawn up once
    assert hourly_files(parts.state.config.dlq_path)


@settings(deadline=None)
@given(st.text(), st.integers(2, 100))
def test_sanitised_text_is_one_safe_line_of_bounded_length(text: str, limit: int):
    clean = sanitise(text, limit)
    assert len(clean) <= limit
    assert clean.isprintable() or all(c.isprintable() or c.isspace() or ord(c) > 0x9F for c in clean)
    assert len(clean.splitlines()) <= 1
    clean.encode()
    assert not set(clean) & set("\x00\x07\x1b\x7f\x9b\u202e\u2066\u200b\r\n\ufeff")
    assert sanitise(clean, limit) == clean


def test_what_is_harmless_stays_as_it_is():
    assert sanitise("Ünïcode 漢字 🎉 [red]=1+1") == "Ünïcode 漢字 🎉 [red]=1+1"
    assert sanitise("a\nb\tc") == "a⏎b c"
    assert sanitise("x" * 600) == "x" * 499 + "…"


# --- size and shape ---------------------------------------------------------------------------------------------------


def test_a_thousand_workers_and_partitions_fit_into_one_snapshot(tmp_path: Path):
    parts = Parts(tmp_path, partitions=1000, worker_count=1000)
    parts.consumer.poll(0)
    parts.pool.workers = tuple(Worker(parts.state, number, parts.pool._supervisor) for number in range(1000))
    snapshot = parts.build()
    assert len(snapshot.workers) == len(snapshot.partitions) == 1000
    assert [worker.id for worker in snapshot.workers] == list(range(1000))
    assert [partition.partition for partition in snapshot.partitions] == list(range(1000))
    assert len(_check_json(snapshot)["partitions"]) == 1000


def test_a_busy_worker_is_shown_with_what_it_holds(tmp_path: Path):
    parts = Parts(tmp_path)
    worker = Worker(parts.state, 4, parts.pool._supervisor)
    worker._chunk = Chunk([MockMessage(TOPIC, 1, 9, None, b"v")])
    worker._since = time.monotonic() - 5
    worker.processed, worker.failed = 7, 2
    parts.pool.workers = (worker,)
    (view,) = parts.build().workers
    assert (view.id, view.state, view.topic, view.partition, view.offset) == (4, "busy", TOPIC, 1, 9)
    assert view.busy_seconds == pytest.approx(5, abs=1)
    assert (view.processed, view.failed) == (7, 2)
    worker._chunk = None
    (view,) = parts.build().workers
    assert (view.state, view.offset, view.busy_seconds) == ("idle", None, 0.0)


def test_a_snapshot_is_frozen(parts: Parts):
    parts.poll()
    snapshot = parts.build()
    for target, name in (
        (snapshot, "phase"),
        (snapshot.totals, "polled"),
        (snapshot.partitions[0], "lag"),
        (Percentiles(1, 2, 3), "p50"),
    ):
        with pytest.raises((dataclasses.FrozenInstanceError, AttributeError, TypeError)):
            setattr(target, name, 1)


def test_its_plain_form_may_be_changed_without_changing_it(parts: Parts):
    parts.poll()
    snapshot = parts.build()
    plain = snapshot.to_dict()
    plain["partitions"][0]["lag"] = 99
    plain["queues"]["dlq"]["depth"] = 99
    assert snapshot.partitions[0].lag != 99
    assert snapshot.queues["dlq"].depth == 0
