"""The ggml types: what a block holds, what it costs, what may be written.

Nothing here is a list kept by hand: every fact is read from ggml at run time through the compiled module.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from mqnative.errors import UnsupportedTypeError


@dataclass(frozen=True)
class QType:
    """One ggml tensor type.

    Attributes:
        id: ggml's number for the type, as stored in GGUF.
        name: the field's spelling, upper case (``Q4_K``, ``IQ2_XXS``, ``BF16``).
        block: weights per block; a row must hold a whole number of blocks.
        block_bytes: bytes per block.
        is_quantized: whether ggml calls the type quantized (F32, F16, BF16 and integers are not).
        is_target: whether ggml can write the type; activation formats and integers are not targets.
        needs_imatrix: whether ggml's encoder refuses to run without importances.
        activation: the type that ggml's CPU kernels turn activations into before they multiply.
    """

    id: int
    name: str
    block: int
    block_bytes: int
    is_quantized: bool
    is_target: bool
    needs_imatrix: bool
    activation: str

    @property
    def bpw(self) -> float:
        """Bits per weight, block scales included."""
        return 8.0 * self.block_bytes / self.block

    def row_bytes(self, n_per_row: int) -> int:
        """Bytes of a row of ``n_per_row`` weights.

        Raises:
            UnsupportedTypeError: the row is not a whole number of blocks.
        """
        if n_per_row % self.block:
            raise UnsupportedTypeError(
                f"rows of {n_per_row} weights do not fill blocks of {self.block}, which {self.name} needs",
                qtype=self.name,
                reason="row size",
            )
        return n_per_row // self.block * self.block_bytes

    def tensor_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor of GGUF shape ``shape`` (row length first)."""
        n_rows = 1
        for n in shape[1:]:
            n_rows *= n
        return self.row_bytes(shape[0]) * n_rows


@cache
def all_types() -> dict[str, QType]:
    """Every type ggml knows, by upper-case name, in ggml's order."""
    from mqnative.core.native import core

    return {t["name"]: QType(**t) for t in core().type_table()}


@cache
def types_by_id() -> dict[int, QType]:
    """Every type ggml knows, by ggml's number."""
    return {t.id: t for t in all_types().values()}


def qtype(name: str) -> QType:
    """The type called ``name``, in any case.

    Raises:
        UnsupportedTypeError: ggml knows no such type; the message lists those it knows.
    """
    found = all_types().get(name.upper())
    if found is None:
        raise UnsupportedTypeError(
            f"unknown type {name!r}; known types: {', '.join(all_types())}",
            qtype=name,
            reason="unknown type",
            allowed=tuple(all_types()),
        )
    return found
