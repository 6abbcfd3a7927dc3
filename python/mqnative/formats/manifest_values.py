"""Values of a manifest, taken with their kinds checked: what is missing or of another kind is named."""

from __future__ import annotations

import math
import re
from pathlib import PurePosixPath
from typing import Any

from mqnative.errors import ManifestError, UnsupportedTypeError
from mqnative.formats.qtypes import qtype

VERSION = "manifest/1"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NO_FILE = re.compile(r"[/\\\x00]")


class Taker:
    """Takes checked values out of a JSON object."""

    def __init__(self, value: Any, path: str) -> None:
        self.path = path
        if not isinstance(value, dict):
            raise self.error("mqnative", f"begin with {VERSION!r}")
        self.value: dict[str, Any] = value

    def error(self, key: str, wanted: str, tensor: str | None = None) -> ManifestError:
        """What is wrong, as an error that names the key."""
        where = f"{self.path}: " if self.path else ""
        return ManifestError(
            f"{where}this is no manifest that can be used: {key} must {wanted}",
            path=self.path or None,
            key=key,
            tensor=tensor,
        )

    def inner(self, key: str) -> Taker:
        """The object at ``key``; an empty one if there is none."""
        found = self.value.get(key)
        return Taker(found if isinstance(found, dict) else {}, self.path)

    def text(self, key: str, default: str | None = None) -> str:
        """A text."""
        found = self.value.get(key)
        if found is None and default is not None:
            return default
        if not isinstance(found, str):
            raise self.error(key, f"be a text, got {found!r:.60}")
        return found

    def file(self, key: str, default: str | None = None) -> str:
        """A file name without folders."""
        found = self.text(key, default)
        if _NO_FILE.search(found) or found in (".", "..") or (not found and default is None):
            raise self.error(key, f"be a file's name without folders, got {found!r:.60}")
        return found

    def relative(self, key: str, default: str) -> str:
        """A path below the manifest."""
        found = self.text(key, default)
        if "\0" in found or PurePosixPath(found).is_absolute() or ".." in PurePosixPath(found).parts:
            raise self.error(key, f"be a path below the manifest's folder, got {found!r:.60}")
        return found

    def sha256(self, key: str) -> str:
        """A hash in hex."""
        found = self.text(key)
        if not _SHA256.fullmatch(found):
            raise self.error(key, f"be a SHA-256 of 64 hexadecimal digits, got {found!r:.80}")
        return found

    def integer(self, key: str, default: int | None = None) -> int:
        """A number of at least 0."""
        found = self.value.get(key)
        if found is None and default is not None:
            return default
        if not isinstance(found, int) or isinstance(found, bool) or found < 0:
            raise self.error(key, f"be a number of at least 0, got {found!r:.60}")
        return found

    def mapping(self, key: str, default: dict[str, Any] | None = None) -> dict[str, Any]:
        """An object."""
        found = self.value.get(key)
        if found is None and default is not None:
            return default
        if not isinstance(found, dict):
            raise self.error(key, f"be an object, got {found!r:.60}")
        return found

    def qtype(self, name: str, value: Any) -> str:
        """The name of a ggml type."""
        try:
            return qtype(value if isinstance(value, str) else repr(value)).name
        except UnsupportedTypeError:
            wanted = f"be a type of this build's ggml, which {value!r:.40} is not"
            raise self.error(f"types.{name}", wanted, name) from None

    def shape(self, name: str, value: Any) -> tuple[int, ...]:
        """A GGUF shape."""
        ok = isinstance(value, list) and all(isinstance(n, int) and n > 0 for n in value) and value
        if not ok or math.prod(value) >= 1 << 63:
            raise self.error(f"shapes.{name}", f"be a list of lengths, got {value!r:.60}", name)
        return tuple(value)
