"""An Apache Kafka that lets nobody in without TLS and a SCRAM password; its certificates are made for the occasion."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.kafka.local import START_SECONDS, BrokerFailedError, LocalKafka, _java, kafka_uuid

USER = "kc"
_ANSWER_SECONDS = 30.0


def openssl_missing() -> str:
    """Say why certificates can't be made; "" when they can."""
    return "" if shutil.which("openssl") else "openssl isn't on PATH"


class Authority:
    """A certificate authority in ``folder``; ``certificate`` is the PEM file that clients trust."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self._key = folder / f"{name}.key"
        self.certificate = folder / f"{name}.pem"
        _openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN=kc tests {name}",
            "-keyout", str(self._key), "-out", str(self.certificate),
        )  # fmt: skip

    def keystore(self, name: str, alternative: str) -> Path:
        """Return a PEM file with a new key (PKCS#8) and its certificate for ``alternative``, such as ``IP:127.0.0.1``."""
        ends = ("key", "csr", "crt", "ext", "pem")
        key, request, certificate, extension, together = (self.folder / f"{name}.{end}" for end in ends)
        _openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", str(key), "-out", str(request))
        extension.write_text(f"subjectAltName={alternative}\n")
        _openssl(
            "x509", "-req", "-days", "2", "-in", str(request), "-CA", str(self.certificate), "-CAkey", str(self._key),
            "-CAcreateserial", "-extfile", str(extension), "-out", str(certificate),
        )  # fmt: skip
        together.write_text(key.read_text() + certificate.read_text())
        together.chmod(0o600)
        return together


class SecureKafka(LocalKafka):
    """One node whose clients use SASL_SSL with SCRAM-SHA-512, as ``USER`` with ``password``.

    Its certificate is valid for the address 127.0.0.1 alone, so that ``localhost`` is another name to a client.
    ``ca`` is the file that clients trust.
    """

    def __init__(self, folder: Path, password: str) -> None:
        self._password = password
        authority = Authority(folder)
        self.ca = authority.certificate
        client = "listener.name.client."
        super().__init__(
            1,
            folder=folder,
            properties={
                "listener.security.protocol.map": "CLIENT:SASL_SSL,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
                f"{client}sasl.enabled.mechanisms": "SCRAM-SHA-512",
                f"{client}scram-sha-512.sasl.jaas.config": "org.apache.kafka.common.security.scram.ScramLoginModule required;",
                f"{client}ssl.keystore.type": "PEM",
                f"{client}ssl.keystore.location": str(authority.keystore("broker", "IP:127.0.0.1")),
            },
            client_options={
                "security.protocol": "SASL_SSL",
                "sasl.mechanism": "SCRAM-SHA-512",
                "sasl.username": USER,
                "sasl.password": password,
                "ssl.ca.location": str(self.ca),
            },
        )

    def _lay_out(self, jars: Path) -> None:
        """Format the node with Kafka's own tool: the user is part of the metadata with which the cluster begins."""
        super()._lay_out(jars)
        data = self._data(1)
        shutil.rmtree(data)
        command = [
            *_java(jars), "kafka.tools.StorageTool", "format", "-t", kafka_uuid(), "-c", str(self._config_path(1)),
            "--add-scram", f"SCRAM-SHA-512=[name={USER},password={self._password}]",
        ]  # fmt: skip
        ran = subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS, check=False)
        if ran.returncode != 0:
            message = f"kafka.tools.StorageTool format failed:\n{(ran.stdout + ran.stderr)[-3000:]}"
            raise BrokerFailedError(message)


def _openssl(*arguments: str) -> None:
    ran = subprocess.run(["openssl", *arguments], capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=False)
    if ran.returncode != 0:
        message = f"openssl {arguments[0]} failed:\n{ran.stderr[-2000:]}"
        raise BrokerFailedError(message)
