"""The whole measurement: every scenario and contestant, latency, memory, growth, members; then docs/PERFORMANCE.md.

  make bench-full                             hours, on a machine that does nothing else
  python bench/full.py [--rounds 5] [--scenarios A,BL] [--only raw,kc] [--scale 0.05] [--parts compare,latency] [--out FILE.json]
  python bench/full.py --no-page ...          measures, and leaves the page alone

Each part has a broker of its own, and adds to one file of results as it goes: what is measured isn't lost to what comes later.
"""

from __future__ import annotations

import argparse
import datetime as dt
import subprocess
import sys
from pathlib import Path

from machine import HERE, RESULTS, tell
from peers import ensure_all

PARTS = ("compare", "latency", "memory", "growth", "members")
WITH_ROUNDS = {"compare", "growth", "members"}


def main() -> int:
    """Run the parts; returns 1 when one failed."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--parts", default=",".join(PARTS))
    options.add_argument("--rounds", type=int, help="of compare 5, of growth and members 3")
    options.add_argument("--scale", type=float, default=1.0)
    options.add_argument("--scenarios")
    options.add_argument("--only")
    options.add_argument("--quiet-wait", type=float)
    options.add_argument("--bootstrap")
    options.add_argument("--out", type=Path)
    options.add_argument("--no-page", action="store_true", help="don't write docs/PERFORMANCE.md")
    a = options.parse_args()
    parts = a.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        options.error(f"expected --parts to be of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    out = a.out or RESULTS / f"{dt.datetime.now(dt.UTC):%Y-%m-%dT%H%M%S}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    if "compare" in parts:
        ensure_all()
    failed = []
    for part in parts:
        command = [sys.executable, str(HERE / f"{part}.py"), "--scale", str(a.scale), "--out", str(out)]
        if a.bootstrap:
            command += ["--bootstrap", a.bootstrap]
        if a.rounds and part in WITH_ROUNDS:
            command += ["--rounds", str(a.rounds)]
        if part == "compare":
            command.append("--full")
            for name in ("scenarios", "only", "quiet_wait"):
                if getattr(a, name) is not None:
                    command += ["--" + name.replace("_", "-"), str(getattr(a, name))]
        tell(f"{part}:")
        if subprocess.run(command, check=False).returncode:
            failed.append(part)
    tell(f"results: {out}")
    if not a.no_page and out.exists():
        subprocess.run([sys.executable, str(HERE / "page.py"), str(out)], check=True)
    if failed:
        tell(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
