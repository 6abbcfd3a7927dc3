"""The report as JSON values with stable keys that carry units, and back.

The result's figures are keys of the object itself; what it was compared with is ``baselines[]``. Numbers that
JSON cannot hold (infinities, not a number) are null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from mqnative.errors import FormatError
from mqnative.report.choices_json import choice_values, frontier_values, read_choice, read_frontier
from mqnative.report.jsonobject import JSONObject
from mqnative.report.memory_json import memory_values, read_memory
from mqnative.report.summary import (
    CurvePoint,
    Figures,
    Interval,
    LinkRow,
    MixRow,
    Report,
    StepTime,
    TensorRow,
    TextRow,
    Verdict,
)

VERSION = "report/1"
_BASELINE_KINDS = Literal["preset", "uniform"]
_FIGURES = (
    "kld_mean", "kld_se", "kld_median", "kld_p99", "ppl", "ppl_se", "ppl_ratio", "ppl_cor_ln",
    "top1_agreement", "top1_agreement_se",
)  # fmt: skip
_TEXT = ("kld_mean", "ppl", "top1_agreement")
_LINK = ("scale", "coupling", "spread", "floor", "of_input")


def to_json(report: Report) -> dict[str, Any]:
    """The report as a JSON object."""
    return {
        "mqnative": VERSION,
        "title": report.title,
        "model": dict(report.model),
        "target": report.target,
        "ppl_ref": _number(report.ppl_ref),
        **_mix_values(report.result),
        "gap": _number(report.gap),
        "baselines": [{**_mix_values(m), "kind": m.kind} for m in report.baselines],
        "tensors": [_tensor_values(t) for t in report.tensors],
        "steps": [
            {"name": s.name, "elapsed_s": _number(s.elapsed_s), "detail": s.detail, "reused": s.reused}
            for s in report.steps
        ],
        "notes": list(report.notes),
        "provenance": dict(report.provenance),
        "rebuild_command": report.rebuild_command,
        "choice": None if report.choice is None else choice_values(report.choice),
        "frontier": None if report.frontier is None else frontier_values(report.frontier),
        "link": None if report.link is None else {key: _number(getattr(report.link, key)) for key in _LINK},
        "texts": [_text_values(row) for row in report.texts],
        "memory": None if report.memory is None else memory_values(report.memory),
    }


def from_json(value: Mapping[str, Any]) -> Report:
    """The report that `to_json` wrote; unknown keys are ignored.

    Raises:
        FormatError: a key is missing or holds something else; the error names it.
    """
    source = JSONObject(value)
    if source.text("mqnative") != VERSION:
        raise FormatError(
            f"expected a report of version {VERSION}, got {value['mqnative']!r}", key="mqnative"
        )
    choice, frontier, memory = (source.part(key) for key in ("choice", "frontier", "memory"))
    return Report(
        title=source.text("title"),
        model=source.texts("model"),
        target=source.text("target"),
        ppl_ref=source.number("ppl_ref"),
        mixes=(
            _mix(source, "result"),
            *(_mix(b, b.choice("kind", _BASELINE_KINDS)) for b in source.objects("baselines")),
        ),
        tensors=tuple(_tensor(t) for t in source.objects("tensors")),
        steps=tuple(
            StepTime(s.text("name"), s.number("elapsed_s"), s.text("detail"), s.flag("reused"))
            for s in source.objects("steps")
        ),
        notes=tuple(source.of(f"notes[{i}]", n, str) for i, n in enumerate(source.array("notes"))),
        provenance=source.texts("provenance"),
        rebuild_command=source.text("rebuild_command"),
        gap=source.optional("gap"),
        choice=None if choice is None else read_choice(choice),
        frontier=None if frontier is None else read_frontier(frontier),
        link=_link(source),
        texts=() if source.get("texts") is None else tuple(map(_text, source.objects("texts"))),
        memory=None if memory is None else read_memory(memory),
    )


def _text_values(row: TextRow) -> dict[str, Any]:
    values = {
        "text": row.text,
        "name": row.mix,
        "n_tokens": row.n_tokens,
        "kld_ci95": _interval(row.kld_ci95),
    }
    return values | {key: _number(getattr(row, key)) for key in _TEXT}


def _text(source: JSONObject) -> TextRow:
    return TextRow(
        source.text("text"),
        source.text("name"),
        source.integer("n_tokens"),
        kld_ci95=source.interval("kld_ci95") or (math.nan, math.nan),
        **{key: source.number(key) for key in _TEXT},
    )


def _link(source: JSONObject) -> LinkRow | None:
    value = source.get("link")
    if value is None:
        return None
    found = JSONObject(value, "link")
    if found.optional("scale") is None:  # of an older form, which says nothing of this one
        return None
    return LinkRow(**{key: found.number(key) for key in _LINK})


def _mix_values(mix: MixRow) -> dict[str, Any]:
    f = mix.figures
    value, *interval = mix.kld_difference or (None,)
    return {
        "name": mix.name,
        "size_bytes": mix.size_bytes,
        "bpw": _number(mix.bpw),
        "n_tokens": f.n_tokens,
        "n_chunks": f.n_chunks,
        "kld_ci95": _interval(f.kld_ci95),
        **{key: _number(getattr(f, key)) for key in _FIGURES},
        "verdict": mix.verdict,
        "kld_difference": _number(value),
        "kld_difference_ci95": [_number(v) for v in interval] or None,
        "predicted_kld": _number(mix.predicted_kld),
        "predicted_kld_ci95": None if mix.predicted_ci95 is None else _interval(mix.predicted_ci95),
        "why": mix.why,
    }


def _mix(source: JSONObject, kind: str) -> MixRow:
    figures = Figures(
        n_tokens=source.integer("n_tokens"),
        n_chunks=source.integer("n_chunks"),
        kld_ci95=source.interval("kld_ci95") or (math.nan, math.nan),
        **{key: source.number(key) for key in _FIGURES},
    )
    interval = source.interval("kld_difference_ci95")
    return MixRow(
        name=source.text("name"),
        kind=kind,  # type: ignore[arg-type] # one of Kind: checked by choice()
        size_bytes=source.integer("size_bytes"),
        bpw=source.number("bpw"),
        figures=figures,
        verdict=None if source.get("verdict") is None else source.choice("verdict", Verdict),
        kld_difference=None if interval is None else (source.number("kld_difference"), *interval),
        predicted_kld=source.optional("predicted_kld"),
        predicted_ci95=source.interval("predicted_kld_ci95"),
        why=source.text("why"),
    )


def _tensor_values(tensor: TensorRow) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "layer": tensor.layer,
        "role": tensor.role,
        "shape": list(tensor.shape),
        "n_weights": tensor.n_weights,
        "source_type": tensor.source_type,
        "type": tensor.qtype,
        "size_bytes": tensor.size_bytes,
        "damage": _number(tensor.damage),
        "importance_percentile": _number(tensor.importance_percentile),
        "curve": [
            {
                "type": p.qtype,
                "bpw": _number(p.bpw),
                "damage": _number(p.damage),
                "damage_ci95": _interval((p.low, p.high)),
                "measured": p.measured,
                "legal": p.legal,
                "error": _number(p.error),
                "error_half_width": _number(p.error_half_width),
                "rmse": _number(p.rmse),
            }
            for p in tensor.curve
        ],
    }


def _tensor(source: JSONObject) -> TensorRow:
    shape = [source.of(f"shape[{i}]", n, int) for i, n in enumerate(source.array("shape"))]
    return TensorRow(
        name=source.text("name"),
        layer=None if source.get("layer") is None else source.integer("layer"),
        role=source.text("role"),
        shape=tuple(shape),
        n_weights=source.integer("n_weights"),
        source_type=source.text("source_type"),
        qtype=source.text("type"),
        size_bytes=source.integer("size_bytes"),
        damage=source.number("damage"),
        importance_percentile=source.optional("importance_percentile"),
        curve=tuple(_point(p) for p in source.objects("curve")),
    )


def _point(source: JSONObject) -> CurvePoint:
    low, high = source.interval("damage_ci95") or (math.nan, math.nan)
    return CurvePoint(
        qtype=source.text("type"),
        bpw=source.number("bpw"),
        damage=source.number("damage"),
        low=low,
        high=high,
        measured=source.flag("measured"),
        legal=source.flag("legal"),
        error=source.optional("error"),
        error_half_width=source.optional("error_half_width"),
        rmse=source.optional("rmse"),
    )


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _interval(interval: Interval) -> list[float | None]:
    return [_number(v) for v in interval]
