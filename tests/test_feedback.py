"""Rounding with error feedback: against the method written out in NumPy, and in what it must never do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import RecordingMonitor
from mqnative.build.feedback import FeedbackText, collect_feedback, takes_part, text_of_labels
from mqnative.build.plan import plan_build
from mqnative.build.writer import build_gguf
from mqnative.core.feedback import Factors, Moments, factors_of, round_with_feedback, takes_feedback
from mqnative.core.model import Model
from mqnative.core.quantize import dequantize, quantize, source_type
from mqnative.errors import ManifestError, NonFiniteError, ShapeError, TextError, UnsupportedTypeError
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.qtypes import all_types, qtype
from mqnative.formats.recipe import Recipe
from mqnative.measure.corpus import Corpus, cut
from mqnative.measure.feedback_gain import feedback_gains
from mqnative.measure.imatrix import collect_imatrix
from tiny_models import TinyModels

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
TYPES = [name for name, t in all_types().items() if takes_feedback(t)]


def inputs(rng: np.random.Generator, n_tokens: int, n: int) -> F64:
    """Activations that go together, some columns far larger than others."""
    mixing = rng.normal(size=(n, n)) / np.sqrt(n) * np.exp(rng.normal(size=n))
    return np.asarray(rng.normal(size=(n_tokens, n)) @ mixing)


def weights(rng: np.random.Generator, rows: int, n: int) -> F32:
    return (rng.standard_t(4, (rows, n)) * 0.02).astype(np.float32)


def moments_of(x: F64, columns: int) -> Moments:
    n = x.shape[1]
    parts = [np.triu(x[:, a : a + columns].T @ x[:, a : a + columns]).ravel() for a in range(0, n, columns)]
    return Moments(np.concatenate(parts)[None].astype(np.float32), np.array([len(x)]), n, columns)


def rounded(w: F32, target: str, factors: Factors, n_threads: int = 2) -> tuple[F32, F32]:
    """The rows after llama-quantize's rounding, and after feedback."""
    blocks = quantize(w, target)
    before = dequantize(blocks, target)
    round_with_feedback(w, source_type(w), (1, *w.shape), qtype(target), blocks, factors, n_threads=n_threads)
    return before, dequantize(blocks, target)


def loss(w: F32, q: F32, x: F64) -> float:
    """Mean square error of the product with x."""
    return float((((q - w).astype(np.float64) @ x.T) ** 2).mean())


def test_types_are_those_that_round_weights_one_by_one() -> None:
    assert TYPES == [
        "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS",
    ]  # fmt: skip


@pytest.mark.parametrize("target", TYPES)
def test_without_anything_to_hand_on_every_weight_gets_the_nearest_value(target: str) -> None:
    rng = np.random.default_rng(1)
    w = weights(rng, 24, 512)
    none = Factors(np.eye(512, dtype=np.float32).reshape(1, -1), 512, 512)
    before, after = rounded(w, target, none)
    # ggml rounds to the nearest too, but for legacy types to the nearest under scales before they are stored.
    assert (before == after).mean() > 0.97
    errors, errors_before = np.abs(after - w), np.abs(before - w)
    assert (errors <= errors_before * (1 + 1e-5) + 1e-9).all()


@pytest.mark.parametrize("target", TYPES)
@pytest.mark.parametrize("columns", [512, 128])
def test_products_lose_less(target: str, columns: int) -> None:
    rng = np.random.default_rng(2)
    w, x = weights(rng, 64, 512), inputs(rng, 4000, 512)
    before, after = rounded(w, target, factors_of(moments_of(x, columns)))
    # By other inputs of the same kind, too.
    assert loss(w, after, x) < (0.85 if columns == 512 else 0.97) * loss(w, before, x)


def test_factors_are_those_of_the_decomposition() -> None:
    rng = np.random.default_rng(3)
    x = inputs(rng, 1000, 96)
    moments = moments_of(x, 64)
    h = [np.asarray(x[:, a:b].T @ x[:, a:b]) for a, b in ((0, 64), (64, 96))]
    found = factors_of(moments, damping=0.1).values[0]
    start = 0
    for part in h:
        n = len(part)
        damped = part + 0.1 * np.trace(part) / n * np.eye(n)
        # H = U D U' is the Cholesky decomposition of the flipped matrix.
        lower = np.linalg.cholesky(damped[::-1, ::-1])
        expected = (lower / np.diag(lower))[::-1, ::-1]
        np.testing.assert_allclose(found[start : start + n * n].reshape(n, n), expected, atol=2e-5)
        start += n * n


