"""What a consumer tells Prometheus: one table, read from one snapshot at the moment of a scrape. Nothing is counted for its sake.

``METRICS`` is the table, and docs/METRICS.md is written from it. Names and units follow Prometheus' conventions: base units, and
``_total`` for what only grows. Labels are of few values: topic and partition, the name of a queue, the state of a worker. No
offset and no key is ever one.

Histograms come from ``stats.LatencySamples``: an observation is what is measured anyway. ``Collector`` needs prometheus-client.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from kafka_consumer.snapshot import PartitionView, Snapshot
from kafka_consumer.types import PartitionStatus, Phase, WorkerState

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family
    from prometheus_client.registry import CollectorRegistry

    from kafka_consumer.stats import Distribution

Sample = tuple[Sequence[str], float]
"""The values of a metric's labels, and the figure."""

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
QUEUES = ("processing", "processed", "dlq", "backup")
PARTITION = ("topic", "partition")


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. ``name`` is as it is exposed; ``read`` takes it out of a snapshot, and leaves out what isn't known yet.

    A histogram has no ``read``: it is found by its name in ``consumer.distributions()``.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    read: Callable[[Snapshot], Iterable[Sample]] = lambda _: ()


class Source(Protocol):
    """What is scraped: a ``KafkaConsumer``."""

    def snapshot(self) -> Snapshot: ...
    def distributions(self) -> Mapping[str, Distribution]: ...


def _total(name: str, field: str, text: str) -> Metric:
    return Metric(name, COUNTER, text, (), lambda snapshot: [((), getattr(snapshot.totals, field))])


def _gauge(name: str, text: str, read: Callable[[Snapshot], float | None]) -> Metric:
    def samples(snapshot: Snapshot) -> Iterator[Sample]:
        value = read(snapshot)
        if value is not None:
            yield (), value

    return Metric(name, GAUGE, text, (), samples)


def _of_partitions(name: str, text: str, read: Callable[[PartitionView], float | None]) -> Metric:
    def samples(snapshot: Snapshot) -> Iterator[Sample]:
        for view in snapshot.partitions:
            value = read(view)
            if value is not None:
                yield (view.topic, str(view.partition)), value

    return Metric(name, GAUGE, text, PARTITION, samples)


def _of_queues(name: str, text: str, field: str) -> Metric:
    def samples(snapshot: Snapshot) -> Iterator[Sample]:
        for queue in QUEUES:
            value = getattr(snapshot.queues[queue], field) if queue in snapshot.queues else None
            if value is not None:
                yield (queue,), value

    return Metric(name, GAUGE, text, ("queue",), samples)


def _workers(snapshot: Snapshot) -> Iterator[Sample]:
    states = Counter(worker.state for worker in snapshot.workers)
    for state in WorkerState:
        yield (state.value,), states[state.value]


def _phases(snapshot: Snapshot) -> Iterator[Sample]:
    for phase in Phase:
        yield (phase.value,), float(snapshot.phase == phase.value)


def _build(_snapshot: Snapshot) -> Iterator[Sample]:
    import confluent_kafka

    import kafka_consumer

    yield (kafka_consumer.__version__, platform.python_version(), confluent_kafka.libversion()[0]), 1.0


def _oldest(snapshot: Snapshot) -> float:
    return max((view.oldest_seconds for view in snapshot.partitions if view.oldest_seconds is not None), default=0.0)


