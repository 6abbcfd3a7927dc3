"""Cloning: another model's mix built on this one with its own imatrix, and measured again. No search."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mqnative.build.plan import BuildPlan, ModelTensor, model_tensors, plan_build, upstream_header_bytes
from mqnative.build.writer import build_gguf
from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.errors import ParityError
from mqnative.formats.imatrix import Imatrix, read_imatrix, write_imatrix
from mqnative.formats.qtypes import qtype
from mqnative.formats.recipe import Recipe, write_recipe
from mqnative.hybrids.carry import Carried, Policy, carry_over
from mqnative.hybrids.mix_file import MixFile
from mqnative.jobs.candidates import importances_of
from mqnative.jobs.options import Options
from mqnative.jobs.presets import STANDARD, Rival, near_rivals, rivals
from mqnative.jobs.request import OutputFolder, text_hash
from mqnative.jobs.run import IMATRIX_NAME, RESULT, Run, Timed
from mqnative.jobs.verify import Judged, held_out_scores, judge
from mqnative.measure.corpus import read_text
from mqnative.measure.study import Compute, Study
from mqnative.store import Store

_VERSION = 1
_UNQUANTIZED_SUFFIXES = ("-bf16", "-f16", "-f32", "-BF16", "-F16", "-F32")


@dataclass(frozen=True)
class CloneOptions:
    """What a user may choose.

    Attributes:
        policy: for tensors of only one of the two models.
        imatrix_path: importances of this model; None collects them from the calibration text.
        n_ctx: tokens per chunk.
        verify_chunks: held-out chunks; None: as many as the interval takes.
        compute: device and threads.
    """

    policy: Policy = field(default_factory=Policy)
    imatrix_path: Path | None = None
    n_ctx: int = 512
    verify_chunks: int | None = None
    compute: Compute = field(default_factory=Compute)


@dataclass(frozen=True)
class CloneOutcome:
    """A finished clone, as its report needs it.

    Attributes:
        request: the key of what was asked for.
        inputs: the same as JSON values.
        source_sha256: of this model.
        mix, carried: what was cloned, and what became of it here.
        imatrix, plan, path: importances, plan and place of the file.
        rivals, best_rival, judged: presets, the best of at most equal size, held-out scores.
        steps: what took how long.
        ppl_ref: of the reference on the held-out text.
    """

    request: str
    inputs: Mapping[str, Any]
    source_sha256: str
    mix: MixFile
    carried: Carried
    imatrix: Imatrix
    plan: BuildPlan
    path: Path
    rivals: Mapping[str, Rival]
    best_rival: str | None
    judged: Mapping[str, Judged]
    steps: tuple[Timed, ...]
    ppl_ref: float


def run_clone(
    mix: MixFile,
    model: Path,
    calib: Path,
    evaluation: Path | None,
    folder: OutputFolder,
    options: CloneOptions,
    store: Store,
    *,
    force: bool = False,
    monitor: Monitor = NULL_MONITOR,
) -> CloneOutcome | None:
    """Build a mix on another model and verify it; None if the folder holds this very clone already.

    Args:
        mix: what to clone.
        model: the unquantized model, such as a finetune of the mix' own.
        calib: text for the importances.
        evaluation: held-out text; without it a part of ``calib`` is held out.
        folder: where everything goes.
        options: policy and effort.
        store: where numbers are kept.
        force: use a folder that holds something else, and do a finished one again.
        monitor: told every step.

    Raises:
        ParityError: the mix is of another model; names are attached.
        Any other of the package's errors.
    """
    for text in filter(None, (calib, evaluation)):
        read_text(text)
    given = None if options.imatrix_path is None else read_imatrix(options.imatrix_path)
    with Study(model, store, compute=options.compute, monitor=monitor) as study:
        carried = carried_to(study, mix, options.policy)
        inputs = {
            "mix": dict(mix.parent),
            "types": carried.recipe.tensors,
            "model": study.identity.model,
            "calib": text_hash(calib),
            "evaluation": "" if evaluation is None else text_hash(evaluation),
            "imatrix": "" if given is None else given.content_hash(),
            "n_ctx": options.n_ctx,
            "verify_chunks": options.verify_chunks,
            "build": study.build,
        }
        request = hashlib.sha256(
            json.dumps({"clone": _VERSION, **inputs}, sort_keys=True, default=dict).encode()
        ).hexdigest()
        if not force and folder.finished(request) is not None:
            return None
        folder.claim(request, force=force)
        run = Run(study, Options(n_ctx=options.n_ctx, compute=options.compute), monitor)
        parts = run.parts(calib, evaluation)
        if given is None:
            with run.step("imatrix", f"{parts.imatrix.n_chunks} chunks"):
                given = study.imatrix(parts.imatrix)
        plan = plan_build(
            study.file,
            carried.recipe,
            given,
            imatrix_name=IMATRIX_NAME,
            source_hash=study.identity.model,
        )
        path = folder.path / _file_name(study, mix)
        write_imatrix(folder.work / IMATRIX_NAME, given, force=True)
        write_recipe(folder.path / "recipe.yaml", _recipe(study, mix, plan, given), force=True)
        with run.step("build"):
            build_gguf(
                study.file,
                plan,
                path,
                force=True,
                n_threads=study.n_threads,
                monitor=monitor,
                cache=study.cache,
            )
        importances = importances_of(model_tensors(study.file), given)
        header = upstream_header_bytes(study.file, given, IMATRIX_NAME)
        presets = rivals(study.file, importances, header)
        near = near_rivals(presets, plan.file_bytes, 1)
        names = dict.fromkeys((*STANDARD, *(r.name for r in near)))
        mixes = {RESULT: plan.types} | {n: presets[n].types for n in names if n in presets}
        with run.step("verify", f"{len(mixes)} mixes on held-out text"):
            scores = held_out_scores(
                study, parts.held_out, mixes, importances, result=RESULT, n_chunks=options.verify_chunks
            )
        judged = judge(scores, RESULT, options.n_ctx)
    return CloneOutcome(
        request,
        inputs,
        study.identity.model,
        mix,
        carried,
        given,
        plan,
        path,
        presets,
        near[0].name if near else None,
        judged,
        tuple(run.steps),
        judged[RESULT].figures.ppl_ref or 0.0,
    )


def carried_to(study: Study, mix: MixFile, policy: Policy) -> Carried:
    """The mix' types for the study's model.

    Raises:
        ParityError: it is of another model; the error names both files.
    """
    tensors: dict[str, ModelTensor] = model_tensors(study.file)
    architectures = (mix.architecture, study.file.architecture or "")
    try:
        return carry_over(mix.recipe, tensors, shapes=mix.shapes, architectures=architectures, policy=policy)
    except ParityError as error:
        fields = {name: getattr(error, name) for name in error.fields} | {"path": str(study.file.path)}
        raise ParityError(f"{mix.name} on {study.file.path}: {error.message}", **fields) from None


def _file_name(study: Study, mix: MixFile) -> str:
    """``<model>-<mix>.gguf``: the mix' own name without its model's."""
    stem = study.file.paths[0].stem
    for suffix in _UNQUANTIZED_SUFFIXES:
        stem = stem.removesuffix(suffix)
    name = mix.name.removesuffix(".gguf").removesuffix(".yaml").removesuffix(".json")
    theirs = str(mix.recipe.model.get("name") or "")
    for known in (theirs, _source_stem(mix)):
        if known and name.startswith(f"{known}-"):
            name = name.removeprefix(f"{known}-")
    return f"{stem}-clone-{name}.gguf"


def _source_stem(mix: MixFile) -> str:
    stem = Path(mix.manifest.source.file).stem if mix.manifest else ""
    for suffix in _UNQUANTIZED_SUFFIXES:
        stem = stem.removesuffix(suffix)
    return stem


def _recipe(study: Study, mix: MixFile, plan: BuildPlan, imatrix: Imatrix) -> Recipe:
    return Recipe(
        tensors={t.name: t.qtype for t in plan.tensors if qtype(t.qtype).is_target},
        model={
            "name": study.file.get("general.name", ""),
            "architecture": study.file.architecture or "",
            "sha256": study.identity.model,
        },
        target={"size_bytes": plan.file_bytes, "bpw": round(plan.bpw, 4)},
        provenance={
            "cloned_from": dict(mix.parent),
            "imatrix_sha256": imatrix.content_hash(),
            "build": study.build,
        },
    )
