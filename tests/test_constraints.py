"""Constraints: every one is kept, by every solver, and one that cannot be kept is named."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqnative.errors import ConstraintError, InfeasibleBudgetError, InfeasibleConstraintsError, RecipeError
from mqnative.formats.qtypes import qtype
from mqnative.solve.constraints import Constraints, Share
from mqnative.solve.distinct import smallest_bytes
from mqnative.solve.exact import solve_exact
from mqnative.solve.feasible import require_fit, restricted
from mqnative.solve.limits import Allow, Cap, Ceiling, Floor, Limit, Pin, Start, TensorFacts
from mqnative.solve.problem import Choice, Item, Problem, Solution
from mqnative.solve.restrict import restrict
from mqnative.solve.solvers import SOLVERS, Settings, solve

TYPES = ("IQ2_XS", "Q2_K", "Q3_K", "Q4_K", "Q6_K", "Q8_0")
NAMES = ("token_embd.weight", "blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.1.attn_q.weight",
         "blk.1.attn_k.weight", "output.weight")  # fmt: skip


def size_of(name: str, type_: str) -> int:
    n_weights = 256 * (3 + NAMES.index(name) % 3)
    return int(n_weights * qtype(type_).bpw / 8)


def model(damages: Sequence[Sequence[float]], *, types: Sequence[str] = TYPES, fixed: int = 7) -> Problem:
    """The named tensors, each at every type; damages by tensor and type."""
    items = []
    for name, row in zip(NAMES, damages, strict=False):
        choices = [Choice(t, size_of(name, t), d, d * d) for t, d in zip(types, row, strict=True)]
        items.append(Item(name, tuple(choices), importance=NAMES.index(name) / (len(NAMES) - 1)))
    return Problem(tuple(items), fixed)


EVEN = model([[2.0 ** -qtype(t).bpw * (k + 1) for t in TYPES] for k in range(len(NAMES))])
ROOMY = EVEN.largest_bytes
FACTS = {
    name: TensorFacts(
        source="BF16",
        rmse={t: 2.0 ** -qtype(t).bpw for t in TYPES},
        max_error={t: 4 * 2.0 ** -qtype(t).bpw for t in TYPES},
        rms=0.5,
        importance=k / (len(NAMES) - 1),
    )
    for k, name in enumerate(NAMES)
}


def solved(constraints: Constraints, budget: int = ROOMY, problem: Problem = EVEN) -> Solution:
    return solve_exact(restrict(problem, constraints, FACTS).problem, budget)


# --- what each kind means ---


def test_pin_gives_exactly_the_type() -> None:
    found = solved(Constraints((Pin(r"blk\.\d+\.attn_k\.weight", "q3_k"),)))
    assert found.types["blk.0.attn_k.weight"] == found.types["blk.1.attn_k.weight"] == "Q3_K"
    assert found.types["output.weight"] == "Q8_0"


def test_floor_and_ceiling_are_bits_per_weight() -> None:
    limits = (Floor("output.weight", "Q4_K"), Ceiling(".*attn.*", "Q3_K"))
    small = solved(Constraints(limits), restrict(EVEN, Constraints(limits)).problem.smallest_bytes)
    assert small.types["output.weight"] == "Q4_K"
    assert small.types["token_embd.weight"] == "IQ2_XS"
    large = solved(Constraints(limits))
    assert {t for n, t in large.types.items() if "attn" in n} == {"Q3_K"}
    assert large.types["output.weight"] == "Q8_0"


def test_start_is_a_ceiling_for_all_but_pinned_tensors() -> None:
    found = solved(Constraints((Start(".*", "Q6_K"), Pin("output.weight", "Q8_0"))))
    assert found.types.pop("output.weight") == "Q8_0"
    assert set(found.types.values()) == {"Q6_K"}


def test_allow_list_leaves_only_its_types() -> None:
    found = solved(Constraints((Allow(".*", ("Q4_K", "Q2_K")),)), (EVEN.smallest_bytes + ROOMY) // 3)
    assert set(found.types.values()) == {"Q2_K", "Q4_K"}


def test_allow_list_keeps_a_tensor_that_can_hold_none_of_it_as_it_is() -> None:
    odd = Item("odd.weight", (Choice("BF16", 600, 0.0), Choice("Q8_0", 300, 0.1)))
    problem = Problem((*EVEN.items, odd), 0)
    facts = {**FACTS, "odd.weight": TensorFacts(source="BF16")}
    found = restrict(problem, Constraints((Allow(".*", ("Q4_K", "Q2_K")),)), facts).problem
    assert solve_exact(found, 10**6).types["odd.weight"] == "BF16"


def test_rows_that_do_not_fit_take_what_llama_cpp_writes_instead() -> None:
    odd = Item("odd.weight", (Choice("Q5_0", 400, 0.2), Choice("Q8_0", 600, 0.1), Choice("Q4_0", 300, 0.4)))
    facts = {"odd.weight": TensorFacts(source="BF16", legal={"Q4_K": "Q5_0", "Q2_K": "Q4_0", "Q6_K": "Q8_0"})}

    def left(*limits: Limit) -> set[str]:
        found = restrict(Problem((odd,), 0), Constraints(limits), facts)
        return {c.qtype for c in found.problem.items[0].choices}

    assert left(Pin("odd.weight", "Q4_K")) == {"Q5_0"}
    assert left(Ceiling(".*", "Q4_K")) == {"Q5_0", "Q4_0"}
    assert left(Start(".*", "Q2_K")) == {"Q4_0"}
    assert left(Floor(".*", "Q4_K")) == {"Q5_0", "Q8_0", "Q4_0"}
    assert left(Allow(".*", ("Q6_K", "Q2_K"))) == {"Q8_0", "Q4_0"}


@pytest.mark.parametrize("metric", ["rmse", "max_error"])
def test_cap_keeps_every_tensor_under_the_error(metric: str) -> None:
    cap = Cap(".*", metric, 0.03)  # type: ignore[arg-type]
    found = solved(Constraints((cap,)), restrict(EVEN, Constraints((cap,)), FACTS).problem.smallest_bytes)
    errors = {n: getattr(FACTS[n], metric)[t] for n, t in found.types.items()}
    assert max(errors.values()) <= 0.03
    # The next smaller type would not do.
    assert all(e > 0.01 for e in errors.values())


def test_cap_scaled_by_importance_is_looser_for_the_unimportant() -> None:
    cap = Cap(".*", "rmse", 0.03, by_importance=True)
    small = solved(Constraints((cap,)), restrict(EVEN, Constraints((cap,)), FACTS).problem.smallest_bytes)
    assert FACTS["output.weight"].rmse[small.types["output.weight"]] <= 0.03
    assert FACTS["token_embd.weight"].rmse[small.types["token_embd.weight"]] > 0.03
    for name, t in small.types.items():
        assert FACTS[name].rmse[t] <= 0.03 / max(FACTS[name].importance or 0.0, 0.1)


def test_relative_cap_is_a_share_of_the_root_mean_square() -> None:
    assert Cap(".*", "rmse", 0.1, relative=True).limit_for(FACTS["output.weight"]) == 0.05
    assert Cap(".*", "rmse", 0.1, relative=True).text == "--max-rmse 10%"


def test_stored_type_meets_every_cap() -> None:
    item = Item("a.weight", (Choice("BF16", 10, 0.0), Choice("Q8_0", 5, 0.1)))
    facts = {"a.weight": TensorFacts(source="BF16", rmse={"Q8_0": 1.0})}
    found = restrict(Problem((item,), 0), Constraints((Cap(".*", "rmse", 1e-9),)), facts)
    assert [c.qtype for c in found.problem.items[0].choices] == ["BF16"]


def test_shared_tensors_are_decided_together_group_by_group() -> None:
    share = Share(r"blk\.(\d+)\.attn_[qk]\.weight")
    for budget in range(EVEN.smallest_bytes, EVEN.largest_bytes, 37):
        types = solved(Constraints(shares=(share,)), budget).types
        assert types["blk.0.attn_q.weight"] == types["blk.0.attn_k.weight"]
        assert types["blk.1.attn_q.weight"] == types["blk.1.attn_k.weight"]
        assert set(types) == set(NAMES)


def test_groups_that_overlap_become_one() -> None:
    shares = (Share(r"blk\.0\..*"), Share(r".*attn_q\.weight"))
    types = solved(Constraints(shares=shares), EVEN.smallest_bytes + 400).types
    together = ("blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.1.attn_q.weight")
    assert len({types[n] for n in together}) == 1


def test_at_most_so_many_types() -> None:
    for n in range(1, len(TYPES) + 1):
        for budget in range(EVEN.smallest_bytes, EVEN.largest_bytes + 1, 97):
            found = solved(Constraints(max_types=n), budget)
            assert len(set(found.types.values())) <= n
            assert found.size_bytes <= budget


def test_constraint_is_named_as_the_command_line_writes_it() -> None:
    constraints = Constraints(
        (Pin("a", "Q4_K"), Floor("b", "Q3_K"), Ceiling("c", "Q8_0"), Start(".*", "Q6_K"),
         Allow(".*", ("Q4_K", "Q6_K")), Allow("d", ("Q2_K",)), Allow(".*", ("Q4_K",), "--no-iq"),
         Cap(".*", "max_error", 0.5, by_importance=True), Cap("e", "rmse", 0.25)),
        (Share("f"),), 3,
    )  # fmt: skip
    assert constraints.texts == (
        "--pin a=Q4_K", "--floor b=Q3_K", "--ceiling c=Q8_0", "--from Q6_K", "--types Q4_K,Q6_K",
        "--allow d=Q2_K", "--no-iq", "--max-error 0.5 --caps-by-importance", "--max-rmse e=0.25", "--share f",
        "--max-types 3",
    )  # fmt: skip
    for text in constraints.texts:
        assert set(constraints.without(text).texts) == set(constraints.texts) - {text}


# --- exact under constraints equals trying everything ---

damages = st.integers(0, 640).map(lambda n: n / 64)
type_names = st.sampled_from(TYPES)
patterns = st.sampled_from((".*", r".*attn.*", r"blk\.0\..*", r".*attn_q\.weight", r"token_embd\.weight"))
limits = st.one_of(
    st.builds(Pin, st.sampled_from(NAMES[:4]).map(re.escape), type_names),
    st.builds(Floor, patterns, st.sampled_from(("Q2_K", "Q3_K"))),
    st.builds(Ceiling, patterns, st.sampled_from(("Q4_K", "Q6_K"))),
    st.builds(Start, st.just(".*"), st.sampled_from(("Q4_K", "Q6_K"))),
    st.builds(Allow, patterns, st.sets(type_names, min_size=2).map(lambda s: tuple(sorted(s)))),
    st.builds(Cap, patterns, st.sampled_from(("rmse", "max_error")), st.sampled_from((0.05, 0.2)),
              st.booleans(), st.booleans()),
)  # fmt: skip
constraint_sets = st.builds(
    Constraints,
    st.lists(limits, max_size=3).map(tuple),
    st.lists(st.builds(Share, st.sampled_from((r"blk\.(\d+)\..*", r".*attn_q\.weight"))), max_size=2).map(
        tuple
    ),
    st.none() | st.integers(1, 3),
)


def allowed(constraints: Constraints, types: dict[str, str]) -> bool:
    """Whether a mix keeps every constraint, looked at one tensor and one constraint at a time."""
    pinned = {n for n in types for limit in constraints.limits if isinstance(limit, Pin) and limit.matches(n)}
    for name, t in types.items():
        for limit in constraints.limits:
            speaks = limit.matches(name) and not (isinstance(limit, Start) and name in pinned)
            if speaks and not limit.allows(t, FACTS[name]):
                return False
    for share in constraints.shares:
        groups: dict[object, set[str]] = {}
        for name, t in types.items():
            key = share.key(name)
            if key is not None:
                groups.setdefault(key, set()).add(t)
        if any(len(found) > 1 for found in groups.values()):
            return False
    return constraints.max_types is None or len(set(types.values())) <= constraints.max_types


def brute_force(problem: Problem, constraints: Constraints, budget: int | None) -> tuple[float, int] | None:
    """Damage and bytes of the best mix by trying all; without a budget the smallest one's, bytes first."""
    best: tuple[float, float] | None = None
    for mix in itertools.product(*(i.choices for i in problem.items)):
        types = {i.name: c.qtype for i, c in zip(problem.items, mix, strict=True)}
        size = problem.fixed_bytes + sum(c.size_bytes for c in mix)
        if (budget is None or size <= budget) and allowed(constraints, types):
            damage = math.fsum(c.damage for c in mix)
            key = (size, damage) if budget is None else (damage, size)
            best = key if best is None else min(best, key)
    return best  # type: ignore[return-value]


