"""The hub as we read it: what a repository holds, and pieces of its files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mqnative.source.argument import HubModel
from mqnative.source.hub_errors import (
    Asked,
    offline_error,
    patiently,
    status_error,
)
from mqnative.source.hub_library import (
    hub_library,
    offline_by_environment,
    session,
    user_agent,
)
from mqnative.source.listing import ListedFile

_GOOD, _BEYOND = (200, 206), 416
_TIMEOUT_S = 20.0
_PIECE = 1 << 16


@dataclass(frozen=True)
class Access:
    """How the hub is reached.

    Attributes:
        token: None: what the environment or a login says.
        offline: no socket is opened.
    """

    token: str | None = field(default=None, repr=False)
    offline: bool = False


@dataclass(frozen=True)
class Repository:
    """A repository at one commit.

    Attributes:
        model: as it was asked for.
        commit: what the revision stands for.
        files: all of them.
        gated, private: as the hub says.
    """

    model: HubModel
    commit: str
    files: tuple[ListedFile, ...]
    gated: bool = False
    private: bool = False


@dataclass(frozen=True)
class Answer:
    """The beginning of an HTTP answer, and its body piece by piece."""

    status: int
    headers: Mapping[str, str]
    pieces: Iterator[bytes]


class Hub:
    """Reads one hub: the one of HF_ENDPOINT, or the public one.

    Args:
        access: token and whether there is a network.
    """

    def __init__(self, access: Access | None = None) -> None:
        access = access or Access()
        self._token = access.token
        self.offline = access.offline or offline_by_environment()

    @property
    def cache_dir(self) -> Path:
        """The library's own cache, which every program on this machine shares."""
        hub_library()
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE).expanduser()

    def token(self) -> str | None:
        """The token that is sent, if any."""
        if self._token is not None:
            return self._token
        hub_library()
        from huggingface_hub import constants, get_token

        return None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()

    def asked(self, model: HubModel, file: str | None = None) -> Asked:
        """What messages are about."""
        return Asked(model.repo, model.revision, file, self.token() is not None)

    def api(self) -> Any:
        """The library's own face of the hub, with our token."""
        token: str | bool = self.token() or False
        return hub_library().HfApi(token=token, library_name="mqnative", user_agent=user_agent())

    def repository(self, model: HubModel) -> Repository:
        """What a repository holds, by one small request.

        Raises:
            HubError: it is not there, or not for us; or we are offline.
        """
        asked = self.asked(model)
        if self.offline:
            raise offline_error(asked)
        api = self.api()
        about = {"revision": model.revision, "timeout": _TIMEOUT_S, "files_metadata": True}
        info = patiently(asked, lambda: api.model_info(model.repo, **about))
        if not re.fullmatch(r"[A-Za-z0-9]+", info.sha or ""):
            raise asked.error(f"{model.repo}: the server names no commit; is this a hub?", "protocol")
        files = self._files(model, info.sha, info.siblings or ())
        for file in files:
            if any(part in ("", ".", "..") for part in file.name.split("/")) or "\\" in file.name:
                raise asked.error(f"{model.repo} names a file {file.name!r}, outside its folder", "protocol")
        return Repository(model, info.sha, files, bool(info.gated), bool(info.private))

    def _files(self, model: HubModel, commit: str, siblings: Sequence[Any]) -> tuple[ListedFile, ...]:
        if all(s.size is not None for s in siblings):
            return tuple(_listed(s.rfilename, s) for s in siblings)
        # A mirror may tell names only where it is asked about the model, and all of it about the tree.
        api = self.api()
        tree = patiently(
            self.asked(model), lambda: list(api.list_repo_tree(model.repo, recursive=True, revision=commit))
        )
        return tuple(_listed(entry.path, entry) for entry in tree if hasattr(entry, "blob_id"))

    def read(self, repository: Repository, name: str, start: int, size: int) -> bytes:
        """A piece of a file, by one ranged request.

        Args:
            repository: where.
            name: the file.
            start: the first byte.
            size: bytes; less comes back where the file ends before.

        Raises:
            HubError: refused, broken off too often, or the server does not answer ranges.
        """
        asked = self.asked(repository.model, name)

        def piece() -> bytes:
            with self.open(repository, name, start, start + size - 1) as answer:
                if answer.status == _BEYOND:
                    return b""
                if answer.status not in _GOOD:
                    raise status_error(answer.status, answer.headers, asked)
                return _exactly(answer, start, size)

        return patiently(asked, piece)

    @contextmanager
    def open(self, repository: Repository, name: str, start: int, end: int | None = None) -> Iterator[Answer]:
        """Ask for a file from byte ``start`` to ``end``, that one too; the client's errors come as is."""
        if self.offline:
            raise offline_error(self.asked(repository.model, name))
        library = hub_library()
        url = library.hf_hub_url(repository.model.repo, name, revision=repository.commit)
        headers = {"user-agent": user_agent(), "Accept-Encoding": "identity"}
        headers["Range"] = f"bytes={start}-{'' if end is None else end}"
        token = self.token()
        if token:
            headers["authorization"] = f"Bearer {token}"
        client = session()
        if hasattr(client, "stream"):
            with client.stream("GET", url, headers=headers, timeout=_TIMEOUT_S) as response:
                # As it comes: what is collected into larger pieces is lost when the connection breaks.
                yield Answer(response.status_code, response.headers, response.iter_raw())
        else:
            with client.get(url, headers=headers, timeout=_TIMEOUT_S, stream=True) as response:
                yield Answer(response.status_code, response.headers, response.iter_content(_PIECE))


def _exactly(answer: Answer, start: int, size: int) -> bytes:
    """The bytes that were asked for, also of a server that sends the file from its beginning."""
    skip = start if answer.status == 200 else 0
    found = bytearray()
    for piece in answer.pieces:
        if skip >= len(piece):
            skip -= len(piece)
            continue
        found += piece[skip:]
        skip = 0
        if len(found) >= size:
            break
    return bytes(found[:size])


def _listed(name: str, entry: Any) -> ListedFile:
    lfs = entry.lfs
    sha256 = None if lfs is None else lfs["sha256"] if isinstance(lfs, dict) else lfs.sha256
    return ListedFile(name, entry.size or 0, sha256, entry.blob_id)
