"""What the loopback hub holds: files, commits, repositories."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path


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
LARGE_NAMES = (".safetensors", ".gguf", ".bin", ".model", ".png")


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
