"""A mix in four figures, and what a change made of them."""

from __future__ import annotations

from collections.abc import Mapping

from mqnative.app.views.draft import Draft
from mqnative.app.views.memory import MixMemory, memory_tile
from mqnative.app.views.mix import Mix, mix_of
from mqnative.app.views.model_view import ModelView
from mqnative.report.numbers import change, measured, size_text, typeset
from mqnative.report.svg import escape


def tiles(
    view: ModelView,
    draft: Draft,
    other: tuple[str, Mapping[str, str]] | None = None,
    memory: MixMemory | None = None,
) -> str:
    """Size, bits per weight, predicted KLD, pins, as HTML.

    Args:
        view: the model.
        draft: its recipe.
        other: name and types of a mix to compare with.
        memory: what the recipe takes of a machine, where that is known.
    """
    mix = mix_of(view, draft.types)
    rival = None if other is None else mix_of(view, other[1])
    kld, interval = kld_texts(mix)
    cells = [
        ("size", size_text(mix.size_bytes), f"{mix.size_bytes:,} bytes{_against(mix, rival, 'size')}"),
        ("bits per weight", f"{mix.bpw:.3f}", f"{_share(view, mix)} of the original's size"),
        ("predicted KLD, nats per token", kld, f"{interval}{_against(mix, rival, 'kld')}"),
        ("pinned", str(len(draft.pins)), f"of {len(view.quantizable)} tensors that can change"),
    ]
    told = memory_tile(memory)
    if told is not None:
        cells.insert(3, told)
    if other is not None:
        n = sum(draft.types[name] != other[1].get(name) for name in view.quantizable)
        cells.append(("differs", str(n), f"tensors, from {other[0]}"))
    body = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(typeset(value))}<small>{escape(typeset(detail))}</small></dd></div>"
        for name, value, detail in cells
    )
    return f'<dl class="tiles" aria-live="polite">{body}</dl>'


def kld_texts(mix: Mix) -> tuple[str, str]:
    """The predicted KLD and its interval, in words where there is none."""
    if mix.kld is None or mix.ci95 is None:
        if mix.unknown:
            return "unknown", f"{len(mix.unknown)} tensors at types that were not measured"
        return "unknown", "nothing is measured yet"
    if mix.kld == 0:
        return "0", "nothing is changed"
    said = measured(mix.kld, *mix.ci95)
    return said.value, f"95 %: {said.interval}"


def _share(view: ModelView, mix: Mix) -> str:
    return f"{100.0 * mix.size_bytes / max(view.original_bytes, 1):.1f} %"


def _against(mix: Mix, rival: Mix | None, what: str) -> str:
    if rival is None:
        return ""
    if what == "size":
        return f", {change(mix.size_bytes / max(rival.size_bytes, 1))}"
    if mix.kld is None or not rival.kld:
        return ""
    return f", {change(mix.kld / rival.kld)}"
