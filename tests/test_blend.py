"""Importance matrices of several texts as one: adding up, weighted means, existing files."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mqnative.core.model import Model
from mqnative.errors import ImatrixError, ShapeError
from mqnative.formats.imatrix import Imatrix, ImatrixEntry, read_imatrix, write_imatrix
from mqnative.measure.blend import add_up, read_in_files, weighted_mean
from mqnative.measure.corpus import Corpus, cut
from mqnative.measure.imatrix import collect_imatrix, collect_texts
from tiny_models import TinyModels

DENSE, EXPERTS = "blk.0.ffn_down.weight", "blk.0.ffn_up_exps.weight"
N_CTX = 64
TWO_ROUNDINGS = 2.0**-22  # of float32, 2^-24 each, with room for those of the reference


def entry(squares: object, counts: object, sums: object = None) -> ImatrixEntry:
    return ImatrixEntry(*(None if a is None else np.array(a, np.float32) for a in (squares, counts, sums)))  # type: ignore[arg-type]


def matrix(name: str = "text", chunk_size: int = 64, **entries: ImatrixEntry) -> Imatrix:
    names = {"dense": DENSE, "experts": EXPERTS}
    return Imatrix({names[k]: e for k, e in entries.items()}, (name,), 3, chunk_size)


# ---- Weighted means ---------------------------------------------------------------------------------


def test_every_text_counts_by_its_weight_and_not_by_its_length() -> None:
    short = matrix("a.txt", dense=entry([[8, 0, 4]], [4]))  # means 2, 0, 1
    long = matrix("b.txt", dense=entry([[600, 300, 100]], [100]))  # means 6, 3, 1
    mixed = weighted_mean([(short, 1), (long, 3)])
    assert mixed.weights(DENSE).tolist() == [[5.0, 2.25, 1.0]]  # type: ignore[union-attr]
    assert mixed.entries[DENSE].counts.tolist() == [104]
    assert mixed.datasets == ("a.txt=1", "b.txt=3")
    assert (mixed.chunk_count, mixed.chunk_size) == (6, 64)


def test_an_expert_that_one_text_missed_keeps_the_others_mean() -> None:
    a = matrix(experts=entry([[2, 4], [0, 0], [7, 7], [0, 0]], [2, 0, 7, 0]))
    b = matrix(experts=entry([[12, 0], [9, 3], [0, 0], [0, 0]], [4, 3, 0, 0]))
    mixed = weighted_mean([(a, 1), (b, 1)]).entries[EXPERTS]
    assert mixed.counts.tolist() == [6, 3, 7, 0]
    assert mixed.sum_squares[1:].tolist() == [[9, 3], [7, 7], [0, 0]]
    assert mixed.weights().tolist() == [[2, 1], [3, 1], [1, 1], [1, 1]]


def test_a_tensor_that_one_text_lacks_keeps_the_others_entry() -> None:
    a, b = matrix(dense=entry([[3, 1]], [7])), matrix(experts=entry([[1, 2], [3, 4]], [1, 5]))
    mixed = weighted_mean([(a, 1), (b, 9)])
    assert mixed.content_hash() == a.merge(b).content_hash()


def test_signed_sums_are_averaged_like_the_squares_where_all_have_them() -> None:
    a = matrix(dense=entry([[8.0]], [4], [[-4.0]]))
    b = matrix(dense=entry([[6.0]], [1], [[2.0]]))
    signed = weighted_mean([(a, 1), (b, 1)]).entries[DENSE].sums
    assert signed is not None
    assert signed.tolist() == [[(-1.0 + 2.0) / 2 * 5]]
    without = matrix(dense=entry([[6.0]], [1]))
    assert weighted_mean([(a, 1), (without, 1)]).entries[DENSE].sums is None


def test_counts_in_chunks_become_tokens_before_averaging() -> None:
    legacy = matrix(chunk_size=0, dense=entry([[6.0]], [3]))  # mean 2 over 3 chunks
    mixed = weighted_mean([(legacy, 1), (matrix(dense=entry([[40.0]], [10])), 1)])
    assert mixed.chunk_size == 64
    assert mixed.entries[DENSE].counts.tolist() == [3 * 64 + 10]
    assert mixed.entries[DENSE].weights().tolist() == [[3.0]]


def test_counts_beyond_what_float32_counts_singly_stay_whole_and_divide_back() -> None:
    big = entry([[3.0 * 2**24]], [2**24])
    mixed = weighted_mean([(matrix(dense=big), 1), (matrix(dense=entry([[5.0]], [1])), 1)])
    count = float(mixed.entries[DENSE].counts[0])
    assert count == float(np.float32(2**24 + 1))
    assert mixed.entries[DENSE].weights().tolist() == [[4.0]]


@st.composite
def texts(draw: st.DrawFn) -> tuple[Imatrix, ...]:
    """Matrices of one to four texts with equal shapes; some experts unseen, some counts shared."""
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=4))
    squares = hnp.arrays(np.float32, shape, elements=st.floats(0, 2.0**60, width=32, allow_subnormal=False))
    counts = hnp.arrays(np.float32, shape[0], elements=st.integers(0, 1 << 20).map(float))
    one = st.builds(entry, squares, counts)
    shared = st.builds(entry, squares, st.integers(0, 1 << 20).map(lambda n: [float(n)]))
    entries = draw(st.lists(one | shared, min_size=1, max_size=4))
    return tuple(matrix(experts=e) for e in entries)


weights = st.floats(1e-3, 1e3)


def slow_mean(matrices: tuple[Imatrix, ...], given_weights: list[float]) -> np.ndarray:
    """One column at a time: the mean of the texts' own means, over the texts that saw the slice."""
    entries = [m.entries[EXPERTS] for m in matrices]
    result = np.ones(entries[0].sum_squares.shape)
    for s, column in np.ndindex(result.shape):
        seen = [
            (w, float(e.sum_squares[s, column]) / float(e.slice_counts()[s]))
            for e, w in zip(entries, given_weights, strict=True)
            if e.slice_counts()[s] > 0
        ]
        if seen:
            result[s, column] = sum(w * mean for w, mean in seen) / sum(w for w, _ in seen)
    return result


