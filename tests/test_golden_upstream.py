"""Beside llama.cpp's own tools: the same numbers, the same bytes, and files that each takes from the other.

The tools are those of the pinned tree; MQNATIVE_UPSTREAM_BIN names their folder.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cli_process import succeed
from mqnative.core.presets import requires_imatrix
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.imatrix import read_imatrix
from mqnative.formats.qtypes import all_types
from mqnative.formats.recipe import Recipe, write_recipe
from mqnative.formats.tensor_types import format_tensor_types
from tiny_models import TinyModels, llama_model

pytestmark = pytest.mark.upstream

N_CTX = 128
# Numbers do not depend on the threads, and one is fastest where other work shares the processor.
ONE_THREAD = ("-t", "1")
# llama-perplexity sometimes exits before the last lines of its log are written.
ATTEMPTS = 5

LABELS = ("builtin", "dense", "moe")


@pytest.fixture(scope="module")
def path_of(builtin_model: Path, tiny_models: TinyModels) -> Callable[[str], Path]:
    # As many small matrices as there are types.
    small = llama_model(n_embd=256, n_ff=256, n_head=4, n_head_kv=1, n_layer=4)
    others = {"builtin": builtin_model, "many small": tiny_models.write("many-small", small)}
    return lambda label: others.get(label) or getattr(tiny_models, label)


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
        given = ("-m", model, *ONE_THREAD, "--no-repack", *arguments)
        for _ in range(ATTEMPTS):
            said = self.run("llama-perplexity", *given)
            if re.search(until, said):
                return said
        return pytest.fail(f"{ATTEMPTS} runs ended without {until!r}: {said}")

    def quantize(self, source: Path, output: Path, preset: str, *options: object) -> Path:
        self.run("llama-quantize", *options, source, output, preset, 2)
        return output

    def imatrix(self, model: Path, text: Path, output: Path, *options: object) -> Path:
        given = ("-m", model, "-f", text, "-o", output, "-c", N_CTX, *ONE_THREAD)
        self.run("llama-imatrix", *given, "--no-repack", "--no-ppl", *options)
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
# One chunk to a batch, as we evaluate: short chunks that share a batch are rounded otherwise.
SHORT_CHUNKS = ("-c", N_CTX, "-b", N_CTX)


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


def dealt(path: Path, types: Sequence[str]) -> Recipe:
    """The types, dealt to the matrices of a model one after the other, from the smallest on."""
    with GGUFFile.open(path) as file:
        names = sorted(matrices(path), key=lambda name: file.tensors[name].n_weights)
    return Recipe(tensors={name: types[i % len(types)] for i, name in enumerate(names)})


# None needs importances.
MIX = ("Q4_K", "Q6_K", "IQ3_S", "Q8_0", "Q2_K", "Q5_1", "MXFP4", "IQ4_NL", "Q3_K", "F16")


@pytest.mark.parametrize(
    ("label", "types"),
    [("builtin", ("Q4_K",)), ("builtin", MIX), ("dense", ("IQ4_NL",)), ("moe", ("Q5_K", "Q3_K"))],
    ids=["builtin Q4_K", "builtin mix", "dense IQ4_NL", "moe Q5_K and Q3_K"],
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
    write_recipe(tmp_path / "r.yaml", dealt(reference, types))
    succeed("build", reference, "-r", tmp_path / "r.yaml", "-o", small)
    base = tmp_path / "base.kld"
    run = (*SHORT_CHUNKS, "-f", text)
    tools.perplexity(reference, *run, "--save-all-logits", base, until="Final estimate")
    said = tools.perplexity(small, *run, "--kl-divergence", "--kl-divergence-base", base, until=LAST_LINE)
    options = ("--ctx", N_CTX, "--compat", "--json", *ONE_THREAD)
    ours = succeed("eval", small, "--reference", reference, "-f", text, *options).json
    assert ours["n_chunks"] >= 8
    assert our_figures(ours) == printed_figures(said)


@pytest.mark.parametrize("label", ["builtin", "moe", "sliding", "recurrent"])
def test_compatible_perplexity_is_what_llama_perplexity_prints(
    label: str, path_of: Callable[[str], Path], tools: Tools, texts: Path
) -> None:
    model, text = path_of(label), texts / "eval.txt"
    printed = final_estimate(tools.perplexity(model, *SHORT_CHUNKS, "-f", text, until="Final estimate"))
    ours = succeed("eval", model, "-f", text, "--ctx", N_CTX, "--compat", "--json", *ONE_THREAD).json
    assert (f"{ours['ppl']:.4f}", f"{ours['ppl_se']:.5f}") == printed


def test_with_no_options_both_print_the_same(builtin_model: Path, tools: Tools, texts: Path) -> None:
    text = texts / "eval.txt"
    printed = final_estimate(tools.perplexity(builtin_model, "-f", text, until="Final estimate"))
    ours = succeed("eval", builtin_model, "-f", text, "--compat", *ONE_THREAD).out
    assert f"PPL   {printed[0]} ± {float(printed[1]):.4f} " in ours


def final_estimate(said: str) -> tuple[str, str]:
    line = re.search(r"Final estimate: PPL = (\S+) \+/- (\S+)", said)
    assert line is not None
    return line[1], line[2]


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
    given = ("-f", text, "--ctx", N_CTX, *options, *ONE_THREAD)
    succeed("imatrix", model, *given, "-o", tmp_path / "ours.gguf")
    ours, upstream = read_imatrix(tmp_path / "ours.gguf"), read_imatrix(theirs)
    # A head that shares the embedding's weights is measured by us only.
    assert set(ours.entries) - {"token_embd.weight"} == set(upstream.entries)
    assert ("token_embd.weight" in ours.entries) == (output_head and label != "builtin")
    assert ("output.weight" in ours.entries) == (output_head and label == "builtin")
    for name, entry in upstream.entries.items():
        assert np.array_equal(ours.entries[name].counts, entry.counts), name
        assert np.array_equal(ours.entries[name].sum_squares, entry.sum_squares), name
    assert (ours.chunk_count, ours.chunk_size) == (upstream.chunk_count, upstream.chunk_size)


def test_a_legacy_imatrix_is_llama_imatrixs(
    builtin_model: Path, tools: Tools, texts: Path, tmp_path: Path
) -> None:
    text = texts / "calib.txt"
    theirs = tools.imatrix(builtin_model, text, tmp_path / "theirs.dat", "--output-format", "dat")
    given = ("-f", text, "--ctx", N_CTX, "--no-process-output", "--legacy", *ONE_THREAD)
    succeed("imatrix", builtin_model, *given, "-o", tmp_path / "ours.dat")
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
            given = ("-f", texts / "calib.txt", "--ctx", N_CTX, *ONE_THREAD)
            succeed("imatrix", path_of(label), *given, "-o", path)
        return path

    return collected


# ---- Files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "preset"),
    [
        *(("dense", p) for p in ("Q4_K_M", "Q2_K", "IQ2_XXS", "Q5_0", "TQ1_0")),
        *(("moe", p) for p in ("Q4_K_S", "MXFP4_MOE")),
        ("odd_rows", "Q4_K_M"),
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


# Those that take long to encode come first, for the smallest matrices.
TARGETS = sorted((t.name for t in all_types().values() if t.is_target), key=lambda name: name[:2] != "IQ")
MIXES = {
    "every type": ("many small", TARGETS),
    "experts": ("moe", ["Q8_0", "IQ3_XXS", "Q4_K", "IQ4_XS", "Q5_0", "TQ2_0", "MXFP4", "Q6_K"]),
}


def test_every_type_that_can_be_written_is_among_the_mixes(path_of: Callable[[str], Path]) -> None:
    dealt_types = [dealt(path_of(label), types).tensors for label, types in MIXES.values()]
    assert {t for types in dealt_types for t in types.values()} == set(TARGETS)
    assert any(requires_imatrix(n, t) for types in dealt_types for n, t in types.items())


@pytest.mark.parametrize("mix", MIXES)
def test_a_mix_gives_llama_quantizes_data_through_the_exported_file_and_runs(
    mix: str,
    path_of: Callable[[str], Path],
    imatrix_of: Callable[[str], Path],
    tools: Tools,
    texts: Path,
    tmp_path: Path,
) -> None:
    """Our recipe as llama-quantize's --tensor-type-file; then llama-perplexity computes with our file."""
    label, types = MIXES[mix]
    source, imatrix = path_of(label), imatrix_of(label)
    recipe = dealt(source, types)
    write_recipe(tmp_path / "r.yaml", recipe)
    (tmp_path / "types.txt").write_text(format_tensor_types(recipe, matrices(source)), encoding="utf-8")
    options = ("--imatrix", imatrix, "--tensor-type-file", tmp_path / "types.txt", "--pure")
    theirs = tools.quantize(source, tmp_path / "theirs.gguf", "Q8_0", *options)
    ours, text = tmp_path / "ours.gguf", texts / "eval.txt"
    succeed("build", source, "-r", tmp_path / "r.yaml", "--imatrix", imatrix, "-o", ours)
    same_data(ours, theirs)
    run = (*SHORT_CHUNKS, "--chunks", 2, "-f", text)
    printed = final_estimate(tools.perplexity(ours, *run, until="Final estimate"))
    options = ("--ctx", N_CTX, "--chunks", 2, "--compat", "--json", *ONE_THREAD)
    figures = succeed("eval", ours, "-f", text, *options).json
    assert (f"{figures['ppl']:.4f}", f"{figures['ppl_se']:.5f}") == printed


@pytest.mark.parametrize("label", ["odd_rows", "sliding", "recurrent"])
def test_stock_tools_run_our_files_of_other_architectures(
    label: str, path_of: Callable[[str], Path], tools: Tools, texts: Path, tmp_path: Path
) -> None:
    ours = tmp_path / "ours.gguf"
    succeed("build", path_of(label), "--preset", "Q4_K_M", "-o", ours)
    run = (*SHORT_CHUNKS, "--chunks", 2, "-f", texts / "eval.txt")
    assert float(final_estimate(tools.perplexity(ours, *run, until="Final estimate"))[0]) > 1


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
