"""The cards beside the recipe: solve the rest, load and save."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

from nicegui import ui
from nicegui.events import UploadEventArguments

from mqnative.app.ui.frame import done, fail, telling
from mqnative.app.ui.workspace import Session, Workspace, loaded
from mqnative.app.views.draft import add_floor, allow, recipe_of, remove_floor, take_recipe, take_types
from mqnative.app.views.mix import mix_of
from mqnative.app.views.resolve import budget_of, solve_again
from mqnative.app.views.structure import all_types
from mqnative.build.plan import types_hash
from mqnative.errors import MQNativeError
from mqnative.formats.imatrix import write_imatrix
from mqnative.formats.recipe import Recipe, format_recipe, parse_recipe, write_recipe
from mqnative.formats.tensor_types import format_tensor_types, parse_tensor_types
from mqnative.jobs.run import IMATRIX_NAME
from mqnative.jobs.stored_model import newest_imatrix
from mqnative.store import Store
from mqnative.store.paths import home

_METHODS = {"exact": "exact (proven)", "greedy": "greedy", "knee": "each tensor's knee", "bins": "bins"}
# A recipe of ten thousand tensors takes less.
_MOST_BYTES = 2_000_000


def solve_card(session: Session) -> None:
    """Solve the rest around the pins."""
    view = session.view
    types = all_types(view)
    with ui.element("section").classes("card stack solve-card"):
        ui.html("<h2>Solve the rest</h2>", sanitize=False)
        with ui.element("div").classes("line"):
            budget = (
                ui.input("Size or bits per weight", value="4.5 bpw")
                .props("dense outlined")
                .classes("budget")
                .style("flex: 1 1 120px; min-width: 0")
            )
            method = (
                ui.select(_METHODS, value="exact", label="Method")
                .props("dense outlined options-dense")
                .style("flex: 1 1 150px; min-width: 0")
            )
        chosen = ui.select(
            types, value=list(session.draft.allowed), multiple=True, label="Types allowed (none: all)"
        ).props("dense outlined options-dense use-chips")
        chosen.on_value_change(lambda e: session.change(allow(session.draft, e.value or [])))
        with ui.element("div").classes("line"):
            pattern = (
                ui.input("At least, for", placeholder=".*attn_v.*")
                .props("dense outlined")
                .style("flex: 1 1 120px; min-width: 0")
            )
            least = ui.select(types, label="Type").props("dense outlined options-dense").style("width: 110px")
            floor = ui.button("Floor").props("outline dense")
        floors = ui.element("div").classes("line")
        button = ui.button("Solve", icon="calculate").props("unelevated").classes("solve")

        def show_floors() -> None:
            floors.clear()
            with floors:
                for expression, name in session.draft.floors:
                    ui.chip(f"{expression} ≥ {name}", removable=True).props("dense outline").on(
                        "remove", lambda _, e=expression: session.change(remove_floor(session.draft, e))
                    )

        def add() -> None:
            if not pattern.value or not least.value:
                fail("write a pattern and choose the least type for it")
                return
            with telling():
                session.change(add_floor(view, session.draft, pattern.value, least.value))

        async def solve() -> None:
            button.props("loading")
            try:
                draft = session.draft
                size = budget_of(view, str(budget.value or ""))
                found = await loaded(solve_again, view, draft, size, method.value)
                edit = f"solved for {budget.value} around {len(draft.pins)} pins"
                session.change(take_types(view, draft, found.types, edit))
                proof = "proven best" if found.gap <= 1e-4 else f"within {100 * found.gap:.2g} % of the best"
                done(f"Solved: {found.size_bytes:,} bytes, {proof}")
            except MQNativeError as error:
                fail(error)
            finally:
                button.props(remove="loading")

        floor.on_click(add)
        button.on_click(solve)
        budget.on("keydown.enter", solve)
        session.changed.subscribe(show_floors)
        show_floors()


def files_card(workspace: Workspace, session: Session) -> None:
    """Load and save recipes, and build."""
    view = session.view
    stem = view.path.stem if view.path.is_file() else view.path.name

    def recipe() -> Recipe:
        mix = mix_of(view, session.draft.types)
        return recipe_of(view, session.draft, mix.kld, mix.size_bytes, mix.bpw)

    def save(suffix: str) -> None:
        text = format_recipe(recipe(), json=suffix == ".json")
        ui.download.content(text, f"{stem}.recipe{suffix}")

    async def begin_build() -> None:
        try:
            model = await loaded(workspace.add, view.source)
            query = await loaded(prepare_build, view.source, recipe())
        except MQNativeError as error:
            fail(error)
            return
        ui.navigate.to(f"/jobs?{urlencode({'model': model, 'kind': 'build', **query})}")

    def tensor_types() -> str:
        names = [t.name for t in view.tensors if t.name in view.quantizable]
        return format_tensor_types(recipe(), names)

    def load(name: str, found: Recipe) -> None:
        session.change(take_recipe(view, session.draft, found, f"loaded {name}"))
        done(f"{name} is the recipe now")

    with ui.element("section").classes("card stack files-card"):
        ui.html("<h2>Load and save</h2>", sanitize=False)
        with ui.element("div").classes("line"):
            build = ui.button("Build it", icon="construction", on_click=begin_build)
            build.props("unelevated dense").classes("build")
            build.set_enabled(view.source is not None)
            known = "A job of its own; its form shows the cost first"
            build.tooltip("Add the model's file on the Models page first" if view.source is None else known)
            ui.button("YAML", icon="download", on_click=lambda: save(".yaml")).props("outline dense")
            ui.button("JSON", icon="download", on_click=lambda: save(".json")).props("outline dense")
            ui.button("Copy tensor types", icon="content_copy", on_click=lambda: _copy(tensor_types())).props(
                "outline dense"
            ).tooltip("For llama-quantize --tensor-type-file")
        recipe_upload("Load YAML, JSON or tensor types (.txt)", load)


def recipe_upload(label: str, take: Callable[[str, Recipe], None]) -> None:
    """A place for recipe files.

    Args:
        label: what happens to them.
        take: given the file's name and the recipe; what it raises of the package's errors is shown.
    """

    async def load(event: UploadEventArguments) -> None:
        name = event.file.name
        try:
            text = (await event.file.read()).decode("utf-8")
            take(name, parse_tensor_types(text) if name.endswith(".txt") else parse_recipe(text))
        except UnicodeDecodeError:
            fail(f"{name} is not UTF-8 text; give a recipe in YAML or JSON")
        except MQNativeError as error:
            fail(error)
        finally:
            upload.reset()

    upload = (
        ui.upload(
            label=label,
            auto_upload=True,
            max_file_size=_MOST_BYTES,
            on_upload=load,
            on_rejected=lambda: fail("that file is too large for a recipe"),
        )
        .props('accept=".yaml,.yml,.json,.txt" flat bordered')
        .style("width: 100%")
    )


def prepare_build(model: Path, recipe: Recipe) -> dict[str, str]:
    """Write the recipe and the importance matrix where the build form can name them.

    Returns:
        Label of the form's entry -> path.
    """
    folder = home() / "runs" / f"{model.stem}-{types_hash(recipe.tensors)[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"Recipe": folder / "recipe.yaml", "File to write": folder / f"{folder.name}.gguf"}
    write_recipe(paths["Recipe"], recipe, force=True)
    with Store.open() as store:
        imatrix = newest_imatrix(model, store)
    if imatrix is not None:
        paths["Importance matrix"] = folder / IMATRIX_NAME
        write_imatrix(paths["Importance matrix"], imatrix, force=True)
    return {label: str(path) for label, path in paths.items()}


def _copy(text: str) -> None:
    ui.clipboard.write(text)
    done(f"{text.count(chr(10))} lines are on the clipboard")
