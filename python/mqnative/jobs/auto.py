"""The main job: from a model and a text to the best mix of a size, built and proved.

Every number goes through the store, so that the same call continues a killed run and answers at once when it
is finished. The folder's manifest is written last.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from mqnative.build.plan import BuildPlan, plan_build
from mqnative.build.writer import build_gguf
from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.core.untied import loads_untied
from mqnative.errors import ConstraintError, InfeasibleBudgetError
from mqnative.formats.imatrix import Imatrix, write_imatrix
from mqnative.formats.recipe import Recipe, write_recipe
from mqnative.hybrids.mix_file import read_mix
from mqnative.jobs.candidates import default_targets
from mqnative.jobs.choose import (
    Chosen,
    Importance,
    Weighing,
    better,
    choose,
    choose_coupled,
    recipe_of,
    weighings,
)
from mqnative.jobs.curve import Curve, curve_of
from mqnative.jobs.damages import Measured, measured_fast, measured_of
from mqnative.jobs.fit import Case, Demand, Fit
from mqnative.jobs.incumbents import incumbents_of, planned, read_incumbents
from mqnative.jobs.known import Damages, damages_of
from mqnative.jobs.linking import damage_sum, link_mixes, predicted_kld
from mqnative.jobs.measure_plan import MeasurePlan, Pair, anchor_for, lossless_for, plan_of_file
from mqnative.jobs.memory_budget import MemoryBudget
from mqnative.jobs.memory_fit import file_estimate, within
from mqnative.jobs.net import Net, allowed, as_solution, uniform_mixes
from mqnative.jobs.presets import STANDARD, near_rivals, presets_of
from mqnative.jobs.refinement import MOST_MOVES, MOST_ROUNDS, MOVE_CHUNKS, Step, refine
from mqnative.jobs.request import OutputFolder, Request, settings_text, text_hash
from mqnative.jobs.untie import measured_share
from mqnative.jobs.verify import Judged, held_out_scores, judge, scores_of
from mqnative.jobs.warm import check_prior, prior_of, warm_start
from mqnative.measure.cache_types import cache_damages
from mqnative.measure.corpus import read_corpus, read_text
from mqnative.measure.parts import Parts, deal_parts
from mqnative.measure.probes import probe_until
from mqnative.measure.steady import Chunks
from mqnative.measure.stored_scores import mix_means
from mqnative.measure.stored_sweep import sweep
from mqnative.measure.study import Compute, Study
from mqnative.measure.sweep import TOLERANCE
from mqnative.predict.damage import Damage
from mqnative.predict.link import Link, fit_link
from mqnative.solve.constraints import NO_CONSTRAINTS, Constraints
from mqnative.solve.explain import Explanation
from mqnative.solve.limits import Cap, Pin
from mqnative.solve.solvers import Settings
from mqnative.store import Store

PROBE_CHUNKS = 16
PRECISION = 0.1
SELECT_CHUNKS = 8
# Presets that could be the best of their size are measured on the select text; so many of the largest.
_RIVALS_MEASURED = 4
_UNIFORMS_MEASURED = 2
# Bits per weight about where frontiers bend: which anchor serves a budget that is not known yet.
_KNEE_BPW = 4.0
IMATRIX_NAME = "imatrix.gguf"


@dataclass(frozen=True)
class Options:
    """What a user may choose; see `Request` for the meanings.

    Attributes:
        probe_chunks: at most so many for each tensor.
        precision: of a probe; see `mqnative.measure.probes.probe_until`.
        rivals: presets to verify besides the standard ones and the best of at most equal size.
        fast: no probes: weight errors and priors alone.
        refine_rounds: at most so many times moves are measured on the solved mix.
        incumbents: others' mixes (recipes, manifests, models) to measure as rivals.
        like: manifest of a sibling, whose damage table is a prior that a few probes check.
        constraints, method, settings: how the mix is chosen.
        importance: whether tensors are encoded and weighed with the imatrix, without it, or as is better.
        keep_tied: whether a head that is the embedding must stay so.
        memory: a machine that the result must fit.
    """

    size_bytes: int | None = None
    bpw: float | None = None
    n_ctx: int = 512
    targets: tuple[str, ...] = ()
    probe_chunks: int = PROBE_CHUNKS
    precision: float = PRECISION
    select_chunks: int = SELECT_CHUNKS
    verify_chunks: int | None = None
    rivals: tuple[str, ...] = ()
    fast: bool = False
    refine_rounds: int = MOST_ROUNDS
    compute: Compute = field(default_factory=Compute)
    incumbents: tuple[Path, ...] = ()
    like: Path | None = None
    constraints: Constraints = NO_CONSTRAINTS
    method: str = "exact"
    settings: Settings = field(default_factory=Settings)
    importance: Importance = "imatrix"
    keep_tied: bool = False
    memory: MemoryBudget | None = None

    @property
    def demand(self) -> Demand:
        """What is asked of the mix."""
        return Demand(self.size_bytes, self.bpw, self.constraints, self.method, self.settings, self.memory)

    @property
    def measured_types(self) -> tuple[str, ...]:
        """The types whose damage must be known: those allowed, and those pinned; none for all."""
        pinned = (limit.qtype for limit in self.constraints.limits if isinstance(limit, Pin))
        return tuple(dict.fromkeys((*self.targets, *pinned))) if self.targets else ()


RESULT = "result"


@dataclass(frozen=True)
class Timed:
    """How long a step took, and whether the store answered it."""

    name: str
    elapsed_s: float
    detail: str


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
        return predicted_kld(self.measured, self.fit.plan.types, self.link)


class Run:
    """One run of the pipeline over a study."""

    def __init__(self, study: Study, options: Options, monitor: Monitor = NULL_MONITOR) -> None:
        self.study = study
        self.options = options
        self.monitor = monitor
        self.steps: list[Timed] = []
        self.incumbents = incumbents_of(study.file, options.incumbents)
        self.prior = None if options.like is None else prior_of(read_mix(options.like))

    @contextmanager
    def step(self, name: str, detail: str = "") -> Iterator[None]:
        """Time a step."""
        started = time.monotonic()
        yield
        self.steps.append(Timed(name, time.monotonic() - started, detail))

    def parts(self, calib: Path, evaluation: Path | None) -> Parts:
        """The texts, cut and dealt."""
        with self.step("texts"):
            model, n_ctx = self.study.model, self.options.n_ctx
            held_out = None if evaluation is None else read_corpus(model, evaluation, n_ctx=n_ctx)
            return deal_parts(read_corpus(model, calib, n_ctx=n_ctx), held_out)

    def measure(
        self, parts: Parts, imatrix: Imatrix | None = None, *, weighing: Weighing = "imatrix"
    ) -> Measured:
        """imatrix, sweep, probes, damage table; without ``imatrix`` it is collected if it is wanted."""
        study, options = self.study, self.options
        if weighing == "none":
            imatrix = None
        elif imatrix is None:
            with self.step("imatrix", f"{parts.imatrix.n_chunks} chunks"):
                imatrix = study.imatrix(parts.imatrix)
        bpw = self.bpw()
        plan = plan_of_file(
            study.file, imatrix, options.measured_types, anchor_for(bpw), lossless=lossless_for(bpw), bpw=bpw
        )
        prior = self.prior
        if prior is not None:
            check_prior(prior, plan)
        with self.step("weight errors", f"{plan.n_pairs} tensor x type pairs"):
            # A cap holds for every weight, so that every row is looked at.
            has_caps = any(isinstance(limit, Cap) for limit in options.constraints.limits)
            sweeps = sweep(study, plan.wanted, plan.importances, tolerance=0.0 if has_caps else TOLERANCE)
        if options.fast:
            return measured_fast(study, plan, sweeps)
        if prior is not None:
            measured = warm_start(
                prior, plan, sweeps, lambda wanted: self._probe(parts, plan, wanted.items())
            )
        else:
            measured = measured_of(plan, sweeps, self._probe(parts, plan, plan.pairs))
        return measured if options.keep_tied else self._untied(parts, measured)

    def _untied(self, parts: Parts, measured: Measured) -> Measured:
        """The same with either use of a tied embedding, if llama.cpp reads a head of its own."""
        if not loads_untied(self.study.file):
            return measured
        text = parts.probe.head(self.options.probe_chunks)
        with self.step("untying", f"2 probes, {text.n_chunks} chunks"):
            share = measured_share(self.study, text, measured)
        return replace(measured, share=share)

    def _probe(self, parts: Parts, plan: MeasurePlan, pairs: Iterable[Pair]) -> dict[Pair, Chunks]:
        pairs = list(pairs)
        text = parts.probe.head(self.options.probe_chunks)
        with self.step("probes", f"{len(pairs)} pairs of tensor and type, up to {text.n_chunks} chunks"):
            probes = probe_until(self.study, text, pairs, plan.importances, precision=self.options.precision)
        return {pair: means.kld for pair, means in probes.items()}

    def measure_all(self, parts: Parts, imatrix: Imatrix | None = None) -> dict[Weighing, Measured]:
        """The measurements of every way to weigh that was asked for."""
        return {w: self.measure(parts, imatrix, weighing=w) for w in weighings(self.options.importance)}

    def bpw(self) -> float:
        """The budget in bits per weight, about; without one, where a knee usually lies."""
        budget = self.options.demand.budget_bytes(self.study.file)
        if budget is None and self.options.memory is not None:
            budget = file_estimate(self.study.file, self.options.memory, self.options.targets)
        return _KNEE_BPW if budget is None else 8.0 * budget / self.study.file.n_weights

    def demand(self, parts: Parts | None) -> Demand:
        """What is asked of the mix; of caches to choose among, what each costs.

        Raises:
            ConstraintError: caches can only be measured on a text.
        """
        demand, memory = self.options.demand, self.options.memory
        if memory is None or not memory.any_cache:
            return demand
        if parts is None:
            raise ConstraintError("--kv-type auto measures caches; give a text", constraint="--kv-type auto")
        text = parts.probe.head(self.options.probe_chunks)
        with self.step("caches", f"{len(memory.offered)} pairs of K and V x {text.n_chunks} chunks"):
            known = cache_damages(self.study, text, memory.offered)
        return replace(demand, memory=replace(memory, caches={p: d.mean for p, d in known.items()}))

    def case(self, damages: Damages) -> Case:
        """The model with its damages."""
        return Case(self.study.file, damages, IMATRIX_NAME, self.study.identity.model)

    def choose(
        self, parts: Parts | None, known: Mapping[Weighing, Damages], *, coupled: bool = False
    ) -> Chosen:
        """The mix: of two ways to weigh, the one that does better on the select text.

        Args:
            parts: the texts; None where there are none.
            known: damages by the ways to weigh that are asked for.
            coupled: whether tensors make each other's damage worse; else damages just add up.
        """
        solve = choose_coupled if coupled else choose
        found: dict[Weighing, Chosen] = {}
        demand = self.demand(parts)
        with self.step("solve"):
            for weighing, damages in known.items():
                first = next(iter(found.values()), None)
                size = None if first is None else first.fit.budget_bytes
                try:
                    found[weighing] = solve(self.case(damages), demand, weighing, size)
                except InfeasibleBudgetError:
                    if first is None:
                        raise
        if len(found) == 1 or parts is None:
            return next(iter(found.values()))
        text = parts.select.head(self.options.select_chunks)
        with self.step("importances", f"{len(found)} mixes x {text.n_chunks} chunks"):
            return better(self.study, text, found)

    def plan(self, measured: Measured, types: Mapping[str, str]) -> BuildPlan:
        """The file of a mix; tensors not named keep their type."""
        own = {name: t.qtype_name for name, t in measured.tensors.items()}
        return plan_build(
            self.study.file,
            Recipe(tensors=own | dict(types)),
            measured.imatrix,
            imatrix_name="" if measured.imatrix is None else IMATRIX_NAME,
            source_hash=self.study.identity.model,
        )

    def refine(self, parts: Parts, measured: Measured, found: Fit) -> tuple[Fit, tuple[Step, ...]]:
        """The exact solution improved by what moves near its price really do."""
        if not self.options.refine_rounds or self.options.fast or self.options.method != "exact":
            return found, ()
        with self.step("refine", f"up to {MOST_MOVES} moves a round"):
            return refine(
                self.study,
                found,
                found.limit_bytes,
                measured.importances,
                lambda types: self.plan(measured, types),
                probe=parts.probe.head(min(MOVE_CHUNKS, self.options.probe_chunks)),
                select=parts.select,
                most_rounds=self.options.refine_rounds,
            )

    def safety_net(self, parts: Parts, measured: Measured, theirs: Measured, found: Fit) -> tuple[Fit, Net]:
        """The solution, or a mix of others that is better at no more bytes, by KLD on the select text.

        Args:
            parts: the texts.
            measured: what the solution was chosen by.
            theirs: what others' mixes are encoded with.
            found: the solution.
        """
        presets = presets_of(self.study.file, theirs.imatrix, theirs.importances)
        near = near_rivals(presets, found.plan.file_bytes, _RIVALS_MEASURED)
        others = planned(self.study, self.incumbents, theirs.tensors, theirs.imatrix, IMATRIX_NAME)
        near += [other for other in others.values() if other.size_bytes <= found.plan.file_bytes]
        presets = presets | others
        mixes: dict[str, Mapping[str, str]] = {r.name: r.types for r in near}
        mixes |= uniform_mixes(found.problem, found.plan.file_bytes, _UNIFORMS_MEASURED)
        text = parts.select.head(self.options.select_chunks)
        with self.step("rivals", f"{len(mixes)} mixes x {text.n_chunks} chunks"):
            every = {RESULT: found.plan.types} | mixes
            apart = None if theirs is measured else {RESULT: measured.importances}
            scores = scores_of(self.study, "rivals", text, every, theirs.importances, apart)
        judged = judge(scores, RESULT, text.n_ctx)
        klds = {name: judged[name].figures.kld_mean or 0.0 for name in mixes}
        best = min((r.name for r in near), key=lambda name: klds[name], default=None)
        # Another method was asked for by name, and a constraint holds whatever is better without it.
        may_replace = self.options.method == "exact" and theirs is measured
        others_may = [name for name in mixes if may_replace and allowed(found, mixes[name])]
        better = [name for name in others_may if judged[name].verdict == "worse"]
        chosen = min(better, key=lambda name: klds[name], default=None)
        net = Net(presets, best, tuple(mixes), chosen)
        if chosen is None:
            return found, net
        plan = self.plan(measured, mixes[chosen])
        if plan.file_bytes > found.limit_bytes:
            return found, replace(net, chosen=None)
        return replace(found, solution=as_solution(found, plan.types, chosen), plan=plan), net

    def link(self, parts: Parts, measured: Measured, found: Fit) -> Link:
        """How the sum of damages becomes the KLD of a mix, from a few random mixes about as large."""
        text = parts.select.head(self.options.select_chunks)
        mixes = link_mixes(measured, found.plan.bpw)
        with self.step("link", f"{len(mixes)} mixes x {text.n_chunks} chunks"):
            means = mix_means(self.study, "link", text, mixes, measured.importances)
        totals = [damage_sum(measured, types) for types in mixes.values()]
        klds = [float(m.kld.mean()) - measured.floor for m in means.values()]
        known = [(t, k) for t, k in zip(totals, klds, strict=True) if t is not None]
        return fit_link([t for t, _ in known], [k for _, k in known])

    def verify(
        self, parts: Parts, measured: Measured, theirs: Measured, found: Fit, net: Net
    ) -> tuple[dict[str, Judged], float]:
        """Result and rivals on the held-out text, and the reference's perplexity there."""
        others = (i.name for i in self.incumbents)
        wanted = (*STANDARD, *self.options.rivals, *others, *([net.best] if net.best else []))
        names = [n for n in wanted if n in net.presets]
        mixes = {RESULT: found.plan.types} | {n: net.presets[n].types for n in dict.fromkeys(names)}
        apart = None if theirs is measured else {RESULT: measured.importances}
        with self.step("verify", f"{len(mixes)} mixes on held-out text"):
            scores = held_out_scores(
                self.study,
                parts.held_out,
                mixes,
                theirs.importances,
                result=RESULT,
                n_chunks=self.options.verify_chunks,
                apart=apart,
            )
        judged = judge(scores, RESULT, self.options.n_ctx)
        return judged, judged[RESULT].figures.ppl_ref or 0.0


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
        force: use a folder that holds another run.
        monitor: told every step.

    Raises:
        Any of the package's errors; what was measured until then is in the store.
    """
    for text in filter(None, (calib, evaluation)):
        read_text(text)
    with Study(model, store, compute=options.compute, monitor=monitor) as study:
        request = request_of(study, calib, evaluation, options)
        if folder.finished(request.key()) is not None:
            return None
        run = Run(study, options, monitor)
        run.bpw()  # refuses a machine that nothing fits before anything is measured
        folder.claim(request.key(), force=force)
        parts = run.parts(calib, evaluation)
        measures = run.measure_all(parts)
        known = {w: damages_of(m) for w, m in measures.items()}
        chosen = run.choose(parts, known, coupled=True)
        measured = measures[chosen.weighing]
        theirs = measures.get("imatrix", measured)
        found, steps = run.refine(parts, measured, chosen.fit)
        found, memory = within(chosen.memory, found, chosen.fit)
        link = run.link(parts, measured, found)
        solved = found
        found, net = run.safety_net(parts, measured, theirs, found)
        found, memory = within(memory, found, solved)
        if found is solved:
            net = replace(net, chosen=None)
        chosen = replace(chosen, fit=found, memory=memory)
        path = folder.path / model_file_name(study, found)
        if measured.imatrix is not None:
            write_imatrix(folder.work / IMATRIX_NAME, measured.imatrix, force=True)
        recipe = recipe_of(study, chosen, measured.imatrix)
        write_recipe(folder.path / "recipe.yaml", recipe, force=True)
        with run.step("build"):
            build_gguf(
                study.file,
                found.plan,
                path,
                force=True,
                n_threads=study.n_threads,
                monitor=monitor,
                cache=study.cache,
            )
        judged, ppl_ref = run.verify(parts, measured, theirs, found, net)
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
