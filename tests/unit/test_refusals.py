from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException

from kafka_consumer.refusals import REFUSED, refusal

TOKEN = "Failed to acquire SASL OAUTHBEARER token: "


@pytest.mark.parametrize("code", sorted(REFUSED))
def test_a_refusal_is_one_alone_or_within_an_exception(code: int):
    error = KafkaError(code, "no")
    assert refusal(error) == "Kafka refuses access: no"
    assert refusal(KafkaException(error)) == "Kafka refuses access: no"


@pytest.mark.parametrize("error", [KafkaError(KafkaError._TRANSPORT, "away"), ValueError("no"), KafkaException(), None])
def test_what_is_none_gives_no_reason_to_end(error: object):
    assert refusal(error) is None


@pytest.mark.parametrize("said", [
    "Failed to connect to 127.0.0.1:1 after 0 ms: Could not connect to server", "Could not resolve host: id.example",
    "Operation timed out after 30001 milliseconds", "Recv failure: Connection reset by peer", "HTTP error 503: try later",
])  # fmt: skip
def test_a_token_server_that_is_away_is_waited_for_as_a_broker_is(said: str):
    assert refusal(KafkaError(KafkaError._AUTHENTICATION, TOKEN + said)) is None


@pytest.mark.parametrize("said", ["HTTP error 401: invalid_client", "Unrecognized sasl.oauthbearer.config beginning at: x"])
def test_a_token_server_that_says_no_ends_it(said: str):
    assert refusal(KafkaError(KafkaError._AUTHENTICATION, TOKEN + said)) == f"Kafka refuses access: {TOKEN}{said}"
