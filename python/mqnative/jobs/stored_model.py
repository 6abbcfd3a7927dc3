"""What the store knows of a model already, without measuring anything: at once, also while a run goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mqnative.build.plan import model_tensors, plan_build
from mqnative.core.quantize import error_bin_edges
from mqnative.errors import ModelLoadError
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.imatrix import Imatrix
from mqnative.formats.recipe import Recipe
from mqnative.jobs.candidates import default_targets
from mqnative.jobs.damages import Measured, fast_of_file, measured_of
from mqnative.jobs.measure_plan import MeasurePlan, anchor_for, plan_of_file
from mqnative.jobs.run import IMATRIX_NAME
from mqnative.jobs.tensor_rows import tensor_row
from mqnative.measure.stored_scores import stored_probes
from mqnative.measure.stored_sweep import stored_sweeps
from mqnative.measure.study import imatrix_from
from mqnative.measure.weight_error import TensorSweep, unpack_histogram
from mqnative.report.summary import TensorRow
from mqnative.source.identity import Identity
from mqnative.store import Store

# From, to, count.
ErrorBin = tuple[float, float, int]
# Budgets that ask for the anchors in use; see `anchor_for`.
_LOW_BPW, _USUAL_BPW = 2.5, 4.5


@dataclass(frozen=True)
class Known:
    """A model, and what is known of it.

    Attributes:
        path: of the file.
        identity: what its measurements are kept under; None until a run has hashed it.
        tensors: in file order, at the types they are stored at, with what every other type would cost.
        quantizable: names of the tensors that may change.
        fixed_bytes: of the file besides tensor data: its header.
        imatrix: the newest one collected; None if there is none.
        n_swept, n_probed: tensors whose weight errors, or KLD, were measured.
        floor: KLD that every mix pays once.
    """

    path: Path
    identity: Identity | None
    tensors: tuple[TensorRow, ...]
    quantizable: frozenset[str]
    fixed_bytes: int
    imatrix: Imatrix | None = None
    n_swept: int = 0
    n_probed: int = 0
    floor: float = 0.0


def known_model(path: Path, store: Store) -> Known:
    """Everything that is known of a model.

    Raises:
        GGUFError: the file is damaged, or no model.
        StoreError: the store cannot be used.
    """
    with GGUFFile.open(path) as file:
        identity = _identity(store, path)
        tensors = {}
        with suppress(ModelLoadError):  # an architecture that llama.cpp does not know
            tensors = model_tensors(file)
        quantizable = frozenset(name for name, t in tensors.items() if t.quantizable)
        imatrix = None if identity is None or not tensors else _newest_imatrix(store, identity)
        if imatrix is None or identity is None:
            nothing = Measured({}, Imatrix({}), {}, {}, {}, {}, {})
            return Known(path, identity, _rows(file, nothing), quantizable, _header_bytes(file))
        measured = _measured(file, identity, imatrix, store)
        return Known(
            path,
            identity,
            _rows(file, measured),
            quantizable,
            _planned_header_bytes(file, measured, identity),
            imatrix,
            len(measured.sweeps),
            len({name for name, _ in measured.probes}),
            measured.floor,
        )


def newest_imatrix(path: Path, store: Store) -> Imatrix | None:
    """The importance matrix that was collected of a model last."""
    identity = _identity(store, path)
    return None if identity is None else _newest_imatrix(store, identity)


def error_histogram(path: Path, store: Store, tensor: str, qtype: str) -> list[ErrorBin]:
    """How the weight errors of a tensor at a type are spread; empty if that was not kept.

    Returns:
        (from, to, count) of |dW|, in units of the weights, of the bins that hold any.
    """
    return error_histograms(path, store, {tensor: qtype}).get(tensor, [])


def error_histograms(path: Path, store: Store, types: Mapping[str, str]) -> dict[str, list[ErrorBin]]:
    """The same of many tensors, at one type each; without those that nothing was kept of."""
    identity = _identity(store, path)
    if identity is None:
        return {}
    found = {}
    for tensor, qtype in types.items():
        if tensor not in identity.tensors:
            continue
        rows = store.all_of("errors", tensor=identity.tensors[tensor], qtype=qtype)
        kept = [row.data for row in rows if row.data is not None]
        if kept:
            counts = unpack_histogram(kept[-1])
            bins = counts.nonzero()[0]
            low, high = error_bin_edges(bins)
            edges = zip(low, high, counts[bins], strict=True)
            found[tensor] = [(float(a), float(b), int(n)) for a, b, n in edges]
    return found


def _identity(store: Store, path: Path) -> Identity | None:
    text = store.remembered_identity(path)
    if text is None:
        return None
    try:
        return Identity(**json.loads(text))
    except (ValueError, TypeError):  # an older form
        return None


def _newest_imatrix(store: Store, identity: Identity) -> Imatrix | None:
    rows = store.all_of("imatrix", model=identity.model)
    if not rows or rows[-1].data is None:
        return None
    return imatrix_from(store, rows[-1].data)


def _measured(file: GGUFFile, identity: Identity, imatrix: Imatrix, store: Store) -> Measured:
    plans = [
        plan_of_file(file, imatrix, default_targets(), anchor_for(bpw), lossless="tensors")
        for bpw in (_USUAL_BPW, _LOW_BPW)
    ]
    own = {name: t.qtype_name for name, t in plans[0].tensors.items()}
    probes = stored_probes(store, identity.model, own, plans[0].importances)
    # The anchor that more tensors were probed at.
    plan = max(plans, key=lambda p: sum(pair in probes for pair in p.anchors.items()))
    sweeps = stored_sweeps(store, identity.tensors, plan.wanted, plan.importances)
    plan = _cut(plan, sweeps)
    if any(pair in probes for pair in plan.anchors.items()):
        return measured_of(plan, sweeps, probes)
    return fast_of_file(file, plan, sweeps)


def _cut(plan: MeasurePlan, sweeps: dict[str, TensorSweep]) -> MeasurePlan:
    """The plan of what is known: tensors and types whose weight errors are."""
    kept = {name: tuple(t for t in types if t in sweeps[name].errors)
            for name, types in plan.candidates.items() if name in sweeps}  # fmt: skip
    anchors = {name: t for name, t in plan.anchors.items() if name in kept}
    lossless = tuple(pair for pair in plan.lossless if pair[0] in kept)
    return MeasurePlan(plan.tensors, plan.imatrix, plan.importances, kept, anchors, lossless, plan.wanted)


def _rows(file: GGUFFile, measured: Measured) -> tuple[TensorRow, ...]:
    return tuple(
        tensor_row(t.name, t.shape, t.qtype.name, t.qtype.name, t.size_bytes, measured)
        for t in file.tensors.values()
    )


def _planned_header_bytes(file: GGUFFile, measured: Measured, identity: Identity) -> int:
    """The header of a mix; of another one 32 bytes more or less, since it says how often types occur."""
    types = {name: t.qtype_name for name, t in measured.tensors.items()}
    types |= {name: next(iter(by_type)) for name, by_type in measured.table.items() if by_type}
    plan = plan_build(
        file,
        Recipe(tensors=types),
        measured.imatrix,
        imatrix_name=IMATRIX_NAME,
        source_hash=identity.model,
    )
    return len(plan.layout.header_bytes)


def _header_bytes(file: GGUFFile) -> int:
    """The file besides its tensors; of a split model about that of the joined one."""
    data = sum(-(-t.size_bytes // file.alignment) * file.alignment for t in file.tensors.values())
    return max(0, file.file_bytes - data)
