"""Apache Kafka's jars, fetched once with Maven and kept outside the tree.

The cache is ``${XDG_CACHE_HOME:-~/.cache}/kc-tests/kafka-VERSION``, or the same below the temporary directory where that
can't be written. It appears by one rename, so a download that was interrupted leaves nothing that looks complete.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

KAFKA_VERSION = "4.1.1"
JAVA_AT_LEAST = 17
DOWNLOAD_TIMEOUT_SECONDS = 900

_HERE = Path(__file__).parent


class KafkaUnavailableError(RuntimeError):
    """A real broker can't be had this way; the message says why, for the pytest header and the skip reason."""


def java_major_version() -> int:
    """Return the major version of the ``java`` on PATH, or raise KafkaUnavailableError."""
    java = shutil.which("java")
    if java is None:
        message = "java isn't on PATH"
        raise KafkaUnavailableError(message)
    try:
        ran = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"java doesn't run: {error}"
        raise KafkaUnavailableError(message) from error
    # 'openjdk version "17.0.15" 2025-04-15'; before 9 it read "1.8.0".
    found = re.search(r'version "(\d+)', ran.stdout + ran.stderr)
    if ran.returncode != 0 or found is None:
        message = f"java doesn't run: {(ran.stderr or ran.stdout).strip()[:200]}"
        raise KafkaUnavailableError(message)
    major = int(found.group(1))
    if major < JAVA_AT_LEAST:
        message = f"expected Java {JAVA_AT_LEAST} or newer, got {found.group(1)}"
        raise KafkaUnavailableError(message)
    return major


def cache_root() -> Path:
    """Return a writable folder for what outlives a test run."""
    wanted = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "kc-tests"
    try:
        wanted.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=wanted):
            return wanted
    except OSError:
        # By user: a folder that another user made in a shared temporary directory isn't ours to trust or to write.
        fallback = Path(tempfile.gettempdir()) / f"kc-tests-{os.getuid()}"
        fallback.mkdir(mode=0o700, parents=True, exist_ok=True)
        return fallback


def jars_folder() -> Path:
    """Return where the jars are, or will be."""
    return cache_root() / f"kafka-{KAFKA_VERSION}"


def available() -> str:
    """Say how a broker on the local Java would be had, or raise KafkaUnavailableError. Quick: fetches nothing."""
    major = java_major_version()
    jars = jars_folder()
    if jars.is_dir():
        return f"Apache Kafka {KAFKA_VERSION} on local Java {major} (jars: {jars})"
    if shutil.which("mvn") is None:
        message = f"mvn isn't on PATH, and {jars} doesn't exist"
        raise KafkaUnavailableError(message)
    return f"Apache Kafka {KAFKA_VERSION} on local Java {major} (jars to be fetched with Maven into {jars})"


def ensure_jars() -> Path:
    """Return the folder of jars, downloading them first if they aren't there; raise KafkaUnavailableError if that fails.

    Several processes may ask at once: one downloads, the others wait for it.
    """
    jars = jars_folder()
    if jars.is_dir():
        return jars
    with (jars.parent / f"{jars.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not jars.is_dir():
            _download(jars)
    return jars


def _download(jars: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        message = "mvn isn't on PATH"
        raise KafkaUnavailableError(message)
    with tempfile.TemporaryDirectory(dir=jars.parent, prefix=f"{jars.name}.part-") as part:
        project = Path(part) / "project"
        project.mkdir()
        # Maven may write beside the pom; the tree stays clean.
        shutil.copy(_HERE / "pom.xml", project)
        libs = Path(part) / "libs"
        command = [
            maven, "--batch-mode", "--quiet", "--no-transfer-progress", "-f", str(project / "pom.xml"),
            "dependency:copy-dependencies", f"-DoutputDirectory={libs}", "-DincludeScope=runtime",
        ]  # fmt: skip
        try:
            ran = subprocess.run(
                command, cwd=project, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            message = f"mvn didn't fetch Apache Kafka: {error}"
            raise KafkaUnavailableError(message) from error
        if ran.returncode != 0 or not list(libs.glob(f"kafka_*-{KAFKA_VERSION}.jar")):
            message = f"mvn didn't fetch Apache Kafka (exit code {ran.returncode}):\n{(ran.stdout + ran.stderr)[-2000:]}"
            raise KafkaUnavailableError(message)
        libs.rename(jars)
