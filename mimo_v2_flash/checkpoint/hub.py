"""A checkpoint on the Hugging Face hub, read with HTTP range requests.

huggingface_hub resolves endpoint, token and revision (`HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`), keeps
connections open and waits as long as a busy hub asks; this module adds the range requests.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi, hf_hub_download, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

from .source import SIDE_FILES, Source, find_index

__all__ = ["IN_FLIGHT", "HubSource"]

IN_FLIGHT = 8  # concurrent requests
WAITS = (1, 2, 4, 8, 8)  # seconds between retries
TIMEOUT = 30.0  # seconds without a byte
BUSY = (408, 429, 500, 502, 503, 504)  # HTTP status codes to retry

Response = TypeVar("Response")


class HubSource(Source):
    """A checkpoint in a repository of the hub, at one commit.

    Parameters
    ----------
    repository
        The id, such as `XiaomiMiMo/MiMo-V2-Flash`.
    revision
        A branch, tag or commit.

    Attributes
    ----------
    name, revision
        The repository and the commit.
    config
        The path of its config.json, downloaded.
    total_size
        Bytes of all its tensors according to its index, or to the headers of its files where it
        has no index; 0 if the index has no number.

    Raises
    ------
    OSError
        If the hub cannot be reached, or has no such repository, revision or file; the message is
        one line that says what to do.
    ValueError
        If the index is damaged, or names files that are no safetensors files; if there is none and
        files are damaged, or two of them hold the same tensor.
    """

    workers = IN_FLIGHT

    def __init__(self, repository: str, revision: str = "main") -> None:
        super().__init__(repository)
        try:
            request = partial(HfApi().model_info, repository, revision=revision, timeout=TIMEOUT)
            info = _retry(request, _is_busy)
            self.revision = info.sha or revision
            self._files = {file.rfilename for file in info.siblings or ()}
            self.config = self._download("config.json")
        except Exception as error:  # of whichever HTTP library huggingface_hub uses
            raise OSError(_error_message(repository, error)) from error
        files = [file for file in self._files if "/" not in file]
        index = find_index(repository, files, self._content, self._read_headers, separator=": ")
        self._file_of, size = index.weight_map, index.metadata.get("total_size")
        self.total_size = size if isinstance(size, int) else 0

    def side_files(self) -> Mapping[str, Path]:
        """Return the paths of those `SIDE_FILES` that the repository has, downloaded."""
        return {name: self._download(name) for name in SIDE_FILES if name in self._files}

    def _download(self, file: str) -> Path:
        request = partial(hf_hub_download, self.name, file, revision=self.revision)
        return Path(_retry(request, _is_busy))

    def _content(self, file: str) -> bytes:
        """Return the content of a small file, downloaded."""
        try:
            return self._download(file).read_bytes()
        except Exception as error:  # as above
            raise OSError(_error_message(self._where(file), error)) from error

    def _where(self, file: str) -> str:
        return f"{self.name}: {file}"

    def _read_range(self, file: str, begin: int, end: int) -> tuple[bytes, int]:
        """Return bytes and the file's size; a broken connection is retried."""
        try:
            return _retry(partial(self._try_range, file, begin, end), _is_broken_connection)
        except Exception as error:  # as above
            raise OSError(_error_message(self._where(file), error)) from error

    def _try_range(self, file: str, begin: int, end: int) -> tuple[bytes, int]:
        with http_stream_backoff(
            "GET",
            hf_hub_url(self.name, file, revision=self.revision),
            # A compressed response has other bytes, and some servers then ignore the range.
            headers=build_hf_headers()
            | {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"},
            timeout=TIMEOUT,
            follow_redirects=True,
            max_retries=len(WAITS),
            retry_on_exceptions=(),
            retry_on_status_codes=BUSY,
        ) as response:
            hf_raise_for_status(response)
            served, _, size = response.headers.get("Content-Range", "").partition("/")
            if response.status_code != 206 or not size.isdigit():
                raise OSError("it does not serve ranges of files")  # before the body is read
            end = min(end, int(size))
            data = response.read()
        if served != f"bytes {begin}-{end - 1}" or len(data) != end - begin:
            raise EOFError(f"received {len(data)} bytes of {served!r}, expected {begin} to {end}")
        return data, int(size)


def _retry(request: Callable[[], Response], retries: Callable[[Exception], bool]) -> Response:
    for wait in WAITS:
        try:
            return request()
        except Exception as error:
            if not retries(error):
                raise
        time.sleep(wait)
    return request()


def _is_busy(error: Exception) -> bool:
    """Return whether the hub is busy; huggingface_hub retries only some of these statuses."""
    return isinstance(error, HfHubHTTPError) and error.response.status_code in BUSY


def _is_broken_connection(error: Exception) -> bool:
    """Return whether a connection broke; an OSError of `_try_range` is a refusal by the hub."""
    return not isinstance(error, OSError)


def _error_message(subject: str, error: Exception) -> str:
    detail = (" ".join(str(error).split()) or type(error).__name__)[:500]
    if isinstance(error, HfHubHTTPError):
        return f"{subject}: {detail} (are the name, --revision and HF_TOKEN right?)"
    if getattr(error, "filename", None):  # of this machine's files, not of a connection
        return f"{subject}: {detail} (downloads are kept in HF_HOME: can it be written?)"
    return (
        f"{subject}: the hub cannot be used: {detail} (is the network there, and is HF_ENDPOINT "
        "right? A checkpoint on disk needs no network: prepare_weights.py --checkpoint FOLDER)"
    )
