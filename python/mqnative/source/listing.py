"""Which files of a repository or folder make the model: decided from their names and sizes alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from mqnative.errors import SourceError

INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
# The types whose weights are those of the original, the best reference first.
_UNQUANTIZED = {"BF16": 0, "F16": 1, "FP16": 1, "F32": 2, "FP32": 2}
_MARK = re.compile(
    r"(?:^|[-_./])(BF16|F16|FP16|F32|FP32|MXFP4(?:_MOE)?|NVFP4|(?:I?Q|TQ)\d+(?:_[A-Z0-9]+)*)(?=[-_./]|$)",
    re.IGNORECASE,
)
# Parts of models, and what only looks like one.
_NO_MODELS = ("mmproj", "imatrix", "mtp-")
# What upstream's converter reads besides the weights; its own code is not among them.
_WANTED = (
    "*.json", "*.jinja", "README.md", "*.model", "*.tiktoken", "merges.txt", "*vocab*.txt",
    "additional_chat_templates/*.jinja", "[0-9]_*/config.json",
)  # fmt: skip
_UNWANTED = ("*.bin.index.json", "consolidated.*", "*.safetensors.index.json", "training_args.json")
_LARGEST_SMALL_FILE = 256 << 20


@dataclass(frozen=True)
class ListedFile:
    """A file of a repository or folder.

    Attributes:
        name: its path within, with forward slashes.
        size: bytes.
        sha256: of its bytes, where the hub knows it (large files).
        git_oid: SHA-1 of a git blob, for all other files of the hub.
    """

    name: str
    size: int
    sha256: str | None = None
    git_oid: str | None = None

    @property
    def etag(self) -> str:
        """The name of the file's content, as in the hub's cache; empty for files of a folder."""
        return self.sha256 or self.git_oid or ""


@dataclass(frozen=True)
class GGUFGroup:
    """The files of one GGUF model.

    Attributes:
        files: in the order of their numbers, if it is split.
        mark: the type in its name, upper case; empty if there is none.
    """

    files: tuple[ListedFile, ...]
    mark: str

    @property
    def name(self) -> str:
        """The first file's."""
        return self.files[0].name

    @property
    def unquantized(self) -> bool:
        """Whether the name says that the weights are the original's."""
        return self.mark in _UNQUANTIZED

    @property
    def complete(self) -> bool:
        """Whether every file of a split model is there."""
        split = _SPLIT.search(self.name)
        return split is None or (int(split[2]) == len(self.files) and split[1] == "00001")


