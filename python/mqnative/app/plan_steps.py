"""What the planners of commands share: the model they are about, and its size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mqnative.app.memory_options import budget_of, chunk_tokens
from mqnative.formats.gguf import GGUFFile
from mqnative.jobs.memory_fit import file_estimate
from mqnative.jobs.planning import ModelFacts, Steps, text_stamps
from mqnative.jobs.work import Units
from mqnative.source.argument import GGUFPath, parse_source

Params = Mapping[str, Any]
# Mixes that are measured against each other: the result, what it is compared with, rivals of its size.
VERIFIED, RIVALS, LINK = 5, 7, 8
# Where knees usually lie.
_TYPICAL_BPW = 4.5


def steps_of(
    params: Params, units: Units, *, model: str = "model", texts: tuple[Path | None, ...] = ()
) -> Steps | None:
    """An empty collection for a command's model; None where that is no GGUF on this machine."""
    source = parse_source(params[model])
    if not isinstance(source, GGUFPath):
        return None
    decides = {"device": params.get("device", "cpu"), "texts": text_stamps(texts)}
    return Steps(ModelFacts.read(source.path), units, chunk_tokens(params), decides)


def target_bytes(steps: Steps, params: Params) -> int:
    """About the size of the model that is to be written.

    Raises:
        InfeasibleBudgetError: nothing fits the machine that was asked for.
        GGUFError, ModelLoadError, BackendError: it cannot be told what the model takes there.
    """
    if params.get("size_bytes"):
        return int(params["size_bytes"])
    memory = budget_of(params) if params.get("bpw") is None else None
    if memory is not None and memory.has_limit:
        with GGUFFile.open(params["model"]) as file:
            return file_estimate(file, memory, tuple(params.get("types") or params.get("targets") or ()))
    return int(steps.model.n_weights * float(params.get("bpw") or _TYPICAL_BPW) / 8)
