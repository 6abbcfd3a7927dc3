"""What a finished study knows: the one set of facts that every rendering shows.

Everything here was measured, predicted or decided elsewhere. KLD is D(reference || candidate) in nats per
token, intervals are 95 %, sizes are bytes of the whole file, shares lie between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mqnative.report.choices import ChoiceFacts, FrontierFacts
from mqnative.report.memory import MemoryFacts

Kind = Literal["result", "preset", "uniform"]
Verdict = Literal["better", "worse", "tie"]
Interval = tuple[float, float]
MEAN_OF_TEXTS = "mean of the texts"


@dataclass(frozen=True)
class Figures:
    """What one mix scores on the held-out text.

    Attributes:
        n_tokens, n_chunks: scored tokens, and the chunks they come from.
        kld_mean, kld_se, kld_ci95: nats per token.
        kld_median, kld_p99: of single tokens.
        ppl, ppl_se: perplexity.
        ppl_ratio: PPL over the reference's PPL.
        ppl_cor_ln: correlation of ln PPL between mix and reference.
        top1_agreement, top1_agreement_se: share of tokens where both put the same token first.
    """

    n_tokens: int
    n_chunks: int
    kld_mean: float
    kld_se: float
    kld_ci95: Interval
    kld_median: float
    kld_p99: float
    ppl: float
    ppl_se: float
    ppl_ratio: float
    ppl_cor_ln: float
    top1_agreement: float
    top1_agreement_se: float


@dataclass(frozen=True)
class MixRow:
    """One mix of types: the result, or something it has to beat.

    Attributes:
        name: as people call it (``mqnative 4.50 bpw``, ``Q4_K_M``).
        kind: the result, a llama.cpp preset, or one type for everything.
        size_bytes: of the whole file.
        bpw: 8 x bytes of tensor data / weights.
        figures: held-out scores.
        verdict: the result against this mix, paired on the same tokens; None for the result.
        kld_difference: KLD of this mix minus the result's: value, low, high; positive if that is better.
        predicted_kld, predicted_ci95: what the damage table said before measuring.
        why: why the mix is here (``asked for``, ``best preset of at most equal size``).
    """

    name: str
    kind: Kind
    size_bytes: int
    bpw: float
    figures: Figures
    verdict: Verdict | None = None
    kld_difference: tuple[float, float, float] | None = None
    predicted_kld: float | None = None
    predicted_ci95: Interval | None = None
    why: str = ""


@dataclass(frozen=True)
class CurvePoint:
    """The damage of one tensor at one type.

    Attributes:
        qtype: the type.
        bpw: of the type.
        damage, low, high: predicted KLD with its interval, nats per token.
        measured: whether this point was probed rather than scaled from a probe.
        legal: whether the solver could choose it.
        error: of the weights, importance-weighted: sum v dW^2 / sum v W^2; None if it was not measured.
        error_half_width: of its 95 % interval, relative.
        rmse: of the weights, in their units.
    """

    qtype: str
    bpw: float
    damage: float
    low: float
    high: float
    measured: bool = False
    legal: bool = True
    error: float | None = None
    error_half_width: float | None = None
    rmse: float | None = None


@dataclass(frozen=True)
class TensorRow:
    """One tensor: what it is, what it became, what that costs.

    Attributes:
        name: as in GGUF (``blk.3.attn_v.weight``).
        layer: the block's number; None outside the blocks.
        role: the name without block and suffix (``attn_v``).
        shape: GGUF order, row length first.
        n_weights: product of the shape.
        source_type, qtype: in the reference, and chosen.
        size_bytes: at the chosen type.
        damage: predicted KLD at the chosen type, nats per token.
        importance_percentile: within the model, 0 to 100; None without an imatrix entry.
        curve: damage at every type that was considered; empty for tensors that are kept as they are.
    """

    name: str
    layer: int | None
    role: str
    shape: tuple[int, ...]
    n_weights: int
    source_type: str
    qtype: str
    size_bytes: int
    damage: float
    importance_percentile: float | None = None
    curve: tuple[CurvePoint, ...] = ()

    @property
    def bpw(self) -> float:
        """Bits per weight at the chosen type."""
        return 8.0 * self.size_bytes / self.n_weights if self.n_weights else 0.0


@dataclass(frozen=True)
class LinkRow:
    """How the sum of the tensors' damages becomes the predicted KLD of a mix.

    Attributes:
        scale, coupling: KLD = scale * (sum + coupling * interaction); see `mqnative.predict.link`.
        spread: relative standard deviation of mixes about that.
        floor: what every mix pays once, because the reference rounds its activations, nats per token.
        of_input: the input's share of what a tied embedding loses; the head has the rest.
    """

    scale: float
    coupling: float
    spread: float
    floor: float
    of_input: float = 0.0


@dataclass(frozen=True)
class StepTime:
    """How long a step took.

    Attributes:
        name: of the step.
        elapsed_s: seconds.
        detail: how much was done (``57 tensors, 12 chunks``).
        reused: whether its results came from the store.
    """

    name: str
    elapsed_s: float
    detail: str = ""
    reused: bool = False


@dataclass(frozen=True)
class TextRow:
    """What one mix scores on one of several texts.

    Attributes:
        text: the file's name; `MEAN_OF_TEXTS` for their mean, in which each counts alike.
        mix: name of the mix.
        n_tokens: scored.
        kld_mean, kld_ci95: nats per token.
        ppl: perplexity.
        top1_agreement: share of tokens where mix and reference put the same token first.
    """

    text: str
    mix: str
    n_tokens: int
    kld_mean: float
    kld_ci95: Interval
    ppl: float
    top1_agreement: float


@dataclass(frozen=True)
class Report:
    """A finished study.

    Attributes:
        title: of the page.
        model: facts about the reference (name, architecture, parameters, hash).
        target: what was asked for (``4.50 bits per weight``).
        ppl_ref: perplexity of the reference on the held-out text.
        mixes: the result first, then what it was compared with.
        tensors: in file order.
        steps: in the order they ran.
        notes: coverage, fallbacks, warnings.
        provenance: versions, commit, hashes, texts.
        rebuild_command: the command that makes the same bytes again.
        gap: proven bound on how far the predicted damage is from the lowest, relative; None if unproven.
        choice: why the mix is as it is; None if nobody explained it.
        frontier: the best mix of every size; None if nobody asked.
        link: from damages to KLD; None where none was fitted.
        texts: figures on each text, by text and mix; empty where there was only one.
        memory: what the result takes of the machine that was asked for; None if none was.

    Raises:
        ValueError: there is no mix, or the first one is not the only result.
    """

    title: str
    model: Mapping[str, str]
    target: str
    ppl_ref: float
    mixes: tuple[MixRow, ...]
    tensors: tuple[TensorRow, ...] = ()
    steps: tuple[StepTime, ...] = ()
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    rebuild_command: str = ""
    gap: float | None = None
    choice: ChoiceFacts | None = None
    frontier: FrontierFacts | None = None
    link: LinkRow | None = None
    texts: tuple[TextRow, ...] = ()
    memory: MemoryFacts | None = None

    def __post_init__(self) -> None:
        kinds = [m.kind for m in self.mixes]
        if kinds[:1] != ["result"] or "result" in kinds[1:]:
            raise ValueError(f"a report needs one result, before all other mixes; got {kinds}")

    @property
    def result(self) -> MixRow:
        """The mix that was made."""
        return self.mixes[0]

    @property
    def baselines(self) -> tuple[MixRow, ...]:
        """What the result was compared with."""
        return self.mixes[1:]
