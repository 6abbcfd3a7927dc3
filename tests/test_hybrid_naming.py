"""Names that hybrids are published by."""

from __future__ import annotations

import shlex
from pathlib import Path

import click
import pytest

from mqnative.app.cli import cli
from mqnative.app.hybrids_output import command_text
from mqnative.build.plan import model_tensors, plan_build
from mqnative.build.rebuild import manifest_of, plan_rebuild
from mqnative.build.writer import build_gguf
from mqnative.core.presets import preset_types
from mqnative.errors import BaselineError, ManifestError
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.manifest import parse_manifest
from mqnative.formats.recipe import Recipe
from mqnative.hybrids.chords import Point
from mqnative.hybrids.naming import family_of, file_name, model_stem, number_hybrids, v1_spec
from mqnative.jobs.hybrids.request import External, HybridOptions
from mqnative.solve.constraints import Constraints
from mqnative.solve.limits import Floor, Pin
from mqnative.source.identity import identify

BASELINES = [Point("Q2_K", 3600, 0.08), Point("Q4_K_M", 5300, 0.006), Point("Q6_K", 7000, 0.001)]


@pytest.mark.parametrize(
    ("size", "family"),
    [(3000, "Q2_K"), (3599, "Q2_K"), (4000, "Q2_K"), (5299, "Q4_K_M"), (6000, "Q4_K_M"), (9000, "Q6_K")],
)
def test_the_family_is_the_smaller_neighbour_or_the_one_of_the_same_bytes(size: int, family: str) -> None:
    assert family_of(Point("h", size, 0.01), BASELINES) == family


def test_hybrids_are_numbered_within_their_family_from_the_largest() -> None:
    families = {"a": "Q2_K", "b": "Q2_K", "c": "Q6_K"}
    assert number_hybrids(families, {"a": 10, "b": 20, "c": 30}) == {"a": 2, "b": 1, "c": 1}


def test_file_names_are_v2_names() -> None:
    assert model_stem("My Model-bf16.gguf") == "My_Model"
    assert file_name("Tiny", "MQ", "Q4_K_M", 2) == "Tiny-MQ-Q4_K_M_2.gguf"
    assert file_name("Tiny", "MQ-UD", "Q4_K_XL") == "Tiny-MQ-UD-Q4_K_XL.gguf"


def test_the_v1_spec_is_exact_where_every_group_has_one_type(builtin_model: Path) -> None:
    with GGUFFile.open(builtin_model) as file:
        tensors = model_tensors(file)
    types = {n: "Q4_K" if t.quantizable else t.qtype_name for n, t in tensors.items()}
    types["token_embd.weight"] = types["output.weight"] = "Q6_K"
    spec = v1_spec(types, tensors)
    assert (spec.text, spec.is_exact) == ("Q4K-EH-Q6K", True)
    mixed = v1_spec(types | {"blk.0.ffn_down.weight": "Q5_K"}, tensors)
    assert (mixed.text, mixed.is_exact) == ("Q4K-EH-Q6K", False)
    preset = v1_spec(preset_types(builtin_model, "Q4_K_M", with_imatrix=True), tensors)
    assert not preset.is_exact


def test_labels_in_the_metadata_come_back_from_the_manifest(builtin_model: Path, tmp_path: Path) -> None:
    labels = {"mqnative.recipe.v1": "Q8_0"}
    with GGUFFile.open(builtin_model) as file:
        source = identify(file).model
        plan = plan_build(file, Recipe(base="Q8_0"), source_hash=source, labels=labels)
        path = tmp_path / "m.gguf"
        build_gguf(file, plan, path)
        manifest = manifest_of("test", file, plan, path, source_sha256=source, extra={"labels": labels})
        again = plan_rebuild(manifest, file, None).plan
        assert again.layout.header_bytes == plan.layout.header_bytes
        forged = parse_manifest({**manifest.to_json(), "labels": {"general.name": "other"}})
        with pytest.raises(ManifestError, match="labels"):
            plan_rebuild(forged, file, None)
    with GGUFFile.open(path) as written:
        assert written.get("mqnative.recipe.v1", "") == "Q8_0"


@pytest.mark.parametrize("providers", [("MQ", "MQ"), ("XY",)])
def test_providers_are_known_and_named_once(providers: tuple[str, ...]) -> None:
    with pytest.raises(BaselineError, match=providers[0]):
        HybridOptions(providers=providers).check()


def test_the_call_in_a_release_is_read_back_as_it_was_given() -> None:
    limit = r"blk\.(0|1)\.ffn_down\.weight"
    options = HybridOptions(
        presets=("Q8_0", "Q4_K_M"),
        externals=(External(Path("folder/a b.gguf"), "folder/a b.gguf"),),
        sizes=(5_000_000,),
        targets=("Q8_0", "Q6_K"),
        collapse=3,
        max_bytes=9_000_000,
        providers=("MQ",),
        spacing=0.1,
        verify_chunks=8,
        constraints=Constraints((Pin(limit, "Q6_K"), Floor("output.weight", "Q6_K"))),
    )
    words = shlex.split(command_text(Path("folder/m.gguf"), None, None, options))
    assert words[:2] == ["mqnative", "hybrids"]
    command = cli.get_command(click.Context(cli), "hybrids")
    assert command is not None
    with command.make_context("hybrids", words[2:]) as context:
        given = context.params
    for name in (
        "presets", "sizes", "collapse", "max_bytes", "providers", "spacing", "verify_chunks", "n_ctx",
        "probe_chunks", "select_chunks", "refine_rounds",
    ):  # fmt: skip
        assert given[name] == getattr(options, name), name
    assert given["types"] == options.targets
    assert given["externals"] == ("a b.gguf",)
    assert given["pins"] == (f"{limit}=Q6_K",)
    assert given["floors"] == ("output.weight=Q6_K",)
