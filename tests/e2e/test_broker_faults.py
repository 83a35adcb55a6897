"""Brokers that refuse, hang, die and come back, one after another; and a run that ends while they do."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping

import pytest

from tests.conftest import _missing
from tests.helpers import eventually
from tests.kafka import Kafka, LocalKafka
from tests.kafka.choice import local_missing
from tests.kafka.properties import login, secured
from tests.runs import Command, Ledger, Note, Run, numbered, repeats

# The stage is the folder's, but for those marked stress.
pytestmark = pytest.mark.needs_real_broker

SHORT_SESSION = {"session.timeout.ms": 6000, "heartbeat.interval.ms": 1000}
IMPATIENT = {**SHORT_SESSION, "socket.timeout.ms": 6000, "reconnect.backoff.max.ms": 1000}


def options(values: Mapping[str, object]) -> list[str]:
    """Return librdkafka's options as they are given on the command line."""
    return [part for name, value in values.items() for part in ("-X", f"{name}={value}")]


def said(caplog: pytest.LogCaptureFixture, text: str, level: int = logging.WARNING) -> list[str]:
    """Return the messages of at least a level that hold a text."""
    return [r.getMessage() for r in list(caplog.records) if r.levelno >= level and text in r.getMessage()]


# --- rights that are taken away ---------------------------------------------------------------------------------------

USERS = {"admin": "the-admins-own", "reader": "the-readers-own"}


