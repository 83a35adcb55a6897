"""The peers' environments in ``bench/.peers*``, made when they aren't there; never the project's own.

  python bench/peers.py        make them all, say what is missing

Three of them: quixstreams wants an older confluent-kafka than the project, pyrallel-consumer a newer Python.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Environment: the oldest Python, what is installed.
ENVIRONMENTS = {
    ".peers": (
        (3, 11),
        ("confluent-kafka==2.16.1", "sentry-arroyo==2.48.0", "faststream==0.7.8", "aiokafka==0.14.0", "uvloop==0.23.0"),
    ),
    ".peers-quixstreams": ((3, 11), ("quixstreams==3.28.1",)),
    ".peers312": ((3, 12), ("confluent-kafka==2.16.1", "pyrallel-consumer==1.0.0")),
}


def python(environment: str) -> Path:
    """Return an environment's interpreter, there or not; the empty name is the one that runs this."""
    return HERE / environment / "bin" / "python" if environment else Path(sys.executable)


def missing(environment: str) -> str | None:
    """Say why an environment can't be used, or None."""
    if not environment or (HERE / environment / ".installed").exists():
        return None
    return f"bench/{environment} isn't there: python bench/peers.py"


def _candidates() -> Iterator[str]:
    yield sys.executable
    for minor in (14, 13, 12, 11):
        found = shutil.which(f"python3.{minor}")
        if found:
            yield found
    root = Path(os.environ.get("PYENV_ROOT") or Path("~/.pyenv").expanduser())
    yield from (str(path) for path in sorted(root.glob("versions/3.*/bin/python"), reverse=True))


def _suitable(oldest: tuple[int, int]) -> str | None:
    # What is on PATH may be a shim that fails: the first that runs and is new enough is taken.
    test = f"import sys, venv, ensurepip; sys.exit(sys.version_info < {oldest})"
    for candidate in _candidates():
        if subprocess.run([candidate, "-c", test], capture_output=True, check=False).returncode == 0:
            return candidate
    return None


def ensure(environment: str) -> str | None:
    """Make an environment unless it is there; returns why that can't be, or None."""
    oldest, requirements = ENVIRONMENTS[environment]
    done, wanted = HERE / environment / ".installed", "\n".join(requirements)
    if done.exists() and done.read_text() == wanted:
        return None
    base = _suitable(oldest)
    if base is None:
        return f"needs Python {'.'.join(map(str, oldest))} or newer"
    print(f"bench/{environment}: {', '.join(requirements)}", file=sys.stderr, flush=True)
    subprocess.run([base, "-m", "venv", "--clear", str(HERE / environment)], check=True)
    install = [str(python(environment)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements]
    ran = subprocess.run(install, capture_output=True, text=True, check=False)
    if ran.returncode:
        last = ran.stderr.strip().splitlines()[-1:]
        return f"pip failed: {' '.join(last)}"
    done.write_text(wanted)
    return None


def ensure_all() -> None:
    """Make what can be made; say what can't."""
    for environment in ENVIRONMENTS:
        reason = ensure(environment)
        if reason is not None:
            print(f"bench/{environment}: {reason}; its contestants take no part", file=sys.stderr)


if __name__ == "__main__":
    ensure_all()
