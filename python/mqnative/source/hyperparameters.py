"""What a model's configuration says of its build, in GGUF's terms: enough for sizes, types and memory.

Source: conversion/base.py, `TextModel.set_gguf_parameters`, and the models' own additions, at the pinned
commit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mqnative.formats.gguf import MetaType, MetaValue

# GGUF's key after the architecture -> the names that configurations use, the first one found counts.
_COUNTS: dict[str, tuple[str, ...]] = {
    "block_count": ("num_hidden_layers", "n_layers", "n_layer", "num_layers"),
    "context_length": (
        "max_position_embeddings", "n_ctx", "n_positions", "max_length", "max_sequence_length",
        "model_max_length",
    ),
    "embedding_length": ("hidden_size", "n_embd", "dim", "d_model"),
    "feed_forward_length": ("intermediate_size", "n_inner", "ffn_dim", "hidden_dim"),
    "attention.head_count": ("num_attention_heads", "n_head", "n_heads"),
    "attention.head_count_kv": (
        "num_key_value_heads", "n_kv_heads", "num_attention_heads", "n_head", "n_heads",
    ),
    "attention.key_length": ("head_dim",),
    "attention.value_length": ("head_dim",),
    "attention.sliding_window": ("sliding_window",),
    "vocab_size": ("vocab_size",),
    "expert_count": ("num_local_experts", "num_experts", "n_routed_experts"),
    "expert_used_count": ("num_experts_per_tok", "num_experts_per_token", "top_k_experts"),
    "expert_feed_forward_length": ("moe_intermediate_size", "expert_intermediate_size"),
    "expert_shared_count": ("n_shared_experts",),
    "leading_dense_block_count": ("first_k_dense_replace",),
    "attention.shared_kv_layers": ("num_kv_shared_layers",),
    "full_attention_interval": ("full_attention_interval",),
}  # fmt: skip
_NUMBERS: dict[str, tuple[str, ...]] = {
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps"),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"),
}
# Layers that keep no keys and values.
_RECURRENT = ("linear_attention", "mamba", "recurrent", "conv", "linear")
# The parts of a configuration that describe the text model, see `load_hparams`.
_TEXT_PARTS = ("text_config", "llm_config", "lm_config", "language_config")


def text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the text model, its own part over the whole."""
    found = dict(config)
    thinker = config.get("thinker_config")
    parts = [config.get(name) for name in _TEXT_PARTS]
    parts += [thinker.get("text_config")] if isinstance(thinker, dict) else []
    for part in parts:
        if isinstance(part, dict):
            found |= part
    return found


def hyperparameters(config: Mapping[str, Any], architecture: str) -> dict[str, MetaValue]:
    """The metadata that a conversion would write of a model's build; tokenizer and rope left out.

    Args:
        config: ``config.json``.
        architecture: llama.cpp's name for the model.
    """
    text = text_config(config)
    found: dict[str, MetaValue] = {"general.architecture": MetaValue.string(architecture)}
    for key, names in _COUNTS.items():
        value = _count(text, names)
        if value is not None:
            found[f"{architecture}.{key}"] = MetaValue.u32(value)
    for key, names in _NUMBERS.items():
        number = next((text[n] for n in names if isinstance(text.get(n), (int, float))), None)
        if number is not None:
            found[f"{architecture}.{key}"] = MetaValue.f32(float(number))
    found |= _latent_attention(text, architecture)
    heads = found.get(f"{architecture}.attention.head_count_kv")
    layers = text.get("layer_types")
    if heads is not None and isinstance(layers, list) and any(kind in _RECURRENT for kind in layers):
        per_layer = [0 if kind in _RECURRENT else heads.plain for kind in layers]
        found[f"{architecture}.attention.head_count_kv"] = MetaValue.array(MetaType.I32, per_layer)
        found.pop(f"{architecture}.full_attention_interval", None)
    return found


def _latent_attention(text: Mapping[str, Any], architecture: str) -> dict[str, MetaValue]:
    """Multi-head latent attention, as DeepSeek has it: one compressed head is kept."""
    rank, rope = _count(text, ("kv_lora_rank",)), _count(text, ("qk_rope_head_dim",))
    if not rank or rope is None:
        return {}
    lengths = {
        "kv_lora_rank": rank,
        "key_length": rank + rope,
        "value_length": rank,
        "key_length_mla": (_count(text, ("qk_nope_head_dim",)) or 0) + rope,
        "value_length_mla": _count(text, ("v_head_dim",)) or rank,
        "head_count_kv": 1,
    }
    q_rank = _count(text, ("q_lora_rank",))
    if q_rank:
        lengths["q_lora_rank"] = q_rank
    found = {f"{architecture}.attention.{key}": MetaValue.u32(n) for key, n in lengths.items()}
    return found | {f"{architecture}.rope.dimension_count": MetaValue.u32(rope)}


def _count(text: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    for name in names:
        value = text.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32:
            return value
    return None
