"""``mqnative imatrix`` with several texts and files, and what ``inspect`` says of an imatrix."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cli_process import DONE, FAILED, USAGE, mqnative, succeed
from mqnative.core.quantize import quantize
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.imatrix import Imatrix, ImatrixEntry, read_imatrix, write_imatrix
from mqnative.measure.blend import weighted_mean
from tiny_models import N_EXPERT, TinyModels

N_CTX = 64
LENGTH = ("--ctx", N_CTX, "--chunks", 2, "-t", 1)
GATE, UP, DOWN = (f"blk.0.ffn_{role}_exps.weight" for role in ("gate", "up", "down"))
UNSEEN = 3


@dataclass(frozen=True)
class Bench:
    """A mixture of experts, two texts, and the imatrix of each."""

    folder: Path
    model: Path
    code: Path
    prose: Path
    code_imatrix: Path
    prose_imatrix: Path

    @property
    def alone(self) -> tuple[Imatrix, Imatrix]:
        return read_imatrix(self.code_imatrix), read_imatrix(self.prose_imatrix)


@pytest.fixture(scope="module")
def bench(
    tmp_path_factory: pytest.TempPathFactory, tiny_models: TinyModels, calib_text: str, eval_text: str
) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    paths = [folder / name for name in ("code.txt", "prose.txt", "code.gguf", "prose.gguf")]
    for text, path, output in zip((calib_text, eval_text), paths[:2], paths[2:], strict=True):
        path.write_text(text[:2000], encoding="utf-8")
        succeed("imatrix", tiny_models.moe, "-f", path, *LENGTH, "-o", output)
    return Bench(folder, tiny_models.moe, *paths)


def same_values(path: Path, expected: Imatrix) -> bool:
    return read_imatrix(path).content_hash() == expected.content_hash()


# ---- Texts and weights ------------------------------------------------------------------------------


def test_texts_without_weights_are_added_up(bench: Bench, tmp_path: Path) -> None:
    output = tmp_path / "i.gguf"
    texts = ("-f", bench.code, "-f", bench.prose)
    facts = succeed("imatrix", bench.model, *texts, *LENGTH, "-o", output, "--json").json
    code, prose = bench.alone
    assert same_values(output, code.merge(prose))
    assert read_imatrix(output).datasets == ("code.txt", "prose.txt")
    assert facts["texts"] == [
        {"path": str(bench.code), "weight": None, "n_chunks": 2},
        {"path": str(bench.prose), "weight": None, "n_chunks": 2},
    ]
    assert (facts["n_chunks"], facts["n_tokens"]) == (4, 4 * N_CTX)
    assert facts["in_files"] == []


def test_a_weight_on_any_text_averages_all(bench: Bench, tmp_path: Path) -> None:
    output = tmp_path / "i.gguf"
    texts = ("-f", bench.code, "-f", f"{bench.prose}=2.5")
    shown = succeed("imatrix", bench.model, *texts, *LENGTH, "-o", output).out
    code, prose = bench.alone
    assert same_values(output, weighted_mean([(code, 1.0), (prose, 2.5)]))
    assert read_imatrix(output).datasets == ("code.txt=1", "prose.txt=2.5")
    assert f"2 chunks of {N_CTX} tokens from {bench.prose}, weight 2.5" in shown


@pytest.mark.parametrize("name", ["prose.txt=2", "a=b=1e3"])
def test_a_file_that_has_the_whole_name_is_no_weight(bench: Bench, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(bench.prose.read_bytes())
    succeed("imatrix", bench.model, "-f", name, *LENGTH, "-o", "i.gguf", cwd=tmp_path)
    written = read_imatrix(tmp_path / "i.gguf")
    assert written.datasets == (name,)
    assert same_values(bench.prose_imatrix, written)


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf"])
def test_a_weight_that_is_not_positive_is_wrong_usage(bench: Bench, weight: str) -> None:
    done = mqnative("imatrix", bench.model, "-f", f"{bench.code}={weight}", "-o", "i.gguf")
    assert (done.code, done.out) == (USAGE, "")
    assert "code.txt" in done.err
    assert f"is {weight}, expected a positive number" in done.err


def test_what_is_no_number_is_part_of_the_name(bench: Bench) -> None:
    done = mqnative("imatrix", bench.model, "-f", f"{bench.code}=two", "-o", "i.gguf", "--json")
    assert done.code == FAILED
    assert done.json["error"] == "TextError"
    assert done.json["path"] == f"{bench.code}=two"


def test_a_text_is_not_overwritten(bench: Bench, tmp_path: Path) -> None:
    text = tmp_path / "t.txt"
    text.write_bytes(bench.code.read_bytes())
    done = mqnative("imatrix", bench.model, "-f", f"{text}=2", *LENGTH, "-o", text, "--force", "--json")
    assert (done.code, done.json["error"]) == (FAILED, "OutputError")
    assert text.read_bytes() == bench.code.read_bytes()


# ---- Existing files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("legacy", [False, True])
def test_an_existing_file_is_added_to_a_text(bench: Bench, tmp_path: Path, legacy: bool) -> None:
    code, prose = bench.alone
    before, output = tmp_path / "before", tmp_path / "i.gguf"
    write_imatrix(before, code, legacy=legacy)
    options = ("-f", bench.prose, "--in-file", before, *LENGTH, "-o", output, "--json")
    facts = succeed("imatrix", bench.model, *options).json
    assert facts["in_files"] == [str(before)]
    merged = read_imatrix(output)
    assert merged.content_hash() == read_imatrix(before).in_tokens(N_CTX).merge(prose).content_hash()
    assert (merged.datasets, merged.chunk_count, merged.chunk_size) == (("code.txt", "prose.txt"), 4, N_CTX)


def test_files_are_added_up_without_a_text(bench: Bench, tmp_path: Path) -> None:
    output = tmp_path / "i.gguf"
    files = ("--in-file", bench.code_imatrix, "--in-file", bench.prose_imatrix)
    facts = succeed("imatrix", bench.model, *files, "--ctx", N_CTX, "-o", output, "--json").json
    code, prose = bench.alone
    assert same_values(output, code.merge(prose))
    assert (facts["texts"], facts["n_tokens"]) == ([], 0)
    assert facts["n_entries"] == len(code.entries)


def test_a_file_may_be_added_to_itself(bench: Bench, tmp_path: Path) -> None:
    growing = tmp_path / "i.gguf"
    growing.write_bytes(bench.code_imatrix.read_bytes())
    succeed(
        "imatrix", bench.model, "--in-file", growing, "-f", bench.prose, *LENGTH, "-o", growing, "--force"
    )
    code, prose = bench.alone
    assert same_values(growing, code.merge(prose))


def test_a_file_of_another_model_is_refused_by_name(
    bench: Bench, tiny_models: TinyModels, tmp_path: Path
) -> None:
    other = tmp_path / "other.gguf"
    entries = dict(bench.alone[0].entries)
    entries[GATE] = ImatrixEntry(np.ones((N_EXPERT, 128)), np.ones(N_EXPERT))
    write_imatrix(other, Imatrix(entries, chunk_size=N_CTX))
    done = mqnative("imatrix", bench.model, "--in-file", other, "-o", tmp_path / "o.gguf", "--json")
    assert (done.code, done.json["error"]) == (FAILED, "ImatrixError")
    assert (done.json["path"], done.json["tensor"]) == (str(other), GATE)
    assert not (tmp_path / "o.gguf").exists()


def test_without_a_text_or_a_file_the_usage_says_what_is_missing(bench: Bench) -> None:
    done = mqnative("imatrix", bench.model, "-o", "i.gguf")
    assert (done.code, done.out) == (USAGE, "")
    assert "--file" in done.err
    assert "--in-file" in done.err


# ---- Coverage ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gap(bench: Bench) -> Path:
    """An imatrix in which expert UNSEEN of the first layer was never reached."""
    entries = dict(bench.alone[0].entries)
    for name in (GATE, UP, DOWN):
        counts = entries[name].counts.copy()
        counts[UNSEEN] = 0
        entries[name] = ImatrixEntry(entries[name].sum_squares, counts)
    path = bench.folder / "gap.gguf"
    write_imatrix(path, Imatrix(entries, ("code.txt",), 2, N_CTX))
    return path


def test_imatrix_says_which_experts_and_tensors_have_no_data(bench: Bench, gap: Path, tmp_path: Path) -> None:
    entries = dict(read_imatrix(gap).entries)
    del entries["blk.1.attn_q.weight"]
    partial = tmp_path / "partial.gguf"
    write_imatrix(partial, Imatrix(entries, chunk_size=N_CTX))
    command = (
        "imatrix",
        bench.model,
        "--in-file",
        partial,
        "--ctx",
        N_CTX,
        "--force",
        "-o",
        tmp_path / "i.gguf",
    )
    facts = succeed(*command, "--json").json
    assert facts["coverage"] == {
        "without_data": ["blk.1.attn_q.weight"],
        "unseen_experts": {DOWN: [UNSEEN], GATE: [UNSEEN], UP: [UNSEEN]},
    }
    assert facts["partly_unseen"] == [DOWN, GATE, UP]
    shown = succeed(*command).out
    assert "experts never seen    3 in 3 tensor(s)" in shown
    assert f"{GATE}: {UNSEEN}\n" in shown
    assert "tensors without data  1: blk.1.attn_q.weight\n" in shown


def test_inspect_shows_the_statistics_of_an_imatrix(gap: Path) -> None:
    facts = succeed("inspect", gap, "--json").json
    found = facts["imatrix"]
    assert (found["datasets"], found["chunk_count"], found["chunk_size"]) == (["code.txt"], 2, N_CTX)
    assert found["content_sha256"] == read_imatrix(gap).content_hash()
    assert found["unseen_experts"] == {DOWN: [UNSEEN], GATE: [UNSEEN], UP: [UNSEEN]}
    by_name = {s["name"]: s for s in found["statistics"]}
    entries = read_imatrix(gap).entries
    assert by_name.keys() == entries.keys()
    seen = entries[GATE].weights()[np.arange(N_EXPERT) != UNSEEN].astype(np.float64)
    assert by_name[GATE]["importances"]["total"] == pytest.approx(seen.sum())
    assert by_name[GATE]["experts"]["unseen"] == [UNSEEN]
    assert by_name["blk.0.attn_q.weight"]["experts"] is None
    shown = [line.split() for line in succeed("inspect", gap).out.splitlines()]
    assert ["tensor", "sum", "min", "max", "mean", "std", "active"] in [line[:7] for line in shown]
    assert [GATE, str(N_EXPERT), "1", "0"] in [line[:4] for line in shown]


def test_inspect_shows_a_legacy_file_whatever_its_name(bench: Bench, tmp_path: Path) -> None:
    for name in ("imatrix.dat", "model.imatrix", "plain"):
        write_imatrix(tmp_path / name, bench.alone[0], legacy=True)
        facts = succeed("inspect", tmp_path / name, "--json").json
        assert facts["size_bytes"] == (tmp_path / name).stat().st_size
        assert (facts["imatrix"]["chunk_size"], facts["imatrix"]["unseen_experts"]) == (0, {})
        assert all(s["experts"] is None for s in facts["imatrix"]["statistics"])
        assert "none counted" in succeed("inspect", tmp_path / name).out


def test_inspect_names_what_is_wrong_with_a_damaged_legacy_file(bench: Bench, tmp_path: Path) -> None:
    write_imatrix(tmp_path / "i.dat", bench.alone[0], legacy=True)
    for name, error in (("cut.dat", "ImatrixError"), ("cut.bin", "GGUFError")):
        (tmp_path / name).write_bytes((tmp_path / "i.dat").read_bytes()[:5000])
        done = mqnative("inspect", tmp_path / name, "--json")
        assert (done.code, done.json["error"], done.json["path"]) == (FAILED, error, str(tmp_path / name))


# ---- Experts never seen -----------------------------------------------------------------------------


def test_an_expert_never_seen_is_quantized_with_importances_of_one(
    bench: Bench, gap: Path, tmp_path: Path
) -> None:
    """At a type that needs importances; expert by expert, against the quantizer itself."""
    output = tmp_path / "q.gguf"
    built = succeed(
        "build", bench.model, "--preset", "IQ2_XXS", "--imatrix", gap, "-o", output, "-t", 1, "--json"
    )
    assert built.code == DONE
    importances = read_imatrix(gap).weights(GATE)
    assert importances is not None
    importances = importances.copy()
    assert (importances[UNSEEN] == 1).all()
    assert not (importances[UNSEEN - 1] == 1).any()
    with GGUFFile.open(bench.model) as source, GGUFFile.open(output) as file:
        assert file.tensors[GATE].qtype.name == "IQ2_XXS"
        experts = source.array(GATE)
        expected = quantize(experts, "IQ2_XXS", importances, n_threads=1)
        assert file.data(GATE).tobytes() == expected.tobytes()
        plain = quantize(experts[UNSEEN], "IQ2_XXS", np.ones(experts.shape[-1], np.float32), n_threads=1)
    assert expected[UNSEEN].tobytes() == plain.tobytes()
