"""What users demand of published files, in the terms of the solver."""

from __future__ import annotations

from collections.abc import Mapping

from mqnative.build.fallback import legal_type
from mqnative.errors import UnsupportedTypeError
from mqnative.formats.qtypes import all_types
from mqnative.hybrids.verdicts import Removed
from mqnative.jobs.hybrids.ground import Ground
from mqnative.jobs.hybrids.request import HybridOptions
from mqnative.solve.limits import TensorFacts


def excluded(options: HybridOptions, provider: str, size_bytes: int) -> tuple[Removed, str] | None:
    """Why a file may not be published for its maker or its size; None if it may."""
    if options.providers and provider not in options.providers:
        return "PROVIDER", f"--providers leaves out {provider}"
    if options.max_bytes is not None and size_bytes > options.max_bytes:
        return "TOO_LARGE", f"{size_bytes:,} bytes are more than --max-bytes {options.max_bytes:,}"
    return None


def forbidden(ground: Ground, types: Mapping[str, str]) -> tuple[Removed, str] | None:
    """Why a mix may not be published for its types; None if it may."""
    limits = ground.options.constraints.limits
    facts = facts_of(ground) if limits else {}
    for limit in limits:
        for name, t in types.items():
            if name in facts and limit.matches(name) and not limit.allows(t, facts[name]):
                return "CONSTRAINT", f"it has {name} at {t}, which {limit.text} forbids"
    return None


def facts_of(ground: Ground) -> dict[str, TensorFacts]:
    """What constraints need to know of the tensors that may change."""
    targets = [t.name for t in all_types().values() if t.is_target]
    facts = {}
    for name in ground.measured.table:
        tensor = ground.tensors[name]
        legal = {}
        for t in targets:
            try:
                legal[t] = legal_type(t, tensor.info.shape[0])
            except UnsupportedTypeError:
                continue
        facts[name] = TensorFacts(source=tensor.qtype_name, legal=legal)
    return facts
