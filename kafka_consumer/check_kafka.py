"""The part of ``kc check`` that asks the brokers: reachable, let in, topic, partitions, group, what is left to read, rights."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AclOperation, AdminClient, ConfigResource  # type: ignore[attr-defined]

from kafka_consumer.finding import Finding, count
from kafka_consumer.kafka_properties import mask_values
from kafka_consumer.option_checks import for_librdkafka
from kafka_consumer.redaction import Redactor
from kafka_consumer.refusals import REFUSED
from kafka_consumer.settings import Settings
from kafka_consumer.settings_sources import KAFKA
from kafka_consumer.stop_targets import out_of_topic

_BROKER_TIMEOUT_SECONDS = 10.0
_ATTEMPT_SECONDS = 1.0
_RIGHTS_SECONDS = 3.0
_MOST_LOGS = 100  # partitions whose log is looked at

_SECURE = {"ssl": "TLS", "sasl_plaintext": "a login", "sasl_ssl": "TLS and a login"}

_quiet = logging.getLogger("kafka_consumer.librdkafka.check")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


def check_kafka(settings: Settings) -> Iterator[Finding]:
    """Yield what the brokers say. The group isn't joined, and nothing is changed."""
    said = LastError()
    # As the tools that only look do: no topic is made by asking for it.
    options = {
        **for_librdkafka(settings[KAFKA]), "bootstrap.servers": settings["bootstrap_servers"], "group.id": settings["group_id"],
        "enable.auto.commit": False, "allow.auto.create.topics": False, "error_cb": said,
    }  # fmt: skip
    _quiet.addHandler(said)
    try:
        consumer = Consumer(options, logger=_quiet)
    except KafkaException as error:
        _quiet.removeHandler(said)
        yield Finding(False, f"kafka options: {mask_values(error.args[0].str(), settings[KAFKA])}", 2)
        return
    try:
        yield from ask(consumer, settings.values, said)
    finally:
        consumer.close()
        _quiet.removeHandler(said)


