"""The configuration is checked when it is built; the shared state starts in order, and a hundred threads don't break it."""

from __future__ import annotations

import builtins
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kafka_consumer import ConfigError, KafkaConsumerConfig, SharedState, validate_config
from kafka_consumer.assignment import Assignment
from kafka_consumer.batch_queue import RunningFlag
from kafka_consumer.chunk import Chunk, Completion
from kafka_consumer.config import OPTIONS
from kafka_consumer.types import Phase
from tests.fakes import MockMessage
from tests.helpers import make_config, make_state

REQUIRED = ("bootstrap_servers", "topic", "group_id", "processor_callable")


# --- what is accepted -------------------------------------------------------------------------------------------------


def test_a_valid_configuration_passes(mock_config: dict[str, Any]):
    """SPEC: Config Validation - Valid Inputs."""
    config = KafkaConsumerConfig(**mock_config)
    config.validate_config()
    validate_config(config)
    assert (config.topic, config.worker_count, config.queue_size) == ("test-topic", 5, 20)


def test_the_defaults_are_those_of_the_contract(mock_config: dict[str, Any]):
    config = KafkaConsumerConfig(**{name: mock_config[name] for name in (*REQUIRED, "backup_path", "dlq_path")})
    assert {name: getattr(config, name) for name in OPTIONS if name not in mock_config} == {
        "commit_interval_seconds": 5.0,
        "dlq_topic": None,
        "stop_at_offset": None,
        "dev_mode": False,
        "max_message_size": 10 * 1024 * 1024,
        "processing_timeout": None,
        "csv_batch_size": 100,
        "csv_flush_interval_seconds": 5.0,
        "dlq_csv_batch_size": 100,
        "max_inflight_bytes": 256 * 1024 * 1024,
        "value_encoding": "utf-8",
        "ordering": "unordered",
        "max_attempts": 1,
        "retry_backoff_seconds": 1.0,
        "retry_backoff_max_seconds": 60.0,
        "fatal_exceptions": (),
        "executor": "thread",
        "backup_mode": "best-effort",
        "backup_retention_hours": None,
        "backup_compress": False,
        "commit_metadata": True,
        "max_uncommitted_span": 20_000,
        "shutdown_warning_seconds": 30.0,
        "on_offset_out_of_range": "fail",
        "max_failure_ratio": None,
        "crash_loop_limit": None, "event_loop": "asyncio",
        "shutdown_drain_seconds": None,
        "shutdown_timeout_seconds": 30.0,
        "replay_from": None,
        "replay_to": None,
        "replay_commit": False,
        "max_rate": None,
        "fail_on_dlq": False,
        "decode": "raw",
        "schema_registry_url": None,
        "protobuf_type": None,
        "tracing": False,
        "kafka_options": {},
    }
    assert (config.worker_count, config.queue_size, config.log_level) == (10, 1000, "INFO")


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_required_option_is_an_assertion_error(mock_config: dict[str, Any], name: str):
    """SPEC: Config Validation - Missing Required Params."""
    del mock_config[name]
    with pytest.raises(AssertionError, match=f"^{name}: missing"):
        KafkaConsumerConfig(**mock_config)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bootstrap_servers", 9092),
        ("topic", ["orders"]),
        ("group_id", None),
        ("processor_callable", "not callable"),
        ("processor_callable", 7),
        ("worker_count", "5"),
        ("worker_count", True),
        ("worker_count", 5.0),
        ("commit_interval_seconds", "5"),
        ("commit_interval_seconds", True),
        ("commit_interval_seconds", float("nan")),
        ("commit_interval_seconds", float("inf")),
        ("dev_mode", 1),
        ("log_level", 20),
        ("log_level", "LOUD"),
        ("backup_path", 5),
        ("value_encoding", "latin-1"),
        ("ordering", None),
        ("fatal_exceptions", ValueError),
        ("fatal_exceptions", (int,)),
        ("kafka_options", "a=b"),
        ("kafka_options", {1: "b"}),
    ],
)
def test_a_value_of_the_wrong_type_is_an_assertion_error(mock_config: dict[str, Any], name: str, value: Any):
    """SPEC: Config Validation - Invalid Types."""
    with pytest.raises(AssertionError, match=f"^{name}: expected .*, got "):
        KafkaConsumerConfig(**{**mock_config, name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("worker_count", 0),
        ("worker_count", 2000),
        ("worker_count", 1001),
        ("queue_size", 5),
        ("queue_size", 9),
        ("queue_size", 1_000_001),
        ("commit_interval_seconds", 0),
        ("commit_interval_seconds", -1.0),
        ("processing_timeout", 0),
        ("max_message_size", 0),
        ("csv_batch_size", 0),
        ("max_attempts", 0),
        ("retry_backoff_seconds", -0.1),
        ("max_failure_ratio", 0),
        ("max_failure_ratio", 1.01),
        ("max_failure_ratio", True),
        ("shutdown_drain_seconds", 0),
        ("on_offset_out_of_range", "middle"),
        ("topic", ""),
        ("topic", "  "),
        ("group_id", ""),
        ("bootstrap_servers", ""),
    ],
)
def test_a_value_out_of_range_is_an_assertion_error(mock_config: dict[str, Any], name: str, value: Any):
    """SPEC: Config Validation - Out of Range Values."""
    with pytest.raises(AssertionError, match=f"^{name}: "):
        KafkaConsumerConfig(**{**mock_config, name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("worker_count", 1), ("worker_count", 1000), ("queue_size", 10), ("queue_size", 1_000_000), ("retry_backoff_seconds", 0)],
)
def test_the_ends_of_a_range_are_accepted(mock_config: dict[str, Any], name: str, value: Any):
    """SPEC: Config Validation - Out of Range Values."""
    assert getattr(KafkaConsumerConfig(**{**mock_config, name: value}), name) == value


