"""What an importance matrix covers, as tables and JSON: shared by ``imatrix`` and ``inspect``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from mqnative.formats.imatrix import Imatrix
    from mqnative.measure.coverage import Coverage, TensorCoverage

_LISTED = 8  # names in a line of a table; the JSON form has all


def coverage_json(covered: Coverage) -> dict[str, Any]:
    """Tensors without data and, per tensor, the experts never seen."""
    return {"without_data": covered.without_data, "unseen_experts": covered.unseen_experts}


def imatrix_json(imatrix: Imatrix) -> dict[str, Any]:
    """A whole matrix: where it comes from, what it covers, statistics of every tensor."""
    from mqnative.measure.coverage import coverage

    covered = coverage(imatrix)
    return {
        "datasets": imatrix.datasets,
        "chunk_count": imatrix.chunk_count,
        "chunk_size": imatrix.chunk_size,
        "content_sha256": imatrix.content_hash(),
        **coverage_json(covered),
        "statistics": [asdict(tensor) for tensor in covered.tensors],
    }


def imatrix_tables(title: str, imatrix: Imatrix) -> list[RenderableType]:
    """`imatrix_json` as tables: facts, importances, and experts where they are counted apart."""
    from mqnative.app.output import facts_table
    from mqnative.measure.coverage import coverage

    covered = coverage(imatrix)
    size = f" of {imatrix.chunk_size} tokens" if imatrix.chunk_size else ""
    facts = {
        "imatrix of": ", ".join(imatrix.datasets) or "unnamed texts",
        "chunks": f"{imatrix.chunk_count}{size}",
        "tensors": len(imatrix.entries),
        **coverage_facts(covered),
    }
    tables: list[RenderableType] = [facts_table(title, facts), _importance_table(covered)]
    if any(tensor.experts for tensor in covered.tensors):
        tables.append(_expert_table(covered))
    return tables


def coverage_facts(covered: Coverage) -> dict[str, str]:
    """`coverage_json` as two lines for a table of facts."""
    without = sorted(covered.without_data, key=_natural)
    return {
        "experts never seen": _unseen_text(covered),
        "tensors without data": f"{len(without)}: {_shortened(without)}" if without else "none",
    }


def _unseen_text(covered: Coverage) -> str:
    unseen = covered.unseen_experts
    if not any(tensor.experts for tensor in covered.tensors):
        return "none counted"
    if not unseen:
        return "none"
    lines = [f"{name}: {_shortened([str(i) for i in unseen[name]])}" for name in sorted(unseen, key=_natural)]
    total = f"{sum(map(len, unseen.values()))} in {len(unseen)} tensor(s)"
    return total + "\n" + _shortened(lines, "\n")


def _importance_table(covered: Coverage) -> Table:
    """A line for each tensor that saw data."""
    from rich.table import Table

    table = Table("tensor", title="importances (mean squared activations)", title_justify="left", box=None)
    for heading in ("sum", "min", "max", "mean", "std", "active", "columns", "entropy", "of max", "z > 1"):
        table.add_column(heading, justify="right")
    for tensor in _in_order(covered):
        s = tensor.importances
        if s is not None:
            table.add_row(
                tensor.name,
                *(f"{value:.4g}" for value in (s.total, s.minimum, s.maximum, s.mean, s.std)),
                f"{s.active_share:.2%}",
                str(s.n_values),
                f"{s.entropy_bits:.3f}",
                f"{s.entropy_share:.2%}",
                f"{s.z_density:.2%}",
            )
    return table


def _expert_table(covered: Coverage) -> Table:
    """A line for each tensor whose experts are counted apart."""
    from rich.table import Table

    table = Table("tensor", title="tokens per expert", title_justify="left", box=None)
    for heading in ("experts", "never seen", "least", "25 %", "median", "75 %", "most"):
        table.add_column(heading, justify="right")
    for tensor in _in_order(covered):
        e = tensor.experts
        if e is not None:
            counts = [f"{count:.1f}".removesuffix(".0") for count in e.count_quantiles]
            table.add_row(tensor.name, str(e.n_experts), str(len(e.unseen)), *counts)
    return table


def _in_order(covered: Coverage) -> list[TensorCoverage]:
    return sorted(covered.tensors, key=lambda tensor: _natural(tensor.name))


def _natural(name: str) -> list[str | int]:
    """blk.2 before blk.10."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", name))]


def _shortened(names: Sequence[str], separator: str = " ") -> str:
    more = len(names) - _LISTED
    shown = [*names[:_LISTED], f"and {more} more (--json lists all)"] if more > 0 else names
    return separator.join(shown)
