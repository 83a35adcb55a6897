"""The errors of this package.

Each inherits from ``KafkaConsumerError`` and from the builtin that a caller would expect, so that both
``except KafkaConsumerError`` and ``except ValueError`` do what they say.
"""

from __future__ import annotations


class KafkaConsumerError(Exception):
    """Base of all errors raised by this package."""


class ConfigError(KafkaConsumerError, AssertionError, ValueError):
    """A configuration is invalid; raised when one is built or validated.

    ``problems`` holds one line for each thing that is wrong: option, value given, what is accepted.
    """

    def __init__(self, problems: list[str] | str) -> None:
        self.problems: list[str] = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class MessageTooLargeError(KafkaConsumerError, ValueError):
    """A message is longer than ``max_message_size``; recorded in the dead-letter file, never raised to a caller."""


class FilesInUseError(KafkaConsumerError, RuntimeError):
    """Another process writes the same backup or dead-letter files; raised at start, exit code 2."""


class LostPartitionError(KafkaConsumerError, LookupError):
    """A command names a partition that isn't assigned to this consumer (any more); nothing was done."""


class ReplayError(KafkaConsumerError, LookupError):
    """``replay_from`` or ``replay_to`` names what the brokers don't have; the run ends, exit code 1."""


class ClientClosedError(KafkaConsumerError, RuntimeError):
    """A request was posted to a Kafka client whose owner thread has ended."""


class RequestTimeoutError(KafkaConsumerError, TimeoutError):
    """The thread that owns the Kafka client, or the broker behind it, didn't answer a request in time."""


class CommitMetadataError(KafkaConsumerError, ValueError):
    """The metadata of a commit can't be used; what it would have said is processed again, and a warning logged."""


class WorkerProcessDiedError(KafkaConsumerError, RuntimeError):
    """A worker process died while it had a message in work; recorded in the dead-letter file, never raised to a caller.

    It counts as a failed attempt, and may be named in ``fatal_exceptions``.
    """


class DecodeError(KafkaConsumerError, ValueError):
    """A value isn't what ``decode`` says it is; recorded in the dead-letter file, never raised to a caller, never tried again."""


class RegistryUnavailableError(KafkaConsumerError, ConnectionError):
    """The schema registry couldn't be asked for a minute; a failed attempt of the message that needed it."""


class CrashLoopError(KafkaConsumerError, RuntimeError):
    """The process ended with this message in work; recorded in the dead-letter file, never raised to a caller, never tried again.

    See ``crash_loop_limit``.
    """


class FileFormatError(KafkaConsumerError, ValueError):
    """A file isn't one that kc wrote, or is damaged where it must not be; nothing was done."""


class DeadLetterTopicError(KafkaConsumerError, RuntimeError):
    """Dead letters can't be sent to ``dlq_topic``; the run ends, exit code 1, and commits nothing that waits for them."""


class RedriveError(KafkaConsumerError, RuntimeError):
    """Dead letters couldn't be sent; what was sent before is in the journal, so that the next run goes on from there."""