@pytest.mark.parametrize("name", ["backup_path", "dlq_path"])
def test_a_path_in_a_missing_directory_is_refused(mock_config: dict[str, Any], temp_dir: str, name: str):
    """SPEC: Config Validation - Invalid File Paths."""
    with pytest.raises(AssertionError, match="is not a directory: create it first"):
        KafkaConsumerConfig(**{**mock_config, name: f"{temp_dir}/absent/file.csv"})


@pytest.mark.parametrize("name", ["backup_path", "dlq_path"])
def test_a_path_in_a_directory_that_cannot_be_written_is_refused(
    mock_config: dict[str, Any], temp_dir: str, name: str, monkeypatch: pytest.MonkeyPatch
):
    """SPEC: Config Validation - Invalid File Paths."""
    folder = Path(temp_dir) / "read-only"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):  # root may write anywhere: ask what an ordinary user would be told
        monkeypatch.setattr(os, "access", lambda path, mode: os.fspath(path) != str(folder))
    with pytest.raises(AssertionError, match="is not writable for this user"):
        KafkaConsumerConfig(**{**mock_config, name: str(folder / "file.csv")})


def test_a_directory_is_no_file(mock_config: dict[str, Any], temp_dir: str):
    """SPEC: Config Validation - Invalid File Paths."""
    with pytest.raises(ConfigError, match="this is a directory"):
        KafkaConsumerConfig(**{**mock_config, "backup_path": temp_dir})


def test_the_two_files_have_to_differ(mock_config: dict[str, Any], temp_dir: str):
    os.symlink(mock_config["backup_path"], f"{temp_dir}/link.csv")
    for same in (mock_config["backup_path"], f"{temp_dir}/../{Path(temp_dir).name}/backup.csv", f"{temp_dir}/link.csv"):
        with pytest.raises(ConfigError, match="expected another file than backup_path"):
            KafkaConsumerConfig(**{**mock_config, "dlq_path": same})


def test_a_backup_that_is_off_needs_no_path(mock_config: dict[str, Any]):
    config = KafkaConsumerConfig(**{**mock_config, "backup_path": "/nowhere/at/all.csv", "backup_mode": "off"})
    assert config.backup_mode == "off"


def test_a_path_object_becomes_text(mock_config: dict[str, Any], temp_dir: str):
    assert KafkaConsumerConfig(**{**mock_config, "dlq_path": Path(temp_dir) / "d.csv"}).dlq_path == f"{temp_dir}/d.csv"


@pytest.mark.parametrize("value", [None, {}, {("topic", 0): 100}, {("topic", 0): 0, ("other", 7): 1 << 40}])
def test_a_proper_stop_target_is_accepted(mock_config: dict[str, Any], value: Any):
    """SPEC: Config Validation - stop_at_offset Format."""
    assert KafkaConsumerConfig(**{**mock_config, "stop_at_offset": value}).stop_at_offset == value