class LastError(logging.Handler):
    """What librdkafka last complained about, as an error or, where it says more, in its log.

    Called within ``poll()``, so that one thread does all.
    """

    def __init__(self) -> None:
        super().__init__()
        self._error = ""
        self._logged = ""
        self.final = False  # waiting longer would change nothing
        self.refused = False

    def __call__(self, error: KafkaError) -> None:
        self.refused = self.refused or error.code() in REFUSED
        all_down = error.code() == KafkaError._ALL_BROKERS_DOWN  # noqa: SLF001 - how the binding names it
        self.final = self.final or all_down or self.refused
        # "All brokers are down" follows each refusal and says less than it.
        if not all_down:
            self._error = error.str()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep why a connection failed."""
        facility, _, text = record.getMessage().partition(" ")
        if facility == "FAIL":
            self._logged = text.rpartition("]: ")[2]

    @property
    def text(self) -> str:
        """The reason; empty when nothing was said."""
        return self._error or self._logged


def ask(consumer: Any, settings: Mapping[str, Any], said: LastError) -> Iterator[Finding]:
    """Yield what these brokers say of the topic and the group."""
    servers, topic, group = settings["bootstrap_servers"], settings["topic"], settings["group_id"]
    redact = Redactor(settings[KAFKA]).redact
    started = time.monotonic()
    try:
        metadata = _list_topics(consumer, topic, said)
    except KafkaException as error:
        reason = redact(said.text or error.args[0].str())
        if said.refused or error.args[0].code() in REFUSED:
            yield Finding(
                False, f"broker {servers} refuses this user: {reason}; check sasl.mechanism, sasl.username and sasl.password"
            )
            return
        yield Finding(False, f"broker {servers} can't be reached: {reason}; {_mend(reason)}")
        return
    seconds = time.monotonic() - started
    yield Finding(True, f"broker {servers}: {count(len(metadata.brokers), 'broker')}, answered in {seconds:.2f} s")
    secure = _SECURE.get(str(settings[KAFKA].get("security.protocol", "")).lower())
    if secure is not None:
        yield Finding(True, f"security: {secure}, accepted")
    found = metadata.topics.get(topic)
    if found is None or found.error is not None or not found.partitions:
        reason = found.error.str() if found is not None and found.error is not None else "it has no partitions"
        yield Finding(False, f"topic {topic}: {reason}; check --topic, or create it, or allow this user to describe it")
        return
    yield Finding(True, f"topic {topic}: {count(len(found.partitions), 'partition')}")
    if settings["dlq_topic"] is not None:
        yield _check_dead_letter_topic(consumer, settings, sorted(metadata.brokers), said)
    targets = [key for key in settings["stop_at_offset"] or () if key[0] == topic]
    missing = out_of_topic(targets, found.partitions)
    if missing is not None:
        yield Finding(False, f"{missing}; check --stop-at", 2)
    elif targets:
        yield Finding(True, f"stop targets: {count(len(targets), 'partition')}, all of them exist")
    partitions = [TopicPartition(topic, number) for number in found.partitions]
    try:
        committed = consumer.committed(partitions, timeout=_BROKER_TIMEOUT_SECONDS)
    except KafkaException as error:
        yield Finding(False, f"group {group}: {redact(error.args[0].str())}; check --group, or allow this user to read it")
        return
    known = [partition for partition in committed if partition.offset >= 0]
    yield Finding(True, f"group {group}: offsets committed for {len(known)} of {count(len(committed), 'partition')}")
    yield from _check_logs(consumer, known, settings)
    if not settings["demo"]:  # librdkafka's mock cluster knows no rights
        yield from _check_rights(settings)


def _check_dead_letter_topic(consumer: Any, settings: Mapping[str, Any], brokers: Sequence[int], said: LastError) -> Finding:
    topic = settings["dlq_topic"]
    try:
        found = _list_topics(consumer, topic, said).topics.get(topic)
    except KafkaException as error:
        reason = Redactor(settings[KAFKA]).redact(said.text or error.args[0].str())
        return Finding(False, f"dead-letter topic {topic}: {reason}; check the brokers")
    if found is not None and found.error is None and found.partitions:
        return Finding(True, f"dead-letter topic {topic}: {count(len(found.partitions), 'partition')}")
    unknown = found is None or found.error is None or found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART
    if unknown and not settings["demo"] and brokers and _brokers_create_topics(settings, brokers[0]):
        return Finding(True, f"dead-letter topic {topic}: doesn't exist yet, the brokers create it (auto.create.topics.enable)")
    if unknown and settings["demo"]:
        return Finding(True, f"dead-letter topic {topic}: the demo's broker creates it")
    reason = "it doesn't exist" if found is None or found.error is None else found.error.str()
    mend = "create it, or check --dlq-topic, or allow this user to describe it"
    return Finding(False, f"dead-letter topic {topic}: {reason}; {mend}")


def _brokers_create_topics(settings: Mapping[str, Any], broker: int) -> bool:
    """Whether brokers create topics by themselves; False where they, or the rights of this user, don't tell."""
    asked = ConfigResource(ConfigResource.Type.BROKER, str(broker))
    try:
        admin = _admin(settings)  # its answers end with it
        answer = admin.describe_configs([asked], request_timeout=_RIGHTS_SECONDS)[asked].result(_RIGHTS_SECONDS + 1)
    except (KafkaException, ValueError, TimeoutError):
        return False
    entry = answer.get("auto.create.topics.enable")
    return entry is not None and entry.value == "true"


def _mend(reason: str) -> str:
    """Return what to look at, by what librdkafka says."""
    text = reason.lower()
    if "certificate" in text or "ssl handshake" in text:
        return "check ssl.ca.location, and that the broker's certificate is for the name in --bootstrap-server"
    if "resolve" in text or "name or service" in text:
        return "check the host's name in --bootstrap-server, and DNS"
    if "refused" in text:
        return "check host and port in --bootstrap-server, and that the broker runs"
    if "apiversion" in text or "disconnected" in text:
        return "check security.protocol: the broker hangs up, as one does that wants TLS or a login"
    return "check --bootstrap-server, the network and security.protocol"


