"""Figures for people: percentiles of the recent past and rates, whoever writes meanwhile."""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

import pytest

from kafka_consumer.snapshot import Percentiles
from kafka_consumer.stats import RATE_SECONDS, SAMPLES, LatencySamples, Rate
from tests.helpers import background


def test_without_samples_there_are_no_percentiles():
    assert LatencySamples().percentiles() == Percentiles(None, None, None)


def test_percentiles_are_those_of_the_samples():
    samples = LatencySamples()
    for number in range(100, -1, -1):
        samples.add(number / 100)
    assert samples.percentiles() == Percentiles(0.5, 0.95, 0.99)
    one = LatencySamples()
    one.add(7.0)
    assert one.percentiles() == Percentiles(7.0, 7.0, 7.0)


def test_only_the_recent_past_counts():
    samples = LatencySamples()
    for _ in range(SAMPLES):
        samples.add(100.0)
    for _ in range(SAMPLES):
        samples.add(1.0)
    assert samples.percentiles().p99 == 1.0


def test_a_copy_that_meets_a_writer_is_made_again():
    class Busy(deque[float]):
        """Raises the first times it is copied, as a deque does that grows meanwhile."""

        failures = 3

        def __iter__(self) -> Any:
            if self.failures:
                self.failures -= 1
                raise RuntimeError("deque mutated during iteration")
            return super().__iter__()

    samples = LatencySamples()
    samples._samples = Busy([1.0, 2.0])
    assert samples.percentiles().p99 == 2.0


def test_writers_and_readers_do_not_disturb_each_other():
    samples = LatencySamples()
    end = threading.Event()

    def write() -> None:
        while not end.is_set():
            samples.add(0.5)

    with background(write, stop=end.set), background(write, stop=end.set):
        found = [samples.percentiles().p50 for _ in range(300)]
    assert set(found) <= {None, 0.5}


def test_a_rate_is_growth_a_second():
    rate = Rate()
    assert rate.update(100, at=10.0) == 0.0
    assert rate.update(150, at=11.0) == 50.0
    assert rate.update(150, at=12.0) == 25.0


def test_a_rate_forgets_what_is_long_ago():
    rate = Rate()
    rate.update(0, at=0.0)
    rate.update(1000, at=1.0)
    rates = [rate.update(1000, at=float(at)) for at in range(2, 20)]
    assert rates[0] == 500.0
    assert rates[-1] == 0.0
    assert len(rate._seen) <= RATE_SECONDS + 2


def test_the_first_look_in_a_while_still_gives_a_rate():
    rate = Rate()
    rate.update(0, at=0.0)
    assert rate.update(1000, at=100.0) == pytest.approx(10)


def test_a_rate_reads_the_clock_itself():
    assert Rate().update(5) == 0.0
