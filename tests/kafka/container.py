"""Apache Kafka in a container.

testcontainers' own KafkaContainer refuses ``apache/kafka:4.x``, so this is a plain container, configured through the
image's environment: ``KAFKA_`` and a property's name in capitals, dots as underscores.
"""

from __future__ import annotations

import gc
import time
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from tests.kafka.artifacts import KAFKA_VERSION, KafkaUnavailableError
from tests.kafka.local import START_SECONDS, free_ports, kafka_uuid
from tests.kafka.properties import NodePorts, server_properties
from tests.kafka.tools import Kafka

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

IMAGE = f"apache/kafka:{KAFKA_VERSION}"
_PING_SECONDS = 5
_PULL_SECONDS = 600
_POLL_SECONDS = 0.1
_INSIDE = NodePorts(client=9092, internal=9094, controller=9093)


def available() -> str:
    """Say which engine answers, or raise KafkaUnavailableError. Quick: starts and fetches nothing."""
    try:
        # Not at the top: neither is needed, or need be there, where a broker is had otherwise.
        import_module("docker")
        import_module("testcontainers.core.container")
    except ImportError as error:
        message = f"testcontainers isn't installed: {error}"
        raise KafkaUnavailableError(message) from error
    with warnings.catch_warnings():
        # A connection that docker's client fails to make leaves its socket to the garbage collector, in a traceback's cycle.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            return f"{IMAGE} in Docker {_engine_version()}"
        finally:
            gc.collect()


def _engine_version() -> str:
    import docker

    try:
        client = docker.from_env(timeout=_PING_SECONDS)
        try:
            return str(client.version()["Version"])
        finally:
            client.close()
    except Exception as error:  # requests, urllib3 and docker each have their own, and all mean the same here
        reason = str(error)[:200]
    # Raised here, not in the handler: the failed attempt's traceback must not live on in this error.
    message = f"no Docker engine answers: {reason}"
    raise KafkaUnavailableError(message)


def ensure_image() -> None:
    """Pull the image where it isn't there yet; raise KafkaUnavailableError if that fails."""
    import docker

    try:
        client = docker.from_env(timeout=_PULL_SECONDS)
        try:
            client.images.get(IMAGE)
        except docker.errors.ImageNotFound:
            client.images.pull(IMAGE)
        finally:
            client.close()
    except Exception as error:  # as above
        message = f"couldn't pull {IMAGE}: {str(error)[:200]}"
        raise KafkaUnavailableError(message) from error


def environment(port: int, host: str) -> dict[str, str]:
    """Return the container's environment when clients reach its port 9092 at ``host:port``."""
    properties = server_properties(1, {1: _INSIDE}, log_dir="/tmp/kraft-combined-logs", bind="0.0.0.0")
    properties["advertised.listeners"] = f"CLIENT://{host}:{port},INTERNAL://127.0.0.1:{_INSIDE.internal}"
    named = {f"KAFKA_{name.upper().replace('.', '_')}": value for name, value in properties.items()}
    return named | {"CLUSTER_ID": kafka_uuid(), "KAFKA_HEAP_OPTS": "-Xmx512m"}


class ContainerKafka(Kafka):
    """One broker in a container. Its port is chosen here, because the broker must advertise it before it starts."""

    description = f"{IMAGE} in Docker"

    def __init__(self) -> None:
        super().__init__()
        self._container: DockerContainer | None = None
        self._bootstrap = ""

    @property
    def bootstrap(self) -> str:
        return self._bootstrap

    def start(self) -> Self:
        from testcontainers.core.container import DockerContainer

        (port,) = free_ports(1)
        container = DockerContainer(IMAGE).with_bind_ports(_INSIDE.client, port)
        host = container.get_docker_client().host()
        self._bootstrap = f"{host}:{port}"
        container.with_envs(**environment(port, host)).start()
        self._container = container
        try:
            self._wait_until_serving()
        except BaseException:
            self.close()
            raise
        return self

    def _wait_until_serving(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        client = AdminClient(self._options({"reconnect.backoff.max.ms": 500}))
        while time.monotonic() < deadline:
            try:
                if client.list_topics(timeout=2).brokers:
                    return
            except KafkaException:
                pass
            time.sleep(_POLL_SECONDS)
        assert self._container is not None
        out, errors = self._container.get_logs()
        message = f"{IMAGE} didn't answer within {START_SECONDS:g} s:\n{(out + errors).decode(errors='replace')[-3000:]}"
        raise KafkaUnavailableError(message)

    def close(self) -> None:
        super().close()
        if self._container is not None:
            self._container.stop()
            self._container = None
