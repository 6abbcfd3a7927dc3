"""The order in which people read a transformer: attention, then feed-forward, then experts."""

from __future__ import annotations

from collections.abc import Iterable

from mqnative.report.summary import TensorRow

_ORDER = (
    "token_embd", "per_layer_token_embd", "output",
    "attn_qkv", "attn_q", "attn_q_a", "attn_q_b", "attn_kv_a_mqa", "attn_kv_b", "attn_k", "attn_k_b",
    "attn_v", "attn_v_b", "attn_gate", "attn_output", "ssm_in", "ssm_x", "ssm_dt", "ssm_out",
    "ffn_gate", "ffn_up", "ffn_gate_up", "ffn_down",
    "ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_gate_up_exps", "ffn_down_exps",
    "ffn_gate_inp_shexp", "ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp",
)  # fmt: skip
_RANK = {role: rank for rank, role in enumerate(_ORDER)}


def by_role(tensors: Iterable[TensorRow], *, small: bool = False) -> dict[str, list[TensorRow]]:
    """Tensors by role, in reading order; norms, biases and other vectors only if ``small``."""
    found: dict[str, list[TensorRow]] = {}
    for tensor in tensors:
        found.setdefault(tensor.role, []).append(tensor)
    wanted = [role for role, members in found.items() if small or not all(map(is_vector, members))]
    return {role: found[role] for role in sorted(wanted, key=lambda role: _RANK.get(role, len(_RANK)))}


def is_vector(tensor: TensorRow) -> bool:
    """Whether a tensor is a norm, a bias or the like: too small to matter, never quantized."""
    return sum(n > 1 for n in tensor.shape) < 2 and not tensor.curve
