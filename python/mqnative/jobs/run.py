"""The steps of a run: what is measured, chosen, refined, judged and verified, each through the store."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from mqnative.build.feedback import FeedbackText
from mqnative.build.plan import BuildPlan, plan_build
from mqnative.build.writer import build_gguf
from mqnative.core.feedback import Factors
from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.core.untied import loads_untied
from mqnative.errors import ConstraintError, InfeasibleBudgetError
from mqnative.formats.imatrix import Imatrix
from mqnative.formats.recipe import Recipe
from mqnative.hybrids.mix_file import read_mix
from mqnative.jobs.choose import (
    Chosen,
    Weighing,
    better,
    choose,
    choose_coupled,
    weighings,
)
from mqnative.jobs.damages import Measured, measured_fast, measured_of
from mqnative.jobs.fit import Case, Demand, Fit
from mqnative.jobs.incumbents import incumbents_of, planned
from mqnative.jobs.known import Damages, damages_of
from mqnative.jobs.linking import link_mixes, link_through
from mqnative.jobs.measure_plan import MeasurePlan, Pair, anchor_for, lossless_for, plan_of_file
from mqnative.jobs.memory_fit import file_estimate
from mqnative.jobs.net import Net, allowed, as_solution, uniform_mixes
from mqnative.jobs.options import Options
from mqnative.jobs.presets import STANDARD, near_rivals, presets_of
from mqnative.jobs.refinement import MOST_MOVES, MOVE_CHUNKS, Step, refine
from mqnative.jobs.rounding import Rounded, build_rounded, feedback_text, gains_of, with_feedback
from mqnative.jobs.untie import measured_share
from mqnative.jobs.verify import MIN_CHUNKS, Judged, held_out_scores, judge, scores_of
from mqnative.jobs.warm import check_prior, prior_of, warm_start
from mqnative.measure.cache_types import cache_damages
from mqnative.measure.corpus import read_corpus
from mqnative.measure.parts import Parts, deal_parts
from mqnative.measure.probes import probe_until
from mqnative.measure.steady import Chunks
from mqnative.measure.stored_scores import mix_means
from mqnative.measure.stored_sweep import sweep
from mqnative.measure.study import Study
from mqnative.measure.sweep import TOLERANCE
from mqnative.predict.link import Link
from mqnative.solve.limits import Cap

# Presets that could be the best of their size are measured on the select text; so many of the largest.
_RIVALS_MEASURED = 4
_UNIFORMS_MEASURED = 2
# Bits per weight about where frontiers bend: which anchor serves a budget that is not known yet.
_KNEE_BPW = 4.0
IMATRIX_NAME = "imatrix.gguf"
RESULT = "result"


@dataclass(frozen=True)
class Timed:
    """How long a step took, and whether the store answered it."""

    name: str
    elapsed_s: float
    detail: str


class Run:
    """One run of the pipeline over a study."""

    def __init__(self, study: Study, options: Options, monitor: Monitor = NULL_MONITOR) -> None:
        self.study = study
        self.options = options
        self.monitor = monitor
        self.steps: list[Timed] = []
        self.incumbents = incumbents_of(study.file, options.incumbents)
        self.prior = None if options.like is None else prior_of(read_mix(options.like))
        self.feedback: FeedbackText | None = None
        self._factors: Mapping[str, Factors] = {}

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
            parts = deal_parts(read_corpus(model, calib, n_ctx=n_ctx), held_out)
            if self.options.gptq:
                self.feedback = feedback_text(calib, parts)
            return parts

    @property
    def labels(self) -> dict[str, str]:
        """What the file's header says besides."""
        return {} if self.feedback is None else self.feedback.labels

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

    def known(self, parts: Parts, measures: Mapping[Weighing, Measured]) -> dict[Weighing, Damages]:
        """What types are chosen by; with error feedback, what that leaves of it."""
        known = {weighing: damages_of(measured) for weighing, measured in measures.items()}
        if self.feedback is None:
            return known
        for weighing, damages in known.items():
            with self.step("feedback", f"{self.feedback.max_chunks} chunks"):
                gains = gains_of(self.study, parts, self.feedback, damages, self.monitor)
            self._factors = gains.factors
            known[weighing] = with_feedback(damages, gains)
        return known

    def case(self, damages: Damages) -> Case:
        """The model with its damages."""
        return Case(self.study.file, damages, IMATRIX_NAME, self.study.identity.model, labels=self.labels)

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
            labels=self.labels,
        )

    def refine(self, parts: Parts, measured: Measured, found: Fit) -> tuple[Fit, tuple[Step, ...]]:
        """The exact solution improved by what moves near its price really do."""
        if not self.options.refine_rounds or self.options.fast or self.options.method != "exact":
            return found, ()
        if self.feedback is not None:  # moves are measured under the usual rounding
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
        klds = {name: judged[name].figures.kld_mean or 0.0 for name in every}
        best = min((r.name for r in near), key=lambda name: klds[name], default=None)
        # Another method was asked for by name, and a constraint holds whatever is better without it.
        # Types that were chosen for error feedback are judged with it, when the file is built.
        may_replace = self.options.method == "exact" and theirs is measured and self.feedback is None
        others_may = [name for name in mixes if may_replace and allowed(found, mixes[name])]
        better = [name for name in others_may if judged[name].verdict == "worse"]
        chosen = min(better, key=lambda name: klds[name], default=None)
        net = Net(presets, best, every, klds, chosen)
        if chosen is None:
            return found, net
        plan = self.plan(measured, mixes[chosen])
        if plan.file_bytes > found.limit_bytes:
            return found, replace(net, chosen=None)
        return replace(found, solution=as_solution(found, plan.types, chosen), plan=plan), net

    def link(self, parts: Parts, measured: Measured, found: Fit, net: Net | None = None) -> Link:
        """How the sum of damages becomes the KLD of a mix, from a few random mixes about as large.

        With ``net`` from the rivals there, which are measured already.
        """
        if net is not None:
            return link_through(
                measured, net.tried.values(), [net.klds[name] - measured.floor for name in net.tried]
            )
        text = parts.select.head(self.options.select_chunks)
        mixes = link_mixes(measured, found.plan.bpw)
        with self.step("link", f"{len(mixes)} mixes x {text.n_chunks} chunks"):
            means = mix_means(self.study, "link", text, mixes, measured.importances)
        return link_through(
            measured, mixes.values(), [float(means[name].kld.mean()) - measured.floor for name in mixes]
        )

    def build(self, parts: Parts, measured: Measured, found: Fit, path: Path) -> tuple[Fit, Rounded | None]:
        """Write the file; with error feedback, if that was asked for and does better."""
        text = self.feedback
        if text is not None:
            with self.step("rounding", f"2 files x {self.options.select_chunks} chunks"):
                rounded = build_rounded(
                    self.study,
                    parts.select.head(self.options.select_chunks),
                    text,
                    found.plan,
                    measured.importances,
                    path,
                    factors=self._factors,
                    monitor=self.monitor,
                )
            if rounded.kept:
                return found, rounded
            self.feedback = None
            found = replace(found, plan=self.plan(measured, found.plan.types))
        with self.step("build"):
            build_gguf(
                self.study.file,
                found.plan,
                path,
                force=True,
                n_threads=self.study.n_threads,
                monitor=self.monitor,
                cache=self.study.cache,
            )
        return found, None if text is None else rounded

    def verify(
        self,
        parts: Parts,
        measured: Measured,
        theirs: Measured,
        found: Fit,
        net: Net,
        built: Path | None = None,
    ) -> tuple[dict[str, Judged], float]:
        """Result and rivals on the held-out text, and the reference's perplexity there.

        With ``built`` the result is that file, whose blocks are not those of its mix.
        """
        others = (i.name for i in self.incumbents)
        wanted = (*STANDARD, *self.options.rivals, *others, *([net.best] if net.best else []))
        names = [n for n in wanted if n in net.presets]
        mixes = {RESULT: found.plan.types} | {n: net.presets[n].types for n in dict.fromkeys(names)}
        apart = None if theirs is measured else {RESULT: measured.importances}
        n_chunks = self.options.verify_chunks
        if n_chunks is None and self.options.fast:
            n_chunks = min(MIN_CHUNKS, parts.held_out.n_chunks)
        with self.step("verify", f"{len(mixes)} mixes on held-out text"):
            scores = held_out_scores(
                self.study,
                parts.held_out,
                mixes,
                theirs.importances,
                result=RESULT,
                n_chunks=n_chunks,
                apart=apart,
                files={} if built is None else {RESULT: built},
            )
        judged = judge(scores, RESULT, self.options.n_ctx)
        return judged, judged[RESULT].figures.ppl_ref or 0.0
