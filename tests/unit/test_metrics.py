"""The table of metrics: every figure of a snapshot under a conventional name; dashboard and alerts name nothing else."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kafka_consumer.metrics import COUNTER, GAUGE, HISTOGRAM, METRICS, registry_of
from kafka_consumer.snapshot import (
    Latency,
    PartitionView,
    Percentiles,
    QueueView,
    Rates,
    Snapshot,
    Totals,
    WorkerView,
)
from kafka_consumer.stats import BOUNDS, Distribution, LatencySamples

ROOT = Path(__file__).parents[2]
NONE = Percentiles(None, None, None)
NAMES = {metric.name for metric in METRICS}
EXPOSED = NAMES | {f"{m.name}{end}" for m in METRICS if m.kind == HISTOGRAM for end in ("_bucket", "_count", "_sum")}

Figures = dict[tuple[str, frozenset[tuple[str, str]]], float]


def partition(number: int, **fields: object) -> PartitionView:
    given = {
        "topic": "orders", "partition": number, "state": "running", "position": 50, "committed": 40, "high_watermark": 90,
        "lag": 50, "in_flight": 7, "stop_at": None, "rate": 1.0, "eta_seconds": None, "oldest_seconds": 2.5,
        "time_lag_seconds": 12.25, "note": "",
    }  # fmt: skip
    return PartitionView(**{**given, **fields})  # type: ignore[arg-type]


def worker(number: int, state: str) -> WorkerView:
    return WorkerView(number, state, None, None, None, 0.0, 0, 0)


SNAPSHOT = Snapshot(
    version=1, sequence=1, at=1_000_000.0, phase="running", pid=1, group_id="billing", topic="orders", uptime_seconds=250.0,
    dev_mode=False, paused=True,
    queues={
        "processing": QueueView(5, 1000, 512), "processed": QueueView(3, None, 0), "dlq": QueueView(2, None, 99),
        "backup": QueueView(8, 1000, 64),
    },
    workers=(worker(0, "busy"), worker(1, "busy"), worker(2, "idle"), worker(3, "stuck")),
    partitions=(
        partition(0),
        partition(1, state="paused", lag=None, committed=None, oldest_seconds=9.0, time_lag_seconds=None, in_flight=1),
    ),
    totals=Totals(*range(101, 101 + len(dataclasses.fields(Totals)))),
    rates=Rates(0, 0, 0, 0), latency=Latency(NONE, NONE), replay=None, dlq_tail=(), log_tail=(), stop_reason=None,
    log_level="INFO", stuck_threads=1,
)  # fmt: skip


class Frozen:
    """A consumer at one moment that never passes; it counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.samples = {metric.name: LatencySamples() for metric in METRICS if metric.kind == HISTOGRAM}

    def snapshot(self) -> Snapshot:
        self.asked += 1
        return SNAPSHOT

    def distributions(self) -> Mapping[str, Distribution]:
        return {name: samples.distribution() for name, samples in self.samples.items()}


def scrape(source: Frozen) -> Figures:
    from prometheus_client import generate_latest

    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry_of(source)).decode())
        for sample in family.samples
    }


def of(figures: Figures, name: str, **labels: str) -> float | None:
    return figures.get((name, frozenset(labels.items())))


def test_a_scrape_takes_one_snapshot():
    source = Frozen()
    registry_of(source)
    assert source.asked == 0, "expected nothing to be asked before the first scrape"
    scrape(source)
    assert source.asked == 1


def test_every_total_of_a_snapshot_is_exposed_once_with_its_own_figure():
    figures = scrape(Frozen())
    totals = sorted(getattr(SNAPSHOT.totals, field.name) for field in dataclasses.fields(Totals))
    assert sorted(int(figures[metric.name, frozenset()]) for metric in METRICS if metric.kind == COUNTER) == totals
    assert of(figures, "kc_records_lost_total") == SNAPSHOT.totals.records_lost
    assert of(figures, "kc_messages_polled_total") == SNAPSHOT.totals.polled
    assert of(figures, "kc_dead_letters_written_total") == SNAPSHOT.totals.dlq_written
    assert of(figures, "kc_commit_failures_total") == SNAPSHOT.totals.commit_failures


