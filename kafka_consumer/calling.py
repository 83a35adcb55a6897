"""What workers call, and with what: the processor itself wherever it can be, else with what the options put around it.

The decision is taken once, at the start. Where neither ``decode`` nor ``tracing`` is wanted nothing stands between a worker and
the processor, and neither module is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kafka_consumer.message_view import Message, wants_message

if TYPE_CHECKING:
    from kafka_consumer.config import KafkaConsumerConfig


def takes_messages(config: KafkaConsumerConfig) -> bool:
    """Whether workers hand over a ``Message``; else the value alone."""
    return config.decode != "raw" or config.tracing or wants_message(config.processor_callable)


def processor_of(config: KafkaConsumerConfig) -> Callable[[Any], Any]:
    """Return what workers call, with a ``Message`` if ``takes_messages(config)``. Errors: ``ConfigError`` for a missing extra."""
    call: Callable[[Any], Any] = config.processor_callable
    whole = wants_message(call)
    if config.decode != "raw":
        from kafka_consumer.decoding import decoding

        call, whole = decoding(config, call, whole=whole), True
    if config.tracing:
        from kafka_consumer.tracing import traced

        call = traced(config, call, whole=whole)
    return call


def argument_of(config: KafkaConsumerConfig) -> Callable[[Any, Any], Any]:
    """Return the function that makes of a client's message and its value what the processor is called with."""
    return Message.of if takes_messages(config) else _value_alone


def _value_alone(_message: Any, value: Any) -> Any:
    return value
