"""The control socket of a running consumer: real sockets and threads, a whole consumer on the fake broker behind them."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kafka_consumer import control, polling_thread, status, unix_socket
from kafka_consumer.cli import cli
from kafka_consumer.control import MAX_CLIENTS, ControlServer, serve
from kafka_consumer.errors import ConfigError, FilesInUseError, RequestTimeoutError
from kafka_consumer.snapshot import Snapshot
from kafka_consumer.unix_socket import Peer
from tests.helpers import PATIENCE_SECONDS, background, eventually
from tests.integration.conftest import TOPIC, Gate, Life
from tests.tui.fakes import healthy, large
from tui.commands import CommandState
from tui.socket_feed import SocketFeed, can_connect

ROOT = Path(__file__).resolve().parents[2]
INTERVAL = 0.15


class Wire:
    """A client that speaks the protocol by hand."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE_SECONDS)
        self.socket.connect(path)
        self._file = self.socket.makefile("rb")
        self._numbers = iter(range(1, 1000))

    def read(self) -> dict[str, Any] | None:
        """Return the next line; None at the end."""
        line = self._file.readline()
        found: dict[str, Any] | None = json.loads(line) if line else None
        return found

    def wait(self, kind: str) -> dict[str, Any]:
        """Return the next line of that type."""
        while (message := self.read()) is not None:
            if message["type"] == kind:
                return message
        raise AssertionError(f"expected a line of type {kind}, got the end of the connection")

    def snapshot(self, accept: Callable[[dict[str, Any]], Any] = lambda _: True) -> dict[str, Any]:
        """Return the next snapshot that is acceptable."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            found: dict[str, Any] = self.wait("snapshot")["snapshot"]
            if accept(found):
                return found
        raise AssertionError("expected an acceptable snapshot")

    def write(self, data: bytes) -> None:
        self.socket.sendall(data)

    def give(self, command: str, expires_seconds: float | None = None, **args: Any) -> int:
        """Send a command; return its id."""
        identity = next(self._numbers)
        message = {"id": identity, "command": command, "args": args}
        if expires_seconds is not None:
            message["expires_seconds"] = expires_seconds
        self.write(json.dumps(message).encode() + b"\n")
        return identity

    def final(self, identity: int) -> tuple[str, str]:
        """Return how a command ended, and why."""
        while True:
            reply = self.wait("reply")
            if reply["id"] == identity and reply["status"] != "accepted":
                return reply["status"], reply["reason"]

    def ask(self, command: str, **args: Any) -> tuple[str, str]:
        """Send a command, see it accepted, and return how it ended."""
        identity = self.give(command, **args)
        assert self.wait("reply") == {"type": "reply", "id": identity, "status": "accepted", "reason": ""}
        return self.final(identity)

    def at_the_end(self) -> bool:
        """Whether nothing but snapshots comes until the connection ends."""
        while (message := self.read()) is not None:
            if message["type"] != "snapshot":
                return False
        return True

    def close(self) -> None:
        self._file.close()
        self.socket.close()


class Puppet:
    """A consumer that does what a test says: ``answer`` is called by each command; ``asked`` are the commands."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.picture = snapshot
        self.asked: list[tuple[str, Any]] = []
        self.built = 0
        self.failing = False
        self.answer: Callable[[str], None] = lambda _: None

    def snapshot(self) -> Snapshot:
        self.built += 1
        if self.failing:
            raise RuntimeError("hunter2")
        return self.picture

    def _ask(self, command: str, value: Any) -> None:
        self.asked.append((command, value))
        self.answer(command)

    def stop(self, reason: str) -> None:
        self._ask("stop", reason)

    def pause(self, partitions: Iterable[tuple[str, int]] | None = None) -> None:
        self._ask("pause", partitions)

    def resume(self, partitions: Iterable[tuple[str, int]] | None = None) -> None:
        self._ask("resume", partitions)

    def set_dev_mode(self, enabled: bool) -> None:
        self._ask("set_dev_mode", enabled)

    def set_workers(self, count: int) -> None:
        self._ask("set_workers", count)

    def set_log_level(self, level: str) -> None:
        self._ask("set_log_level", level)

    def set_rate_limit(self, per_second: float | None) -> None:
        self._ask("set_rate_limit", per_second)

    def seek(self, partitions: Iterable[tuple[str, int]], to: int | str) -> None:
        self._ask("seek", [list(partitions), to])

    def redrive(self, records: Iterable[tuple[str, int, int]], per_second: float | None = None) -> str:
        self._ask("redrive", [list(records), per_second])
        return "done"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures come sooner than people need them."""
    monkeypatch.setattr(control, "INTERVAL_SECONDS", INTERVAL)
    monkeypatch.setattr(polling_thread, "WATERMARK_SECONDS", 0.1)
    monkeypatch.setattr(status, "WAKE_SECONDS", 0.1)
    monkeypatch.setattr(status, "WATCH_SECONDS", 0.1)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A path for a socket, short wherever the tests run."""
    monkeypatch.chdir(tmp_path)
    return "run/kc.sock"