@settings(max_examples=250, deadline=None)
@given(
    st.lists(st.lists(damages, min_size=6, max_size=6), min_size=4, max_size=4), constraint_sets, st.data()
)
def test_exact_under_constraints_equals_trying_everything(
    table: list[list[float]], constraints: Constraints, data: st.DataObject
) -> None:
    problem = model(table)
    smallest = brute_force(problem, constraints, None)
    try:
        found = restricted(problem, constraints, FACTS)
    except InfeasibleConstraintsError:
        assert smallest is None
        return
    assert smallest is not None
    assert smallest_bytes(found.problem) == smallest[0]
    budget = data.draw(st.integers(problem.smallest_bytes, problem.largest_bytes))
    expected = brute_force(problem, constraints, budget)
    if expected is None:
        with pytest.raises(InfeasibleBudgetError) as refused:
            require_fit(found, FACTS, budget)
        assert refused.value.smallest_bytes == smallest[0]
        with pytest.raises(InfeasibleBudgetError):
            solve_exact(found.problem, budget)
        return
    require_fit(found, FACTS, budget)
    solution = solve_exact(found.problem, budget)
    assert allowed(constraints, solution.types)
    assert (solution.damage, solution.size_bytes) == expected
    assert solution.gap <= 1e-6
    assert solution.lower_bound <= solution.damage


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(damages, min_size=6, max_size=6), min_size=4, max_size=4), constraint_sets, st.data()
)
def test_every_solver_keeps_the_constraints_and_none_beats_exact(
    table: list[list[float]], constraints: Constraints, data: st.DataObject
) -> None:
    problem = model(table)
    try:
        found = restricted(problem, constraints, FACTS)
        budget = data.draw(st.integers(problem.smallest_bytes, problem.largest_bytes))
        require_fit(found, FACTS, budget)
    except (InfeasibleConstraintsError, InfeasibleBudgetError):
        return
    best = solve(found.problem, budget)
    for method in SOLVERS:
        try:
            solution = solve(found.problem, budget, method)
        except InfeasibleBudgetError:
            assert method == "uniform"  # one type for all may fit where no mix is that small
            continue
        assert allowed(constraints, solution.types), method
        assert solution.size_bytes <= budget
        assert solution.damage >= best.damage
        assert solution.lower_bound <= best.damage + 1e-12


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(damages, min_size=6, max_size=6), min_size=4, max_size=4), constraint_sets, st.data()
)
def test_order_decides_nothing_and_more_budget_is_never_worse(
    table: list[list[float]], constraints: Constraints, data: st.DataObject
) -> None:
    problem = model(table)
    try:
        found = restricted(problem, constraints, FACTS)
    except InfeasibleConstraintsError:
        return
    items = [
        Item(i.name, tuple(data.draw(st.permutations(i.choices))), i.importance)
        for i in data.draw(st.permutations(problem.items))
    ]
    other = restricted(Problem(tuple(items), problem.fixed_bytes), constraints, FACTS)
    smallest = smallest_bytes(found.problem)
    assert smallest is not None
    budgets = sorted(
        data.draw(st.lists(st.integers(smallest, problem.largest_bytes + 1), min_size=2, max_size=4))
    )
    for method in ("exact", "greedy", "knee", "bins"):
        solutions = [solve(found.problem, b, method) for b in budgets]
        assert solutions == [solve(other.problem, b, method) for b in budgets]
    exact = [solve(found.problem, b).damage for b in budgets]
    assert exact == sorted(exact, reverse=True)


