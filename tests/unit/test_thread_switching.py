"""The interpreter's switch interval while hundreds of workers run."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kafka_consumer.thread_switching import DEFAULT, FEW, MOST_SECONDS, ThreadSwitching
from kafka_consumer.worker_pool import WorkerPool
from tests.fakes import MockMessage
from tests.helpers import accept, eventually, make_state


@pytest.fixture(autouse=True)
def the_default_interval() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(DEFAULT)
    yield
    sys.setswitchinterval(before)


def test_many_workers_look_less_often_for_the_interpreters_lock() -> None:
    switching = ThreadSwitching()
    switching.ease(1000)
    assert sys.getswitchinterval() == pytest.approx(MOST_SECONDS)
    switching.restore()
    assert sys.getswitchinterval() == pytest.approx(DEFAULT)


def test_few_workers_change_nothing() -> None:
    ThreadSwitching().ease(FEW)
    assert sys.getswitchinterval() == pytest.approx(DEFAULT)


def test_an_interval_that_somebody_has_chosen_is_left_alone() -> None:
    sys.setswitchinterval(0.002)
    switching = ThreadSwitching()
    switching.ease(1000)
    switching.restore()
    assert sys.getswitchinterval() == pytest.approx(0.002)


def test_an_interval_that_is_chosen_meanwhile_is_left_alone() -> None:
    switching = ThreadSwitching()
    switching.ease(1000)
    sys.setswitchinterval(0.002)
    switching.restore()
    assert sys.getswitchinterval() == pytest.approx(0.002)


def test_a_supervisor_that_wakes_late_on_average_has_it_set_back() -> None:
    switching = ThreadSwitching()
    switching.ease(1000)
    for _ in range(100):
        switching.woke_late(MOST_SECONDS / 2)
    switching.woke_late(MOST_SECONDS * 2)  # by chance
    assert sys.getswitchinterval() == pytest.approx(MOST_SECONDS)
    for _ in range(10):
        switching.woke_late(MOST_SECONDS * 2)
    assert sys.getswitchinterval() == pytest.approx(DEFAULT)


@contextmanager
def running_pool(folder: Path, processor: Callable[[bytes], None], workers: int) -> Iterator[WorkerPool]:
    state = make_state(folder, processor_callable=processor, worker_count=workers)
    pool = WorkerPool(state)
    state.processing_queue.hold()
    pool.start()
    try:
        yield pool
    finally:
        state.running.clear()
        state.processing_queue.let_go()
        assert pool.join(30)


def test_a_pool_of_many_threads_sets_it_and_sets_it_back_at_its_end(tmp_path: Path) -> None:
    with running_pool(tmp_path, accept, FEW + 50):
        assert sys.getswitchinterval() > DEFAULT
    assert sys.getswitchinterval() == pytest.approx(DEFAULT)


def test_a_pool_whose_threads_compute_gets_the_usual_interval_back(tmp_path: Path) -> None:
    enough = threading.Event()

    def compute(_value: bytes) -> None:
        while not enough.is_set():
            pass

    with running_pool(tmp_path, compute, FEW + 1) as pool:
        try:
            for offset in range(10):
                pool.shared_state.processing_queue.put(MockMessage("topic", 0, offset, None, b"value"))
            eventually(lambda: sys.getswitchinterval() == pytest.approx(DEFAULT), 60)
        finally:
            enough.set()
