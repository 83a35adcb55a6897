"""``executor="process"`` in a whole consumer on the fake broker: the promises of threads, and no process left behind."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from kafka_consumer import rebalance
from kafka_consumer.check import check
from kafka_consumer.child import Child
from kafka_consumer.settings import load_settings
from tests import processors
from tests.helpers import eventually
from tests.integration.conftest import TOPIC
from tests.processors import Fault, Gate, Notes

ROOT = Path(__file__).parents[2]
ZERO = (TOPIC, 0)


def numbers(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % n for n in range(start, start + count)]


@pytest.fixture
def processes(live) -> Callable[..., Any]:
    """Return a function that builds a consumer with two processes; the rest is as with ``live``."""

    def build(processor: Any, **options: Any) -> Any:
        return live(**{"processor_callable": processor, "executor": "process", "worker_count": 2, **options})

    return build


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """A processor that waits at the value ``stop``; opened at the end."""
    found = Gate(tmp_path, b"stop")
    yield found
    found.open()


def children_of(pid: int) -> list[int]:
    """Return the worker processes of a process, those that wait to be reaped not counted."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            if child.status() != psutil.STATUS_ZOMBIE and "process_child.py" in " ".join(child.cmdline()):
                found.append(child.pid)
        except psutil.NoSuchProcess:
            continue
    return found


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# --- the same promises ------------------------------------------------------------------------------------------------


def test_everything_is_processed_once_in_other_processes_and_committed(broker, processes, tmp_path):
    for partition in range(3):
        broker.produce_many(TOPIC, partition, numbers(500, 1000 * partition))
    life = processes(notes := Notes(tmp_path))
    for partition in range(3):
        life.wait_committed(500, partition)
    assert life.end() == 0
    assert sorted(map(int, notes.values)) == [*range(500), *range(1000, 1500), *range(2000, 2500)]
    assert len(notes.pids) == 2
    assert os.getpid() not in notes.pids
    assert children_of(os.getpid()) == []


def test_a_death_is_a_dead_letter_on_disk_before_its_offset_is_committed(broker, processes, tmp_path, log):
    broker.produce_many(TOPIC, 0, [*numbers(50), b"exit", b"fail", *numbers(50, 52)])
    life = processes(notes := Fault(tmp_path))
    life.wait_committed(102)
    assert {(row["offset"], row["error_type"]) for row in life.dead_letters()} == {
        ("50", "WorkerProcessDiedError"), ("51", "ValueError"),
    }  # fmt: skip
    assert len(notes.values) == 102
    snapshot = life.consumer.snapshot()
    assert snapshot.totals.crashed_workers == 1
    assert {worker.state for worker in snapshot.workers} == {"idle"}
    assert any("ended with exit code 7 at test-topic-0@50" in message for message in log(logging.ERROR))
    assert life.end() == 0


def test_a_poison_message_that_kills_its_process_each_time_ends_in_the_dead_letters(broker, processes, tmp_path):
    broker.produce_many(TOPIC, 0, [*numbers(20), b"segfault", *numbers(20, 21)])
    life = processes(notes := Fault(tmp_path), max_attempts=3, retry_backoff_seconds=0.01)
    life.wait_committed(41)
    assert [(row["offset"], row["attempts"]) for row in life.dead_letters()] == [("20", "3")]
    assert notes.values.count(b"segfault") == 3
    assert life.state.counters.crashed_workers == 3
    assert life.end() == 0


def test_a_timeout_is_a_dead_letter_at_that_moment_and_the_process_is_gone(broker, processes, tmp_path):
    broker.produce_many(TOPIC, 0, [*numbers(5), b"hang", *numbers(5, 6)])
    life = processes(Fault(tmp_path), processing_timeout=0.3)
    life.wait_committed(11)
    assert [(row["offset"], row["error_type"]) for row in life.dead_letters()] == [("5", "TimeoutError")]
    snapshot = life.consumer.snapshot()
    assert (snapshot.totals.timed_out, snapshot.stuck_threads) == (1, 0)
    assert life.end() == 0
    assert children_of(os.getpid()) == []


def test_dev_mode_commits_nothing(broker, processes, tmp_path):
    broker.produce_many(TOPIC, 0, numbers(50))
    life = processes(notes := Notes(tmp_path), dev_mode=True)
    eventually(lambda: life.state.counters.processed == 50)
    assert life.end() == 0
    assert life.committed() is None
    assert len(notes.values) == 50


