"""Who runs, and what: the contestants and the scenarios of ``compare.py``, as tables."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Contestant:
    """A script with its options, and the environment it runs in (see ``peers.py``; none is the project's own).

    ``most``: it gets no more messages than that, where it would take most of the time for the same rate. ``remark``: what a
    reader of its figures must know.
    """

    script: str
    options: tuple[str, ...] = ()
    environment: str = ""
    most: int | None = None
    remark: str = ""


@dataclass(frozen=True)
class Scenario:
    """What is run: messages, their size, partitions, keys, the work; how many at the same time; and who takes part."""

    title: str
    count: int
    work: str
    workers: int
    contestants: tuple[str, ...]
    partitions: int = 6
    size: int = 100
    keys: int = 0

    @property
    def ideal(self) -> float | None:
        """Messages a second if nothing but the work took time; None for work that takes none."""
        kind, *amounts = self.work.split(":")
        numbers = [float(amount) for amount in amounts]
        if kind == "sleep":
            return self.workers / (numbers[0] / 1e3)
        if kind == "skew":
            short, percent, long = numbers
            return self.workers / ((short * (100 - percent) + long * percent) / 100 / 1e3)
        if kind == "cpu":
            return self.workers / (numbers[0] / 1e6)
        return None

    def topic(self, count: int) -> str:
        """Return the name of a topic that holds what is to be read."""
        return f"bench-{count}x{self.size}-{self.partitions}" + (f"-{self.keys}" if self.keys else "")


CONTESTANTS = {
    "raw": Contestant("run_raw.py", remark="one after the other; tracks nothing"),
    "pool": Contestant("run_pool.py", remark="written by hand: a thread pool, commits of what is contiguous"),
    "kc": Contestant("run_kc.py", remark="threads"),
    "kc-async": Contestant("run_kc.py", ("--executor", "asyncio"), remark="coroutines"),
    "kc-uvloop": Contestant(
        "run_kc.py", ("--executor", "asyncio", "--event-loop", "uvloop"), remark="coroutines, event_loop uvloop"
    ),
    "kc-process": Contestant("run_kc.py", ("--executor", "process"), remark="processes"),
    "kc+backup": Contestant("run_kc.py", ("--backup",), remark="threads; each message written to a file, too"),
    "kc-key": Contestant("run_kc.py", ("--ordering", "key"), remark="threads, order of keys"),
    "kc-async-key": Contestant("run_kc.py", ("--executor", "asyncio", "--ordering", "key"), remark="coroutines, order of keys"),
    "arroyo": Contestant("run_arroyo.py", environment=".peers", remark="threads where it waits, processes where it computes"),
    "faststream": Contestant(
        "run_faststream.py", ("--mode", "workers"), ".peers", most=10_000, remark="at most once: its workers allow nothing else"
    ),
    "faststream-batch": Contestant(
        "run_faststream.py", ("--mode", "batch"), ".peers", remark="the handler's own concurrency, a barrier a batch"
    ),
    "aiokafka": Contestant("run_aiokafka.py", environment=".peers", remark="the user's own concurrency, a barrier a batch"),
    "quixstreams": Contestant("run_quixstreams.py", environment=".peers-quixstreams", remark="one after the other"),
    "pyrallel": Contestant(
        "run_pyrallel.py", environment=".peers312", most=50_000, remark="asyncio; processes where it computes"
    ),
    "pyrallel-key": Contestant(
        "run_pyrallel.py", ("--ordering", "key"), ".peers312", most=10_000, remark="asyncio, in order of keys"
    ),
    "parallel-consumer": Contestant("run_parallel_consumer.py", remark="Java; its warm-up is included"),
    "parallel-consumer-key": Contestant(
        "run_parallel_consumer.py", ("--ordering", "key"), remark="Java, in order of keys; its warm-up is included"
    ),
}  # fmt: skip

_PLAIN = (
    "raw", "pool", "kc", "kc-async", "kc-uvloop", "arroyo", "faststream", "faststream-batch", "aiokafka", "quixstreams",
    "pyrallel", "parallel-consumer",
)  # fmt: skip
_WAITING = tuple(name for name in _PLAIN if name not in {"raw", "quixstreams"})
_KEYED = ("kc", "kc-key", "kc-async", "kc-async-key", "pyrallel", "pyrallel-key", "parallel-consumer", "parallel-consumer-key")
LONG = 200_000

_SHORT = {
    "A": Scenario("no-op, 100 B x 500k, 6 partitions, 8 workers", 500_000, "noop", 8, _PLAIN),
    "G": Scenario("as A, each message backed up to a file", 500_000, "noop", 8, ("raw", "kc", "kc+backup")),
    "B50": Scenario("5 ms wait x 20k, 6 partitions, 50 workers", 20_000, "sleep:5", 50, _WAITING),
    "B200": Scenario("5 ms wait x 20k, 6 partitions, 200 workers", 20_000, "sleep:5", 200, _WAITING),
    "B1000": Scenario("5 ms wait x 20k, 6 partitions, 1,000 workers", 20_000, "sleep:5", 1000, _WAITING),
    "C": Scenario("5 ms wait x 20k, one partition, 100 workers", 20_000, "sleep:5", 100, _WAITING, partitions=1),
    "D": Scenario("no-op, 1 KB x 200k, 6 partitions, 8 workers", 200_000, "noop", 8, _PLAIN, size=1024),
    "E": Scenario(
        "200 us of computing x 50k, 6 partitions, 2 processes (or threads)", 50_000, "cpu:200", 2,
        ("raw", "kc", "kc-process", "arroyo", "quixstreams", "pyrallel", "parallel-consumer"),
    ),
    "F": Scenario("5 ms wait x 20k, 10,000 keys, 6 partitions, 100 workers", 20_000, "sleep:5", 100, _KEYED, keys=10_000),
    "H": Scenario(
        "10 % fail and become dead letters, 100 B x 100k, 8 workers", 100_000, "fail:10", 8,
        ("raw", "kc", "arroyo", "pyrallel"),
    ),
    "I": Scenario("waits of 1 ms, 1 % of them 200 ms, x 50k, 6 partitions, 100 workers", 50_000, "skew:1:1:200", 100, _WAITING),
}  # fmt: skip


def _with_long(scenarios: dict[str, Scenario]) -> dict[str, Scenario]:
    """Each scenario that waits, and after it the same with more messages: a second is mostly warm-up."""
    every: dict[str, Scenario] = {}
    for name, scenario in scenarios.items():
        every[name] = scenario
        if scenario.work.startswith(("sleep", "skew")):
            title = scenario.title.replace("x 20k", "x 200k").replace("x 50k", "x 200k")
            every[name + "L"] = replace(scenario, count=LONG, title=title)
    return every


SCENARIOS = _with_long(_SHORT)
QUICK = ("A", "G", "B50", "B200")
QUICK_CONTESTANTS = ("raw", "pool", "kc", "kc-async", "kc+backup")