# --- what is refused ---


def test_pins_that_contradict_each_other_are_named() -> None:
    pins = (Pin("output.weight", "Q4_K"), Pin(r"output\..*", "Q6_K"))
    with pytest.raises(InfeasibleConstraintsError) as refused:
        restricted(EVEN, Constraints((*pins, Start(".*", "Q6_K"))), FACTS)
    assert refused.value.tensor == "output.weight"
    assert set(refused.value.constraints or ()) == {p.text for p in pins}
    assert refused.value.exit_code == 3
    assert "output.weight" in str(refused.value)
    assert all(p.text in str(refused.value) for p in pins)


def test_error_of_an_empty_set_tells_what_one_constraint_less_would_allow() -> None:
    limits = (Floor("output.weight", "Q6_K"), Ceiling("output.weight", "Q3_K"))
    with pytest.raises(InfeasibleConstraintsError) as refused:
        restricted(EVEN, Constraints(limits), FACTS)
    without = [restrict(EVEN, Constraints((limit,)), FACTS).problem.smallest_bytes for limit in limits]
    assert refused.value.smallest_bytes == min(without)


def test_pin_outside_an_allow_list_is_a_contradiction() -> None:
    limits = (Pin("output.weight", "IQ2_XS"), Allow(".*", ("Q4_K", "Q6_K"), "--no-iq"))
    with pytest.raises(InfeasibleConstraintsError, match=r"--no-iq"):
        restricted(EVEN, Constraints(limits), FACTS)


