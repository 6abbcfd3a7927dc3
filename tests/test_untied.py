"""A head that is the embedding: probed, chosen and built as a tensor of its own."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from cli_process import USAGE, mqnative, succeed
from mqnative.build.plan import model_tensors, plan_build
from mqnative.build.writer import build_gguf
from mqnative.builtin import CALIB_TEXT, MODEL
from mqnative.core.model import Model
from mqnative.core.untied import loads_untied
from mqnative.errors import InfeasibleConstraintsError, RecipeError
from mqnative.formats.damage_file import read_damages, write_damages
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.recipe import Recipe
from mqnative.formats.tied import EMBEDDING, HEAD, is_tied, stored_name
from mqnative.jobs.damage_table import from_file, to_file
from mqnative.jobs.fit import Case, Demand, fit
from mqnative.jobs.known import Damages
from mqnative.jobs.linking import damage_sum
from mqnative.predict.damage import Damage
from mqnative.predict.tied import Share, damages_of_uses, share_of
from mqnative.solve.constraints import Constraints
from mqnative.solve.limits import Ceiling, Floor, Pin
from tiny_models import TinyModels

TOKENS = np.arange(1, 33, dtype=np.int32)


def logits(model: Model, mix: dict[str, str]) -> np.ndarray:  # type: ignore[type-arg]
    with model.mix(mix):
        return model.logits(TOKENS).copy()


def test_names() -> None:
    assert is_tied({EMBEDDING})
    assert not is_tied({EMBEDDING, HEAD})
    assert stored_name(HEAD, {EMBEDDING}) == EMBEDDING
    assert stored_name(HEAD, {EMBEDDING, HEAD}) == HEAD
    assert stored_name("blk.0.attn_q.weight", {EMBEDDING}) == "blk.0.attn_q.weight"


def test_either_use_is_swapped_alone_and_both_together(tiny_models: TinyModels) -> None:
    with GGUFFile.open(tiny_models.dense) as file:
        own = file.tensors[EMBEDDING].qtype.name
    with Model(tiny_models.dense, n_threads=1) as model:
        plain = model.logits(TOKENS).copy()
        assert np.array_equal(logits(model, {HEAD: own}), plain)
        of_input = logits(model, {EMBEDDING: "Q4_0", HEAD: own})
        of_head = logits(model, {HEAD: "Q4_0"})
        both = logits(model, {EMBEDDING: "Q4_0"})
        named = logits(model, {HEAD: "Q4_0", EMBEDDING: "Q4_0"})
        assert np.array_equal(both, named)
        different = [plain, of_input, of_head, both]
        for i, a in enumerate(different):
            assert not any(np.array_equal(a, b) for b in different[:i])
        assert np.array_equal(model.logits(TOKENS), plain)


def test_the_untied_file_computes_what_the_mix_did(tiny_models: TinyModels, tmp_path: Path) -> None:
    mix = {EMBEDDING: "Q5_0", HEAD: "Q8_0"}
    out = tmp_path / "untied.gguf"
    with GGUFFile.open(tiny_models.dense) as file:
        assert loads_untied(file)
        own = {name: t.qtype.name for name, t in file.tensors.items()}
        plan = plan_build(file, Recipe(tensors=own | mix))
        assert plan.types[HEAD] == "Q8_0"
        build_gguf(file, plan, out)
        assert out.stat().st_size == plan.file_bytes
    with GGUFFile.open(out) as written:
        assert written.tensors[HEAD].qtype.name == "Q8_0"
        assert written.tensors[EMBEDDING].qtype.name == "Q5_0"
        assert not loads_untied(written)
    with Model(tiny_models.dense, n_threads=1) as model, Model(out, n_threads=1) as built:
        assert np.array_equal(logits(model, mix), built.logits(TOKENS))


def test_a_model_with_a_head_of_its_own_is_left_alone() -> None:
    with GGUFFile.open(MODEL) as file:
        assert not loads_untied(file)


def test_an_architecture_that_always_takes_the_embedding_is_named(tiny_models: TinyModels) -> None:
    with GGUFFile.open(tiny_models.sliding) as file:
        assert is_tied(file.tensors)
        assert not loads_untied(file)
        own = {name: t.qtype.name for name, t in file.tensors.items()}
        with pytest.raises(RecipeError, match="reads no other") as caught:
            plan_build(file, Recipe(tensors=own | {HEAD: "Q8_0"}))
    assert caught.value.tensor == HEAD


def test_the_uses_share_what_both_lose() -> None:
    found = share_of(np.array([0.11, 0.09, 0.1]), np.array([0.31, 0.29, 0.3]), 0.0)
    assert found.of_input == pytest.approx(0.25)
    assert 0 < found.variance < 1e-3
    tied = {"Q4_K": Damage(0.4, 1e-4), "Q8_0": Damage(0.01, 1e-6)}
    uses = damages_of_uses(tied, found)
    for t, d in tied.items():
        assert uses[EMBEDDING][t].mean + uses[HEAD][t].mean == pytest.approx(d.mean)
        assert uses[EMBEDDING][t].variance > 0
    assert share_of(np.zeros(4), np.zeros(4), 0.0).of_input == 0.5
    assert 0 < share_of(np.full(4, 1e-9), np.ones(4), 1e-3).of_input < 0.01


def damages(file: GGUFFile, share: Share | None) -> Damages:
    """The head loses nearly all; every other tensor is cheap."""
    tensors = model_tensors(file)
    bits = {"Q8_0": 8.5, "Q6_K": 6.56, "Q5_0": 5.5, "Q4_0": 4.5}
    changing = [n for n, t in tensors.items() if t.quantizable]
    table = {
        n: {
            t: Damage((1.0 if n == EMBEDDING else 1e-3) * 4.0**-b, 0.0)
            for t, b in bits.items()
            if t != "Q6_K"
        }
        for n in changing
    }
    at = {n: table[n]["Q4_0"] for n in changing}
    return Damages(tensors, None, dict.fromkeys(changing), table, {}, at, {}, share)


def test_tied_at_the_larger_type_is_smaller_and_no_worse_so_that_no_budget_unties(
    tiny_models: TinyModels,
) -> None:
    with GGUFFile.open(tiny_models.dense) as file:
        free, kept = damages(file, Share(0.05, 0.0)), damages(file, None)
        for size in range(file.file_bytes // 3, file.file_bytes, file.file_bytes // 10):
            found, tied = (fit(Case(file, known, "", ""), Demand(), size) for known in (free, kept))
            assert found.plan.types == tied.plan.types
            assert HEAD not in found.plan.types
            total = damage_sum(free, found.plan.types)
            assert total is not None
            assert math.isclose(total.mean, found.solution.damage, rel_tol=1e-9, abs_tol=1e-15)


def test_the_solver_unties_where_constraints_ask_for_it(tiny_models: TinyModels) -> None:
    limits = (Floor(r"output\.weight", "Q8_0"), Ceiling(r"token_embd\.weight", "Q5_0"))
    with GGUFFile.open(tiny_models.dense) as file:
        known = damages(file, Share(0.05, 0.0))
        case = Case(file, known, "", "")
        small = fit(case, Demand(constraints=Constraints(limits)), file.file_bytes // 2)
        assert (small.plan.types[EMBEDDING], small.plan.types[HEAD]) == ("Q5_0", "Q8_0")
        assert small.plan.file_bytes <= file.file_bytes // 2
        total = damage_sum(known, small.plan.types)
        assert total is not None
        assert math.isclose(total.mean, small.solution.damage, rel_tol=1e-9)
        with pytest.raises(InfeasibleConstraintsError, match="contradict"):
            fit(Case(file, damages(file, None), "", ""), Demand(constraints=_both(limits)), file.file_bytes)


def _both(limits: tuple[Floor, Ceiling]) -> Constraints:
    """The same demands on the one tensor that there is."""
    return Constraints((Floor(EMBEDDING, limits[0].qtype), Ceiling(EMBEDDING, limits[1].qtype)))


def test_a_table_in_a_file_keeps_what_was_measured_of_either_use(
    tiny_models: TinyModels, tmp_path: Path
) -> None:
    path = tmp_path / "damages.json"
    with GGUFFile.open(tiny_models.dense) as file:
        known = damages(file, Share(0.2, 1e-4))
        write_damages(path, to_file(known, "0" * 64, ""))
        read = read_damages(path)
        again = from_file(read, str(path), file, "0" * 64, None, ())
        assert again.uses == known.uses
        kept = from_file(read, str(path), file, "0" * 64, None, (), keep_tied=True)
        assert kept.uses == {}


def test_the_command_line_unties_builds_and_evaluates(tiny_models: TinyModels, tmp_path: Path) -> None:
    model = tiny_models.dense
    text, recipe, out = tmp_path / "text.txt", tmp_path / "recipe.yaml", tmp_path / "out.gguf"
    text.write_text(CALIB_TEXT.read_text(encoding="utf-8")[:6_000], encoding="utf-8")
    env = {"MQNATIVE_HOME": str(tmp_path / "home")}
    effort = ("-f", text, "--ctx", 64, "--probe-chunks", 2, "--types", "Q8_0,Q5_0,Q4_0", "--bpw", 10)
    pins = ("--pin", r"token_embd\.weight=Q4_0", "--pin", r"output\.weight=Q8_0")
    said = succeed("solve", model, *effort, *pins, "-o", recipe, "--json", env=env).json
    types = {t["name"]: t["type"] for t in said["tensors"]}
    assert (types[EMBEDDING], types[HEAD]) == ("Q4_0", "Q8_0")
    imatrix = tmp_path / "imatrix.gguf"
    succeed(
        "solve", tiny_models.dense, *effort, "--save-imatrix", imatrix, "-o", tmp_path / "r.yaml", env=env
    )
    succeed("build", model, "-r", recipe, "--imatrix", imatrix, "-o", out, env=env)
    assert out.stat().st_size == said["size_bytes"]
    scored = succeed(
        "eval",
        out,
        "-f",
        text,
        "--reference",
        tiny_models.dense,
        "--ctx",
        64,
        "--chunks",
        2,
        "--json",
        env=env,
    ).json
    assert scored["kld_mean"] > 0
    kept = mqnative("solve", model, *effort, *pins, "--keep-tied", "-o", recipe, "--force", "--json", env=env)
    assert kept.code == USAGE
    assert "output" in kept.json["message"]


def test_constraints_speak_of_either_use(tiny_models: TinyModels) -> None:
    with GGUFFile.open(tiny_models.dense) as file:
        case = Case(file, damages(file, Share(0.3, 0.0)), "", "")
        constraints = Constraints((Pin(r"output\.weight", "Q8_0"), Pin(r"token_embd\.weight", "Q4_0")))
        found = fit(case, Demand(constraints=constraints), file.file_bytes)
        assert found.plan.types[HEAD] == "Q8_0"
        assert found.plan.types[EMBEDDING] == "Q4_0"
        # One pin on the head alone can be met by the tied tensor as well.
        tied = fit(case, Demand(constraints=Constraints((Pin(r"output\.weight", "Q8_0"),))), file.file_bytes)
        assert tied.plan.types.get(HEAD, tied.plan.types[EMBEDDING]) == "Q8_0"
