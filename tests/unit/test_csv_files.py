"""Hourly CSV files: any bytes come back as they were, and whatever a crash leaves is read up to its last whole row."""

from __future__ import annotations

import csv
import io
import os
import stat
import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kafka_consumer import csv_files
from kafka_consumer.csv_files import (
    NULL,
    RotatingCsv,
    decode_field,
    decode_headers,
    encode_headers,
    encode_pair,
    format_rows,
    hourly_path,
)

AT = datetime(2026, 11, 22, 14, 5, tzinfo=UTC)
LATER = datetime(2026, 11, 22, 15, 0, tzinfo=UTC)
COLUMNS = ("offset", "value")
csv.field_size_limit(sys.maxsize)


def _read(path: str | Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as handle:
        return list(csv.reader(handle, strict=True))


def _written(folder: str | Path, rows: list[list[Any]]) -> Path:
    file = RotatingCsv(f"{folder}/backup.csv", COLUMNS)
    file.open(AT)
    file.write(format_rows(rows))
    path = Path(file.path or "")
    file.close()
    return path


# --- names and encodings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("dir/backup.csv", "dir/backup_20261122_hour_14.csv"),
        ("backup", "backup_20261122_hour_14.csv"),
        ("a.b/c.d.tsv", "a.b/c.d_20261122_hour_14.tsv"),
        ("a.b/c", "a.b/c_20261122_hour_14.csv"),
    ],
)
def test_a_file_is_named_after_its_hour(base: str, expected: str):
    assert hourly_path(base, AT) == expected


@settings(deadline=None)
@given(st.none() | st.binary(), st.none() | st.binary())
@example(None, None)
@example(b"", b"")
@example(NULL.encode(), b"text")
@example(b"text", NULL.encode())
@example(b"text", b"\xff")
@example(b"\r\n", b'"",\x00')
def test_any_key_and_value_come_back_as_they_were(key: bytes | None, value: bytes | None):
    text_key, text_value, encoding = encode_pair(key, value)
    rows = format_rows([(text_key, text_value, encoding)])
    read_key, read_value, read_encoding = next(csv.reader(io.StringIO(rows.decode(), newline=""), strict=True))
    assert (decode_field(read_key, read_encoding), decode_field(read_value, read_encoding)) == (key, value)


def test_what_is_readable_is_written_readably():
    assert encode_pair("schlüssel".encode(), b"value") == ("schlüssel", "value", "utf-8")
    assert encode_pair(None, b"") == (NULL, "", "utf-8")
    assert encode_pair(b"key", b"\xff") == ("a2V5", "/w==", "base64")
    assert encode_pair(None, NULL.encode()) == (NULL, "XE4=", "base64")


@pytest.mark.parametrize("text", ["not base64!", "abc", "YQ==\n"])
def test_damaged_base64_is_a_value_error(text: str):
    with pytest.raises(ValueError):
        decode_field(text, "base64")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.text(), st.none() | st.binary())))
def test_any_headers_come_back_as_they_were(headers: list[tuple[str, bytes | None]]):
    assert decode_headers(encode_headers(tuple(headers))) == tuple(headers)


TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(TEXT, min_size=2, max_size=2), max_size=8))
def test_any_text_comes_back_from_a_file(rows: list[list[str]]):
    with TemporaryDirectory() as folder:
        assert _read(_written(folder, rows))[1:] == rows


def test_a_huge_field_comes_back_from_a_file(tmp_path: Path):
    assert _read(_written(tmp_path, [[1, "x" * 5_000_000]]))[1] == ["1", "x" * 5_000_000]


def test_a_lone_surrogate_is_written_as_an_escape():
    assert format_rows([["\ud800"]]) == b"\\ud800\r\n"


