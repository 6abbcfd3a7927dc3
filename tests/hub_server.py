"""A hub on the loopback: the protocol that huggingface_hub speaks, and the faults that real ones have.

Two servers run, as in the real world: the hub itself, and a store for large files on another port, to which
the hub redirects with a signed address and which must never see a token.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

if TYPE_CHECKING:
    from typing_extensions import Self

SIGNATURE = "loopback-signature-of-a-download"
_CHUNK = 1 << 16
_PAGE = 50


@dataclass(frozen=True)
class Content:
    """A file's bytes: given, on the disk, or a beginning with zeros behind it."""

    size: int
    head: bytes = b""
    path: Path | None = None
    large: bool = False
    claimed_sha256: str = ""

    @cached_property
    def git_oid(self) -> str:
        """What git calls a file, or the pointer to it; a stand-in for what is too large to hash."""
        if self.large:
            return hashlib.sha1(f"pointer {self.sha256} {self.size}".encode()).hexdigest()
        return hashlib.sha1(b"blob %d\0" % self.size + self.read(0, self.size)).hexdigest()

    @cached_property
    def sha256(self) -> str:
        """The true hash, unless a false one is claimed or the file is mostly a hole."""
        if self.claimed_sha256:
            return self.claimed_sha256
        if self.path is None and self.size > len(self.head):
            return hashlib.sha256(b"sparse" + self.head + str(self.size).encode()).hexdigest()
        return hashlib.sha256(self.read(0, self.size)).hexdigest()

    def read(self, start: int, size: int) -> bytes:
        """A piece of it."""
        size = max(0, min(size, self.size - start))
        if self.path is not None:
            with self.path.open("rb") as file:
                file.seek(start)
                return file.read(size)
        return self.head[start : start + size].ljust(size, b"\0")


def content(source: bytes | str | Path | Content, *, large: bool | None = None) -> Content:
    """What a test gives as a file; weights are large ones."""
    if isinstance(source, Content):
        return source
    if isinstance(source, Path):
        return Content(source.stat().st_size, path=source, large=bool(large))
    data = source.encode() if isinstance(source, str) else source
    return Content(len(data), data, large=bool(large))


def sparse(head: bytes, size: int) -> Content:
    """A large file of which only the beginning is anything."""
    return Content(size, head, large=True)


Files = Mapping[str, "bytes | str | Path | Content"]
_LARGE_NAMES = (".safetensors", ".gguf", ".bin", ".model", ".png")


