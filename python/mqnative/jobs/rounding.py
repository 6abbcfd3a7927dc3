"""Error feedback in the main job: counted when types are chosen, judged when the file is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mqnative.build.feedback import MAX_CHUNKS, FeedbackText
from mqnative.build.plan import BuildPlan
from mqnative.build.writer import build_gguf
from mqnative.core.feedback import Factors
from mqnative.core.monitor import Monitor
from mqnative.formats.tied import EMBEDDING, HEAD
from mqnative.jobs.known import Damages
from mqnative.jobs.verify import judge, scores_of
from mqnative.measure.corpus import Corpus
from mqnative.measure.feedback_gain import FeedbackGains, feedback_gains
from mqnative.measure.parts import Parts
from mqnative.measure.stored_files import score_files
from mqnative.measure.stored_scores import Importances
from mqnative.measure.study import Study
from mqnative.predict.damage import Damage

# Of the probe text, chunks that judge what feedback leaves.
_JUDGING_CHUNKS = 16
_USUAL, _FEEDBACK = "usual rounding", "error feedback"


@dataclass(frozen=True)
class Rounded:
    """What error feedback did to a mix.

    Attributes:
        text: what it was collected on.
        usual, feedback: KLD on the select text with the usual rounding and with feedback, nats per token.
        kept: whether feedback is better beyond the 95 % interval, and the file is that.
    """

    text: FeedbackText
    usual: float
    feedback: float
    kept: bool

    @property
    def factor(self) -> float:
        """What the prediction, which is of the usual rounding, is multiplied with."""
        return self.feedback / self.usual if self.kept and self.usual > 0 else 1.0

    @property
    def note(self) -> str:
        """What a reader should know."""
        figures = f"{self.feedback:.3g} instead of {self.usual:.3g} nats per token on the select text"
        if not self.kept:
            return f"Rounding with error feedback (GPTQ) is not better here ({figures}) and was not used."
        return (
            f"Weights were rounded with error feedback (GPTQ) on {self.text.max_chunks} chunks of "
            f"{self.text.name}: {figures}. The prediction is that of the usual rounding times this ratio; "
            "types were chosen by what feedback leaves of each tensor's damage."
        )


def feedback_text(calib: Path, parts: Parts) -> FeedbackText:
    """The imatrix' part of a calibration text, or its beginning."""
    return FeedbackText.of(calib, min(MAX_CHUNKS, parts.imatrix.n_chunks), parts.imatrix.n_ctx)


def gains_of(
    study: Study, parts: Parts, text: FeedbackText, known: Damages, monitor: Monitor
) -> FeedbackGains:
    """What feedback leaves of every tensor's loss at every type.

    Args:
        study: the model and its store.
        parts: the calibration text, dealt.
        text: from `feedback_text`.
        known: the types that tensors may get, and their importances.
        monitor: told the chunks done.

    Raises:
        as `feedback_gains`.
    """
    own = {name: by_type for name, by_type in known.table.items() if name != EMBEDDING}
    heads = {HEAD: known.uses[HEAD]} if HEAD in known.uses else {}
    importances = dict(known.importances) | {name: known.importances.get(EMBEDDING) for name in heads}
    return feedback_gains(
        study.model,
        study.file,
        own | heads,
        importances,
        parts.imatrix.head(text.max_chunks),
        parts.probe.head(_JUDGING_CHUNKS),
        monitor=monitor,
    )


def with_feedback(known: Damages, gains: FeedbackGains) -> Damages:
    """The damages that tensors have with feedback: what it leaves of their products' loss."""
    table = {
        name: {t: _scaled(damage, gains.left.get((name, t), 1.0)) for t, damage in by_type.items()}
        for name, by_type in known.table.items()
    }
    return replace(known, table=table)


def _scaled(damage: Damage, factor: float) -> Damage:
    return Damage(damage.mean * factor, damage.variance * factor**2)


def build_rounded(
    study: Study,
    select: Corpus,
    text: FeedbackText,
    plan: BuildPlan,
    importances: Importances,
    path: Path,
    *,
    factors: Mapping[str, Factors],
    monitor: Monitor,
) -> Rounded:
    """Write the planned file with feedback, and compare it with the same mix under the usual rounding.

    Args:
        study: the model and its store.
        select: the select text.
        text: from `feedback_text`.
        plan: of the file, with the text's labels.
        importances: that the mix is encoded with.
        path: where the file goes.
        factors: from `gains_of`.
        monitor: told the steps.

    Raises:
        as `build_gguf` and `score_files`.
    """
    build_gguf(
        study.file,
        plan,
        path,
        force=True,
        n_threads=study.n_threads,
        monitor=monitor,
        feedback=lambda: factors,
    )
    scores = scores_of(study, "rounding", select, {_USUAL: plan.types}, importances)
    scores |= score_files(study, "rounding", select, {_FEEDBACK: path})
    found = judge(scores, _FEEDBACK, select.n_ctx)
    usual, feedback = (found[name].figures.kld_mean or 0.0 for name in (_USUAL, _FEEDBACK))
    return Rounded(text, usual, feedback, found[_USUAL].verdict == "better")
