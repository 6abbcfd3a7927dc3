"""A machine as the budget: what is solved loads within it, and what cannot fit says what would help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cli_process import DONE, USAGE, mqnative, succeed
from damage_place import Workplace
from hf_models import builtin_checkpoint
from hub_server import HubServer
from mqnative.builtin import MODEL
from mqnative.core.memory import CPU_ALONE, Context, MemoryTable, Placement, memory_use
from mqnative.formats.recipe import read_recipe
from mqnative.jobs.memory_budget import cache_text

INFEASIBLE = 3
VRAM = 16 << 20


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("memory"))


def built(place: Workplace, out: Path) -> Path:
    """The file of the recipe that was solved last."""
    recipe = place.folder / "recipe.yaml"
    succeed("build", MODEL, "-r", recipe, "--imatrix", place.imatrix, "-o", out, env=place.env)
    return out


def loaded(path: Path, placement: Placement, context: Context) -> MemoryTable:
    """What llama.cpp reports once it has loaded the file."""
    return memory_use(path, placement, (context,), load=True).tables[0]


def tensor_types(said: dict[str, Any]) -> dict[str, str]:
    return {t["name"]: t["type"] for t in said["tensors"]}


def test_a_mix_for_a_card_loads_within_it(place: Workplace, tmp_path: Path) -> None:
    said = place.solved("--vram", "16MiB", "--ctx", 512)
    table = loaded(built(place, tmp_path / "model.gguf"), Placement(), Context(512))
    assert said["device_bytes"] == table.device_bytes <= VRAM
    assert said["host_bytes"] == table.host_bytes
    assert table.device_bytes > 0.98 * VRAM  # and it makes use of it
    assert said["launch_flags"] == ["-ngl", "999", "-c", "512", "-np", "1", "-ub", "512"]
    kinds = {k: sum(r[f"{k}_bytes"] for r in said["memory"]) for k in ("weights", "cache", "compute")}
    assert kinds["cache"] == 512 * 8 * 2 * 2 * 2 * 64  # tokens, layers, K and V, 2 bytes, heads, width


def test_what_a_cache_loses_is_told_apart(place: Workplace) -> None:
    given = (
        "--damages",
        place.table,
        "--imatrix",
        place.imatrix,
        "-o",
        place.folder / "said.yaml",
        "--force",
    )
    fixed = ("solve", MODEL, *given, "--vram", "16MiB", "--ctx", 512)
    plain = succeed(*fixed, env=place.env).out
    narrow = succeed(*fixed, "--kv-type", "q8_0,q4_0", env=place.env).out
    assert "cache  " not in plain
    assert "what q8_0, q4_0 loses is not in the predicted KLD" in narrow
    assert cache_text(("F16", "Q8_0"), 0.25) == (
        "f16, q8_0 loses 0.250000 nats per token, measured, on top of the predicted KLD"
    )


def test_less_context_leaves_more_for_weights(place: Workplace) -> None:
    long, short = (place.solved("--vram", "15MiB", "--ctx", n) for n in (1024, 256))
    assert short["predicted_kld"] < long["predicted_kld"]
    narrow = place.solved("--vram", "15MiB", "--ctx", 1024, "--kv-type", "q8_0")
    assert narrow["predicted_kld"] < long["predicted_kld"]
    assert narrow["launch_flags"][-6:] == ["-ctk", "q8_0", "-ctv", "q8_0", "-fa", "on"]


def test_what_no_mix_fits_says_what_would_help(place: Workplace) -> None:
    done = place.solve("--vram", "100KiB", "--ctx", 4096)
    assert done.code == INFEASIBLE
    for way_out in ("--ctx 1024", "--kv-type q8_0", "--ubatch 64", "--ram"):
        assert way_out in done.json["message"]
    smallest = done.json["smallest_bytes"]
    assert smallest > 100 << 10
    assert place.solve("--vram", smallest - 1, "--ctx", 4096).code == INFEASIBLE
    assert place.solve("--vram", smallest + (64 << 10), "--ctx", 4096).code == DONE


def test_main_memory_takes_what_the_card_cannot(place: Workplace, tmp_path: Path) -> None:
    vram = 11 << 20
    assert place.solve("--vram", vram, "--ctx", 512).code == INFEASIBLE
    said = place.solved("--vram", vram, "--ram", "16MiB", "--ctx", 512)
    layers = int(said["launch_flags"][1])
    assert 0 <= layers < 9
    table = loaded(built(place, tmp_path / "model.gguf"), Placement(layers), Context(512))
    assert table.device_bytes == said["device_bytes"] <= vram
    assert table.host_bytes == said["host_bytes"] <= 16 << 20


def test_without_a_card_main_memory_is_the_budget(place: Workplace, tmp_path: Path) -> None:
    said = place.solved("--ram", "18MB", "--ctx", 512)
    table = loaded(built(place, tmp_path / "model.gguf"), CPU_ALONE, Context(512))
    assert said["launch_flags"][:2] == ["-ngl", "0"]
    assert (said["device_bytes"], said["host_bytes"]) == (0, table.host_bytes)
    assert table.host_bytes <= 18_000_000


def test_a_size_and_a_card_both_hold(place: Workplace) -> None:
    alone = place.solved("--vram", "16MiB", "--ctx", 512)
    both = place.solved("--vram", "16MiB", "--ctx", 512, "--size", "5MB")
    assert both["size_bytes"] <= 5_000_000 < alone["size_bytes"]
    assert both["device_bytes"] <= VRAM


def test_constraints_hold_on_a_card_too(place: Workplace) -> None:
    said = place.solved("--vram", "16MiB", "--ctx", 512, "--pin", r"output\.weight=Q8_0")
    assert tensor_types(said)["output.weight"] == "Q8_0"
    assert read_recipe(place.folder / "recipe.yaml").tensors["output.weight"] == "Q8_0"


def test_few_types_on_a_card(place: Workplace) -> None:
    free = place.solved("--vram", "16MiB", "--ctx", 512)
    said = place.solved("--vram", "16MiB", "--ctx", 512, "--max-types", 2)
    measured = [t["type"] for t in said["tensors"] if t["type"] != "F32"]
    assert len(set(measured)) <= 2 < len({t["type"] for t in free["tensors"]} - {"F32"})
    assert said["device_bytes"] <= VRAM
    assert said["predicted_kld"] > free["predicted_kld"]


def test_speed_that_is_demanded_is_reached(place: Workplace) -> None:
    said = place.solved("--bpw", 6, "--min-tps", 1)
    assert said["predicted_tps"] > 1
    assert said["measured_tps"] > 1
    done = place.solve("--bpw", 6, "--min-tps", 10_000_000)
    assert done.code == INFEASIBLE
    # Of memory nothing was asked, and nothing is said of it.
    assert "1e+07 tokens per second" in done.json["message"]
    assert "--ram" not in done.json["message"]


def test_fit_tells_what_is_left_for_weights(place: Workplace) -> None:
    arguments = ("fit", MODEL, "--ctx", 512, "--vram", "16MiB", "--ram", "64MiB", "--json")
    rows = succeed(*arguments, env=place.env).json["fits"]
    first = rows[0]
    assert (first["device"], first["n_ctx"], first["kv_type"]) == ("planned", 512, ["F16", "F16"])
    needed = first["cache_bytes"] + first["compute_bytes"]
    assert 0 < VRAM - needed - first["weights_left_bytes"] < 64 << 10  # norms
    assert {r["device"] for r in rows} == {"planned", "CPU"}
    roomy = next(r for r in rows if r["device"] == "CPU")
    assert roomy["presets"][0] == "Q8_0"


def test_where_all_of_a_model_fits_no_more_is_offered(place: Workplace) -> None:
    shown = succeed("fit", MODEL, "--ctx", 4096, "--vram", "64MiB", env=place.env).out
    assert "the model as it is" in shown
    assert " 16 " in shown  # bits of BF16, not of what would fit
    assert "trained for contexts of 2,048 tokens" in shown
    tight = succeed("fit", MODEL, "--ctx", 512, "--vram", "15MiB", env=place.env).out
    assert "as it is" not in tight
    assert "trained" not in tight


def test_a_checkpoint_fits_as_the_model_it_becomes(place: Workplace, tmp_path: Path) -> None:
    folder = builtin_checkpoint(tmp_path / "checkpoint")
    arguments = ("--ctx", 512, "--vram", "16MiB", "--json")
    before, after = (succeed("fit", m, *arguments, env=place.env).json["fits"] for m in (folder, MODEL))
    assert before == after


@pytest.mark.parametrize("is_gguf", [False, True])
def test_a_model_on_a_hub_fits_by_its_headers_alone(place: Workplace, tmp_path: Path, is_gguf: bool) -> None:
    arguments = ("--ctx", 512, "--vram", "16MiB", "--json")
    with HubServer() as hub:
        if is_gguf:
            hub.add("acme/tiny", {"tiny-bf16.gguf": MODEL})
        else:
            hub.add_folder("acme/tiny", builtin_checkpoint(tmp_path / "checkpoint", n_shards=2))
        away = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_TOKEN": "",
            "HF_HUB_OFFLINE": "",
        }
        said = succeed("fit", "acme/tiny", *arguments, env={**place.env, **away}).json
        assert said["fits"] == succeed("fit", MODEL, *arguments, env=place.env).json["fits"]
        # A window for each file's header is read, not the weights behind it.
        assert hub.sent_bytes < 3 << 20 < MODEL.stat().st_size


def test_bench_gives_both_rates_with_their_spread(place: Workplace) -> None:
    arguments = ("bench", MODEL, "--prompt", 32, "--gen", 8, "--runs", 3, "--json")
    said = succeed(*arguments, env=place.env).json
    for kind, n in (("prompt", 32), ("generation", 8)):
        assert said[kind]["n_tokens"] == n
        assert len(said[kind]["tps_runs"]) == 3
        assert said[kind]["tps_mean"] > 0
    timed = succeed("bench", MODEL, "--types", "--only", "Q4_0,Q8_0", "--json", env=place.env).json["types"]
    assert {t["type"] for t in timed} == {"Q4_0", "Q8_0"}
    assert all(p["seconds"] > 0 for t in timed for p in t["products"])


def test_options_that_make_no_sense_are_refused(place: Workplace) -> None:
    for arguments in (
        ("--bpw", 4, "--kv-type", "q8_0"),
        ("--vram", "1GiB", "--kv-type", "q9"),
        ("--vram", "1GiB", "--method", "greedy"),
        ("--vram", "1GiB", "--min-tps", 10),
        ("--vram", "1GiB", "--kv-type", "auto"),  # a table holds no text to measure caches on
    ):
        assert place.solve(*arguments).code == USAGE, arguments
    assert mqnative("bench", "missing.gguf").code != DONE
    for options in (("--prompt", 0, "--gen", 0), ("--only", "Q8_0")):
        assert mqnative("bench", MODEL, *options).code == USAGE, options


def test_auto_builds_what_fits_and_says_how_to_start_it(place: Workplace, tmp_path: Path) -> None:
    arguments = (
        "auto", MODEL, "--vram", "15MiB", "--ctx", 128, "--kv-type", "auto", "--calib", place.text, "--fast",
        "--types", "Q8_0,Q5_K,Q4_K", "--verify-chunks", 2, "-o", tmp_path / "out", "--json",
    )  # fmt: skip
    said = succeed(*arguments, env=place.env).json
    memory = said["memory"]
    k, v = memory["kv_type"]
    table = loaded(Path(said["model_path"]), Placement(), Context(128, type_k=k, type_v=v))
    assert table.device_bytes == memory["device_bytes"] <= 15 << 20
    assert said["launch_flags"][:4] == ["-ngl", "999", "-c", "128"]
    assert any("--vram" in note for note in said["notes"])
    card = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "## On the machine asked for" in card
    assert f"{table.device_bytes:,}" in card
    again = succeed(*arguments, env=place.env).json
    assert again["reused"]
    assert again["launch_flags"] == said["launch_flags"]
