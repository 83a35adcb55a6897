"""The text that travels with a commit: it says what is finished beyond it, or it is refused."""

from __future__ import annotations

import base64
import itertools
import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kafka_consumer.commit_metadata import LIMIT, decode, encode
from kafka_consumer.errors import CommitMetadataError

Found = list[tuple[int, int]]


@st.composite
def ranges(draw: st.DrawFn, largest: int = 3000) -> tuple[int, Found]:
    base = draw(st.integers(0, 2**40))
    at, found = base, []
    for gap, length in draw(st.lists(st.tuples(st.integers(1, largest), st.integers(1, largest)), min_size=1, max_size=60)):
        found.append((at + gap, at + gap + length))
        at += gap + length
    return base, found


@given(ranges())
def test_what_was_written_is_read_back(made: tuple[int, Found]):
    base, finished = made
    text = encode(base, finished)
    assert len(text) <= LIMIT
    assert text.startswith("kc1.")
    assert text.isascii()
    assert "\0" not in text
    assert decode(text, base) == finished


def test_nothing_finished_is_no_text():
    assert encode(100, []) == ""
    assert encode(100, [(50, 100)]) == ""


def test_what_the_commit_has_passed_is_left_out():
    assert decode(encode(100, [(50, 60), (90, 105), (110, 111)]), 100) == [(100, 105), (110, 111)]


@settings(deadline=None)
@given(st.sets(st.integers(1, 19_999), min_size=1), st.integers(0, 2**50))
def test_any_pattern_within_twenty_thousand_offsets_fits_whole(offsets: set[int], base: int):
    text = encode(base, [(base + offset, base + offset + 1) for offset in sorted(offsets)])
    read = {offset - base for low, high in decode(text, base) for offset in range(low, high)}
    assert len(text) <= LIMIT
    assert read == offsets


def test_the_worst_pattern_within_twenty_thousand_offsets_fits_whole():
    coin = random.Random(1)
    finished = [(offset, offset + 1) for offset in range(1, 20_000) if coin.random() < 0.5]
    text = encode(0, finished)
    assert len(text) <= LIMIT
    assert sum(high - low for low, high in decode(text, 0)) == len(finished)


@settings(deadline=None, max_examples=10)
@given(st.integers())
def test_what_does_not_fit_loses_its_highest_ranges_only(seed: int):
    lengths = random.Random(seed)
    at, finished = 5, []
    for _ in range(2000):
        start = at + lengths.randint(1, 10**9)
        at = start + lengths.randint(1, 10**9)
        finished.append((start, at))
    text = encode(5, finished)
    read = decode(text, 5)
    assert 3900 < len(text) <= LIMIT
    assert read == finished[: len(read)]


@given(ranges(), st.data())
def test_damaged_text_is_refused(made: tuple[int, Found], data: st.DataObject):
    base, finished = made
    text = encode(base, finished)
    at = data.draw(st.integers(4, len(text) - 1))
    other = data.draw(st.characters(codec="utf-8").filter(lambda letter: letter != text[at]))
    try:
        read = decode(text[:at] + other + text[at + 1 :], base)
    except CommitMetadataError:
        return
    # The unused bits of the last letter carry nothing: what is read is what was written.
    assert read == finished


@given(ranges(), st.data())
def test_text_that_is_cut_off_is_refused(made: tuple[int, Found], data: st.DataObject):
    base, finished = made
    text = encode(base, finished)
    with pytest.raises(CommitMetadataError):
        decode(text[: data.draw(st.integers(0, len(text) - 2))], base)


@given(st.text())
def test_foreign_text_is_refused(text: str):
    for found in (text, "kc1." + text):
        with pytest.raises(CommitMetadataError):
            decode(found, 0)


@given(st.binary(max_size=200))
def test_foreign_bytes_with_a_right_checksum_are_refused_or_make_sense(body: bytes):
    data = bytes([1]) + body
    data += zlib.crc32(data).to_bytes(4, "big")
    text = "kc1." + base64.urlsafe_b64encode(data).decode().rstrip("=")
    try:
        read = decode(text, 7)
    except CommitMetadataError:
        return
    assert all(7 <= low < high for low, high in read)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(read))


def test_text_of_another_offset_is_refused():
    text = encode(100, [(105, 110)])
    with pytest.raises(CommitMetadataError, match="belongs to offset 100, committed is 101"):
        decode(text, 101)


def test_what_is_packed_can_not_take_memory():
    body = zlib.compress(bytes(200 << 20), 9)
    data = bytes([1, 3, 0, 0x80, 0x80, 0x80, 0x80, 0x01]) + body
    data += zlib.crc32(data).to_bytes(4, "big")
    with pytest.raises(CommitMetadataError, match="too long"):
        decode("kc1." + base64.urlsafe_b64encode(data).decode().rstrip("="), 0)


def test_a_later_version_is_not_guessed_at():
    data = bytes([2, 0, 0, 0])
    data += zlib.crc32(data).to_bytes(4, "big")
    with pytest.raises(CommitMetadataError, match="version 2, expected 1"):
        decode("kc1." + base64.urlsafe_b64encode(data).decode().rstrip("="), 0)
