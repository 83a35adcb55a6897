"""Dead letters read back, grouped, shown; the journal of a redrive; and the redrive itself, on a Kafka that is a few dicts."""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kafka_consumer.csv_files import format_rows
from kafka_consumer.csv_writers import DLQ_COLUMNS
from kafka_consumer.dlq import groups_of, json_line, print_groups, print_message
from kafka_consumer.dlq_files import FileMessage, Filter, Problems, StoredMessage, base_of, files_of, read_messages
from kafka_consumer.errors import ConfigError, FileFormatError, FilesInUseError, RedriveError
from kafka_consumer.producer_options import CONSUMER_ONLY, MANAGED
from kafka_consumer.redrive import Redrive, Result
from kafka_consumer.redrive_journal import Journal, journal_path, read_done
from kafka_consumer.redrive_kafka import AbortedError, KafkaSender, Outgoing, Refusal, producer_options
from kafka_consumer.types import DeadLetter
from tests.letters import DIFFICULT, FAILED_AT, HEADERS, dlq_rows, letter, letters_of, write_backup, write_dlq

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


class Said(Problems):
    """Problems, and the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        super().__init__(self.lines.append)


def read(*paths: str | Path, problems: Problems | None = None, dead_letters: bool = False) -> list[StoredMessage]:
    return list(read_messages(map(str, paths), problems or Said(), dead_letters=dead_letters))


def as_letter(message: StoredMessage) -> DeadLetter:
    evidence = message.evidence
    assert evidence is not None
    return DeadLetter(
        message.topic, message.partition, message.offset, message.timestamp, message.key, message.value, message.headers,
        evidence.error_type, evidence.error_message, evidence.stack_trace, evidence.attempts, evidence.worker_id,
    )  # fmt: skip


class TestReading:
    def test_every_kind_of_key_value_and_headers_comes_back_as_it_was(self, tmp_path: Path) -> None:
        letters = [
            letter(
                number, key=key, value=value, headers=HEADERS[:number], timestamp=None if number % 2 else number, worker_id=None
            )
            for number, (key, value) in enumerate(DIFFICULT)
        ]
        path = write_dlq(tmp_path / "dlq.csv", letters)

        found = read(path)

        assert [as_letter(message) for message in found] == letters
        assert {message.at for message in found} == {FAILED_AT}

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        st.lists(
            st.tuples(
                st.none() | st.binary(max_size=30) | st.text(max_size=20).map(lambda text: text.encode("utf-8", "replace")),
                st.none() | st.binary(max_size=30) | st.sampled_from([b"\\N", b'"', b"\r", b"a\r\nb,c", b"\0"]),
                st.lists(st.tuples(TEXT, st.none() | st.binary(max_size=5))),
                TEXT,
            ),
            max_size=5,
        )
    )
    def test_whatever_was_written_is_read_back(self, tmp_path: Path, rows: list[Any]) -> None:
        letters = [
            letter(number, key=key, value=value, headers=tuple(headers), error_message=text, stack_trace=text)
            for number, (key, value, headers, text) in enumerate(rows)
        ]
        (tmp_path / "dlq.csv").unlink(missing_ok=True)
        path = write_dlq(tmp_path / "dlq.csv", letters)
        said = Said()

        assert [as_letter(message) for message in read(path, problems=said)] == letters
        assert said.lines == []

    @pytest.mark.parametrize("cut", range(1, 34))
    def test_a_torn_last_row_is_left_out_wherever_it_was_torn(self, tmp_path: Path, cut: int) -> None:
        letters = [letter(0), letter(1, value=b'a "quoted"\r\nvalue, with lines', error_message="x")]
        path = Path(write_dlq(tmp_path / "dlq.csv", letters))
        path.write_bytes(path.read_bytes()[: -cut * 5 + 4])
        said = Said()

        found = read(path, problems=said)

        assert [message.offset for message in found] == [0]
        assert (said.torn, said.lost, len(said.lines)) == (1, 0, 1)
        assert f"{path}:" in said.lines[0]
        assert "ends within a row" in said.lines[0]

    def test_a_row_that_is_complete_but_for_its_line_feed_counts_as_torn_as_it_does_for_the_writer(self, tmp_path: Path) -> None:
        path = Path(write_dlq(tmp_path / "dlq.csv", [letter(0), letter(1)]))
        path.write_bytes(path.read_bytes()[:-1])
        assert [message.offset for message in read(path)] == [0]

    def test_a_damaged_row_in_the_middle_is_lost_alone_and_said(self, tmp_path: Path) -> None:
        path = Path(write_dlq(tmp_path / "dlq.csv", [letter(number, value=b"\xff%d" % number) for number in range(5)]))
        lines = path.read_bytes().split(b"\r\n")
        rows = [index for index, line in enumerate(lines) if b",base64," in line]
        lines[rows[1]] = lines[rows[1]].replace(b",base64,", b",base65,")
        lines[rows[3]] = lines[rows[3]].replace(b"/zM=", b"/zM")
        path.write_bytes(b"\r\n".join(lines))
        said = Said()

        assert [message.offset for message in read(path, problems=said)] == [0, 2, 4]
        assert (said.lost, said.torn) == (2, 0)
        assert "expected encoding to be utf-8 or base64" in said.lines[0]
        assert "expected value in base64" in said.lines[1]
        assert "zM" not in said.lines[1], "payload isn't shown"

    @pytest.mark.parametrize(
        ("column", "text", "told"),
        [
            ("partition", "one", "expected partition to be a number"),
            ("offset", "", "expected offset"),
            ("headers", "{", "expected headers"),
            ("headers", "5", "expected headers"),
            ("headers", '[["a"]]', "expected headers"),
            ("attempts", "x", "expected attempts"),
            ("worker_id", "x", "expected worker_id"),
            ("timestamp", "?", "expected timestamp"),
        ],
    )
    def test_a_field_that_kc_did_not_write_is_told(self, tmp_path: Path, column: str, text: str, told: str) -> None:
        path = tmp_path / "dlq.csv"
        (row,) = csv.reader(io.StringIO(dlq_rows([letter()]).decode()))
        row[DLQ_COLUMNS.index(column)] = text
        path.write_bytes(format_rows([DLQ_COLUMNS, row]))
        said = Said()
        assert read(path, problems=said) == []
        assert told in said.lines[0]

    def test_a_row_with_too_few_columns_is_told(self, tmp_path: Path) -> None:
        path = Path(write_dlq(tmp_path / "dlq.csv", [letter()]))
        path.write_bytes(path.read_bytes() + b"a,b\r\n\r\n" + dlq_rows([letter(7)]))
        said = Said()
        assert [message.offset for message in read(path, problems=said)] == [0, 7]
        assert "expected 14 columns, got 2" in said.lines[0]
        assert said.lost == 2

    def test_bytes_that_are_not_utf_8_spoil_their_row_alone(self, tmp_path: Path) -> None:
        path = Path(write_dlq(tmp_path / "dlq.csv", [letter(0), letter(1, value=b"MARK"), letter(2)]))
        path.write_bytes(path.read_bytes().replace(b"MARK", b"\xff\xff"))
        said = Said()
        assert [message.offset for message in read(path, problems=said)] == [0, 2]
        assert said.lost == 1

    def test_a_quote_that_never_ends_is_told_with_its_line(self, tmp_path: Path) -> None:
        path = Path(write_dlq(tmp_path / "dlq.csv", [letter(0, error_message="x", stack_trace="y")]))
        path.write_bytes(path.read_bytes() + b'"never\r\nended\r\n')
        said = Said()
        assert len(read(path, problems=said)) == 1
        assert said.torn == 1
        assert f"{path}:3:" in said.lines[0]

    def test_a_value_of_ten_megabytes_is_read(self, tmp_path: Path) -> None:
        value = os.urandom(5 << 20) + b"x" * (5 << 20)
        path = write_dlq(tmp_path / "dlq.csv", [letter(value=value)])
        assert read(path)[0].value == value

    def test_a_compressed_file_is_read_and_a_damaged_one_told(self, tmp_path: Path) -> None:
        letters = letters_of(200)
        path = Path(write_dlq(tmp_path / "dlq_20261122_hour_13.csv.gz", letters[:100]))
        write_dlq(path, letters[100:])
        assert [as_letter(message) for message in read(path)] == letters

        path.write_bytes(path.read_bytes()[:-200])
        said = Said()
        assert 100 <= len(read(path, problems=said)) < 200
        assert "the compressed file is damaged" in said.lines[0]
        assert said.lost == 1

    def test_a_file_that_is_none_of_ours_is_refused_before_anything_is_done(self, tmp_path: Path) -> None:
        other = tmp_path / "other.csv"
        other.write_text("a,b\r\n1,2\r\n")
        with pytest.raises(FileFormatError, match="first row is: a, b"):
            read(other)
        backup = write_backup(tmp_path / "backup.csv", [letter()])
        assert read(backup)[0].evidence is None
        with pytest.raises(FileFormatError, match="kc replay-backup processes it"):
            read(backup, dead_letters=True)

    def test_an_empty_file_holds_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "dlq.csv"
        path.touch()
        said = Said()
        assert read(path, problems=said) == []
        assert said.lines == []

    def test_the_repr_shows_no_payload(self, tmp_path: Path) -> None:
        (message,) = read(write_dlq(tmp_path / "dlq.csv", [letter(7, value=b"SECRET", key=b"SECRET")]))
        assert repr(message) == f"StoredMessage(orders-0@7, {tmp_path}/dlq.csv:2)"

    def test_a_row_has_the_methods_of_a_message(self, tmp_path: Path) -> None:
        path = write_dlq(tmp_path / "d.csv", [letter(7, headers=HEADERS), letter(timestamp=None)])
        one, other = map(FileMessage, read(path))
        assert (one.topic(), one.partition(), one.offset(), one.key(), one.error()) == ("orders", 0, 7, b"key", None)
        assert (one.value(), one.headers(), one.timestamp()) == (b'{"order": 7}', HEADERS, (1, 1_763_000_000_007))
        assert other.timestamp() == (0, -1)


class TestFiles:
    def test_the_hourly_files_of_a_base_are_found_oldest_first(self, tmp_path: Path) -> None:
        names = [
            "dlq_20261121_hour_23.csv", "dlq_20261122_hour_00.csv.gz", "dlq_20261122_hour_01.csv.2.gz",
            "dlq_20261122_hour_09.csv",
        ]  # fmt: skip
        others = ["dlq_20261122_hour_09.csv.torn", "dlq_20261122_hour_9.csv", "my_dlq_20261122_hour_09.csv", "dlq.csv.redriven",
                  "dlq_x_20261122_hour_09.csv", "dlq_20261122_hour_00.csv.gz.tmp"]  # fmt: skip
        for name in reversed(names + others):
            (tmp_path / name).touch()
        assert files_of(str(tmp_path / "dlq.csv")) == [str(tmp_path / name) for name in names]
        assert files_of(str(tmp_path / "dlq")) == [str(tmp_path / name) for name in names]

    @pytest.mark.parametrize(
        ("path", "base"),
        [
            ("dir/dlq_20261122_hour_14.csv", "dir/dlq.csv"),
            ("dlq_20261122_hour_14.csv.gz", "dlq.csv"),
            ("dlq.v1_20261122_hour_14.csv.3.gz", "dlq.v1.csv"),
            ("a_20261122_hour_14/b.csv", "a_20261122_hour_14/b.csv"),
            ("mine.csv", "mine.csv"),
        ],
    )
    def test_the_base_of_a_file(self, path: str, base: str) -> None:
        assert base_of(path) == base
        assert journal_path(path) == f"{base}.redriven"


class TestDigest:
    def test_it_tells_every_difference_and_nothing_else(self, tmp_path: Path) -> None:
        variants = [
            letter(), letter(offset=1, timestamp=1_763_000_000_000, value=b'{"order": 0}'), letter(partition=1),
            letter(topic="other"),
            letter(timestamp=None), letter(timestamp=1), letter(key=None), letter(key=b""), letter(value=None), letter(value=b""),
            letter(key=b"ke", value=b'y{"order": 0}'), letter(headers=(("a", None),)), letter(headers=(("a", b""),)),
            letter(headers=(("a", b"b"),)), letter(headers=(("ab", b""),)),
        ]  # fmt: skip
        digests = [message.digest() for message in read(write_dlq(tmp_path / "a.csv", variants))]
        assert len(set(digests)) == len(variants)
        assert {len(digest) for digest in digests} == {16}

        again = letter(error_type="Other", error_message="later", stack_trace="", attempts=9, worker_id=None)
        (later,) = read(write_dlq(tmp_path / "b.csv", [again], at="2027-01-01T00:00:00+00:00"))
        assert later.digest() == digests[0], "the same message, recorded a second time"


class TestFilter:
    @pytest.mark.parametrize(
        ("chosen", "offsets"),
        [
            (Filter(), [0, 1, 2]),
            (Filter(errors={"KeyError"}), [1]),
            (Filter(topics={"orders"}), [0, 1]),
            (Filter(keys={b"k1"}), [1]),
            (Filter(offsets={("orders", 0, 0), ("other", 0, 2), ("other", 0, 1)}), [0, 2]),
            (Filter(errors={"ValueError"}, topics={"other"}), [2]),
        ],
    )
    def test_each_narrows(self, tmp_path: Path, chosen: Filter, offsets: list[int]) -> None:
        letters = [letter(0), letter(1, error_type="KeyError", key=b"k1"), letter(2, topic="other")]
        assert [m.offset for m in filter(chosen, read(write_dlq(tmp_path / "dlq.csv", letters)))] == offsets

    def test_since_is_inclusive_and_until_is_not(self, tmp_path: Path) -> None:
        path = tmp_path / "dlq.csv"
        for hour in (10, 11, 12):
            write_dlq(path, [letter(hour)], at=f"2026-11-22T{hour}:00:00+00:00")
        write_dlq(path, [letter(13)], at="garbage")
        messages = read(path)
        noon = messages[2].moment
        assert [m.offset for m in filter(Filter(since=noon - 3600), messages)] == [11, 12]
        assert [m.offset for m in filter(Filter(until=noon), messages)] == [10, 11]
        assert [m.offset for m in filter(Filter(since=noon - 3600, until=noon), messages)] == [11]


class TestLooking:
    def test_groups_count_by_hour_error_and_topic(self, tmp_path: Path) -> None:
        path = tmp_path / "dlq.csv"
        write_dlq(path, [letter(0), letter(1)], at="2026-11-22T14:00:01+01:00")
        write_dlq(path, [letter(2), letter(3, error_type="KeyError"), letter(4, topic="other")], at="2026-11-22T14:59:00+01:00")
        write_dlq(path, [letter(5)], at="2026-11-22T15:00:00+01:00")
        messages = read(path)

        groups = groups_of(messages, {messages[0].digest()})

        assert [(g.hour, g.error, g.topic, g.letters, g.redriven) for g in groups] == [
            ("2026-11-22T14", "KeyError", "orders", 1, 0), ("2026-11-22T14", "ValueError", "orders", 3, 1),
            ("2026-11-22T14", "ValueError", "other", 1, 0), ("2026-11-22T15", "ValueError", "orders", 1, 0),
        ]  # fmt: skip
        assert (groups[1].first, groups[1].last) == ("2026-11-22T14:00:01+01:00", "2026-11-22T14:59:00+01:00")

    @pytest.mark.parametrize("terminal", [True, False])
    def test_a_hostile_topic_and_error_are_text(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], terminal: bool) -> None:
        hostile = letter(topic="[red]t\x1b[2J", error_type="[/]E\u202e")
        print_groups(groups_of(read(write_dlq(tmp_path / "dlq.csv", [hostile])), set()), as_json=False, terminal=terminal)
        shown = capsys.readouterr().out
        assert "[red]t\\x1b[2J" in shown
        assert "[/]E\\u202e" in shown
        assert "\x1b" not in shown
        assert shown.endswith("1 dead letter\n")

    def test_groups_as_json_are_one_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        print_groups([], as_json=True, terminal=False)
        assert json.loads(capsys.readouterr().out) == []
        print_groups([], as_json=False, terminal=False)
        assert capsys.readouterr().out == "no dead letters\n"

    def test_a_dead_letter_is_shown_whole_and_inert(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        hostile = letter(
            7,
            key=b"\xff",
            value="line 1\n\x1b]0;owned\x07[link=x]\u202eline 2\r".encode(),
            headers=(("h\x1b", b"[bold]"), ("n", None)),
            error_message="bad\nvery [/] bad",
            attempts=3,
            stack_trace="Traceback\n  \x1b[31mred\n",
        )
        (message,) = read(write_dlq(tmp_path / "dlq.csv", [hostile]))
        print_message(message, redriven=True)
        shown = capsys.readouterr().out
        assert shown.splitlines() == [
            "orders-0@7  ValueError: bad⏎very [/] bad",
            f"  failed    {FAILED_AT}, 3 attempts, worker 3; redriven since",
            f"  stands in {tmp_path}/dlq.csv:2",
            f"  timestamp {shown.split('timestamp ')[1].splitlines()[0]}",
            "  key       (not UTF-8; base64) /w==",
            "  header    h\\x1b: [bold]",
            "  header    n: (null)",
            "  value     line 1",
            "            \\x1b]0;owned\\x07[link=x]\\u202eline 2\\x0d",
            "  trace     Traceback",
            "              \\x1b[31mred",
        ]
        assert "(1763000000007)" in shown

    def test_a_long_payload_is_cut_unless_all_of_it_is_asked_for(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        long = letter(value=b"x" * 50_000, stack_trace="\n".join(f"line {n}" for n in range(1000)), timestamp=10**18, attempts=0)
        (message,) = read(write_dlq(tmp_path / "dlq.csv", [long]))
        print_message(message)
        shown = capsys.readouterr().out
        assert len(shown) < 9_000
        assert "50,000 bytes in all; --full shows them" in shown
        assert "800 lines left out" in shown
        assert "the processor wasn't called" in shown
        assert "1000000000000000000" in shown
        print_message(message, full=True)
        shown = capsys.readouterr().out
        assert "x" * 50_000 in shown
        assert "line 500\n" in shown

    def test_as_json_it_is_one_line_with_every_byte(self, tmp_path: Path) -> None:
        (message,) = read(write_dlq(tmp_path / "dlq.csv", [letter(7, key=None, value=b"\xff", headers=(("a", b"b"),))]))
        line = json_line(message, redriven=False)
        found = json.loads(line)
        assert "\n" not in line
        assert (found["key"], found["value"], found["headers"]) == (None, {"base64": "/w=="}, [["a", {"text": "b"}]])
        assert (found["offset"], found["error_type"], found["redriven"]) == (7, "ValueError", False)


# --- the journal ------------------------------------------------------------------------------------------------------


DIGESTS = [bytes([number]) * 16 for number in range(10)]


class TestJournal:
    def test_what_was_sent_is_done_and_survives_the_process(self, tmp_path: Path) -> None:
        path = str(tmp_path / "dlq.csv.redriven")
        with Journal(path) as journal:
            name = journal.id
            assert journal.begin("cluster", "orders", DIGESTS[:2]) == 1
            journal.end(sent=True)
            assert journal.begin("cluster", "orders", DIGESTS[2:4]) == 2
            journal.end(sent=False)
            journal.processed(DIGESTS[4:5])
            journal.processed([])
            assert journal.done == {DIGESTS[0], DIGESTS[1], DIGESTS[4]}
        with Journal(path) as journal:
            assert (journal.id, journal.last_number, journal.in_doubt) == (name, 2, None)
            assert journal.done == {DIGESTS[0], DIGESTS[1], DIGESTS[4]}
        assert read_done(path) == {DIGESTS[0], DIGESTS[1], DIGESTS[4]}
        assert Path(path).stat().st_mode & 0o777 == 0o600

    def test_a_batch_without_an_end_is_in_doubt(self, tmp_path: Path) -> None:
        path = str(tmp_path / "j")
        with Journal(path) as journal:
            journal.begin("cluster", "orders", DIGESTS[:3])
        assert read_done(path) == set()
        with Journal(path) as journal:
            batch = journal.in_doubt
            assert batch is not None
            assert (batch.number, batch.cluster, batch.marker, batch.letters) == (1, "cluster", "orders", tuple(DIGESTS[:3]))
            journal.end(sent=True)
        assert read_done(path) == set(DIGESTS[:3])

    def test_a_second_redrive_of_the_same_files_is_refused(self, tmp_path: Path) -> None:
        path = str(tmp_path / "j")
        with Journal(path), pytest.raises(FilesInUseError, match="another redrive of these dead letters is running"):
            Journal(path)
        with Journal(path):
            pass

    def test_a_torn_last_line_is_cut_off_wherever_it_was_torn(self, tmp_path: Path) -> None:
        path = tmp_path / "j"
        with Journal(str(path)) as journal:
            journal.begin("cluster", "orders", DIGESTS[:2])
            whole = path.stat().st_size
            journal.end(sent=True)
        data = path.read_bytes()
        for cut in range(whole, len(data)):
            path.write_bytes(data[:cut])
            assert read_done(str(path)) == set()
            with Journal(str(path)) as journal:
                assert journal.in_doubt is not None
            assert path.stat().st_size == whole
        path.write_bytes(data[:10])  # not even its first line was synced: nothing was done
        with Journal(str(path)) as journal:
            assert (journal.done, journal.in_doubt, journal.last_number) == (set(), None, 0)

    @pytest.mark.parametrize(
        "line",
        [
            b"garbage",
            b"[]",
            b"5",
            b'{"batch": 2, "sent": true}',
            b'{"batch": 1, "sent": "yes"}',
            b'{"processed": [5]}',
            b'{"batch": 3, "cluster": "c", "marker": "m", "letters": [], "at": ""}',
            b'{"processed": ["xyz"]}',
            b"{}",
        ],
    )
    def test_a_damaged_journal_is_never_trusted(self, tmp_path: Path, line: bytes) -> None:
        path = tmp_path / "j"
        Journal(str(path)).close()
        path.write_bytes(path.read_bytes() + line + b"\n")
        with pytest.raises(FileFormatError, match="j:2: expected a line of a redrive's journal"):
            Journal(str(path))
        with pytest.raises(FileFormatError):
            read_done(str(path))

    def test_another_version_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "j"
        path.write_text('{"kc_redrive": 2, "journal": "x"}\n')
        with pytest.raises(FileFormatError):
            Journal(str(path))

    def test_after_a_failed_write_nothing_more_is_recorded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        journal = Journal(str(tmp_path / "j"))
        with monkeypatch.context() as patched:
            patched.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(OSError, match="No space left"):
                journal.begin("c", "m", DIGESTS[:1])
        with pytest.raises(OSError, match="Bad file descriptor"):
            journal.processed(DIGESTS[:1])

    def test_no_journal_means_nothing_is_done(self, tmp_path: Path) -> None:
        assert read_done(str(tmp_path / "none")) == set()


# --- the redrive ------------------------------------------------------------------------------------------------------


class DictKafka:
    """Kafka's side of a redrive: what was sent, and the markers. It ``refuses`` values; ``closed`` are topics."""

    cluster = "dict"

    def __init__(self) -> None:
        self.topics: dict[str, frozenset[int]] = {"orders": frozenset(range(3))}
        self.sent: list[Outgoing] = []
        self.sizes: list[int] = []
        self.markers: dict[str, int] = {}
        self.refuses: set[bytes] = set()
        self.closed: set[str] = set()
        self.error: Exception | None = None
        self.opened = 0
        self.closings = 0

    def open(self) -> None:
        self.opened += 1

    def close(self) -> None:
        self.closings += 1

    def partitions(self, topic: str) -> frozenset[int] | None:
        return self.topics.get(topic)

    def marked(self, marker: str) -> int | None:
        return self.markers.get(marker)

    def mark(self, marker: str, number: int) -> None:
        self.markers[marker] = number

    def send(self, batch: Sequence[Outgoing], marker: str, number: int) -> Refusal | None:
        assert self.markers[marker] < number
        if self.error is not None:
            raise self.error
        for message in batch:
            if message.topic in self.closed:
                return Refusal("not allowed", topic_wide=True)
        for message in batch:
            if message.value in self.refuses:
                return Refusal("too large", topic_wide=False)
        self.sent += batch
        self.sizes.append(len(batch))
        self.markers[marker] = number
        return None


