"""The main job: from a model and a text to the best mix of a size, built and proved.

Every number goes through the store, so that the same call continues a killed run and answers at once when it
is finished. The folder's manifest is written last.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.formats.imatrix import write_imatrix
from mqnative.formats.recipe import write_recipe
from mqnative.jobs.candidates import default_targets
from mqnative.jobs.choose import (
    Chosen,
    recipe_of,
)
from mqnative.jobs.curve import Curve, curve_of
from mqnative.jobs.damages import Measured
from mqnative.jobs.fit import Fit
from mqnative.jobs.incumbents import read_incumbents
from mqnative.jobs.linking import predicted_kld
from mqnative.jobs.memory_fit import within
from mqnative.jobs.net import Net
from mqnative.jobs.options import Options
from mqnative.jobs.refinement import Step
from mqnative.jobs.request import OutputFolder, Request, settings_text, text_hash
from mqnative.jobs.rounding import Rounded
from mqnative.jobs.run import IMATRIX_NAME, Run, Timed
from mqnative.jobs.verify import Judged
from mqnative.measure.corpus import read_text
from mqnative.measure.study import Study
from mqnative.predict.damage import Damage
from mqnative.predict.link import Link
from mqnative.solve.explain import Explanation
from mqnative.store import Store


@dataclass(frozen=True)
class Outcome:
    """A finished run, as reports need it.

    Attributes:
        request: what was asked for.
        measured: what the mix was chosen by.
        rivals_measured: the same with the imatrix, if there is one: what others would use.
        chosen: the mix, and why its budget and its importances are what they are.
        explanation: why every tensor has its type.
        curve: the frontier.
        link: from sums of damages to KLD.
        net: what it was judged against before it was built.
        refinement: rounds of moves that were measured.
        rounded: what error feedback did, where it was asked for.
        judged: by mix, on the held-out text.
        model_path: the file.
        steps: what took how long.
        ppl_ref: perplexity of the reference on the held-out text.
    """

    request: Request
    measured: Measured
    rivals_measured: Measured
    chosen: Chosen
    explanation: Explanation
    curve: Curve
    link: Link
    net: Net
    refinement: tuple[Step, ...]
    rounded: Rounded | None
    judged: dict[str, Judged]
    model_path: Path
    steps: tuple[Timed, ...]
    ppl_ref: float

    @property
    def fit(self) -> Fit:
        """The mix and its plan."""
        return self.chosen.fit

    @property
    def predicted(self) -> Damage | None:
        """The result's KLD as it was predicted; None where a rival's types were not measured."""
        found = predicted_kld(self.measured, self.fit.plan.types, self.link)
        if found is None or self.rounded is None:
            return found
        factor = self.rounded.factor
        return Damage(found.mean * factor, found.variance * factor**2)


def request_of(study: Study, calib: Path, evaluation: Path | None, options: Options) -> Request:
    """The request that these inputs are."""
    return Request(
        model=study.identity.model,
        calib=text_hash(calib),
        evaluation="" if evaluation is None else text_hash(evaluation),
        size_bytes=options.size_bytes,
        bpw=options.bpw,
        targets=options.targets or default_targets(),
        n_ctx=options.n_ctx,
        probe_chunks=options.probe_chunks,
        precision=options.precision,
        select_chunks=options.select_chunks,
        verify_chunks=options.verify_chunks,
        rivals=options.rivals,
        fast=options.fast,
        refine_rounds=0 if options.fast else options.refine_rounds,
        build=study.build,
        incumbents=tuple(i.key for i in read_incumbents(options.incumbents)),
        like="" if options.like is None else text_hash(options.like),
        constraints=options.constraints.texts,
        method=options.method,
        settings=settings_text(options.settings),
        importance=options.importance,
        keep_tied=options.keep_tied,
        memory="" if options.memory is None else options.memory.key,
        gptq=options.gptq,
    )


def run_auto(
    model: Path,
    calib: Path,
    evaluation: Path | None,
    folder: OutputFolder,
    options: Options,
    store: Store,
    *,
    force: bool = False,
    monitor: Monitor = NULL_MONITOR,
) -> Outcome | None:
    """Measure, choose, build and verify; None if the folder holds this very run finished already.

    Args:
        model: the unquantized GGUF.
        calib: calibration text.
        evaluation: held-out text; without it a part of ``calib`` is held out.
        folder: where everything goes.
        options: budget and effort.
        store: where numbers are kept.
        force: use a folder that holds another run, and do a finished one again.
        monitor: told every step.

    Raises:
        Any of the package's errors; what was measured until then is in the store.
    """
    for text in filter(None, (calib, evaluation)):
        read_text(text)
    with Study(model, store, compute=options.compute, monitor=monitor) as study:
        request = request_of(study, calib, evaluation, options)
        if not force and folder.finished(request.key()) is not None:
            return None
        run = Run(study, options, monitor)
        run.bpw()  # refuses a machine that nothing fits before anything is measured
        folder.claim(request.key(), force=force)
        parts = run.parts(calib, evaluation)
        measures = run.measure_all(parts)
        chosen = run.choose(parts, run.known(parts, measures), coupled=True)
        measured = measures[chosen.weighing]
        theirs = measures.get("imatrix", measured)
        found, steps = run.refine(parts, measured, chosen.fit)
        found, memory = within(chosen.memory, found, chosen.fit)
        # With --fast the rivals, which are measured anyway, serve; of others' importances they say nothing.
        shares = options.fast and theirs is measured
        link = None if shares else run.link(parts, measured, found)
        solved = found
        found, net = run.safety_net(parts, measured, theirs, found)
        link = link or run.link(parts, measured, solved, net)
        found, memory = within(memory, found, solved)
        if found is solved:
            net = replace(net, chosen=None)
        chosen = replace(chosen, fit=found, memory=memory)
        path = folder.path / model_file_name(study, found)
        if measured.imatrix is not None:
            write_imatrix(folder.work / IMATRIX_NAME, measured.imatrix, force=True)
        recipe = recipe_of(study, chosen, measured.imatrix)
        write_recipe(folder.path / "recipe.yaml", recipe, force=True)
        found, rounded = run.build(parts, measured, found, path)
        chosen = replace(chosen, fit=found)
        built = path if rounded is not None and rounded.kept else None
        judged, ppl_ref = run.verify(parts, measured, theirs, found, net, built)
        with run.step("explain"):
            explanation = found.explanation()
            curve = curve_of(run.case(chosen.damages), options.demand, net.presets)
    return Outcome(
        request,
        measured,
        theirs,
        chosen,
        explanation,
        curve,
        link,
        net,
        steps,
        rounded,
        judged,
        path,
        tuple(run.steps),
        ppl_ref,
    )


def model_file_name(study: Study, found: Fit) -> str:
    """``<model>-mqnative-4.50bpw.gguf``."""
    stem = study.file.path.stem
    for suffix in ("-bf16", "-f16", "-f32", "-BF16", "-F16", "-F32"):
        stem = stem.removesuffix(suffix)
    return f"{stem}-mqnative-{found.plan.bpw:.2f}bpw.gguf"
