"""Labels over tensors: which group a tensor belongs to, from its name.

The nine letters of hybrid names (E H Q K O U D X R), finer parts of them, and groups that names cannot
speak of. A label decides nothing by itself: a tensor of an unknown name has the group ``unknown``, follows
the base, and is worth a warning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mqnative.errors import GroupError
from mqnative.formats.group_table import LETTERS, OTHERS, ROLES

# What stands beside the weights -> part of the group ``never``.
_SUFFIXES = {
    **dict.fromkeys(("scale", "scales", "input_scale"), "scale"),
    **dict.fromkeys(("lora_a", "lora_b"), "lora"),
    "bias": "bias",
}
_NAME = re.compile(
    r"(?:(?P<stack>enc|dec)\.)?(?:blk\.(?P<block>[0-9]{1,9})\.)?(?P<role>.+?)"
    rf"(?:\.(?P<suffix>weight|{'|'.join(_SUFFIXES)}))?",
    re.DOTALL,
)
_NUMBER = re.compile(r"\.[0-9]+(?=\.|\Z)")
_NORM = re.compile(r"(?:^|[._])[eh]?norm(?:\d|[._]|\Z)")
# Image and audio towers have files and names of their own (mmproj).
_PROJECTOR = re.compile(r"(?:v|a|mm|sam|clip|resampler|adapter|model\.image_newline)(?:\.|\Z)")
_GROUP_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_RANK = {role: rank for rank, role in enumerate(ROLES)}


@dataclass(frozen=True)
class TensorName:
    """A tensor's name, taken apart.

    Attributes:
        stack: ``enc`` or ``dec`` in models that have both, else empty.
        block: number of the block, None outside of blocks.
        role: what is left: ``attn_v``, ``ffn_down_exps``; other numbers are read as 0.
        suffix: ``weight``, ``bias`` and the like; empty if there is none.
    """

    stack: str
    block: int | None
    role: str
    suffix: str

    @classmethod
    def of(cls, name: str) -> TensorName:
        """Take ``name`` apart."""
        found = _NAME.fullmatch(name)
        if found is None:  # the empty name
            return cls("", None, name, "")
        block = found["block"]
        role = _NUMBER.sub(".0", found["role"])
        return cls(found["stack"] or "", None if block is None else int(block), role, found["suffix"] or "")


@dataclass(frozen=True)
class Label:
    """The group of a tensor, and its part of it.

    Attributes:
        group: a letter, a key of ``OTHERS`` in `group_table`, or a user's own name.
        part: such as ``up`` of X; empty where the group has one part.
    """

    group: str
    part: str = ""

    def __str__(self) -> str:
        return f"{self.group}.{self.part}" if self.part else self.group

    @property
    def letter(self) -> str | None:
        """The letter that names use; None for groups that follow the base in a name."""
        return self.group if self.group in LETTERS else None

    @property
    def known(self) -> bool:
        """Whether the tensor's name is one of llama.cpp's, or one that the user sorted."""
        return self.group != "unknown"


@dataclass(frozen=True)
class UserGroup:
    """Tensors that a user puts together: those whose whole name matches ``match``.

    Raises:
        GroupError: the name is no identifier, or the expression is malformed.
    """

    name: str
    match: str
    pattern: re.Pattern[str] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not _GROUP_NAME.fullmatch(self.name):
            raise GroupError(
                f"{self.name!r} is no name for a group; use letters, digits and _", group=self.name
            )
        try:
            object.__setattr__(self, "pattern", re.compile(self.match))
        except (re.error, OverflowError, RecursionError) as error:
            raise GroupError(
                f"group {self.name}: '{self.match}' is not a regular expression ({error})",
                group=self.name,
                key=self.match,
            ) from None

    @classmethod
    def parse(cls, text: str) -> UserGroup:
        """From ``NAME=REGEX``.

        Raises:
            GroupError: it is something else.
        """
        name, equals, match = text.partition("=")
        if not (equals and match):
            raise GroupError(f"{text!r} is no group; write NAME=REGEX, such as first=blk\\.0\\..*", key=text)
        return cls(name.strip(), match)


def label(name: str) -> Label:
    """The label that a tensor's name alone gives; never fails."""
    parts = TensorName.of(name)
    if parts.suffix == "weight":
        if _NORM.search(parts.role):
            return Label("never", "norm")
        found = ROLES.get(parts.role)
        if found is not None and _in_place(found[0], parts):
            return Label(*found)
        return Label("projector" if _PROJECTOR.match(name) else "unknown")
    if parts.suffix:
        return Label("never", _SUFFIXES[parts.suffix])
    # llama.cpp quantizes nothing whose name does not end in "weight".
    return Label("never", "vector") if parts.role in ROLES or _NORM.search(parts.role) else Label("unknown")


