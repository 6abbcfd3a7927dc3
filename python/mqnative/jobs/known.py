"""What solvers need to know of a model's tensors, whether it was just measured or comes from a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from mqnative.build.fallback import legal_type
from mqnative.build.plan import ModelTensor
from mqnative.errors import UnsupportedTypeError
from mqnative.formats.imatrix import Imatrix
from mqnative.formats.qtypes import all_types
from mqnative.formats.tied import EMBEDDING, HEAD
from mqnative.jobs.candidates import Importances
from mqnative.jobs.damages import Measured
from mqnative.predict.damage import Damage
from mqnative.predict.tied import Share, damages_of_uses
from mqnative.solve.limits import TensorFacts

Table = Mapping[str, Mapping[str, Damage]]


@dataclass(frozen=True)
class WeightErrors:
    """What a tensor's weights lose, by type, in units of the weights; see `mqnative.measure.sweep`.

    Attributes:
        rmse, max_error: by type.
        rms: root mean square of the weights themselves.
    """

    rmse: Mapping[str, float] = field(default_factory=dict)
    max_error: Mapping[str, float] = field(default_factory=dict)
    rms: float | None = None


@dataclass(frozen=True)
class Damages:
    """The damage table of one model with one imatrix, or without.

    Attributes:
        tensors: of the source.
        imatrix: tensors are encoded with; None for none.
        importances: by tensor, as the imatrix gives them.
        table: predicted damage, tensor -> type, without the stored type.
        anchors: tensor -> type that it was probed at.
        at_anchor: damage there.
        errors: by tensor.
        share: the input's, of what a tied embedding loses; None if it is not to be untied.
    """

    tensors: Mapping[str, ModelTensor]
    imatrix: Imatrix | None
    importances: Importances
    table: Table
    anchors: Mapping[str, str]
    at_anchor: Mapping[str, Damage]
    errors: Mapping[str, WeightErrors]
    share: Share | None = None

    @property
    def uses(self) -> Table:
        """Damage of either use of a tied embedding by type; empty if it is not to be untied."""
        return {} if self.share is None else damages_of_uses(self.table[EMBEDDING], self.share)

    @property
    def fixed(self) -> tuple[str, ...]:
        """The tensors whose type never changes."""
        return tuple(name for name in self.tensors if name not in self.table)

    def importance(self) -> dict[str, float]:
        """Percentile of each tensor's damage per weight at its anchor's type, 0 to 1.

        That is what the importance of weights stands for, measured.
        """
        score = {name: self.at_anchor[name].mean / self.tensors[name].info.n_weights for name in self.table}
        values = sorted(score.values())
        last = max(len(values) - 1, 1)
        return {name: sum(v < own for v in values) / last for name, own in score.items()}

    def facts(self) -> dict[str, TensorFacts]:
        """What constraints need to know."""
        importance = self.importance()
        found = {}
        for name in self.table:
            tensor, errors = self.tensors[name], self.errors.get(name, WeightErrors())
            found[name] = TensorFacts(
                tensor.qtype_name,
                _legal(tensor.info.shape[0]),
                errors.rmse,
                errors.max_error,
                errors.rms,
                importance[name],
            )
        if self.share is not None:
            found[HEAD] = found[EMBEDDING]
        return found


def damages_of(measured: Measured) -> Damages:
    """The table that was just measured."""
    errors = {}
    for name, sweep in measured.sweeps.items():
        some = next((e for e in sweep.errors.values() if e.unweighted > 0), None)
        errors[name] = WeightErrors(
            {t: e.rmse for t, e in sweep.errors.items()},
            {t: e.max_abs for t, e in sweep.errors.items()},
            None if some is None else some.rmse / math.sqrt(some.unweighted),
        )
    return Damages(
        measured.tensors,
        measured.imatrix,
        measured.importances,
        measured.table,
        measured.anchors,
        measured.at_anchor,
        errors,
        measured.share,
    )


def _legal(n_per_row: int) -> dict[str, str]:
    """What rows of this length take in place of each type that they do not fill."""
    found = {}
    for qtype in all_types().values():
        if not qtype.is_target or n_per_row % qtype.block == 0:
            continue
        try:
            found[qtype.name] = legal_type(qtype.name, n_per_row)
        except UnsupportedTypeError:
            continue
    return found
