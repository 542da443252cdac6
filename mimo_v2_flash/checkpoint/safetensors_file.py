"""Safetensors files and their index: the one parser of both, and where new files have tensors.

The library's NumPy loader knows neither F8_E4M3 nor BF16 views, so this module reads the header.

Source: the safetensors format: 8 bytes of header length, little-endian, then JSON, then data; and
transformers' sharded checkpoints: `model.safetensors.index.json` with a `weight_map`.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate, pairwise
from math import prod
from operator import index
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from mimo_v2_flash.json_object import parse_json_object, shorten

__all__ = [
    "DTYPES",
    "READABLE",
    "WIDENED",
    "FileLayout",
    "Header",
    "Index",
    "TensorInfo",
    "dtype_name",
    "lay_out",
    "merge_headers",
    "parse_index",
    "read_header",
]

DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(np.uint8),  # as codes: NumPy has no 8-bit float
    "F16": np.dtype(np.float16),
}
WIDENED = {"F16": "F32"}  # nothing computes with it: it is read as what holds its values exactly
READABLE = DTYPES | {
    name: np.dtype(dtype) for name, dtype in (("I8", np.int8), ("U8", np.uint8), ("I32", np.int32))
}  # storage formats have integers too
LARGEST_HEADER = 100_000_000  # the format's limit, bytes


def dtype_name(dtype: Any) -> str:
    """Return the name that files have for a NumPy dtype; uint8 are bytes, not a float's codes."""
    names = {readable: name for name, readable in READABLE.items()}  # the last: U8
    return names[np.dtype(dtype)]


class TensorInfo(NamedTuple):
    """A stored tensor: its file, dtype and shape, and its bytes in the file, `begin` to `end`."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @classmethod
    def new(cls, dtype: str, shape: tuple[int, ...]) -> "TensorInfo":
        """Return the TensorInfo of a tensor in no file yet, from byte 0 on."""
        return cls("", dtype, shape, 0, prod(shape) * READABLE[dtype].itemsize)

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.end - self.begin

    def check_dtype(self, name: str) -> None:
        """Raise ValueError, naming file and tensor, if the dtype is not one of `READABLE`."""
        if self.dtype not in READABLE:
            raise ValueError(
                f"{self.file}: {name}: dtype is {self.dtype}, expected one of {', '.join(READABLE)}"
            )


class Header(NamedTuple):
    """The header of a safetensors file: its metadata, and the TensorInfo of each tensor."""

    where: str
    metadata: dict[str, str]
    tensors: dict[str, TensorInfo]

    def info(self, name: str) -> TensorInfo:
        """Return the TensorInfo of a tensor that an index says is in this file."""
        if name not in self.tensors:
            raise ValueError(f"{self.where}: {name} is missing, though the index names it here")
        return self.tensors[name]


class FileLayout(NamedTuple):
    """A file to write: its name, its header's bytes, the TensorInfo of each tensor, its size."""

    name: str
    header: bytes
    tensors: dict[str, TensorInfo]
    size: int


class Index(NamedTuple):
    """An index: the file name of each tensor, and the metadata."""

    weight_map: dict[str, str]
    metadata: dict[str, Any]


def read_header(
    where: str, file: str, read_range: Callable[[int, int], tuple[bytes, int]]
) -> Header:
    """Return the header of a safetensors file; nothing else of the file is read.

    Parameters
    ----------
    where
        The file in messages.
    file
        The file in TensorInfos.
    read_range
        Returns the bytes from one offset to another, as far as the file goes, and the file's size.

    Raises
    ------
    ValueError
        If it is not a safetensors file, or is truncated. If a tensor's entry is damaged, its bytes
        lie outside the file or do not fit its shape and dtype, or tensors do not lie end to end;
        the message names file and tensor.
    """
    prefix, size = read_range(0, 8)
    length = int.from_bytes(prefix, "little")
    if not 0 < length <= min(size - 8, LARGEST_HEADER):
        raise ValueError(f"{where}: header of {length} bytes in a file of {size}: truncated?")
    try:
        entries = parse_json_object(read_range(8, 8 + length)[0])
    except ValueError as error:
        raise ValueError(f"{where}: header: {error}; not a safetensors file") from error
    metadata = entries.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        raise ValueError(
            f"{where}: header: __metadata__ is {shorten(metadata)}, expected an object"
        )
    tensors = {
        name: _tensor_info(f"{where}: {name}", file, entry, 8 + length, size)
        for name, entry in entries.items()
    }
    ranges = sorted((info.begin, info.end, name) for name, info in tensors.items())
    ends = [(0, 8 + length, "header"), *ranges, (size, size, "")]
    for (_, end, name), (begin, *_) in pairwise(ends):
        if begin != end:
            raise ValueError(f"{where}: {name}: ends at byte {end}, the next begins at {begin}")
    return Header(where, metadata, tensors)


