"""Tensors by role, in the order in which people read a transformer (`mqnative.formats.group_table`)."""

from __future__ import annotations

from collections.abc import Iterable

from mqnative.formats.groups import reading_rank
from mqnative.report.summary import TensorRow


def by_role(tensors: Iterable[TensorRow], *, small: bool = False) -> dict[str, list[TensorRow]]:
    """Tensors by role, in reading order; norms, biases and other vectors only if ``small``."""
    found: dict[str, list[TensorRow]] = {}
    for tensor in tensors:
        found.setdefault(tensor.role, []).append(tensor)
    wanted = [role for role, members in found.items() if small or not all(map(is_vector, members))]
    return {role: found[role] for role in sorted(wanted, key=reading_rank)}


def is_vector(tensor: TensorRow) -> bool:
    """Whether a tensor is a norm, a bias or the like: too small to matter, never quantized."""
    return sum(n > 1 for n in tensor.shape) < 2 and not tensor.curve
