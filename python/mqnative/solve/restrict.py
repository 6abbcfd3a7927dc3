"""From constraints to a smaller problem.

Choices that are forbidden leave their items; tensors that must share a type become one item.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from mqnative.errors import ConstraintError, InfeasibleConstraintsError
from mqnative.formats.recipe_rules import match_hint
from mqnative.solve.constraints import Constraints, Share
from mqnative.solve.limits import EVERY, NO_FACTS, Allow, Cap, Limit, Pin, Start, TensorFacts
from mqnative.solve.problem import Item, Problem
from mqnative.solve.share import merged

Facts = Mapping[str, TensorFacts]


@dataclass(frozen=True)
class Restricted:
    """A problem under constraints.

    Attributes:
        free: the problem without them.
        problem: what is left; what solvers get.
        constraints: that made it so.
        forbidden: tensor -> choice of the free problem -> the limits that forbid it.
        shared: tensor -> all tensors that must have its type, of those that must share one.
    """

    free: Problem
    problem: Problem
    constraints: Constraints
    forbidden: Mapping[str, Mapping[str, tuple[str, ...]]]
    shared: Mapping[str, tuple[str, ...]]


def restrict(
    problem: Problem,
    constraints: Constraints,
    facts: Facts | None = None,
    *,
    fixed: Collection[str] = (),
) -> Restricted:
    """Apply constraints.

    Args:
        problem: without any.
        constraints: what is demanded.
        facts: by tensor.
        fixed: names of the model's other tensors, whose type never changes; for messages.

    Raises:
        ConstraintError: a pattern matches no tensor that has a choice, or a cap has no errors to look at.
        InfeasibleConstraintsError: a tensor, or tensors that must share a type, are left without one.
    """
    facts = facts or {}
    names = [use for item in problem.items for use in item.uses(item.choices[0])]
    for limit in constraints.limits:
        _check_matches(limit, limit.text, names, fixed)
        _check_known(limit, names, facts)
    for share in constraints.shares:
        _check_shares(share, names, fixed)
    items, forbidden = [], {}
    for item in problem.items:
        why = _forbidden(item, constraints.limits, facts)
        forbidden[item.name] = why
        left = tuple(c for c in item.choices if c.qtype not in why)
        if not left:
            raise _contradiction(item, why)
        items.append(replace(item, choices=left))
    together, shared = merged(items, constraints.shares)
    most = constraints.max_types
    if problem.max_types is not None:
        most = problem.max_types if most is None else min(most, problem.max_types)
    left_problem = Problem(tuple(together), problem.fixed_bytes, most)
    return Restricted(problem, left_problem, constraints, forbidden, shared)


def _forbidden(item: Item, limits: Sequence[Limit], facts: Facts) -> dict[str, tuple[str, ...]]:
    """Choices that some limit forbids, and which limits those are."""
    spoken = {use: [limit for limit in limits if limit.matches(use)] for use in item.uses(item.choices[0])}
    for use, found in spoken.items():
        is_pinned = any(isinstance(limit, Pin) for limit in found)
        spoken[use] = [
            limit
            for limit in found
            if not (is_pinned and isinstance(limit, Start))
            and not _stays(limit, item, use, facts.get(use, NO_FACTS))
        ]
    why: dict[str, tuple[str, ...]] = {}
    for choice in item.choices:
        texts = [
            limit.text
            for use, qtype in item.uses(choice).items()
            for limit in spoken.get(use, [])
            if not limit.allows(qtype, facts.get(use, NO_FACTS))
        ]
        if texts:
            why[choice.qtype] = tuple(dict.fromkeys(texts))
    return why


def _stays(limit: Limit, item: Item, use: str, facts: TensorFacts) -> bool:
    """Whether an allow-list has nothing for this tensor, which then keeps its stored type."""
    if not isinstance(limit, Allow):
        return False
    types = {item.uses(choice)[use] for choice in item.choices}
    return facts.source in types and not any(limit.allows(t, facts) for t in types - {facts.source})


def _check_matches(limit: Limit | Share, text: str, names: Collection[str], fixed: Collection[str]) -> None:
    if limit.match == EVERY or any(limit.pattern.fullmatch(name) for name in names):
        return
    never = next((name for name in fixed if limit.pattern.fullmatch(name)), None)
    if never is not None:
        raise ConstraintError(
            f"{text} matches only tensors whose type never changes, such as {never}; remove it",
            constraint=text,
            tensor=never,
        )
    hint = match_hint(limit.pattern, [*names, *fixed])
    raise ConstraintError(f"{text} matches no tensor of the model; {hint}", constraint=text)


def _check_known(limit: Limit, names: Collection[str], facts: Facts) -> None:
    if not isinstance(limit, Cap):
        return
    for name in filter(limit.matches, names):
        known = facts.get(name, NO_FACTS)
        if not (known.rmse if limit.metric == "rmse" else known.max_error):
            raise ConstraintError(
                f"{limit.text} needs the weight errors of {name}, which were not measured; sweep the model",
                constraint=limit.text,
                tensor=name,
            )


def _check_shares(share: Share, names: Sequence[str], fixed: Collection[str]) -> None:
    _check_matches(share, share.text, names, fixed)
    keys = [key for key in map(share.key, names) if key is not None]
    if len(set(keys)) == len(keys):
        only = next(name for name in names if share.key(name) is not None)
        raise ConstraintError(
            f"{share.text} puts no two tensors together ({only} stands alone); tensors share a type where "
            "the pattern's groups match the same text",
            constraint=share.text,
            tensor=only,
        )


def _contradiction(item: Item, why: Mapping[str, tuple[str, ...]]) -> InfeasibleConstraintsError:
    """The fewest limits that together leave an item nothing."""
    texts = list(dict.fromkeys(text for found in why.values() for text in found))
    at_fault = tuple(texts)
    for n in range(1, len(texts)):
        few = next(
            (some for some in combinations(texts, n) if all(set(some) & set(why[c]) for c in why)), None
        )
        if few is not None:
            at_fault = few
            break
    types = ", ".join(c.qtype for c in item.choices)
    verb = "contradict each other: together they leave" if len(at_fault) > 1 else "leaves"
    way_out = "drop or change one of them" if len(at_fault) > 1 else "change it"
    return InfeasibleConstraintsError(
        f"{' and '.join(at_fault)} {verb} {item.name} no type of those it can have ({types}); {way_out}",
        tensor=item.name,
        constraints=at_fault,
    )
