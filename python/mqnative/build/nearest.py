"""Which of llama.cpp's presets a mix is nearest to in size.

``general.file_type`` can only name presets; the nearest in bpw for this very model is the honest choice.
"""

from __future__ import annotations

from collections.abc import Mapping

from mqnative.core.presets import Preset, preset_types, presets
from mqnative.errors import QuantizeError
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.qtypes import qtype


def nearest_preset(
    file: GGUFFile, types: Mapping[str, str], bpw: float, *, with_imatrix: bool
) -> Preset:
    """The preset whose file of this model is nearest to ``bpw``; one that is the same mix wins.

    A preset that llama.cpp refuses for this model (no substitute for a row length) is left out.
    """
    best: tuple[tuple[bool, float], Preset] | None = None
    for candidate in presets().values():
        try:
            plan = preset_types(file.path, candidate.name, with_imatrix=with_imatrix)
        except QuantizeError:
            continue
        size = sum(qtype(plan[name]).tensor_bytes(t.shape) for name, t in file.tensors.items())
        rank = (plan != types, abs(8.0 * size / file.n_weights - bpw))
        if best is None or rank < best[0]:
            best = rank, candidate
    if best is None:
        raise QuantizeError(f"llama.cpp refuses every preset for {file.path}")
    return best[1]
