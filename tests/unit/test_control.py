"""The control socket's pieces: what is accepted as a command, what is said, who may connect, and a status in plain text."""

from __future__ import annotations

import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from kafka_consumer import __version__
from kafka_consumer.control_protocol import (
    COMMANDS,
    MAX_LINE_BYTES,
    Command,
    MalformedError,
    RefusedError,
    Status,
    error_line,
    hello_line,
    read_command,
    reply_line,
    snapshot_line,
)
from kafka_consumer.errors import ConfigError, FilesInUseError
from kafka_consumer.status import describe, health
from kafka_consumer.unix_socket import MAX_PATH_BYTES, Listener, Peer, accepted_path, peer_of
from tests.tui.fakes import dead_letter, make_snapshot, partition, worker
from tui.feed import COMMANDS as CONSOLE_COMMANDS


def line(command: object = "pause", args: object = None, identity: object = 1, **fields: Any) -> bytes:
    return json.dumps({"id": identity, "command": command, "args": {} if args is None else args, **fields}).encode()


def refusal(data: bytes) -> str:
    with pytest.raises(RefusedError) as caught:
        read_command(data)
    return str(caught.value)


class TestCommands:
    @pytest.mark.parametrize(
        ("command", "args", "read"),
        [
            ("stop", {}, {}),
            ("stop", {"reason": "deploy\x1b[2J"}, {"reason": "deploy\\x1b[2J"}),
            ("stop", {"reason": " "}, {"reason": None}),
            ("pause", {}, {}),
            ("pause", {"partitions": None}, {"partitions": None}),
            ("pause", {"partitions": [["orders", 0], ["orders", 7]]}, {"partitions": [("orders", 0), ("orders", 7)]}),
            ("resume", {"partitions": [{"topic": "orders", "partition": 7}]}, {"partitions": [("orders", 7)]}),
            ("set_dev_mode", {"enabled": True}, {"enabled": True}),
            ("set_workers", {"count": 1000}, {"count": 1000}),
            ("set_log_level", {"level": "debug"}, {"level": "DEBUG"}),
            ("set_rate_limit", {"per_second": 2}, {"per_second": 2.0}),
            ("set_rate_limit", {"per_second": None}, {"per_second": None}),
            ("redrive", {"records": [["orders", 0, 7]]}, {"records": [("orders", 0, 7)]}),
            ("redrive", {"records": [["o", 1, 0]], "per_second": 0.5}, {"records": [("o", 1, 0)], "per_second": 0.5}),
            ("redrive", {"records": [["o", 1, 0]], "per_second": None}, {"records": [("o", 1, 0)], "per_second": None}),
            ("subscribe", {"interval_seconds": 0}, {"interval_seconds": 0.0}),
            ("subscribe", {"interval_seconds": 0.1}, {"interval_seconds": 0.1}),
        ],
    )
    def test_a_sound_command_becomes_keyword_arguments(self, command: str, args: dict[str, Any], read: dict[str, Any]) -> None:
        assert read_command(line(command, args, "a-1", type="command")) == Command("a-1", command, read)

    def test_the_arguments_may_be_left_out(self) -> None:
        assert read_command(b'{"id": 7, "command": "pause"}') == Command(7, "pause", {})

    def test_fields_of_a_later_protocol_are_ignored(self) -> None:
        assert read_command(line("stop", who="olga", expires_seconds=3)) == Command(1, "stop", {}, 3.0)

    @pytest.mark.parametrize(
        ("data", "said"),
        [
            (b"garbage", "expected a line of JSON"), (b"\xff\xfe", "expected UTF-8"), (b"[1]", "expected a JSON object"),
            (b"[" * 60_000, "expected a line of JSON"), (b'{"id": NaN}', "expected a line of JSON"), (b"{}", "expected an id"),
            (b'{"id": true, "command": "stop"}', "expected an id"), (b'{"id": 1.5, "command": "stop"}', "expected an id"),
            (b'{"id": {}, "command": "stop"}', "expected an id"), (line(identity="x" * 201), "expected an id"),
        ],
    )  # fmt: skip
    def test_what_is_no_command_is_malformed(self, data: bytes, said: str) -> None:
        with pytest.raises(MalformedError) as caught:
            read_command(data)
        assert str(caught.value).startswith(said)
        assert len(str(caught.value)) < 300

    @pytest.mark.parametrize(
        ("data", "said"),
        [
            (line("explode"), "command: expected one of stop, pause,"),
            (line(["stop"]), "command: expected one of"),
            (b'{"id": 1}', "command: expected one of"),
            (line("stop", type="snapshot"), "type: expected 'command', got 'snapshot'"),
            (line("seek", {"to": "earliest"}), "partitions: missing from args"),
            (line("seek", {"partitions": None, "to": 5}), "partitions: expected a list of [topic, partition], got null"),
            (
                line("seek", {"partitions": [["t", 0]], "to": -1}),
                "to: expected an offset, earliest, latest, an ISO time or -2h, got -1",
            ),
            (line("seek", {"partitions": [["t", 0]], "to": "t:0:5"}), "to: expected an offset"),
            (line("redrive"), "records: missing from args"),
            (line("redrive", {"records": []}), "records: expected a list of [topic, partition, offset], got []"),
            (line("redrive", {"records": [["orders", 0]]}), "records: expected [topic, partition, offset], got ['orders', 0]"),
            (line("redrive", {"records": [["orders", 0, True]]}), "records: expected [topic, partition, offset]"),
            (line("redrive", {"records": [["", 0, 1]]}), "records: expected [topic, partition, offset]"),
            (line("redrive", {"records": [["o", 0, -1]]}), "records: expected [topic, partition, offset]"),
            (line("redrive", {"records": [["o", 0, 1]], "per_second": 0}), "per_second: expected null or a number above 0"),
            (line("pause", [1]), "args: expected an object, got [1]"),
            (line("pause", {"partition": [["orders", 0]]}), "args: pause takes partitions, got 'partition'"),
            (line("pause", partitions=[["orders", 0]]), "partitions: expected within args"),
            (line("pause", {"partitions": []}), "partitions: expected null (all) or a list of [topic, partition], got []"),
            (line("pause", {"partitions": [["orders"]]}), "partitions: expected [topic, partition], got ['orders']"),
            (line("pause", {"partitions": [["orders", True]]}), "partitions: expected [topic, partition]"),
            (line("pause", {"partitions": [["orders", -1]]}), "partitions: expected [topic, partition]"),
            (line("pause", {"partitions": [{"topic": "o", "partition": 1, "x": 1}]}), "partitions: expected [topic, partition]"),
            (line("set_dev_mode"), "enabled: missing from args"),
            (line("set_dev_mode", {"enabled": 1}), "enabled: expected true or false, got 1"),
            (line("set_workers", {"count": 0}), "count: expected an integer from 1 to 1,000, got 0"),
            (line("set_workers", {"count": True}), "count: expected an integer"),
            (line("set_log_level", {"level": "LOUD"}), "level: expected one of DEBUG, INFO,"),
            (line("set_rate_limit", {"per_second": 0.5}), "per_second: expected null or a number from 1"),
            (b'{"id": 1, "command": "set_rate_limit", "args": {"per_second": 1e999}}', "per_second: expected null or"),
            (line("set_rate_limit", {"per_second": 10**400}), "per_second: expected null or"),
            (line("set_rate_limit", {"per_second": True}), "per_second: expected null or"),
            (line("stop", {"reason": 5}), "reason: expected a text, got 5"),
            (line("stop", expires_seconds=-1), "expires_seconds: expected from 0 to 86,400, got -1"),
            (line("subscribe", {"interval_seconds": 0.01}), "interval_seconds: expected 0 (none) or from 0.1 to"),
            (line("subscribe", {"interval_seconds": "1"}), "interval_seconds: expected 0 (none) or"),
        ],
    )
    def test_a_command_that_cannot_be_carried_out_is_refused_with_what_is_accepted(self, data: bytes, said: str) -> None:
        assert refusal(data).startswith(said)

    def test_a_refusal_of_something_huge_and_hostile_is_short_and_clean(self) -> None:
        said = refusal(line("pause", {"partitions": "\x1b]0;x\x07" * 5000}))
        assert len(said) < 300
        assert said.isprintable()

    def test_a_command_in_the_log_is_one_clean_line(self) -> None:
        shown = str(read_command(line("pause", {"partitions": [["a\n\x1b[2J", 0]] * 100})))
        assert shown.isprintable()
        assert len(shown) <= 300


