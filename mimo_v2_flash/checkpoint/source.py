"""Sources of weights: checkpoints that are read by byte ranges of their files."""

from collections.abc import Mapping
from math import prod
from operator import index
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from .folder import open_checkpoint
from .safetensors_file import DTYPES, read_header

__all__ = ["SIDE_FILES", "FolderSource", "Source", "TensorInfo", "tensor_infos_of_header"]

SIDE_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)
"""Other files of a checkpoint that prepared ones keep: the tokenizer's, and how to sample."""


class TensorInfo(NamedTuple):
    """A stored tensor: its file, dtype and shape, and its bytes in the file, `begin` to `end`."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class Source(Protocol):
    """A checkpoint that is read by byte ranges; safe to read from many threads."""

    @property
    def name(self) -> str:
        """The name of the folder or repository."""

    @property
    def revision(self) -> str:
        """The commit, or an empty string."""

    def names(self) -> list[str]:
        """Return the names of all tensors."""

    def tensor_infos(self, names: list[str]) -> Mapping[str, TensorInfo]:
        """Return the TensorInfo of the tensors `names`; only headers of their files are read."""

    def read(self, file: str, begin: int, end: int) -> bytes:
        """Return the bytes of `file` from `begin` to `end`."""

    def side_files(self) -> Mapping[str, Path]:
        """Return the local paths of those `SIDE_FILES` that the checkpoint has."""


class FolderSource:
    """A checkpoint on disk, read and not memory-mapped, so that resident memory stays small."""

    def __init__(self, path: Path) -> None:
        self.name, self.revision = str(path), ""
        self._checkpoint = open_checkpoint(path)

    def names(self) -> list[str]:
        """Return the names of all tensors."""
        return list(self._checkpoint)

    def tensor_infos(self, names: list[str]) -> Mapping[str, TensorInfo]:
        """Return the TensorInfo of the tensors `names`."""
        file_of = {name: self._checkpoint.file_of(name) for name in names}
        headers = {path: _infos_in(path) for path in sorted(set(file_of.values()))}
        for name, path in file_of.items():
            if name not in headers[path]:
                raise ValueError(f"{path}: {name} is missing, though the index names it here")
        return {name: headers[path][name] for name, path in file_of.items()}

    def read(self, file: str, begin: int, end: int) -> bytes:
        """Return the bytes of `file` from `begin` to `end`."""
        with Path(file).open("rb") as opened:
            opened.seek(begin)
            data = opened.read(end - begin)
        if len(data) != end - begin:
            raise ValueError(f"{file}: ends at byte {begin + len(data)}, expected {end}: truncated")
        return data

    def side_files(self) -> Mapping[str, Path]:
        """Return the paths of those `SIDE_FILES` that exist."""
        paths = {name: Path(self.name) / name for name in SIDE_FILES}
        return {name: path for name, path in paths.items() if path.is_file()}


def tensor_infos_of_header(
    file: str, header: Mapping[str, Any], start: int, size: int
) -> dict[str, TensorInfo]:
    """Return the TensorInfo of every tensor in the header of `file`.

    Raises
    ------
    ValueError
        If an entry is damaged, lies outside the file's `size` bytes, or its bytes do not fit its
        shape and dtype; the message names file and tensor.
    """
    infos = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        try:
            begin, end = (start + index(offset) for offset in entry["data_offsets"])
            shape, dtype = tuple(map(index, entry["shape"])), str(entry["dtype"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file}: {name}: header says {entry!r:.100}") from error
        if not start <= begin <= end <= size:
            raise ValueError(f"{file}: {name}: bytes {begin} to {end} of {size}: truncated")
        if dtype in DTYPES and end - begin != prod(shape) * DTYPES[dtype].itemsize:
            raise ValueError(f"{file}: {name}: {end - begin} bytes cannot be {dtype} {shape}")
        infos[name] = TensorInfo(file, dtype, shape, begin, end)
    return infos


def _infos_in(path: Path) -> dict[str, TensorInfo]:
    header, start = read_header(path)
    return tensor_infos_of_header(str(path), header, start, path.stat().st_size)
