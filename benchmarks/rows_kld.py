"""KLD in memory against a file per mix and a run of llama-perplexity over it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench import Bench, Row, faster, race, say, timed, within
from mqnative.build.fallback import legal_type
from mqnative.core.model import Logits
from mqnative.measure.evaluate import summarize
from mqnative.measure.mixes import VariantPool, score_mixes
from mqnative.measure.scores import chunk_logits, joined, score_chunk

PROBED_TYPE = "Q4_K"
CANDIDATES = ("Q4_K_M", "Q5_K_M", "Q6_K", "Q3_K_M")


def probe(bench: Bench) -> list[Row]:
    """One more probe in the middle of the model: against a file, and against the passes it cannot avoid."""
    layer = bench.model.vocab.n_layer // 2
    name = middle_tensor(bench, layer)
    target = legal_type(PROBED_TYPE, bench.file.tensors[name].shape[0])
    say(f"probe: {name} at {target}")
    said: list[str] = []
    n_layer = bench.model.vocab.n_layer
    ours, theirs, whole, head = race(
        bench.repeat,
        lambda: _one_more_probe(bench, name, target, said),
        lambda: _probe_by_file(bench, name, target, said),
        lambda: forward_passes(bench),
        lambda: _head_passes(bench),
    )
    scoring = _scoring(bench)
    ideal = (whole - head) * (n_layer - layer) / n_layer + head
    encoding = timed(lambda: bench.model.encode(name, target, bench.importances.get(name)))
    note = (
        f"{name} at {target}; encoding included on both sides ({1e3 * encoding:.0f} ms of ours); "
        f"KLD ours {said[-2]}, theirs {said[-1]} (16-bit reference)"
    )
    parts = (
        f"theirs: full pass {whole:.3f} s x layers left {n_layer - layer}/{n_layer}, head {head:.3f} s; "
        f"ours includes scoring ({scoring:.3f} s)"
    )
    return [
        faster("one more probe", ours, theirs, bench.bar(2.0, 1.7), note),
        within("one more probe, of the passes it needs", ours, ideal, 1.15, parts),
    ]


def middle_tensor(bench: Bench, layer: int) -> str:
    """The layer's ffn_down, of its experts if it has them."""
    names = (f"blk.{layer}.ffn_down.weight", f"blk.{layer}.ffn_down_exps.weight")
    return next(name for name in names if name in bench.file.tensors)


def _one_more_probe(bench: Bench, name: str, target: str, said: list[str]) -> float:
    """Seconds between two results of `score_mixes`: everything that a probe adds to the one before it."""
    mixes = {"one": {name: "Q8_0"}, "one more": {name: target}}
    wanted = {chunk: list(mixes) for chunk in range(bench.n_chunks)}
    pool = VariantPool(bench.model, bench.importances)
    results = score_mixes(bench.model, pool, bench.corpus, wanted, mixes)
    spent = 0.0
    klds = []
    for _ in range(bench.n_chunks):
        next(results)
        started = time.perf_counter()
        found = next(results)
        spent += time.perf_counter() - started
        assert found.scores.kld is not None
        klds.append(float(found.scores.kld.mean()))
    said.append(f"{np.mean(klds):.6f}")
    return spent


def _probe_by_file(bench: Bench, name: str, target: str, said: list[str]) -> float:
    """Seconds that llama-quantize and llama-perplexity work for the same number."""
    base = bench.base
    path = bench.path("probe.gguf")
    written = bench.tools.one_tensor(bench.model_path, path, name, target, bench.imatrix)
    run = bench.tools.kld(path, base)
    path.unlink()
    said.append(run.kld)
    return written.work_s + run.work_s


def _logits(bench: Bench) -> Logits:
    return np.empty((bench.corpus.n_scored, bench.model.vocab.n_vocab), np.float32)


def forward_passes(bench: Bench) -> float:
    """Seconds of one forward pass over every chunk."""
    out = _logits(bench)
    return timed(lambda: [chunk_logits(bench.model, bench.corpus, c, out) for c in range(bench.n_chunks)])


def _head_passes(bench: Bench) -> float:
    """Seconds of the head alone on every chunk: passes that start after the last layer."""
    model, corpus, out = bench.model, bench.corpus, _logits(bench)
    last = model.vocab.n_layer
    spent = 0.0
    for chunk in range(bench.n_chunks):
        tokens = corpus.inputs[chunk]
        trace, _ = model.trace(tokens, [last], first=corpus.first, last=corpus.n_ctx - 1, out=out)
        started = time.perf_counter()
        model.resume(trace, last, out=out)
        spent += time.perf_counter() - started
    return spent


def _scoring(bench: Bench) -> float:
    """Seconds of scoring every chunk's logits."""
    out = chunk_logits(bench.model, bench.corpus, 0)
    run = timed(lambda: score_chunk(out, bench.corpus, 0, out, n_threads=bench.n_threads))
    return bench.n_chunks * run


def mixes(bench: Bench) -> list[Row]:
    """Whole mixes in memory: against files, and against k + 1 forward passes."""
    return [row for k in (1, len(CANDIDATES)) for row in _mixes(bench, CANDIDATES[:k])]


def _mixes(bench: Bench, names: Sequence[str]) -> list[Row]:
    say(f"mixes: {len(names)} in memory")
    files = [bench.preset_file(name) for name in names]
    types = {name: bench.preset_types(name) for name in names}
    pool = VariantPool(bench.model, bench.importances)
    encoding = timed(lambda: [pool.variants(mix) for mix in types.values()])
    ours, theirs, passes, own = race(
        bench.repeat,
        lambda: timed(lambda: _score_in_memory(bench, pool, types)),
        lambda: _score_files(bench, files),
        lambda: forward_passes(bench),
        lambda: sum(_passes_with(bench, pool, mix) for mix in types.values()),
    )
    k = len(names)
    note = (
        f"{', '.join(names)}; theirs: base pass and {k} KLD runs; files and variants were made before "
        f"(variants: {encoding:.1f} s)"
    )
    of_passes = (
        f"theirs: {k + 1} x Model.logits of the unquantized model; of 1 such pass and {k} with the "
        f"weights of the mixes ({passes + own:.3f} s): {ours / (passes + own):.3f}"
    )
    return [
        faster(f"KLD of {k} mix{'es' if k > 1 else ''}", ours, theirs, 1.0, note),
        within(f"KLD of {k}, of {k + 1} passes", ours, (k + 1) * passes, 1.05, of_passes),
    ]


def _score_in_memory(bench: Bench, pool: VariantPool, types: dict[str, dict[str, str]]) -> None:
    """Tokenizing, every chunk and every mix, the figures with their intervals."""
    corpus = bench.read()
    wanted = {chunk: list(types) for chunk in range(bench.n_chunks)}
    results = list(score_mixes(bench.model, pool, corpus, wanted, types))
    for name in types:
        summarize(joined([r.scores for r in results if r.mix == name]), corpus.n_ctx)


def _score_files(bench: Bench, files: Sequence[Path]) -> float:
    base = bench.path("again.kld")
    seconds = bench.tools.base(bench.model_path, bench.text, bench.n_chunks, base).work_s
    seconds += sum(bench.tools.kld(path, base).work_s for path in files)
    base.unlink()
    return seconds


def _passes_with(bench: Bench, pool: VariantPool, mix: dict[str, str]) -> float:
    bench.model.swap(*pool.variants(mix))
    try:
        return forward_passes(bench)
    finally:
        bench.model.restore()
