"""The report as one page that needs nothing else: no script to be read, no network, no other file."""

from __future__ import annotations

import base64
import hashlib
import html
from functools import cache
from importlib.resources import files

from mqnative.report import tables
from mqnative.report.curves import curve_plots
from mqnative.report.frontier_part import frontier_part
from mqnative.report.heatmap import heat_map
from mqnative.report.memory_part import memory_part
from mqnative.report.numbers import change, measured, plain_lines, share, significant, size_text, typeset
from mqnative.report.palette import stylesheet
from mqnative.report.plots import prediction_plot, size_plot
from mqnative.report.roles import by_role, is_vector
from mqnative.report.sentences import Span, claims, count, headline, held_out, time_spent, types_used
from mqnative.report.summary import Report
from mqnative.report.svg import escape
from mqnative.report.text_tables import text_table
from mqnative.report.why import choice_part

_MIXES_KEY = (
    "Small figures under KLD are 95 % intervals; ± is one standard error; r is the correlation of ln "
    "PPL with the original. Verdicts are paired on the same tokens: the difference is the mix's KLD "
    "minus this file's, so that an interval above zero means that this file is better."
)
_CURVES_KEY = (
    "Predicted KLD in nats per token if one tensor alone has a type, against the type's bits per "
    "weight; all plots have the same logarithmic axes. Line: median over the layers, for the best type "
    "at each number of bits. Band: from the least to the most sensitive layer. "
    '<b class="accent">Circles</b>: what was chosen.'
)
_VALUES_KEY = (
    "Millionths of a nat per token. Outlined: chosen. With m: measured by a probe; the others are "
    "scaled from it. Grey: the solver could not choose it."
)
_SECTIONS = (
    ("mixes", "Against the others"),
    ("texts", "Text by text"),
    ("types", "What it is made of"),
    ("memory", "On the machine asked for"),
    ("why", "Why these types"),
    ("frontier", "Other sizes"),
    ("damage", "What each type costs"),
    ("prediction", "Predicted and measured"),
    ("time", "Where the time went"),
    ("rebuild", "How to rebuild"),
    ("provenance", "Provenance"),
    ("notes", "Notes"),
)


def to_html(report: Report) -> str:
    """The page, as text to be written in UTF-8; the same report gives the same bytes."""
    bodies = {
        "mixes": _mixes(report),
        "texts": text_table(report),
        "types": _types(report),
        "memory": "" if report.memory is None else memory_part(report.memory),
        "why": "" if report.choice is None else choice_part(report.choice),
        "frontier": "" if report.frontier is None else frontier_part(report.frontier),
        "damage": _damage(report),
        "prediction": _prediction(report),
        "time": _time(report),
        "rebuild": _rebuild(report),
        "provenance": _provenance(report),
        "notes": _notes(report),
    }
    present = [(key, title) for key, title in _SECTIONS if bodies[key]]
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title in present)
    sections = "".join(
        f'<section id="{key}" aria-labelledby="h-{key}"><h2 id="h-{key}">{title}</h2>{bodies[key]}</section>'
        for key, title in present
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en">{head(report.title)}<body><main>{_opening(report)}'
        f'<nav aria-label="Sections">{links}</nav>{sections}</main>'
        f"<footer>Made by mqnative. KLD is D(original || mix), in nats per token.</footer>"
        f"{script()}</body></html>\n"
    )


def script() -> str:
    """The one script of a page, which sorts its tables; `head` allows it."""
    return f"<script>{_template('sort.js')}</script>"