@dataclass(frozen=True)
class Selection:
    """The files that make a model.

    Attributes:
        kind: what the weights are stored as.
        weights: the files that hold them; of safetensors and PyTorch checkpoints all that could.
        others: configuration, tokenizer, model card, and the index of split weights.
        mmproj: a GGUF repository's projectors for images or sound.
    """

    kind: Literal["gguf", "safetensors", "pytorch"]
    weights: tuple[ListedFile, ...]
    others: tuple[ListedFile, ...] = ()
    mmproj: tuple[ListedFile, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(f.size for f in (*self.weights, *self.others, *self.mmproj))


def select_files(
    files: Sequence[ListedFile], where: str, *, wanted: str | None = None, prefer_gguf: bool = True
) -> Selection:
    """Choose the files of the model.

    Args:
        files: all there are.
        where: the repository or folder, for messages.
        wanted: the name of a GGUF among them; None: an unquantized one, or a checkpoint.
        prefer_gguf: take an unquantized GGUF although a checkpoint is there as well.

    Raises:
        SourceError: there is no model, only quantized ones, or a part of it is missing.
    """
    groups = gguf_groups(files)
    if wanted is not None:
        return _gguf_selection(_named(groups, wanted, where), files)
    checkpoint = _checkpoint(files)
    originals = sorted((g for g in groups if g.unquantized), key=lambda g: _UNQUANTIZED[g.mark])
    if originals and (prefer_gguf or checkpoint is None):
        best = [g for g in originals if _UNQUANTIZED[g.mark] == _UNQUANTIZED[originals[0].mark]]
        if len(best) > 1:
            raise _several(best, where)
        return _gguf_selection(_whole(best[0], where), files)
    if checkpoint is not None:
        return checkpoint
    unmarked = [g for g in groups if not g.mark]
    if len(unmarked) == 1:
        return _gguf_selection(_whole(unmarked[0], where), files)
    raise _nothing(files, groups, unmarked, where)


def gguf_groups(files: Iterable[ListedFile]) -> list[GGUFGroup]:
    """The GGUF models among the files, projectors and imatrix files left out, by name."""
    parts: dict[str, list[ListedFile]] = {}
    for file in files:
        base = file.name.rpartition("/")[2].lower()
        if file.name.lower().endswith(".gguf") and not any(word in base for word in _NO_MODELS):
            parts.setdefault(_SPLIT.sub(".gguf", file.name), []).append(file)
    return [
        GGUFGroup(tuple(sorted(group, key=lambda f: f.name)), type_mark(stem))
        for stem, group in sorted(parts.items())
    ]


def type_mark(name: str) -> str:
    """The type that a file's name, or its folder's, ends in: ``Q4_K_M``; empty if it names none."""
    for part in reversed(name.removesuffix(".gguf").split("/")):
        found = _MARK.findall(part)
        if found:
            return str(found[-1]).upper()
    return ""


def weight_files(selection: Selection, named: Iterable[str] | None, where: str) -> tuple[ListedFile, ...]:
    """The files of a checkpoint that hold its weights.

    Args:
        selection: of a checkpoint.
        named: those that its index names; None without an index.
        where: for messages.

    Raises:
        SourceError: the index names a file that is not there.
    """
    if named is None:
        return selection.weights
    by_name = {f.name: f for f in selection.weights}
    wanted = sorted(set(named))
    missing = [n for n in wanted if n not in by_name]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise SourceError(
            f"{where}: the index of its weights names {missing[0]}{more}, which is not there; the upload is "
            "incomplete, fetch it again or choose another revision",
            file=missing[0],
        )
    return tuple(by_name[n] for n in wanted)


def _checkpoint(files: Sequence[ListedFile]) -> Selection | None:
    """The Hugging Face checkpoint at the top, if there is one."""
    top = [f for f in files if "/" not in f.name]
    if not any(f.name == CONFIG for f in top):
        return None
    others = tuple(f for f in files if _is_wanted(f))
    tensors = tuple(f for f in top if f.name.endswith(".safetensors"))
    indexed = any(f.name == INDEX for f in top)
    # Upstream's converter takes what the index names, else what begins with "model".
    safe = tensors if indexed else tuple(f for f in tensors if f.name.startswith("model"))
    if safe:
        return Selection("safetensors", safe, others)
    pickled = tuple(f for f in top if fnmatchcase(f.name, "pytorch_model*.bin"))
    index = tuple(f for f in top if f.name == "pytorch_model.bin.index.json")
    return Selection("pytorch", pickled, (*others, *index)) if pickled else None


def _is_wanted(file: ListedFile) -> bool:
    if file.size > _LARGEST_SMALL_FILE or file.name.startswith("."):
        return False
    if file.name == INDEX:
        return True
    depth = file.name.count("/")
    return any(fnmatchcase(file.name, p) and p.count("/") == depth for p in _WANTED) and not any(
        fnmatchcase(file.name, p) for p in _UNWANTED
    )


def _gguf_selection(group: GGUFGroup, files: Sequence[ListedFile]) -> Selection:
    folder = group.name.rpartition("/")[0]
    found = [
        f
        for f in files
        if f.name.lower().endswith(".gguf")
        and "mmproj" in f.name.rpartition("/")[2].lower()
        and f.name.rpartition("/")[0] in ("", folder)
    ]
    best = min(found, key=lambda f: (_UNQUANTIZED.get(type_mark(f.name), 9), f.name), default=None)
    return Selection("gguf", group.files, mmproj=() if best is None else (best,))


def _named(groups: Sequence[GGUFGroup], wanted: str, where: str) -> GGUFGroup:
    for group in groups:
        if wanted in (f.name for f in group.files):
            return _whole(group, where)
    known = ", ".join(g.name for g in groups[:6]) or "none"
    raise SourceError(f"{where} has no {wanted}; its GGUF files: {known}", file=wanted)


def _whole(group: GGUFGroup, where: str) -> GGUFGroup:
    if group.complete:
        return group
    raise SourceError(
        f"{where}: {group.name} is one of several parts and not all of them are there; fetch them all",
        file=group.name,
    )


def _several(groups: Sequence[GGUFGroup], where: str) -> SourceError:
    names = ", ".join(g.name for g in groups[:4])
    return SourceError(f"{where} holds several models ({names}); name the file: {where}/{groups[0].name}")


def _nothing(
    files: Sequence[ListedFile], groups: Sequence[GGUFGroup], unmarked: Sequence[GGUFGroup], where: str
) -> SourceError:
    if len(unmarked) > 1:
        return _several(unmarked, where)
    if groups:
        marks = ", ".join(dict.fromkeys(g.mark for g in groups))
        return SourceError(
            f"{where} holds quantized GGUF files only ({marks}); give the repository of the original model, "
            f"or name a file to take it as it is: {where}/{groups[0].name}"
        )
    names = {f.name for f in files}
    if any(n.startswith("consolidated") for n in names) and CONFIG not in names:
        why = "it holds Mistral's own format only; give the repository that has a config.json"
    elif CONFIG in names:
        why = "it has a config.json but neither model*.safetensors nor pytorch_model*.bin"
    elif "adapter_config.json" in names:
        why = "it holds an adapter (LoRA) only; merge it into its base model first"
    else:
        why = "it has neither a GGUF file nor a config.json with weights"
    return SourceError(f"{where} holds no model: {why}")
