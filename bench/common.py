"""What every contestant shares: the arguments, the work, the meter, and the proof of the commit.

The contract of a contestant
  * it reads ``--count`` messages of ``--topic`` from the beginning, in a fresh group;
  * it calls one function for each message, with the value as bytes;
  * it commits every ``--commit-interval`` seconds, or as its tool does;
  * it ends when all are processed and the last commit is acknowledged; it prints one line of JSON.

The clock runs from the first message in the application's hands to the acknowledgement of the last commit: neither joining the
group nor shutting down counts. Then the committed offsets are read back from the broker: a run that didn't commit everything is
an error, not a figure. So is one that failed to keep the order it was asked for, or lost a dead letter.

Runs in the peers' environments, too: it needs nothing but confluent-kafka.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.metadata
import json
import os
import platform
import sys
import time
import uuid
import zlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

# For every contestant alike: with librdkafka's default of a second, a full queue turns into one-second stalls.
FETCHING = {"fetch.queue.backoff.ms": 10, "queued.min.messages": 100_000, "queued.max.messages.kbytes": 65_536}

WORKS = "noop | sleep:MILLISECONDS | cpu:MICROSECONDS | fail:PERCENT | skew:MILLISECONDS:PERCENT:MILLISECONDS"


class WorkError(ValueError):
    """What a function raises for a message that it can't process."""


def arguments(name: str, **more: dict[str, Any]) -> argparse.Namespace:
    """Parse the command line of a contestant; ``more`` are options of its own, as ``add_argument`` takes them."""
    parser = argparse.ArgumentParser(description=f"benchmark contestant: {name}")
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--workers", type=int, default=8, help="messages in work at the same time")
    parser.add_argument("--work", default="noop", help=WORKS)
    parser.add_argument("--commit-interval", type=float, default=1.0)
    parser.add_argument("--keys", type=int, default=0, help="the topic has so many keys: watch the order of each")
    parser.add_argument("--ordering", choices=("unordered", "key"), default="unordered")
    parser.add_argument("--group", default=f"bench-{name}-{uuid.uuid4().hex[:10]}")
    for flag, options in more.items():
        parser.add_argument("--" + flag.replace("_", "-"), **options)
    return parser.parse_args()


# --- the work --------------------------------------------------------------------------------------------------------


def percentile_of(value: bytes) -> int:
    """Return a message's number from 0 to 99, by its first twelve bytes: scattered, and the same for every contestant."""
    return zlib.crc32(value[:12]) % 100


def _noop(_value: bytes) -> None:
    pass


async def _noop_coroutine(_value: bytes) -> None:
    pass


class Work:
    """The user's function: ``call`` it, or await ``coroutine``. It pickles, for those that hand it to a process."""

    def __init__(self, spec: str, keys: int = 0) -> None:
        self.spec, self.keys = spec, keys
        self.out_of_order = 0
        self.kind, *amounts = spec.split(":")
        try:
            numbers = [float(amount) for amount in amounts]
            self._last = [-1] * keys
            self.call, self.coroutine = self._functions(numbers)
        except (ValueError, KeyError, IndexError):
            raise SystemExit(f"expected --work to be {WORKS}, got {spec!r}") from None
        if keys:
            self.call, self.coroutine = self._watched(self.call), self._watched_coroutine(self.coroutine)

    @property
    def waits(self) -> bool:
        """Whether it waits, so that calls at the same time are faster than one after the other."""
        return self.kind in {"sleep", "skew"}

    def _functions(self, numbers: list[float]) -> tuple[Callable[[bytes], None], Callable[[bytes], Awaitable[None]]]:
        if self.kind == "noop":
            return _noop, _noop_coroutine
        if self.kind == "sleep":
            return self._waiting([numbers[0] / 1e3])
        if self.kind == "skew":
            short, percent, long = numbers
            return self._waiting([(long if index < percent else short) / 1e3 for index in range(100)])
        plain = {"cpu": self._computing, "fail": self._failing}[self.kind](numbers[0])

        async def coroutine(value: bytes) -> None:
            plain(value)

        return plain, coroutine

    @staticmethod
    def _waiting(seconds: list[float]) -> tuple[Callable[[bytes], None], Callable[[bytes], Awaitable[None]]]:
        always = seconds[0] if len(seconds) == 1 else None

        def call(value: bytes) -> None:
            time.sleep(seconds[percentile_of(value)] if always is None else always)

        async def coroutine(value: bytes) -> None:
            await asyncio.sleep(seconds[percentile_of(value)] if always is None else always)

        return call, coroutine

    @staticmethod
    def _computing(microseconds: float) -> Callable[[bytes], None]:
        nanoseconds = int(microseconds * 1e3)

        def call(_value: bytes) -> None:
            # Of this thread's processor time: waiting for the interpreter's lock isn't work done.
            end = time.thread_time_ns() + nanoseconds
            while time.thread_time_ns() < end:
                pass

        return call

    @staticmethod
    def _failing(percent: float) -> Callable[[bytes], None]:
        def call(value: bytes) -> None:
            if percentile_of(value) < percent:
                raise WorkError("this one can't be processed")

        return call

    def _note(self, value: bytes) -> None:
        number = int(value[:12])
        key = number % self.keys
        if self._last[key] > number:
            self.out_of_order += 1
        self._last[key] = number

    def _watched(self, call: Callable[[bytes], None]) -> Callable[[bytes], None]:
        def watched(value: bytes) -> None:
            self._note(value)
            call(value)

        return watched

    def _watched_coroutine(self, call: Callable[[bytes], Awaitable[None]]) -> Callable[[bytes], Awaitable[None]]:
        async def watched(value: bytes) -> None:
            self._note(value)
            await call(value)

        return watched

    def __call__(self, value: bytes) -> None:
        self.call(value)

    def __reduce__(self) -> tuple[type[Work], tuple[str, int]]:
        return Work, (self.spec, self.keys)


