"""From a message and an error to a dead letter, whatever the two are up to."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kafka_consumer.dead_letter import MESSAGE_LIMIT, TRACE_LIMIT, dead_letter, headers_of, timestamp_of
from tests.fakes import FakeMessage, MockMessage


def _raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def test_a_dead_letter_has_the_message_and_the_evidence():
    message = FakeMessage("t", 3, 9, b"k", b"v", headers=[("a", b"1"), ("a", None)], timestamp=1234)
    letter = dead_letter(message, _raised(KeyError("missing")), 2, 7)
    assert (letter.topic, letter.partition, letter.offset, letter.timestamp) == ("t", 3, 9, 1234)
    assert (letter.key, letter.value, letter.headers) == (b"k", b"v", (("a", b"1"), ("a", None)))
    assert (letter.error_type, letter.error_message, letter.attempts, letter.worker_id) == ("KeyError", "'missing'", 2, 7)
    assert letter.stack_trace.startswith("Traceback (most recent call last):\n")
    assert "raise error" in letter.stack_trace
    assert letter.stack_trace.endswith("KeyError: 'missing'\n")


def test_the_cause_of_an_error_is_part_of_the_evidence():
    error = ValueError("no price")
    error.__cause__ = _raised(OSError("connection refused"))
    trace = dead_letter(MockMessage("t", 0, 0, None, None), _raised(error), 1, None).stack_trace
    assert "connection refused" in trace
    assert "no price" in trace


def test_no_local_variable_is_ever_shown():
    def process(password: str) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError) as caught:
        process("S3CRET" + "S3CRET")
    letter = dead_letter(MockMessage("t", 0, 0, None, None), caught.value, 1, 0)
    assert "S3CRETS3CRET" not in letter.stack_trace


def test_its_representation_never_shows_the_payload():
    letter = dead_letter(MockMessage("t", 0, 5, b"S3CRET", b"S3CRET"), ValueError("x" * 1000), 1, 0)
    assert "S3CRET" not in repr(letter)
    assert repr(letter).startswith("DeadLetter(t-0@5, ValueError: ")
    assert len(repr(letter)) < 400


def test_a_message_made_by_hand_has_neither_timestamp_nor_headers():
    message = MockMessage("t", 0, 0, None, None)
    assert timestamp_of(message) is None
    assert headers_of(message) == ()
    assert timestamp_of(FakeMessage("t", 0, 0)) is None
    assert headers_of(FakeMessage("t", 0, 0)) == ()


class Hostile(MockMessage):
    """Nothing but its place can be read."""

    def key(self) -> Any:
        raise MemoryError

    def value(self) -> Any:
        raise RuntimeError("no value")

    def timestamp(self) -> Any:
        raise OSError

    def headers(self) -> Any:
        raise ValueError


def test_a_message_that_cannot_be_read_leaves_a_dead_letter_all_the_same():
    letter = dead_letter(Hostile("t", 0, 5, None, None), ValueError("x"), 0, None)
    assert (letter.offset, letter.key, letter.value, letter.timestamp, letter.headers) == (5, None, None, None, ())


class UnshowableError(Exception):
    """An error that can't be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no")


class NotTextError(Exception):
    """An error whose text is no text."""

    def __str__(self) -> Any:
        return 5  # noqa: PLE0307


@pytest.mark.parametrize("kind", [UnshowableError, NotTextError])
def test_an_error_that_cannot_be_shown_leaves_a_dead_letter_all_the_same(kind: type[Exception]):
    letter = dead_letter(MockMessage("t", 0, 5, None, None), _raised(kind()), 1, 0)
    assert letter.error_type == kind.__name__
    assert letter.error_message == "(the error can't be shown: its __str__ raises)"
    assert kind.__name__ in letter.stack_trace


def test_an_error_without_a_traceback_has_a_stack_trace():
    assert dead_letter(MockMessage("t", 0, 5, None, None), ValueError("x"), 1, 0).stack_trace == "ValueError: x\n"


def test_an_endless_error_is_cut():
    letter = dead_letter(MockMessage("t", 0, 5, None, None), _raised(ValueError("x" * 1_000_000)), 1, 0)
    assert len(letter.error_message) <= MESSAGE_LIMIT
    assert len(letter.stack_trace) <= TRACE_LIMIT
    assert letter.error_message.endswith(" … (cut)")
    assert letter.stack_trace.endswith(" … (cut)")


def test_an_endless_recursion_is_an_error_like_any_other():
    def deeper() -> None:
        deeper()

    with pytest.raises(RecursionError) as caught:
        deeper()
    letter = dead_letter(MockMessage("t", 0, 5, None, None), caught.value, 1, 0)
    assert letter.error_type == "RecursionError"
    assert "deeper" in letter.stack_trace


def test_text_of_a_message_made_by_hand_becomes_bytes():
    letter = dead_letter(MockMessage("t", 0, 0, "ä", "\ud800"), ValueError(), 1, 0)  # type: ignore[arg-type]
    assert letter.key == "ä".encode()
    assert letter.value == b"\xed\xa0\x80"


@settings(deadline=None)
@given(st.none() | st.binary(), st.none() | st.binary(), st.text())
def test_any_bytes_and_any_text_are_kept(key: bytes | None, value: bytes | None, text: str):
    letter = dead_letter(MockMessage("t", 0, 0, key, value), ValueError(text), 1, 0)
    assert (letter.key, letter.value, letter.error_message) == (key, value, text)
