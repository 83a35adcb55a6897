"""``decode``: the processor gets an object instead of bytes: JSON, Avro or Protobuf, the latter two by way of a schema registry.

A value that can't be decoded is nobody's fault but its own: it goes to the dead letters with the reason (``DecodeError``),
without another attempt and without a call of the processor. A registry that can't be reached is another matter: the worker waits
for it, up to a minute from when it went away. After that each message fails as if the processor had raised
(``RegistryUnavailableError``), so attempts, pauses and ``max_failure_ratio`` do what they do for any service that is away. A
tombstone stays None.

Options of the registry's client are those of librdkafka that begin with ``schema.registry.``, as Java's client names them; they
are secret like the others.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import inspect
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from kafka_consumer.errors import ConfigError, DecodeError, RegistryUnavailableError
from kafka_consumer.option_checks import REGISTRY_PREFIX, resolve_processor
from kafka_consumer.redaction import Redactor

if TYPE_CHECKING:
    from kafka_consumer.config import KafkaConsumerConfig
    from kafka_consumer.message_view import Message

PATIENCE_SECONDS = 60.0  # how long workers wait for a registry, from when it went away
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0
CLIENT_DEFAULTS: Mapping[str, Any] = {"timeout": 10, "max.retries": 0}  # trying again is done here, bounded and told
_NUMBERS = frozenset({
    "timeout", "max.retries", "retries.wait.ms", "retries.max.wait.ms", "cache.capacity", "cache.latest.ttl.sec",
})  # fmt: skip
_ID_HEADERS = frozenset({"__value_schema_id"})
_EXTRA = {"json": "jsonschema", "avro": "fastavro", "protobuf": "google.protobuf"}

logger = logging.getLogger("kafka_consumer.decoding")


def registry_settings(config: KafkaConsumerConfig) -> dict[str, Any]:
    """Return what the registry's client is configured with; holds secrets."""
    given = {
        name.removeprefix(REGISTRY_PREFIX): value
        for name, value in config.kafka_options.items()
        if name.startswith(REGISTRY_PREFIX)
    }
    # From a file or the command line all is text.
    given = {name: int(value) if name in _NUMBERS and str(value).isdecimal() else value for name, value in given.items()}
    return {**CLIENT_DEFAULTS, **given, "url": config.schema_registry_url}


def decoding(config: KafkaConsumerConfig, call: Callable[[Any], Any], *, whole: bool) -> Decoding:
    """Return ``call`` behind a decoder; it gets the message (``whole``) or its value. Errors: ``ConfigError``."""
    if config.schema_registry_url is not None:
        for module in ("httpx2", "authlib", "cachetools", _EXTRA[config.decode]):
            try:
                missing = importlib.util.find_spec(module) is None
            except ModuleNotFoundError:  # google, of google.protobuf
                missing = True
            if missing:
                raise ConfigError(f"decode={config.decode} needs {module}: install the extra, kc[decode]")
    if config.protobuf_type is not None:
        _protobuf_type(config.protobuf_type)
    kind = AsyncDecoding if config.is_coroutine else Decoding
    registry = None if config.schema_registry_url is None else registry_settings(config)
    decode = Decoder(config.decode, registry, config.protobuf_type)
    try:
        decode.prepare()
    except Exception as error:  # noqa: BLE001 - the client's own checks of what the user gave
        raise ConfigError(f"schema registry: {Redactor(config.kafka_options).redact(_line(error))}") from None
    return kind(call, decode, whole=whole, spec=config.processor_spec)


class Decoding:
    """The processor behind a decoder. Pickles, so that a worker process can have it."""

    def __init__(self, call: Callable[[Any], Any], decode: Decoder, *, whole: bool, spec: str | None = None) -> None:
        self._call = call
        self._decode = decode
        self._whole = whole
        self._spec = spec  # what the processor is imported by elsewhere; None: it is pickled itself

    def __call__(self, message: Message) -> Any:
        """Decode, and call the processor."""
        value = self._decode(message)
        return self._call(message.with_value(value) if self._whole else value)

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (type(self), self._spec or self._call, self._decode, self._whole)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._call!r}, {self._decode!r})"


class AsyncDecoding(Decoding):
    """As ``Decoding``, for a coroutine function: what may ask the registry doesn't block the event loop."""

    async def __call__(self, message: Message) -> Any:
        """Decode, and await the processor."""
        value = self._decode(message) if self._decode.knows(message) else await asyncio.to_thread(self._decode, message)
        return await self._call(message.with_value(value) if self._whole else value)


def _again(kind: type[Decoding], processor: str | Callable[[Any], Any], decode: Decoder, whole: bool) -> Decoding:
    return kind(resolve_processor(processor) if isinstance(processor, str) else processor, decode, whole=whole)


