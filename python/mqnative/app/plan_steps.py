"""What the planners of commands share: the model they are about, and its size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mqnative.jobs.planning import ModelFacts, Steps, text_stamps
from mqnative.jobs.work import Units
from mqnative.source.argument import GGUFPath, parse_source

Params = Mapping[str, Any]
# Mixes that are measured against each other: the result, what it is compared with, rivals of its size.
VERIFIED, RIVALS, LINK = 5, 7, 8


def steps_of(
    params: Params, units: Units, *, model: str = "model", texts: tuple[Path | None, ...] = ()
) -> Steps | None:
    """An empty collection for a command's model; None where that is no GGUF on this machine."""
    source = parse_source(params[model])
    if not isinstance(source, GGUFPath):
        return None
    decides = {"device": params.get("device", "cpu"), "texts": text_stamps(texts)}
    return Steps(ModelFacts.read(source.path), units, int(params.get("n_ctx", 512)), decides)


def target_bytes(steps: Steps, params: Params) -> int:
    """About the size of the model that is to be written."""
    if params.get("size_bytes"):
        return int(params["size_bytes"])
    return int(steps.model.n_weights * float(params.get("bpw") or 4.5) / 8)
