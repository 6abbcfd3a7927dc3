"""What a run would do, step by step in countable units, before anything is measured."""

from __future__ import annotations

from dataclasses import dataclass

from mqnative.build.plan import model_tensors
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.groups import by_group, label_tensors
from mqnative.jobs.candidates import default_targets
from mqnative.jobs.hybrids.isolation import MOST_SHARE
from mqnative.jobs.hybrids.refine import MOST_MOVES, MOVE_CHUNKS
from mqnative.jobs.hybrids.request import HybridOptions
from mqnative.report.sentences import count

# On models of several kinds: anchors and two types that all but keep the weights, for every tensor.
_PROBES_PER_TENSOR = 3
_MEAN_SHARE = 0.55
_IMATRIX_CHUNKS_PER_CHOOSING = 3
# Half of the baselines stand up to the others, each has a size of its own and one to the next.
_TARGETS_PER_BASELINE = 1.0
_SURVIVORS = 10
_HELD_OUT_CHUNKS = 40


@dataclass(frozen=True)
class PlannedStep:
    """One step.

    Attributes:
        name: as progress calls it.
        n_units: how many, at most or about.
        unit: what is counted: chunks, pairs, whole passes, bytes.
        says: what it does.
    """

    name: str
    n_units: float
    unit: str
    says: str


def plan_steps(file: GGUFFile, options: HybridOptions) -> list[PlannedStep]:
    """The steps of a run with their units; whole forward passes are what costs.

    Args:
        file: the model.
        options: of the run.
    """
    tensors = [n for n, t in model_tensors(file).items() if t.quantizable]
    targets = options.targets or default_targets()
    groups = [g for g in by_group(label_tensors(tensors)) if g != "never"]
    n_baselines = len(options.presets) + len(options.externals)
    patterns = len(groups) * (len(targets) + n_baselines)
    probes = len(tensors) * _PROBES_PER_TENSOR
    sizes = round(n_baselines * _TARGETS_PER_BASELINE) + len(options.sizes)
    moves = _SURVIVORS * options.refine_rounds * MOST_MOVES * min(MOVE_CHUNKS, options.probe_chunks)
    held_out = options.verify_chunks or _HELD_OUT_CHUNKS
    passes, rounds = "whole passes", count(options.refine_rounds, "round")
    return [
        PlannedStep(
            "imatrix",
            _IMATRIX_CHUNKS_PER_CHOOSING * options.select_chunks,
            "chunks",
            "importances of the calibration text",
        ),
        PlannedStep("weight errors", len(tensors) * len(targets), "pairs", "every tensor at every type"),
        PlannedStep(
            "probe",
            probes * options.probe_chunks * _MEAN_SHARE,
            passes,
            f"{probes} pairs of tensor and type",
        ),
        PlannedStep(
            "isolation",
            MOST_SHARE * patterns * options.probe_chunks,
            passes,
            f"{patterns} samples of {len(groups)} groups, at most a quarter of whole evaluations",
        ),
        PlannedStep("baselines", n_baselines * options.select_chunks, passes, f"{n_baselines} mixes"),
        PlannedStep("candidates", 2 * sizes * options.select_chunks, passes, f"{sizes} sizes"),
        PlannedStep("refine", moves * _MEAN_SHARE, passes, f"{rounds} of moves"),
        PlannedStep("verify", (n_baselines + _SURVIVORS) * held_out, passes, "held-out text"),
        PlannedStep("build", 0.5 * _SURVIVORS * file.file_bytes, "bytes", f"about {_SURVIVORS} files"),
    ]
