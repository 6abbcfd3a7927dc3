"""What a run of ``hybrids`` is asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mqnative.build.plan import types_hash
from mqnative.errors import BaselineError
from mqnative.hybrids.learned import LearnedConfig
from mqnative.hybrids.survivors import PREMIUM_SHARE, SPACING
from mqnative.jobs.request import text_hash
from mqnative.measure.study import Compute, Study
from mqnative.solve.constraints import NO_CONSTRAINTS, Constraints

# Raised when the same request would give another answer.
_VERSION = 2

# Presets that people publish; those that a model does not allow are left out.
PRESETS = (
    "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "IQ4_NL", "IQ4_XS", "Q3_K_L", "Q3_K_M", "Q3_K_S",
    "IQ3_M", "IQ3_S", "IQ3_XS", "IQ3_XXS", "Q2_K", "IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS",
)  # fmt: skip
PROVIDERS = ("LM", "MQ", "UD", "EXT")
PROBE_CHUNKS = 16
PRECISION = 0.1
SELECT_CHUNKS = 24
REFINE_ROUNDS = 1


@dataclass(frozen=True)
class External:
    """Another's file.

    Attributes:
        path: a GGUF, a recipe, a manifest or a clone config; of the hub's its name there.
        origin: as the user named it: a file, or a repository of the hub.
        learned: what the header of a file on the hub told.
    """

    path: Path
    origin: str = ""
    learned: LearnedConfig | None = None

    @property
    def said(self) -> str:
        """What messages call it."""
        return self.origin or str(self.path)

    @property
    def key(self) -> str:
        """What tells it from others."""
        return text_hash(self.path) if self.learned is None else types_hash(self.learned.types)


@dataclass(frozen=True)
class HybridOptions:
    """What a user may choose.

    Attributes:
        presets: llama.cpp's that are baselines.
        externals: others' files that are baselines.
        sizes: asked for, whole-file bytes.
        n_ctx: tokens per chunk.
        targets: types allowed; none for all.
        probe_chunks, precision: of probes and isolation.
        select_chunks: that baselines and candidates are judged on.
        verify_chunks: held-out chunks; None: as many as the intervals take.
        refine_rounds: at most so many times moves are measured on a candidate.
        premium, spacing: see `mqnative.hybrids.survivors.Rules`.
        collapse: at most so many files; None for any number.
        max_bytes: of a published file; None for any.
        providers: whose files are published; none for everyone's.
        constraints: demands on every published file.
        compute: device and threads.
    """

    presets: tuple[str, ...] = PRESETS
    externals: tuple[External, ...] = ()
    sizes: tuple[int, ...] = ()
    n_ctx: int = 512
    targets: tuple[str, ...] = ()
    probe_chunks: int = PROBE_CHUNKS
    precision: float = PRECISION
    select_chunks: int = SELECT_CHUNKS
    verify_chunks: int | None = None
    refine_rounds: int = REFINE_ROUNDS
    premium: float = PREMIUM_SHARE
    spacing: float = SPACING
    collapse: int | None = None
    max_bytes: int | None = None
    providers: tuple[str, ...] = ()
    constraints: Constraints = NO_CONSTRAINTS
    compute: Compute = field(default_factory=Compute)

    def check(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            BaselineError: a provider that does not exist, or one named twice.
        """
        for provider in self.providers:
            if provider not in PROVIDERS:
                raise BaselineError(
                    f"--providers {provider}: there is no such provider; use {', '.join(PROVIDERS)}",
                    provider=provider,
                )
            if self.providers.count(provider) > 1:
                raise BaselineError(
                    f"--providers names {provider} twice; name each provider once", provider=provider
                )

    def inputs(self, study: Study, calib: Path, evaluation: Path | None) -> dict[str, Any]:
        """Everything that decides the answer, as JSON values."""
        return {
            "model": study.identity.model,
            "calib": text_hash(calib),
            "evaluation": "" if evaluation is None else text_hash(evaluation),
            "presets": list(self.presets),
            "externals": [e.key for e in self.externals],
            "sizes": sorted(self.sizes),
            "n_ctx": self.n_ctx,
            "targets": list(self.targets),
            "probe_chunks": self.probe_chunks,
            "precision": self.precision,
            "select_chunks": self.select_chunks,
            "verify_chunks": self.verify_chunks,
            "refine_rounds": self.refine_rounds,
            "premium": self.premium,
            "spacing": self.spacing,
            "collapse": self.collapse,
            "max_bytes": self.max_bytes,
            "providers": list(self.providers),
            "constraints": list(self.constraints.texts),
            "build": study.build,
        }


def request_key(inputs: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of what was asked for."""
    return hashlib.sha256(json.dumps({"hybrids": _VERSION, **inputs}, sort_keys=True).encode()).hexdigest()