@pytest.mark.parametrize("target", ["Q4_K", "IQ4_XS"])
def test_each_weight_takes_over_what_those_before_it_lost(target: str) -> None:
    rng = np.random.default_rng(4)
    w, x = weights(rng, 8, 256), inputs(rng, 2000, 256)
    factors = factors_of(moments_of(x, 256))
    u = factors.values[0].reshape(256, 256).astype(np.float64)
    _, after = rounded(w, target, factors)
    lost = (w - after).astype(np.float64)
    wanted = w + np.triu(u, 1).T.dot(lost.T).T
    # What is left between the value wanted and the value taken is rounding: half a step of its block, and of
    # values outside the block's range more.
    left = np.abs(after - wanted)
    step = np.array([np.diff(np.unique(row)).max() for row in after.reshape(-1, 32)]).reshape(8, -1)
    assert (left <= 0.51 * step.repeat(32, axis=1)).mean() > 0.97


@settings(max_examples=15, deadline=None)
@given(
    target=st.sampled_from(TYPES),
    rows=st.integers(1, 40),
    n_threads=st.integers(1, 4),
    columns=st.sampled_from([100, 256, 512]),
    seed=st.integers(0, 2**31),
)
def test_bytes_do_not_depend_on_threads_or_neighbours(
    target: str, rows: int, n_threads: int, columns: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    w, x = weights(rng, rows, 512), inputs(rng, 300, 512)
    factors = factors_of(moments_of(x, columns), n_threads=n_threads)
    again = factors_of(moments_of(x, columns), n_threads=1)
    assert (factors.values == again.values).all()
    _, together = rounded(w, target, factors, n_threads)
    alone = [rounded(w[i : i + 1], target, factors, 1)[1] for i in range(rows)]
    assert (together == np.concatenate(alone)).all()


def test_columns_that_nothing_enters_are_rounded_as_ever() -> None:
    rng = np.random.default_rng(5)
    w = weights(rng, 4, 256)
    factors = factors_of(moments_of(np.zeros((10, 256)), 256))
    before, after = rounded(w, "Q4_K", factors)
    assert (before == after).all()


def test_rows_of_zeros_stay_zeros() -> None:
    rng = np.random.default_rng(6)
    factors = factors_of(moments_of(inputs(rng, 500, 256), 256))
    _, after = rounded(np.zeros((3, 256), np.float32), "Q4_K", factors)
    assert (after == 0).all()


def test_what_does_not_fit_is_named() -> None:
    rng = np.random.default_rng(7)
    w = weights(rng, 2, 256)
    factors = factors_of(moments_of(inputs(rng, 500, 256), 256))
    with pytest.raises(UnsupportedTypeError, match="IQ3_S rounds several weights together"):
        round_with_feedback(w, qtype("F32"), (1, 2, 256), qtype("IQ3_S"), quantize(w, "IQ3_S"), factors)
    wide = weights(rng, 2, 512)
    with pytest.raises(ShapeError, match="rows of 256 weights, these have 512"):
        round_with_feedback(wide, qtype("F32"), (1, 2, 512), qtype("Q4_K"), quantize(wide, "Q4_K"), factors)
    with pytest.raises(ShapeError, match="blocks"):
        round_with_feedback(w, qtype("F32"), (1, 2, 256), qtype("Q4_K"), quantize(w, "Q6_K"), factors)
    with pytest.raises(ShapeError, match="damping"):
        factors_of(moments_of(inputs(rng, 50, 256), 256), damping=-1.0)
    blocks = quantize(w, "Q4_K")
    w[1, 7] = np.nan
    with pytest.raises(NonFiniteError, match="row 1"):
        round_with_feedback(w, qtype("F32"), (1, 2, 256), qtype("Q4_K"), blocks, factors)


class TestMoments:
    def test_their_diagonal_is_the_imatrix(self, builtin_model: Path, calib_text: str) -> None:
        with Model(builtin_model) as model:
            corpus = cut(model, calib_text[:20_000], n_ctx=512).head(1)
            names = [f"blk.3.{role}.weight" for role in ("attn_q", "attn_k", "attn_output", "ffn_down")]
            monitor = RecordingMonitor()
            found = model.second_moments(
                corpus.inputs, [*names, "output.weight"], columns=300, monitor=monitor
            )
            imatrix = collect_imatrix(model, corpus)
        assert monitor.started[0][:2] == ("second moments", 1)
        assert set(found) == {*names, "output.weight"}
        assert found[names[0]] is found[names[1]], "both have the same input"
        for name, one in found.items():
            n, columns = one.n_per_row, one.columns
            assert columns == min(300, n)
            entry = imatrix.entries[name]
            diagonal, start = [], 0
            for a in range(0, n, columns):
                width = min(columns, n - a)
                diagonal.append(np.diag(one.sums[0, start : start + width**2].reshape(width, width)))
                start += width**2
            np.testing.assert_allclose(np.concatenate(diagonal), entry.sum_squares[0], rtol=1e-4)
            assert one.counts[0] == entry.counts[0]

    def test_they_do_not_depend_on_threads(self, builtin_model: Path, calib_text: str) -> None:
        sums = []
        for n_threads in (1, 2):
            with Model(builtin_model, n_threads=n_threads) as model:
                corpus = cut(model, calib_text[:6_000], n_ctx=128).head(2)
                sums.append(model.second_moments(corpus.inputs, ["blk.0.ffn_down.weight"]))
        one, two = (s["blk.0.ffn_down.weight"].sums for s in sums)
        assert (one == two).all()

    def test_experts_share_what_enters_all_and_have_their_own_of_the_rest(
        self, tiny_models: TinyModels
    ) -> None:
        names = [f"blk.0.ffn_{role}_exps.weight" for role in ("gate", "up", "down")]
        with Model(tiny_models.moe) as model:
            tokens = np.arange(256, dtype=np.int32).reshape(2, 128) % 200
            found = model.second_moments(tokens, names)
            sums = model.activations(tokens)
            small = model.second_moments(tokens, names, max_own_bytes=1000)
        gate, up, down = (found[name] for name in names)
        assert gate is up
        assert set(small) == set(names[:2]), "what experts have to themselves may take too much"
        assert (len(gate.sums), gate.counts.tolist()) == (1, [256])
        assert down.counts.tolist() == sums[names[2]].counts.tolist()
        n = down.n_per_row
        for expert, own in enumerate(down.sums):
            diagonal = np.diag(own.reshape(n, n))
            np.testing.assert_allclose(diagonal, sums[names[2]].sum_squares[expert], rtol=1e-4, atol=1e-9)


class TestGains:
    def test_they_are_what_feedback_leaves_of_products_on_other_text(
        self, builtin_model: Path, calib_text: str
    ) -> None:
        names = ["blk.1.attn_output.weight", "blk.1.ffn_down.weight", "token_embd.weight"]
        with Model(builtin_model) as model, GGUFFile.open(builtin_model) as file:
            corpus = cut(model, calib_text[:60_000], n_ctx=256)
            ours, other = corpus.head(24), Corpus(corpus.inputs[24:32], corpus.tokens[24:32])
            types = dict.fromkeys(names, ("Q4_K", "Q3_K", "IQ3_S"))
            gains = feedback_gains(model, file, types, {}, ours, other)
            judge = model.second_moments(other.inputs, names)
            whole = {}
            for name in names[:2]:
                w = model_rows(file, name)[0]
                before, after = rounded(w, "Q4_K", gains.factors[name])
                sums = judge[name].sums
                whole[name] = weighted_loss(w[None], after[None], sums) / weighted_loss(
                    w[None], before[None], sums
                )
        # IQ3_S takes no feedback, and the embedding enters no product.
        assert set(gains.left) == {(name, t) for name in names[:2] for t in ("Q4_K", "Q3_K")}
        for name, ratio in whole.items():
            assert gains.left[name, "Q4_K"] == pytest.approx(ratio, rel=0.3)
            assert ratio < 0.8

    def test_experts_are_sampled_with_their_own_inputs(self, tiny_models: TinyModels) -> None:
        rng = np.random.default_rng(9)
        with Model(tiny_models.moe) as model, GGUFFile.open(tiny_models.moe) as file:
            tokens = [rng.integers(0, 200, (16, 128)).astype(np.int32) for _ in range(2)]
            name = "blk.0.ffn_down_exps.weight"
            ours, other = (Corpus(t, t) for t in tokens)
            gains = feedback_gains(model, file, {name: ["Q3_K"]}, {}, ours, other)
        assert 0 < gains.left[name, "Q3_K"] < 1.2


class TestBuild:
    def test_a_head_that_is_the_embedding_is_rounded_as_ever(self, tiny_models: TinyModels) -> None:
        with GGUFFile.open(tiny_models.dense) as file:
            plan = plan_build(file, Recipe(base="Q4_K"))
        took = {t.name for t in plan.tensors if takes_part(t)}
        assert "blk.0.ffn_up.weight" in took
        assert "token_embd.weight" not in took

    def test_experts_lose_less(self, tiny_models: TinyModels, tmp_path: Path) -> None:
        with Model(tiny_models.moe) as model, GGUFFile.open(tiny_models.moe) as file:
            rng = np.random.default_rng(8)
            tokens = rng.integers(0, 200, (24, 128)).astype(np.int32)
            names = [n for n in file.tensors if n.endswith("_exps.weight")]
            moments = model.second_moments(tokens, names)
            plan = plan_build(file, Recipe(base="Q3_K"))
            x = {name: m.sums.copy() for name, m in moments.items()}
            copies = {n: Moments(x[n].copy(), m.counts, m.n_per_row, m.columns) for n, m in moments.items()}
            factors = {n: factors_of(copy) for n, copy in copies.items()}
            build_gguf(file, plan, tmp_path / "as-ever.gguf")
            build_gguf(file, plan, tmp_path / "feedback.gguf", feedback=lambda: factors)
            original = {name: model_rows(file, name) for name in names}
        losses = []
        for path in ("as-ever.gguf", "feedback.gguf"):
            with GGUFFile.open(tmp_path / path) as built:
                losses.append({n: weighted_loss(original[n], model_rows(built, n), x[n]) for n in names})
        assert all(losses[1][name] < losses[0][name] for name in names)

    def test_texts_are_told_apart(self, tmp_path: Path) -> None:
        path, other = tmp_path / "calib.txt", tmp_path / "other.txt"
        path.write_text("In the beginning", encoding="utf-8")
        other.write_text("In the end", encoding="utf-8")
        text = FeedbackText.of(path, 5, 64)
        assert text_of_labels({}, None) is None
        assert text_of_labels(text.labels, path) == text
        moved = path.rename(tmp_path / "moved.txt")
        found = text_of_labels(text.labels, moved)
        assert found is not None
        assert (found.path, found.labels) == (moved, text.labels)
        with pytest.raises(ManifestError, match="give that text with --gptq"):
            text_of_labels(text.labels, None)
        with pytest.raises(ManifestError, match=r"other\.txt has"):
            text_of_labels(text.labels, other)
        for damaged in ("", "0 x 512", "5 x", "five"):
            with pytest.raises(ManifestError, match="no number of chunks"):
                text_of_labels(text.labels | {"mqnative.gptq.chunks": damaged}, moved)
        with pytest.raises(TextError):
            FeedbackText.of(tmp_path / "none.txt")

    def test_nothing_is_run_for_types_that_take_no_feedback(
        self, tiny_models: TinyModels, tmp_path: Path
    ) -> None:
        with GGUFFile.open(tiny_models.dense) as file:
            plan = plan_build(file, Recipe(base="Q8_0"))
        text = FeedbackText(tmp_path / "never read.txt", "never read.txt", "0" * 64)
        assert collect_feedback(text, plan) == {}


def model_rows(file: GGUFFile, name: str) -> F32:
    """A tensor's weights: (slices, rows, columns)."""
    info = file.tensors[name]
    n_slices, n_rows, n = info.matrix_shape
    blocks = file.data(name).reshape(n_slices * n_rows, -1)
    return dequantize(blocks, info.qtype.name).reshape(n_slices, n_rows, n)


def weighted_loss(w: F32, q: F32, sums: F32) -> float:
    """Sum of e H e' over rows and slices."""
    n = w.shape[-1]
    total = 0.0
    for i, e in enumerate((q - w).astype(np.float64)):
        upper = sums[i if len(sums) > 1 else 0].reshape(n, n).astype(np.float64)
        h = upper + upper.T - np.diag(np.diag(upper))
        total += float(np.einsum("ij,jk,ik->", e, h, e))
    return total
