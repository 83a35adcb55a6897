"""What an attacker writes into a topic, from the broker to every place where somebody reads it: data, never more."""

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from kafka_consumer import cli
from kafka_consumer.csv_files import decode_field, decode_headers
from tests.helpers import eventually, read_rows
from tests.integration.test_cli import COMPLETE, UNREACHABLE, Running, environment
from tests.kafka import MockKafka
from tests.tui.hostile import FORBIDDEN, HOSTILE
from tests.tui.terminals import Terminal

BIG = 5_000_000
OSC_52 = re.compile(rb"\x1b\]52;c;([A-Za-z0-9+/=]*)\x07")
FORMULAS = ("=cmd|'/C calc'!A1", "+1+1", "-2+3", "@SUM(1)", "\t=1", '"quoted", and "more"', "a,b\r\nc", "\\N")
# The lone surrogate as bytes: no UTF-8, which is what a broker may hold.
VALUES = [text.encode("utf-8", "surrogatepass") for text in (*HOSTILE, *FORMULAS)] + [b"\xff\xfe\x00", b""]
HEADERS = [("h\x1b]0;owned\x07", b"\x1b]52;c;ZXZpbA==\x07"), ("[@click=app.quit]x[/]", b"=1+1"), ("none", None)]

APP = """
import logging

Evil = type("Evil\\x1b]0;owned\\x07[red]", (ValueError,), {})

def handle(value):
    text = value.decode("utf-8", "surrogateescape")
    logging.getLogger("shop\\x1b[2J").error("can't take %s", text)
    error = Evil(text)
    error.add_note("a note: " + text[:1000])
    raise error
"""


@pytest.fixture(scope="module")
def broker() -> Iterator[MockKafka]:
    """librdkafka's own cluster, which checks nothing of what it is given."""
    with MockKafka() as found:
        yield found


