"""`mqnative hybrids` as people run it: a release whose every file has its reason, or a refusal by name."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from cli_process import COMMAND, DONE, FAILED, USAGE, environment, mqnative, succeed
from hub_server import HubServer
from mqnative.builtin import CALIB_TEXT, EVAL_TEXT, MODEL
from mqnative.errors import OperationCancelled
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.name_parser import parse_name
from mqnative.hybrids.clone_config import read_artifacts
from mqnative.jobs.hybrids import run as job
from mqnative.jobs.hybrids.request import HybridOptions
from mqnative.report.hybrid_pages import to_html, to_markdown
from mqnative.report.hybrid_summary import HybridReport
from tiny_models import TinyModels

INFEASIBLE = 3
PRESETS = "Q8_0,Q4_K_M,Q2_K"
TYPES = "Q8_0,Q6_K,Q5_K,Q4_K,Q3_K,Q2_K"
# Short chunks keep a pass at milliseconds.
EFFORT = ("--ctx", 64, "--probe-chunks", 3, "--select-chunks", 16, "--verify-chunks", 8, "--refine", 0)
TABLES = (
    "clone-configs", "hybrid-map", "survivors", "replacements", "candidates", "bad-trades",
    "isolation-samples", "evaluation",
)  # fmt: skip


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("texts")
    for name, source, n in (("calib.txt", CALIB_TEXT, 20_000), ("eval.txt", EVAL_TEXT, 6_000)):
        (folder / name).write_text(source.read_text(encoding="utf-8")[:n], encoding="utf-8")
    return folder / "calib.txt", folder / "eval.txt"


def arguments(texts: tuple[Path, Path], out: Path, *more: object) -> list[object]:
    given = ["hybrids", MODEL, "--presets", PRESETS, "--types", TYPES, *EFFORT]
    return [*given, "--calib", texts[0], "--eval", texts[1], "-o", out, "--json", *more]


@pytest.fixture(scope="module")
def released(
    texts: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, dict[str, Any]]:
    """A home, a release folder, and what the command said."""
    home, out = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("out") / "release"
    done = succeed(*arguments(texts, out), env={"MQNATIVE_HOME": str(home)})
    return home, out, done.json


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_release_has_files_at_three_sizes_and_more_each_with_its_reason(
    released: tuple[Path, Path, dict[str, Any]],
) -> None:
    _, out, said = released
    survivors = said["survivors"]
    hybrids = [s for s in survivors if s["level"] != "baseline"]
    assert len({s["size_bytes"] for s in hybrids}) >= 3
    assert sorted(p.name for p in out.glob("*.gguf")) == sorted(Path(s["model_path"]).name for s in survivors)
    for s in survivors:
        path = Path(s["model_path"])
        assert path.stat().st_size == s["size_bytes"]
        assert digest(path) == s["sha256"]
        assert s["why"]
        assert s["kld_ci95"][0] <= s["kld_mean"] <= s["kld_ci95"][1]
    sizes = [s["size_bytes"] for s in survivors]
    assert all(large >= 1.05 * small for small, large in pairwise(sizes))
    klds = [s["kld_mean"] for s in survivors]
    assert klds == sorted(klds, reverse=True)


def test_names_say_what_the_files_are(released: tuple[Path, Path, dict[str, Any]]) -> None:
    _, _, said = released
    for s in said["survivors"]:
        name = parse_name(Path(s["model_path"]).name).name
        assert name.scheme == "v2"
        assert (name.provider, name.base) == (s["provider"], s["family"])
        with GGUFFile.open(Path(s["model_path"])) as file:
            assert file.get("mqnative.recipe.v1", "") == s["v1_spec"]
        assert parse_name(f"Model-{s['v1_spec']}").name.base is not None


def test_every_baseline_is_published_or_names_who_took_its_place(
    released: tuple[Path, Path, dict[str, Any]],
) -> None:
    _, _, said = released
    published = {s["name"] for s in said["survivors"]}
    assert {b["name"] for b in said["baselines"]} == {f"LM-{p}" for p in PRESETS.split(",")}
    for b in said["baselines"]:
        if not b["reason"]:
            assert b["name"] in published
            continue
        assert b["by"] in published
        assert b["said"]
        heir = next(s for s in said["survivors"] if s["name"] == b["by"])
        assert b["name"] in heir["replaced"]
        assert b["difference"]["value"] == pytest.approx(b["figures"]["kld_mean"] - heir["kld_mean"])


def test_isolation_takes_less_than_whole_evaluations_and_logs_every_pattern(
    released: tuple[Path, Path, dict[str, Any]],
) -> None:
    _, out, said = released
    # A quarter needs longer texts than these; equal patterns are one all the same.
    assert said["isolation"]["share"] < 0.9
    decisions = [json.loads(line) for line in (out / "logs" / "decisions.jsonl").read_text().splitlines()]
    judged = [d for d in decisions if d["step"] == "isolation"]
    assert len(judged) == said["isolation"]["n_patterns"]
    assert all(d["said"] and d["kld_difference_ci95"] for d in judged)
    assert {"candidate", "survivors"} <= {d["step"] for d in decisions}
    assert len((out / "logs" / "decisions.txt").read_text().splitlines()) == len(decisions)


def test_the_tables_are_there_and_others_can_clone_from_them(
    released: tuple[Path, Path, dict[str, Any]],
) -> None:
    _, out, said = released
    tables = {name: json.loads((out / "manifests" / f"{name}.json").read_text()) for name in TABLES}
    artifacts = read_artifacts(tables["clone-configs"])
    assert [a.file_name for a in artifacts] == [Path(s["model_path"]).name for s in said["survivors"]]
    with GGUFFile.open(Path(said["survivors"][0]["model_path"])) as file:
        assert artifacts[0].types == {n: t.qtype.name for n, t in file.tensors.items()}
    assert tables["evaluation"]["text_sha256"]["held_out"]
    assert set(tables["hybrid-map"]) == {s["name"] for s in said["survivors"] if s["level"] != "baseline"}
    assert len(tables["isolation-samples"]) == said["isolation"]["n_patterns"]


def test_card_page_and_plot_show_the_same_files(released: tuple[Path, Path, dict[str, Any]]) -> None:
    _, out, said = released
    card, page = (out / "README.md").read_text(), (out / "report.html").read_text()
    root = ElementTree.fromstring((out / "size-kld.svg").read_text())
    drawn = "".join(root.itertext())
    for s in said["survivors"]:
        assert f"| {s['name']} |" in card
        assert s["name"] in page
        assert s["name"] in drawn
    report = HybridReport.from_json(json.loads((out / "report.json").read_text()))
    assert to_markdown(report) == card
    assert to_html(report) == page


def test_a_manifest_makes_the_same_bytes_elsewhere(
    released: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, out, said = released
    chosen = said["survivors"][1]
    shutil.copy(chosen["manifest_path"], tmp_path / "manifest.json")
    shutil.copy(out / "work" / "imatrix.gguf", tmp_path)
    done = succeed(
        *("build", "--manifest", tmp_path / "manifest.json", MODEL, "-o", tmp_path / "again.gguf", "--json"),
        env={"MQNATIVE_HOME": str(tmp_path / "home")},
    )
    assert digest(Path(done.json["model_path"])) == chosen["sha256"]


def test_a_finished_release_reports_again_and_rewrites_nothing(
    released: tuple[Path, Path, dict[str, Any]], texts: tuple[Path, Path]
) -> None:
    home, out, said = released
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    again = succeed(*arguments(texts, out), env={"MQNATIVE_HOME": str(home)}).json
    assert again.pop("reused") is True
    assert again == {k: v for k, v in said.items() if k != "reused"}
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    other = mqnative(*arguments(texts, out, "--collapse", 2), env={"MQNATIVE_HOME": str(home)})
    assert other.code == USAGE
    assert "--force" in other.err


def test_a_killed_run_goes_on_and_ends_with_the_same_files(
    released: tuple[Path, Path, dict[str, Any]], texts: tuple[Path, Path], tmp_path: Path
) -> None:
    _, _, said = released
    out, env = tmp_path / "out", {"MQNATIVE_HOME": str(tmp_path / "home")}
    for seconds in (2.5, 5.0):
        command = [*COMMAND, *map(str, arguments(texts, out))]
        with subprocess.Popen(
            command, env=environment(**env), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
    again = succeed(*arguments(texts, out), env=env).json
    assert [(s["name"], s["sha256"], s["kld_mean"]) for s in again["survivors"]] == [
        (s["name"], s["sha256"], s["kld_mean"]) for s in said["survivors"]
    ]
    assert not list(out.rglob("*.part"))


def test_no_model_is_written_before_it_survives(
    released: tuple[Path, Path, dict[str, Any]],
    texts: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_: object) -> None:
        raise OperationCancelled("stopped before the verdict")

    monkeypatch.setenv("MQNATIVE_HOME", str(released[0]))
    monkeypatch.setattr(job, "prove", stop)
    options = HybridOptions(
        presets=tuple(PRESETS.split(",")),
        targets=tuple(TYPES.split(",")),
        n_ctx=64,
        probe_chunks=3,
        select_chunks=16,
        verify_chunks=8,
        refine_rounds=0,
    )
    with pytest.raises(OperationCancelled):
        job.hybrids(MODEL, *texts, tmp_path / "out", options)
    written = [p.name for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert written == ["request.json"]


def test_externals_compete_and_their_makers_are_named(
    released: tuple[Path, Path, dict[str, Any]], texts: tuple[Path, Path], tmp_path: Path
) -> None:
    home, _, _ = released
    env = {"MQNATIVE_HOME": str(home)}
    theirs, same = tmp_path / "Tiny-UD-Q3_K_XL.gguf", tmp_path / "Tiny-Q2_K_L.gguf"
    for preset, path in (("Q3_K_M", theirs), ("Q2_K", same)):
        assert mqnative("build", MODEL, "--preset", preset, "-o", path, env=env).code == DONE
    more = ("--external", theirs, "--external", same)
    done = succeed(*arguments(texts, tmp_path / "out", *more), env=env).json
    rows = {b["name"]: b for b in done["baselines"]}
    assert {"UD-Q3_K_XL", "EXT-Q2_K_L"} <= set(rows)
    assert rows["EXT-Q2_K_L"]["reason"] == "SAME_TYPES"
    assert rows["UD-Q3_K_XL"]["figures"]["kld_mean"] > 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "UD-Q3_K_XL by" in card.replace("\\", "")


def test_of_a_repository_only_headers_are_read(
    released: tuple[Path, Path, dict[str, Any]], texts: tuple[Path, Path], tmp_path: Path
) -> None:
    home, _, _ = released
    theirs = tmp_path / "Tiny-UD-Q4_K_XL.gguf"
    assert mqnative("build", MODEL, "--preset", "Q4_K_S", "-o", theirs).code == DONE
    head = theirs.read_bytes()
    with HubServer() as hub:
        hub.add("unsloth/tiny-GGUF", {theirs.name: head, "Tiny-BF16.gguf": b"GGUF", "config.json": "{}"})
        env = {"MQNATIVE_HOME": str(home), "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "hf")}
        env |= {"HF_TOKEN": "", "HF_HUB_OFFLINE": ""}
        done = succeed(*arguments(texts, tmp_path / "out", "--external", "unsloth/tiny-GGUF"), env=env).json
        assert hub.sent_bytes < len(head) / 2
        absent = mqnative(
            *arguments(texts, tmp_path / "out", "--external", "unsloth/tiny-GGUF/no.gguf"), env=env
        )
    assert absent.code == FAILED
    assert "no.gguf" in absent.json["message"]
    rows = {b["name"]: b for b in done["baselines"]}
    assert rows["UD-Q4_K_XL"]["figures"]["kld_mean"] > 0
    assert not list((tmp_path / "hf").rglob("*.gguf"))


def test_what_is_published_can_be_limited(
    released: tuple[Path, Path, dict[str, Any]], texts: tuple[Path, Path], tmp_path: Path
) -> None:
    home, _, _ = released
    env = {"MQNATIVE_HOME": str(home)}

    def survivors(name: str, *more: object) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = succeed(*arguments(texts, tmp_path / name, *more), env=env).json[
            "survivors"
        ]
        return found

    assert len(survivors("collapse", "--collapse", 2)) == 2
    assert all(s["size_bytes"] <= 5_000_000 for s in survivors("max", "--max-bytes", "5MB"))
    assert {s["provider"] for s in survivors("providers", "--providers", "MQ")} == {"MQ"}
    asked = survivors("asked", "--sizes", "4.75MB", "--collapse", 1, "--refine", 1)
    assert [4_700_000 < s["size_bytes"] <= 4_750_000 for s in asked] == [True]
    logged = (tmp_path / "asked" / "logs" / "decisions.txt").read_text()
    assert "moves measured" in logged
    floored = survivors(
        "floor", "--floor", r"blk\.\d+\.ffn_down\.weight=Q5_K", "--pin", r"output\.weight=Q6_K"
    )
    assert floored
    for s in floored:
        with GGUFFile.open(Path(s["model_path"])) as file:
            assert file.tensors["output.weight"].qtype.name == "Q6_K"
            down = {t.qtype.name for n, t in file.tensors.items() if n.endswith("ffn_down.weight")}
            assert down <= {"Q5_K", "Q6_K", "Q8_0", "BF16"}


def test_the_plan_lists_steps_and_does_nothing(tmp_path: Path) -> None:
    done = succeed("hybrids", MODEL, "--plan", "--json", env={"MQNATIVE_HOME": str(tmp_path / "home")})
    steps = {s["name"]: s for s in done.json["steps"]}
    assert {"imatrix", "weight errors", "probe", "isolation", "baselines", "candidates", "verify"} <= set(
        steps
    )
    assert all(s["amount"] > 0 and s["unit"] and s["seconds"] > 0 for s in steps.values())
    assert done.json["size_bytes"] > 0
    assert succeed("jobs", "list", "--json", env={"MQNATIVE_HOME": str(tmp_path / "home")}).json["jobs"] == []


def test_bad_input_is_named_and_refused_before_anything_is_measured(
    texts: tuple[Path, Path], tiny_models: TinyModels, tmp_path: Path
) -> None:
    home, out = tmp_path / "home", tmp_path / "out"
    env = {"MQNATIVE_HOME": str(home)}
    theirs, twice = tmp_path / "A-UD-Q4_K_XL.gguf", tmp_path / "B-UD-Q4_K_XL.gguf"
    assert mqnative("build", MODEL, "--preset", "Q4_0", "-o", theirs, env=env).code == DONE
    shutil.copy(theirs, twice)
    other = tiny_models.dense
    cases: list[tuple[tuple[object, ...], int, str, str]] = [
        (("--external", other), FAILED, "ParityError", other.name),
        (("--external", theirs, "--external", twice), USAGE, "BaselineError", twice.name),
        (("--providers", "MQ,MQ"), USAGE, "BaselineError", "MQ"),
        (("--providers", "XY"), USAGE, "BaselineError", "XY"),
        (("--sizes", "10kB"), INFEASIBLE, "InfeasibleBudgetError", "--sizes 10000"),
        (("--sizes", "1GB"), INFEASIBLE, "InfeasibleBudgetError", "--sizes 1000000000"),
        (("--max-bytes", "10kB"), INFEASIBLE, "InfeasibleBudgetError", "--max-bytes"),
        (("--presets", "Q4_0"), USAGE, "BaselineError", "LM-Q4_0"),
        (("--presets", "Q4_0,Q9_9"), FAILED, "UnsupportedTypeError", "Q9_9"),
        (("--eval", texts[0]), FAILED, "TextError", texts[0].name),
        (("--external", tmp_path), FAILED, "SourceError", str(tmp_path)),
        (("--external", "org/name", "--offline"), FAILED, "HubError", "org/name"),
    ]
    for more, code, error, named in cases:
        done = mqnative(*arguments(texts, out, *more), env=env)
        assert (done.code, done.json["error"]) == (code, error), done.err
        assert named in done.json["message"]
        assert not out.exists() or not list(out.rglob("*.gguf"))
