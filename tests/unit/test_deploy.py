"""The files in deploy/ agree with the code and with one another; the tools that know them say so, where they are installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from kafka_consumer.config import OPTIONS
from kafka_consumer.kafka_consumer import CLOSE_SECONDS
from kafka_consumer.settings import load_settings
from kafka_consumer.settings_table import SETTINGS

yaml = pytest.importorskip("yaml", reason="PyYAML isn't installed")

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
UNIT = DEPLOY / "systemd" / "kc@.service"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
VARIABLES = {name for setting in SETTINGS.values() for name in setting.environment_names} | {"KC_CONFIG"}


def documents(path: Path) -> list[Any]:
    return [found for found in yaml.safe_load_all(path.read_text()) if found is not None]


def load(kind: str) -> Any:
    """Return the one manifest of that kind."""
    (found,) = [document for path in MANIFESTS for document in documents(path) if document.get("kind") == kind]
    return found


def compose() -> Any:
    return documents(DEPLOY / "compose.yaml")[0]


def container() -> Any:
    return load("StatefulSet")["spec"]["template"]["spec"]["containers"][0]


def unit() -> dict[str, list[str]]:
    """Return the unit's settings; what is given several times is a list."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def unit_environment() -> dict[str, str]:
    return dict(line.split("=", 1) for line in unit()["Environment"])


def shutdown_seconds(drain: float, timeout: float) -> float:
    """How long a shutdown may take at the most: polling's last answer, the drain, the last commit, leaving the group."""
    return timeout + drain + (timeout + CLOSE_SECONDS) + CLOSE_SECONDS


def seconds(text: str) -> float:
    number, name = re.fullmatch(r"(\d+)(s|m|min)?", str(text)).groups()  # type: ignore[union-attr]
    return float(number) * (60 if name in ("m", "min") else 1)


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.y*ml")), ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_yaml_file_parses_and_holds_something(path: Path):
    assert documents(path)


# --- stops ------------------------------------------------------------------------------------------------------------


