"""A Kafka that is there already: KC_TEST_BOOTSTRAP names it."""

from __future__ import annotations

import contextlib

from confluent_kafka import KafkaException

from tests.kafka.tools import ANSWER_SECONDS, Kafka


class ExternalKafka(Kafka):
    """Somebody else's cluster. Topics made here are deleted at the end; nothing else is touched."""

    def __init__(self, bootstrap: str) -> None:
        super().__init__()
        self._bootstrap = bootstrap
        self._made: list[str] = []
        self.description = f"the Kafka at {bootstrap}"

    @property
    def bootstrap(self) -> str:
        return self._bootstrap

    def create_topic(self, name: str | None = None, partitions: int = 1, **config: str) -> str:
        made = super().create_topic(name, partitions, **config)
        self._made.append(made)
        return made

    def close(self) -> None:
        if self._made:
            for answer in self._admin().delete_topics(self._made).values():
                # Somebody may have deleted it already, or the cluster may be gone: no reason to fail a test that passed.
                with contextlib.suppress(KafkaException, TimeoutError):
                    answer.result(ANSWER_SECONDS)
            self._made = []
        super().close()