# --- opening, rotating, closing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o277, 0o777])
def test_a_new_file_has_its_header_and_is_private_whatever_the_umask(tmp_path: Path, umask: int):
    old_mask = os.umask(umask)
    try:
        path = _written(tmp_path, [])
    finally:
        os.umask(old_mask)
    assert path.read_bytes() == b"offset,value\r\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_new_files_name_is_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced: list[str] = []
    fsync = os.fsync

    def watch(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    path = _written(tmp_path, [])
    assert synced[:2] == [str(path), str(tmp_path)]


def test_a_file_is_private_from_its_first_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opened: list[tuple[int, int]] = []
    real = os.open

    def watch(path: str, flags: int, mode: int = 0o777) -> int:
        descriptor = real(path, flags, mode)
        if flags & os.O_CREAT:
            opened.append((stat.S_IMODE(os.fstat(descriptor).st_mode), flags))
        return descriptor

    monkeypatch.setattr(os, "open", watch)
    old_mask = os.umask(0)
    try:
        path = _written(tmp_path, [])
    finally:
        os.umask(old_mask)
    assert path.exists()
    [(mode, flags)] = opened
    assert mode == 0o600
    assert flags & os.O_EXCL
    assert flags & os.O_NOFOLLOW
    assert flags & os.O_CLOEXEC


def test_a_child_process_gets_no_open_file(tmp_path: Path):
    file = RotatingCsv(str(tmp_path / "backup.csv"), COLUMNS)
    file.open(AT)
    assert file._descriptor is not None
    assert not os.get_inheritable(file._descriptor)
    file.close()


def test_the_name_of_a_file_whose_maker_was_killed_is_made_durable_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "backup_20261122_hour_14.csv").write_bytes(b"offset,value\r\n")
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    _written(tmp_path, [])
    assert synced[0] == str(tmp_path)


def test_the_next_hour_is_another_file(tmp_path: Path):
    file = RotatingCsv(str(tmp_path / "backup.csv"), COLUMNS)
    assert file.due(AT)
    file.open(AT)
    assert not file.due(AT)
    assert not file.due(AT.replace(minute=59, second=59))
    assert file.due(LATER)
    file.write(format_rows([[1, "a"]]))
    file.open(LATER)
    file.write(format_rows([[2, "b"]]))
    file.close()
    assert _read(tmp_path / "backup_20261122_hour_14.csv") == [["offset", "value"], ["1", "a"]]
    assert _read(tmp_path / "backup_20261122_hour_15.csv") == [["offset", "value"], ["2", "b"]]


def test_closing_twice_does_nothing(tmp_path: Path):
    file = RotatingCsv(str(tmp_path / "backup.csv"), COLUMNS)
    file.close()
    file.open(AT)
    file.close()
    file.close()
    file.sync()
    assert file.path is None


def test_only_what_was_written_since_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = RotatingCsv(str(tmp_path / "backup.csv"), COLUMNS)
    file.open(AT)
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    file.sync()
    assert synced == []
    file.write(b"1,a\r\n")
    file.sync()
    file.sync()
    assert len(synced) == 1
    file.close()