def work(spec: str) -> Callable[[bytes], None]:
    """Return the user's function."""
    return Work(spec).call


def expected_failures(spec: str, count: int) -> int:
    """Return how many of the first ``count`` messages fail with this work."""
    kind, _, percent = spec.partition(":")
    return sum(percentile_of(b"%012d" % index) < float(percent) for index in range(count)) if kind == "fail" else 0


def use_uvloop() -> str:
    """Use uvloop where it is installed, as the asyncio peers advise; returns the loop's name."""
    try:
        import uvloop
    except ImportError:
        return "asyncio"
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    return "uvloop"


# --- the meter -------------------------------------------------------------------------------------------------------


class Meter:
    """Wall and processor seconds from the first message to the last commit, and peak memory; child processes included."""

    def __init__(self) -> None:
        self.begun: float | None = None
        self.seconds = 0.0
        self.cpu = 0.0
        self.rss_mb = 0.0
        self._children_mb: dict[int, float] = {}

    def first(self) -> None:
        """The first message is here; later calls do nothing."""
        if self.begun is None:
            self._cpu = _cpu_seconds()
            self.begun = time.perf_counter()

    def look(self) -> None:
        """Note the children's memory; whoever has children that end before the clock does calls this now and then."""
        for pid in descendants():
            self._children_mb[pid] = max(self._children_mb.get(pid, 0.0), _status_mb("VmHWM", pid))

    def end(self) -> None:
        """The last commit is acknowledged."""
        assert self.begun is not None
        self.seconds = time.perf_counter() - self.begun
        self.cpu = _cpu_seconds() - self._cpu
        self.look()
        self.rss_mb = peak_rss_mb() + sum(self._children_mb.values())


def watched_consumer(meter: Meter) -> type:
    """Return a ``confluent_kafka.Consumer`` that starts the clock with the first batch, for a tool that makes its own."""
    from confluent_kafka import Consumer

    class Watched(Consumer):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            for name in ("poll", "consume"):
                setattr(self, name, self._until_first(getattr(super(), name)))

        def _until_first(self, method: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                came = method(*arguments, **options)
                if came:
                    meter.first()
                    # From here on the methods are the class's own, at no cost.
                    self.__dict__.clear()
                return came

            return call

    return Watched


def descendants(pid: int | str = "self") -> Iterator[int]:
    """Yield the live child processes, and theirs, whichever thread started them."""
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split():
                    yield int(child)
                    yield from descendants(child)


def _cpu_seconds() -> float:
    total = time.process_time()
    ended = os.times()
    total += ended.children_user + ended.children_system
    for pid in descendants():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def _status_mb(field: str, pid: int | str = "self") -> float:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
    return 0.0


def peak_rss_mb() -> float:
    """Return the peak resident memory of this process in MB."""
    return _status_mb("VmHWM")


def rss_mb() -> float:
    """Return the resident memory of this process now, in MB."""
    return _status_mb("VmRSS")


# --- the result ------------------------------------------------------------------------------------------------------


def version(distribution: str) -> str:
    """Return the version of an installed distribution."""
    return importlib.metadata.version(distribution)


def skip(name: str, reason: str) -> NoReturn:
    """Take no part, and say why."""
    print(json.dumps({"name": name, "skipped": reason}), flush=True)
    raise SystemExit(0)


def finish(
    name: str, a: argparse.Namespace, processed: int, meter: Meter, *, work: Work | None = None,
    dead_letters: int | None = None, **more: Any,
) -> NoReturn:  # fmt: skip
    """Prove the commit, print the line, exit. ``dead_letters``: how many were written; ``more``: what else is to be known."""
    committed = committed_total(a.bootstrap, a.group, a.topic)
    delete_group(a.bootstrap, a.group)
    result: dict[str, Any] = {
        "name": name,
        "messages": processed,
        "seconds": round(meter.seconds, 4),
        "messages_per_second": round(processed / meter.seconds, 1),
        "cpu_us_per_message": round(meter.cpu / processed * 1e6, 2),
        "peak_rss_mb": round(meter.rss_mb, 1),
        "committed": committed,
        "python": platform.python_version(),
        **more,
    }
    errors = []
    if processed < a.count or committed < a.count:
        errors.append(f"processed {processed} and committed {committed} of {a.count}")
    if work is not None and work.keys:
        result["out_of_order"] = work.out_of_order
    if a.ordering == "key" and result.get("out_of_order"):
        errors.append(f"{result['out_of_order']} messages out of the order of their keys")
    if dead_letters is not None:
        result["dead_letters"], expected = dead_letters, expected_failures(a.work, a.count)
        if dead_letters != expected:
            errors.append(f"expected {expected} dead letters, got {dead_letters}")
    if errors:
        result["error"] = "; ".join(errors)
    print(json.dumps(result), flush=True)
    sys.stdout.flush()
    # Without the interpreter's end: some clients' threads make it slow, and nothing is left to do.
    os._exit(1 if errors else 0)


def committed_total(bootstrap: str, group: str, topic: str) -> int:
    """Return the sum of a group's committed offsets."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False})
    try:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        return sum(max(tp.offset, 0) for tp in consumer.committed([TopicPartition(topic, p) for p in partitions], timeout=10))
    finally:
        consumer.close()


def delete_group(bootstrap: str, group: str) -> None:
    """Leave no group behind, where that can be done: one with a member that hasn't left yet stays."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    with contextlib.suppress(KafkaException):
        admin.delete_consumer_groups([group], request_timeout=5)[group].result(6)
