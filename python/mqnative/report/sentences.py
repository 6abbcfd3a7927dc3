"""The report in words: the sentence that answers the question, and the few beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from mqnative.report.numbers import duration, measured, plain, significant, size_text
from mqnative.report.summary import MixRow, Report, TensorRow

# Sizes closer than this are called the same; alignment alone makes them differ by less.
SAME_SIZE = 0.005
_LONGEST_NAME = 40


class Span(NamedTuple):
    """A piece of a sentence."""

    text: str
    strong: bool = False


def rival(report: Report) -> MixRow | None:
    """Whom the headline names: the best mix that is not larger, else the one nearest in size."""
    size = report.result.size_bytes
    fair = [m for m in report.baselines if m.size_bytes <= size * (1 + SAME_SIZE)]
    if fair:
        return min(fair, key=lambda m: (m.figures.kld_mean, m.size_bytes))
    return min(report.baselines, key=lambda m: m.size_bytes, default=None)


def headline(report: Report) -> list[Span]:
    """The sentence that answers the question: what this file loses, and what others of its size lose."""
    result, other = report.result, rival(report)
    spans = [
        Span("This "),
        Span(f"{size_text(result.size_bytes)} file loses {_kld(result)} nats per token", True),
        Span(" against the original"),
    ]
    if other is None:
        return [*spans, Span(".")]
    spans += [Span(f"; {shortened(other.name)}{_beside(result, other)} loses {_kld(other)}: ")]
    return [*spans, Span(f"{outcome(result, other)}.", True)]


def outcome(result: MixRow, other: MixRow) -> str:
    """``41 % less``, ``12 % more``, ``no difference that the text can show``."""
    if other.verdict == "tie":
        return "a tie at 95 %"
    ratio = relative(result, other)
    if ratio is None:
        return f"{other.verdict or 'not compared'} at 95 %"
    if ratio < 1:
        return f"{_percent(1 - ratio)} less"
    return f"{_percent(ratio - 1)} more" if ratio < 2 else f"{significant(ratio, 2)} times as much"


def relative(result: MixRow, other: MixRow) -> float | None:
    """The result's KLD over another mix's; None where that says nothing."""
    mine, theirs = result.figures.kld_mean, other.figures.kld_mean
    if not (mine > 0 and theirs > 0 and math.isfinite(mine) and math.isfinite(theirs)):
        return None
    ratio = mine / theirs
    return ratio if 0 < ratio < math.inf else None


def claims(report: Report) -> str:
    """Whether the prediction held, and what is proven about the choice; empty where nothing is known."""
    return " ".join(s for s in (_prediction(report.result), _proof(report)) if s)


def _prediction(result: MixRow) -> str:
    if result.predicted_kld is None:
        return ""
    predicted = measured(result.predicted_kld, *(result.predicted_ci95 or (0.0, 0.0))).value
    said = f"Predicted {predicted}, measured {_kld(result)}"
    ratio = result.predicted_kld / result.figures.kld_mean if result.figures.kld_mean > 0 else 0.0
    return f"{said} (ratio {significant(ratio)})." if 0 < ratio < math.inf else f"{said}."


def _proof(report: Report) -> str:
    if report.gap is None or not math.isfinite(report.gap):
        return ""
    if report.gap <= 0:
        return "No mix of this size has a lower predicted KLD (proven)."
    return f"No mix of this size has a predicted KLD more than {_percent(report.gap)} lower (proven)."


def held_out(report: Report) -> str:
    """On how much text the figures stand."""
    f = report.result.figures
    return f"{count(f.n_tokens, 'held-out token')} in {count(f.n_chunks, 'chunk')}"


def time_spent(report: Report) -> str:
    """How long it all took, and how much came from the store; empty without steps."""
    if not report.steps:
        return ""
    total = duration(sum(s.elapsed_s for s in report.steps))
    reused = sum(s.reused for s in report.steps)
    return f"{total} in {count(len(report.steps), 'step')}" + (f", {reused} from the store" if reused else "")


def break_down(report: Report) -> str:
    """The steps that took a second or more: ``probes 37 s, verify 13 s``; empty if one or none did."""
    long = [s for s in report.steps if s.elapsed_s >= 1]
    return ", ".join(f"{s.name} {duration(s.elapsed_s)}" for s in long) if len(long) > 1 else ""


def count(n: int, noun: str, plural: str = "") -> str:
    """``1 chunk``, ``15,300 tokens``."""
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def types_used(tensors: Sequence[TensorRow]) -> str:
    """``1 Q4_K, 5 Q5_K``: the chosen types, smallest first, with how many tensors have them."""
    used: dict[str, int] = {}
    for t in sorted(tensors, key=lambda t: (t.bpw, t.qtype)):
        used[t.qtype] = used.get(t.qtype, 0) + 1
    return ", ".join(f"{n} {qtype}" if len(tensors) > 1 else qtype for qtype, n in used.items())


def shortened(name: str) -> str:
    """A name that does not fill the sentence it stands in."""
    name = plain(name)
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1].rstrip()}…"


def text_of(spans: Sequence[Span]) -> str:
    """A sentence without emphasis."""
    return "".join(span.text for span in spans)


def _kld(mix: MixRow) -> str:
    supported = measured(mix.figures.kld_mean, *mix.figures.kld_ci95).value
    return min(supported, significant(mix.figures.kld_mean), key=len)


def _beside(result: MixRow, other: MixRow) -> str:
    if not (result.size_bytes > 0 and other.size_bytes > 0):
        return ""
    ratio = other.size_bytes / result.size_bytes
    if abs(ratio - 1) <= SAME_SIZE:
        return " of the same size"
    if ratio >= 2:
        return f", {significant(ratio, 2)} times the size,"
    return f", {_percent(abs(ratio - 1))} {'larger' if ratio > 1 else 'smaller'},"


def _percent(part: float) -> str:
    percent = 100 * part
    if percent < 9.5:
        return f"{significant(percent, 2)} %"
    return f"{significant(percent, 4)} %" if 99 <= percent < 100 else f"{percent:.0f} %"
