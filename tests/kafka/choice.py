"""Which Kafka a test run uses, decided once, before the first test, and shown in pytest's header.

``KC_TEST_BOOTSTRAP`` names one that is there already. Otherwise: a container where a Docker engine answers; else Apache
Kafka on the local Java; else librdkafka's mock cluster. ``KC_TEST_KAFKA=docker|java|mock`` insists on one of them.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from tests.kafka import artifacts, container
from tests.kafka.container import ContainerKafka
from tests.kafka.external import ExternalKafka
from tests.kafka.local import LocalKafka
from tests.kafka.mock import MockKafka
from tests.kafka.tools import Kafka

# In the order in which they are tried.
_WAYS = {"docker": container.available, "java": artifacts.available}
_WAYS_AFTER = {"docker": ("java",)}


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was chosen: ``kind`` is "external", "docker", "java" or "mock".

    ``missing`` says why nothing real was found; ``insisted`` is True where KC_TEST_KAFKA named the kind.
    """

    kind: str
    description: str
    missing: str = ""
    bootstrap: str = ""
    insisted: bool = False

    @property
    def real(self) -> bool:
        """Whether tests meet a real broker."""
        return self.kind != "mock"

    @property
    def mock_wanted(self) -> bool:
        """Whether somebody asked for the mock cluster, so that its limits are no surprise."""
        return self.insisted and not self.real

    def prepare(self) -> Choice:
        """Fetch what the choice needs; return this choice, or the next best where that fails."""
        try:
            if self.kind == "docker":
                container.ensure_image()
            elif self.kind == "java":
                artifacts.ensure_jars()
        except artifacts.KafkaUnavailableError as error:
            reason = f"{self.kind}: {error}"
            after = "" if self.insisted else self.kind
            return _first_of(_WAYS_AFTER.get(after, ()), [reason]).prepare()
        return self

    def open(self, folder: Path) -> Kafka:
        """Return the Kafka chosen, started; a local one keeps its logs in ``folder``."""
        if self.kind == "external":
            return ExternalKafka(self.bootstrap).start()
        if self.kind == "docker":
            return ContainerKafka().start()
        if self.kind == "java":
            return LocalKafka(folder=folder).start()
        return MockKafka().start()


def choose(environ: Mapping[str, str] = os.environ) -> Choice:
    """Choose; quick, fetches and starts nothing. Raises ValueError for a KC_TEST_KAFKA that isn't known."""
    if bootstrap := environ.get("KC_TEST_BOOTSTRAP"):
        return Choice("external", f"the one at {bootstrap} (KC_TEST_BOOTSTRAP)", bootstrap=bootstrap)
    wanted = environ.get("KC_TEST_KAFKA") or "auto"
    if wanted not in {"auto", "mock", *_WAYS}:
        message = f"expected KC_TEST_KAFKA to be docker, java, mock or auto, got {wanted!r}"
        raise ValueError(message)
    if wanted == "mock":
        return dataclasses.replace(_mock("KC_TEST_KAFKA=mock"), insisted=True)
    if wanted == "auto":
        return _first_of(tuple(_WAYS), [])
    found = _first_of((wanted,), [])
    # Who asked for Docker didn't ask for the mock cluster.
    return dataclasses.replace(found, insisted=found.real)


def _first_of(kinds: tuple[str, ...], reasons: list[str]) -> Choice:
    """Return the first of these that can be had, or the mock cluster; ``reasons`` say what was tried before."""
    tried = list(reasons)
    for kind in kinds:
        try:
            return Choice(kind, _WAYS[kind]())
        except artifacts.KafkaUnavailableError as error:
            tried.append(f"{kind}: {error}")
    return _mock("; ".join(tried))


def local_missing() -> str:
    """Say why a broker on the local Java can't be had; "" when it can."""
    try:
        artifacts.available()
        artifacts.ensure_jars()
    except artifacts.KafkaUnavailableError as error:
        return str(error)
    return ""


def _mock(missing: str) -> Choice:
    described = f"NO REAL BROKER, librdkafka's mock cluster instead; tests that need a real one don't run ({missing})"
    return Choice("mock", described, missing=missing)
