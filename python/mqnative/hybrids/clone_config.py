"""Reads MagicQuant's published clone configs: per-tensor types of several files in one JSON document.

Only tensor types and a file's name are relied on; short names are known to be stale in places.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mqnative.errors import ManifestError, UnsupportedTypeError
from mqnative.formats.qtypes import qtype

_NAMES = ("fileName", "displayName", "shortName")
# What a type may be called there: ggml's name in any case, presets of one type, or F16 spelled out.
_ALIASES = {"B16": "BF16", "FP16": "F16", "FP32": "F32", "MXFP4_MOE": "MXFP4"}


@dataclass(frozen=True)
class Artifact:
    """One published file.

    Attributes:
        file_name: the key that is right; the other names may be stale.
        names: all that it is called.
        provider, family: as written.
        types: tensor -> type.
        used_imatrix: whether importances went into it.
        notes: source KLD, PPL and sizes, as written.
    """

    file_name: str
    names: tuple[str, ...]
    provider: str
    family: str
    types: Mapping[str, str]
    used_imatrix: bool
    notes: Mapping[str, Any] = field(default_factory=dict)


def is_clone_config(document: Any) -> bool:
    """Whether a JSON document looks like one."""
    return isinstance(document, dict) and isinstance(document.get("artifacts"), list)


def read_artifacts(document: Any, path: str = "") -> tuple[Artifact, ...]:
    """Every file of a clone config.

    Raises:
        ManifestError: an artifact without tensor types, or a type that ggml does not know; both are named.
    """
    if not is_clone_config(document) or not document["artifacts"]:
        raise _error(path, "artifacts", "it lists no artifacts")
    return tuple(_artifact(item, index, path) for index, item in enumerate(document["artifacts"]))


def pick(artifacts: tuple[Artifact, ...], wanted: str | None, path: str = "") -> Artifact:
    """The file called ``wanted``: by file name, else by another name that only one has.

    Raises:
        ManifestError: there is none, or several, or a choice is needed; the names are listed.
    """
    listed = ", ".join(a.file_name for a in artifacts)
    if wanted is None:
        if len(artifacts) == 1:
            return artifacts[0]
        raise _error(path, "artifacts", f"it holds {len(artifacts)} files; choose one of {listed}")
    by_file = [a for a in artifacts if wanted in (a.file_name, a.file_name.removesuffix(".gguf"))]
    found = by_file or [a for a in artifacts if wanted in a.names]
    if len(found) != 1:
        problem = "it holds no" if not found else "it holds several called"
        raise _error(path, wanted, f"{problem} {wanted!r}; choose one of {listed}")
    return found[0]


def _artifact(item: Any, index: int, path: str) -> Artifact:
    key = f"artifacts[{index}]"
    if not isinstance(item, dict):
        raise _error(path, key, f"{key} is no object")
    types = item.get("tensorTypes")
    if not isinstance(types, dict) or not types:
        raise _error(path, f"{key}.tensorTypes", f"{key} has no tensorTypes")
    names = tuple(item[n] for n in _NAMES if isinstance(item.get(n), str) and item[n])
    return Artifact(
        file_name=names[0] if names else key,
        names=names,
        provider=str(item.get("provider") or "MagicQuant"),
        family=str(item.get("quantFamily") or ""),
        types={name: _type(name, value, path) for name, value in types.items()},
        used_imatrix=item.get("usedImatrix") is True,
        notes={k: v for k, v in item.items() if isinstance(v, (str, int, float, bool))},
    )


def _type(name: str, value: Any, path: str) -> str:
    wanted = str(value).upper()
    try:
        return qtype(_ALIASES.get(wanted, wanted)).name
    except UnsupportedTypeError:
        problem = f"{name} has type {value!r}, which this build of ggml does not know"
        raise _error(path, f"tensorTypes.{name}", problem, name) from None


def _error(path: str, key: str, problem: str, tensor: str | None = None) -> ManifestError:
    where = f"{path}: " if path else ""
    return ManifestError(f"{where}{problem}", path=path or None, key=key, tensor=tensor)
