"""The installed command line end to end: streams, figures, files, signals, on the built-in model."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from cli_process import COMMAND, DONE, INTERRUPTED, USAGE, Finished, environment, mqnative, started, succeed
from mqnative.app.cli import COMMANDS
from mqnative.core.native import core
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.recipe import Recipe, write_recipe
from mqnative.formats.tensor_types import format_tensor_types
from tiny_models import TinyModels

# One thread: two that wait for each other crawl where other work shares the processor.
N_CTX, N_CHUNKS = 64, 4
SCORED = N_CHUNKS * (N_CTX // 2 - 1)
LENGTH = ("--ctx", N_CTX, "--chunks", N_CHUNKS, "-t", 1)
FEW = ("--ctx", 16, "--chunks", 2, "-t", 1)

# What DESIGN 9 promises to scripts.
PPL_KEYS = {"ppl", "ppl_se", "n_tokens", "size_bytes", "model_path", "mode", "n_chunks", "n_ctx"}
KLD_KEYS = {"kld_mean", "kld_se", "kld_ci95", "kld_p99", "ppl_ratio", "top1_agreement", "ppl_cor_ln"}
BUILD_KEYS = {"model_path", "recipe_path", "manifest_path", "report_path", "files", "launch_flags"}

unix_only = pytest.mark.skipif(os.name == "nt", reason="needs signals and pseudo-terminals")


@dataclass(frozen=True)
class Workshop:
    """A folder with a model, two texts, an importance matrix and a small file made with it."""

    folder: Path
    model: Path
    calib: Path
    held_out: Path
    imatrix: Path
    small: Path
    small_json: dict[str, Any]
    imatrix_json: dict[str, Any]


@pytest.fixture(scope="module")
def shop(
    tmp_path_factory: pytest.TempPathFactory, builtin_model: Path, calib_text: str, eval_text: str
) -> Workshop:
    folder = tmp_path_factory.mktemp("workshop")
    calib, held_out = folder / "calib.txt", folder / "held-out.txt"
    calib.write_text(calib_text[:6000], encoding="utf-8")
    held_out.write_text(eval_text[:6000], encoding="utf-8")
    imatrix, small = folder / "imatrix.gguf", folder / "small.gguf"
    collected = succeed("imatrix", builtin_model, "-f", calib, *LENGTH, "-o", imatrix, "--json")
    made = succeed("build", builtin_model, "--preset", "Q4_K_M", "--imatrix", imatrix, "-o", small, "--json")
    return Workshop(
        folder, builtin_model, calib, held_out, imatrix, small, made.json, imatrix_json=collected.json
    )


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def tensors_of(path: Path) -> dict[str, tuple[str, bytes]]:
    with GGUFFile.open(path) as file:
        return {name: (info.qtype.name, file.data(name).tobytes()) for name, info in file.tensors.items()}


# ---- Help -------------------------------------------------------------------------------------------


def examples(name: str) -> list[str]:
    """The commands after ``Example:``, as somebody pastes them into a shell."""
    shown = succeed(name, "--help").out
    _, found, text = shown.partition("Example:")
    assert found, shown
    joined = text.replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip()]


FILES = {
    "model.gguf": "model",
    "model-bf16.gguf": "model",
    "model-q4.gguf": "small",
    "calibration.txt": "calib",
    "held-out.txt": "held_out",
    "imatrix.gguf": "imatrix",
}


@pytest.mark.parametrize("name", ["doctor", "inspect", "imatrix", "eval", "build"])
def test_the_example_in_the_help_runs_as_it_stands(name: str, shop: Workshop, tmp_path: Path) -> None:
    for file, what in FILES.items():
        shutil.copy(getattr(shop, what), tmp_path / file)
    if name == "imatrix":
        (tmp_path / "imatrix.gguf").unlink()
    for text in ("calibration.txt", "held-out.txt"):  # two chunks of the default size
        (tmp_path / text).write_bytes(shop.calib.read_bytes()[:4500])
    write_recipe(tmp_path / "recipe.yaml", Recipe(base="Q6_K"))
    for line in examples(name):
        program, *arguments = shlex.split(line)
        assert program == "mqnative"
        succeed(*arguments, cwd=tmp_path)


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_the_help_lists_every_command(option: str) -> None:
    shown = succeed(option)
    assert shown.err == ""
    listed = re.findall(r"^  (\w+) +\S", shown.out.partition("Commands:")[2], re.MULTILINE)
    assert listed == list(COMMANDS)


def test_without_arguments_the_help_is_shown_and_nothing_is_claimed_done() -> None:
    done = mqnative()
    assert done.code == USAGE
    assert "Commands:" in done.out + done.err


def test_the_version_is_the_installed_ones() -> None:
    assert succeed("--version").out == f"mqnative {version('mqnative')}\n"


def test_the_script_and_the_module_are_the_same_program() -> None:
    script = Path(sys.executable).with_name("mqnative")
    if not script.exists():
        pytest.skip("no script beside this Python")
    assert mqnative("--help", command=[str(script)]) == mqnative("--help")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("inspcet", "m.gguf"), "inspcet"),
        (("inspect",), "MODEL"),
        (("inspect", "m.gguf", "--tensor"), "--tensors"),
        (("imatrix", "m.gguf", "-f", "t.txt"), "--output"),
        (("eval", "m.gguf"), "--file"),
        (("eval", "m.gguf", "-f", "t.txt", "--chunks", "0"), "--chunks"),
        (("eval", "m.gguf", "-f", "t.txt", "--chunks", "some"), "--chunks"),
        (("eval", "m.gguf", "-f", "t.txt", "--ctx", "3"), "--ctx"),
        (("eval", "m.gguf", "-f", "t.txt", "-t", "0"), "--threads"),
        (("eval", "m.gguf", "-f", "t.txt", "-t", "100000"), "--threads"),
        (("build", "m.gguf", "-o", "o.gguf"), "--recipe"),
        (("build", "m.gguf", "--preset", "Q4_K", "-r", "r.yaml", "-o", "o.gguf"), "--recipe"),
        (("build", "m.gguf", "--preset", "Q4_K"), "--output"),
        (("build", "m.gguf", "--preset", "Q4_K", "--base", "Q6_K", "-o", "o.gguf"), "--base"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_usage_exits_with_2_and_names_the_option(arguments: tuple[str, ...], said: str) -> None:
    done = mqnative(*arguments)
    assert (done.code, done.out) == (USAGE, "")
    assert said in done.err
    assert "--help" in done.err


# ---- Each command -----------------------------------------------------------------------------------


def test_doctor_tells_people_and_scripts_the_same() -> None:
    told, shown = succeed("doctor", "--json"), succeed("doctor")
    assert (told.err, shown.err) == ("", "")
    info = told.json
    assert info["upstream_commit"] == core().build_info()["upstream_commit"]
    assert {d["kind"] for d in info["devices"]} >= {"cpu"}
    for fact in (info["version"], info["upstream_commit"], info["compiler"], *info["isa"], info["python"]):
        assert fact in shown.out


@pytest.mark.parametrize("label", ["builtin", "dense", "moe", "split"])
def test_inspect_gives_the_files_own_figures(label: str, shop: Workshop, tiny_models: TinyModels) -> None:
    path = shop.model if label == "builtin" else getattr(tiny_models, label)
    facts = succeed("inspect", path, "--json").json
    sizes = [Path(part).stat().st_size for part in facts["files"]]
    assert len(sizes) == (3 if label == "split" else 1)
    assert facts["size_bytes"] == sum(sizes)
    assert facts["n_weights"] == sum(t["n_weights"] for t in facts["tensors"])
    assert facts["tensor_bytes"] == sum(t["size_bytes"] for t in facts["tensors"])
    assert facts["bpw"] == pytest.approx(8 * facts["tensor_bytes"] / facts["n_weights"])
    assert sum(facts["types"].values()) == len(facts["tensors"])
    shown = succeed("inspect", path).out
    assert f"{facts['n_weights']:,}" in shown
    assert f"{facts['size_bytes']:,} bytes" in shown


def test_inspect_lists_tensors_and_presets_on_request(shop: Workshop) -> None:
    shown = succeed("inspect", shop.model, "--tensors", "--presets").out
    lines = {line.split()[0]: line.split() for line in shown.splitlines() if line.strip()}
    assert lines["blk.0.attn_k.weight"][-1] == "yes"
    assert lines["blk.0.attn_k_norm.weight"][-1] == "no"
    facts = succeed("inspect", shop.model, "--presets", "--json").json
    sizes = [p["tensor_bytes"] for p in facts["presets"]]
    assert sizes == sorted(sizes, reverse=True)
    by_name = {p["name"]: p for p in facts["presets"]}
    assert by_name["Q4_K_M"]["tensor_bytes"] == shop.small_json["tensor_bytes"]
    assert by_name["Q4_K_M"]["bpw"] == shop.small_json["bpw"]


def test_inspect_shows_an_imatrix_file_too(shop: Workshop) -> None:
    facts = succeed("inspect", shop.imatrix, "--json").json
    assert facts["architecture"] is None
    assert {t["quantizable"] for t in facts["tensors"]} == {None}
    assert succeed("inspect", shop.imatrix, "--tensors").err == ""


def test_imatrix_reports_what_it_wrote(shop: Workshop) -> None:
    facts = shop.imatrix_json
    assert facts["imatrix_path"] == str(shop.imatrix)
    assert facts["size_bytes"] == shop.imatrix.stat().st_size
    assert (facts["n_chunks"], facts["n_tokens"]) == (N_CHUNKS, N_CHUNKS * N_CTX)
    assert facts["partly_unseen"] == []
    with GGUFFile.open(shop.imatrix) as file:
        assert facts["n_entries"] == sum(name.endswith(".in_sum2") for name in file.tensors)
        assert file.get("imatrix.datasets") == ["calib.txt"]


def test_imatrix_names_the_tensors_whose_experts_were_not_all_seen(
    shop: Workshop, tiny_models: TinyModels, tmp_path: Path
) -> None:
    few = ("--ctx", 4, "--chunks", 1)  # too few tokens to reach all experts of all layers
    output = tmp_path / "i.gguf"
    done = succeed("imatrix", tiny_models.moe, "-f", shop.calib, *few, "-o", output, "--json").json
    with GGUFFile.open(output) as file:
        unseen = [n.removesuffix(".counts") for n in file.tensors if n.endswith(".counts")]
        unseen = sorted(n for n in unseen if not file.array(f"{n}.counts").all())
    assert unseen
    assert sorted(done["partly_unseen"]) == unseen


def test_imatrix_without_the_output_head_leaves_it_out(shop: Workshop, tmp_path: Path) -> None:
    done = succeed(
        "imatrix",
        shop.model,
        "-f",
        shop.calib,
        *FEW,
        "--no-process-output",
        "-o",
        tmp_path / "i.gguf",
        "--json",
    )
    assert done.json["n_entries"] == shop.imatrix_json["n_entries"] - 1
    with GGUFFile.open(tmp_path / "i.gguf") as file:
        assert "output.weight.in_sum2" not in file.tensors


def test_a_legacy_imatrix_builds_the_same_weights(shop: Workshop, tmp_path: Path) -> None:
    legacy = tmp_path / "imatrix.dat"
    succeed("imatrix", shop.model, "-f", shop.calib, *LENGTH, "--legacy", "-o", legacy)
    assert legacy.read_bytes()[:4] != b"GGUF"
    succeed("build", shop.model, "--preset", "Q4_K_M", "--imatrix", legacy, "-o", tmp_path / "m.gguf")
    assert tensors_of(tmp_path / "m.gguf") == tensors_of(shop.small)


def test_eval_without_a_reference_gives_perplexity_only(shop: Workshop) -> None:
    done = succeed("eval", shop.model, "-f", shop.held_out, *LENGTH, "--json")
    figures = done.json
    assert figures.keys() >= PPL_KEYS
    assert not any(key.startswith("kld") for key in figures)
    assert (figures["n_tokens"], figures["mode"]) == (SCORED, "exact")
    assert figures["size_bytes"] == shop.model.stat().st_size
    assert f"{figures['ppl']:.4f}" in succeed("eval", shop.model, "-f", shop.held_out, *LENGTH).out


def test_eval_of_a_split_model_counts_all_its_files(shop: Workshop, tiny_models: TinyModels) -> None:
    done = succeed("eval", tiny_models.split, "-f", shop.held_out, *FEW, "--json")
    parts = tiny_models.split.parent.glob("builtin-*-of-*.gguf")
    assert done.json["size_bytes"] == sum(part.stat().st_size for part in parts)


@pytest.mark.parametrize("mode", ["exact", "compat"])
def test_eval_with_a_reference_gives_the_divergence_from_it(mode: str, shop: Workshop) -> None:
    options = ["--compat"] if mode == "compat" else []
    arguments = ("eval", shop.small, "--reference", shop.model, "-f", shop.held_out, *LENGTH, *options)
    figures = succeed(*arguments, "--json").json
    assert figures.keys() >= PPL_KEYS | KLD_KEYS
    assert figures["mode"] == mode
    low, high = figures["kld_ci95"]
    assert 0 < low < figures["kld_mean"] < high
    assert figures["kld_median"] < figures["kld_p90"] < figures["kld_p99"] <= figures["kld_max"]
    assert figures["ppl_ratio"] == pytest.approx(figures["ppl"] / figures["ppl_ref"], rel=1e-6)
    assert 0.5 < figures["top1_agreement"] < 1
    assert f"{figures['kld_mean']:.6f}" in succeed(*arguments).out


def test_a_model_does_not_diverge_from_itself(shop: Workshop) -> None:
    figures = succeed("eval", shop.model, "--reference", shop.model, "-f", shop.held_out, *FEW, "--json").json
    assert (figures["kld_mean"], figures["kld_max"], figures["top1_agreement"]) == (0, 0, 1)
    assert (figures["ppl_ratio"], figures["ppl_cor_ln"]) == (1, pytest.approx(1))


# ---- Build ------------------------------------------------------------------------------------------


def test_build_reports_the_file_it_wrote(shop: Workshop) -> None:
    facts = shop.small_json
    assert facts.keys() >= BUILD_KEYS
    assert facts["model_path"] == str(shop.small)
    assert facts["files"] == [str(shop.small)]
    assert facts["size_bytes"] == shop.small.stat().st_size
    assert (facts["ftype"], facts["reused"]) == ("Q4_K_M", False)
    with GGUFFile.open(shop.small) as file:
        written = {name: (t.qtype.name, t.size_bytes) for name, t in file.tensors.items()}
    assert {t["name"]: (t["type"], t["size_bytes"]) for t in facts["tensors"]} == written


def test_a_dry_run_tells_the_same_and_writes_nothing(shop: Workshop, tmp_path: Path) -> None:
    arguments = ("build", shop.model, "--preset", "Q4_K_M", "--imatrix", shop.imatrix, "--dry-run")
    planned = succeed(*arguments, "-o", tmp_path / "m.gguf", "--json").json
    assert names(tmp_path) == []
    assert (planned["model_path"], planned["files"]) == (None, [])
    same = ("size_bytes", "tensor_bytes", "bpw", "bpw_file", "ftype", "tensors")
    assert {k: planned[k] for k in same} == {k: shop.small_json[k] for k in same}
    assert f"{planned['size_bytes']:,} bytes" in succeed(*arguments).out


def test_yaml_json_and_tensor_type_files_make_the_same_file(tiny_models: TinyModels, tmp_path: Path) -> None:
    recipe = Recipe(base="Q4_K", tensors={"token_embd.weight": "Q8_0"})
    write_recipe(tmp_path / "r.yaml", recipe)
    write_recipe(tmp_path / "r.json", recipe)
    with GGUFFile.open(tiny_models.dense) as file:
        matrices = [name for name, t in file.tensors.items() if len(t.shape) == 2]
    (tmp_path / "types.txt").write_text(format_tensor_types(recipe, matrices), encoding="utf-8")
    (tmp_path / "one.txt").write_text("^token_embd\\.weight$=q8_0\n", encoding="utf-8")
    made = set()
    for label, options in {
        "yaml": ("-r", "r.yaml"),
        "json": ("--recipe", "r.json"),
        "types": ("--tensor-type-file", "types.txt"),
        "one": ("--tensor-type-file", "one.txt", "--base", "q4_k"),
    }.items():
        succeed("build", tiny_models.dense, *options, "-o", f"{label}.gguf", cwd=tmp_path)
        made.add((tmp_path / f"{label}.gguf").read_bytes())
    assert len(made) == 1
    with GGUFFile.open(tmp_path / "yaml.gguf") as file:
        types = {name: file.tensors[name].qtype.name for name in matrices}
    assert types == {name: recipe.type_of(name) for name in matrices}


def test_the_bytes_depend_on_neither_threads_nor_folder_nor_time(shop: Workshop, tmp_path: Path) -> None:
    elsewhere = tmp_path / "a folder"
    elsewhere.mkdir()
    shutil.copy(shop.model, elsewhere / "other name.gguf")
    shutil.copy(shop.imatrix, elsewhere / shop.imatrix.name)
    options = ("--preset", "Q4_K_M", "--imatrix", shop.imatrix.name, "-t", 1)
    succeed("build", "other name.gguf", *options, "-o", "m.gguf", cwd=elsewhere)
    made = (elsewhere / "m.gguf").read_bytes()
    assert made == shop.small.read_bytes()
    for private in (str(tmp_path), str(shop.folder), str(shop.model.parent), "a folder"):
        assert private.encode() not in made


def test_the_same_inputs_again_rewrite_nothing(shop: Workshop) -> None:
    before = shop.small.stat()
    again = succeed(
        "build", shop.model, "--preset", "Q4_K_M", "--imatrix", shop.imatrix, "-o", shop.small, "--json"
    )
    assert again.json == {**shop.small_json, "reused": True}
    after = shop.small.stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


def test_an_output_of_other_inputs_is_kept_until_force(shop: Workshop, tmp_path: Path) -> None:
    output = tmp_path / "m.gguf"
    shutil.copy(shop.small, output)
    arguments = ("build", shop.model, "--preset", "Q5_K_M", "-o", output)
    refused = mqnative(*arguments)
    assert refused.code == USAGE
    assert "--force" in refused.err
    assert output.read_bytes() == shop.small.read_bytes()
    assert succeed(*arguments, "--force", "--json").json["reused"] is False
    assert output.stat().st_size > shop.small.stat().st_size
    assert names(tmp_path) == ["m.gguf", "m.manifest.json"]


def test_a_build_from_a_split_model_is_that_from_the_whole(
    shop: Workshop, tiny_models: TinyModels, tmp_path: Path
) -> None:
    for source, output in ((tiny_models.split, "split.gguf"), (shop.model, "whole.gguf")):
        succeed("build", source, "--preset", "Q8_0", "-o", tmp_path / output)
    assert tensors_of(tmp_path / "split.gguf") == tensors_of(tmp_path / "whole.gguf")


# ---- Streams ----------------------------------------------------------------------------------------


def test_json_is_one_object_and_short_work_says_nothing_else(shop: Workshop, tmp_path: Path) -> None:
    for arguments in (
        ("doctor",),
        ("inspect", shop.model),
        ("eval", shop.model, "-f", shop.held_out, *FEW),
        ("imatrix", shop.model, "-f", shop.calib, *FEW, "-o", tmp_path / "i.gguf"),
        ("build", shop.model, "--preset", "Q8_0", "-o", tmp_path / "m.gguf"),
    ):
        done = succeed(*arguments, "--json")
        assert isinstance(done.json, dict)
        assert done.out.endswith("}\n")
        assert done.err == ""


@unix_only
def test_a_terminal_gets_bars_with_rate_and_time_left_and_standard_output_stays_json(shop: Workshop) -> None:
    length = ("--ctx", 64, "--chunks", 25, "-t", 1)
    with started("eval", shop.model, "-f", shop.calib, *length, "--json") as running:
        done = running.end()
    assert done.code == DONE, done.err
    assert done.json["n_chunks"] == 25
    assert "\x1b" not in done.out
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", done.err)
    assert re.search(r"evaluate .* [1-9]\d?/25 +[\d.]+ chunks/s +\d\d:\d\d", plain), plain


def test_output_in_a_pipe_is_plain_text(shop: Workshop) -> None:
    for arguments in (("inspect", shop.model, "--tensors"), ("doctor",)):
        assert "\x1b" not in succeed(*arguments, env={"FORCE_COLOR": ""}).out


def test_lines_in_a_pipe_have_no_trailing_blanks(shop: Workshop) -> None:
    lines = succeed("inspect", shop.model, "--tensors").out.splitlines()
    assert [line for line in lines if line != line.rstrip()] == []


@unix_only
@pytest.mark.parametrize("arguments", [("--tensors",), ("--json",), ("--help",)], ids=" ".join)
def test_a_reader_that_leaves_is_no_failure(arguments: tuple[str, ...], shop: Workshop) -> None:
    """As ``mqnative inspect ... | head -1`` under ``set -o pipefail``; the pipe is closed at once."""
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        done = subprocess.run(
            [*COMMAND, "inspect", str(shop.model), *arguments],
            env=environment(),
            stdout=theirs,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(theirs)
    assert (done.returncode, done.stderr) == (DONE, "")


def test_paths_with_blanks_and_letters_of_all_kinds_are_paths(shop: Workshop, tmp_path: Path) -> None:
    folder = tmp_path / "mein Ordner é 日本"
    folder.mkdir()
    shutil.copy(shop.model, folder / "mo del.gguf")
    shutil.copy(shop.calib, folder / "te xt ü.txt")
    succeed("imatrix", "mo del.gguf", "-f", "te xt ü.txt", *FEW, "-o", "ì.gguf", cwd=folder)
    options = ("--preset", "Q4_0", "--imatrix", "ì.gguf", "-o", "ö 1.gguf", "--json")
    built = succeed("build", "mo del.gguf", *options, cwd=folder).json
    assert built["model_path"] == "ö 1.gguf"
    scored = succeed("eval", folder / "ö 1.gguf", "-f", folder / "te xt ü.txt", *FEW, "--json").json
    assert scored["model_path"] == str(folder / "ö 1.gguf")
    assert "mo del.gguf" in succeed("inspect", folder / "mo del.gguf").out
    with GGUFFile.open(folder / "ö 1.gguf") as file:
        assert file.get("quantize.imatrix.file") == "ì.gguf"
        assert file.get("quantize.imatrix.dataset") == "te xt ü.txt"


@pytest.mark.parametrize("name", ["m[bold].gguf", "m[", "[red]m[/red].gguf"])
def test_brackets_in_a_name_are_shown_as_they_are(name: str, shop: Workshop, tmp_path: Path) -> None:
    folder = tmp_path / "x[/i]"
    folder = tmp_path / "plain" if "/" in name else folder
    (folder / name).parent.mkdir(parents=True)
    shutil.copy(shop.model, folder / name)
    shown = succeed("inspect", name, cwd=folder)
    assert shown.out.splitlines()[0].rstrip() == name
    assert name in succeed("inspect", folder / name).out


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are text")
def test_a_file_name_that_is_not_text_is_a_file_name(shop: Workshop, tmp_path: Path) -> None:
    model = os.fsencode(tmp_path) + b"/m\xff.gguf"
    shutil.copy(os.fsencode(shop.model), model)
    succeed("inspect", model)
    assert succeed("eval", model, "-f", shop.held_out, *FEW, "--json").json["n_chunks"] == 2
    succeed("build", model, "--preset", "Q8_0", "-o", os.fsencode(tmp_path) + b"/q\xfe.gguf")


def test_figures_that_are_no_numbers_are_still_json(shop: Workshop, tmp_path: Path) -> None:
    from mqnative.formats.gguf import MetaValue
    from tiny_models import write_model

    path = write_model(tmp_path / "m.gguf", {"x.scale": MetaValue.f32(float("nan"))}, {})
    assert succeed("inspect", path, "--json").json["metadata"]["x.scale"] is None


# ---- Interruption -----------------------------------------------------------------------------------


def interrupted(done: Finished) -> None:
    assert done.code == INTERRUPTED, done.err
    assert done.out == ""
    assert "interrupted" in done.err
    assert "Traceback" not in done.err


@unix_only
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
@pytest.mark.parametrize("command", ["imatrix", "eval"])
def test_an_interrupted_measurement_leaves_nothing(
    command: str, number: signal.Signals, builtin_model: Path, tmp_path: Path
) -> None:
    from mqnative.builtin import CALIB_TEXT

    output = ["-o", tmp_path / "i.gguf"] if command == "imatrix" else []
    step = {"imatrix": "imatrix", "eval": "evaluate"}[command]
    arguments = (command, builtin_model, "-f", CALIB_TEXT, "--ctx", 64, "-t", 1, *output, "--json")
    with started(*arguments, cwd=tmp_path) as running:
        running.wait_for(lambda: re.search(rf"{step} .*\D[1-9]\d*/\d+", running.shown) is not None)
        interrupted(running.send(number))
    assert names(tmp_path) == []


@unix_only
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
@pytest.mark.parametrize("before", [None, b"what was there"], ids=["new", "existing"])
def test_an_interrupted_build_leaves_the_folder_as_it_was(
    before: bytes | None, number: signal.Signals, builtin_model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "m.gguf"
    if before is not None:
        output.write_bytes(before)
    options = ("--preset", "IQ3_S", "-t", 1, "--force", "--json")
    with started("build", builtin_model, *options, "-o", output) as running:
        # Not only begun: some tensors are written.
        running.wait_for(lambda: any(p.stat().st_size > 1_000_000 for p in tmp_path.glob(".m.gguf.*.part")))
        interrupted(running.send(number))
    assert names(tmp_path) == ([] if before is None else ["m.gguf"])
    if before is not None:
        assert output.read_bytes() == before


@unix_only
def test_a_closed_terminal_leaves_no_temporary_file(builtin_model: Path, tmp_path: Path) -> None:
    options = ("--preset", "IQ3_S", "-t", 1)
    with started("build", builtin_model, *options, "-o", tmp_path / "m.gguf") as running:
        running.wait_for(lambda: any(p.stat().st_size > 1_000_000 for p in tmp_path.glob(".m.gguf.*.part")))
        running.send(signal.SIGHUP)
    assert names(tmp_path) == []
