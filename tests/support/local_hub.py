"""A local Hugging Face hub for tests, with fault injection and counters of requests and bytes.

    with LocalHub(folder, Manners(cut=0.2)) as hub:
        subprocess.run([...], env=hub.environment(home))
    hub.served, hub.bytes_served

Source: huggingface_hub 2.4, `hf_api.model_info` and `file_download`.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from huggingface_hub import close_session

from mimo_v2_flash.checkpoint.hub import WAITS
from tests.support.hub_handler import COMMIT, REPOSITORY, Handler, Range, Server

__all__ = [
    "COMMIT", "REPOSITORY", "Forgetful", "LocalHub", "Manners", "Range", "never_waiting", "visited",
]  # fmt: skip

INHERITED = ("PATH", "LANG", "LD_LIBRARY_PATH", "SYSTEMROOT")


@dataclass(frozen=True)
class Manners:
    """The behaviour of a local hub.

    Attributes
    ----------
    cut, busy
        Fractions of the requests whose response breaks off, or has status 429 or 503. A request
        that failed succeeds when it is repeated.
    token
        The token that requests must have; none if empty.
    ranges
        Whether byte ranges are served; otherwise every response is the whole file.
    elsewhere
        Whether requests for weights are redirected to another host.
    seed
        Seed of the faults.
    """

    cut: float = 0.0
    busy: float = 0.0
    token: str = ""
    ranges: bool = True
    elsewhere: bool = False
    seed: int = 0


@dataclass
class LocalHub:
    """A server of one repository from a folder, until the block ends.

    Attributes
    ----------
    served
        Ranges whose every byte was sent.
    bytes_served
        Bytes of all response bodies, including those that broke off.
    requests
        Method and path of every request.
    connections
        How many connections were made.
    leaked_tokens
        Authorization headers that the other host received.
    on_range
        Callback with the number of ranges so far, called when half of a range has been sent.
    troubled
        Requests that do not fail, as they are retries.
    """

    folder: Path
    manners: Manners = Manners()
    served: list[Range] = field(default_factory=list)
    bytes_served: int = 0
    requests: list[str] = field(default_factory=list)
    connections: int = 0
    leaked_tokens: list[str] = field(default_factory=list)
    on_range: Callable[[int], Any] = id
    ranges: int = 0
    lock: Any = field(default_factory=threading.Lock)
    troubled: set[str] = field(default_factory=set)

    def __enter__(self) -> "LocalHub":
        self._server = Server(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        serve = self._server.serve_forever
        threading.Thread(target=serve, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Return the environment of a process that uses this hub, with `home` as its home."""
        kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
        endpoint = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HOME": str(home)}
        quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*", "OPENBLAS_NUM_THREADS": "1"}
        return kept | endpoint | quiet | more

    def reset(self) -> None:
        """Reset the counters."""
        self.bytes_served = self.connections = self.ranges = 0
        self.served, self.requests = [], []


class Forgetful(set[str]):
    """An always-empty set for a hub's `troubled`: a repeated request may fail again."""

    def __contains__(self, _: object) -> bool:
        return False


@contextmanager
def visited(hub: LocalHub, monkeypatch: Any, home: Path) -> Iterator[LocalHub]:
    """Start `hub`, and make this process use it as a process with its `environment` would."""
    constants = "huggingface_hub.constants"
    with hub:
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(f"{constants}.ENDPOINT", hub.endpoint)
        monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(f"{constants}.HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setattr(f"{constants}.HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setenv("NO_PROXY", "*")
        close_session()
        yield hub
        for thread in threading.enumerate():
            if "(_work)" in thread.name:  # thread of a job that failed without waiting for it
                thread.join()
        close_session()


def never_waiting(monkeypatch: Any) -> list[float]:
    """Disable waits between retries; return the list of seconds that huggingface_hub asks for."""
    wanted: list[float] = []
    sleeper = SimpleNamespace(sleep=wanted.append)
    monkeypatch.setattr("huggingface_hub.utils._http.time", sleeper)
    monkeypatch.setattr("huggingface_hub.file_download.time", sleeper)
    monkeypatch.setattr("mimo_v2_flash.checkpoint.hub.WAITS", [0] * len(WAITS))
    return wanted
