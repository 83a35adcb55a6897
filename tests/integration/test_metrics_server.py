"""``--metrics-port``: what a scrape and a probe get from a running consumer, and what they can't do to it."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kafka_consumer import metrics_server, rebalance
from kafka_consumer.cli import invoke
from kafka_consumer.errors import ConfigError
from kafka_consumer.metrics_server import CLIENTS, MetricsServer, serve_metrics
from tests.fakes import FakeConsumer
from tests.helpers import eventually
from tests.integration.conftest import GROUP, TOPIC

ROOT = Path(__file__).parents[2]
Get = Callable[..., tuple[int, str]]


@pytest.fixture
def serving() -> Iterator[Callable[[Any], tuple[MetricsServer, Get]]]:
    """Return a function that serves a consumer's metrics and returns the server and ``get(path) -> (status, text)``."""
    contexts = []

    def serve(consumer: Any) -> tuple[MetricsServer, Get]:
        context = serve_metrics(consumer, "127.0.0.1", 0)
        server = context.__enter__()
        assert server is not None
        contexts.append(context)

        def get(path: str, method: str = "GET") -> tuple[int, str]:
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
            try:
                connection.request(method, path)
                answer = connection.getresponse()
                return answer.status, answer.read().decode()
            finally:
                connection.close()

        return server, get

    yield serve
    for context in contexts:
        context.__exit__(None, None, None)


