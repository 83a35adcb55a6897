"""What ``kc check`` says of a broker's answers, without a broker."""

from __future__ import annotations

import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from kafka_consumer import check as check_module
from kafka_consumer import check_kafka as check_kafka_module
from kafka_consumer.check_kafka import LastError, _mend, ask, check_kafka
from kafka_consumer.config import KafkaConsumerConfig
from kafka_consumer.errors import ConfigError
from kafka_consumer.finding import Finding
from kafka_consumer.settings_sources import KAFKA
from tests.helpers import make_config

SETTINGS: Any = {
    "bootstrap_servers": "broker:9092", "topic": "orders", "group_id": "billing", "stop_at_offset": None, "dlq_topic": None,
    "demo": True, "on_offset_out_of_range": "fail", KAFKA: {"sasl.password": "marker-7"},
}  # fmt: skip


class Answers:
    """A consumer that answers what it was made with."""

    def __init__(self, topics: dict[str, Any], committed: list[TopicPartition] | KafkaException | None = None) -> None:
        self.topics = topics
        self.log = (0, 10)
        self.answer = committed

    def list_topics(self, topic: str, timeout: float) -> Any:
        return SimpleNamespace(brokers={1: "broker"}, topics=self.topics)

    def get_watermark_offsets(self, partition: TopicPartition, timeout: float) -> tuple[int, int]:
        return self.log

    def committed(self, partitions: list[TopicPartition], timeout: float) -> Any:
        if isinstance(self.answer, KafkaException):
            raise self.answer
        return self.answer


def findings(consumer: Any, **settings: Any) -> list[Finding]:
    return list(ask(consumer, {**SETTINGS, **settings}, LastError()))


def said(found: list[Finding]) -> str:
    return str(found[-1])


def test_a_topic_that_the_brokers_do_not_know_is_named_with_what_to_do():
    unknown = SimpleNamespace(error=KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART), partitions={})
    for topics in ({"orders": unknown}, {"orders": SimpleNamespace(error=None, partitions={})}, {}):
        found = findings(Answers(topics))
        assert "topic orders" in said(found)
        assert "check --topic" in said(found)


def test_a_group_that_may_not_be_read_is_named_and_no_secret_is_shown():
    refused = KafkaException(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED, "not for marker-7"))
    found = findings(Answers({"orders": SimpleNamespace(error=None, partitions={0: "p"})}, refused))
    assert "group billing" in said(found)
    assert "marker-7" not in str(found)


def test_committed_offsets_are_counted():
    committed = [TopicPartition("orders", 0, 5), TopicPartition("orders", 1, -1001)]
    found = findings(Answers({"orders": SimpleNamespace(error=None, partitions={0: "p", 1: "p"})}, committed))
    assert [str(finding) for finding in found[-2:]] == [
        "✓ group billing: offsets committed for 1 of 2 partitions", "✓ lag: 5 messages",
    ]  # fmt: skip


def test_the_topic_of_dead_letters_is_looked_for_and_a_demo_makes_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(check_kafka_module, "_RIGHTS_SECONDS", 0.2)  # nobody answers below
    orders = SimpleNamespace(error=None, partitions={0: "p"})
    unknown = SimpleNamespace(error=KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART), partitions={})
    forbidden = SimpleNamespace(error=KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), partitions={})

    def of(found: Any, **settings: Any) -> str:
        topics = {"orders": orders} if found is None else {"orders": orders, "dlq": found}
        lines = [str(each) for each in findings(Answers(topics, []), dlq_topic="dlq", **settings)]
        (line,) = [line for line in lines if "dead-letter topic" in line]
        return line

    assert of(SimpleNamespace(error=None, partitions={0: "p", 1: "p"})) == "✓ dead-letter topic dlq: 2 partitions"
    assert of(unknown) == "✓ dead-letter topic dlq: the demo's broker creates it"
    assert of(forbidden).startswith("✗ dead-letter topic dlq: Broker: Topic authorization failed; create it, or")
    # Nobody there to ask whether topics are created: they aren't.
    nobody = {KAFKA: {"no.such.option": "x"}, "bootstrap_servers": "127.0.0.1:1"}
    for found in (unknown, None):
        assert check_kafka_module._check_dead_letter_topic(
            Answers({} if found is None else {"dlq": found}), {**SETTINGS, **nobody, "dlq_topic": "dlq", "demo": False},
            [1], LastError(),
        ).good is False  # fmt: skip


