"""Names and models: the types that a name asks for, sizes of published files, names of recipes."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqnative.build.plan import ModelTensor, model_tensors, plan_build
from mqnative.core.presets import preset_types
from mqnative.errors import QuantNameError, RecipeError
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.gguf_header import TensorInfo
from mqnative.formats.groups import label
from mqnative.formats.name_parser import format_name, parse_name
from mqnative.formats.names import QuantName
from mqnative.formats.qtypes import qtype
from mqnative.formats.recipe import Recipe, Rule
from mqnative.hybrids.named import mix_of_name, name_of_recipe, recipe_of_name
from tiny_models import TinyModels


def transformer(
    *,
    n_layers: int,
    n_embd: int,
    n_vocab: int,
    n_q: int,
    n_kv: int,
    n_ff: int,
    n_experts: int = 0,
    tied: bool = False,
) -> dict[str, ModelTensor]:
    """A published model's tensors: BF16 matrices, F32 vectors and routers."""
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (n_embd, n_vocab),
        "output_norm.weight": (n_embd,),
    }
    if not tied:
        shapes["output.weight"] = (n_embd, n_vocab)
    experts = (n_experts,) if n_experts else ()
    suffix = "_exps" if n_experts else ""
    for i in range(n_layers):
        block = {
            "attn_norm": (n_embd,), "ffn_norm": (n_embd,),
            "attn_q": (n_embd, n_q), "attn_k": (n_embd, n_kv), "attn_v": (n_embd, n_kv),
            "attn_output": (n_q, n_embd),
            f"ffn_gate{suffix}": (n_embd, n_ff, *experts), f"ffn_up{suffix}": (n_embd, n_ff, *experts),
            f"ffn_down{suffix}": (n_ff, n_embd, *experts),
        }  # fmt: skip
        if n_experts:
            block["ffn_gate_inp"] = (n_embd, n_experts)
        shapes |= {f"blk.{i}.{role}.weight": shape for role, shape in block.items()}
    found = {}
    for name, shape in shapes.items():
        quantizable = len(shape) > 1 and "ffn_gate_inp" not in name
        kind = qtype("BF16" if quantizable else "F32")
        found[name] = ModelTensor(
            TensorInfo(name, shape, kind, 0, kind.tensor_bytes(shape), Path("published.gguf")), quantizable
        )
    return found


QWEN3_4B = transformer(n_layers=36, n_embd=2560, n_vocab=151936, n_q=4096, n_kv=1024, n_ff=9728, tied=True)
SEED_OSS = transformer(n_layers=64, n_embd=5120, n_vocab=155136, n_q=10240, n_kv=1024, n_ff=27648)
QWEN3_30B = transformer(n_layers=48, n_embd=2048, n_vocab=151936, n_q=4096, n_kv=512, n_ff=768, n_experts=128)


def gib(spec: str, tensors: dict[str, ModelTensor], experts: str = "X") -> float:
    return mix_of_name(parse_name(spec).name, tensors, experts=experts).tensor_bytes / 2**30


@pytest.mark.parametrize(
    ("spec", "published"),
    [
        ("B16", 7.50),
        ("Q8_0", 3.99),
        ("Q6K", 3.08),
        ("MXFP4_MOE", 2.00),
        ("mxfp4_moe-K-B16-QO-Q6K-EUD-Q8_0", 3.98),
        ("mxfp4_moe-O-Q5K-EQKUD-Q6K", 3.03),
        ("mxfp4_moe-QUD-IQ4NL-KO-MXFP4-E-Q8_0", 2.28),
        ("mxfp4_moe-K-B16-QU-IQ4NL-O-MXFP4-E-Q5K-D-Q6K", 2.62),
        ("mxfp4_moe-EQUD-IQ4NL-KO-MXFP4", 2.10),
    ],
)
def test_sizes_of_published_files_of_the_dense_model(spec: str, published: float) -> None:
    assert gib(spec, QWEN3_4B) == pytest.approx(published, abs=0.021)


@pytest.mark.parametrize(
    ("spec", "published"),
    [
        ("B16", 56.90),
        ("iq4_nl-EHQKOUD-Q8_0", 30.25),
        ("mxfp4_moe-H-B16-EUR-IQ4NL-KO-Q5K-QD-Q6K", 18.93),
        ("iq4_nl-EHQKOUD-IQ4NL", 16.04),
        ("MXFP4_MOE", 15.15),
    ],
)
def test_sizes_of_published_files_of_the_mixture_of_experts(spec: str, published: float) -> None:
    # These names mean experts too by U and D.
    assert gib(spec, QWEN3_30B, experts="UD") == pytest.approx(published, abs=0.041)


