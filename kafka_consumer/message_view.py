"""``Message``: what a processor gets that wants more than the value: ``def handle(message: Message)``.

Reads the client's message when it is asked and not before, so a field that nobody looks at costs nothing.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from kafka_consumer.dead_letter import headers_of, timestamp_of
from kafka_consumer.types import Headers


class Message:
    """A message. ``value`` is bytes, what ``decode`` made of it, or None for a tombstone.

    ``timestamp`` is in milliseconds since the epoch, None where the record has none. Read only; made by hand for a test:
    ``Message(b"{}", key=b"42", headers=[("trace", b"1")])``.
    """

    __slots__ = ("_source", "_value")
    _source: Any
    _value: Any

    def __init__(
        self, value: Any, *, key: bytes | None = None, headers: Iterable[tuple[str, bytes | None]] = (), topic: str = "",
        partition: int = 0, offset: int = 0, timestamp: int | None = None,
    ) -> None:  # fmt: skip
        self._value = value
        self._source = _Fields(key, tuple(headers), topic, partition, offset, timestamp)

    @classmethod
    def of(cls, source: Any, value: Any) -> Message:
        """Return the view of a client's message, with this value."""
        view: Message = object.__new__(cls)
        view._source = source
        view._value = value
        return view

    def with_value(self, value: Any) -> Message:
        """Return the same message with another value."""
        return Message.of(self._source, value)

    @property
    def value(self) -> Any:
        """The value."""
        return self._value

    @property
    def key(self) -> bytes | None:
        """The key, None where there is none."""
        key = self._source.key()
        return key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key

    @property
    def headers(self) -> Headers:
        """``((name, value), …)`` in their order; names may repeat."""
        return headers_of(self._source)

    @property
    def topic(self) -> str:
        """The topic."""
        return str(self._source.topic())

    @property
    def partition(self) -> int:
        """The partition."""
        return int(self._source.partition())

    @property
    def offset(self) -> int:
        """The offset."""
        return int(self._source.offset())

    @property
    def timestamp(self) -> int | None:
        """Milliseconds since the epoch, or None."""
        return timestamp_of(self._source)

    def _fields(self) -> tuple[Any, ...]:
        return (self.value, self.key, self.headers, self.topic, self.partition, self.offset, self.timestamp)

    def __eq__(self, other: object) -> bool:
        return self._fields() == other._fields() if isinstance(other, Message) else NotImplemented

    __hash__ = None  # type: ignore[assignment] # a decoded value may be a dict

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, self._fields()

    def __repr__(self) -> str:
        """Where it is, never the payload: it may hold secrets, and it may be huge."""
        return f"Message({self.topic}-{self.partition}@{self.offset})"


class _Fields:
    """The source of a message made by hand, or of one that came from another process."""

    __slots__ = ("_fields",)

    def __init__(self, *fields: Any) -> None:
        self._fields = fields

    def key(self) -> Any:
        return self._fields[0]

    def headers(self) -> Any:
        return self._fields[1]

    def topic(self) -> Any:
        return self._fields[2]

    def partition(self) -> Any:
        return self._fields[3]

    def offset(self) -> Any:
        return self._fields[4]

    def timestamp(self) -> tuple[int, int]:
        return (0, 0) if self._fields[5] is None else (1, self._fields[5])


def _rebuilt(value: Any, key: Any, headers: Any, topic: str, partition: int, offset: int, timestamp: int | None) -> Message:
    return Message(value, key=key, headers=headers, topic=topic, partition=partition, offset=offset, timestamp=timestamp)


def wants_message(processor: Callable[..., Any]) -> bool:
    """Whether the first parameter is annotated with ``Message``, be it as a string."""
    try:
        parameters = list(inspect.signature(processor).parameters.values())
    except (TypeError, ValueError):  # a builtin without a signature
        return False
    annotation = parameters[0].annotation if parameters else None
    if not isinstance(annotation, str):
        return annotation is Message
    # With `from __future__ import annotations` all of them are strings; only the one that matters is looked up.
    first, *rest = annotation.strip("'\" ").split(".")
    found: Any = _namespace(processor).get(first, annotation)
    for name in rest:
        found = getattr(found, name, annotation)
    if found is annotation:  # imported for the type checker alone
        return [first, *rest][-1] == "Message"
    return found is Message


def _namespace(processor: Any) -> dict[str, Any]:
    while isinstance(processor, functools.partial):
        processor = processor.func
    target = inspect.unwrap(processor)
    if not hasattr(target, "__globals__"):
        target = getattr(type(target), "__call__", None) if not inspect.ismethod(target) else target.__func__  # noqa: B004
    return getattr(target, "__globals__", {})


def size_of(argument: Any) -> int:
    """Return the bytes of what a processor is called with: a value, or a message."""
    value = argument.value if isinstance(argument, Message) else argument
    return 0 if value is None else len(value)
