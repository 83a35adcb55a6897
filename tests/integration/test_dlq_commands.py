"""``kc dlq``, ``kc replay-backup``, ``kc init``, and the redrive that a console asks for: real files, whatever Kafka there is."""

from __future__ import annotations

import json
import logging
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kafka_consumer import KafkaConsumer
from kafka_consumer.cli import cli, invoke
from kafka_consumer.control_commands import CommandThread, Order
from kafka_consumer.control_protocol import Status, read_command
from kafka_consumer.errors import ConfigError, RedriveError
from kafka_consumer.init_project import config_text
from kafka_consumer.redrive_control import Redrives, find
from kafka_consumer.redrive_journal import Journal, read_done
from kafka_consumer.settings import load_settings
from kafka_consumer.settings_table import SETTINGS
from kafka_consumer.unix_socket import Peer
from tests.helpers import eventually, make_config, read_rows
from tests.kafka import Kafka
from tests.letters import letter, letters_of, write_backup, write_dlq
from tests.runs import ROOT

FILE = "dlq_20261122_hour_14.csv"
SECRET = "hunter2-the-secret"
NOTE = "with open('seen', 'ab') as seen: seen.write(repr(value).encode() + b'\\n')"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, an empty one; none of our variables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kafka_consumer.redrive_command.log_everything", lambda: None)  # it is for a process, not for this one
    for name in [name for name in os.environ if name.startswith("KC_")]:
        monkeypatch.delenv(name)
    yield tmp_path
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if handler.get_name() == "kc"]:
        root.removeHandler(handler)  # it writes to what the test has captured


def environment() -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KC_")}
    return inherited | {"PYTHONPATH": str(ROOT)}


def kc(folder: Path, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run the command in the folder, in a process of its own, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "kafka_consumer", *arguments], cwd=folder, env=environment(), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip


