"""Where each tensor of a prepared checkpoint will lie, before any of it is written."""

import json
from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

from .pieces import Output
from .safetensors_file import DTYPES

__all__ = ["STEM", "Layout", "Slot", "lay_out"]

STEM = "mimo_weights"


class Slot(NamedTuple):
    """A tensor's file, and its first byte there."""

    file: str
    begin: int


class Layout(NamedTuple):
    """Every file's header and size, and every tensor's place."""

    headers: dict[str, bytes]
    sizes: dict[str, int]
    slots: dict[str, Slot]


def lay_out(outputs: list[Output], metadata: dict[str, str], largest: int) -> Layout:
    """Return the files of `outputs`: `mimo_weights.safetensors`, or several numbered ones.

    Parameters
    ----------
    outputs
        The tensors, in the order of the files.
    metadata
        Of every file's header.
    largest
        Bytes of data that a file holds at most; a larger tensor has a file of its own.
    """
    layout, groups = Layout({}, {}, {}), list(_grouped(outputs, largest))
    for number, group in enumerate(groups, 1):
        split = f"-{number:05}-of-{len(groups):05}" if len(groups) > 1 else ""
        file = f"{STEM}{split}.safetensors"
        entries, size = _entries(group)
        header = _header({"__metadata__": metadata, **entries})
        layout.headers[file], layout.sizes[file] = header, len(header) + size
        for name, entry in entries.items():
            layout.slots[name] = Slot(file, len(header) + entry["data_offsets"][0])
    return layout


def _entries(group: list[Output]) -> tuple[dict[str, Any], int]:
    """Return the header's entries of a file's tensors, and the bytes of their data."""
    entries, end = {}, 0
    # Widest elements first, so that each tensor is aligned to its own.
    for output in sorted(group, key=lambda output: -DTYPES[output.dtype].itemsize):
        begin, end = end, end + _nbytes(output)
        entries[output.name] = {
            "dtype": output.dtype,
            "shape": output.shape,
            "data_offsets": (begin, end),
        }
    return entries, end


def _grouped(outputs: list[Output], largest: int) -> Iterator[list[Output]]:
    group: list[Output] = []
    size = 0
    for output in outputs:
        if group and size + _nbytes(output) > largest:
            yield group
            group, size = [], 0
        group.append(output)
        size += _nbytes(output)
    yield group


def _header(entries: dict[str, Any]) -> bytes:
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _nbytes(output: Output) -> int:
    return prod(output.shape) * DTYPES[output.dtype].itemsize
