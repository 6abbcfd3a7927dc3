"""``mqnative probe`` and ``sweep``: their figures, their cost told first, nothing measured twice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cli_process import DONE, USAGE, mqnative, succeed
from mqnative.formats.qtypes import qtype
from tiny_models import TinyModels

LENGTH = ("--ctx", 32, "--chunks", 2, "-t", 1)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory, eval_text: str) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(eval_text[:8000], encoding="utf-8")
    return path


def test_every_type_of_every_tensor_is_probed_and_the_cost_is_told_first(
    tiny_models: TinyModels, text: Path, tmp_path: Path
) -> None:
    home = {"MQNATIVE_HOME": str(tmp_path)}
    command = ("probe", tiny_models.dense, "-f", text, "--types", "all", "--metric", "kld,ppl", *LENGTH)
    done = mqnative(*command, "--json", env=home)
    assert done.code == DONE, done.err
    told = re.match(r"([\d,]+) passes, ([\d,]+) whole ones' work: about \S+", done.err)
    assert told is not None
    rows = done.json["probes"]
    assert int(told[1].replace(",", "")) == 2 * len(rows)
    assert len({(row["tensor"], row["type"]) for row in rows}) == len(rows)
    types = {row["type"] for row in rows if row["tensor"] == "blk.1.ffn_down.weight"}
    assert {"Q8_0", "Q4_K", "Q4_0", "TQ2_0"} <= types
    assert "IQ2_XXS" not in types  # needs an imatrix
    for row in rows:
        assert row["bpw"] == qtype(row["type"]).bpw
        assert row["ppl"] > 1
        assert row["ppl_ci95"][0] <= row["ppl"] <= row["ppl_ci95"][1]
        assert row["n_chunks"] == 2
    assert rows == sorted(rows, key=lambda row: -row["kld_mean"])
    again = mqnative(*command, "--json", env=home)
    assert again.json == done.json
    assert "passes" not in again.err


def test_only_the_metric_asked_for_is_shown(tiny_models: TinyModels, text: Path) -> None:
    command = ("probe", tiny_models.dense, "-f", text, "--types", "Q4_0", *LENGTH)
    row = succeed(*command, "--json").json["probes"][0]
    assert "kld_mean" in row
    assert "ppl" not in row
    row = succeed(*command, "--metric", "ppl", "--json").json["probes"][0]
    assert "kld_mean" not in row
    assert "PPL ratio" in succeed(*command, "--metric", "ppl").out
    done = mqnative(*command, "--metric", "rmse")
    assert done.code == USAGE
    assert "rmse" in done.err


def test_a_sweep_of_all_rows_is_exact_and_one_of_some_is_near(tiny_models: TinyModels) -> None:
    def errors(*options: object) -> dict[tuple[str, str], dict[str, float]]:
        found = succeed("sweep", tiny_models.dense, "--types", "Q4_K,Q6_K,Q8_0", *options, "--json").json
        return {(t["name"], e["qtype"]): e for t in found["tensors"] for e in t["errors"]}

    exact, sampled = errors("--tolerance", 0), errors("--tolerance", 0.05)
    assert exact.keys() == sampled.keys()
    for key, error in exact.items():
        assert error["half_width"] == 0
        assert sampled[key]["half_width"] <= 0.05
        assert sampled[key]["weighted"] == pytest.approx(error["weighted"], rel=0.15)
        assert len(error["quantiles"]) == 4  # type: ignore[arg-type]
    assert sum(e["n_rows"] for e in sampled.values()) < sum(e["n_rows"] for e in exact.values())
