"""The recipe: the whole assignment, edited by hand or solved again around what was decided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nicegui import ui
from nicegui.events import GenericEventArguments

from mqnative.app.ui.following import following
from mqnative.app.ui.frame import drawn, empty, fail, frame, page, telling
from mqnative.app.ui.grid import columns, tensor_grid
from mqnative.app.ui.pages.memory_card import MemoryCard
from mqnative.app.ui.pages.recipe_tools import files_card, recipe_upload, solve_card
from mqnative.app.ui.workspace import Session, Workspace, loaded
from mqnative.app.views.curve_plot import curve_plot
from mqnative.app.views.draft import names_matching, override, pin, take_recipe, take_types
from mqnative.app.views.others import others_of
from mqnative.app.views.resolve import tensor_knees
from mqnative.app.views.structure import all_types, grid_row, grid_rows, group_names
from mqnative.app.views.tiles import tiles
from mqnative.formats.recipe import Recipe
from mqnative.report.svg import escape


def register(workspace: Workspace) -> None:
    """Make the route."""

    @ui.page("/model/{key}/recipe", title="Recipe")
    async def recipe_page(key: str) -> None:
        async with page("Recipe", "Models"):
            session = await workspace.session(key)
            with frame(f"Recipe of {session.view.name}", "Models", session.view, "Recipe"):
                if not session.view.is_measured:
                    empty(
                        "No recipe without figures",
                        "Once a run has measured what types cost, the recipe can be edited and solved here.",
                        ("Start a run", f"/jobs?model={key}"),
                    )
                    return
                _Page(workspace, session).show()


class _Page:
    """One tab's widgets; the recipe itself is shared by all tabs."""

    def __init__(self, workspace: Workspace, session: Session) -> None:
        self.workspace, self.session, self.view = workspace, session, session.view
        self.other: tuple[str, Mapping[str, str]] | None = None
        self.tensor = next((t.name for t in self.view.tensors if t.curve), "")

    def show(self) -> None:
        """Draw everything."""
        view, draft = self.view, self.session.draft
        self.memory = MemoryCard(self.session, self._show_tiles)
        with ui.element("div").classes("sticky"):
            self.tiles = drawn(tiles(view, draft))
        self._toolbar()
        with ui.element("div").classes("columns"):
            with ui.element("div").classes("stack"):
                self.grid = tensor_grid(grid_rows(view, draft), select=True, pins=True)
                self.grid.on("cellClicked", self._clicked, ["rowId", "colId"])
                self.edit = ui.html(sanitize=False).classes("soft")
            with ui.element("div").classes("stack"):
                with ui.element("section").classes("card"):
                    self.curve_title = ui.html(sanitize=False)
                    self.curve = drawn("")
                solve_card(self.session)
                self.memory.show()
                self._compare_card()
                files_card(self.workspace, self.session)
        self.session.changed.subscribe(following(self._changed))
        ui.on("pick", self._pick)
        ui.on("row", self._pressed)
        ui.on("undo", self.session.undo)
        ui.on("redo", self.session.redo)
        self._show_curve()
        self._show_edit()

    def _toolbar(self) -> None:
        with ui.element("div").classes("line toolbar"):
            self.undo = ui.button(icon="undo", on_click=self.session.undo).props(
                'outline dense aria-label="Undo"'
            )
            self.redo = ui.button(icon="redo", on_click=self.session.redo).props(
                'outline dense aria-label="Redo"'
            )
            self.pattern = (
                ui.input("Pattern, for whole names", placeholder=r".*ffn_down.*")
                .props("dense outlined clearable")
                .style("width: 210px")
            )
            self.group = (
                ui.select(group_names(self.view), label="or group")
                .props("dense outlined options-dense clearable")
                .style("width: 150px")
            )
            self.type = (
                ui.select(all_types(self.view), label="Type", with_input=True)
                .props("dense outlined options-dense")
                .style("width: 130px")
            )
            ui.button("Set", on_click=self._set).props("unelevated dense").classes("set-type").tooltip(
                "Give the type to the tensors of the pattern, else of the group, else to the ticked rows, "
                "and pin them"
            )
            ui.button("Pin", icon="push_pin", on_click=lambda: self._pin(True)).props("outline dense")
            ui.button("Let go", on_click=lambda: self._pin(False)).props("outline dense")

    def _compare_card(self) -> None:
        with ui.element("section").classes("card stack compare-card"):
            ui.html("<h2>Compare with</h2>", sanitize=False)
            self._mixes: Mapping[str, Mapping[str, str]] = self.session.others
            self._given: dict[str, Mapping[str, str]] = {}
            self.others = ui.select(
                list(self._mixes), label="A preset or another mix", with_input=True
            ).props("dense outlined clearable options-dense")
            self.others.on_value_change(lambda e: self._compare(e.value))
            ui.button("Take its types", on_click=self._take_other).props("outline dense").tooltip(
                "The recipe becomes this mix; pins stay where the type does"
            )
            recipe_upload("or a recipe file", self._add_other)
            # Looked for again when the page has come to rest, if there is something to show until then.
            ui.timer(3.0 if self._mixes else 0.1, self._load_others, once=True)

    async def _load_others(self) -> None:
        related = await loaded(self.workspace.related, self.view)
        self.session.others = await loaded(others_of, self.view, related)
        # Sent only if it differs: the browser looks through everything on the page for a change of one thing.
        if self._offer():
            self.others.set_options(list(self._mixes))

    def _offer(self) -> bool:
        """Take the mixes as they are now; whether there are others than before."""
        before, self._mixes = self._mixes, {**self.session.others, **self._given}
        return list(before) != list(self._mixes)

    def _add_other(self, name: str, recipe: Recipe) -> None:
        self._given[name] = take_recipe(self.view, self.session.draft, recipe, name).types
        self._offer()
        self.others.set_options(list(self._mixes), value=name)

    async def _names(self) -> list[str]:
        """What an edit is for: the pattern's tensors, or the group's, or the ticked rows."""
        pattern = str(self.pattern.value or "").strip()
        if pattern:
            return names_matching(self.view, pattern)
        if self.group.value:
            return [n for n in self.view.by_name if n in self.view.quantizable and self._group(n)]
        rows: list[dict[str, Any]] = await self.grid.get_selected_rows()
        names = [row["name"] for row in rows if row["name"] in self.view.quantizable]
        if not names:
            fail("tick rows that can change, choose a group, or write a pattern such as .*ffn_down.*")
        return names

    def _group(self, name: str) -> bool:
        return bool(self.view.groups[name] == self.group.value)

    async def _set(self) -> None:
        with telling():
            names = await self._names()
            if names and not self.type.value:
                fail("choose a type first")
            elif names:
                self.session.change(override(self.view, self.session.draft, names, str(self.type.value)))

    async def _pin(self, wanted: bool) -> None:
        with telling():
            names = await self._names()
            if names:
                self.session.change(pin(self.session.draft, names, wanted))

    def _clicked(self, event: GenericEventArguments) -> None:
        self._choose_row(str(event.args["rowId"]), str(event.args.get("colId")))

    def _choose_row(self, name: str, column: str) -> None:
        if column == "pin" and name in self.view.quantizable:
            self.session.change(pin(self.session.draft, [name], name not in self.session.draft.pins))
        if name in self.view.by_name and self.view.by_name[name].curve:
            self.tensor = name
            self._show_curve()

    def _pressed(self, event: GenericEventArguments) -> None:
        column = "pin" if event.args["key"] == "p" else ""
        self._choose_row(str(event.args["name"]), column)

    def _pick(self, event: GenericEventArguments) -> None:
        with telling():
            target = str(event.args["type"])
            self.session.change(override(self.view, self.session.draft, [self.tensor], target))

    def _compare(self, name: str | None) -> None:
        self.other = None if name is None else (name, self._mixes[name])
        rows = grid_rows(self.view, self.session.draft, None if self.other is None else self.other[1])
        self.grid.run_grid_method(
            "setGridOption", "columnDefs", columns(compare=self.other is not None, pins=True)
        )
        self.grid.run_grid_method("applyTransaction", {"update": rows})
        self._show_tiles()

    def _show_tiles(self) -> None:
        self.tiles.set_content(tiles(self.view, self.session.draft, self.other, self.memory.now))

    def _take_other(self) -> None:
        if self.other is None:
            fail("choose a mix to compare with first")
            return
        name, types = self.other
        self.session.change(take_types(self.view, self.session.draft, types, f"types of {name}"))

    async def _changed(self, names: list[str]) -> None:
        view, draft = self.view, self.session.draft
        other = None if self.other is None else self.other[1]
        rows = [grid_row(view, view.by_name[name], draft, other) for name in names if name in view.by_name]
        if rows:
            self.grid.run_grid_method("applyTransaction", {"update": rows})
        self.memory.update()
        self._show_tiles()
        if self.tensor in names:
            self._show_curve()
        self._show_edit()

    def _show_curve(self) -> None:
        tensor = self.view.by_name[self.tensor]
        chosen = self.session.draft.types[self.tensor]
        link = (
            f'<a class="soft" href="/model/{self.view.key}/tensor?name={escape(self.tensor)}">all figures</a>'
        )
        self.curve_title.set_content(f"<h3>{escape(self.tensor)} · {escape(chosen)} · {link}</h3>")
        self.curve.set_content(
            curve_plot(tensor, chosen, "damage", tensor_knees(tensor), width=370, height=300, name="side")
        )

    def _show_edit(self) -> None:
        history = self.session.history
        self.undo.set_enabled(bool(history.past))
        self.redo.set_enabled(bool(history.future))
        self.edit.set_content(
            f"Last change: {escape(history.now.edit)}. Ctrl+Z takes it back. In the grid, Space ticks a row, "
            "Enter shows its curve, P pins it."
        )
