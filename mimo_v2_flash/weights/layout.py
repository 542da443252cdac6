"""Where each tensor of a prepared checkpoint will lie, before any of it is written."""

import json
from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

from .conversion_tasks import OutputTensor
from .safetensors_file import DTYPES

__all__ = ["STEM", "Layout", "TensorOffset", "lay_out", "shard_folder"]

STEM = "mimo_weights"


class TensorOffset(NamedTuple):
    """A tensor's file, and its first byte there."""

    file: str
    begin: int


class Layout(NamedTuple):
    """Every file's header and size, and every tensor's place, by shard and name."""

    headers: dict[str, bytes]
    sizes: dict[str, int]
    slots: dict[tuple[int, str], TensorOffset]

    def weight_map(self, shard: int) -> dict[str, str]:
        """Return the file of each of a shard's tensors, as its index has it."""
        own = sorted((name, slot.file) for (of, name), slot in self.slots.items() if of == shard)
        return {name: file.rpartition("/")[2] for name, file in own}


def shard_folder(shard: int, shards: int) -> str:
    """Return the folder of a shard; where there is one alone, it needs none."""
    return f"rank-{shard:05}-of-{shards:05}" if shards > 1 else ""


def lay_out(
    outputs: list[OutputTensor], metadata: dict[str, str], largest: int, shards: int = 1
) -> Layout:
    """Return the files of `outputs`: `mimo_weights.safetensors`, or several numbered ones.

    Parameters
    ----------
    outputs
        The tensors, in the order of the files.
    metadata
        Of every file's header, which also says the file's shard.
    largest
        Bytes of data that a file holds at most; a larger tensor has a file of its own.
    shards
        How many there are, each in a folder.
    """
    layout = Layout({}, {}, {})
    for shard in range(shards):
        folder = shard_folder(shard, shards)
        said = metadata | ({"shard": str(shard)} if shards > 1 else {})
        groups = list(_grouped([o for o in outputs if o.shard == shard], largest))
        for number, group in enumerate(groups, 1):
            split = f"-{number:05}-of-{len(groups):05}" if len(groups) > 1 else ""
            file = f"{folder}/{STEM}{split}.safetensors".removeprefix("/")
            entries, size = _entries(group)
            header = _header({"__metadata__": said, **entries})
            layout.headers[file], layout.sizes[file] = header, len(header) + size
            for name, entry in entries.items():
                begin = len(header) + entry["data_offsets"][0]
                layout.slots[shard, name] = TensorOffset(file, begin)
    return layout


def _entries(group: list[OutputTensor]) -> tuple[dict[str, Any], int]:
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


def _grouped(outputs: list[OutputTensor], largest: int) -> Iterator[list[OutputTensor]]:
    group: list[OutputTensor] = []
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


def _nbytes(output: OutputTensor) -> int:
    return prod(output.shape) * DTYPES[output.dtype].itemsize