def _list_topics(consumer: Any, topic: str, said: LastError) -> Any:
    """Ask for the topic's metadata until it is answered, every address has refused, or the time is up."""
    deadline = time.monotonic() + _BROKER_TIMEOUT_SECONDS
    while True:
        try:
            return consumer.list_topics(topic, timeout=_ATTEMPT_SECONDS)
        except KafkaException:
            consumer.poll(0)  # delivers what the connection attempts had to say
            if said.final or time.monotonic() >= deadline:
                raise


def _check_logs(consumer: Any, committed: list[TopicPartition], settings: Mapping[str, Any]) -> Iterator[Finding]:
    """Look whether what the group would read next is still there."""
    gone, lag = [], 0
    try:
        for partition in committed[:_MOST_LOGS]:
            low, high = consumer.get_watermark_offsets(
                TopicPartition(partition.topic, partition.partition), timeout=_BROKER_TIMEOUT_SECONDS
            )
            lag += max(0, high - max(low, partition.offset))
            if not low <= partition.offset <= high:
                gone.append(f"{partition.topic}-{partition.partition} (committed {partition.offset:,}, log {low:,} to {high:,})")
    except KafkaException as error:
        reason = Redactor(settings[KAFKA]).redact(error.args[0].str())
        text = f"topic {settings['topic']}: where its log begins and ends isn't answered: {reason}"
        yield Finding(False, f"{text}; allow this user to describe the topic")
        return
    policy = settings["on_offset_out_of_range"]
    if gone:
        shown = ", ".join(gone[:5]) + (f" and {len(gone) - 5} more" if len(gone) > 5 else "")
        mend = "say where to go on: --on-offset-out-of-range earliest or latest" if policy == "fail" else f"goes on at {policy}"
        yield Finding(policy != "fail", f"offsets that aren't in the log any more: {shown}; {mend}")
    elif committed:
        where = f" in {_MOST_LOGS} partitions" if len(committed) > _MOST_LOGS else ""
        yield Finding(True, f"lag: {count(lag, 'message')}{where}")


def _check_rights(settings: Mapping[str, Any]) -> Iterator[Finding]:
    """Ask what this user may do; brokers that don't tell are taken at their word for the rest."""
    topic, group, dead_letters = settings["topic"], settings["group_id"], settings["dlq_topic"]
    topics = [topic] if dead_letters is None else [topic, dead_letters]
    try:
        admin = _admin(settings)
        described = admin.describe_topics(
            TopicCollection(topics), include_authorized_operations=True, request_timeout=_RIGHTS_SECONDS
        )
        asked = {
            f"group {group}": admin.describe_consumer_groups(
                [group], include_authorized_operations=True, request_timeout=_RIGHTS_SECONDS
            )[group],
            f"topic {topic}": described[topic],
        }
        if dead_letters is not None:
            asked[f"dead-letter topic {dead_letters}"] = described[dead_letters]
    except (KafkaException, ValueError):
        return
    for name, answer in asked.items():
        try:
            allowed = answer.result(_RIGHTS_SECONDS + 1).authorized_operations
        except (KafkaException, TimeoutError):
            continue
        wanted, word = (AclOperation.WRITE, "Write") if name.startswith("dead-letter") else (AclOperation.READ, "Read")
        verb = "write to" if word == "Write" else "read"
        if allowed is not None and not {wanted, AclOperation.ALL} & set(allowed):
            yield Finding(False, f"{name}: this user may not {verb} it: an ACL must allow it the operation {word}")
        elif allowed is not None:
            yield Finding(True, f"{name}: this user may {verb} it")


def _admin(settings: Mapping[str, Any]) -> AdminClient:
    """Return a client for questions. Errors: ``KafkaException``, ``ValueError``."""
    # Options of a consumer would be refused, or warned about; what matters here is who asks.
    given = for_librdkafka(settings[KAFKA])
    options = {name: value for name, value in given.items() if name in _LOGIN or name.startswith(("ssl.", "sasl."))}
    return AdminClient({**options, "bootstrap.servers": settings["bootstrap_servers"]}, logger=_quiet)


_LOGIN = frozenset({"security.protocol", "enable.ssl.certificate.verification", "broker.address.family", "client.id"})