@pytest.mark.parametrize(
    "value",
    [
        {("topic",): 100},
        {"topic": 100},
        {("topic", 0): -1},
        {("topic", -1): 100},
        {("topic", 0, 0): 100},
        {("", 0): 100},
        {(0, "topic"): 100},
        {("topic", "0"): 100},
        {("topic", 0): "100"},
        {("topic", 0): True},
        {("topic", True): 1},
        [("topic", 0, 100)],
        "topic:0:100",
    ],
)
def test_an_improper_stop_target_is_refused(mock_config: dict[str, Any], value: Any):
    """SPEC: Config Validation - stop_at_offset Format."""
    with pytest.raises(AssertionError, match=r"^stop_at_offset: expected "):
        KafkaConsumerConfig(**{**mock_config, "stop_at_offset": value})


# --- how problems are told --------------------------------------------------------------------------------------------


def test_all_problems_are_told_at_once_one_a_line(mock_config: dict[str, Any]):
    with pytest.raises(ConfigError) as caught:
        KafkaConsumerConfig(**{**mock_config, "worker_count": 0, "topic": 5, "queue_sise": 100})
    assert str(caught.value).splitlines() == [
        "queue_sise: unknown option; did you mean queue_size?",
        "topic: expected a non-empty string, got 5",
        "worker_count: expected an integer from 1 to 1,000, got 0",
    ]
    assert caught.value.problems == str(caught.value).splitlines()
    assert isinstance(caught.value, AssertionError)
    assert isinstance(caught.value, ValueError)


def test_an_option_without_its_name_is_a_config_error(mock_config: dict[str, Any]):
    with pytest.raises(ConfigError, match="options are given by name, got 1 without one"):
        KafkaConsumerConfig("localhost:9092", **mock_config)


def test_a_nonsense_option_gets_no_suggestion(mock_config: dict[str, Any]):
    with pytest.raises(ConfigError, match=r"^zzz: unknown option$"):
        KafkaConsumerConfig(**mock_config, zzz=1)


def test_a_field_assigned_later_is_validated_again(mock_config: dict[str, Any]):
    config = KafkaConsumerConfig(**mock_config)
    config.worker_count = 0
    with pytest.raises(AssertionError, match="worker_count"):
        validate_config(config)
    config.worker_count = 3
    config.processor_callable = "os.path:basename"  # type: ignore[assignment]
    config.validate_config()
    assert config.processor_callable is os.path.basename


def test_validation_survives_optimised_python():
    code = (
        "from kafka_consumer import KafkaConsumerConfig\n"
        "try:\n    KafkaConsumerConfig(topic=5)\nexcept AssertionError as error:\n    print(len(error.problems))"
    )
    done = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "4"


def test_a_long_value_is_shown_short(mock_config: dict[str, Any]):
    with pytest.raises(ConfigError) as caught:
        KafkaConsumerConfig(**{**mock_config, "log_level": "x" * 100_000})
    assert len(str(caught.value)) < 300


# --- processors and Kafka's own options -------------------------------------------------------------------------------


def test_a_processor_may_be_named(mock_config: dict[str, Any]):
    config = KafkaConsumerConfig(**{**mock_config, "processor_callable": "builtins:len"})
    assert config.processor_callable is builtins.len
    assert config.processor_name == "builtins:len"
    assert config.is_coroutine is False


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("no_colon", "expected 'module:callable'"),
        (":name", "expected 'module:callable'"),
        ("module:", "expected 'module:callable'"),
        ("no_such_module_here:name", "no module named 'no_such_module_here'"),
        ("os:nothing_like_this", "module 'os' has no 'nothing_like_this'"),
        ("os:sep", "is a str, not a callable"),
    ],
)
def test_a_processor_that_is_not_there_is_told_why(mock_config: dict[str, Any], spec: str, reason: str):
    with pytest.raises(ConfigError, match=reason):
        KafkaConsumerConfig(**{**mock_config, "processor_callable": spec})


@pytest.mark.parametrize(
    ("body", "reason"),
    [("import surely_not_installed", "it needs 'surely_not_installed'"), ("1 / 0", "ZeroDivisionError: division by zero")],
)
def test_a_processor_whose_module_fails_is_told_why(
    mock_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, reason: str
):
    (tmp_path / "broken_app_module.py").write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=f"can't be imported: {reason}"):
        KafkaConsumerConfig(**{**mock_config, "processor_callable": "broken_app_module:handle"})


