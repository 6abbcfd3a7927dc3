"""Size against KLD for one model: the best mixes, presets, the recipe; and what was measured."""

from __future__ import annotations

from collections.abc import Mapping

from nicegui import ui

from mqnative.app.ui.frame import drawn, empty, frame, page
from mqnative.app.ui.workspace import Session, Workspace, loaded
from mqnative.app.views.frontier import chord_table, chords, frontier_of, placed_words
from mqnative.app.views.model_view import ModelView
from mqnative.app.views.others import RESULT, others_of
from mqnative.report import tables
from mqnative.report.choices import FrontierFacts
from mqnative.report.frontier_part import knee_sentences, placed_table
from mqnative.report.frontier_plot import frontier_plot
from mqnative.report.numbers import typeset
from mqnative.report.plots import prediction_plot, size_plot
from mqnative.report.sentences import headline, held_out, text_of
from mqnative.report.summary import Report
from mqnative.report.svg import escape
from mqnative.report.text_tables import text_table


def register(workspace: Workspace) -> None:
    """Make the route."""

    @ui.page("/model/{key}/frontier", title="Frontier", response_timeout=30)
    async def frontier_page(key: str) -> None:
        async with page("Frontier", "Models"):
            session = await workspace.session(key)
            with frame(f"Frontier of {session.view.name}", "Models", session.view, "Frontier"):
                if session.view.report is not None:
                    measured(session.view.report)
                if not session.view.is_measured:
                    empty(
                        "No frontier yet",
                        "A run measures what types cost; the best mix of every size follows from that.",
                        ("Start a run", f"/jobs?model={key}"),
                    )
                    return
                await _predicted(session)


async def _predicted(session: Session) -> None:
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
    others: Mapping[str, Mapping[str, str]] = await loaded(_mixes, session.view)

    async def show() -> None:
        facts = await loaded(frontier_of, session.view, session.draft.types, others)
        if facts is None:
            return
        wide = frontier_plot(facts, "front-wide wide-only", 860, 420)
        narrow = frontier_plot(facts, "front-narrow narrow-only", 370, 360)
        plot.set_content(wide + narrow)
        sentences = [placed_words(facts), *knee_sentences(facts)]
        words.set_content("".join(f"<p>{escape(typeset(s))}</p>" for s in sentences if s))
        placed.set_content(placed_table(facts))
        chord.set_content(_chords(facts) or '<p class="soft">No mix lies between two presets.</p>')

    session.changed.subscribe(show)
    await show()


def _mixes(view: ModelView) -> dict[str, Mapping[str, str]]:
    """Presets where the model's file is known, else one type for all; and the run's result."""
    found = others_of(view)
    presets = {n: t for n, t in found.items() if not n.startswith(("all ", "the "))}
    chosen = presets or {n: t for n, t in found.items() if n.startswith("all ")}
    if RESULT in found:
        chosen[RESULT] = found[RESULT]
    return chosen


def _chords(facts: FrontierFacts) -> str:
    placed = [(p.kind == "preset", (p.name, p.size_bytes, p.kld)) for p in facts.placed if p.kld]
    presets = [known for is_preset, known in placed if is_preset]
    mixes = [known for is_preset, known in placed if not is_preset]
    mixes += [(f"best at {knee.bpw:.2f} bpw", knee.size_bytes, knee.kld) for knee in facts.knees[:1]]
    return chord_table(chords(mixes, presets))


def measured(report: Report) -> None:
    """What a finished run measured on held-out text."""
    with ui.element("section").classes("card stack"):
        ui.html(f"<h2>{escape(typeset(text_of(headline(report))))}</h2>", sanitize=False)
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


def _figure(plot: str, caption: str) -> str:
    return f"<figure>{plot}<figcaption>{escape(caption)}</figcaption></figure>"
