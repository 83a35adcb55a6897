"""What a producer of ours takes from a consumer's options, and what it is told besides: for redrives and ``dlq_topic``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError

from kafka_consumer.option_checks import for_librdkafka

LARGEST_MESSAGE = 1_000_000_000  # librdkafka's own bound: what is too large for the topic is the broker's to say

CONSUMER_ONLY = frozenset({
    "auto.commit.enable", "auto.commit.interval.ms", "auto.offset.reset", "check.crcs",
    "consume.callback.max.messages", "coordinator.query.interval.ms", "enable.auto.commit", "enable.auto.offset.store",
    "enable.partition.eof", "fetch.error.backoff.ms", "fetch.max.bytes", "fetch.message.max.bytes", "fetch.min.bytes",
    "fetch.queue.backoff.ms", "fetch.wait.max.ms", "group.id", "group.instance.id", "group.protocol", "group.protocol.type",
    "group.remote.assignor", "heartbeat.interval.ms", "isolation.level", "max.partition.fetch.bytes", "max.poll.interval.ms",
    "offset.store.method", "offset.store.path", "offset.store.sync.interval.ms", "partition.assignment.strategy",
    "queued.max.messages.kbytes", "queued.min.messages", "session.timeout.ms",
})  # fmt: skip
"""Options of librdkafka that a producer would ignore, with a warning."""

MANAGED = frozenset({
    "acks", "allow.auto.create.topics", "delivery.report.only.error", "delivery.timeout.ms", "dr_cb", "dr_msg_cb",
    "enable.gapless.guarantee", "enable.idempotence", "error_cb", "max.in.flight",
    "max.in.flight.requests.per.connection", "message.send.max.retries",
    "message.timeout.ms", "on_commit", "on_delivery", "produce.offset.report", "request.required.acks",
    "retries", "stats_cb", "statistics.interval.ms", "transaction.timeout.ms", "transactional.id",
})  # fmt: skip
"""Options that would contradict what our producers promise, or that they have no use for."""

THE_LETTERS = frozenset({
    KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_MSG, KafkaError.INVALID_MSG_SIZE,
    KafkaError.INVALID_TIMESTAMP, KafkaError.INVALID_RECORD, KafkaError.POLICY_VIOLATION, KafkaError._INVALID_ARG,  # noqa: SLF001
    KafkaError._BAD_MSG,  # noqa: SLF001 - how the binding names librdkafka's own codes
})  # fmt: skip
"""Errors that are one message's fault."""


def quiet_logger(name: str) -> logging.Logger:
    """Return a logger for librdkafka's own lines that shows none of them: what matters of them comes as errors, too."""
    logger = logging.getLogger(f"kafka_consumer.librdkafka.{name}")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger


def connection_options(kafka_options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a consumer's options that any other client may have, too: how to connect, and as whom."""
    return {name: value for name, value in for_librdkafka(kafka_options).items() if name not in CONSUMER_ONLY | MANAGED}


def reliable_producer(bootstrap_servers: str, kafka_options: Mapping[str, Any]) -> dict[str, Any]:
    """Return librdkafka's options for an idempotent producer: the user's where a producer takes them, then ours."""
    return {
        "client.id": "kc",
        "message.max.bytes": LARGEST_MESSAGE,
        # Java's choice of a partition for a key, which most producers share.
        "partitioner": "murmur2_random",
        "linger.ms": 5,
        **connection_options(kafka_options),
        "bootstrap.servers": bootstrap_servers,
        "enable.idempotence": True,
        "acks": "all",
    }