def _in_place(group: str, parts: TensorName) -> bool:
    """Whether a letter's tensor stands where it belongs: embedding and head outside of blocks."""
    return group not in LETTERS or (group in "EH") == (parts.block is None)


def label_tensors(names: Iterable[str], user: Iterable[UserGroup] = ()) -> dict[str, Label]:
    """The labels of a whole model's tensors, in their order.

    A block with a prediction head (``nextn``) is a multi-token-prediction block: all that it quantizes has
    the group ``mtp``, since no ordinary pass runs it.

    Args:
        names: of all tensors.
        user: groups of the user's own; the first that matches decides, before everything else.

    Raises:
        GroupError: a user's group matches no tensor.
    """
    names, user = tuple(names), tuple(user)
    for group in user:
        if not any(group.pattern.fullmatch(name) for name in names):
            raise GroupError(
                f"group {group.name}: '{group.match}' matches no tensor of the model as a whole name",
                group=group.name,
                key=group.match,
            )
    parts = {name: TensorName.of(name) for name in names}
    drafting = {(p.stack, p.block) for p in parts.values() if p.role.startswith("nextn.")}
    found = {}
    for name in names:
        own = next((Label(g.name) for g in user if g.pattern.fullmatch(name)), None)
        found[name] = own or label(name)
        p = parts[name]
        drafts = own is None and p.block is not None and (p.stack, p.block) in drafting
        if drafts and found[name].group not in ("never", "mtp"):
            found[name] = Label("mtp", p.role)
    return found


def by_group(labels: Mapping[str, Label]) -> dict[str, list[str]]:
    """Tensor names by group: the letters in their order, then the others, then the user's."""
    order = {group: rank for rank, group in enumerate((*LETTERS, *OTHERS))}
    found: dict[str, list[str]] = {}
    for name, of_name in labels.items():
        found.setdefault(of_name.group, []).append(name)
    return {g: found[g] for g in sorted(found, key=lambda g: order.get(g, len(order)))}


def unknown_warning(labels: Mapping[str, Label]) -> str | None:
    """What to tell a user of tensors whose names nobody knows; None if there are none."""
    unknown = [name for name, found in labels.items() if not found.known]
    if not unknown:
        return None
    shown = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
    return f"{len(unknown)} tensors of no known group follow the base: {shown}"


def letter_pattern(letter: str) -> str:
    """An anchored expression for the names of a letter's tensors, for rules that people read.

    Raises:
        GroupError: not one of the nine letters.
    """
    if letter not in LETTERS:
        raise GroupError(f"{letter!r} is no group; the groups are {' '.join(LETTERS)}", group=letter)
    roles = [re.escape(role).replace(r"\.0", r"\.\d+") for role, found in ROLES.items() if found[0] == letter]
    names = "|".join(roles)
    return rf"(?:{names})\.weight" if letter in "EH" else rf"(?:(?:enc|dec)\.)?blk\.\d+\.(?:{names})\.weight"


def reading_rank(role: str) -> int:
    """Where a role stands when people read a transformer; unknown ones last."""
    return _RANK.get(TensorName.of(f"{role}.weight").role, len(_RANK))
