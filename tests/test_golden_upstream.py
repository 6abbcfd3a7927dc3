"""Beside llama.cpp's own tools: the same numbers, the same bytes, and files that each takes from the other.

The tools are those of the pinned tree; MQNATIVE_UPSTREAM_BIN names their folder.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli_process import succeed
from mqnative.core.presets import requires_imatrix
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.imatrix import read_imatrix
from mqnative.formats.qtypes import all_types
from mqnative.formats.recipe import Recipe, write_recipe
from mqnative.formats.tensor_types import format_tensor_types
from tiny_models import TinyModels

pytestmark = pytest.mark.upstream

N_CTX = 128
N_THREADS = "2"
# llama-perplexity sometimes exits before the last lines of its log are written.
ATTEMPTS = 5

LABELS = ("builtin", "dense", "moe")
MIX = ("Q4_K", "Q6_K", "IQ3_S", "Q8_0", "IQ2_XS", "Q5_1", "MXFP4", "IQ4_NL", "Q3_K", "F16")


@pytest.fixture(scope="module")
def path_of(builtin_model: Path, tiny_models: TinyModels) -> Callable[[str], Path]:
    return lambda label: builtin_model if label == "builtin" else getattr(tiny_models, label)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory, calib_text: str, eval_text: str) -> Path:
    """A folder with calib.txt and eval.txt of about 1500 tokens each."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "calib.txt").write_text(calib_text[:4500], encoding="utf-8")
    (folder / "eval.txt").write_text(eval_text[:4500], encoding="utf-8")
    return folder