@pytest.mark.parametrize("ordering", ["key", "partition"])
def test_the_order_of_a_lane_holds_through_failures_and_deaths(broker, processes, tmp_path, ordering):
    values = []
    for number in range(60):
        value = b"%d" % number if number % 10 else (b"fail:%d", b"exit:%d")[number // 10 % 2] % number
        values.append(value)
        broker.produce(TOPIC, 0, value, key=b"k%d" % (number % 3))
    life = processes(notes := Fault(tmp_path), ordering=ordering, max_attempts=2, retry_backoff_seconds=0.01)
    life.wait_committed(60)
    assert life.end() == 0
    lanes = 3 if ordering == "key" else 1
    for lane in range(lanes):
        wanted = [value for value in values[lane::lanes] for _ in range(2 if b":" in value else 1)]
        mine = set(wanted)
        assert [value for value in notes.values if value in mine] == wanted
    assert len(life.dead_letters()) == 6


def test_a_slow_message_does_not_hold_up_those_behind_it(broker, processes, gate):
    broker.produce_many(TOPIC, 0, [*numbers(300), b"stop", *numbers(300, 301)])
    life = processes(gate)
    eventually(lambda: len(gate.values) == 601)
    life.wait_committed(300)
    gate.open()
    life.wait_committed(601)


def test_draining_finishes_what_was_taken(broker, processes, gate):
    broker.produce_many(TOPIC, 0, [b"stop", *numbers(99)])
    life = processes(gate, queue_size=100)
    eventually(lambda: life.state.counters.polled == 100 and b"stop" in gate.values)
    life.consumer.stop()
    gate.open()
    assert life.wait_end() == 0
    assert life.committed() == 100
    assert len(gate.values) == 100


def test_a_revocation_waits_for_what_a_process_has_begun(broker, processes, gate):
    broker.produce_many(TOPIC, 0, [b"stop", b"stop"])
    life = processes(gate)
    eventually(lambda: gate.values == [b"stop", b"stop"])
    life.client.revoke(ZERO)
    eventually(lambda: not life.state.processing_queue.qsize())
    gate.open()
    eventually(lambda: broker.owner("test-group", TOPIC) is None)
    assert life.committed() == 2
    assert life.end() == 0


def test_a_result_after_the_revocation_is_dropped(broker, processes, gate, monkeypatch):
    monkeypatch.setattr(rebalance, "REVOKE_SECONDS", 0.05)
    broker.produce(TOPIC, 0, b"stop")
    life = processes(gate)
    eventually(lambda: gate.values == [b"stop"])
    life.client.revoke(ZERO)
    eventually(lambda: broker.owner("test-group", TOPIC) is None)
    gate.open()
    eventually(lambda: life.state.processing_queue.taken == 0)
    assert life.committed() is None
    assert life.end() == 0
    assert life.committed() is None


def test_workers_may_be_added_and_dismissed(broker, processes, tmp_path):
    life = processes(notes := Notes(tmp_path))
    life.consumer.set_workers(4)
    eventually(lambda: len(children_of(os.getpid())) == 4)
    life.consumer.set_workers(1)
    eventually(lambda: len(children_of(os.getpid())) == 1)
    broker.produce_many(TOPIC, 0, numbers(50))
    life.wait_committed(50)
    assert len(notes.pids) == 1
    assert life.end() == 0


def test_the_snapshot_names_the_process_of_a_slow_message(broker, processes, gate):
    broker.produce(TOPIC, 0, b"stop")
    life = processes(gate)
    eventually(lambda: gate.values)
    stack = eventually(lambda: next((w.stack for w in life.consumer.snapshot().workers if w.stack), None), what="a slow worker")
    assert f"in process {min(gate.pids)}" in stack[0]


def test_what_is_given_up_at_the_end_takes_its_process_along(broker, processes, gate):
    broker.produce(TOPIC, 0, b"stop")
    life = processes(gate, shutdown_drain_seconds=0.2)
    eventually(lambda: gate.values)
    assert life.end() == 1
    assert life.committed() is None


# --- refusals at the start ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processor", [lambda value: None, threading.Lock().acquire])
def test_what_cannot_travel_is_refused_in_one_line_and_nothing_runs(processes, processor, log):
    life = processes(processor, start=False)
    before = threading.active_count()
    assert life.consumer.run() == 2
    assert len(log(logging.ERROR)) == 1
    assert "executor: expected 'thread'" in log(logging.ERROR)[0]
    assert "\n" not in log(logging.ERROR)[0]
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("source", "good"), [("def handle(value): pass", True), ("import os\nassert os.getpid() == {pid}\nhandle = print", False)]
)
def test_kc_check_tries_whether_a_process_can_import_the_processor(tmp_path, source, good):
    name = f"checked_{good}"
    (tmp_path / f"{name}.py").write_text(source.format(pid=os.getpid()))
    settings = load_settings(
        {
            "bootstrap_servers": "127.0.0.1:1", "topic": "t", "group_id": "g", "processor_callable": f"{name}:handle",
            "app_dir": str(tmp_path), "executor": "process", "backup_mode": "off", "dlq_path": str(tmp_path / "dlq.csv"),
        },
        environ={},
    )  # fmt: skip
    findings = [*itertools.islice(check(settings), 3)]
    assert findings[2].good == good
    assert findings[2].text == (
        "executor process: a new process can import the processor"
        if good
        else "executor: a new process can't import the processor: AssertionError"
    )
    assert findings[2].exit_code == (1 if good else 2)


