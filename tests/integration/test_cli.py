"""The command line as a process: real files, real signals, exit codes, and never a traceback for a user's mistake."""

from __future__ import annotations

import csv
import json
import logging
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from kafka_consumer import cli
from kafka_consumer.errors import FilesInUseError
from kafka_consumer.settings_table import SETTINGS

ROOT = Path(__file__).resolve().parents[2]
SECRET = "hunter2-the-secret"
COMPLETE = ("--topic", "orders", "--group", "billing", "--processor", "app:handle")
UNREACHABLE = ("--bootstrap-server", "127.0.0.1:1")


def environment(folder: Path, **extra: str) -> dict[str, str]:
    """The environment of a process: none of our variables but the given ones, and its temporary files in the folder."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KC_")}
    return inherited | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder)} | extra


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an application in it."""
    (tmp_path / "app.py").write_text("def handle(value):\n    pass\n")
    return tmp_path


def kc(folder: Path, *arguments: str, timeout: float = 60, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the command in the folder to its end."""
    return subprocess.run(
        [sys.executable, "-m", "kafka_consumer", *arguments], cwd=folder, env=environment(folder, **extra),
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False,
    )


class Running:
    """A command that runs, and what it has written to stderr so far."""

    def __init__(self, folder: Path, *arguments: str, **extra: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kafka_consumer", *arguments], cwd=folder, env=environment(folder, **extra),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        self._lines: list[str] = []  # appended by the reading thread, read by the test
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self._lines.extend(self.process.stderr)

    @property
    def log(self) -> str:
        return "".join(list(self._lines))

    def wait_for(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"it didn't happen in time; the log:\n{self.log}"
            assert self.process.poll() is None, f"it ended with {self.process.returncode}; the log:\n{self.log}"
            time.sleep(0.02)

    def end(self, seconds: float = 40.0) -> int:
        code = self.process.wait(seconds)
        self._reader.join(10)
        return code


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Running]]:
    """Start commands in the folder; what still runs at the end is killed."""
    started: list[Running] = []

    def starter(*arguments: str, **extra: str) -> Running:
        started.append(Running(folder, *arguments, **extra))
        return started[-1]

    yield starter
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait(10)
        for stream in (running.process.stdout, running.process.stderr):
            assert stream is not None
            stream.close()


def lines(text: str) -> list[str]:
    return text.strip().splitlines()


class TestUsage:
    def test_the_version(self) -> None:
        result = CliRunner().invoke(cli.cli, ["--version"])
        assert result.exit_code == 0
        assert re.fullmatch(r"kc \d+\.\d+\S*\n", result.output)

    def test_the_help_shows_every_option_in_its_section(self) -> None:
        result = CliRunner().invoke(cli.cli, ["--help"])
        assert result.exit_code == 0
        for setting in SETTINGS.values():
            assert f"  {setting.option} " in result.output
        for section in ("Run:", "Kafka:", "Processing:", "Failures:", "Files:", "Demo:", "Commands:"):
            assert f"\n{section}\n" in result.output

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("--nonsense",), "No such option"), (("--topic",), "requires an argument"), (("nonsense",), "No such command"),
            (("--demo=yes",), "does not take a value"),
        ],
    )
    def test_what_click_refuses_exits_2(self, arguments: tuple[str, ...], said: str, folder: Path) -> None:
        done = kc(folder, *arguments)
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr

    def test_missing_options_are_all_named_at_once(self, folder: Path) -> None:
        done = kc(folder, "--headless")
        assert done.returncode == 2
        assert [line.split(":")[0] for line in lines(done.stderr)] == ["--bootstrap-server", "--topic", "--group", "--processor"]

    def test_mistakes_in_all_sources_are_told_in_one_go(self, folder: Path) -> None:
        (folder / "kc.toml").write_text("workers = 0\n")
        done = kc(folder, "--headless", *COMPLETE, *UNREACHABLE, "--queue-size", "many", KC_COMMIT_INTERVAL="-1")
        assert done.returncode == 2
        assert set(lines(done.stderr)) == {
            "workers in kc.toml: expected an integer from 1 to 1,000, got 0",
            "--queue-size: expected an integer from 10 to 1,000,000, got 'many'",
            "KC_COMMIT_INTERVAL: expected a number of seconds above 0, got -1",
        }

    def test_an_option_librdkafka_does_not_know_exits_2_without_its_value(self, folder: Path) -> None:
        done = kc(folder, "--headless", *COMPLETE, *UNREACHABLE, "-X", f"sasl.pasword={SECRET}")
        assert done.returncode == 2
        assert lines(done.stderr) == ["-X sasl.pasword: librdkafka has no such option; did you mean sasl.password?"]

    def test_an_option_of_java_names_its_equivalent(self, folder: Path) -> None:
        (folder / "client.properties").write_text(f"sasl.jaas.config=org.apache.kafka.Login required password={SECRET};\n")
        done = kc(folder, "--headless", *COMPLETE, *UNREACHABLE, "--command-config", "client.properties")
        assert done.returncode == 2
        (line,) = lines(done.stderr)
        assert line.startswith("sasl.jaas.config in client.properties: ")
        assert "sasl.username and sasl.password" in line
        assert SECRET not in line

    def test_a_module_that_fails_at_import_is_one_line_with_its_place(self, folder: Path) -> None:
        (folder / "broken.py").write_text("import os\n\nos.environ['NOT_SET_ANYWHERE']\n")
        done = kc(folder, "--headless", *UNREACHABLE, "--topic", "t", "--group", "g", "--processor", "broken:handle")
        assert done.returncode == 2
        (line,) = lines(done.stderr)
        assert "KeyError: 'NOT_SET_ANYWHERE'" in line
        assert f"({(folder / 'broken.py').resolve()}:3)" in line

    def test_an_argument_that_is_no_utf8_is_a_line(self, folder: Path) -> None:
        done = kc(folder, "--headless", *UNREACHABLE, *COMPLETE, "--topic", os.fsdecode(b"a\xff"))
        assert done.returncode == 2
        assert lines(done.stderr) == [r"--topic: expected UTF-8 text without NUL characters, got 'a\udcff'"]

    def test_an_unexpected_error_is_logged_with_its_traceback_and_exits_1(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def defect(_given: object) -> None:
            local = SECRET
            raise RuntimeError(f"a defect{len(local)}\x1b[31m")

        monkeypatch.setattr(cli, "settings_from", defect)
        records: list[logging.LogRecord] = []
        handler = logging.Handler()
        handler.emit = records.append  # type: ignore[assignment, method-assign]
        cli.logger.addHandler(handler)
        try:
            assert cli.invoke(["--headless"]) == 1
        finally:
            cli.logger.removeHandler(handler)
        assert records[0].exc_info is not None

    def test_files_in_use_exit_2(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        def refuse(_given: object) -> None:
            raise FilesInUseError("dlq.csv is in use")

        monkeypatch.setattr(cli, "settings_from", refuse)
        assert cli.invoke(["--headless"]) == 2
        assert capsys.readouterr().err == "dlq.csv is in use\n"


class TestConsole:
    def test_without_a_terminal_it_says_so_in_a_line(self, folder: Path) -> None:
        done = kc(folder, *COMPLETE, *UNREACHABLE)
        assert done.returncode == 2
        (line,) = lines(done.stderr)
        assert line.endswith("use kc --headless")

    def test_on_a_terminal_the_console_gets_the_settings_and_its_code_is_the_exit_code(self, folder: Path) -> None:
        (folder / "tui").mkdir()
        (folder / "tui" / "__init__.py").write_text("")
        source = "def run_console(settings, *, yes):\n    print('console for', settings['topic'])\n    return 7\n"
        (folder / "tui" / "cli.py").write_text(source)
        code, output = self.on_a_terminal(folder, *COMPLETE, *UNREACHABLE)
        assert "console for orders" in output
        assert code == 7

    def test_a_version_without_the_console_says_so(self, folder: Path) -> None:
        (folder / "tui").mkdir()
        (folder / "tui" / "__init__.py").write_text("")
        code, output = self.on_a_terminal(folder, *COMPLETE, *UNREACHABLE)
        assert code == 2
        assert "the console isn't part of this version yet: use kc --headless" in output

    @staticmethod
    def on_a_terminal(folder: Path, *arguments: str) -> tuple[int, str]:
        master, slave = pty.openpty()
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "kafka_consumer", *arguments], cwd=folder, env=environment(folder),
                stdin=slave, stdout=slave, stderr=slave,
            )
            code = process.wait(60)
            output = b""
            while select.select([master], [], [], 0.2)[0]:
                output += os.read(master, 65_536)
        finally:
            os.close(master)
            os.close(slave)
        return code, output.decode()


class TestConfig:
    def test_it_shows_values_and_origins_and_hides_secrets(self, folder: Path) -> None:
        (folder / "kc.toml").write_text(f'workers = 3\n[kafka]\nsasl.password = "{SECRET}"\n')
        done = kc(folder, "config", *COMPLETE, *UNREACHABLE, KC_QUEUE_SIZE="50")
        assert done.returncode == 0
        rows = {tuple(re.split(r" {2,}", line)) for line in lines(done.stdout)}
        assert {
            ("topic", "orders", "--topic"), ("workers", "3", "workers in kc.toml"), ("queue-size", "50", "KC_QUEUE_SIZE"),
            ("csv-batch-size", "100", "default"), ("kafka sasl.password", "[hidden]", "sasl.password in kc.toml [kafka]"),
        } <= rows
        assert SECRET not in done.stdout + done.stderr

    def test_options_may_stand_before_the_command_too(self, folder: Path) -> None:
        done = kc(folder, "--topic", "before", "--workers", "3", "config", "--topic", "after")
        assert re.search(r"^topic +after +--topic$", done.stdout, re.MULTILINE)
        assert re.search(r"^workers +3 +--workers$", done.stdout, re.MULTILINE)

    def test_problems_follow_and_exit_2(self, folder: Path) -> None:
        done = kc(folder, "config", *COMPLETE)
        assert done.returncode == 2
        assert lines(done.stderr)[0].startswith("--bootstrap-server: missing")

    def test_the_processor_is_not_imported(self, folder: Path) -> None:
        (folder / "app.py").write_text("raise SystemExit('imported')\n")
        assert kc(folder, "config", *COMPLETE, *UNREACHABLE).returncode == 0


class TestCheck:
    def test_all_is_well_with_the_demo(self, folder: Path) -> None:
        done = kc(folder, "check", "--demo", "--processor", "app:handle")
        assert done.returncode == 0, done.stdout + done.stderr
        assert all(line.startswith("✓ ") for line in lines(done.stdout))
        for said in ("configuration", "processor app:handle", "1 broker,", "topic orders: 4 partitions", "group kc-demo"):
            assert said in done.stdout

    def test_an_unreachable_broker_exits_1_and_says_why(self, folder: Path) -> None:
        done = kc(folder, "check", *COMPLETE, *UNREACHABLE)
        assert done.returncode == 1
        *good, bad = lines(done.stdout)
        assert all(line.startswith("✓ ") for line in good)
        assert bad.startswith("✗ broker 127.0.0.1:1 can't be reached: ")
        assert "Connection refused" in bad
        assert "--bootstrap-server" in bad

    def test_a_processor_that_is_not_there_exits_2_without_asking_the_broker(self, folder: Path) -> None:
        done = kc(folder, "check", *UNREACHABLE, "--topic", "t", "--group", "g", "--processor", "nowhere:handle")
        assert done.returncode == 2
        assert "✗ --processor: can't use 'nowhere:handle': no module named 'nowhere'" in done.stdout
        assert "broker" not in done.stdout

    def test_a_configuration_that_is_wrong_exits_2(self, folder: Path) -> None:
        done = kc(folder, "check", *COMPLETE, *UNREACHABLE, "--workers", "0")
        assert done.returncode == 2
        assert "✗ --workers: expected an integer from 1 to 1,000, got 0" in done.stdout

    def test_a_terminal_without_the_marks_gets_escapes(self, folder: Path) -> None:
        done = kc(folder, "check", *COMPLETE, *UNREACHABLE, "--workers", "0", PYTHONIOENCODING="latin-1")
        assert done.returncode == 2
        assert "\\u2717 --workers" in done.stdout


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class TestHeadless:
    def test_a_demo_ends_by_itself_with_every_message_finished(self, folder: Path) -> None:
        paths = ("--backup-path", "backup.csv", "--dlq-path", "dlq.csv")
        done = kc(folder, "--headless", "--demo", "--demo-messages", "200", *paths, "--log-format", "json", "--workers", "20")
        assert done.returncode == 0, done.stderr
        records = [json.loads(line) for line in lines(done.stderr)]
        assert not [record for record in records if record["level"] not in {"INFO", "DEBUG"}]
        ended = re.search(r"200 polled, (\d+) processed, (\d+) failed", records[-1]["message"])
        assert ended is not None, records[-1]
        assert int(ended[1]) + int(ended[2]) == 200
        assert int(ended[2]) > 0
        (backup,), (letters,) = folder.glob("backup_*.csv"), folder.glob("dlq_*.csv")
        assert len({(row["partition"], row["offset"]) for row in rows(backup)}) == 200
        assert len(rows(letters)) == int(ended[2])
        assert str(backup.name) in done.stdout
        assert str(letters.name) in done.stdout

    def test_a_demo_takes_your_own_processor_from_the_app_dir(self, folder: Path) -> None:
        (folder / "own").mkdir()
        (folder / "own" / "mine.py").write_text("def handle(value):\n    raise LookupError('mine')\n")
        done = kc(
            folder, "--headless", "--demo", "--demo-messages", "20", "--processor", "mine:handle", "--app-dir", "own",
            "--dlq-path", "dlq.csv", "--value-encoding", "binary",
        )
        assert done.returncode == 0, done.stderr
        (letters,) = folder.glob("dlq_*.csv")
        assert [row["error_type"] for row in rows(letters)] == ["LookupError"] * 20

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_drains_and_exits_0(self, start: Callable[..., Running], number: signal.Signals) -> None:
        running = start("--headless", "--demo", "--workers", "20")
        running.wait_for(lambda: "assigned: " in running.log)
        running.process.send_signal(number)
        assert running.end() == 0, running.log
        assert "Traceback" not in running.log
        assert "stopped by a signal" in running.log

    def test_a_signal_while_the_processor_is_being_imported_exits_0(self, start: Callable[..., Running], folder: Path) -> None:
        (folder / "app.py").write_text("import sys, threading\nprint('importing', file=sys.stderr)\nthreading.Event().wait(60)\n")
        running = start("--headless", *COMPLETE, *UNREACHABLE)
        running.wait_for(lambda: "importing" in running.log)
        running.process.send_signal(signal.SIGTERM)
        assert running.end() == 0
        assert running.log == "importing\nstopped by a signal before it began\n"

    def test_log_lines_are_plain_in_a_pipe(self, folder: Path) -> None:
        demo = ("--demo", "--demo-messages", "5", "--value-encoding", "binary")
        done = kc(folder, "--headless", *demo, "--processor", "app:handle")
        assert done.returncode == 0, done.stderr
        assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (INFO|DEBUG) ", line) for line in lines(done.stderr))

    def test_an_unreachable_broker_is_a_line_each_time_not_an_exit(self, start: Callable[..., Running]) -> None:
        running = start("--headless", *COMPLETE, *UNREACHABLE)
        running.wait_for(lambda: " ERROR " in running.log)
        assert "Connection refused" in running.log
        running.process.send_signal(signal.SIGTERM)
        assert running.end() == 0, running.log
        assert "Traceback" not in running.log

    def test_files_that_another_process_writes_are_refused_with_exit_2(self, start: Callable[..., Running], folder: Path) -> None:
        paths = ("--backup-path", "backup.csv", "--dlq-path", "dlq.csv")
        first = start("--headless", "--demo", *paths)
        first.wait_for(lambda: "assigned: " in first.log)
        second = kc(folder, "--headless", "--demo", *paths)
        assert second.returncode == 2, second.stderr
        assert "Traceback" not in second.stderr
        first.process.send_signal(signal.SIGTERM)
        assert first.end() == 0

    def test_threads_that_hang_do_not_hold_up_the_exit_and_exit_handlers_run(self, folder: Path) -> None:
        (folder / "app.py").write_text(
            "import atexit, pathlib, threading\n"
            "threading.Thread(target=threading.Event().wait).start()\n"
            "atexit.register(lambda: pathlib.Path('exit-handler-ran').touch())\n"
            "def handle(value):\n    pass\n"
        )
        done = kc(
            folder, "--headless", "--demo", "--demo-messages", "5", "--value-encoding", "binary", "--processor", "app:handle",
            "--dlq-path", "dlq.csv", timeout=40,
        )
        assert done.returncode == 0, done.stderr
        assert (folder / "exit-handler-ran").exists()

    def test_a_secret_appears_nowhere_even_at_debug(self, start: Callable[..., Running], folder: Path) -> None:
        (folder / "kc.toml").write_text(
            '[kafka]\nsecurity.protocol = "SASL_PLAINTEXT"\nsasl.mechanism = "PLAIN"\nsasl.username = "bob"\n'
            f'sasl.password = "{SECRET}"\n'
        )
        running = start("--headless", *COMPLETE, *UNREACHABLE, "--log-level", "debug", "-X", "debug=security,conf,broker")
        running.wait_for(lambda: " ERROR " in running.log)
        running.process.send_signal(signal.SIGTERM)
        assert running.end() == 0, running.log
        assert SECRET not in running.log