def test_a_callable_object_and_a_coroutine_are_recognised(mock_config: dict[str, Any]):
    class Handler:
        def __call__(self, value: bytes) -> None:
            """Do nothing."""

    async def handle(value: bytes) -> None:
        """Do nothing."""

    assert KafkaConsumerConfig(**{**mock_config, "processor_callable": Handler()}).processor_name.endswith("Handler")
    assert KafkaConsumerConfig(**{**mock_config, "processor_callable": handle}).is_coroutine is True


def test_a_generator_function_is_refused_it_would_do_nothing(mock_config: dict[str, Any]):
    def process(value: bytes) -> Iterator[bytes]:
        yield value

    with pytest.raises(ConfigError, match="generator function"):
        KafkaConsumerConfig(**{**mock_config, "processor_callable": process})


@pytest.mark.parametrize("name", ["bootstrap.servers", "group.id", "enable.auto.commit", "enable.auto.offset.store"])
def test_an_option_of_kafka_that_would_break_a_guarantee_is_refused(mock_config: dict[str, Any], name: str):
    with pytest.raises(ConfigError, match=name) as caught:
        KafkaConsumerConfig(**{**mock_config, "kafka_options": {name: "S3CRET"}})
    assert "S3CRET" not in str(caught.value)


def test_no_value_of_kafka_options_is_ever_shown(mock_config: dict[str, Any]):
    config = KafkaConsumerConfig(**{**mock_config, "kafka_options": {"sasl.password": "S3CRET"}})
    assert "S3CRET" not in repr(config)
    assert "'sasl.password': '[hidden]'" in repr(config)
    assert config.kafka_options == {"sasl.password": "S3CRET"}


def test_a_mapping_is_copied(mock_config: dict[str, Any]):
    options = {"client.rack": "a"}
    config = KafkaConsumerConfig(**{**mock_config, "kafka_options": options})
    options["client.rack"] = "b"
    assert config.kafka_options == {"client.rack": "a"}


# --- the shared state -------------------------------------------------------------------------------------------------


def test_a_shared_state_starts_in_order(shared_state: SharedState):
    """SPEC: SharedState Initialization."""
    assert shared_state.running.is_set()
    assert isinstance(shared_state.running, threading.Event)
    assert not shared_state.shutdown_event.is_set()
    assert not shared_state.dev_mode.is_set()
    queues = (
        shared_state.processing_queue,
        shared_state.processed_queue,
        shared_state.dlq_queue,
        shared_state.backup_csv_queue,
    )
    assert all(queue.empty() for queue in queues)
    assert [queue.maxsize for queue in queues] == [20, 0, 0, 20]
    assert isinstance(shared_state.logger, logging.Logger)
    assert shared_state.lifecycle.phase is Phase.STARTING


def test_stop_clears_running_and_sets_the_shutdown_event(shared_state: SharedState):
    """SPEC: SharedState.stop()."""
    shared_state.stop(reason="enough")
    assert shared_state.running.is_set() is False
    assert shared_state.shutdown_event.is_set() is True
    assert shared_state.lifecycle.stop_reason == "enough"


def test_stop_is_idempotent_and_keeps_the_first_reason(shared_state: SharedState):
    for reason in ("first", "second"):
        shared_state.stop(reason)
    assert shared_state.lifecycle.stop_reason == "first"
    assert shared_state.lifecycle.failed is False


def test_a_failure_outweighs_an_ordinary_reason(shared_state: SharedState):
    shared_state.stop("enough")
    shared_state.fail("disk full")
    assert shared_state.lifecycle.failed is True
    assert shared_state.lifecycle.stop_reason == "disk full"
    assert not shared_state.running.is_set()


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_the_logger_has_the_configured_level(mock_config: dict[str, Any], level: str, caplog: pytest.LogCaptureFixture):
    """SPEC: Logger Setup - INFO Level; Logger Setup - DEBUG Level."""
    state = SharedState(KafkaConsumerConfig(**{**mock_config, "log_level": level}))
    assert state.logger.level == getattr(logging, level)
    state.logger.debug("a debug line")
    state.logger.info("an info line")
    assert ("a debug line" in caplog.messages) is (level == "DEBUG")  # records propagate
    assert "an info line" in caplog.messages


