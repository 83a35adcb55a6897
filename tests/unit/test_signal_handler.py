"""Signals: real ones, sent to this process; every test puts back the handlers it found."""

from __future__ import annotations

import io
import logging
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from kafka_consumer import signal_handler
from kafka_consumer.signal_handler import SIGNALS, SignalHandler
from tests.helpers import eventually


@pytest.fixture(autouse=True)
def handlers() -> Iterator[dict[int, Any]]:
    """The handlers before the test; they are back after it, whatever it did."""
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    yield before
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> None:
    """Every record of the package is captured."""
    caplog.set_level(logging.DEBUG, "kafka_consumer")


class Callback:
    """Counts its calls; raises ``error`` when it has one."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.calls = 0
        self.error = error

    def __call__(self) -> None:
        self.calls += 1
        if self.error is not None:
            raise self.error


def _send(signum: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), signum)


def test_registering_installs_handlers_and_keeps_the_original_ones(handlers: dict[int, Any]):
    """SPEC: Signal Handler Registration."""
    handler = SignalHandler()
    handler.register()
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        assert signal.getsignal(signum) == handler._handle_signal
        assert handler.original_handlers[signum] == handlers[signum]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_calls_the_callback_once_and_sets_the_event(signum: int, caplog: pytest.LogCaptureFixture):
    """SPEC: Signal Handler Callback Execution."""
    callback = Callback()
    handler = SignalHandler(callback=callback)
    handler.register()
    _send(signum)
    assert handler.wait(5)
    assert handler.shutdown_event.is_set()
    eventually(lambda: callback.calls == 1)
    assert f"{signal.Signals(signum).name} received: shutting down" in caplog.messages


def test_a_signal_without_a_callback_sets_the_event():
    """SPEC: Signal Handler Without Callback."""
    handler = SignalHandler(callback=None)
    handler.register()
    _send()
    assert handler.wait(5)
    assert handler.shutdown_event.is_set()


def test_a_callback_that_raises_is_logged_and_the_event_is_set(caplog: pytest.LogCaptureFixture):
    """SPEC: Signal Handler Callback Exception."""
    handler = SignalHandler(callback=Callback(ValueError("no such luck")))
    handler.register()
    _send()
    assert handler.wait(5)
    record = eventually(lambda: next((r for r in caplog.records if r.levelno == logging.ERROR), None))
    assert record.getMessage() == "the shutdown callback failed"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "no such luck"


def test_wait_blocks_until_a_signal_comes():
    """SPEC: Signal Handler Wait."""
    handler = SignalHandler()
    handler.register()
    began, results = threading.Event(), []

    def wait() -> None:
        began.set()
        results.append(handler.wait(10))

    thread = threading.Thread(target=wait)
    thread.start()
    began.wait(5)
    assert results == []
    _send()
    thread.join(5)
    assert results == [True]


def test_wait_gives_up_after_its_timeout():
    """SPEC: Signal Handler Wait."""
    assert SignalHandler().wait(0.01) is False


def test_restore_puts_the_original_handlers_back(handlers: dict[int, Any]):
    """SPEC: Signal Handler Restore."""
    handler = SignalHandler()
    handler.register()
    assert signal.getsignal(signal.SIGTERM) != handlers[signal.SIGTERM]
    handler.restore()
    assert {signum: signal.getsignal(signum) for signum in SIGNALS} == handlers


def test_restoring_twice_or_without_registering_changes_nothing(handlers: dict[int, Any]):
    def others(signum: int, frame: Any) -> None:
        """Do nothing."""

    handler = SignalHandler()
    handler.restore()
    handler.register()
    handler.restore()
    signal.signal(signal.SIGTERM, others)
    handler.restore()
    assert signal.getsignal(signal.SIGTERM) is others


def test_a_handler_that_python_did_not_install_becomes_the_default(monkeypatch: pytest.MonkeyPatch):
    handler = SignalHandler()
    handler.register()
    handler.original_handlers[signal.SIGTERM] = None  # what signal.signal() returns for one
    handler.restore()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_later_signals_are_logged_and_ignored(caplog: pytest.LogCaptureFixture):
    callback = Callback()
    handler = SignalHandler(callback)
    handler.register()
    for _ in range(3):
        _send()
    _send(signal.SIGINT)
    eventually(lambda: sum("received again: already shutting down" in m for m in caplog.messages) == 3)
    assert callback.calls == 1
    assert any(m.startswith("SIGINT received again") for m in caplog.messages)


def test_a_hangup_that_the_parent_ignores_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    handler = SignalHandler()
    handler.register()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert signal.SIGHUP not in handler.original_handlers


def test_a_signal_while_the_main_thread_holds_the_events_lock_does_not_deadlock(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(signal_handler, "HANDED_OFF_SECONDS", 0.02)
    callback = Callback()
    handler = SignalHandler(callback)
    handler.register()
    with handler.shutdown_event._cond:  # type: ignore[attr-defined]  # what Event.set() takes
        _send()
        assert callback.calls == 0  # the handler has given way
    eventually(lambda: callback.calls == 1)
    assert handler.shutdown_event.is_set()


def test_a_signal_while_the_main_thread_logs_does_not_deadlock(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(signal_handler, "HANDED_OFF_SECONDS", 0.02)
    slow = logging.StreamHandler(io.StringIO())
    logging.getLogger("kafka_consumer").addHandler(slow)
    try:
        handler = SignalHandler()
        handler.register()
        slow.acquire()
        try:
            _send()
        finally:
            slow.release()
        assert handler.wait(5)
    finally:
        logging.getLogger("kafka_consumer").removeHandler(slow)


def test_the_handler_may_be_called_directly():
    callback = Callback()
    handler = SignalHandler(callback)
    handler._handle_signal(signal.SIGTERM, None)
    handler._handle_signal(signal.SIGINT, None)
    assert handler.shutdown_event.is_set()
    assert callback.calls == 1
