from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from kafka_consumer.control import serve
from kafka_consumer.errors import LostPartitionError
from kafka_consumer.snapshot import Snapshot
from tests.tui.fakes import FrozenClock, healthy, make_snapshot
from tui.commands import CommandHandle, CommandState
from tui.feed import LocalFeed
from tui.socket_feed import SocketFeed, can_connect
from tui.wire import SnapshotReader


def until(condition, seconds: float = 5.0) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it didn't happen in time"
        time.sleep(0.005)


class FakeConsumer:
    """A consumer with some of the commands."""

    def __init__(self) -> None:
        self.built = 0
        self.calls: list[tuple] = []
        self.fail: Exception | None = None
        self.hang = threading.Event()
        self.hung = threading.Event()

    def snapshot(self) -> Snapshot:
        self.built += 1
        if self.fail is not None:
            raise self.fail
        return healthy(sequence=self.built)

    def pause(self, partitions=None) -> None:
        self.calls.append(("pause", partitions))

    def resume(self, partitions=None) -> None:
        raise LostPartitionError("orders-1 was revoked")

    def set_workers(self, count) -> None:
        raise ValueError("expected 1 to 1,000\n\x1b[2J")

    def set_log_level(self, level) -> None:
        self.hung.set()
        self.hang.wait(10)

    def set_rate_limit(self, per_second) -> None:
        raise TimeoutError("no answer within 5 s")

    def set_dev_mode(self, enabled) -> Any:
        return "from the next commit on"

    def seek(self, partitions, to) -> None:
        raise NotImplementedError

    def redrive(self, records, per_second=None) -> str:
        raise NotImplementedError

    def stop(self, reason="") -> None:
        self.calls.append(("stop", reason))


@pytest.fixture
def local():
    consumer = FakeConsumer()
    feed = LocalFeed(consumer, interval=0.01, who="olga")
    feed.start()
    yield feed, consumer
    consumer.hang.set()
    feed.close()
    for thread in feed._threads:
        thread.join(5)


def test_snapshots_are_built_only_while_somebody_looks(local):
    feed, consumer = local
    assert feed.age is None
    assert feed.latest() is None
    until(lambda: consumer.built == 1)
    # Nobody looks: nothing is built, however long that lasts.
    time.sleep(0.1)
    assert consumer.built == 1
    assert feed.latest().sequence == 1
    until(lambda: consumer.built == 2)
    assert feed.age is not None
    assert feed.age < 5


def test_where_nothing_changes_snapshots_are_built_less_often_until_a_command_is_given():
    consumer, clock = FakeConsumer(), FrozenClock()
    feed = LocalFeed(consumer, interval=30, clock=clock, who="olga")
    feed.latest()
    feed.start()
    try:
        until(lambda: consumer.built == 1)
        assert feed._tempo.interval == 30
        clock.advance(10)
        assert feed._tempo.interval == 120
        feed.latest()
        feed.request("pause", {}).wait(5)
        # Not half a minute later.
        until(lambda: consumer.built == 2)
        assert feed._tempo.interval == 30
    finally:
        feed.close()
        for thread in feed._threads:
            thread.join(5)
    assert not any(thread.is_alive() for thread in feed._threads)


def test_a_snapshot_that_can_not_be_built_is_a_problem_not_a_crash(local):
    feed, consumer = local
    consumer.fail = RuntimeError("boom\x1b[2J")
    feed.latest()
    until(lambda: feed.problem is not None)
    assert feed.problem == "no snapshot: RuntimeError: boom\\x1b[2J"
    consumer.fail = None
    feed.latest()
    until(lambda: feed.latest() is not None)
    assert feed.problem is None