def test_the_other_figures_are_those_of_the_snapshot():
    figures = scrape(Frozen())
    zero, one = {"topic": "orders", "partition": "0"}, {"topic": "orders", "partition": "1"}
    assert of(figures, "kc_partition_lag_messages", **zero) == 50
    assert of(figures, "kc_partition_time_lag_seconds", **zero) == 12.25
    assert of(figures, "kc_partition_position_offset", **zero) == 50
    assert of(figures, "kc_partition_committed_offset", **zero) == 40
    assert of(figures, "kc_partition_high_watermark_offset", **zero) == 90
    assert (of(figures, "kc_partition_running", **zero), of(figures, "kc_partition_running", **one)) == (1, 0)
    assert (of(figures, "kc_in_flight_messages"), of(figures, "kc_oldest_unfinished_seconds")) == (8, 9.0)
    assert of(figures, "kc_partition_in_flight_messages", **one) == 1
    assert of(figures, "kc_queue_messages", queue="dlq") == 2
    assert of(figures, "kc_queue_capacity_messages", queue="backup") == 1000
    assert of(figures, "kc_queue_bytes", queue="processing") == 512
    assert [of(figures, "kc_workers", state=state) for state in ("idle", "busy", "stuck", "crashed", "stopped")] == [
        1,
        2,
        1,
        0,
        0,
    ]
    assert (of(figures, "kc_stuck_calls"), of(figures, "kc_assigned_partitions")) == (1, 2)
    assert (of(figures, "kc_paused"), of(figures, "kc_dev_mode")) == (1, 0)
    assert [of(figures, "kc_phase", phase=phase) for phase in ("starting", "running", "failed")] == [0, 1, 0]
    assert of(figures, "kc_start_time_seconds") == 999_750
    assert of(figures, "kc_consumer_info", topic="orders", group="billing") == 1


def test_what_is_not_known_is_left_out_instead_of_being_a_zero():
    figures = scrape(Frozen())
    one = {"topic": "orders", "partition": "1"}
    assert of(figures, "kc_partition_lag_messages", **one) is None
    assert of(figures, "kc_partition_committed_offset", **one) is None
    assert of(figures, "kc_partition_time_lag_seconds", **one) is None
    assert of(figures, "kc_queue_capacity_messages", queue="dlq") is None


def test_a_histogram_has_the_samples_in_its_buckets_a_bound_included():
    source = Frozen()
    samples = source.samples["kc_processing_duration_seconds"]
    for seconds in (0.000001, 0.001, 0.0011, 2.0, 1000.0):
        samples.add(seconds)
    figures = scrape(source)
    name = "kc_processing_duration_seconds"
    assert [of(figures, f"{name}_bucket", le=le) for le in ("1e-05", "0.001", "0.0025", "1.0", "2.5", "300.0", "+Inf")] == [
        1, 2, 3, 3, 4, 4, 5,
    ]  # fmt: skip
    assert of(figures, f"{name}_count") == 5
    assert of(figures, f"{name}_sum") == pytest.approx(1002.002101)


def test_a_histogram_never_forgets_as_the_percentiles_do():
    samples = LatencySamples()
    for _ in range(5000):
        samples.add(0.2)
    assert sum(samples.distribution().counts) == 5000


def test_names_and_units_follow_the_conventions():
    assert len(NAMES) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"kc_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") is (metric.kind == COUNTER), metric.name
        assert metric.kind in {COUNTER, GAUGE, HISTOGRAM}
        assert metric.kind != HISTOGRAM or metric.name.endswith("_seconds")
        assert set(metric.labels) <= {
            "topic", "partition", "queue", "state", "phase", "group", "version", "python", "librdkafka"
        }, metric.name  # fmt: skip
        assert metric.help.endswith("."), metric.name
    assert list(BOUNDS) == sorted(BOUNDS)


def test_no_figure_of_the_table_is_missing_from_a_scrape():
    figures = scrape(Frozen())
    exposed = {name for name, _ in figures}
    assert exposed >= {metric.name for metric in METRICS if metric.kind != HISTOGRAM}


def test_the_page_is_current():
    script = ROOT / "docs" / "generate_metrics.py"
    check = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stdout + check.stderr


# --- the dashboard and the alerts ----------------------------------------------------------------------------------------


def named_in(text: str) -> set[str]:
    return set(re.findall(r"\b(?:kc|process)_[a-z_]+\b", text))


def test_the_dashboard_and_the_alerts_name_only_what_is_exposed():
    exposed = EXPOSED | {name for name, _ in scrape(Frozen())}
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "kc.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    queries += [variable["query"]["query"] for variable in dashboard["templating"]["list"] if isinstance(variable["query"], dict)]
    assert len(queries) > 30
    assert named_in(" ".join(queries)) <= exposed
    alerts = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text()
    assert len(named_in(alerts)) >= 10
    assert named_in(alerts) <= exposed


def test_each_panel_of_the_dashboard_has_a_place_of_its_own():
    panels = json.loads((ROOT / "deploy" / "grafana" / "kc.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
