"""Tests of Journal: what was appended is read, torn and damaged lines are absent, heads refused."""

import json
import zlib
from pathlib import Path

import pytest

from mimo_v2_flash.checkpoint.source_files import FileState
from mimo_v2_flash.convert.journal import FORMAT, Journal, JournalHead, Piece

HEAD = JournalHead("ab" * 32, {"x.safetensors": FileState(1, 2, "digest")})
TASKS = {f"w {n}": [Piece("a", 8 * n, 8, 7 * n), Piece("b", n, 3, 5)] for n in range(4)}


@pytest.fixture
def journal(tmp_path) -> Journal:
    return Journal(tmp_path / "journal")


def line(content: object) -> bytes:
    text = json.dumps(content).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def test_what_was_started_and_appended_is_read(journal):
    assert journal.read() is None
    journal.start(HEAD, {})
    assert journal.read() == (HEAD, {})
    for key, pieces in TASKS.items():
        journal.append(key, pieces)
    assert Journal(journal.path).read() == (HEAD, TASKS)
    journal.start(HEAD, {"w 1": TASKS["w 1"]})
    assert journal.read() == (HEAD, {"w 1": TASKS["w 1"]})


def test_of_two_lines_of_a_task_the_last_counts(journal):
    journal.start(HEAD, TASKS)
    journal.append("w 1", TASKS["w 2"])
    assert journal.read()[1]["w 1"] == TASKS["w 2"]


@pytest.mark.parametrize(
    "damaged",
    [b"\xff\x00", b"", b"w 1", line(["w 9", []])[:-2], line(["w 9", []]).replace(b"9", b"8", 1)],
)
def test_a_damaged_line_is_absent_and_others_are_not(journal, damaged):
    journal.start(HEAD, TASKS)
    with journal.path.open("ab") as file:
        file.write(damaged + b"\n" + line(["w 5", TASKS["w 1"]]) + damaged)
    assert journal.read() == (HEAD, TASKS | {"w 5": TASKS["w 1"]})


def test_one_without_a_whole_line_was_not_begun(journal):
    for content in (b"", b"a5 {", line({"format": FORMAT})[:-1]):
        journal.path.write_bytes(content)
        assert journal.read() is None


def test_the_last_releases_is_a_digest_and_says_nothing_of_pieces(journal):
    journal.path.write_bytes(b"0" * 64 + b"\nw 1 80\nw 2 80\n")
    assert journal.read() == (JournalHead("0" * 64, {}, has_pieces=False), {})


@pytest.mark.parametrize(
    "first",
    [
        b"\xff\xfe\n",
        b"0" * 63 + b"\n",
        line({"format": "mimo-v2-flash journal, 3", "job": "", "source_files": {}}),
        line({"format": FORMAT, "job": ""}),
        line({"format": FORMAT, "job": "", "source_files": {"x": [1]}}),
        line([]),
        line(HEAD._asdict() | {"format": FORMAT}).replace(b"digest", b"gidest"),
    ],
)
def test_a_head_that_cannot_be_read_is_refused(journal, first):
    journal.path.write_bytes(first + line(["w 1", TASKS["w 1"]]))
    with pytest.raises(
        ValueError, match=rf"^{journal.path}: damaged, or of another release: .+ rem"
    ):
        journal.read()


@pytest.mark.parametrize(
    ("begin", "size", "intact"), [(0, 6, True), (2, 2, True), (4, 3, False), (6, 0, True)]
)
def test_a_piece_is_intact_if_its_bytes_are_there(tmp_path, begin, size, intact):
    path, data = Path(tmp_path / "x"), b"abcdef"
    path.write_bytes(data)
    piece = Piece("x", begin, size, zlib.crc32(data[begin : begin + size]))
    assert piece.is_intact(path) == intact
    assert not piece._replace(crc=piece.crc ^ 1).is_intact(path)
