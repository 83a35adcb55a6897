"""systemd's notifications: a real socket, the real command, and loops that hang."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kafka_consumer import kafka_consumer as composition
from kafka_consumer import systemd_notify
from kafka_consumer.systemd_notify import Notifier, notifying
from tests.helpers import eventually
from tests.integration.conftest import TOPIC

ROOT = Path(__file__).resolve().parents[2]


class Systemd:
    """The end of the socket that systemd reads."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.messages: list[str] = []

    def close(self) -> None:
        self._socket.close()

    def collect(self) -> list[str]:
        """Return every message so far."""
        self._socket.setblocking(False)
        while True:
            try:
                self.messages.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return self.messages

    def has(self, start: str) -> bool:
        return any(line.startswith(start) for message in self.collect() for line in message.split("\n"))

    def beats(self) -> int:
        return self.collect().count("WATCHDOG=1")


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    listening = Systemd(str(tmp_path / "notify"))
    yield listening
    listening.close()


def environment(address: str, watchdog_seconds: float = 0.0, **more: str) -> dict[str, str]:
    watchdog = {"WATCHDOG_USEC": str(int(watchdog_seconds * 1e6))} if watchdog_seconds else {}
    return {"NOTIFY_SOCKET": address, **watchdog, **more}


ONLY_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has abstract sockets")


@pytest.mark.parametrize("abstract", [False, pytest.param(True, marks=ONLY_LINUX)])
def test_the_command_tells_that_it_is_ready_alive_and_stopping(tmp_path: Path, abstract: bool):
    systemd = Systemd(f"@kc-tests-{os.getpid()}" if abstract else str(tmp_path / "notify"))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KC_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "kafka_consumer", "--headless", "--demo"], cwd=tmp_path,
        env=inherited | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)} | environment(systemd.address, 0.6),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        eventually(lambda: systemd.has("READY=1"), 60, what="READY=1")
        eventually(lambda: systemd.beats() >= 3, 30, what="signs of life")
        assert systemd.has("STATUS=running: ")
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 0, log
    last = systemd.collect()[-1].split("\n")
    systemd.close()
    assert last[0] == "STOPPING=1"
    assert last[1].startswith("STATUS=stopped (stopped by a signal): ")
    assert not systemd.messages[0].startswith("STOPPING")


def test_without_systemd_there_is_no_thread(live):
    consumer = live(start=False).consumer
    with notifying(consumer, {}):
        assert "systemd" not in names_of_threads()


def test_child_processes_are_not_told_of_systemd(live, systemd: Systemd):
    environ = environment(systemd.address, 30, WATCHDOG_PID=str(os.getpid()), PATH="kept")
    with notifying(live(start=False).consumer, environ):
        assert "systemd" in names_of_threads()
        assert environ == {"PATH": "kept"}
    assert "systemd" not in names_of_threads()


def names_of_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0), ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0), ({}, 0.0),
    ],
)  # fmt: skip
def test_the_watchdog_is_ours_only_if_systemd_says_so(variables: dict[str, str], seconds: float):
    assert Notifier({"NOTIFY_SOCKET": "/nowhere", **variables}).watchdog_seconds == seconds


def test_a_socket_that_is_gone_is_one_warning(live, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with notifying(live().consumer, environment(str(tmp_path / "gone"), 0.1)):
        eventually(lambda: "systemd can't be told" in caplog.text)
    assert caplog.text.count("systemd can't be told") == 1


@pytest.mark.parametrize("loop", ["polling", "commit"])
def test_a_loop_that_hangs_ends_the_signs_of_life(
    loop: str, live, broker: Any, systemd: Systemd, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(composition, "SILENT_SECONDS", 0.5)
    broker.produce(TOPIC, 0, b"x")
    life = live(start=False, shutdown_timeout_seconds=0.1)
    hang, free = threading.Event(), threading.Event()

    def block(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if hang.is_set():
                free.wait(30)
            return original(*args, **more)

        return call

    life.consumer.start()
    try:
        target = life.consumer._poller if loop == "polling" else life.consumer._committer
        name = "_serve" if loop == "polling" else "collect"
        monkeypatch.setattr(target, name, block(getattr(target, name)))
        with notifying(life.consumer, environment(systemd.address, 0.3)):
            eventually(lambda: systemd.beats() >= 2, what="signs of life")
            assert life.consumer.silent() is None
            hang.set()
            eventually(lambda: life.consumer.silent() is not None, what="a hung loop")
            eventually(lambda: systemd_notify.logger.name in {record.name for record in caplog.records}, what="a line in the log")
            before = systemd.beats()
            deadline = time.monotonic() + 0.6
            while time.monotonic() < deadline:
                assert systemd.beats() == before
                time.sleep(0.02)
            assert f"the {loop} thread hasn't moved" in caplog.text
            free.set()
            eventually(lambda: systemd.beats() > before, what="signs of life again")
    finally:
        free.set()
        life.consumer.stop("the test is over")
        assert life.consumer.join(30)


def test_a_consumer_that_drains_is_not_taken_for_hung(live, monkeypatch: pytest.MonkeyPatch):
    consumer = live().consumer
    eventually(lambda: consumer.snapshot().phase == "running")
    monkeypatch.setattr(composition, "SILENT_SECONDS", -1.0)
    monkeypatch.setattr(consumer, "_committer", SimpleNamespace(beat_at=0.0))
    assert consumer.silent() is not None
    consumer.shared_state.running.clear()
    assert consumer.silent() is None
