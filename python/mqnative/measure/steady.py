"""Chunks of a probe without what a few tokens did that went another way.

Where a router chooses experts, the slightest change sends a token that was undecided to others, which costs
that token tenths of a nat. Whatever is changed, it is the same few tokens, so that damages that hold them do
not add up: on a small mixture of experts, single probes near 8 bits summed up to several times what the mix
of them lost. How much a chunk loses is told otherwise by the tensor's other chunks and by what other tensors
lose on that chunk; so much and no more than a little beyond is taken for the tensor's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

Chunks = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Key = TypeVar("Key")

# A chunk counts for at most so many times what the others promise. On dense models hardly any reaches it.
_LIMIT = 2.0
# Of fewer chunks none can be told to be out of the ordinary.
_LEAST_CHUNKS = 4
_TELLING = 0.75
# What rounding alone does, nats; a chunk where less is lost says nothing of others.
_NOTHING = 1e-12


def steady(probes: Mapping[Key, Chunks]) -> dict[Key, Chunks]:
    """Probes with their outlying chunks drawn in (winsorized).

    Args:
        probes: mean KLD of each chunk, nats per token; in number they differ, and all begin with the same.
    """
    n_shared = min(map(len, probes.values()), default=0)
    if n_shared < _LEAST_CHUNKS:
        return dict(probes)
    hardness = _hardness(list(probes.values()), n_shared)
    found = {}
    for key, klds in probes.items():
        hard = hardness[: len(klds)]
        found[key] = np.minimum(klds, _LIMIT * float(np.median(klds / hard)) * hard)
    return found


def _hardness(probes: list[Chunks], n_shared: int) -> Chunks:
    """How much more is lost on each chunk than on the usual one, whatever tensor is changed.

    Told by the quarter of the probes that lose most: there a token that goes another way counts least.
    """
    levels = np.array([float(np.median(klds[:n_shared])) for klds in probes])
    telling = [i for i in np.flatnonzero(levels >= np.quantile(levels, _TELLING)) if levels[i] > _NOTHING]
    found = np.ones(max(map(len, probes)))
    for chunk in range(len(found)):
        shares = [probes[i][chunk] / levels[i] for i in telling if len(probes[i]) > chunk]
        usual = float(np.median(shares)) if shares else 1.0
        found[chunk] = usual if usual > _NOTHING else 1.0
    return found
