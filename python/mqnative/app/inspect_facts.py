"""What ``mqnative inspect`` tells besides a GGUF's header: where it comes from, what it takes to run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mqnative.formats.gguf import GGUFFile
    from mqnative.source.inspection import Inspection

_TOKENIZER_KEYS = (
    "tokenizer_class", "bos_token", "eos_token", "unk_token", "pad_token", "add_bos_token", "add_eos_token",
    "model_max_length",
)  # fmt: skip
_GGUF_TOKENIZER_KEYS = (
    "model", "pre", "bos_token_id", "eos_token_id", "unknown_token_id", "padding_token_id", "add_bos_token",
    "add_eos_token", "add_space_prefix",
)  # fmt: skip


def running_facts(file: GGUFFile) -> dict[str, Any]:
    """Parameters at work, layers, context and the memory it takes; None where the header does not tell."""
    from mqnative.source.model_shape import shape_of

    shape = shape_of(file)
    active = None if shape is None else shape.n_active({n: t.n_weights for n, t in file.tensors.items()})
    return {
        "n_active_weights": active,
        "n_layers": None if shape is None else shape.n_layers,
        "context_length": None if shape is None else shape.n_ctx_train or None,
        "kv_bytes_per_token": None if shape is None else shape.kv_bytes_per_token(),
        "kv_type": None if shape is None else "F16",
        "sliding_window": None if shape is None else shape.sliding_window or None,
        "n_experts": None if shape is None else shape.n_expert,
        "n_experts_used": None if shape is None else shape.n_expert_used,
    }


def gguf_tokenizer(file: GGUFFile) -> dict[str, Any]:
    """The tokenizer settings in a header."""
    found = {k: file.get(f"tokenizer.ggml.{k}") for k in _GGUF_TOKENIZER_KEYS}
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    value: Any = None if tokens is None else tokens.value
    return {k: v for k, v in found.items() if v is not None} | {
        "n_tokens": None if value is None else len(value),
        "chat_template": "tokenizer.chat_template" in file.metadata,
    }


def source_facts(seen: Inspection) -> dict[str, Any]:
    """Where a model comes from, and what its configuration says."""
    repository, checkpoint = seen.repository, seen.checkpoint
    names = [f.name for f in (*seen.selection.others, *seen.selection.mmproj, *seen.selection.weights)]
    sizes = {
        f.name: f.size for f in (*seen.selection.others, *seen.selection.mmproj, *seen.selection.weights)
    }
    return {
        "path": seen.where,
        "kind": seen.selection.kind,
        "repo": None if repository is None else repository.model.repo,
        "revision": None if repository is None else repository.model.revision,
        "commit": None if repository is None else repository.commit,
        "gated": None if repository is None else repository.gated,
        "private": None if repository is None else repository.private,
        "convertible": seen.convertible,
        "notes": list(seen.notes),
        "files": names,
        "file_sizes": sizes,
        "download_bytes": seen.selection.size,
        "hf_architecture": _first(seen.config.get("architectures")),
        "config": dict(seen.config),
        "generation_config": dict(seen.generation),
        "tokenizer": hf_tokenizer(seen),
        "n_checkpoint_weights": None if checkpoint is None else checkpoint.n_weights,
        "dtypes": None if checkpoint is None else dict(Counter(t.dtype for t in checkpoint.tensors.values())),
        "n_mmproj_weights": _n_other_weights(seen),
    }


def hf_tokenizer(seen: Inspection) -> dict[str, Any]:
    """The tokenizer settings of a checkpoint."""
    if not seen.tokenizer and not seen.config:
        return {}
    names = {f.name for f in seen.selection.others}
    found = {k: _token(seen.tokenizer[k]) for k in _TOKENIZER_KEYS if seen.tokenizer.get(k) is not None}
    files = sorted(n for n in names if n.startswith(("tokenizer", "vocab", "merges", "spiece")))
    template = "chat_template" in seen.tokenizer or any(n.endswith(".jinja") for n in names)
    return found | {"files": files, "chat_template": template, "n_tokens": seen.config.get("vocab_size")}


def checkpoint_tensors(seen: Inspection) -> list[dict[str, Any]]:
    """The tensors as they are stored."""
    if seen.checkpoint is None:
        return []
    return [
        {"name": t.name, "dtype": t.dtype, "shape": list(t.shape), "file": t.file, "size_bytes": t.size_bytes}
        for t in seen.checkpoint.tensors.values()
    ]


def with_targets(tensors: list[dict[str, Any]], seen: Inspection | None) -> list[dict[str, Any]]:
    """The tensors with the types each can become, and with what they are stored as now."""
    sources = (
        {}
        if seen is None or seen.prediction is None
        else {t.name: sorted({s.dtype for s in t.sources}) for t in seen.prediction.tensors}
    )
    legal: dict[int, list[str]] = {}
    found = []
    for tensor in tensors:
        row = tensor["shape"][0]
        if tensor["quantizable"] is False:
            targets: list[str] | None = []
        elif tensor["quantizable"] is None:
            targets = None
        else:
            targets = legal.setdefault(row, _legal_types(row))
        stored = sources.get(tensor["name"])
        more = {"target_types": targets} | ({"source_types": stored} if stored else {})
        found.append(tensor | more)
    return found


def _legal_types(n_per_row: int) -> list[str]:
    """The types whose blocks rows of this length fill."""
    from mqnative.formats.qtypes import all_types

    return [t.name for t in all_types().values() if t.is_target and n_per_row % t.block == 0]


def _n_other_weights(seen: Inspection) -> int | None:
    return None if seen.prediction is None else sum(t.n_elements for t in seen.prediction.others)


def _token(value: Any) -> Any:
    """A special token's text, also where it is stored with how it is to be matched."""
    return value.get("content") if isinstance(value, Mapping) else value


def _first(names: Any) -> Any:
    return names[0] if isinstance(names, list) and names else None
