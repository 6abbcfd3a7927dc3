"""Manifests, ``mqnative: manifest/1``: everything needed to make the same bytes again.

Whatever else a writer puts in (evaluation, candidates that lost) is carried along unread.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mqnative.errors import ManifestError
from mqnative.formats.atomic import write_text_atomic
from mqnative.formats.manifest_values import VERSION, Taker

# A model of a hundred layers with every damage curve needs a few megabytes.
_MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class Source:
    """The unquantized model that a file was made of.

    Attributes:
        sha256: its identity (`mqnative.source.identity`).
        file: its file name, without folders.
        name, architecture: its metadata's.
    """

    sha256: str
    file: str = ""
    name: str = ""
    architecture: str = ""


@dataclass(frozen=True)
class ImatrixRef:
    """The importances that went into a file, and what of them the header tells.

    Attributes:
        sha256: of their content (`Imatrix.content_hash`).
        name: the file name in the header.
        file: where they lie beside the manifest, such as ``work/imatrix.gguf``.
        chunk_count: in the header.
        dataset: in the header; empty if there is none.
    """

    sha256: str
    name: str
    file: str = ""
    chunk_count: int = 0
    dataset: str = ""


@dataclass(frozen=True)
class Manifest:
    """One written model.

    Attributes:
        made_by: the command.
        source: what it was made of.
        imatrix: None if it was made without.
        types: tensor -> type as written.
        shapes: tensor -> GGUF shape; empty in manifests that did not record it.
        model_file: the file's name.
        model_sha256: of the file; empty if it was not recorded.
        size_bytes: of the file.
        allow_requantize: whether the source was quantized already.
        build: the compiled module that wrote it.
        extra: everything else, by key.
    """

    made_by: str
    source: Source
    imatrix: ImatrixRef | None
    types: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    model_file: str
    model_sha256: str
    size_bytes: int
    allow_requantize: bool = False
    build: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; keys of `extra` stand beside the manifest's own."""
        imatrix = self.imatrix
        return {
            "mqnative": VERSION,
            "made_by": self.made_by,
            "model_file": self.model_file,
            "size_bytes": self.size_bytes,
            "source": dict(vars(self.source)),
            "source_sha256": self.source.sha256,
            "imatrix": None if imatrix is None else dict(vars(imatrix)),
            "imatrix_sha256": None if imatrix is None else imatrix.sha256,
            "allow_requantize": self.allow_requantize,
            "build": dict(self.build),
            "types": dict(self.types),
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "files_sha256": {self.model_file: self.model_sha256} if self.model_sha256 else {},
            **self.extra,
        }


_OWN = frozenset(
    (
        "mqnative", "made_by", "model_file", "size_bytes", "source", "source_sha256", "imatrix",
        "imatrix_sha256", "allow_requantize", "build", "types", "shapes", "files_sha256",
    )
)  # fmt: skip


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest, in one step.

    Raises:
        OutputError: the file cannot be written.
    """
    write_text_atomic(path, json.dumps(manifest.to_json(), indent=2) + "\n")


def read_manifest(path: str | Path) -> Manifest:
    """The manifest in a file.

    Raises:
        ManifestError: the file cannot be read, is no manifest, or a key of it holds something else.
    """
    return parse_manifest(read_json(path), str(path))


def read_json(path: str | Path) -> Any:
    """A JSON document.

    Raises:
        ManifestError: the file cannot be read or is no JSON.
    """
    name = str(path)
    try:
        with Path(path).open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            raise ManifestError(f"{name} is larger than {_MAX_BYTES} bytes, so it is no manifest", path=name)
        return json.loads(raw.decode("utf-8-sig"), parse_constant=_no_constant)
    except OSError as error:
        raise ManifestError(f"cannot read {name}: {error.strerror or error}", path=name) from error
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{name} is no JSON document ({error}); give a manifest", path=name) from None


def parse_manifest(document: Any, path: str = "") -> Manifest:
    """The manifest in a JSON document; ``path`` is where it came from, for messages.

    Raises:
        ManifestError: as `read_manifest`.
    """
    take = Taker(document, path)
    if take.value.get("mqnative") != VERSION:
        raise take.error("mqnative", f"begin with {VERSION!r}")
    source = take.inner("source")
    imatrix_sha = take.text("imatrix_sha256", "")
    imatrix = take.inner("imatrix")
    hashes = take.mapping("files_sha256", {})
    model_file = take.file("model_file")
    return Manifest(
        made_by=take.text("made_by", "auto"),
        source=Source(
            take.sha256("source_sha256"),
            source.file("file", ""),
            source.text("name", ""),
            source.text("architecture", ""),
        ),
        imatrix=None
        if not imatrix_sha
        else ImatrixRef(
            take.sha256("imatrix_sha256"),
            imatrix.file("name", "imatrix.gguf"),
            imatrix.relative("file", "work/imatrix.gguf"),
            imatrix.integer("chunk_count", 0),
            imatrix.text("dataset", ""),
        ),
        types={name: take.qtype(name, value) for name, value in take.mapping("types").items()},
        shapes={name: take.shape(name, value) for name, value in take.mapping("shapes", {}).items()},
        model_file=model_file,
        model_sha256="" if model_file not in hashes else Taker(hashes, path).sha256(model_file),
        size_bytes=take.integer("size_bytes"),
        allow_requantize=take.value.get("allow_requantize") is True,
        build=take.mapping("build", {}),
        extra={key: value for key, value in take.value.items() if key not in _OWN},
    )


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
