"""What a type becomes where a tensor's rows do not fill its blocks.

Source: src/llama-quant.cpp, `tensor_type_fallback`, at the pinned commit; a golden test compares every type
and row length with llama.cpp's own dry run.
"""

from __future__ import annotations

from mqnative.errors import UnsupportedTypeError
from mqnative.formats.qtypes import qtype

_SMALLER_BLOCK = {
    **dict.fromkeys(
        ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"
    ),
    **dict.fromkeys(("Q2_0", "Q2_K", "Q3_K", "TQ1_0", "TQ2_0"), "Q4_0"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
_LARGEST_SMALL_BLOCK = 32


def legal_type(wanted: str, n_per_row: int) -> str:
    """The type that rows of ``n_per_row`` weights get when ``wanted`` is asked for.

    Raises:
        UnsupportedTypeError: the rows do not fit and llama.cpp has no substitute for the type.
    """
    target = qtype(wanted)
    if n_per_row % target.block == 0:
        return target.name
    if target.block <= _LARGEST_SMALL_BLOCK:
        return "F16"
    substitute = _SMALLER_BLOCK.get(target.name)
    if substitute is None:
        raise UnsupportedTypeError(
            f"rows of {n_per_row} weights do not fill blocks of {target.block}, which {target.name} needs, and "
            "llama.cpp has no substitute for it; choose another type",
            qtype=target.name,
            reason="row size",
        )
    return substitute if n_per_row % qtype(substitute).block == 0 else "F16"
