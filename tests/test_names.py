"""Names of mixes: the guide's examples, every published name, what is doubtful, and what is no name."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mqnative.core.presets import presets
from mqnative.errors import QuantNameError
from mqnative.formats.group_table import LETTERS
from mqnative.formats.name_parser import format_name, parse_fragment, parse_name
from mqnative.formats.names import QuantName, file_safe, write_name
from mqnative.formats.qtypes import all_types
from mqnative.formats.quant_tokens import FAMILIES, PRESETS, TYPES, read_quant, short_spelling


def groups(text: str) -> dict[str, str]:
    """``EH=BF16 Q=Q6_K`` -> a type for each letter."""
    pairs = [part.split("=") for part in text.split()]
    return {letter: quant for letters, quant in pairs for letter in letters}


# ---- Quantizations ----------------------------------------------------------------------------------


def test_the_list_of_types_and_presets_is_ggmls_and_llama_cpps() -> None:
    assert set(TYPES) == {t.name for t in all_types().values() if t.is_target}
    assert set(PRESETS) == set(presets()) - set(TYPES)


@pytest.mark.parametrize(
    ("spelled", "full"),
    [
        ("B16", "BF16"), ("bf16", "BF16"), ("F16", "F16"), ("FP16", "F16"), ("Q8", "Q8_0"), ("Q80", "Q8_0"),
        ("Q6K", "Q6_K"), ("Q5K", "Q5_K"), ("Q5KS", "Q5_K_S"), ("Q4K", "Q4_K"), ("Q4KM", "Q4_K_M"),
        ("Q3KL", "Q3_K_L"), ("IQ4NL", "IQ4_NL"), ("iq4_nl", "IQ4_NL"), ("IQ4XS", "IQ4_XS"),
        ("IQ3XXS", "IQ3_XXS"), ("IQ3M", "IQ3_M"), ("IQ1M", "IQ1_M"), ("TQ10", "TQ1_0"), ("NVFP4", "NVFP4"),
        ("mxfp4_moe", "MXFP4_MOE"), ("Q4_K_XL", "Q4_K_XL"),
    ],
)  # fmt: skip
def test_spellings(spelled: str, full: str) -> None:
    assert read_quant(spelled) == full


@pytest.mark.parametrize(
    "token", ["", "Q", "K", "Q4", "Q9_0", "Q6-K", "E", "4B", "Qwen3", "\u0131Q4NL", "Q7_K"]
)
def test_what_is_no_quantization(token: str) -> None:
    assert read_quant(token) is None


@pytest.mark.parametrize("quant", FAMILIES)
def test_every_spelling_reads_back(quant: str) -> None:
    assert read_quant(quant) == read_quant(short_spelling(quant)) == quant


def test_short_spellings_are_those_that_writers_use() -> None:
    wanted = ["B16", "IQ4NL", "Q6K", "Q8_0", "MXFP4", "Q4_K_M", "IQ2XXS", "Q5_1", "TQ1_0", "F16"]
    given_names = ["BF16", "IQ4_NL", "Q6_K", "Q8_0", "MXFP4", "Q4_K_M", "IQ2_XXS", "Q5_1", "TQ1_0", "F16"]
    assert [short_spelling(name) for name in given_names] == wanted


# ---- The guide's examples ---------------------------------------------------------------------------

GUIDE: list[tuple[str, str | None, str | None, dict[str, str]]] = [
    ("Qwen3-4B-MXFP4", "Qwen3-4B", "MXFP4", {}),
    ("Qwen3-7B-IQ4_NL", "Qwen3-7B", "IQ4_NL", {}),
    ("EH-B16", None, None, groups("EH=BF16")),
    ("QKO-IQ4NL", None, None, groups("QKO=IQ4_NL")),
    (
        "Qwen3-4B-MXFP4-EH-B16-QKO-IQ4NL.gguf",
        "Qwen3-4B",
        "MXFP4",
        groups("EH=BF16 QKO=IQ4_NL"),
    ),
    ("Qwen3-4B-MXFP4-E-Q5K.gguf", "Qwen3-4B", "MXFP4", groups("E=Q5_K")),
    ("Qwen3-4B-MXFP4-R-Q8.gguf", "Qwen3-4B", "MXFP4", groups("R=Q8_0")),
    ("Qwen3-4B-Q4_K_M.gguf", "Qwen3-4B", "Q4_K_M", {}),
    ("MXFP4-E-B16", None, "MXFP4", groups("E=BF16")),
    ("IQ4NL-QKO-Q6K", None, "IQ4_NL", groups("QKO=Q6_K")),
    ("Q6K-HR-B16", None, "Q6_K", groups("HR=BF16")),
    ("B16", None, "BF16", {}),
    ("X R-Q8_0", None, None, groups("XR=Q8_0")),
    ("XR-Q8_0", None, None, groups("XR=Q8_0")),
]


@pytest.mark.parametrize(
    ("text", "model", "base", "found"), GUIDE, ids=lambda v: v if isinstance(v, str) else ""
)
def test_the_guides_examples(text: str, model: str | None, base: str | None, found: dict[str, str]) -> None:
    name = parse_name(text).name
    assert (name.model, name.base, dict(name.groups)) == (model, base, found)
    expected = text.removesuffix(".gguf").replace("R-Q8", "R-Q8_0").replace("_0_0", "_0").replace("X R", "XR")
    assert format_name(name) == expected


@pytest.mark.parametrize(
    "text", [t for t, model, *_ in GUIDE if model or t.startswith(("MXFP4", "IQ4", "Q6"))]
)
def test_the_guides_whole_names_are_not_doubtful(text: str) -> None:
    assert parse_name(text).alternatives == ()


def test_the_odd_last_example_is_a_fragment_and_could_be_a_model() -> None:
    found = parse_name("XR-Q8_0")
    assert found.alternatives == (QuantName("XR", "Q8_0"),)
    assert parse_fragment("X R-Q8_0") == parse_fragment("XR-Q8_0") == groups("XR=Q8_0")


def test_a_fragment_is_letters_and_quantizations_in_turn() -> None:
    assert parse_fragment("EH-B16-QKO-IQ4NL") == groups("EH=BF16 QKO=IQ4_NL")
    for text in ("MXFP4-E-B16", "E", "E-X", "E-B16-E-Q8_0", ""):
        with pytest.raises(QuantNameError):
            parse_fragment(text)


# ---- Published names --------------------------------------------------------------------------------

# Without model: as in the tables.
PUBLISHED_V1 = {
    "mxfp4_moe-K-B16-QO-Q6K-EUD-Q8_0": "K=BF16 QO=Q6_K EUD=Q8_0",
    "mxfp4_moe-O-Q5K-EQKUD-Q6K": "O=Q5_K EQKUD=Q6_K",
    "mxfp4_moe-QUD-IQ4NL-KO-MXFP4-E-Q8_0": "QUD=IQ4_NL KO=MXFP4 E=Q8_0",
    "mxfp4_moe-K-B16-QU-IQ4NL-O-MXFP4-E-Q5K-D-Q6K": "K=BF16 QU=IQ4_NL O=MXFP4 E=Q5_K D=Q6_K",
    "mxfp4_moe-EQUD-IQ4NL-KO-MXFP4": "EQUD=IQ4_NL KO=MXFP4",
    "mxfp4_moe-HK-B16-EO-Q5K-QUD-Q8_0": "HK=BF16 EO=Q5_K QUD=Q8_0",
    "mxfp4_moe-O-MXFP4-EHQKUD-Q8_0": "O=MXFP4 EHQKUD=Q8_0",
    "mxfp4_moe-E-B16-D-IQ4NL-KOU-Q6K-HQ-Q8_0": "E=BF16 D=IQ4_NL KOU=Q6_K HQ=Q8_0",
    "mxfp4_moe-EHQKOUD-IQ4NL": "EHQKOUD=IQ4_NL",
    "mxfp4_moe-HQKU-IQ4NL-EOD-MXFP4": "HQKU=IQ4_NL EOD=MXFP4",
    "iq4_nl-EHQKOUD-Q8_0": "EHQKOUD=Q8_0",
    "mxfp4_moe-H-B16-EUR-IQ4NL-KO-Q5K-QD-Q6K": "H=BF16 EUR=IQ4_NL KO=Q5_K QD=Q6_K",
    "iq4_nl-EHQKOUD-IQ4NL": "EHQKOUD=IQ4_NL",
}


@pytest.mark.parametrize(
    "model", [None, "Qwen3-4B-Instruct-2507", "Seed-OSS-36B-Instruct-unsloth", "Model-E"]
)
@pytest.mark.parametrize("spec", PUBLISHED_V1)
def test_every_published_v1_name(spec: str, model: str | None) -> None:
    text = spec if model is None else f"{model}-{spec}.gguf"
    found = parse_name(text)
    base = "MXFP4" if spec.startswith("mxfp4") else "IQ4_NL"
    assert found.name == QuantName(model, base, groups(PUBLISHED_V1[spec]))
    assert found.name.semantics == "type"
    assert found.alternatives == ()
    # Blocks are written as published; only the base is spelled otherwise.
    blocks = spec.partition("-")[2]
    assert format_name(found.name).endswith(f"-{blocks}")
    assert parse_name(format_name(found.name)).name == found.name


@pytest.mark.parametrize(
    ("text", "model", "provider", "family", "ordinal"),
    [
        ("LM-Q8_0", None, "LM", "Q8_0", None),
        ("MQ-Q6_K_1", None, "MQ", "Q6_K", 1),
        ("UD-Q6_K_XL", None, "UD", "Q6_K_XL", None),
        ("LM-IQ4_XS", None, "LM", "IQ4_XS", None),
        ("MQ-Q5_K", None, "MQ", "Q5_K", None),
        ("UD-IQ3_S", None, "UD", "IQ3_S", None),
        ("Qwen3-4B-Instruct-2507-MQ-Q5_K_1.gguf", "Qwen3-4B-Instruct-2507", "MQ", "Q5_K", 1),
        ("Qwen3.6-27B-MQ-IQ3_M_1", "Qwen3.6-27B", "MQ", "IQ3_M", 1),
        ("Qwen3.6-35B-A3B-MQ-Q5_K_S_1", "Qwen3.6-35B-A3B", "MQ", "Q5_K_S", 1),
        ("Qwen3.6-35B-A3B-MQ-Q4_K_M_2", "Qwen3.6-35B-A3B", "MQ", "Q4_K_M", 2),
        ("Qwen3.6-35B-A3B-MQ-IQ4_NL_1", "Qwen3.6-35B-A3B", "MQ", "IQ4_NL", 1),
        ("Qwen3.8-27B-MQ-IQ2_XXS_1", "Qwen3.8-27B", "MQ", "IQ2_XXS", 1),
        ("Qwen3-4B-LM-MXFP4_MOE", "Qwen3-4B", "LM", "MXFP4_MOE", None),
        ("Qwen3-4B-MQ-UD-Q5_K_XL", "Qwen3-4B", "MQ-UD", "Q5_K_XL", None),
        ("Qwen3-4B-EXT-Q4_K_L", "Qwen3-4B", "EXT", "Q4_K_L", None),
        ("M-UD-IQ4_XS-00001-of-00003.gguf", "M", "UD", "IQ4_XS", None),
        ("UD_Q4_K_XL", None, "UD", "Q4_K_XL", None),
        # A trailing number is an ordinal only where the family goes without it.
        ("M-MQ-Q5_1", "M", "MQ", "Q5_1", None),
        ("M-MQ-Q5_1_3", "M", "MQ", "Q5_1", 3),
        ("M-MQ-Q4_0_12", "M", "MQ", "Q4_0", 12),
    ],
)
def test_v2_names(text: str, model: str | None, provider: str, family: str, ordinal: int | None) -> None:
    name = parse_name(text).name
    assert name == QuantName(model, family, {}, provider, ordinal)
    assert (name.scheme, name.semantics) == ("v2", "learned")
    assert parse_name(format_name(name)).name == name


@pytest.mark.parametrize(
    ("text", "model", "base", "found", "unlisted"),
    [
        ("MXFP4 akv_Q6_K-ao_Q5_K-emb_Q6_K", None, "MXFP4", "EK=Q6_K O=Q5_K", {}),
        ("My-Model-MXFP4 akv_Q6_K-ao_Q5_K-emb_Q6_K", "My-Model", "MXFP4", "EK=Q6_K O=Q5_K", {}),
        ("mxfp4_moe-te_Q5_K-out_Q5_K-rt_Q5_K-gt_Q5_K", None, "MXFP4", "EHR=Q5_K", {"gt": "Q5_K"}),
        ("M-Q8_0-head_BF16-aq_Q6_K-fug_Q4_K-fd_Q5_K-moe_rt_BF16-moe_exp_IQ4_NL", "M", "Q8_0",
         "H=BF16 Q=Q6_K U=Q4_K D=Q5_K R=BF16 X=IQ4_NL", {}),
    ],
)  # fmt: skip
def test_old_tags_are_read(
    text: str, model: str | None, base: str, found: str, unlisted: dict[str, str]
) -> None:
    parsed = parse_name(text)
    assert parsed.name == QuantName(model, base, groups(found))
    assert parsed.unlisted == unlisted


# ---- Models whose names end like a mix --------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "model", "base", "found"),
    [
        ("Command-R-Q4_K_M", "Command-R", "Q4_K_M", ""),
        ("Model-E-Q8_0", "Model-E", "Q8_0", ""),
        ("Foo-K-MXFP4-E-B16", "Foo-K", "MXFP4", "E=BF16"),
        ("Bar-Q8-MXFP4-E-B16", "Bar-Q8", "MXFP4", "E=BF16"),
        ("Bar-Q8-Q4_K_M", "Bar-Q8", "Q4_K_M", ""),
        ("Model-BF16-Q6K-HR-B16", "Model-BF16", "Q6_K", "HR=BF16"),
        ("Qwen3-30B-A3B-Thinking-2507-MXFP4-X-Q5K", "Qwen3-30B-A3B-Thinking-2507", "MXFP4", "X=Q5_K"),
        ("DeepSeek-R1-0528-Q8_0-R-B16", "DeepSeek-R1-0528", "Q8_0", "R=BF16"),
        ("a-HQQ-Q4_0", "a-HQQ", "Q4_0", ""),
        ("folder/sub/Model-Q8_0-E-B16.GGUF", "Model", "Q8_0", "E=BF16"),
    ],
)
def test_model_names_with_hyphens_letters_and_types(text: str, model: str, base: str, found: str) -> None:
    assert parse_name(text).name == QuantName(model, base, groups(found))


@pytest.mark.parametrize(
    ("text", "first", "others"),
    [
        # UD is Unsloth's mark, and a run of letters after a base.
        (
            "M-Q8_0-UD-IQ4_XS",
            QuantName("M", "Q8_0", groups("UD=IQ4_XS")),
            [QuantName("M-Q8_0", "IQ4_XS", {}, "UD"), QuantName("M-Q8_0-UD", "IQ4_XS")],
        ),
        ("M-Q8_0-UD-Q4_K_XL", QuantName("M-Q8_0", "Q4_K_XL", {}, "UD"), []),
        ("UD-IQ4_XS", QuantName(None, "IQ4_XS", {}, "UD"), [QuantName(None, None, groups("UD=IQ4_XS")),
                                                           QuantName("UD", "IQ4_XS")]),
        # Blocks out of order, or spelled as no writer does, may belong to the model.
        (
            "Q8-K-MXFP4-E-B16",
            QuantName(None, "Q8_0", groups("K=MXFP4 E=BF16")),
            [QuantName("Q8-K", "MXFP4", groups("E=BF16")), QuantName("Q8-K-MXFP4-E", "BF16")],
        ),
        ("Foo-Q8_0-E-Q6_K", QuantName("Foo", "Q8_0", groups("E=Q6_K")), [QuantName("Foo-Q8_0-E", "Q6_K")]),
        # A group at a preset.
        ("Foo-Q8-E-Q4_K_M", QuantName("Foo", "Q8_0", groups("E=Q4_K_M")), [QuantName("Foo-Q8-E", "Q4_K_M")]),
        # llama.cpp's preset of that name keeps all but experts at Q8_0.
        ("Foo-MXFP4_MOE", QuantName("Foo", "MXFP4"), [QuantName("Foo", "MXFP4_MOE")]),
        ("EH-B16", QuantName(None, None, groups("EH=BF16")), [QuantName("EH", "BF16")]),
    ],
)  # fmt: skip
def test_doubtful_names_tell_the_alternatives(text: str, first: QuantName, others: list[QuantName]) -> None:
    found = parse_name(text)
    assert found.name == first
    assert list(found.alternatives) == others
    assert found.to_json()["ambiguous"] == bool(others)


@pytest.mark.parametrize(
    ("text", "model", "expected"),
    [
        ("Foo-Q8_0-E-Q6K", "Foo-Q8_0-E", QuantName("Foo-Q8_0-E", "Q6_K")),
        ("Q8-K-MXFP4-E-B16", "Q8-K", QuantName("Q8-K", "MXFP4", groups("E=BF16"))),
        ("XR-Q8_0", "XR", QuantName("XR", "Q8_0")),
        ("M-Q8_0-UD-IQ4_XS", "M-Q8_0", QuantName("M-Q8_0", "IQ4_XS", {}, "UD")),
        ("M-UD-IQ4_XS", "M-UD", QuantName("M-UD", "IQ4_XS")),
        ("A-MXFP4 akv_Q6_K", "A", QuantName("A", "MXFP4", groups("K=Q6_K"))),
    ],
)
def test_the_models_name_removes_all_doubt(text: str, model: str, expected: QuantName) -> None:
    found = parse_name(text, model=model)
    assert (found.name, found.alternatives) == (expected, ())


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", ""),
        (".gguf", ""),
        ("-", ""),
        ("Qwen3-4B-Instruct", "Instruct"),
        ("Model-MXFP4-E-Q9Z", "Q9Z"),
        ("Qwen3-4B-MXFP4-E-B16-E-Q8_0", "E"),
        ("Qwen3-4B-MXFP4-EE-B16", "E"),
        ("MQ-Q5_K_0", "Q5_K_0"),
        ("M-MQ-Q8_1", "Q8_1"),
        ("Qwen3-4B.Q4_K_M", "4B.Q4_K_M"),
    ],
)
def test_what_is_no_name_is_named(text: str, part: str) -> None:
    with pytest.raises(QuantNameError) as caught:
        parse_name(text)
    assert (caught.value.name, caught.value.part) == (text, part)


def test_a_near_miss_is_pointed_at() -> None:
    with pytest.raises(QuantNameError, match="did you mean Q4_K_M"):
        parse_name("Model-Q4_K_MM")


@pytest.mark.parametrize(("text", "model"), [("Other-Q8_0", "Foo"), ("Foo-x-Q8_0", "Foo"), ("Foo-Qx", "Foo")])
def test_names_of_another_model_are_refused(text: str, model: str) -> None:
    with pytest.raises(QuantNameError):
        parse_name(text, model=model)


# ---- Writing ----------------------------------------------------------------------------------------

GROUPS = st.dictionaries(st.sampled_from("".join(LETTERS)), st.sampled_from(FAMILIES))
MODEL_PART = st.from_regex(r"[A-Za-z0-9._]{1,6}", fullmatch=True)
AWKWARD = st.sampled_from(["E", "UD", "XR", "Q8_0", "B16", "MQ", "LM", "Q5_K", "K", "EE", "mxfp4"])
MODELS = st.none() | st.lists(MODEL_PART | AWKWARD, min_size=1, max_size=4).map("-".join)
V1 = st.builds(QuantName, MODELS, st.sampled_from(FAMILIES), GROUPS)
V2 = st.builds(
    QuantName,
    MODELS,
    st.sampled_from(FAMILIES),
    st.just({}),
    st.sampled_from(["LM", "MQ", "UD", "EXT", "MQ-UD", "MQ-EXT"]),
    st.none() | st.integers(1, 99),
)
FRAGMENTS = st.builds(QuantName, st.none(), st.none(), GROUPS.filter(bool))


@given(V1 | V2 | FRAGMENTS)
def test_format_then_parse_is_the_identity(name: QuantName) -> None:
    try:
        text = format_name(name)
    except QuantNameError:
        assume(False)
    assert parse_name(text).name == name
    assert parse_name(f"{text}.gguf").name == name


@given(
    st.sampled_from(["Qwen3-4B", "Command-R", "a-B-7"]),
    st.sampled_from(TYPES),
    st.dictionaries(st.sampled_from("".join(LETTERS)), st.sampled_from(TYPES)),
)
def test_every_mix_of_types_has_a_name_that_is_not_doubtful(
    model: str, base: str, by_letter: dict[str, str]
) -> None:
    name = QuantName(model, base, by_letter)
    found = parse_name(format_name(name))
    assert found.name == name
    # But for a last block of U and D, which is Unsloth's mark too.
    assert found.alternatives == () or format_name(name).split("-")[-2] == "UD"


@given(V1 | V2 | FRAGMENTS)
def test_a_known_model_makes_every_name_readable(name: QuantName) -> None:
    assume(name.model is not None and name.base is not None and name.base != "MXFP4_MOE")
    text = write_name(name)
    assert name.model is not None
    try:
        read = parse_name(text, model=name.model).name
    except QuantNameError:
        # A group twice, by the model's own name.
        assume(False)
    assert read == name


@given(st.text(max_size=30) | st.lists(MODEL_PART | AWKWARD, max_size=8).map("-".join))
def test_any_text_is_read_or_refused_with_an_error_of_ours(text: str) -> None:
    with contextlib.suppress(QuantNameError):
        found = parse_name(text)
        assert found.to_json()["canonical"]
        assert found.name not in found.alternatives


def test_canonical_order_and_compression() -> None:
    name = QuantName("M", "MXFP4", groups("D=Q8_0 Q=IQ4_NL E=BF16 O=IQ4_NL H=BF16 K=IQ4_NL X=Q6_K"))
    assert format_name(name) == "M-MXFP4-EH-B16-QKO-IQ4NL-X-Q6K-D-Q8_0"


@pytest.mark.parametrize(
    ("model", "base", "expected"),
    [
        ("Qwen3-7B", "IQ4_NL", "Qwen3-7B-IQ4_NL"),
        ("Qwen3-4B", "BF16", "Qwen3-4B-BF16"),
        (None, "BF16", "B16"),
        (None, "Q4_K_M", "Q4_K_M"),
    ],
)
def test_pure_files_are_called_as_llama_cpp_calls_them(model: str | None, base: str, expected: str) -> None:
    assert format_name(QuantName(model, base)) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        {"model": "M", "base": "Q8_0", "groups": {"Z": "Q8_0"}},
        {"model": "M", "base": "Q8_0", "groups": {"E": "Q99"}},
        {"model": "M", "base": "nothing"},
        {"model": "M", "base": None},
        {"model": "M", "base": None, "provider": "MQ"},
        {"model": "M", "base": "Q8_0", "ordinal": 1},
        {"model": "M", "base": "Q8_0", "provider": "MQ", "ordinal": 0},
        {"model": "M", "base": "Q8_0", "provider": "XX"},
        {"model": "M", "base": "Q8_0", "provider": "MQ-MQ"},
        {"model": "M", "base": "Q8_0", "provider": "MQ", "groups": {"E": "Q6_K"}},
    ],
)
def test_a_name_that_cannot_be_is_not_made(arguments: dict[str, Any]) -> None:
    with pytest.raises(QuantNameError):
        QuantName(**arguments)


@pytest.mark.parametrize(
    "name",
    [
        QuantName("Foo-Q8_0-E", "Q6_K"),
        QuantName("XR", "Q8_0"),
        QuantName("Foo", "MXFP4_MOE"),
        QuantName("a b", "Q8_0"),
        QuantName("a/b", "Q8_0"),
    ],
)
def test_names_that_would_mislead_are_not_written(name: QuantName) -> None:
    with pytest.raises(QuantNameError):
        format_name(name)


def test_models_are_made_safe_for_file_names() -> None:
    assert file_safe(" Qwen3 4B/Instruct (2507) ") == "Qwen3_4B_Instruct__2507_"


# ---- JSON -------------------------------------------------------------------------------------------


def test_json_of_a_name() -> None:
    found = parse_name("Qwen3-4B-MXFP4-EH-B16-QKO-IQ4NL.gguf").to_json()
    assert found == {
        "name": "Qwen3-4B-MXFP4-EH-B16-QKO-IQ4NL.gguf",
        "model": "Qwen3-4B",
        "base": "MXFP4",
        "groups": {"E": "BF16", "H": "BF16", "Q": "IQ4_NL", "K": "IQ4_NL", "O": "IQ4_NL"},
        "semantics": "type",
        "scheme": "v1",
        "provider": None,
        "family": None,
        "ordinal": None,
        "ambiguous": False,
        "alternatives": [],
        "unlisted": {},
        "canonical": "Qwen3-4B-MXFP4-EH-B16-QKO-IQ4NL",
    }


@given(V1 | V2 | FRAGMENTS)
def test_json_reads_back(name: QuantName) -> None:
    assert QuantName.from_json(name.to_json()) == name


def test_groups_at_the_base_are_no_deviation() -> None:
    document = {"model": "M", "base": "Q8_0", "groups": {"E": "Q8", "H": "Q6K"}}
    assert QuantName.from_json(document) == QuantName("M", "Q8_0", {"H": "Q6_K"})


@pytest.mark.parametrize(
    "document",
    [
        None, [], "x", {}, {"model": "M"}, {"base": 3},
        {"base": "Q8_0", "groups": ["E"]}, {"base": "Q8_0", "groups": {"E": 1}},
        {"base": "Q8_0", "ordinal": True, "provider": "MQ"}, {"base": "Q8_0", "model": 1},
    ],
)  # fmt: skip
def test_other_documents_are_refused(document: Any) -> None:
    with pytest.raises(QuantNameError):
        QuantName.from_json(document)