class Decoder:
    """Makes an object of a message's value; any thread may call it.

    All share one deserializer: its caches have locks, and what one thread has asked the registry no other has to.
    """

    def __init__(self, how: str, registry: Mapping[str, Any] | None, protobuf_type: str | None) -> None:
        self._how = how
        self._registry = registry
        self._protobuf_type = protobuf_type
        self._lock = threading.Lock()  # guards the two below
        self._deserialize: Callable[[Any, Any], Any] | None = None
        self._away_since: float | None = None
        self._known: set[bytes] = set()  # ids of schemas that have been used: no need to ask for them; single atomic steps

    def __getstate__(self) -> tuple[Any, ...]:
        return self._how, self._registry, self._protobuf_type

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.__init__(*state)  # type: ignore[misc] # the same arguments

    def __repr__(self) -> str:
        """How, never the registry's settings: they hold secrets."""
        return f"Decoder({self._how!r})"

    def __call__(self, message: Message) -> Any:
        """Return the decoded value; None for a tombstone. Errors: ``DecodeError``, ``RegistryUnavailableError``."""
        value = message.value
        if value is None:
            return None
        if self._registry is None:
            try:
                return json.loads(value)
            except (ValueError, RecursionError) as error:  # also what isn't UTF-8
                raise _undecodable("json", error) from error
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                decoded = self._deserialized(message)
            except Exception as error:
                reason = _why_away(error)
                if reason is None:
                    self._is_back()
                    raise _undecodable(self._how, error) from error
                self._wait(reason, pause)
                pause = min(LONGEST_PAUSE_SECONDS, pause * 2)
            else:
                self._is_back()
                self._known.add(_schema_id(message))
                return decoded

    def prepare(self) -> None:
        """Build what decodes, without asking the registry. Errors: whatever the registry's client raises for its settings."""
        if self._registry is not None:
            with self._lock:
                if self._deserialize is None:
                    self._deserialize = self._deserializer()

    def knows(self, message: Message) -> bool:
        """Whether this can be decoded without asking the registry."""
        return self._registry is None or message.value is None or _schema_id(message) in self._known

    def _deserialized(self, message: Message) -> Any:
        from confluent_kafka.serialization import MessageField, SerializationContext

        if self._deserialize is None:  # in a worker process
            self.prepare()
        assert self._deserialize is not None  # noqa: S101 - for the type checker: prepare() has set it
        context = SerializationContext(message.topic, MessageField.VALUE, list(message.headers))
        return self._deserialize(message.value, context)

    def _deserializer(self) -> Callable[[Any, Any], Any]:
        from confluent_kafka.schema_registry import SchemaRegistryClient

        client = SchemaRegistryClient(dict(self._registry or {}))
        kind: Any
        if self._how == "avro":
            from confluent_kafka.schema_registry.avro import AvroDeserializer as kind  # noqa: N813 - one name for three
        elif self._how == "json":
            from confluent_kafka.schema_registry.json_schema import JSONDeserializer as kind  # noqa: N813

            kind = functools.partial(kind, None)
        else:
            from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer as kind  # noqa: N813

            kind = functools.partial(kind, _protobuf_type(self._protobuf_type or ""), {"use.deprecated.format": False})
        made: Callable[[Any, Any], Any] = kind(schema_registry_client=client)
        return made

    def _wait(self, reason: str, pause: float) -> None:
        """The registry is away: wait a moment. Errors: ``RegistryUnavailableError`` when it has been for too long."""
        with self._lock:
            now = time.monotonic()
            first = self._away_since is None
            since = self._away_since = now if self._away_since is None else self._away_since
        if first:
            logger.warning("the schema registry can't be asked, trying again for %g s: %s", PATIENCE_SECONDS, reason)
        if now + pause - since >= PATIENCE_SECONDS:
            raise RegistryUnavailableError(f"the schema registry can't be asked, for {now - since:.0f} s: {reason}")
        time.sleep(pause)

    def _is_back(self) -> None:
        if self._away_since is None:
            return
        with self._lock:
            since, self._away_since = self._away_since, None
        if since is not None:
            logger.warning("the schema registry answers again, after %.0f s", time.monotonic() - since)


def _schema_id(message: Message) -> bytes:
    """Return what names the schema: in a header, or the first five bytes of the value."""
    for name, value in message.headers:
        if name in _ID_HEADERS and value is not None:
            return value
    return bytes(message.value[:5])


def _why_away(error: BaseException) -> str | None:
    """Return why the registry couldn't be asked; None when it is the value that can't be decoded."""
    from confluent_kafka.schema_registry import SchemaRegistryError

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SchemaRegistryError):
            # 404 and 422: it says that there is no such schema. Anything else, a refused login too, is not the message's fault.
            return None if cause.http_status_code in (404, 422) else _line(cause)
        if isinstance(cause, OSError) or type(cause).__module__.partition(".")[0] in ("httpx", "httpx2", "authlib"):
            return _line(cause)
        cause = cause.__cause__ or cause.__context__
    return None


def _undecodable(how: str, error: BaseException) -> DecodeError:
    return DecodeError(f"the value can't be decoded as {how}: {_line(error)}")


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def _protobuf_type(spec: str) -> Any:
    found = resolve_processor(spec)
    if not (inspect.isclass(found) and hasattr(found, "DESCRIPTOR")):
        raise ConfigError(f"protobuf_type: expected 'module:Class' of a generated message, got {spec!r}")
    return found
