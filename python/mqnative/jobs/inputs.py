"""What a job reads, by hash; and the key under which the same command is the same job."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.core.native import core, thread_count
from mqnative.errors import MQNativeError
from mqnative.formats.gguf import GGUFFile
from mqnative.measure.study import identity_of
from mqnative.store import Store

if TYPE_CHECKING:
    from mqnative.source.fetch import Choice

_KEY_VERSION = 1
_MAGIC = b"GGUF"
_BLOCK = 1 << 20


def input_facts(path: Path) -> dict[str, Any] | None:
    """What tells a file or folder from another one, found without reading gigabytes.

    Returns:
        ``path``, ``size_bytes``, ``sha256`` (of a model None: `hashed` reads it later) and ``stamp``, which
        changes whenever the content may have; None if there is nothing.
    """
    try:
        if path.is_dir():
            files = [(str(p.relative_to(path)), p.stat()) for p in sorted(path.rglob("*")) if p.is_file()]
            listing = [[name, status.st_size, status.st_mtime_ns] for name, status in files]
            size = sum(status.st_size for _, status in files)
            digest, stamp = None, hashlib.sha256(json.dumps(listing).encode()).hexdigest()
        elif path.is_file():
            status = path.stat()
            size = status.st_size
            digest = None if _is_model(path) else _sha256(path)
            stamp = digest or f"{size} {status.st_mtime_ns} {status.st_ino}"
        else:
            return None
    except OSError:
        return None
    return {"path": str(path), "size_bytes": size, "sha256": digest, "stamp": stamp}


def hub_facts(choice: Choice) -> dict[str, Any]:
    """A model on the hub as an input: the commit, and each file with the hash that the hub states.

    Of large files that is the SHA-256 of their bytes, which a download is checked against; of small ones
    the hub has a git blob's.
    """
    repository = choice.repository
    return {
        "path": f"{repository.model.repo}@{repository.commit}",
        "size_bytes": sum(f.size for f in choice.files),
        "sha256": None,
        "commit": repository.commit,
        "files": [
            {"name": f.name, "size_bytes": f.size, "sha256": f.sha256, "git_blob": f.git_oid}
            for f in choice.files
        ],
    }


def hashed(store: Store, inputs: Mapping[str, Any], monitor: Monitor = NULL_MONITOR) -> dict[str, Any]:
    """The same inputs with the hashes of models, which are read once and remembered by the store."""
    return {name: [_hashed(store, one, monitor) for one in found] for name, found in inputs.items()}


def _hashed(store: Store, facts: Mapping[str, Any], monitor: Monitor) -> dict[str, Any]:
    path = Path(str(facts.get("path")))
    if facts.get("sha256") is not None or not path.is_file():
        return dict(facts)
    try:
        with GGUFFile.open(path) as file:
            is_new = store.remembered_identity(path) is None
            if is_new:
                monitor.start("hash", file.file_bytes, "bytes")
            found = identity_of(store, file, thread_count(None)).model
            if is_new:
                monitor.finish()
            return dict(facts) | {"sha256": found}
    except (MQNativeError, OSError):
        return dict(facts)  # the command itself says what is wrong with it


def job_key(kind: str, options: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
    """SHA-256, in hex: what the command is, what it is asked for, and what it reads."""
    stamps = {name: [one.get("stamp") for one in found] for name, found in inputs.items()}
    facts = {"version": _KEY_VERSION, "kind": kind, "options": options, "inputs": stamps}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, Any]:
    """What runs the job: package, upstream, instruction set, system."""
    info = core().build_info()
    return {
        "mqnative": info["version"],
        "upstream_commit": info["upstream_commit"],
        "isa": info["isa"],
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _is_model(path: Path) -> bool:
    with path.open("rb") as file:
        if file.read(4) != _MAGIC:
            return False
    try:
        with GGUFFile.open(path) as opened:
            return opened.architecture is not None
    except MQNativeError:
        return False


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