def test_a_file_that_cannot_be_synced_is_closed_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = RotatingCsv(str(tmp_path / "backup.csv"), COLUMNS)
    file.open(AT)
    descriptor = file._descriptor
    file.write(b"1,a\r\n")

    def fail(descriptor: int) -> None:
        raise OSError("EIO")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="EIO"):
        file.close()
    assert file.path is None
    assert descriptor is not None
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_sync_that_failed_is_never_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = RotatingCsv(str(tmp_path / "backup.csv"), COLUMNS)
    file.open(AT)
    file.write(b"1,a\r\n")
    calls: list[int] = []

    def fail_once(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            raise OSError("EIO")

    monkeypatch.setattr(os, "fsync", fail_once)
    with pytest.raises(OSError, match="EIO"):
        file.sync()
    # The kernel would say that all is well: it has dropped what it couldn't write.
    file.close()
    assert len(calls) == 1


def test_a_write_that_the_kernel_takes_in_pieces_is_whole(monkeypatch: pytest.MonkeyPatch):
    taken: list[bytes] = []

    def piecemeal(descriptor: int, data: memoryview) -> int:
        taken.append(bytes(data[:3]))  # as a full disk or a signal would make it
        return len(taken[-1])

    monkeypatch.setattr(os, "write", piecemeal)
    csv_files.write_all(0, b"0123456789")
    assert taken == [b"012", b"345", b"678", b"9"]


def test_a_kernel_that_takes_nothing_is_an_error_and_no_endless_loop(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "write", lambda descriptor, data: 0)
    with pytest.raises(OSError, match="takes no bytes"):
        csv_files.write_all(0, b"x")


def test_a_symlink_in_the_files_place_is_refused(tmp_path: Path):
    target = tmp_path / "precious.txt"
    target.write_text("precious")
    os.symlink(target, tmp_path / "backup_20261122_hour_14.csv")
    with pytest.raises(OSError, match=r"expected a regular file, got a symbolic link: '.*hour_14.csv'"):
        RotatingCsv(str(tmp_path / "backup.csv"), COLUMNS).open(AT)
    assert target.read_text() == "precious"


def test_something_else_than_a_file_in_its_place_is_refused(tmp_path: Path):
    fifo = tmp_path / "backup_20261122_hour_14.csv"
    os.mkfifo(fifo)
    with pytest.raises(OSError, match="expected a regular file, got something else"):
        RotatingCsv(str(tmp_path / "backup.csv"), COLUMNS).open(AT)  # doesn't wait for a reader, either


# --- what a crash leaves ----------------------------------------------------------------------------------------------

ROWS = [["1", "plain"], ["2", 'quotes ", commas , and\r\nline\nbreaks'], ["3", ""], ["4", "ünïcode \n\n"], ["5", '""\n"']]


def test_a_file_cut_at_any_byte_is_readable_again_and_loses_no_whole_row(tmp_path: Path):
    """SPEC: CSV File Integrity."""
    whole = _written(tmp_path, ROWS).read_bytes()
    ends = [len(format_rows([COLUMNS, *ROWS[:count]])) for count in range(len(ROWS) + 1)]
    for cut in range(len(whole) + 1):
        folder = tmp_path / str(cut)
        folder.mkdir()
        path = folder / "backup_20261122_hour_14.csv"
        path.write_bytes(whole[:cut])
        file = RotatingCsv(str(folder / "backup.csv"), COLUMNS)
        file.open(AT)
        file.write(format_rows([["9", "after the crash"]]))
        file.close()
        kept = sum(end <= cut for end in ends[1:])
        assert _read(path) == [list(COLUMNS), *ROWS[:kept], ["9", "after the crash"]], cut
        torn = whole[max((end for end in (0, *ends) if end <= cut), default=0) : cut]
        aside = Path(f"{path}.torn")
        assert (aside.read_bytes() if aside.exists() else b"") == torn, cut
        assert (file.torn is not None) is bool(torn), cut


def test_what_is_set_aside_is_private_and_never_overwritten(tmp_path: Path):
    """SPEC: CSV File Integrity."""
    path = tmp_path / "backup_20261122_hour_14.csv"
    for piece in (b"first torn", b"second torn"):
        path.write_bytes(b"offset,value\r\n" + piece)
        file = RotatingCsv(str(tmp_path / "backup.csv"), COLUMNS)
        file.open(AT)
        file.close()
    torn = Path(f"{path}.torn")
    assert torn.read_bytes() == b"first tornsecond torn"
    assert stat.S_IMODE(torn.stat().st_mode) == 0o600


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1 << 20])
def test_the_last_whole_row_is_found_whatever_the_size_of_a_block(tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(csv_files, "READ_SIZE", block)
    path = tmp_path / "rows.csv"
    for rows in (ROWS, [["1", "a\n" * 20]], [['"' * 9, "\n" * 9]]):
        data = format_rows(rows)
        for torn in (b"", b'7,"torn\n\n', b"\0" * 10):
            path.write_bytes(data + torn)
            with path.open("rb") as handle:
                assert csv_files._whole_rows(handle.fileno()) == len(data)


def test_an_empty_file_gets_its_header(tmp_path: Path):
    path = tmp_path / "backup_20261122_hour_14.csv"
    path.touch()
    assert _written(tmp_path, [["1", "a"]]) == path
    assert _read(path) == [["offset", "value"], ["1", "a"]]
