"""``mqnative frontier`` as people run it: every size at once, its knees, and others' mixes on it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from cli_process import DONE, USAGE, mqnative
from damage_place import Workplace
from mqnative.builtin import MODEL


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("frontier"))


def test_frontier_falls_and_places_presets_and_candidates(place: Workplace, tmp_path: Path) -> None:
    place.solved("--bpw", 4.5)
    recipe = place.folder / "recipe.yaml"
    outputs = [tmp_path / f"frontier.{kind}" for kind in ("html", "svg", "json")]
    wanted = [word for path in outputs for word in ("-o", path)]
    done = place.frontier("--json", "--candidate", recipe, "--points", 50, *wanted)
    assert done.code == DONE, done.err
    said = done.json
    points = said["points"]
    assert 10 <= len(points) <= 50
    sizes = [p["size_bytes"] for p in points]
    klds = [p["predicted_kld"] for p in points]
    assert sizes == sorted(set(sizes))
    assert klds == sorted(klds, reverse=True)
    assert max(p["gap"] for p in points) <= 1e-6
    assert [k["rule"] for k in said["knees"]][:2] == ["root", "linear"]
    placed = {p["name"]: p for p in said["placed"]}
    assert placed["recipe.yaml"]["predicted_kld"] == pytest.approx(
        placed["recipe.yaml"]["best_predicted_kld"]
    )
    assert placed["Q4_K_M"]["predicted_kld"] >= placed["Q4_K_M"]["best_predicted_kld"]
    assert placed["Q4_K_M"]["kind"] == "preset"
    html, svg, values = (path.read_text(encoding="utf-8") for path in outputs)
    assert "<svg" in html
    assert "knee, " in html
    assert ET.fromstring(svg).tag.endswith("svg")
    assert json.loads(values)["points"] == points


def test_frontier_of_few_types_and_of_a_text_for_people(place: Workplace) -> None:
    done = place.frontier("--max-types", 2, "--points", 8, "--pin", r"output\.weight=Q6_K")
    assert done.code == DONE, done.err
    assert "Knee by the rule root" in done.out
    assert "Q4_K_M" in done.out


def test_speed_is_an_axis_of_it(place: Workplace, tmp_path: Path) -> None:
    page = tmp_path / "frontier.html"
    done = place.frontier("--speed", "--points", 8, "-o", page, "--json")
    assert done.code == DONE, done.err
    speeds = done.json["speed"]
    assert [s["predicted_tps"] for s in speeds] == sorted(s["predicted_tps"] for s in speeds)
    assert all(s["size_bytes"] <= done.json["knee"]["size_bytes"] for s in speeds)
    assert speeds[0]["predicted_kld"] == min(s["predicted_kld"] for s in speeds)
    assert "Speed at the knee" in page.read_text(encoding="utf-8")
    # The curve, and below it what speed costs: each once.
    said = place.frontier("--speed", "--points", 8).out
    assert said.count("the best mix of every size") == said.count("speed against damage") == 1


def test_its_knee_is_the_size_that_solve_takes_without_a_budget(place: Workplace) -> None:
    knee = place.frontier("--json").json["knee"]
    assert place.solved()["knee"]["size_bytes"] == knee["size_bytes"]
    assert knee["reason"]


def test_what_it_cannot_draw_or_must_not_replace_is_refused(place: Workplace, tmp_path: Path) -> None:
    assert mqnative("frontier", MODEL).code == USAGE
    assert place.frontier("-o", tmp_path / "frontier.png").code == USAGE
    existing = tmp_path / "there.html"
    existing.write_text("mine", encoding="utf-8")
    assert place.frontier("-o", existing).code == USAGE
    assert existing.read_text(encoding="utf-8") == "mine"


def test_a_candidate_of_another_model_is_named(place: Workplace, tmp_path: Path) -> None:
    recipe = tmp_path / "other.yaml"
    recipe.write_text("mqnative: recipe/1\ntensors:\n  blk.99.attn_q.weight: Q4_K\n", encoding="utf-8")
    done = place.frontier("--candidate", recipe, "--json")
    assert done.code != DONE
    assert "other" in done.json["message"]
