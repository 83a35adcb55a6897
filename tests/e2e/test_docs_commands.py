"""Every command of README.md and of the quick start is run as it stands there, on a broker of librdkafka's own.

What needs more than that (an installation, a browser, a broker with transactions) is checked as far as it goes, and says why.
"""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from tests.helpers import eventually

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PROGRAMS = ("kc", "kc-tui", "make", "pip", "cd")
ELSEWHERE = {
    "kc dlq redrive --bootstrap-server localhost:9092 --yes": "needs transactions: tests/e2e/test_redrive.py",
    "kc-tui --attach run/billing.sock --web": "needs a browser: tests/tui/test_web.py",
}
"""What isn't run here, and where it is."""

pytestmark = [
    pytest.mark.e2e,  # whole programs, one after the other, for a minute
    pytest.mark.skipif(not (BIN / "kc").exists(), reason="kc isn't installed beside this Python"),
    pytest.mark.slow,
    pytest.mark.timeout(300),
]


def commands(page: Path) -> list[tuple[str, str]]:
    """Return ``(section, command)`` for each line of a fence that begins with a program, joined where it is continued."""
    found, section, fence, language = [], "", False, ""
    text = page.read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if line.startswith("```"):
            fence, language = not fence, line[3:].strip() if not fence else ""
        elif line.startswith("## ") and not fence:
            section = line[3:]
        elif fence and language in ("", "sh") and line.split(" ")[0] in PROGRAMS:
            found.append((section, re.sub(r"\s+", " ", re.sub(r"\s#.*$", "", line)).strip()))
    return found


class Reader:
    """Somebody who types what a page says, in a folder."""

    def __init__(self, folder: Path, servers: str) -> None:
        self.folder = folder
        self.servers = servers
        self.running: subprocess.Popen[str] | None = None
        self.log = folder / "running.log"

    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("KC_")}
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        return inherited | {"PATH": path, "TMPDIR": str(self.folder), "TERM": "xterm-256color"}

    def type(self, command: str) -> None:
        """Run a command to the end that a reader would see. Raises when that isn't a good one."""
        words = shlex.split(command)
        if words[0] == "cd":
            self.folder = self.folder / words[1]
        elif words[0] == "make":
            self.run(f"make -n -C {shlex.quote(str(ROOT))} {words[1]}")
        elif words[0] == "pip":
            self.installable(words[-1])
        elif words[0] == "kc-tui" or words == ["kc", "--demo"]:
            self.look(command)
        elif "--headless" in words and not {"--demo-messages", "--to"} & set(words):
            self.start(command)
        else:
            self.run(command)

    def run(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", self.here(command)], cwd=self.folder, env=self.environment(), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout

    def start(self, command: str) -> None:
        """Start what doesn't end by itself, and see it at work."""
        self.stop()
        with self.log.open("w") as log:
            self.running = subprocess.Popen(
                shlex.split(self.here(command)), cwd=self.folder, env=self.environment(), stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, text=True,
            )  # fmt: skip
        eventually(lambda: "assigned: " in self.log.read_text(), 60, what=f"an assignment by {command}")
        socket = re.search(r"--socket (\S+)", command)
        if socket is not None:
            eventually(lambda: ", lag 0\n" in self.run(f"kc status --socket {socket[1]}"), 60, what="a lag of 0")

    def stop(self) -> None:
        """End what was started, as the page says one does."""
        if self.running is None:
            return
        process, self.running = self.running, None
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, self.log.read_text()

    def look(self, command: str) -> None:
        """See the console appear on a terminal, and leave it."""
        ours, theirs = pty.openpty()
        try:
            process = subprocess.Popen(
                shlex.split(self.here(command)), cwd=self.folder, env=self.environment(), stdin=theirs, stdout=theirs,
                stderr=theirs, start_new_session=True,
            )  # fmt: skip
            try:
                output = b""
                deadline = time.monotonic() + 60
                while b"Partitions" not in output and b"partitions" not in output:
                    assert time.monotonic() < deadline, output[-2000:]
                    if select.select([ours], [], [], 0.1)[0]:
                        output += os.read(ours, 65_536)
                process.send_signal(signal.SIGTERM)
                while process.poll() is None:  # what nobody reads would hold it up
                    assert time.monotonic() < deadline + 60
                    if select.select([ours], [], [], 0.1)[0]:
                        os.read(ours, 65_536)
                assert process.returncode == 0, command
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait(10)
        finally:
            os.close(ours)
            os.close(theirs)

    def installable(self, what: str) -> None:
        """Check the name of the extra; nothing is installed here."""
        extra = re.fullmatch(r"(?:\.|kc)(?:\[(\w+)\])?", what)
        assert extra is not None, what
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert extra[1] is None or extra[1] in extras

    def here(self, command: str) -> str:
        """Return the command with this broker instead of the reader's."""
        rest = "--processor app:handle --bootstrap-server localhost:9092 --topic orders --group billing"
        return command.replace("…", rest).replace("localhost:9092", self.servers)


@pytest.fixture
def servers() -> Iterator[str]:
    """The address of a broker with some orders; librdkafka's own, which lives as long as this producer."""
    quiet = logging.getLogger("tests.quiet")
    quiet.propagate = False
    producer = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "here"}, logger=quiet)
    for number in range(300):
        producer.produce("orders", json.dumps({"id": number, "quantity": number % 7}), str(number % 20))
    assert producer.flush(30) == 0
    yield ",".join(f"{broker.host}:{broker.port}" for broker in producer.list_topics(timeout=10).brokers.values())
    producer.flush(1)  # still there: without it the broker would have gone


@pytest.fixture
def reader(tmp_path: Path, servers: str) -> Iterator[Reader]:
    found = Reader(tmp_path, servers)
    yield found
    if found.running is not None:
        found.running.kill()
        found.running.wait(10)


def read_aloud(reader: Reader, page: Path, before: Callable[[str], None] = lambda _: None) -> int:
    """Type every command of a page; what a section has started ends with it. Return how many were run."""
    count, last = 0, ""
    for section, command in commands(page):
        if section != last:
            reader.stop()
        last = section
        if command in ELSEWHERE:
            continue
        before(command)
        reader.type(command)
        count += 1
    reader.stop()
    return count


def test_the_quick_start_does_what_it_says(reader: Reader):
    def mend(command: str) -> None:
        if "--through-processor" in command:
            (reader.folder / "processor.py").write_text("def process(value):\n    pass\n")

    def spoil(command: str) -> None:
        """A function that fails now and then, so that there is something to look at."""
        if command.startswith("kc check --bootstrap-server"):
            (reader.folder / "processor.py").write_text(
                "import zlib\n\ndef process(value):\n    if zlib.crc32(value) % 10 == 0:\n        raise ValueError('spoilt')\n"
            )
        mend(command)

    assert read_aloud(reader, ROOT / "docs" / "QUICKSTART.md", spoil) >= 14


def test_the_readme_does_what_it_says(reader: Reader):
    readme = (ROOT / "README.md").read_text()
    (app,) = re.findall(r"```python\n# app.py\n(.*?)```", readme, re.DOTALL)
    (reader.folder / "app.py").write_text(app)
    assert read_aloud(reader, ROOT / "README.md") >= 10


def test_what_is_left_out_here_is_on_a_page_and_its_test_exists():
    pages = {command for name in ("README.md", "docs/QUICKSTART.md") for _, command in commands(ROOT / name)}
    assert set(ELSEWHERE) <= pages
    for reason in ELSEWHERE.values():
        assert (ROOT / reason.rpartition(": ")[2]).exists(), reason
