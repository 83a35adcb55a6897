"""The broker that the other end-to-end tests stand on does what they take for granted."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from tests.kafka import Kafka, LocalKafka

pytestmark = pytest.mark.e2e


def commit(kafka: Kafka, group: str, topic: str, partition: int, offset: int, metadata: str = "") -> None:
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": group, "enable.auto.commit": False})
    try:
        consumer.commit(offsets=[TopicPartition(topic, partition, offset, metadata)], asynchronous=False)
    finally:
        consumer.close()


def test_what_was_produced_can_be_consumed_with_its_key_value_and_headers(kafka: Kafka) -> None:
    topic = kafka.create_topic()
    kafka.produce(topic, [b"one", "two", None], keys=[b"k1", None, b"k3"], headers=[("trace", b"\xff\x00")])

    got = kafka.read(topic, 3)

    assert [(m.offset(), m.key(), m.value()) for m in got] == [(0, b"k1", b"one"), (1, None, b"two"), (2, b"k3", None)]
    assert all(m.headers() == [("trace", b"\xff\x00")] for m in got)


def test_messages_without_a_key_go_to_the_partitions_in_turn_and_a_key_keeps_to_one(kafka: Kafka) -> None:
    topic = kafka.create_topic(partitions=3)
    kafka.produce(topic, [b"x"] * 9)
    assert kafka.end_offsets(topic) == {0: 3, 1: 3, 2: 3}

    kafka.produce(topic, [b"x"] * 6, keys=[b"same"] * 6)
    assert sorted(kafka.end_offsets(topic).values()) == [3, 3, 9]


def test_lag_counts_what_a_group_has_not_committed(kafka: Kafka) -> None:
    topic = kafka.create_topic(partitions=2)
    kafka.produce(topic, [b"x"] * 10, partition=1)
    group = f"group-of-{topic}"
    assert kafka.committed(group, topic) == {}
    assert kafka.lag(group, topic) == 10

    commit(kafka, group, topic, 1, 7, "up to seven")

    assert kafka.committed(group, topic) == {1: 7}
    assert kafka.committed_metadata(group, topic) == {1: "up to seven"}
    assert kafka.lag(group, topic) == 3


def test_a_message_of_nine_and_a_half_megabytes_fits(real_kafka: Kafka) -> None:
    topic = real_kafka.create_topic()
    real_kafka.produce(topic, [b"\xfe" * 9_500_000])

    (got,) = real_kafka.read(topic, 1)

    assert got.value() == b"\xfe" * 9_500_000


@pytest.mark.needs_real_broker
def test_a_topic_that_was_not_created_is_an_error(kafka: Kafka) -> None:
    with pytest.raises(KafkaException, match="Unknown topic"):
        kafka.produce("a-typo-in-a-topic", [b"x"])


@pytest.mark.needs_real_broker
def test_a_transaction_leaves_a_marker_behind_its_messages(kafka: Kafka) -> None:
    topic = kafka.create_topic()
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": f"tx-{topic}"})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(topic, b"in a transaction", partition=0)
    producer.commit_transaction(30)

    # The broker writes the marker after it has answered the commit.
    deadline = time.monotonic() + 10
    while kafka.end_offsets(topic) != {0: 2}:
        assert time.monotonic() < deadline, kafka.end_offsets(topic)
        time.sleep(0.02)


def test_a_killed_broker_comes_back_on_its_port_with_its_data_and_commits(private_kafka: LocalKafka) -> None:
    topic = private_kafka.create_topic()
    private_kafka.produce(topic, [b"kept"] * 100)
    commit(private_kafka, "g", topic, 0, 40)
    before = private_kafka.bootstrap

    private_kafka.kill()
    assert not private_kafka.running()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", private_kafka.port()), timeout=5)
    private_kafka.start()

    assert private_kafka.bootstrap == before
    assert private_kafka.end_offsets(topic) == {0: 100}
    assert private_kafka.committed("g", topic) == {0: 40}


def test_a_suspended_broker_answers_nothing_until_it_is_resumed(private_kafka: LocalKafka) -> None:
    topic = private_kafka.create_topic()
    # A client that knows the broker already, as a consumer would when a network fails under it.
    client = Consumer({"bootstrap.servers": private_kafka.bootstrap, "group.id": "g"})
    where = TopicPartition(topic, 0)
    assert client.get_watermark_offsets(where, timeout=10) == (0, 0)

    private_kafka.suspend()
    with pytest.raises(KafkaException, match=r"(?i)timed out"):
        client.get_watermark_offsets(where, timeout=1)
    private_kafka.resume()

    private_kafka.produce(topic, [b"x"])
    assert client.get_watermark_offsets(where, timeout=10) == (0, 1)
    client.close()


def test_a_broker_does_not_outlive_a_test_run_that_is_killed(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from tests.kafka.local import BrokerProcess
        print(BrokerProcess([sys.executable, "-c", "import time; time.sleep(60)"], Path(sys.argv[1])).pid, flush=True)
        sys.stdin.read()
    """)
    command = [sys.executable, "-c", script, str(tmp_path / "broker.log")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        assert alive(pid)
        run.kill()

    deadline = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < deadline, "the broker lives on"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
