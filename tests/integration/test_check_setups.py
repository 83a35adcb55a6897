"""``kc check`` names what is wrong with a set-up in one line, says how to mend it, and exits accordingly."""

from __future__ import annotations

import os
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from kafka_consumer import cli
from kafka_consumer.file_lock import FileLocks

NOBODY = "127.0.0.1:1"


class SetUp:
    """A folder with an application in it, and a command line that is right but for what a test breaks."""

    def __init__(self, folder: Path, servers: str) -> None:
        self.folder = folder
        self.options = {
            "--processor": "app:handle", "--bootstrap-server": servers, "--topic": "orders", "--group": "billing",
        }  # fmt: skip
        self.more: list[str] = []
        (folder / "app.py").write_text("def handle(value):\n    pass\n")

    def check(self) -> tuple[int, list[str]]:
        """Return the exit code and the lines that say no."""
        words = [word for pair in self.options.items() for word in pair]
        result = CliRunner().invoke(cli.cli, ["check", "--app-dir", str(self.folder), *words, *self.more])
        lines = (result.output).splitlines()
        assert all(line.startswith(("✓ ", "✗ ")) for line in lines), result.output
        return result.exit_code, [line for line in lines if line.startswith("✗")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A broker of librdkafka's, with the topic."""
    from kafka_consumer.demo import DemoCluster

    with DemoCluster("orders") as found:
        yield found.bootstrap


@pytest.fixture
def set_up(tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch) -> SetUp:
    for name in [name for name in os.environ if name.startswith("KC_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return SetUp(tmp_path, cluster)


@pytest.fixture
def cleanup() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_sound_set_up_has_a_tick_on_every_line_and_exits_0(set_up: SetUp):
    assert set_up.check() == (0, [])


def no_such_function(set_up: SetUp, _: ExitStack) -> None:
    set_up.options["--processor"] = "app:handel"


def unknown_kafka_option(set_up: SetUp, _: ExitStack) -> None:
    set_up.more = ["-X", "fetch.min.bites=1"]


def no_folder_for_dead_letters(set_up: SetUp, _: ExitStack) -> None:
    set_up.more = ["--dlq-path", str(set_up.folder / "nowhere" / "dlq.csv")]


def files_in_use(set_up: SetUp, cleanup: ExitStack) -> None:
    locks = FileLocks([str(set_up.folder / "dlq.csv")])
    locks.acquire()
    cleanup.callback(locks.release)


def a_full_disk(_: SetUp, cleanup: ExitStack) -> None:
    patch = cleanup.enter_context(pytest.MonkeyPatch.context())
    patch.setattr("kafka_consumer.check.shutil.disk_usage", lambda folder: SimpleNamespace(free=3 * 1024 * 1024))


def few_open_files(_: SetUp, cleanup: ExitStack) -> None:
    patch = cleanup.enter_context(pytest.MonkeyPatch.context())
    patch.setattr("kafka_consumer.check.resource.getrlimit", lambda which: (64, resource.RLIM_INFINITY))


def no_broker(set_up: SetUp, _: ExitStack) -> None:
    set_up.options["--bootstrap-server"] = NOBODY


def no_such_topic(set_up: SetUp, _: ExitStack) -> None:
    set_up.options["--topic"] = "oders"


def no_such_partition(set_up: SetUp, _: ExitStack) -> None:
    set_up.more = ["--stop-at", "orders:99:5"]


def a_missing_extra(set_up: SetUp, cleanup: ExitStack) -> None:
    patch = cleanup.enter_context(pytest.MonkeyPatch.context())
    patch.setattr("kafka_consumer.check.importlib.util.find_spec", lambda name: None)
    set_up.more = ["--metrics-port", "0"]


def a_port_in_use(set_up: SetUp, cleanup: ExitStack) -> None:
    listening = cleanup.enter_context(socket.create_server(("127.0.0.1", 0)))
    set_up.more = ["--metrics-port", str(listening.getsockname()[1])]


def a_socket_in_use(set_up: SetUp, cleanup: ExitStack) -> None:
    listening = cleanup.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    os.chdir(set_up.folder)
    listening.bind("kc.sock")
    listening.listen()
    set_up.more = ["--socket", "kc.sock"]


def a_broker_that_hangs_up(set_up: SetUp, cleanup: ExitStack) -> None:
    """As one does that wants TLS from a client that comes without."""
    listening = cleanup.enter_context(socket.create_server(("127.0.0.1", 0)))

    def hang_up() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.recv(1024)

    threading.Thread(target=hang_up, daemon=True).start()
    cleanup.callback(lambda: listening.shutdown(socket.SHUT_RDWR))
    set_up.options["--bootstrap-server"] = f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize(
    ("breakage", "code", "said", "mend"),
    [
        (no_such_function, 2, "module 'app' has no 'handel'", "--processor"),
        (unknown_kafka_option, 2, "fetch.min.bites", "did you mean fetch.min.bytes?"),
        (no_folder_for_dead_letters, 2, "nowhere' is not a directory", "create it first"),
        (files_in_use, 2, "in use by another consumer", "another --dlq-path"),
        (a_full_disk, 1, "3.0 MiB free", "make room"),
        (few_open_files, 2, "64 open files", "ulimit -n"),
        (no_broker, 1, f"broker {NOBODY} can't be reached", "check host and port in --bootstrap-server"),
        (a_broker_that_hangs_up, 1, "can't be reached", "check security.protocol"),
        (no_such_topic, 1, "topic oders", "check --topic"),
        (no_such_partition, 2, "no such partition: orders-99", "check --stop-at"),
        (a_missing_extra, 2, "needs prometheus-client", "pip install 'kc[metrics]'"),
        (a_port_in_use, 2, "Address already in use", "another --metrics-port"),
        (a_socket_in_use, 2, "socket kc.sock is in use", "another --socket"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_broken_set_up_is_named_in_one_line_with_how_to_mend_it(
    breakage: Callable[[SetUp, ExitStack], None], code: int, said: str, mend: str, set_up: SetUp, cleanup: ExitStack
):
    breakage(set_up, cleanup)
    found, complaints = set_up.check()
    assert len(complaints) == 1, complaints
    assert said in complaints[0]
    assert mend in complaints[0]
    assert found == code
