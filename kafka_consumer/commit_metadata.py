"""What is finished beyond the committed offset, as text that travels with the commit: after a crash it isn't repeated.

The text is ``kc1.`` and, in base64url without padding::

    version u8 | codec u8 | base varint | span varint | body | crc32 u32

``base`` is the offset it was committed with, ``span`` how many offsets from there on the body speaks of. The body lists what
*is* finished, so that what is cut off is merely repeated: lengths of runs as varints (unfinished, finished, unfinished, …), or
one bit for each offset, least significant first; either may be packed by zlib. The smallest wins. Varints are LEB128, the crc is
big-endian and covers all that precedes it.

Kafka's default limit is 4,096 bytes; 4,000 characters are used at the most: enough for any pattern within 20,000 offsets.
Pure functions; ranges are ``(start, end)`` offsets, the end exclusive, sorted.
"""

from __future__ import annotations

import base64
import itertools
import zlib
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from kafka_consumer.errors import CommitMetadataError

Ranges: TypeAlias = Sequence[tuple[int, int]]

PREFIX = "kc1."
LIMIT = 4000  # characters
VERSION = 1
RUNS, BITMAP, PACKED = 0, 1, 2  # the codec: one of the first two, plus PACKED when zlib was used
LONGEST_BITMAP = 1 << 19  # offsets; a longer one wouldn't become small enough, and hostile text must not take memory
LARGEST_OFFSET = 1 << 63


def encode(base: int, finished: Ranges) -> str:
    """Return the text for a commit of ``base``; "" when nothing is finished beyond it.

    When it would be longer than ``LIMIT`` the highest ranges are left out: they are repeated after a crash.
    """
    finished = _joined((max(start, base), end) for start, end in finished if end > base)
    text = _encode(base, finished)
    if len(text) <= LIMIT:
        return text
    low, high = 0, len(finished)  # so many of the lowest ranges fit; so many don't
    while high - low > 1:
        middle = (low + high) // 2
        if len(_encode(base, finished[:middle])) <= LIMIT:
            low = middle
        else:
            high = middle
    return _encode(base, finished[:low])


def decode(text: str, committed: int) -> list[tuple[int, int]]:
    """Return what is finished beyond the committed offset.

    Errors: ``CommitMetadataError`` for text that isn't ours, is damaged, or was written with another offset.
    """
    if not text.startswith(PREFIX):
        raise CommitMetadataError("it was written by another program")
    try:
        data = base64.b64decode(text[len(PREFIX) :] + "=" * (-(len(text) - len(PREFIX)) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise CommitMetadataError(f"it is damaged: {error}") from None
    if len(data) < 6 or zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "big"):
        raise CommitMetadataError("it is damaged")
    if data[0] != VERSION:
        raise CommitMetadataError(f"it has version {data[0]}, expected {VERSION}")
    try:
        base, at = _read_varint(data, 2)
        span, at = _read_varint(data, at)
        found = _read_body(data[1], data[at:-4], base, span)
    except (ValueError, IndexError, zlib.error) as error:
        raise CommitMetadataError(f"it is damaged: {error}") from None
    if base != committed:
        raise CommitMetadataError(f"it belongs to offset {base}, committed is {committed}")
    return found


# --- writing ----------------------------------------------------------------------------------------------------------------


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the ranges with those that touch made one."""
    found: list[tuple[int, int]] = []
    for start, end in ranges:
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _encode(base: int, finished: Ranges) -> str:
    if not finished:
        return ""
    span = finished[-1][1] - base
    bodies = [(RUNS, _runs(base, finished))]
    if span <= LONGEST_BITMAP:
        bodies.append((BITMAP, _bitmap(base, span, finished)))
    bodies += [(codec | PACKED, zlib.compress(body, 6)) for codec, body in bodies if len(body) > 40]
    codec, body = min(bodies, key=lambda found: len(found[1]))
    data = bytes([VERSION, codec]) + _varint(base) + _varint(span) + body
    data += zlib.crc32(data).to_bytes(4, "big")
    return PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("=")


def _runs(base: int, finished: Ranges) -> bytes:
    body = bytearray()
    at = base
    for start, end in finished:
        body += _varint(start - at)
        body += _varint(end - start)
        at = end
    return bytes(body)


def _bitmap(base: int, span: int, finished: Ranges) -> bytes:
    bits = bytearray(b"0" * span)
    for start, end in finished:
        bits[start - base : end - base] = b"1" * (end - start)
    bits.reverse()  # int() reads the most significant digit first
    return int(bytes(bits), 2).to_bytes((span + 7) // 8, "little")


def _varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


# --- reading: nothing is believed -------------------------------------------------------------------------------------------


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if byte < 0x80:
            break
        if shift > 63:
            raise ValueError("a number is too long")
    if number >= LARGEST_OFFSET:
        raise ValueError("a number is no offset")
    return number, at


def _read_body(codec: int, body: bytes, base: int, span: int) -> list[tuple[int, int]]:
    if codec & ~(BITMAP | PACKED):
        raise ValueError(f"its codec {codec} is unknown")
    if codec & PACKED:
        unpacker = zlib.decompressobj()
        body = unpacker.decompress(body, LONGEST_BITMAP)
        if unpacker.unconsumed_tail or not unpacker.eof:
            raise ValueError("what is packed is too long, or cut off")
    found = _read_bitmap(body, base, span) if codec & BITMAP else _read_runs(body, base)
    if not found or found[-1][1] != base + span:
        raise ValueError("the span doesn't fit")
    return found


def _read_runs(body: bytes, base: int) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    at = 0
    offset = base
    while at < len(body):
        gap, at = _read_varint(body, at)
        length, at = _read_varint(body, at)
        if not length or (found and not gap):
            raise ValueError("a run is empty")
        found.append((offset + gap, offset + gap + length))
        offset += gap + length
    return found


def _read_bitmap(body: bytes, base: int, span: int) -> list[tuple[int, int]]:
    if span > LONGEST_BITMAP or len(body) != (span + 7) // 8:
        raise ValueError("the bitmap doesn't have the length of its span")
    bits = f"{int.from_bytes(body, 'little'):0{span}b}"[::-1]
    return list(_ones(bits, base))


def _ones(bits: str, base: int) -> Iterable[tuple[int, int]]:
    at = base
    for bit, group in itertools.groupby(bits):
        length = sum(1 for _ in group)
        if bit == "1":
            yield at, at + length
        at += length
