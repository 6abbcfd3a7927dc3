"""Learned configs: every preset comes back exactly, others' files are credited, mismatches are named."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mqnative.build.plan import ModelTensor, model_tensors, plan_build
from mqnative.core.presets import preset_types, presets, upstream_quantize
from mqnative.errors import GGUFError, GroupError, ParityError, RecipeError, UnsupportedTypeError
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.groups import UserGroup
from mqnative.formats.recipe import Recipe, Rule
from mqnative.hybrids.carry import Carried, Policy, carry_over
from mqnative.hybrids.learned import (
    learn_file,
    learn_preset,
    learn_presets,
    learn_tensors,
    same_preset,
)
from mqnative.source.identity import file_sha256
from tiny_models import TinyModels

DOWN = "blk.0.ffn_down.weight"


def tensors_of(path: Path) -> dict[str, ModelTensor]:
    with GGUFFile.open(path) as file:
        return model_tensors(file)


def importances(path: Path) -> dict[str, Any]:
    with GGUFFile.open(path) as file:
        return {
            name: np.ones(t.shape[0] * (t.shape[2] if len(t.shape) > 2 else 1), np.float32)
            for name, t in file.tensors.items()
            if len(t.shape) > 1
        }


# ---- llama.cpp's presets ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", presets())
def test_a_file_that_upstream_wrote_gives_the_presets_map_back(
    name: str, tiny_models: TinyModels, tmp_path: Path
) -> None:
    model = tiny_models.moe
    output = tmp_path / f"M-{name}.gguf"
    upstream_quantize(model, output, name, imatrix=importances(model))
    found = learn_file(output)
    assert found.types == learn_preset(model, name).types == preset_types(model, name, with_imatrix=True)
    assert found.name == name
    assert name in same_preset(found.types, model)


@pytest.mark.upstream
@pytest.mark.parametrize("name", presets())
def test_a_file_of_stock_llama_quantize_gives_the_presets_map_back(
    name: str, builtin_model: Path, upstream_bin: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.gguf"
    needs = name.startswith(("IQ1", "IQ2", "IQ3_XXS", "IQ3_XS", "Q2_K_S"))
    given: list[str] = []
    if needs:
        from mqnative.formats.imatrix import write_imatrix
        from mqnative.formats.imatrix_data import Imatrix, ImatrixEntry

        entries = {
            n: ImatrixEntry(sum_squares=w.reshape(1, -1), counts=np.ones(1, np.float32))
            for n, w in importances(builtin_model).items()
        }
        write_imatrix(tmp_path / "i.gguf", Imatrix(entries, chunk_count=1, chunk_size=512))
        given = ["--imatrix", str(tmp_path / "i.gguf")]
    call = [str(upstream_bin / "llama-quantize"), *given, str(builtin_model), str(output), name, "1"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = learn_file(output)
    assert found.types == learn_preset(builtin_model, name, with_imatrix=needs).types
    assert found.with_imatrix == needs


def test_all_presets_are_learned_without_quantizing(builtin_model: Path) -> None:
    found = learn_presets(builtin_model)
    assert set(found) == set(presets())
    assert found["Q4_K_M"].provider.startswith("llama.cpp ")
    assert found["Q4_K_M"].file_sha256 == ""
    plan = plan_build_of(builtin_model, found["Q4_K_M"].recipe())
    assert plan.tensor_bytes == found["Q4_K_M"].tensor_bytes


def plan_build_of(path: Path, recipe: Recipe) -> Any:
    with GGUFFile.open(path) as file:
        return plan_build(file, recipe)


def test_a_preset_that_the_model_cannot_have_is_left_out(tiny_models: TinyModels) -> None:
    found = learn_presets(tiny_models.odd_rows)
    assert "Q8_0" in found
    with pytest.raises(UnsupportedTypeError):
        learn_preset(tiny_models.odd_rows, "Q99")


# ---- Others' files ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dense(tiny_models: TinyModels) -> Path:
    return tiny_models.dense


def test_types_groups_and_credit(dense: Path, tmp_path: Path) -> None:
    model = tmp_path / "Tiny-UD-Q4_K_XL.gguf"
    upstream_quantize(dense, model, "Q4_K_M")
    found = learn_file(model)
    assert (found.name, found.provider, found.architecture) == ("UD-Q4_K_XL", "unsloth", "llama")
    assert found.file_sha256 == file_sha256([model])
    assert found.recipe().provenance == {
        "learned_from": "UD-Q4_K_XL",
        "provider": "unsloth",
        "file": model.name,
        "file_sha256": found.file_sha256,
    }
    with GGUFFile.open(model) as file:
        assert found.tensor_bytes == file.tensor_bytes
    assert sum(found.groups["U"].values()) == 2 * sum(found.groups["O"].values())
    assert "never" not in found.groups


@pytest.mark.parametrize(
    ("file", "metadata", "provider"),
    [
        ("a.gguf", {"general.quantized_by": "Somebody"}, "Somebody"),
        ("a.gguf", {}, "unknown"),
        ("M-UD-Q4_K_XL.gguf", {}, "unsloth"),
        ("M-LM-Q4_K_M.gguf", {}, "llama.cpp"),
        ("M-MQ-UD-Q4_K_XL.gguf", {}, "unsloth"),
        ("M-EXT-Q4_K_L.gguf", {}, "unknown"),
        ("M-UD-Q4_K_XL.gguf", {"mqnative.recipe.sha256": "x"}, "mqnative"),
    ],
)
def test_who_made_it(file: str, metadata: dict[str, str], provider: str, dense: Path) -> None:
    with GGUFFile.open(dense) as opened:
        found = learn_tensors(
            opened.tensors, {"general.architecture": "llama", **metadata}, file=file, file_sha256=""
        )
        told = learn_tensors(
            opened.tensors,
            {"general.architecture": "llama", **metadata},
            file=file,
            file_sha256="",
            provider="me",
        )
    assert (found.provider, told.provider) == (provider, "me")


def test_split_files_are_learned_whole(tiny_models: TinyModels) -> None:
    found = learn_file(tiny_models.split)
    with GGUFFile.open(tiny_models.split) as file:
        assert found.types == {n: t.qtype.name for n, t in file.tensors.items()}
        assert found.file_sha256 == file_sha256(file.paths)
        assert len(file.paths) > 1


def test_users_groups_are_counted(dense: Path) -> None:
    found = learn_file(dense, groups=[UserGroup("first", r"blk\.0\..*")])
    assert sum(found.groups["first"].values()) > 5
    with pytest.raises(GroupError):
        learn_file(dense, groups=[UserGroup("none", "nothing")])


def test_a_header_without_model_teaches_nothing(dense: Path) -> None:
    with GGUFFile.open(dense) as file:
        for tensors, metadata in ((file.tensors, {}), ({}, {"general.architecture": "llama"})):
            with pytest.raises(GGUFError) as caught:
                learn_tensors(tensors, metadata, file="x.gguf", file_sha256="")
            assert caught.value.path == "x.gguf"


def test_a_forks_private_type_names_the_tensor(dense: Path, tmp_path: Path) -> None:
    raw = bytearray(dense.read_bytes())
    name = b"blk.0.attn_q.weight"
    at = raw.index(name) + len(name) + 4 + 2 * 8  # after the name: dimensions, then the type
    raw[at : at + 4] = (139).to_bytes(4, "little")
    path = tmp_path / "fork.gguf"
    path.write_bytes(raw)
    with pytest.raises(GGUFError, match="139") as caught:
        learn_file(path)
    assert caught.value.tensor == name.decode()


@pytest.mark.parametrize("keep", [4, 24, 1000])
def test_a_truncated_file_is_refused(keep: int, dense: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(dense.read_bytes()[:keep])
    with pytest.raises(GGUFError) as caught:
        learn_file(path)
    assert caught.value.path == str(path)


def test_a_missing_part_is_named(tiny_models: TinyModels, tmp_path: Path) -> None:
    with GGUFFile.open(tiny_models.split) as file:
        first, *others = file.paths
    for path in (first, *others[:-1]):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(GGUFError) as caught:
        learn_file(tmp_path / first.name)
    assert caught.value.path == str(tmp_path / others[-1].name)


# ---- Carrying over ----------------------------------------------------------------------------------


def carry(recipe: Recipe, path: Path, **more: Any) -> Carried:
    return carry_over(recipe, tensors_of(path), **more)


def full(path: Path, qtype: str = "Q5_K") -> Recipe:
    return Recipe(tensors={n: qtype for n, t in tensors_of(path).items() if t.quantizable})


def test_the_same_tensors_get_the_same_types(dense: Path) -> None:
    found = carry(full(dense), dense)
    assert found.recipe.tensors == full(dense).tensors
    assert (found.missing, found.extra) == ((), {})


def test_a_missing_tensor_is_refused_or_skipped(dense: Path) -> None:
    types = dict(full(dense).tensors) | {"blk.99.attn_q.weight": "Q5_K", "blk.98.attn_q.weight": "Q5_K"}
    with pytest.raises(ParityError, match="lacks 2 tensors") as caught:
        carry(Recipe(tensors=types), dense)
    assert caught.value.missing == ("blk.99.attn_q.weight", "blk.98.attn_q.weight")
    assert caught.value.tensor == "blk.99.attn_q.weight"
    found = carry(Recipe(tensors=types), dense, policy=Policy(missing="skip"))
    assert found.missing == caught.value.missing
    assert found.recipe.tensors == full(dense).tensors


def test_tensors_that_are_never_quantized_may_be_missing(dense: Path) -> None:
    found = carry(Recipe(tensors={**full(dense).tensors, "rope_freqs.weight": "F32"}), dense)
    assert found.missing == ()


def test_an_extra_tensor_follows_the_base_and_is_listed(dense: Path) -> None:
    types = dict(full(dense).tensors)
    del types[DOWN]
    assert carry(Recipe(tensors=types), dense).extra == {DOWN: "Q8_0"}
    assert carry(Recipe(base="Q6_K", tensors=types), dense).extra == {DOWN: "Q6_K"}
    found = carry(Recipe(base="Q6_K", tensors=types), dense, policy=Policy(base="Q4_K"))
    assert found.extra == {DOWN: "Q4_K"}
    assert found.recipe.tensors[DOWN] == "Q4_K"
    kept = carry(Recipe(tensors=types), dense, policy=Policy(extra="keep"))
    assert kept.recipe.tensors[DOWN] == tensors_of(dense)[DOWN].qtype_name
    with pytest.raises(ParityError) as caught:
        carry(Recipe(tensors=types), dense, policy=Policy(extra="refuse"))
    assert caught.value.extra == (DOWN,)


def test_a_recipe_of_patterns_speaks_of_every_tensor(dense: Path) -> None:
    recipe = Recipe(base="Q5_K", rules=(Rule(r".*attn_v\.weight", "Q6_K"),))
    found = carry(recipe, dense)
    assert found.extra == {}
    assert found.recipe.resolve(tensors_of(dense)) == recipe.resolve(tensors_of(dense))
    partly = carry(Recipe(rules=recipe.rules), dense)
    assert set(partly.extra) == {
        n for n, t in tensors_of(dense).items() if t.quantizable and "attn_v" not in n
    }


def test_what_was_unquantized_stays_as_it_is_here(dense: Path) -> None:
    found = carry(Recipe(tensors={**full(dense).tensors, DOWN: "F16"}), dense)
    assert found.recipe.tensors[DOWN] == tensors_of(dense)[DOWN].qtype_name != "F16"


def test_other_architectures_and_shapes_are_refused(dense: Path) -> None:
    with pytest.raises(ParityError) as caught:
        carry(full(dense), dense, architectures=("qwen3", "llama"))
    assert (caught.value.expected, caught.value.got) == ("qwen3", "llama")
    with pytest.raises(ParityError, match="other shapes") as caught:
        carry(full(dense), dense, shapes={"blk.0.attn_q.weight": (512, 512)})
    assert caught.value.tensor == "blk.0.attn_q.weight"


def test_a_finetune_may_have_more_tokens(dense: Path) -> None:
    shape = tensors_of(dense)["token_embd.weight"].info.shape
    carry(full(dense), dense, shapes={"token_embd.weight": (shape[0], shape[1] + 8)})
    with pytest.raises(ParityError):
        carry(full(dense), dense, shapes={"token_embd.weight": (shape[0] + 256, shape[1])})


def test_a_router_that_changed_is_left_to_the_build_to_refuse(tiny_models: TinyModels) -> None:
    router = "blk.0.ffn_gate_inp.weight"
    kept = carry(Recipe(tensors={**full(tiny_models.moe).tensors, router: "BF16"}), tiny_models.moe)
    assert router not in kept.recipe.tensors
    changed = carry(Recipe(tensors={**full(tiny_models.moe).tensors, router: "Q8_0"}), tiny_models.moe)
    with pytest.raises(RecipeError, match="routers"):
        changed.recipe.resolve(tensors_of(tiny_models.moe))


def test_learned_from_another_model_is_refused(tiny_models: TinyModels) -> None:
    found = learn_file(tiny_models.moe)
    with pytest.raises(ParityError):
        found.recipe_for(tensors_of(tiny_models.dense), "llama")
    same = found.recipe_for(tensors_of(tiny_models.moe), found.architecture)
    assert same.extra == {}
