"""Which files of a repository make the model."""

from __future__ import annotations

import pytest

from mqnative.errors import SourceError
from mqnative.source.listing import ListedFile, select_files, type_mark, weight_files

HF = ("config.json", "tokenizer.json", "model.safetensors")


def listed(*names: str) -> list[ListedFile]:
    return [ListedFile(name, 10) for name in names]


def weights(*names: str, wanted: str | None = None, prefer_gguf: bool = True) -> list[str]:
    found = select_files(listed(*names), "org/name", wanted=wanted, prefer_gguf=prefer_gguf)
    return [f.name for f in found.weights]


def test_a_checkpoint_takes_what_the_converter_reads_and_nothing_else() -> None:
    wanted = [
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "merges.txt",
        "vocab.txt", "rwkv_vocab_v20230424.txt", "tokenizer.model", "qwen.tiktoken", "chat_template.jinja",
        "README.md", "model.safetensors.index.json", "preprocessor_config.json", "1_Pooling/config.json",
        "additional_chat_templates/tools.jinja",
    ]  # fmt: skip
    unwanted = [
        ".gitattributes", "LICENSE", "modeling_evil.py", "pytorch_model.bin", "pytorch_model.bin.index.json",
        "consolidated.safetensors", "consolidated.safetensors.index.json", "original/params.json",
        "onnx/model.onnx", "onnx/config.json", "tf_model.h5", "training_log.txt", "images/plot.png",
    ]  # fmt: skip
    parts = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    found = select_files(listed(*wanted, *unwanted, *parts), "org/name")
    assert found.kind == "safetensors"
    assert sorted(f.name for f in found.others) == sorted(wanted)
    assert set(parts) <= {f.name for f in found.weights}


def test_without_an_index_only_files_called_model_count() -> None:
    assert weights(*HF, "consolidated.safetensors", "adapter.safetensors") == ["model.safetensors"]


def test_an_index_decides_which_files_count() -> None:
    files = listed("config.json", "model.safetensors.index.json", "a.safetensors", "b.safetensors")
    found = select_files(files, "org/name")
    assert [f.name for f in weight_files(found, ["a.safetensors"] * 3, "org/name")] == ["a.safetensors"]
    with pytest.raises(SourceError, match=r"org/name: the index .* names c.safetensors, which is not there"):
        weight_files(found, ["a.safetensors", "c.safetensors"], "org/name")


def test_an_unquantized_gguf_is_used_directly() -> None:
    names = ("m-Q4_K_M.gguf", "m-F16.gguf", "m-BF16.gguf", "m-IQ2_XXS.gguf", "imatrix.gguf")
    assert weights(*names) == ["m-BF16.gguf"]
    assert weights(*names, *HF) == ["m-BF16.gguf"]
    assert weights(*names, *HF, prefer_gguf=False) == ["model.safetensors"]
    assert weights("m-fp16.gguf", "m-f32.gguf") == ["m-fp16.gguf"]
    assert weights("m-f32.gguf", "m-Q8_0.gguf") == ["m-f32.gguf"]


def test_a_split_gguf_is_taken_whole() -> None:
    parts = [f"BF16/m-BF16-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    assert weights(*reversed(parts), "m-Q8_0.gguf") == parts
    with pytest.raises(SourceError, match="not all of them are there"):
        weights(*parts[:2])
    with pytest.raises(SourceError, match="not all of them are there"):
        weights(*parts[1:])


def test_a_named_file_is_taken_as_it_is() -> None:
    parts = [f"m-Q8_0-0000{i}-of-00002.gguf" for i in (1, 2)]
    assert weights(*parts, "m-BF16.gguf", wanted=parts[0]) == parts
    with pytest.raises(SourceError, match=r"org/name has no x.gguf; its GGUF files: m-BF16.gguf"):
        weights("m-BF16.gguf", wanted="x.gguf")


def test_projectors_come_with_the_model_and_are_none() -> None:
    files = listed("m-BF16.gguf", "mmproj-m-F16.gguf", "mmproj-m-BF16.gguf", "mmproj-m-Q8_0.gguf")
    found = select_files(files, "org/name")
    assert [f.name for f in found.mmproj] == ["mmproj-m-BF16.gguf"]
    assert [f.name for f in found.weights] == ["m-BF16.gguf"]


def test_a_gguf_that_names_no_type_is_taken_if_it_is_the_only_one() -> None:
    assert weights("model.gguf", "mtp-model.gguf") == ["model.gguf"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["m-Q4_K_M.gguf", "m-IQ2_S.gguf"], r"quantized GGUF files only \(IQ2_S, Q4_K_M\)"),
        (["a.gguf", "b.gguf"], "several models"),
        (["a-BF16.gguf", "b-BF16.gguf"], "several models"),
        (["consolidated.safetensors", "params.json"], "Mistral's own format"),
        (["config.json", "model.onnx"], "neither model"),
        (["adapter_config.json", "adapter_model.safetensors"], "adapter"),
        (["README.md"], "neither a GGUF"),
        ([], "neither a GGUF"),
    ],
)
def test_what_holds_no_model_is_told_why(names: list[str], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        weights(*names)


@pytest.mark.parametrize(
    ("name", "mark"),
    [
        ("Qwen3-4B-UD-Q4_K_XL.gguf", "Q4_K_XL"), ("m.IQ3_XXS.gguf", "IQ3_XXS"), ("m-bf16.gguf", "BF16"),
        ("BF16/m-00001.gguf", "BF16"), ("m-F16.imat-Q6_K.gguf", "Q6_K"), ("m-MXFP4_MOE.gguf", "MXFP4_MOE"),
        ("F16-fans.gguf", "F16"), ("m-TQ1_0.gguf", "TQ1_0"), ("model.gguf", ""), ("Q-Star-7B.gguf", ""),
        ("m-mqnative-4.50bpw.gguf", ""),
    ],
)  # fmt: skip
def test_the_type_in_a_name(name: str, mark: str) -> None:
    assert type_mark(name) == mark
