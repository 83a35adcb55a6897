"""Apache Kafka as child processes on the local Java: the broker that tests may kill, suspend and restart."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
import weakref
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.kafka.artifacts import KAFKA_VERSION, ensure_jars, java_major_version
from tests.kafka.properties import NodePorts, as_text, server_properties
from tests.kafka.tools import Kafka

START_SECONDS = 60.0
STOP_SECONDS = 20.0
_START_ATTEMPTS = 3
_POLL_SECONDS = 0.02
_HERE = Path(__file__).parent
# Quick to start rather than quick in the long run: the first compiler only, no profiling files, shared classes.
_JVM = (
    "-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-XX:-UsePerfData",
    "-Djava.net.preferIPv4Stack=true", "-Dlog4j2.disable.jmx=true", "-Dlog4j.shutdownHookEnabled=false",
)  # fmt: skip


class BrokerFailedError(RuntimeError):
    """A broker ended or didn't answer in time; the message holds the end of its log."""


class PortTakenError(BrokerFailedError):
    """Another process took a port between our choosing it and the broker's binding it."""


class LocalKafka(Kafka):
    """A KRaft cluster of ``nodes`` on 127.0.0.1, each node broker and controller, in a process of its own.

    ``start()`` returns when every node answers. ``stop()``, ``kill()``, ``suspend()`` and ``resume()`` take a node's number
    (1, 2, ...) or none for all. A node that was stopped or killed comes back with ``start()`` on the same port with its
    data. ``close()`` ends all and deletes the data; the logs stay when ``folder`` was given. ``properties`` are added to every
    node's server.properties, and ``client_options`` to the clients that this object makes.
    """

    def __init__(
        self,
        nodes: int = 1,
        *,
        folder: Path | None = None,
        properties: Mapping[str, str] | None = None,
        client_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(client_options)
        if nodes < 1:
            message = f"expected nodes to be 1 or more, got {nodes}"
            raise ValueError(message)
        self.nodes = nodes
        self.description = f"Apache Kafka {KAFKA_VERSION} on local Java, {nodes} node{'s' * (nodes > 1)}"
        self._properties = dict(properties or {})
        self._own_folder = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="kc-kafka-"))
        if self._own_folder:
            # For a caller that never gets to close().
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self._ports: dict[int, NodePorts] = {}
        self._running: dict[int, BrokerProcess] = {}
        self._cluster_id = kafka_uuid()
        self._started_once = False

    @property
    def bootstrap(self) -> str:
        """Every node's address, running or not; empty before the first start."""
        return ",".join(f"127.0.0.1:{ports.client}" for _, ports in sorted(self._ports.items()))

    def port(self, node: int = 1) -> int:
        """Return the port on which a node serves clients."""
        return self._ports[node].client

    def configure(self, properties: Mapping[str, str]) -> None:
        """Change the properties of every node; a running one takes them at its next start."""
        self._properties |= properties
        for node in self._ports:
            self._write_config(node)

    def running(self, node: int | None = None) -> bool:
        """Say whether the node's process is alive (all of them, without a number); a suspended one is."""
        return all(n in self._running and self._running[n].alive() for n in self._chosen(node))

    def log(self, node: int = 1) -> str:
        """Return what a node has logged."""
        path = self._log_path(node)
        return path.read_text(errors="replace") if path.exists() else ""

    # --- start and end --------------------------------------------------------------------------------------------

    def start(self, node: int | None = None, *, wait: bool = True) -> Self:
        """Start a node, or all that aren't running; with ``wait``, return once each is in the cluster and answers."""
        jars = ensure_jars()
        attempts = 1 if self._started_once else _START_ATTEMPTS
        for attempt in range(1, attempts + 1):
            if not self._started_once:
                self._lay_out(jars)
            try:
                self._launch(jars, node)
                if wait:
                    self._wait_until_serving(self._chosen(node))
            except PortTakenError:
                self.kill()
                if attempt == attempts:
                    raise
            except BaseException:
                if not self._started_once:
                    self.kill()
                raise
            else:
                break
        self._started_once = True
        return self

    def stop(self, node: int | None = None) -> None:
        """End a node, or all, as an operator would: SIGTERM, a controlled shutdown. Data and ports stay."""
        self._forget_metadata()
        chosen = [self._running.pop(n) for n in self._chosen(node) if n in self._running]
        for process in chosen:
            # A stopped process would keep the SIGTERM pending.
            process.signal(signal.SIGCONT)
            process.signal(signal.SIGTERM)
        for process in chosen:
            process.wait_or_kill(STOP_SECONDS)

    def kill(self, node: int | None = None) -> None:
        """End a node, or all, with SIGKILL; suspended ones too. Data and ports stay."""
        self._forget_metadata()
        chosen = [self._running.pop(n) for n in self._chosen(node) if n in self._running]
        for process in chosen:
            process.signal(signal.SIGKILL)
        for process in chosen:
            process.wait_or_kill(STOP_SECONDS)

    def suspend(self, node: int | None = None) -> None:
        """Freeze a node, or all (SIGSTOP): connections stay open and nothing answers, as when a network drops packets."""
        for n in self._chosen(node):
            self._running[n].signal(signal.SIGSTOP)
        for n in self._chosen(node):
            self._running[n].wait_until_stopped()

    def resume(self, node: int | None = None) -> None:
        """Let a suspended node, or all, go on."""
        for n in self._chosen(node):
            self._running[n].signal(signal.SIGCONT)

    def wait_until_serving(self, *, timeout: float = START_SECONDS) -> None:
        """Return when every running node is in the cluster and answers; raise BrokerFailedError if that doesn't happen."""
        self._wait_until_serving(sorted(self._running), timeout=timeout)

    def close(self) -> None:
        """End all nodes at once and delete their data; idempotent."""
        self._close_clients()
        self.kill()
        for node in self._ports:
            shutil.rmtree(self._data(node), ignore_errors=True)
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _chosen(self, node: int | None) -> Iterable[int]:
        if node is None:
            return range(1, self.nodes + 1)
        if not 1 <= node <= self.nodes:
            message = f"expected node to be from 1 to {self.nodes}, got {node}"
            raise ValueError(message)
        return (node,)

    def _data(self, node: int) -> Path:
        return self.folder / f"node-{node}" / "data"

    def _config_path(self, node: int) -> Path:
        return self.folder / f"node-{node}" / "server.properties"

    def _log_path(self, node: int) -> Path:
        return self.folder / f"node-{node}" / "broker.log"

    def _lay_out(self, jars: Path) -> None:
        """Choose ports and write every node's folder, as ``kafka-storage format`` would."""
        numbers = free_ports(3 * self.nodes)
        self._ports = {n: NodePorts(*numbers[3 * n - 3 : 3 * n]) for n in range(1, self.nodes + 1)}
        for node in self._ports:
            data = self._data(node)
            shutil.rmtree(data, ignore_errors=True)
            data.mkdir(parents=True)
            (data / "bootstrap.checkpoint").write_bytes(_bootstrap_checkpoint(jars))
            # The format is Kafka's own; writing it here saves a start of Java a node.
            (data / "meta.properties").write_text(
                f"version=1\nnode.id={node}\ncluster.id={self._cluster_id}\ndirectory.id={kafka_uuid()}\n"
            )
            self._write_config(node)

    def _write_config(self, node: int) -> None:
        properties = server_properties(node, self._ports, log_dir=str(self._data(node))) | self._properties
        self._config_path(node).write_text(as_text(properties))

    def _launch(self, jars: Path, node: int | None) -> None:
        for n in self._chosen(node):
            old = self._running.pop(n, None)
            if old is not None and old.alive():
                self._running[n] = old
                continue
            command = [*_java(jars), "kafka.Kafka", str(self._config_path(n))]
            self._running[n] = BrokerProcess(command, self._log_path(n))

    def _wait_until_serving(self, nodes: Iterable[int], *, timeout: float = START_SECONDS) -> None:
        deadline = time.monotonic() + timeout
        for node in nodes:
            # The port first: a client that is refused once waits before it tries again, and so would we.
            while not self._connects(node):
                self._raise_if_failed(node, deadline)
                time.sleep(_POLL_SECONDS)
            client = AdminClient(self._options({"bootstrap.servers": f"127.0.0.1:{self.port(node)}"}))
            while not self._in_cluster(client, node):
                self._raise_if_failed(node, deadline)
                time.sleep(_POLL_SECONDS)

    def _connects(self, node: int) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port(node)), timeout=1):
                return True
        except OSError:
            return False

    @staticmethod
    def _in_cluster(client: AdminClient, node: int) -> bool:
        try:
            return node in client.list_topics(timeout=2).brokers
        except KafkaException:
            return False

    def _raise_if_failed(self, node: int, deadline: float) -> None:
        ended = not self._running[node].alive()
        if not ended and time.monotonic() < deadline:
            return
        log = self.log(node)
        if ended and ("Address already in use" in log or "BindException" in log):
            message = f"a port of node {node} was taken by another process"
            raise PortTakenError(message)
        what = "ended" if ended else "didn't answer in time"
        message = f"broker node {node} {what}; the end of {self._log_path(node)}:\n{log[-3000:]}"
        raise BrokerFailedError(message)


