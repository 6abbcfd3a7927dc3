"""The long tags of older names (``MXFP4 akv_Q6_K-ao_Q5_K-emb_Q6_K``), for reading only."""

from __future__ import annotations

import re

from mqnative.formats.names import QuantName
from mqnative.formats.quant_tokens import read_quant

# Tag -> letter; gt, the gate alone, is only a part of U.
_TAGS = {
    "emb": "E", "head": "H", "aq": "Q", "akv": "K", "ao": "O", "fug": "U", "fd": "D", "moe_exp": "X",
    "moe_rt": "R", "te": "E", "out": "H", "rt": "R", "gt": "",
}  # fmt: skip
_TAG = re.compile(rf"({'|'.join(_TAGS)})_(.+)")


def read_legacy(stem: str) -> tuple[QuantName, dict[str, str]] | None:
    """What a name with tags says, and its tags that no letter stands for; None if it has no tags."""
    tokens = re.split(r"[- ]", stem)
    groups: dict[str, str] = {}
    unlisted: dict[str, str] = {}
    while tokens:
        found = _TAG.fullmatch(tokens[-1])
        quant = read_quant(found[2]) if found else None
        if found is None or quant is None:
            break
        letter = _TAGS[found[1]]
        target, key = (groups, letter) if letter else (unlisted, found[1])
        if key in target:
            return None
        target[key] = quant
        tokens.pop()
    base = read_quant(tokens[-1]) if tokens else None
    if base is None or not (groups or unlisted):
        return None
    model = stem[: len("-".join(tokens[:-1]))] if len(tokens) > 1 else ""
    name = QuantName(model, "MXFP4" if base == "MXFP4_MOE" else base, groups)
    return name, unlisted
