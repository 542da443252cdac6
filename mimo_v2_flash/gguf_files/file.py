"""A GGUF model on disk, in one file or in parts: its keys and memory-mapped tensors."""

import re
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["SUFFIX", "GGUFFile", "GGUFTensor", "gguf_library"]

SUFFIX = ".gguf"
PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


class GGUFTensor(NamedTuple):
    """A tensor of a file: its type's name, its logical shape, and its bytes, rows on the last axis.

    `data` is float32 or float16 where the type is, and bytes of any other.
    """

    file: Path
    type: str
    shape: tuple[int, ...]
    data: np.ndarray


class GGUFFile:
    """A GGUF model on disk.

    Parameters
    ----------
    path
        The file, or any part of a model in several.

    Raises
    ------
    FileNotFoundError
        If it or another part does not exist.
    ValueError
        If it is no GGUF file, or is damaged.
    ImportError
        If the package gguf is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.paths = _parts(path)
        self._readers = [_open(part) for part in self.paths]

    @cached_property
    def keys(self) -> dict[str, Any]:
        """The keys and values of the first part, which has all."""
        fields = self._readers[0].fields.values()
        return {field.name: field.contents() for field in fields}

    @cached_property
    def tensors(self) -> dict[str, GGUFTensor]:
        """The tensors of all parts by name."""
        return {
            tensor.name: GGUFTensor(
                path,
                tensor.tensor_type.name,
                tuple(int(length) for length in reversed(tensor.shape)),
                tensor.data,
            )
            for path, reader in zip(self.paths, self._readers, strict=True)
            for tensor in reader.tensors
        }


def gguf_library() -> Any:
    """Return the module gguf; ImportError with the command that installs it."""
    try:
        import gguf  # noqa: PLC0415  optional
    except ImportError as error:
        raise ImportError(
            'GGUF files need the package gguf: pip install "mimo-v2-flash[gguf]", or in a '
            'checkout: pip install -e ".[gguf]"'
        ) from error
    return gguf


def _open(path: Path) -> Any:
    library = gguf_library()
    try:
        return library.GGUFReader(path)
    except OSError:
        raise
    except Exception as error:  # the reader trusts a file's counts and offsets
        line = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{path}: no GGUF file, or a damaged one: {line}") from error


def _parts(path: Path) -> list[Path]:
    """Return all parts of the model that `path` is one of."""
    match = PART.fullmatch(path.name)
    count = int(match[3]) if match else 1
    names = (
        [f"{match[1]}-{i:05}-of-{count:05}{SUFFIX}" for i in range(1, count + 1)] if match else []
    )
    parts = [path.with_name(name) for name in names] or [path]
    for part in parts:
        if not part.is_file():
            raise FileNotFoundError(f"{part}: no such file")
    return parts
