"""The circuit breaker: it trips when too many of the last messages failed, says so, and waits for the operator."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kafka_consumer import failure_breaker
from kafka_consumer.dead_letter import dead_letter
from kafka_consumer.failure_breaker import WINDOW, FailureBreaker
from tests.fakes import MockMessage
from tests.helpers import make_state


class Breaker:
    """A breaker, and the totals that it looks at."""

    def __init__(self, folder: Path, ratio: float | None = 0.5) -> None:
        self.state = make_state(folder, max_failure_ratio=ratio)
        self.breaker = FailureBreaker(self.state)

    def finish(self, *, good: int = 0, bad: int = 0) -> bool:
        """Let messages finish, and look once."""
        self.state.counters.processed += good
        self.state.counters.failed += bad
        return self.breaker.look()


@pytest.fixture
def breaker(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Breaker:
    """One that trips when half of the messages fail."""
    caplog.set_level(logging.DEBUG, "kafka_consumer")
    return Breaker(tmp_path)


def test_without_a_ratio_it_never_trips(tmp_path: Path):
    idle = Breaker(tmp_path, None)
    assert not idle.finish(bad=100_000)
    assert idle.breaker.reason is None


def test_fewer_messages_than_a_window_prove_nothing(breaker: Breaker):
    for _ in range(WINDOW - 1):
        assert not breaker.finish(bad=1)
    assert breaker.finish(bad=1)


def test_it_trips_once_and_says_how_many_failed_of_how_many(breaker: Breaker, caplog: pytest.LogCaptureFixture):
    assert breaker.finish(good=80, bad=120)
    assert breaker.breaker.reason == "120 of the last 200 messages failed (60%; max_failure_ratio=0.5)"
    (record,) = caplog.records
    assert record.levelno == logging.CRITICAL
    assert record.getMessage() == (
        f"{breaker.breaker.reason}: polling is paused; what is queued is finished. Mend the cause, then resume"
    )
    for _ in range(10):  # what was queued
        assert not breaker.finish(bad=50)
    assert len(caplog.records) == 1


def test_it_trips_at_the_ratio_and_not_below(tmp_path: Path):
    assert not Breaker(tmp_path).finish(good=101, bad=99)
    assert Breaker(tmp_path).finish(good=100, bad=100)
    assert not Breaker(tmp_path, 1).finish(good=1, bad=999)
    assert Breaker(tmp_path, 1).finish(bad=1000)


def test_only_the_last_messages_count(breaker: Breaker):
    for _ in range(100):
        assert not breaker.finish(good=100)
    assert not breaker.finish(bad=99)
    # 99 of the last 199, then 100 of the last 200: a long good past is no excuse.
    assert breaker.finish(bad=1)


def test_failures_of_the_past_are_forgotten(breaker: Breaker):
    for _ in range(3):
        assert not breaker.finish(bad=99)
        for _ in range(30):
            assert not breaker.finish(good=10)


def test_it_says_again_that_polling_is_paused_once_a_minute(
    breaker: Breaker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    now = [1000.0]
    monkeypatch.setattr(failure_breaker, "time", SimpleNamespace(monotonic=lambda: now[0]))
    breaker.finish(bad=200)
    for _ in range(1810):
        breaker.finish()
        now[0] += 0.1
    assert caplog.messages[1:] == [f"polling is still paused until it is resumed: {breaker.breaker.reason}"] * 3


def test_after_a_reset_the_past_counts_no_more(breaker: Breaker):
    breaker.finish(bad=200)
    breaker.finish(bad=50)
    breaker.breaker.reset()
    assert breaker.breaker.reason is None
    assert not breaker.finish(bad=199)
    assert breaker.finish(bad=1)


def test_a_reset_without_a_reason_changes_nothing(breaker: Breaker):
    breaker.finish(bad=199)
    breaker.breaker.reset()
    assert breaker.finish(bad=1)


def test_a_run_that_ends_is_not_paused(breaker: Breaker):
    breaker.state.stop("enough")
    assert not breaker.finish(bad=1000)


def test_the_most_frequent_error_is_named_of_those_written_and_those_waiting(breaker: Breaker):
    breaker.breaker.recent_errors = lambda: ["KeyError"] * 3 + ["ValueError"] * 2
    for number in range(5):
        breaker.state.dlq_queue.put(dead_letter(MockMessage("t", 0, number, None, b"x"), ValueError("no"), 1, 0))
    assert breaker.finish(bad=200)
    assert (breaker.breaker.reason or "").endswith("max_failure_ratio=0.5), most often ValueError (70% of the latest)")
    assert breaker.state.dlq_queue.qsize() == 5


@settings(deadline=None, max_examples=200)
@given(
    outcomes=st.lists(st.booleans(), min_size=1, max_size=900),
    seed=st.integers(0, 1000),
    ratio=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
)
def test_however_the_looks_fall_it_trips_only_when_that_share_of_a_window_failed(
    tmp_path_factory: pytest.TempPathFactory, outcomes: list[bool], seed: int, ratio: float
):
    chance: Any = random.Random(seed)
    breaker = Breaker(tmp_path_factory.getbasetemp(), ratio)
    done = 0
    while done < len(outcomes):
        step = outcomes[done : done + chance.randint(1, 60)]
        done += len(step)
        tripped = breaker.finish(good=step.count(True), bad=step.count(False))
        # The window begins at a look: it holds at least WINDOW messages, and less than one look's more.
        shares = [outcomes[done - size : done].count(False) / size for size in range(WINDOW, WINDOW + 60) if size <= done]
        if tripped:
            assert any(share >= ratio for share in shares)
            return
        if shares:
            assert min(shares) < ratio
