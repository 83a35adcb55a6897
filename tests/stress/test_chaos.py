"""Workers that die, a network that fails, a machine that is too small: nothing is lost, and it goes on."""

from __future__ import annotations

import contextlib
import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.helpers import eventually
from tests.kafka import Kafka, LocalKafka
from tests.kafka.local import free_ports
from tests.runs import Command, Ledger, Note, Run, numbered, repeats
from tests.stress.limits import limited

pytestmark = [pytest.mark.stress, pytest.mark.stress_short, pytest.mark.needs_real_broker, pytest.mark.timeout(300)]

MIB = 2**20


def test_workers_killed_at_random_cost_their_message_only(
    real_kafka: Kafka, running: Callable[..., Run], chance: random.Random, caplog: pytest.LogCaptureFixture
) -> None:
    """SPEC: Chaos - Random Worker Kills."""
    caplog.set_level(logging.CRITICAL)
    values = numbered(5000)
    deadly = set(chance.sample(values, 50))
    topic = real_kafka.create_topic(partitions=3)
    real_kafka.produce(topic, values)

    def work(value: bytes) -> None:
        if value in deadly:
            raise SystemExit("killed")

    ledger = Ledger(work)
    run = running(topic, ledger, worker_count=5)
    run.wait_committed(5000, timeout=120)

    eventually(lambda: run.totals.crashed_workers == 50, what="50 crashed workers")
    states = [worker.state for worker in run.consumer.snapshot().workers]
    assert len([state for state in states if state in ("idle", "busy")]) == 5
    assert len([record for record in caplog.records if "crashed at" in record.getMessage()]) == 50
    assert sorted(row["value"].encode() for row in run.dead_letters()) == sorted(deadly)
    assert ledger.counts() == dict.fromkeys(set(values) - deadly, 1)
    assert run.lag() == 0
    assert run.end() == 0


# --- the network ------------------------------------------------------------------------------------------------------


class Proxy:
    """A TCP proxy whose line can be cut: connections are closed and refused, or stay open while nothing passes."""

    def __init__(self, port: int, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", port))
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._flowing = threading.Event()
        self._flowing.set()
        self._open = True
        self._refusing = False
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def cut(self, *, silently: bool) -> None:
        """Cut the line; ``silently``: packets vanish, as in a partition, else connections are reset and refused."""
        if silently:
            self._flowing.clear()
        else:
            self._refusing = True
            self._drop_all()

    def mend(self) -> None:
        """Let all pass again; what was held back arrives late."""
        self._refusing = False
        self._flowing.set()

    def close(self) -> None:
        self._open = False
        self._flowing.set()
        self._listener.close()
        self._drop_all()

    def _drop_all(self) -> None:
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while self._open:
            try:
                client, _ = self._listener.accept()
                if self._refusing:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._target), timeout=5)
                server.settimeout(None)
            except OSError:
                continue
            with self._lock:
                self._sockets |= {client, server}
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink), name="proxy", daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                self._flowing.wait()
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


class ProxiedKafka(LocalKafka):
    """A broker that tells its clients to come through a proxy."""

    proxy: Proxy

    def _lay_out(self, jars: Path) -> None:
        super()._lay_out(jars)
        (front,) = free_ports(1)
        config = self._config_path(1)
        text = config.read_text()
        behind = f"advertised.listeners=CLIENT://127.0.0.1:{self.port()}"
        assert behind in text
        config.write_text(text.replace(behind, f"advertised.listeners=CLIENT://127.0.0.1:{front}"))
        self.proxy = Proxy(front, self.port())

    def close(self) -> None:
        super().close()
        self.proxy.close()


@pytest.fixture
def proxied_kafka(tmp_path_factory: pytest.TempPathFactory, private_kafka: LocalKafka) -> Iterator[ProxiedKafka]:
    # private_kafka is asked for since it skips, or fails in CI, where no broker of one's own can be had.
    private_kafka.close()
    with ProxiedKafka(folder=tmp_path_factory.mktemp("proxied")) as broker:
        yield broker


# From a thread: a client that hangs in librdkafka lets no signal through, and then the stacks of all threads are wanted.
@pytest.mark.timeout(300, method="thread")
def test_a_network_that_fails_again_and_again_costs_no_message(
    proxied_kafka: ProxiedKafka, running: Callable[..., Run], chance: random.Random, note: Note
) -> None:
    """SPEC: Chaos - Network Partitions."""
    topic = proxied_kafka.create_topic(partitions=3)
    values = numbered(6000)
    proxied_kafka.produce(topic, values)
    ledger = Ledger(lambda value: time.sleep(0.01))
    options: dict[str, Any] = {
        "session.timeout.ms": 6000, "heartbeat.interval.ms": 1000, "socket.timeout.ms": 2000, "reconnect.backoff.max.ms": 500,
        "max.poll.interval.ms": 10_000,
    }  # fmt: skip
    run = running(topic, ledger, kafka=proxied_kafka, queue_size=100, kafka_options=options)
    run.wait_finished(200)

    cuts = 0
    while run.finished() < 4500:
        # Some are shorter than the session, some longer: the member stays, or loses its partitions and comes back.
        proxied_kafka.proxy.cut(silently=chance.random() < 0.5)
        time.sleep(chance.choice((0.3, 1.0, 3.0, 8.0)))
        proxied_kafka.proxy.mend()
        cuts += 1
        time.sleep(chance.uniform(0.5, 2.0))
        assert run.consumer.exit_code is None
    proxied_kafka.wait_for_lag(topic, topic, timeout=90)

    note("cuts", cuts)
    note("repeated", repeats(ledger.values))
    note("rebalances", run.totals.rebalances)
    assert cuts >= 2
    assert set(ledger.values) == set(values)
    assert run.dead_letters() == []
    assert run.end() == 0


# --- the machine ------------------------------------------------------------------------------------------------------


def test_half_a_processor_and_half_a_gigabyte_make_it_slower_and_nothing_else(
    real_kafka: Kafka, command: Callable[..., Command], note: Note
) -> None:
    """SPEC: Chaos - Resource Exhaustion."""
    topic = real_kafka.create_topic(partitions=3)
    values = [(b"%05d-" % number) + b"x" * 10_000 for number in range(10_000)]  # 100 MB
    real_kafka.produce(topic, values)
    kc = command(topic, "--max-inflight-bytes", str(32 * MIB), memory=512 * MIB)
    begun = time.monotonic()
    with limited(kc.process.pid, memory=512 * MIB, cpus=0.5) as means:
        kc.wait_ledger(10_000, timeout=120)
        real_kafka.wait_for_lag(topic, topic)
        seconds = time.monotonic() - begun
        used = psutil.Process(kc.process.pid).cpu_times()

    note("limited_by", means)
    note("processors_used", round((used.user + used.system) / seconds, 2))
    assert (used.user + used.system) / seconds < 0.75
    note("messages_per_second", round(10_000 / seconds))
    assert kc.end() == 0
    assert sorted(kc.ledger()) == [value[:100] for value in values]
    assert kc.lines("ERROR") == kc.lines("CRITICAL") == []
    assert kc.dead_letters() == []
