"""What a worker process is told at its start, and whether it could do its work: asked before the first message is taken."""

from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import Callable
from multiprocessing import spawn
from typing import TYPE_CHECKING, Any

from kafka_consumer.calling import processor_of
from kafka_consumer.child import Child, StartError
from kafka_consumer.errors import ConfigError

if TYPE_CHECKING:
    from kafka_consumer.config import KafkaConsumerConfig


def setup_of(config: KafkaConsumerConfig) -> dict[str, Any]:
    """Return what a worker process is told first, see ``process_child``. Errors: ``ConfigError`` where it can't do the work."""
    target = processor_of(config)
    spec = config.processor_spec if target is config.processor_callable else None
    processor = fatal = b""
    if spec is None:
        try:
            processor = pickle.dumps(target)
        except Exception as error:  # noqa: BLE001 - pickling calls methods of any object
            raise ConfigError(
                "executor: expected 'thread', or a processor that another process can import (a function at a module's top level,"
                f" 'module:name', an object that pickles), got {config.processor_name} ({' '.join(str(error).split())[:200]})"
            ) from None
    try:
        fatal = pickle.dumps(config.fatal_exceptions)
    except Exception as error:  # noqa: BLE001 - as above
        raise ConfigError(
            "fatal_exceptions: expected classes at a module's top level for executor='process', "
            f"got one that another process can't import ({' '.join(str(error).split())[:200]})"
        ) from None
    return {
        "path": list(sys.path), "argv": list(sys.argv), "spec": spec, "processor": processor, "fatal": fatal,
        "timed": config.processing_timeout is not None, "log_level": logging.getLogger().getEffectiveLevel(),
        "main": _main_module() if b"__main__" in processor + fatal else {},
    }  # fmt: skip


def _main_module() -> dict[str, Any]:
    """Return how a new process finds what a script defines, as ``multiprocessing`` does it; empty for an interactive session."""
    return {name: value for name, value in spawn.get_preparation_data("kc").items() if name.startswith("init_main")}


def check_process(config: KafkaConsumerConfig, unless: Callable[[], bool] | None = None) -> None:
    """Try whether a new process can import the processor: better now than with messages in hand. Errors: ``ConfigError``.

    An import may take long: it is given up, without an error, once ``unless()`` is true.
    """
    setup = setup_of(config)
    try:
        child = Child(setup)
        try:
            child.wait_ready(unless)
        finally:
            if not child.ready:
                child.kill()
            child.close()
    except StartError as error:
        raise ConfigError(f"executor: {error}") from None