def head(title: str, style: str = "") -> str:
    """A page's head: its policy, which allows one script, and its style.

    Args:
        title: of the page.
        style: rules besides those of all reports.
    """
    digest = base64.b64encode(hashlib.sha256(_template("sort.js").encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    return (
        f'<head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title>\n<style>{stylesheet()}{_template('report.css')}{style}</style></head>"
    )


@cache
def _template(name: str) -> str:
    return (files("mqnative.report") / "templates" / name).read_text(encoding="utf-8").strip()


def _opening(report: Report) -> str:
    answer = "".join(_span(s) for s in headline(report))
    plots = size_plot(report, "size-wide", 760, 400) + size_plot(report, "size-narrow", 370, 380)
    front = " The thin line joins the mixes that no smaller one beats." if 'class="front"' in plots else ""
    return (
        f'<header><h1>{escape(report.title)}</h1><p class="answer">{answer}</p>{_tiles(report)}</header>'
        f'<figure class="hero">{plots}<figcaption>Whiskers are 95 % intervals.{front} Measured on '
        f"{held_out(report)} that played no part in any choice.</figcaption></figure>"
    )


def _span(span: Span) -> str:
    written = typeset(html.escape(span.text))
    return f"<strong>{written}</strong>" if span.strong else written


def _tiles(report: Report) -> str:
    result, f = report.result, report.result.figures
    kld = measured(f.kld_mean, *f.kld_ci95)
    tiles = [
        ("size", size_text(result.size_bytes), f"{result.bpw:.2f} bits per weight"),
        ("KLD, nats per token", kld.value, kld.interval),
        (
            "perplexity",
            change(f.ppl_ratio),
            f"{significant(f.ppl, 4)}, original {significant(report.ppl_ref, 4)}",
        ),
        ("top-1 agreement", share(f.top1_agreement), "same first token as the original"),
    ]
    return "<dl>" + "".join(_tile(*tile) for tile in tiles) + "</dl>"


def _tile(name: str, value: str, detail: str) -> str:
    value, detail = (escape(typeset(text)) for text in (value, detail))
    return f"<div><dt>{escape(name)}</dt><dd>{value}<small>{detail}</small></dd></div>"


def _mixes(report: Report) -> str:
    target = f"<p>Asked for: <b>{escape(report.target)}</b>.</p>" if report.target else ""
    return f'{target}{tables.mixes(report)}<p class="soft">{_MIXES_KEY}</p>'


def _types(report: Report) -> str:
    roles = by_role(report.tensors)
    if not roles:
        return ""
    hidden = sum(is_vector(t) for t in report.tensors)
    note = f" Kept as they are: {count(hidden, 'norm or bias', 'norms and biases')}." if hidden else ""
    return (
        f'<p class="soft">The type that every tensor got.{note}</p>{heat_map(roles)}'
        f"{_details('Every tensor', tables.tensors(report.tensors))}"
    )


def _damage(report: Report) -> str:
    roles = by_role(report.tensors)
    plots = curve_plots(roles)
    if not plots:
        return ""
    drawn = "".join(
        f"<figure><figcaption>{escape(role)}<small>{escape(types_used(roles[role]))}</small></figcaption>"
        f"{plot}</figure>"
        for role, plot in plots.items()
    )
    values = "".join(tables.role_curves(role, roles[role]) for role in plots)
    details = _details("Every tensor at every type", f'<p class="soft">{_VALUES_KEY}</p>{values}')
    return f'<p class="soft">{_CURVES_KEY}</p><div class="multiples">{drawn}</div>{details}'


def _details(summary: str, body: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def _prediction(report: Report) -> str:
    values = tables.predictions(report)
    said = claims(report)
    if not values and not said:
        return ""
    plot = prediction_plot(report, "predicted", 370, 330)
    figure = f"<figure>{plot}<figcaption>On the thin line the prediction is exact.</figcaption></figure>"
    said = f"<p>{escape(typeset(said))}</p>" if said else ""
    return f"{said}<div class=pair><div>{values}</div>{figure if plot else ''}</div>"


def _time(report: Report) -> str:
    return f"<p>{escape(time_spent(report))}.</p>{tables.steps(report)}" if report.steps else ""


def _rebuild(report: Report) -> str:
    if not report.rebuild_command:
        return ""
    command = html.escape(plain_lines(report.rebuild_command))
    return f'<p class="soft">Same inputs, same bytes.</p><pre tabindex="0"><code>{command}</code></pre>'


def _provenance(report: Report) -> str:
    return "".join(
        f"<h3>{title}</h3>{tables.facts(values, title)}"
        for title, values in (("The original", report.model), ("How it was made", report.provenance))
        if values
    )


def _notes(report: Report) -> str:
    return f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in report.notes)}</ul>" if report.notes else ""
