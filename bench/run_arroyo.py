"""arroyo: ``StreamProcessor`` with its strategy for the kind of work (plain, threads, processes), ``CommitOffsets`` each second.

Dead letters go to a topic, through its ``KafkaDlqProducer``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from arroyo.backends.kafka import KafkaConsumer, KafkaProducer
from arroyo.backends.kafka.configuration import build_kafka_consumer_configuration
from arroyo.commit import CommitPolicy
from arroyo.dlq import DlqPolicy, InvalidMessage, KafkaDlqProducer
from arroyo.processing import StreamProcessor
from arroyo.processing.strategies import CommitOffsets, ProcessingStrategy, ProcessingStrategyFactory, RunTask
from arroyo.processing.strategies.run_task_in_threads import RunTaskInThreads
from arroyo.processing.strategies.run_task_with_multiprocessing import MultiprocessingPool, RunTaskWithMultiprocessing
from arroyo.types import FilteredPayload, Topic
from common import FETCHING, Meter, Work, WorkError, arguments, finish, version
from load import create, delete, held


class Task:
    """The function on arroyo's messages; it pickles, for its process pool."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __call__(self, message: Any) -> None:
        try:
            self.work.call(message.payload.value)
        except WorkError as error:
            raise InvalidMessage(message.value.partition, message.value.offset, reason=str(error), log_exception=False) from error


class Gate(ProcessingStrategy[Any]):
    """The outermost step: sees the first message, and asks for the end when all are submitted.

    The processor then drains its steps and commits. Waiting for the last result instead would add up to a second: where no
    message is left it waits in ``poll(1.0)`` before it looks at what has finished.
    """

    def __init__(self, meter: Meter, count: int, shutdown: Callable[[], None], following: ProcessingStrategy[Any]) -> None:
        self._meter, self._left, self._shutdown, self._next = meter, count, shutdown, following
        self.invalid = 0

    def submit(self, message: Any) -> None:
        self._meter.first()
        try:
            self._next.submit(message)  # refuses when it is full: not counted then
        except InvalidMessage:
            self.invalid += 1
            self._count()
            raise
        self._count()

    def _count(self) -> None:
        self._left -= 1
        if not self._left:
            self._shutdown()

    def poll(self) -> None:
        self._next.poll()

    def join(self, timeout: float | None = None) -> None:
        self._meter.look()
        self._next.join(timeout)

    def close(self) -> None:
        self._next.close()

    def terminate(self) -> None:
        self._next.terminate()


class LastStep(CommitOffsets):
    """Counts what is finished, and stops the clock after the last commit."""

    def __init__(self, commit: Any, meter: Meter) -> None:
        super().__init__(commit)
        self._meter, self.finished = meter, 0

    def submit(self, message: Any) -> None:
        super().submit(message)
        self.finished += not isinstance(message.payload, FilteredPayload)

    def join(self, timeout: float | None = None) -> None:
        super().join(timeout)
        self._meter.end()


def main() -> None:
    """Consume."""
    a = arguments("arroyo")
    work, meter = Work(a.work, a.keys), Meter()
    task, pool, steps = Task(work), None, []
    logging.disable(logging.INFO)
    if work.kind == "cpu":
        pool = MultiprocessingPool(num_processes=a.workers)
    strategy = "processes" if pool else "threads" if work.waits else "plain"

    class Factory(ProcessingStrategyFactory[Any]):
        def create_with_partitions(self, commit: Any, partitions: Any) -> ProcessingStrategy[Any]:  # noqa: ARG002
            last = LastStep(commit, meter)
            following: ProcessingStrategy[Any]
            if pool is not None:
                following = RunTaskWithMultiprocessing(
                    task, last, max_batch_size=1000, max_batch_time=1.0, pool=pool,
                    input_block_size=16 << 20, output_block_size=16 << 20,
                )  # fmt: skip
            elif work.waits:
                # After a refusal the processor sleeps 10 ms: what waits must outlast that.
                following = RunTaskInThreads(task, a.workers, 10_000, last)
            else:
                following = RunTask(task, last)
            gate = Gate(meter, a.count, processor.signal_shutdown, following)
            steps[:] = [gate, last]
            return gate

        def shutdown(self) -> None:
            if pool is not None:
                pool.close()

    options = dict(FETCHING)
    configuration = build_kafka_consumer_configuration(
        {}, group_id=a.group, bootstrap_servers=[a.bootstrap], auto_offset_reset="earliest",
        queued_max_messages_kbytes=options.pop("queued.max.messages.kbytes"),
        queued_min_messages=options.pop("queued.min.messages"), override_params=options,
    )  # fmt: skip
    letters, policy = f"{a.group}.dlq", None
    if work.kind == "fail":
        create(a.bootstrap, letters, 1)
        producer = KafkaProducer({"bootstrap.servers": a.bootstrap, "linger.ms": 5})
        policy = DlqPolicy(KafkaDlqProducer(producer, Topic(letters)))
    processor = StreamProcessor(
        KafkaConsumer(configuration),
        Topic(a.topic),
        Factory(),
        commit_policy=CommitPolicy(a.commit_interval, None),
        dlq_policy=policy,
    )
    processor.run()
    gate, last = steps
    dead_letters = None
    if policy is not None:
        dead_letters = held(a.bootstrap, letters)
        delete(a.bootstrap, letters)
    finish(
        "arroyo", a, last.finished + gate.invalid, meter, work=work, dead_letters=dead_letters,
        version=version("sentry-arroyo"), strategy=strategy,
    )  # fmt: skip


if __name__ == "__main__":
    main()
