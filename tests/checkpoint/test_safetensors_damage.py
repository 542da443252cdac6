"""Tests of damaged safetensors files: a ValueError that names the file, or the library's result."""

import json
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import safetensors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from mimo_v2_flash.checkpoint.safetensors_file import DTYPES, read_header
from mimo_v2_flash.checkpoint.source import file_header, open_checkpoint

DATA = np.arange(4, dtype=np.float32).tobytes()
SOUND = save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3).bfloat16()}, {"made": "by"})


def entry(dtype="F32", shape=(2, 2), data_offsets=(0, 16)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": data_offsets}


def packed(header, data: bytes = DATA) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def mapped(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of every tensor of a file."""
    return dict(open_checkpoint(path))


def refusal(read) -> str:
    """Return the message of the ValueError that `read` raises."""
    with pytest.raises(ValueError, match=": ") as error:
        read()
    return str(error.value)


FAULTY = {
    "empty": b"",
    "shorter than a length": b"\x02\0\0",
    "header longer than the file": (1000).to_bytes(8, "little") + b"{}",
    "length of the highest bits": b"\xff" * 8 + b"{}",
    "truncated header": SOUND[:40],
    "header of nothing": packed(b""),
    "header of no JSON": packed(b"PK\x03\x04"),
    "header of no text": packed(b'{"\xff\xfe": 1}'),
    "a tensor twice": packed(b'{"w": {"dtype": "F32"}, "w": {"dtype": "F32"}}'),
    "header too deep": packed(b"[" * 100_000),
    "header a list": packed([]),
    "header a number": packed(3),
    "header a null": packed(None),
    "metadata a number": packed({"__metadata__": 3}, b""),
    "metadata a list": packed({"__metadata__": ["format"]}, b""),
}


@pytest.mark.parametrize("content", FAULTY.values(), ids=FAULTY)
def test_what_is_no_safetensors_file_is_refused_by_name(tmp_path, content):
    with pytest.raises(ValueError, match=r"damaged\.safetensors: header"):
        mapped(written(tmp_path / "damaged.safetensors", content))


def test_a_header_longer_than_the_format_allows_is_not_read(tmp_path):
    path = written(tmp_path / "long.safetensors", (100_000_001).to_bytes(8, "little"))
    with path.open("r+b") as file:
        file.truncate(200_000_000)  # sparse
    with pytest.raises(ValueError, match=r"long\.safetensors: header of 100000001 bytes"):
        file_header(path)


WRONG = {
    "outside": entry(shape=[5], data_offsets=[0, 20]),
    "before the data": entry(data_offsets=[-16, 0]),
    "from its end": entry(data_offsets=[-16, 16]),
    "reversed": entry(data_offsets=[16, 0]),
    "too few bytes for its shape": entry(shape=[5]),
    "too many bytes for its shape": entry(shape=[3]),
    "bytes of half a number": entry(shape=[1], data_offsets=[0, 15]),
    "negative lengths": entry(shape=[-2, -2]),
    "one negative length": entry(shape=[-1, 2]),
    "fraction of a length": entry(shape=[2.0, 2]),
    "infinite length": entry(shape=[float("inf")]),
    "text for a shape": entry(shape="22"),
    "number for a shape": entry(shape=4),
    "too many axes": entry(shape=[1] * 70 + [4]),
    "nothing of too many": entry(shape=[0, 10**30], data_offsets=[0, 0]),
    "one offset": entry(data_offsets=[16]),
    "three offsets": entry(data_offsets=[0, 12, 16]),
    "fractions": entry(data_offsets=[0.5, 16.5]),
    "another dtype's bytes": entry(dtype="BF16"),
    "no shape": {"dtype": "F32", "data_offsets": [0, 16]},
    "text for offsets": entry(data_offsets=["0", "16"]),
    "unknown dtype": entry(dtype="F64", shape=[2]),
    "unsigned integers": entry(dtype="U16", shape=[8]),
    "dtype a list": entry(dtype=["F32"]),
    "no dtype": {"shape": [2, 2], "data_offsets": [0, 16]},
    "entry a list": [1, 2],
    "entry a null": None,
}


@pytest.mark.parametrize("fault", WRONG.values(), ids=WRONG)
def test_a_wrong_entry_is_refused_by_file_and_tensor(tmp_path, fault):
    with pytest.raises(ValueError, match=r"damaged\.safetensors: layers\.7\.weight: "):
        mapped(written(tmp_path / "damaged.safetensors", packed({"layers.7.weight": fault})))


NO_HEADER = {**FAULTY, **{name: packed({"w": fault}) for name, fault in WRONG.items()}}


@pytest.mark.parametrize("content", NO_HEADER.values(), ids=NO_HEADER)
def test_bytes_of_any_source_are_refused_in_the_words_of_a_file(tmp_path, content):
    """A hub's ranges and a file's: one parser, or the dtypes, which are refused when mapped."""
    path = written(tmp_path / "damaged.safetensors", content)
    of_bytes = partial(read_header, "hub: x", "x", lambda b, e: (content[b:e], len(content)))
    try:
        tensors = of_bytes().tensors
    except ValueError:
        assert refusal(of_bytes) == refusal(partial(file_header, path)).replace(str(path), "hub: x")
    else:
        assert tensors.keys() == file_header(path).tensors.keys() == {"w"}
        assert str(path) in refusal(partial(mapped, path))


@pytest.mark.parametrize("removed", [1, 6, 29])
def test_truncated_data_is_refused_by_file_and_tensor(tmp_path, removed):
    with pytest.raises(ValueError, match=r"damaged\.safetensors: [ab]: .* truncated"):
        mapped(written(tmp_path / "damaged.safetensors", SOUND[:-removed]))


@pytest.mark.parametrize(
    ("ranges", "name"),
    [
        ({"a": (0, 16), "b": (0, 16)}, "a"),
        ({"a": (0, 8), "b": (4, 16)}, "a"),
        ({"a": (0, 4), "b": (8, 16)}, "a"),
        ({"a": (0, 8), "b": (8, 12)}, "b"),
        ({"a": (4, 16)}, "header"),
    ],
)
def test_tensors_that_overlap_or_leave_bytes_over_are_refused(tmp_path, ranges, name):
    header = {
        key: entry(shape=[(end - begin) // 4], data_offsets=[begin, end])
        for key, (begin, end) in ranges.items()
    }
    with pytest.raises(ValueError, match=rf"damaged\.safetensors: {name}: ends at byte"):
        mapped(written(tmp_path / "damaged.safetensors", packed(header)))


def check_is_refused_or_right(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = written(Path(folder) / "drawn.safetensors", content)
        try:
            tensors = mapped(path)
        except ValueError as error:
            if not str(error).startswith(f"{path}: "):
                raise
            return
        by_address = sorted(tensors.values(), key=lambda array: array.ctypes.data)
        data = b"".join(array.tobytes() for array in by_address)
        assert content.endswith(data)
        assert len(content) == 8 + int.from_bytes(content[:8], "little") + len(data)
        try:
            expected = dict(safetensors.deserialize(content))
        except safetensors.SafetensorError:
            return
        assert tensors.keys() == expected.keys()
        for name, other in expected.items():
            array = tensors[name]
            assert (array.dtype, list(array.shape)) == (DTYPES[other["dtype"]], other["shape"])
            assert array.tobytes() == other["data"]


edits = st.tuples(
    st.integers(0, len(SOUND) - 30), st.integers(0, 3), st.binary(max_size=2) | st.just(b"1")
)


@settings(max_examples=500)
@given(st.lists(edits, min_size=1, max_size=3))
def test_random_damage_is_refused_or_read_rightly(drawn):
    content = SOUND
    for at, removed, put in drawn:
        content = content[:at] + put + content[at + removed :]
    check_is_refused_or_right(content)


numbers = st.integers(-2, 18) | st.integers() | st.floats() | st.booleans()
anything = st.recursive(numbers | st.none() | st.text(max_size=3), st.lists, max_leaves=4)
entries = st.builds(
    entry,
    st.sampled_from([*DTYPES, "F16"]) | anything,
    st.lists(st.integers(0, 4), max_size=3) | st.lists(numbers, max_size=3) | anything,
    st.lists(st.sampled_from([0, 4, 8, 16]), min_size=2, max_size=2).map(sorted) | anything,
)


@settings(max_examples=500)
@given(
    st.dictionaries(st.text(max_size=2) | st.just("__metadata__"), entries | anything, max_size=3)
)
def test_any_header_is_refused_or_read_rightly(header):
    check_is_refused_or_right(packed(header))