def test_the_log_level_may_change_later(shared_state: SharedState):
    shared_state.set_log_level("WARNING")
    assert shared_state.logger.level == logging.WARNING
    with pytest.raises(ConfigError, match="log_level: expected one of DEBUG, INFO"):
        shared_state.set_log_level("loud")


def test_dev_mode_is_on_from_the_start_when_configured(tmp_path: Path):
    assert make_state(tmp_path, dev_mode=True).dev_mode.is_set()


def test_clearing_running_wakes_whoever_waits_for_a_queue(tmp_path: Path):
    state = make_state(tmp_path)
    with ThreadPoolExecutor(3) as threads:
        waiting: list[Future[Any]] = [
            threads.submit(state.processing_queue.take),
            threads.submit(state.dlq_queue.get_many, 60),
            threads.submit(state.processed_queue.wait, 60),
        ]
        state.running.clear()
        assert [future.result(10) for future in waiting] == [None, [], None]


def test_a_running_flag_is_an_event_that_is_set():
    flag = RunningFlag()
    assert flag.wait(0)
    flag.clear()
    assert not flag.is_set()


# --- a hundred threads ------------------------------------------------------------------------------------------------


def test_a_hundred_threads_on_the_shared_state_neither_race_nor_deadlock(tmp_path: Path):
    """SPEC: Concurrency Race Conditions."""
    each = 200
    state = make_state(tmp_path, queue_size=1_000_000)
    assignment = Assignment("test-topic", 0)
    assignment.delivered(range(25 * each), 0.0)
    begin = threading.Barrier(100)
    taken: list[tuple[int, ...]] = []
    letters: list[Any] = []

    def put_work(number: int) -> None:
        for index in range(each):
            offset = number * each + index
            message = MockMessage("test-topic", 0, offset, None, b"v")
            state.processing_queue.put_chunks([Chunk([message], assignment, range(offset, offset + 1))])
            state.backup_csv_queue.put_many_nowait([message])

    def work(number: int) -> None:
        finished = None
        while (chunk := state.processing_queue.take(finished)) is not None:
            taken.append(tuple(chunk.sequences or ()))
            state.processed_queue.add(Completion(assignment, chunk.sequences or (), failed=False))
            state.dlq_queue.put(chunk.messages[0])
            finished = chunk

    def look(number: int) -> None:
        while state.running.is_set():
            _ = state.processing_queue.qsize(), state.processing_queue.room(), state.dlq_queue.bytes, assignment.view()
            letters.extend(found := state.dlq_queue.get_many(0.001))
            state.dlq_queue.written(found)
            state.set_log_level("INFO")

    def run(number: int) -> None:
        begin.wait(30)
        if number < 25:
            put_work(number)
        elif number < 75:
            work(number)
        elif number < 95:
            look(number)
        else:
            for item in iter(lambda: state.processed_queue.take_all() if state.running.is_set() else None, None):
                for completion in item:
                    assignment.completed(completion.sequences)

    with ThreadPoolExecutor(100) as threads:
        futures = [threads.submit(run, number) for number in range(100)]
        for future in futures[:25]:
            future.result(30)
        state.stop("all is put")
        for future in futures:
            future.result(30)  # neither a deadlock nor an exception
    letters += state.dlq_queue.get_many(0)
    for completion in state.processed_queue.take_all():
        assignment.completed(completion.sequences)
    assert sorted(sequence for chunk in taken for sequence in chunk) == list(range(25 * each))
    assert len(letters) == len(taken)
    assert assignment.unfinished == 0
    assert state.processing_queue.qsize() == state.processing_queue.taken == 0
    assert state.backup_csv_queue.qsize() == 25 * each


def test_of_a_hundred_threads_that_stop_exactly_one_reason_remains(tmp_path: Path):
    """SPEC: Concurrency Race Conditions."""
    state = SharedState(make_config(tmp_path))
    begin = threading.Barrier(100)

    def stop(number: int) -> bool:
        begin.wait(30)
        first = state.lifecycle.stop(f"reason {number}", failed=False)
        state.stop(f"reason {number}")
        return first

    with ThreadPoolExecutor(100) as threads:
        first = list(threads.map(stop, range(100)))
    assert sum(first) == 1
    assert state.lifecycle.stop_reason == f"reason {first.index(True)}"
