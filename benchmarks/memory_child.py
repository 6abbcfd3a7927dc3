"""One measured side of the memory rows: does its work and exits.

memory_child.py mix MODEL PRESET IMATRIX TEXT CHUNKS THREADS
memory_child.py eval MODEL QUANTIZED TEXT CHUNKS THREADS
memory_child.py imatrix MODEL OUTPUT TEXT CHUNKS THREADS
"""

from __future__ import annotations

import sys
from pathlib import Path

from mqnative.build.plan import model_tensors
from mqnative.core.model import Model
from mqnative.core.presets import preset_types
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.imatrix import read_imatrix, write_imatrix
from mqnative.jobs.candidates import importances_of
from mqnative.measure.corpus import Corpus, read_corpus
from mqnative.measure.evaluate import evaluate, summarize
from mqnative.measure.imatrix import collect_imatrix
from mqnative.measure.mixes import VariantPool, score_mixes
from mqnative.measure.scores import joined


def main() -> None:
    what, model_path, *own, text, chunks, threads = sys.argv[1:]
    with Model(model_path, n_threads=int(threads)) as model:
        corpus = read_corpus(model, text).head(int(chunks))
        if what == "mix":
            score_mix(model, corpus, preset=own[0], imatrix=Path(own[1]))
        elif what == "eval":
            with Model(own[0], n_threads=int(threads)) as quantized:
                evaluate(quantized, corpus, model)
        else:
            write_imatrix(own[0], collect_imatrix(model, corpus, process_output=False), force=True)


def score_mix(model: Model, corpus: Corpus, *, preset: str, imatrix: Path) -> None:
    """KLD of a preset's mix in memory."""
    with GGUFFile.open(model.path) as file:
        importances = importances_of(model_tensors(file), read_imatrix(imatrix))
    mixes = {preset: preset_types(model.path, preset, with_imatrix=True)}
    wanted = {chunk: [preset] for chunk in range(corpus.n_chunks)}
    results = score_mixes(model, VariantPool(model, importances), corpus, wanted, mixes)
    summarize(joined([r.scores for r in results]), corpus.n_ctx)


if __name__ == "__main__":
    main()
