"""``backup_mode="strict"``: a message's offset waits for its backup row, and polling waits rather than skip one."""

from __future__ import annotations

import threading

import pytest

from kafka_consumer import polling_thread
from tests.helpers import eventually
from tests.integration.conftest import TOPIC


def numbers(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % n for n in range(start, start + count)]


class Disk:
    """Holds every sync of the backup until it is let go, or makes it fail."""

    def __init__(self, sync) -> None:
        self._sync = sync
        self.asked = threading.Event()
        self.free = threading.Event()
        self.error: OSError | None = None

    def __call__(self) -> None:
        self.asked.set()
        assert self.free.wait(10)
        if self.error is not None:
            raise self.error
        self._sync()


@pytest.fixture
def strict(live):
    """A consumer that isn't started yet, and the disk under its backup."""
    made: list[Disk] = []

    def build(**options):
        life = live(start=False, backup_mode="strict", **options)
        disk = Disk(life.consumer._backup._file.sync)
        life.consumer._backup._file.sync = disk
        made.append(disk)
        return life, disk

    yield build
    for disk in made:
        disk.free.set()


def test_an_offset_is_committed_when_its_row_is_on_disk_and_not_before(broker, strict):
    broker.produce_many(TOPIC, 0, numbers(10))
    life, disk = strict()
    life.consumer.start()
    eventually(lambda: life.state.counters.processed == 10)
    assert disk.asked.wait(10)
    life.state.shutdown_event.wait(0.2)  # four intervals
    assert life.committed() is None
    disk.free.set()
    life.wait_committed(10)
    assert len(life.backup()) == 10
    assert life.end() == 0


def test_nothing_is_recorded_beyond_a_gap_either_before_its_row_is_on_disk(broker, strict):
    gate = threading.Event()

    def processor(value: bytes | None) -> None:
        if value == b"0":
            gate.wait(10)

    broker.produce_many(TOPIC, 0, numbers(10))
    life, disk = strict(processor_callable=processor)
    life.consumer.start()
    eventually(lambda: life.state.counters.processed == 9)
    life.state.shutdown_event.wait(0.2)
    assert broker.metadata("test-group", TOPIC) == ""
    disk.free.set()
    eventually(lambda: broker.metadata("test-group", TOPIC))
    gate.set()
    assert life.end() == 0
    assert life.committed() == 10


def test_a_row_is_never_skipped_polling_waits_and_the_member_stays(broker, strict, monkeypatch):
    monkeypatch.setattr(polling_thread, "PAUSE_AFTER_SECONDS", 0.1)
    broker.produce_many(TOPIC, 0, numbers(500))
    life, disk = strict(queue_size=10, csv_batch_size=1000)
    life.consumer.start()
    eventually(lambda: (TOPIC, 0) in life.client.paused)
    assert life.state.counters.polled < 500
    assert life.committed() is None
    disk.free.set()
    life.wait_committed(500)
    assert life.end() == 0
    assert sorted(int(row["offset"]) for row in life.backup()) == list(range(500))
    assert life.state.counters.backup_skipped == 0


def test_a_backup_that_fails_ends_the_consumer_and_its_messages_are_not_committed(broker, strict):
    broker.produce_many(TOPIC, 0, numbers(10))
    life, disk = strict()
    disk.error = OSError(28, "No space left on device")
    life.consumer.start()
    eventually(lambda: life.state.counters.processed == 10)
    disk.free.set()
    assert life.wait_end() == 1
    assert life.committed() is None
    assert life.state.counters.backup_skipped == 0


def test_a_revocation_waits_for_the_rows_of_what_it_commits(broker, strict):
    broker.produce_many(TOPIC, 0, numbers(10))
    life, disk = strict(commit_interval_seconds=3600.0, csv_flush_interval_seconds=3600.0)
    disk.free.set()
    life.consumer.start()
    eventually(lambda: life.state.counters.polled == 10 and not life.state.processing_queue.taken)
    life.client.revoke((TOPIC, 0))
    eventually(lambda: broker.owner("test-group", TOPIC) is None)
    assert life.committed() == 10
    assert len(life.backup()) == 10
