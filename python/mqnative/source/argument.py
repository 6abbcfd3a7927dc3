"""What a MODEL argument means: a file, a folder, or a repository on the hub."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from mqnative.errors import SourceError

# The hub's own rules for names: letters, digits, and single dots, dashes and underscores between them.
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_HUB_ID = re.compile(rf"(?P<repo>{_NAME}/{_NAME})(?:/(?P<file>[^@]+\.gguf))?(?:@(?P<revision>.+))?")
_PREFIX = re.compile(r"hf:/{0,2}")
_ADDRESS = re.compile(rf"https?:/{{1,2}}[^/]+/(?P<repo>{_NAME}/{_NAME})(?:/tree/(?P<revision>[^?#]+))?.*")


@dataclass(frozen=True)
class GGUFPath:
    """A file on this machine; whether it is a GGUF shows when it is opened."""

    path: Path


@dataclass(frozen=True)
class FolderPath:
    """A folder on this machine."""

    path: Path


@dataclass(frozen=True)
class HubModel:
    """A repository on the hub.

    Attributes:
        repo: ``org/name``.
        revision: a branch, a tag or a commit; None: the default branch.
        file: a GGUF in it, the first of a split one; None: the best there is.
    """

    repo: str
    revision: str | None = None
    file: str | None = None

    @property
    def name(self) -> str:
        """The repository's name without its owner."""
        return self.repo.partition("/")[2]

    def __str__(self) -> str:
        at = "" if self.revision is None else f"@{self.revision}"
        return f"{self.repo}{'' if self.file is None else '/' + self.file}{at}"


Source = GGUFPath | FolderPath | HubModel


def parse_source(argument: str | Path) -> Source:
    """Tell what ``argument`` names; what exists on this machine comes first.

    ``hf:org/name`` is the hub's repository even where a folder has that name.

    Raises:
        SourceError: it is an address, or looks like a hub id and cannot be one.
    """
    text = os.fspath(argument)
    prefix = _PREFIX.match(text)
    if prefix is not None and not os.path.lexists(text):
        return _hub_model(text[prefix.end() :], text)
    path = Path(text)
    try:
        if path.is_dir():
            return FolderPath(path)
        if os.path.lexists(path):
            return GGUFPath(path)
    except (OSError, ValueError):  # a name that no file system can hold
        return GGUFPath(path)
    address = _ADDRESS.fullmatch(text)
    if address is not None:
        at = f"@{address['revision']}" if address["revision"] else ""
        raise SourceError(f"{text!r} is an address; give the hub id {address['repo']}{at}", path=text)
    return _hub_model(text, text) if _looks_like_hub_id(text) else GGUFPath(path)


def _looks_like_hub_id(text: str) -> bool:
    """Whether a name that is not on this machine is one of the hub's rather than a mistyped path."""
    found = _HUB_ID.fullmatch(text)
    if found is None:
        # `org/name@` is a hub id with its revision forgotten, `models/x.gguf` a path.
        return re.fullmatch(rf"{_NAME}/{_NAME}@", text) is not None
    return found["file"] is not None or not found["repo"].lower().endswith(".gguf")


def _hub_model(text: str, given: str) -> HubModel:
    found = _HUB_ID.fullmatch(text)
    name = "" if found is None else found["repo"]
    if found is None or "--" in name or ".." in name or name.endswith(".git"):
        raise SourceError(
            f"{given!r} is no hub id; write org/name, org/name@revision or org/name/file.gguf", path=given
        )
    return HubModel(name, found["revision"], found["file"])