@settings(max_examples=60)
@given(matrices=texts(), data=st.data())
def test_weights_are_the_weighted_means_of_the_texts_means(
    matrices: tuple[Imatrix, ...], data: st.DataObject
) -> None:
    chosen = data.draw(st.lists(weights, min_size=len(matrices), max_size=len(matrices)))
    mixed = weighted_mean(list(zip(matrices, chosen, strict=True))).entries[EXPERTS]
    np.testing.assert_allclose(mixed.weights(), slow_mean(matrices, chosen), rtol=TWO_ROUNDINGS, atol=1e-37)
    assert np.array_equal(mixed.counts, np.floor(mixed.counts))


@settings(max_examples=30)
@given(matrices=texts(), data=st.data(), power=st.integers(-8, 8))
def test_only_the_ratios_of_weights_matter_and_not_their_order(
    matrices: tuple[Imatrix, ...], data: st.DataObject, power: int
) -> None:
    chosen = data.draw(st.lists(weights, min_size=len(matrices), max_size=len(matrices)))
    parts = list(zip(matrices, chosen, strict=True))
    mixed = weighted_mean(parts)
    scaled = weighted_mean([(m, w * 2.0**power) for m, w in parts])
    assert scaled.content_hash() == mixed.content_hash()
    turned = weighted_mean(parts[::-1]).entries[EXPERTS]
    np.testing.assert_allclose(
        turned.weights(), mixed.entries[EXPERTS].weights(), rtol=TWO_ROUNDINGS, atol=1e-37
    )


@settings(max_examples=30)
@given(matrices=texts(), weight=weights)
def test_one_text_keeps_its_bits_where_it_saw_data(matrices: tuple[Imatrix, ...], weight: float) -> None:
    before, after = matrices[0], weighted_mean([(matrices[0], weight)])
    np.testing.assert_array_equal(after.weights(EXPERTS), before.weights(EXPERTS))  # type: ignore[arg-type]
    np.testing.assert_array_equal(after.entries[EXPERTS].counts, before.entries[EXPERTS].counts)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_a_weight_must_be_a_positive_number(weight: float) -> None:
    one = matrix(dense=entry([[1.0]], [1]))
    with pytest.raises(ImatrixError, match="give a positive number"):
        weighted_mean([(one, 1.0), (one, weight)])


