"""The steps of measuring and building one model, in units of work; see `mqnative.jobs.estimate`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mqnative.build.plan import model_tensors
from mqnative.formats.gguf import GGUFFile
from mqnative.jobs.estimate import Planned
from mqnative.jobs.inputs import input_facts
from mqnative.jobs.work import Units
from mqnative.measure.restart import first_layer

# Bytes of text to a token, about; the correction of the first job takes care of the rest.
_TOKEN_BYTES = 3.5
# Rows are sampled: so many weights of a tensor at a type, at the most.
_SAMPLED_WEIGHTS = 1 << 20
# A probe needs this share of the chunks it may use, with a precision to reach.
_CHUNKS_USED = 0.6
# A mix is encoded at types that take about as long as this one.
_TYPICAL = "Q4_K"


@dataclass(frozen=True)
class ModelFacts:
    """What costs depend on.

    Attributes:
        stamp: changes with the file.
        file_bytes: its size.
        n_weights: all of them.
        active: those that a token meets; of experts, the share that is used.
        quantizable: tensor -> weights.
        n_layer: layers.
    """

    stamp: str
    file_bytes: int
    n_weights: int
    active: int
    quantizable: Mapping[str, int]
    n_layer: int

    @classmethod
    def read(cls, path: Path) -> ModelFacts:
        """Of a GGUF: only the header is read.

        Raises:
            GGUFError: it is damaged.
        """
        facts = input_facts(path.absolute()) or {}
        with GGUFFile.open(path) as file:
            prefix = file.architecture or ""
            experts = int(file.get(f"{prefix}.expert_count", 0) or 0)
            used = int(file.get(f"{prefix}.expert_used_count", 0) or 0)
            share = used / experts if experts and used else 1.0
            in_experts = sum(t.n_weights for name, t in file.tensors.items() if "_exps" in name)
            quantizable = {n: t.info.n_weights for n, t in model_tensors(file).items() if t.quantizable}
            return cls(
                stamp=hashlib.sha256(str(facts.get("stamp")).encode()).hexdigest()[:16],
                file_bytes=file.file_bytes,
                n_weights=file.n_weights,
                active=int(file.n_weights - in_experts * (1.0 - share)),
                quantizable=quantizable,
                n_layer=int(file.get(f"{prefix}.block_count", 1) or 1),
            )


@dataclass
class Steps:
    """Collects the steps of one command on one model.

    Attributes:
        model: what it works on.
        units: what units of work take.
        n_ctx: tokens of a chunk.
        decides: what all its numbers depend on besides: device, texts.
    """

    model: ModelFacts
    units: Units
    n_ctx: int
    decides: Mapping[str, Any]

    def __post_init__(self) -> None:
        self.found: list[Planned] = []

    def chunks(self, texts: Iterable[Path], most: int | None = None) -> int:
        """Chunks in the texts, about; at most ``most`` of each."""
        sizes = [path.stat().st_size if path.is_file() else 0 for path in texts]
        counts = [int(size / _TOKEN_BYTES) // self.n_ctx for size in sizes]
        return max(1, sum(count if most is None else min(count, most) for count in counts))

    def add(
        self, name: str, amount: int, unit: str, raw_s: float, *, size_bytes: int = 0, kept: Any = None
    ) -> None:
        """A step; ``kept`` decides its results, where the store keeps them."""
        signature = ""
        if kept is not None:
            text = json.dumps([name, self.model.stamp, self.n_ctx, dict(self.decides), kept], default=str)
            signature = hashlib.sha256(text.encode()).hexdigest()
        if amount > 0:
            step = Planned(name, amount, unit, raw_s, size_bytes, signature, self.model.stamp)
            self.found.append(step)

    def load(self) -> None:
        """The model is loaded."""
        self.add("load", 1000, "per mille", self.model.file_bytes * self.units.byte_s)

    def imatrix(self, chunks: int) -> None:
        """Importances from a text."""
        self.add("imatrix", chunks, "chunks", self.passes(chunks), kept="imatrix")

    def sweep(self, types: Sequence[str], kept: Any) -> None:
        """Weight errors of every tensor at every type."""
        sampled = sum(min(n, _SAMPLED_WEIGHTS) for n in self.model.quantizable.values())
        seconds = sampled * sum(self.units.encode(t) for t in types)
        weights = sum(self.model.quantizable.values())
        self.add("weight errors", weights, "weights", seconds, kept=["sweep", list(types), kept])

    def probes(self, pairs: Sequence[tuple[str, str]], chunks: int, precision: float, kept: Any) -> None:
        """One tensor swapped at a time: passes from its layer on, and a whole one for each chunk.

        Args:
            pairs: tensors and types.
            chunks: of text, at most.
            precision: as of `mqnative.measure.probes`.
            kept: what decides the results besides.
        """
        used = chunks if precision <= 0 else max(1, round(chunks * _CHUNKS_USED))
        n = self.model.n_layer
        shares = [1.0 - first_layer([name], n) / (n + 1) for name, _ in pairs]
        seconds = self.passes(used) * (1.0 + sum(shares))
        seconds += sum(self.model.quantizable.get(name, 0) * self.units.encode(t) for name, t in pairs)
        decides = ["probe", sorted(pairs), chunks, precision, kept]
        self.add("probe", len(pairs) * used, "passes", seconds, kept=decides)

    def mixes(self, name: str, n_mixes: int, chunks: int, kept: Any, *, share: float = 1.0) -> None:
        """Whole mixes measured on text; ``share`` of a pass is behind their first changed layer."""
        seconds = self.passes(chunks) * (1.0 + n_mixes * share)
        seconds += n_mixes * share * self.encoding()
        self.add(name, n_mixes * chunks, "passes", seconds, kept=[name, kept])

    def caches(self, n_pairs: int, chunks: int) -> None:
        """KV caches of so many pairs of types measured against the plain one."""
        seconds = self.passes(chunks) * (1.0 + n_pairs)
        self.add("caches", n_pairs * chunks, "passes", seconds, kept=["caches", n_pairs])

    def evaluation(self, chunks: int, n_models: int = 1) -> None:
        """Models run over a text."""
        self.add("evaluate", chunks, "chunks", self.passes(chunks) * n_models)

    def build(self, size_bytes: int, name: str = "build") -> None:
        """A file is encoded and written."""
        seconds = self.encoding() + (self.model.file_bytes + size_bytes) * self.units.byte_s
        self.add(name, self.model.n_weights, "weights", seconds, size_bytes=size_bytes)

    def passes(self, chunks: float) -> float:
        """Seconds of whole passes over chunks."""
        return chunks * self.n_ctx * self.model.active * self.units.pass_s

    def encoding(self) -> float:
        """Seconds to encode every tensor once."""
        return self.model.n_weights * self.units.encode(_TYPICAL)


def text_stamps(texts: Iterable[Path | None]) -> list[str]:
    """What tells the texts from others."""
    found = (None if path is None else input_facts(path.absolute()) for path in texts)
    return ["" if facts is None else str(facts["stamp"]) for facts in found]
