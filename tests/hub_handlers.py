"""How the loopback hub answers: ranges, faults, and the store of large files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from hub_content import Content

if TYPE_CHECKING:
    from hub_server import HubServer

SIGNATURE = "loopback-signature-of-a-download"
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Request:
    """What the server was asked."""

    server: str
    method: str
    path: str
    headers: Mapping[str, str]

    @property
    def token(self) -> str | None:
        """The token sent along."""
        kind, _, token = self.headers.get("authorization", "").partition(" ")
        return token if kind == "Bearer" else None


@dataclass
class Fault:
    """Something that goes wrong, a number of times.

    Attributes:
        pattern: of the request's path.
        times: how often it happens.
        status: answered instead of the file; None: it is served.
        headers: of that answer.
        cut_after: bytes of the body after which the connection breaks.
        method: only this one.
        skip: requests that go well before.
    """

    pattern: str
    times: int = 1
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    method: str | None = None
    skip: int = 0

    def hits(self, method: str, path: str) -> bool:
        """Whether it happens to this request."""
        if self.times <= 0 or (self.method and method != self.method) or not re.search(self.pattern, path):
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class Handler(BaseHTTPRequestHandler):
    """What both servers do: log, fail on request, answer."""

    hub: HubServer
    name = ""
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Silence."""

    def handle_one_request(self) -> None:
        """A client that goes away is nobody's fault."""
        try:
            super().handle_one_request()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def begin(self) -> Fault | None:
        """Note the request; the fault that hits it, if any."""
        headers = {k.lower(): v for k, v in self.headers.items()}
        with self.hub.lock:
            self.hub.requests.append(Request(self.name, self.command, self.path, headers))
            fault = next((f for f in self.hub.faults if f.hits(self.command, self.path)), None)
        self.cut_after = None if fault is None else fault.cut_after
        self.body_read = False
        if fault is not None and fault.status is not None:
            self.body()
            self.answer(fault.status, b"{}", dict(fault.headers))
            return fault
        return None

    def body(self) -> bytes:
        """The request's body; read at most once, so that the connection can go on."""
        if self.body_read:
            return b""
        self.body_read = True
        if "chunked" in self.headers.get("transfer-encoding", ""):
            return b"".join(self._chunks())
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """A short answer."""
        self.body()
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_json(self, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """A JSON answer."""
        about = {"Content-Type": "application/json", **(headers or {})}
        self.answer(status, json.dumps(value).encode(), about)

    def refuse(self, status: int, message: str, code: str = "") -> None:
        """An error as the hub words it."""
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.answer_json({"error": message}, status, headers)

    def serve(self, file: Content, headers: Mapping[str, str]) -> None:
        """A file, or the range of it that was asked for."""
        start, end = 0, file.size
        asked = self.headers.get("range", "") if self.hub.ranges else ""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", asked)
        if wanted:
            start = int(wanted[1])
            end = min(int(wanted[2]) + 1, file.size) if wanted[2] else file.size
            if start >= file.size:
                self.answer(416, b"", {"Content-Range": f"bytes */{file.size}"})
                return
        self.send_response(HTTPStatus.PARTIAL_CONTENT if wanted else HTTPStatus.OK)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - start))
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{file.size}")
        self.end_headers()
        if self.command != "HEAD":
            self._send(file, start, end)

    def _send(self, file: Content, start: int, end: int) -> None:
        limit = end if self.cut_after is None else min(end, start + self.cut_after)
        while start < limit:
            piece = file.read(start, min(_CHUNK, limit - start))
            self.wfile.write(piece)
            start += len(piece)
            with self.hub.lock:
                self.hub.sent_bytes += len(piece)
        if start < end:
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)


class StoreHandler(Handler):
    """The store of large files: no accounts, only signed addresses."""

    name = "store"

    def do_GET(self) -> None:
        if self.begin() is not None:
            return
        if SIGNATURE not in self.path or "authorization" in self.headers:
            self.answer(403, b"<Error>AccessDenied</Error>")
            return
        owner, name, sha, path = unquote(urlsplit(self.path).path).lstrip("/").split("/", 3)
        file = self.hub.repos[f"{owner}/{name}"].commits[sha][path]
        self.serve(file, {"ETag": '"of-the-store"'})

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        if self.begin() is not None:
            return
        if self.cut_after is not None:
            self.rfile.read(min(self.cut_after, int(self.headers["content-length"])))
            self.close_connection = True
            self.connection.shutdown(2)
            return
        _, oid, part = urlsplit(self.path).path.strip("/").split("/")
        data = self.body()
        if part == "0":
            self.hub.stored[oid] = data
        else:
            self.hub.parts[oid, int(part)] = data
        self.answer(200, b"", {"ETag": f'"{hashlib.md5(data).hexdigest()}"'})