@pytest.fixture
def connect(path: str) -> Iterator[Callable[[], Wire]]:
    """Connect clients; closed at the end."""
    wires: list[Wire] = []

    def connecting() -> Wire:
        wires.append(Wire(path))
        return wires[-1]

    yield connecting
    for wire in wires:
        wire.close()


@pytest.fixture
def life(live: Callable[..., Life], path: str) -> Iterator[Life]:
    """A consumer with three partitions, behind its socket."""
    found = live(kafka_options={"sasl.password": "hunter2"})
    found.wait_assigned(0, 1, 2)
    with serve(found.consumer, path):
        yield found


@pytest.fixture
def puppet(path: str) -> Iterator[Puppet]:
    """A puppet behind the socket."""
    found = Puppet(healthy())
    with serve(found, path):
        yield found


class TestSnapshots:
    def test_a_client_is_greeted_and_gets_a_snapshot_at_once_and_again(
        self, life: Life, connect: Callable[[], Wire], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(control, "INTERVAL_SECONDS", 3600.0)
        wire = connect()
        hello = wire.read()
        assert hello is not None
        assert (hello["type"], hello["protocol"], hello["pid"]) == ("hello", 1, os.getpid())
        first = wire.snapshot()
        assert (first["phase"], first["topic"], len(first["partitions"])) == ("running", TOPIC, 3)
        wire.give("subscribe", interval_seconds=0.1)
        assert [wire.snapshot()["sequence"] - first["sequence"] for _ in range(3)] == [1, 2, 3]

    def test_what_the_consumer_does_is_seen(self, life: Life, connect: Callable[[], Wire]) -> None:
        life.broker.produce_many(TOPIC, 0, [b"value"] * 20)
        wire = connect()
        seen = wire.snapshot(lambda s: s["totals"]["processed"] == 20 and s["partitions"][0]["committed"] == 20)
        assert seen["partitions"][0]["lag"] == 0

    def test_a_client_chooses_its_rate_and_may_want_none(self, puppet: Puppet, connect: Callable[[], Wire]) -> None:
        wire = connect()
        assert wire.final(wire.give("subscribe", interval_seconds=0.1)) == ("applied", "")
        started = time.monotonic()
        for _ in range(4):
            wire.snapshot()
        assert time.monotonic() - started > 0.15
        assert wire.final(wire.give("subscribe", interval_seconds=0)) == ("applied", "")
        built = puppet.built
        wire.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            wire.read()
        assert puppet.built == built

    def test_nothing_is_built_and_nobody_wakes_while_nobody_is_connected(self, path: str) -> None:
        puppet = Puppet(healthy())
        with serve(puppet, path) as server:
            eventually(server._selector.get_map)
            assert server._timeout() is None
            wire = Wire(path)
            wire.snapshot()
            wire.close()
            eventually(lambda: not server._clients)
            built = puppet.built
            assert server._timeout() is None
            time.sleep(0.3)  # longer than the interval of a client
            assert puppet.built == built

    def test_clients_that_are_due_share_a_snapshot(self, puppet: Puppet, connect: Callable[[], Wire]) -> None:
        wires = [connect() for _ in range(8)]
        for wire in wires:
            wire.snapshot()
        wires[0].snapshot()  # from here on all are due at the same moments
        built, started = puppet.built, time.monotonic()
        for _ in range(4):
            wires[-1].snapshot()
        assert puppet.built - built <= (time.monotonic() - started) / INTERVAL + 2

    def test_a_snapshot_that_cannot_be_made_is_told_and_the_next_one_comes(
        self, puppet: Puppet, connect: Callable[[], Wire], log: Callable[..., list[str]]
    ) -> None:
        puppet.failing = True
        wire = connect()
        error = wire.wait("error")["error"]
        assert error == "no snapshot can be made: RuntimeError; see the consumer's log"
        wire.wait("error")
        puppet.failing = False
        wire.snapshot()
        assert log().count("no snapshot can be made") == 1

    def test_no_value_of_the_kafka_options_is_sent(self, life: Life, connect: Callable[[], Wire]) -> None:
        wire = connect()
        hello, snapshot = wire.read(), wire.read()
        assert "hunter2" not in json.dumps([hello, snapshot])

    def test_one_that_only_listens_gets_snapshots_and_is_forgotten_when_it_leaves(self, path: str) -> None:
        with serve(Puppet(healthy()), path) as server:
            wire = Wire(path)
            wire.socket.shutdown(socket.SHUT_WR)
            assert wire.wait("hello")
            wire.snapshot()
            wire.snapshot()
            wire.close()
            eventually(lambda: not server._clients)

    def test_one_that_wants_nothing_any_more_is_let_go(self, puppet: Puppet, connect: Callable[[], Wire]) -> None:
        wire = connect()
        wire.final(wire.give("subscribe", interval_seconds=0))
        wire.give("pause")
        wire.socket.shutdown(socket.SHUT_WR)
        assert [wire.wait("reply")["status"] for _ in range(2)] == ["accepted", "applied"]
        assert wire.read() is None


class TestCommands:
    def test_pause_and_resume(self, life: Life, connect: Callable[[], Wire], log: Callable[..., list[str]]) -> None:
        wire = connect()
        wire.final(wire.give("subscribe", interval_seconds=0.1))
        assert wire.ask("pause") == ("applied", "")
        wire.snapshot(lambda s: s["paused"] and all(p["state"] == "paused" for p in s["partitions"]))
        eventually(lambda: life.client.paused == {(TOPIC, 0), (TOPIC, 1), (TOPIC, 2)})
        assert wire.ask("resume", partitions=[[TOPIC, 1], {"topic": TOPIC, "partition": 2}]) == ("applied", "")
        wire.snapshot(lambda s: [p["state"] for p in s["partitions"]] == ["paused", "running", "running"])
        assert wire.ask("resume") == ("applied", "")
        wire.snapshot(lambda s: [p["state"] for p in s["partitions"]] == ["running"] * 3)
        assert f"uid {os.geteuid()}, pid {os.getpid()} asks: pause" in log()

    def test_a_partition_that_is_not_assigned_is_lost_and_nothing_is_done(self, life: Life, connect: Callable[[], Wire]) -> None:
        wire = connect()
        said = wire.ask("pause", partitions=[[TOPIC, 0], [TOPIC, 9], ["other", 0]])
        assert said == ("lost_partition", f"not assigned to this consumer: other-0, {TOPIC}-9; nothing was done")
        assert [p["state"] for p in wire.snapshot()["partitions"]] == ["running"] * 3

    def test_everything_that_can_be_set(self, life: Life, connect: Callable[[], Wire]) -> None:
        wire = connect()
        for command, args in (
            ("set_dev_mode", {"enabled": True}), ("set_workers", {"count": 7}), ("set_rate_limit", {"per_second": 50}),
            ("set_log_level", {"level": "WARNING"}),
        ):
            assert wire.ask(command, **args) == ("applied", "")
        seen = wire.snapshot(lambda s: len(s["workers"]) == 7)
        assert (seen["dev_mode"], seen["log_level"]) == (True, "WARNING")
        poller = life.consumer._poller
        assert poller is not None
        assert poller.rate_limit == 50.0
        assert wire.ask("set_rate_limit", per_second=None) == ("applied", "")
        assert poller.rate_limit is None

    def test_stop_drains_and_the_last_snapshot_says_how_it_ended(
        self, live: Callable[..., Life], path: str, gate: Gate, connect: Callable[[], Wire]
    ) -> None:
        life = live(processor_callable=gate)
        life.broker.produce_many(TOPIC, 0, [b"value"] * 3)
        with serve(life.consumer, path):
            eventually(lambda: len(gate.begun) == 3)
            wire = connect()
            assert wire.ask("stop", reason="deploy") == ("applied", "")
            assert wire.snapshot(lambda s: s["phase"] == "draining")["stop_reason"] == "deploy"
            gate.open.set()
            assert life.wait_end() == 0
        wire.snapshot(lambda s: s["phase"] == "stopped")
        assert wire.at_the_end()
        assert life.committed() == 3
        assert not os.path.exists(path)

    def test_stop_without_a_reason_says_who(self, puppet: Puppet, connect: Callable[[], Wire]) -> None:
        connect().ask("stop")
        assert puppet.asked == [("stop", f"stopped through the control socket (uid {os.geteuid()}, pid {os.getpid()})")]

    def test_before_the_start_and_after_the_end_a_command_is_refused(
        self, live: Callable[..., Life], path: str, connect: Callable[[], Wire]
    ) -> None:
        life = live(start=False)
        with serve(life.consumer, path):
            wire = connect()
            assert wire.ask("set_workers", count=5) == ("refused", "the consumer is still starting")
            life.consumer.start()
            assert life.end() == 0
            assert wire.ask("set_workers", count=5) == ("refused", "the consumer has ended")

    def test_garbage_gets_an_error_and_the_connection_goes_on(self, life: Life, connect: Callable[[], Wire]) -> None:
        wire = connect()
        for garbage in (b"garbage\n", b"[]\n", b"\xff\xfe\n", b'{"command": "pause"}\n', b"\0\0\0\n"):
            wire.write(garbage)
            assert wire.wait("error")["error"].startswith("expected ")
        wire.write(b"\n  \r\n")
        wire.write(b'{"id": "a", "command": "explode"}\n{"id": "b", "command": "seek", "args": {}}\n')
        assert [(r["id"], r["status"]) for r in (wire.wait("reply"), wire.wait("reply"))] == [("a", "refused"), ("b", "refused")]
        wire.write(b'{"id": "c", "comm')
        wire.write(b'and": "pause"}\n')
        assert wire.wait("reply")["status"] == "accepted"
        assert wire.final("c") == ("applied", "")  # type: ignore[arg-type]

    @pytest.mark.parametrize("size", [70_000, 1_000_000])
    def test_an_endless_line_is_cut_off_and_its_client_dropped_and_no_other(
        self, size: int, life: Life, connect: Callable[[], Wire]
    ) -> None:
        other, wire = connect(), connect()
        try:
            wire.write(b"x" * size)
        except BrokenPipeError:
            assert size > 200_000
        assert wire.wait("error")["error"] == "expected lines of at most 65,536 bytes, got a longer one; closing"
        assert wire.read() is None
        assert other.ask("pause") == ("applied", "")

    def test_a_long_line_is_cut_off_though_it_ends(self, life: Life, connect: Callable[[], Wire]) -> None:
        wire = connect()
        wire.write(b'{"id": 1, "command": "pause"' + b" " * 65_536 + b"}\n" + b'{"id": 2, "command": "pause"}\n')
        assert wire.wait("error")
        assert wire.read() is None
        assert not life.consumer.snapshot().paused

    @pytest.mark.parametrize(
        ("error", "answer"),
        [
            (RequestTimeoutError("no answer from Kafka within 30 s"), ("expired", "no answer from Kafka within 30 s")),
            (ConfigError("worker_count: too odd"), ("refused", "worker_count: too odd")),
            (RuntimeError("hunter2"), ("refused", "unexpected RuntimeError; see the consumer's log")),
        ],
    )
    def test_what_the_consumer_raises_becomes_the_reply(
        self, error: Exception, answer: tuple[str, str], puppet: Puppet, connect: Callable[[], Wire]
    ) -> None:
        def fail(_command: str) -> None:
            raise error

        puppet.answer = fail
        assert connect().ask("set_workers", count=3) == answer

    def test_stop_overtakes_a_command_that_hangs_and_what_waits_too_long_expires(
        self, puppet: Puppet, connect: Callable[[], Wire]
    ) -> None:
        hanging, release = threading.Event(), threading.Event()

        def hang(command: str) -> None:
            if command == "pause":
                hanging.set()
                release.wait(PATIENCE_SECONDS)

        puppet.answer = hang
        wire = connect()
        paused = wire.give("pause")
        assert hanging.wait(PATIENCE_SECONDS)
        late = wire.give("resume", expires_seconds=0.01)
        patient = wire.give("set_workers", count=5)
        assert wire.final(wire.give("stop")) == ("applied", "")
        wire.snapshot()
        time.sleep(0.02)
        release.set()
        assert wire.final(paused) == ("applied", "")
        assert wire.final(late) == ("expired", "it expired before its turn came; nothing was done")
        assert wire.final(patient) == ("applied", "")
        assert [command for command, _ in puppet.asked] == ["pause", "stop", "set_workers"]

    def test_a_client_may_have_only_so_many_commands_waiting(self, puppet: Puppet, connect: Callable[[], Wire]) -> None:
        release = threading.Event()

        def hang(_command: str) -> None:
            release.wait(PATIENCE_SECONDS)

        puppet.answer = hang
        wire = connect()
        numbers = [wire.give("pause") for _ in range(control.MAX_WAITING_COMMANDS + 1)]
        assert wire.final(numbers[-1]) == ("refused", f"{control.MAX_WAITING_COMMANDS} commands are waiting already")
        release.set()
        assert wire.final(numbers[-2]) == ("applied", "")

    def test_a_command_outlives_its_client(self, puppet: Puppet, path: str) -> None:
        wire = Wire(path)
        wire.give("pause")
        wire.wait("reply")
        wire.close()
        eventually(lambda: ("pause", None) in puppet.asked)


class TestHardship:
    def test_a_client_that_does_not_read_gets_no_further_snapshots_and_is_dropped(self, path: str) -> None:
        puppet = Puppet(large())
        with ControlServer(puppet, path, stall_seconds=1.0).start() as server:
            wire = Wire(path)
            eventually(lambda: any(client.outgoing for client in list(server._clients)))
            time.sleep(0.3)  # the next snapshot would be due
            assert puppet.built == 1
            eventually(lambda: not server._clients)
            wire.close()

    def test_one_that_asks_and_never_reads_is_dropped_before_it_fills_the_memory(self, path: str) -> None:
        with serve(Puppet(large()), path) as server:
            wire = Wire(path)
            wire.socket.setblocking(False)
            data = b'{"id": "' + b"x" * 190 + b'", "command": "explode"}\n'

            def dropped() -> bool:
                try:
                    wire.socket.send(data * 200)
                except BlockingIOError:
                    return False
                except OSError:
                    return True
                return False

            eventually(dropped)
            eventually(lambda: not server._clients)
            wire.close()

    def test_a_slow_reader_gets_whole_snapshots(self, path: str) -> None:
        with serve(Puppet(large()), path):
            wire = Wire(path)
            time.sleep(0.2)
            assert len(wire.snapshot()["partitions"]) == 1000
            assert len(wire.snapshot()["workers"]) == 1000
            wire.close()

    def test_only_so_many_clients_are_let_in(self, puppet: Puppet, connect: Callable[[], Wire]) -> None:
        wires = [connect() for _ in range(MAX_CLIENTS)]
        for wire in wires:
            assert wire.wait("hello")
        assert connect().read() == {"type": "error", "error": f"refused: {MAX_CLIENTS} consoles are connected already"}
        wires[0].close()
        eventually(lambda: (connect().read() or {}).get("type") == "hello")

    def test_another_user_is_refused(
        self, puppet: Puppet, connect: Callable[[], Wire], monkeypatch: pytest.MonkeyPatch, log: Callable[..., list[str]]
    ) -> None:
        monkeypatch.setattr(unix_socket, "peer_of", lambda _: Peer(os.geteuid() + 1, 4121))
        wire = connect()
        assert wire.read() == {"type": "error", "error": "refused: this consumer belongs to another user"}
        assert wire.read() is None
        assert f"a console of another user (uid {os.geteuid() + 1}, pid 4121) was refused" in log()

    def test_a_second_consumer_on_the_same_socket_is_refused(
        self, puppet: Puppet, path: str, connect: Callable[[], Wire]
    ) -> None:
        with pytest.raises(FilesInUseError):
            serve(puppet, path)
        assert connect().wait("hello")

    def test_when_no_connection_can_be_accepted_it_tries_again_without_spinning(
        self, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(control, "RETRY_SECONDS", 0.1)
        with serve(Puppet(healthy()), path) as server:
            real = server._listener.socket
            calls: list[float] = []

            class Exhausted:
                def fileno(self) -> int:
                    return real.fileno()

                def accept(self) -> Any:
                    calls.append(time.monotonic())
                    if len(calls) < 4:
                        raise OSError(24, "Too many open files")
                    return real.accept()

                def close(self) -> None:
                    real.close()

            eventually(server._selector.get_map)
            monkeypatch.setattr(server._listener, "socket", Exhausted())
            wire = Wire(path)
            assert wire.wait("hello")
            assert len(calls) == 4
            assert min(later - sooner for sooner, later in itertools.pairwise(calls)) > 0.05
            wire.close()

    def test_a_defect_met_with_one_client_costs_that_client_alone(
        self, puppet: Puppet, connect: Callable[[], Wire], monkeypatch: pytest.MonkeyPatch, log: Callable[..., list[str]]
    ) -> None:
        def defective(line: bytes) -> Any:
            raise AssertionError("a defect")

        monkeypatch.setattr(control, "read_command", defective)
        wire, other = connect(), connect()
        wire.give("pause")
        assert wire.wait("hello")
        assert wire.at_the_end()
        other.snapshot()
        other.snapshot()
        assert any(line.startswith("the connection of a console") for line in log())

    def test_when_all_fails_nobody_is_left_to_wait_at_the_socket(self, path: str, log: Callable[..., list[str]]) -> None:
        with serve(Puppet(healthy()), path) as server:
            server._publish = None  # type: ignore[assignment,method-assign]
            wire = Wire(path)
            assert wire.wait("hello")
            assert wire.read() is None
            wire.close()
            eventually(lambda: not os.path.exists(path))
        assert "the control socket failed; the consumer goes on without it" in log()

    def test_closing_ends_every_connection_and_removes_the_socket(self, path: str) -> None:
        before = threading.active_count()
        server = serve(Puppet(healthy()), path)
        wire = Wire(path)
        assert wire.wait("hello")
        server.close()
        assert wire.at_the_end()
        wire.close()
        assert not os.path.exists(path)
        eventually(lambda: threading.active_count() <= before)
        serve(Puppet(healthy()), path).close()


class TestTheConsole:
    def test_the_consoles_end_and_the_consumers_understand_each_other(self, life: Life, path: str) -> None:
        feed = SocketFeed(path)
        feed.start()
        try:
            seen = eventually(feed.latest)
            assert seen.topic == TOPIC
            assert len(seen.partitions) == 3
            for command, args in (
                ("pause", {"partitions": [[TOPIC, 0]]}), ("resume", {}), ("set_workers", {"count": 4}),
                ("set_dev_mode", {"enabled": True}),
                ("set_log_level", {"level": "ERROR"}), ("set_rate_limit", {"per_second": 5.0}),
                ("seek", {"partitions": [[TOPIC, 0]], "to": "earliest"}), ("stop", {"reason": "enough"}),
            ):  # fmt: skip
                handle = feed.request(command, args)
                assert handle.wait(PATIENCE_SECONDS)
                assert handle.view().state is CommandState.APPLIED, handle.view()
            lost = feed.request("pause", {"partitions": [["other", 0]]})
            assert lost.wait(PATIENCE_SECONDS)
            assert lost.view().state in (CommandState.LOST_PARTITION, CommandState.REFUSED)
            assert life.wait_end() == 0
            eventually(lambda: (found := feed.latest()) and found.phase == "stopped")
        finally:
            feed.close()
            feed.join(PATIENCE_SECONDS)


class TestStatus:
    def test_it_is_told_in_plain_text(self, life: Life, path: str) -> None:
        life.broker.produce_many(TOPIC, 0, [b"value"] * 5)
        life.wait_committed(5)
        done = CliRunner().invoke(cli, ["status", "--socket", path])
        assert (done.exit_code, done.stderr) == (0, "")
        assert "health      OK\nphase       running\n" in done.stdout
        assert f"\n{TOPIC}" in done.stdout
        assert "partitions  3, lag 0\n" in done.stdout

    def test_high_watermarks_are_of_now_though_nobody_has_looked_for_long(
        self, life: Life, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(status, "WAKE_SECONDS", 0.5)
        poller = life.consumer._poller
        assert poller is not None
        eventually(lambda: life.consumer.snapshot().partitions[0].high_watermark == 0, what="a first look")
        life.consumer.pause([(TOPIC, 0)])
        eventually(lambda: life.client.paused)
        poller.looked_at = 0.0
        life.broker.produce_many(TOPIC, 0, [b"value"] * 50)
        time.sleep(0.15)  # so that the watermarks are due
        assert poller.watermarks[TOPIC, 0] == 0
        shown = json.loads(CliRunner().invoke(cli, ["status", "--socket", path, "--json"]).stdout)
        assert (shown["partitions"][0]["high_watermark"], shown["partitions"][0]["lag"]) == (50, 50)

    def test_json_is_the_snapshot_on_one_line(self, life: Life, path: str) -> None:
        done = CliRunner().invoke(cli, ["status", "--socket", path, "--json"])
        assert done.exit_code == 0
        assert done.stdout.count("\n") == 1
        assert json.loads(done.stdout)["group_id"] == "test-group"

    def test_it_watches_until_the_consumer_has_ended(self, live: Callable[..., Life], path: str) -> None:
        life = live()

        def run() -> None:
            with serve(life.consumer, path):
                eventually(lambda: life.consumer._builder is not None and life.consumer._builder._sequence >= 6)
                life.end()

        with background(run):
            eventually(lambda: can_connect(path) is None)
            done = CliRunner().invoke(cli, ["status", "--socket", path, "--watch", "--json"])
        phases = [json.loads(line)["phase"] for line in done.stdout.splitlines()]
        assert phases.count("running") >= 2
        assert phases[-1] == "stopped"
        assert (done.exit_code, done.stderr) == (0, f"{path}: the consumer has ended\n")

    def test_an_interrupted_watch_is_no_failure(self, puppet: Puppet, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(_snapshot: Any) -> str:
            raise KeyboardInterrupt

        monkeypatch.setattr(status, "describe", interrupted)
        assert status.show_status(path, watch=True) == 0
        with pytest.raises(KeyboardInterrupt):
            status.show_status(path)

    def test_without_a_consumer_it_is_one_line_and_exit_1(self, path: str, tmp_path: Path) -> None:
        done = CliRunner().invoke(cli, ["status", "--socket", path])
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr == f"no consumer can be reached at {path}: No such file or directory\n"
        (tmp_path / "file").write_text("")
        for wrong in ("file", "x" * 200, ""):
            done = CliRunner().invoke(cli, ["status", "--socket", wrong])
            assert done.exit_code == 1
            assert done.stderr.startswith("no consumer can be reached at ")
            assert done.stderr.count("\n") == 1

    def test_the_socket_may_come_from_the_settings_and_must_come_from_somewhere(self, puppet: Puppet, path: str) -> None:
        assert CliRunner().invoke(cli, ["status"], env={"KC_SOCKET": path}).exit_code == 0
        Path("kc.toml").write_text(f'socket = "{path}"\n')
        assert CliRunner().invoke(cli, ["status"]).exit_code == 0
        Path("kc.toml").unlink()
        done = CliRunner().invoke(cli, ["status"])
        assert done.exit_code == 2
        assert done.stderr.startswith("--socket: missing;")

    @pytest.mark.parametrize(
        ("lines", "said"),
        [
            (b"", "the connection was closed before a snapshot came"),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "expected a consumer there, got something that doesn't speak its language"),
            (b"[1]\n", "expected a consumer there, got something that doesn't speak its language"),
            (b'{"type": "error", "error": "refused:\\u001b[2J"}\n', "refused:\\x1b[2J"),
            (b'{"type": "snapshot", "snapshot": {"topic": 5}}\n', "a snapshot that this version can't read (KeyError: "),
        ],
    )
    def test_what_is_no_consumer_is_told_in_one_clean_line(self, lines: bytes, said: str, path: str) -> None:
        os.mkdir("run")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()

            def answer() -> None:
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(lines)

            with background(answer):
                done = CliRunner().invoke(cli, ["status", "--socket", path])
        assert done.exit_code == 1
        assert done.stderr.startswith(f"{path}: {said}")
        assert done.stderr.count("\n") == 1

    def test_one_that_sends_nothing_or_a_single_snapshot_is_not_waited_for_for_ever(
        self, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(status, "ANSWER_SECONDS", 0.1)
        monkeypatch.setattr(status, "SECOND_SECONDS", 0.1)
        os.mkdir("run")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            done = CliRunner().invoke(cli, ["status", "--socket", path])
            assert (done.exit_code, done.stderr) == (1, f"{path}: no answer within 0.1 s\n")
            listener.accept()[0].close()
            monkeypatch.setattr(status, "ANSWER_SECONDS", PATIENCE_SECONDS)

            connections: list[socket.socket] = []

            def answer() -> None:
                connections.append(listener.accept()[0])
                connections[0].sendall(json.dumps({"type": "snapshot", "snapshot": healthy().to_dict()}).encode() + b"\n")

            with background(answer):
                done = CliRunner().invoke(cli, ["status", "--socket", path])
            connections[0].close()
        assert done.exit_code == 0
        assert "health      OK" in done.stdout


class TestTheCommandLine:
    def test_a_consumer_listens_while_it_runs_and_is_stopped_through_its_socket(self, path: str, tmp_path: Path) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("KC_")}
        command = [sys.executable, "-m", "kafka_consumer", "--headless", "--demo", "--queue-size", "10", "--socket", path]
        options: dict[str, Any] = {
            "cwd": tmp_path, "env": inherited | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}, "stdin": subprocess.DEVNULL,
            "text": True,
        }  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options) as process:
            try:
                eventually(lambda: can_connect(path) is None, timeout=20)
                wire = Wire(path)
                wire.snapshot(lambda s: s["phase"] == "running" and s["totals"]["processed"])
                assert wire.ask("stop", reason="enough") == ("applied", "")
                wire.snapshot(lambda s: s["phase"] == "stopped")
                wire.close()
                _, errors = process.communicate(timeout=30)
            finally:
                process.kill()
        assert process.returncode == 0
        assert "enough" in errors
        assert not os.path.exists(path)

    @pytest.mark.parametrize("kind", ["occupied", "no socket", "too long"])
    def test_a_path_that_cannot_be_used_exits_2_with_one_line(self, kind: str, path: str, tmp_path: Path) -> None:
        wrong, said = {
            "occupied": (path, f"{path} is in use by another consumer: stop it, or give this one a path of its own"),
            "no socket": ("kc.toml", "socket kc.toml: there is something else by that name; it is left as it is"),
            "too long": ("x" * 200, "--socket: expected a path of 1 to 107 bytes, got "),
        }[kind]
        (tmp_path / "kc.toml").write_text("")
        with serve(Puppet(healthy()), path):
            done = subprocess.run(
                [sys.executable, "-m", "kafka_consumer", "--headless", "--demo", "--demo-messages", "1", "--socket", wrong],
                cwd=tmp_path, env=dict(os.environ) | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}, stdin=subprocess.DEVNULL,
                capture_output=True, text=True, timeout=30, check=False,
            )  # fmt: skip
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith(said)