def _tensor_info(where: str, file: str, entry: Any, start: int, size: int) -> TensorInfo:
    try:
        begin, end = (start + index(offset) for offset in entry["data_offsets"])
        shape, dtype = tuple(map(index, entry["shape"])), str(entry["dtype"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{where}: header says {shorten(entry)}, expected a dtype, a shape and data_offsets"
        ) from error
    if not start <= begin <= end <= size:
        raise ValueError(f"{where}: bytes {begin} to {end} of {size}: truncated")
    fits = dtype not in READABLE or end - begin == prod(shape) * READABLE[dtype].itemsize
    if min(shape, default=0) < 0 or not fits:
        raise ValueError(f"{where}: {end - begin} bytes cannot be {dtype} {shape}")
    return TensorInfo(file, dtype, shape, begin, end)


def parse_index(where: str, text: bytes) -> Index:
    """Return the index that `text` is.

    Raises
    ------
    ValueError
        If it is damaged, or names anything but safetensors files of its folder.
    """
    try:
        content = parse_json_object(text)
        parsed = Index(dict(content["weight_map"]), dict(content.get("metadata") or {}))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{where}: no weight_map of tensors to files: {error}") from error
    for name, file in parsed.weight_map.items():
        if not isinstance(file, str) or "/" in file or not file.endswith(".safetensors"):
            raise ValueError(
                f"{where}: {name} is mapped to {file!r}, "
                "expected a .safetensors file of the same folder"
            )
    return parsed


def merge_headers(where: str, headers: Mapping[str, Header]) -> Index:
    """Return the index that files without one would have, from the header of each.

    Raises
    ------
    ValueError
        If two files hold the same tensor; the message begins with `where` and names them.
    """
    weight_map: dict[str, str] = {}
    for file, header in headers.items():
        for name in header.tensors:
            if weight_map.setdefault(name, file) != file:
                raise ValueError(f"{where}: {name} is in {weight_map[name]} and {file}")
    infos = (info for header in headers.values() for info in header.tensors.values())
    return Index(weight_map, {"total_size": sum(info.nbytes for info in infos)})


def lay_out(
    stem: str, tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str], largest: int
) -> Iterator[FileLayout]:
    """Yield the layout of the file `stem`.safetensors, or of several numbered ones.

    Parameters
    ----------
    stem
        The beginning of the files' names.
    tensors
        Dtypes and shapes, in the order of the files.
    metadata
        The metadata of every file's header.
    largest
        Bytes of data that a file holds at most; a larger tensor has a file of its own.
    """
    groups: list[dict[str, TensorInfo]] = [{}]
    size = 0
    for name, info in tensors.items():
        if groups[-1] and size + info.nbytes > largest:
            groups.append({})
            size = 0
        groups[-1][name] = info
        size += info.nbytes
    for number, group in enumerate(groups, 1):
        split = f"-{number:05}-of-{len(groups):05}" if len(groups) > 1 else ""
        yield _file_layout(f"{stem}{split}.safetensors", group, metadata)


def _file_layout(
    file: str, tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]
) -> FileLayout:
    # Widest elements first, so that each tensor is aligned to its element size.
    ordered = sorted(tensors.items(), key=lambda item: -READABLE[item[1].dtype].itemsize)
    offsets = list(accumulate((info.nbytes for _, info in ordered), initial=0))
    entries = {
        name: {"dtype": info.dtype, "shape": info.shape, "data_offsets": begin_end}
        for (name, info), begin_end in zip(ordered, pairwise(offsets), strict=True)
    }
    text = json.dumps({"__metadata__": metadata, **entries}).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    infos = {
        name: info._replace(file=file, begin=start + begin, end=start + begin + info.nbytes)
        for (name, info), begin in zip(ordered, offsets, strict=False)
    }
    return FileLayout(file, len(text).to_bytes(8, "little") + text, infos, start + offsets[-1])