def test_pin_to_a_type_the_tensor_cannot_have_lists_those_it_can() -> None:
    with pytest.raises(InfeasibleConstraintsError, match=r"Q5_K.*output.weight.*IQ2_XS, Q2_K") as refused:
        restricted(EVEN, Constraints((Pin("output.weight", "Q5_K"),)), FACTS)
    assert refused.value.constraints == ("--pin output.weight=Q5_K",)


@pytest.mark.parametrize(
    ("constraint", "hint"),
    [
        (Pin("blk.9.attn_q.weight", "Q4_K"), "the nearest is"),
        (Floor("attn_q", "Q4_K"), r"fits a part of .*add \.\*"),
        (Ceiling(r".*_norm\.weight", "Q4_K"), "never changes, such as blk.0.attn_norm.weight"),
        (Cap("nothing", "rmse", 1.0), "matches no tensor"),
    ],
)
def test_pattern_that_matches_nothing_is_refused(constraint: Limit, hint: str) -> None:
    with pytest.raises(ConstraintError, match=hint) as refused:
        restrict(EVEN, Constraints((constraint,)), FACTS, fixed=("blk.0.attn_norm.weight",))
    assert refused.value.constraint == constraint.text
    assert refused.value.exit_code == 2


def test_share_of_a_single_tensor_is_refused() -> None:
    with pytest.raises(ConstraintError, match="stands alone"):
        restrict(EVEN, Constraints(shares=(Share("output.weight"),)), FACTS)
    with pytest.raises(ConstraintError, match="matches no tensor"):
        restrict(EVEN, Constraints(shares=(Share("nothing"),)), FACTS)


