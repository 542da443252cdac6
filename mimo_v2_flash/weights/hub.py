"""A checkpoint on the Hugging Face hub, of which only the ranges that are needed are fetched.

huggingface_hub resolves endpoint, token and revision (`HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`), keeps
connections open and waits as long as a busy hub asks; only the ranges are asked for here.
"""

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, hf_hub_download, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

from .io_threads import parallel_map
from .safetensors_file import LARGEST_HEADER
from .source import SIDE_FILES, TensorInfo, tensor_infos_of_header

__all__ = ["IN_FLIGHT", "HubSource"]

INDEX = "model.safetensors.index.json"
IN_FLIGHT = 8
WAITS = (1, 2, 4, 8, 8)  # seconds, between one try and the next
TIMEOUT = 30.0  # seconds without a byte
BUSY = (408, 429, 500, 502, 503, 504)

Answer = TypeVar("Answer")


class HubSource:
    """A repository at one commit.

    Parameters
    ----------
    repository
        Such as `XiaomiMiMo/MiMo-V2-Flash`.
    revision
        A branch, tag or commit.

    Attributes
    ----------
    name, revision
        The repository and the commit.
    config
        Its config.json, fetched.
    total_size
        Bytes of all its tensors, as its index says; 0 if that does not.

    Raises
    ------
    OSError
        If the hub cannot be reached, or it has no such repository, revision or file; the message
        is one line that says what to do.
    ValueError
        If the index is damaged, or names files that are no safetensors files of the repository.
    """

    def __init__(self, repository: str, revision: str = "main") -> None:
        self.name = repository
        try:
            ask = partial(HfApi().model_info, repository, revision=revision, timeout=TIMEOUT)
            info = _retried(ask, _is_busy)
            self.revision: str = info.sha or revision
            self._files = {file.rfilename for file in info.siblings or ()}
            self.config, index = map(self._fetched, ("config.json", INDEX))
        except Exception as error:  # an HTTP library's own, whichever huggingface_hub takes
            raise OSError(_explained(repository, error)) from error
        self._file_of, self.total_size = _read_index(f"{repository}: {INDEX}", index)

    def names(self) -> list[str]:
        """Return the names of all tensors."""
        return list(self._file_of)

    def tensor_infos(self, names: list[str]) -> Mapping[str, TensorInfo]:
        """Return where the tensors `names` are; only headers of their files are fetched."""
        files = sorted({self._file_of[name] for name in names})
        there = dict(zip(files, parallel_map(self._infos_in, files, IN_FLIGHT), strict=True))
        for name in names:
            if name not in there[self._file_of[name]]:
                where = f"{self.name}: {self._file_of[name]}"
                raise ValueError(f"{where}: {name} is missing, though the index names it here")
        return {name: there[self._file_of[name]][name] for name in names}

    def read(self, file: str, begin: int, end: int) -> bytes:
        """Return the bytes of `file` from `begin` to `end`, retrying what fails on the way."""
        if begin == end:
            return b""
        data, size = self._range(file, begin, end)
        if len(data) != end - begin:
            raise ValueError(f"{self.name}: {file}: ends at byte {size}, expected {end}: truncated")
        return data

    def side_files(self) -> Mapping[str, Path]:
        """Return those of the files `SIDE_FILES` that the repository has, fetched."""
        return {name: self._fetched(name) for name in SIDE_FILES if name in self._files}

    def _fetched(self, file: str) -> Path:
        fetch = partial(hf_hub_download, self.name, file, revision=self.revision)
        return Path(_retried(fetch, _is_busy))

    def _infos_in(self, file: str) -> dict[str, TensorInfo]:
        prefix, size = self._range(file, 0, 8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > min(size - 8, LARGEST_HEADER):
            raise ValueError(f"{self.name}: {file}: header of {length} bytes in a file of {size}")
        try:
            header = json.loads(self.read(file, 8, 8 + length))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.name}: {file}: header is not JSON") from error
        if not isinstance(header, dict):
            raise ValueError(f"{self.name}: {file}: header is not a JSON object")
        return tensor_infos_of_header(file, header, 8 + length, size)

    def _range(self, file: str, begin: int, end: int) -> tuple[bytes, int]:
        """Return the bytes that the hub has of a range, and the size of the whole file."""
        try:
            return _retried(partial(self._try_range, file, begin, end), _broke_on_the_way)
        except Exception as error:  # as above
            raise OSError(_explained(f"{self.name}: {file}", error)) from error

    def _try_range(self, file: str, begin: int, end: int) -> tuple[bytes, int]:
        with http_stream_backoff(
            "GET",
            hf_hub_url(self.name, file, revision=self.revision),
            # Compressed, the file would be another, and some servers then ignore the range.
            headers=build_hf_headers()
            | {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"},
            timeout=TIMEOUT,
            follow_redirects=True,
            max_retries=len(WAITS),
            retry_on_exceptions=(),
            retry_on_status_codes=BUSY,
        ) as answer:
            hf_raise_for_status(answer)
            served, _, size = answer.headers.get("Content-Range", "").partition("/")
            if answer.status_code != 206 or not size.isdigit():
                raise OSError("it does not serve ranges of files")  # not one byte of it is read
            end = min(end, int(size))
            data = answer.read()
        if served != f"bytes {begin}-{end - 1}" or len(data) != end - begin:
            raise EOFError(f"{len(data)} bytes of {served!r} came, expected {begin} to {end}")
        return data, int(size)


def _retried(ask: Callable[[], Answer], again: Callable[[Exception], bool]) -> Answer:
    for wait in WAITS:
        try:
            return ask()
        except Exception as error:
            if not again(error):
                raise
        time.sleep(wait)
    return ask()


def _is_busy(error: Exception) -> bool:
    """Whether the hub said so; huggingface_hub retries connections, but not every busy answer."""
    return isinstance(error, HfHubHTTPError) and error.response.status_code in BUSY


def _broke_on_the_way(error: Exception) -> bool:
    """Whether a connection broke; what is an OSError here, the hub refused."""
    return not isinstance(error, OSError)


def _read_index(where: str, path: Path) -> tuple[dict[str, str], int]:
    """Return every tensor's file, and the bytes of all tensors."""
    try:
        index: dict[str, Any] = json.loads(path.read_bytes())
        file_of = dict(index["weight_map"])
        total_size = int(index.get("metadata", {}).get("total_size", 0))
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: no weight_map of tensor names to file names") from error
    for name, file in file_of.items():
        if not isinstance(file, str) or "/" in file or not file.endswith(".safetensors"):
            raise ValueError(
                f"{where}: {name} is said to be in {file!r}, expected a .safetensors file beside it"
            )
    return file_of, total_size


def _explained(what: str, error: Exception) -> str:
    said = (" ".join(str(error).split()) or type(error).__name__)[:500]
    if isinstance(error, HfHubHTTPError):
        return f"{what}: {said} (are the name, --revision and HF_TOKEN right?)"
    return (
        f"{what}: the hub cannot be used: {said} (is the network there, and is HF_ENDPOINT right? "
        "A checkpoint on disk needs no network: prepare_weights.py --checkpoint FOLDER)"
    )
