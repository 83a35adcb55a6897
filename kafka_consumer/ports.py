"""The few methods of other libraries' objects that the core relies on.

Anything with these methods will do: a ``confluent_kafka.Consumer``, a fake in a test, a proxy.
"""

from __future__ import annotations

from typing import Any, Protocol


class MessageLike(Protocol):
    """A polled message. ``timestamp`` and ``headers`` may be absent from messages made by hand."""

    def topic(self) -> str: ...
    def partition(self) -> int: ...
    def offset(self) -> int: ...
    def key(self) -> bytes | None: ...
    def value(self) -> bytes | None: ...
    def error(self) -> Any: ...


class PollSource(Protocol):
    """What the polling loop needs at the least; ``consume``, ``pause`` and ``resume`` are used where they exist."""

    def poll(self, timeout: float = ...) -> MessageLike | None: ...


class Committable(Protocol):
    """What the commit loop needs: the method of ``confluent_kafka.Consumer`` of that name."""

    def commit(self, *, offsets: list[Any], asynchronous: bool) -> Any: ...
