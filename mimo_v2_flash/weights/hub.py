"""A checkpoint on the Hugging Face hub, of which only the ranges that are needed are fetched.

huggingface_hub resolves endpoint, token and revision (`HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`) and
retries with back-off; only the ranges are asked for here.
"""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download, hf_hub_url
from huggingface_hub.utils import build_hf_headers, http_backoff

from .safetensors_file import LARGEST_HEADER
from .source import Place, places_of_header

__all__ = ["HubSource"]

INDEX = "model.safetensors.index.json"
IN_FLIGHT = 8
TRIES = 6
TIMEOUT = 30.0  # seconds without a byte
RETRIED = (408, 429, 500, 502, 503, 504)


class HubSource:
    """A repository at one commit.

    Parameters
    ----------
    repository
        Such as `XiaomiMiMo/MiMo-V2-Flash`.
    revision
        A branch, tag or commit.

    Raises
    ------
    OSError
        If the hub cannot be reached, or it has no such repository, revision or file; the message
        is one line that says what to do.
    """

    def __init__(self, repository: str, revision: str = "main") -> None:
        self.name = repository
        try:
            commit = HfApi().model_info(repository, revision=revision, timeout=TIMEOUT).sha
            self.revision = commit or revision
            self.config = Path(hf_hub_download(repository, "config.json", revision=self.revision))
            index = hf_hub_download(repository, INDEX, revision=self.revision)
        except Exception as error:  # an HTTP library's own, and which one huggingface_hub may change
            raise OSError(_explained(repository, error)) from error
        self._file_of: dict[str, str] = json.loads(Path(index).read_bytes())["weight_map"]

    def names(self) -> list[str]:
        """Return the names of all tensors."""
        return list(self._file_of)

    def places(self, names: list[str]) -> Mapping[str, Place]:
        """Return where the tensors `names` are; only headers of their files are fetched."""
        files = sorted({self._file_of[name] for name in names})
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            headers = dict(zip(files, pool.map(self._places_in, files), strict=True))
        return {name: headers[self._file_of[name]][name] for name in names}

    def read(self, file: str, begin: int, end: int) -> bytes:
        """Return the bytes of `file` from `begin` to `end`, retrying what fails on the way."""
        if begin == end:
            return b""
        for attempt in range(TRIES):
            data, _ = self._range(file, begin, end)
            if len(data) == end - begin:
                return data
            if attempt + 1 == TRIES:
                break
        raise OSError(f"{self.name}: {file}: got {len(data)} bytes of {begin} to {end}")

    def _places_in(self, file: str) -> dict[str, Place]:
        prefix, size = self._range(file, 0, 8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > min(size - 8, LARGEST_HEADER):
            raise ValueError(f"{self.name}: {file}: header of {length} bytes in a file of {size}")
        try:
            header: dict[str, Any] = json.loads(self.read(file, 8, 8 + length))
        except ValueError as error:
            raise ValueError(f"{self.name}: {file}: header is not JSON") from error
        return places_of_header(file, header, 8 + length, size)

    def _range(self, file: str, begin: int, end: int) -> tuple[bytes, int]:
        """Return the bytes that the hub gives for a range, and the size of the whole file."""
        url = hf_hub_url(self.name, file, revision=self.revision)
        headers = build_hf_headers() | {"Range": f"bytes={begin}-{end - 1}"}
        ask = partial(http_backoff, max_retries=TRIES, retry_on_status_codes=RETRIED)
        try:
            answer = ask("GET", url, headers=headers, timeout=TIMEOUT, follow_redirects=True)
            answer.raise_for_status()
        except Exception as error:  # as above
            raise OSError(_explained(f"{self.name}: {file}", error)) from error
        whole = answer.headers.get("Content-Range", "").rpartition("/")[2]
        if answer.status_code != 206 or not whole.isdigit():
            raise OSError(f"{self.name}: {file}: the hub does not serve ranges")
        return answer.content, int(whole)


def _explained(what: str, error: Exception) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    return (
        f"{what}: {said[:300]} (is the network there, and are HF_ENDPOINT and HF_TOKEN right? "
        "A checkpoint on disk needs no network: prepare_weights.py --checkpoint FOLDER)"
    )