class TestList:
    def test_those_of_the_configured_path_by_hour_error_and_topic(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "letters").mkdir()
        (folder / "kc.toml").write_text('dlq-path = "letters/dlq.csv"\n')
        write_dlq(folder / "letters" / FILE, [*letters_of(3), letter(9, error_type="KeyError")])

        assert invoke(["dlq", "list"]) == 0

        assert capsys.readouterr().out.splitlines() == [
            "hour            error       topic   letters  redriven  first     last",
            "2026-11-22 14h  KeyError    orders  1        0         14:05:06  14:05:06",
            "2026-11-22 14h  ValueError  orders  3        0         14:05:06  14:05:06",
            "4 dead letters",
        ]

    def test_nothing_else_need_be_configured_and_no_files_are_no_error(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert invoke(["dlq", "list"]) == 0
        shown = capsys.readouterr()
        assert (shown.out, shown.err) == ("no dead letters\n", "no files of dlq.csv\n")

    def test_as_json_with_filters_and_with_what_was_redriven(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = write_dlq(folder / FILE, [letter(1), letter(2, error_type="KeyError")])
        with Journal(f"{folder}/dlq.csv.redriven") as journal:
            journal.processed([message.digest() for message in find(str(folder / "dlq.csv"), [("orders", 0, 2)]).values()])
        assert invoke(["dlq", "list", path, "--json", "--error", "KeyError", "--since", "2026-11-22T14:05:06+01:00"]) == 0
        (group,) = json.loads(capsys.readouterr().out)
        assert (group["error"], group["letters"], group["redriven"]) == ("KeyError", 1, 1)
        assert invoke(["dlq", "list", path, "--json", "--until", "2026-11-22T14:05:06+01:00"]) == 0
        assert json.loads(capsys.readouterr().out) == []

    def test_a_torn_row_is_a_warning(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = Path(write_dlq(folder / FILE, letters_of(3)))
        path.write_bytes(path.read_bytes()[:-5])
        assert invoke(["dlq", "list", str(path)]) == 0
        shown = capsys.readouterr()
        assert "2 dead letters" in shown.out
        assert "ends within a row" in shown.err

    @pytest.mark.parametrize(
        ("arguments", "code", "told"),
        [
            (["list", "none.csv"], 1, "none.csv: No such file or directory"), (["list", "."], 1, ".: Is a directory"),
            (["list", "kc.toml"], 1, "expected a dead-letter or a backup file of kc"),
            (["list", "--since", "soon"], 2, "expected an ISO time"),
            (["show", "--offset", "orders"], 2, "expected TOPIC:PARTITION:OFFSET"),
            (["show", "--last", "0"], 2, "--last"), (["list", "--dlq-path", "no/where/dlq.csv"], 2, "is not a directory"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_read_or_meant_is_a_line(
        self, folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, told: str
    ) -> None:
        (folder / "kc.toml").write_text("workers = 3\n")
        assert invoke(["dlq", *arguments]) == code
        shown = capsys.readouterr()
        assert told in shown.err
        assert "Traceback" not in shown.err


class TestShow:
    def test_the_last_one_or_those_asked_for(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write_dlq(folder / FILE, [letter(number, error_type="KeyError" if number == 1 else "ValueError") for number in range(5)])
        for arguments, offsets in (
            ([], [4]), (["--last", "2"], [3, 4]), (["--offset", "orders:0:0", "--offset", "orders:0:3"], [0, 3]),
            (["--error", "KeyError"], [1]),
        ):  # fmt: skip
            assert invoke(["dlq", "show", *arguments]) == 0
            shown = capsys.readouterr().out
            heads = [line for line in shown.splitlines() if line.startswith("orders-")]
            assert [int(line.split("@")[1].split(" ")[0]) for line in heads] == offsets
        assert invoke(["dlq", "show", "--json", "--last", "3"]) == 0
        assert [json.loads(line)["offset"] for line in capsys.readouterr().out.splitlines()] == [2, 3, 4]

    def test_one_that_is_not_there_is_a_failure(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write_dlq(folder / FILE, [letter(0)])
        assert invoke(["dlq", "show", "--offset", "orders:0:1"]) == 1
        assert capsys.readouterr().err == "no such dead letter\n"


class TestRedriveCommand:
    def test_without_a_terminal_it_wants_yes_and_touches_nothing(self, folder: Path) -> None:
        write_dlq(folder / FILE, letters_of(3))
        done = kc(folder, "dlq", "redrive", "--bootstrap-server", "127.0.0.1:1")
        assert done.returncode == 2
        assert "expected --yes, or --dry-run, where there is no terminal to ask at" in done.stderr
        assert [path.name for path in folder.iterdir()] == [FILE]

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (["--through-processor", "--to-topic", "t", "--yes"], "--through-processor sends nothing to Kafka"),
            (["--to-topic", " ", "--yes"], "--to-topic: expected the name of a topic"),
            (["--yes"], "--bootstrap-server: missing"), (["--through-processor", "--yes"], "--processor: missing"),
            (["--yes", "--max-rate", "0", "--bootstrap-server", "b:1"], "--max-rate"),
            (["--through-processor", "--yes", "--processor", "nothing:here"], "no module named 'nothing'"),
            (["--yes", "--bootstrap-server", "b:1", "a_20261122_hour_14.csv", "b_20261122_hour_14.csv"], "files of one dlq_path"),
            (["--yes", "--bootstrap-server", "b:1", "-X", f"security.protocol={SECRET}"], "security.protocol"),
        ],
    )  # fmt: skip
    def test_what_makes_no_sense_is_a_usage_error(
        self, folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
    ) -> None:
        write_dlq(folder / FILE, letters_of(3))
        assert invoke(["dlq", "redrive", *arguments]) == 2
        shown = capsys.readouterr()
        assert told in shown.err
        assert SECRET not in shown.err + shown.out

    def test_a_dry_run_shows_what_would_be_done_without_a_broker(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write_dlq(folder / FILE, [*letters_of(20), *letters_of(2), letter(1, topic="other", key=b"mine")])
        assert invoke(["dlq", "redrive", "--dry-run", "--bootstrap-server", "127.0.0.1:1", "--max-rate", "2"]) == 0
        assert capsys.readouterr().out.splitlines() == [
            "21 dead letters to redrive, 2 redriven already or recorded twice:", "  orders → orders: 20", "  other → other: 1",
            "  at 2 a second: 10 s or more", "  journal: dlq.csv.redriven",
        ]  # fmt: skip
        assert invoke(["dlq", "redrive", "--dry-run", "--bootstrap-server", "b:1", "--key", "mine", "--to-topic", "retry"]) == 0
        assert capsys.readouterr().out.splitlines()[:2] == ["1 dead letter to redrive:", "  other → retry: 1"]
        assert invoke(["dlq", "redrive", "--yes", "--bootstrap-server", "b:1", "--topic", "third"]) == 0
        assert capsys.readouterr().out == "nothing to redrive\n"
        assert not (folder / "dlq.csv.redriven").exists()

    def test_it_sends_the_bytes_that_were_there_once(
        self, folder: Path, kafka: Kafka, capsys: pytest.CaptureFixture[str]
    ) -> None:
        topic = kafka.create_topic(partitions=3)
        letters = letters_of(44, topic=topic)
        kafka.produce(topic, [b"before"] * 3)
        write_dlq(folder / FILE, letters)
        arguments = ["dlq", "redrive", "--yes", "--bootstrap-server", kafka.bootstrap, "-X", f"sasl.password={SECRET}"]

        assert invoke(arguments) == 0
        assert "44 redriven, 0 failed" in capsys.readouterr().out
        assert invoke(arguments) == 0
        shown = capsys.readouterr()
        assert "nothing to redrive (44 redriven already" in shown.out

        messages = [message for message in kafka.read(topic, 47) if message.value() != b"before"]
        assert Counter((m.key(), m.value(), tuple(m.headers() or ()), m.partition()) for m in messages) == Counter(
            (each.key, each.value, each.headers, each.partition) for each in letters
        )
        assert len(read_done("dlq.csv.redriven")) == 44
        assert SECRET not in shown.err

    def test_no_broker_is_a_line_and_nothing_is_lost(
        self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("kafka_consumer.redrive_kafka.OPEN_SECONDS", 0.5)
        write_dlq(folder / FILE, letters_of(3))
        options = ["--bootstrap-server", "127.0.0.1:1", "-X", f"sasl.password={SECRET}"]
        assert invoke(["dlq", "redrive", "--yes", *options]) == 1
        shown = capsys.readouterr()
        assert "no transaction can be begun" in shown.err
        assert "Connection refused" in shown.err
        assert "0 redriven, 0 failed" in shown.out
        assert SECRET not in shown.err
        with Journal("dlq.csv.redriven") as journal:
            assert (journal.done, journal.in_doubt) == (set(), None)

    def test_a_second_one_at_the_same_time_is_refused(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write_dlq(folder / FILE, letters_of(3))
        with Journal("dlq.csv.redriven"):
            assert invoke(["dlq", "redrive", "--yes", "--bootstrap-server", "127.0.0.1:1"]) == 2
        assert "another redrive of these dead letters is running" in capsys.readouterr().err

    @pytest.mark.parametrize(("answer", "sent"), [(b"n\n", False), (b"y\n", True)])
    def test_on_a_terminal_it_asks(self, folder: Path, kafka: Kafka, answer: bytes, sent: bool) -> None:
        topic = kafka.create_topic(partitions=3)
        kafka.produce(topic, [b"before"])
        write_dlq(folder / FILE, letters_of(3, topic=topic))
        controller, terminal = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, "-m", "kafka_consumer", "dlq", "redrive", "--bootstrap-server", kafka.bootstrap], cwd=folder,
            env=environment() | {"TERM": "xterm"}, stdin=terminal, stdout=terminal, stderr=terminal,
        )  # fmt: skip
        os.close(terminal)
        shown = b""
        try:
            deadline = time.monotonic() + 60
            asked = False
            while time.monotonic() < deadline:
                if not select.select([controller], [], [], 0.1)[0]:
                    continue
                try:
                    data = os.read(controller, 65536)
                except OSError:  # the terminal's other end is closed
                    break
                shown += data
                if not asked and b"Do it? [y/N]" in shown:
                    asked = True
                    os.write(controller, answer)
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()
            os.close(controller)
        assert b"3 dead letters to redrive" in shown
        assert (b"3 redriven, 0 failed" in shown) == sent
        assert (b"nothing was done" in shown) == (not sent)

    def test_through_the_processor_what_fails_again_stays_and_the_rest_is_done_once(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / "handler_of_dlq.py").write_text(
            "def handle(value):\n    with open('seen', 'ab') as f:\n        f.write(repr(value).encode() + b'\\n')\n"
            "    if value == b'bad':\n        raise KeyError('still bad')\n"
        )
        letters = [letter(number, value=b"v%d" % number) for number in range(600)]
        write_dlq(folder / FILE, [*letters, letter(700, value=b"bad"), letter(701, value=b"\xff"), letter(702, value=None)])
        arguments = ["dlq", "redrive", "--through-processor", "--yes", "--processor", "handler_of_dlq:handle", "--workers", "4"]

        assert invoke(arguments) == 1
        shown = capsys.readouterr()
        assert "601 redriven, 2 failed" in shown.out
        assert f"orders-0@700 ({FILE}:" in shown.err
        assert "KeyError: 'still bad'" in shown.err
        assert "orders-0@701" in shown.err
        assert "UnicodeDecodeError" in shown.err
        assert len(read_rows("dlq.csv")) == 603, "nothing is written to the dead letters again"

        assert invoke([*arguments, "--value-encoding", "binary"]) == 1
        assert "1 redriven, 1 failed" in capsys.readouterr().out
        seen = Counter((folder / "seen").read_bytes().splitlines())
        assert seen[b"b'bad'"] == 2
        assert set(seen.values()) == {1, 2}
        assert len(seen) == 603

    def test_through_the_processor_leaves_out_what_may_be_in_kafka(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / "handler_in_doubt.py").write_text("def handle(value):\n    print('handled', value.decode())\n")
        write_dlq(folder / FILE, [letter(1, value=b"one"), letter(2, value=b"two")])
        (doubtful,) = find("dlq.csv", [("orders", 0, 1)]).values()
        with Journal("dlq.csv.redriven") as journal:
            journal.begin("cluster", "orders", [doubtful.digest()])
        assert invoke(["dlq", "redrive", "--through-processor", "--yes", "--processor", "handler_in_doubt:handle"]) == 0
        shown = capsys.readouterr()
        assert "handled two" in shown.out
        assert "handled one" not in shown.out
        assert "batch 1 of an interrupted redrive (1 dead letters) was left out" in shown.err


class TestReplayBackup:
    def processor(self, folder: Path, name: str, body: str) -> list[str]:
        (folder / f"{name}.py").write_text(f"import time\n\ndef handle(value):\n    {body}\n")
        return ["replay-backup", "--processor", f"{name}:handle", "--dlq-path", str(folder / "failed.csv")]

    def test_every_byte_in_the_order_of_the_files(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        letters = letters_of(300)
        first = write_backup(folder / "backup_20261122_hour_13.csv.gz", letters[:200])
        second = write_backup(folder / "backup_20261122_hour_14.csv", letters[200:])
        command = self.processor(folder, "keeps_all", NOTE)

        assert invoke([*command, "--workers", "1", "--value-encoding", "binary", first, second]) == 0

        seen = (folder / "seen").read_bytes().splitlines()
        assert seen == [repr(each.value).encode() for each in letters]
        assert "300 processed, 0 failed" in capsys.readouterr().out

    def test_what_fails_is_in_the_dead_letters_whole(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        letters = [letter(number, value=b"%d" % number, headers=(("h", b"\xff"),)) for number in range(100)]
        path = write_backup(folder / "backup_20261122_hour_13.csv", letters)
        command = self.processor(folder, "fails_some", "if value.endswith(b'7'): raise KeyError('seven')")

        assert invoke([*command, path]) == 1

        shown = capsys.readouterr()
        assert "90 processed, 10 failed" in shown.out
        rows = read_rows(folder / "failed.csv")
        assert sorted(row["value"] for row in rows) == sorted(str(number) for number in range(7, 100, 10))
        assert {(row["error_type"], row["headers"], row["attempts"]) for row in rows} == {("KeyError", '[["h", "/w=="]]', "1")}
        assert invoke([*command, *map(str, folder.glob("failed_*.csv"))]) == 1, "dead letters are taken as well"
        assert "0 processed, 10 failed" in capsys.readouterr().out

    def test_retries_and_order_are_those_of_a_consumer(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        letters = [letter(number, key=b"%d" % (number % 3), value=b"%d" % number) for number in range(60)]
        path = write_backup(folder / "backup_20261122_hour_13.csv", letters)
        (folder / "in_order.py").write_text(
            "import threading\nfailed = set()\nseen = []\nlock = threading.Lock()\n"
            "def handle(value):\n"
            "    with lock:\n"
            "        if value.endswith(b'5') and value not in failed:\n"
            "            failed.add(value)\n            raise ValueError('once')\n"
            "        seen.append(int(value))\n"
        )
        command = ["replay-backup", "--processor", "in_order:handle", "--dlq-path", str(folder / "failed.csv")]
        assert invoke([*command, "--ordering", "key", "--max-attempts", "2", "--retry-backoff", "0.01", path]) == 0
        assert "60 processed, 0 failed" in capsys.readouterr().out
        seen = sys.modules["in_order"].seen
        for key in range(3):
            assert [number for number in seen if number % 3 == key] == list(range(key, 60, 3))

    def test_a_rate_is_kept(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = write_backup(folder / "backup_20261122_hour_13.csv", [letter(number) for number in range(16)])
        began = time.monotonic()
        assert invoke([*self.processor(folder, "takes_all", "pass"), "--max-rate", "50", path]) == 0
        assert time.monotonic() - began >= 0.28
        assert "16 processed, 0 failed" in capsys.readouterr().out

    def test_a_full_queue_is_waited_for(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "kc.toml").write_text("queue_size = 10\n")
        path = write_backup(folder / "backup_20261122_hour_13.csv", [letter(number) for number in range(60)])
        assert invoke([*self.processor(folder, "sluggish", "time.sleep(0.005)"), "--workers", "2", path]) == 0
        assert "60 processed, 0 failed" in capsys.readouterr().out

    def test_worker_processes_do_it_too(self, folder: Path) -> None:
        path = write_backup(folder / "backup_20261122_hour_13.csv", [letter(number) for number in range(20)])
        command = self.processor(folder, "in_processes", "if value.endswith(b'7}'): raise KeyError(value)")
        done = kc(folder, *command, "--executor", "process", "--workers", "2", path)
        assert done.returncode == 1, done.stderr
        assert "18 processed, 2 failed" in done.stdout

    def test_a_damaged_file_is_a_failure_after_all_that_can_be_read(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = Path(write_backup(folder / "backup_20261122_hour_13.csv", [letter(number) for number in range(3)]))
        path.write_bytes(path.read_bytes() + b"damage\r\n")
        assert invoke([*self.processor(folder, "accepts", "pass"), str(path)]) == 1
        shown = capsys.readouterr()
        assert "3 processed, 0 failed, 1 rows unreadable" in shown.out
        assert invoke([*self.processor(folder, "accepts", "pass"), str(folder / "none.csv")]) == 1
        assert "none.csv: No such file or directory" in capsys.readouterr().err

    def test_the_files_of_a_running_consumer_are_left_alone(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = write_backup(folder / "backup_20261122_hour_13.csv", [letter()])
        command = self.processor(folder, "harmless", "pass")
        from kafka_consumer.file_lock import FileLocks

        locks = FileLocks([str(folder / "failed.csv")])
        locks.acquire()
        try:
            assert invoke([*command, path]) == 2
        finally:
            locks.release()
        assert "is in use by another consumer" in capsys.readouterr().err

    def test_a_full_disk_for_the_dead_letters_ends_it(
        self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write_backup(folder / "backup_20261122_hour_13.csv", [letter(number) for number in range(50)])

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("kafka_consumer.csv_writers.DeadLetterWriter.written", full)
        assert invoke([*self.processor(folder, "always_fails", "raise ValueError"), path]) == 1
        assert "the dead-letter file failed: [Errno 28] No space left on device" in capsys.readouterr().err

    def test_a_signal_ends_it_after_what_is_at_hand(self, folder: Path) -> None:
        path = write_backup(folder / "backup_20261122_hour_13.csv", [letter(number) for number in range(2000)])
        command = self.processor(folder, "slow_one", "time.sleep(0.01); __import__('os').write(SEEN, b'x')")
        source = folder / "slow_one.py"
        source.write_text(f"import os\nSEEN = os.open('seen', os.O_CREAT | os.O_WRONLY | os.O_APPEND)\n{source.read_text()}")
        process = subprocess.Popen(
            [sys.executable, "-m", "kafka_consumer", *command, "--workers", "2", path], cwd=folder, env=environment(),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        seen = folder / "seen"
        try:
            eventually(lambda: seen.exists() and seen.stat().st_size > 10, 30, what="work")
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 1, err
        assert "stopped by a signal before the end" in out
        assert seen.stat().st_size < 2000
        assert out.startswith(f"{seen.stat().st_size:,} processed")


class TestInit:
    def test_what_it_writes_is_sound_and_runs(self, folder: Path, kafka: Kafka, capsys: pytest.CaptureFixture[str]) -> None:
        assert invoke(["init", "new"]) == 0
        shown = capsys.readouterr().out
        assert shown.splitlines()[-2:] == ["  cd new && kc check", "  cd new && kc --headless"]
        topic = kafka.create_topic(partitions=1)
        kafka.produce(topic, [b'{"id": 7}'] * 5 + [b"no json"])
        config = folder / "new" / "kc.toml"
        config.write_text(config.read_text().replace("localhost:9092", kafka.bootstrap).replace('"orders"', f'"{topic}"'))

        checked = kc(folder / "new", "check")
        assert (checked.returncode, checked.stderr) == (0, "")
        ran = kc(folder / "new", "--headless", "--from", "earliest", "--to", "latest")
        assert ran.returncode == 0, ran.stderr
        assert ran.stderr.count("order 7") == 5
        assert "5 processed, 1 failed (1 dead letters written)" in ran.stderr
        assert kc(folder / "new", "dlq", "show").stdout.count("no json") == 1

    def test_nothing_that_exists_is_overwritten(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "processor.py").write_text("mine")
        assert invoke(["init"]) == 0
        shown = capsys.readouterr()
        assert "written: kc.toml" in shown.out
        assert "processor.py exists: left as it is" in shown.err
        assert (folder / "processor.py").read_text() == "mine"
        before = (folder / "kc.toml").read_text()
        assert invoke(["init"]) == 2
        assert (folder / "kc.toml").read_text() == before
        assert capsys.readouterr().out == ""
        (folder / "file").touch()
        assert invoke(["init", "file"]) == 2
        assert invoke(["init", "file/below"]) == 2

    def test_every_option_stands_in_it_with_its_default_and_all_examples_are_sound(self) -> None:
        text = config_text()
        for key, setting in SETTINGS.items():
            if key not in ("demo", "demo_messages", "kafka_options"):
                assert f"{setting.name} = " in text, f"{key} is missing"
                assert setting.help.split()[0] in text
        live = tomllib.loads(text)
        assert live == {"bootstrap-server": "localhost:9092", "topic": "orders", "group": "orders-consumer",
                        "processor": "processor:process", "kafka": {}}  # fmt: skip
        uncommented = []
        for line in text.splitlines():
            name = line.removeprefix("# ").partition(" = ")[0].strip('"')
            known = {setting.name for setting in SETTINGS.values()} | {"security.protocol", "sasl.mechanism", "auto.offset.reset"}
            uncommented.append(line.removeprefix("# ") if name in known else line)
        values = tomllib.loads("\n".join(uncommented))
        assert set(values) >= {setting.name for key, setting in SETTINGS.items() if key not in ("demo", "demo_messages")}

    def test_with_every_default_live_nothing_changes(self, folder: Path) -> None:
        lines = []
        for line in config_text().splitlines():
            name = line.removeprefix("# ").partition(" = ")[0]
            is_default = name in {setting.name for setting in SETTINGS.values()} and "an example;" not in line
            lines.append(line.removeprefix("# ") if is_default else line)
        (folder / "kc.toml").write_text("\n".join(lines))
        loaded = load_settings({}, environ={})
        assert loaded.problems == ()
        for key, setting in SETTINGS.items():
            if setting.default is not None and key not in ("bootstrap_servers", "topic", "group_id", "processor_callable"):
                assert loaded[key] == setting.default, key


class TestTheConsolesRedrive:
    """``redrive(records, per_second)`` of a consumer, over the command thread of the control socket."""

    def ask(self, consumer: Any, **args: Any) -> tuple[Status, str]:
        answers: list[tuple[Status, str]] = []
        thread: CommandThread[None] = CommandThread(consumer, lambda _, status, reason: answers.append((status, reason)))
        line = json.dumps({"id": 1, "command": "redrive", "args": args}).encode()
        thread.carry_out(Order(None, Peer(0, 1), read_command(line), time.monotonic() + 60))
        return answers[0]

    def test_the_letters_named_are_sent_once(self, folder: Path, kafka: Kafka) -> None:
        topic = kafka.create_topic(partitions=3)
        kafka.produce(topic, [b"good", b"bad"], partition=0)
        done: list[bytes] = []
        broken = threading.Event()
        broken.set()

        def work(value: bytes) -> None:
            if value == b"bad" and broken.is_set():
                raise ValueError("not yet")
            done.append(value)

        config = make_config(folder, bootstrap_servers=kafka.bootstrap, topic=topic, group_id=topic, processor_callable=work,
                             kafka_options={"auto.offset.reset": "earliest"})  # fmt: skip
        consumer = KafkaConsumer(config)
        consumer.start()
        try:
            eventually(lambda: consumer.snapshot().totals.dlq_written == 1, 30, what="a dead letter")
            broken.clear()
            assert self.ask(consumer, records=[[topic, 0, 1]], per_second=100) == (Status.APPLIED, "1 sent")
            eventually(lambda: b"bad" in done, 30, what="the redriven message")
            assert self.ask(consumer, records=[[topic, 0, 1]]) == (Status.APPLIED, "0 sent, 1 had been sent before")
            status, reason = self.ask(consumer, records=[[topic, 0, 77]])
            assert status is Status.REFUSED
            assert f"0 sent, 1 failed ({topic}-0@77: it isn't in the dead-letter files (any more))" in reason
        finally:
            consumer.stop()
            assert consumer.join(30)
        assert done == [b"good", b"bad"]

    def test_a_long_one_goes_on_in_the_background_and_another_is_refused(
        self, folder: Path, kafka: Kafka, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("kafka_consumer.redrive_control.ANSWER_SECONDS", 0.2)
        topic = kafka.create_topic(partitions=3)
        kafka.produce(topic, [b"before"])
        letters = letters_of(40, topic=topic)
        write_dlq(folder / FILE, letters)
        stopping = threading.Event()
        redrives = Redrives(make_config(folder, bootstrap_servers=kafka.bootstrap), stopping)
        places = [(topic, each.partition, each.offset) for each in letters]
        assert redrives.begin(places, 10) == "it goes on; its end will be in the log"
        with pytest.raises(RedriveError, match="a redrive is running already"):
            redrives.begin(places, 10)
        eventually(lambda: len(read_done("dlq.csv.redriven")) > 0, 30, what="a first batch")
        stopping.set()
        eventually(lambda: _unlocked(redrives), 30, what="its end")
        assert 0 < len(read_done("dlq.csv.redriven")) < 40

    @pytest.mark.parametrize(
        ("places", "rate", "told"),
        [([], 1.0, "records: expected at least one"), ([("t", 0, 0)], 0, "per_second: expected None or a number above 0")],
    )
    def test_what_makes_no_sense_is_refused(self, folder: Path, places: list[Any], rate: float, told: str) -> None:
        with pytest.raises(ConfigError, match=told):
            Redrives(make_config(folder), threading.Event()).begin(places, rate)

    def test_the_latest_row_is_found_and_no_more_files_are_read_than_needed(self, folder: Path) -> None:
        (folder / "dlq_20261122_hour_12.csv").mkdir()  # reading it would fail
        write_dlq(folder / "dlq_20261122_hour_13.csv", [letter(1, value=b"old"), letter(2, value=b"two")])
        write_dlq(folder / FILE, [letter(1, value=b"newer"), letter(1, value=b"newest")])
        found = find(str(folder / "dlq.csv"), [("orders", 0, 1), ("orders", 0, 2)])
        assert {place[2]: message.value for place, message in found.items()} == {1: b"newest", 2: b"two"}


def _unlocked(redrives: Redrives) -> bool:
    if redrives._one.acquire(blocking=False):
        redrives._one.release()
        return True
    return False


def test_dlq_alone_shows_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["dlq"]) == 2
    shown = capsys.readouterr().err
    assert "\n  redrive  Send them to their topic again.\n" in shown


def test_the_help_names_the_commands() -> None:
    shown = CliRunner().invoke(cli, ["--help"]).output
    for name in ("dlq", "replay-backup", "init"):
        assert f"\n  {name}" in shown
    shown = CliRunner().invoke(cli, ["dlq", "redrive", "--help"]).output
    for option in ("--through-processor", "--to-topic", "--dry-run", "--yes", "--max-rate", "--since"):
        assert option in shown
