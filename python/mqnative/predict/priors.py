"""Damage without a probe: weight error times what its role was measured to cost on small trained models.

The absolute weight error, sum_j v_j dW_j^2, says what a product's output loses. How much of that reaches the
logits differs by role and depth: values and what writes to the residual stream cost more than what lies
between, early blocks more than late ones, and an expert is only used by some tokens.

The numbers are what `benchmarks/quality/priors.py` prints; it says on which models, and how well the priors
from some of them serve another.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mqnative.predict.curve import Damage, TensorCurve, complete

_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)")
# Roles that write to the residual stream, directly or through the attention's weighted mean.
WRITERS = ("attn_v", "attn_output", "ffn_down", "attn_qkv", "ffn_down_exps", "ffn_down_shexp")


@dataclass(frozen=True)
class Priors:
    """ln KLD per absolute weight error, as a sum of terms.

    Attributes:
        scale: of an average tensor.
        roles: added by role, the name in a block without suffix; 0 for others.
        depth: times the depth, -1/2 at the first block and 1/2 at the last.
        writer_depth: the same, for `WRITERS` in addition.
        first: added in the first block.
        writer_first: the same, for `WRITERS` in addition.
        spread: standard deviation of what is left.
    """

    scale: float
    roles: Mapping[str, float]
    depth: float
    writer_depth: float
    first: float
    writer_first: float
    spread: float


PRIORS = Priors(
    scale=-10.39,
    roles={
        "attn_k": -0.02,
        "attn_output": -0.10,
        "attn_q": -0.49,
        "attn_v": 0.59,
        "ffn_down": -0.63,
        "ffn_down_exps": -1.91,
        "ffn_gate": -0.61,
        "ffn_gate_exps": -0.83,
        "ffn_up": -0.92,
        "ffn_up_exps": -0.91,
        "output": 0.08,
        "token_embd": -0.35,
        "token_embd_tied": 0.64,
    },
    depth=0.14,
    writer_depth=-1.68,
    first=0.89,
    writer_first=0.09,
    spread=0.55,
)


@dataclass(frozen=True)
class Place:
    """Where a tensor stands.

    Attributes:
        role: name in its block without suffix; ``token_embd_tied`` for an embedding that is the head, too.
        layer: its block's number; None outside the blocks.
        n_layer: blocks of the model.
        used: share of the tokens that reach it: experts used of all, else 1.
    """

    role: str
    layer: int | None
    n_layer: int
    used: float = 1.0

    @property
    def depth(self) -> float:
        """-1/2 at the first block, 1/2 at the last, 0 outside."""
        if self.layer is None or self.n_layer < 2:
            return 0.0
        return self.layer / (self.n_layer - 1) - 0.5


def places(names: Sequence[str], *, n_layer: int, expert_share: float, tied: bool) -> dict[str, Place]:
    """Where tensors stand.

    Args:
        names: as in GGUF.
        n_layer: blocks of the model.
        expert_share: experts used of all; 1 without experts.
        tied: whether the embedding is the head, too.
    """
    found = {}
    for name in names:
        block = _BLOCK.match(name)
        role = block[2] if block else name.removesuffix(".weight")
        if role == "token_embd" and tied:
            role = "token_embd_tied"
        used = expert_share if role.endswith("_exps") else 1.0
        found[name] = Place(role, int(block[1]) if block else None, n_layer, used)
    return found


def log_factor(place: Place, priors: Priors = PRIORS) -> float:
    """The logarithm of the KLD per absolute weight error that is expected there."""
    writer = place.role in WRITERS
    first = place.layer == 0
    return (
        priors.scale
        + priors.roles.get(place.role, 0.0)
        + (priors.depth + writer * priors.writer_depth) * place.depth
        + first * (priors.first + writer * priors.writer_first)
        + math.log(place.used)
    )


def fast_table(
    curves: Sequence[TensorCurve], where: Mapping[str, Place], priors: Priors = PRIORS
) -> dict[str, dict[str, Damage]]:
    """The damage of every tensor at every type, nothing having been run.

    Args:
        curves: the tensors; their anchors are not looked at.
        where: from `places`.
        priors: measured on other models.
    """
    table = {}
    for curve in curves:
        factor = math.exp(log_factor(where[curve.name], priors))
        damages = {}
        for name, error in curve.errors.items():
            if not curve.is_exact(name):
                mean = factor * curve.energy * error
                damages[name] = Damage(mean, (priors.spread * mean) ** 2)
        table[curve.name] = complete(curve, damages)
    return table