def test_every_stop_is_given_more_time_than_a_shutdown_may_take():
    timeout = OPTIONS["shutdown_timeout_seconds"].default
    service = compose()["services"]["kc"]
    drain = float(service["environment"]["KC_SHUTDOWN_DRAIN"])
    assert seconds(service["stop_grace_period"]) > shutdown_seconds(drain, timeout)

    drain = float(unit_environment()["KC_SHUTDOWN_DRAIN"])
    assert seconds(unit()["TimeoutStopSec"][0]) > shutdown_seconds(drain, timeout)

    settings = tomllib.loads((DEPLOY / "kubernetes" / "kc.toml").read_text())
    pod = load("StatefulSet")["spec"]["template"]["spec"]
    hook = re.search(r"timeout (\d+)", container()["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert hook is not None
    needed = float(hook[1]) + shutdown_seconds(settings["shutdown-drain"], settings["shutdown-timeout"])
    assert pod["terminationGracePeriodSeconds"] > needed


# --- settings ---------------------------------------------------------------------------------------------------------


def test_every_variable_is_one_that_kc_reads():
    used = set(re.findall(r"\b(KC_[A-Z_]+)=", (DEPLOY / "Dockerfile").read_text()))
    used |= {name for name in unit_environment() if name.startswith("KC_")}
    used |= set(compose()["services"]["kc"]["environment"])
    used |= {entry["name"] for entry in container()["env"]} - {"POD_NAME"}
    assert len(used) > 10
    assert used <= VARIABLES


def test_the_values_of_the_container_and_of_compose_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("app", "data"):
        (tmp_path / folder).mkdir()
    image = dict(re.findall(r"\b(KC_[A-Z_]+)=(\S+)", (DEPLOY / "Dockerfile").read_text()))
    started = {key: default_of(str(value)) for key, value in compose()["services"]["kc"]["environment"].items()}
    # The folders of the image, here.
    given = {name: re.sub(r"^/(app|data)\b", str(tmp_path / r"\1"), value) for name, value in (image | started).items()}
    settings = load_settings({}, environ=given)
    assert settings.problems == ()
    assert settings.warnings == ()
    assert settings.import_problems() == []


def default_of(text: str) -> str:
    """Return what compose makes of ``${NAME:-default}`` where nothing is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def test_the_settings_of_kubernetes_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    folder = DEPLOY / "kubernetes"
    (tmp_path / "kc.toml").write_text((folder / "kc.toml").read_text())
    (tmp_path / "client.properties").write_text((folder / "client.properties").read_text())
    environ = {entry["name"]: entry["value"].replace("$(POD_NAME)", "kc-0") for entry in container()["env"] if "value" in entry}
    environ |= {"KC_CONFIG": "kc.toml", "KC_COMMAND_CONFIG": "client.properties", "KC_DLQ_PATH": "dlq.csv"}
    settings = load_settings({}, environ=environ)
    assert settings.problems == ()
    assert settings["kafka_options"]["group.instance.id"] == "kc-0"
    assert settings["worker_count"] == 50


def test_a_member_of_the_group_keeps_its_name():
    options = next(entry["value"] for entry in container()["env"] if entry["name"] == "KC_KAFKA")
    assert "group.instance.id=$(POD_NAME)" in options.splitlines()
    names = [entry["name"] for entry in container()["env"]]
    assert names.index("POD_NAME") < names.index("KC_KAFKA"), "what a variable refers to must stand before it"


# --- names that must agree ----------------------------------------------------------------------------------------------


def test_the_metrics_port_is_the_same_everywhere():
    ports = {
        compose()["services"]["kc"]["environment"]["KC_METRICS_PORT"],
        int(next(entry["value"] for entry in container()["env"] if entry["name"] == "KC_METRICS_PORT")),
        container()["ports"][0]["containerPort"], load("Service")["spec"]["ports"][0]["port"],
        int(load("StatefulSet")["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"]),
        int(re.search(r"kc:(\d+)", compose()["configs"]["prometheus"]["content"])[1]),  # type: ignore[index]
    }  # fmt: skip
    assert len(ports) == 1


def test_probes_ask_what_the_server_answers():
    source = (DEPLOY.parent / "kafka_consumer" / "metrics_server.py").read_text()
    probes = {name: container()[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz",
    }  # fmt: skip
    for probe in probes.values():
        assert f'"{probe["path"]}"' in source
        assert probe["port"] == container()["ports"][0]["name"]


def test_labels_select_the_pods():
    labels = load("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    selectors = [
        load("StatefulSet")["spec"]["selector"]["matchLabels"], load("Service")["spec"]["selector"],
        load("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        load("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]  # fmt: skip
    assert all(selector == labels for selector in selectors)
    assert load("ScaledObject")["spec"]["scaleTargetRef"]["name"] == load("StatefulSet")["metadata"]["name"]


def test_keda_scales_by_the_lag_of_the_same_topic_and_group():
    settings = tomllib.loads((DEPLOY / "kubernetes" / "kc.toml").read_text())
    trigger = load("ScaledObject")["spec"]["triggers"][0]["metadata"]
    assert trigger["bootstrapServers"] == settings["bootstrap-server"]
    assert (trigger["topic"], trigger["consumerGroup"]) == (settings["topic"], settings["group"])


def test_what_is_mounted_is_there():
    for volume in compose()["services"]["prometheus"]["volumes"] + compose()["services"]["grafana"]["volumes"]:
        source = volume.partition(":")[0]
        if source.startswith("."):
            assert (DEPLOY / source).exists(), source
    pod = load("StatefulSet")["spec"]["template"]["spec"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    volumes |= {claim["metadata"]["name"] for claim in load("StatefulSet")["spec"]["volumeClaimTemplates"]}
    assert {mount["name"] for mount in container()["volumeMounts"]} == volumes
    for path in documents(DEPLOY / "kubernetes" / "kustomization.yaml")[0]["resources"]:
        assert (DEPLOY / "kubernetes" / path).exists()


# --- no more rights than needed -----------------------------------------------------------------------------------------


def test_nothing_runs_as_root_or_writes_to_its_root():
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    user = re.findall(r"^USER (\S+)$", dockerfile, re.MULTILINE)[-1]
    pod = load("StatefulSet")["spec"]["template"]["spec"]
    assert user.split(":") == [str(pod["securityContext"][name]) for name in ("runAsUser", "runAsGroup")]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    service = compose()["services"]["kc"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert unit()["User"] == ["kc"]
    assert "\nHEALTHCHECK " in dockerfile
    assert dockerfile.count("\nFROM ") == 2


def test_only_what_the_image_needs_is_sent_to_its_build():
    sent = {line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set(" ".join(re.findall(r"^COPY (?!--)(.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)).split())
    assert {name.rstrip("/") for name in copied} == sent
    assert all((DEPLOY.parent / name).exists() for name in sent)


# --- the tools that know ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze isn't installed")
def test_systemd_understands_the_unit(tmp_path: Path):
    here = tmp_path / UNIT.name
    # The program isn't installed where tests run.
    here.write_text(UNIT.read_text().replace("ExecStart=/opt/kc/bin/kc --headless", "ExecStart=/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(here)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl isn't installed")
def test_kustomize_puts_the_manifests_together():
    done = subprocess.run(
        ["kubectl", "kustomize", str(DEPLOY / "kubernetes")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    built = [document for document in yaml.safe_load_all(done.stdout) if document]
    assert {document["kind"] for document in built} == {
        "Namespace", "ConfigMap", "Secret", "Service", "StatefulSet", "PodDisruptionBudget",
    }  # fmt: skip
    image = next(d for d in built if d["kind"] == "StatefulSet")["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image == "registry.example.com/billing/kc:1.0.0"
