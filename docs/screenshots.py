"""Draw the pictures of docs/pictures: the console itself on a deterministic consumer, so that they change only when it does.

``python docs/screenshots.py`` (or ``make screenshots``) draws them anew, and writes the table of keys into the pages that
show it, between their markers. ``--check`` writes nothing and says what isn't current.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.tui.helpers import console  # noqa: E402 - found through the line above
from tests.tui.pictures import normalise  # noqa: E402
from tests.tui.test_pictures import SCREENS, SIZES  # noqa: E402
from tui.bindings import markdown_table  # noqa: E402

PICTURES = ROOT / "docs" / "pictures"
DRAWN = (
    ("main", "120x36"), ("main", "80x24"), ("main", "200x60"),
    ("draining", "120x36"), ("stop", "120x36"), ("dead-letter", "120x36"), ("partition", "120x36"),
)  # fmt: skip
PAGES = (ROOT / "README.md", ROOT / "docs" / "CONSOLE.md")
BEGIN, END = "<!-- keys: begin -->\n", "<!-- keys: end -->"


def with_keys(page: str) -> str:
    """Return a page with the current table of keys between its markers. Errors: ``ValueError`` without them."""
    start = page.index(BEGIN) + len(BEGIN)
    return page[:start] + markdown_table() + page[page.index(END, start) :]


async def draw(name: str, size: str) -> str:
    """Return a screen as SVG."""
    make, act = SCREENS[name]
    async with console(None, feed=make(), size=SIZES[size]) as shown:
        await act(shown)
        shown.app.clear_notifications()
        await shown.settle()
        return normalise(shown.app.export_screenshot())


def main() -> int:
    """Write what isn't current, or name it; returns 1 when ``--check`` found something."""
    wanted = {page: with_keys(page.read_text(encoding="utf-8")) for page in PAGES}
    for name, size in DRAWN:
        wanted[PICTURES / f"console-{name}-{size}.svg"] = asyncio.run(draw(name, size))
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv:
        for path in stale:
            print(f"{path.relative_to(ROOT)} isn't current: make screenshots")
        return 1 if stale else 0
    PICTURES.mkdir(exist_ok=True)
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8")
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
