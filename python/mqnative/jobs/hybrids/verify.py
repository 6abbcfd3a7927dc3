"""The report's figures: baselines and survivors on held-out text, and whether every claim holds there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mqnative.hybrids.chords import Point, chord_at
from mqnative.hybrids.contrast import Weights, judge_together
from mqnative.jobs.hybrids.candidates import Found
from mqnative.jobs.hybrids.ground import Ground
from mqnative.measure.corpus import Corpus
from mqnative.measure.evaluate import Evaluation, summarize
from mqnative.measure.scores import TokenScores
from mqnative.measure.stored_scores import score
from mqnative.measure.uncertainty import Estimate

# DESIGN: held-out chunks are dealt until the relative 95 % half-width of the KLD is this small.
_PRECISION = 0.03
_LEAST_CHUNKS = 20
_CHUNKS_PER_ROUND = 10


@dataclass(frozen=True)
class Claim:
    """A claim on held-out text.

    Attributes:
        difference: KLD minus the chord's, or minus that of the file it stands against, nats per token, with
            a 95 % interval that holds for all claims together.
        reference: KLD of the chord, or of the other file.
    """

    difference: Estimate
    reference: float


@dataclass(frozen=True)
class Proof:
    """What the held-out text says.

    Attributes:
        figures: by entry.
        below_chord: survivor -> its claim to be below the chord of its baselines.
        in_table: survivor -> the same against its neighbours in the table.
        replaced: removed baseline -> its KLD minus that of the file that took its place.
        n_chunks: of the text.
        text_sha256: of its tokens.
        ppl_ref: of the unquantized model.
    """

    figures: Mapping[str, Evaluation]
    below_chord: Mapping[str, Claim]
    in_table: Mapping[str, Claim]
    replaced: Mapping[str, Claim]
    n_chunks: int
    text_sha256: str
    ppl_ref: float


def prove(ground: Ground, found: Found) -> Proof:
    """Score baselines and survivors on the same held-out chunks."""
    mixes = {name: b.types for name, b in ground.baselines.items()}
    mixes |= {
        s.name: found.candidates[s.name].solved.types for s in found.table.survivors if s.name not in mixes
    }
    names = [s.name for s in found.table.survivors]
    with ground.run.step("verify", f"{len(mixes)} mixes on held-out text"):
        text, scores = _scored(ground, mixes, names)
    figures = {name: summarize(s, ground.options.n_ctx) for name, s in scores.items()}
    klds = {name: s.kld.mean(axis=1) for name, s in scores.items() if s.kld is not None}
    sizes = {name: found.entries[name].size_bytes for name in mixes}
    points = {name: Point(name, sizes[name], float(k.mean())) for name, k in klds.items()}
    original = ground.study.file.file_bytes
    anchors = [points[name] for name in found.table.anchors]
    contrasts: dict[tuple[str, str], tuple[Weights, float]] = {}
    for name in names:
        if name in ground.baselines:
            continue
        for kind, ends in (("chord", anchors), ("table", [points[n] for n in names if n != name])):
            chord = chord_at(sizes[name], ends, original)
            if chord is not None:
                contrasts[kind, name] = chord.against(name), chord.kld
    heirs = {n: s.name for s in found.table.survivors for n in s.replaced}
    for name, heir in heirs.items():
        contrasts["replaced", name] = {name: 1.0, heir: -1.0}, points[heir].kld
    family = judge_together(klds, [weights for weights, _ in contrasts.values()])
    claims: dict[str, dict[str, Claim]] = {"chord": {}, "table": {}, "replaced": {}}
    for ((kind, name), (_, reference)), estimate in zip(contrasts.items(), family.estimates, strict=True):
        claims[kind][name] = Claim(estimate, reference)
    first = next(iter(figures.values()))
    return Proof(
        figures,
        claims["chord"],
        claims["table"],
        claims["replaced"],
        text.n_chunks,
        text.content_hash(),
        first.ppl_ref or 0.0,
    )


def _scored(
    ground: Ground, mixes: Mapping[str, Mapping[str, str]], names: list[str]
) -> tuple[Corpus, dict[str, TokenScores]]:
    """A fixed number of chunks, or until the survivors' KLD is known well enough."""
    corpus, importances = ground.parts.held_out, ground.measured.importances
    wanted = ground.options.verify_chunks
    used = min(_LEAST_CHUNKS if wanted is None else wanted, corpus.n_chunks)
    while True:
        text = corpus.head(used)
        scores = score(ground.study, "verify", text, mixes, importances)
        if wanted is not None or used == corpus.n_chunks or _is_precise(scores, names):
            return text, scores
        used = min(used + _CHUNKS_PER_ROUND, corpus.n_chunks)


def _is_precise(scores: Mapping[str, TokenScores], names: list[str]) -> bool:
    for name in names:
        found = summarize(scores[name], 0)
        low, high = found.kld_ci95 or (0.0, 0.0)
        if high - low > 2.0 * _PRECISION * (found.kld_mean or 0.0):
            return False
    return True
