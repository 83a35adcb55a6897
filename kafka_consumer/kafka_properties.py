"""Options of librdkafka: ``client.properties``, keys that only Java's client knows, and what librdkafka itself refuses.

No value of these options ever appears in a message from here: which of them is a secret is for nobody to guess.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Mapping
from typing import Any

from kafka_consumer.option_checks import MANAGED_KAFKA_OPTIONS, SECRET, for_librdkafka
from kafka_consumer.snapshot import sanitise

JAVA_ONLY: Mapping[str, str] = {
    "sasl.jaas.config": "use sasl.username and sasl.password (or sasl.oauthbearer.* with sasl.mechanism=OAUTHBEARER)",
    "sasl.login.callback.handler.class": "use sasl.oauthbearer.method=oidc with sasl.oauthbearer.client.id",
    "sasl.client.callback.handler.class": "leave it out; sasl.mechanism says which client is used",
    "sasl.login.class": "leave it out; sasl.mechanism says how to log in",
    "ssl.truststore.location": "use ssl.ca.location with a PEM file",
    "ssl.truststore.password": "leave it out; the PEM file of ssl.ca.location has none",
    "ssl.truststore.type": "leave it out; ssl.ca.location takes PEM",
    "ssl.truststore.certificates": "use ssl.ca.pem",
    "ssl.keystore.type": "leave it out; ssl.keystore.location takes PKCS#12, ssl.certificate.location and ssl.key.location PEM",
    "ssl.keystore.key": "use ssl.key.pem",
    "ssl.keystore.certificate.chain": "use ssl.certificate.pem",
    "ssl.protocol": "leave it out; OpenSSL negotiates the version",
    "ssl.enabled.protocols": "leave it out; OpenSSL negotiates the version",
    "ssl.keymanager.algorithm": "leave it out",
    "ssl.trustmanager.algorithm": "leave it out",
    "ssl.secure.random.implementation": "leave it out",
    "ssl.engine.factory.class": "leave it out",
    "ssl.provider": "use ssl.providers",
    "security.providers": "use ssl.providers",
    "key.deserializer": "leave it out; the processor gets bytes",
    "value.deserializer": "leave it out; the processor gets bytes (see --value-encoding)",
    "fetch.max.wait.ms": "use fetch.wait.max.ms",
    "default.api.timeout.ms": "use socket.timeout.ms",
    "receive.buffer.bytes": "use socket.receive.buffer.bytes",
    "send.buffer.bytes": "use socket.send.buffer.bytes",
    "socket.connection.setup.timeout.max.ms": "use socket.connection.setup.timeout.ms",
    "interceptor.classes": "leave it out",
    "metric.reporters": "leave it out",
    "metrics.num.samples": "leave it out",
    "metrics.recording.level": "leave it out",
    "metrics.sample.window.ms": "leave it out",
    "auto.include.jmx.reporter": "leave it out",
    "exclude.internal.topics": "leave it out",
}
"""Keys of Java's client that librdkafka doesn't have, and what to do instead."""

_CODE_ONLY = frozenset({"on_commit", "on_delivery", "logger", "default.topic.config", "key.serializer", "value.serializer"})

_COMMON = (
    "auto.offset.reset", "broker.address.family", "broker.version.fallback", "client.dns.lookup", "client.id", "client.rack",
    "check.crcs", "connections.max.idle.ms", "debug", "enable.partition.eof", "fetch.max.bytes", "fetch.message.max.bytes",
    "fetch.min.bytes", "fetch.queue.backoff.ms", "fetch.wait.max.ms", "group.instance.id", "group.protocol",
    "heartbeat.interval.ms", "isolation.level", "log.connection.close", "log_level", "max.partition.fetch.bytes",
    "max.poll.interval.ms", "message.max.bytes", "metadata.max.age.ms", "partition.assignment.strategy",
    "queued.max.messages.kbytes", "queued.min.messages", "receive.message.max.bytes", "reconnect.backoff.max.ms",
    "reconnect.backoff.ms", "retry.backoff.ms", "sasl.kerberos.keytab", "sasl.kerberos.principal",
    "sasl.kerberos.service.name", "sasl.mechanism", "sasl.mechanisms", "sasl.oauthbearer.client.id",
    "sasl.oauthbearer.client.secret", "sasl.oauthbearer.config", "sasl.oauthbearer.method", "sasl.oauthbearer.scope",
    "sasl.oauthbearer.token.endpoint.url", "sasl.password", "sasl.username", "security.protocol", "session.timeout.ms",
    "socket.connection.setup.timeout.ms", "socket.keepalive.enable", "socket.nagle.disable", "socket.timeout.ms",
    "ssl.ca.location", "ssl.ca.pem", "ssl.certificate.location", "ssl.certificate.pem", "ssl.cipher.suites",
    "ssl.endpoint.identification.algorithm", "ssl.key.location", "ssl.key.password", "ssl.key.pem", "ssl.keystore.location",
    "ssl.keystore.password", "statistics.interval.ms", "topic.metadata.refresh.interval.ms",
)
"""Options that people write by hand, to name the one that was meant; librdkafka offers no list."""

_FILES = frozenset({
    "ssl.ca.location", "ssl.certificate.location", "ssl.key.location", "ssl.keystore.location", "ssl.crl.location",
})  # fmt: skip
"""Options that name a file; librdkafka says of one that isn't there ``x509 certificate routines::BIO lib``."""

_TELLING_LENGTH = 4
"""From this length on a value is hidden even within a word; shorter ones would hide half of the message."""

