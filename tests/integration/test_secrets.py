"""A secret given to kc is in nothing that kc prints, logs, keeps or shows, whatever breaks; searched for in every disguise."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from confluent_kafka import KafkaError, KafkaException

from kafka_consumer import KafkaConsumer, KafkaConsumerConfig, cli
from kafka_consumer.errors import ConfigError
from kafka_consumer.logs import JsonFormatter, PlainFormatter
from kafka_consumer.redaction import Redactor, is_secret
from kafka_consumer.settings import load_settings
from tests.fakes import FakeBroker, FakeConsumer
from tests.helpers import eventually, make_config
from tests.integration.test_cli import COMPLETE, UNREACHABLE, environment
from tests.tui.terminals import Terminal

MARKER = "s3cr3t-MARKER/7f+3a=x y&z"  # with what URLs, forms and shells write otherwise
IN_URL = "s3cr3t-MARKER-in-a-url"

ANSWER_SECONDS = 30.0

SETUPS: Mapping[str, Mapping[str, str]] = {
    "plain": {
        "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN", "sasl.username": "bob", "sasl.password": MARKER,
    },
    "scram": {
        "security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512", "sasl.username": "bob", "sasl.password": MARKER,
        "ssl.key.password": MARKER,
    },
    "oidc": {
        "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "OAUTHBEARER", "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.client.id": "bob", "sasl.oauthbearer.client.secret": MARKER,
        "sasl.oauthbearer.token.endpoint.url": f"http://bob:{IN_URL}@127.0.0.1:1/token",
        "sasl.oauthbearer.extensions": f"traceId={IN_URL}",
    },
    # librdkafka repeats what it can't read of this one in its error.
    "unsecured": {
        "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "OAUTHBEARER", "enable.sasl.oauthbearer.unsecure.jwt": "true",
        "sasl.oauthbearer.config": f"principal=bob {IN_URL}",
    },
    "key": {"security.protocol": "SSL", "ssl.key.pem": f"-----BEGIN PRIVATE KEY-----\\n{IN_URL}\\n", "ssl.key.password": MARKER},
}  # fmt: skip
SOURCES = ("-X", "--command-config", "kc.toml", "KC_KAFKA")


def disguises(secret: str) -> set[str]:
    """Return all that would give the secret away."""
    raw = secret.encode()
    found = {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), repr(secret)[1:-1], raw.hex()}
    found.add(b64encode(f"\0bob\0{secret}".encode()).decode())
    for shift in range(3):
        # Nine of its bytes, wherever they stand within something longer: they are enough.
        found |= {b64encode(raw[start : start + 9]).decode() for start in range(shift, len(raw) - 8, 9)}
    return found


NEEDLES = disguises(MARKER) | disguises(IN_URL)


class Search:
    """Outputs that were searched; an empty one proves nothing and is refused."""

    def __init__(self) -> None:
        self.outputs = 0
        self.characters = 0

    def __call__(self, what: str, text: str) -> None:
        assert text, f"{what} is empty"
        for needle in NEEDLES:
            at = text.find(needle)
            assert at < 0, f"{needle!r} in {what}: ...{text[max(0, at - 300) : at + 100]!r}"
        self.outputs += 1
        self.characters += len(text)


@pytest.fixture(scope="module")
def search() -> Iterator[Search]:
    """The search; at the end it says how much it has seen."""
    found = Search()
    yield found
    said = f"\nsearched {found.outputs} outputs of {found.characters:,} characters for {len(NEEDLES)} forms of 2 secrets: no hit"
    print(said)  # noqa: T201 - what a search without a hit has to show


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an application in it."""
    (tmp_path / "app.py").write_text("def handle(value):\n    pass\n")
    return tmp_path


