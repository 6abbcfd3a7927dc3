"""Why every tensor has its type: sentences, and the part of the page."""

from __future__ import annotations

from collections.abc import Sequence

from mqnative.report.choices import MIB, ChoiceFacts, ConstraintRow, MoveRow, WhyRow
from mqnative.report.numbers import significant, size_text, typeset
from mqnative.report.sentences import count
from mqnative.report.svg import escape
from mqnative.report.tables import Cell, table

_MOST_CHANGES = 6


def sentences(facts: ChoiceFacts) -> list[str]:
    """Budget, price, what one more MiB would buy, and which constraints bind."""
    said = [facts.budget, facts.weighing]
    if facts.price > 0:
        said.append(
            f"The next MiB is worth {significant(facts.price * MIB)} nats per token at the margin; "
            f"{facts.left_bytes:,} bytes of the budget are left."
        )
    else:
        said.append("The budget does not bind: more bytes would not help.")
    if facts.more_saves is not None and facts.more_saves > 0:
        shown = ", ".join(f"{n} from {a} to {b}" for n, a, b in facts.more_changes[:_MOST_CHANGES])
        more = len(facts.more_changes) - _MOST_CHANGES
        shown += f" and {more} more" if more > 0 else ""
        said.append(f"One more MiB would save {significant(facts.more_saves)} nats per token: {shown}.")
    said += [_constraint(c) for c in facts.constraints]
    return [s for s in said if s]


def _constraint(row: ConstraintRow) -> str:
    if row.cost is None:
        return f"{row.text} binds: without it nothing fits."
    if not row.binds:
        return f"{row.text} does not bind."
    kept = f", and keeps {count(len(row.tensors), 'tensor')} from another type" if row.tensors else ""
    return f"{row.text} binds: it costs {significant(row.cost)} nats per token{kept}."


def choice_part(facts: ChoiceFacts) -> str:
    """The section that explains the choice."""
    said = "".join(f"<p>{escape(typeset(s))}</p>" for s in sentences(facts))
    body = why_table(facts.tensors)
    return f"{said}<details><summary>Every tensor: why this type</summary>{body}</details>"


def why_table(rows: Sequence[WhyRow]) -> str:
    """Each tensor with its next moves."""
    head = (
        "tensor",
        "type",
        "damage:",
        "next up",
        "it saves per MiB:",
        "next down",
        "it costs per MiB:",
        "why",
    )
    cells = [
        [
            Cell(escape(_name(w)), w.name, "mono"),
            Cell(escape(w.qtype), w.qtype),
            Cell(_number(significant(w.damage)), w.damage),
            *_move(w.up),
            *_move(w.down),
            Cell(escape(typeset(w.text))),
        ]
        for w in rows
    ]
    return table("Why every tensor has its type", head, cells, "dense sortable")


def _name(row: WhyRow) -> str:
    return row.name if len(row.tensors) < 2 else f"{row.name} and {len(row.tensors) - 1} more"


def _move(move: MoveRow | None) -> list[Cell]:
    if move is None:
        return [Cell(""), Cell("")]
    size = size_text(abs(move.more_bytes))
    sign = "+" if move.more_bytes >= 0 else "-"
    return [
        Cell(f"{escape(move.qtype)} <small>{_number(sign + size)}</small>", move.qtype),
        Cell(_number(significant(move.price * MIB)), move.price),
    ]


def _number(text: str) -> str:
    return escape(typeset(text))