@pytest.mark.parametrize(
    ("command", "args", "state", "reason"),
    [
        ("pause", {"partitions": [["orders", 1]]}, CommandState.APPLIED, ""),
        ("set_dev_mode", {"enabled": True}, CommandState.APPLIED, "from the next commit on"),
        ("resume", {}, CommandState.LOST_PARTITION, "orders-1 was revoked"),
        ("set_workers", {"count": 0}, CommandState.REFUSED, "expected 1 to 1,000 \\x1b[2J"),
        ("set_rate_limit", {"per_second": 1}, CommandState.EXPIRED, "no answer within 5 s"),
        ("redrive", {"records": [], "per_second": 1}, CommandState.REFUSED, "not supported by this consumer"),
        ("seek", {"partitions": [], "to": 0}, CommandState.REFUSED, "not supported by this consumer"),
        ("__init__", {}, CommandState.REFUSED, "unknown command '__init__'"),
    ],
)
def test_a_command_ends_as_the_consumer_says(local, command, args, state, reason):
    feed, _ = local
    handle = feed.request(command, args, summary="do it")
    assert handle.wait(5)
    view = handle.view()
    assert (view.state, view.reason, view.who, view.summary) == (state, reason, "olga", "do it")


def test_pairs_reach_the_consumer_as_tuples(local):
    feed, consumer = local
    feed.request("pause", {"partitions": [["orders", 1]]}).wait(5)
    assert consumer.calls == [("pause", [("orders", 1)])]


def test_stop_never_waits_behind_a_command_that_hangs(local):
    feed, consumer = local
    hanging = feed.request("set_log_level", {"level": "DEBUG"})
    assert consumer.hung.wait(5)
    assert hanging.view().state is CommandState.ACCEPTED
    assert feed.request("stop", {"reason": "now"}).wait(5)
    assert ("stop", "now") in consumer.calls


def test_a_read_only_feed_sends_nothing():
    consumer = FakeConsumer()
    feed = LocalFeed(consumer, read_only=True)
    handle = feed.request("stop", {"reason": "x"})
    assert handle.view().state is CommandState.REFUSED
    assert "read-only" in handle.view().reason
    assert consumer.calls == []


def test_the_stack_of_a_worker_is_found_by_its_thread_and_shows_no_values(local):
    feed, _ = local
    go = threading.Event()
    ready = threading.Event()

    def process() -> None:
        password = "hunter2"
        ready.set()
        go.wait(10)
        assert password

    thread = threading.Thread(target=process, name="worker-7")
    thread.start()
    try:
        assert ready.wait(5)
        stack = feed.worker_stack(7)
        assert stack is not None
        assert any("in process" in line for line in stack)
        assert not any("hunter2" in line and "password" not in line for line in stack)
        assert feed.worker_stack(8) is None
    finally:
        go.set()
        thread.join()


# Commands


def handle(clock: FrozenClock) -> CommandHandle:
    return CommandHandle("1", "pause", {}, summary="pause", who="olga", clock=clock)


def test_a_command_that_nobody_answers_expires():
    clock = FrozenClock()
    command = handle(clock)
    command.expire_if_due()
    assert command.view().state is CommandState.REQUESTED
    clock.advance(30)
    command.expire_if_due()
    assert command.view().state is CommandState.EXPIRED
    assert command.view().seconds == 30


def test_a_late_answer_replaces_expired_and_says_that_it_is_late():
    clock = FrozenClock()
    command = handle(clock)
    clock.advance(31)
    command.expire_if_due()
    command.advance(CommandState.ACCEPTED)
    assert command.view().state is CommandState.EXPIRED
    command.advance(CommandState.APPLIED)
    assert (command.view().state, command.view().reason) == (CommandState.APPLIED, "late")


def test_how_a_command_ended_is_never_taken_back():
    command = handle(FrozenClock())
    command.advance(CommandState.REFUSED, "no")
    command.advance(CommandState.APPLIED)
    assert (command.view().state, command.view().reason) == (CommandState.REFUSED, "no")


# The socket


