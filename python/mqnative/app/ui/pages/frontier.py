"""Size against KLD for one model: the best mixes, presets, the recipe; and what was measured."""

from __future__ import annotations

from collections.abc import Mapping

from nicegui import ui

from mqnative.app.ui.following import following
from mqnative.app.ui.frame import drawn, empty, frame, page
from mqnative.app.ui.workspace import Session, Workspace, loaded
from mqnative.app.views.frontier import chord_table, chords, frontier_of, placed_words
from mqnative.app.views.model_view import ModelView
from mqnative.app.views.others import RESULT, others_of
from mqnative.report import hybrid_tables, tables
from mqnative.report.choices import FrontierFacts
from mqnative.report.frontier_part import knee_sentences, placed_table
from mqnative.report.frontier_plot import frontier_plot
from mqnative.report.hybrid_html import release_tables
from mqnative.report.hybrid_plot import hybrid_plot
from mqnative.report.hybrid_summary import HybridReport
from mqnative.report.numbers import typeset
from mqnative.report.plots import prediction_plot, size_plot
from mqnative.report.sentences import headline, held_out, text_of
from mqnative.report.summary import Report
from mqnative.report.svg import escape
from mqnative.report.text_tables import text_table

_FRONTIER_KEY = (
    "Band: 95 % of the prediction. Dashed: chords between presets. Large dot: your recipe. Coloured dots: "
    "hybrids and results of runs."
)

# The frontier is solved anew for every change.
_PAUSE_S = 0.3


def register(workspace: Workspace) -> None:
    """Make the route."""

    @ui.page("/model/{key}/frontier", title="Frontier", response_timeout=30)
    async def frontier_page(key: str) -> None:
        async with page("Frontier", "Models"):
            session = await workspace.session(key)
            with frame(f"Frontier of {session.view.name}", "Models", session.view, "Frontier"):
                if session.view.report is not None:
                    measured(session.view.report)
                if session.view.release is not None:
                    released(session.view.release)
                if session.view.report is not None and not session.view.tensors:
                    return  # a comparison of files, which chose nothing
                if not session.view.is_measured:
                    empty(
                        "No frontier yet",
                        "A run measures what types cost; the best mix of every size follows from that.",
                        ("Start a run", f"/jobs?model={key}"),
                    )
                    return
                await _predicted(workspace, session)


async def _predicted(workspace: Workspace, session: Session) -> None:
    with ui.element("section").classes("card stack"):
        ui.html("<h2>Predicted: the best mix of every size</h2>", sanitize=False)
        plot = drawn("")
        words = drawn("")
    with ui.element("div").classes("even"):
        with ui.element("section").classes("card"):
            ui.html("<h2>Others' mixes on it</h2>", sanitize=False)
            placed = drawn("")
        with ui.element("section").classes("card"):
            ui.html(
                "<h2>Chords</h2><p class='soft'>Against the line between the two presets next in size.</p>",
                sanitize=False,
            )
            chord = drawn("")
    related = await loaded(workspace.related, session.view)
    others: Mapping[str, Mapping[str, str]] = await loaded(_mixes, session.view, related)
    ours = {*related, *session.view.mixes}

    async def show(_: list[str]) -> None:
        facts = await loaded(frontier_of, session.view, session.draft.types, others, ours)
        if facts is None:
            return
        wide = frontier_plot(facts, "front-wide wide-only", 860, 420)
        narrow = frontier_plot(facts, "front-narrow narrow-only", 370, 360)
        plot.set_content(_figure(wide + narrow, _FRONTIER_KEY))
        sentences = [placed_words(facts), *knee_sentences(facts)]
        words.set_content("".join(f"<p>{escape(typeset(s))}</p>" for s in sentences if s))
        placed.set_content(placed_table(facts))
        chord.set_content(_chords(facts) or '<p class="soft">No mix lies between two presets.</p>')

    session.changed.subscribe(following(show, _PAUSE_S))
    await show([])


def _mixes(view: ModelView, related: Mapping[str, Mapping[str, str]]) -> dict[str, Mapping[str, str]]:
    """Hybrids and results; presets where the model's file is known, else one type for all."""
    found = others_of(view, related)
    chosen = {n: t for n, t in found.items() if not n.startswith("the ")}
    if view.source is not None:
        chosen = {n: t for n, t in chosen.items() if not n.startswith("all ")}
    if RESULT in found:
        chosen[RESULT] = found[RESULT]
    return chosen


def _chords(facts: FrontierFacts) -> str:
    placed = [(p.kind == "preset", (p.name, p.size_bytes, p.kld)) for p in facts.placed if p.kld]
    presets = [known for is_preset, known in placed if is_preset]
    mixes = [known for is_preset, known in placed if not is_preset]
    mixes += [(f"best at {knee.bpw:.2f} bpw", knee.size_bytes, knee.kld) for knee in facts.knees[:1]]
    return chord_table(chords(mixes, presets))


def measured(report: Report, name: str = "") -> None:
    """What a finished run measured on held-out text.

    Args:
        report: of the run.
        name: of the run, where several stand on a page.
    """
    with ui.element("section").classes("card stack"):
        over = f'<div class="soft">{escape(name)}</div>' if name else ""
        ui.html(f"{over}<h2>{escape(typeset(text_of(headline(report))))}</h2>", sanitize=False)
        with ui.element("div").classes("even"):
            wide = size_plot(report, "size-a wide-only", 580, 370)
            narrow = size_plot(report, "size-b narrow-only", 370, 360)
            drawn(_figure(wide + narrow, f"Measured on {held_out(report)}."))
            plot = prediction_plot(report, "predicted wide-only", 580, 370)
            if plot:
                plot += prediction_plot(report, "predicted-b narrow-only", 370, 340)
                drawn(_figure(plot, "On the thin line the prediction is exact."))
        drawn(tables.mixes(report))
        texts = text_table(report)
        if texts:
            drawn(f"<h3>Text by text</h3>{texts}")
        known = [(m.name, m.size_bytes, m.figures.kld_mean) for m in report.mixes]
        drawn(chord_table(chords(known[:1], known[1:])))


def released(release: HybridReport) -> None:
    """What a release of hybrids published, and why."""
    with ui.element("section").classes("card stack"):
        ui.html(f"<h2>{escape(hybrid_tables.headline(release))}</h2>", sanitize=False)
        plot = hybrid_plot(release, "hybrids wide-only", 860, 420)
        plot += hybrid_plot(release, "hybrids narrow-only", 370, 360)
        drawn(
            _figure(
                plot,
                "Filled: published. Hollow: baselines that are not. Dashed: chords between baselines. Lines "
                "from hybrids to the chord: proven wins.",
            )
        )
        for name, drawing in release_tables(release):
            if drawing:
                drawn(f"<h3>{name}</h3>{drawing}")


def _figure(plot: str, caption: str) -> str:
    return f"<figure>{plot}<figcaption>{escape(caption)}</figcaption></figure>"