class BrokerProcess:
    """One broker, or any command, under its guard (see guard.py), which outlives neither it nor us."""

    def __init__(self, command: list[str], log: Path) -> None:
        # A session of its own: Ctrl-C on pytest's terminal ends the tests first, then the fixture ends the broker.
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_HERE / "guard.py"), str(log), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._guard.stdin is not None
        assert self._guard.stdout is not None
        with self._guard.stdout as out:
            line = out.readline()
        if not line.strip():
            self._guard.stdin.close()
            self._guard.wait()
            message = f"couldn't start {command[0]}"
            raise BrokerFailedError(message)
        self.pid = int(line)

    def alive(self) -> bool:
        return self._guard.poll() is None

    def signal(self, number: signal.Signals) -> None:
        # The guard hasn't reaped its child as long as it lives, so the pid can't be another process's.
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait_until_stopped(self, timeout: float = 5.0) -> None:
        """Return when every thread has taken SIGSTOP: a signal is delivered a moment after it is sent."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            states = []
            for stat in Path(f"/proc/{self.pid}/task").glob("*/stat"):
                with contextlib.suppress(OSError):  # the thread ended meanwhile
                    states.append(stat.read_text().rpartition(")")[2].split()[0])
            if states and all(state == "T" for state in states):
                return
            time.sleep(_POLL_SECONDS)

    def wait_or_kill(self, timeout: float) -> None:
        assert self._guard.stdin is not None
        try:
            self._guard.wait(timeout)
        except subprocess.TimeoutExpired:
            # The guard answers the end of its stdin with SIGKILL to the broker.
            self._guard.stdin.close()
            self._guard.wait(timeout)
        self._guard.stdin.close()


def _java(jars: Path) -> list[str]:
    java_major_version()
    return ["java", *_JVM, f"-Dlog4j2.configurationFile={_HERE / 'log4j2.properties'}", "-cp", f"{jars}/*"]


@functools.cache
def _bootstrap_checkpoint(jars: Path) -> bytes:
    """Return the file with which a new cluster's metadata begins; the same for every node, so made once a process."""
    with tempfile.TemporaryDirectory(prefix="kc-kafka-format-") as name:
        folder = Path(name)
        ports = {1: NodePorts(9092, 9093, 9094)}
        config = folder / "server.properties"
        config.write_text(as_text(server_properties(1, ports, log_dir=str(folder / "data"))))
        (folder / "data").mkdir()
        command = [*_java(jars), "kafka.tools.StorageTool", "format", "-t", kafka_uuid(), "-c", str(config)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS, check=False)
        if ran.returncode != 0:
            message = f"kafka.tools.StorageTool format failed:\n{(ran.stdout + ran.stderr)[-3000:]}"
            raise BrokerFailedError(message)
        return (folder / "data" / "bootstrap.checkpoint").read_bytes()


def kafka_uuid() -> str:
    """Return a random id as Kafka writes them: base64url, 22 characters, the first not a dash (it would read as an option)."""
    while (text := urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def free_ports(count: int) -> list[int]:
    """Return ports that nothing is bound to, outside the range from which the kernel serves outgoing connections.

    Inside that range a broker that is down for a moment could find its port taken when it comes back, even by a client's
    own attempt to connect to it (TCP allows a socket to connect to itself).
    """
    found: list[int] = []
    chooser = random.SystemRandom()
    while len(found) < count:
        port = chooser.randrange(15_000, 32_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found