def give(folder: Path, source: str, options: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Write the options where the source has them; return the arguments and variables that lead to them."""
    lines = "".join(f"{name}={value}\n" for name, value in options.items())
    if source == "-X":
        return [part for name, value in options.items() for part in ("-X", f"{name}={value}")], {}
    if source == "KC_KAFKA":
        return [], {"KC_KAFKA": lines}
    if source == "kc.toml":
        (folder / "kc.toml").write_text("[kafka]\n" + "".join(f"{json.dumps(n)} = {json.dumps(v)}\n" for n, v in options.items()))
        return [], {}
    (folder / "client.properties").write_text(lines)
    return ["--command-config", "client.properties"], {}


def test_the_search_would_find_what_it_looks_for():
    search = Search()
    basic = b64encode(f"\0bob\0{MARKER}".encode()).decode()
    inside = [b64encode(b"x" * shift + MARKER.encode() + b"tail").decode() for shift in range(3)]
    for leak in (MARKER, quote(MARKER, safe=""), basic, *inside, f"http://u:{IN_URL}@h/"):
        with pytest.raises(AssertionError):
            search("an output", f"before {leak} after")


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("setup", SETUPS)
def test_config_and_check_say_what_is_set_and_what_is_wrong_but_no_secret(
    setup: str, source: str, folder: Path, search: Search, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    arguments, variables = give(folder, source, SETUPS[setup])
    for name, value in {"TMPDIR": str(folder), **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for command in ("config", "check"):
        code = cli.invoke([command, *COMPLETE, *UNREACHABLE, *arguments])
        said = capsys.readouterr()
        assert code in ({0, 2} if command == "config" else {1, 2}), said
        if command == "config":
            assert said.out.count("[hidden]") >= len(SETUPS[setup])
        search(f"kc {command}, {setup} in {source}", said.out + said.err)
    settings = load_settings({"kafka_options": tuple(part for part in arguments if "=" in part)})
    search("repr(Settings)", repr(settings))


@pytest.mark.parametrize(("setup", "source", "form"), [
    ("plain", "-X", "rich"), ("scram", "--command-config", "json"), ("oidc", "kc.toml", "rich"), ("oidc", "KC_KAFKA", "json"),
    ("unsecured", "KC_KAFKA", "rich"),
])  # fmt: skip
def test_a_run_at_debug_with_all_of_librdkafkas_debugging_holds_no_secret(
    setup: str, source: str, form: str, folder: Path, search: Search
):
    arguments, variables = give(folder, source, SETUPS[setup])
    log, path = folder / "log", folder / "kc.sock"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "kafka_consumer", "--headless", *COMPLETE, *UNREACHABLE, "--log-level", "debug",
             "-X", "debug=all", "--log-format", form, "--socket", str(path), *arguments],
            cwd=folder, env=environment(folder, **variables), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
        )  # fmt: skip
    try:
        ends = setup == "unsecured"  # what can't be mended by waiting
        eventually(
            lambda: process.poll() is not None or (not ends and "ERROR" in log.read_text()),
            ANSWER_SECONDS,
            what="an error in the log",
        )
        assert (process.poll() is not None) is ends, log.read_text()[-3000:]
        for arguments_of_status in ([], ["--json"]) if not ends else ():
            done = subprocess.run(
                [sys.executable, "-m", "kafka_consumer", "status", "--socket", str(path), *arguments_of_status],
                cwd=folder,
                env=environment(folder),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            search("kc status", done.stdout)
            if arguments_of_status:
                snapshot = json.loads(done.stdout)
                assert len(snapshot["log_tail"]) > 10
        if not ends:
            search("the control socket", raw_snapshot(path))
        command_line = Path(f"/proc/{process.pid}/cmdline")
        if source != "-X" and not ends and command_line.exists():
            search("the process table", command_line.read_text().replace("\0", " "))
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    text = log.read_text()
    assert code == (1 if ends else 0), text[-3000:]
    assert text.count("\n") > 50, "librdkafka's own lines are missing"
    search(f"the log, {setup} in {source} as {form}", text)
    for other in folder.iterdir():
        if other.is_file() and other.name not in {"log", "kc.toml", "client.properties"} and other.stat().st_size:
            search(other.name, other.read_text())
    warned = "every user of this machine can read a command line" in text
    assert warned == (source == "-X")


def raw_snapshot(path: Path) -> str:
    """Return what a consumer's socket says until its first snapshot is complete."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, connection.makefile("rb") as lines:
        connection.settimeout(ANSWER_SECONDS)
        connection.connect(str(path))
        said = ""
        while '"type":"snapshot"' not in said:
            line = lines.readline()
            assert line, said
            said += line.decode()
        return said


def test_the_consoles_screen_shows_no_secret(folder: Path, search: Search, monkeypatch: pytest.MonkeyPatch):
    arguments, variables = give(folder, "KC_KAFKA", SETUPS["oidc"])
    for name in [name for name in os.environ if name.startswith("KC_")]:
        monkeypatch.delenv(name)
    files = ["--backup-path", str(folder / "backup.csv"), "--dlq-path", str(folder / "dlq.csv"), "--app-dir", str(folder)]
    terminal = Terminal(
        "tui.cli", *COMPLETE, *UNREACHABLE, *files, *arguments, "--log-level", "DEBUG", "-X", "debug=all", size=(200, 60),
        **variables,  # type: ignore[arg-type]
    )  # fmt: skip
    try:
        terminal.wait_for("127.0.0.1:1", 30)
        for keys in ("5", "\r", "\x1b", "G", "h", "\x1b", "?", "\x1b"):
            seen = len(terminal.output)
            terminal.send(keys)
            with contextlib.suppress(AssertionError):
                eventually(lambda seen=seen: len(terminal.output) > seen, 2.0)  # type: ignore[misc]
        eventually(lambda: "[thrd:" in terminal.text, 20, what="a line of librdkafka on the screen")
        terminal.signal(signal.SIGTERM)
        terminal.wait(60)
        search("the console's screen", terminal.text)
        search("the console's screen, raw", terminal.output.decode("utf-8", "replace"))
        assert "OAUTHBEARER" in terminal.text or "oauthbearer" in terminal.text
    finally:
        terminal.close()


def mistakes() -> list[tuple[str, ...]]:
    """Return command lines on which somebody put a secret in the wrong place."""
    return [
        ("--headless", f"sasl.password={MARKER}"), ("--headless", "-X", "sasl.password", MARKER), ("-X", MARKER, "--headless"),
        ("--headless", "-X", f"sasl.password: {MARKER}"), ("--headless", f"--sasl.password={MARKER}"),
        ("config", f"sasl.password={MARKER}"), ("--headless", "-X", f"sasl.pasword={MARKER}"),
        ("--headless", "-X", f"sasl.jaas.config={MARKER}"), ("--headless", "-X", f"ssl.ca.location={MARKER}"),
        ("--headless", "-X", f"session.timeout.ms={MARKER}"), ("--headless", "-X", f"debug={MARKER}"),
        ("--headless", "--bootstrap-server", f"kafka://bob:{IN_URL}@127.0.0.1:1"),
        ("check", "--bootstrap-server", f"bob:{IN_URL}@127.0.0.1:1"),
        ("config", "--bootstrap-server", f"bob:{IN_URL}@127.0.0.1:1"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "arguments", mistakes(), ids=lambda arguments: " ".join(arguments).replace(MARKER, "M").replace(IN_URL, "U")
)
def test_a_secret_in_the_wrong_place_of_a_command_line_is_not_repeated(
    arguments: tuple[str, ...], folder: Path, search: Search, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    rest = [*COMPLETE] if "--bootstrap-server" in arguments else [*COMPLETE, *UNREACHABLE]
    before = arguments[0] in {"config", "check"}
    code = cli.invoke([arguments[0], *rest, *arguments[1:]] if before else [*rest, *arguments])
    said = capsys.readouterr()
    assert code == 2, said
    search("a refused command line", said.out + said.err)
    assert "Traceback" not in said.err


@pytest.mark.parametrize("text", [
    f'sasl.password = "{MARKER}"', f'[kafka]\nsasl.password = "{MARKER}', f"[kafka]\nsasl.password = {MARKER}",
    f'[kafka]\nsasl.password = ["{MARKER}"]', f'kafka = "{MARKER}"', f'[kafka]\n"sasl.password: {MARKER}" = 1',
    f'[kafka]\nsasl.password = "x"\nsasl.password = "{MARKER}"', f'bootstrap-server = "bob:{IN_URL}@h:1"',
    f'[kafka]\nsasl.password = "\ud800{MARKER}"'.encode("utf-8", "surrogatepass").decode("utf-8", "replace"),
])  # fmt: skip
def test_a_kc_toml_that_cannot_be_read_is_described_without_its_secrets(text: str, folder: Path, search: Search):
    (folder / "kc.toml").write_text(text)
    settings = load_settings({}, config=str(folder / "kc.toml"), environ={})
    search("the problems of a kc.toml", "\n".join(settings.problems))
    search("what kc config would show of it", repr(settings.rows()) + repr(settings))


@pytest.mark.parametrize("text", [
    f"sasl.password: {MARKER}", f"sasl.password {MARKER}", MARKER, f"sasl.password={MARKER}\nsasl.password={MARKER}",
    f"sasl.pasword={MARKER}", f"sasl.password=\0{MARKER}",
])  # fmt: skip
def test_a_client_properties_that_cannot_be_read_is_described_without_its_secrets(text: str, folder: Path, search: Search):
    (folder / "client.properties").write_text(text)
    settings = load_settings({"command_config": str(folder / "client.properties")}, environ={})
    search("the problems of a client.properties", "\n".join(settings.problems))


def test_the_configuration_itself_hides_them_in_repr_and_errors(folder: Path, search: Search):
    options = {"sasl.password": MARKER, "sasl.oauthbearer.token.endpoint.url": f"http://u:{IN_URL}@h/"}
    config = make_config(folder, kafka_options=options)
    search("repr(config)", repr(config))
    search("str(config)", f"{config}")
    config.bootstrap_servers = f"bob:{IN_URL}@h:1"
    search("repr of a spoilt configuration", repr(config))
    config.kafka_options = [MARKER]  # type: ignore[assignment]
    with pytest.raises(ConfigError) as caught:
        config.validate_config()
    search("a ConfigError", str(caught.value) + repr(caught.value))
    with pytest.raises(ConfigError) as caught:
        KafkaConsumerConfig(**{"sasl.password": MARKER, "bootstrap_servers": f"bob:{IN_URL}@h:1"})
    search("a ConfigError of unknown options", str(caught.value) + repr(caught.value))


@pytest.mark.parametrize("where", ["subscribe", "poll"])
def test_a_kafka_exception_that_tells_a_secret_tells_nobody(
    where: str, folder: Path, search: Search, caplog: pytest.LogCaptureFixture
):
    """librdkafka's texts may hold any option's value; the crash of a thread logs them with a traceback."""

    class Telling(FakeConsumer):
        def subscribe(self, *arguments: object, **more: object) -> None:
            if where == "subscribe":
                raise KafkaException(KafkaError(KafkaError._FAIL, f"can't use {MARKER} or {quote_plus(MARKER)}"))
            super().subscribe(*arguments, **more)  # type: ignore[arg-type]

        def consume(self, num_messages: int = 1, timeout: float | None = None) -> Any:
            raise KafkaException(KafkaError(KafkaError._FATAL, f"can't use {MARKER}", True))

        def poll(self, timeout: float | None = None) -> Any:
            raise KafkaException(KafkaError(KafkaError._FATAL, f"can't use {MARKER}", True))

    caplog.set_level(logging.DEBUG)
    config = make_config(folder, kafka_options={"sasl.password": MARKER}, log_level="DEBUG")
    consumer = KafkaConsumer(config, consumer=Telling(FakeBroker({"test-topic": 1}), "test-group"))
    consumer.start()
    assert consumer.join(ANSWER_SECONDS)
    assert consumer.exit_code == 1
    records = list(caplog.records)
    assert any("can't use" in record.getMessage() or "holds a secret" in record.getMessage() for record in records)
    for formatter in (PlainFormatter(), JsonFormatter(), logging.Formatter()):
        search("the log of a crash", "\n".join(formatter.format(record) for record in records))
    search("the snapshot after a crash", consumer.snapshot().to_json())
    assert "[hidden]" in str(consumer.snapshot().stop_reason)


class TestRedactor:
    @pytest.fixture
    def redactor(self) -> Redactor:
        return Redactor(
            {**SETUPS["plain"], "sasl.oauthbearer.config": "principal=bob scope=hunter2-scope", "ssl.key.password": "abc"}
        )

    @pytest.mark.parametrize("disguise", sorted(disguises(MARKER), key=lambda text: (len(text), text))[-12:])
    def test_it_finds_whole_disguises(self, redactor: Redactor, disguise: str):
        whole = {MARKER, quote(MARKER, safe=""), quote(MARKER), quote_plus(MARKER), MARKER.encode().hex()}
        if disguise in whole:
            assert redactor.redact(f"before {disguise} after") == "before [hidden] after"

    @pytest.mark.parametrize("before", [b"", b"x", b"xy", b"\0bob\0"])
    @pytest.mark.parametrize("after", [b"", b"z", b"yz"])
    def test_it_finds_base64_at_every_place(self, redactor: Redactor, before: bytes, after: bytes):
        text = b64encode(before + MARKER.encode() + after).decode()
        clean = redactor.redact(text)
        assert "[hidden]" in clean
        for part in range(0, len(text) - 12, 4):
            if len(before) // 3 * 4 + 4 <= part <= len(text) - 12:
                assert text[part : part + 8] not in clean

    def test_short_ones_are_hidden_where_they_stand_alone(self, redactor: Redactor):
        assert redactor.redact("abc abcdef (abc)") == "[hidden] abcdef ([hidden])"

    def test_parts_of_composed_values_are_hidden_and_ordinary_words_are_not(self, redactor: Redactor):
        assert redactor.redact("principal bob at hunter2-scope") == "principal bob at [hidden]"

    def test_a_password_in_any_url_is_hidden_and_a_user_alone_is_not(self, redactor: Redactor):
        assert redactor.redact("http://a:b@h/x http://me@h a@b") == "http://[hidden]@h/x http://me@h a@b"

    def test_without_secrets_nothing_changes(self):
        assert Redactor({"client.id": "abc"}).redact("abc true") == "abc true"

    def test_a_huge_hostile_text_takes_no_time(self, redactor: Redactor):
        text = "//" + ":" * 2_000_000 + "//a" * 500_000 + "@"
        started = time.monotonic()
        redactor.redact(text)
        assert time.monotonic() - started < 5

    def test_a_record_whose_arguments_do_not_fit_is_let_through(self, redactor: Redactor):
        record = logging.LogRecord("x", logging.INFO, "", 0, "%d of %d", ("many",), None)
        assert redactor.filter(record)
        assert record.msg == "%d of %d"

    @pytest.mark.parametrize(("name", "secret"), [
        ("sasl.password", True), ("ssl.key.password", True), ("ssl.key.pem", True), ("sasl.oauthbearer.client.secret", True),
        ("sasl.oauthbearer.config", True), ("ssl.keystore.password", True), ("client.id", False), ("sasl.username", False),
        ("ssl.ca.location", False),
    ])  # fmt: skip
    def test_which_options_are_secret(self, name: str, secret: bool):
        assert is_secret(name, "value") is secret

    def test_a_url_with_a_password_is_secret_whatever_its_name(self):
        assert is_secret("https.proxy", "http://u:p@h")
