"""What ``kc check`` says of a broker's answers, without a broker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from kafka_consumer.check import Finding, _ask, _check_kafka, _LastError
from kafka_consumer.settings_sources import KAFKA

SETTINGS: Any = {
    "bootstrap_servers": "broker:9092", "topic": "orders", "group_id": "billing", "stop_at_offset": None,
    KAFKA: {"sasl.password": "marker-7"},
}  # fmt: skip


class Answers:
    """A consumer that answers what it was made with."""

    def __init__(self, topics: dict[str, Any], committed: list[TopicPartition] | KafkaException | None = None) -> None:
        self.topics = topics
        self.answer = committed

    def list_topics(self, topic: str, timeout: float) -> Any:
        return SimpleNamespace(brokers={1: "broker"}, topics=self.topics)

    def committed(self, partitions: list[TopicPartition], timeout: float) -> Any:
        if isinstance(self.answer, KafkaException):
            raise self.answer
        return self.answer


def ask(consumer: Any) -> list[Finding]:
    return list(_ask(consumer, SETTINGS, _LastError()))


def said(findings: list[Finding]) -> str:
    return str(findings[-1])


def test_a_topic_that_the_brokers_do_not_know_is_named_with_what_to_do():
    unknown = SimpleNamespace(error=KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART), partitions={})
    for topics in ({"orders": unknown}, {"orders": SimpleNamespace(error=None, partitions={})}, {}):
        found = ask(Answers(topics))
        assert "topic orders" in said(found)
        assert "check --topic" in said(found)


def test_a_group_that_may_not_be_read_is_named_and_no_secret_is_shown():
    refused = KafkaException(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED, "not for marker-7"))
    found = ask(Answers({"orders": SimpleNamespace(error=None, partitions={0: "p"})}, refused))
    assert "group billing" in said(found)
    assert "marker-7" not in str(found)


def test_committed_offsets_are_counted():
    committed = [TopicPartition("orders", 0, 5), TopicPartition("orders", 1, -1001)]
    found = ask(Answers({"orders": SimpleNamespace(error=None, partitions={0: "p", 1: "p"})}, committed))
    assert "offsets committed for 1 of 2 partitions" in said(found)


def test_an_option_that_librdkafka_does_not_know_is_a_usage_error_without_its_value():
    settings: Any = {**SETTINGS, KAFKA: {"no.such.option": "marker-7"}}
    found = list(_check_kafka(settings))
    assert "no.such.option" in said(found)
    assert "marker-7" not in str(found)


def test_a_stop_target_in_a_partition_that_does_not_exist_is_a_usage_error():
    consumer: Any = Answers({"orders": SimpleNamespace(error=None, partitions={0: "p", 1: "p"})}, [])
    for targets, codes in (
        ({("orders", 1): 5, ("other", 9): 5}, []),
        ({("orders", 1): 5, ("orders", 2): 5}, [2]),
    ):
        given: Any = {**SETTINGS, "stop_at_offset": targets}
        found = list(_ask(consumer, given, _LastError()))
        assert [finding.exit_code for finding in found if not finding.good] == codes
        assert any("no such partition: orders-2; the topic has 2 partitions, 0 to 1" in str(f) for f in found) is bool(codes)