METRICS: tuple[Metric, ...] = (
    Metric("kc_build_info", GAUGE, "Always 1: which versions run.", ("version", "python", "librdkafka"), _build),
    Metric("kc_consumer_info", GAUGE, "Always 1: what is consumed, as which group.", ("topic", "group"),
           lambda snapshot: [((snapshot.topic, snapshot.group_id), 1.0)]),
    _gauge("kc_start_time_seconds", "When the consumer was started, in seconds since the epoch.",
           lambda snapshot: snapshot.at - snapshot.uptime_seconds),
    Metric("kc_phase", GAUGE, "1 for the phase of its life that the consumer is in, 0 for the others.", ("phase",), _phases),
    _gauge("kc_paused", "1 while polling is paused: by the operator, or because too many messages fail.",
           lambda snapshot: float(snapshot.paused)),
    _gauge("kc_dev_mode", "1 while nothing is committed because dev mode is on.", lambda snapshot: float(snapshot.dev_mode)),
    _total("kc_messages_polled_total", "polled", "Messages polled."),
    _total("kc_messages_processed_total", "processed", "Messages that the processor has finished without an error."),
    _total("kc_messages_failed_total", "failed", "Messages that failed for good: they go to the dead letters."),
    _total("kc_retries_total", "retried", "Further attempts at messages that had failed."),
    _total("kc_messages_committed_total", "committed", "Messages below the offsets whose commit Kafka has acknowledged."),
    _total("kc_dead_letters_written_total", "dlq_written", "Dead letters written and synced."),
    _total("kc_dead_letters_published_total", "dlq_published", "Dead letters that the topic dlq_topic has acknowledged."),
    _total("kc_dead_letters_unpublished_total", "dlq_unpublished",
           "Dead letters that the topic dlq_topic doesn't take, as too large ones; the files have them."),
    _total("kc_backup_rows_written_total", "backup_written", "Messages written to the backup."),
    _total("kc_backup_rows_skipped_total", "backup_skipped", "Messages left out of the backup because it couldn't keep up."),
    _total("kc_processing_timeouts_total", "timed_out", "Calls that took longer than processing_timeout."),
    _total("kc_worker_crashes_total", "crashed_workers", "Workers that crashed and were replaced."),
    _total("kc_commit_failures_total", "commit_failures", "Commits that failed; they are tried again."),
    _total("kc_poll_errors_total", "poll_errors", "Errors met while polling."),
    _total("kc_rebalances_total", "rebalances", "Assignments and revocations of partitions."),
    _total("kc_records_lost_total", "records_lost", "Records deleted from the topic before they were read, at the most."),
    _of_queues("kc_queue_messages", "Messages in a queue.", "depth"),
    _of_queues("kc_queue_capacity_messages", "Messages that fit into a queue; not given for one without a bound.", "capacity"),
    _of_queues("kc_queue_bytes", "Bytes of the values in a queue; for processing, also of those with a worker.", "bytes"),
    Metric("kc_workers", GAUGE, "Workers by what they are doing.", ("state",), _workers),
    _gauge("kc_stuck_calls", "Calls of the processor that ran out of time and haven't ended.",
           lambda snapshot: snapshot.stuck_threads),
    _gauge("kc_assigned_partitions", "Partitions assigned to this consumer.", lambda snapshot: len(snapshot.partitions)),
    _gauge("kc_in_flight_messages", "Messages polled and not finished.",
           lambda snapshot: sum(view.in_flight for view in snapshot.partitions)),
    _gauge("kc_oldest_unfinished_seconds", "How long ago the oldest unfinished message was polled; 0 when there is none.",
           _oldest),
    _of_partitions("kc_partition_in_flight_messages", "Messages of a partition polled and not finished.",
                   lambda view: view.in_flight),
    _of_partitions("kc_partition_lag_messages",
                   "High watermark minus committed offset (minus position when nothing is committed); not given while unknown.",
                   lambda view: view.lag),
    _of_partitions("kc_partition_time_lag_seconds",
                   "Age of the last message polled while the partition isn't read to its end; not given once it is.",
                   lambda view: view.time_lag_seconds),
    _of_partitions("kc_partition_oldest_unfinished_seconds",
                   "How long ago a partition's oldest unfinished message was polled; not given when there is none.",
                   lambda view: view.oldest_seconds),
    _of_partitions("kc_partition_position_offset", "The offset that is polled next.", lambda view: view.position),
    _of_partitions("kc_partition_committed_offset", "The offset that was committed last.", lambda view: view.committed),
    _of_partitions("kc_partition_high_watermark_offset", "The offset of the next message that is produced.",
                   lambda view: view.high_watermark),
    _of_partitions("kc_partition_running", "1 while messages of a partition are taken, 0 while it is paused or has reached its "
                   "stop target.", lambda view: float(view.state == PartitionStatus.RUNNING.value)),
    Metric("kc_processing_duration_seconds", HISTOGRAM,
           "One call of the processor. A function that takes milliseconds or longer is measured call by call. A faster one gets "
           "many messages at a time, and an observation is their mean; of coroutines, one message in a refill is measured."),
    Metric("kc_poll_to_commit_duration_seconds", HISTOGRAM,
           "From the poll of messages to the acknowledgement of the commit that covers them; an observation for each batch of a "
           "partition."),
    Metric("kc_commit_duration_seconds", HISTOGRAM, "From posting a commit to Kafka's answer, a failure included."),
)  # fmt: skip
"""Every metric but the process's own (``process_*``), which prometheus-client adds where the system tells them."""


class Collector:
    """Answers a scrape with the figures of one snapshot; for prometheus-client's registry."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def describe(self) -> Iterable[Family]:
        """Return nothing: the registry mustn't scrape to find out names."""
        return ()

    def collect(self) -> Iterator[Family]:
        """Take a snapshot; yield its figures."""
        snapshot = self._source.snapshot()
        distributions = self._source.distributions()
        for metric in METRICS:
            if metric.kind == HISTOGRAM:
                yield _histogram(metric, distributions[metric.name])
            else:
                yield _family(metric, snapshot)


def _family(metric: Metric, snapshot: Snapshot) -> Family:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    kind: Any = CounterMetricFamily if metric.kind == COUNTER else GaugeMetricFamily
    family: Family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in metric.read(snapshot):
        family.add_metric(labels, value)  # type: ignore[attr-defined] # both kinds have it
    return family


def _histogram(metric: Metric, seen: Distribution) -> Family:
    from prometheus_client.core import HistogramMetricFamily

    buckets = [("+Inf" if bound is None else repr(bound), float(count)) for bound, count in seen.cumulative()]
    return HistogramMetricFamily(metric.name, metric.help, buckets=buckets, sum_value=seen.sum)


def registry_of(source: Source) -> CollectorRegistry:
    """Return a registry of this consumer's metrics and the process's own. Needs prometheus-client."""
    from prometheus_client import CollectorRegistry, ProcessCollector

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(source))
    ProcessCollector(registry=registry)
    return registry
