"""The map from the specification's cases to tests is complete and current."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import map_spec

pytestmark = pytest.mark.unit


def test_every_case_has_a_test_and_every_docstring_names_a_case():
    _, problems = map_spec.collect()

    assert problems == []


def test_the_page_is_current():
    shown, _ = map_spec.collect()
    current = map_spec.PAGE.read_text(encoding="utf-8")

    assert current == map_spec.page(current, shown), "run: python tests/map_spec.py"


def test_a_docstring_may_name_several_cases_and_say_more():
    assert map_spec.named_in("SPEC: Logger Setup - INFO Level; SharedState.stop(). (Both.) SPEC: E2E - Dev Mode Restart") == (
        ["Logger Setup - INFO Level", "SharedState.stop()", "E2E - Dev Mode Restart"], [],
    )  # fmt: skip


def test_a_case_without_a_test_in_its_file_and_an_unknown_name_are_problems(tmp_path: Path):
    folder = tmp_path / "unit"
    folder.mkdir()
    (folder / "test_elsewhere.py").write_text(
        'def test_one():\n    """SPEC: E2E - Dev Mode Restart."""\n\n\n'
        'class TestMore:\n    def test_two(self):\n        """SPEC: E2E - Dev Mode\n        Restarted."""\n'
    )

    shown, problems = map_spec.collect(tmp_path)

    assert shown["E2E - Dev Mode Restart"] == [("unit/test_elsewhere.py", "test_one")]
    assert "no test in e2e/test_shutdown.py says 'SPEC: E2E - Dev Mode Restart'" in problems
    assert "unit/test_elsewhere.py: TestMore.test_two names no case of the specification: 'E2E - Dev Mode Restarted.'" in problems
    assert sum(problem.startswith("no test") for problem in problems) == len(shown)


def test_a_page_without_its_marks_is_refused():
    with pytest.raises(ValueError, match="to hold"):
        map_spec.page("# Tests", {})
