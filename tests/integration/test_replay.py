"""``--from`` and ``--to``: where a run begins and ends; by default outside the group, and nothing is committed."""

from __future__ import annotations

import logging

import pytest

from kafka_consumer import ConfigError
from kafka_consumer.errors import LostPartitionError
from tests.fakes import FakeConsumer
from tests.helpers import eventually, make_config
from tests.integration.conftest import GROUP, TOPIC


def numbers(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % n for n in range(start, start + count)]


class Seen(list):
    def __call__(self, value):
        self.append(int(value))


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def filled(broker):
    """Three partitions with 100, 50 and no messages, of which the group has committed 40 of the first."""
    broker.produce_many(TOPIC, 0, numbers(100))
    broker.produce_many(TOPIC, 1, numbers(50, 1000))
    broker.set_committed(GROUP, TOPIC, 0, 40)
    return broker


def test_a_replay_takes_all_that_is_there_at_the_start_ends_by_itself_and_commits_nothing(filled, live, seen, log):
    life = live(processor_callable=seen, replay_from="earliest", replay_to="latest")
    filled.produce_many(TOPIC, 0, numbers(10, 100))
    assert life.wait_end() == 0
    assert sorted(seen) == [*range(100), *range(1000, 1050)]
    assert life.client.commit_calls == 0
    assert filled.committed(GROUP, TOPIC) == 40
    assert filled.owner(GROUP, TOPIC) is None
    assert any("outside the group" in line and "up to 150 messages" in line for line in log(logging.INFO))
    assert not any("dev mode" in line for line in log(logging.INFO))


def test_a_replay_outside_the_group_shows_that_nothing_is_committed_and_commits_cannot_be_switched_on(filled, live, gate):
    life = live(processor_callable=gate, worker_count=1, replay_from="earliest", replay_to="latest")
    eventually(lambda: gate.begun)
    assert life.consumer.snapshot().dev_mode
    with pytest.raises(ConfigError, match="a replay outside the group commits nothing"):
        life.consumer.set_dev_mode(False)
    gate.open.set()
    assert life.wait_end() == 0
    assert life.client.commit_calls == 0


def test_a_replay_of_offsets_takes_just_those_partitions_and_its_end_is_inclusive(filled, live, seen):
    life = live(processor_callable=seen, replay_from=[f"{TOPIC}:0:10"], replay_to="latest")
    assert life.wait_end() == 0
    assert sorted(seen) == list(range(10, 100))
    seen.clear()
    life = live(processor_callable=seen, replay_from="earliest", replay_to=(f"{TOPIC}:0:20", f"{TOPIC}:1:5"))
    assert life.wait_end() == 0
    assert sorted(seen) == [*range(21), *range(1000, 1006)]


def test_a_replay_between_two_times_takes_what_was_written_between_them(broker, live, seen):
    for n in range(20):
        broker.produce(TOPIC, 0, b"%d" % n, timestamp=1_700_000_000_000 + n * 1000)
    life = live(
        processor_callable=seen, replay_from="2023-11-14T22:13:25+00:00", replay_to="2023-11-14T22:13:30Z", commit_metadata=True
    )
    assert life.wait_end() == 0
    assert sorted(seen) == list(range(5, 10))


def test_a_replay_of_nothing_ends_at_once(filled, live, seen):
    life = live(processor_callable=seen, replay_from="latest", replay_to="latest")
    assert life.wait_end() == 0
    assert seen == []
    assert life.state.lifecycle.stop_reason == "nothing to replay"


def test_with_commit_the_group_goes_on_from_there(filled, live, seen):
    life = live(processor_callable=seen, replay_from="earliest", replay_to="latest", replay_commit=True)
    assert life.wait_end() == 0
    assert sorted(seen) == [*range(100), *range(1000, 1050)]
    assert filled.committed(GROUP, TOPIC) == 100
    assert filled.committed(GROUP, TOPIC, 1) == 50


def test_with_commit_partitions_that_are_not_named_are_left_alone(filled, live, seen):
    life = live(processor_callable=seen, replay_from=[f"{TOPIC}:0:10"], replay_to="latest", replay_commit=True)
    assert life.wait_end() == 0
    assert sorted(seen) == list(range(10, 100))
    assert filled.committed(GROUP, TOPIC) == 100
    assert filled.committed(GROUP, TOPIC, 1) is None


def test_from_alone_overrides_what_the_group_has_committed_and_the_run_goes_on(filled, live, seen):
    life = live(processor_callable=seen, replay_from="earliest")
    eventually(lambda: len(seen) == 150)
    filled.produce_many(TOPIC, 0, numbers(5, 100))
    eventually(lambda: len(seen) == 155)
    assert life.end() == 0
    assert filled.committed(GROUP, TOPIC) == 105


def test_from_later_than_what_is_committed_skips_what_lies_between(filled, live, seen):
    life = live(processor_callable=seen, replay_from=[f"{TOPIC}:0:90"])
    life.wait_committed(100)
    assert sorted(n for n in seen if n < 1000) == list(range(90, 100))
    assert life.end() == 0


def test_from_counts_once_a_partition_that_comes_back_goes_on_where_it_was(filled, live, seen):
    life = live(processor_callable=seen, replay_from="earliest")
    eventually(lambda: len(seen) == 150)
    life.wait_committed(100)
    life.client.bounce((TOPIC, 0))
    filled.produce_many(TOPIC, 0, numbers(5, 100))
    eventually(lambda: len(seen) == 155)
    assert life.end() == 0
    assert len(seen) == 155


