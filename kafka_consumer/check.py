"""``kc check``: would this configuration run? One line a question, and how to mend what is wrong."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from kafka_consumer.errors import ConfigError
from kafka_consumer.kafka_properties import mask_values
from kafka_consumer.process_setup import check_process
from kafka_consumer.redaction import Redactor
from kafka_consumer.refusals import REFUSED
from kafka_consumer.settings import Settings
from kafka_consumer.settings_sources import KAFKA
from kafka_consumer.snapshot import sanitise
from kafka_consumer.stop_targets import out_of_topic

_BROKER_TIMEOUT_SECONDS = 10.0
_ATTEMPT_SECONDS = 1.0

_quiet = logging.getLogger("kafka_consumer.librdkafka.check")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


@dataclass(frozen=True, slots=True)
class Finding:
    """One answer. ``exit_code`` is what ``kc check`` exits with when it isn't ``good``."""

    good: bool
    text: str
    exit_code: int = 1

    def __str__(self) -> str:
        """Return the line to print."""
        return f"{'✓' if self.good else '✗'} {sanitise(self.text, 2_000)}"


def check(settings: Settings) -> Iterator[Finding]:
    """Yield the findings as they are made. The broker is asked only when the configuration is sound."""
    problems = list(settings.problems)
    if problems:
        yield from (Finding(False, problem, 2) for problem in problems)
    else:
        source = settings.config_path or "no kc.toml"
        yield Finding(True, f"configuration ({source})")
    imports = settings.import_problems()
    if imports:
        yield from (Finding(False, problem, 2) for problem in imports)
    elif not problems:
        yield Finding(True, f"processor {settings['processor_callable']}")
    if problems or imports:
        return
    if settings["executor"] == "process":
        found = _check_process(settings)
        yield found
        if not found.good:
            return
    if settings["backup_mode"] != "off":
        yield Finding(True, f"backup files {Path(settings['backup_path']).absolute()}")
    yield Finding(True, f"dead-letter files {Path(settings['dlq_path']).absolute()}")
    yield from _check_kafka(settings)


def _check_process(settings: Settings) -> Finding:
    try:
        check_process(settings.build_config())
    except ConfigError as error:
        return Finding(False, str(error), 2)
    return Finding(True, "executor process: a new process can import the processor")


def _check_kafka(settings: Settings) -> Iterator[Finding]:
    said = _LastError()
    options = {
        **settings[KAFKA], "bootstrap.servers": settings["bootstrap_servers"], "group.id": settings["group_id"],
        "enable.auto.commit": False, "allow.auto.create.topics": False, "error_cb": said,
    }
    try:
        consumer = Consumer(options, logger=_quiet)
    except KafkaException as error:
        yield Finding(False, f"kafka options: {mask_values(error.args[0].str(), settings[KAFKA])}", 2)
        return
    try:
        yield from _ask(consumer, settings, said)
    finally:
        consumer.close()


class _LastError:
    """What librdkafka last complained about. Called within ``poll()``, so that one thread does all."""

    def __init__(self) -> None:
        self.text = ""
        self.final = False  # waiting longer would change nothing
        self.refused = False

    def __call__(self, error: KafkaError) -> None:
        self.refused = self.refused or error.code() in REFUSED
        all_down = error.code() == KafkaError._ALL_BROKERS_DOWN  # noqa: SLF001 - how the binding names it
        self.final = self.final or all_down or self.refused
        # "All brokers are down" follows each refusal and says less than it.
        if not (all_down and self.text):
            self.text = error.str()


def _ask(consumer: Consumer, settings: Settings, said: _LastError) -> Iterator[Finding]:
    servers, topic, group = settings["bootstrap_servers"], settings["topic"], settings["group_id"]
    started = time.monotonic()
    try:
        metadata = _list_topics(consumer, topic, said)
    except KafkaException as error:
        reason = Redactor(settings[KAFKA]).redact(said.text or error.args[0].str())
        if said.refused or error.args[0].code() in REFUSED:
            yield Finding(False, f"broker {servers} refuses this user: {reason}; check sasl.mechanism, sasl.username and "
                                 "sasl.password")
            return
        yield Finding(False, f"broker {servers} can't be reached: {reason}; check --bootstrap-server, the network and "
                             "security.protocol")
        return
    seconds = time.monotonic() - started
    yield Finding(True, f"broker {servers}: {_count(len(metadata.brokers), 'broker')}, answered in {seconds:.2f} s")
    found = metadata.topics.get(topic)
    if found is None or found.error is not None or not found.partitions:
        reason = found.error.str() if found is not None and found.error is not None else "it has no partitions"
        yield Finding(False, f"topic {topic}: {reason}; check --topic, or create it, or allow this user to describe it")
        return
    yield Finding(True, f"topic {topic}: {_count(len(found.partitions), 'partition')}")
    targets = [key for key in settings["stop_at_offset"] or () if key[0] == topic]
    missing = out_of_topic(targets, found.partitions)
    if missing is not None:
        yield Finding(False, f"{missing}; check --stop-at", 2)
    try:
        partitions = [TopicPartition(topic, number) for number in found.partitions]
        committed = consumer.committed(partitions, timeout=_BROKER_TIMEOUT_SECONDS)
    except KafkaException as error:
        reason = Redactor(settings[KAFKA]).redact(error.args[0].str())
        yield Finding(False, f"group {group}: {reason}; check --group, or allow this user to read it")
        return
    known = sum(1 for partition in committed if partition.offset >= 0)
    yield Finding(True, f"group {group}: offsets committed for {known} of {_count(len(committed), 'partition')}")


def _list_topics(consumer: Consumer, topic: str, said: _LastError) -> Any:
    """Ask for the topic's metadata until it is answered, every address has refused, or the time is up."""
    deadline = time.monotonic() + _BROKER_TIMEOUT_SECONDS
    while True:
        try:
            return consumer.list_topics(topic, timeout=_ATTEMPT_SECONDS)
        except KafkaException:
            consumer.poll(0)  # delivers what the connection attempts had to say
            if said.final or time.monotonic() >= deadline:
                raise


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
