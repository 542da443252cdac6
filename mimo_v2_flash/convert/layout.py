"""Layout of prepared files: which tensor is at which byte of which file, and the files' headers."""

import json
from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

from mimo_v2_flash.checkpoint.prepared import STEM
from mimo_v2_flash.checkpoint.safetensors_file import READABLE

from .plan import OutputTensor

__all__ = ["LARGEST_FILE", "Layout", "TensorOffset", "lay_out", "shard_folder"]

LARGEST_FILE = 4_990_000_000  # of data: with its header a file stays below 5 GB


class TensorOffset(NamedTuple):
    """A tensor's file, and the offset of its first byte in it."""

    file: str
    begin: int


class Layout(NamedTuple):
    """The header and size of every file, and the TensorOffset of every tensor by shard and name."""

    headers: dict[str, bytes]
    sizes: dict[str, int]
    offsets: dict[tuple[int, str], TensorOffset]

    def weight_map(self, shard: int) -> dict[str, str]:
        """Return the `weight_map` of a shard's index: the file name of each of its tensors."""
        files = sorted((key[1], o.file) for key, o in self.offsets.items() if key[0] == shard)
        return {name: file.rpartition("/")[2] for name, file in files}


def shard_folder(shard: int, shards: int) -> str:
    """Return the name of a shard's folder; empty if there is only one shard."""
    return f"rank-{shard:05}-of-{shards:05}" if shards > 1 else ""


def lay_out(
    outputs: list[OutputTensor], metadata: dict[str, str], largest: int, shards: int = 1
) -> Layout:
    """Return the layout of `outputs` in `mimo_weights.safetensors`, or in several numbered files.

    Parameters
    ----------
    outputs
        The tensors, in the order of the files.
    metadata
        The metadata of every file's header; the shard's number is added if there are several.
    largest
        Bytes of data that a file holds at most; a larger tensor has a file of its own.
    shards
        How many shards there are, each in a folder.
    """
    layout = Layout({}, {}, {})
    for shard in range(shards):
        folder = shard_folder(shard, shards)
        shard_metadata = metadata | ({"shard": str(shard)} if shards > 1 else {})
        groups = list(_grouped([o for o in outputs if o.shard == shard], largest))
        for number, group in enumerate(groups, 1):
            split = f"-{number:05}-of-{len(groups):05}" if len(groups) > 1 else ""
            file = f"{folder}/{STEM}{split}.safetensors".removeprefix("/")
            entries, size = _entries(group)
            header = _header({"__metadata__": shard_metadata, **entries})
            layout.headers[file], layout.sizes[file] = header, len(header) + size
            for name, entry in entries.items():
                begin = len(header) + entry["data_offsets"][0]
                layout.offsets[shard, name] = TensorOffset(file, begin)
    return layout


def _entries(group: list[OutputTensor]) -> tuple[dict[str, Any], int]:
    """Return the header entries of a file's tensors, and how many bytes their data has."""
    entries, end = {}, 0
    # Widest elements first, so that each tensor is aligned to its element size.
    for output in sorted(group, key=lambda output: -READABLE[output.dtype].itemsize):
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
    return prod(output.shape) * READABLE[output.dtype].itemsize
