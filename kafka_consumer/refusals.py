"""Which errors of Kafka say "you may not": nothing that waiting would mend."""

from __future__ import annotations

import re
from typing import Any

from confluent_kafka import KafkaError, KafkaException

# The name with an underscore is librdkafka's own error, public as any other.
REFUSED = frozenset({
    KafkaError._AUTHENTICATION,  # noqa: SLF001
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
})  # fmt: skip


_TOKEN_LATER = re.compile(
    r"Failed to acquire SASL OAUTHBEARER token: .*"
    r"(connect to|resolve host|timed out|timeout|connection (refused|reset|was reset)|failure|HTTP\D{0,20}5\d\d)",
    re.IGNORECASE | re.DOTALL,
)
"""A token server that is away, or ill: librdkafka calls that a failed authentication, too, and asks it again in ten seconds."""


def refusal(error: Any) -> str | None:
    """Return the reason to end when ``error`` (a ``KafkaError``, or a ``KafkaException`` around one) is a refusal, else None."""
    if isinstance(error, KafkaException) and error.args:
        error = error.args[0]
    if isinstance(error, KafkaError) and error.code() in REFUSED and not _TOKEN_LATER.match(error.str()):
        return f"Kafka refuses access: {error.str()}"
    return None
