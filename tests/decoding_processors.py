"""Processors that another process can import."""

from __future__ import annotations

import json
from typing import Any

from kafka_consumer import Message


class Collect:
    """Keeps what it is called with."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def take(self, value: Any) -> None:
        self.seen.append(value)

    async def take_async(self, value: Any) -> None:
        self.seen.append(value)


class Note:
    """Writes all fields of a message to a file, as JSON."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, message: Message) -> None:
        def shown(data: Any) -> Any:
            return data.decode() if isinstance(data, bytes) else data

        headers = [[name, shown(value)] for name, value in message.headers]
        fields = [shown(message.value), shown(message.key), headers, message.topic, message.partition, message.offset]
        with open(self.path, "w", encoding="utf-8") as out:
            json.dump([*fields, message.timestamp], out)
