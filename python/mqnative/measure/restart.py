"""Where a pass over a mix may start, and whether that gives the bits of a whole pass.

A swapped tensor of layer L changes nothing before L. Starting there is exact unless a layer also reads what
an earlier one left elsewhere than in its output, such as a cache shared between layers; so it is tried on the
first chunk, with nothing swapped, for every layer that is used: an identity swap must read exactly 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from mqnative.core.model import Trace

_LAYER = re.compile(r"blk\.(\d+)\.")
_HEAD = ("output.", "output_norm.")


def first_layer(names: Iterable[str], n_layer: int) -> int:
    """The first layer that reads one of these tensors.

    Returns:
        1 to n_layer, which is the head; 0 where the whole model must run: layer 0, the embedding, tensors
        that do not belong to one layer, or no tensor at all.
    """
    return min((_layer_of(name, n_layer) for name in names), default=0)


def _layer_of(name: str, n_layer: int) -> int:
    if name.startswith(_HEAD):
        return n_layer
    found = _LAYER.match(name)
    return min(int(found[1]), n_layer) if found else 0


def spread(layers: Iterable[int], limit: int) -> list[int]:
    """At most ``limit`` of the layers, evenly spread; passes then start at the next one before."""
    ordered = sorted(set(layers))
    if len(ordered) <= limit:
        return ordered
    return [ordered[i * len(ordered) // limit] for i in range(limit)]


class Restarts:
    """Which layers passes of one model may start at, as far as they were tried."""

    def __init__(self) -> None:
        self._exact: dict[int, bool] = {}

    def usable(self, layers: Iterable[int]) -> list[int]:
        """Those that were not found inexact."""
        return [layer for layer in sorted(set(layers)) if layer > 0 and self._exact.get(layer, True)]

    def check(self, trace: Trace, repeats: Callable[[int], bool]) -> None:
        """Try every layer of the trace that was not tried yet; nothing may be swapped in.

        Args:
            trace: of the reference.
            repeats: whether a pass from this layer on gives the reference's bits.
        """
        for layer in trace.layers:
            if layer not in self._exact:
                self._exact[layer] = repeats(layer)

    def start(self, trace: Trace, layer: int) -> int | None:
        """The last exact layer of the trace that is not after ``layer``; None: the whole model."""
        return max((i for i in trace.layers if i <= layer and self._exact.get(i, False)), default=None)