class TestLines:
    def test_the_greeting_says_what_is_spoken_and_answered(self) -> None:
        told = json.loads(hello_line())
        assert told == {
            "type": "hello", "protocol": 1, "version": __version__, "pid": os.getpid(), "role": "operator",
            "commands": list(COMMANDS),
        }  # fmt: skip
        assert set(COMMANDS) == {*CONSOLE_COMMANDS, "subscribe"}

    def test_a_snapshot_travels_as_it_is(self) -> None:
        snapshot = make_snapshot(dlq_tail=(dead_letter(1),), partitions=(partition(0),), workers=(worker(1),))
        data = snapshot_line(snapshot)
        assert data.startswith(b'{"type":"snapshot","snapshot":{')
        assert data.count(b"\n") == 1
        assert json.loads(data)["snapshot"] == json.loads(snapshot.to_json())

    def test_replies_and_errors_are_one_clean_line(self) -> None:
        assert json.loads(reply_line("a", Status.LOST_PARTITION, "gone\n")) == {
            "type": "reply", "id": "a", "status": "lost_partition", "reason": "gone⏎"
        }
        assert json.loads(error_line("\x1b" + "x" * 10_000))["error"].startswith("\\x1bxxx")
        assert len(error_line("x" * 10_000)) < 1000 < MAX_LINE_BYTES


