"""What an operator may ask of a running consumer. Any thread may ask; what is the polling thread's is done there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from kafka_consumer.config import check_option
from kafka_consumer.errors import ClientClosedError, ConfigError
from kafka_consumer.option_checks import is_number
from kafka_consumer.replay_bounds import Bound, parse_bound

if TYPE_CHECKING:
    from kafka_consumer.client import Client
    from kafka_consumer.crash_loop import CrashLoopGuard
    from kafka_consumer.offset_manager import Committer
    from kafka_consumer.polling_thread import Poller
    from kafka_consumer.redrive_control import Redrives
    from kafka_consumer.shared_state import SharedState
    from kafka_consumer.types import TopicPartitionKey


class Operations:
    """The part of ``KafkaConsumer`` that the console and the control socket use."""

    shared_state: SharedState
    _client: Client
    _committer: Committer
    _poller: Poller | None
    _pool: Any
    _guard: CrashLoopGuard | None
    _redrives: Redrives

    def pause(self, partitions: Iterable[TopicPartitionKey] | None = None) -> None:
        """Stop taking messages, of all or of some partitions; what was taken is finished."""
        keys = None if partitions is None else set(partitions)
        self._ask(lambda poller: poller.pause(keys))
        self.shared_state.logger.info("paused: %s", _name(keys))

    def resume(self, partitions: Iterable[TopicPartitionKey] | None = None) -> None:
        """Take messages again, of all or of some partitions."""
        keys = None if partitions is None else set(partitions)
        self._ask(lambda poller: poller.resume(keys))
        self.shared_state.logger.info("resumed: %s", _name(keys))

    def set_dev_mode(self, enabled: bool) -> None:
        """Switch commits off (dev mode) or on. What dev mode let go of is committed once it is off.

        Errors: ``ConfigError`` for commits of a replay outside the group.
        """
        dev_mode = self.shared_state.dev_mode
        if not enabled and self._committer.outside:
            raise ConfigError("a replay outside the group commits nothing; one that is started with --commit does")
        if enabled:
            dev_mode.set()
        else:
            dev_mode.clear()  # first: a commit that falls in between must not be let go again
            if self._poller is not None:
                for assignment in self._poller.partitions.open.values():
                    assignment.unsettle()
        self.shared_state.logger.info("dev mode %s", "on: nothing is committed" if enabled else "off: commits go on")

    def set_workers(self, count: int) -> None:
        """Change the number of workers. Errors: ``ConfigError`` out of 1..1000."""
        check_option("worker_count", count)
        if self._guard is not None and not self._guard.resize(count):
            self.shared_state.logger.info("%d workers, once the crash-loop guard's probation is over", count)
            return
        self._pool.resize(count)
        self.shared_state.logger.info("%d workers", count)

    def set_log_level(self, level: str) -> None:
        """Change the log level. Errors: ``ConfigError`` for an unknown one."""
        self.shared_state.set_log_level(level)

    def set_rate_limit(self, per_second: float | None) -> None:
        """Take at most so many messages a second; None for no limit. Errors: ``ConfigError`` below 1."""
        if per_second is not None and not (is_number(per_second) and per_second >= 1):
            raise ConfigError(f"per_second: expected None or a number of at least 1, got {per_second!r}")
        self._ask(lambda poller: setattr(poller, "rate_limit", per_second))
        self.shared_state.logger.info("rate limit: %s", "none" if per_second is None else f"{per_second:g} messages a second")

    def seek(self, partitions: Iterable[TopicPartitionKey], to: int | str) -> None:
        """Go on elsewhere: at an offset, ``earliest``, ``latest``, an ISO time, or ``-2h``.

        What is in work there is finished in vain. Errors: ``LostPartitionError``; ``ConfigError`` for a place without sense;
        ``KafkaException`` when no broker answers.
        """
        try:
            bound = None if isinstance(to, int) else parse_bound([to])
        except ValueError as error:
            raise ConfigError(f"to: {error}") from None
        keys = set(partitions)
        self._ask(lambda poller: poller.seek(keys, Bound(offsets=dict.fromkeys(keys, int(to))) if bound is None else bound))

    def redrive(self, records: Iterable[tuple[str, int, int]], per_second: float | None = None) -> str:
        """Send dead letters, ``(topic, partition, offset)``, to their topics again, each once; say what came of it.

        What takes longer goes on in the background. Errors: ``ConfigError``, ``RedriveError``, ``FilesInUseError``, ``OSError``.
        """
        return self._redrives.begin(records, per_second)

    def _ask(self, request: Callable[[Poller], None]) -> None:
        """Have the polling thread do something. Errors: ``ClientClosedError`` when it has ended, ``RequestTimeoutError``."""
        poller = self._poller
        if poller is None:
            raise ClientClosedError("the consumer isn't running")
        self._client.call(lambda: request(poller))


def _name(keys: set[TopicPartitionKey] | None) -> str:
    return "all partitions" if keys is None else ", ".join(f"{topic}-{partition}" for topic, partition in sorted(keys))
