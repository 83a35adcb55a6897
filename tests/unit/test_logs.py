"""Logs: one record is one line in every format, hostile text is harmless, tracebacks keep their lines and hide variables."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from datetime import datetime

import pytest

from kafka_consumer.logs import LogTail, log_everything, setup_logging

HOSTILE = "before\x1b[2J\x1b]52;c;cGF3bmVk\x07\r\n2026-01-01 00:00:00 CRITICAL forged\x9b31m\u202eright\u2028end\ud800"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


FORMATS = pytest.mark.parametrize(
    ("fmt", "stream"), [("rich", io.StringIO), ("rich", Terminal), ("json", io.StringIO)], ids=["pipe", "terminal", "json"]
)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """The package's logger; the root logger gets back the handlers and the level it had."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    logger = logging.getLogger("kafka_consumer")
    own_level = logger.level
    logger.setLevel(logging.DEBUG)
    yield logger
    root.handlers[:] = handlers
    root.setLevel(level)
    logger.setLevel(own_level)


def fail_with_a_secret() -> None:
    password = "hunter2-in-a-variable"
    raise ValueError(f"refused\x1b[31m after {len(password)}\nsecond line")


def log_failure(logger: logging.Logger) -> None:
    try:
        fail_with_a_secret()
    except ValueError:
        logger.exception("it failed")


def test_piped_lines_have_time_level_and_message(logger: logging.Logger) -> None:
    stream = io.StringIO()
    setup_logging("INFO", stream=stream)
    logger.warning("queue is %d %% full", 90)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d WARNING queue is 90 % full\n", stream.getvalue())


def test_on_a_terminal_rich_draws_text_as_text(logger: logging.Logger) -> None:
    stream = Terminal()
    setup_logging("INFO", stream=stream)
    logger.info("[red]not markup[/red] :smile: [/] [@click=app.quit]x[/]", extra={"markup": True})
    assert "[red]not markup[/red] :smile: [/]" in stream.getvalue()
    assert "INFO" in stream.getvalue()


@FORMATS
def test_hostile_text_is_visible_and_harmless_in_every_format(
    logger: logging.Logger, fmt: str, stream: type[io.StringIO]
) -> None:
    target = stream()
    setup_logging("INFO", fmt, target)
    logger.info("value: %s", HOSTILE)
    written = target.getvalue()
    ours = re.sub(r"\x1b\[[0-9;]*m", "", written)  # Rich's own colours
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028\ud800]", ours)
    assert "\\x1b[2J" in (json.loads(written)["message"] if fmt == "json" else ours)
    forged = [line for line in ours.splitlines() if line.lstrip().startswith("2026-01-01 00:00:00 CRITICAL")]
    assert not forged or stream is Terminal  # Rich may wrap there, below its own column of times


def test_a_line_of_json_has_the_fields_and_a_time_with_its_zone(logger: logging.Logger) -> None:
    stream = io.StringIO()
    setup_logging("INFO", "json", stream)
    logger.getChild("demo").error("ünïcode %s", "x")
    (line,) = stream.getvalue().splitlines()
    entry = json.loads(line)
    assert list(entry) == ["ts", "level", "logger", "message"]
    assert (entry["level"], entry["logger"], entry["message"]) == ("ERROR", "kafka_consumer.demo", "ünïcode x")
    assert line.isascii()
    at = datetime.fromisoformat(entry["ts"])
    assert at.tzinfo is not None
    assert abs((datetime.now().astimezone() - at).total_seconds()) < 60


@FORMATS
def test_a_traceback_keeps_its_lines_and_shows_no_local_variables(
    logger: logging.Logger, fmt: str, stream: type[io.StringIO]
) -> None:
    target = stream()
    setup_logging("INFO", fmt, target)
    log_failure(logger)
    written = target.getvalue()
    text = json.loads(written)["exc"] if fmt == "json" else re.sub(r"\x1b\[[0-9;]*m", "", written)
    assert "Traceback (most recent call last):" in text
    assert "fail_with_a_secret" in text
    assert "ValueError: refused\\x1b[31m after 21" in text
    assert "second line" in text
    assert text.count("\n") >= 5
    # The source line that makes the variable is in nobody's traceback: only what was called is.
    assert "hunter2" not in text


