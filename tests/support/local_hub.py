"""A hub on this machine: it answers what huggingface_hub asks, misbehaves as told, and counts.

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

from mimo_v2_flash.weights.hub import WAITS
from tests.support.hub_answers import COMMIT, REPOSITORY, Handler, Range, Server

__all__ = [
    "COMMIT", "REPOSITORY", "Forgetful", "LocalHub", "Manners", "Range", "never_waiting", "visited",
]  # fmt: skip

INHERITED = ("PATH", "LANG", "LD_LIBRARY_PATH", "SYSTEMROOT")


@dataclass(frozen=True)
class Manners:
    """How a hub behaves.

    Attributes
    ----------
    cut, busy
        Shares of the requests whose answer breaks off, or is 429 or 503. What was refused or cut
        is served when it is asked for again.
    token
        To be shown, if not empty.
    ranges
        Whether ranges are served: else every answer is the whole file.
    elsewhere
        Whether weights lie on another host, to which their requests are redirected.
    seed
        Of the faults.
    """

    cut: float = 0.0
    busy: float = 0.0
    token: str = ""
    ranges: bool = True
    elsewhere: bool = False
    seed: int = 0


@dataclass
class LocalHub:
    """A repository, served from a folder until the block ends.

    Attributes
    ----------
    served
        Ranges of which every byte was sent.
    bytes_served
        Of all answers' bodies, those that broke off included.
    asked
        Method and path of every request.
    connections
        How many were made.
    told_elsewhere
        Tokens that the other host was shown.
    on_range
        Called when a range is half sent, with the number of ranges so far.
    """

    folder: Path
    manners: Manners = Manners()
    served: list[Range] = field(default_factory=list)
    bytes_served: int = 0
    asked: list[str] = field(default_factory=list)
    connections: int = 0
    told_elsewhere: list[str] = field(default_factory=list)
    on_range: Callable[[int], Any] = id
    ranges: int = 0
    lock: Any = field(default_factory=threading.Lock)
    troubled: set[str] = field(default_factory=set)

    def __enter__(self) -> "LocalHub":
        self._server = Server(("127.0.0.1", 0), type("Own", (Handler,), {"hub": self}))
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        serve = self._server.serve_forever
        threading.Thread(target=serve, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """Return the environment of a process that uses this hub and nothing of its user's."""
        kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
        own = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HOME": str(home)}
        quiet = {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*", "OPENBLAS_NUM_THREADS": "1"}
        return kept | own | quiet | more

    def reset(self) -> None:
        """Count from now on."""
        self.bytes_served = self.connections = self.ranges = 0
        self.served, self.asked = [], []


class Forgetful(set[str]):
    """Of a hub's `troubled`: what it refused once it refuses again."""

    def __contains__(self, _: object) -> bool:
        return False


@contextmanager
def visited(hub: LocalHub, monkeypatch: Any, home: Path) -> Iterator[LocalHub]:
    """Start `hub`, and let this process use it as another would in its `environment`."""
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
            if "(_work)" in thread.name:  # of a job that failed, and did not wait for it
                thread.join()
        close_session()


def never_waiting(monkeypatch: Any) -> list[float]:
    """Let nobody wait between tries; return the seconds that huggingface_hub wanted to."""
    wanted: list[float] = []
    sleeper = SimpleNamespace(sleep=wanted.append)
    monkeypatch.setattr("huggingface_hub.utils._http.time", sleeper)
    monkeypatch.setattr("huggingface_hub.file_download.time", sleeper)
    monkeypatch.setattr("mimo_v2_flash.weights.hub.WAITS", [0] * len(WAITS))
    return wanted