# What was published as these files had the head's type in attn_output, by a pattern that was not anchored.
MISLABELLED = {
    "mxfp4_moe-HK-B16-EO-Q5K-QUD-Q8_0": ("mxfp4_moe-HKO-B16-E-Q5K-QUD-Q8_0", 35.60, 39.71),
    "mxfp4_moe-O-MXFP4-EHQKUD-Q8_0": ("mxfp4_moe-EHQKOUD-Q8_0", 34.11, 35.78),
    "mxfp4_moe-E-B16-D-IQ4NL-KOU-Q6K-HQ-Q8_0": ("mxfp4_moe-E-B16-D-IQ4NL-KU-Q6K-HQO-Q8_0", 27.25, 28.02),
    "mxfp4_moe-HQKU-IQ4NL-EOD-MXFP4": ("mxfp4_moe-HQKOU-IQ4NL-ED-MXFP4", 18.55, 18.66),
}


@pytest.mark.parametrize("spec", MISLABELLED)
def test_sizes_show_which_published_names_are_wrong(spec: str) -> None:
    corrected, as_named, published = MISLABELLED[spec]
    assert gib(spec, SEED_OSS) == pytest.approx(as_named, abs=0.021)
    assert gib(corrected, SEED_OSS) == pytest.approx(published, abs=0.021)


@pytest.mark.parametrize(
    ("spec", "published"), [("B16", 67.35), ("Q8_0", 35.78), ("mxfp4_moe-EHQKOUD-IQ4NL", 18.95)]
)
def test_sizes_of_the_other_files_of_that_model(spec: str, published: float) -> None:
    assert gib(spec, SEED_OSS) == pytest.approx(published, abs=0.021)


# ---- Names to types ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moe(tiny_models: TinyModels) -> Path:
    return tiny_models.moe


def tensors_of(path: Path) -> dict[str, ModelTensor]:
    with GGUFFile.open(path) as file:
        return model_tensors(file)


def test_each_group_gets_its_type_and_the_rest_the_base(moe: Path) -> None:
    tensors = tensors_of(moe)
    mix = mix_of_name(parse_name("M-Q8_0-X-Q5K-K-Q6K").name, tensors)
    wanted = {"X": "Q5_K", "K": "Q6_K"}
    resolved = mix.recipe.resolve(tensors)
    for name, t in tensors.items():
        expected = wanted.get(label(name).letter or "", "Q8_0") if t.quantizable else t.qtype_name
        assert resolved[name] == expected
    assert mix.warnings == ()


def test_experts_can_be_meant_by_up_and_down(moe: Path) -> None:
    tensors = tensors_of(moe)
    types = mix_of_name(parse_name("M-Q8_0-D-Q5K-U-Q6K").name, tensors, experts="UD").recipe.tensors
    assert types["blk.0.ffn_down_exps.weight"] == "Q5_K"
    assert types["blk.0.ffn_up_exps.weight"] == types["blk.0.ffn_gate_exps.weight"] == "Q6_K"
    guide = mix_of_name(parse_name("M-Q8_0-D-Q5K-U-Q6K").name, tensors).recipe.tensors
    assert guide["blk.0.ffn_down_exps.weight"] == "Q8_0"


def test_groups_that_the_model_lacks_are_warned_about(builtin_model: Path) -> None:
    mix = mix_of_name(parse_name("M-Q8_0-XR-Q5K").name, tensors_of(builtin_model))
    assert mix.warnings == ("the model has no group X (experts)", "the model has no group R (router)")


def test_a_router_in_a_name_is_refused_by_the_build_with_the_reason(moe: Path) -> None:
    mix = mix_of_name(parse_name("M-Q8_0-R-B16").name, tensors_of(moe))
    with (
        GGUFFile.open(moe) as file,
        pytest.raises(RecipeError, match=r"never changes .* routers") as e,
    ):
        plan_build(file, mix.recipe)
    assert e.value.tensor is not None
    assert "ffn_gate_inp" in e.value.tensor
    rules = recipe_of_name(parse_name("M-Q8_0-R-B16").name)
    with GGUFFile.open(moe) as file, pytest.raises(RecipeError, match="ffn_gate_inp"):
        plan_build(file, rules)