def test_a_record_whose_arguments_do_not_fit_is_still_a_line(logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    # Straight to the handler: pytest's own one, beside it, refuses such records.
    setup_logging("INFO", stream=stream).handle(logging.LogRecord("x", logging.INFO, "", 0, "%d of %d", ("many",), None))
    assert stream.getvalue().endswith("INFO %d of %d (the arguments don't fit this message)\n")
    assert capsys.readouterr().err == ""


def test_an_endless_traceback_is_cut_in_the_middle(logger: logging.Logger) -> None:
    stream = io.StringIO()
    setup_logging("INFO", stream=stream)
    try:
        raise ValueError("\n".join(f"line {number}" for number in range(5_000)))
    except ValueError:
        logger.exception("long")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 202
    assert any("lines left out" in line for line in lines)
    assert lines[-1] == "line 4999"


def test_a_huge_message_is_cut(logger: logging.Logger) -> None:
    stream = io.StringIO()
    setup_logging("INFO", stream=stream)
    logger.info("x" * 1_000_000)
    assert len(stream.getvalue()) < 11_000


def test_setting_up_again_replaces_the_handler_and_no_other(logger: logging.Logger) -> None:
    other = logging.NullHandler()
    logging.getLogger().addHandler(other)
    first, second = io.StringIO(), io.StringIO()
    setup_logging("INFO", stream=first)
    setup_logging("INFO", stream=second)
    logger.info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1
    assert other in logging.getLogger().handlers


def test_records_below_the_level_are_left_out(logger: logging.Logger) -> None:
    stream = io.StringIO()
    setup_logging("WARNING", stream=stream)
    logging.getLogger("someone.else").info("quiet")
    logging.getLogger("someone.else").warning("loud")
    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()


def test_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match="expected fmt to be one of rich, json, got 'xml'"):
        setup_logging("INFO", "xml")


class TestEverything:
    @pytest.fixture(autouse=True)
    def hooks(self, logger: logging.Logger) -> Iterator[None]:
        before = sys.excepthook, threading.excepthook
        yield
        sys.excepthook, threading.excepthook = before
        logging.captureWarnings(False)

    def test_what_a_thread_did_not_catch_is_logged(self, logger: logging.Logger) -> None:
        stream = io.StringIO()
        setup_logging("INFO", stream=stream)
        log_everything()
        thread = threading.Thread(target=fail_with_a_secret, name="the-thread")
        thread.start()
        thread.join(10)
        assert "CRITICAL unexpected error in thread the-thread: ValueError" in stream.getvalue()
        assert "\x1b" not in stream.getvalue()

    def test_what_the_main_thread_did_not_catch_is_logged(self, logger: logging.Logger) -> None:
        stream = io.StringIO()
        setup_logging("INFO", stream=stream)
        log_everything()
        try:
            fail_with_a_secret()
        except ValueError as error:
            sys.excepthook(type(error), error, error.__traceback__)
        assert "CRITICAL unexpected error: ValueError" in stream.getvalue()
        assert "hunter2" not in stream.getvalue()

    def test_warnings_are_logged(self, logger: logging.Logger) -> None:
        stream = io.StringIO()
        setup_logging("INFO", stream=stream)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            log_everything()
            warnings.warn("old \x1b[31mway", UserWarning, stacklevel=1)
            logging.captureWarnings(False)
        assert "old \\x1b[31mway" in stream.getvalue()


class TestLogTail:
    def test_it_keeps_the_last_records_as_a_tuple(self, logger: logging.Logger) -> None:
        tail = LogTail(3)
        logger.addHandler(tail)
        try:
            for number in range(5):
                logger.info("record %d", number)
        finally:
            logger.removeHandler(tail)
        records = tail.tail()
        assert isinstance(records, tuple)
        assert [record.message for record in records] == ["record 2", "record 3", "record 4"]
        assert all(record.level == "INFO" and record.at > 0 for record in records)

    def test_it_holds_200_unless_told_otherwise(self) -> None:
        tail = LogTail()
        for number in range(250):
            tail.handle(logging.LogRecord("x", logging.INFO, "", 0, f"record {number}", None, None))
        assert len(tail.tail()) == 200

    def test_messages_are_sanitised_and_an_error_is_named(self, logger: logging.Logger) -> None:
        tail = LogTail()
        logger.addHandler(tail)
        try:
            logger.info("%s", HOSTILE)
            log_failure(logger)
        finally:
            logger.removeHandler(tail)
        hostile, failed = tail.tail()
        assert hostile.message.isprintable()
        assert failed.message.startswith("it failed (")
        assert failed.message.isprintable()

    def test_many_threads_may_log_while_another_reads(self) -> None:
        tail = LogTail(50)
        record = logging.LogRecord("x", logging.INFO, "", 0, "message", None, None)
        threads = [threading.Thread(target=lambda: [tail.handle(record) for _ in range(300)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        sizes = [len(tail.tail()) for _ in range(300)]
        for thread in threads:
            thread.join(10)
        assert max(sizes) <= 50
        assert len(tail.tail()) == 50
