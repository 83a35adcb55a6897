"""What a replay shows while it runs and when it has ended, and what is asked before one that moves the group."""

from __future__ import annotations

import dataclasses
import io
import logging
import threading

import pytest
from confluent_kafka import KafkaError, KafkaException
from rich.console import Console

from kafka_consumer import replay_report
from kafka_consumer.cli import invoke
from kafka_consumer.errors import ReplayError
from kafka_consumer.replay import Plan
from kafka_consumer.replay_report import confirm, effect, has_end, progress, summary
from kafka_consumer.snapshot import Replay
from tests.helpers import eventually, make_config
from tests.tui.fakes import healthy

PLAN = Plan({("orders", 0): 10, ("orders", 1): 500}, {("orders", 0): 100}, outside=False)
COMMITTED = {("orders", 0): 60, ("orders", 1): 400}


class Consumer:
    """A consumer that has come some way; ``looked`` is set when its progress has been asked for twice."""

    def __init__(self, replay: Replay | None) -> None:
        self._snapshot = dataclasses.replace(healthy(), replay=replay)
        self._looks = 0
        self.looked = threading.Event()

    def snapshot(self):
        self._looks += 1
        if self._looks >= 2:
            self.looked.set()
        return self._snapshot


class Input(io.StringIO):
    """What is typed, at a terminal."""

    def isatty(self) -> bool:
        return True


def shown(table) -> str:
    out = io.StringIO()
    Console(file=out, width=120).print(table)
    return out.getvalue()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(replay_report, "BAR_SECONDS", 0.02)
    monkeypatch.setattr(replay_report, "LINE_SECONDS", 0.02)


@pytest.mark.parametrize(("eta", "said"), [(75.0, "about 75 s left"), (None, "no end in sight")])
def test_without_a_terminal_progress_is_a_line_in_the_log_now_and_then(caplog, eta, said):
    caplog.set_level(logging.INFO, "kafka_consumer.replay_report")
    consumer = Consumer(Replay(250, 1000, eta))
    with progress(consumer):
        eventually(lambda: any("replay: 250 of 1000 (25 %)" in line and said in line for line in caplog.messages))


def test_before_its_bounds_are_known_nothing_is_said(caplog):
    caplog.set_level(logging.INFO, "kafka_consumer.replay_report")
    consumer = Consumer(None)
    with progress(consumer):
        assert consumer.looked.wait(10)
    assert caplog.messages == []


def test_on_a_terminal_progress_is_a_bar_that_is_gone_afterwards():
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.console = Console(file=out, force_terminal=True, width=100)  # type: ignore[attr-defined]
    logging.getLogger().addHandler(handler)
    try:
        with progress(Consumer(Replay(250, 1000, None))):
            eventually(lambda: "250/1000" in out.getvalue())
    finally:
        logging.getLogger().removeHandler(handler)
    assert "replay" in out.getvalue()


def test_a_run_with_an_end_has_progress(tmp_path):
    assert has_end(make_config(tmp_path, replay_to="latest"))
    assert has_end(make_config(tmp_path, stop_at_offset={("test-topic", 0): 5}))
    assert not has_end(make_config(tmp_path))


def test_the_summary_says_what_was_done():
    text = shown(summary(dataclasses.replace(healthy(), stop_reason="stop target reached")))
    assert "failed, in the dead letters" in text
    assert "stop target reached" in text


def test_the_effect_names_what_is_repeated_and_skipped():
    text = shown(effect(PLAN, COMMITTED))
    rows = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in text.splitlines() if "orders-" in line]
    assert rows == [["orders-0", "60", "10", "100", "50", "0"], ["orders-1", "400", "500", "goes on", "0", "100"]]


@pytest.mark.parametrize(
    ("stdin", "refused"),
    [
        (Input("y\n"), []),
        (Input("\n"), ["--commit: not confirmed; nothing was done"]),
        (io.StringIO("y\n"), ["--commit moves the group: --yes says that this is wanted where nobody can be asked"]),
    ],
)
def test_a_replay_that_commits_is_asked_about_and_begun_only_after_a_yes(tmp_path, monkeypatch, stdin, refused):
    monkeypatch.setattr(replay_report, "preview", lambda _: (PLAN, COMMITTED))
    out = io.StringIO()
    assert confirm(make_config(tmp_path, replay_to="latest", replay_commit=True), stdin, Console(file=out, width=100)) == refused
    assert "orders-0" in out.getvalue()


def test_brokers_that_do_not_answer_are_named_as_the_reason(tmp_path, monkeypatch):
    def fails(_):
        raise KafkaException(KafkaError(KafkaError._TRANSPORT, "no brokers"))

    monkeypatch.setattr(replay_report, "preview", fails)
    (line,) = confirm(make_config(tmp_path, replay_to="latest"), Input("y\n"), Console(file=io.StringIO()))
    assert line.endswith("can't be asked of the brokers: no brokers")


def test_from_the_command_line_nothing_is_begun_where_nobody_can_be_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(replay_report, "preview", lambda _: (PLAN, COMMITTED))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    (tmp_path / "app.py").write_text("def handle(value): ...\n")
    arguments = "--headless --processor app:handle --bootstrap-server localhost:1 --topic orders --group g --to latest --commit"
    assert invoke(arguments.split()) == 2
    assert "--yes says that this is wanted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (ReplayError("the topic has no such partition: orders-9"), 1, "no such partition: orders-9"),
        (OSError(28, "No space left on device"), 1, "stdout can't be written: No space left on device"),
        (SystemExit(3), 3, ""),
        (KeyboardInterrupt(), 0, "stopped by a signal before it began"),
    ],
)
def test_whatever_stops_a_run_before_it_began_has_its_line_and_its_code(monkeypatch, capsys, raised, code, said):
    def fails(*_, **__):
        raise raised

    monkeypatch.setattr("kafka_consumer.cli.run_headless", fails)
    assert invoke(["--headless"]) == code
    assert said in capsys.readouterr().err
