"""What a run of ``hybrids`` stands on: the model, its texts, what is known of its tensors, the baselines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mqnative.build.plan import BuildPlan, ModelTensor, model_tensors, plan_build, upstream_header_bytes
from mqnative.errors import InfeasibleBudgetError, TextError
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.gguf_rules import padded
from mqnative.formats.imatrix import Imatrix
from mqnative.formats.qtypes import qtype
from mqnative.formats.recipe import Recipe
from mqnative.hybrids.naming import Spec, v1_spec
from mqnative.hybrids.overlap import shared_share
from mqnative.jobs.candidates import candidate_types, default_targets
from mqnative.jobs.damages import Measured
from mqnative.jobs.hybrids.baselines import Baseline
from mqnative.jobs.hybrids.request import HybridOptions
from mqnative.jobs.run import IMATRIX_NAME, Run
from mqnative.measure.parts import Parts
from mqnative.measure.study import Study
from mqnative.predict.damage import Damage
from mqnative.solve.problem import Choice, Item, Problem, bytes_text

# A few stock phrases stand in every text; more than this share of its passages is the same text again.
_MOST_SHARED = 0.02
SPEC_KEY = "mqnative.recipe.v1"


@dataclass(frozen=True)
class Ground:
    """Everything that is known before the search.

    Attributes:
        study: the model and its store.
        run: measures and times steps.
        options: what was asked for.
        parts: the texts.
        measured: the tensors.
        baselines: to be judged against, by name.
    """

    study: Study
    run: Run
    options: HybridOptions
    parts: Parts
    measured: Measured
    baselines: Mapping[str, Baseline]

    @property
    def tensors(self) -> dict[str, ModelTensor]:
        """Of the model."""
        return self.measured.tensors

    @property
    def imatrix(self) -> Imatrix:
        """The importances that every mix is encoded with."""
        assert self.measured.imatrix is not None
        return self.measured.imatrix

    def whole(self, types: Mapping[str, str]) -> dict[str, str]:
        """A mix of every tensor; those not named keep their type."""
        return {name: types.get(name, t.qtype_name) for name, t in self.tensors.items()}

    def plan(self, types: Mapping[str, str]) -> BuildPlan:
        """The file of a mix, its v1 spec in the metadata."""
        every = self.whole(types)
        return plan_build(
            self.study.file,
            Recipe(tensors=every),
            self.imatrix,
            imatrix_name=IMATRIX_NAME,
            source_hash=self.study.identity.model,
            labels={SPEC_KEY: self.spec(every).text},
        )

    def spec(self, types: Mapping[str, str]) -> Spec:
        """What v1 names would say of a mix."""
        return v1_spec(types, self.tensors)

    def upstream_bytes(self, types: Mapping[str, str]) -> int:
        """The file that llama-quantize would write: ours has a few more lines of metadata."""
        file = self.study.file
        header = upstream_header_bytes(file, self.imatrix, IMATRIX_NAME)
        every = self.whole(types)
        return header + sum(
            padded(qtype(every[name]).tensor_bytes(t.shape), file.alignment)
            for name, t in file.tensors.items()
        )

    def header_bytes(self) -> int:
        """The length of the header of one of our files, of others it differs by a few bytes."""
        smallest = {name: _smallest(by_type) for name, by_type in self.measured.table.items()}
        return len(self.plan(smallest).layout.header_bytes)

    def problem(self) -> Problem:
        """The choice of a type for every tensor, its own at no damage among them."""
        return tensor_problem(self.study.file, self.measured.table, self.header_bytes())

    def tensor_bytes(self, name: str, target: str) -> int:
        """What a tensor takes in a file at a type."""
        shape = self.study.file.tensors[name].shape
        return padded(qtype(target).tensor_bytes(shape), self.study.file.alignment)


def tensor_problem(file: GGUFFile, table: Mapping[str, Mapping[str, Damage]], header_bytes: int) -> Problem:
    """The choice of a type for every tensor of a damage table."""
    items = []
    for name, by_type in table.items():
        info = file.tensors[name]
        choices = [Choice(info.qtype.name, padded(info.size_bytes, file.alignment), 0.0)]
        choices += [
            Choice(t, padded(qtype(t).tensor_bytes(info.shape), file.alignment), d.mean, d.variance)
            for t, d in by_type.items()
            if t != info.qtype.name
        ]
        items.append(Item(name, tuple(choices)))
    rest = sum(padded(t.size_bytes, file.alignment) for n, t in file.tensors.items() if n not in table)
    return Problem(tuple(items), header_bytes + rest)


def check_sizes(file: GGUFFile, options: HybridOptions) -> None:
    """Refuse sizes that no file of the model can have, before anything is measured.

    Raises:
        InfeasibleBudgetError: one lies outside; the range is attached.
    """
    tensors = model_tensors(file)
    given: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None] = dict.fromkeys(
        (n for n, t in tensors.items() if t.quantizable), np.ones(1, np.float32)
    )
    types = candidate_types(tensors, given, options.targets or default_targets())
    nothing = {name: dict.fromkeys(found, Damage(0.0, 0.0)) for name, found in types.items()}
    header = file.file_bytes - sum(padded(t.size_bytes, file.alignment) for t in file.tensors.values())
    problem = tensor_problem(file, nothing, header)
    least, most = problem.smallest_bytes, problem.largest_bytes
    wanted = [("--sizes", size) for size in options.sizes]
    wanted += [] if options.max_bytes is None else [("--max-bytes", options.max_bytes)]
    for option, size in wanted:
        if size < least or (size > most and option == "--sizes"):
            raise InfeasibleBudgetError(
                f"{option} {size}: no file of this model has that size; ask for {bytes_text(least)} to "
                f"{bytes_text(most)}",
                budget_bytes=size,
                smallest_bytes=least,
                largest_bytes=most,
            )
    for size in options.sizes:
        if options.max_bytes is not None and size > options.max_bytes:
            raise InfeasibleBudgetError(
                f"--sizes {size} is above --max-bytes {options.max_bytes}; drop one of them",
                budget_bytes=size,
                smallest_bytes=least,
                largest_bytes=options.max_bytes,
            )


def check_texts(parts: Parts) -> None:
    """Refuse texts whose passages would both choose and judge.

    Raises:
        TextError: the held-out text has passages of the calibration text.
    """
    choosing = np.concatenate([p.tokens for p in (parts.imatrix, parts.probe, parts.select)])
    share = shared_share(choosing, parts.held_out.tokens)
    if share > _MOST_SHARED:
        raise TextError(
            f"{100 * share:.0f} % of the held-out text {parts.held_out.source} stands in the text that "
            f"chooses, {parts.select.source}, too, so that the report would be about what was chosen by; "
            "give a held-out text of other documents",
            path=parts.held_out.source or None,
        )


def _smallest(by_type: Mapping[str, Damage]) -> str:
    return min(by_type, key=lambda t: (qtype(t).bpw, t))
