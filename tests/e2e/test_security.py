"""TLS and SASL as an operator sets them up, against a broker that insists on both; the options are librdkafka's own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_cli import environment
from tests.kafka.choice import local_missing
from tests.kafka.secure import USER, Authority, SecureKafka, openssl_missing
from tests.runs import numbered

PASSWORD = "s3cr3t-MARKER-for-scram"
WRONG = "s3cr3t-MARKER-that-is-wrong"

pytestmark = pytest.mark.needs_real_broker


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """A broker with TLS and SCRAM."""
    if reason := local_missing() or openssl_missing():
        pytest.skip(f"needs a broker of its own with TLS: {reason}")
    with SecureKafka(tmp_path_factory.mktemp("secure-kafka"), PASSWORD) as broker:
        yield broker


def properties(folder: Path, broker: SecureKafka, *, password: str = PASSWORD, ca: Path | None = None, more: str = "") -> Path:
    """Write a client.properties, as an operator would."""
    path = folder / "client.properties"
    path.write_text(
        f"# written by the test\nsecurity.protocol=SASL_SSL\nsasl.mechanism=SCRAM-SHA-512\nsasl.username={USER}\n"
        f"sasl.password={password}\nssl.ca.location={ca or broker.ca}\nssl.endpoint.identification.algorithm=https\n{more}"
    )
    path.chmod(0o600)
    return path


def start(folder: Path, broker: SecureKafka, topic: str, *arguments: str, command: str = "--headless") -> subprocess.Popen[str]:
    """Start ``kc`` on the broker with the folder's client.properties; stdout and stderr are one."""
    (folder / "app.py").write_text("def handle(value):\n    pass\n")
    servers = [] if "--bootstrap-server" in arguments else ["--bootstrap-server", broker.bootstrap]
    return subprocess.Popen(
        [
            sys.executable, "-m", "kafka_consumer", command, *servers, "--topic", topic, "--group", topic,
            "--processor", "app:handle", "--command-config", "client.properties", "--commit-interval", "0.1", *arguments,
        ],
        cwd=folder, env=environment(folder), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def ended(process: subprocess.Popen[str], timeout: float = 60) -> tuple[int, str]:
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert PASSWORD not in output
    assert WRONG not in output
    assert "Traceback" not in output
    return process.returncode, output


def test_the_right_password_over_tls_consumes_everything_exactly_to_the_target(secure: SecureKafka, tmp_path: Path):
    topic = secure.create_topic()
    secure.produce(topic, numbered(100), partition=0)
    properties(tmp_path, secure)
    code, output = ended(start(tmp_path, secure, topic, "--stop-at", f"{topic}:0:99", "--log-level", "DEBUG", "-X", "debug=all"))
    assert code == 0, output[-5000:]
    assert "100 polled, 100 processed, 0 failed" in output
    assert secure.committed(topic, topic) == {0: 100}
    # librdkafka was heard: the search for the password has something to search.
    assert output.count("\n") > 200


def test_a_wrong_password_ends_with_one_clear_line_and_exit_1(secure: SecureKafka, tmp_path: Path):
    topic = secure.create_topic()
    properties(tmp_path, secure, password=WRONG)
    code, output = ended(start(tmp_path, secure, topic))
    assert code == 1, output
    critical = [line for line in output.splitlines() if " CRITICAL " in line]
    assert len(critical) == 1, output
    assert "Kafka refuses access" in critical[0]
    assert "SCRAM-SHA-512" in critical[0]


def test_a_wrong_password_is_what_kc_check_says_too(secure: SecureKafka, tmp_path: Path):
    topic = secure.create_topic()
    properties(tmp_path, secure, password=WRONG)
    code, output = ended(start(tmp_path, secure, topic, command="check"))
    assert code == 1, output
    (bad,) = [line for line in output.splitlines() if line.startswith("✗")]
    assert "uthentication" in bad


def test_kc_check_is_content_with_the_right_password(secure: SecureKafka, tmp_path: Path):
    topic = secure.create_topic()
    properties(tmp_path, secure)
    code, output = ended(start(tmp_path, secure, topic, command="check"))
    assert code == 0, output
    assert f"✓ topic {topic}: 1 partition" in output


def error_line(process: subprocess.Popen[str]) -> str:
    """Return the first ERROR line, then stop the consumer, which goes on trying."""
    assert process.stdout is not None
    deadline = time.monotonic() + 60
    seen = ""
    for line in process.stdout:
        seen += line
        if " ERROR " in line or time.monotonic() > deadline:
            break
    process.send_signal(signal.SIGTERM)
    _, rest = ended(process)
    assert PASSWORD not in seen
    assert " ERROR " in seen, seen + rest
    return seen.splitlines()[-1]


def test_a_certificate_of_another_authority_is_refused_in_a_clear_line(secure: SecureKafka, tmp_path: Path):
    topic = secure.create_topic()
    other = Authority(tmp_path, "other")
    properties(tmp_path, secure, ca=other.certificate)
    line = error_line(start(tmp_path, secure, topic))
    assert "certificate verify failed" in line
    code, output = ended(start(tmp_path, secure, topic, command="check"))
    assert code == 1, output
    assert "certificate verify failed" in output


def test_a_certificate_for_another_name_is_refused(secure: SecureKafka, tmp_path: Path):
    # It is valid for 127.0.0.1, not for localhost.
    topic = secure.create_topic()
    properties(tmp_path, secure)
    address = f"localhost:{secure.port()}"
    line = error_line(start(tmp_path, secure, topic, "--bootstrap-server", address, "-X", "broker.address.family=v4"))
    assert "certificate verify failed" in line or "hostname mismatch" in line.lower()


def test_without_tls_a_broker_that_wants_it_is_a_line_and_no_data(secure: SecureKafka, tmp_path: Path):
    topic = secure.create_topic()
    (tmp_path / "client.properties").write_text("security.protocol=PLAINTEXT\n")
    line = error_line(start(tmp_path, secure, topic))
    assert "no connection to Kafka" in line


def test_a_certificate_file_that_is_not_there_is_a_usage_error(secure: SecureKafka, tmp_path: Path):
    topic = secure.create_topic()
    properties(tmp_path, secure, ca=tmp_path / "nowhere.pem")
    code, output = ended(start(tmp_path, secure, topic))
    assert code == 2, output
    (line,) = output.splitlines()
    assert "ssl.ca.location" in line