class TestListener:
    def test_its_socket_and_its_folder_are_the_owners_alone_whatever_the_umask(self, tmp_path: Path) -> None:
        before = os.umask(0)
        try:
            listener = Listener(str(tmp_path / "run" / "kc.sock"))
        finally:
            os.umask(before)
        assert stat.S_IMODE(os.stat(tmp_path / "run").st_mode) == 0o700
        assert stat.S_IMODE(os.stat(tmp_path / "run" / "kc.sock").st_mode) == 0o600
        listener.close()
        assert not (tmp_path / "run" / "kc.sock").exists()

    def test_a_folder_that_is_there_is_left_as_it_is(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o755)
        Listener(str(tmp_path / "kc.sock")).close()
        assert stat.S_IMODE(os.stat(tmp_path).st_mode) == 0o755

    def test_a_relative_path_will_do(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        listener = Listener("kc.sock")
        assert (tmp_path / "kc.sock").is_socket()
        listener.close()

    def test_what_a_crash_left_behind_is_taken_over(self, tmp_path: Path) -> None:
        path = str(tmp_path / "kc.sock")
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
            dead.listen()
        listener = Listener(path)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            assert peer_of(client) == Peer(os.geteuid(), os.getpid())
        listener.close()

    def test_a_path_with_a_listener_is_refused_and_the_listener_goes_on(self, tmp_path: Path) -> None:
        path = str(tmp_path / "kc.sock")
        first = Listener(path)
        with pytest.raises(FilesInUseError, match=r"kc\.sock is in use by another consumer: stop it"):
            Listener(path)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
        first.close()

    def test_another_programs_listener_is_refused_too(self, tmp_path: Path) -> None:
        path = str(tmp_path / "kc.sock")
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(path)
            other.listen()
            with pytest.raises(FilesInUseError, match="is in use by another process"):
                Listener(path)
            assert os.path.exists(path)

    def test_a_listener_too_busy_to_answer_is_a_listener(self, tmp_path: Path) -> None:
        path = str(tmp_path / "kc.sock")
        with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as two:
            other.bind(path)
            other.listen(0)
            for client in (one, two):
                client.setblocking(False)
                client.connect_ex(path)
            with pytest.raises(FilesInUseError):
                Listener(path)

    @pytest.mark.parametrize("kind", ["file", "folder", "link"])
    def test_what_is_no_socket_is_refused_and_left_as_it_is(self, kind: str, tmp_path: Path) -> None:
        path, content = tmp_path / "kc.sock", tmp_path / "content"
        content.write_text("precious")
        if kind == "file":
            path.write_text("precious")
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to(content)
        with pytest.raises(ConfigError, match="there is something else by that name") as caught:
            Listener(str(path))
        assert "\n" not in str(caught.value)
        assert path.is_dir() if kind == "folder" else path.read_text() == "precious"

    def test_a_path_that_cannot_be_used_is_told_in_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ConfigError, match=r"file/kc\.sock: can't listen there: File exists$"):
            Listener(str(tmp_path / "file" / "kc.sock"))

    @pytest.mark.parametrize("path", ["", "\0abstract", "x" * (MAX_PATH_BYTES + 1), "ü" * 60])
    def test_a_path_that_no_socket_can_have_is_refused(self, path: str) -> None:
        assert accepted_path(path) == f"a path of 1 to {MAX_PATH_BYTES} bytes"
        with pytest.raises(ConfigError) as caught:
            Listener(path)
        said = str(caught.value)
        assert said.startswith(f"socket: expected a path of 1 to {MAX_PATH_BYTES} bytes, got {len(path.encode())} bytes")
        assert said.isprintable()

    def test_the_longest_path_can_be_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        path = "x" * MAX_PATH_BYTES
        assert accepted_path(path) is None
        Listener(path).close()

    def test_a_socket_that_has_become_somebody_elses_is_not_removed(self, tmp_path: Path) -> None:
        path = tmp_path / "kc.sock"
        listener = Listener(str(path))
        path.rename(tmp_path / "moved")
        path.write_text("another's")
        listener.close()
        assert path.read_text() == "another's"

    def test_the_same_user_and_root_are_allowed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        assert [Peer(uid, 1).allowed for uid in (0, 1000, 1001, 65534)] == [True, True, False, False]
        assert str(Peer(1000, 12)) == "uid 1000, pid 12"
        assert str(Peer(1000, None)) == "uid 1000"


