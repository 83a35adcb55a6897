"""``tracing``: one span a call, linked to the producer's, with the failure in it; and nothing at all when it is off."""

from __future__ import annotations

import asyncio
import functools
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from kafka_consumer import ConfigError, Message
from tests.helpers import eventually, make_config, make_state
from tests.integration.conftest import GROUP, TOPIC

ROOT = Path(__file__).parents[2]
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = [("traceparent", f"00-{TRACE}-{SPAN}-01".encode()), ("tracestate", b"vendor=1")]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """What was exported; the provider is this test's alone."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return exporter


def finished(spans: InMemorySpanExporter, count: int = 1):
    return eventually(lambda: len(spans.get_finished_spans()) >= count and spans.get_finished_spans(), what=f"{count} spans")


@pytest.mark.parametrize("kind", ["thread", "coroutine"])
def test_a_call_is_a_span_by_the_conventions_linked_to_the_producers(broker, live, spans, kind):
    async def process_async(value: bytes) -> None:
        await asyncio.sleep(0)

    broker.produce(TOPIC, 1, b"hello", headers=PARENT)
    life = live(processor_callable=process_async if kind == "coroutine" else bytes.decode, tracing=True)
    (span,) = finished(spans)
    assert span.name == f"process {TOPIC}"
    assert span.kind is SpanKind.CONSUMER
    assert span.parent is None
    assert span.status.status_code is StatusCode.UNSET
    assert dict(span.attributes or {}) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.consumer.group.name": GROUP,
        "messaging.client.id": "kc",
        "messaging.destination.name": TOPIC,
        "messaging.destination.partition.id": "1",
        "messaging.kafka.offset": 0,
        "messaging.message.body.size": 5,
    }
    (link,) = span.links
    assert (f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") == (TRACE, SPAN)
    assert link.context.is_remote
    assert link.context.trace_state["vendor"] == "1"
    life.wait_committed(1, 1)


@pytest.mark.parametrize(
    "headers",
    [[], [("traceparent", None)], [("traceparent", b"\xff\x00nonsense")], [("traceparent", b"00-0-0-01")], [("other", b"x")]],
)
def test_without_a_context_worth_the_name_there_is_no_link(broker, live, spans, headers):
    broker.produce(TOPIC, 0, b"x", headers=headers)
    live(tracing=True)
    (span,) = finished(spans)
    assert span.links == ()


def test_a_tombstone_is_told_by_its_attribute(broker, live, spans):
    broker.produce(TOPIC, 0, None)
    live(tracing=True)
    (span,) = finished(spans)
    assert span.attributes["messaging.kafka.message.tombstone"] is True
    assert "messaging.message.body.size" not in span.attributes


@pytest.mark.parametrize("kind", ["thread", "coroutine"])
def test_each_attempt_is_a_span_and_a_failure_is_in_it(broker, live, spans, kind):
    calls = []

    def process(value: bytes) -> None:
        calls.append(value)
        if len(calls) == 1:
            raise ValueError("it is wrong")

    async def process_async(value: bytes) -> None:
        process(value)

    broker.produce(TOPIC, 0, b"x")
    life = live(
        processor_callable=process_async if kind == "coroutine" else process,
        tracing=True,
        max_attempts=2,
        retry_backoff_seconds=0,
    )
    first, second = finished(spans, 2)
    assert first.status.status_code is StatusCode.ERROR
    assert first.status.description == "ValueError: it is wrong"
    assert first.attributes["error.type"] == "ValueError"
    (event,) = first.events
    assert event.attributes["exception.message"] == "it is wrong"
    assert "it is wrong" in event.attributes["exception.stacktrace"]
    assert second.status.status_code is StatusCode.UNSET
    life.wait_committed(1)


def test_an_error_that_cannot_be_shown_ends_in_the_dead_letters_all_the_same(broker, live, spans):
    class UnshowableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    def process(value: bytes) -> None:
        raise UnshowableError

    broker.produce(TOPIC, 0, b"x")
    life = live(processor_callable=process, tracing=True)
    life.wait_committed(1)
    (span,) = finished(spans)
    assert span.attributes["error.type"] == "UnshowableError"
    assert [row["error_type"] for row in life.dead_letters()] == ["UnshowableError"]


def test_a_coroutine_that_runs_out_of_time_is_a_failed_span(broker, live, spans):
    async def process(value: bytes) -> None:
        await asyncio.sleep(60)

    broker.produce(TOPIC, 0, b"x")
    life = live(processor_callable=process, tracing=True, processing_timeout=0.1)
    life.wait_committed(1)
    (span,) = finished(spans)
    assert span.attributes["error.type"] == "CancelledError"


@pytest.mark.parametrize("kind", ["thread", "coroutine"])
def test_spans_of_the_processor_are_children_of_the_messages_own(broker, live, spans, kind):
    tracer = trace.get_tracer("the application")
    together = threading.Barrier(2)

    def process(value: bytes) -> None:
        together.wait(10)
        with tracer.start_as_current_span("inner", attributes={"value": value.decode()}):
            pass

    waiting = []

    async def process_async(value: bytes) -> None:
        waiting.append(value)
        while len(waiting) < 2:
            await asyncio.sleep(0)
        with tracer.start_as_current_span("inner", attributes={"value": value.decode()}):
            await asyncio.sleep(0.01)

    broker.produce(TOPIC, 0, b"0")
    broker.produce(TOPIC, 1, b"1")
    live(processor_callable=process_async if kind == "coroutine" else process, tracing=True, worker_count=2)
    found = finished(spans, 4)
    outer = {
        span.context.span_id: span.attributes["messaging.destination.partition.id"] for span in found if span.name != "inner"
    }
    inner = [span for span in found if span.name == "inner"]
    assert {outer[span.parent.span_id]: span.attributes["value"] for span in inner} == {"0": "0", "1": "1"}
    assert len({span.context.trace_id for span in inner}) == 2, "expected each message in a trace of its own"


def test_a_processor_that_takes_the_message_gets_it(broker, live, spans):
    seen: list[Message] = []

    def process(message: Message) -> None:
        seen.append(message)

    broker.produce(TOPIC, 0, b"x", key=b"k")
    live(processor_callable=process, tracing=True)
    finished(spans)
    assert (seen[0].value, seen[0].key) == (b"x", b"k")


def test_neither_key_nor_value_is_in_a_span(broker, live, spans):
    broker.produce(TOPIC, 0, b"value-hunter2", key=b"key-hunter2", headers=[("h", b"header-hunter2")])
    live(tracing=True)
    (span,) = finished(spans)
    assert "hunter2" not in span.to_json()


def test_without_a_provider_there_is_a_warning_and_the_work_goes_on(broker, live, log, monkeypatch):
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    broker.produce(TOPIC, 0, b"x")
    life = live(tracing=True)
    life.wait_committed(1)
    assert any("no tracer provider is set" in line for line in log())


def test_processes_are_refused_with_the_reason(tmp_path):
    with pytest.raises(ConfigError, match="tracing: expected executor 'thread' or 'asyncio' with it"):
        make_config(tmp_path, tracing=True, executor="process")


def test_without_the_extra_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^tracing needs opentelemetry-api: install the extra, kc\[otel\]$"):
        make_state(tmp_path, tracing=True)


def test_off_nothing_stands_between_a_worker_and_the_processor(tmp_path):
    process = functools.partial(bytes.decode)
    state = make_state(tmp_path, processor_callable=process)
    assert state.processor is process
    assert state.takes_messages is False
    assert state.argument(object(), b"x") == b"x"


def test_off_neither_the_tracer_nor_a_registry_nor_prometheus_is_imported():
    code = (
        "import json, sys; from kafka_consumer import *; import kafka_consumer.cli; from kafka_consumer.shared_state import *; "
        "SharedState(KafkaConsumerConfig(bootstrap_servers='b', topic='t', group_id='g', processor_callable=print)); "
        "print(json.dumps(sorted(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = set(json.loads(found.stdout))
    assert not {name for name in modules if name.split(".")[0] in {"opentelemetry", "prometheus_client", "httpx2", "fastavro"}}
    assert not {"kafka_consumer.tracing", "kafka_consumer.decoding", "kafka_consumer.metrics"} & modules
