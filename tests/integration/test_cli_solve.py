"""``mqnative solve`` as people run it: constraints kept, reasons given, nonsense named."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from cli_process import DONE, FAILED, USAGE, mqnative, succeed
from damage_place import EFFORT, TYPES, Workplace
from mqnative.builtin import MODEL
from mqnative.core.presets import preset_types
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.qtypes import qtype
from mqnative.formats.recipe import read_recipe
from tiny_models import TinyModels

INFEASIBLE = 3


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("solve"))


def types(said: dict[str, Any]) -> dict[str, str]:
    """The types of the tensors that are quantized."""
    found = {t["name"]: t["type"] for t in said["tensors"]}
    return {n: t for n, t in found.items() if t != "F32"}


def bits(said: dict[str, Any]) -> dict[str, float]:
    return {n: qtype(t).bpw for n, t in types(said).items()}


# --- what a solve leaves ---


def test_a_damage_table_solves_as_the_measurement_did(place: Workplace) -> None:
    said = place.solved("--bpw", 4.5)
    first = read_recipe(place.folder / "first.yaml")
    again = read_recipe(place.folder / "recipe.yaml")
    assert again.tensors == first.tensors
    assert said["bpw"] <= 4.5
    assert said["gap"] == 0.0
    assert said["budget_bytes"] >= said["size_bytes"]


def test_the_recipe_builds_a_file_of_the_size_that_was_said(place: Workplace, tmp_path: Path) -> None:
    said = place.solved("--size", 5_000_000, "--pin", r"output\.weight=Q6_K")
    out = tmp_path / "model.gguf"
    recipe = place.folder / "recipe.yaml"
    succeed("build", MODEL, "-r", recipe, "--imatrix", place.imatrix, "-o", out, env=place.env)
    assert out.stat().st_size == said["size_bytes"] <= 5_000_000
    with GGUFFile.open(out) as file:
        assert {n: t.qtype.name for n, t in file.tensors.items()} == {
            t["name"]: t["type"] for t in said["tensors"]
        }
        assert file.tensors["output.weight"].qtype.name == "Q6_K"
    assert read_recipe(recipe).target["constraints"] == [r"--pin output\.weight=Q6_K", f"--types {TYPES}"]


# --- constraints ---


def test_every_kind_of_constraint_is_kept(place: Workplace) -> None:
    said = place.solved(
        "--bpw", 4.2, "--from", "Q6_K", "--pin", r"token_embd\.weight=Q8_0",
        "--floor", r".*attn_v\.weight=Q4_K",
        "--ceiling", r".*ffn_up\.weight=Q4_K", "--no-iq", "--max-types", 4,
        "--share", r"blk\.(\d+)\.attn_[qk]\.weight",
    )  # fmt: skip
    found, wide = types(said), bits(said)
    assert found.pop("token_embd.weight") == "Q8_0"
    assert len(set(found.values()) | {"Q8_0"}) <= 4
    assert max(qtype(t).bpw for t in found.values()) <= qtype("Q6_K").bpw
    assert not any(t.startswith("IQ") for t in found.values())
    for name, b in wide.items():
        if name.endswith("attn_v.weight"):
            assert b >= qtype("Q4_K").bpw
        if name.endswith("ffn_up.weight"):
            assert b <= qtype("Q4_K").bpw
        if name.endswith("attn_q.weight"):
            assert found[name] == found[name.replace("attn_q", "attn_k")]
    assert said["bpw"] <= 4.2
    assert len(said["constraints"]) == 8


def test_only_leaves_a_family(place: Workplace) -> None:
    # Nothing stays as it is stored, however large the budget.
    said = place.solved("--bpw", 12, "--only", "k")
    assert set(types(said).values()) == {"Q6_K"}
    said = place.solved("--bpw", 12, "--only", "k,Q8_0")
    assert set(types(said).values()) == {"Q8_0"}


def test_caps_hold_for_every_tensor(place: Workplace) -> None:
    rows = json.loads(place.table.read_text(encoding="utf-8"))["tensors"]
    said = place.solved("--bpw", 6, "--max-error", 0.02, "--max-rmse", "10%")
    for name, t in types(said).items():
        if t == "BF16":
            continue
        row = rows[name]["types"][t]
        assert row["max_error"] <= 0.02
        assert row["rmse"] <= 0.1 * rows[name]["rms"]
    scaled = place.solved("--bpw", 6, "--max-error", 0.02, "--caps-by-importance")
    assert scaled["predicted_kld"] <= said["predicted_kld"]


def test_allow_speaks_of_some_tensors(place: Workplace) -> None:
    said = place.solved("--bpw", 5, "--allow", r".*ffn_.*=Q3_K,Q5_K")
    assert {t for n, t in types(said).items() if "ffn_" in n} <= {"Q3_K", "Q5_K"}


# --- methods ---


def test_every_method_keeps_the_budget_and_none_beats_exact(place: Workplace) -> None:
    said = place.solved("--bpw", 4.5, "--compare")
    rows = {row["method"]: row for row in said["solvers"]}
    assert {"exact", "greedy", "knee:relative", "knee:absolute", "knee:two-sigma", "knee:importance",
            "knee:curvature", "bins", "uniform", "preset:Q3_K_M"} <= set(rows)  # fmt: skip
    best = rows["exact"]
    assert said["solvers"][0]["predicted_kld"] == best["predicted_kld"] == said["predicted_kld"]
    for method, row in rows.items():
        if row["predicted_kld"] is None:
            assert method.startswith("preset:")  # it uses a type that is not allowed here
            assert row["problem"]
            continue
        assert row["size_bytes"] <= said["budget_bytes"] + 1024  # a preset's own header may be shorter
        assert row["of_exact"] >= 1.0
    assert rows["preset:IQ2_XXS"]["predicted_kld"] is None


@pytest.mark.parametrize("method", ["greedy", "knee", "knee:curvature", "bins", "uniform"])
def test_method_is_the_row_of_the_comparison(place: Workplace, method: str) -> None:
    said = place.solved("--bpw", 4.5, "--method", method, "--compare")
    rows = {row["method"]: row for row in said["solvers"]}
    name = "knee:relative" if method == "knee" else method
    assert said["predicted_kld"] == rows[name]["predicted_kld"]
    assert said["size_bytes"] <= said["budget_bytes"]


def test_preset_and_uniform_are_what_llama_cpp_would_write(place: Workplace) -> None:
    said = place.solved("--method", "preset:q4_k_m")
    assert said["method"] == "preset:Q4_K_M"
    assert {t["name"]: t["type"] for t in said["tensors"]} == preset_types(MODEL, "Q4_K_M", with_imatrix=True)
    assert said["budget_bytes"] is None
    assert set(types(place.solved("--method", "uniform:Q5_K")).values()) == {"Q5_K"}


def test_knee_and_bins_have_a_size_of_their_own(place: Workplace) -> None:
    strict = place.solved("--method", "knee:absolute", "--knee", "absolute", "--knee-threshold", 1e-6)
    loose = place.solved("--method", "knee", "--knee", "absolute", "--knee-threshold", 1e-2)
    assert strict["size_bytes"] > loose["size_bytes"]
    said = place.solved("--method", "bins", "--bins", "20:Q8_0,80:Q4_K")
    counts = list(types(said).values())
    assert counts.count("Q8_0") == round(0.2 * len(counts))
    assert set(counts) == {"Q8_0", "Q4_K"}


# --- why ---


def test_explanation_says_why_of_every_tensor(place: Workplace) -> None:
    said = place.solved("--bpw", 4.5, "--explain", "--ceiling", r"output\.weight=Q3_K")
    why = said["explanation"]
    assert why["budget_binds"] is True
    assert why["price_kld_per_mib"] > 0
    assert why["more"]["kld_saved"] > 0
    assert why["more"]["changes"]
    (bound,) = [c for c in why["constraints"] if c["constraint"] == r"--ceiling output\.weight=Q3_K"]
    assert bound["binds"] is True
    assert bound["kld_cost"] > 0
    assert bound["tensors"] == ["output.weight"]
    by_name = {w["name"]: w for w in why["tensors"]}
    assert {n: w["type"] for n, w in by_name.items()} == types(said)
    for w in by_name.values():
        assert w["why"]
        for move in (w["up"], w["down"]):
            assert move is None or math.isfinite(move["kld_per_mib"])
    assert by_name["output.weight"]["wanted"] is not None
    text = mqnative(
        "solve", MODEL, "--damages", place.table, "--imatrix", place.imatrix, "--types", TYPES, "--bpw", 4.5,
        "--explain", "--compare", env=place.env,
    )  # fmt: skip
    assert text.code == DONE, text.err
    assert "One more MiB would save" in text.out
    assert "blk.0.attn_v.weight" in text.out
    assert "knee:two-sigma" in text.out


def test_without_a_budget_the_knee_is_taken_and_explained(place: Workplace) -> None:
    said = place.solved("--explain")
    knee = said["knee"]
    assert knee["reason"]
    low, high = knee["size_bytes_ci95"]
    assert low <= knee["size_bytes"] <= high
    assert said["budget_bytes"] == knee["size_bytes"] >= said["size_bytes"]
    assert "No budget was given" in said["explanation"]["budget"]


# --- importance ---


def test_without_importances_no_type_needs_them(place: Workplace, tmp_path: Path) -> None:
    table, recipe = tmp_path / "plain.json", tmp_path / "plain.yaml"
    done = succeed(
        "solve", MODEL, "-f", place.text, "--bpw", 3, "--types", "Q6_K,Q4_K,Q2_K,IQ2_XXS,IQ3_XXS",
        "--importance", "none", "-o", recipe, "--save-damages", table, "--json", *EFFORT, env=place.env,
    )  # fmt: skip
    assert not any(t.startswith("IQ") for t in types(done.json).values())
    assert done.json["importance"] == "none"
    assert json.loads(table.read_text(encoding="utf-8"))["imatrix_sha256"] is None
    out = tmp_path / "plain.gguf"
    succeed("build", MODEL, "-r", recipe, "-o", out, env=place.env)
    assert out.stat().st_size == done.json["size_bytes"]
    again = mqnative(
        "solve", MODEL, "--damages", table, "--imatrix", place.imatrix, "--bpw", 3, "-o", recipe, "--force",
        "--json", env=place.env,
    )  # fmt: skip
    assert again.code == FAILED
    assert again.json["error"] == "DamageTableError"
    assert "without an imatrix" in again.err


def test_auto_keeps_the_better_of_both_on_the_select_text(place: Workplace, tmp_path: Path) -> None:
    done = succeed(
        "solve", MODEL, "-f", place.text, "--bpw", 3, "--types", "Q4_K,Q3_K,Q2_K", "--importance", "auto",
        "-o", tmp_path / "r.yaml", "--explain", "--json", *EFFORT, env=place.env,
    )  # fmt: skip
    klds = done.json["select_kld"]
    assert set(klds) == {"imatrix", "none"}
    assert done.json["importance"] == min(klds, key=lambda w: klds[w])
    assert "on the select text" in done.json["explanation"]["weighing"]


# --- what is refused ---


@pytest.mark.parametrize(
    ("arguments", "code", "error", "said"),
    [
        (["--size", 1000], INFEASIBLE, "InfeasibleBudgetError", "the smallest takes"),
        (["--bpw", 40], INFEASIBLE, "InfeasibleBudgetError", "above the largest"),
        (["--bpw", 4, "--pin", "output.weight=Q4_K", "--pin", "out.*=Q6_K"], INFEASIBLE,
         "InfeasibleConstraintsError", "--pin output.weight=Q4_K and --pin out.*=Q6_K"),
        (["--bpw", 4, "--floor", "output.weight=Q6_K", "--ceiling", "output.weight=Q3_K"], INFEASIBLE,
         "InfeasibleConstraintsError", "contradict"),
        (["--bpw", 4, "--only", "k", "--pin", "output.weight=Q8_0"], INFEASIBLE,
         "InfeasibleConstraintsError", "--only k"),
        (["--bpw", 4, "--only", "iq", "--no-iq"], INFEASIBLE, "InfeasibleConstraintsError", "no type at all"),
        (["--bpw", 4, "--pin", "nothing=Q4_K"], USAGE, "ConstraintError", "matches no tensor"),
        (["--bpw", 4, "--floor", "attn_q=Q4_K"], USAGE, "ConstraintError", "must fit the whole name"),
        (["--bpw", 4, "--ceiling", ".*norm.*=Q4_K"], USAGE, "ConstraintError", "never changes"),
        (["--bpw", 4, "--share", "output.weight"], USAGE, "ConstraintError", "stands alone"),
        (["--bpw", 4, "--pin", "output.weight"], USAGE, "UsageError", "PATTERN=VALUE"),
        (["--bpw", 4, "--pin", "(=Q4_K"], USAGE, "UsageError", "regular expression"),
        (["--bpw", 4, "--pin", "output.weight=Q4_K_M"], USAGE, "UsageError", "did you mean Q4_K"),
        (["--bpw", 4, "--max-error", "much"], USAGE, "UsageError", "not a number"),
        (["--bpw", 4, "--max-error", "-1"], USAGE, "UsageError", "above 0"),
        (["--bpw", 4, "--caps-by-importance"], USAGE, "UsageError", "--max-rmse"),
        (["--bpw", 4, "--method", "best"], USAGE, "UsageError", "exact, greedy"),
        (["--bpw", 4, "--method", "preset:Q9"], USAGE, "UsageError", "unknown preset"),
        (["--bpw", 4, "--method", "preset:Q8_0"], INFEASIBLE, "InfeasibleBudgetError", "more than"),
        (["--bpw", 4, "--method", "bins", "--bins", "50"], USAGE, "UsageError", "PERCENT:TYPE"),
        (["--bpw", 4, "--only", "q"], USAGE, "UsageError", "--only"),
        (["--bpw", 4, "--size", "4MB"], USAGE, "UsageError", "at most one"),
        (["--bpw", 4, "--importance", "auto"], USAGE, "ConstraintError", "damage table"),
    ],
)  # fmt: skip
def test_nonsense_is_named(
    place: Workplace, arguments: list[object], code: int, error: str, said: str
) -> None:
    done = place.solve(*arguments)
    assert done.code == code, done.err
    assert done.json["error"] == error
    assert said in done.json["message"]


def test_infeasible_budget_tells_the_smallest_size_and_what_binds(place: Workplace) -> None:
    done = place.solve("--size", 3_000_000, "--floor", r"token_embd\.weight=Q8_0")
    assert done.code == INFEASIBLE
    assert done.json["constraint"] == r"--floor token_embd\.weight=Q8_0"
    smallest = done.json["smallest_bytes"]
    assert "binds" in done.err
    # The size that is told is feasible, and one header's alignment less is not.
    assert (
        place.solved("--size", smallest + 64, "--floor", r"token_embd\.weight=Q8_0")["size_bytes"]
        <= smallest + 64
    )


def test_table_of_another_model_or_imatrix_is_refused(
    place: Workplace, tiny_models: TinyModels, tmp_path: Path
) -> None:
    other = tiny_models.dense
    out = tmp_path / "r.yaml"
    done = mqnative("solve", other, "--damages", place.table, "--bpw", 5, "-o", out, "--json", env=place.env)
    assert (done.code, done.json["error"]) == (FAILED, "DamageTableError")
    assert done.json["key"] == "model_sha256"
    assert "another model" in done.err
    done = mqnative("solve", MODEL, "--damages", place.table, "--bpw", 5, "-o", out, "--json", env=place.env)
    assert (done.code, done.json["key"]) == (FAILED, "imatrix_sha256")
    assert "--imatrix" in done.err
    table = json.loads(place.table.read_text(encoding="utf-8"))
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(table | {"imatrix_sha256": "0" * 64}), encoding="utf-8")
    done = mqnative(
        "solve",
        MODEL,
        "--damages",
        changed,
        "--imatrix",
        place.imatrix,
        "--bpw",
        5,
        "-o",
        out,
        "--json",
        env=place.env,
    )
    assert (done.code, done.json["got"]) == (FAILED, "0" * 64)
    assert not out.exists()


def _rows(table: dict[str, Any], name: str) -> dict[str, Any]:
    rows: dict[str, Any] = table["tensors"][name]
    return rows


def _set(table: dict[str, Any], key: str, value: Any) -> None:
    _rows(table, "output.weight")["types"]["Q4_K"][key] = value


@pytest.mark.parametrize(
    ("change", "tensor", "said"),
    [
        (lambda t: _set(t, "kld_mean", math.nan), "output.weight", "nan for Q4_K.kld_mean"),
        (lambda t: _set(t, "kld_mean", math.inf), "output.weight", "inf for Q4_K.kld_mean"),
        (lambda t: _set(t, "kld_variance", -1.0), "output.weight", "at least 0"),
        (lambda t: _set(t, "rmse", "small"), "output.weight", "expected a number"),
        (lambda t: _rows(t, "output.weight")["types"].update(Q9_K={}), "output.weight", "does not know"),
        (lambda t: _rows(t, "output.weight").pop("at_anchor"), "output.weight", "at_anchor"),
        (lambda t: t["tensors"].pop("blk.3.attn_q.weight"), "blk.3.attn_q.weight", "no rows"),
        (lambda t: t["tensors"].update(x=t["tensors"]["output.weight"]), "x", "not in the model"),
        (lambda t: t.update(mqnative="damages/9"), None, "damages/9"),
        (lambda t: t.update(tensors={}), None, "no tensors"),
        (lambda t: t.update(model_sha256=5), None, "model_sha256"),
    ],
)  # fmt: skip
def test_damaged_table_is_named(
    place: Workplace, tmp_path: Path, change: Any, tensor: str | None, said: str
) -> None:
    table = json.loads(place.table.read_text(encoding="utf-8"))
    change(table)
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(table), encoding="utf-8")
    done = mqnative(
        "solve", MODEL, "--damages", broken, "--imatrix", place.imatrix, "--bpw", 5, "-o", tmp_path / "r.yml",
        "--json", env=place.env,
    )  # fmt: skip
    assert (done.code, done.json["error"]) == (FAILED, "DamageTableError")
    assert done.json.get("tensor") == tensor
    assert said in done.json["message"]


def test_what_is_no_table_is_named(place: Workplace, tmp_path: Path) -> None:
    for path in (tmp_path / "absent.json", MODEL, place.text):
        done = mqnative(
            "solve", MODEL, "--damages", path, "--bpw", 5, "-o", tmp_path / "r.yaml", env=place.env
        )
        assert done.code == FAILED
        assert str(path) in done.err


def test_a_source_of_damages_and_a_result_are_needed(place: Workplace, tmp_path: Path) -> None:
    assert mqnative("solve", MODEL, "--bpw", 4, "-o", tmp_path / "r.yaml").code == USAGE
    assert mqnative("solve", MODEL, "--bpw", 4, "-f", place.text).code == USAGE
