"""What the page knows of a model beyond one file: drafts, releases, related mixes, memory, error maps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mqnative import builtin
from mqnative.app.ui.drafts import Drafts
from mqnative.app.ui.folders import Folders
from mqnative.app.ui.obtain import is_checkpoint
from mqnative.app.ui.reading import read_view, related_mixes
from mqnative.app.ui.workspace import Workspace
from mqnative.app.views.draft import Draft, add_floor, allow, override, pin
from mqnative.app.views.draft_file import draft_from, draft_values
from mqnative.app.views.frontier import frontier_of
from mqnative.app.views.heat import layer_map
from mqnative.app.views.histogram import small_histograms
from mqnative.app.views.job_forms import arguments
from mqnative.app.views.memory import CPU, GPU, Setting, memory_of, memory_table, memory_tile, use_of
from mqnative.app.views.model_view import HASH, ModelView, view_of_release, view_of_report
from mqnative.app.views.others import others_of
from mqnative.app.views.structure import group_names
from mqnative.app.views.tiles import tiles
from mqnative.errors import FormatError, SourceError
from mqnative.formats.gguf import GGUFFile
from mqnative.report.drawing import standalone
from mqnative.report.folder import read_report, read_results, write_report
from mqnative.report.frontier_plot import front_of, frontier_plot
from mqnative.report.hybrid_plot import hybrid_plot, plot_style
from mqnative.report.jsonform import to_json
from mqnative.report.summary import LinkRow
from mqnative.source.identity import Identity
from mqnative.store import Store
from release_samples import release
from report_samples import dense

OUTPUT = "output.weight"


@pytest.fixture(scope="module")
def view() -> ModelView:
    return view_of_report(replace(dense(), link=LinkRow(1.0, 0.0, 0.05, 0.0)), Path("run"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MQNATIVE_HOME", str(tmp_path / "home"))
    return tmp_path


def edited(view: ModelView) -> Draft:
    draft = override(view, Draft(dict(view.types)), ["blk.3.ffn_down.weight"], "Q8_0")
    return allow(add_floor(view, pin(draft, [OUTPUT], True), ".*attn_v.*", "Q4_K"), ["Q4_K", "Q8_0"])


def test_a_draft_comes_back_as_it_was_left(view: ModelView, tmp_path: Path) -> None:
    draft = edited(view)
    assert draft_from(view, json.loads(json.dumps(draft_values(draft)))) == draft
    drafts = Drafts(tmp_path / "drafts")
    assert drafts.load(view) is None
    drafts._waiting[view.key] = draft
    drafts.write()
    assert Drafts(tmp_path / "drafts").load(view) == draft


@pytest.mark.parametrize(
    "change",
    [
        {"mqnative": "draft/9"},
        {"types": {}},
        {"types": {"nothing.weight": "Q4_K"}},
        {"types": [1]},
        {"pins": ["nothing.weight"]},
        {"pins": 5},
        {"floors": [["a"]]},
        {"floors": [[".*", "Q99"]]},
        {"allowed": ["Q99"]},
        {"edit": None, "types": None},
    ],
)
def test_a_draft_that_is_damaged_or_of_another_model_counts_as_none(
    view: ModelView, change: dict[str, object]
) -> None:
    assert draft_from(view, draft_values(edited(view)) | change) is None
    assert draft_from(view, [change]) is None


def test_a_norm_cannot_get_a_type_by_way_of_a_draft(view: ModelView) -> None:
    values = draft_values(edited(view))
    values["types"] |= {"blk.0.attn_norm.weight": "Q4_K"}
    assert draft_from(view, values) is None


@pytest.mark.parametrize("device", [GPU, CPU])
def test_memory_of_the_original_is_what_llama_cpp_reports(home: Path, device: str) -> None:
    model = read_view(builtin.MODEL)
    setting = Setting(2048, "Q8_0", device)
    use = use_of(builtin.MODEL, setting)
    found = memory_of(model, model.types, setting, use)
    rows = use.tables[0].rows
    assert found.device.weights == sum(r.weights_bytes for r in rows if not r.is_host)
    assert found.host.weights == sum(r.weights_bytes for r in rows if r.is_host)
    assert found.device.total + found.host.total == sum(r.total_bytes for r in rows)
    assert (found.device.total == 0) is (device == CPU)


def test_smaller_types_take_less_memory_and_longer_contexts_more(home: Path) -> None:
    model = read_view(builtin.MODEL)
    small = {n: "Q4_K" if n in model.quantizable else t for n, t in model.types.items()}
    short, long = Setting(2048), Setting(32768)
    of_short, of_long = (memory_of(model, small, s, use_of(builtin.MODEL, s)).main for s in (short, long))
    whole = memory_of(model, model.types, short, use_of(builtin.MODEL, short)).main
    assert of_short.weights < 0.4 * whole.weights
    assert of_long.cache == 16 * of_short.cache
    assert of_long.weights == of_short.weights


def test_memory_stands_in_a_tile_and_a_table(home: Path) -> None:
    model = read_view(builtin.MODEL)
    setting = Setting(4096)
    found = memory_of(model, model.types, setting, use_of(builtin.MODEL, setting))
    assert memory_tile(None) is None
    assert "GPU memory, 4,096 tokens" in tiles(model, Draft(dict(model.types)), None, found)
    assert memory_table(found).count("<tr>") == 3


def test_groups_hold_every_tensor_that_can_change(view: ModelView) -> None:
    offered = group_names(view)
    assert sum(int(text.rpartition(" · ")[2]) for text in offered.values()) == len(view.quantizable)
    assert set(offered) == {view.groups[name] for name in view.quantizable}


def test_small_histograms_share_one_axis() -> None:
    drawn = small_histograms({"a": [(0.5, 0.6, 10)], "b": [(0.001, 0.0011, 5), (0.4, 0.5, 1)], "c": []})
    assert set(drawn) == {"a", "b"}
    corners = {name: svg.count("H") for name, svg in drawn.items()}
    assert corners["a"] == corners["b"]


def test_the_map_of_errors_has_a_drawing_for_every_tensor_it_knows(view: ModelView) -> None:
    draft = Draft(dict(view.types))
    names = [n for n in view.quantizable if n.startswith("blk.1.")]
    drawn = layer_map(view, draft, "errors", {name: [(0.1, 0.2, 3)] for name in names})
    assert drawn.count("<svg") == len(names)
    assert layer_map(view, draft, "errors", {}) == ""


def test_a_release_is_read_back_and_written_in_every_form(tmp_path: Path) -> None:
    found = release()
    write_report(found, tmp_path, ("json",))
    assert read_results(tmp_path) == found
    with pytest.raises(FormatError, match="release of hybrids"):
        read_report(tmp_path)
    written = write_report(found, tmp_path / "out", ("html", "md", "json", "svg"))
    assert [p.name for p in written] == ["report.html", "report.md", "report.json", "size-kld.svg"]
    plain = standalone(hybrid_plot(found, "hybrids", 860, 480), plot_style(""))
    assert "var(" not in plain
    assert ".mark.hybrid{fill:#" in plain
    (tmp_path / "report.json").write_text('{"isolation": {}, "files": 3}')
    with pytest.raises(FormatError, match="no report of hybrids"):
        read_results(tmp_path)


def test_a_release_shows_its_models_tensors_where_the_model_is_known(view: ModelView) -> None:
    mixes = {"MQ-Q4_K_M_1": dict.fromkeys(view.types, "Q4_K")}
    alone = view_of_release(release("abc"), Path("rel"), mixes, None)
    assert not alone.tensors
    assert not alone.is_measured
    over = view_of_release(release("abc"), Path("rel"), mixes, view)
    assert over.tensors == view.tensors
    assert over.model_hash == "abc"
    assert over.key != view.key
    assert set(others_of(over)) >= {"MQ-Q4_K_M_1", "the original"}


def test_runs_find_their_model_by_its_hash_and_models_their_runs(home: Path) -> None:
    with GGUFFile.open(builtin.MODEL) as file:
        names = list(file.tensors)
        types = {name: t.qtype.name for name, t in file.tensors.items()}
    run, other = home / "run", home / "other"
    for folder, model_hash in ((run, "f" * 64), (other, "e" * 64)):
        folder.mkdir()
        value = to_json(dense()) | {"model": {HASH: model_hash}}
        if folder == run:
            kept = value["tensors"][0]
            value["tensors"] = [
                {**kept, "name": n, "type": types[n], "source_type": types[n], "curve": []} for n in names
            ]
        (folder / "report.json").write_text(json.dumps(value))
    assert read_view(run, lambda: [builtin.MODEL]).source is None
    with Store.open() as store:
        identity = Identity("f" * 64, dict.fromkeys(names, "0" * 64))
        store.remember_identity([builtin.MODEL], json.dumps(vars(identity)))
    assert read_view(run, lambda: [builtin.MODEL]).source == builtin.MODEL
    assert read_view(other, lambda: [builtin.MODEL]).source is None
    model = replace(read_view(builtin.MODEL), model_hash="f" * 64)
    assert related_mixes(model, [run, other]) == {dense().result.name: types}
    assert related_mixes(replace(model, model_hash=""), [run]) == {}


def test_the_front_of_presets_is_drawn_and_the_recipe_lies_on_top(view: ModelView) -> None:
    found = frontier_of(view, view.types, others_of(view), ["all Q4_K"])
    assert found is not None
    kinds = {p.name: p.kind for p in found.placed}
    assert kinds["your recipe"] == "recipe"
    assert kinds["all Q4_K"] == "hybrid"
    drawn = frontier_plot(found, "front wide", 860, 420)
    assert 'class="front"' in drawn
    assert drawn.index("your recipe: ") > drawn.index("all Q4_K: ")
    assert 'id="front-wide-title"' in drawn


def test_a_front_falls_with_size() -> None:
    front = front_of([("a", 1, 0.5), ("b", 2, 0.7), ("c", 3, 0.1), ("d", 3, 0.2), ("zero", 9, 0.0)])
    assert [name for name, _, _ in front] == ["a", "c"]


def test_several_files_become_several_options() -> None:
    values = {"Files to compare": "a.gguf\nb.gguf", "Texts": "x.txt\n-y.txt", "Folder for the report": "out"}
    words = arguments("compare", "m.gguf", values)
    assert words == [
        "compare",
        "-f",
        "x.txt",
        "-f",
        "-y.txt",
        "-o",
        "out",
        "--",
        "m.gguf",
        "a.gguf",
        "b.gguf",
    ]


def test_a_checkpoint_is_a_folder_with_a_config_and_no_gguf(tmp_path: Path) -> None:
    assert not is_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert is_checkpoint(tmp_path)
    (tmp_path / "model.gguf").write_text("GGUF")
    assert not is_checkpoint(tmp_path)
    assert not is_checkpoint(tmp_path / "config.json")


def test_a_link_in_the_hubs_cache_keeps_its_name_and_may_not_lead_outside(home: Path) -> None:
    given, outside = home / "given", home / "outside"
    (given / "blobs").mkdir(parents=True)
    outside.mkdir()
    blob = given / "blobs" / "0123abcd"
    for file in (blob, outside / "secret.gguf"):
        file.write_bytes(builtin.MODEL.read_bytes())
    (given / "tiny-bf16.gguf").symlink_to(blob)
    (given / "away.gguf").symlink_to(outside / "secret.gguf")
    workspace = Workspace(Folders([given]), home / "ui")
    key = workspace.add(given / "tiny-bf16.gguf")
    assert workspace.models()[key].name == "tiny-bf16.gguf"
    with pytest.raises(SourceError, match="outside of the folders"):
        workspace.add(given / "away.gguf")