@pytest.fixture(scope="module")
def guarded_kafka(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """A broker where clients log in, and may do what an ACL allows them."""
    if reason := local_missing():
        _missing(f"needs a broker of its own: {reason}")
    properties, admin = secured(USERS, "admin"), login("admin", USERS["admin"])
    with LocalKafka(folder=tmp_path_factory.mktemp("guarded-kafka"), properties=properties, client_options=admin) as broker:
        yield broker


@pytest.mark.parametrize("right", ["topic", "group"])
def test_a_right_that_is_taken_away_in_mid_stream_ends_the_run_drained_and_nothing_is_lost(
    guarded_kafka: LocalKafka, command: Callable[..., Command], right: str
) -> None:
    topic = guarded_kafka.create_topic(partitions=2)
    values = numbered(600)
    guarded_kafka.produce(topic, values)
    guarded_kafka.allow("reader", topic=topic, group=topic)
    mine = options({**login("reader", USERS["reader"]), **SHORT_SESSION, "queued.min.messages": 10})

    kc = command(topic, "--queue-size", "50", *mine, kafka=guarded_kafka, body="time.sleep(0.02)")
    kc.wait_ledger(100)
    if right == "topic":
        guarded_kafka.forbid_topic("reader", topic)
    else:
        guarded_kafka.forbid_group("reader", topic)

    assert kc.wait() == 1
    assert {line.partition("CRITICAL ")[2].partition(";")[0].strip() for line in kc.lines("CRITICAL")} <= {
        f"Kafka refuses access: Broker: {right.capitalize()} authorization failed",
        f"Kafka refuses access: Fetch from broker 1 failed: Broker: {right.capitalize()} authorization failed",
    }
    assert 1 <= len(kc.lines("CRITICAL")) <= 2
    assert len(kc.lines("ERROR")) < 10
    assert USERS["reader"] not in kc.log
    assert "Traceback" not in kc.log
    # Drained: what was taken is processed, once; and no commit passes what isn't.
    done = kc.ledger()
    assert len(done) == len(set(done)) == len(kc.backup()) < 600
    for partition, offset in guarded_kafka.committed(topic, topic).items():
        assert set(values[partition::2][:offset]) <= set(done)

    guarded_kafka.allow("reader", topic=topic, group=topic)
    again = command(topic, *mine, kafka=guarded_kafka)
    guarded_kafka.wait_for_lag(topic, topic)
    assert again.end() == 0
    assert set(again.ledger()) == set(values)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_login_that_is_refused_when_the_broker_comes_back_ends_the_run(
    guarded_kafka: LocalKafka, command: Callable[..., Command]
) -> None:
    topic = guarded_kafka.create_topic()
    guarded_kafka.produce(topic, numbered(200))
    guarded_kafka.allow("reader", topic=topic, group=topic)
    mine = options({**login("reader", USERS["reader"]), **IMPATIENT})
    kc = command(topic, *mine, kafka=guarded_kafka)
    guarded_kafka.wait_for_lag(topic, topic)

    guarded_kafka.kill()
    guarded_kafka.configure(secured({**USERS, "reader": "another"}, "admin"))
    guarded_kafka.start()
    try:
        assert kc.wait() == 1
    finally:
        guarded_kafka.kill()
        guarded_kafka.configure(secured(USERS, "admin"))
        guarded_kafka.start()

    (line,) = kc.lines("CRITICAL")
    assert "Kafka refuses access" in line
    assert "Invalid username or password" in line
    assert USERS["reader"] not in kc.log
    assert sorted(kc.ledger()) == sorted(numbered(200))
    assert guarded_kafka.committed(topic, topic) == {0: 200}


# --- brokers that hang or die -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_broker_that_stays_away_is_told_again_and_again_and_its_return_as_well(
    private_kafka: LocalKafka, running: Callable[..., Run], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    topic = private_kafka.create_topic()
    private_kafka.produce(topic, numbered(10))
    ledger = Ledger()
    run = running(topic, ledger, kafka=private_kafka, kafka_options={"reconnect.backoff.max.ms": 1000})
    run.wait_committed(10)

    private_kafka.kill()
    # 0, 1, 3, 7 seconds after the first, and the time that each attempt takes.
    eventually(lambda: len(said(caplog, "no connection to Kafka", logging.ERROR)) >= 4, 40, what="a line again and again")
    lines = said(caplog, "no connection to Kafka", logging.ERROR)
    assert len(lines) < 8
    assert all(f"no connection to Kafka at {private_kafka.bootstrap}" in line for line in lines)
    lasting = [int(line.partition(" for ")[2].partition(" s")[0]) for line in lines[1:] if " for " in line]
    assert lasting == sorted(lasting)
    assert lasting[-1] >= 5

    private_kafka.start()
    private_kafka.produce(topic, numbered(10, text="after"))
    eventually(lambda: len(set(ledger.values)) == 20, 40, what="what was produced after the return")
    eventually(lambda: said(caplog, "Kafka answers again", logging.INFO), 40, what="a line about the return")
    assert run.end() == 0


def _survives_a_suspension(kafka: LocalKafka, running: Callable[..., Run], note: Note, seconds: float) -> None:
    values = numbered(3000)
    topic = kafka.create_topic(partitions=2)
    kafka.produce(topic, values)
    ledger = Ledger(lambda value: time.sleep(0.003))
    run = running(topic, ledger, kafka=kafka, queue_size=100, kafka_options={**IMPATIENT, "queued.min.messages": 100})
    run.wait_finished(300)

    kafka.suspend()
    frozen = time.monotonic()
    while time.monotonic() - frozen < seconds:
        assert run.consumer.exit_code is None
        run.consumer.snapshot()  # must answer all the time
        time.sleep(0.1)
    kafka.resume()
    kafka.produce(topic, numbered(100, text="after"))

    eventually(lambda: len(set(ledger.values)) == 3100, 90, what="3,100 processed messages")
    kafka.wait_for_lag(topic, topic, timeout=60)
    note("repeated", repeats(ledger.values))
    assert set(ledger.values) == {*values, *numbered(100, text="after")}
    assert run.end() == 0
    assert run.dead_letters() == []
    assert run.totals.records_lost == 0


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_broker_that_hangs_longer_than_the_session_costs_no_message(
    private_kafka: LocalKafka, running: Callable[..., Run], note: Note
) -> None:
    _survives_a_suspension(private_kafka, running, note, 15)


@pytest.mark.stress
@pytest.mark.timeout(400)
def test_a_broker_that_hangs_for_a_minute_costs_no_message(
    private_kafka: LocalKafka, running: Callable[..., Run], note: Note
) -> None:
    _survives_a_suspension(private_kafka, running, note, 60)


@pytest.mark.stress
@pytest.mark.timeout(600)
def test_three_brokers_rolled_one_by_one_cost_no_message(
    private_kafka_cluster: LocalKafka, running: Callable[..., Run], note: Note
) -> None:
    kafka = private_kafka_cluster
    topic = kafka.create_topic(partitions=3, min_insync_replicas="2")
    expected: list[bytes] = []

    def produce(count: int) -> None:
        values = numbered(count, start=len(expected))
        kafka.produce(topic, values)
        expected.extend(values)

    produce(3000)
    ledger = Ledger(lambda value: time.sleep(0.002))
    run = running(topic, ledger, kafka=kafka, queue_size=100, kafka_options={**IMPATIENT, "queued.min.messages": 100})
    run.wait_finished(300)
    for node in (1, 2, 3):
        before = run.finished()
        kafka.stop(node)
        produce(500)
        eventually(lambda before=before: run.finished() > before, 60, what=f"progress without node {node}")  # type: ignore[misc]
        kafka.start(node)
        kafka.wait_until_serving()
        produce(500)
    kafka.wait_for_lag(topic, topic, timeout=120)

    note("repeated", repeats(ledger.values))
    assert set(ledger.values) == set(expected)
    assert run.end() == 0
    assert run.dead_letters() == []
    assert run.totals.records_lost == 0


# --- the end, with workers or brokers that don't answer -----------------------------------------------------------------


def test_a_worker_that_never_returns_is_given_up_when_draining_is_bounded(
    real_kafka: Kafka, command: Callable[..., Command]
) -> None:
    topic = real_kafka.create_topic()
    real_kafka.produce(topic, numbered(60))
    kc = command(
        topic, "--shutdown-drain", "2", "--queue-size", "10",
        body="if value == b'message-30':\n    wait_for_gate()",
    )  # fmt: skip
    kc.wait_ledger(59)
    kc.terminate()
    begun = time.monotonic()
    kc.wait_log("stopped by a signal; draining")
    kc.terminate()  # a second signal is only logged

    assert kc.wait() == 1
    assert 1.5 < time.monotonic() - begun < 10
    errors = [line for line in kc.lines("ERROR") if "shutdown_drain_seconds=2" in line]
    assert len(errors) == 1
    assert "1 messages stay unfinished and will be repeated after a restart" in errors[0]
    assert "given up: 1 workers: worker " in errors[0]
    assert f"({topic}-0@30, " in errors[0]
    assert real_kafka.committed(topic, topic) == {0: 30}

    kc.open_gate()
    again = command(topic)
    real_kafka.wait_for_lag(topic, topic)
    assert again.end() == 0
    assert set(again.ledger()) == set(numbered(60))


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_dead_broker_and_a_worker_that_never_returns_at_a_signal_end_within_the_bounds(
    private_kafka: LocalKafka, command: Callable[..., Command], note: Note
) -> None:
    topic = private_kafka.create_topic(partitions=2)
    private_kafka.produce(topic, numbered(200))
    drain, timeout = 3, 4
    kc = command(
        topic, "--shutdown-drain", str(drain), "--shutdown-timeout", str(timeout), *options(SHORT_SESSION), kafka=private_kafka,
        body="if value == b'message-100': wait_for_gate()\ntime.sleep(0.01)",
    )  # fmt: skip
    kc.wait_ledger(120)
    private_kafka.kill()
    kc.terminate()
    begun = time.monotonic()

    assert kc.wait(60) == 1
    took = time.monotonic() - begun
    note("seconds", round(took, 1))
    # Leaving the group has ten seconds of its own.
    assert took < drain + timeout + 12
    assert "shutdown_drain_seconds=3" in kc.log
    assert "Traceback" not in kc.log

    private_kafka.start()
    kc.open_gate()
    again = command(topic, *options(SHORT_SESSION), kafka=private_kafka)
    private_kafka.wait_for_lag(topic, topic, timeout=60)
    assert again.end() == 0
    assert set(again.ledger()) == set(numbered(200))


# --- what can never come ------------------------------------------------------------------------------------------------


def test_a_stop_target_in_a_partition_that_does_not_exist_is_refused(real_kafka: Kafka, command: Callable[..., Command]) -> None:
    topic = real_kafka.create_topic(partitions=2)
    real_kafka.produce(topic, numbered(10))

    kc = command(topic, "--stop-at", f"{topic}:7:100", "--stop-at", f"{topic}:1:2")

    assert kc.wait() == 1
    (line,) = kc.lines("CRITICAL")
    assert f"stop_at_offset: no such partition: {topic}-7; the topic has 2 partitions, 0 to 1" in line


def test_polling_pauses_when_too_many_messages_fail_and_goes_on_when_the_operator_says_so(
    real_kafka: Kafka, running: Callable[..., Run], caplog: pytest.LogCaptureFixture
) -> None:
    topic = real_kafka.create_topic(partitions=2)
    real_kafka.produce(topic, numbered(20_000))
    broken = [True]

    def work(value: bytes) -> None:
        if broken[0]:
            raise ConnectionError("the database is away")
        ledger.values.append(value)

    ledger = Ledger()
    run = running(topic, work, max_failure_ratio=0.5, queue_size=100, kafka_options={"queued.min.messages": 100})
    eventually(lambda: run.consumer.snapshot().paused, 30, what="polling to pause")
    run.wait_committed(run.totals.polled)
    at_rest = run.totals.polled

    (line,) = said(caplog, "max_failure_ratio=0.5", logging.CRITICAL)
    assert "messages failed (100%; max_failure_ratio=0.5), most often ConnectionError (100% of the latest)" in line
    assert "polling is paused; what is queued is finished" in line
    assert "max_failure_ratio" in (run.consumer.snapshot().pause_reason or "")
    assert at_rest < 5000
    time.sleep(0.5)
    assert run.totals.polled == at_rest == len(run.dead_letters())

    broken[0] = False
    run.consumer.resume()
    run.wait_committed(20_000, 60)
    assert run.consumer.snapshot().pause_reason is None
    assert not run.consumer.snapshot().paused
    assert run.totals.processed == 20_000 - at_rest
    assert run.end() == 0
