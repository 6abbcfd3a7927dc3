"""The whole job as one call: baselines, isolation, candidates, survivors, release; or reported again.

Every number goes through the store, so that the same call continues a killed run and answers at once when it
is finished. No model is written before it has survived.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.jobs.hybrids.baselines import Baseline, baselines_of, read_externals
from mqnative.jobs.hybrids.candidates import Search
from mqnative.jobs.hybrids.ground import Ground, check_sizes, check_texts
from mqnative.jobs.hybrids.isolation import isolate
from mqnative.jobs.hybrids.outcome import Outcome
from mqnative.jobs.hybrids.release import release
from mqnative.jobs.hybrids.request import HybridOptions, request_key
from mqnative.jobs.hybrids.verify import prove
from mqnative.jobs.options import Options
from mqnative.jobs.request import OutputFolder
from mqnative.jobs.run import Run
from mqnative.measure.corpus import read_text
from mqnative.measure.study import Study
from mqnative.report.hybrid_summary import HybridReport
from mqnative.store import Store

# Baselines reach from the smallest types to Q8_0, where rounding counts as much as weights: that is measured
# for every tensor, which is what the pipeline does for budgets of so many bits.
_MEASURED_FOR_BPW = 6.5


@dataclass(frozen=True)
class Finished:
    """What lies in the output folder.

    Attributes:
        report: the figures.
        manifest: of the folder: survivors and files.
        reused: whether it was finished before.
    """

    report: HybridReport
    manifest: dict[str, Any]
    reused: bool


def hybrids(
    model: Path,
    calib: Path,
    evaluation: Path | None,
    output: Path,
    options: HybridOptions,
    *,
    command: str = "",
    force: bool = False,
    monitor: Monitor = NULL_MONITOR,
) -> Finished:
    """Find, prove and publish the mixes of ``model`` that are worth their size.

    Args:
        model: the unquantized GGUF.
        calib: calibration text; dealt to imatrix, probes and selection.
        evaluation: held-out text for the report; without it a part of ``calib`` is held out.
        output: the release folder; made if missing.
        options: baselines, sizes, effort, what is published.
        command: the call as the report shows it.
        force: use a folder that holds something else, and do a finished one again.
        monitor: told every step.

    Raises:
        BaselineError: baselines that cannot be judged.
        ParityError: an external of another model.
        InfeasibleBudgetError: a size that no file can have.
        TextError: texts that have passages in common.
        OutputExistsError: the folder holds another run.
        Any other error of the package; what was measured until then is kept and not measured again.
    """
    options.check()
    folder = OutputFolder(output)
    with Store.open() as store, store.lock(f"output {output.absolute()}"):
        for text in filter(None, (calib, evaluation)):
            read_text(text)
        with Study(model, store, compute=options.compute, monitor=monitor) as study:
            externals = read_externals(options.externals, study.file)
            check_sizes(study.file, options)
            inputs = options.inputs(study, calib, evaluation)
            request = request_key(inputs)
            if not force and folder.finished(request) is not None:
                manifest = json.loads(folder.manifest.read_text(encoding="utf-8"))
                found = json.loads((output / "report.json").read_text(encoding="utf-8"))
                return Finished(HybridReport.from_json(found), manifest, reused=True)
            ground, duplicates = stand(study, calib, evaluation, externals, options, monitor)
            folder.claim(request, force=force)
            isolation = isolate(ground)
            found_mixes = Search(ground, isolation).run()
            proof = prove(ground, found_mixes)
            outcome = Outcome(request, inputs, isolation, found_mixes, proof, duplicates)
            texts = (calib,) if evaluation is None else (calib, evaluation)
            report, manifest = release(ground, outcome, folder, texts, command)
    return Finished(report, manifest, reused=False)


def stand(
    study: Study,
    calib: Path,
    evaluation: Path | None,
    externals: list[Baseline],
    options: HybridOptions,
    monitor: Monitor = NULL_MONITOR,
) -> tuple[Ground, list[Any]]:
    """Measure what the search stands on: importances, weight errors, probes; and learn the baselines.

    Args:
        study: the model.
        calib: calibration text.
        evaluation: held-out text, if there is one of its own.
        externals: others' mixes.
        options: of the run.
        monitor: told every step.

    Returns:
        The ground, and baselines that are the same as others.

    Raises:
        as `hybrids`.
    """
    effort = Options(
        bpw=_MEASURED_FOR_BPW,
        n_ctx=options.n_ctx,
        targets=options.targets,
        probe_chunks=options.probe_chunks,
        precision=options.precision,
        compute=options.compute,
    )
    run = Run(study, effort, monitor)
    # What cannot be judged is refused before anything is measured.
    baselines_of(study.file, externals, options, {})
    parts = run.parts(calib, evaluation)
    check_texts(parts)
    measured = run.measure(parts)
    found, duplicates = baselines_of(study.file, externals, options, measured.importances)
    return Ground(study, run, options, parts, measured, {b.name: b for b in found}), list(duplicates)
