"""The report for a model card: the answer, the table of mixes, what it is made of, how to make it again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from mqnative.report import memory
from mqnative.report.frontier_part import knee_sentences
from mqnative.report.numbers import (
    change,
    duration,
    measured,
    plain,
    plain_lines,
    share,
    significant,
    size_text,
    with_error,
)
from mqnative.report.roles import by_role
from mqnative.report.sentences import Span, claims, headline, held_out, time_spent, types_used
from mqnative.report.summary import MixRow, Report
from mqnative.report.text_tables import by_text
from mqnative.report.why import sentences

# What could begin markup inside a line; an underscore inside a word cannot.
_MARKUP = re.compile(r"[\\`*\[\]<>|~#!]|(?<![^\W_])_|_(?![^\W_])")


def to_markdown(report: Report) -> str:
    """The report as GitHub-flavoured Markdown."""
    parts = [
        f"# {escape(report.title)}",
        "".join(_span(s) for s in headline(report)),
        _facts({"Asked for": report.target, **report.model, "Measured on": held_out(report)}),
        "## Measured",
        _mixes(report),
        _legend(report),
        *_section("Text by text", _texts(report)),
        *_types(report),
        *_section("On the machine asked for", _memory(report)),
        *_section("Why these types", _why(report)),
        *_steps(report),
        *_section("How to rebuild", report.rebuild_command and fenced(report.rebuild_command)),
        *_section("Provenance", _facts(report.provenance)),
        *_section("Notes", "\n".join(f"- {escape(n)}" for n in report.notes)),
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    escaped = _MARKUP.sub(
        lambda m: {"<": "&lt;", ">": "&gt;"}.get(m[0], "\\" + m[0]), plain(text).replace("&", "&amp;")
    )
    return re.sub(r"^([-+]|\d+[.)])(?=\s|$)", _escape_marker, escaped)


def fenced(code: str) -> str:
    """A code block; its fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{plain_lines(code)}\n{fence}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a heading that ends in ``:`` is set flush right."""
    rule = ["---:" if name.endswith(":") else "---" for name in head]
    lines = [[name.removesuffix(":") for name in head], rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _span(span: Span) -> str:
    if span.strong:
        return f"**{escape(span.text)}**"
    before, after = (" " if end.isspace() else "" for end in (span.text[:1], span.text[-1:]))
    return f"{before}{escape(span.text)}{after}"


def _escape_marker(match: re.Match[str]) -> str:
    marker = match[1]
    return marker[:-1] + "\\" + marker[-1]


def _section(name: str, text: str) -> tuple[str, ...]:
    return (f"## {name}", text) if text else ()


def _facts(facts: Mapping[str, str]) -> str:
    return "\n".join(f"- {escape(name)}: {escape(value)}" for name, value in facts.items() if value)


def _mixes(report: Report) -> str:
    head = ("mix", "size:", "bpw:", "KLD, 95 % interval:", "p99:", "PPL:", "top-1:", "verdict")
    return table(head, [_mix(m) for m in report.mixes])


def _mix(mix: MixRow) -> list[str]:
    f = mix.figures
    name = escape(mix.name)
    return [
        f"**{name}**" if mix.kind == "result" and name else name,
        size_text(mix.size_bytes),
        f"{mix.bpw:.2f}",
        measured(f.kld_mean, *f.kld_ci95).bracketed,
        significant(f.kld_p99),
        f"{with_error(f.ppl, f.ppl_se)} ({change(f.ppl_ratio)})",
        share(f.top1_agreement, f.top1_agreement_se),
        mix.verdict or "",
    ]


def _legend(report: Report) -> str:
    sentences = [
        "KLD is D(original || mix) in nats per token; ± is one standard error.",
        f"The original has PPL {significant(report.ppl_ref, 5)}.",
        "The verdict says how this file does against the mix, paired on the same tokens, at 95 %.",
        claims(report),
    ]
    return " ".join(s for s in sentences if s)


def _texts(report: Report) -> str:
    texts = by_text(report)
    rows = [
        [escape(text), *(measured(r.kld_mean, *r.kld_ci95).bracketed if r else "" for r in found)]
        for text, found in texts.items()
    ]
    return table(("text", *(f"{escape(m.name)}:" for m in report.mixes)), rows) if rows else ""


def _types(report: Report) -> Sequence[str]:
    rows = []
    for role, tensors in by_role(report.tensors).items():
        size = size_text(sum(t.size_bytes for t in tensors))
        rows.append([escape(role), str(len(tensors)), escape(types_used(tensors)), size])
    return _section("What it is made of", table(("role", "tensors:", "types", "size:"), rows) if rows else "")


def _memory(report: Report) -> str:
    found = report.memory
    if found is None:
        return ""
    rows = [[escape(cell) for cell in row] for row in memory.table_rows(found)]
    said = " ".join(escape(s) for s in memory.sentences(found))
    return "\n\n".join((said, table(memory.HEAD, rows), fenced(memory.start_command(found))))


def _why(report: Report) -> str:
    said = [] if report.choice is None else sentences(report.choice)
    said += [] if report.frontier is None else knee_sentences(report.frontier)
    return "\n".join(f"- {escape(s)}" for s in said)


def _steps(report: Report) -> Sequence[str]:
    rows = [
        [escape(s.name), "from the store" if s.reused else duration(s.elapsed_s), escape(s.detail)]
        for s in report.steps
    ]
    if not rows:
        return ()
    return _section(
        "Where the time went", table(("step", "time:", "what"), rows) + f"\n\n{time_spent(report)}."
    )