@pytest.fixture
def kafka() -> DictKafka:
    return DictKafka()


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    with Journal(str(tmp_path / "dlq.csv.redriven")) as opened:
        yield opened


def stored(tmp_path: Path, letters: Sequence[DeadLetter]) -> list[StoredMessage]:
    (tmp_path / "dlq.csv").unlink(missing_ok=True)
    return read(write_dlq(tmp_path / "dlq.csv", letters))


def run(journal: Journal, kafka: DictKafka, messages: Sequence[StoredMessage], **more: Any) -> Result:
    return Redrive(journal, kafka, **more).run(messages)


class TestRedrive:
    def test_each_is_sent_once_however_often_it_stands_there_and_is_run(
        self, tmp_path: Path, journal: Journal, kafka: DictKafka
    ) -> None:
        messages = stored(tmp_path, [*letters_of(1200), *letters_of(5)])
        result = run(journal, kafka, messages)
        assert (result.done, result.failed, result.already) == (1200, 0, 5)
        assert (len(kafka.sent), kafka.sizes) == (1200, [500, 500, 200])
        assert [(m.key, m.value, tuple(m.headers), m.partition, m.timestamp) for m in kafka.sent] == [
            (m.key, m.value, m.headers, m.partition, None) for m in messages[:1200]
        ]
        again = run(journal, kafka, messages)
        assert (again.done, again.already, len(kafka.sent)) == (0, 1205, 1200)
        assert (kafka.opened, kafka.closings) == (2, 2)

    def test_a_batch_is_bounded_by_bytes_too(self, tmp_path: Path, journal: Journal, kafka: DictKafka) -> None:
        messages = stored(tmp_path, [letter(number, value=b"%d" % number + b"x" * (3 << 20)) for number in range(5)])
        run(journal, kafka, messages)
        assert kafka.sizes == [2, 2, 1]

    def test_one_that_is_refused_fails_alone(self, tmp_path: Path, journal: Journal, kafka: DictKafka) -> None:
        letters = letters_of(100)
        kafka.refuses = {b"bad"}
        messages = stored(tmp_path, [*letters[:60], letter(777, value=b"bad"), *letters[60:]])
        result = run(journal, kafka, messages)
        assert (result.done, result.failed) == (100, 1)
        assert [(f.offset, f.reason) for f in result.failures] == [(777, "too large")]
        assert [m.value for m in kafka.sent] == [each.value for each in letters], "in their order"
        kafka.refuses = set()
        assert run(journal, kafka, messages).done == 1, "what failed is tried again by the next run"

    def test_a_topic_that_takes_nothing_costs_one_attempt(self, tmp_path: Path, journal: Journal, kafka: DictKafka) -> None:
        kafka.closed = {"orders"}
        result = run(journal, kafka, stored(tmp_path, letters_of(700)))
        assert (result.done, result.failed, len(result.failures)) == (0, 700, 100)
        assert journal.last_number == 1

    def test_of_two_topics_in_a_batch_only_the_refused_one_fails(
        self, tmp_path: Path, journal: Journal, kafka: DictKafka
    ) -> None:
        kafka.topics["closed"] = frozenset({0})
        kafka.closed = {"closed"}
        mixed = [each for pair in zip(letters_of(20), letters_of(20, topic="closed"), strict=True) for each in pair]
        result = run(journal, kafka, stored(tmp_path, mixed))
        assert (result.done, result.failed) == (20, 20)
        assert {message.topic for message in kafka.sent} == {"orders"}

    def test_a_topic_that_does_not_exist_is_told_and_costs_nothing(
        self, tmp_path: Path, journal: Journal, kafka: DictKafka
    ) -> None:
        result = run(journal, kafka, stored(tmp_path, [letter(1), letter(2, topic="gone")]))
        assert (result.done, result.failed) == (1, 1)
        assert "topic gone doesn't exist" in result.failures[0].reason

    def test_another_topic_leaves_the_partition_to_the_key_and_a_lost_partition_too(
        self, tmp_path: Path, journal: Journal, kafka: DictKafka
    ) -> None:
        kafka.topics["retry"] = frozenset({0})
        run(journal, kafka, stored(tmp_path, [letter(1, partition=2)]), to_topic="retry", keep_timestamps=True)
        run(journal, kafka, stored(tmp_path, [letter(2, partition=9)]))
        assert [(m.topic, m.partition, m.timestamp) for m in kafka.sent] == [
            ("retry", None, 1_763_000_000_001), ("orders", None, None),
        ]  # fmt: skip

    def test_the_marker_is_of_a_topic_that_exists(self, tmp_path: Path, journal: Journal, kafka: DictKafka) -> None:
        kafka.topics["retry"] = frozenset({0})
        run(journal, kafka, stored(tmp_path, [letter(1, topic="gone")]), to_topic="retry")
        assert kafka.markers == {"retry": 1}

    @pytest.mark.parametrize(("marker", "sent"), [(1, True), (0, False)])
    def test_a_batch_in_doubt_is_settled_by_its_marker(
        self, tmp_path: Path, journal: Journal, kafka: DictKafka, marker: int, sent: bool
    ) -> None:
        messages = stored(tmp_path, letters_of(10))
        journal.begin("dict", "orders", [message.digest() for message in messages[:4]])
        kafka.markers["orders"] = marker
        result = run(journal, kafka, messages)
        assert (result.done, result.already) == ((6, 4) if sent else (10, 0))
        assert journal.in_doubt is None

    def test_without_its_marker_the_operator_decides(self, tmp_path: Path, journal: Journal, kafka: DictKafka) -> None:
        messages = stored(tmp_path, letters_of(10))
        journal.begin("dict", "orders", [message.digest() for message in messages[:4]])
        with pytest.raises(RedriveError, match=r"--in-doubt skip if they did, --in-doubt resend if not"):
            run(journal, kafka, messages)
        assert kafka.sent == []
        assert run(journal, kafka, messages, in_doubt="resend").done == 10

    def test_an_error_leaves_the_batch_in_doubt_unless_it_was_taken_back(
        self, tmp_path: Path, journal: Journal, kafka: DictKafka
    ) -> None:
        messages = stored(tmp_path, letters_of(10))
        kafka.error = AbortedError("the brokers failed")
        job = Redrive(journal, kafka)
        with pytest.raises(AbortedError):
            job.run(messages)
        assert journal.in_doubt is None
        kafka.error = RedriveError("no answer")
        with pytest.raises(RedriveError):
            run(journal, kafka, messages)
        assert journal.in_doubt is not None
        kafka.error = None
        assert run(journal, kafka, messages).done == 10

    def test_a_set_event_ends_it_between_batches(self, tmp_path: Path, journal: Journal, kafka: DictKafka) -> None:
        stopping = threading.Event()
        result = run(journal, kafka, stored(tmp_path, letters_of(1200)), stopping=stopping, progress=lambda _: stopping.set())
        assert (result.done, result.stopped) == (500, True)

    def test_a_rate_spreads_the_batches(self, tmp_path: Path, journal: Journal, kafka: DictKafka) -> None:
        began = time.monotonic()
        run(journal, kafka, stored(tmp_path, letters_of(30)), max_rate=50)
        assert kafka.sizes == [25, 5]
        assert time.monotonic() - began >= 0.45


