"""Judges what a group of consumers did, from evidence outside of them, and names each promise that was broken.

In the manner of Jepsen: the consumers run, are killed, suspended and restarted; what they did is in a ledger (a line for the
begin and the end of every call of the processor, in the order in which they happened), in their dead-letter and backup files,
and in the log of commits that the broker keeps. None of it is what a consumer says about itself, but for the three lines of its
log that say which partitions it was given and gave up. ``tests/recorder.py`` writes the ledger, ``tests/evidence.py`` reads all.

Terms. A *message* is ``(partition, offset)`` of one topic. A *call* ends as done or failed, or is cut off by the end of its
process. An *epoch* is one partition held by one process, from "assigned" to "revoked", "lost" or the process's end; a call
belongs to the latest epoch of its process and partition. A message is *finished* when a call of it was done, or failed and its
dead letter written.

Order within a key, precisely: within an epoch the calls of a key never overlap, and their offsets only rise; and in no epoch does
a call begin before all earlier messages of its key had been finished once. Two owners at a time (one that was suspended and
expelled, and hasn't noticed, and its successor) may each work on a key; nothing can prevent that from inside a consumer.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from kafka_consumer.commit_metadata import decode
from kafka_consumer.errors import CommitMetadataError
from tests.history import Commit, History, MessageId, Row

CLOCK_SECONDS = 0.002
"""The broker's times are whole milliseconds, cut off; so much may a commit seem to precede what it followed."""


class Kind(StrEnum):
    """The promises that may be broken, by name."""

    LOST = "lost"
    NOT_COMMITTED = "not committed at the end"
    EARLY = "committed early"
    SET_BACK = "commit set back"
    CLAIMED = "claimed by a commit's metadata, but unfinished"
    UNREADABLE = "metadata that can't be read"
    AFTER_CLEAN_STOP = "repeated after a clean stop"
    ALTHOUGH_COMMITTED = "repeated although committed"
    WHILE_OWNED = "repeated while owned"
    UNASSIGNED = "called without an assignment"
    OUT_OF_ORDER = "out of order within a key"
    NO_LETTER = "dead letter missing"
    STRANGE_LETTER = "dead letter without a failure"
    DAMAGED = "row damaged"


class Violation(NamedTuple):
    """A broken promise, with the evidence in words."""

    kind: Kind
    message: MessageId | None
    text: str


@dataclass
class Report:
    """What the checker found, and the figures of the run."""

    violations: list[Violation]
    figures: dict[str, int]

    def kinds(self) -> Counter[Kind]:
        """Return how often each promise was broken."""
        return Counter(each.kind for each in self.violations)

    def __str__(self) -> str:
        lines = [", ".join(f"{name} {number:,}" for name, number in self.figures.items())]
        for kind, count in self.kinds().items():
            lines.append(f"{kind}: {count:,}")
            lines += [f"  {each.text}" for each in self.violations if each.kind is kind][:10]
        return "\n".join(lines)


# --- what is made of it -----------------------------------------------------------------------------------------------


@dataclass
class Epoch:
    """One partition held by one process. ``ended`` is the index of the event that ended it (infinite: none), ``how`` its name."""

    pid: int
    partition: int
    began: int
    wall: float
    ended: float = math.inf
    how: str = ""

    @property
    def clean(self) -> bool:
        """Whether what was finished in it was to be committed at its end."""
        return self.how in ("revoked", "ended")


@dataclass
class Call:
    """One call of the processor; ``began`` and ``ended`` are indices of events, ``end_wall`` is in seconds."""

    message: MessageId
    pid: int
    began: int
    epoch: Epoch | None
    ended: float = math.inf
    end_wall: float = math.inf
    outcome: str = "cut"
    final: bool = False  # done, or failed without an attempt left

    @property
    def where(self) -> str:
        """The call in words."""
        return f"{_name(self.message)} in process {self.pid}"