def test_shapes_that_disagree_are_named() -> None:
    a, b = matrix(dense=entry([[1.0, 2.0]], [1])), matrix(dense=entry([[1.0]], [1]))
    with pytest.raises(ImatrixError, match=r"\(1, 1\) and \(1, 2\)") as caught:
        weighted_mean([(a, 1), (b, 1)])
    assert caught.value.tensor == DENSE


def test_a_mean_that_overflows_is_named() -> None:
    big, small = matrix(dense=entry([[3e38]], [1])), matrix(dense=entry([[1.0]], [100]))
    with pytest.raises(ImatrixError, match="outgrow") as caught:
        weighted_mean([(big, 9), (small, 1)])
    assert caught.value.tensor == DENSE


@pytest.mark.parametrize("combine", [add_up, weighted_mean])
def test_nothing_cannot_be_combined(combine: object) -> None:
    with pytest.raises(ShapeError, match="at least one"):
        combine([])  # type: ignore[operator]


# ---- Adding up --------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(matrices=texts())
def test_adding_up_depends_on_order_only_by_rounding(matrices: tuple[Imatrix, ...]) -> None:
    first, last = add_up(matrices).entries[EXPERTS], add_up(matrices[::-1]).entries[EXPERTS]
    np.testing.assert_allclose(first.sum_squares, last.sum_squares, rtol=TWO_ROUNDINGS)
    np.testing.assert_array_equal(first.slice_counts(), last.slice_counts())
    if len(matrices) == 2:
        assert add_up(matrices).content_hash() == add_up(matrices[::-1]).content_hash()


@settings(max_examples=40)
@given(matrices=texts())
def test_adding_up_may_be_grouped_at_will_but_for_rounding(matrices: tuple[Imatrix, ...]) -> None:
    head, *tail = matrices
    grouped = head.merge(add_up(tail)) if tail else head
    left, right = add_up(matrices).entries[EXPERTS], grouped.entries[EXPERTS]
    np.testing.assert_allclose(left.sum_squares, right.sum_squares, rtol=TWO_ROUNDINGS)
    np.testing.assert_array_equal(left.slice_counts(), right.slice_counts())


# ---- Existing files ---------------------------------------------------------------------------------


def test_files_are_added_in_order_with_the_runs_chunk_size(tmp_path: Path) -> None:
    modern = matrix("a.txt", chunk_size=512, dense=entry([[64.0, 32.0]], [128]))
    write_imatrix(tmp_path / "a.gguf", modern)
    old = matrix("b.txt", chunk_size=0, dense=entry([[3.0, 9.0]], [3]))
    write_imatrix(tmp_path / "b.dat", old, legacy=True)
    total = read_in_files([tmp_path / "a.gguf", tmp_path / "b.dat"], chunk_size=64)
    assert total.datasets == ("a.txt", "b.txt")
    assert total.entries[DENSE].counts.tolist() == [128 + 3 * 64]
    assert total.entries[DENSE].sum_squares.tolist() == [[64.0 + 3 * 64, 32.0 + 9 * 64]]
    assert (total.chunk_size, total.chunk_count) == (64, 5)


def test_a_file_that_does_not_fit_is_named_with_its_tensor(tmp_path: Path) -> None:
    paths = [tmp_path / "a.gguf", tmp_path / "b.gguf"]
    for path, squares in zip(paths, ([[1.0, 2.0]], [[1.0, 2.0, 3.0]]), strict=True):
        write_imatrix(path, matrix(dense=entry(squares, [1])))
    with pytest.raises(ImatrixError, match=r"cannot add .*b\.gguf: .*2 values .* 3") as caught:
        read_in_files(paths, chunk_size=64)
    assert (caught.value.path, caught.value.tensor) == (str(paths[1]), DENSE)
    with pytest.raises(ImatrixError, match=r"cannot add .*a\.gguf: .*has 2 values .* needs 4") as caught:
        read_in_files(paths, chunk_size=64, shapes={DENSE: (4, 8)})
    assert (caught.value.path, caught.value.tensor) == (str(paths[0]), DENSE)
    with pytest.raises(ImatrixError, match="none of its tensors is in the model") as caught:
        read_in_files(paths, chunk_size=64, shapes={EXPERTS: (2, 8, 4)})
    assert caught.value.path == str(paths[0])


