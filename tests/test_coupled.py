"""A mix chosen by what damages add in the mix: the body's make each other worse, the head's does not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mqnative.build.plan import model_tensors
from mqnative.builtin import MODEL
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.qtypes import qtype
from mqnative.formats.tied import HEAD
from mqnative.jobs.choose import choose, choose_coupled
from mqnative.jobs.fit import Case, Demand, Fit
from mqnative.jobs.known import Damages
from mqnative.jobs.linking import damage_sum
from mqnative.predict.damage import Damage
from mqnative.predict.link import UNFITTED

TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")


def damages(file: GGUFFile, scale: float, seed: int) -> Damages:
    """Damages that fall with the bits; the head's are as large as many tensors' together."""
    rng = np.random.default_rng(seed)
    tensors = model_tensors(file)
    names = [n for n, t in tensors.items() if len(t.info.shape) == 2 and "norm" not in n]
    table = {}
    for name in names:
        own = scale * float(rng.lognormal(0, 1)) * (10 if name == HEAD else 1)
        table[name] = {t: Damage(own * 3.0 ** -qtype(t).bpw, 0.0) for t in TYPES}
    at = {n: by_type["Q4_K"] for n, by_type in table.items()}
    return Damages(tensors, None, dict.fromkeys(names), table, {}, at, {}, None)


def kld(known: Damages, found: Fit) -> float:
    total = damage_sum(known, found.plan.types)
    assert total is not None
    return UNFITTED.apply(total).mean


@settings(max_examples=8, deadline=None)
@given(st.floats(0.01, 0.5), st.integers(0, 1000), st.floats(2.8, 5.0))
def test_no_weight_of_the_body_gives_a_lower_kld(scale: float, seed: int, bpw: float) -> None:
    with GGUFFile.open(MODEL) as file:
        known = damages(file, scale, seed)
        case, demand = Case(file, known, "", ""), Demand(bpw=bpw)
        plain, found = choose(case, demand).fit, choose_coupled(case, demand).fit
        others = [
            choose(Case(file, known, "", "", body_weight=w), demand).fit for w in np.geomspace(1.0, 6.0, 9)
        ]
    assert found.plan.file_bytes <= found.limit_bytes
    assert kld(known, found) <= kld(known, plain) * (1 + 1e-12)
    # The interaction leaves out what a tensor does to itself, which convexity does not cover.
    assert kld(known, found) <= min(kld(known, o) for o in others) * 1.002


def test_large_damages_move_bytes_from_the_head_to_the_body() -> None:
    with GGUFFile.open(MODEL) as file:
        case, demand = Case(file, damages(file, 0.5, 3), "", ""), Demand(bpw=3.2)
        plain, coupled = choose(case, demand).fit, choose_coupled(case, demand).fit
        small = Case(file, damages(file, 1e-6, 3), "", "")
        same = choose_coupled(small, demand).fit
    assert qtype(coupled.plan.types[HEAD]).bpw < qtype(plain.plan.types[HEAD]).bpw
    assert same.plan.types == plain.plan.types


@pytest.mark.parametrize("method", ["greedy", "uniform:Q4_K"])
def test_other_methods_are_left_alone(method: str) -> None:
    with GGUFFile.open(MODEL) as file:
        case = Case(file, damages(file, 0.5, 3), "", "")
        demand = Demand(bpw=None if ":" in method else 4.0, method=method)
        assert choose_coupled(case, demand).fit.plan.types == choose(case, demand).fit.plan.types