def test_tensors_without_a_common_type_cannot_share_one() -> None:
    constraints = Constraints(
        (Pin("blk.0.attn_q.weight", "Q4_K"), Pin("blk.0.attn_k.weight", "Q6_K")), (Share(r"blk\.0\..*"),)
    )
    with pytest.raises(InfeasibleConstraintsError) as refused:
        restricted(EVEN, constraints, FACTS)
    assert refused.value.constraints == (r"--share blk\.0\..*",)


def test_too_few_types_for_the_pins_is_refused() -> None:
    constraints = Constraints((Pin("output.weight", "Q8_0"), Pin("token_embd.weight", "Q4_K")), (), 1)
    with pytest.raises(InfeasibleConstraintsError) as refused:
        restricted(EVEN, constraints, FACTS)
    assert refused.value.constraints == ("--max-types 1",)
    with pytest.raises(InfeasibleBudgetError) as none:
        solve_exact(restrict(EVEN, constraints, FACTS).problem, ROOMY)
    assert none.value.smallest_bytes is None


def test_infeasible_budget_names_the_constraint_that_binds() -> None:
    constraints = Constraints((Floor("token_embd.weight", "Q3_K"), Floor("output.weight", "Q8_0")))
    found = restricted(EVEN, constraints, FACTS)
    with pytest.raises(InfeasibleBudgetError) as refused:
        require_fit(found, FACTS, EVEN.smallest_bytes)
    assert refused.value.constraint == "--floor output.weight=Q8_0"
    assert refused.value.smallest_bytes == found.problem.smallest_bytes
    assert refused.value.exit_code == 3
    assert "binds" in str(refused.value)


