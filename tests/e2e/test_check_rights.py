"""``kc check`` on a broker that asks for a login and for rights."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from tests.conftest import _missing
from tests.helpers import eventually
from tests.kafka import LocalKafka
from tests.kafka.choice import local_missing
from tests.kafka.properties import login, secured

ROOT = Path(__file__).resolve().parents[2]
USERS = {"admin": "the-admins-own", "reader": "the-readers-own"}


@pytest.fixture(scope="module")
def guarded_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """A broker where clients log in, and may do what an ACL allows them."""
    if reason := local_missing():
        _missing(f"needs a broker of its own: {reason}")
    properties, admin = secured(USERS, "admin"), login("admin", USERS["admin"])
    with LocalKafka(folder=tmp_path_factory.mktemp("guarded-kafka"), properties=properties, client_options=admin) as broker:
        yield broker


def check(
    folder: Path, broker: LocalKafka, topic: str, password: str = USERS["reader"], *more: str
) -> tuple[int, list[str]]:
    """Run ``kc check`` as the reader; return the exit code and its lines."""
    code, out, err = kc(folder, broker, topic, password, "check", *more)
    assert password not in out + err
    return code, out.splitlines()


def kc(folder: Path, broker: LocalKafka, topic: str, password: str, *arguments: str) -> tuple[int, str, str]:
    """Run a command as the reader to its end; return the exit code and what it printed."""
    (folder / "app.py").write_text("def handle(value):\n    pass\n")
    options = login("reader", password)
    (folder / "client.properties").write_text("".join(f"{name}={value}\n" for name, value in options.items()))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KC_")}
    done = subprocess.run(
        [
            sys.executable, "-m", "kafka_consumer", *arguments, "--processor", "app:handle",
            "--bootstrap-server", broker.bootstrap, "--topic", topic, "--group", topic,
            "--command-config", "client.properties",
        ],
        cwd=folder, env=inherited | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def describe_only(broker: LocalKafka, topic: str) -> None:
    """Let the reader see the topic and the group, and no more."""
    admin = AdminClient({**login("admin", USERS["admin"]), "bootstrap.servers": broker.bootstrap})
    rules = [
        AclBinding(kind, topic, ResourcePatternType.LITERAL, "User:reader", "*", AclOperation.DESCRIBE, AclPermissionType.ALLOW)
        for kind in (ResourceType.TOPIC, ResourceType.GROUP)
    ]
    for answer in admin.create_acls(rules).values():
        answer.result(20)


def test_with_the_rights_of_a_consumer_all_is_well(guarded_kafka: LocalKafka, tmp_path: Path):
    topic = guarded_kafka.create_topic(partitions=2)
    guarded_kafka.allow("reader", topic=topic, group=topic)
    eventually(lambda: check(tmp_path, guarded_kafka, topic)[0] == 0, 60)  # brokers take a moment to know an ACL
    _, lines = check(tmp_path, guarded_kafka, topic)
    assert "✓ security: a login, accepted" in lines
    assert {f"✓ {kind} {topic}: this user may read it" for kind in ("group", "topic")} <= set(lines)


def test_who_may_only_describe_is_told_what_is_missing(guarded_kafka: LocalKafka, tmp_path: Path):
    topic = guarded_kafka.create_topic(partitions=2)
    describe_only(guarded_kafka, topic)
    eventually(lambda: any("may not read" in line for line in check(tmp_path, guarded_kafka, topic)[1]), 60)
    code, lines = check(tmp_path, guarded_kafka, topic)
    assert code == 1
    complaints = [line for line in lines if line.startswith("✗")]
    assert [line.partition(":")[0] for line in complaints] == [f"✗ group {topic}", f"✗ topic {topic}"]
    assert all("an ACL must allow it the operation Read" in line for line in complaints)


def test_dead_letters_for_a_topic_need_the_right_to_write_it(guarded_kafka: LocalKafka, tmp_path: Path):
    topic, dlq = guarded_kafka.create_topic(), guarded_kafka.create_topic()
    guarded_kafka.allow("reader", topic=topic, group=topic)
    describe_only(guarded_kafka, dlq)
    complaint = f"✗ dead-letter topic {dlq}: this user may not write to it: an ACL must allow it the operation Write"
    eventually(lambda: complaint in check(tmp_path, guarded_kafka, topic, USERS["reader"], "--dlq-topic", dlq)[1], 60)

    # A value that isn't UTF-8 fails, whatever the function does.
    guarded_kafka.produce(topic, [b"\xff"])
    code, _, log = kc(tmp_path, guarded_kafka, topic, USERS["reader"], "--headless", "--dlq-topic", dlq)
    assert code == 1, log
    (line,) = [line for line in log.splitlines() if " CRITICAL " in line]
    assert f"dead letters can't be sent to topic {dlq}: Kafka refuses access: " in line
    assert USERS["reader"] not in log
    assert guarded_kafka.committed(topic, topic) == {}


def test_who_may_nothing_is_told_to_look_at_the_topic(guarded_kafka: LocalKafka, tmp_path: Path):
    code, lines = check(tmp_path, guarded_kafka, guarded_kafka.create_topic())
    assert code == 1
    (complaint,) = [line for line in lines if line.startswith("✗")]
    assert "allow this user to describe it" in complaint


def test_a_wrong_password_is_one_line(guarded_kafka: LocalKafka, tmp_path: Path):
    code, lines = check(tmp_path, guarded_kafka, guarded_kafka.create_topic(), "not-the-readers-own")
    assert code == 1
    (complaint,) = [line for line in lines if line.startswith("✗")]
    assert "refuses this user" in complaint
    assert "check sasl.mechanism, sasl.username and sasl.password" in complaint
