"""``tracing``: a span for each call of the processor, by OpenTelemetry's conventions for messaging.

The span is a root of its own, linked to the one in which the message was produced (W3C ``traceparent`` in the headers): between
the two lies a log that many read, again and again. It is current while the processor runs, so spans made there are its children.

Only the API is used. Where spans go is the application's affair: a tracer provider that the processor's module sets, or
``opentelemetry-instrument kc --headless …``.

Keys and values are in no span. An error is recorded with its message and its stack, as in the dead letters.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from kafka_consumer.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.trace import Link, Span

    from kafka_consumer.config import KafkaConsumerConfig
    from kafka_consumer.message_view import Message

OPERATION = "process"

logger = logging.getLogger("kafka_consumer.tracing")


def traced(config: KafkaConsumerConfig, call: Callable[[Any], Any], *, whole: bool) -> Callable[[Message], Any]:
    """Return ``call`` in a span; it gets the message (``whole``) or its value. Errors: ``ConfigError`` without the extra."""
    if importlib.util.find_spec("opentelemetry") is None:
        raise ConfigError("tracing needs opentelemetry-api: install the extra, kc[otel]")
    spans = _Spans(config)

    if config.is_coroutine:

        async def process_traced_async(message: Message) -> Any:
            with spans.of(message):
                return await call(message if whole else message.value)

        return process_traced_async

    def process_traced(message: Message) -> Any:
        with spans.of(message):
            return call(message if whole else message.value)

    return process_traced


class _Spans:
    def __init__(self, config: KafkaConsumerConfig) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._trace = trace
        self._tracer = trace.get_tracer("kafka_consumer")
        self._propagator = TraceContextTextMapPropagator()
        self._common = {
            "messaging.system": "kafka",
            "messaging.operation.name": OPERATION,
            "messaging.operation.type": "process",
            "messaging.consumer.group.name": config.group_id,
            "messaging.client.id": str(config.kafka_options.get("client.id", "kc")),
        }
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            logger.warning(
                "tracing: no tracer provider is set, so spans go nowhere: set one where the processor is defined, or run "
                "under opentelemetry-instrument"
            )

    @contextlib.contextmanager
    def of(self, message: Message) -> Iterator[Span]:
        from opentelemetry.context import Context

        # An empty context: the span has no parent, whatever runs in this thread.
        with self._tracer.start_as_current_span(
            f"{OPERATION} {message.topic}", context=Context(), kind=self._trace.SpanKind.CONSUMER, links=self._links(message),
            attributes=self._attributes(message), record_exception=False, set_status_on_exception=False,
        ) as span:  # fmt: skip
            try:
                yield span
            except BaseException as error:  # also a cancellation, also SystemExit: the message has failed
                self._record(span, error)
                raise

    def _attributes(self, message: Message) -> dict[str, Any]:
        value = message.value
        attributes = {
            **self._common,
            "messaging.destination.name": message.topic,
            "messaging.destination.partition.id": str(message.partition),
            "messaging.kafka.offset": message.offset,
        }
        if value is None:
            attributes["messaging.kafka.message.tombstone"] = True
        else:
            attributes["messaging.message.body.size"] = len(value)
        return attributes

    def _links(self, message: Message) -> list[Link]:
        """Return the link to the producer's span; none where the headers hold none, or nonsense."""
        from opentelemetry.context import Context

        carrier = {name: value.decode("latin-1") for name, value in message.headers if name in _CONTEXT and value is not None}
        if "traceparent" not in carrier:
            return []
        context = self._trace.get_current_span(self._propagator.extract(carrier, context=Context())).get_span_context()
        return [self._trace.Link(context)] if context.is_valid else []

    def _record(self, span: Span, error: BaseException) -> None:
        kind = type(error).__name__
        try:
            said = str(error)
        except Exception:  # noqa: BLE001 - whatever the error's own __str__ raises
            span.set_status(self._trace.StatusCode.ERROR, kind)
        else:
            span.record_exception(error)
            span.set_status(self._trace.StatusCode.ERROR, f"{kind}: {said}"[:1000])
        span.set_attribute("error.type", kind)


_CONTEXT = frozenset({"traceparent", "tracestate"})
