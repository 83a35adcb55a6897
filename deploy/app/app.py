"""What kc calls in the containers of compose.yaml when KC_PROCESSOR=app:handle: put your own function here."""

from __future__ import annotations

import json


def handle(value: bytes | None) -> None:
    """Handle one message; raise to send it to the dead letters. None is a tombstone."""
    if value is None:
        return
    order = json.loads(value)
    if not isinstance(order, dict) or "id" not in order:
        raise ValueError("expected an object with an id")