@dataclass
class Repo:
    """A repository: its commits, what its branches and tags point at, who may read it."""

    name: str
    commits: dict[str, dict[str, Content]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: str | bool = False
    private: bool = False
    readers: set[str] = field(default_factory=set)

    def commit(self, files: Mapping[str, Content], ref: str = "main") -> str:
        """A new commit of exactly these files."""
        text = "".join(f"{n}\0{c.git_oid}\0" for n, c in sorted(files.items()))
        before = self.refs.get(ref, "")
        sha = hashlib.sha1(f"{self.name}\0{before}\0{text}".encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.refs[ref] = sha
        return sha

    def find(self, revision: str) -> str | None:
        """The commit that a branch, a tag or a hash names."""
        return self.refs.get(revision) or (revision if revision in self.commits else None)

    def head(self, ref: str = "main") -> dict[str, Content]:
        """The files of a branch."""
        return self.commits[self.refs[ref]]


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
        for handler in (_HubHandler, _StoreHandler):
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
        repo.commit({n: content(f, large=n.endswith(_LARGE_NAMES)) for n, f in files.items()})
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


class _Handler(BaseHTTPRequestHandler):
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


class _HubHandler(_Handler):
    """The hub: information, small files, redirects to large ones, commits."""

    name = "hub"

    def do_GET(self) -> None:
        if self.begin() is None:
            self._route(
                (r"/api/whoami-v2", self._whoami),
                (r"/api/models/([^/]+/[^/]+)", self._info),
                (r"/api/models/([^/]+/[^/]+)/revision/([^/]+)", self._info),
                (r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", self._tree),
                (r"/api/models/([^/]+/[^/]+)/refs", self._refs),
                (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._resolve),
            )

    do_HEAD = do_GET

    def do_POST(self) -> None:
        if self.begin() is None:
            self._route(
                (r"/api/validate-yaml", self._validate_card),
                (r"/api/repos/create", self._create),
                (r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", self._preupload),
                (r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", self._batch),
                (r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", self._commit),
                (r"/lfs/verify", self._verify),
                (r"/lfs/complete/(\w+)", self._complete),
            )

    def _route(self, *routes: tuple[str, Callable[..., None]]) -> None:
        path = urlsplit(self.path).path
        for pattern, action in routes:
            found = re.fullmatch(pattern, path)
            if found:
                action(*(unquote(g) for g in found.groups()))
                return
        self.refuse(404, "no such page")

    # ---- reading

    def _token(self) -> str | None:
        kind, _, token = self.headers.get("authorization", "").partition(" ")
        return token if kind == "Bearer" else None

    def _open(self, name: str) -> Repo | None:
        """The repository, or None after an answer that says why not."""
        token = self._token()
        if token and token not in self.hub.tokens:
            self.refuse(401, "Invalid credentials in Authorization header")
            return None
        repo = self.hub.repos.get(name)
        account = self.hub.tokens.get(token or "")
        if repo is None or (repo.private and account not in repo.readers):
            self.refuse(404 if token else 401, "Repository not found", "RepoNotFound")
            return None
        return repo

    def _at(self, repo: Repo, revision: str) -> str | None:
        sha = repo.find(revision)
        if sha is None:
            self.refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha

    def _whoami(self) -> None:
        account = self.hub.tokens.get(self._token() or "")
        if account is None:
            self.refuse(401, "Invalid username or password.")
        else:
            self.answer_json({"name": account, "type": "user", "orgs": []})

    def _info(self, name: str, revision: str = "main") -> None:
        repo = self._open(name)
        sha = self._at(repo, revision) if repo else None
        if repo and sha:
            whole = "blobs" in urlsplit(self.path).query and not self.hub.plain_info
            files = [_sibling(n, c) if whole else {"rfilename": n} for n, c in repo.commits[sha].items()]
            about = {"id": name, "modelId": name, "sha": sha, "private": repo.private, "gated": repo.gated}
            self.answer_json({"_id": "0", **about, "siblings": files, "tags": [], "downloads": 0, "likes": 0})

    def _tree(self, name: str, revision: str) -> None:
        repo = self._open(name)
        sha = self._at(repo, revision) if repo else None
        if not repo or not sha:
            return
        start = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
        files = sorted(repo.commits[sha].items())
        folders = sorted({str(p) for n, _ in files for p in PurePosixPath(n).parents} - {"."})
        entries = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": p} for p in folders]
        entries += [_entry(n, c) for n, c in files]
        headers = {}
        if start + _PAGE < len(entries):
            where = f"{self.hub.endpoint}/api/models/{name}/tree/{quote(revision, safe='')}"
            headers["Link"] = f'<{where}?recursive=True&expand=False&cursor={start + _PAGE}>; rel="next"'
        self.answer_json(entries[start : start + _PAGE], headers=headers)

    def _refs(self, name: str) -> None:
        repo = self._open(name)
        if repo:
            branches = [
                {"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in repo.refs.items()
            ]
            self.answer_json({"branches": branches, "tags": [], "converts": []})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        repo = self._open(name)
        if repo is None or not self._may_read(repo):
            return
        sha = self._at(repo, revision)
        if sha is None:
            return
        file = repo.commits[sha].get(path)
        if file is None:
            self.refuse(404, "Entry not found", "EntryNotFound")
            return
        about = {"X-Repo-Commit": sha}
        if not file.large:
            self.serve(file, about | {"ETag": f'"{file.git_oid}"'})
            return
        about |= {"X-Linked-Size": str(file.size), "X-Linked-Etag": f'"{file.sha256}"'}
        where = f"{self.hub.store}/{quote(name)}/{sha}/{quote(path)}?Signature={SIGNATURE}"
        self.answer(302, b"", about | {"Location": where})

    def _may_read(self, repo: Repo) -> bool:
        token = self._token()
        account = self.hub.tokens.get(token or "")
        if not repo.gated or account in repo.readers:
            return True
        if token is None:
            self.refuse(401, f"Access to model {repo.name} is restricted. Please log in.", "GatedRepo")
        else:
            message = f"Access to model {repo.name} is restricted and you are not in the authorized list."
            self.refuse(403, message, "GatedRepo")
        return False

    # ---- writing

    def _writable(self, name: str) -> Repo | None:
        repo = self._open(name)
        account = self.hub.tokens.get(self._token() or "")
        if repo is None:
            return None
        if account not in self.hub.writers or account != name.partition("/")[0]:
            self.refuse(403, "Forbidden: you must use a write token to upload to a repository.")
            return None
        return repo

    def _validate_card(self) -> None:
        card = json.loads(self.body())["content"]
        wrong = (
            [] if card.startswith("---\n") else [{"message": "empty or missing yaml metadata in repo card"}]
        )
        self.answer_json({"errors": wrong, "warnings": []}, 400 if wrong else 200)

    def _create(self) -> None:
        asked = json.loads(self.body())
        account = self.hub.tokens.get(self._token() or "")
        if account is None:
            self.refuse(401, "Invalid username or password.")
            return
        owner = asked.get("organization") or account
        if account not in self.hub.writers or owner != account:
            self.refuse(403, f"You don't have the rights to create a model under the namespace {owner}")
            return
        name = f"{owner}/{asked['name']}"
        where = {"url": f"{self.hub.endpoint}/{name}", "name": name, "id": "0"}
        if name in self.hub.repos:
            self.answer_json({"error": "You already created this model repo", **where}, 409)
            return
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        repo = self.hub.add(name, {".gitattributes": "*.gguf filter=lfs\n"}, private=private)
        repo.readers.add(account)
        self.answer_json(where)

    def _preupload(self, name: str, revision: str) -> None:
        asked = json.loads(self.body())["files"]
        repo = self._writable(name)
        sha = self._at(repo, revision) if repo else None
        if not repo or not sha:
            return
        known = repo.commits[sha]
        files = []
        for f in asked:
            large = f["path"].endswith(_LARGE_NAMES) or f["size"] > 10 << 20
            oid = known[f["path"]].git_oid if f["path"] in known and not known[f["path"]].large else None
            if f["path"] in known and known[f["path"]].large:
                oid = known[f["path"]].sha256
            mode = "lfs" if large else "regular"
            files.append({"path": f["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer_json({"files": files})

    def _batch(self, name: str) -> None:
        asked = json.loads(self.body())
        if self._writable(name) is None:
            return
        objects = []
        for o in asked["objects"]:
            oid, size = o["oid"], o["size"]
            if oid in self.hub.stored:
                objects.append({"oid": oid, "size": size})
                continue
            verify = {"href": f"{self.hub.endpoint}/lfs/verify", "header": {}}
            if size > self.hub.chunk_size:
                n_parts = -(-size // self.hub.chunk_size)
                parts = {
                    str(i + 1): f"{self.hub.store}/upload/{oid}/{i + 1}?X-Signature={SIGNATURE}"
                    for i in range(n_parts)
                }
                header = {"chunk_size": str(self.hub.chunk_size), **parts}
                upload = {"href": f"{self.hub.endpoint}/lfs/complete/{oid}", "header": header}
            else:
                upload = {"href": f"{self.hub.store}/upload/{oid}/0?X-Signature={SIGNATURE}"}
            objects.append({"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}})
        self.answer_json({"transfer": "multipart", "objects": objects})

    def _complete(self, oid: str) -> None:
        asked = json.loads(self.body())
        data = b"".join(self.hub.parts.pop((oid, p["partNumber"])) for p in asked["parts"])
        self._keep(oid, data)

    def _keep(self, oid: str, data: bytes) -> None:
        if hashlib.sha256(data).hexdigest() != oid:
            self.refuse(400, "the parts do not have the hash that was announced")
            return
        self.hub.stored[oid] = data
        self.answer_json({"success": True})

    def _verify(self) -> None:
        asked = json.loads(self.body())
        good = len(self.hub.stored.get(asked["oid"], b"")) == asked["size"]
        self.answer_json({}, 200 if good else 404)

    def _commit(self, name: str, revision: str) -> None:
        lines = [json.loads(line) for line in self.body().splitlines() if line.strip()]
        repo = self._writable(name)
        sha = self._at(repo, revision) if repo else None
        if not repo or not sha:
            return
        files = dict(repo.commits[sha])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = content(base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.stored:
                    self.refuse(400, f"{value['path']} was not uploaded")
                    return
                files[value["path"]] = content(self.hub.stored[value["oid"]], large=True)
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        new = repo.commit(files, revision)
        where = f"{self.hub.endpoint}/{name}/commit/{new}"
        self.answer_json({"success": True, "commitOid": new, "commitUrl": where})


class _StoreHandler(_Handler):
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


def _sibling(name: str, file: Content) -> dict[str, Any]:
    about: dict[str, Any] = {"rfilename": name, "blobId": file.git_oid, "size": file.size}
    if file.large:
        about["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": 134}
    return about


def _entry(name: str, file: Content) -> dict[str, Any]:
    about: dict[str, Any] = {"type": "file", "oid": file.git_oid, "size": file.size, "path": name}
    if file.large:
        about["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 134}
    return about
