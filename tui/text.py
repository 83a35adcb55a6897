"""Lines as pairs of text and tone: what the console draws, without markup of any kind.

A widget turns parts into segments itself, so no text is ever parsed: ``[/]`` is three characters. ``clean`` is the last
gate before the terminal, after the one where data enters a snapshot.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

from rich.cells import cell_len, set_cell_size

from kafka_consumer.snapshot import sanitise

Tone: TypeAlias = str
"""One of TONES; the style sheet says how it looks."""

Part: TypeAlias = tuple[str, Tone]
Line: TypeAlias = tuple[Part, ...]

TONES = ("plain", "dim", "strong", "ok", "warn", "bad", "accent", "title", "frame", "mark", "key")

_SUSPECT = re.compile("[^\x20-\x7e\xa1-\xac\xae-\u02ff\u2190-\u21ff\u2500-\u25ff\u2013\u2014\u2026\u26a0\u2716\u23ce]")


def clean(text: str, limit: int = 20_000) -> str:
    """Return the text on one line without any character that acts on a terminal; at most ``limit`` characters."""
    if len(text) <= limit and _SUSPECT.search(text) is None:
        return text
    return sanitise(text, limit)


def width_of(text: str) -> int:
    """Return the cells that a clean text takes."""
    return len(text) if text.isascii() else cell_len(text)


def fit(text: str, width: int, align: Literal["left", "right"] = "left") -> str:
    """Return the text in exactly ``width`` cells: padded, or cut with an ellipsis."""
    if width <= 0:
        return ""
    taken = width_of(text)
    if taken > width:
        if width == 1:
            return "…"
        return set_cell_size(text, width - 1) + "…"
    padding = " " * (width - taken)
    return padding + text if align == "right" else text + padding


def line_width(line: Iterable[Part]) -> int:
    """Return the cells that a line takes."""
    return sum(width_of(text) for text, _ in line)


def plain(line: Iterable[Part]) -> str:
    """Return the text of a line."""
    return "".join(text for text, _ in line)


Group: TypeAlias = tuple[int, Line]
"""A priority and the parts that stand or fall together."""


def arrange(groups: Sequence[Group], width: int, gap: int = 2) -> Line:
    """Return the groups on one line, in their order; where they don't fit, those of the lowest priority are left out."""
    kept = [group for group in groups if group[1]]
    while len(kept) > 1 and sum(line_width(line) for _, line in kept) + gap * (len(kept) - 1) > width:
        lowest = min(range(len(kept)), key=lambda index: (kept[index][0], -index))
        del kept[lowest]
    parts: list[Part] = []
    for _, line in kept:
        if parts:
            parts.append((" " * gap, "plain"))
        parts.extend(line)
    return tuple(parts)


def wrap(text: str, width: int) -> list[str]:
    """Return the text cut into pieces of at most ``width`` cells, after a space where one is near; nothing is lost."""
    width = max(1, width)
    if width_of(text) <= width:
        return [text]
    pieces: list[str] = []
    piece: list[str] = []
    taken = 0
    for character in text:
        cells = width_of(character)
        if taken + cells > width and piece:
            space = len(piece) - piece[::-1].index(" ") if " " in piece[len(piece) // 2 :] else len(piece)
            pieces.append("".join(piece[:space]))
            piece = piece[space:]
            taken = sum(width_of(kept) for kept in piece)
        piece.append(character)
        taken += cells
    pieces.append("".join(piece))
    return pieces
