"""A checkpoint of safetensors files as one mapping from tensor names to arrays.

Source: transformers' sharded checkpoints: `model.safetensors.index.json` with a `weight_map`.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from .safetensors_file import map_tensors, read_header

__all__ = ["Checkpoint", "open_checkpoint"]

INDEX_SUFFIX = ".safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


class Checkpoint(Mapping[str, np.ndarray]):
    """A mapping from tensor names to arrays: views of memory-mapped files, opened when needed.

    Parameters
    ----------
    files
        The file that holds each tensor, by the tensor's name.
    """

    def __init__(self, files: dict[str, Path]) -> None:
        self._files = files
        self._open: dict[Path, dict[str, np.ndarray]] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        path = self._files[name]
        if path not in self._open:
            self._open[path] = map_tensors(path)
        if name not in self._open[path]:
            raise ValueError(f"{path}: {name} is missing, though the index names it here")
        return self._open[path][name]

    def __contains__(self, name: object) -> bool:
        return name in self._files  # Mapping's default would open the tensor's file

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    @property
    def metadata(self) -> dict[str, str]:
        """The `__metadata__` of the first file's header."""
        path = next(iter(self._files.values()), None)
        metadata = read_header(path)[0].get("__metadata__") if path else None
        return dict(metadata or {})

    def file_of(self, name: str) -> Path:
        """Return the file that holds tensor `name`."""
        return self._files[name]


def open_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint at `path`: a folder, with an index or without, or a single file.

    Where `path` names a single file that was split into several, its index is opened.

    Raises
    ------
    FileNotFoundError
        If `path` does not exist, holds no safetensors file, or a file of its index is missing.
    ValueError
        If the file is a pickle (never loaded: it could run code), the index is damaged or names a
        file outside the folder, or two files hold the same tensor.
    """
    if path.suffix in PICKLES and not path.is_dir():
        raise ValueError(f"{path}: pickles can run code and are not loaded; use safetensors")
    if path.is_dir():
        indexes = sorted(path.glob(f"*{INDEX_SUFFIX}"))
        if len(indexes) > 1:
            raise ValueError(f"{path}: holds {len(indexes)} indexes: {indexes[0].name}, ...")
        return Checkpoint(_files_by_index(indexes[0]) if indexes else _files_by_header(path))
    if path.is_file():
        return Checkpoint(dict.fromkeys(map_tensors(path), path))
    index = path.with_name(path.name + ".index.json")
    if not index.is_file():
        raise FileNotFoundError(f"{path}: no such file or folder")
    return Checkpoint(_files_by_index(index))


def _files_by_index(index: Path) -> dict[str, Path]:
    try:
        weight_map: dict[str, str] = json.loads(index.read_bytes())["weight_map"]
        files = {name: index.parent / file for name, file in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index}: no weight_map of tensor names to file names") from error
    for name, path in files.items():
        if path.parent != index.parent or path.suffix != ".safetensors":
            raise ValueError(
                f"{index}: {name} is mapped to {weight_map[name]!r}, "
                "expected a .safetensors file of the same folder"
            )
    if missing := sorted(path for path in set(files.values()) if not path.is_file()):
        raise FileNotFoundError(f"{missing[0]}: missing, though {index.name} names it")
    return files


def _files_by_header(folder: Path) -> dict[str, Path]:
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        note = f"; {', '.join(pickles)} can run code and is not loaded" if pickles else ""
        raise FileNotFoundError(f"{folder}: holds no .safetensors file{note}")
    files: dict[str, Path] = {}
    for path in paths:
        for name in map_tensors(path):
            if name in files:
                raise ValueError(f"{folder}: {name} is in {files[name].name} and {path.name}")
            files[name] = path
    return files
