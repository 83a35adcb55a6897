"""The Kafka that tests run against; see choice.py for which one, and tests/conftest.py for the fixtures."""

from __future__ import annotations

from tests.kafka.choice import Choice, choose
from tests.kafka.local import BrokerFailedError, LocalKafka
from tests.kafka.mock import MockKafka
from tests.kafka.tools import Kafka

__all__ = ["BrokerFailedError", "Choice", "Kafka", "LocalKafka", "MockKafka", "choose"]