class Checker:
    """One history, taken apart once; each ``_check`` method looks after one promise."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.violations: list[Violation] = []
        self.figures: Counter[str] = Counter()
        self.epochs: list[Epoch] = []
        self.calls: list[Call] = []
        self._read_events()
        self._by_message: dict[MessageId, list[Call]] = defaultdict(list)
        for call in self.calls:
            self._by_message[call.message].append(call)
        self._commits: dict[int, list[Commit]] = defaultdict(list)
        for commit in history.commits:
            self._commits[commit.partition].append(commit)
        self._letters: dict[MessageId, list[Row]] = defaultdict(list)
        for row in history.letters:
            self._letters[row.partition, row.offset].append(row)
        self._ends: dict[int, int] = {}
        for partition, offset in history.values:
            self._ends[partition] = max(self._ends.get(partition, 0), offset + 1)
        self._finished = {message: self._finished_at(message) for message in history.values}
        self._claims: dict[tuple[int, int], list[tuple[int, int]]] = {}  # (partition, index of its commit) -> finished ranges

    def check(self) -> Report:
        """Look for every kind of violation."""
        self._check_rows()
        self._check_commits()
        self._check_loss()
        self._check_repeats()
        if self.history.ordered:
            self._check_order()
        self._count()
        order = list(Kind)
        return Report(sorted(self.violations, key=lambda each: order.index(each.kind)), dict(self.figures))

    def _report(self, kind: Kind, message: MessageId | None, text: str) -> None:
        self.violations.append(Violation(kind, message, text))

    # --- reading ------------------------------------------------------------------------------------------------------

    def _read_events(self) -> None:
        open_calls: dict[tuple[int, int], Call] = {}
        held: dict[tuple[int, int], Epoch] = {}  # (pid, partition) -> the latest epoch
        failures: Counter[tuple[MessageId, int]] = Counter()  # of a message within an epoch: a new owner starts counting anew
        for index, event in enumerate(self.history.events):
            if event.what == "begin":
                epoch = held.get((event.pid, event.partition))
                call = Call((event.partition, event.offset), event.pid, index, epoch)
                self.calls.append(call)
                open_calls[event.pid, event.thread] = call
            elif event.what in ("done", "failed"):
                ending = open_calls.pop((event.pid, event.thread), None)
                if ending is None or ending.message != (event.partition, event.offset):
                    raise ValueError(f"expected line {index + 1} of the ledger to end a call that was begun, got {event}")
                ending.ended, ending.end_wall, ending.outcome = index, event.wall / 1e9, event.what
                tries = ending.message, ending.epoch.began if ending.epoch else -1
                failures[tries] += event.what == "failed"
                ending.final = event.what == "done" or failures[tries] >= self.history.attempts
            elif event.what == "assigned":
                self._end_epoch(held.get((event.pid, event.partition)), index, "lost")
                self.epochs.append(Epoch(event.pid, event.partition, index, event.wall / 1e9))
                held[event.pid, event.partition] = self.epochs[-1]
            elif event.what in ("revoked", "lost"):
                self._end_epoch(held.get((event.pid, event.partition)), index, event.what)
            elif event.what in ("ended", "killed"):
                for (pid, _), left in held.items():
                    if pid == event.pid:
                        self._end_epoch(left, index, event.what)
                for place in [place for place in open_calls if place[0] == event.pid]:
                    del open_calls[place]
            elif event.what not in ("suspended", "resumed"):
                raise ValueError(f"expected line {index + 1} of the ledger to say what happened, got {event}")

    @staticmethod
    def _end_epoch(epoch: Epoch | None, index: int, how: str) -> None:
        if epoch is not None and epoch.ended == math.inf:
            epoch.ended, epoch.how = index, how

    def _finished_at(self, message: MessageId) -> float:
        """Return when a message was finished for the first time, in seconds since the epoch; infinity when never."""
        done = [call.end_wall for call in self._by_message.get(message, ()) if call.outcome == "done"]
        return min([*done, *(row.at for row in self._letters.get(message, ()))], default=math.inf)

    def _committed_at(self, partition: int, at: float) -> int | None:
        """Return the index of the last commit of a partition before ``at``."""
        commits = self._commits.get(partition, [])
        index = bisect_right(commits, at, key=lambda commit: commit.at) - 1
        return index if index >= 0 else None

    def _claimed(self, partition: int, index: int) -> list[tuple[int, int]]:
        """Return the ranges of offsets that a commit's metadata calls finished."""
        found = self._claims.get((partition, index))
        if found is None:
            commit = self._commits[partition][index]
            try:
                found = list(decode(commit.metadata, commit.offset)) if commit.metadata else []
            except CommitMetadataError as error:
                self._report(Kind.UNREADABLE, None, f"commit of {_name((partition, commit.offset))}: {error}")
                found = []
            self._claims[partition, index] = found
        return found

    def _covered(self, message: MessageId, at: float) -> bool:
        """Whether the commit that was in force at ``at`` says that a message is finished."""
        partition, offset = message
        index = self._committed_at(partition, at)
        if index is None:
            return False
        if offset < self._commits[partition][index].offset:
            return True
        return any(start <= offset < end for start, end in self._claimed(partition, index))

    # --- the promises -------------------------------------------------------------------------------------------------

    def _check_commits(self) -> None:
        for partition, commits in self._commits.items():
            size = self._ends.get(partition, 0)
            # latest[n]: when the last of the first n messages was finished; the commit of n may not be older.
            latest, culprit = [-math.inf], [0]
            for offset in range(size):
                at = self._finished.get((partition, offset), math.inf)
                later = at > latest[-1]
                latest.append(at if later else latest[-1])
                culprit.append(offset if later else culprit[-1])
            named: set[int] = set()
            highest = 0
            for index, commit in enumerate(commits):
                if commit.offset < highest:
                    text = f"{_name((partition, highest))} was committed, and then {commit.offset}"
                    self._report(Kind.SET_BACK, (partition, commit.offset), text)
                highest = max(highest, commit.offset)
                reach = min(commit.offset, size)
                if commit.offset > size:
                    text = f"{_name((partition, commit.offset))} was committed; the log ends at {size}"
                    self._report(Kind.EARLY, (partition, commit.offset), text)
                if latest[reach] > commit.at + CLOCK_SECONDS and culprit[reach] not in named:
                    named.add(culprit[reach])
                    message = (partition, culprit[reach])
                    state = self._state_of(message, commit.at)
                    self._report(Kind.EARLY, message, f"{_name(message)}, {state}, by the commit of {commit.offset}")
                self._check_claims(partition, index, commit)

    def _check_claims(self, partition: int, index: int, commit: Commit) -> None:
        for start, end in self._claimed(partition, index):
            for offset in range(start, end):
                message = (partition, offset)
                if self._finished.get(message, math.inf) > commit.at + CLOCK_SECONDS:
                    state = self._state_of(message, commit.at)
                    self._report(Kind.CLAIMED, message, f"{_name(message)}, {state}, by the commit of {commit.offset}")

    def _state_of(self, message: MessageId, at: float) -> str:
        finished = self._finished.get(message, math.inf)
        if finished < math.inf:
            return f"finished {finished - at:.3f} s after it"
        outcomes = [call.outcome for call in self._by_message.get(message, ())]
        return f"never finished (calls: {', '.join(outcomes) or 'none'})"

    def _check_loss(self) -> None:
        for partition, size in self._ends.items():
            commits = self._commits.get(partition, [])
            committed = commits[-1].offset if commits else 0
            if self.history.complete and committed < size:
                text = f"partition {partition}: {committed} is committed, the log ends at {size}"
                self._report(Kind.NOT_COMMITTED, (partition, committed), text)
            for offset in range(size if self.history.complete else min(committed, size)):
                message = (partition, offset)
                if self._finished[message] < math.inf:
                    continue
                calls = self._by_message.get(message, [])
                if any(call.outcome == "failed" for call in calls):
                    self._report(Kind.NO_LETTER, message, f"{_name(message)} failed, and has no dead letter")
                else:
                    self._report(Kind.LOST, message, f"{_name(message)} has {len(calls)} calls, none of them was done")

    def _check_rows(self) -> None:
        for what, rows in (("dead letter", self.history.letters), ("backup row", self.history.backup)):
            for row in rows:
                message = (row.partition, row.offset)
                if row.value is None or self.history.values.get(message) != row.value:
                    text = f"{what} of {_name(message)}: expected the value produced, got {row.value!r:.80}"
                    self._report(Kind.DAMAGED, message, text)
        for message in self._letters:
            calls = self._by_message.get(message, [])
            if all(call.outcome == "done" for call in calls):
                text = f"{_name(message)} has a dead letter, and {len(calls)} calls, none failed"
                self._report(Kind.STRANGE_LETTER, message, text)

    def _check_repeats(self) -> None:
        for message, calls in self._by_message.items():
            for number, call in enumerate(calls):
                if call.epoch is None:
                    self._report(Kind.UNASSIGNED, message, f"{call.where}, which held no partition {message[0]}")
                elif number:
                    self._judge_repeat(call, calls[:number])

    def _judge_repeat(self, call: Call, before: list[Call]) -> None:
        epoch = call.epoch
        assert epoch is not None
        same = [earlier for earlier in before if earlier.epoch is epoch]
        if same:
            tried_again = len(same) < self.history.attempts and all(earlier.outcome == "failed" for earlier in same)
            if tried_again:
                self.figures["retries"] += 1
            else:
                self._report(Kind.WHILE_OWNED, call.message, f"{call.where}: call {len(same) + 1} in one assignment")
            return
        self.figures["repeats"] += 1
        finished = [earlier for earlier in before if earlier.ended < epoch.began]
        if self._covered(call.message, epoch.wall - CLOCK_SECONDS):
            self._report(Kind.ALTHOUGH_COMMITTED, call.message, f"{call.where}; it was committed before that assignment began")
        elif clean := [earlier for earlier in finished if self._was_to_be_committed(earlier)]:
            how = clean[-1].epoch.how if clean[-1].epoch is not None else ""
            text = f"{call.where}; process {clean[-1].pid} had finished it before its partition was {how} cleanly"
            self._report(Kind.AFTER_CLEAN_STOP, call.message, text)
        elif finished:
            self.figures["repeats_not_yet_committed"] += 1
        elif all(earlier.ended == math.inf for earlier in before):
            self.figures["repeats_unfinished"] += 1
        else:
            self.figures["repeats_by_two_owners"] += 1

    @staticmethod
    def _was_to_be_committed(call: Call) -> bool:
        return call.final and call.epoch is not None and call.epoch.clean and call.ended < call.epoch.ended

    def _check_order(self) -> None:
        offsets: dict[tuple[int, str], list[int]] = defaultdict(list)
        for (partition, offset), key in sorted(self.history.keys.items()):
            offsets[partition, key].append(offset)
        done: dict[tuple[int, str], set[int]] = defaultdict(set)
        below: Counter[tuple[int, str]] = Counter()  # so many of a key's first messages are all finished
        latest: dict[tuple[int, int, str], Call] = {}  # (epoch's begin, partition, key) -> its latest call
        moments = [(call.began, 1, call) for call in self.calls]
        moments += [(int(call.ended), 0, call) for call in self.calls if call.ended < math.inf]
        for _, begins, call in sorted(moments, key=lambda moment: moment[:2]):
            partition, offset = call.message
            key = self.history.keys.get(call.message, "")
            if not key:
                continue
            lane = (partition, key)
            if not begins:
                if not call.final:
                    continue  # it will be tried again, and its key waits
                done[lane].add(offset)
                while below[lane] < len(offsets[lane]) and offsets[lane][below[lane]] in done[lane]:
                    below[lane] += 1
                continue
            place = bisect_left(offsets[lane], offset)
            if below[lane] < place:
                first = offsets[lane][below[lane]]
                self._report(Kind.OUT_OF_ORDER, call.message, f"{call.where} of key {key} began before {first} was finished")
            if call.epoch is None:
                continue
            previous = latest.get((call.epoch.began, *lane))
            latest[call.epoch.began, partition, key] = call
            if previous is None:
                continue
            if previous.ended > call.began:
                text = f"{call.where} of key {key} began while {previous.message[1]} was in work"
                self._report(Kind.OUT_OF_ORDER, call.message, text)
            elif offset < previous.message[1]:
                self._report(Kind.OUT_OF_ORDER, call.message, f"{call.where} of key {key} came after {previous.message[1]}")

    # --- figures ------------------------------------------------------------------------------------------------------

    def _count(self) -> None:
        whats = Counter(event.what for event in self.history.events)
        found = {
            "messages": len(self.history.values), "calls": len(self.calls),
            "cut": sum(call.outcome == "cut" for call in self.calls),
            "repeats": 0, "repeats_unfinished": 0, "repeats_not_yet_committed": 0, "repeats_by_two_owners": 0,
            "dead_letters": len(self._letters), "repeated_dead_letters": len(self.history.letters) - len(self._letters),
            "commits": len(self.history.commits), "commits_with_metadata": sum(bool(c.metadata) for c in self.history.commits),
            "assignments": len(self.epochs), "kills": whats["killed"], "clean_ends": whats["ended"],
            "suspensions": whats["suspended"], "lost_partitions": whats["lost"],
        }  # fmt: skip
        found.update(self.figures)
        self.figures = Counter(found)


def check(history: History) -> Report:
    """Judge a history."""
    return Checker(history).check()


def _name(message: MessageId) -> str:
    return f"{message[0]}@{message[1]}"
