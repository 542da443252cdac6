"""A memory-mapped safetensors file: tensors are views that cost no memory until they are read.

The library's NumPy loader knows neither F8_E4M3 nor BF16 views, so this module reads the header.

Source: the safetensors format: 8 bytes of header length, little-endian, then JSON, then data.
"""

import json
import operator
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

__all__ = ["DTYPES", "map_tensors", "read_header"]

DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(np.uint8),  # as codes: NumPy has no 8-bit float
}
READABLE = DTYPES | {
    name: np.dtype(dtype) for name, dtype in (("I8", np.int8), ("U8", np.uint8), ("I32", np.int32))
}  # storage formats have integers too
LARGEST_HEADER = 100_000_000  # the format's limit, bytes


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the header of the file at `path` and the byte at which data begins.

    Raises
    ------
    ValueError
        If the file is not a safetensors file or is truncated; the message names it.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, LARGEST_HEADER):
            raise ValueError(f"{path}: header of {length} bytes in a file of {size}: truncated?")
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: header is not JSON: not a safetensors file") from error
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__") or {}, dict):
        raise ValueError(f"{path}: header is not a JSON object: not a safetensors file")
    return header, 8 + length


def map_tensors(path: Path) -> dict[str, np.ndarray]:
    """Return every tensor of the file at `path` by name, as read-only views of the file.

    Raises
    ------
    ValueError
        If a tensor lies outside the file or overlaps another, its size is not its shape's, its
        dtype is not one of `READABLE`, or a byte belongs to no tensor; the message names file and
        tensor.
    """
    header, start = read_header(path)
    header.pop("__metadata__", None)
    data = np.memmap(path, np.uint8, mode="r")[start:]
    tensors = {name: _view(path, name, entry, data) for name, entry in header.items()}
    _check_cover(path, header, len(data))
    return tensors


def _check_cover(path: Path, header: dict[str, Any], size: int) -> None:
    """Raise ValueError unless tensors lie end to end, as the format demands."""
    ranges = sorted((*entry["data_offsets"], name) for name, entry in header.items())
    for (_, end, name), (begin, *_) in pairwise([(0, 0, "header"), *ranges, (size, size, "")]):
        if begin != end:
            raise ValueError(f"{path}: {name}: ends at byte {end}, the next begins at {begin}")


def _view(path: Path, name: str, entry: Any, data: np.ndarray) -> np.ndarray:
    try:
        dtype, shape = READABLE[entry["dtype"]], tuple(map(operator.index, entry["shape"]))
        begin, end = map(operator.index, entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: {name}: header says {entry!r:.100}, expected a shape, data_offsets and a "
            f"dtype of {', '.join(READABLE)}"
        ) from error
    if not 0 <= begin <= end <= len(data):
        raise ValueError(
            f"{path}: {name}: bytes {begin} to {end} of {len(data)}: the file is truncated"
        )
    try:
        if min(shape, default=0) < 0:
            raise ValueError("a negative length, which reshape would infer")
        return data[begin:end].view(dtype).reshape(shape)
    except ValueError as error:
        raise ValueError(
            f"{path}: {name}: {end - begin} bytes cannot be {entry['dtype']} {shape}"
        ) from error
