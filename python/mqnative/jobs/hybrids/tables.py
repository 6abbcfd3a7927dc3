"""The release's tables: what others need to check, clone or judge it, each a JSON file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mqnative.core.native import core
from mqnative.hybrids.isolation import Sample
from mqnative.jobs.hybrids.ground import Ground
from mqnative.jobs.hybrids.outcome import Outcome
from mqnative.report.hybrid_summary import HybridReport

if TYPE_CHECKING:
    from mqnative.jobs.hybrids.release import Published

_GB, _GIB = 1e9, 2**30


def tables_of(
    ground: Ground, outcome: Outcome, published: Sequence[Published], report: HybridReport
) -> dict[str, Any]:
    """File name without ending -> JSON value."""
    names = {p.entry: p.name for p in published}
    return {
        "clone-configs": {"schema": 1, "artifacts": [_artifact(outcome, p) for p in published]},
        "hybrid-map": {p.name: _patterns(outcome, p, report) for p in published if p.level != "baseline"},
        "survivors": [{**p.survivor.to_json(), "name": p.name, "file": p.file} for p in published],
        "replacements": [
            {**r.to_json(), "by": names.get(r.by or "", r.by)}
            for r in outcome.removals
            if r.name in ground.baselines or r in outcome.duplicates
        ],
        "candidates": [
            r.to_json() for r in outcome.found.table.removed if r.name in outcome.found.candidates
        ],
        "bad-trades": [c.to_json() for c in outcome.isolation.choices if c.ban is not None],
        "isolation-samples": [_sample(s) for samples in outcome.isolation.samples.values() for s in samples],
        "evaluation": _evaluation(ground, outcome, names),
    }


def _artifact(outcome: Outcome, p: Published) -> dict[str, Any]:
    figures, size = outcome.proof.figures[p.entry], p.plan.file_bytes
    return {
        "fileName": p.file,
        "displayName": p.file.removesuffix(".gguf"),
        "shortName": p.name,
        "provider": p.provider,
        "quantFamily": p.family,
        "isHybrid": p.level != "baseline",
        "usedImatrix": True,
        "sourceKld": figures.kld_mean,
        "sourcePpl": figures.ppl,
        "sourcePplDeltaPercent": 100.0 * ((figures.ppl_ratio or 1.0) - 1.0),
        "sizeBytes": size,
        "sizeGb": size / _GB,
        "sizeGib": size / _GIB,
        "tensorTypes": p.plan.types,
    }


def _patterns(outcome: Outcome, p: Published, report: HybridReport) -> dict[str, Any]:
    row = next(f for f in report.files if f.file == p.file)
    candidate = outcome.found.candidates[p.entry]
    return {
        "level": p.level,
        "v1_spec": p.spec.text,
        "v1_spec_is_exact": p.spec.is_exact,
        "patterns": dict(candidate.patterns) or None,
        "groups": dict(row.groups),
    }


def _sample(s: Sample) -> dict[str, Any]:
    return {
        "group": s.pattern.group,
        "name": s.name,
        "sources": list(s.pattern.sources),
        "size_bytes": s.pattern.size_bytes,
        "n_chunks": len(s.klds),
        "kld_mean": s.damage.value,
        "kld_se": s.damage.se,
        "kld_ci95": list(s.damage.ci95),
    }


def _evaluation(ground: Ground, outcome: Outcome, names: dict[str, str]) -> dict[str, Any]:
    parts, proof, build = ground.parts, outcome.proof, core().build_info()
    return {
        "model_sha256": ground.study.identity.model,
        "imatrix_sha256": ground.imatrix.content_hash(),
        "text_sha256": {
            "imatrix": parts.imatrix.content_hash(),
            "probe": parts.probe.content_hash(),
            "select": parts.select.content_hash(),
            "held_out": proof.text_sha256,
        },
        "n_ctx": ground.options.n_ctx,
        "n_held_out_chunks": proof.n_chunks,
        "build": build,
        "figures": {
            names.get(entry, entry): {**e.to_dict(), "size_bytes": outcome.found.entries[entry].size_bytes}
            for entry, e in proof.figures.items()
        },
        "claims": {
            kind: {
                names.get(entry, entry): {
                    "kld_difference": c.difference.value,
                    "ci95": list(c.difference.ci95),
                    "reference_kld": c.reference,
                }
                for entry, c in claims.items()
            }
            for kind, claims in (
                ("below_chord", proof.below_chord),
                ("below_chord_in_table", proof.in_table),
                ("removed_baseline_minus_heir", proof.replaced),
            )
        },
    }
