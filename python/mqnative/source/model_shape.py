"""What a model costs to run, from its header: memory per token of context, and parameters at work.

Source: src/llama-kv-cache.cpp, src/llama-hparams.cpp at the pinned commit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mqnative.formats.gguf import GGUFFile
from mqnative.formats.qtypes import qtype

# What llama.cpp keeps keys and values in unless it is told otherwise.
KV_TYPE = "F16"


@dataclass(frozen=True)
class ModelShape:
    """A model's build.

    Attributes:
        n_layers: blocks.
        n_ctx_train: the context it was trained for, in tokens; 0 if it is not known.
        kv_numbers: what each layer keeps of a token; 0 in recurrent layers, and in those that use another's.
        sliding_window: tokens that some layers look back; 0: all do to the beginning.
        n_expert, n_expert_used: of a mixture; 0 in a dense model.
    """

    n_layers: int
    n_ctx_train: int
    kv_numbers: tuple[int, ...]
    sliding_window: int
    n_expert: int
    n_expert_used: int

    def kv_bytes_per_token(self, kv_type: str = KV_TYPE) -> int:
        """Memory that one more token of context takes, while no layer's window is full."""
        return round(sum(self.kv_numbers) * qtype(kv_type).bpw / 8)

    def n_active(self, weights: Mapping[str, int]) -> int:
        """Weights that take part in computing one token.

        Args:
            weights: number of weights by tensor name, as in GGUF.
        """
        if not self.n_expert or not self.n_expert_used:
            return sum(weights.values())
        total = 0
        for name, n in weights.items():
            total += n * self.n_expert_used // self.n_expert if "_exps." in name else n
        return total


def shape_of(file: GGUFFile) -> ModelShape | None:
    """The build that a header tells of; None if it names no blocks."""
    arch = file.architecture
    n_layers = _number(file, f"{arch}.block_count")
    if arch is None or not n_layers:
        return None
    stored = _stored_heads(file, arch, n_layers) or _projected(file, n_layers)
    shared = _number(file, f"{arch}.attention.shared_kv_layers")
    interval = _number(file, f"{arch}.full_attention_interval")
    kept = tuple(
        0 if i >= n_layers - shared or (interval and (i + 1) % interval) else n for i, n in enumerate(stored)
    )
    return ModelShape(
        n_layers=n_layers,
        n_ctx_train=_number(file, f"{arch}.context_length"),
        kv_numbers=kept,
        sliding_window=_number(file, f"{arch}.attention.sliding_window"),
        n_expert=_number(file, f"{arch}.expert_count"),
        n_expert_used=_number(file, f"{arch}.expert_used_count"),
    )


def _stored_heads(file: GGUFFile, arch: str, n_layers: int) -> tuple[int, ...]:
    """Numbers of keys and values in each layer by the header's keys; empty if it lacks some."""
    heads = _per_layer(file, f"{arch}.attention.head_count", n_layers)
    kv_heads = heads
    if file.get(f"{arch}.attention.head_count_kv") is not None:
        kv_heads = _per_layer(file, f"{arch}.attention.head_count_kv", n_layers)
    width = _number(file, f"{arch}.embedding_length") // max(heads) if any(heads) else 0
    keys = _number(file, f"{arch}.attention.key_length") or width
    values = _number(file, f"{arch}.attention.value_length") or width
    if not any(kv_heads) or not keys or not values:
        return ()
    if _number(file, f"{arch}.attention.key_length_mla"):
        values = 0  # latent attention derives them from the keys
    return tuple(n * (keys + values) for n in kv_heads)


def _projected(file: GGUFFile, n_layers: int) -> tuple[int, ...]:
    """The same by what the layers' projections put out."""
    found = [0] * n_layers
    for i in range(n_layers):
        for role in ("attn_k", "attn_v"):
            tensor = file.tensors.get(f"blk.{i}.{role}.weight")
            if tensor is not None and len(tensor.shape) > 1:
                found[i] += tensor.shape[1]
    return tuple(found)


def _number(file: GGUFFile, key: str) -> int:
    value = file.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _per_layer(file: GGUFFile, key: str, n_layers: int) -> tuple[int, ...]:
    """One number for all layers, or one for each."""
    value: Any = file.get(key)
    if isinstance(value, list):
        numbers = [n if isinstance(n, int) and n > 0 else 0 for n in value[:n_layers]]
        return tuple(numbers + [0] * (n_layers - len(numbers)))
    return (_number(file, key),) * n_layers