def figures(text: str) -> dict[tuple[str, ...], float]:
    """Return the samples by name and values of labels, in the order of the labels' names."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


# --- figures --------------------------------------------------------------------------------------------------------------


def test_the_figures_of_a_scrape_are_those_of_the_snapshot(broker, live, serving):
    def process(value: bytes) -> None:
        if value == b"bad":
            raise ValueError("no")

    for value in [b"x"] * 40 + [b"bad"] * 2:
        broker.produce(TOPIC, 0, value)
    life = live(processor_callable=process)
    life.wait_committed(42)
    _, get = serving(life.consumer)
    eventually(lambda: life.consumer.snapshot().totals.backup_written == 42)

    status, text = get("/metrics")
    found, shown = figures(text), life.consumer.snapshot()
    assert status == 200
    assert found[("kc_messages_polled_total",)] == shown.totals.polled == 42
    assert found[("kc_messages_processed_total",)] == shown.totals.processed == 40
    assert found[("kc_messages_failed_total",)] == shown.totals.failed == 2
    assert found[("kc_dead_letters_written_total",)] == shown.totals.dlq_written == 2
    assert found[("kc_messages_committed_total",)] == shown.totals.committed == 42
    assert found[("kc_backup_rows_written_total",)] == 42
    assert found[("kc_partition_committed_offset", "0", TOPIC)] == 42
    assert found[("kc_partition_lag_messages", "0", TOPIC)] == shown.partitions[0].lag == 0
    assert found[("kc_assigned_partitions",)] == len(shown.partitions) == 3
    assert found[("kc_workers", "idle")] == 3
    assert found[("kc_processing_duration_seconds_count",)] >= 1
    assert found[("kc_poll_to_commit_duration_seconds_count",)] >= 1
    assert found[("kc_commit_duration_seconds_count",)] >= 1
    assert found[("kc_commit_duration_seconds_sum",)] >= 0
    assert found[("kc_phase", "running")] == 1


def test_a_message_in_work_is_in_flight_and_grows_old(broker, live, serving, gate):
    broker.produce(TOPIC, 1, b"slow")
    life = live(processor_callable=gate)
    eventually(lambda: gate.begun)
    _, get = serving(life.consumer)
    first = figures(get("/metrics")[1])
    assert first[("kc_in_flight_messages",)] == first[("kc_partition_in_flight_messages", "1", TOPIC)] == 1
    assert first[("kc_workers", "busy")] == 1
    eventually(lambda: figures(get("/metrics")[1])[("kc_oldest_unfinished_seconds",)] > first[("kc_oldest_unfinished_seconds",)])


def test_neither_payloads_nor_options_are_in_a_scrape(broker, live, serving, gate):
    broker.produce(TOPIC, 0, b"payload-hunter2", key=b"key-hunter2", headers=[("h", b"header-hunter2")])
    life = live(processor_callable=gate, kafka_options={"sasl.password": "option-hunter2"})
    eventually(lambda: gate.begun)
    _, get = serving(life.consumer)
    for path in ("/metrics", "/livez", "/readyz", "/nothing"):
        assert "hunter2" not in get(path)[1]


def test_the_lag_is_kept_fresh_between_scrapes(live, serving, monkeypatch):
    monkeypatch.setattr(metrics_server, "LOOK_SECONDS", 0.0)
    life = live()
    server, get = serving(life.consumer)
    assert life.consumer._poller.looked_at == 0.0, "expected nobody to look before the first scrape"
    get("/metrics")
    seen = life.consumer._poller.looked_at
    eventually(lambda: life.consumer._poller.looked_at > seen)
    assert server._scraped_at < life.consumer._poller.looked_at


# --- health ---------------------------------------------------------------------------------------------------------------


def test_a_consumer_is_live_at_once_and_ready_once_it_is_in_the_group_and_not_while_it_drains(broker, live, serving, gate):
    life = live(start=False, processor_callable=gate)
    _, get = serving(life.consumer)
    assert get("/livez")[0] == 200
    assert get("/readyz") == (503, "starting\n")
    broker.produce(TOPIC, 0, b"x")
    life.consumer.start()
    eventually(lambda: get("/readyz") == (200, "ok\n"))
    eventually(lambda: gate.begun)
    life.consumer.stop("enough")
    assert eventually(lambda: get("/readyz")[0] == 503 and get("/readyz")) == (503, "draining\n")
    assert get("/livez") == (200, "ok\n"), "expected nobody to kill a consumer that drains"


def test_a_member_without_a_partition_is_ready(broker, live, serving):
    first = live()
    first.wait_assigned(0, 1, 2)
    others = [live() for _ in range(3)]
    eventually(lambda: any(not other._open() and other.consumer.in_group for other in others), what="a member that waits")
    waiting = next(other for other in others if not other._open() and other.consumer.in_group)
    _, get = serving(waiting.consumer)
    assert get("/readyz") == (200, "ok\n")


class Silent(FakeConsumer):
    """As with ``group.protocol=consumer``: who gets no partition hears nothing; the generation says that the group knows it."""

    generation = -1

    def subscribe(self, *_: Any, **__: Any) -> None:
        pass

    def consumer_group_metadata(self) -> bytes:
        return b"CGMDv2:" + self.generation.to_bytes(4, "little", signed=True) + b"group\0member\0\1"


def test_a_member_that_hears_nothing_is_ready_once_it_has_a_generation(broker, live, serving, monkeypatch):
    monkeypatch.setattr(rebalance, "MEMBERSHIP_SECONDS", 0.01)
    client = Silent(broker, GROUP)
    life = live(client=client)
    _, get = serving(life.consumer)
    seen = life.consumer._poller.beat_at
    eventually(lambda: life.consumer._poller.beat_at > seen + 0.2)
    assert get("/readyz") == (503, "not in the group (yet): no assignment has come, not even an empty one\n")
    client.generation = 3
    eventually(lambda: get("/readyz") == (200, "ok\n"))


def test_a_member_that_was_expelled_is_not_ready_until_it_is_back(broker, live, serving):
    life = live()
    life.wait_assigned(0, 1, 2)
    _, get = serving(life.consumer)
    assert get("/readyz")[0] == 200
    life.consumer._poller.partitions.on_lost(life.client, [])
    status, text = get("/readyz")
    assert (status, "not in the group" in text) == (503, True)


def test_a_failed_run_is_not_ready_and_says_why(live, serving):
    life = live()
    _, get = serving(life.consumer)
    life.state.fail("the dead-letter file failed: no space left")
    life.wait_end()
    assert get("/readyz") == (503, "failed: the dead-letter file failed: no space left\n")


@pytest.mark.parametrize("name", ["dlq_path", "backup_path"])
def test_a_folder_that_cannot_be_written_and_a_full_disk_make_it_unready(live, serving, monkeypatch, tmp_path, name):
    life = live()
    life.wait_assigned(0, 1, 2)
    _, get = serving(life.consumer)
    assert get("/readyz")[0] == 200
    other = tmp_path / "other"
    other.mkdir()
    setattr(life.consumer.config, name, str(other / "file.csv"))
    real_access, real_statvfs = os.access, os.statvfs
    monkeypatch.setattr(os, "access", lambda path, mode: path != str(other) and real_access(path, mode))
    assert get("/readyz") == (503, f"the folder of {name} can't be written\n")
    monkeypatch.setattr(os, "access", real_access)
    full = SimpleNamespace(f_bavail=0)
    monkeypatch.setattr(os, "statvfs", lambda path: full if path == str(other) else real_statvfs(path))
    assert get("/readyz") == (503, f"no space left on the disk of {name}\n")


def test_a_loop_that_hangs_is_not_live(broker, live, serving, monkeypatch):
    life = live()
    life.wait_assigned(0, 1, 2)
    _, get = serving(life.consumer)
    assert get("/livez") == (200, "ok\n")
    stuck, go_on = threading.Event(), threading.Event()

    def hang() -> None:
        stuck.set()
        go_on.wait(10)

    threading.Thread(target=lambda: life.consumer._client.call(hang), daemon=True).start()
    try:
        assert stuck.wait(10)
        monkeypatch.setattr("kafka_consumer.kafka_consumer.SILENT_SECONDS", 0.2)
        status, text = eventually(lambda: get("/livez") if get("/livez")[0] != 200 else None, what="a polling thread that hangs")
        assert (status, bool(re.fullmatch(r"the polling thread hasn't moved for \d+ s\n", text))) == (503, True)
        assert get("/readyz")[0] == 503
        assert get("/metrics")[0] == 200, "expected figures all the same: now they are wanted most"
    finally:
        monkeypatch.undo()
        go_on.set()
    eventually(lambda: get("/livez")[0] == 200)


# --- the server -----------------------------------------------------------------------------------------------------------


def test_other_paths_and_methods_are_refused_and_head_has_no_body(live, serving):
    _, get = serving(live().consumer)
    assert get("/")[0] == 404
    assert get("/metrics", "HEAD") == (200, "")
    assert get("/metrics?x=1")[0] == 200
    for method in ("POST", "PUT", "DELETE"):
        assert get("/metrics", method)[0] == 501


def test_openmetrics_is_spoken_where_it_is_asked_for(live, serving):
    server, _ = serving(live().consumer)
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.server_port}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        assert answer.read().endswith(b"# EOF\n")


def test_clients_that_say_nothing_hold_up_neither_scrapes_nor_the_consumer(broker, live, serving):
    life = live()
    server, get = serving(life.consumer)
    silent = [socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(CLIENTS - 1)]
    try:
        assert get("/metrics")[0] == 200
        broker.produce(TOPIC, 0, b"x")
        life.wait_committed(1)
    finally:
        for client in silent:
            client.close()


def test_one_client_too_many_is_turned_away_and_room_comes_back(live, serving):
    server, get = serving(live().consumer)
    silent = [socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(CLIENTS)]
    eventually(lambda: server._places._value == 0, what="all places taken")
    with pytest.raises((http.client.HTTPException, OSError)):
        get("/livez")
    for client in silent:
        client.close()
    eventually(lambda: server._places._value == CLIENTS, what="all places free")
    assert get("/livez")[0] == 200


def test_a_hostile_path_reaches_the_log_as_an_escape(live, serving, log, caplog):
    caplog.set_level("DEBUG", "kafka_consumer")
    server, _ = serving(live().consumer)
    with socket.create_connection(("127.0.0.1", server.server_port)) as client:
        client.sendall(b"GET /\x1b[31mred HTTP/1.0\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.0 404")
    eventually(lambda: any("red" in line for line in log()))
    assert not any("\x1b" in line for line in log())


def test_an_error_of_ours_is_told_in_the_log_and_not_to_the_client(live, serving, log, monkeypatch):
    life = live()
    _, get = serving(life.consumer)

    def broken() -> None:
        raise RuntimeError("a detail")

    monkeypatch.setattr(life.consumer, "snapshot", broken)
    status, text = get("/metrics")
    assert (status, "a detail" in text) == (500, False)
    assert any("/metrics can't be answered" in line for line in log())


def test_the_port_is_free_again_afterwards(live):
    life = live()
    with serve_metrics(life.consumer, "127.0.0.1", 0) as server:
        assert server is not None
        port = server.server_port
    with serve_metrics(life.consumer, "127.0.0.1", port) as again:
        assert again is not None
    with serve_metrics(life.consumer, "127.0.0.1", None) as nothing:
        assert nothing is None


# --- the command line -----------------------------------------------------------------------------------------------------


def test_a_port_in_use_is_one_line_and_exit_code_2(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o700)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert invoke(["--headless", "--demo", "--demo-messages", "1", "--metrics-port", str(port)]) == 2
    told = [line for line in capfd.readouterr().err.splitlines() if "metrics" in line]
    assert told == [f"--metrics-port: can't listen on '127.0.0.1', port {port}: Address already in use"]


def test_without_the_extra_it_is_one_line_and_exit_code_2(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o700)
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "prometheus_client" else real(name, *rest)
    )
    assert invoke(["--headless", "--demo", "--demo-messages", "1", "--metrics-port", "0"]) == 2
    told = [line for line in capfd.readouterr().err.splitlines() if "metrics" in line]
    assert told == ["--metrics-port needs prometheus-client: install the extra, kc[metrics]"]


def test_an_address_that_is_none_of_this_machine_is_one_line(live):
    with pytest.raises(ConfigError, match=r"can't listen on 'nowhere\.invalid', port 0: "):
        MetricsServer(live().consumer, "nowhere.invalid", 0)


class Demo:
    """``kc --demo --headless --metrics-port 0`` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        folder.chmod(0o700)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("KC_")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kafka_consumer", "--headless", "--demo", "--metrics-port", "0"],
                cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**environment, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip

    def port(self) -> int:
        found = eventually(lambda: re.search(r"metrics: http://127.0.0.1:(\d+)/", self.log.read_text()), 30, what="the port")
        return int(found[1])


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    found = Demo(tmp_path)
    yield found
    found.process.send_signal(signal.SIGTERM)
    assert found.process.wait(40) == 0


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Prometheus")
def test_promtool_accepts_the_alerts_the_configuration_and_the_exposition(live, serving):
    folder = ROOT / "deploy" / "prometheus"
    for words in (["check", "rules", "alerts.yml"], ["check", "config", "prometheus.yml"]):
        check = subprocess.run(["promtool", *words], cwd=folder, capture_output=True, text=True, check=False)
        assert check.returncode == 0, check.stdout + check.stderr
    _, get = serving(live().consumer)
    lint = subprocess.run(["promtool", "check", "metrics"], input=get("/metrics")[1], capture_output=True, text=True, check=False)
    assert (lint.returncode, lint.stdout + lint.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs a Prometheus server")
def test_a_prometheus_server_scrapes_a_running_demo_and_evaluates_every_rule(demo, tmp_path):
    port = demo.port()
    folder = tmp_path / "prometheus"
    folder.mkdir()
    text = (ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text()
    text = text.replace("127.0.0.1:9641", f"127.0.0.1:{port}").replace("15s", "1s")
    (folder / "prometheus.yml").write_text(text)
    shutil.copy(ROOT / "deploy" / "prometheus" / "alerts.yml", folder)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        own = probe.getsockname()[1]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            ["prometheus", "--config.file=prometheus.yml", f"--web.listen-address=127.0.0.1:{own}", "--storage.tsdb.path=data"],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip

    def ask(path: str) -> Any:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{own}/api/v1/{path}", timeout=5) as answer:
                return json.load(answer)["data"]
        except OSError:
            return None

    def value(query: str) -> float:
        found = ask(f"query?query={query}")
        return float(found["result"][0]["value"][1]) if found and found["result"] else 0.0

    try:
        eventually(lambda: value("kc_messages_processed_total") > 0, 40, what="a processed message in Prometheus")
        assert value('up{job="kc"}') == 1
        assert value("kc_build_info") == 1
        eventually(lambda: value("sum(kc_processing_duration_seconds_bucket)") > 0, 20, what="a histogram in Prometheus")

        def rules() -> list[dict[str, Any]]:
            groups = (ask("rules") or {"groups": []})["groups"]
            return [rule for group in groups for rule in group["rules"]]

        eventually(lambda: rules() and all(rule["health"] == "ok" for rule in rules()), 20, what="every rule evaluated")
        assert len(rules()) >= 12
    finally:
        server.terminate()
        server.wait(20)


@pytest.mark.slow
def test_a_demo_answers_probes_and_scrapes_while_it_runs(demo):
    port = demo.port()

    def get(path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    eventually(lambda: get("/readyz") == "ok\n", 30, what="a ready demo")
    assert get("/livez") == "ok\n"
    eventually(lambda: figures(get("/metrics")).get(("kc_messages_processed_total",), 0) > 0, 30, what="processed messages")
    begun = time.monotonic()
    text = get("/metrics")
    assert time.monotonic() - begun < 2
    assert 'kc_consumer_info{group="kc-demo",topic="orders"} 1.0' in text


def test_a_fake_client_of_another_group_is_not_in_this_ones_figures(broker, live, serving):
    broker.produce_many(TOPIC, 0, [b"x"] * 5)
    other = FakeConsumer(broker, "another-group")
    other.subscribe([TOPIC])
    life = live()
    life.wait_committed(5)
    _, get = serving(life.consumer)
    assert figures(get("/metrics")[1])[("kc_consumer_info", GROUP, TOPIC)] == 1
    other.close()
