"""Tensors that must have one type become one item, whose choices are the types that all of them can have."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from mqnative.errors import InfeasibleConstraintsError
from mqnative.solve.constraints import Share
from mqnative.solve.problem import Choice, Item


def merged(items: Sequence[Item], shares: Sequence[Share]) -> tuple[list[Item], dict[str, tuple[str, ...]]]:
    """Items with those joined that must share a type.

    Args:
        items: by distinct names.
        shares: which tensors must be alike; groups that have a tensor in common are one.

    Returns:
        The items, and for each tensor that shares its type, all that do.

    Raises:
        InfeasibleConstraintsError: tensors that must share a type have none in common.
    """
    groups = _groups([use for item in items for use in item.uses(item.choices[0])], shares)
    group_of = {name: tuple(group) for group in groups for name in group}
    left: list[Item] = []
    joined: dict[tuple[str, ...], list[Item]] = {}
    for item in items:
        group = next((group_of[use] for use in item.uses(item.choices[0]) if use in group_of), None)
        if group is None:
            left.append(item)
        else:
            joined.setdefault(group, []).append(item)
    left += [_joined(group, members, shares) for group, members in joined.items()]
    return left, group_of


def _groups(names: Sequence[str], shares: Sequence[Share]) -> list[list[str]]:
    """Names that belong together, in groups of at least two."""
    group: dict[str, list[str]] = {name: [name] for name in names}
    for share in shares:
        alike: dict[tuple[str | None, ...], list[str]] = {}
        for name in names:
            key = share.key(name)
            if key is not None:
                alike.setdefault(key, []).append(name)
        for members in alike.values():
            together = list(dict.fromkeys(n for member in members for n in group[member]))
            for name in together:
                group[name] = together
    found = {id(g): g for g in group.values()}
    return [sorted(g) for g in found.values() if len(g) > 1]


def _joined(group: tuple[str, ...], items: Sequence[Item], shares: Sequence[Share]) -> Item:
    members = sorted(items, key=lambda item: item.name)
    by_type = [_by_type(group, item) for item in members]
    common = set.intersection(*map(set, by_type))
    choices = {
        c.qtype: c for t in sorted(common) for c in _together(members, [found[t] for found in by_type])
    }
    if not choices:
        texts = tuple(s.text for s in shares if any(s.key(name) is not None for name in group))
        raise InfeasibleConstraintsError(
            f"{' and '.join(texts)} asks for one type for {_listed(group)}, but no type is left that all of "
            "them can have; drop it, or the limits on them",
            tensor=members[0].name,
            constraints=texts,
        )
    known = [i.importance for i in members if i.importance is not None]
    importance = max(known) if known else None
    # A single item whose two uses are to be alike keeps its kind.
    second = members[0].second_use if len(members) == 1 else None
    return Item(members[0].name, tuple(choices.values()), importance, second)


def _by_type(group: tuple[str, ...], item: Item) -> dict[str, list[Choice]]:
    """The choices of an item that give all its tensors in the group one type, by that type."""
    found: dict[str, list[Choice]] = {}
    for choice in item.choices:
        types = {t for use, t in item.uses(choice).items() if use in group}
        if len(types) == 1:
            found.setdefault(types.pop(), []).append(choice)
    return found


def _together(members: Sequence[Item], alike: Sequence[Sequence[Choice]]) -> Iterator[Choice]:
    """Every way in which all tensors of a group get one type: ``alike`` has each member's choices of it."""
    for picked in product(*alike):
        parts: Mapping[str, str] = {
            name: t
            for item, choice in zip(members, picked, strict=True)
            for name, t in choice.types(item.name).items()
        }
        yield Choice(
            " + ".join(dict.fromkeys(c.qtype for c in picked)),
            sum(c.size_bytes for c in picked),
            math.fsum(c.damage for c in picked),
            math.fsum(c.variance for c in picked),
            tuple(parts.items()),
        )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]}, {names[1]} and {len(names) - 2} more"
