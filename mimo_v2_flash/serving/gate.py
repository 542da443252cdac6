"""The gate before the API: who may ask, how large a body may be, and one line of log a request."""

import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any, TextIO

from .errors import APIError

__all__ = ["Gate"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

OPEN_PATHS = {"/", "/health", "/ready"}
LONGEST_ID = 128  # characters of a client's x-request-id


class Gate:
    """ASGI middleware that refuses requests, and logs all of them as lines of JSON.

    It is no `BaseHTTPMiddleware`: behind one, a client that goes away is not noticed.

    Parameters
    ----------
    app
        The application behind the gate.
    api_keys
        Keys of which a request must have one; none are needed if there are none.
    hosts
        Names that the header Host may have; any if empty. A page of another site cannot reach a
        server on loopback by giving its own name the address 127.0.0.1.
    max_body_bytes
        The largest body.
    log
        Where the lines go; prompts and answers are not in them. No log if None.
    """

    def __init__(
        self,
        app: Any,
        *,
        api_keys: Collection[str] = (),
        hosts: Collection[str] = (),
        max_body_bytes: int = 8 << 20,
        log: TextIO | None = None,
    ) -> None:
        self._app, self._hosts, self._log = app, {host.lower() for host in hosts}, log
        self._key_digests = [_digest(key.encode()) for key in api_keys]
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request with an error, or let the application answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        request_id = _request_id(headers)
        entry: dict[str, Any] = {"id": request_id, "method": scope["method"], "path": scope["path"]}
        scope.setdefault("state", {})["log"] = entry
        start = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry["status"] = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                ]
            await send(message)

        try:
            error = self._refusal(scope["path"], headers)
            if error is None:
                await self._app(scope, self._limited(receive), send_with_id)
            else:
                await _send_error(error, send_with_id)
        finally:
            entry["seconds"] = round(time.perf_counter() - start, 6)
            self._write(entry)

    def _refusal(self, path: str, headers: dict[bytes, bytes]) -> APIError | None:
        """Return why a request is refused before its body is read, if it is."""
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self._hosts and _without_port(host) not in self._hosts:
            return APIError("the header Host names another server", status=403)
        if path not in OPEN_PATHS and not self._has_key(headers):
            return APIError("a valid API key is needed", status=401, code="invalid_api_key")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self._max_body_bytes:
            return self._too_large()
        return None

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        digest = _digest(key.strip() if scheme.lower() == b"bearer" else b"")
        # All are compared: the time does not tell which key is nearly right.
        matches = [hmac.compare_digest(digest, known) for known in self._key_digests]
        return any(matches) or not self._key_digests

    def _limited(self, receive: Receive) -> Receive:
        """Return `receive`, which raises once the body is too large."""
        total = 0

        async def limited() -> Message:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > self._max_body_bytes:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> APIError:
        return APIError(f"the body is larger than {self._max_body_bytes} bytes", status=413)

    def _write(self, entry: dict[str, Any]) -> None:
        if self._log is not None:
            self._log.write(json.dumps(entry) + "\n")
            self._log.flush()


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _request_id(headers: dict[bytes, bytes]) -> str:
    """Return the client's id of a request if it is plain, or a new one."""
    text = headers.get(b"x-request-id", b"").decode("latin-1")
    is_plain = 0 < len(text) <= LONGEST_ID and text.isascii() and text.isprintable()
    return text if is_plain else uuid.uuid4().hex


def _without_port(host: str) -> str:
    """Return a host without its port; [::1]:8000 is ::1."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


async def _send_error(error: APIError, send: Send) -> None:
    body = json.dumps(error.body()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
