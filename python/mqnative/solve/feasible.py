"""Whether a budget and constraints can be met together, and which of them is in the way."""

from __future__ import annotations

from collections.abc import Callable

from mqnative.errors import InfeasibleBudgetError, InfeasibleConstraintsError
from mqnative.solve.constraints import Constraints
from mqnative.solve.distinct import smallest_bytes
from mqnative.solve.problem import Problem, bytes_text
from mqnative.solve.restrict import Facts, Restricted, restrict


def restricted(
    problem: Problem, constraints: Constraints, facts: Facts, *, fixed: tuple[str, ...] = ()
) -> Restricted:
    """`restrict`; where nothing is left, the error says how small a file is without the constraint at fault.

    Raises:
        ConstraintError: as `restrict`.
        InfeasibleConstraintsError: with ``smallest_bytes`` of the file that one constraint less would allow.
    """
    try:
        found = restrict(problem, constraints, facts, fixed=fixed)
    except InfeasibleConstraintsError as error:
        sizes = _sizes_without(error.constraints or (), constraints, lambda c: restrict(problem, c, facts))
        raise _with_sizes(error, sizes) from None
    if smallest_bytes(found.problem) is None:
        text = f"--max-types {constraints.max_types}"
        few = InfeasibleConstraintsError(
            f"{text} cannot be met: no {constraints.max_types} types give every tensor one that it can have; "
            "allow more types, or fewer limits",
            constraints=(text,),
        )
        sizes = _sizes_without(constraints.texts, constraints, lambda c: restrict(problem, c, facts))
        raise _with_sizes(few, sizes)
    return found


def require_fit(found: Restricted, facts: Facts, budget_bytes: int) -> None:
    """Refuse a budget that the constraints leave too small.

    Raises:
        InfeasibleBudgetError: with the smallest feasible size; its ``constraint`` is the one without which
            the smallest file would be smallest, if any makes it larger.
    """
    smallest = smallest_bytes(found.problem)
    assert smallest is not None  # restricted() has seen to it
    if budget_bytes >= smallest:
        return
    sizes = _sizes_without(
        found.constraints.texts, found.constraints, lambda c: restrict(found.free, c, facts)
    )
    least = min(sizes, key=lambda text: (sizes[text], text), default=None)
    binds = least if least is not None and sizes[least] < smallest else None
    why = f"; ask for {bytes_text(smallest)} to {bytes_text(found.problem.largest_bytes)}"
    if binds is not None:
        enough = "" if sizes[binds] <= budget_bytes else ", still too large"
        why = f"; {binds} binds: without it the smallest takes {bytes_text(sizes[binds])}{enough}"
    elif found.constraints.texts:
        together = found.free.smallest_bytes
        if together < smallest:
            why += f" (the constraints bind together: without all of them, {bytes_text(together)})"
    raise InfeasibleBudgetError(
        f"no mix of the allowed types fits {bytes_text(budget_bytes)}: the smallest takes "
        f"{bytes_text(smallest)}{why}",
        budget_bytes=budget_bytes,
        smallest_bytes=smallest,
        largest_bytes=found.problem.largest_bytes,
        constraint=binds,
    )


def _sizes_without(
    texts: tuple[str, ...], constraints: Constraints, apply: Callable[[Constraints], Restricted]
) -> dict[str, int]:
    """The smallest file without each constraint, of those without which there is one."""
    sizes = {}
    for text in dict.fromkeys(texts):
        try:
            size = smallest_bytes(apply(constraints.without(text)).problem)
        except InfeasibleConstraintsError:
            continue
        if size is not None:
            sizes[text] = size
    return sizes


def _with_sizes(error: InfeasibleConstraintsError, sizes: dict[str, int]) -> InfeasibleConstraintsError:
    """The error, with what dropping one constraint would allow."""
    if not sizes:
        return error
    text = min(sizes, key=lambda t: (sizes[t], t))
    return InfeasibleConstraintsError(
        f"{error.message}; without {text} the smallest file takes {bytes_text(sizes[text])}",
        tensor=error.tensor,
        constraints=error.constraints,
        smallest_bytes=sizes[text],
    )
