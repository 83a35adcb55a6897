"""What a crash costs: only what was unfinished, or not yet committed, is done again; judged by tests/checker.py.

Each test kills a consumer at a chosen point. tests/stress/test_nothing_lost.py does it at random, and for longer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from confluent_kafka import Consumer, TopicPartition

from kafka_consumer.commit_metadata import decode, encode
from tests.fleet import FAIL_THE_BAD, Fleet, note_figures
from tests.helpers import eventually
from tests.history import MessageId
from tests.runs import Note

pytestmark = [pytest.mark.e2e, pytest.mark.needs_real_broker]

SHORT_SESSION = ("-X", "session.timeout.ms=1500", "-X", "heartbeat.interval.ms=300")
BLOCK = f"if message.kind == 'block': wait_for_gate()\n{FAIL_THE_BAD}"


def head_blocks(_partition: int, offset: int) -> str:
    """The first message of each partition blocks; a tenth of the others fail."""
    if offset == 0:
        return "block"
    return "bad" if offset % 10 == 7 else "good"


def calls_of(fleet: Fleet) -> Counter[MessageId]:
    """Return how often the processor was called for each message."""
    lines = (line.split(" ") for line in fleet.ledger.read_text().splitlines())
    return Counter((int(line[1]), int(line[2])) for line in lines if line[0] == "begin")


def claimed(fleet: Fleet) -> int:
    """Return how many messages the group's commits call finished beyond their offsets."""
    # Offset and metadata of one answer: another commit may come between two questions.
    found = fleet.kafka._committed(fleet.topic, fleet.topic).values()
    return sum(end - start for tp in found if tp.metadata for start, end in decode(tp.metadata, tp.offset))


def test_after_a_kill_none_of_five_hundred_messages_behind_a_blocked_one_is_repeated(
    fleets: Callable[..., Fleet], note: Note
) -> None:
    """One message blocks for a whole life; the 500 behind it in its partition finish; their work isn't lost (guarantee 5)."""
    fleet = fleets()
    fleet.produce(501, head_blocks)
    first = fleet.start("one", *SHORT_SESSION, body=BLOCK)
    fleet.wait_finished(500)
    eventually(lambda: claimed(fleet) == 500, 20, what="a commit whose metadata names all 500")
    assert fleet.kafka.committed(fleet.topic, fleet.topic) == {0: 0}
    first.kill()

    second = fleet.start("one", *SHORT_SESSION, body=BLOCK)
    second.open_gate()
    fleet.wait_committed()
    assert second.end() == 0

    report = fleet.judge()
    assert report.violations == [], str(report)
    calls = calls_of(fleet)
    assert calls == {**dict.fromkeys(fleet.values, 1), (0, 0): 2}
    assert len(second.dead_letters()) == 50
    note("repeated_of_500", sum(calls[0, offset] - 1 for offset in range(1, 501)))


def test_without_metadata_all_that_is_behind_a_blocked_message_is_repeated(fleets: Callable[..., Fleet]) -> None:
    """The control: what the metadata saves is what this costs, and the checker sees the difference."""
    fleet = fleets()
    fleet.produce(201, head_blocks)
    first = fleet.start("one", *SHORT_SESSION, "--no-commit-metadata", body=BLOCK)
    fleet.wait_finished(200)
    first.kill()

    second = fleet.start("one", *SHORT_SESSION, "--no-commit-metadata", body=BLOCK)
    second.open_gate()
    fleet.wait_committed()
    assert second.end() == 0

    report = fleet.judge()
    assert report.violations == [], str(report)
    assert report.figures["commits_with_metadata"] == 0
    assert report.figures["repeats"] == 201


