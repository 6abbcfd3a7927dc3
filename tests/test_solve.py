"""The exact solver and its neighbours on problems small enough to see through, and on hard ones."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from mqnative.errors import InfeasibleBudgetError, NonFiniteError, UnsupportedTypeError
from mqnative.solve.dynamic import search
from mqnative.solve.exact import solve_exact, solve_table
from mqnative.solve.frontier import frontier
from mqnative.solve.hull import fill, pareto, relax, solve_greedy_hull, tabulate
from mqnative.solve.milp import solve_milp
from mqnative.solve.problem import Choice, Item, Problem, Solution, relative_gap
from mqnative.solve.settle import settle
from mqnative.solve.uniform import solve_uniform

# Bits per weight of twenty types, as ggml has them.
BPW = (1.5625, 1.75, 2.0625, 2.3125, 2.5625, 2.625, 3.0625, 3.4375, 3.5, 4.25, 4.5, 4.75, 5.0, 5.5, 5.75, 6.0,
       6.5625, 8.5, 9.0, 16.0)  # fmt: skip


def make_problem(*items: list[tuple[int, float]], fixed_bytes: int = 0) -> Problem:
    """Items t0, t1, ... with types A, B, ... of the given bytes and damages."""
    return Problem(
        tuple(
            Item(f"t{i}", tuple(Choice(chr(ord("A") + j), *pair) for j, pair in enumerate(pairs)))
            for i, pairs in enumerate(items)
        ),
        fixed_bytes,
    )


def model_like(n_tensors: int, seed: int, *, spread: float = 1.5, n_shapes: int = 7) -> Problem:
    """Tensors of a few shapes, twenty types, damage falling fourfold per bit and varying between tensors."""
    rng = np.random.default_rng(seed)
    shapes = 65536 * rng.integers(4, 2000, n_shapes)
    items = []
    for i in range(n_tensors):
        n_weights = int(shapes[rng.integers(n_shapes)])
        scale = n_weights * 1e-10 * math.exp(rng.normal(0, spread))
        noise = np.exp(rng.normal(0, 0.1 * spread, len(BPW)))
        choices = [
            Choice(f"T{b}", int(n_weights * b / 8), float(scale * 4.0**-b * e))
            for b, e in zip(BPW, noise, strict=True)
        ]
        items.append(Item(f"blk.{i}.w.weight", tuple(choices)))
    return Problem(tuple(items), 4096)


def share_of_range(problem: Problem, share: float) -> int:
    return int(problem.smallest_bytes + share * (problem.largest_bytes - problem.smallest_bytes))


def check(problem: Problem, solution: Solution, budget_bytes: int) -> None:
    """What every solution promises, counted from the problem alone."""
    picked = [next(c for c in i.choices if c.qtype == solution.types[i.name]) for i in problem.items]
    assert list(solution.types) == [i.name for i in problem.items]
    assert solution.size_bytes == problem.fixed_bytes + sum(c.size_bytes for c in picked) <= budget_bytes
    assert solution.damage == math.fsum(c.damage for c in picked)
    assert solution.lower_bound <= solution.damage
    assert solution.gap == relative_gap(solution.damage, solution.lower_bound)


# --- small problems ---


def test_best_mix_is_not_the_greedy_one() -> None:
    # Per byte, t0's step is the better buy; but it leaves too little for t1's, which saves more.
    problem = make_problem([(0, 10.0), (6, 3.0)], [(0, 10.0), (10, 0.0)])
    solution = solve_exact(problem, 10)
    assert solution.types == {"t0": "A", "t1": "B"}
    assert (solution.damage, solution.gap, solution.method) == (10.0, 0.0, "exact")
    assert solve_greedy_hull(problem, 10).damage == 13.0


def test_bytes_are_counted_to_the_byte() -> None:
    problem = make_problem([(100, 1.0), (200, 0.5)], [(100, 1.0), (201, 0.4)], fixed_bytes=1000)
    assert solve_exact(problem, 1300).types == {"t0": "B", "t1": "A"}
    assert solve_exact(problem, 1301).types == {"t0": "A", "t1": "B"}
    assert solve_exact(problem, 1400).types == {"t0": "A", "t1": "B"}
    assert solve_exact(problem, 1401).types == {"t0": "B", "t1": "B"}


def test_budget_above_the_largest_file_gives_the_least_damage() -> None:
    problem = make_problem([(10, 2.0), (20, 1.0), (30, 1.5)], [(5, 0.0), (9, 0.0)])
    solution = solve_exact(problem, 10**18)
    assert solution.types == {"t0": "B", "t1": "A"}
    assert solution.gap == 0.0


def test_single_choices_leave_nothing_to_decide() -> None:
    problem = make_problem([(10, 2.0)], [(20, 3.0)], fixed_bytes=7)
    assert solve_exact(problem, 37) == Solution({"t0": "A", "t1": "A"}, 37, 5.0, 5.0, 0.0, "exact")


def test_problem_without_tensors_is_its_fixed_bytes() -> None:
    empty = Problem((), 12)
    assert solve_exact(empty, 12) == Solution({}, 12, 0.0, 0.0, 0.0, "exact")
    with pytest.raises(InfeasibleBudgetError):
        solve_exact(empty, 11)


def test_equal_damage_takes_fewer_bytes() -> None:
    problem = make_problem([(10, 1.0), (20, 0.5), (25, 0.5)], [(10, 1.0), (30, 0.5)])
    # Within 40, one of the two may have 0.5; t0's is smaller.
    solution = solve_exact(problem, 40)
    assert (solution.types, solution.size_bytes) == ({"t0": "B", "t1": "A"}, 30)
    # A quick look ends with t0's 6 bytes, which save as much as t1's 5.
    problem = make_problem([(0, 4.0), (6, 3.0), (10, 0.0)], [(0, 4.0), (5, 3.0), (10, 0.0)])
    solution = solve_exact(problem, 6)
    assert (solution.types, solution.size_bytes) == ({"t0": "A", "t1": "B"}, 5)


def test_between_equal_tensors_the_name_decides() -> None:
    problem = make_problem(*[[(0, 1.0), (5, 0.0)] for _ in range(4)])
    reverse = Problem(problem.items[::-1], problem.fixed_bytes)
    assert solve_exact(problem, 10) == solve_exact(reverse, 10)


def test_problem_without_damage_takes_the_smallest() -> None:
    problem = make_problem(*[[(10 + j, 0.0) for j in range(5)] for _ in range(20)])
    solution = solve_exact(problem, 10**6)
    assert (solution.size_bytes, solution.damage, solution.gap) == (200, 0.0, 0.0)


def test_choices_of_equal_size_differ_only_in_damage() -> None:
    problem = make_problem([(10, 2.0), (10, 1.0), (10, 3.0)], [(10, 1.0), (10, 1.0)])
    assert solve_exact(problem, 20).types == {"t0": "B", "t1": "A"}


def test_dominated_choices_are_dropped() -> None:
    kept = pareto(tuple(Choice(*c) for c in [("A", 30, 1.0), ("B", 10, 3.0), ("C", 20, 3.0), ("D", 25, 1.0)]))
    assert [c.qtype for c in kept] == ["B", "D"]


def test_budget_below_the_smallest_mix_is_refused_with_the_range() -> None:
    problem = make_problem([(1000, 2.0), (3 << 20, 1.0)], fixed_bytes=500)
    with pytest.raises(InfeasibleBudgetError) as error:
        solve_exact(problem, 1499)
    assert error.value.to_dict() == {
        "error": "InfeasibleBudgetError",
        "message": "no mix of the allowed types fits 1499 bytes (1.46 KiB); "
        "ask for 1500 bytes (1.46 KiB) to 3146228 bytes (3.00 MiB)",
        "budget_bytes": 1499,
        "smallest_bytes": 1500,
        "largest_bytes": 3146228,
    }
    assert error.value.exit_code == 3
    assert solve_exact(problem, 1500).size_bytes == 1500


@pytest.mark.parametrize("scale", [1e-30, 1e-7, 1.0, 1e12, 1e200])
def test_scale_of_damages_changes_nothing(scale: float) -> None:
    problem = model_like(12, 5)
    scaled = Problem(
        tuple(
            Item(i.name, tuple(Choice(c.qtype, c.size_bytes, c.damage * scale) for c in i.choices))
            for i in problem.items
        ),
        problem.fixed_bytes,
    )
    budget = share_of_range(problem, 0.2)
    assert solve_exact(scaled, budget).types == solve_exact(problem, budget).types


def test_tiny_damages_are_decided_beside_huge_ones() -> None:
    problem = make_problem(
        [(10, 1e25)], [(10, 1e30), (20, 1e20)], [(10, 3e-7), (20, 1e-7)], [(10, 2e-7), (20, 1e-7)]
    )
    assert solve_exact(problem, 60).types == {"t0": "A", "t1": "B", "t2": "B", "t3": "A"}


def test_negative_damages_are_numbers_like_others() -> None:
    problem = make_problem([(10, -1.0), (20, -3.0)], [(10, 1.0), (20, -0.5)])
    solution = solve_exact(problem, 30)
    assert (solution.types, solution.damage, solution.gap) == ({"t0": "B", "t1": "A"}, -2.0, 0.0)


# --- problems of a model's size ---


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.02, 0.15, 0.4])
def test_thousand_tensors_are_solved_to_optimality(seed: int, share: float) -> None:
    problem = model_like(1000, seed)
    budget = share_of_range(problem, share)
    solution = solve_exact(problem, budget)
    check(problem, solution, budget)
    assert solution.gap == 0.0
    assert relax(tabulate(problem), budget).lower_bound <= solution.damage
    assert solution.damage <= solve_greedy_hull(problem, budget).damage


def test_order_decides_nothing() -> None:
    problem = model_like(300, 1)
    budget = share_of_range(problem, 0.2)
    rng = np.random.default_rng(0)
    shuffled = [Item(i.name, tuple(rng.permutation(np.array(i.choices, object)))) for i in problem.items]
    other = Problem(tuple(shuffled[k] for k in rng.permutation(len(shuffled))), problem.fixed_bytes)
    assert solve_exact(other, budget) == solve_exact(problem, budget)
    assert solve_exact(problem, budget) == solve_exact(problem, budget)


@pytest.mark.parametrize("n_tensors", [30, 300])
def test_interchangeable_tensors_are_solved_within_the_gap(n_tensors: int) -> None:
    problem = model_like(n_tensors, 0, spread=0.0, n_shapes=2)
    budget = share_of_range(problem, 0.1)
    solution = solve_exact(problem, budget)
    check(problem, solution, budget)
    assert solution.gap <= 1e-6


def subset_sum(n_tensors: int) -> Problem:
    """Damage falls by the same for every byte, in every tensor: only the bytes left over count."""
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 10**6, (n_tensors, 8))
    return make_problem(*[[(int(s), 2.0 - int(s) / 1e6) for s in row] for row in sizes])


@pytest.mark.parametrize("seed", range(10))
def test_search_cut_short_ends_with_an_honest_bound(seed: int) -> None:
    problem = model_like(60, seed, n_shapes=60)
    table = tabulate(problem)
    budget = share_of_range(problem, 0.03 + 0.02 * seed)
    relaxation = relax(table, budget)
    remainder = settle(table, relaxation, fill(table, relaxation))
    best = solve_exact(problem, budget)
    assert best.gap == 0.0
    for max_work in (0, 200, 2000):
        found = search(remainder, max_work=max_work)
        assert remainder.lower_bound + found.above_bound <= best.damage * (1 + 1e-12)
        hurried = solve_table(table, budget, max_work=max_work, relative_gap=1.0)
        check(problem, hurried, budget)
        assert hurried.lower_bound <= best.damage <= hurried.damage


@pytest.mark.parametrize("seed", range(4))
def test_mixed_integer_program_closes_what_the_search_leaves(seed: int) -> None:
    problem = model_like(60, seed)
    budget = share_of_range(problem, 0.1 + 0.1 * seed)
    hurried = solve_table(tabulate(problem), budget, max_work=0)
    check(problem, hurried, budget)
    assert hurried.gap <= 1e-6
    assert hurried.damage == pytest.approx(solve_exact(problem, budget).damage, rel=1e-6)


def test_mixed_integer_program_without_time_keeps_the_known_mix() -> None:
    problem = subset_sum(40)
    table = tabulate(problem)
    budget = share_of_range(problem, 0.37) + 1
    relaxation = relax(table, budget)
    known = fill(table, relaxation)
    remainder = settle(table, relaxation, known)
    found = solve_milp(remainder, gap=0.0, time_limit_s=0.0)
    assert remainder.lower_bound + found.above_bound <= table.damage_of(known)
    solution = solve_table(table, budget, relative_gap=0.0, time_limit_s=0.0, max_work=0)
    check(problem, solution, budget)


# --- frontier, uniform ---


def test_frontier_has_the_best_mix_of_every_budget_in_the_order_asked() -> None:
    problem = model_like(60, 2)
    budgets = [share_of_range(problem, s) for s in (0.5, 0.0, 0.1, 1.0, 0.1)]
    assert tuple(frontier(problem, budgets)) == tuple(solve_exact(problem, b) for b in budgets)
    assert len(frontier(problem, [])) == 0
    with pytest.raises(InfeasibleBudgetError):
        frontier(problem, [budgets[0], problem.smallest_bytes - 1])


def test_frontier_falls_although_mixes_are_not_proven() -> None:
    problem = subset_sum(8)
    budgets = [share_of_range(problem, 0.3) + k for k in range(3)]
    damages = [s.damage for s in frontier(problem, budgets, relative_gap=1e-3)]
    assert damages == sorted(damages, reverse=True)


def test_uniform_takes_the_next_larger_type_where_it_must() -> None:
    names = {"Q4_K": (45, 0.1), "Q5_0": (55, 0.05), "Q8_0": (85, 0.01), "Q3_K": (34, 0.5)}
    choices = {name: Choice(name, *pair) for name, pair in names.items()}
    problem = Problem(
        (
            Item("has", (choices["Q8_0"], choices["Q4_K"], choices["Q5_0"])),
            Item("has not", (choices["Q8_0"], choices["Q3_K"], choices["Q5_0"])),
            Item("smaller only", (choices["Q3_K"],)),
        ),
        10,
    )
    solution = solve_uniform(problem, "q4_k")
    assert solution.types == {"has": "Q4_K", "has not": "Q5_0", "smaller only": "Q3_K"}
    assert solution.method == "uniform"
    check(problem, solution, 144)
    assert solve_exact(problem, 144).damage <= solution.damage
    with pytest.raises(UnsupportedTypeError):
        solve_uniform(problem, "Q9")


# --- what is refused ---


def test_tensor_without_a_type_is_refused() -> None:
    with pytest.raises(UnsupportedTypeError) as error:
        Item("blk.0.attn_q.weight", ())
    assert error.value.tensor == "blk.0.attn_q.weight"


@pytest.mark.parametrize("damage", [math.nan, math.inf, -math.inf])
def test_damage_that_is_no_number_is_refused(damage: float) -> None:
    with pytest.raises(NonFiniteError) as error:
        Item("output.weight", (Choice("Q4_K", 10, damage),))
    assert error.value.tensor == "output.weight"


def test_contradictory_problems_are_refused() -> None:
    choice = Choice("Q4_K", 10, 0.1)
    with pytest.raises(ValueError, match="each type once"):
        Item("a", (choice, choice))
    with pytest.raises(ValueError, match="got a more than once"):
        Problem((Item("a", (choice,)), Item("a", (choice,)), Item("b", (choice,))), 0)
    with pytest.raises(ValueError, match="fixed bytes"):
        Problem((), -1)
    with pytest.raises(ValueError, match="got -1"):
        Choice("Q4_K", -1, 0.1)


def test_gap_is_a_share_of_the_damage() -> None:
    assert relative_gap(2.0, 1.0) == 0.5
    assert relative_gap(-1.0, -2.0) == 1.0
    assert relative_gap(0.0, 0.0) == 0.0
    assert relative_gap(0.0, -1.0) == math.inf


def test_ordinary_problems_need_no_scipy() -> None:
    code = (
        "import sys; from mqnative.solve.problem import Choice, Item, Problem;"
        "from mqnative.solve.exact import solve_exact;"
        "p = Problem((Item('a', (Choice('A', 1, 2.0), Choice('B', 2, 1.0))),), 0);"
        "assert solve_exact(p, 2).types == {'a': 'B'}; print('scipy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
