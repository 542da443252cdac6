"""Numbers become JSON: plain types, null for what is not finite; a file is whole or the old one."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_v2_flash.cli.result import write_json

TEXT = st.text(st.characters(codec="utf-8"))
FINITE = st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | TEXT,
    lambda inside: st.lists(inside) | st.dictionaries(TEXT, inside),
)


@given(st.dictionaries(TEXT, PLAIN))
def test_what_json_has_is_read_back(tmp_path_factory, numbers):
    file = tmp_path_factory.getbasetemp() / "numbers.json"
    write_json(numbers, file)
    assert json.loads(file.read_text()) == numbers


def test_other_types_are_numbers_and_text(capsys):
    numbers = {
        "path": Path("a/b"), "float32": np.float32(0.5), "int64": np.int64(3), "bool": np.True_,
        "dtype": np.dtype(np.int8), "nan": float("nan"), "inside": [(np.float64("inf"),)], 3: 4,
    }  # fmt: skip
    write_json(numbers, None)
    assert json.loads(capsys.readouterr().out) == {
        "path": "a/b", "float32": 0.5, "int64": 3, "bool": True, "dtype": "int8", "nan": None,
        "inside": [[None]], "3": 4,
    }  # fmt: skip


def test_a_file_is_replaced_as_a_whole(tmp_path):
    file, link = tmp_path / "real.json", tmp_path / "link.json"
    file.write_text("old")
    link.symlink_to(file)
    with file.open() as reader:
        write_json({"a": 1}, link)
        assert reader.read() == "old"  # who has it open goes on reading the old one
    assert link.is_symlink()
    assert json.loads(file.read_text()) == {"a": 1}
    assert sorted(tmp_path.iterdir()) == [link, file]


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    file = tmp_path / "numbers.json"
    file.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_json({"a": 1}, file)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_what_is_no_number_is_a_fault_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json({"a": object()}, tmp_path / "numbers.json")
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_is_written_and_stays_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_json({"a": 1}, pipe)
    assert json.loads(os.read(reader, 100)) == {"a": 1}
    os.close(reader)
    assert pipe.is_fifo()
