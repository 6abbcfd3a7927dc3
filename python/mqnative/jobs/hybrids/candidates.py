"""Candidates: the exact solution at every size of interest, over tensors and over groups, measured in memory.

Nothing is written. What a mix will lose is predicted first, from damages that the baselines put to scale. Of
the mixes that were solved for one size, and have it, only the best is a candidate: they are not rivals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mqnative.errors import InfeasibleBudgetError
from mqnative.hybrids.chords import Point
from mqnative.hybrids.contrast import Contest
from mqnative.hybrids.entries import Entry, anchors_of
from mqnative.hybrids.survivors import Rules, Table, choose_survivors
from mqnative.hybrids.targets import GroupProblem, Target, group_problem, premium_target, targets_of
from mqnative.jobs.hybrids.baselines import Baseline
from mqnative.jobs.hybrids.candidate import Candidate, best_of_sizes
from mqnative.jobs.hybrids.demands import excluded, facts_of, forbidden
from mqnative.jobs.hybrids.ground import Ground
from mqnative.jobs.hybrids.isolation import Isolation
from mqnative.jobs.hybrids.links import fit_links, group_sum, is_worse
from mqnative.jobs.hybrids.refine import refined
from mqnative.jobs.hybrids.solved import Level, Solved, solve_for
from mqnative.jobs.linking import predicted_kld
from mqnative.measure.stored_scores import mix_means
from mqnative.predict.link import Link
from mqnative.solve.problem import Problem
from mqnative.solve.restrict import restrict

F64Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Found:
    """What the search ends with.

    Attributes:
        candidates: by name.
        entries: baselines and measured candidates.
        table: what survives on the select text.
        sizes: of the baselines' files.
        link, group_link: from sums of damages to KLD, over tensors and over groups.
        skipped: sizes without candidate, and why.
    """

    candidates: Mapping[str, Candidate]
    entries: Mapping[str, Entry]
    table: Table
    sizes: Mapping[str, int]
    link: Link
    group_link: Link
    skipped: tuple[str, ...]


class Search:
    """One search over a ground."""

    def __init__(self, ground: Ground, isolation: Isolation) -> None:
        self.ground, self.isolation = ground, isolation
        self._text = ground.parts.select.head(ground.options.select_chunks)
        self._candidates: dict[str, Candidate] = {}
        self._skipped: list[str] = []
        self._sizes = {n: ground.plan(b.types).file_bytes for n, b in ground.baselines.items()}

    def run(self) -> Found:
        """Measure baselines, solve, measure candidates, refine those that would survive."""
        ground, run = self.ground, self.ground.run
        with run.step("baselines", f"{len(ground.baselines)} mixes x {self._text.n_chunks} chunks"):
            klds = self._measured("baselines", {n: b.types for n, b in ground.baselines.items()})
        baselines = [self._baseline(b, klds[n]) for n, b in ground.baselines.items()]
        anchors = anchors_of(baselines, Contest(klds))
        self._link, self._group_link = fit_links(self.ground, self.isolation, klds)
        with run.step("solve"):
            self._problems()
            targets = self._targets(anchors)
            for target in targets:
                self._solve(target)
        self._measure()
        table = self._judge(baselines)
        self._premiums(anchors, table)
        table = self._judge(baselines)
        self._refine(table)
        entries = self._entries(baselines)
        table = choose_survivors(entries, self._rules())
        return Found(
            dict(self._candidates),
            {e.name: e for e in entries},
            table,
            self._sizes,
            self._link,
            self._group_link,
            tuple(self._skipped),
        )

    def _measured(self, step: str, mixes: Mapping[str, Mapping[str, str]]) -> dict[str, F64Vector]:
        ground = self.ground
        means = mix_means(ground.study, step, self._text, mixes, ground.measured.importances)
        return {name: m.kld for name, m in means.items()}

    def _baseline(self, baseline: Baseline, klds: F64Vector) -> Entry:
        size = self._sizes[baseline.name]
        why = excluded(self.ground.options, baseline.provider, size) or forbidden(self.ground, baseline.types)
        own = self.ground.upstream_bytes(baseline.types)
        return Entry(baseline.name, size, klds, True, excluded=why, own_bytes=min(own, size))

    def _problems(self) -> None:
        ground = self.ground
        free = ground.problem()
        fixed = [n for n in ground.tensors if n not in ground.measured.table]
        self._problem = restrict(free, ground.options.constraints, facts_of(self.ground), fixed=fixed).problem
        left = {g: s for g, s in self.isolation.left.items() if s}
        covered = {n for g in left for n in self.isolation.tensors[g]}
        rest = sum(
            ground.tensor_bytes(n, ground.tensors[n].qtype_name)
            for n in ground.measured.table
            if n not in covered
        )
        self._groups: GroupProblem | None = group_problem(left, free.fixed_bytes + rest) if left else None

    def _targets(self, anchors: Sequence[Entry]) -> list[Target]:
        options, ground = self.ground.options, self.ground
        most = self._problem.largest_bytes
        if options.max_bytes is not None:
            most = min(most, options.max_bytes)
        points = [self._point(a) for a in anchors]
        return targets_of(
            points, options.sizes, spacing=options.spacing, least=self._smallest(ground), most=most
        )

    def _point(self, anchor: Entry) -> Point:
        """What a file may take that replaces a baseline: no more than llama-quantize's own."""
        return Point(anchor.name, anchor.own_bytes or anchor.size_bytes, anchor.point.kld)

    def _smallest(self, ground: Ground) -> int:
        smallest = {
            i.name: min(i.choices, key=lambda c: (c.size_bytes, c.damage)) for i in self._problem.items
        }
        types = {n: t for name, c in smallest.items() for n, t in c.types(name).items()}
        return ground.plan(types).file_bytes

    def _solve(self, target: Target) -> list[Candidate]:
        made = []
        problems: list[tuple[Level, Problem]] = [("tensor", self._problem)]
        if self._groups is not None:
            problems.append(("group", self._groups.problem))
        for level, problem in problems:
            try:
                solved = solve_for(self.ground, problem, target, level)
            except InfeasibleBudgetError:
                if level == "tensor" and target.why == "asked":
                    raise
                self._skipped.append(
                    f"{level} level, {target.size_bytes:,} bytes ({target.said}): no mix that small is left"
                )
                continue
            made.append(self._add(solved))
        return made

    def _add(self, solved: Solved) -> Candidate:
        name = f"{solved.level} {solved.target.size_bytes}"
        patterns: Mapping[str, str] = {}
        if solved.level == "group" and self._groups is not None:
            patterns = self._groups.chosen(solved.types)
            total = group_sum(self.ground, self.isolation, self.ground.whole(solved.types))
            predicted = None if total is None else self._group_link.apply(total)
        else:
            predicted = predicted_kld(self.ground.measured, self.ground.whole(solved.types), self._link)
        candidate = Candidate(name, solved, predicted, patterns=patterns)
        self._candidates[name] = candidate
        return candidate

    def _measure(self) -> None:
        """Measure what could be best at its size: all but those predicted to be worse beyond doubt."""
        wanted = {}
        for name, c in self._candidates.items():
            if c.klds is not None or c.said:
                continue
            other = self._candidates.get(f"tensor {c.solved.target.size_bytes}")
            if other is not None and other is not c and is_worse(c.predicted, other.predicted):
                self._candidates[name] = replace(
                    c, said=f"not measured: predicted to be worse than {other.name}"
                )
                continue
            wanted[name] = c.solved.types
        with self.ground.run.step("candidates", f"{len(wanted)} mixes x {self._text.n_chunks} chunks"):
            for name, klds in self._measured("candidates", wanted).items():
                self._candidates[name] = replace(self._candidates[name], klds=klds, said="measured")

    def _premiums(self, anchors: Sequence[Entry], table: Table) -> None:
        """A hair more bytes for baselines that nothing of their own size replaced."""
        options = self.ground.options
        most = min(self._problem.largest_bytes, options.max_bytes or self._problem.largest_bytes)
        beaten = {r.name for r in table.removed}
        for anchor in anchors:
            if anchor.name in beaten or anchor.excluded is not None:
                continue
            target = premium_target(anchor.point, options.premium, most)
            if target is not None:
                self._solve(target)
        self._measure()

    def _refine(self, table: Table) -> None:
        rounds = self.ground.options.refine_rounds
        names = [s.name for s in table.survivors if s.name in self._candidates]
        over_tensors = {n: self._over_tensors(self._candidates[n].solved) for n in names}
        names = [n for n in names if over_tensors[n] is not None]
        if not rounds or not names:
            return
        with self.ground.run.step("refine", f"{len(names)} candidates, up to {rounds} rounds"):
            for name in names:
                before = self._candidates[name]
                start = over_tensors[name]
                assert start is not None
                better, done = refined(self.ground, start, rounds)
                self._candidates[name] = replace(before, rounds=done)
                if better is start:
                    continue
                # It was better beyond doubt, and stands in for the mix that it came from.
                self._candidates[name] = replace(before, klds=None, rounds=done, said="refined")
                klds = self._measured("refine", {name: better.types})[name]
                predicted = predicted_kld(self.ground.measured, self.ground.whole(better.types), self._link)
                new = f"{name} refined"
                self._candidates[new] = Candidate(new, better, predicted, klds, said="measured")

    def _over_tensors(self, solved: Solved) -> Solved | None:
        """A mix in the terms of the problem over tensors; None if it has types that this leaves out."""
        if solved.level == "tensor":
            return solved
        damages = {i.name: {c.qtype: c.damage for c in i.choices} for i in self._problem.items}
        if any(solved.types[name] not in by_type for name, by_type in damages.items()):
            return None
        total = sum(by_type[solved.types[name]] for name, by_type in damages.items())
        return replace(solved, level="tensor", problem=self._problem, damage=total)

    def _entries(self, baselines: Sequence[Entry]) -> list[Entry]:
        found = list(baselines)
        seen: dict[tuple[tuple[str, str], ...], str] = {
            tuple(sorted(self.ground.whole(b.types).items())): n for n, b in self.ground.baselines.items()
        }
        best, beaten = best_of_sizes(self._candidates, self.ground.options.premium)
        for name, by in beaten.items():
            said = f"measured, not as good as {by} of its size"
            self._candidates[name] = replace(self._candidates[name], said=said)
        for name in best:
            c = self._candidates[name]
            key = tuple(sorted(self.ground.whole(c.solved.types).items()))
            if key in seen:
                self._candidates[name] = replace(c, said=f"the same types as {seen[key]}")
                continue
            seen[key] = name
            assert c.klds is not None
            size, target = c.solved.size_bytes, c.solved.target
            why = excluded(self.ground.options, "MQ", size)
            asked = target.size_bytes if target.why == "asked" else None
            found.append(Entry(name, size, c.klds, False, asked is not None, why, asked))
        return found

    def _judge(self, baselines: Sequence[Entry]) -> Table:
        return choose_survivors(self._entries(baselines), self._rules(most=None))

    def _rules(self, most: int | None = -1) -> Rules:
        options = self.ground.options
        return Rules(
            premium=options.premium,
            spacing=options.spacing,
            most=options.collapse if most == -1 else most,
            original_bytes=self.ground.study.file.file_bytes,
        )
