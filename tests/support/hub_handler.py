"""The HTTP handler of the local hub: metadata, files, byte ranges, and injected faults."""

import json
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

REPOSITORY = "XiaomiMiMo/MiMo-V2-Flash"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PORTION = 1 << 16  # bytes that are counted and then sent at a time
INFO = [f"/api/models/{REPOSITORY}/revision/{name}" for name in ("main", COMMIT)]


class Range(NamedTuple):
    """A byte range of a file, `begin` to `end`."""

    file: str
    begin: int
    end: int


class Server(ThreadingHTTPServer):
    """An HTTP server with a thread per connection."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """Print nothing: tests kill clients."""


class Handler(BaseHTTPRequestHandler):
    """A handler of one keep-alive connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Any  # a LocalHub

    def setup(self) -> None:
        """Count the connection."""
        super().setup()
        self.hub.connections += 1

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        """Send the response of GET without its body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Send metadata, a file, a byte range, or an error."""
        path = self.path.partition("?")[0]
        self.hub.requests.append(f"{self.command} {path}")
        self._faults = self._fault_generator(f"{self.command} {path} {self.headers['Range']}")
        if path.startswith("/elsewhere/"):
            self.hub.leaked_tokens.extend(self.headers.get_all("Authorization", []))
        file = self.hub.folder / path.rpartition("/")[2]
        if error := self._error(path, file):
            self._respond(error[0], b"", {"X-Error-Code": error[1], "Retry-After": 0})
        elif path in INFO:
            siblings = [{"rfilename": path.name} for path in sorted(self.hub.folder.iterdir())]
            info = {"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}
            self._respond(200, json.dumps(info).encode(), {})
        else:
            self._send_file(file)

    def _fault_generator(self, request: str) -> Random | None:
        """Return a fault generator, seeded by the request alone, unless the request is a retry."""
        with self.hub.lock:
            known = request in self.hub.troubled
            self.hub.troubled.add(request)
        return None if known else Random(f"{self.hub.manners.seed} {request}")

    def _error(self, path: str, file: Path) -> tuple[int, str] | None:
        manners = self.hub.manners
        if self._faults and self._faults.random() < manners.busy:
            return self._faults.choice([(429, "Slow"), (503, "Busy")])
        authorization = path.startswith("/elsewhere/") or self.headers["Authorization"]
        if manners.token and authorization not in (True, f"Bearer {manners.token}"):
            return 401, "RepoNotFound"
        if f"{REPOSITORY}/" not in path and authorization is not True:
            return 404, "RepoNotFound"
        if path not in INFO and "/revision/" in path:
            return 404, "RevisionNotFound"
        return None if path in INFO or file.is_file() else (404, "EntryNotFound")

    def _send_file(self, path: Path) -> None:
        size, manners = path.stat().st_size, self.hub.manners
        etag = f'"{size}-{path.stat().st_mtime_ns}"'
        headers = {"X-Repo-Commit": COMMIT, "ETag": etag, "Accept-Ranges": "bytes"}
        if manners.elsewhere and path.suffix == ".safetensors" and "/resolve/" in self.path:
            host = self.hub.endpoint.replace("127.0.0.1", "localhost")
            return self._respond(302, b"", headers | {"Location": f"{host}/elsewhere/{path.name}"})
        header, compressed = self.headers["Range"], "gzip" in self.headers["Accept-Encoding"]
        if not header or not manners.ranges or compressed:  # as content delivery networks do
            return self._respond(200, path.read_bytes(), headers)
        begin, end = (int(edge) for edge in header.removeprefix("bytes=").split("-"))
        end = min(end + 1, size)
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
        return self._send_range(Range(path.name, begin, end), path.read_bytes()[begin:end], headers)

    def _send_range(self, requested: Range, data: bytes, headers: dict[str, Any]) -> None:
        cut = self._faults is not None and self._faults.random() < self.hub.manners.cut
        sent = self._faults.randrange(len(data)) if self._faults and cut else len(data)
        self._respond(206, data[: sent // 2], headers | {"Content-Length": len(data)})
        with self.hub.lock:
            self.hub.ranges += 1
            self.hub.on_range(self.hub.ranges)
        if cut:
            self._send(data[sent // 2 : sent])
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._send(data[sent // 2 : -1])
        self.hub.served.append(requested)  # before the last byte, which lets the client go on
        self._send(data[-1:])

    def _respond(self, status: int, body: bytes, headers: dict[str, Any]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": len(body)} | headers).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self._send(body)

    def _send(self, data: bytes) -> None:
        for begin in range(0, len(data), PORTION):
            with self.hub.lock:
                self.hub.bytes_served += len(data[begin : begin + PORTION])
            self.wfile.write(data[begin : begin + PORTION])
