"""What a user may demand of a mix, beside its size."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from mqnative.errors import ConstraintError
from mqnative.formats.recipe_rules import name_pattern
from mqnative.solve.limits import Limit


@dataclass(frozen=True)
class Share:
    r"""Tensors that must have one type: all that match, or those of them whose captured groups are the same.

    ``blk\.(\d+)\.attn_[qkv]\.weight`` makes q, k and v of each block alike.
    """

    match: str
    pattern: re.Pattern[str] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", name_pattern(self.match))

    @property
    def text(self) -> str:
        """As on the command line."""
        return f"--share {self.match}"

    def key(self, name: str) -> tuple[str | None, ...] | None:
        """What tensors of one type have in common; None for those it does not speak of."""
        found = self.pattern.fullmatch(name)
        return None if found is None else found.groups()


@dataclass(frozen=True)
class Constraints:
    """All demands on a mix.

    Attributes:
        limits: on single tensors.
        shares: on the types of tensors among each other.
        max_types: at most so many different types among the tensors that have a choice.
    """

    limits: tuple[Limit, ...] = ()
    shares: tuple[Share, ...] = ()
    max_types: int | None = None

    def __post_init__(self) -> None:
        if self.max_types is not None and self.max_types < 1:
            raise ConstraintError(
                f"expected at least 1 type, got {self.max_types}", constraint=f"--max-types {self.max_types}"
            )

    @property
    def texts(self) -> tuple[str, ...]:
        """Every demand as the command line writes it."""
        most = () if self.max_types is None else (f"--max-types {self.max_types}",)
        return (*(limit.text for limit in self.limits), *(share.text for share in self.shares), *most)

    def without(self, text: str) -> Constraints:
        """The same without one of `texts`."""
        return Constraints(
            tuple(limit for limit in self.limits if limit.text != text),
            tuple(share for share in self.shares if share.text != text),
            None if text == f"--max-types {self.max_types}" else self.max_types,
        )


NO_CONSTRAINTS = Constraints()
