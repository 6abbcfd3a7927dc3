"""A model as pages see it: its tensors, what every type would cost them, and how sure that is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from mqnative.formats.gguf import GGUFFile
from mqnative.formats.groups import label_tensors
from mqnative.formats.qtypes import qtype
from mqnative.jobs.stored_model import Known
from mqnative.predict.link import UNFITTED
from mqnative.report.hybrid_summary import HybridReport
from mqnative.report.numbers import plain, size_text
from mqnative.report.summary import LinkRow, Report, TensorRow

ALIGNMENT = 32
# Before any mix of the model was run; as `mqnative.predict.link` has it.
_UNFITTED = LinkRow(UNFITTED.scale, UNFITTED.coupling, UNFITTED.spread, 0.0)
# What reports call the model's hash.
HASH = "sha256 of the weights"
# Longer values of metadata are cut.
_LONGEST_FACT = 400


@dataclass(frozen=True)
class ModelView:
    """A model, or the finished run of one.

    Attributes:
        key: short, stable, fit for an address.
        name: as people know it.
        path: the file, or the folder of the run.
        tensors: in file order; their type is the stored one, of a run the chosen one.
        quantizable: names of the tensors that may change.
        fixed_bytes: of the file besides tensor data.
        facts: what is known of the model, by name.
        metadata: the file's own, by key.
        link: from the sum of damages to the KLD of a mix.
        n_swept, n_probed: tensors whose weight errors, or KLD, were measured.
        report: of a finished run.
        release: of hybrids.
        mixes: that are known besides, by name: types of every tensor.
        source: the model's file; None if it is not known where it is.
        model_hash: which model it is; empty until it was hashed.
    """

    key: str
    name: str
    path: Path
    tensors: tuple[TensorRow, ...]
    quantizable: frozenset[str]
    fixed_bytes: int
    facts: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    link: LinkRow = _UNFITTED
    n_swept: int = 0
    n_probed: int = 0
    report: Report | None = None
    release: HybridReport | None = None
    mixes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    source: Path | None = None
    model_hash: str = ""

    @cached_property
    def by_name(self) -> dict[str, TensorRow]:
        """The tensors by name."""
        return {t.name: t for t in self.tensors}

    @cached_property
    def groups(self) -> dict[str, str]:
        """The group of each tensor, as hybrid names know it."""
        return {name: str(label) for name, label in label_tensors(self.by_name).items()}

    @cached_property
    def types(self) -> dict[str, str]:
        """The type of each tensor."""
        return {t.name: t.qtype for t in self.tensors}

    @cached_property
    def n_weights(self) -> int:
        """Weights in all tensors."""
        return sum(t.n_weights for t in self.tensors)

    @cached_property
    def original_bytes(self) -> int:
        """Of the file with every tensor as it is stored."""
        sizes = (qtype(t.source_type).tensor_bytes(t.shape) for t in self.tensors)
        return self.fixed_bytes + sum(map(padded, sizes))

    @property
    def is_measured(self) -> bool:
        """Whether damages are known, so that a recipe can be chosen."""
        return any(t.curve for t in self.tensors)

    @property
    def state(self) -> str:
        """How much is known, in words."""
        if self.n_probed:
            return f"{self.n_probed} of {len(self.quantizable)} tensors probed"
        if self.n_swept:
            return "weight errors only: damages are estimated from other models"
        return "not measured yet"


def key_of(path: Path) -> str:
    """The key of a model at a path."""
    return hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()[:12]


def padded(size_bytes: int) -> int:
    """What tensor data of a size takes in a file."""
    return -(-size_bytes // ALIGNMENT) * ALIGNMENT


def view_of_known(known: Known, link: LinkRow | None = None) -> ModelView:
    """A model file with what the store knows of it.

    Args:
        known: from `mqnative.jobs.stored_model.known_model`.
        link: fitted by a finished run; none keeps the unsure one.
    """
    with GGUFFile.open(known.path) as file:
        facts, metadata = file_facts(file), file_metadata(file)
        name = plain(file.string("general.name") or known.path.stem)
    chosen = link or replace(_UNFITTED, floor=known.floor)
    return ModelView(
        key_of(known.path),
        name,
        known.path,
        known.tensors,
        known.quantizable,
        known.fixed_bytes,
        facts,
        metadata,
        chosen,
        known.n_swept,
        known.n_probed,
        source=known.path,
        model_hash="" if known.identity is None else known.identity.model,
    )


def view_of_report(report: Report, folder: Path, source: Path | None = None) -> ModelView:
    """A finished run.

    Args:
        report: of the run.
        folder: of the run.
        source: the model's file, if it is known where it is.
    """
    fixed = report.result.size_bytes - sum(padded(t.size_bytes) for t in report.tensors)
    curves = [t for t in report.tensors if t.curve]
    return ModelView(
        key_of(folder),
        plain(report.title),
        folder,
        report.tensors,
        frozenset(t.name for t in curves),
        max(0, fixed),
        dict(report.model) | {"run": plain(report.target)},
        dict(report.provenance),
        report.link or _UNFITTED,
        sum(any(p.error is not None for p in t.curve) for t in curves),
        sum(any(p.measured for p in t.curve) for t in curves),
        report,
        source=source,
        model_hash=report.model.get(HASH, ""),
    )


def view_of_release(
    release: HybridReport, folder: Path, mixes: Mapping[str, Mapping[str, str]], source: ModelView | None
) -> ModelView:
    """A release of hybrids over what is known of its model.

    Args:
        release: what was published.
        folder: of the release.
        mixes: name of a published file -> types of its tensors.
        source: the model; None if it is not known where it is.
    """
    base = source or ModelView("", "", folder, (), frozenset(), 0)
    return replace(
        base,
        key=key_of(folder),
        name=plain(release.title),
        path=folder,
        facts=dict(release.model),
        metadata=base.metadata or dict(release.provenance),
        release=release,
        mixes=mixes,
        model_hash=release.model.get(HASH, ""),
    )


def file_facts(file: GGUFFile) -> dict[str, str]:
    """What people ask first about a model file."""
    counts: dict[str, int] = {}
    for tensor in file.tensors.values():
        counts[tensor.qtype.name] = counts.get(tensor.qtype.name, 0) + 1
    files = "" if len(file.paths) == 1 else f" in {len(file.paths)} files"
    return {
        "architecture": plain(file.architecture or "unknown"),
        "parameters": f"{file.n_weights:,}",
        "size": f"{size_text(file.file_bytes)}{files}",
        "bits per weight": f"{file.bpw:.2f}",
        "tensors": f"{len(file.tensors)}",
        "types": ", ".join(f"{n} {t}" for t, n in sorted(counts.items(), key=lambda kv: -kv[1])),
        "file": plain(file.path.name),
    }


def file_metadata(file: GGUFFile) -> dict[str, str]:
    """Config and tokenizer settings as the file has them; of lists the length, of long texts the start."""
    found = {}
    for key, value in file.metadata.items():
        known = value.plain
        if isinstance(known, list):
            found[plain(key)] = f"{len(known):,} values"
            continue
        # Most files hold single precision, of which seven digits are true.
        text = plain(f"{known:.7g}" if isinstance(known, float) else str(known))
        found[plain(key)] = text if len(text) <= _LONGEST_FACT else f"{text[:_LONGEST_FACT]}…"
    return found
