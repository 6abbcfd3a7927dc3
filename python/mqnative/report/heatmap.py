"""The heat map: which type every layer got in every role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mqnative.report.numbers import significant, size_text, typeset
from mqnative.report.palette import BPW_HIGH, BPW_LOW, RAMP_LIGHT, step
from mqnative.report.summary import TensorRow
from mqnative.report.svg import escape

# More layers than this are split into blocks, which stand side by side where there is room.
_ROWS = 40
_LEGEND_BPW = (2, 3, 4, 5, 6, 8)


def heat_map(roles: Mapping[str, Sequence[TensorRow]]) -> str:
    """Tables of layer by role with the type in each cell, and the tensors outside the layers."""
    inner = {role: [t for t in tensors if t.layer is not None] for role, tensors in roles.items()}
    inner = {role: tensors for role, tensors in inner.items() if tensors}
    outer = [t for tensors in roles.values() for t in tensors if t.layer is None]
    blocks = _layers(inner)
    # Beside the layers if they are one block, else above them.
    kind = "blocks" if len(blocks) < 2 else "blocks many"
    return f'{_legend()}<div class="{kind}">{_outside(outer)}{"".join(blocks)}</div>'


def _legend() -> str:
    swatches = "".join(f'<i class="q{i}"></i>' for i in range(len(RAMP_LIGHT)))
    marks = "".join(f'<span style="left:{100 * _share(bpw):.1f}%">{bpw}</span>' for bpw in _LEGEND_BPW)
    return (
        '<div class="legend"><span>bits per weight</span>'
        f'<div class="ramp"><div class="swatches">{swatches}</div>'
        f'<div class="marks">{marks}</div></div></div>'
    )


def _share(bpw: float) -> float:
    return (step(bpw) + 0.5) / len(RAMP_LIGHT) if BPW_LOW < bpw < BPW_HIGH else 1.0


def _outside(tensors: Sequence[TensorRow]) -> str:
    if not tensors:
        return ""
    head = "".join(f'<th scope="col">{name}</th>' for name in ("tensor", "type", "size"))
    rows = "".join(
        f'<tr><th scope="row">{escape(t.name)}</th>{_cell([t])}'
        f"<td>{escape(size_text(t.size_bytes))}</td></tr>"
        for t in tensors
    )
    return (
        '<div class="scroll outside"><table class="heat"><caption>Outside the layers</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _layers(roles: Mapping[str, Sequence[TensorRow]]) -> list[str]:
    cells: dict[tuple[int, str], list[TensorRow]] = {}
    for role, tensors in roles.items():
        for t in tensors:
            cells.setdefault((t.layer or 0, role), []).append(t)
    layers = sorted({layer for layer, _ in cells})
    size = -(-len(layers) // -(-len(layers) // _ROWS)) if layers else 1
    blocks = [layers[i : i + size] for i in range(0, len(layers), size)]
    return [_block(roles, cells, block, last=block is blocks[-1]) for block in blocks]


def _block(
    roles: Mapping[str, Sequence[TensorRow]],
    cells: Mapping[tuple[int, str], Sequence[TensorRow]],
    layers: Sequence[int],
    *,
    last: bool,
) -> str:
    head = "".join(f'<th scope="col">{_breakable(role)}</th>' for role in roles)
    rows = "".join(
        f'<tr><th scope="row">{layer}</th>'
        + "".join(_cell(cells.get((layer, role), ())) for role in roles)
        + "</tr>"
        for layer in layers
    )
    foot = ""
    if last:
        means = "".join(f"<td>{_bpw(tensors)}</td>" for tensors in roles.values())
        foot = f'<tfoot><tr><th scope="row">bpw</th>{means}</tr></tfoot>'
    name = f"Chosen type, layers {layers[0]} to {layers[-1]}" if len(layers) > 1 else "Chosen type"
    return (
        f'<div class="scroll" role="region" aria-label="{name}" tabindex="0"><table class="heat">'
        f"<caption>{name}</caption>"
        f'<thead><tr><th scope="col">layer</th>{head}</tr></thead><tbody>{rows}</tbody>{foot}</table></div>'
    )


def _cell(tensors: Sequence[TensorRow]) -> str:
    if not tensors:
        return '<td class="none"></td>'
    largest = max(tensors, key=lambda t: t.n_weights)
    said = "; ".join(f"{t.name}: {_details(t)}" for t in tensors)
    more = f"<small>+{len(tensors) - 1}</small>" if len(tensors) > 1 else ""
    return (
        f'<td class="q{step(largest.bpw)}" title="{escape(typeset(said))}">{escape(largest.qtype)}{more}</td>'
    )


def _details(t: TensorRow) -> str:
    facts = [t.qtype, size_text(t.size_bytes), f"damage {significant(t.damage, 2)}"]
    if t.importance_percentile is not None:
        facts.append(f"importance percentile {t.importance_percentile:.0f}")
    return ", ".join(facts)


def _bpw(tensors: Sequence[TensorRow]) -> str:
    n_weights = sum(t.n_weights for t in tensors)
    return f"{8 * sum(t.size_bytes for t in tensors) / n_weights:.2f}" if n_weights else ""


def _breakable(name: str) -> str:
    return escape(name).replace("_", "_<wbr>")
