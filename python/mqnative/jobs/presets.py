"""The mixes everyone else uses, as rivals: their types, sizes, and which of them is worth comparing with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mqnative.build.plan import upstream_header_bytes
from mqnative.core.presets import preset_types, presets, requires_imatrix
from mqnative.errors import QuantizeError
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.imatrix import Imatrix
from mqnative.formats.qtypes import qtype
from mqnative.jobs.candidates import Importances

# What people compare with (the seed's list), whatever their size.
STANDARD = ("Q8_0", "Q6_K", "Q4_K_M")
_ALIGNMENT = 32


@dataclass(frozen=True)
class Rival:
    """A preset applied to this model.

    Attributes:
        types: of every tensor.
        size_bytes: of the file llama-quantize would write: this header, these tensors.
        bpw: 8 x tensor bytes / weights.
    """

    name: str
    types: Mapping[str, str]
    size_bytes: int
    bpw: float


def rivals(
    file: GGUFFile, importances: Importances, header_bytes: int, *, with_imatrix: bool = True
) -> dict[str, Rival]:
    """Every preset that llama-quantize can write for this model with these importances.

    Args:
        file: the model.
        importances: by tensor name.
        header_bytes: of the file that llama-quantize would write.
        with_imatrix: whether it would be given an imatrix.
    """
    found = {}
    for preset in presets().values():
        if not qtype(preset.default_type).is_quantized:
            continue
        try:
            types = preset_types(file.path, preset.name, with_imatrix=with_imatrix)
        except QuantizeError:
            continue
        missing = (
            name
            for name, weights in importances.items()
            if weights is None and name in types and requires_imatrix(name, types[name], ftype=preset.ftype)
        )
        if any(missing):
            continue
        sizes = {name: qtype(types[name]).tensor_bytes(t.shape) for name, t in file.tensors.items()}
        padded = sum(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes.values())
        bpw = 8.0 * sum(sizes.values()) / file.n_weights
        found[preset.name] = Rival(preset.name, types, header_bytes + padded, bpw)
    return found


def presets_of(file: GGUFFile, imatrix: Imatrix | None, importances: Importances) -> dict[str, Rival]:
    """`rivals`, as llama-quantize would write them with the same imatrix, or with none."""
    header = upstream_header_bytes(file, imatrix, "imatrix.gguf")
    return rivals(file, importances, header, with_imatrix=imatrix is not None)


def near_rivals(found: Mapping[str, Rival], budget_bytes: int, count: int) -> list[Rival]:
    """The ``count`` largest presets that fit the budget: the ones that could be best at that size."""
    fitting = [r for r in found.values() if r.size_bytes <= budget_bytes]
    return sorted(fitting, key=lambda r: -r.size_bytes)[:count]
