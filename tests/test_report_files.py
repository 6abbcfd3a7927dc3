"""Chords, profiles and reports as files, without a browser."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from mqnative.app.report import report as report_command
from mqnative.app.views.frontier import RECIPE, chords, frontier_of, placed_words
from mqnative.app.views.model_view import ModelView, view_of_report
from mqnative.app.views.others import others_of
from mqnative.app.views.profiles import profile, profile_plots
from mqnative.errors import OutputExistsError, SourceError
from mqnative.report.drawing import report_plots, standalone
from mqnative.report.folder import read_report, write_report
from mqnative.report.jsonform import to_json
from mqnative.report.summary import LinkRow
from report_samples import SAMPLES, deep, dense


@pytest.fixture(scope="module")
def view() -> ModelView:
    return view_of_report(replace(dense(), link=LinkRow(1.0, 0.0, 0.05, 0.0)), Path("run"))


def test_a_chord_is_logarithmic_in_kld_between_presets_that_none_beats() -> None:
    presets = [("small", 100, 0.1), ("large", 300, 0.001), ("beaten", 200, 0.2)]
    (found,) = chords([("mine", 200, 0.005), ("outside", 400, 1e-5)], presets)
    assert (found.smaller, found.larger) == ("small", "large")
    assert found.expected == pytest.approx(0.01)
    assert found.ratio == pytest.approx(0.5)


def test_every_mix_is_held_against_the_best_of_its_very_size(view: ModelView) -> None:
    facts_ = frontier_of(view, view.types, others_of(view))
    assert facts_ is not None
    for p in facts_.placed:
        if p.kld is not None and p.best is not None and p.size_bytes <= facts_.points[-1].size_bytes:
            assert p.kld >= p.best * (1 - 1e-9), p.name
    assert "Your recipe" in placed_words(facts_)
    assert facts_.placed[0].name == RECIPE


def test_nothing_measured_has_no_frontier(view: ModelView) -> None:
    bare = replace(view, tensors=tuple(replace(t, curve=()) for t in view.tensors))
    assert frontier_of(bare, bare.types, {}) is None
    assert profile_plots({"m": bare.tensors}) == {}


def test_profiles_run_from_the_first_to_the_last_layer() -> None:
    points = profile(deep().tensors, "ffn_down")
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert (points[0][0], points[-1][0]) == (0.0, 1.0)
    plots = profile_plots({"deep": deep().tensors, "dense": dense().tensors})
    assert plots["attn_v"].count("<g class=") == 2
    assert "token_embd" not in plots


@pytest.mark.parametrize("name", SAMPLES)
def test_plots_alone_need_no_page(name: str) -> None:
    for plot in report_plots(SAMPLES[name]()).values():
        drawing = standalone(plot)
        assert "var(" not in drawing
        assert drawing.startswith("<svg xmlns=")
        from xml.etree import ElementTree

        assert ElementTree.fromstring(drawing).tag.endswith("svg")


def test_a_report_is_written_in_every_form_and_read_back_the_same(tmp_path: Path) -> None:
    report = replace(dense(), link=LinkRow(1.0, 0.1, 0.05, 1e-5))
    files = write_report(report, tmp_path / "r", ("html", "md", "json", "svg"))
    assert {p.suffix for p in files} == {".html", ".md", ".json", ".svg"}
    assert to_json(read_report(tmp_path / "r")) == to_json(report)
    assert write_report(report, tmp_path / "r", ("html",)) == files[:1]


def test_another_report_is_not_overwritten_unasked(tmp_path: Path) -> None:
    write_report(dense(), tmp_path, ("json",))
    other = replace(dense(), title="another")
    with pytest.raises(OutputExistsError, match="says something else"):
        write_report(other, tmp_path, ("json",))
    write_report(other, tmp_path, ("json",), force=True)
    assert read_report(tmp_path).title == "another"


def test_folders_without_a_report_say_so(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"holds no report\.json"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text("[1]")
    with pytest.raises(ValueError, match="holds no report"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(ValueError, match="is no JSON"):
        read_report(tmp_path)


def test_png_is_a_picture_of_the_same_plot() -> None:
    pytest.importorskip("cairosvg", reason="PNG is an extra")
    from mqnative.report.drawing import to_png

    png = to_png(standalone(report_plots(dense())["size-kld"]), scale=1.0)
    assert png.startswith(b"\x89PNG")
    assert int.from_bytes(png[16:20], "big") == 784


def test_the_same_figures_are_everywhere(tmp_path: Path) -> None:
    report = dense()
    write_report(report, tmp_path, ("html", "md", "json", "svg"))
    kld = report.result.figures.kld_mean
    assert json.loads((tmp_path / "report.json").read_text())["kld_mean"] == kld
    digits = f"{kld:.5f}"
    for name in ("report.html", "report.md"):
        assert digits in (tmp_path / name).read_text(encoding="utf-8")
    assert math.isclose(kld, 0.003612)


def test_a_file_as_the_output_is_refused_with_the_way_to_one_form(tmp_path: Path) -> None:
    found = CliRunner().invoke(report_command, [str(tmp_path), "-o", str(tmp_path / "page.html")])
    assert found.exit_code == 2
    assert "takes a folder; give --format html" in found.output
    assert not (tmp_path / "page.html").exists()
