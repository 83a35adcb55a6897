"""The documentation: no dead link, nothing generated that is out of date, no name that isn't there (any more)."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from kafka_consumer.settings_table import SETTINGS

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "deploy").rglob("*.md"), *(ROOT / "bench").glob("*.md")])
HAND_WRITTEN = [DOCS / name for name in ("QUICKSTART.md", "CONCEPTS.md", "RUNBOOK.md", "DEPLOYMENT.md", "COMPARISON.md")]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def without_fences(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as mkdocs makes them."""
    headings = re.findall(r"^#+ +(.+?) *$", without_fences(path.read_text()), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"[\s-]+", "-", heading) for heading in plain}


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_no_link_is_dead(path: Path):
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_fences(path.read_text())):
        if target.startswith(("http://", "https://")):
            continue  # not asked here: a test needs no network
        file, _, anchor = target.partition("#")
        where = (path.parent / file).resolve() if file else path
        if not where.exists() or (anchor and where.suffix == ".md" and anchor not in anchors(where)):
            dead.append(target)
    assert dead == []


def test_every_page_is_in_the_navigation_and_on_the_front_page():
    pages = {page.name for page in DOCS.glob("*.md")} - {"index.md"}
    navigation = set(re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)) - {"index.md"}
    assert pages <= navigation
    linked = set(re.findall(r"\]\((\w+\.md)\)", (DOCS / "index.md").read_text()))
    assert pages - {"PERFORMANCE.md"} <= linked


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_the_page_of_the_python_api_is_up_to_date():
    generator = module(DOCS / "generate_api.py")
    assert generator.PAGE.read_text() == generator.page(), "run: python docs/generate_api.py"


def test_the_page_of_the_python_api_has_every_exported_name():
    import kafka_consumer

    text = (DOCS / "API.md").read_text()
    missing = [name for name in kafka_consumer.__all__ if f"### {name}\n" not in text and f"| `{name}` |" not in text]
    assert missing == []


@pytest.mark.parametrize("path", [*HAND_WRITTEN, ROOT / "README.md"], ids=name_of)
def test_every_option_that_a_page_names_exists(path: Path):
    ours = {word for setting in SETTINGS.values() for word in (setting.option, f"--no-{setting.name}")}
    ours |= set(re.findall(r'"(--[\w-]+)"', "".join((ROOT / name).read_text() for name in (
        "kafka_consumer/cli.py", "kafka_consumer/dlq_cli.py", "kafka_consumer/options.py", "tui/cli.py",
    ))))  # fmt: skip
    others = {"--build-arg", "--build", "--now"}
    named = set(re.findall(r"(?<![\w-])(--[a-z][\w-]+)", path.read_text()))
    assert named - ours - others == set()


def test_every_alert_that_the_runbook_names_exists_and_every_alert_is_in_the_runbook():
    alerts = set(re.findall(r"alert: (\w+)", (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text()))
    named = set(re.findall(r"\bKc[A-Z]\w+", (DOCS / "RUNBOOK.md").read_text()))
    assert named <= alerts
    assert alerts - named == set()


@pytest.mark.parametrize("path", [*HAND_WRITTEN, ROOT / "README.md", DOCS / "API.md"], ids=name_of)
def test_every_python_example_compiles_and_every_toml_parses(path: Path):
    for language, text in re.findall(r"^```(python|toml)\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL):
        if language == "python":
            compile(text, name_of(path), "exec")
        else:
            tomllib.loads(text)
