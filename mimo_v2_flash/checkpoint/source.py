"""Sources of weights: checkpoints on disk, and what a checkpoint elsewhere offers as well."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from .safetensors_file import READABLE, Header, TensorInfo, parse_index, read_header
from .source_files import FileState, file_states

__all__ = ["SIDE_FILES", "Checkpoint", "FolderSource", "Source", "file_header", "open_checkpoint"]

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

INDEX_SUFFIX = ".safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


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

    def file_states(self) -> Mapping[str, FileState]:
        """Return the present state of its files by name; nothing if `revision` tells them apart."""


class Checkpoint(Mapping[str, np.ndarray]):
    """A mapping from tensor names to arrays: views of memory-mapped files, opened when needed.

    Parameters
    ----------
    files
        The file that holds each tensor, by the tensor's name.
    """

    def __init__(self, files: dict[str, Path]) -> None:
        self._files = files
        self._headers: dict[Path, Header] = {}
        self._maps: dict[Path, np.ndarray] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        path, info = self._files[name], self.info(name)
        info.check_dtype(name)
        if path not in self._maps:
            self._maps[path] = np.asarray(np.memmap(path, np.uint8, mode="r"))
        data = self._maps[path][info.begin : info.end]
        try:
            return data.view(READABLE[info.dtype]).reshape(info.shape)
        except ValueError as error:  # more axes than NumPy has
            raise ValueError(f"{path}: {name}: {error}") from error

    def __contains__(self, name: object) -> bool:
        return name in self._files  # Mapping's default would open the tensor's file

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    @property
    def files(self) -> list[Path]:
        """Its files, the first tensor's first."""
        return list(dict.fromkeys(self._files.values()))

    def metadata(self) -> Iterator[tuple[Path, dict[str, str]]]:
        """Yield each file and the `__metadata__` of its header, which is read when it is next."""
        for path in self.files:
            yield path, self._header(path).metadata

    def file_of(self, name: str) -> Path:
        """Return the file that holds tensor `name`."""
        return self._files[name]

    def info(self, name: str) -> TensorInfo:
        """Return the TensorInfo of tensor `name`; of its file only the header is read, once."""
        return self._header(self._files[name]).info(name)

    def _header(self, path: Path) -> Header:
        if path not in self._headers:
            self._headers[path] = file_header(path)
        return self._headers[path]


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
        return {name: self._checkpoint.info(name) for name in names}

    def read(self, file: str, begin: int, end: int) -> bytes:
        """Return the bytes of `file` from `begin` to `end`."""
        data, size = _read_range(Path(file), begin, end)
        if len(data) != end - begin:
            raise ValueError(f"{file}: ends at byte {size}, expected {end}: truncated")
        return data

    def side_files(self) -> Mapping[str, Path]:
        """Return the paths of those `SIDE_FILES` that exist."""
        paths = {name: Path(self.name) / name for name in SIDE_FILES}
        return {name: path for name, path in paths.items() if path.is_file()}

    def file_states(self) -> Mapping[str, FileState]:
        """Return the present state of its weights, indexes, config and side files by name."""
        folder = Path(self.name)
        others = (*folder.glob(f"*{INDEX_SUFFIX}"), *folder.glob("config.json"))
        return file_states([*self._checkpoint.files, *others, *self.side_files().values()])


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
        return Checkpoint(dict.fromkeys(file_header(path).tensors, path))
    index = path.with_name(path.name + ".index.json")
    if not index.is_file():
        raise FileNotFoundError(f"{path}: no such file or folder")
    return Checkpoint(_files_by_index(index))


def file_header(path: Path) -> Header:
    """Return the header of the safetensors file at `path`."""
    return read_header(str(path), str(path), partial(_read_range, path))


def _read_range(path: Path, begin: int, end: int) -> tuple[bytes, int]:
    """Return the bytes of a range, as far as the file goes, and the size of the file."""
    with path.open("rb") as file:
        file.seek(begin)
        return file.read(end - begin), path.stat().st_size


def _files_by_index(index: Path) -> dict[str, Path]:
    weight_map = parse_index(str(index), index.read_bytes()).weight_map
    paths = {file: index.parent / file for file in sorted(set(weight_map.values()))}
    if missing := [path for path in paths.values() if not path.is_file()]:
        raise FileNotFoundError(f"{missing[0]}: missing, though {index.name} names it")
    return {name: paths[file] for name, file in weight_map.items()}


def _files_by_header(folder: Path) -> dict[str, Path]:
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        note = f"; {', '.join(pickles)} can run code and is not loaded" if pickles else ""
        raise FileNotFoundError(f"{folder}: holds no .safetensors file{note}")
    files: dict[str, Path] = {}
    for path in paths:
        for name in file_header(path).tensors:
            if name in files:
                raise ValueError(f"{folder}: {name} is in {files[name].name} and {path.name}")
            files[name] = path
    return files
