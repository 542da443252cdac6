"""The HTTP server: uvicorn on a socket of its own, which drains before it ends."""

import asyncio
import os
import socket
import sys
import time
from collections.abc import Collection
from types import FrameType
from typing import TextIO

import uvicorn

from .app import create_app
from .gate import Gate
from .service import Service

__all__ = ["APIServer"]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
POLL_SECONDS = 0.05
SWITCH_SECONDS = 0.001  # that the event loop waits for the engine's thread to leave Python to it
CLOSE_SECONDS = 5  # for connections whose answers have ended


class APIServer:
    """A server of the API, which listens once it is made.

    Parameters
    ----------
    service
        What it serves.
    host, port
        The address; port 0 takes a free one. On loopback, requests must name this host.
    api_keys, max_body_bytes, log
        As for `Gate`.
    drain_seconds
        How long running answers may go on once the server is asked to end.

    Attributes
    ----------
    url
        The address that clients use.

    Raises
    ------
    OSError
        If the address cannot be listened on.
    """

    def __init__(
        self,
        service: Service,
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        api_keys: Collection[str] = (),
        max_body_bytes: int = 8 << 20,
        drain_seconds: float = 30.0,
        log: TextIO | None = None,
    ) -> None:
        self._socket = _listen(host, port)
        name = f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self._socket.getsockname()[1]}"
        hosts = {*LOOPBACK, host} if host in LOOPBACK else ()
        app = Gate(
            create_app(service),
            api_keys=api_keys,
            hosts=hosts,
            max_body_bytes=max_body_bytes,
            log=log,
        )
        config = uvicorn.Config(
            app,
            access_log=False,
            log_level="warning",
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=CLOSE_SECONDS,
        )
        self._server = _DrainingServer(config, service, drain_seconds)
        self._service = service

    def run(self) -> None:
        """Serve until a signal, or `shut_down`, and until running answers have ended."""
        before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            self._server.run(sockets=[self._socket])
        finally:
            sys.setswitchinterval(before)

    def shut_down(self) -> None:
        """Let the server drain and end; from any thread."""
        self._service.is_draining = True


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except socket.gaierror as error:
        raise OSError(error.errno, error.strerror, host) from error
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), f"{host}:{port}") from error


class _DrainingServer(uvicorn.Server):
    """A server that, once asked to end, lets running answers end and takes no more requests.

    A second signal ends it at once.
    """

    def __init__(self, config: uvicorn.Config, service: Service, drain_seconds: float) -> None:
        super().__init__(config)
        self._service, self._drain_seconds = service, drain_seconds
        self._drain: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain at the first signal; end at the second."""
        if self._service.is_draining:
            super().handle_exit(sig, frame)
        self._service.is_draining = True

    async def on_tick(self, counter: int) -> bool:
        """Start the task that drains, once it is wanted; return whether the server ends.

        A server whose engine has failed ends too: whoever watches it starts another.
        """
        if not self._service.thread.is_alive:
            self._service.is_draining = True
        if self._service.is_draining and self._drain is None:
            self._drain = asyncio.create_task(self._end())
        return await super().on_tick(counter)

    async def _end(self) -> None:
        """End when running answers have ended, or their clients are told that they do not."""
        deadline = time.monotonic() + self._drain_seconds
        while self._service.running and time.monotonic() < deadline:
            await asyncio.sleep(POLL_SECONDS)
        self._service.abort()
        self.should_exit = True