# --- a process of its own -----------------------------------------------------------------------------------------------

_SCRIPT = """
import os, sys, time
from pathlib import Path
from kafka_consumer import KafkaConsumer
from tests.fakes import FakeBroker, FakeConsumer
from tests.helpers import make_config

FOLDER = Path(sys.argv[1])

def process(value):
    with (FOLDER / "begun").open("ab", buffering=0) as begun:
        begun.write(b"%d\\n" % os.getpid())
    {work}

if __name__ == "__main__":
    broker = FakeBroker({{"test-topic": 1}})
    broker.produce_many("test-topic", 0, [b"%d" % n for n in range(40)])
    config = make_config(FOLDER, processor_callable=process, executor="process", worker_count=3)
    code = KafkaConsumer(config, consumer=FakeConsumer(broker, "test-group")).run()
    print("committed", broker.committed("test-group", "test-topic", 0), flush=True)
    sys.exit(code)
"""


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Return a function that runs a consumer in a process group of its own; ``work`` is what its processor does."""
    started: list[subprocess.Popen[str]] = []

    def start(work: str) -> subprocess.Popen[str]:
        path = tmp_path / "script.py"
        path.write_text(_SCRIPT.format(work=textwrap.indent(work, "    ").strip()))
        process = subprocess.Popen(
            [sys.executable, str(path), str(tmp_path)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=20)


def begun(folder: Path) -> list[int]:
    """Return the process of each call so far."""
    path = folder / "begun"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_drains_and_no_message_suffers(script, tmp_path, number):
    process = script("time.sleep(0.02)")
    eventually(lambda: len(set(begun(tmp_path))) == 3)
    for _ in range(3):  # an impatient operator
        os.killpg(process.pid, number)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0, out
    assert "committed 40" in out
    assert "died" not in out
    assert "Traceback" not in out
    assert len(begun(tmp_path)) == 40
    assert not any(alive(pid) for pid in set(begun(tmp_path)))


@pytest.mark.parametrize("work", ["time.sleep(3600)", "while True: pass", "import re; re.match('(a*)*b', 'a' * 60)"])
def test_no_process_outlives_a_parent_that_was_killed(script, tmp_path, work):
    process = script(work)
    eventually(lambda: len(set(begun(tmp_path))) == 3)
    process.kill()
    process.wait(20)
    pids = set(begun(tmp_path))
    eventually(lambda: not any(map(alive, pids)), what=f"the end of the processes {pids}")


def test_no_idle_process_outlives_a_parent_that_was_killed(script, tmp_path):
    process = script("pass")
    pids = eventually(lambda: len(found := children_of(process.pid)) == 3 and found)
    process.kill()
    process.wait(20)
    eventually(lambda: not any(map(alive, pids)), what=f"the end of the processes {pids}")


# --- speed ------------------------------------------------------------------------------------------------------------


def test_messages_go_to_a_process_by_the_portion_not_one_by_one(broker, live, monkeypatch):
    """What a portion costs beside the work is measured in bench/, scenario E."""
    count = 3000
    portions: list[int] = []
    begin = Child.begin

    def counted(self: Child, start: int, values: Sequence[bytes | None], *, careful: bool) -> None:
        portions.append(len(values))
        begin(self, start, values, careful=careful)

    monkeypatch.setattr(Child, "begin", counted)
    broker.produce_many(TOPIC, 0, numbers(count))
    life = live(processor_callable=processors.compute, executor="process", worker_count=2, backup_mode="off")
    life.wait_committed(count)
    assert sum(portions) == count
    assert len(portions) < count / 2, "expected about 5 ms of work in a portion, some twenty messages"
    assert life.end() == 0
