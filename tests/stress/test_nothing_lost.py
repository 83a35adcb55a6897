"""Consumers killed, suspended and restarted at random: nothing is lost, and each repeat has its reason and is counted.

tests/checker.py judges. ``KC_CHAOS_SECONDS`` sets the length of the runs with random events (25; 300 at full length).
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.fleet import FAIL_THE_BAD, Fleet, Member, note_figures
from tests.helpers import background
from tests.kafka import Kafka, LocalKafka
from tests.runs import Note

pytestmark = [pytest.mark.stress, pytest.mark.stress_short, pytest.mark.needs_real_broker, pytest.mark.timeout(900)]

SHORT_SESSION = ("-X", "session.timeout.ms=1500", "-X", "heartbeat.interval.ms=300")
# By themselves the files are written so late that a commit which doesn't wait for a dead letter is seen.
LATE_FILES = ("--csv-flush-interval", "5")
TWO_ATTEMPTS = ("--max-attempts", "2", "--retry-backoff", "0.05")


# --- kills ------------------------------------------------------------------------------------------------------------


def test_kills_at_random_lose_nothing_and_repeat_only_what_was_not_committed(
    fleets: Callable[..., Fleet], chance: random.Random, note: Note, full: bool
) -> None:
    """Fifty SIGKILLs over 100,000 messages at full length; a twentieth of the messages fail (guarantees 1, 2 and 5)."""
    kills, messages = (50, 100_000) if full else (6, 9_000)
    share = messages // kills
    fleet = fleets(partitions=3)
    fleet.produce(messages, lambda partition, offset: "bad" if (offset + partition) % 20 == 13 else "good")

    def start() -> Member:
        body = f"time.sleep(0.002)\n{FAIL_THE_BAD}"
        return fleet.start("one", "--workers", "8", *SHORT_SESSION, *LATE_FILES, body=body)

    for life in range(kills):
        kc = start()
        if chance.random() < 0.15:
            # At any instant: while it starts, joins its group, or reads its first messages.
            time.sleep(chance.uniform(0, 3))
        else:
            enough = share * life + chance.randrange(share)
            fleet.wait_finished(min(max(enough, fleet.finished() + 50), messages - share // 2))
            if chance.random() < 0.2:
                kc.terminate()  # while it drains
                time.sleep(chance.uniform(0, 0.3))
        kc.kill()
    last = start()
    last.wait_log("consuming ", 60)  # before it has a handler for it, SIGTERM just ends it, as it would end anything
    fleet.wait_committed()
    assert last.end() == 0

    report = fleet.judge()
    note_figures(note, report)
    assert report.violations == [], str(report)
    assert report.figures["kills"] == kills
    assert report.figures["dead_letters"] == sum(b" bad " in value for value in fleet.values.values())
    # A life repeats at the most what its queue and its workers held, and what a commit interval let through.
    assert report.figures["repeats"] < kills * 1500


# --- restarts ---------------------------------------------------------------------------------------------------------


def test_rolling_restarts_under_load_repeat_nothing(
    fleets: Callable[..., Fleet], chance: random.Random, note: Note, full: bool
) -> None:
    """Three members, one after the other ended with SIGTERM and started again, twenty times at full length (guarantees 3, 6)."""
    restarts = 20 if full else 4
    fleet = fleets(partitions=6)
    names = ("one", "two", "three")

    def start(name: str) -> Member:
        # A member notices that another one came or went with its next heartbeat.
        return fleet.start(name, "-X", "heartbeat.interval.ms=300", body=f"time.sleep(0.001)\n{FAIL_THE_BAD}")

    members = {name: start(name) for name in names}
    for member in members.values():
        member.wait_log("assigned: ", 60)
    enough = threading.Event()
    with background(fleet.feed, enough, stop=enough.set):
        for number in range(restarts):
            fleet.wait_finished(fleet.finished() + chance.randrange(100, 600))
            name = names[number % 3]
            assert members[name].end() == 0, members[name].log
            members[name] = start(name)
            members[name].wait_log("assigned: ", 60)
    fleet.wait_committed()
    for member in members.values():
        assert member.end() == 0, member.log

    report = fleet.judge()
    note_figures(note, report)
    assert report.violations == [], str(report)
    assert report.figures["clean_ends"] == restarts + 3
    assert report.figures["repeats"] == 0


# --- all at once, under each protocol ---------------------------------------------------------------------------------

SESSION_SECONDS = 4.0
# A new member of a group under KIP-848 has no say in these: the broker's are in force.
SESSIONS = {
    "group.consumer.session.timeout.ms": "4000", "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.heartbeat.interval.ms": "500", "group.consumer.min.heartbeat.interval.ms": "100",
}  # fmt: skip
CLASSIC = ("-X", "session.timeout.ms=4000", "-X", "heartbeat.interval.ms=500")
PROTOCOLS = {
    "range": ("-X", "partition.assignment.strategy=range", *CLASSIC),
    "cooperative-sticky": CLASSIC,
    "consumer": ("-X", "group.protocol=consumer"),
}


@pytest.fixture(scope="module")
def short_session_kafka(real_kafka: Kafka, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    # real_kafka is asked for since it skips, or fails in CI, where no real broker can be had.
    with LocalKafka(folder=tmp_path_factory.mktemp("short-sessions"), properties=SESSIONS) as broker:
        yield broker


class Chaos:
    """Four members and what happens to them. One thread's."""

    def __init__(self, fleet: Fleet, arguments: tuple[str, ...], chance: random.Random) -> None:
        self._fleet = fleet
        self._arguments = arguments
        self._chance = chance
        self._away: dict[str, float] = {}  # when members that are down come back, or suspended ones go on
        self.members = {name: self._start(name) for name in ("one", "two", "three", "four")}
        self._suspended: set[str] = set()

    def _start(self, name: str) -> Member:
        body = f"time.sleep(0.002)\n{FAIL_THE_BAD}"
        return self._fleet.start(name, "--ordering", "key", *TWO_ATTEMPTS, *LATE_FILES, *self._arguments, body=body)

    def happen(self) -> None:
        """Let one event happen: to a member that is up, or one that comes back."""
        now = time.monotonic()
        for name in [name for name, at in self._away.items() if at <= now]:
            self._come_back(name)
        up = [name for name in self.members if name not in self._away]
        if len(up) < 2:
            return
        name = self._chance.choice(up)
        member = self.members[name]
        assert member.process.poll() is None, f"{name} ended by itself with {member.process.returncode}:\n{member.log[-5000:]}"
        what = self._chance.choice(("kill", "kill", "suspend", "suspend", "end"))
        if what == "suspend":
            member.suspend()
            self._suspended.add(name)
            # Some are shorter than the session; after the others the member finds itself expelled.
            self._away[name] = now + self._chance.choice((0.2, 1.0, SESSION_SECONDS + 1, SESSION_SECONDS * 2))
            return
        if what == "kill":
            member.kill()
        else:
            code = member.end()
            # Not clean, and it says so: before it began to consume, or when it had been expelled and finds out while it drains.
            told = "consuming" not in member.log or "the membership was lost before the last commit" in member.log
            assert code == 0 or told, member.log[-5000:]
        self._away[name] = time.monotonic() + self._chance.uniform(0, 3)

    def _come_back(self, name: str) -> None:
        del self._away[name]
        if name in self._suspended:
            self._suspended.discard(name)
            self.members[name].resume()
        else:
            self.members[name] = self._start(name)

    def settle(self) -> None:
        """Bring all members back."""
        for name in list(self._away):
            self._come_back(name)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_chaos_among_four_members_loses_nothing_and_keeps_the_order_of_keys(
    fleets: Callable[..., Fleet], short_session_kafka: LocalKafka, chance: random.Random, note: Note, full: bool, protocol: str
) -> None:
    """SIGKILL, SIGSTOP, clean ends and new members at random; twelve partitions; five minutes at full length (all guarantees)."""
    seconds = float(os.environ.get("KC_CHAOS_SECONDS") or (300 if full else 25))
    # So few keys that several messages of one wait at once.
    fleet = fleets(kafka=short_session_kafka, partitions=12, keys=3)
    enough = threading.Event()

    def feed() -> None:
        while not enough.wait(0.1):
            fleet.produce(120, lambda partition, offset: "bad" if (offset + partition) % 20 == 13 else "good")

    with background(feed, stop=enough.set):
        chaos = Chaos(fleet, PROTOCOLS[protocol], chance)
        fleet.wait_finished(500)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            chaos.happen()
            time.sleep(chance.uniform(0.3, 1.5))
        chaos.settle()
    fleet.wait_committed(timeout=120)
    for name, member in chaos.members.items():
        member.wait_log("consuming ", 60)
        assert member.end() == 0, f"{name}:\n{member.log[-5000:]}"

    report = fleet.judge(ordered=True, attempts=2)
    note_figures(note, report)
    assert report.violations == [], str(report)
    assert report.figures["kills"] > 0
    assert report.figures["suspensions"] > 0
