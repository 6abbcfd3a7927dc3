"""The probes that tell the two uses of a tied embedding apart: both changed, the input, the head."""

from __future__ import annotations

from collections.abc import Mapping

from mqnative.build.plan import ModelTensor
from mqnative.formats.tied import EMBEDDING, HEAD, is_tied
from mqnative.jobs.damages import Measured
from mqnative.measure.corpus import Corpus
from mqnative.measure.stored_scores import mix_means
from mqnative.measure.study import Study
from mqnative.predict.tied import Share, share_of


def mixes_of_uses(tensors: Mapping[str, ModelTensor], qtype: str) -> dict[str, dict[str, str]]:
    """The mixes that change a use of a tied embedding: ``input``, ``head``, ``both``.

    Args:
        tensors: of the source.
        qtype: of what changes.
    """
    own = tensors[EMBEDDING].qtype_name
    return {"input": {EMBEDDING: qtype, HEAD: own}, "head": {HEAD: qtype}, "both": {EMBEDDING: qtype}}


def measured_share(study: Study, text: Corpus, measured: Measured) -> Share | None:
    """The input's share, at the type that the embedding was probed at; None where it was not, or is not tied.

    Args:
        study: the model and its store.
        text: for the probes.
        measured: the other probes.
    """
    anchor = measured.anchors.get(EMBEDDING)
    if anchor is None or not is_tied(measured.tensors) or EMBEDDING not in measured.table:
        return None
    mixes = mixes_of_uses(measured.tensors, anchor)
    del mixes["both"]  # the embedding's own probe
    found = mix_means(study, "probes", text, mixes, measured.importances)
    return share_of(found["input"].kld, found["head"].kld, measured.floor)
