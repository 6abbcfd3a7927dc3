"""Error feedback for a build: collected on a text, named in the file's header, asked for again by a manifest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from mqnative.build.plan import BuildPlan, PlannedTensor
from mqnative.core.feedback import Factors, factors_of, takes_feedback
from mqnative.core.model import Model
from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.errors import ManifestError, TextError
from mqnative.formats.qtypes import qtype
from mqnative.formats.tied import EMBEDDING
from mqnative.measure.corpus import Corpus, read_corpus
from mqnative.measure.parts import shuffled

MAX_CHUNKS = 64
N_CTX = 512
_CHUNK_COUNT = re.compile(r"([1-9][0-9]{0,8}) x ([1-9][0-9]{0,8})")
FEEDBACK_TEXT = "mqnative.gptq.text"
_SHA256, _CHUNKS = "mqnative.gptq.sha256", "mqnative.gptq.chunks"


@dataclass(frozen=True)
class FeedbackText:
    """The text that error feedback is collected on.

    Attributes:
        path: UTF-8 text.
        name: what the header calls it.
        sha256: of its bytes.
        max_chunks: at most so many of its chunks, in the order in which texts are dealt (`shuffled`): the first
            few are a fair sample of it.
        n_ctx: tokens per chunk.
    """

    path: Path
    name: str
    sha256: str
    max_chunks: int = MAX_CHUNKS
    n_ctx: int = N_CTX

    @classmethod
    def of(cls, path: Path, max_chunks: int = MAX_CHUNKS, n_ctx: int = N_CTX) -> FeedbackText:
        """A text file.

        Raises:
            TextError: it cannot be read.
        """
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise TextError(f"cannot read {path}: {error.strerror}", path=str(path)) from error
        return cls(path, path.name, digest, max_chunks, n_ctx)

    @property
    def labels(self) -> dict[str, str]:
        """What the header of a file that was rounded with it says."""
        return {FEEDBACK_TEXT: self.name, _SHA256: self.sha256, _CHUNKS: f"{self.max_chunks} x {self.n_ctx}"}


def text_of_labels(labels: Mapping[str, str], path: Path | None) -> FeedbackText | None:
    """The text that a file of these labels was rounded with; None if it was rounded without feedback.

    Args:
        labels: of a header.
        path: where the text lies now.

    Raises:
        ManifestError: there is no text, or it is another one.
    """
    if _SHA256 not in labels:
        return None
    name = labels.get(FEEDBACK_TEXT, "")
    wanted = labels[_SHA256]
    if path is None:
        raise ManifestError(
            f"the file was rounded with error feedback on {name} (SHA-256 {wanted}); give that text with --gptq",
            key=_SHA256,
            expected=wanted,
        )
    chunks = _CHUNK_COUNT.fullmatch(labels.get(_CHUNKS, ""))
    if chunks is None:
        raise ManifestError(f"{_CHUNKS} is no number of chunks x tokens: {labels.get(_CHUNKS)!r}", key=_CHUNKS)
    found = FeedbackText.of(path, int(chunks[1]), int(chunks[2]))
    if found.sha256 != wanted:
        raise ManifestError(
            f"the file was rounded with error feedback on {name} of SHA-256 {wanted}, but {path} has "
            f"{found.sha256}; give the text that it was made with",
            path=str(path),
            key=_SHA256,
            expected=wanted,
            got=found.sha256,
        )
    return replace(found, name=name)


def takes_part(tensor: PlannedTensor) -> bool:
    """Whether a planned tensor is rounded with feedback: its type allows it, and it enters products.

    The embedding, which is looked up, is not; where it is the head as well, either use would lose by what
    helps the other.
    """
    return not tensor.copied and tensor.name != EMBEDDING and takes_feedback(qtype(tensor.qtype))


def collect_feedback(
    text: FeedbackText,
    plan: BuildPlan,
    *,
    n_threads: int | None = None,
    monitor: Monitor = NULL_MONITOR,
) -> dict[str, Factors]:
    """`feedback_on` a text, with the model loaded for it.

    Args:
        text: such as the calibration text.
        plan: of the file.
        n_threads: default all usable processors; the digits do not depend on it.
        monitor: told the steps.

    Raises:
        TextError: too short, or not of the model's language.
        NonFiniteError, BackendError, ModelLoadError, OperationCancelled: as `Model`.
    """
    if not any(takes_part(tensor) for tensor in plan.tensors):
        return {}
    with Model(plan.source, n_threads=n_threads, monitor=monitor) as model:
        corpus = shuffled(read_corpus(model, text.path, n_ctx=text.n_ctx)).head(text.max_chunks)
        return feedback_on(model, corpus, plan, monitor=monitor)


def feedback_on(
    model: Model, corpus: Corpus, plan: BuildPlan, *, monitor: Monitor = NULL_MONITOR
) -> dict[str, Factors]:
    """Run a model on chunks and work out, for every tensor that takes feedback, who takes over what.

    Args:
        model: the plan's source, nothing swapped.
        corpus: the chunks.
        plan: of the file.
        monitor: told the chunks done.

    Returns:
        By name in the source; tensors that entered no product are left out and are rounded as ever.

    Raises:
        NonFiniteError, BackendError, OperationCancelled: as `Model.second_moments`.
    """
    names = {tensor.stored for tensor in plan.tensors if takes_part(tensor)}
    if not names:
        return {}
    moments = model.second_moments(corpus.inputs, names, monitor=monitor)
    made: dict[int, Factors] = {}
    for one in moments.values():
        if id(one) not in made:
            made[id(one)] = factors_of(one, n_threads=model.n_threads)
    return {name: made[id(one)] for name, one in moments.items()}


def collector(
    text: FeedbackText | None,
    plan: BuildPlan,
    *,
    n_threads: int | None = None,
    monitor: Monitor = NULL_MONITOR,
) -> Callable[[], dict[str, Factors]] | None:
    """`collect_feedback` for later, since a file that is there already needs none; None without a text."""
    if text is None:
        return None
    return partial(collect_feedback, text, plan, n_threads=n_threads, monitor=monitor)
