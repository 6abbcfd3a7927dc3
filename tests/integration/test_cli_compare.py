"""``mqnative compare`` and several texts in ``mqnative eval``: one pass, figures by text, nothing twice."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from cli_process import FAILED, mqnative, succeed
from mqnative.store import Store

CHUNKS = 5
LENGTH = ("--ctx", 64, "--chunks", CHUNKS, "-t", 1)
FIGURES = ("kld_mean", "kld_se", "ppl", "top1_agreement", "ppl_cor_ln")


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, builtin_model: Path, eval_text: str, calib_text: str
) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    for preset in ("Q8_0", "Q3_K_S"):
        succeed("build", builtin_model, "--preset", preset, "-o", folder / f"{preset}.gguf")
    (folder / "prose.txt").write_text(eval_text[:20000], encoding="utf-8")
    (folder / "other.txt").write_text(calib_text[:20000], encoding="utf-8")
    return folder


def test_files_have_the_figures_that_eval_gives_them(
    folder: Path, builtin_model: Path, tmp_path: Path
) -> None:
    home = {"MQNATIVE_HOME": str(tmp_path)}
    files = [folder / "Q8_0.gguf", folder / "Q3_K_S.gguf"]
    command = ("compare", builtin_model, *files, "-f", folder / "prose.txt", *LENGTH)
    done = succeed(*command, "-o", tmp_path / "out", "--json", env=home)
    rows = {mix["name"]: mix for mix in (done.json, *done.json["baselines"])}
    assert list(rows) == ["Q8_0.gguf", "Q3_K_S.gguf"]
    for path in files:
        alone = succeed(
            "eval", path, "--reference", builtin_model, "-f", folder / "prose.txt", *LENGTH, "--json"
        ).json
        for figure in FIGURES:
            assert rows[path.name][figure] == pytest.approx(alone[figure], rel=1e-6), figure
    assert rows["Q3_K_S.gguf"]["verdict"] == "better"  # the first file is
    low, high = rows["Q3_K_S.gguf"]["kld_difference_ci95"]
    assert 0 < low < rows["Q3_K_S.gguf"]["kld_mean"] - rows["Q8_0.gguf"]["kld_mean"] < high
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"report.html", "report.md", "report.json"}
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report == done.json


def test_what_was_measured_is_not_measured_again(folder: Path, builtin_model: Path, tmp_path: Path) -> None:
    home = {"MQNATIVE_HOME": str(tmp_path)}
    text = ("-f", folder / "prose.txt", *LENGTH, "--json")
    first = succeed("compare", builtin_model, folder / "Q8_0.gguf", *text, env=home).json

    def count() -> int:
        with Store.open(tmp_path) as store:
            return store.count("evaluation")

    assert count() == CHUNKS
    both = succeed(
        "compare", builtin_model, folder / "Q8_0.gguf", folder / "Q3_K_S.gguf", *text, env=home
    ).json
    assert count() == 2 * CHUNKS
    assert {key: both[key] for key in FIGURES} == {key: first[key] for key in FIGURES}
    files = (folder / "Q3_K_S.gguf", folder / "Q8_0.gguf")
    turned = succeed("compare", builtin_model, *files, *text, env=home).json
    assert turned["kld_mean"] == both["baselines"][0]["kld_mean"]
    assert count() == 2 * CHUNKS


def test_several_texts_are_pooled_and_told_apart(folder: Path, builtin_model: Path) -> None:
    texts = [folder / "prose.txt", folder / "other.txt"]
    command = ("eval", folder / "Q3_K_S.gguf", "--reference", builtin_model, *LENGTH, "--json")
    alone = [succeed(*command, "-f", text).json for text in texts]
    both = succeed(*command, *(part for text in texts for part in ("-f", text))).json
    assert both["n_chunks"] == 2 * CHUNKS
    assert both["kld_mean"] == pytest.approx((alone[0]["kld_mean"] + alone[1]["kld_mean"]) / 2, rel=1e-12)
    assert [t["text"] for t in both["texts"]] == ["prose.txt", "other.txt"]
    for found, wanted in zip(both["texts"], alone, strict=True):
        assert {k: found[k] for k in (*FIGURES, "kld_ci95")} == {k: wanted[k] for k in (*FIGURES, "kld_ci95")}
    assert both["macro"]["ppl"] == pytest.approx(math.sqrt(alone[0]["ppl"] * alone[1]["ppl"]))
    assert both["macro"]["kld_se"] == pytest.approx(math.hypot(alone[0]["kld_se"], alone[1]["kld_se"]) / 2)
    assert "texts" not in alone[0]
    shown = succeed(*command[:-1], *(part for text in texts for part in ("-f", text))).out
    assert "mean of the texts" in shown


def test_a_file_with_another_vocabulary_is_refused(folder: Path, builtin_model: Path, tmp_path: Path) -> None:
    from tiny_models import llama_model, write_model

    metadata, tensors = llama_model(n_embd=256, n_ff=256, n_head=4, n_head_kv=1, n_layer=1)
    small = {
        name: (array[:4000] if len(array) == 4096 else array, kind) for name, (array, kind) in tensors.items()
    }
    for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type"):
        if key in metadata:
            del metadata[key]
    metadata = {k: v for k, v in metadata.items() if not k.startswith("tokenizer.")}
    path = write_model(tmp_path / "other.gguf", metadata, small)
    done = mqnative("compare", builtin_model, path, "-f", folder / "prose.txt", *LENGTH, "--json")
    assert done.code == FAILED
    assert len(done.err.splitlines()) == 1
