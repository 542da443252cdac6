"""Sources of weights: checkpoints on disk, and what a checkpoint elsewhere offers as well."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from mimo_v2_flash.io_threads import parallel_map

from .safetensors_file import (
    READABLE,
    Header,
    Index,
    TensorInfo,
    merge_headers,
    parse_index,
    read_header,
)
from .source_files import FileState, file_states

__all__ = [
    "SIDE_FILES",
    "Checkpoint",
    "FolderSource",
    "Source",
    "file_header",
    "find_index",
    "open_checkpoint",
]

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

SHARD_SUFFIX = ".safetensors"
INDEX_SUFFIX = f"{SHARD_SUFFIX}.index.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


class Source(ABC):
    """A checkpoint that is read by byte ranges; safe to read from many threads.

    A subclass reads the ranges, and says which file holds each tensor.

    Attributes
    ----------
    name
        The name of the folder or repository.
    revision
        The commit, or an empty string.
    """

    workers = 1  # threads that read headers

    def __init__(self, name: str, revision: str = "") -> None:
        self.name, self.revision = name, revision
        self._file_of: Mapping[str, str] = {}
        self._headers: dict[str, Header] = {}

    def names(self) -> list[str]:
        """Return the names of all tensors."""
        return list(self._file_of)

    def tensor_infos(self, names: list[str]) -> Mapping[str, TensorInfo]:
        """Return the TensorInfo of the tensors `names`; only headers of their files are read."""
        self._read_headers(sorted({self._file_of[name] for name in names}))
        return {name: self._headers[self._file_of[name]].info(name) for name in names}

    def read(self, file: str, begin: int, end: int) -> bytes:
        """Return the bytes of `file` from `begin` to `end`.

        Parameters
        ----------
        file : str
            Name of the file in the checkpoint.
        begin, end : int
            First byte, and the one behind the last.
        """
        if begin == end:
            return b""
        data, size = self._read_range(file, begin, end)
        if len(data) != end - begin:
            raise ValueError(f"{self._where(file)}: ends at byte {size}, expected {end}: truncated")
        return data

    @abstractmethod
    def side_files(self) -> Mapping[str, Path]:
        """Return the local paths of those `SIDE_FILES` that the checkpoint has."""

    def file_states(self) -> Mapping[str, FileState]:
        """Return the present state of its files by name; nothing if `revision` tells them apart."""
        return {}

    @abstractmethod
    def _read_range(self, file: str, begin: int, end: int) -> tuple[bytes, int]:
        """Return the bytes of a range, as far as the file goes, and the size of the file."""

    def _where(self, file: str) -> str:
        """Return a file in messages."""
        return file

    def _read_headers(self, files: list[str]) -> list[Header]:
        """Return the headers of `files`; each is read once."""
        new = [file for file in files if file not in self._headers]
        self._headers |= zip(new, parallel_map(self._header, new, self.workers), strict=True)
        return [self._headers[file] for file in files]

    def _header(self, file: str) -> Header:
        return read_header(self._where(file), file, partial(self._read_range, file))


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

    def metadata(self) -> Iterator[tuple[Path, dict[str, str]]]:
        """Yield each file and the `__metadata__` of its header, which is read when it is next."""
        for path in dict.fromkeys(self._files.values()):
            yield path, self._header(path).metadata

    def file_of(self, name: str) -> Path:
        """Return the file that holds tensor `name`."""
        return self._files[name]

    def info(self, name: str) -> TensorInfo:
        """Return the TensorInfo of tensor `name`; of its file only the header is read, once."""
        return self._header(self._files[name]).info(name)

    def tensor_infos(self, names: list[str]) -> dict[str, TensorInfo]:
        """Return the TensorInfo of the tensors `names`."""
        return {name: self.info(name) for name in names}

    def _header(self, path: Path) -> Header:
        if path not in self._headers:
            self._headers[path] = file_header(path)
        return self._headers[path]


class FolderSource(Source):
    """A checkpoint on disk, read and not memory-mapped, so that resident memory stays small."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._file_of = {name: str(file) for name, file in _find_files(path).items()}

    def side_files(self) -> Mapping[str, Path]:
        """Return the paths of those `SIDE_FILES` that exist."""
        paths = {name: Path(self.name) / name for name in SIDE_FILES}
        return {name: path for name, path in paths.items() if path.is_file()}

    def file_states(self) -> Mapping[str, FileState]:
        """Return the present state of its weights, indexes, config and side files by name."""
        folder = Path(self.name)
        others = (*folder.glob(f"*{INDEX_SUFFIX}"), *folder.glob("config.json"))
        weights = map(Path, self._file_of.values())
        return file_states([*weights, *others, *self.side_files().values()])

    def _read_range(self, file: str, begin: int, end: int) -> tuple[bytes, int]:
        return _read_range(Path(file), begin, end)


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
    return Checkpoint(_find_files(path))


