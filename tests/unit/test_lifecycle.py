"""The phases go one way, and the reason that counts is kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from kafka_consumer.lifecycle import Lifecycle
from kafka_consumer.types import Phase


def test_a_life_goes_one_way():
    life = Lifecycle()
    assert (life.phase, life.stop_reason, life.failed) == (Phase.STARTING, None, False)
    for phase in (Phase.RUNNING, Phase.DRAINING, Phase.STOPPED):
        assert life.advance(phase) is True
        assert life.phase is phase
        assert life.advance(phase) is False
    assert life.advance(Phase.RUNNING) is False
    assert life.advance(Phase.FAILED) is False  # it has ended
    assert life.phase is Phase.STOPPED


@pytest.mark.parametrize("end", [Phase.STOPPED, Phase.FAILED])
def test_a_phase_may_be_skipped(end: Phase):
    life = Lifecycle()
    assert life.advance(end) is True
    assert life.advance(Phase.DRAINING) is False


def test_the_first_reason_is_kept():
    life = Lifecycle()
    assert life.stop("first", failed=False) is True
    assert life.stop("second", failed=False) is False
    assert (life.stop_reason, life.failed) == ("first", False)


def test_the_first_failure_outweighs_an_ordinary_reason():
    life = Lifecycle()
    life.stop("ordinary", failed=False)
    assert life.stop("disk full", failed=True) is False
    life.stop("broker gone", failed=True)
    life.stop("ordinary again", failed=False)
    assert (life.stop_reason, life.failed) == ("disk full", True)


def test_of_many_threads_exactly_one_takes_each_step():
    life = Lifecycle()
    with ThreadPoolExecutor(20) as threads:
        for phase in (Phase.RUNNING, Phase.DRAINING, Phase.FAILED):
            assert sum(threads.map(life.advance, [phase] * 20)) == 1