def test_cap_without_errors_is_refused() -> None:
    with pytest.raises(ConstraintError, match="sweep"):
        restrict(EVEN, Constraints((Cap(".*", "rmse", 1.0),)), {})


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan, math.inf])
def test_error_limit_must_be_a_positive_number(limit: float) -> None:
    with pytest.raises(ConstraintError):
        Cap(".*", "rmse", limit)


def test_malformed_patterns_and_unknown_types_are_refused() -> None:
    with pytest.raises(RecipeError):
        Pin("(", "Q4_K")
    with pytest.raises(RecipeError):
        Share("(")
    with pytest.raises(RecipeError, match="Q4_K"):
        Pin(".*", "Q4_K_M")
    with pytest.raises(ConstraintError):
        Constraints(max_types=0)


# --- given mixes ---


def test_given_mix_is_counted_like_any_other() -> None:
    types = dict(zip(NAMES, ("Q4_K", "Q2_K", "Q2_K", "Q3_K", "Q8_0", "Q6_K"), strict=True))
    settings_ = Settings(mixes={"preset:MINE": types})
    found = solve(EVEN, None, "preset:MINE", settings_)
    assert found.types == types
    assert found.method == "preset:MINE"
    assert found.damage >= found.lower_bound > 0
    assert solve(EVEN, found.size_bytes, "preset:MINE", settings_) == found
    with pytest.raises(InfeasibleBudgetError) as refused:
        solve(EVEN, found.size_bytes - 1, "preset:MINE", settings_)
    assert refused.value.smallest_bytes == found.size_bytes
    part = restrict(EVEN, Constraints((Floor("blk.0.attn_q.weight", "Q3_K"),))).problem
    with pytest.raises(ConstraintError) as kept:
        solve(part, None, "preset:MINE", settings_)
    assert kept.value.tensor == "blk.0.attn_q.weight"
    few = restrict(EVEN, Constraints(max_types=2)).problem
    with pytest.raises(ConstraintError, match="--max-types 2"):
        solve(few, None, "preset:MINE", settings_)


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(ConstraintError, match="exact, greedy"):
        solve(EVEN, ROOMY, "best")
    with pytest.raises(ConstraintError, match="needs a budget"):
        solve(EVEN, None, "exact")
