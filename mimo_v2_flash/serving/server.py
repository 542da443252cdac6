"""The HTTP server: uvicorn, which drains before it ends."""

import asyncio
import time
from types import FrameType
from typing import Any

import uvicorn

from .service import Service

__all__ = ["serve"]

POLL_SECONDS = 0.05
CLOSE_SECONDS = 5  # for connections whose answers have ended


class DrainingServer(uvicorn.Server):
    """A server that, once asked to end, lets running requests end and takes no more.

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
            return
        self._service.is_draining = True

    async def on_tick(self, counter: int) -> bool:
        """Start the task that drains, once it is wanted."""
        if self._service.is_draining and self._drain is None:
            self._drain = asyncio.create_task(self._end())
        return await super().on_tick(counter)

    async def _end(self) -> None:
        """End when the running requests have ended, or have been told that they do not."""
        deadline = time.monotonic() + self._drain_seconds
        while self._service.running and time.monotonic() < deadline:
            await asyncio.sleep(POLL_SECONDS)
        self._service.abort()
        self.should_exit = True


def serve(app: Any, service: Service, *, host: str, port: int, drain_seconds: float) -> None:
    """Serve until a signal asks to end, and the running requests have ended."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        access_log=False,
        log_level="warning",
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=CLOSE_SECONDS,
    )
    DrainingServer(config, service, drain_seconds).run()
