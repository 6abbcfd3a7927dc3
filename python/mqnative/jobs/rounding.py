"""Error feedback in the main job: built, judged against the usual rounding, kept if it is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mqnative.build.feedback import MAX_CHUNKS, FeedbackText, feedback_on
from mqnative.build.plan import BuildPlan
from mqnative.build.writer import build_gguf
from mqnative.core.monitor import Monitor
from mqnative.jobs.verify import judge, scores_of
from mqnative.measure.corpus import Corpus
from mqnative.measure.parts import Parts
from mqnative.measure.stored_files import score_files
from mqnative.measure.stored_scores import Importances
from mqnative.measure.study import Study

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
            "damages of single tensors are of the usual rounding."
        )


def feedback_text(calib: Path, parts: Parts) -> FeedbackText:
    """The imatrix' part of a calibration text, or its beginning."""
    return FeedbackText.of(calib, min(MAX_CHUNKS, parts.imatrix.n_chunks), parts.imatrix.n_ctx)


def build_rounded(
    study: Study,
    parts: Parts,
    text: FeedbackText,
    plan: BuildPlan,
    importances: Importances,
    path: Path,
    *,
    select_chunks: int,
    monitor: Monitor,
) -> Rounded:
    """Write the planned file with feedback, and judge it on the select text.

    Args:
        study: the model and its store.
        parts: the calibration text, dealt.
        text: from `feedback_text`.
        plan: of the file, with the text's labels.
        importances: that the mix is encoded with.
        path: where the file goes.
        select_chunks: of the select text.
        monitor: told the steps.

    Raises:
        as `build_gguf` and `score_files`.
    """
    collect = partial(feedback_on, study.model, parts.imatrix.head(text.max_chunks), plan, monitor=monitor)
    build_gguf(
        study.file, plan, path, force=True, n_threads=study.n_threads, monitor=monitor, feedback=collect
    )
    return judged(study, parts.select.head(select_chunks), text, plan.types, importances, path)


def judged(
    study: Study,
    select: Corpus,
    text: FeedbackText,
    types: Mapping[str, str],
    importances: Importances,
    path: Path,
) -> Rounded:
    """Compare a file that was rounded with feedback with the same mix, rounded as ever."""
    scores = scores_of(study, "rounding", select, {_USUAL: types}, importances)
    scores |= score_files(study, "rounding", select, {_FEEDBACK: path})
    found = judge(scores, _FEEDBACK, select.n_ctx)
    usual, feedback = (found[name].figures.kld_mean or 0.0 for name in (_USUAL, _FEEDBACK))
    return Rounded(text, usual, feedback, found[_USUAL].verdict == "better")