def test_a_topic_of_dead_letters_that_nobody_tells_about_is_a_failure_without_secrets():
    class Silent(Answers):
        def list_topics(self, topic: str, timeout: float) -> Any:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT, "no connection with marker-7"))

        def poll(self, timeout: float) -> None:
            heard.final = True

    heard = LastError()
    settings = {**SETTINGS, "dlq_topic": "dlq"}
    found = check_kafka_module._check_dead_letter_topic(Silent({}), settings, [1], heard)
    assert str(found) == "✗ dead-letter topic dlq: no connection with [hidden]; check the brokers"


def test_messages_that_are_gone_before_they_were_read_are_a_failure_unless_a_policy_says_where_to_go_on():
    answers = Answers({"orders": SimpleNamespace(error=None, partitions={0: "p"})}, [TopicPartition("orders", 0, 5)])
    cases = ((5, 10, "fail", True), (6, 10, "fail", False), (6, 10, "earliest", True), (0, 4, "fail", False))
    for low, high, policy, good in cases:
        answers.log = (low, high)
        assert findings(answers, on_offset_out_of_range=policy)[-1].good is good, (low, high, policy)
    complaint = said(findings(answers))
    assert "orders-0 (committed 5, log 0 to 4)" in complaint
    assert "--on-offset-out-of-range earliest or latest" in complaint


def test_an_option_that_librdkafka_does_not_know_is_a_usage_error_without_its_value():
    settings: Any = {**SETTINGS, KAFKA: {"no.such.option": "marker-7"}}
    found = list(check_kafka(settings))
    assert "no.such.option" in said(found)
    assert "marker-7" not in str(found)


def test_a_stop_target_in_a_partition_that_does_not_exist_is_a_usage_error():
    consumer: Any = Answers({"orders": SimpleNamespace(error=None, partitions={0: "p", 1: "p"})}, [])
    for targets, codes in (
        ({("orders", 1): 5, ("other", 9): 5}, []),
        ({("orders", 1): 5, ("orders", 2): 5}, [2]),
    ):
        found = findings(consumer, stop_at_offset=targets)
        assert [finding.exit_code for finding in found if not finding.good] == codes
        assert any("no such partition: orders-2; the topic has 2 partitions, 0 to 1" in str(f) for f in found) is bool(codes)


def test_what_librdkafka_says_of_a_broker_leads_to_what_to_look_at():
    for text, advice in (
        ("SSL handshake failed: certificate verify failed", "ssl.ca.location"),
        ("Failed to resolve 'nowhere:9092': Name or service not known", "DNS"),
        ("Connect to ipv4#127.0.0.1:1 failed: Connection refused", "that the broker runs"),
        ("Disconnected while requesting ApiVersion", "wants TLS or a login"),
        ("timed out", "the network"),
    ):
        assert advice in _mend(text)


class Wanted(dict[str, Any]):
    """Settings that want extras; their configuration is made, or refused."""

    def __init__(self, folder: Path, refused: str | None = None, **values: Any) -> None:
        super().__init__({"metrics_port": None, "decode": "raw", "tracing": False, **values})
        self._folder, self._refused = folder, refused

    def build_config(self) -> KafkaConsumerConfig:
        if self._refused is not None:
            raise ConfigError(self._refused)
        return make_config(self._folder, tracing=self["tracing"])


def test_extras_that_are_wanted_are_looked_for(tmp_path: Path):
    def of(settings: Any) -> list[str]:
        return [str(finding) for finding in check_module._check_extras(settings)]

    assert of(Wanted(tmp_path)) == []
    assert of(Wanted(tmp_path, metrics_port=0)) == ["✓ extras: kc[metrics] is installed"]
    assert of(Wanted(tmp_path, tracing=True)) == ["✓ extras: what --tracing needs is installed"]
    (line,) = of(Wanted(tmp_path, decode="avro", refused="decode: expected kc[decode] to be installed"))
    assert line == "✗ extras: decode: expected kc[decode] to be installed"


def test_a_socket_may_be_in_a_folder_that_is_not_there_yet(tmp_path: Path):
    found = check_module._check_socket(str(tmp_path / "new" / "kc.sock"))
    assert (found.good, str(found)) == (True, f"✓ socket {tmp_path / 'new' / 'kc.sock'}")


def test_any_number_of_open_files_is_enough(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    found = check_module._check_limits({"executor": "process", "worker_count": 8})
    assert "any number of open files" in str(found)
