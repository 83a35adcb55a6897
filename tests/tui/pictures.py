"""Pictures of the screen as SVG, compared with stored ones. KC_UPDATE_SNAPSHOTS=1 stores them anew."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tests.tui.helpers import Console

FOLDER = Path(__file__).parent / "snapshots"
UPDATE = "KC_UPDATE_SNAPSHOTS"


def normalise(svg: str) -> str:
    """Return the picture without what changes from one export to the next, and without what makes it large.

    Ids are made of a checksum; fonts come from elsewhere; each line is clipped to its own height, which changes nothing.
    """
    svg = re.sub(r"terminal-\d+-", "t-", svg)
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<clipPath id="t-line-\d+">.*?</clipPath>\s*', "", svg, flags=re.DOTALL)
    svg = re.sub(r' clip-path="url\(#t-line-\d+\)"', "", svg)
    svg = svg.replace("&#160;", "\u00a0").replace("</text><text", "</text>\n<text").replace("/><rect", "/>\n<rect")
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def text_of(svg: str) -> list[str]:
    """Return the text of a picture, line by line, for a readable difference."""
    rows: dict[float, list[tuple[float, str]]] = {}
    for x, y, words in re.findall(r'<text [^>]*?x="([\d.]+)" y="([\d.]+)"[^>]*>(.*?)</text>', svg):
        rows.setdefault(float(y), []).append((float(x), words.replace("\u00a0", " ")))
    return ["".join(words for _, words in sorted(row)) for _, row in sorted(rows.items())]


def assert_picture(shown: Console, name: str, tmp_path: Path) -> None:
    """Compare the screen with the stored picture of this name."""
    found = normalise(shown.app.export_screenshot())
    stored = FOLDER / f"{name}.svg"
    if os.environ.get(UPDATE):
        FOLDER.mkdir(exist_ok=True)
        stored.write_text(found, encoding="utf-8")
        return
    assert stored.exists(), f"there is no picture {stored.name}: look at the screen, then store it with {UPDATE}=1"
    wanted = stored.read_text(encoding="utf-8")
    if found == wanted:
        return
    actual = tmp_path / stored.name
    actual.write_text(found, encoding="utf-8")
    assert text_of(found) == text_of(wanted), f"the text differs; the new picture is {actual}; {UPDATE}=1 stores it"
    raise AssertionError(f"the colours or places differ; the new picture is {actual}; {UPDATE}=1 stores it")
