"""Which files the page may read and write: those in the folders that it was given, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mqnative.errors import SourceError

# A look around for models: at most so many levels down, so many entries, so many results.
_DEPTH, _MOST_ENTRIES, _MOST_FOUND = 4, 20_000, 200
_SKIPPED = {"node_modules", "__pycache__", "site-packages"}


class Folders:
    """The folders that the page was given; links are followed before a path is judged.

    Args:
        roots: folders, in the order in which relative paths are looked up.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = tuple(dict.fromkeys(root.expanduser().resolve() for root in roots))

    def path(self, text: str, *, must_exist: bool = True) -> Path:
        """The path that a person typed, with no link left in it.

        Args:
            text: absolute, or relative to one of the folders.
            must_exist: refuse what is not there.

        Raises:
            SourceError: it is empty, lies outside, or is not there.
        """
        text = text.strip()
        if not text or "\0" in text:
            raise SourceError("type the path of a file or folder", path=text)
        candidates = [self._resolved(root, text) for root in self.roots]
        inside = [path for path in candidates if self.holds(path)]
        if not inside:
            known = ", ".join(str(root) for root in self.roots)
            raise SourceError(
                f"{text} lies outside of the folders this page may use ({known}); start it with "
                "`mqnative ui FOLDER` to add one",
                path=text,
            )
        found = next((path for path in inside if os.path.exists(path)), None)  # noqa: PTH110 - says no of names too long
        if found is None and must_exist:
            raise SourceError(f"{text} is not there; check the spelling", path=text)
        return inside[0] if found is None else found

    @staticmethod
    def _resolved(root: Path, text: str) -> Path:
        try:
            return (root / Path(text).expanduser()).resolve()
        except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name too long
            raise SourceError(f"{text} is no usable path ({error})", path=text) from error

    def holds(self, path: Path) -> bool:
        """Whether a resolved path lies in one of the folders."""
        return any(path == root or root in path.parents for root in self.roots)

    def allows(self, path: Path) -> bool:
        """Whether a path lies in one of the folders, and what it leads to as well."""
        return self.holds(path) and self.holds(path.resolve())

    def shown(self, path: Path) -> str:
        """A path as people would write it: relative to a folder where it can be."""
        for root in self.roots:
            if root in path.parents:
                return str(path.relative_to(root))
        return str(path)

    def models(self) -> list[Path]:
        """GGUF models and folders of finished runs in the folders, near the top, in order of names."""
        found: dict[Path, None] = {}
        for root in self.roots:
            for path in _walk(root):
                if len(found) < _MOST_FOUND and self.holds(path.resolve()):
                    found[path] = None
        return sorted(found)


def _walk(root: Path) -> Iterator[Path]:
    seen = 0
    for folder, names, files in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        hidden = {n for n in names if n.startswith(".") or n in _SKIPPED}
        names[:] = [] if depth >= _DEPTH else sorted(set(names) - hidden)
        if "report.json" in files:
            yield Path(folder)
        for name in sorted(files):
            seen += 1
            if name.endswith(".gguf") and "imatrix" not in name and not _is_later_split(name):
                yield Path(folder) / name
        if seen > _MOST_ENTRIES:
            return


def _is_later_split(name: str) -> bool:
    """Whether a file is a further part of a split model: ``x-00002-of-00003.gguf``."""
    parts = name.removesuffix(".gguf").rsplit("-", 3)
    return len(parts) == 4 and parts[2] == "of" and parts[1].isdigit() and int(parts[1]) > 1
