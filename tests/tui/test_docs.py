"""The pages that show the console are current: keys from the table, pictures from the console itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_tables_of_keys_and_the_pictures_in_the_docs_are_current():
    checked = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "screenshots.py"), "--check"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stdout + checked.stderr
