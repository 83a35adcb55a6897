"""Nothing is lost, and what is repeated is bounded: crashes, rebalances, the ends of partitions, transactions."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest
from confluent_kafka import Producer

from tests.helpers import background, eventually, hourly_files, read_rows
from tests.kafka import Kafka
from tests.runs import Command, Ledger, Note, Run, numbered, repeats

pytestmark = [pytest.mark.e2e, pytest.mark.needs_real_broker]

SHORT_SESSION = ("-X", "session.timeout.ms=1500", "-X", "heartbeat.interval.ms=300")


# --- crashes ----------------------------------------------------------------------------------------------------------

MESSAGES = 20_000
KILLS = 10


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_after_ten_kills_every_message_was_processed_or_is_in_the_dead_letters(
    real_kafka: Kafka, command: Callable[..., Command], chance: random.Random, note: Note
) -> None:
    """SPEC: CSV File Integrity. (And guarantees 1 and 2: SIGKILL at any instant, every file readable afterwards.)"""
    values = [b"%s-%05d" % (b"bad" if n % 20 == 13 else b"good", n) for n in range(MESSAGES)]
    bad = {value for value in values if value.startswith(b"bad")}
    topic = real_kafka.create_topic(partitions=3)
    real_kafka.produce(topic, values)
    # Paced, so that work is left for every life: about a tenth of it in each.
    body = "time.sleep(0.001)\nif value.startswith(b'bad'): raise ValueError('bad')"

    def start() -> Command:
        return command(topic, "--workers", "8", *SHORT_SESSION, body=body)

    for _ in range(KILLS):
        kc = start()
        enough = len(kc.ledger()) + chance.randrange(100, MESSAGES // KILLS)
        kc.wait_ledger(min(enough, MESSAGES - 1500))
        time.sleep(chance.uniform(0, 0.1))
        kc.kill()
        assert_readable(kc)
    final = start()
    real_kafka.wait_for_lag(topic, topic, timeout=90)

    assert final.end() == 0
    assert real_kafka.lag(topic, topic) == 0
    ledger, letters = final.ledger(), [value or b"" for value in final.dead_letters()]
    assert set(ledger) | set(letters) == set(values)
    assert set(letters) == bad
    repeated, repeated_letters = repeats(ledger), repeats(letters)
    torn = len(list(final.folder.glob("*.torn")))
    for name, number in (("repeated", repeated), ("repeated_dead_letters", repeated_letters), ("torn_rows", torn)):
        note(name, number)
    # A life repeats at the most what its queue and its workers held and what a commit interval let through.
    assert repeated < KILLS * 2500
    # The backup has every message that was processed, but for what a kill took from its buffer.
    assert set(final.backup()) <= set(values)


def assert_readable(kc: Command) -> None:
    """Every row but the last is whole; the last one may be torn until the next start sets it aside."""
    for base, columns in ((kc.backup_path, 9), (kc.dlq_path, 14)):
        if not hourly_files(base):
            continue
        for row in read_rows(base)[:-1]:
            assert len(row) == columns
            assert None not in row
            assert None not in row.values()


# --- the ends of partitions -------------------------------------------------------------------------------------------


def test_the_end_of_a_partition_never_commits_what_still_waits_for_a_worker(
    real_kafka: Kafka, running: Callable[..., Run]
) -> None:
    """The last messages come in one batch with the end of their partition, while the ones before fill the queue."""
    topic = real_kafka.create_topic()
    values = numbered(49)
    real_kafka.produce(topic, values)
    done: list[int] = []

    def work(value: bytes) -> None:
        time.sleep(0.02)
        done.append(int(value.rpartition(b"-")[2]))

    run = running(topic, work, worker_count=2, queue_size=16)
    deadline = time.monotonic() + 30
    seen: list[int] = []
    while run.lag():
        assert time.monotonic() < deadline, (run.totals, done)
        committed = run.committed().get(0, 0)
        seen.append(committed)
        # Read in this order: what was committed then was done before it.
        finished = set(done)
        assert set(range(committed)) <= finished, f"{committed} committed, but not done: {set(range(committed)) - finished}"
    assert sorted(done) == list(range(49))
    assert len(set(seen)) > 2, "expected commits on the way"
    assert run.committed() == {0: 49}
    assert run.end() == 0


def test_a_topic_of_transactions_some_aborted_ends_at_lag_0(real_kafka: Kafka, running: Callable[..., Run]) -> None:
    """The markers of transactions, and the messages of aborted ones, are holes that no commit may stumble over."""
    topic = real_kafka.create_topic(partitions=2)
    producer = Producer({"bootstrap.servers": real_kafka.bootstrap, "transactional.id": f"tx-{topic}"})
    producer.init_transactions(30)
    visible: list[bytes] = []

    def transaction(number: int, *, commit: bool) -> None:
        producer.begin_transaction()
        for index in range(20):
            value = f"{number}-{'kept' if commit else 'aborted'}-{index}".encode()
            producer.produce(topic, value, partition=index % 2)
            if commit:
                visible.append(value)
        producer.flush(30)
        (producer.commit_transaction if commit else producer.abort_transaction)(30)

    for number in range(8):
        transaction(number, commit=number % 3 != 1)
    ledger = Ledger()
    run = running(topic, ledger)
    run.wait_finished(len(visible))
    # More come while it runs; the last one of all is aborted.
    for number in range(8, 12):
        transaction(number, commit=number % 2 == 0)

    run.wait_finished(len(visible))
    real_kafka.wait_for_lag(topic, topic)
    assert run.committed() == real_kafka.end_offsets(topic)
    assert sum(run.committed().values()) == 12 * 20 + 12 * 2, "expected a marker in each partition for each transaction"
    assert sorted(ledger.values) == sorted(visible)
    eventually(lambda: {view.lag for view in run.consumer.snapshot().partitions} == {0}, what="lag 0 in the snapshot")
    assert run.end() == 0


# --- members of a group -----------------------------------------------------------------------------------------------


class Pair:
    """Two members of one group who share six partitions; messages come in until ``feeding`` ends."""

    def __init__(self, kafka: Kafka, command: Callable[..., Command], *, static: bool) -> None:
        self.kafka = kafka
        self.topic = kafka.create_topic(partitions=6)
        self.values: list[bytes] = []
        self._command = command
        self._static = static
        self.one = self.start("one")
        self.one.wait_log("assigned: ")
        self.two = self.start("two")
        self.two.wait_log("assigned: ")
        eventually(lambda: self.two.log.count(f"{self.topic}-") == 3, what="three partitions for each")

    def start(self, name: str) -> Command:
        """Start a member (again), on its own files."""
        options = ["-X", "session.timeout.ms=6000", "-X", "heartbeat.interval.ms=500"]
        if self._static:
            options += ["-X", f"group.instance.id={name}"]
        return self._command(self.topic, *options, folder=name, body="time.sleep(0.002)")

    def feed(self, enough: threading.Event) -> None:
        """Write 60 messages a twentieth of a second until that is enough."""
        while not enough.wait(0.05):
            lot = numbered(60, start=len(self.values))
            self.kafka.produce(self.topic, lot)
            self.values += lot

    def processed(self) -> list[bytes]:
        return self.one.ledger() + self.two.ledger()


def test_a_member_that_leaves_its_group_mid_stream_loses_and_repeats_nothing(
    real_kafka: Kafka, command: Callable[..., Command]
) -> None:
    """The other one goes on exactly where this one ended (guarantees 3 and 6)."""
    pair = Pair(real_kafka, command, static=False)
    enough = threading.Event()
    with background(pair.feed, enough, stop=enough.set):
        eventually(lambda: min(len(pair.one.ledger()), len(pair.two.ledger())) > 300, 30, what="both to be at work")
        assert pair.one.end() == 0
        before = len(pair.values)
        eventually(lambda: len(pair.values) > before + 600, 30, what="more messages")
    real_kafka.wait_for_lag(pair.topic, pair.topic)

    assert pair.two.end() == 0
    assert Counter(pair.processed()) == dict.fromkeys(pair.values, 1)
    assert set(pair.one.backup()) | set(pair.two.backup()) == set(pair.values)


def test_a_static_member_that_restarts_gets_its_partitions_back_without_a_rebalance(
    real_kafka: Kafka, command: Callable[..., Command]
) -> None:
    """With ``group.instance.id`` the other member doesn't notice, and nothing is lost or repeated."""
    pair = Pair(real_kafka, command, static=True)
    enough = threading.Event()
    with background(pair.feed, enough, stop=enough.set):
        eventually(lambda: min(len(pair.one.ledger()), len(pair.two.ledger())) > 300, 30, what="both to be at work")
        before = pair.two.log
        assert pair.one.end() == 0
        done = len(pair.one.ledger())
        pair.one = pair.start("one")
        eventually(lambda: len(pair.one.ledger()) > done + 300, 30, what="the first member to be at work again")
    real_kafka.wait_for_lag(pair.topic, pair.topic)

    assert pair.two.log == before, "expected the other member to have seen no rebalance"
    assert pair.one.end() == 0
    assert pair.two.end() == 0
    assert Counter(pair.processed()) == dict.fromkeys(pair.values, 1)