@pytest.fixture
def topic(broker: MockKafka) -> str:
    """A topic of hostile messages, one of them 5 MB on one line."""
    name = broker.create_topic(partitions=2)
    broker.produce(name, VALUES, keys=VALUES, partition=0, headers=HEADERS)
    broker.produce(name, [b"\x1b]0;owned\x07" + b"[red]" * (BIG // 5)], partition=1, headers=HEADERS)
    return name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a processor that repeats what it is given in an error's text, a note and a log record."""
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def arguments(broker: MockKafka, topic: str) -> list[str]:
    return [
        "--bootstrap-server", broker.bootstrap, "--topic", topic, "--group", topic, "--processor", "app:handle", "--workers", "2",
        "--value-encoding", "binary", "--commit-interval", "0.1", "--csv-flush-interval", "0.1", "--socket", "kc.sock",
    ]  # fmt: skip


def assert_inert(text: str) -> None:
    """No character but newlines does anything on a terminal, and no line is endless."""
    assert text
    for line in text.split("\n"):
        found = FORBIDDEN.search(line)
        assert found is None, f"{found!r} in {line[:300]!r}"
        assert len(line) < 100_000


def everything_failed(running: Running) -> bool:
    return len(VALUES) + 1 <= running.log.count("can't take")


@pytest.mark.parametrize("form", ["rich", "json"])
def test_a_run_over_hostile_messages_says_shows_and_keeps_them_as_data(broker: MockKafka, topic: str, folder: Path, form: str):
    running = Running(folder, "--headless", *arguments(broker, topic), "--log-format", form)
    try:
        running.wait_for(lambda: everything_failed(running), 60)
        written = len(VALUES) + 1
        eventually(lambda: json.loads(status(folder, "--json"))["totals"]["dlq_written"] == written, 30, what="all on disk")
        shown, snapshot = status(folder), status(folder, "--json")
        assert_inert(shown)
        assert_inert(snapshot)
        for text in strings_of(json.loads(snapshot)):
            assert not FORBIDDEN.search(text), text
            assert len(text) < 20_000
        running.process.send_signal(signal.SIGTERM)
        assert running.end() == 0, running.log[-3000:]
    finally:
        let_go(running)
    assert_inert(running.log)
    if form == "json":
        records = [json.loads(line) for line in running.log.splitlines()]
        for record in records:
            for name, text in record.items():
                assert not FORBIDDEN.search(text.replace("\n", "") if name == "exc" else text), record
        assert any("[@click=app.quit]pay[/]" in record["message"] for record in records)
    assert "Traceback" not in running.log
    assert_bytes_are_exact(folder, topic)


def let_go(running: Running) -> None:
    """End the process, if it hasn't, and close its streams."""
    running.process.kill()
    running.end()
    for stream in (running.process.stdout, running.process.stderr):
        assert stream is not None
        stream.close()


def status(folder: Path, *more: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "kafka_consumer", "status", "--socket", "kc.sock", *more], cwd=folder, env=environment(folder),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def strings_of(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from (name, *strings_of(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from strings_of(inner)


def assert_bytes_are_exact(folder: Path, topic: str) -> None:
    """What is in the files is what was in Kafka, byte for byte: a guard against formulas would spoil a replay."""
    for name in ("backup", "dlq"):
        rows = read_rows(folder / f"{name}.csv")
        assert len(rows) == len(VALUES) + 1
        small = sorted((row for row in rows if row["partition"] == "0"), key=lambda row: int(row["offset"]))
        assert [decode_field(row["value"], row["encoding"]) for row in small] == VALUES
        assert [decode_field(row["key"], row["encoding"]) for row in small] == VALUES
        (big,) = [row for row in rows if row["partition"] == "1"]
        value = decode_field(big["value"], big["encoding"])
        assert value is not None
        assert len(value) == BIG + len(b"\x1b]0;owned\x07")
        for row in rows:
            assert row["topic"] == topic
            assert list(decode_headers(row["headers"])) == HEADERS
            if name == "dlq":
                assert row["error_type"] == "Evil\x1b]0;owned\x07[red]"


def test_the_log_on_a_terminal_holds_no_sequence_but_its_own_colours(broker: MockKafka, topic: str, folder: Path):
    terminal = Terminal(
        "kafka_consumer", "--headless", *arguments(broker, topic), "--app-dir", str(folder),
        "--backup-path", str(folder / "b.csv"), "--dlq-path", str(folder / "d.csv"),
        "--socket", str(folder / "kc.sock"), size=(200, 50),
    )  # fmt: skip
    try:
        terminal.wait_for("can't take", 60)
        eventually(lambda: terminal.output.count(b"can't take") > len(VALUES), 30, what="every message in the log")
        terminal.signal(signal.SIGTERM)
        assert terminal.wait(60) == 0
        text = terminal.output.decode("utf-8").replace("\r\n", "\n")
    finally:
        terminal.close()
    assert_inert(re.sub(r"\x1b\[[0-9;]*m", "", text))


def test_the_console_draws_hostile_messages_as_data(broker: MockKafka, topic: str, folder: Path):
    running = Running(folder, "--headless", *arguments(broker, topic))
    terminal = None
    try:
        running.wait_for(lambda: everything_failed(running), 60)
        terminal = Terminal("tui.cli", "--attach", str(folder / "kc.sock"), size=(200, 60))
        terminal.wait_for(topic, 30)
        eventually(lambda: "owned" in terminal.text, 20, what="a dead letter on the screen")
        for keys in ("4", "\r", "\x1b[6~", "\x1b", "5", "\r", "\x1b", "G", "y"):
            seen = len(terminal.output)
            terminal.send(keys)
            eventually(lambda seen=seen: len(terminal.output) > seen, 10, what=f"an answer to {keys!r}")  # type: ignore[misc]
        # A dialog may still be open, and take the first.
        for _ in range(50):
            if terminal.process.poll() is not None:
                break
            terminal.send("\x03")
            with suppress(subprocess.TimeoutExpired):
                terminal.process.wait(0.5)
        assert terminal.wait(30) == 0
        output = terminal.output
    finally:
        if terminal is not None:
            terminal.close()
        let_go(running)
    # The console copies a row itself, by the one sequence of its own that carries data.
    for copied in OSC_52.findall(output):
        text = b64decode(copied, validate=True).decode()
        assert text != "evil"
        assert not FORBIDDEN.search(text.replace("\n", ""))
    assert OSC_52.search(output)
    output = re.sub(rb"\x1b\]22;[a-z-]+\x07", b"", OSC_52.sub(b"", output))  # and the pointer's shape, which is Textual's
    for sequence in (b"\x1b]", b"\x1b[2J\x1b[H\x1b[?1049l", b"\x00", b"\x07"):
        at = output.find(sequence)
        assert at < 0, output[max(0, at - 20) : at + 30]
    text = output.decode("utf-8")  # and it is text: no byte of a payload got through
    for character in "\u202e\u2066\u2069\u200f\ufeff\x90\x9b\x9c\x9d":
        assert character not in text, repr(character)


@pytest.mark.parametrize("evil", [text for text in HOSTILE if "\0" not in text and "\ud800" not in text])
@pytest.mark.parametrize("command", ["config", "check", "--headless"])
def test_what_is_said_of_hostile_settings_is_inert(
    command: str, evil: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (folder / "client.properties").write_text(f"{evil}=1\nclient.id={evil}\n", encoding="utf-8")
    given = {
        "--topic": evil, "--group": evil, "--backup-path": f"nowhere/{evil}", "--dlq-path": f"nowhere/{evil}",
        "--command-config": "client.properties", "--stop-at": evil, "--socket": f"{evil}" * 20, "--processor": evil,
    }  # fmt: skip
    rest = [f"{name}={value}" for name, value in given.items()]
    code = cli.invoke([command, *UNREACHABLE, *rest] if command != "--headless" else [*UNREACHABLE, *rest, command])
    said = capsys.readouterr()
    assert code == 2
    assert_inert(said.out + said.err)


@pytest.mark.parametrize("evil", [text for text in HOSTILE if "\0" not in text])
def test_what_click_refuses_is_repeated_as_data(evil: str, capsys: pytest.CaptureFixture[str]):
    for command_line in (["config", evil], ["config", f"--x{evil}"], [f"x{evil}"]):
        assert cli.invoke(command_line) == 2
        said = capsys.readouterr()
        assert_inert(said.out + said.err)


@pytest.mark.parametrize("evil", HOSTILE)
def test_an_error_whose_text_is_hostile_ends_a_process_with_one_inert_line(
    evil: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    from kafka_consumer.logs import JsonFormatter, PlainFormatter

    def broken(_given: object) -> None:
        raise RuntimeError(evil)

    monkeypatch.setattr(cli, "settings_from", broken)
    caplog.set_level(logging.DEBUG)
    assert cli.invoke(["--headless", *COMPLETE]) == 1
    for record in caplog.records:
        for formatter in (PlainFormatter(), JsonFormatter()):
            assert_inert(formatter.format(record))
