"""The one owner of the Kafka consumer.

``confluent_kafka.Consumer`` serialises its calls: while one thread polls, another one's commit or pause waits. So a single
thread, the polling thread, makes every call; others post requests, which it serves between two polls and while it waits.

Commits are asynchronous underneath: the owner hands them to librdkafka, and the acknowledgement arrives in a later poll. A
coordinator that is gone blocks nobody but the thread that asked for the commit, and that one has a deadline.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from kafka_consumer.errors import ClientClosedError, RequestTimeoutError

T = TypeVar("T")

logger = logging.getLogger(__name__)

REQUEST_SECONDS = 30.0
LEAVE_SECONDS = 5.0  # how long leaving the group may wait for a rebalance that is under way
LEAVE_POLL_SECONDS = 0.05


class Client:
    """A Kafka consumer with one owner. The thread that calls ``own()`` polls; every method says who may call it."""

    def __init__(self, consumer: Any = None) -> None:
        self._consumer: Any = consumer
        # Only a consumer built by ``connect`` reports commits through on_commit; a given one commits in the owner's thread.
        self._asynchronous = False
        self._leaves = False  # a member without partitions has to leave its group before it closes
        self._owner: int | None = None
        self._serving = False  # the owner's: it executes another thread's request
        self._lock = threading.Lock()  # guards the three below
        self._requests: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._commits: list[tuple[list[tuple[str, int, int]], Future[list[TopicPartition]]]] = []  # handed to librdkafka
        self._closed = False
        self.posted = threading.Event()  # set when a request waits: the owner looks at it while it waits for something else

    def connect(self, options: dict[str, Any]) -> None:
        """Build the consumer from librdkafka's options. Errors: ``KafkaException`` for an invalid one."""
        self._consumer = Consumer({**options, "on_commit": self._on_commit}, logger=_quiet_logger())
        self._asynchronous = True
        # A static member keeps its place on purpose; under KIP-848 close leaves by itself.
        self._leaves = options.get("group.protocol", "classic") == "classic" and not options.get("group.instance.id")

    @property
    def consumer(self) -> Any:
        """The consumer itself, for its owner."""
        return self._consumer

    # --- the owner's thread -----------------------------------------------------------------------------------------------

    def own(self) -> None:
        """Make the calling thread the owner."""
        self._owner = threading.get_ident()

    def serve(self) -> None:
        """Execute the requests that others have posted."""
        while True:
            with self._lock:
                if not self._requests:
                    self.posted.clear()
                    return
                function, future = self._requests.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            self._serving = True
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001 - it belongs to the thread that asked
                future.set_exception(error)
            finally:
                self._serving = False

    def close(self) -> None:
        """Leave the group and close. Requests that wait, and later ones, fail with ``ClientClosedError``."""
        try:
            if self._consumer is not None:
                if self._leaves:
                    self._leave_without_partitions()
                self._consumer.close()
        finally:
            self.disown()

    def _leave_without_partitions(self) -> None:
        """Close alone doesn't leave the group when a cooperative member has no partition (librdkafka 2.16): unsubscribing does.

        A member that ends without leaving holds up every rebalance, and with it the commits of the others, until its session
        has expired. While a rebalance is under way unsubscribing is postponed to its end: hence the polls. What they return
        isn't delivered, so it isn't committed.
        """
        try:
            if self._consumer.assignment():
                return
            self._consumer.unsubscribe()
            deadline = time.monotonic() + LEAVE_SECONDS
            while self._consumer.memberid() and time.monotonic() < deadline:
                self._consumer.poll(LEAVE_POLL_SECONDS)
        except KafkaException as error:
            logger.debug("unsubscribing before the end failed: %s", error)

    def disown(self) -> None:
        """Fail every request, now and later: nobody serves them any more."""
        with self._lock:
            self._closed = True
            self._owner = None  # the system gives a thread's id to another one once it has ended
            waiting = [future for _, future in self._requests] + [future for _, future in self._commits]
            self._requests.clear()
            self._commits.clear()
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(ClientClosedError("the Kafka client is closed"))

    def _on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        """Librdkafka's answer to a commit; runs inside a poll of the owner. Must not raise: that would drop a fetched batch."""
        key = _key(partitions)
        with self._lock:
            found = next((entry for entry in self._commits if entry[0] == key), None)
            if found is None:
                return  # whoever asked has given up
            self._commits.remove(found)
        if not found[1].set_running_or_notify_cancel():
            return  # given up at this very moment
        if error is not None:
            found[1].set_exception(KafkaException(error))
        else:
            found[1].set_result(partitions)

    # --- any thread -------------------------------------------------------------------------------------------------------

    def call(self, function: Callable[[], T], timeout: float = REQUEST_SECONDS) -> T:
        """Have the owner execute ``function`` and return its result; at once when the caller is the owner.

        Errors: what it raises; ``RequestTimeoutError`` after ``timeout`` seconds; ``ClientClosedError``.
        """
        if threading.get_ident() == self._owner:
            return function()
        future: Future[T] = Future()
        self._post(function, future)
        return self._result(future, timeout)

    def commit(
        self,
        *,
        offsets: list[TopicPartition],
        asynchronous: bool = False,
        still_ours: Callable[[TopicPartition], bool] = lambda _: True,
        timeout: float = REQUEST_SECONDS,
    ) -> Any:
        """Commit, and return each partition's own result. Errors: ``KafkaException``, and those of ``call``.

        ``still_ours`` is asked in the owner's thread, where partitions are revoked: an offset decided upon just before a
        revocation, and posted after it, would set back what the revocation committed.
        """
        if asynchronous:
            raise ValueError("expected asynchronous to be False: a commit's result matters")
        future: Future[list[TopicPartition]] = Future()

        def hand_over() -> None:
            ours = [tp for tp in offsets if still_ours(tp)]
            if not ours:
                future.set_result([])
            elif not self._asynchronous or (threading.get_ident() == self._owner and not self._serving):
                future.set_result(self._consumer.commit(offsets=ours, asynchronous=False))
            else:
                entry = (_key(ours), future)
                with self._lock:
                    self._commits.append(entry)
                self._consumer.commit(offsets=ours, asynchronous=True)

        try:
            self.call(hand_over, timeout)
            return self._result(future, timeout)
        finally:
            with self._lock:
                self._commits = [entry for entry in self._commits if entry[1] is not future]

    def _post(self, function: Callable[[], Any], future: Future[Any]) -> None:
        with self._lock:
            if self._closed:
                raise ClientClosedError("the Kafka client is closed")
            self._requests.append((function, future))
            self.posted.set()

    def _result(self, future: Future[T], timeout: float) -> T:
        try:
            return future.result(timeout)
        except FutureTimeoutError:
            if future.done():
                raise  # the function's own
            future.cancel()
            raise RequestTimeoutError(f"no answer from Kafka within {timeout:g} s") from None


def librdkafka_logger() -> logging.Logger:
    """Return the logger that librdkafka's own lines go to."""
    return logging.getLogger("kafka_consumer.librdkafka")


def _quiet_logger() -> logging.Logger:
    """Return librdkafka's logger, so that only DEBUG shows its lines: they repeat what the polling thread reports better."""
    logger = librdkafka_logger()
    logger.setLevel(logging.CRITICAL if logging.getLogger("kafka_consumer").level > logging.DEBUG else logging.DEBUG)
    return logger


def _key(offsets: list[TopicPartition]) -> list[tuple[str, int, int]]:
    """Return what a commit is recognised by when its answer comes; librdkafka sorts the partitions."""
    return sorted((tp.topic, tp.partition, tp.offset) for tp in offsets)
