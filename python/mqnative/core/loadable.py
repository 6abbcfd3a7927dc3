"""What llama.cpp would only notice while it computes, where its checks end the process."""

from __future__ import annotations

import math

from mqnative.errors import GGUFError, UnsupportedTypeError
from mqnative.formats.gguf import GGUFFile

# Token tables of routed experts are lists of integers.
_INTEGERS = ("I32",)
_EPSILONS = ("layer_norm_rms_epsilon", "layer_norm_epsilon", "group_norm_epsilon")


def check_loadable(file: GGUFFile) -> None:
    """Refuse a model that would abort the process.

    Raises:
        UnsupportedTypeError: a tensor has a type that no operation reads, or a vector is quantized.
        GGUFError: an epsilon is negative or not a number.
    """
    for tensor in file.tensors.values():
        known = tensor.qtype.is_target or tensor.qtype.name in _INTEGERS
        is_vector = tensor.n_rows == 1
        if known and not (is_vector and tensor.qtype.is_quantized):
            continue
        why = "vectors are never quantized" if known else "no operation of ggml reads it"
        raise UnsupportedTypeError(
            f"{tensor.name} has type {tensor.qtype.name}, and {why}; convert the model again",
            tensor=tensor.name,
            qtype=tensor.qtype.name,
            reason=why,
        )
    for key in file.metadata:
        value = file.get(key) if key.endswith(_EPSILONS) else None
        if isinstance(value, float) and not (math.isfinite(value) and value >= 0):
            raise GGUFError(
                f"{file.path}: {key} is {value}, expected a number of at least 0; convert the model again",
                path=str(file.path),
                key=key,
            )
