"""docs/DELIVERY.md names tests; each of them exists."""

from __future__ import annotations

import re
from pathlib import Path

from tests import map_spec

ROOT = Path(__file__).resolve().parent.parent.parent
NAMED = re.compile(r"`(tests/\S+\.py)::(\w+)`")


def test_every_test_that_the_page_on_delivery_names_exists() -> None:
    named = NAMED.findall((ROOT / "docs" / "DELIVERY.md").read_text(encoding="utf-8"))
    assert len(named) > 15
    missing = [
        f"{file}::{test}" for file, test in named if test not in {name for name, _ in map_spec.tests_with_docstrings(ROOT / file)}
    ]  # fmt: skip
    assert missing == []


def test_every_promise_names_a_test() -> None:
    page = (ROOT / "docs" / "DELIVERY.md").read_text(encoding="utf-8")
    promises = re.split(r"^### ", page.partition("## How it is judged")[0], flags=re.MULTILINE)[1:]
    assert len(promises) == 8
    assert [promise.splitlines()[0] for promise in promises if not NAMED.search(promise)] == []
