"""What every page has: the bar at the top, colours, and errors as sentences."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from importlib.resources import files

from nicegui import ui

from mqnative.app.views.model_view import ModelView
from mqnative.errors import MQNativeError
from mqnative.report.hybrid_plot import plot_style
from mqnative.report.palette import theme_variables
from mqnative.report.svg import escape

NAVIGATION = (("Models", "/"), ("Jobs", "/jobs"), ("Compare", "/compare"))
MODEL_PAGES = (("Structure", ""), ("Tensor", "/tensor"), ("Recipe", "/recipe"), ("Frontier", "/frontier"))


@cache
def _static(name: str) -> str:
    return (files("mqnative.app.ui") / "static" / name).read_text(encoding="utf-8")


def _report(name: str) -> str:
    return (files("mqnative.report") / "templates" / name).read_text(encoding="utf-8")


@cache
def head() -> str:
    """Style and script of all pages."""
    report = _report("report.css")
    # Of the report's style only what plots and tables need: its rules for bare elements stay out.
    colours = "".join(f"body.body--{theme}{{{theme_variables(theme)}}}" for theme in ("light", "dark"))
    from mqnative.report.palette import RAMP_LIGHT

    steps = "".join(f".q{i}{{background:var(--q{i});color:var(--t{i})}}" for i in range(len(RAMP_LIGHT)))
    return (
        f"<style>{colours}{steps}{_static('ui.css')}@scope (.drawn){{{_plots(report)}}}{plot_style()}</style>"
        f"<script>{_report('sort.js')}{_static('ui.js')}</script>"
    )


def _plots(css: str) -> str:
    """The report's rules from its plots on."""
    return css[css.index("/* Plots */") :]


@contextmanager
def frame(title: str, current: str, view: ModelView | None = None, part: str = "") -> Iterator[None]:
    """The page around its content.

    Args:
        title: of the browser's tab.
        current: the entry of the navigation that is marked.
        view: the model that the page is about.
        part: which of `MODEL_PAGES`.
    """
    ui.page_title(f"{title} · mqnative")
    ui.colors(primary="#b4400e", dark="#1d2126", dark_page="#14171b")
    links = "".join(_link(name, path, name == current) for name, path in NAVIGATION)
    bar = (
        '<a class="skip" href="#content">Skip to the content</a>'
        f'<a class="mark" href="/">mqnative</a><nav aria-label="Pages">{links}</nav>'
        '<button class="theme" type="button" data-theme-button aria-label="Colours: automatic">'
        "<span></span></button>"
    )
    ui.html(bar, sanitize=False, tag="header").classes("bar")
    if view is not None:
        parts = "".join(_link(name, f"/model/{view.key}{path}", name == part) for name, path in MODEL_PAGES)
        heading = f'<h1 title="{escape(str(view.path))}">{escape(view.name)}</h1>'
        ui.html(f'{heading}<nav aria-label="Model">{parts}</nav>', sanitize=False).classes("model-bar")
    with ui.element("main").props("id=content").classes("content"):
        yield


def _link(name: str, path: str, marked: bool) -> str:
    current = ' aria-current="page"' if marked else ""
    return f'<a href="{escape(path)}"{current}>{escape(name)}</a>'


def empty(title: str, text: str, link: tuple[str, str] | None = None) -> None:
    """Nothing to show yet, and what to do about it."""
    action = (
        "" if link is None else f'<p><a class="action" href="{escape(link[1])}">{escape(link[0])}</a></p>'
    )
    ui.html(f"<h2>{escape(title)}</h2><p>{escape(text)}</p>{action}", sanitize=False).classes("empty")


def drawn(html: str, classes: str = "") -> ui.html:
    """Plots and tables in the style of the reports."""
    return ui.html(html, sanitize=False).classes(f"drawn {classes}")


def fail(error: MQNativeError | str) -> None:
    """An error as a sentence that stays until it is dismissed."""
    text = error if isinstance(error, str) else error.message
    text = text[:1].upper() + text[1:]
    ui.notification(text, type="negative", timeout=12, close_button="OK", multi_line=True, position="bottom")


def done(text: str) -> None:
    """A short word of success."""
    ui.notification(text, type="positive", timeout=3, position="bottom")


@contextmanager
def telling() -> Iterator[None]:
    """Errors of the package raised in the block are shown, not passed on."""
    try:
        yield
    except MQNativeError as error:
        fail(error)


@asynccontextmanager
async def page(title: str, current: str) -> AsyncIterator[None]:
    """A page that shows what went wrong instead of a blank screen."""
    try:
        yield
    except MQNativeError as error:
        with frame(title, current):
            empty("That did not work", error.message[:1].upper() + error.message[1:], ("Models", "/"))
