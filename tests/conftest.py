"""Fixtures that every test may use, and the choice of the Kafka behind them."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from tests.kafka import Choice, Kafka, LocalKafka, choose
from tests.kafka.choice import local_missing

if TYPE_CHECKING:
    from kafka_consumer.shared_state import SharedState

_CHOICE = pytest.StashKey[Choice]()
# What a test asks for decides whether a broker's files are fetched before the first test.
_BROKER_FIXTURES = frozenset({"kafka", "real_kafka", "kafka_container", "private_kafka", "private_kafka_cluster"})

_TESTS = Path(__file__).parent
_STAGES = ("unit", "integration", "tui", "e2e", "stress")
# contract/ meets a Kafka, as the end-to-end tests do.
_STAGE_OF_FOLDER = {stage: stage for stage in _STAGES} | {"contract": "e2e"}


# --- which Kafka ------------------------------------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    """Choose the Kafka of this run."""
    try:
        config.stash[_CHOICE] = choose()
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error


def pytest_report_header(config: pytest.Config) -> str:
    """Say which Kafka was chosen, always."""
    return f"kafka: {config.stash[_CHOICE].description}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test the mark of its folder, unless it has one: a test without any would be left out of `make test`."""
    for item in items:
        if any(item.get_closest_marker(stage) for stage in _STAGES):
            continue
        folder = item.path.relative_to(_TESTS).parts[0]
        item.add_marker(_STAGE_OF_FOLDER.get(folder, "integration"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fetch the broker's files where a test needs them: here, so that no test's timeout pays for a download."""
    wanted = any(
        _BROKER_FIXTURES.intersection(getattr(item, "fixturenames", ())) or item.get_closest_marker("needs_real_broker")
        for item in session.items
    )
    if not wanted or session.config.option.collectonly:
        return
    chosen = session.config.stash[_CHOICE]
    prepared = chosen.prepare()
    if prepared is not chosen:
        session.config.stash[_CHOICE] = prepared
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(f"kafka: {prepared.description}", red=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make what a test printed and logged fit to be sent between processes: hostile text has surrogates that no codec takes."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Keep a test marked ``needs_real_broker`` from meeting the mock cluster."""
    if item.get_closest_marker("needs_real_broker"):
        _require_real(item.config)


def _require_real(config: pytest.Config) -> None:
    chosen = config.stash[_CHOICE]
    if not chosen.real:
        _missing(f"needs a real broker: {chosen.missing}", mock_wanted=chosen.mock_wanted)


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() in {"1", "true"}


def _missing(reason: str, *, mock_wanted: bool = False) -> NoReturn:
    """Skip; but in CI a test that silently never ran is worse than one that failed."""
    if _in_ci() and not mock_wanted:
        pytest.fail(f"CI must run every test: {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """The Kafka of this run, shared by all tests: use ``create_topic()`` and group ids of your own.

    It may be librdkafka's mock cluster; mark a test ``needs_real_broker`` where that won't do (transactions, topic
    options, an exact number of partitions, SASL).
    """
    chosen = request.config.stash[_CHOICE]
    if not chosen.real and _in_ci() and not chosen.mock_wanted:
        _missing(f"needs a real broker: {chosen.missing}")
    opened = chosen.open(tmp_path_factory.mktemp("kafka"))
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture(scope="session")
def real_kafka(request: pytest.FixtureRequest) -> Kafka:
    """``kafka``, and the test doesn't run where that is the mock cluster."""
    _require_real(request.config)
    found: Kafka = request.getfixturevalue("kafka")
    return found


@pytest.fixture(scope="session")
def kafka_container(real_kafka: Kafka) -> str:
    """``bootstrap.servers`` of the real Kafka of this run."""
    return real_kafka.bootstrap


@pytest.fixture
def private_kafka(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """A one-node broker for this test alone, to kill, suspend and restart. It takes about two seconds to start."""
    yield from _private(request, tmp_path_factory, nodes=1)


@pytest.fixture
def private_kafka_cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """A three-node cluster for this test alone; it outlives the loss of one node."""
    yield from _private(request, tmp_path_factory, nodes=3)


def _private(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, *, nodes: int) -> Iterator[LocalKafka]:
    if reason := local_missing():
        _missing(f"needs a broker of its own: {reason}", mock_wanted=request.config.stash[_CHOICE].mock_wanted)
    with LocalKafka(nodes, folder=tmp_path_factory.mktemp("private-kafka")) as broker:
        yield broker


# --- configuration ----------------------------------------------------------------------------------------------------


@pytest.fixture
def temp_dir() -> Iterator[str]:
    """A folder for CSV files."""
    with tempfile.TemporaryDirectory() as name:
        yield name


@pytest.fixture
def mock_config(temp_dir: str) -> dict[str, Any]:
    """The options of a KafkaConsumerConfig for tests; nothing listens at its ``bootstrap_servers``."""
    return {
        "bootstrap_servers": "localhost:9092",
        "topic": "test-topic",
        "group_id": "test-group",
        "processor_callable": mock_processor_success,
        "backup_path": f"{temp_dir}/backup.csv",
        "dlq_path": f"{temp_dir}/dlq.csv",
        "worker_count": 5,
        "queue_size": 20,
        "log_level": "DEBUG",
    }


@pytest.fixture
def shared_state(mock_config: dict[str, Any]) -> Iterator[SharedState]:
    """A SharedState on ``mock_config``, stopped at the end, so that no loop of a test outlives it."""
    from kafka_consumer.shared_state import KafkaConsumerConfig, SharedState

    state = SharedState(KafkaConsumerConfig(**mock_config))
    yield state
    state.stop(reason="the test has ended")


# --- processors -------------------------------------------------------------------------------------------------------

SLOW_SECONDS = 5.0


def mock_processor_success(msg_bytes: bytes) -> bool:
    """Succeed, always."""
    return True


def mock_processor_failure(msg_bytes: bytes) -> bool:
    """Fail, always."""
    message = "Processing failed"
    raise ValueError(message)


def mock_processor_slow(msg_bytes: bytes) -> bool:
    """Succeed after five seconds."""
    time.sleep(SLOW_SECONDS)
    return True


def mock_processor_selective(msg_bytes: bytes) -> bool:
    """Fail for a JSON object whose ``invalid`` is true."""
    data = json.loads(msg_bytes)
    if data.get("invalid"):
        message = "Invalid message"
        raise ValueError(message)
    return True