def test_to_alone_goes_on_from_what_is_committed_and_ends(filled, live, seen):
    life = live(processor_callable=seen, replay_to="latest")
    assert life.wait_end() == 0
    assert sorted(seen) == [*range(40, 100), *range(1000, 1050)]
    assert filled.committed(GROUP, TOPIC) == 100


def test_of_two_members_each_ends_when_its_own_partitions_have_reached_the_end(filled, live, seen):
    lives = [live(processor_callable=seen, replay_to="latest", client=FakeConsumer(filled, GROUP)) for _ in range(2)]
    assert [life.wait_end() for life in lives] == [0, 0]
    assert filled.committed(GROUP, TOPIC) == 100
    assert filled.committed(GROUP, TOPIC, 1) == 50


def test_progress_and_the_end_are_in_the_snapshot(filled, live, gate):
    life = live(processor_callable=gate, worker_count=1, replay_from="earliest", replay_to="latest")
    gate.let_go(30)
    eventually(lambda: len(gate.done) == 30)
    eventually(lambda: (found := life.consumer.snapshot().replay) is not None and (found.done, found.total) == (30, 150))
    gate.open.set()
    assert life.wait_end() == 0


def test_a_rate_limit_holds_from_the_start(filled, live, seen):
    life = live(processor_callable=seen, replay_from="earliest", replay_to="latest", max_rate=1.0)
    eventually(lambda: life.consumer._poller is not None)
    life.state.shutdown_event.wait(0.3)
    assert len(seen) <= 2
    assert life.end() == 0


@pytest.mark.parametrize(("strict", "code"), [(True, 1), (False, 0)])
def test_a_failed_message_is_a_failure_only_when_it_is_wanted(filled, live, strict, code):
    def fails(value):
        raise ValueError("no")

    life = live(processor_callable=fails, replay_from=[f"{TOPIC}:0:95"], replay_to="latest", fail_on_dlq=strict)
    assert life.wait_end() == code
    assert len(life.dead_letters()) == 5


def test_a_partition_that_does_not_exist_ends_the_run_with_a_line(filled, live, log):
    life = live(replay_from=[f"{TOPIC}:7:0"], replay_to="latest")
    assert life.wait_end() == 1
    assert any(f"no such partition: {TOPIC}-7" in line for line in log(logging.CRITICAL))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"replay_from": "yesterday"}, "replay_from: expected None or earliest, latest, TOPIC:PARTITION:OFFSET"),
        ({"replay_to": ["earliest", "latest"]}, "several are TOPIC:PARTITION:OFFSET"),
        ({"replay_from": ["test-topic:0:1", "test-topic:0:2"]}, "test-topic-0 is given twice"),
        ({"replay_from": ["other:0:1"]}, "expected offsets of topic 'test-topic', got one of 'other'"),
        ({"replay_commit": True}, "replay_commit: expected replay_from or replay_to with it"),
        ({"max_rate": 0.5}, "max_rate: expected None or a number of at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, options, said):
    with pytest.raises(ConfigError) as error:
        make_config(tmp_path, **options)
    assert said in str(error.value)


# --- seek: the operator sends a running consumer elsewhere ----------------------------------------------------------


def test_a_seek_back_repeats_and_commits_from_there(filled, live, seen):
    life = live(processor_callable=seen)
    life.wait_committed(100)
    seen.clear()
    life.consumer.seek([(TOPIC, 0)], 80)
    eventually(lambda: sorted(seen) == list(range(80, 100)))
    filled.produce_many(TOPIC, 0, numbers(5, 100))
    life.wait_committed(105)
    assert life.end() == 0
    assert sorted(seen) == list(range(80, 105))


def test_a_seek_forward_skips_what_lies_between(filled, live, gate):
    life = live(processor_callable=gate, worker_count=1)
    eventually(lambda: len(gate.begun) == 1)
    life.consumer.seek([(TOPIC, 0), (TOPIC, 1), (TOPIC, 2)], "latest")
    gate.open.set()
    filled.produce(TOPIC, 0, b"new")
    eventually(lambda: b"new" in gate.done)
    life.wait_committed(101)
    assert len(gate.done) <= 2
    assert life.end() == 0


def test_a_seek_to_a_time_and_to_earliest(broker, live, seen):
    for n in range(20):
        broker.produce(TOPIC, 0, b"%d" % n, timestamp=1_700_000_000_000 + n * 1000)
    life = live(processor_callable=seen)
    life.wait_committed(20)
    seen.clear()
    life.consumer.seek([(TOPIC, 0)], "2023-11-14T22:13:35+00:00")
    eventually(lambda: sorted(seen) == list(range(15, 20)))
    life.consumer.seek([(TOPIC, 0)], "earliest")
    eventually(lambda: len(seen) == 25)
    assert life.end() == 0


def test_a_seek_of_what_is_not_ours_or_to_nowhere_is_refused(filled, live, seen):
    life = live(processor_callable=seen)
    life.wait_committed(100)
    with pytest.raises(LostPartitionError, match=f"{TOPIC}-9"):
        life.consumer.seek([(TOPIC, 9)], 0)
    with pytest.raises(ConfigError, match="to: expected earliest"):
        life.consumer.seek([(TOPIC, 0)], "yesterday")
    assert life.end() == 0
