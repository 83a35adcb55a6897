"""Confluent's parallel consumer for Java, in ``parallel_consumer/``: built with Maven on first use, judged as the others are.

The JVM's warm-up is in the figures: look at the long runs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from common import Meter, Work, arguments, finish, skip

PROJECT = Path(__file__).resolve().parent / "parallel_consumer"
BUILT = PROJECT.parent / ".peers-java"
JAR = BUILT / "parallel-consumer-bench.jar"


def build() -> str | None:
    """Build the jar unless it is newer than its sources; returns why that can't be, or None."""
    if shutil.which("java") is None:
        return "needs Java 17 or newer on PATH"
    newest = max(path.stat().st_mtime for path in [PROJECT / "pom.xml", *PROJECT.glob("src/**/*.java")])
    if JAR.exists() and JAR.stat().st_mtime >= newest:
        return None
    if shutil.which("mvn") is None:
        return "needs Maven on PATH"
    command = ["mvn", "-q", "-B", "clean", "package", "dependency:copy-dependencies", f"-DoutputDirectory={BUILT / 'lib'}"]
    subprocess.run(command, cwd=PROJECT, check=True, stdout=sys.stderr)
    return None


def main() -> None:
    """Consume."""
    a = arguments("parallel-consumer")
    work, meter = Work(a.work, a.keys), Meter()
    if work.kind == "fail":
        skip("parallel-consumer", "no dead letters of its own")
    reason = build()
    if reason is not None:
        skip("parallel-consumer", reason)
    # Without a wait, single records would measure its bookkeeping for a call; with one, a batch would wait for its sum.
    batch, held = (1, 50 * a.workers) if work.waits or a.ordering == "key" else (500, 0)
    options = {
        "bootstrap": a.bootstrap, "topic": a.topic, "count": a.count, "workers": a.workers, "work": a.work, "group": a.group,
        "commit-interval": a.commit_interval, "batch": batch, "held": held, "ordering": a.ordering, "keys": a.keys,
    }  # fmt: skip
    command = ["java", "-Xmx1g", "-cp", os.pathsep.join([str(JAR), str(BUILT / "lib" / "*")]), "bench.Contestant"]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"Java ended with exit code {done.returncode}")
    told = json.loads(done.stdout.strip().splitlines()[-1])
    meter.seconds, meter.cpu, meter.rss_mb = told["seconds"], told["cpu"], told["rss_mb"]
    work.out_of_order = told["out_of_order"]
    found = re.search(r"<parallel-consumer.version>(.*?)<", (PROJECT / "pom.xml").read_text())
    assert found
    finish("parallel-consumer", a, told["messages"], meter, work=work, version=found[1], python="Java " + told["java"])


if __name__ == "__main__":
    main()
