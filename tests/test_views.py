"""What the page shows and how recipes are edited, without a browser."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqnative.app.views.curve_plot import curve_plot, spots_of
from mqnative.app.views.draft import (
    Draft,
    History,
    add_floor,
    allow,
    names_matching,
    override,
    pin,
    recipe_of,
    remove_floor,
    take_recipe,
    take_types,
)
from mqnative.app.views.heat import layer_map
from mqnative.app.views.histogram import bars_of, histogram_plot
from mqnative.app.views.mix import legal_types, mix_of, type_bytes
from mqnative.app.views.model_view import ModelView, padded, view_of_report
from mqnative.app.views.resolve import (
    budget_of,
    first_draft,
    frontier_types,
    problem_of,
    solve_again,
    tensor_knees,
)
from mqnative.app.views.structure import all_types, grid_rows, tree
from mqnative.app.views.tensor_table import tensor_facts, type_table
from mqnative.app.views.tiles import tiles
from mqnative.errors import ConstraintError, InfeasibleBudgetError, RecipeError, UnsupportedTypeError
from mqnative.formats.recipe import Recipe, format_recipe, parse_recipe
from mqnative.predict.curve import Damage
from mqnative.predict.link import total_of
from mqnative.report.jsonform import from_json, to_json
from mqnative.report.summary import LinkRow, Report
from report_samples import dense

DOWN = "blk.3.ffn_down.weight"


@pytest.fixture(scope="module")
def report() -> Report:
    return replace(dense(), link=LinkRow(1.05, 0.2, 0.06, 1e-5))


@pytest.fixture(scope="module")
def view(report: Report) -> ModelView:
    return view_of_report(report, Path("run"))


@pytest.fixture
def draft(view: ModelView) -> Draft:
    return Draft(dict(view.types))


def test_the_link_and_weight_errors_survive_json(report: Report) -> None:
    point = replace(report.tensors[0].curve[0], error=0.01, error_half_width=0.02, rmse=0.003)
    tensor = replace(report.tensors[0], curve=(point,))
    with_errors = replace(report, tensors=(tensor,))
    back = from_json(to_json(with_errors))
    assert back.link == report.link
    assert back.tensors[0].curve[0] == point


def test_reports_without_link_or_errors_are_read(report: Report) -> None:
    value = to_json(report)
    del value["link"]
    for point in (p for t in value["tensors"] for p in t["curve"]):
        for key in ("error", "error_half_width", "rmse"):
            del point[key]
    back = from_json(value)
    assert back.link is None
    assert back.tensors[0].curve[0].error is None


def test_the_size_of_the_run_is_the_size_of_its_file(view: ModelView, draft: Draft, report: Report) -> None:
    assert mix_of(view, draft.types).size_bytes == report.result.size_bytes


def test_size_counts_padded_tensors_and_the_rest(view: ModelView, draft: Draft) -> None:
    changed = override(view, draft, [DOWN], "Q8_0")
    tensor = view.by_name[DOWN]
    before, after = (type_bytes(tensor, d.types[DOWN]) for d in (draft, changed))
    difference = mix_of(view, changed.types).size_bytes - mix_of(view, draft.types).size_bytes
    assert difference == padded(after) - padded(before)


def test_prediction_is_the_linked_sum_and_the_floor(view: ModelView, draft: Draft) -> None:
    damages = {t.name: Damage(t.damage, 0.0) for t in view.tensors}
    total = total_of(damages, {"output.weight": 1.0})
    expected = 1.05 * (total.mean + 0.2 * total.interaction) + 1e-5
    mix = mix_of(view, draft.types)
    assert mix.kld == pytest.approx(expected)
    assert mix.ci95 is not None
    assert mix.ci95[0] < expected < mix.ci95[1]


def test_the_original_has_no_damage_at_all(view: ModelView) -> None:
    mix = mix_of(view, {t.name: t.source_type for t in view.tensors})
    assert (mix.kld, mix.ci95) == (0.0, (0.0, 0.0))


def test_an_unknown_type_makes_the_prediction_unknown(view: ModelView, draft: Draft) -> None:
    mix = mix_of(view, {**draft.types, DOWN: "Q4_0"})
    assert mix.kld is None
    assert mix.unknown == (DOWN,)


def test_an_override_pins_what_it_sets(view: ModelView, draft: Draft) -> None:
    changed = override(view, draft, [DOWN], "q8_0")
    assert changed.types[DOWN] == "Q8_0"
    assert changed.pins == {DOWN}
    assert draft.types[DOWN] != "Q8_0"


def test_an_illegal_type_is_refused_with_those_that_would_do(view: ModelView, draft: Draft) -> None:
    with pytest.raises(UnsupportedTypeError, match=r"it can be .*Q4_K") as caught:
        override(view, draft, [DOWN], "Q4_0")
    assert caught.value.tensor == DOWN
    with pytest.raises(UnsupportedTypeError):
        override(view, draft, [DOWN], "NOPE")


def test_of_several_tensors_those_that_can_are_changed(view: ModelView, draft: Draft) -> None:
    norm = "blk.3.attn_norm.weight"
    changed = override(view, draft, [norm, DOWN], "Q8_0")
    assert changed.types[norm] == "F32"
    assert changed.pins == {DOWN}


def test_names_by_pattern_are_whole_names_of_tensors_that_can_change(view: ModelView) -> None:
    assert len(names_matching(view, r"blk\.\d+\.ffn_down\.weight")) == 8
    for pattern in ("ffn_down", ".*norm.*"):
        with pytest.raises(RecipeError, match="matches no tensor"):
            names_matching(view, pattern)
    with pytest.raises(RecipeError):
        names_matching(view, "(")


@given(st.lists(st.sampled_from(["change", "undo", "redo"]), max_size=40))
def test_undo_and_redo_walk_one_line(steps: list[str]) -> None:
    history, known, at = History(Draft({"a": "0"})), ["0"], 0
    for i, step in enumerate(steps, 1):
        if step == "change":
            history = history.then(Draft({"a": str(i)}))
            known, at = [*known[: at + 1], str(i)], at + 1
        elif step == "undo":
            history, at = history.undo(), max(0, at - 1)
        else:
            history, at = history.redo(), min(len(known) - 1, at + 1)
        assert history.now.types["a"] == known[at]


def test_solving_again_keeps_pins_floors_and_the_budget(view: ModelView, draft: Draft) -> None:
    changed = override(view, draft, [DOWN], "IQ2_XXS")
    changed = add_floor(view, changed, r".*attn_v\.weight", "Q5_K")
    budget = budget_of(view, "4.0 bpw")
    found = solve_again(view, changed, budget)
    assert found.size_bytes <= budget
    assert found.types[DOWN] == "IQ2_XXS"
    from mqnative.formats.qtypes import qtype

    assert all(qtype(t).bpw >= 5.5 for n, t in found.types.items() if "attn_v" in n)
    free = solve_again(view, draft, budget)
    assert free.damage < found.damage


def test_the_solution_is_best_by_what_damages_add_in_the_mix(view: ModelView, draft: Draft) -> None:
    budget = budget_of(view, "3.2 bpw")
    coupled = replace(view, link=replace(view.link, coupling=1e4))
    plain = replace(view, link=replace(view.link, coupling=0.0))
    types = [{**draft.types, **solve_again(which, draft, budget).types} for which in (coupled, plain)]
    ours, by_sum = (mix_of(coupled, found).kld for found in types)
    assert ours is not None
    assert by_sum is not None
    assert ours <= by_sum
    assert types[0] != types[1]


def test_only_allowed_types_are_chosen_and_pins_may_have_others(view: ModelView, draft: Draft) -> None:
    changed = allow(override(view, draft, [DOWN], "Q8_0"), ["Q4_K", "Q6_K"])
    found = solve_again(view, changed, budget_of(view, "5.5"))
    assert found.types[DOWN] == "Q8_0"
    assert {t for n, t in found.types.items() if n != DOWN} <= {"Q4_K", "Q6_K", "BF16"}


def test_a_budget_too_small_says_what_would_fit(view: ModelView, draft: Draft) -> None:
    with pytest.raises(InfeasibleBudgetError, match="the smallest takes"):
        solve_again(view, draft, 1000)


def test_a_budget_above_everything_gives_the_original(view: ModelView, draft: Draft) -> None:
    assert solve_again(view, draft, 10**12).damage == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [("500 MB", 500_000_000), ("2.5GiB", 2_684_354_560), ("5,342,592", 5_342_592), ("1 kB", 1000)],
)
def test_sizes_as_people_write_them(view: ModelView, text: str, expected: int) -> None:
    assert budget_of(view, text) == expected


def test_bare_small_numbers_are_bits_per_weight(view: ModelView) -> None:
    assert (
        budget_of(view, "4.5")
        == budget_of(view, "4.5 bpw")
        == int(4.5 * view.n_weights / 8) + view.fixed_bytes
    )


@pytest.mark.parametrize("text", ["", "big", "-3", "4.5.5", "5 parsecs", "<script>", "1e400 MB", "0 MB"])
def test_other_sizes_are_refused(view: ModelView, text: str) -> None:
    with pytest.raises(ConstraintError, match="is no size"):
        budget_of(view, text)


def test_floors_are_replaced_and_removed(view: ModelView, draft: Draft) -> None:
    pattern = r".*attn_v\.weight"
    changed = add_floor(view, add_floor(view, draft, pattern, "Q4_K"), pattern, "Q6_K")
    assert changed.floors == ((pattern, "Q6_K"),)
    assert remove_floor(changed, pattern).floors == ()
    with pytest.raises(UnsupportedTypeError):
        add_floor(view, draft, pattern, "Q99")


def test_another_mix_keeps_pins_only_where_the_type_stays(view: ModelView, draft: Draft) -> None:
    pinned = pin(draft, [DOWN, "output.weight"], True)
    other = {**draft.types, DOWN: "Q8_0"}
    assert take_types(view, pinned, other, "x").pins == {"output.weight"}


@pytest.mark.parametrize("json", [False, True])
def test_a_recipe_comes_back_as_it_was_saved(view: ModelView, draft: Draft, json: bool) -> None:
    changed = override(view, draft, [DOWN], "Q8_0")
    text = format_recipe(recipe_of(view, changed, 0.003, 10, 4.5), json=json)
    loaded = take_recipe(view, draft, parse_recipe(text), "loaded")
    assert loaded.types == changed.types


def test_a_recipe_of_another_model_is_refused(view: ModelView, draft: Draft) -> None:
    with pytest.raises(RecipeError, match="lacks"):
        take_recipe(view, draft, Recipe(tensors={"blk.99.ffn_down.weight": "Q4_K"}), "x")
    with pytest.raises(RecipeError, match="none of this model's"):
        take_recipe(view, draft, Recipe(), "x")
    with pytest.raises(UnsupportedTypeError):
        take_recipe(view, draft, Recipe(tensors={DOWN: "Q4_0"}), "x")


def test_every_tensor_is_a_row_with_numbers(view: ModelView, draft: Draft) -> None:
    rows = grid_rows(view, draft, {t.name: "Q4_K" for t in view.tensors})
    assert [r["name"] for r in rows] == [t.name for t in view.tensors]
    assert sum(r["size"] for r in rows) == sum(t.size_bytes for t in view.tensors)
    assert all(r["differs"] == (r["type"] != "Q4_K") for r in rows)
    assert {"Q8_0", "IQ2_XXS"} <= set(all_types(view))


def test_the_tree_holds_every_tensor_once(view: ModelView) -> None:
    leaves = [n["id"] for n in tree(view) if "children" not in n]
    leaves += [c["id"] for n in tree(view) for c in n.get("children", [])]
    assert sorted(leaves) == sorted(view.by_name)


def test_knees_are_types_of_the_tensor(view: ModelView) -> None:
    knees = tensor_knees(view.by_name[DOWN])
    assert sorted(rule for rules in knees.values() for rule in rules) == sorted(
        ["relative", "absolute", "two-sigma", "importance", "curvature"]
    )
    assert set(knees) <= set(legal_types(view.by_name[DOWN]))
    assert tensor_knees(view.by_name["blk.3.attn_norm.weight"]) == {}


def test_the_plot_has_a_button_for_every_type_and_marks_the_chosen_one(view: ModelView) -> None:
    tensor = view.by_name[DOWN]
    drawn = curve_plot(tensor, "Q4_K", "damage", tensor_knees(tensor))
    types = re.findall(r'data-type="([^"]+)"', drawn)
    assert sorted(types) == sorted(p.qtype for p in tensor.curve if p.legal)
    assert re.findall(r'aria-pressed="true"[^>]*data-type="([^"]+)"', drawn) == ["Q4_K"]
    assert drawn.count('class="knee"') == len(tensor_knees(tensor))


def test_nothing_measured_draws_nothing(view: ModelView) -> None:
    tensor = view.by_name["blk.3.attn_norm.weight"]
    assert curve_plot(tensor, "F32", "damage", {}) == ""
    assert spots_of(view.by_name[DOWN], "Q4_K", "error") == []


def test_the_frontier_falls_from_the_smallest_mix_to_the_largest(view: ModelView) -> None:
    mixes = [mix_of(view, types) for types in frontier_types(view, (), 12)]
    klds = [m.kld for m in mixes if m.kld is not None]
    assert len(klds) == len(mixes) >= 10
    assert klds == sorted(klds, reverse=True)


def test_editing_begins_with_what_the_run_chose_or_a_solved_mix(view: ModelView) -> None:
    assert first_draft(view).types == view.types
    fresh = replace(view, report=None, tensors=tuple(replace(t, qtype=t.source_type) for t in view.tensors))
    begun = first_draft(fresh)
    assert mix_of(fresh, begun.types).size_bytes <= budget_of(fresh, "4.5 bpw")
    unmeasured = replace(fresh, tensors=tuple(replace(t, curve=()) for t in fresh.tensors))
    assert first_draft(unmeasured).types == unmeasured.types
    with pytest.raises(ConstraintError, match="nothing is measured"):
        solve_again(unmeasured, begun, 10**9)


def test_histograms_keep_all_counts_and_none_is_drawn_from_nothing() -> None:
    bins = [(0.0, 0.001, 5), (0.001, 0.00101, 7), (0.002, 0.00202, 11)]
    assert sum(bars_of(bins).values()) == 18
    assert histogram_plot([], "Q4_K") == ""
    assert "<rect" in histogram_plot(bins, "Q4_K")


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.attributes: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += [name for name, _ in attrs]


@pytest.mark.parametrize("measure", ["type", "damage", "importance", "size"])
def test_names_from_files_are_never_markup(view: ModelView, measure: str) -> None:
    evil = '"><img src=x onerror=alert(1)><script>alert(2)</script>'
    tensors = tuple(
        replace(t, name=t.name + evil, role=t.role + evil) if t.name == DOWN else t for t in view.tensors
    )
    hostile = replace(view, name=evil, tensors=tensors, quantizable=view.quantizable - {DOWN} | {DOWN + evil})
    draft = Draft(dict(hostile.types))
    tensor = hostile.by_name[DOWN + evil]
    drawn = [
        layer_map(hostile, draft, measure),  # type: ignore[arg-type]
        tiles(hostile, draft, (evil, hostile.types)),
        type_table(tensor, "Q4_K", {}),
        tensor_facts(hostile, tensor, draft),
        curve_plot(tensor, "Q4_K", "damage", {}),
    ]
    tags = _Tags()
    for html in drawn:
        tags.feed(html)
    assert not {"img", "script"} & set(tags.seen)
    assert not [a for a in tags.attributes if a.startswith("on")]


def test_the_problem_has_the_sizes_of_the_file(view: ModelView, draft: Draft) -> None:
    problem = problem_of(view)
    sizes = {i.name: {c.qtype: c.size_bytes for c in i.choices} for i in problem.items}
    total = problem.fixed_bytes + sum(sizes[n][draft.types[n]] for n in sizes)
    assert total == mix_of(view, draft.types).size_bytes