_quiet = logging.getLogger("kafka_consumer.librdkafka.check")
_quiet.addHandler(logging.NullHandler())
# The check's client lives for a millisecond; what it has to say is said again by the real one.
_quiet.propagate = False


def is_option_name(text: str) -> bool:
    """Whether this may be the name of an option, of librdkafka or of Java's client; else it may be a value, even a secret."""
    return re.fullmatch(r"[a-z][a-z0-9._-]*", text) is not None


def is_utf8(text: str) -> bool:
    """Whether the text can be encoded: bytes of a command line or a variable that aren't UTF-8 arrive as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_properties(text: str, source: str) -> tuple[dict[str, str], list[str]]:
    """Read ``name=value`` lines (``#`` and ``!`` start a comment) into options and problems, which name ``source``."""
    options: dict[str, str] = {}
    lines_of: dict[str, int] = {}
    problems = []
    for number, raw in enumerate(text.split("\n"), start=1):
        line = raw.strip()
        if not line or line[0] in "#!":
            continue
        name, equals, value = line.partition("=")
        name = name.strip()
        if not equals or not is_option_name(name):
            problems.append(f"{source} line {number}: expected name=value")
        elif name in options:
            problems.append(f"{name} in {source}: given on line {lines_of[name]} and on line {number}; keep one of them")
        else:
            options[name] = value.strip()
            lines_of[name] = number
    return options, problems


def check_kafka_options(options: Mapping[str, Any], labels: Mapping[str, str]) -> list[str]:
    """Return a line for each option that is managed by kc, unknown to librdkafka or refused by it.

    ``labels`` says of each option where it was written, for example ``sasl.username in client.properties``. Nothing
    connects to a broker. Options whose combination is wrong are reported one at a time, as librdkafka does.
    """
    problems = []
    remaining = {}
    for name, value in for_librdkafka(options).items():
        if name in MANAGED_KAFKA_OPTIONS:
            problems.append(f"{labels[name]}: {MANAGED_KAFKA_OPTIONS[name]}")
        elif name in JAVA_ONLY:
            problems.append(f"{labels[name]}: an option of Java's client, librdkafka has none of that name: {JAVA_ONLY[name]}")
        elif name in _CODE_ONLY or name.endswith("_cb"):
            problems.append(f"{labels[name]}: this option can only be set in code")
        elif name in _FILES and (reason := _unreadable(str(value))) is not None:
            problems.append(f"{labels[name]}: expected a readable file: {reason}")
        elif not all(is_utf8(text) and "\0" not in text for text in (name, str(value))):
            problems.append(f"{labels[name]}: expected UTF-8 text without NUL characters, got {SECRET}")
        else:
            remaining[name] = value
    while True:
        refusal = _refusal(remaining)
        if refusal is None:
            return problems
        refused, reason = refusal
        if refused is None or refused not in remaining:
            return [*problems, f"kafka options: {reason}"]
        problems.append(f"{labels[refused]}: {reason}")
        del remaining[refused]


def _unreadable(path: str) -> str | None:
    """Return why a file can't be read, or None; librdkafka also takes folders, and ``probe`` for the system's own."""
    if path == "probe":
        return None
    try:
        with open(path, "rb"):
            return None
    except IsADirectoryError:
        return None
    except OSError as error:
        return error.strerror or str(type(error).__name__)
    except ValueError:
        return None  # NUL: the next check says so


def _refusal(options: Mapping[str, Any]) -> tuple[str | None, str] | None:
    """Let librdkafka parse the options; return the option it refuses, if it says which, and why, or None."""
    from confluent_kafka import Consumer, KafkaException

    try:
        # Without bootstrap.servers nothing is connected; with a group, close() has nothing to leave.
        Consumer({**options, "group.id": "kc-check"}, logger=_quiet).close()
    except KafkaException as error:
        return _explain(error.args[0].str(), options)
    except Exception as error:  # noqa: BLE001 - the binding raises TypeError, SystemError and others for values it can't convert
        return None, f"refused ({type(error).__name__})"
    return None


def _explain(message: str, options: Mapping[str, Any]) -> tuple[str | None, str]:
    message = message.strip()
    quoted = [name for name in re.findall(r'"([^"]*)"', message, re.DOTALL) if name in options]
    # "Invalid value "x" for configuration property "y"": the option is the last one quoted.
    detail = message.removeprefix("Failed to create consumer: ")
    name = quoted[-1] if quoted else next((each for each in options if detail.startswith(f"{each} failed")), None)
    if message.startswith("No such configuration property") and name is not None:
        near = difflib.get_close_matches(name, _COMMON, 1)
        return name, "librdkafka has no such option" + (f"; did you mean {near[0]}?" if near else "")
    if name is not None:
        allowed = re.search(r"outside allowed range (-?\d+)\.\.(-?\d+)", message)
        if allowed:
            return name, f"expected a number from {int(allowed[1]):,} to {int(allowed[2]):,}, got {SECRET}"
        if "bool" in message.lower():
            return name, f"expected true or false, got {SECRET}"
        if "Invalid value" in message:
            return name, f"librdkafka doesn't accept this value, got {SECRET}"
    return name, mask_values(detail, options)


def mask_values(message: str, options: Mapping[str, Any]) -> str:
    """Hide every value in librdkafka's own words: the short ones as whole words, the others wherever they are."""
    for value in sorted({str(value) for value in options.values()}, key=len, reverse=True):
        if len(value) >= _TELLING_LENGTH:
            message = message.replace(value, SECRET)
        elif value:
            message = re.sub(rf"(?<![\w.]){re.escape(value)}(?![\w.])", SECRET, message)
    return sanitise(message)