class TestPlainText:
    def test_the_status_has_health_lag_workers_queues_totals_and_dead_letters(self) -> None:
        text = describe(make_snapshot(partitions=(partition(0),), workers=(worker(1),), dlq_tail=(dead_letter(1),)).to_dict())
        starts = [text_line.split()[0] for text_line in text.splitlines()]
        for word in ("health", "phase", "rates", "latency", "workers", "queues", "totals", "DLQ", "partitions", "TOPIC"):
            assert word in starts
        assert "OK" in text.splitlines()[1]

    def test_every_line_is_printable_whatever_the_snapshot_holds(self) -> None:
        nasty = make_snapshot(topic="a\x1b[2J", group_id="b\u202e", stop_reason="c\r\n", phase="d\x07").to_dict()
        assert all(text_line.isprintable() for text_line in describe(nasty).splitlines())

    def test_unknown_figures_are_dashes_and_lag_says_how_much_is_unknown(self) -> None:
        views = (partition(0, lag=None, high_watermark=None, committed=None, eta_seconds=None), partition(1, lag=1200))
        text = describe(make_snapshot(partitions=views).to_dict())
        assert "partitions  2, lag 1,200 (1 unknown)" in text
        assert "none assigned" in describe(make_snapshot(partitions=()).to_dict())

    def test_health_names_the_worst(self) -> None:
        stuck = worker(11, state="stuck", busy_seconds=90.0)
        assert health(make_snapshot(workers=(stuck,), paused=True).to_dict()) == "STUCK: 1 worker, the longest for 1 min 30 s"
        assert health(make_snapshot(workers=(), paused=True).to_dict()) == "PAUSED: by the operator"
        broken = make_snapshot(workers=(), paused=True, pause_reason="150 of the last 200 messages failed\x1b[2J")
        assert health(broken.to_dict()) == "PAUSED: 150 of the last 200 messages failed\\x1b[2J"
        assert health(make_snapshot(workers=(stuck,), phase="draining").to_dict()) == "DRAINING"
        failing = make_snapshot(workers=()).to_dict()
        failing["rates"] |= {"processed": 10.0, "failed": 5.0}
        assert health(failing) == "FAILING: 5.0 messages a second fail"