# ---- Texts ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpora(tiny_models: TinyModels, calib_text: str, eval_text: str) -> tuple[Corpus, Corpus]:
    """Four chunks of one text and two of another."""
    with Model(tiny_models.moe, n_threads=1) as model:
        return (
            cut(model, calib_text[:3000], n_ctx=N_CTX, source="calib.txt").head(4),
            cut(model, eval_text[:3000], n_ctx=N_CTX, source="eval.txt").head(2),
        )


def test_texts_are_added_up_or_averaged_as_asked(
    tiny_models: TinyModels, corpora: tuple[Corpus, Corpus]
) -> None:
    a, b = corpora
    with Model(tiny_models.moe, n_threads=1) as model:
        alone = [collect_imatrix(model, corpus) for corpus in corpora]
        summed = collect_texts(model, [(a, None), (b, None)])
        averaged = collect_texts(model, [(a, None), (b, 2.0)])
        single, weighted = collect_texts(model, [(a, None)]), collect_texts(model, [(a, 3.0)])
    assert summed.content_hash() == alone[0].merge(alone[1]).content_hash()
    assert (summed.datasets, summed.chunk_count) == (("calib.txt", "eval.txt"), 6)
    assert averaged.content_hash() == weighted_mean([(alone[0], 1.0), (alone[1], 2.0)]).content_hash()
    assert single.content_hash() == weighted.content_hash() == alone[0].content_hash()
    assert single.datasets == ("calib.txt",)


def test_a_bad_weight_is_refused_before_anything_is_computed(
    tiny_models: TinyModels, corpora: tuple[Corpus, Corpus]
) -> None:
    with Model(tiny_models.moe, n_threads=1) as model:
        model.close()
        with pytest.raises(ImatrixError, match="-1"):
            collect_texts(model, [(corpora[0], None), (corpora[1], -1.0)])


@pytest.mark.upstream
def test_texts_without_weights_are_what_llama_imatrix_combines(
    tiny_models: TinyModels, calib_text: str, eval_text: str, upstream_bin: Path, tmp_path: Path
) -> None:
    tool = [str(upstream_bin / "llama-imatrix"), "-m", str(tiny_models.moe), "--no-ppl", "-t", "1"]
    tool += ["-c", str(N_CTX)]
    corpora = []
    with Model(tiny_models.moe, n_threads=1) as model:
        for name, text in (("a", calib_text[:3000]), ("b", eval_text[:2000])):
            (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
            command = [*tool, "-f", str(tmp_path / f"{name}.txt"), "-o", str(tmp_path / f"{name}.gguf")]
            subprocess.run(command, check=True, capture_output=True)
            corpora.append(cut(model, text.removesuffix("\n"), n_ctx=N_CTX, source=name))
        ours = collect_texts(model, [(corpus, None) for corpus in corpora], process_output=False)
    files = [part for name in "ab" for part in ("--in-file", str(tmp_path / f"{name}.gguf"))]
    subprocess.run([*tool, *files, "-o", str(tmp_path / "both.gguf")], check=True, capture_output=True)
    upstream = read_imatrix(tmp_path / "both.gguf")
    assert (ours.chunk_count, ours.chunk_size) == (upstream.chunk_count, upstream.chunk_size)
    assert ours.entries.keys() == upstream.entries.keys()
    for name, theirs in upstream.entries.items():
        np.testing.assert_array_equal(ours.entries[name].sum_squares, theirs.sum_squares, err_msg=name)
        np.testing.assert_array_equal(ours.entries[name].counts, theirs.counts, err_msg=name)
