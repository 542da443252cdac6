"""Streaming writer of safetensors checkpoints: one part of a tensor is in memory at a time."""

import json
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mimo_v2_flash.checkpoint.safetensors_file import DTYPES

__all__ = ["Tensor", "write_folder"]


class Tensor(NamedTuple):
    """A tensor to write, whose `parts` are made as they are written."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    parts: Callable[[], Iterator[np.ndarray]]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return prod(self.shape) * DTYPES[self.dtype].itemsize


def write_folder(folder: Path, tensors: list[Tensor]) -> None:
    """Write a safetensors file for each layer and one for the rest, and the index."""
    folder.mkdir(parents=True)
    shards: dict[str, list[Tensor]] = {}
    for tensor in tensors:
        first, second, layer, *_ = (*tensor.name.split("."), "")
        stem = layer if (first, second) == ("model", "layers") else "rest"
        shards.setdefault(f"model_{stem}.safetensors", []).append(tensor)
    for file, members in shards.items():
        _write_file(folder / file, members)
    weight_map = {tensor.name: file for file, members in shards.items() for tensor in members}
    metadata = {"total_size": sum(tensor.nbytes for tensor in tensors)}
    index = {"metadata": metadata, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _write_file(path: Path, tensors: list[Tensor]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        begin, end = end, end + tensor.nbytes
        entry = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": (begin, end)}
        header[tensor.name] = entry
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)  # data begins where a cache line does
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            for part in tensor.parts():
                file.write(part.tobytes())
