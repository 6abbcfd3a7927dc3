"""Where a model's tensors stand, from its header."""

from __future__ import annotations

from collections.abc import Sequence

from mqnative.formats.gguf import GGUFFile
from mqnative.predict.priors import Place, places


def places_of(file: GGUFFile, names: Sequence[str]) -> dict[str, Place]:
    """The places of tensors of an open model."""
    arch = file.architecture or ""
    n_experts = file.integer(f"{arch}.expert_count", 0)
    n_used = file.integer(f"{arch}.expert_used_count", 0)
    return places(
        names,
        n_layer=file.integer(f"{arch}.block_count", 0),
        expert_share=n_used / n_experts if 0 < n_used <= n_experts else 1.0,
        tied="output.weight" not in file.tensors,
    )