class FakeProducer:
    """A producer whose calls do what they are told: raise what stands in ``raises`` by name, again and again."""

    def __init__(self, **raises: Exception) -> None:
        self.raises = raises
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def call(*_arguments: Any, **_more: Any) -> None:
            self.calls.append(name)
            if name in self.raises:
                raise self.raises[name]

        return call


def kafka_error(code: int, *, retriable: bool = False, abort: bool = False) -> KafkaException:
    return KafkaException(KafkaError(code, "told", False, retriable, abort))


class TestSending:
    """``KafkaSender`` when Kafka doesn't do as it should; with a real Kafka it is shown by tests/e2e/test_redrive.py."""

    def sender(self, monkeypatch: pytest.MonkeyPatch, **raises: Exception) -> KafkaSender:
        sender = KafkaSender("127.0.0.1:1", {}, "unit")
        monkeypatch.setattr("kafka_consumer.redrive_kafka.TRANSACTION_SECONDS", 0.1)
        sender._producer = cast("Any", FakeProducer(**raises))
        return sender

    def outgoing(self) -> list[Outgoing]:
        return [Outgoing("orders", 0, b"k", b"v", (("h", None),), 5)]

    def test_what_cannot_be_taken_back_is_in_doubt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        errors = {
            "commit_transaction": kafka_error(KafkaError._TIMED_OUT, retriable=True),
            "abort_transaction": kafka_error(KafkaError._STATE),
        }
        sender = self.sender(monkeypatch, **errors)
        with pytest.raises(RedriveError, match="the last batch is in doubt, the next run finds out") as caught:
            sender.send(self.outgoing(), "orders", 1)
        assert not isinstance(caught.value, AbortedError)
        assert cast("FakeProducer", sender._producer).calls.count("commit_transaction") > 1, (
            "it is called again until the time is up"
        )
        sender.close()

    def test_what_was_taken_back_for_no_fault_of_a_message_ends_the_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sender = self.sender(monkeypatch, commit_transaction=kafka_error(KafkaError._MSG_TIMED_OUT, abort=True))
        with pytest.raises(AbortedError, match="the last batch was taken back"):
            sender.send(self.outgoing(), "orders", 1)
        sender.close()

    def test_a_queue_that_stays_full_ends_the_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sender = self.sender(monkeypatch, produce=BufferError("full"))
        with pytest.raises(RedriveError, match="take no messages"):
            sender.send(self.outgoing(), "orders", 1)
        sender.close()

    def test_a_marker_with_an_error_is_no_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sender = self.sender(monkeypatch)
        found = TopicPartition("orders", 0, 5)
        answer = SimpleNamespace(offset=5, error=KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
        real, sender._markers = sender._markers, cast("Any", SimpleNamespace(committed=lambda *_, **__: [answer]))
        with pytest.raises(RedriveError, match="the marker can't be read"):
            sender.marked("orders")
        sender._markers = cast("Any", SimpleNamespace(committed=lambda *_, **__: [found]))
        assert sender.marked("orders") == 5
        real.close()

    def test_options_that_librdkafka_refuses_are_the_users_mistake(self) -> None:
        with pytest.raises(ConfigError, match="kafka options: ") as caught:
            KafkaSender("127.0.0.1:1", {"compression.type": "SECRET-VALUE"}, "unit")
        assert "SECRET-VALUE" not in str(caught.value)


class TestOptionsOfTheProducer:
    def test_what_only_a_consumer_takes_is_left_out_and_ours_cannot_be_changed(self) -> None:
        given = {
            "session.timeout.ms": 6000, "isolation.level": "read_uncommitted", "sasl.username": "u", "sasl.password": "p",
            "security.protocol": "SASL_SSL", "acks": 0, "enable.idempotence": "false", "transactional.id": "mine",
            "compression.type": "zstd", "partitioner": "consistent", "message.max.bytes": 5000,
        }  # fmt: skip
        assert producer_options("b:1", given, "kc.redrive.x") == {
            "client.id": "kc", "message.max.bytes": 5000, "partitioner": "consistent", "linger.ms": 5, "sasl.username": "u",
            "sasl.password": "p", "security.protocol": "SASL_SSL", "compression.type": "zstd", "bootstrap.servers": "b:1",
            "transactional.id": "kc.redrive.x", "transaction.timeout.ms": 60_000, "enable.idempotence": True, "acks": "all",
        }  # fmt: skip

    def test_the_options_left_out_are_those_that_librdkafka_calls_a_consumers(self) -> None:
        samples = {"partition.assignment.strategy": "range", "offset.store.method": "broker", "isolation.level": "read_committed",
                   "auto.offset.reset": "earliest", "group.protocol": "classic", "group.id": "g", "group.instance.id": "i",
                   "group.protocol.type": "consumer", "group.remote.assignor": "uniform", "offset.store.path": "."}  # fmt: skip
        known = []
        for name in sorted(CONSUMER_ONLY):
            said: list[str] = []
            handler = logging.Handler()
            handler.emit = lambda record, said=said: said.append(record.getMessage())  # type: ignore[method-assign, misc]
            log = logging.getLogger(f"test.{name}")
            log.propagate = False
            log.addHandler(handler)
            on = name.startswith(("enable", "allow", "check", "auto.commit.enable"))
            producer = Producer({name: samples.get(name, "true" if on else "500")}, logger=log)
            producer.poll(0.05)
            if "is a consumer property" not in " ".join(said):
                known.append(name)
        assert known == []

    def test_no_option_is_in_both_lists(self) -> None:
        assert not CONSUMER_ONLY & MANAGED


def test_the_writers_gzip_and_ours_agree(tmp_path: Path) -> None:
    path = tmp_path / "dlq_20261122_hour_13.csv.gz"
    plain = write_dlq(tmp_path / "dlq.csv", letters_of(3))
    path.write_bytes(gzip.compress(Path(plain).read_bytes()))
    assert [m.digest() for m in read(path)] == [m.digest() for m in read(plain)]