def _find_files(path: Path) -> dict[str, Path]:
    """Return the file that holds each tensor of the checkpoint at `path`."""
    if path.suffix in PICKLES and not path.is_dir():
        raise ValueError(f"{path}: pickles can run code and are not loaded; use safetensors")
    if path.is_dir():
        return _find_in_folder(path, _files(path))
    if path.is_file():
        return dict.fromkeys(file_header(path).tensors, path)
    index = path.with_name(path.name + ".index.json")
    if not index.is_file():
        raise FileNotFoundError(f"{path}: no such file or folder")
    shards = [file for file in _files(path.parent) if file.endswith(SHARD_SUFFIX)]
    return _find_in_folder(path.parent, [index.name, *shards])


def find_index(
    where: str,
    files: Collection[str],
    read_index: Callable[[str], bytes],
    read_headers: Callable[[list[str]], Iterable[Header]],
    *,
    separator: str,
) -> Index:
    """Return which file holds each tensor: by the index among `files`, or by their headers.

    Parameters
    ----------
    where, separator
        The folder or repository in messages, and what stands between it and a file.
    files
        The names of its files.
    read_index, read_headers
        Return the content of an index, and the headers of safetensors files.

    Raises
    ------
    FileNotFoundError
        If there is no safetensors file, or a file of the index is missing.
    ValueError
        If there are several indexes, the index is damaged, or two files hold the same tensor.
    """
    indexes = sorted(file for file in files if file.endswith(INDEX_SUFFIX))
    if len(indexes) > 1:
        raise ValueError(f"{where}: holds {len(indexes)} indexes: {indexes[0]}, ...")
    if indexes:
        index = parse_index(f"{where}{separator}{indexes[0]}", read_index(indexes[0]))
        if missing := sorted(set(index.weight_map.values()).difference(files)):
            raise FileNotFoundError(
                f"{where}{separator}{missing[0]}: missing, though {indexes[0]} names it"
            )
        return index
    shards = sorted(file for file in files if file.endswith(SHARD_SUFFIX))
    if not shards:
        pickles = sorted(file for file in files if file.endswith(PICKLES))
        note = f"; {', '.join(pickles)} can run code and is not loaded" if pickles else ""
        raise FileNotFoundError(f"{where}: holds no .safetensors file{note}")
    return merge_headers(where, dict(zip(shards, read_headers(shards), strict=True)))


def file_header(path: Path) -> Header:
    """Return the header of the safetensors file at `path`."""
    return read_header(str(path), str(path), partial(_read_range, path))


def _read_range(path: Path, begin: int, end: int) -> tuple[bytes, int]:
    """Return the bytes of a range, as far as the file goes, and the size of the file."""
    with path.open("rb") as file:
        file.seek(begin)
        return file.read(end - begin), path.stat().st_size


def _files(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if file.is_file()]


def _find_in_folder(folder: Path, files: Collection[str]) -> dict[str, Path]:
    """Return the file that holds each tensor of the checkpoint of `files` of a folder."""
    index = find_index(
        str(folder),
        files,
        lambda file: (folder / file).read_bytes(),
        lambda shards: [file_header(folder / shard) for shard in shards],
        separator=os.sep,
    )
    return {name: folder / file for name, file in index.weight_map.items()}