class Server:
    """A real Unix socket that says what a test tells it to."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(self.path)
        self.listener.listen(4)
        self.listener.settimeout(5)
        self.peer: socket.socket | None = None
        self.file: BinaryIO | None = None

    def accept(self) -> None:
        self.hang_up()
        self.peer, _ = self.listener.accept()
        self.peer.settimeout(5)
        self.file = cast("BinaryIO", self.peer.makefile("rb"))

    def send(self, value) -> None:
        assert self.peer is not None
        self.peer.sendall(value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n")

    def hello(self, **more) -> None:
        self.send(
            {
                "type": "hello",
                "protocol": 1,
                "version": "0.1.0",
                "pid": 1,
                "role": "control",
                "commands": ["pause", "stop"],
                **more,
            }
        )

    def snapshot(self, snapshot: Snapshot) -> None:
        self.send({"type": "snapshot", "snapshot": snapshot.to_dict()})

    def command(self) -> dict:
        assert self.file is not None
        return json.loads(self.file.readline())

    def hang_up(self) -> None:
        if self.file is not None:
            self.file.close()
        if self.peer is not None:
            self.peer.close()
        self.peer = self.file = None

    def close(self) -> None:
        self.hang_up()
        self.listener.close()


@pytest.fixture
def server(tmp_path):
    found = Server(tmp_path / "kc.sock")
    yield found
    found.close()


@pytest.fixture
def attached(server):
    feed = SocketFeed(server.path, who="olga")
    feed.start()
    server.accept()
    until(lambda: feed.connected)
    yield feed
    feed.close()
    feed.join(5)
    assert feed._thread is not None
    assert not feed._thread.is_alive()


def test_snapshots_arrive_over_the_socket(server, attached):
    server.hello()
    attached.latest()
    server.snapshot(make_snapshot(sequence=5))
    until(lambda: attached.latest() is not None)
    assert attached.latest() == make_snapshot(sequence=5)
    assert attached.problem is None
    assert attached.age < 5


def test_a_snapshot_is_unpacked_only_when_somebody_looks(server, attached):
    server.hello()
    server.snapshot(make_snapshot(sequence=1))
    until(lambda: attached._packed is not None)
    assert attached.age is None
    attached.latest()
    until(lambda: attached.latest() is not None)


def test_a_command_goes_its_way_over_the_socket(server, attached):
    server.hello()
    until(lambda: attached._peer_commands is not None)
    handle = attached.request("pause", {"partitions": [["orders", 1]]}, summary="pause orders-1")
    received = server.command()
    assert (received["command"], received["args"], received["id"]) == ("pause", {"partitions": [["orders", 1]]}, handle.id)
    server.send({"type": "reply", "id": handle.id, "status": "accepted"})
    until(lambda: handle.view().state is CommandState.ACCEPTED)
    server.send({"type": "reply", "id": handle.id, "status": "applied", "reason": None})
    assert handle.wait(5)
    assert handle.view().state is CommandState.APPLIED


@pytest.mark.parametrize(
    ("status", "state"),
    [("refused", CommandState.REFUSED), ("lost_partition", CommandState.LOST_PARTITION), ("expired", CommandState.EXPIRED),
     ("of the future", CommandState.REFUSED)],
)  # fmt: skip
def test_an_answer_ends_a_command(server, attached, status, state):
    server.hello()
    handle = attached.request("pause", {})
    server.command()
    server.send({"type": "reply", "id": handle.id, "status": status, "reason": "because\x1b[2J"})
    assert handle.wait(5)
    assert handle.view().state is state
    assert "\x1b" not in handle.view().reason


def test_a_command_that_the_consumer_does_not_have_is_refused_here(server, attached):
    server.hello()
    until(lambda: attached._peer_commands is not None)
    handle = attached.request("seek", {})
    assert (handle.view().state, handle.view().reason) == (CommandState.REFUSED, "not supported by this consumer")


def test_a_consumer_that_lets_only_look_makes_the_feed_read_only(server, attached):
    server.hello(role="read-only")
    until(lambda: attached.read_only)
    assert attached.request("pause", {}).view().state is CommandState.REFUSED


@pytest.mark.parametrize(
    "line",
    [
        b"garbage\n", b"\xff\xfe\n", b"[]\n", b"7\n", b'{"type":"snapshot"}\n', b'{"type":"snapshot","snapshot":[1]}\n',
        b"[" * 100_000 + b"\n", b'{"type":"reply","id":[],"status":{}}\n', b'{"type":"hello","commands":7,"protocol":"x"}\n',
        b'{"type":"error","error":"\\u001b]52;c;QQ==\\u0007"}\n', b"\n\n\r\n",
        b'{"type":"snapshot","snapshot":{"phase":"running","at":1e999}}\n',
        b'{"n":' + b"9" * 10_000 + b"}\n",
    ],
    ids=range(13),
)  # fmt: skip
def test_a_malformed_line_never_ends_the_feed(server, attached, line):
    server.hello()
    attached.latest()
    server.send(line)
    server.snapshot(make_snapshot(sequence=9))
    until(lambda: (snapshot := attached.latest()) is not None and snapshot.sequence == 9)
    assert attached.problem is None


def test_a_line_without_end_is_cut_off(server, attached, monkeypatch):
    monkeypatch.setattr("tui.socket_feed.MAX_LINE", 100_000)
    with pytest.raises(OSError):  # noqa: PT012 - the peer hangs up at some point
        for _ in range(100):
            server.send(b"x" * 10_000)
    until(lambda: attached.problem is not None or attached.connected)
    server.accept()
    server.snapshot(make_snapshot(sequence=3))
    attached.latest()
    until(lambda: attached.latest() is not None)


def test_a_lost_connection_ends_commands_says_why_and_is_taken_up_again(server, attached):
    server.hello()
    until(lambda: attached.connected)
    handle = attached.request("pause", {})
    server.command()
    server.hang_up()
    assert handle.wait(5)
    assert (handle.view().state, "lost" in handle.view().reason) == (CommandState.EXPIRED, True)
    until(lambda: attached.problem is not None)
    assert "closed the connection" in attached.problem or "can't connect" in attached.problem
    server.accept()
    server.snapshot(make_snapshot(sequence=77))
    attached.latest()
    until(lambda: (snapshot := attached.latest()) is not None and snapshot.sequence == 77)
    assert attached.problem is None


def test_without_a_connection_a_command_is_refused_not_kept(tmp_path):
    feed = SocketFeed(str(tmp_path / "nobody.sock"), who="olga")
    feed.start()
    until(lambda: "can't connect" in (feed.problem or ""))
    handle = feed.request("stop", {})
    assert handle.view().state is CommandState.REFUSED
    assert "not connected" in handle.view().reason
    feed.close()
    feed.join(5)


def test_many_snapshots_at_once_cost_the_unpacking_of_one(server, attached, monkeypatch):
    unpacked = []
    read = SnapshotReader.read

    def counting(reader, value) -> Snapshot:
        unpacked.append(1)
        return read(reader, value)

    monkeypatch.setattr("tui.socket_feed.SnapshotReader.read", counting)
    server.hello()
    server.send(
        b"".join(
            json.dumps({"type": "snapshot", "snapshot": make_snapshot(sequence=n).to_dict()}).encode() + b"\n" for n in range(20)
        )
    )
    until(lambda: attached._packed is not None and b'"sequence": 19' in attached._packed[0])
    attached.latest()
    until(lambda: attached.latest() is not None)
    assert attached.latest().sequence == 19
    assert len(unpacked) == 1


def test_no_snapshots_are_asked_for_while_nobody_looks(server):
    clock = FrozenClock()
    feed = SocketFeed(server.path, who="olga", clock=clock)
    feed.latest()
    feed.start()
    try:
        server.accept()
        server.hello(commands=["pause", "subscribe"])
        until(lambda: feed._peer_commands is not None)
        clock.advance(4)
        feed._wake()
        assert server.command()["args"] == {"interval_seconds": 0}
        feed.latest()
        assert server.command()["args"] == {"interval_seconds": 0.5}
        feed.look_away()
        assert server.command()["args"] == {"interval_seconds": 0}
        until(lambda: feed.interval == 0)
    finally:
        feed.close()
        feed.join(5)


def test_where_nothing_changes_snapshots_are_asked_for_less_often_until_a_command_is_given(server):
    clock = FrozenClock()
    feed = SocketFeed(server.path, who="olga", clock=clock)
    feed.latest()
    feed.start()

    def shown(number: int) -> None:
        server.snapshot(make_snapshot(sequence=number, at=clock.time(), uptime_seconds=number))
        until(lambda: (snapshot := feed.latest()) is not None and snapshot.sequence == number)

    try:
        server.accept()
        server.hello(commands=["pause", "subscribe"])
        shown(1)
        # In steps within which somebody looks.
        for number in range(2, 7):
            clock.advance(2)
            shown(number)
        assert server.command()["args"] == {"interval_seconds": 2.0}
        handle = feed.request("pause", {})
        told = [server.command() for _ in range(2)]
        assert {line["command"]: line["args"] for line in told} == {"pause": {}, "subscribe": {"interval_seconds": 0.5}}
        assert handle.view().state is CommandState.REQUESTED
    finally:
        feed.close()
        feed.join(5)


@pytest.mark.parametrize("depth", [900, 980, 5000])
def test_lists_of_lists_of_lists_are_a_problem_not_the_end(server, attached, depth):
    server.hello()
    deep = b'{"type":"snapshot","snapshot":{"phase":"running","workers":[{"id":' + b"[" * depth + b"]" * depth + b"}]}}\n"
    attached.latest()
    for _ in range(3):
        server.send(deep)
        until(lambda: attached._packed is None)
    server.snapshot(make_snapshot(sequence=78))
    until(lambda: (snapshot := attached.latest()) is not None and snapshot.sequence == 78)
    assert attached.problem is None


def test_it_understands_the_control_socket_of_a_consumer(tmp_path):
    consumer = FakeConsumer()
    path = str(tmp_path / "orders.sock")
    with serve(consumer, path):
        feed = SocketFeed(path, who="olga")
        feed.latest()
        feed.start()
        try:
            until(lambda: feed.latest() is not None)
            handle = feed.request("pause", {"partitions": [["orders", 1]]})
            assert handle.wait(5)
            assert handle.view().state is CommandState.APPLIED, handle.view()
            assert consumer.calls == [("pause", [("orders", 1)])]
            for command, args, state in (
                ("resume", {"partitions": [["orders", 99]]}, CommandState.LOST_PARTITION),
                ("set_workers", {"count": 0}, CommandState.REFUSED),
                ("seek", {"partitions": [["orders", 1]], "to": 7}, CommandState.REFUSED),
                ("redrive", {"records": [["orders", 1, 7]], "per_second": 1.0}, CommandState.REFUSED),
                ("set_rate_limit", {"per_second": None}, CommandState.EXPIRED),
                ("stop", {"reason": "the operator quit"}, CommandState.APPLIED),
            ):
                handle = feed.request(command, args)
                assert handle.wait(5)
                assert handle.view().state is state, (command, handle.view())
            assert consumer.calls[-1] == ("stop", "the operator quit")
        finally:
            feed.close()
            feed.join(5)


def test_whether_somebody_listens_is_told_in_one_line(tmp_path, server):
    assert can_connect(server.path) is None
    assert "No such file" in (can_connect(str(tmp_path / "none\x1b.sock")) or "")
    assert "\x1b" not in (can_connect(str(tmp_path / "none\x1b.sock")) or "")
    assert can_connect("x" * 300) is not None
