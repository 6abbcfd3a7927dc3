"""Which types each tensor may get, once row lengths and missing importances are taken into account."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from mqnative.build.fallback import legal_type
from mqnative.build.plan import ModelTensor
from mqnative.core.presets import requires_imatrix
from mqnative.errors import UnsupportedTypeError
from mqnative.formats.imatrix import Imatrix
from mqnative.formats.qtypes import all_types, qtype
from mqnative.formats.tied import EMBEDDING, HEAD, is_tied

Importances = dict[str, npt.NDArray[np.float32] | None]


def default_targets() -> tuple[str, ...]:
    """Every quantized type that ggml writes."""
    return tuple(t.name for t in all_types().values() if t.is_target and t.is_quantized)


def all_targets() -> tuple[str, ...]:
    """Every type that ggml writes; those that are not quantized are worth it for larger sources only."""
    return tuple(t.name for t in all_types().values() if t.is_target)


def importances_of(tensors: Mapping[str, ModelTensor], imatrix: Imatrix | None) -> Importances:
    """The importances each quantizable tensor is encoded with; None where the imatrix has no row.

    Of a tied embedding the head is named, too: it may get a type of its own.

    Raises:
        ImatrixError: a row has the wrong length.
    """
    found: Importances = {
        name: None if imatrix is None else imatrix.weights_for(name, t.info.shape)
        for name, t in tensors.items()
        if t.quantizable
    }
    if is_tied(found):
        found[HEAD] = found[EMBEDDING]
    return found


def candidate_types(
    tensors: Mapping[str, ModelTensor], importances: Importances, targets: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """The legal types of each tensor that may change: quantizable and not quantized already.

    A type that a row does not fill is replaced as llama.cpp replaces it; one that needs importances is left
    out where there are none, and one that is not quantized unless it is smaller than the tensor's own, which
    is not among them.
    """
    found = {}
    for name, tensor in tensors.items():
        if not tensor.quantizable or tensor.info.qtype.is_quantized or not tensor.info.qtype.is_target:
            continue
        types = (_legal(tensor, t, importances[name]) for t in targets)
        legal = dict.fromkeys(t for t in types if t is not None and t != tensor.qtype_name)
        found[name] = tuple(legal)
    return found


def _legal(tensor: ModelTensor, target: str, weights: npt.NDArray[np.float32] | None) -> str | None:
    info = tensor.info
    try:
        legal = qtype(legal_type(target, info.shape[0]))
    except UnsupportedTypeError:
        return None
    if not legal.is_quantized and legal.bpw >= info.qtype.bpw:
        return None
    return None if weights is None and requires_imatrix(info.name, legal.name) else legal.name