def test_keys_that_wait_for_a_blocked_message_keep_their_order_across_a_kill(fleets: Callable[..., Fleet], note: Note) -> None:
    """The other keys' messages are finished and skipped; those of the blocked key come in order, from the blocked one on."""
    fleet = fleets(partitions=2, keys=10)
    fleet.produce(600, lambda _, offset: "block" if offset == 0 else "good")
    blocked = sum(fleet.keys[message] == fleet.keys[message[0], 0] for message in fleet.keys)
    arguments = ("--ordering", "key", *SHORT_SESSION)
    first = fleet.start("one", *arguments, body=BLOCK)
    fleet.wait_finished(600 - blocked)
    eventually(lambda: claimed(fleet) == 600 - blocked, 20, what="commits whose metadata names all that is finished")
    first.kill()

    second = fleet.start("one", *arguments, body=BLOCK)
    second.open_gate()
    fleet.wait_committed()
    assert second.end() == 0

    report = fleet.judge(ordered=True)
    note_figures(note, report)
    assert report.violations == [], str(report)
    assert report.figures["repeats"] == 2


@pytest.mark.slow
def test_a_partition_given_up_around_a_blocked_message_is_not_repeated_by_its_next_owner(
    fleets: Callable[..., Fleet], note: Note
) -> None:
    """A second member joins; what the first one finished beyond the blocked message travels with the last commit."""
    fleet = fleets(partitions=2)
    fleet.produce(402, lambda _, offset: "block" if offset == 0 else "good")
    first = fleet.start("one", body=BLOCK)
    fleet.wait_finished(400)
    second = fleet.start("two", body=BLOCK)
    second.wait_log("assigned: ", 30)
    second.wait_log(f"{fleet.topic}-", 30)
    first.open_gate()
    second.open_gate()
    fleet.wait_committed()
    assert first.end() == 0
    assert second.end() == 0

    report = fleet.judge()
    note_figures(note, report)
    assert report.violations == [], str(report)
    assert report.figures["repeats"] <= 1, "expected no more than the blocked message of the partition that moved"


def test_a_kill_while_draining_is_a_kill(fleets: Callable[..., Fleet], note: Note) -> None:
    """SIGTERM, and before the drain is through SIGKILL: what was finished and committed meanwhile isn't repeated."""
    fleet = fleets(partitions=2)
    fleet.produce(400, head_blocks)
    first = fleet.start("one", *SHORT_SESSION, body=f"time.sleep(0.005)\n{BLOCK}")
    fleet.wait_finished(100)
    first.terminate()
    first.wait_log("draining")
    eventually(lambda: claimed(fleet) > 0, 20, what="a commit with metadata")
    first.kill()

    second = fleet.start("one", *SHORT_SESSION, body=BLOCK)
    second.open_gate()
    fleet.wait_committed()
    assert second.end() == 0

    report = fleet.judge()
    note_figures(note, report)
    assert report.violations == [], str(report)


@pytest.mark.parametrize("metadata", ["written by another tool", encode(2, [(3, 200)])], ids=["foreign", "of-another-offset"])
def test_metadata_that_is_not_ours_skips_nothing(fleets: Callable[..., Fleet], metadata: str) -> None:
    """A commit made by hand, with metadata that doesn't fit it: one warning, and every message is processed."""
    fleet = fleets()
    fleet.produce(200)
    other = Consumer({"bootstrap.servers": fleet.kafka.bootstrap, "group.id": fleet.topic, "enable.auto.commit": False})
    other.commit(offsets=[TopicPartition(fleet.topic, 0, 1, metadata)], asynchronous=False)
    other.close()

    kc = fleet.start("one")
    fleet.wait_finished(199)
    fleet.wait_committed()
    assert kc.end() == 0
    assert len(kc.lines("WARNING")) == 1
    assert calls_of(fleet) == {(0, offset): 1 for offset in range(1, 200)}


# --- leaving ----------------------------------------------------------------------------------------------------------


def test_a_member_without_partitions_that_ends_does_not_hold_up_the_next_rebalance(fleets: Callable[..., Fleet]) -> None:
    """With the default session a member that ends without leaving its group would do that for 45 s, and for all commits."""
    fleet = fleets()
    heartbeat = ("-X", "heartbeat.interval.ms=300")
    first = fleet.start("one", *heartbeat)
    first.wait_log("assigned: ")
    spare = fleet.start("spare", *heartbeat)
    spare.wait_log("assigned: ")
    loser = spare if "assigned: no partitions" in spare.log else first
    assert loser.end() == 0

    third = fleet.start("three", *heartbeat)
    third.wait_log("assigned: ", 15)
    fleet.produce(100)
    fleet.wait_committed(timeout=15)
