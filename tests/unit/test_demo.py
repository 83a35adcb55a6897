"""The demo: repeatable orders with real faults, on a cluster inside the process that never runs far ahead of its consumer."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

from kafka_consumer import demo
from kafka_consumer.demo import DemoCluster, demo_files, demo_session
from kafka_consumer.demo_orders import SampleOrders, ValidationError, process
from kafka_consumer.settings import load_settings


def order(**changes: object) -> bytes:
    lines = [{"sku": "SKU-1", "name": "Cup", "qty": 1, "unit_cents": 100}]
    return json.dumps({"order_id": "A-1", "customer": "customer-1", "lines": lines, "handling_ms": 0, **changes}).encode()


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it didn't happen in time"
        time.sleep(0.02)


def read(cluster: DemoCluster, count: int, seconds: float = 20.0) -> list[Message]:
    """Read messages without a group, whose first rebalance takes the mock cluster three seconds."""
    consumer = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": "test", "enable.auto.commit": False})
    consumer.assign([TopicPartition(cluster.topic, number, OFFSET_BEGINNING) for number in range(4)])
    messages: list[Message] = []
    deadline = time.monotonic() + seconds
    try:
        while len(messages) < count and time.monotonic() < deadline:
            messages += [message for message in consumer.consume(count - len(messages), 0.2) if message.error() is None]
    finally:
        consumer.close()
    return messages


@dataclass
class Totals:
    processed: int = 0
    failed: int = 0


@dataclass
class View:
    totals: Totals
    phase: str = "running"


class FakeConsumer:
    """A consumer of which the demo reads the totals and which it stops."""

    def __init__(self) -> None:
        self.view = View(Totals())
        self.stopped = threading.Event()
        self.reason = ""

    def snapshot(self) -> View:
        return self.view

    def stop(self, reason: str) -> None:
        self.reason = reason
        self.stopped.set()


class TestProcessor:
    def test_a_good_order_and_a_tombstone_are_processed(self) -> None:
        process(order())
        process(None)

    def test_malformed_json_is_an_error_of_its_parser(self) -> None:
        with pytest.raises(json.JSONDecodeError):
            process(order()[:30])

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            (order(lines=[{"sku": "SKU-1", "qty": -2}]), "expected qty of SKU-1 to be at least 0, got -2"),
            (b'{"order_id": "A-1", "lines": []}', "expected an order to have 'customer'"),
            (b"[1]", "expected an order to be an object, got list"),
        ],
    )
    def test_an_order_that_breaks_a_rule_is_a_validation_error(self, value: bytes, said: str) -> None:
        with pytest.raises(ValidationError, match=said):
            process(value)

    def test_handling_takes_as_long_as_the_order_says(self) -> None:
        started = time.monotonic()
        process(order(handling_ms=60))
        assert time.monotonic() - started >= 0.06


class TestSampleOrders:
    def test_the_same_seed_makes_the_same_orders(self) -> None:
        first, second, other = SampleOrders(1), SampleOrders(1), SampleOrders(2)
        series = [first.next() for _ in range(50)]
        assert series == [second.next() for _ in range(50)]
        assert series != [other.next() for _ in range(50)]

    def test_a_few_percent_fail_in_each_of_the_three_ways(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kafka_consumer.demo_orders.time.sleep", lambda _seconds: None)
        orders, kinds = SampleOrders(), Counter[str]()
        for _ in range(3_000):
            value = orders.next().value
            try:
                value.decode()
                process(value)
            except ValueError as error:
                kinds[type(error).__name__] += 1
        assert set(kinds) == {"JSONDecodeError", "ValidationError", "UnicodeDecodeError"}
        assert all(count >= 5 for count in kinds.values())
        assert sum(kinds.values()) < 150

    def test_most_are_quick_some_slow_and_a_rare_one_very_slow(self) -> None:
        orders = SampleOrders()
        times = []
        for _ in range(10_000):
            try:
                times.append(json.loads(orders.next().value)["handling_ms"])
            except ValueError:
                continue
        assert 0.9 < sum(time <= 20 for time in times) / len(times) < 0.99
        assert any(20 < time <= 300 for time in times)
        assert 0 < sum(2_000 <= time <= 5_000 for time in times) < 20

    def test_a_slow_spell_makes_handling_four_times_as_long(self) -> None:
        usual, slow = SampleOrders(), SampleOrders()
        first, second = json.loads(usual.next().value), json.loads(slow.next(slow=True).value)
        assert second["handling_ms"] == 4 * first["handling_ms"]
        assert second["order_id"] == first["order_id"]

    def test_each_has_a_key_and_a_trace(self) -> None:
        message = SampleOrders().next()
        headers = dict(message.headers)
        assert message.key.startswith(b"customer-")
        assert len(headers["traceparent"]) == 55
        assert headers["content-type"] == b"application/json"


class TestCluster:
    def test_exactly_as_many_messages_as_asked_for_spread_over_the_partitions(self) -> None:
        with DemoCluster(messages=300) as cluster:
            messages = read(cluster, 300)
            assert len(messages) == 300
            assert read(cluster, 301, seconds=1.5)[300:] == []
            assert cluster.produced == 300
            assert len({message.partition() for message in messages}) == 4
            assert all(message.headers() for message in messages)

    def test_the_topic_is_there_once_the_cluster_is_entered(self) -> None:
        with DemoCluster("payments", messages=1) as cluster:
            assert cluster.produced == 1
            consumer = Consumer({"bootstrap.servers": cluster.bootstrap, "group.id": "test"})
            try:
                found = consumer.list_topics("payments", timeout=10).topics["payments"]
            finally:
                consumer.close()
            assert found.error is None
            assert len(found.partitions) == 4

    def test_the_consumer_is_stopped_when_all_are_finished_failed_ones_included(self) -> None:
        consumer = FakeConsumer()
        with DemoCluster(messages=20) as cluster:
            cluster.watch(consumer)
            consumer.view = View(Totals(processed=15, failed=4))
            assert not consumer.stopped.wait(0.5)
            consumer.view = View(Totals(processed=15, failed=5))
            assert consumer.stopped.wait(10)
            assert consumer.reason == "all 20 messages of the demo are finished"

    def test_without_a_number_there_is_a_backlog_then_a_steady_flow(self) -> None:
        with DemoCluster() as cluster:
            wait_until(lambda: cluster.produced >= 1_500)
            backlog = cluster.produced
            wait_until(lambda: cluster.produced > backlog + 50)
            assert cluster.produced < 5_000

    def test_it_never_runs_far_ahead_of_the_consumer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(demo, "_MAX_AHEAD", 100)
        consumer = FakeConsumer()
        with DemoCluster(messages=1_000) as cluster:
            cluster.watch(consumer)
            wait_until(lambda: cluster.produced == 100)
            consumer.view = View(Totals(processed=60))
            wait_until(lambda: cluster.produced == 160)
            assert not consumer.stopped.is_set()

    def test_its_threads_end_with_it(self) -> None:
        consumer = FakeConsumer()
        with DemoCluster() as cluster:
            cluster.watch(consumer)
            assert {"kc-demo-producer", "kc-demo-watch"} <= {thread.name for thread in threading.enumerate()}
        assert not {"kc-demo-producer", "kc-demo-watch"} & {thread.name for thread in threading.enumerate()}

    def test_the_watch_ends_with_a_consumer_that_failed(self) -> None:
        consumer = FakeConsumer()
        with DemoCluster(messages=5) as cluster:
            cluster.watch(consumer)
            consumer.view = View(Totals(), phase="failed")
            wait_until(lambda: "kc-demo-watch" not in {thread.name for thread in threading.enumerate()})
            assert not consumer.stopped.is_set()


class TestSession:
    def test_without_a_demo_the_settings_are_left_alone(self) -> None:
        settings = load_settings({}, environ={})
        with demo_session(settings) as (same, cluster):
            assert same is settings
            assert cluster is None

    def test_a_demo_has_its_own_servers_and_a_temporary_folder_that_goes_when_it_stayed_empty(self) -> None:
        settings = load_settings({"demo": True, "demo_messages": "1"}, environ={})
        with demo_session(settings) as (completed, cluster):
            assert cluster is not None
            config = completed.build_config()
            assert config.bootstrap_servers == cluster.bootstrap
            folder = Path(config.dlq_path).parent
            assert folder.name.startswith("kc-demo-")
            assert Path(config.backup_path).parent == folder
            assert demo_files(completed) == []
        assert not folder.exists()

    def test_its_files_stay_and_are_found(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        settings = load_settings({"demo": True, "demo_messages": "1", "dlq_path": str(tmp_path / "mine[1].csv")}, environ={})
        with demo_session(settings) as (completed, _):
            written = [
                Path(completed["backup_path"]).with_name("backup_20260101_hour_10.csv"),
                Path(completed["dlq_path"]).with_name("mine[1]_20260101_hour_10.csv"),
            ]
            for path in written:
                path.write_text("x")
        assert demo_files(completed) == [str(path) for path in written]
        assert written[1].parent == tmp_path
