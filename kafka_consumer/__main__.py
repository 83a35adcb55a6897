"""``python -m kafka_consumer`` is ``kc``."""

from __future__ import annotations

from kafka_consumer.cli import main

if __name__ == "__main__":
    main()
