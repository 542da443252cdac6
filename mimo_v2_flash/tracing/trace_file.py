"""Trace files: the tensors of one sequence as float32 and int32 in the safetensors format.

Metadata: `made_by`, and `config`, the model's config.json in the hub's spelling.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mimo_v2_flash import __version__
from mimo_v2_flash.atomic_file import atomic_write
from mimo_v2_flash.config import MiMoConfig
from mimo_v2_flash.json_object import parse_json_object

__all__ = ["OURS", "TraceFile", "open_trace", "write_trace"]

OURS = f"mimo_v2_flash {__version__}"


def write_trace(
    path: Path, tensors: Mapping[str, Any], config: MiMoConfig, made_by: str = OURS
) -> int:
    """Write a trace, and return the bytes of its tensors.

    Parameters
    ----------
    path
        The file; an existing one is replaced as a whole.
    tensors
        Arrays by the names of `trace_tensors.TENSORS`; integers become int32, all else float32.
    config
        Config of the traced model.
    made_by
        Name and version of the program that made the trace.

    Raises
    ------
    OSError
        If the file cannot be written, or is a device or a folder; the message names it.
    """
    if path.exists() and not path.is_file():  # the library would put a file in its place
        raise OSError(f"{path}: not a regular file")
    stored = {name: _stored(np.asarray(tensor)) for name, tensor in tensors.items()}
    metadata = {"made_by": made_by, "config": json.dumps(config.to_dict())}
    try:
        with atomic_write(path) as partial:
            save_file(stored, partial, metadata)
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error
    return sum(array.nbytes for array in stored.values())


def _stored(array: np.ndarray) -> np.ndarray:
    kind = np.int32 if np.issubdtype(array.dtype, np.integer) else np.float32
    return np.ascontiguousarray(array, kind)


class TraceFile:
    """A trace on disk, whose tensors are read on access."""

    def __init__(self, path: Path, file: Any) -> None:
        self.path, self._file = path, file
        metadata = file.metadata() or {}
        self.made_by = metadata.get("made_by", "unknown")
        try:
            self.config = parse_json_object(metadata.get("config", "{}"))
        except ValueError as error:
            raise ValueError(f"{path}: not a trace: its config is {error}") from error
        names = file.keys()
        self.shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}

    def __getitem__(self, name: str) -> np.ndarray:
        return np.asarray(self._file.get_tensor(name))

    def integers(self, name: str) -> np.ndarray:
        """Return the tensor `name`; ValueError if its dtype is no integer."""
        tensor = self[name]
        if not np.issubdtype(tensor.dtype, np.integer):
            raise ValueError(f"{self.path}: {name} is {tensor.dtype}, expected integers")
        return tensor


@contextmanager
def open_trace(path: Path) -> Iterator[TraceFile]:
    """Open the trace at `path`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not in the safetensors format, or its config is not JSON; it is named.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, "numpy") as file:
            yield TraceFile(path, file)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a trace: {error}") from error