def test_a_preset_in_a_name_is_the_presets_own_pattern(builtin_model: Path) -> None:
    tensors = tensors_of(builtin_model)
    preset = preset_types(builtin_model, "Q4_K_M", with_imatrix=True)
    for text in ("M-Q4_K_M", "M-LM-Q4_K_M"):
        mix = mix_of_name(parse_name(text).name, tensors, builtin_model)
        assert mix.recipe.resolve(tensors) == preset
    group = mix_of_name(parse_name("M-Q8_0-D-Q4_K_M").name, tensors, builtin_model).recipe.tensors
    assert all(group[n] == (preset[n] if label(n).letter == "D" else "Q8_0") for n in group)


@pytest.mark.parametrize("text", ["M-MQ-Q5_K_1", "M-UD-Q4_K_XL", "M-Q4_K_XL", "EH-B16"])
def test_a_name_that_does_not_tell_its_types_says_so(text: str, builtin_model: Path) -> None:
    with pytest.raises(QuantNameError):
        mix_of_name(parse_name(text).name, tensors_of(builtin_model), builtin_model)
    with pytest.raises(QuantNameError):
        recipe_of_name(parse_name(text).name)


def test_rules_of_a_name_say_the_same_as_its_tensors(builtin_model: Path) -> None:
    tensors = tensors_of(builtin_model)
    name = parse_name("M-Q4_K-EH-Q8_0-K-Q6K").name
    assert recipe_of_name(name).resolve(tensors) == mix_of_name(name, tensors).recipe.resolve(tensors)


# ---- Recipes to names -------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["M-MXFP4-EH-B16-QKO-IQ4NL", "M-Q6_K", "M-Q8_0-U-Q4K-D-Q5K"])
def test_a_recipe_made_of_a_name_has_that_name(spec: str, builtin_model: Path) -> None:
    tensors = tensors_of(builtin_model)
    name = parse_name(spec).name
    for recipe in (recipe_of_name(name), mix_of_name(name, tensors).recipe):
        assert format_name(name_of_recipe(recipe)) == spec
        assert format_name(name_of_recipe(recipe, tensors)) == spec


def test_without_a_base_the_commonest_type_is_the_base() -> None:
    types = {f"blk.{i}.ffn_{x}.weight": "Q4_K" for i in range(3) for x in ("up", "gate")}
    recipe = Recipe(tensors=types | {"token_embd.weight": "Q8_0", "output_norm.weight": "F32"})
    assert name_of_recipe(recipe) == QuantName(None, "Q4_K", {"E": "Q8_0"})


def test_tensors_without_a_letter_decide_the_base() -> None:
    recipe = Recipe(tensors={"blk.0.ssm_out.weight": "Q6_K", "blk.0.attn_q.weight": "Q5_K"})
    assert name_of_recipe(recipe) == QuantName(None, "Q6_K", {"Q": "Q5_K"})
    with pytest.raises(QuantNameError, match="what no group covers"):
        name_of_recipe(Recipe(base="Q8_0", tensors={"blk.0.ssm_out.weight": "Q6_K"}))


def test_a_group_of_several_types_has_no_v1_name() -> None:
    recipe = Recipe(tensors={"blk.0.attn_q.weight": "Q5_K", "blk.1.attn_q.weight": "Q6_K"})
    with pytest.raises(QuantNameError, match=r"group Q .*1 x Q5_K, 1 x Q6_K") as caught:
        name_of_recipe(recipe)
    assert caught.value.part == "group Q"


def test_a_recipe_that_says_nothing_has_no_name() -> None:
    with pytest.raises(QuantNameError):
        name_of_recipe(Recipe(tensors={"output_norm.weight": "F32"}))


def test_patterns_are_tried_on_the_usual_names() -> None:
    recipe = Recipe(base="Q4_K", rules=(Rule(r".*attn_[kv]\.weight", "Q6_K"),), model={"name": "A b"})
    assert format_name(name_of_recipe(recipe)) == "A_b-Q4K-K-Q6K"
    with pytest.raises(QuantNameError, match="group K"):
        name_of_recipe(Recipe(base="Q4_K", rules=(Rule(r"blk\.0\.attn_k\.weight", "Q6_K"),)))
