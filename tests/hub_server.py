"""A hub on the loopback: the protocol that huggingface_hub speaks, and the faults that real ones have.

Two servers run, as in the real world: the hub itself, and a store for large files on another port, to which
the hub redirects with a signed address and which must never see a token.
"""

from __future__ import annotations

import re
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_content import LARGE_NAMES, Files, Repo, content
from hub_handlers import Fault, Request, StoreHandler
from hub_pages import HubHandler

if TYPE_CHECKING:
    from typing_extensions import Self


class HubServer:
    """Repositories behind two ports; a context manager.

    Attributes:
        repos: by name.
        tokens: token -> account; accounts in ``writers`` may write to their own namespace.
        requests: everything that was asked, in order.
        faults: what goes wrong next.
        sent_bytes: bodies of files, in total.
        ranges: whether a part of a file can be asked for.
        plain_info: tell names of files only, where sizes and hashes are asked for as well.
        chunk_size: parts of multipart uploads, in bytes; smaller files go in one piece.
        stored: large files that were uploaded, by hash, committed or not.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.tokens: dict[str, str] = {}
        self.writers: set[str] = set()
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.sent_bytes = 0
        self.ranges = True
        self.plain_info = False
        self.chunk_size = 1 << 20
        self.stored: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.lock = threading.Lock()
        self._servers: list[ThreadingHTTPServer] = []

    def __enter__(self) -> Self:
        for handler in (HubHandler, StoreHandler):
            server = ThreadingHTTPServer(("127.0.0.1", 0), type(handler.__name__, (handler,), {"hub": self}))
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
            self._servers.append(server)
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    @property
    def endpoint(self) -> str:
        """For HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def store(self) -> str:
        """Where large files come from."""
        return f"http://127.0.0.1:{self._servers[1].server_port}"

    def add(self, name: str, files: Files, **about: Any) -> Repo:
        """Make a repository with one commit on ``main``."""
        repo = Repo(name, **about)
        repo.commit({n: content(f, large=n.endswith(LARGE_NAMES)) for n, f in files.items()})
        self.repos[name] = repo
        return repo

    def add_folder(self, name: str, folder: Path, **about: Any) -> Repo:
        """Make a repository of a folder's files."""
        found = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
        return self.add(name, found, **about)

    def asked(self, pattern: str, method: str | None = None, server: str | None = None) -> list[Request]:
        """The requests whose path matches."""
        return [
            r
            for r in self.requests
            if re.search(pattern, r.path) and method in (None, r.method) and server in (None, r.server)
        ]
