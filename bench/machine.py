"""What the figures were measured on, and what else the machine did meanwhile; the broker; the file of results."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

RESULTS = HERE / "results"
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def environment() -> dict[str, Any]:
    """Return the processor, cores, memory, versions, the load: what a reader needs to judge a figure."""
    import confluent_kafka

    from tests.kafka.artifacts import KAFKA_VERSION

    return {
        "date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": _first("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(int((_first("/proc/meminfo", "MemTotal") or "0 kB").split()[0]) / 1024**2, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "confluent_kafka": confluent_kafka.__version__,
        "librdkafka": confluent_kafka.libversion()[0],
        "kafka": KAFKA_VERSION,
        "load_before": round(os.getloadavg()[0], 2),
    }


def _first(path: str, field: str) -> str | None:
    with contextlib.suppress(OSError):
        for line in Path(path).read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == field:
                return value.strip()
    return None


def busy_seconds() -> tuple[float, float]:
    """Return the processor seconds that the machine has worked, and those that its host took away."""
    fields = [int(field) / CLOCK_TICKS for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return fields[0] + fields[1] + fields[2] + fields[5] + fields[6], fields[7]


def wait_until_quiet(limit: float) -> bool:
    """Wait until less than half a core is at work; returns whether that came within ``limit`` seconds."""
    deadline = time.monotonic() + limit
    while True:
        before = busy_seconds()[0]
        time.sleep(0.25)
        if busy_seconds()[0] - before < 0.125:
            return True
        if time.monotonic() > deadline:
            return False


def contestant(command: list[str], timeout: float) -> dict[str, Any]:
    """Run a contestant in a process of its own; returns its line, and what others did to the machine meanwhile, in cores."""
    environ = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    started, worked, own = time.monotonic(), busy_seconds(), _childrens_seconds()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ, start_new_session=True
    )
    try:
        out, errors = process.communicate(timeout=timeout)
        result = dict(json.loads(out.strip().splitlines()[-1]))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)  # the contestant's own session: it and its children
        process.communicate()
        return {"error": f"no result within {timeout:g} s"}
    except (IndexError, ValueError):
        last = " ".join(errors.strip().splitlines()[-1:]).replace(str(HERE.parent), ".")  # results may be published
        return {"error": f"exit code {process.returncode}: {last[:200]}"}
    seconds, after = time.monotonic() - started, busy_seconds()
    mine = _childrens_seconds() - own
    result["other_cores"] = round(max(0.0, after[0] - worked[0] - mine) / seconds, 2)
    result["stolen_cores"] = round((after[1] - worked[1]) / seconds, 2)
    return result


def _childrens_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all scripts share."""
    options = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--bootstrap", default=os.environ.get("KC_TEST_BOOTSTRAP"), help="default: a broker of its own")
    options.add_argument("--scale", type=float, default=1.0, help="factor on the number of messages, and on durations")
    options.add_argument("--out", type=Path, help="add the results to this JSON file")
    return options


def scaled(count: int, scale: float, least: int = 1000) -> int:
    """Return a number of messages."""
    return max(min(count, least), int(count * scale))


@contextlib.contextmanager
def broker(bootstrap: str | None) -> Iterator[str]:
    """Yield the address of the given broker, or of one of our own."""
    if bootstrap:
        yield bootstrap
        return
    from tests.kafka import LocalKafka

    with LocalKafka(1) as kafka:
        yield kafka.bootstrap


def kept(path: Path | None, section: str) -> list[Any]:
    """Return what a section of the file of results holds; nothing where there is neither."""
    if path is None or not path.exists():
        return []
    found: list[Any] = json.loads(path.read_text()).get(section, [])
    return found


def keep(path: Path | None, section: str, value: Any, scale: float) -> None:
    """Put a section, and the scale it was measured at, into the file of results, beside those that are there."""
    if path is None:
        return
    held = json.loads(path.read_text()) if path.exists() else {"environment": environment()}
    held[section] = value
    held.setdefault("scales", {})[section] = scale
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(held, indent=1) + "\n")
    new.replace(path)


def tell(*words: object) -> None:
    """Say how far it is, on stderr."""
    print(*words, file=sys.stderr, flush=True)
