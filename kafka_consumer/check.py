"""``kc check``: would this configuration run? One line a question, and how to mend what is wrong.

What concerns this machine comes first: configuration, processor, extras, files, disk, limits. The brokers are asked only when the
configuration is sound. Nothing is written, no group is joined.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import resource
import shutil
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kafka_consumer.calling import processor_of
from kafka_consumer.check_kafka import check_kafka
from kafka_consumer.errors import ConfigError
from kafka_consumer.finding import Finding, count
from kafka_consumer.process_setup import check_process
from kafka_consumer.settings import Settings
from kafka_consumer.trust import folder_problem

__all__ = ["Finding", "check"]

LEAST_FREE_BYTES = 256 * 1024 * 1024
"""Room on the disk below which a consumer isn't worth starting: a backup writes as much as it reads."""

_BASE_DESCRIPTORS = 128  # connections to the brokers, files, consoles, what the user's function opens
_DESCRIPTORS_A_PROCESS = 6
_SOCKET_SECONDS = 1.0


def check(settings: Settings) -> Iterator[Finding]:
    """Yield the findings as they are made."""
    problems = list(settings.problems)
    if problems:
        yield from (Finding(False, problem, 2) for problem in problems)
    else:
        source = settings.config_path or "no kc.toml"
        yield Finding(True, f"configuration ({source})")
    imports = settings.import_problems()
    if imports:
        yield from (Finding(False, problem, 2) for problem in imports)
    elif not problems:
        yield Finding(True, f"processor {settings['processor_callable']}")
    if problems or imports:
        return
    good = True
    for finding in _check_machine(settings):
        good = good and (finding.good or finding.exit_code != 2)
        yield finding
    if good:
        yield from check_kafka(settings)


def _check_machine(settings: Settings) -> Iterator[Finding]:
    yield from _check_extras(settings)
    if settings["executor"] == "process":
        yield _check_process(settings)
    yield from _check_files(settings.values)
    yield _check_limits(settings.values)
    if settings["socket"] is not None:
        yield _check_socket(settings["socket"])
    if settings["metrics_port"]:
        yield _check_port(settings["metrics_address"], settings["metrics_port"])


def _check_extras(settings: Settings) -> Iterator[Finding]:
    if settings["metrics_port"] is not None:
        if importlib.util.find_spec("prometheus_client") is None:
            yield Finding(False, "extras: --metrics-port needs prometheus-client: pip install 'kc[metrics]'", 2)
        else:
            yield Finding(True, "extras: kc[metrics] is installed")
    wanted = {"decode": settings["decode"] != "raw", "tracing": settings["tracing"]}
    if not any(wanted.values()):
        return
    names = " and ".join(f"--{name}" for name, on in wanted.items() if on)
    try:
        processor_of(settings.build_config())
    except ConfigError as error:
        yield Finding(False, f"extras: {error}", 2)
    else:
        yield Finding(True, f"extras: what {names} needs is installed")


def _check_process(settings: Settings) -> Finding:
    try:
        check_process(settings.build_config())
    except ConfigError as error:
        return Finding(False, str(error), 2)
    return Finding(True, "executor process: a new process can import the processor")


def _check_files(values: Mapping[str, Any]) -> Iterator[Finding]:
    files = {"dead-letter files": "dlq_path"}
    if values["backup_mode"] != "off":
        files = {"backup files": "backup_path", **files}
    folders: dict[str, str] = {}  # the folder on each disk that is written to
    for name, key in files.items():
        path = Path(values[key]).absolute()
        if _in_use(f"{path}.lock"):
            option = f"--{key.replace('_', '-')}"
            yield Finding(False, f"{name} {path} are in use by another consumer: stop it, or give this one another {option}", 2)
        else:
            yield Finding(True, f"{name} {path}")
        folders.setdefault(str(os.stat(path.parent).st_dev), str(path.parent))
    for folder in folders.values():
        free = shutil.disk_usage(folder).free
        if free < LEAST_FREE_BYTES:
            text = f"disk of {folder}: {_size(free)} free, expected {_size(LEAST_FREE_BYTES)} or more"
            yield Finding(False, f"{text}: make room, or see --backup-retention-hours and --backup-compress")
        else:
            yield Finding(True, f"disk of {folder}: {_size(free)} free")


def _in_use(lock: str) -> bool:
    """Whether a consumer holds the lock; where there is no lock file, or none that we may read, nobody of ours does."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    else:
        return False
    finally:
        os.close(descriptor)


def _check_limits(values: Mapping[str, Any]) -> Finding:
    needed = _BASE_DESCRIPTORS
    if values["executor"] == "process":
        needed += _DESCRIPTORS_A_PROCESS * values["worker_count"]
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and limit < needed:
        text = f"limits: {limit:,} open files, expected {needed:,} or more"
        return Finding(False, f"{text}: ulimit -n {needed} (systemd: LimitNOFILE=)", 2)
    shown = "any number of open files" if limit == resource.RLIM_INFINITY else f"{limit:,} open files"
    return Finding(True, f"limits: {shown}, {count(needed, 'file')} expected at the most")


def _check_socket(path: str) -> Finding:
    folder = Path(path).absolute().parent
    while not folder.exists():
        folder = folder.parent  # it is made, readable by its owner alone
    problem = folder_problem(str(folder))
    if problem is not None:
        return Finding(False, f"socket {path}: {problem}: another user could listen in its place; choose another --socket", 2)
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding(False, f"socket {path}: {folder} can't be written; choose another --socket", 2)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_SOCKET_SECONDS)
        try:
            probe.connect(path)
        except TimeoutError:
            pass
        except OSError:
            return Finding(True, f"socket {path}")
    return Finding(False, f"socket {path} is in use by another process: stop it, or choose another --socket", 2)


def _check_port(address: str, port: int) -> Finding:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the server does: a port whose last user has just gone can be had.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "no address of this machine"
            text = f"metrics: can't listen on {address!r}, port {port}: {reason}"
            return Finding(False, f"{text}; choose another --metrics-port", 2)
    return Finding(True, f"metrics: port {port} on {address} is free")


def _size(number: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024 or unit == "GiB":
            break
        number /= 1024
    return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:,.1f} {unit}"
