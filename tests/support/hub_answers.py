"""How the local hub answers one request: metadata, files, ranges, and what goes wrong."""

import json
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

REPOSITORY = "XiaomiMiMo/MiMo-V2-Flash"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PORTION = 1 << 16  # bytes that are counted, and then sent
INFO = [f"/api/models/{REPOSITORY}/revision/{name}" for name in ("main", COMMIT)]


class Range(NamedTuple):
    """Bytes of a file, `begin` to `end`."""

    file: str
    begin: int
    end: int


class Server(ThreadingHTTPServer):
    """A thread for every connection."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:
        """Keep silent: clients are killed here."""


class Handler(BaseHTTPRequestHandler):
    """One connection, kept open."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Any  # a LocalHub

    def setup(self) -> None:
        """Count the connection."""
        super().setup()
        self.hub.connections += 1

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        """Answer without a body."""
        self.do_GET()

    def do_GET(self) -> None:
        """Answer."""
        path = self.path.partition("?")[0]
        self.hub.asked.append(f"{self.command} {path}")
        self._chance = self._first_time(f"{self.command} {path} {self.headers['Range']}")
        if path.startswith("/elsewhere/"):
            self.hub.told_elsewhere.extend(self.headers.get_all("Authorization", []))
        file = self.hub.folder / path.rpartition("/")[2]
        if problem := self._problem(path, file):
            self._answer(problem[0], b"", {"X-Error-Code": problem[1], "Retry-After": 0})
        elif path in INFO:
            siblings = [{"rfilename": path.name} for path in sorted(self.hub.folder.iterdir())]
            info = {"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}
            self._answer(200, json.dumps(info).encode(), {})
        else:
            self._file(file)

    def _first_time(self, wanted: str) -> Random | None:
        """Return chance the first time that something is wanted, the same in every order."""
        with self.hub.lock:
            known = wanted in self.hub.troubled
            self.hub.troubled.add(wanted)
        return None if known else Random(f"{self.hub.manners.seed} {wanted}")

    def _problem(self, path: str, file: Path) -> tuple[int, str] | None:
        manners = self.hub.manners
        if self._chance and self._chance.random() < manners.busy:
            return self._chance.choice([(429, "Slow"), (503, "Busy")])
        shown = path.startswith("/elsewhere/") or self.headers["Authorization"]
        if manners.token and shown not in (True, f"Bearer {manners.token}"):
            return 401, "RepoNotFound"
        if f"{REPOSITORY}/" not in path and shown is not True:
            return 404, "RepoNotFound"
        if path not in INFO and "/revision/" in path:
            return 404, "RevisionNotFound"
        return None if path in INFO or file.is_file() else (404, "EntryNotFound")

    def _file(self, path: Path) -> None:
        size, manners = path.stat().st_size, self.hub.manners
        etag = f'"{size}-{path.stat().st_mtime_ns}"'
        said = {"X-Repo-Commit": COMMIT, "ETag": etag, "Accept-Ranges": "bytes"}
        if manners.elsewhere and path.suffix == ".safetensors" and "/resolve/" in self.path:
            host = self.hub.endpoint.replace("127.0.0.1", "localhost")
            return self._answer(302, b"", said | {"Location": f"{host}/elsewhere/{path.name}"})
        wanted, compressed = self.headers["Range"], "gzip" in self.headers["Accept-Encoding"]
        if not wanted or not manners.ranges or compressed:  # as content networks do
            return self._answer(200, path.read_bytes(), said)
        begin, end = (int(edge) for edge in wanted.removeprefix("bytes=").split("-"))
        end = min(end + 1, size)
        said["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
        return self._range(Range(path.name, begin, end), path.read_bytes()[begin:end], said)

    def _range(self, wanted: Range, data: bytes, said: dict[str, Any]) -> None:
        cut = self._chance is not None and self._chance.random() < self.hub.manners.cut
        sent = self._chance.randrange(len(data)) if self._chance and cut else len(data)
        self._answer(206, data[: sent // 2], said | {"Content-Length": len(data)})
        with self.hub.lock:
            self.hub.ranges += 1
            self.hub.on_range(self.hub.ranges)
        if cut:
            self._send(data[sent // 2 : sent])
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._send(data[sent // 2 : -1])
        self.hub.served.append(wanted)  # before the last byte, which lets the client go on
        self._send(data[-1:])

    def _answer(self, status: int, body: bytes, said: dict[str, Any]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": len(body)} | said).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self._send(body)

    def _send(self, data: bytes) -> None:
        for begin in range(0, len(data), PORTION):
            with self.hub.lock:
                self.hub.bytes_served += len(data[begin : begin + PORTION])
            self.wfile.write(data[begin : begin + PORTION])
