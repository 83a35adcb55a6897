"""The server.properties of a broker for tests: small, quick to start, and strict where production is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# The largest message of the stress tests is 9.5 MB; batch overhead and headers come on top.
MESSAGE_MAX_BYTES = 12 * 1024 * 1024


@dataclass(frozen=True)
class NodePorts:
    """The ports of one node, all bound to one address."""

    client: int
    internal: int
    controller: int


def server_properties(
    node: int, ports: dict[int, NodePorts], *, log_dir: str, bind: str = "127.0.0.1", advertise: str = "127.0.0.1"
) -> dict[str, str]:
    """Return the properties of node ``node`` of a KRaft cluster, every node being broker and controller.

    The listener for clients is named CLIENT; brokers talk over INTERNAL. So a test that wants SASL for clients overrides
    ``listener.security.protocol.map`` and ``listener.name.client.*`` alone.
    """
    replicas = str(min(3, len(ports)))
    mine = ports[node]
    return {
        "process.roles": "broker,controller",
        "node.id": str(node),
        "controller.quorum.voters": ",".join(f"{other}@127.0.0.1:{p.controller}" for other, p in sorted(ports.items())),
        "listeners": f"CLIENT://{bind}:{mine.client},INTERNAL://127.0.0.1:{mine.internal},CONTROLLER://127.0.0.1:{mine.controller}",
        "advertised.listeners": f"CLIENT://{advertise}:{mine.client},INTERNAL://127.0.0.1:{mine.internal}",
        "listener.security.protocol.map": "CLIENT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "INTERNAL",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": log_dir,
        # A typo in a topic's name must fail a test, not create a topic.
        "auto.create.topics.enable": "false",
        "default.replication.factor": replicas,
        "min.insync.replicas": "1",
        "message.max.bytes": str(MESSAGE_MAX_BYTES),
        "replica.fetch.max.bytes": str(MESSAGE_MAX_BYTES),
        "offsets.topic.replication.factor": replicas,
        "offsets.topic.num.partitions": "2",
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "2",
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "2",
        # The first member of a group gets its partitions at once, and a test may use a short session.
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "500",
        # A killed broker that comes back waits until its former life's session has ended: 9 s by default. Several nodes on
        # a busy machine need more patience with one another than a node with itself.
        "broker.session.timeout.ms": "1500" if len(ports) == 1 else "3000",
        "broker.heartbeat.interval.ms": "300",
        "controlled.shutdown.max.retries": "1",
        "controlled.shutdown.retry.backoff.ms": "200",
        # Threads and buffers sized for one test at a time. The cleaner's buffer alone is 128 MB by default.
        "num.network.threads": "2",
        "num.io.threads": "4",
        "background.threads": "2",
        "num.recovery.threads.per.data.dir": "1",
        "log.cleaner.dedupe.buffer.size": str(8 * 1024 * 1024),
        # Compaction is something tests wait for.
        "log.cleaner.backoff.ms": "500",
    }


def secured(users: Mapping[str, str], super_user: str) -> dict[str, str]:
    """Return what makes clients log in (SASL/PLAIN) and asks for an ACL for all that they do, except the super user.

    ``users`` is ``{name: password}``. Brokers among themselves stay as they are.
    """
    module = "org.apache.kafka.common.security.plain.PlainLoginModule"
    logins = "".join(f' user_{name}="{password}"' for name, password in users.items())
    return {
        "listener.security.protocol.map": "CLIENT:SASL_PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "listener.name.client.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.client.plain.sasl.jaas.config": f"{module} required{logins};",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:{super_user};User:ANONYMOUS",
    }


def login(user: str, password: str) -> dict[str, str]:
    """Return a client's options for such a broker."""
    return {
        "security.protocol": "SASL_PLAINTEXT", "sasl.mechanisms": "PLAIN", "sasl.username": user, "sasl.password": password,
    }  # fmt: skip


def as_text(properties: dict[str, str]) -> str:
    """Return the content of a server.properties file; backslashes and line ends in values are escaped."""
    return "".join(
        f"{name}={value.replace(chr(92), chr(92) * 2).replace(chr(10), chr(92) + 'n')}\n" for name, value in properties.items()
    )
