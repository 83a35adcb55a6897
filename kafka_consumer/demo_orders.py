"""The demo's messages and its processor: orders of a web shop, as JSON, with the faults that real topics have.

Most orders take a few milliseconds, some hundreds, a rare one seconds. About one in fifty fails: malformed JSON, a
quantity below zero, or text in another encoding.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from typing import Any

_PRODUCTS = (
    ("SKU-1042", "Espresso beans 1 kg", 1890), ("SKU-2210", "Paper filters 100", 420), ("SKU-3307", "Hand grinder", 8900),
    ("SKU-4718", "Kettle, gooseneck", 6450), ("SKU-5120", "Scale 0.1 g", 3290), ("SKU-6001", "Mug, 350 ml", 1150),
)
_CITIES = ("Utrecht", "Zürich", "Łódź", "Lyon", "Porto", "Malmö", "Gent", "Graz")
_CHANNELS = (b"web", b"ios", b"android", b"pos")

_MAX_HANDLING_SECONDS = 5.0

# Shares of all orders: cumulative, each fault's up to its own number.
_MALFORMED, _BAD_QUANTITY, _BAD_ENCODING = 0.008, 0.016, 0.020
_VERY_SLOW, _SLOW = 0.0005, 0.06


class ValidationError(ValueError):
    """An order breaks a rule of the shop."""


def process(value: bytes | None) -> None:
    """Handle one order; a tombstone is a cancelled one. Errors: ``json.JSONDecodeError``, ``ValidationError``."""
    if value is None:
        return
    order = json.loads(value)
    _validate(order)
    # The order says how long its handling takes, so that a demo has slow ones without any state here.
    time.sleep(min(max(float(order.get("handling_ms", 0)), 0.0) / 1000, _MAX_HANDLING_SECONDS))


def _validate(order: Any) -> None:
    if not isinstance(order, dict):
        raise ValidationError(f"expected an order to be an object, got {type(order).__name__}")
    for name in ("order_id", "customer", "lines"):
        if name not in order:
            raise ValidationError(f"expected an order to have {name!r}")
    for line in order["lines"]:
        if line["qty"] < 0:
            raise ValidationError(f"expected qty of {line['sku']} to be at least 0, got {line['qty']}")


@dataclass(frozen=True, slots=True)
class SampleMessage:
    """A message to produce."""

    key: bytes
    value: bytes
    headers: tuple[tuple[str, bytes], ...]


class SampleOrders:
    """An endless, repeatable series of messages: the same seed makes the same ones. For one thread."""

    def __init__(self, seed: int = 7) -> None:
        self._random = random.Random(seed)
        self._number = 0

    def next(self, *, slow: bool = False) -> SampleMessage:
        """Return the next message; ``slow`` makes its handling take four times as long."""
        draw = self._random
        self._number += 1
        customer = f"customer-{draw.randrange(400):04d}"
        lines = [
            {"sku": sku, "name": name, "qty": draw.randint(1, 4), "unit_cents": cents}
            for sku, name, cents in draw.sample(_PRODUCTS, draw.randint(1, 3))
        ]
        handling = self._handling_ms() * (4 if slow else 1)
        order: dict[str, Any] = {
            "order_id": f"A-{100_000 + self._number}",
            "customer": customer,
            "city": draw.choice(_CITIES),
            "lines": lines,
            "total_cents": sum(line["qty"] * line["unit_cents"] for line in lines),  # type: ignore[operator]
            "handling_ms": handling,
        }
        fault = draw.random()
        if _MALFORMED <= fault < _BAD_QUANTITY:
            lines[0]["qty"] = -draw.randint(1, 3)
        value = json.dumps(order, ensure_ascii=False).encode()
        if fault < _MALFORMED:
            value = value[: draw.randint(20, len(value) - 2)].decode(errors="ignore").encode()
        elif _BAD_QUANTITY <= fault < _BAD_ENCODING:
            # A client that still speaks Latin-1: the usual way in which invalid UTF-8 comes into a topic.
            value = json.dumps({**order, "city": "Zürich"}, ensure_ascii=False).encode("latin-1", errors="replace")
        trace, span = draw.getrandbits(128), draw.getrandbits(64)
        headers = (
            ("traceparent", f"00-{trace:032x}-{span:016x}-01".encode()),
            ("content-type", b"application/json"),
            ("channel", draw.choice(_CHANNELS)),
        )
        return SampleMessage(customer.encode(), value, headers)

    def _handling_ms(self) -> int:
        kind = self._random.random()
        if kind < _VERY_SLOW:
            return self._random.randint(2_000, 5_000)
        if kind < _SLOW:
            return self._random.randint(10, 300)
        return self._random.randint(1, 20)
