"""How quantizations are spelled in file names, and what the spellings mean.

Names are for people without a compiler too, so that this list is kept by hand; a test holds it against ggml's
types and llama.cpp's presets.
"""

from __future__ import annotations

import difflib
import re

# ggml's types that a tensor can have.
TYPES = (
    "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0", "Q3_K", "Q2_K",
    "Q2_0", "Q1_0", "IQ4_NL", "IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S",
    "TQ2_0", "TQ1_0", "MXFP4", "NVFP4",
)  # fmt: skip
# Mixes of types: llama.cpp's presets that are not called like a type, and other publishers' larger ones.
PRESETS = (
    "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K_S", "IQ3_M", "IQ3_XS",
    "IQ2_M", "MXFP4_MOE",
)  # fmt: skip
_OTHERS = tuple(
    f"Q{bits}_K_{size}"
    for bits in (2, 3, 4, 5, 6, 8)
    for size in ("S", "M", "L", "XL", "XXL")
    if f"Q{bits}_K_{size}" not in PRESETS
)
FAMILIES = (*TYPES, *PRESETS, *_OTHERS)

_ALIASES = {"B16": "BF16", "FP16": "F16", "FP32": "F32", "Q8": "Q8_0"}
_BY_SPELLING = {name.replace("_", ""): name for name in FAMILIES} | _ALIASES
# Writers drop the underscore before a letter, not before a digit: Q6K and IQ4NL, but Q8_0.
_SHORTENED = re.compile(r"(I?Q[0-9])_([A-Z]+)")


def read_quant(token: str) -> str | None:
    """The full name of a quantization: ``Q8`` is Q8_0, ``B16`` BF16, ``iq4nl`` IQ4_NL; None if it is none."""
    # Other letters have capitals in ASCII too, such as the dotless i.
    return _BY_SPELLING.get(token.upper().replace("_", "")) if token.isascii() else None


def is_type(quant: str) -> bool:
    """Whether a full name is that of a tensor's type, not of a mix."""
    return quant in TYPES


def short_spelling(quant: str) -> str:
    """How blocks spell a type: ``B16``, ``IQ4NL``, ``Q6K``, ``Q8_0``; mixes stay as they are."""
    if quant == "BF16":
        return "B16"
    found = _SHORTENED.fullmatch(quant)
    return found[1] + found[2] if found and is_type(quant) else quant


def near_quants(token: str) -> list[str]:
    """Quantizations spelled like ``token``, for messages."""
    near = difflib.get_close_matches(token.upper().replace("_", ""), _BY_SPELLING, n=3, cutoff=0.6)
    return list(dict.fromkeys(_BY_SPELLING[spelling] for spelling in near))