@dataclass
class Tools:
    """Upstream's programs, run to a good end."""

    folder: Path

    def run(self, name: str, *arguments: object) -> str:
        done = subprocess.run(
            [str(self.folder / name), *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        said = (done.stdout + done.stderr).decode("utf-8", errors="replace")
        assert done.returncode == 0, said
        return said

    def perplexity(self, model: Path, *arguments: object, until: str) -> str:
        """llama-perplexity's output, once it contains ``until``.

        Weights stay as they lie in the file: repacked ones multiply in another order.
        """
        given = ("-m", model, "-t", N_THREADS, "--no-repack", "-c", N_CTX, *arguments)
        for _ in range(ATTEMPTS):
            said = self.run("llama-perplexity", *given)
            if re.search(until, said):
                return said
        return pytest.fail(f"{ATTEMPTS} runs ended without {until!r}: {said}")

    def quantize(self, source: Path, output: Path, preset: str, *options: object) -> Path:
        self.run("llama-quantize", *options, source, output, preset, N_THREADS)
        return output

    def imatrix(self, model: Path, text: Path, output: Path, *options: object) -> Path:
        given = (
            "-m",
            model,
            "-f",
            text,
            "-o",
            output,
            "-c",
            N_CTX,
            "-t",
            N_THREADS,
            "--no-repack",
            "--no-ppl",
        )
        self.run("llama-imatrix", *given, *options)
        return output


@pytest.fixture(scope="module")
def tools(upstream_bin: Path) -> Tools:
    return Tools(upstream_bin)


def matrices(path: Path) -> list[str]:
    """Tensors that may be quantized, as llama-quantize decides."""
    facts = succeed("inspect", path, "--json").json
    return [t["name"] for t in facts["tensors"] if t["quantizable"]]


def as_stored(path: Path) -> tuple[list[tuple[str, str, tuple[int, ...], int]], bytes]:
    """Tensors with their places relative to the data section, and the section itself, padding included."""
    with GGUFFile.open(path) as file:
        start = min(t.offset for t in file.tensors.values())
        rows = [(n, t.qtype.name, t.shape, t.offset - start) for n, t in file.tensors.items()]
    return rows, path.read_bytes()[start:]


def same_data(ours: Path, upstreams: Path) -> None:
    (our_rows, our_data), (their_rows, their_data) = as_stored(ours), as_stored(upstreams)
    assert our_rows == their_rows
    assert our_data == their_data


# ---- Numbers --------------------------------------------------------------------------------------------

NUMBER = r"(-?\d+\.\d+)"
# Label in llama-perplexity's output, our key, factor, decimals; the second value of a line is its error.
PRINTED = [
    (rf"Mean PPL\(Q\) +: +{NUMBER} ± +{NUMBER}", ("ppl", "ppl_se"), 1, 6),
    (rf"Mean PPL\(base\) +: +{NUMBER}", ("ppl_ref",), 1, 6),
    (rf"Cor\(ln\(PPL\(Q\)\), ln\(PPL\(base\)\)\): +{NUMBER}%", ("ppl_cor_ln",), 100, 2),
    (rf"Mean ln\(PPL\(Q\)/PPL\(base\)\) +: +{NUMBER} ± +{NUMBER}", ("ln_ppl_ratio", "ln_ppl_ratio_se"), 1, 6),
    (rf"Mean PPL\(Q\)/PPL\(base\) +: +{NUMBER} ± +{NUMBER}", ("ppl_ratio", "ppl_ratio_se"), 1, 6),
    (rf"Mean +KLD: +{NUMBER} ± +{NUMBER}", ("kld_mean", "kld_se"), 1, 6),
    (rf"Maximum KLD: +{NUMBER}", ("kld_max",), 1, 6),
    (rf"99\.9% +KLD: +{NUMBER}", ("kld_p99_9",), 1, 6),
    (rf"99\.0% +KLD: +{NUMBER}", ("kld_p99",), 1, 6),
    (rf"95\.0% +KLD: +{NUMBER}", ("kld_p95",), 1, 6),
    (rf"90\.0% +KLD: +{NUMBER}", ("kld_p90",), 1, 6),
    (rf"Median +KLD: +{NUMBER}", ("kld_median",), 1, 6),
    (rf"Mean +Δp: +{NUMBER}", ("p_diff_mean",), 100, 3),
    (rf"RMS Δp +: +{NUMBER}", ("p_diff_rms",), 100, 3),
    (rf"Same top p: +{NUMBER} ± +{NUMBER}", ("top1_agreement", "top1_agreement_se"), 100, 3),
]
LAST_LINE = r"Same top p: +\S+ ± +\S+ %"


def printed_figures(said: str) -> dict[str, str]:
    found = {}
    for pattern, keys, _, _ in PRINTED:
        line = re.search(pattern, said)
        assert line is not None, f"{pattern} in {said}"
        found |= dict(zip(keys, line.groups(), strict=False))
    return found


def our_figures(figures: dict[str, float]) -> dict[str, str]:
    return {
        key: f"{factor * figures[key]:.{decimals}f}" for _, keys, factor, decimals in PRINTED for key in keys
    }


@pytest.mark.parametrize(
    ("label", "types"),
    [("builtin", ("Q4_K",)), ("builtin", MIX), ("dense", ("IQ4_NL",)), ("moe", ("Q5_K", "Q3_K"))],
    ids=str,
)
def test_compatible_figures_are_those_llama_perplexity_prints(
    label: str,
    types: tuple[str, ...],
    path_of: Callable[[str], Path],
    tools: Tools,
    texts: Path,
    tmp_path: Path,
) -> None:
    reference, small, text = path_of(label), tmp_path / "small.gguf", texts / "eval.txt"
    names = matrices(reference)
    chosen = {name: types[i % len(types)] for i, name in enumerate(names)}
    write_recipe(tmp_path / "r.yaml", Recipe(tensors={n: _plain(t) for n, t in chosen.items()}))
    succeed("build", reference, "-r", tmp_path / "r.yaml", "-o", small)
    base = tmp_path / "base.kld"
    tools.perplexity(reference, "-f", text, "--save-all-logits", base, until="Final estimate")
    said = tools.perplexity(
        small, "-f", text, "--kl-divergence", "--kl-divergence-base", base, until=LAST_LINE
    )
    ours = succeed(
        "eval", small, "--reference", reference, "-f", text, "--ctx", N_CTX, "--compat", "--json"
    ).json
    assert ours["n_chunks"] >= 8
    assert our_figures(ours) == printed_figures(said)


def _plain(target: str) -> str:
    """A type of about the same size that needs no importances."""
    return {"IQ2_XS": "Q2_K"}.get(target, target)


@pytest.mark.parametrize("label", ["builtin", "moe", "sliding", "recurrent"])
def test_compatible_perplexity_is_what_llama_perplexity_prints(
    label: str, path_of: Callable[[str], Path], tools: Tools, texts: Path
) -> None:
    model, text = path_of(label), texts / "eval.txt"
    said = tools.perplexity(model, "-f", text, until="Final estimate")
    line = re.search(r"Final estimate: PPL = (\S+) \+/- (\S+)", said)
    assert line is not None
    ours = succeed("eval", model, "-f", text, "--ctx", N_CTX, "--compat", "--json").json
    assert (f"{ours['ppl']:.4f}", f"{ours['ppl_se']:.5f}") == line.groups()


# ---- Importance matrices --------------------------------------------------------------------------------


@pytest.mark.parametrize("output_head", [True, False], ids=["head", "no head"])
@pytest.mark.parametrize("label", LABELS)
def test_the_imatrix_is_llama_imatrixs(
    label: str,
    output_head: bool,
    path_of: Callable[[str], Path],
    tools: Tools,
    texts: Path,
    tmp_path: Path,
) -> None:
    model, text = path_of(label), texts / "calib.txt"
    options = ["--process-output"] if output_head else []
    theirs = tools.imatrix(model, text, tmp_path / "theirs.gguf", *options)
    options = [] if output_head else ["--no-process-output"]
    succeed("imatrix", model, "-f", text, "--ctx", N_CTX, *options, "-o", tmp_path / "ours.gguf")
    ours, upstream = read_imatrix(tmp_path / "ours.gguf"), read_imatrix(theirs)
    assert set(ours.entries) == set(upstream.entries)
    assert len(ours.entries) > 10
    for name, entry in upstream.entries.items():
        assert np.array_equal(ours.entries[name].counts, entry.counts), name
        assert np.array_equal(ours.entries[name].sum_squares, entry.sum_squares), name
    assert (ours.chunk_count, ours.chunk_size) == (upstream.chunk_count, upstream.chunk_size)


def test_a_legacy_imatrix_is_llama_imatrixs(
    builtin_model: Path, tools: Tools, texts: Path, tmp_path: Path
) -> None:
    text = texts / "calib.txt"
    theirs = tools.imatrix(builtin_model, text, tmp_path / "theirs.dat", "--output-format", "dat")
    options = ("--no-process-output", "--legacy")
    succeed("imatrix", builtin_model, "-f", text, "--ctx", N_CTX, *options, "-o", tmp_path / "ours.dat")
    ours, upstream = read_imatrix(tmp_path / "ours.dat"), read_imatrix(theirs)
    assert set(ours.entries) == set(upstream.entries)
    for name, entry in upstream.entries.items():
        assert np.array_equal(ours.entries[name].counts, entry.counts), name
        np.testing.assert_allclose(ours.entries[name].weights(), entry.weights(), rtol=1e-5)


@pytest.fixture(scope="module")
def imatrix_of(
    path_of: Callable[[str], Path], texts: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Our importance matrix of a model, collected once."""
    folder = tmp_path_factory.mktemp("imatrix")

    def collected(label: str) -> Path:
        path = folder / f"{label}.gguf"
        if not path.exists():
            succeed("imatrix", path_of(label), "-f", texts / "calib.txt", "--ctx", N_CTX, "-o", path)
        return path

    return collected


# ---- Files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "preset"),
    [
        *(("dense", p) for p in ("Q4_K_M", "Q2_K", "IQ2_XXS", "IQ4_XS", "Q5_0", "TQ1_0")),
        *(("moe", p) for p in ("Q4_K_S", "IQ3_M", "MXFP4_MOE")),
        ("odd_rows", "Q4_K_M"),
        ("builtin", "Q3_K_M"),
    ],
)
def test_a_preset_gives_llama_quantizes_data_with_our_imatrix(
    label: str,
    preset: str,
    path_of: Callable[[str], Path],
    imatrix_of: Callable[[str], Path],
    tools: Tools,
    tmp_path: Path,
) -> None:
    source, imatrix = path_of(label), imatrix_of(label)
    theirs = tools.quantize(source, tmp_path / "theirs.gguf", preset, "--imatrix", imatrix)
    succeed("build", source, "--preset", preset, "--imatrix", imatrix, "-o", tmp_path / "ours.gguf")
    same_data(tmp_path / "ours.gguf", theirs)
    with GGUFFile.open(tmp_path / "ours.gguf") as ours, GGUFFile.open(theirs) as other:
        assert ours.get("general.file_type") == other.get("general.file_type")
        for key in ("quantize.imatrix.entries_count", "quantize.imatrix.chunks_count"):
            assert ours.metadata[key].encode() == other.metadata[key].encode()


@pytest.mark.parametrize("preset", ["Q4_K_M", "Q8_0", "Q6_K"])
def test_a_preset_gives_llama_quantizes_data_without_an_imatrix(
    preset: str, path_of: Callable[[str], Path], tools: Tools, tmp_path: Path
) -> None:
    source = path_of("moe")
    theirs = tools.quantize(source, tmp_path / "theirs.gguf", preset)
    succeed("build", source, "--preset", preset, "-o", tmp_path / "ours.gguf")
    same_data(tmp_path / "ours.gguf", theirs)


def all_types_mix(path: Path, start: int) -> Recipe:
    """Every type that can be written, dealt to the matrices of a model from ``start`` on."""
    targets = [t.name for t in all_types().values() if t.is_target]
    names = matrices(path)
    return Recipe(tensors={name: targets[(start + i) % len(targets)] for i, name in enumerate(names)})


@pytest.mark.parametrize(("label", "start"), [("dense", 0), ("dense", 15), ("moe", 7), ("moe", 22)])
def test_a_mix_gives_llama_quantizes_data_through_the_exported_file_and_runs(
    label: str,
    start: int,
    path_of: Callable[[str], Path],
    imatrix_of: Callable[[str], Path],
    tools: Tools,
    texts: Path,
    tmp_path: Path,
) -> None:
    """Our recipe as llama-quantize's --tensor-type-file; then llama-perplexity computes with our file."""
    source, imatrix = path_of(label), imatrix_of(label)
    recipe = all_types_mix(source, start)
    assert any(requires_imatrix(n, t) for n, t in recipe.tensors.items())
    write_recipe(tmp_path / "r.yaml", recipe)
    (tmp_path / "types.txt").write_text(format_tensor_types(recipe, matrices(source)), encoding="utf-8")
    options = ("--imatrix", imatrix, "--tensor-type-file", tmp_path / "types.txt", "--pure")
    theirs = tools.quantize(source, tmp_path / "theirs.gguf", "Q8_0", *options)
    ours = tmp_path / "ours.gguf"
    succeed("build", source, "-r", tmp_path / "r.yaml", "--imatrix", imatrix, "-o", ours)
    same_data(ours, theirs)
    said = tools.perplexity(ours, "-f", texts / "eval.txt", "--chunks", 2, until="Final estimate")
    line = re.search(r"Final estimate: PPL = (\S+) \+/-", said)
    figures = succeed(
        *("eval", ours, "-f", texts / "eval.txt"), *("--ctx", N_CTX, "--chunks", 2, "--compat", "--json")
    ).json
    assert line is not None
    assert f"{figures['ppl']:.4f}" == line[1]


def test_every_type_that_can_be_written_is_among_the_mixes(path_of: Callable[[str], Path]) -> None:
    targets = {t.name for t in all_types().values() if t.is_target}
    seen: set[str] = set()
    for label, start in (("dense", 0), ("dense", 15), ("moe", 7), ("moe", 22)):
        seen |= set(all_types_mix(path_of(label), start).tensors.values())
    assert seen == targets


@pytest.mark.parametrize("label", ["odd_rows", "sliding", "recurrent"])
def test_stock_tools_run_our_files_of_other_architectures(
    label: str, path_of: Callable[[str], Path], tools: Tools, texts: Path, tmp_path: Path
) -> None:
    ours = tmp_path / "ours.gguf"
    succeed("build", path_of(label), "--preset", "Q4_K_M", "-o", ours)
    said = tools.perplexity(ours, "-f", texts / "eval.txt", "--chunks", 2, until="Final estimate")
    assert "nan" not in said.partition("Final estimate")[2]


def test_our_files_can_be_split_and_their_parts_read(
    builtin_model: Path, tools: Tools, tmp_path: Path
) -> None:
    ours = tmp_path / "ours.gguf"
    succeed("build", builtin_model, "--preset", "Q8_0", "-o", ours)
    tools.run("llama-gguf-split", "--split", "--split-max-tensors", 30, ours, tmp_path / "part")
    first = tmp_path / "part-00001-of-00004.gguf"
    with GGUFFile.open(first) as parts, GGUFFile.open(ours) as whole:
        assert len(parts.paths) == 4
        assert set(parts.tensors) == set(whole.tensors)
        for name, info in whole.tensors.items():
            assert parts.tensors[name].qtype == info.qtype
            assert np.array_equal(parts.data(name), whole.data(name))
        metadata = {k: v.encode() for k, v in parts.metadata.items() if not k.startswith("split.")}
        assert metadata == {k: v.encode() for k, v in whole.metadata.items()}
    tools.run("llama-gguf-split", "--merge", first, tmp_path / "merged.gguf")
    succeed("build", tmp_path / "merged.gguf", "--preset", "Q8_0", "-o", tmp_path / "again.gguf")
    same_data(tmp_path / "again.gguf", ours)


def test_a_split_source_gives_what_llama_quantize_makes_of_it(
    tiny_models: TinyModels, tools: Tools, tmp_path: Path
) -> None:
    theirs = tools.quantize(tiny_models.split, tmp_path / "theirs.gguf", "Q5_K_M")
    succeed("build", tiny_models.split, "--preset", "Q5_K_M", "-o", tmp_path / "ours.gguf")
    same_data(tmp_path / "ours.gguf", theirs)


def test_llama_quantize_says_the_same_of_what_needs_importances(
    tiny_models: TinyModels, tools: Tools, tmp_path: Path
) -> None:
    from cli_process import FAILED, mqnative

    ours = mqnative("build", tiny_models.dense, "--preset", "IQ2_XS", "-o", tmp_path / "ours.gguf")
    assert ours.code == FAILED
    command: list[Any] = [tools.folder / "llama-quantize", tiny_models.dense, tmp_path / "t.gguf", "IQ2_XS"]
    theirs = subprocess.run(command, capture_output=True, check=False)
    assert theirs.returncode != 0
