"""The pages of the loopback hub: information, small files, redirects to large ones, uploads and commits."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

from hub_content import LARGE_NAMES, Content, Repo, content
from hub_handlers import SIGNATURE, Handler

_PAGE = 50


class HubHandler(Handler):
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
        wrong = []
        try:
            if not isinstance(yaml.safe_load(card.removeprefix("---\n").partition("\n---")[0]), dict):
                wrong.append({"message": "empty or missing yaml metadata in repo card"})
        except yaml.YAMLError as error:
            wrong.append({"message": f"invalid yaml metadata in repo card: {error}"})
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
            large = f["path"].endswith(LARGE_NAMES) or f["size"] > 10 << 20
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
