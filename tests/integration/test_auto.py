"""The main job as users run it: ends with a better file, resumes after any death, repeats nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mqnative.builtin import CALIB_TEXT, MODEL
from mqnative.formats.gguf import GGUFFile

TYPES = "Q8_0,Q6_K,Q5_K,Q4_K,Q3_K,Q2_K"
# Small chunks keep a pass at a fraction of a second.
EFFORT = ["--ctx", "64", "--probe-chunks", "2", "--verify-chunks", "6", "--types", TYPES]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "mqnative", *map(str, arguments)]


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "MQNATIVE_HOME": str(home)}


def run(home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), env=environment(home), capture_output=True, text=True, check=False, timeout=600
    )


def auto_arguments(out: Path, text: Path, *budget: object) -> list[object]:
    return ["auto", MODEL, *budget, "--calib", text, "-o", out, *EFFORT, "--json"]


def rows(home: Path) -> dict[str, int]:
    with sqlite3.connect(home / "mqnative.db") as db:
        found = dict(db.execute("select kind, count(*) from measurements group by kind").fetchall())
    db.close()
    return found


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "calib.txt"
    path.write_text(CALIB_TEXT.read_text(encoding="utf-8")[:12_000], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, text: Path) -> tuple[Path, Path, dict[str, Any]]:
    """(store, output folder, what auto printed) of a run that nothing disturbed."""
    home, out = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("runs") / "out"
    done = run(home, *auto_arguments(out, text, "--bpw", 4.5))
    assert done.returncode == 0, done.stderr
    return home, out, json.loads(done.stdout)


def test_auto_leaves_a_model_a_recipe_a_manifest_and_reports(
    finished: tuple[Path, Path, dict[str, Any]],
) -> None:
    _, out, said = finished
    assert [p.name for p in out.glob("*.gguf")] == [Path(said["model_path"]).name]
    assert {"recipe.yaml", "manifest.json", "report.html", "report.md", "report.json", "work"} <= {
        p.name for p in out.iterdir()
    }
    assert said["size_bytes"] == Path(said["model_path"]).stat().st_size
    assert said["bpw"] <= 4.5
    assert said["launch_flags"] == []


def test_the_answer_beats_the_best_preset_of_at_most_its_size(
    finished: tuple[Path, Path, dict[str, Any]],
) -> None:
    _, _, said = finished
    smaller = [b for b in said["baselines"] if b["size_bytes"] <= said["size_bytes"]]
    assert smaller
    assert all(b["verdict"] == "better" and b["kld_mean"] > said["kld_mean"] for b in smaller)


def test_the_recipe_builds_the_same_bytes(
    finished: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    home, out, said = finished
    again = tmp_path / "again.gguf"
    imatrix = out / "work" / "imatrix.gguf"
    done = run(home, "build", MODEL, "-r", out / "recipe.yaml", "--imatrix", imatrix, "-o", again)
    assert done.returncode == 0, done.stderr
    assert digest(again) == digest(Path(said["model_path"]))


def test_the_manifest_builds_the_same_bytes_elsewhere_with_cold_caches(
    finished: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, out, said = finished
    manifest = tmp_path / "sent" / "manifest.json"
    manifest.parent.mkdir()
    shutil.copy(out / "manifest.json", manifest)
    shutil.copy(out / "work" / "imatrix.gguf", manifest.parent)
    done = run(tmp_path / "new home", "build", "--manifest", manifest, MODEL, "-o", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    again = Path(json.loads(done.stdout)["model_path"])
    assert again == tmp_path / Path(said["model_path"]).name
    assert digest(again) == digest(Path(said["model_path"]))


def probes(home: Path) -> int:
    return rows(home).get("probe", 0)


def test_a_warm_start_takes_a_fifth_of_the_probes_and_is_as_good(
    finished: tuple[Path, Path, dict[str, Any]], text: Path, tmp_path: Path
) -> None:
    fresh_home, out, said = finished
    home = tmp_path / "home"
    arguments = auto_arguments(tmp_path / "warm", text, "--bpw", 4.5)
    done = run(home, *arguments, "--like", out / "manifest.json")
    assert done.returncode == 0, done.stderr
    warm = json.loads(done.stdout)
    assert any("scaled from" in note for note in warm["notes"])
    # The fixture's store may hold other runs' probes too, but none of fewer tensors.
    assert 0 < probes(home) <= probes(fresh_home) / 5
    assert warm["kld_mean"] <= said["kld_ci95"][1]
    other = run(home, *auto_arguments(tmp_path / "warm", text, "--bpw", 4.5))
    assert other.returncode == 2, "another request"


def test_an_incumbent_is_measured_and_judged(
    finished: tuple[Path, Path, dict[str, Any]], text: Path, tmp_path: Path
) -> None:
    home, _, _ = finished
    theirs = tmp_path / "Tiny-UD-Q3_K_XL.gguf"
    assert run(home, "build", MODEL, "--preset", "Q3_K_M", "-o", theirs).returncode == 0
    arguments = auto_arguments(tmp_path / "out", text, "--bpw", 4.5)
    done = run(home, *arguments, "--incumbent", theirs)
    assert done.returncode == 0, done.stderr
    found = {b["name"]: b for b in json.loads(done.stdout)["baselines"]}
    assert found["UD-Q3_K_XL"]["verdict"] == "better"
    assert "incumbent" in found["UD-Q3_K_XL"]["why"] or "equal size" in found["UD-Q3_K_XL"]["why"]


def test_others_files_that_do_not_fit_are_named(text: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("mqnative: recipe/1\ntensors: {blk.99.attn_q.weight: Q4_K}\n", encoding="utf-8")
    home = tmp_path / "home"
    for option, error in (("--like", "ManifestError"), ("--incumbent", "ParityError")):
        done = run(home, *auto_arguments(tmp_path / "a", text, "--bpw", 4.5), option, recipe)
        assert done.returncode == 1
        assert json.loads(done.stdout)["error"] == error
        assert rows(home) == {}
        assert not (tmp_path / "a").exists()


def test_a_finished_run_reports_again_and_rewrites_nothing(
    finished: tuple[Path, Path, dict[str, Any]], text: Path
) -> None:
    home, out, said = finished
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    measured = rows(home)
    done = run(home, *auto_arguments(out, text, "--bpw", 4.5))
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    assert again.pop("reused") is True
    assert again == {k: v for k, v in said.items() if k != "reused"}
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    assert rows(home) == measured


def test_force_does_a_finished_run_again_from_what_is_measured(
    finished: tuple[Path, Path, dict[str, Any]], text: Path, tmp_path: Path
) -> None:
    home, out, said = finished
    shutil.copytree(out, tmp_path / "out")
    measured = rows(home)
    done = run(home, *auto_arguments(tmp_path / "out", text, "--bpw", 4.5), "--force")
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    assert again["reused"] is False
    assert again["steps"] != said["steps"]
    assert digest(Path(again["model_path"])) == digest(Path(said["model_path"]))
    assert again["kld_mean"] == said["kld_mean"]
    assert rows(home) == measured


def test_another_budget_probes_at_most_the_head_again(
    finished: tuple[Path, Path, dict[str, Any]], text: Path, tmp_path: Path
) -> None:
    home, _, _ = finished
    before = rows(home)
    done = run(home, *auto_arguments(tmp_path / "out", text, "--size", "5MB"))
    assert done.returncode == 0, done.stderr
    assert 4_500_000 < json.loads(done.stdout)["size_bytes"] <= 5_000_000
    after = rows(home)
    assert {k: after[k] for k in ("imatrix", "errors")} == {k: before[k] for k in ("imatrix", "errors")}
    # Types that were too large or too small for the other budget.
    assert after["probe"] - before["probe"] < 10


def test_fast_probes_nothing_and_other_rounds_of_refinement_are_another_request(
    finished: tuple[Path, Path, dict[str, Any]], text: Path, tmp_path: Path
) -> None:
    home, _, said = finished
    before = rows(home)
    done = run(home, *auto_arguments(tmp_path / "fast", text, "--bpw", 4.5, "--fast"))
    assert done.returncode == 0, done.stderr
    fast = json.loads(done.stdout)
    after = rows(home)
    assert {k: after[k] for k in ("imatrix", "errors", "probe")} == {
        k: before[k] for k in ("imatrix", "errors", "probe")
    }
    assert "probes" not in [s["name"] for s in fast["steps"]]
    # What it costs not to probe; one type for everything would cost far more.
    assert said["kld_mean"] <= fast["kld_mean"] * 1.1
    assert fast["kld_mean"] < 2 * said["kld_mean"]
    refined = run(home, *auto_arguments(tmp_path / "fast", text, "--bpw", 4.5, "--refine", 1))
    assert refined.returncode == 2
    assert "--force" in refined.stderr


def test_a_run_killed_again_and_again_ends_with_the_same_bytes_and_repeats_nothing(
    finished: tuple[Path, Path, dict[str, Any]], text: Path, tmp_path: Path
) -> None:
    home, _, said = finished
    arguments = command(*auto_arguments(tmp_path / "out", text, "--bpw", 4.5))
    for seconds in (1.5, 2.5, 4.0):
        with subprocess.Popen(
            arguments,
            env=environment(tmp_path / "home"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
    done = run(tmp_path / "home", *auto_arguments(tmp_path / "out", text, "--bpw", 4.5))
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    assert digest(Path(again["model_path"])) == digest(Path(said["model_path"]))
    assert again["kld_mean"] == said["kld_mean"]
    # The first run's store has the other test's budget too; measured tensors are what must not repeat.
    fresh, first = rows(tmp_path / "home"), rows(home)
    assert {k: fresh[k] for k in ("imatrix", "errors", "probe")} == {
        k: first[k] for k in ("imatrix", "errors", "probe")
    }
    assert not list((tmp_path / "out").rglob("*.part"))


@pytest.mark.parametrize(
    "budget", [("--size", "100kB"), ("--bpw", "0.5"), ("--size", "1GB"), ("--bpw", "20")]
)
def test_an_impossible_budget_exits_3_with_the_feasible_range(
    finished: tuple[Path, Path, dict[str, Any]], text: Path, tmp_path: Path, budget: tuple[str, str]
) -> None:
    home, _, _ = finished
    done = run(home, *auto_arguments(tmp_path / "out", text, *budget))
    assert done.returncode == 3
    error = json.loads(done.stdout)
    assert 0 < error["smallest_bytes"] < error["largest_bytes"]
    assert not list((tmp_path / "out").glob("*.gguf"))


def test_a_changed_model_under_the_same_name_is_measured_anew(
    finished: tuple[Path, Path, dict[str, Any]], text: Path, tmp_path: Path
) -> None:
    home, _, _ = finished
    model = tmp_path / "model.gguf"
    shutil.copy(MODEL, model)
    imatrix = finished[1] / "work" / "imatrix.gguf"
    sweep = ["sweep", model, "--imatrix", imatrix, "--types", "Q4_K"]
    assert run(home, *sweep).returncode == 0
    before = rows(home)["errors"]
    with GGUFFile.open(model) as opened:
        offset = opened.tensors["output.weight"].offset
    with model.open("r+b") as file:
        file.seek(offset)
        old = file.read(1)
        file.seek(offset)
        file.write(bytes([old[0] ^ 1]))
    assert run(home, *sweep).returncode == 0
    assert rows(home)["errors"] == before + 1


def test_a_folder_of_another_run_is_refused_without_force(
    finished: tuple[Path, Path, dict[str, Any]], text: Path
) -> None:
    home, out, _ = finished
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    done = run(home, *auto_arguments(out, text, "--bpw", 5))
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


def test_text_too_short_for_the_parts_is_named_with_what_is_needed(tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("In the beginning God created the heaven and the earth. " * 30, encoding="utf-8")
    done = run(tmp_path / "home", *auto_arguments(tmp_path / "out", short, "--bpw", 4.5))
    assert done.returncode == 1
    assert json.loads(done.stdout)["needed_tokens"] > json.loads(done.stdout)["n_tokens"]


def test_one_budget_is_enough(text: Path, tmp_path: Path) -> None:
    both = auto_arguments(tmp_path / "out", text, "--bpw", 4, "--size", "4MB")
    assert run(tmp_path, *both).returncode == 2


def test_without_a_budget_the_knee_is_taken_and_the_report_says_why(
    finished: tuple[Path, Path, dict[str, Any]], text: Path, tmp_path: Path
) -> None:
    home, _, given = finished
    out = tmp_path / "knee"
    asked = auto_arguments(out, text, "--ceiling", r"output\.weight=Q4_K", "--refine", 0)
    done = run(home, *asked)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    knee = said["frontier"]["knees"][0]
    assert said["size_bytes"] <= knee["size_bytes"] <= said["size_bytes"] + 100_000
    assert said["choice"]["budget"].startswith("No budget was given, so the knee of the frontier was taken")
    assert knee["reason"] in said["choice"]["budget"]
    assert "knee" in said["target"]
    assert said["why"] == "the frontier's knee"
    types = {t["name"]: t["type"] for t in said["tensors"]}
    assert types["output.weight"] in ("Q4_K", "Q3_K", "Q2_K")
    constraint = said["choice"]["constraints"][0]
    assert constraint["constraint"] == r"--ceiling output\.weight=Q4_K"
    by_name = {w["name"]: w for w in said["choice"]["tensors"]}
    assert set(by_name) == {n for n, t in types.items() if t != "F32"}
    page = (out / "report.html").read_text(encoding="utf-8")
    for section in ("Why these types", "Other sizes", "No budget was given"):
        assert section in page
    assert "No budget was given" in (out / "report.md").read_text(encoding="utf-8")
    assert r"--ceiling 'output\.weight=Q4_K'" in said["rebuild_command"]
    # A budget is explained, too, and the frontier's presets are what was measured against.
    assert given["choice"]["budget"] == "The budget was 4.5 bits per weight."
    assert {p["name"] for p in given["frontier"]["placed"]} >= {"Q4_K_M", "Q3_K_M", "Q2_K"}


def test_auto_without_an_imatrix_or_with_the_better_of_both(text: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    effort = ["--types", "Q4_K,Q3_K,Q2_K,IQ2_XXS", "--refine", 0]
    plain = run(home, *auto_arguments(tmp_path / "plain", text, "--bpw", 3), *effort, "--importance", "none")
    assert plain.returncode == 0, plain.stderr
    said = json.loads(plain.stdout)
    assert not any(t["type"].startswith("IQ") for t in said["tensors"])
    assert said["provenance"]["imatrix"] == "none"
    assert not (tmp_path / "plain" / "work" / "imatrix.gguf").exists()
    manifest = json.loads((tmp_path / "plain" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["imatrix"] is None
    both = run(home, *auto_arguments(tmp_path / "both", text, "--bpw", 3), *effort, "--importance", "auto")
    assert both.returncode == 0, both.stderr
    said = json.loads(both.stdout)
    assert "on the select text the mixes lost" in said["choice"]["weighing"]
    assert said["kld_mean"] <= json.loads(plain.stdout)["kld_mean"]
