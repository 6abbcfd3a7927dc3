"""Manifests: what is written reads back, what is broken is named, what differs is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqnative.build.plan import plan_build
from mqnative.build.rebuild import check_rebuilt, find_beside, manifest_of, plan_rebuild
from mqnative.build.writer import build_gguf
from mqnative.errors import ImatrixError, ManifestError
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.imatrix import write_imatrix
from mqnative.formats.imatrix_data import Imatrix, ImatrixEntry
from mqnative.formats.manifest import (
    ImatrixRef,
    Manifest,
    Source,
    parse_manifest,
    read_manifest,
    write_manifest,
)
from mqnative.formats.qtypes import all_types
from mqnative.formats.recipe import Recipe
from mqnative.source.identity import identify
from tiny_models import TinyModels

Built = tuple[Path, Path, Manifest]
HASH = "0123456789abcdef" * 4
PLAIN = Manifest(
    made_by="build",
    source=Source(HASH, "m.gguf", "M", "qwen3"),
    imatrix=ImatrixRef(HASH, "i.gguf", "work/i.gguf", 7, "t.txt"),
    types={"token_embd.weight": "Q8_0"},
    shapes={"token_embd.weight": (256, 4)},
    model_file="mix.gguf",
    model_sha256=HASH,
    size_bytes=12,
    build={"version": "0"},
    extra={"bpw": 8.5},
)

names = st.text(min_size=1, max_size=8)
manifests = st.builds(
    Manifest,
    made_by=names,
    source=st.builds(Source, st.just(HASH), st.sampled_from(["", "m.gguf"]), st.text(), st.text()),
    imatrix=st.none() | st.just(PLAIN.imatrix),
    types=st.dictionaries(names, st.sampled_from(list(all_types()))),
    shapes=st.dictionaries(names, st.lists(st.integers(1, 2**15), min_size=1, max_size=4).map(tuple)),
    model_file=st.sampled_from(["a.gguf", "ä b.gguf"]),
    model_sha256=st.sampled_from(["", HASH]),
    size_bytes=st.integers(0, 2**50),
    allow_requantize=st.booleans(),
    build=st.dictionaries(names, st.integers()),
    extra=st.dictionaries(st.sampled_from(["evaluation", "files", "x"]), st.lists(st.floats(0, 1))),
)


@given(manifests)
def test_what_is_written_reads_back(manifest: Manifest) -> None:
    assert parse_manifest(json.loads(json.dumps(manifest.to_json()))) == manifest


def test_a_file_reads_back(tmp_path: Path) -> None:
    write_manifest(tmp_path / "m.json", PLAIN)
    assert read_manifest(tmp_path / "m.json") == PLAIN


def test_a_manifest_of_the_first_version_that_named_no_source_is_read() -> None:
    document = PLAIN.to_json()
    for key in ("source", "imatrix", "shapes", "made_by", "allow_requantize"):
        del document[key]
    found = parse_manifest(document)
    assert found.source == Source(HASH)
    assert found.imatrix == ImatrixRef(HASH, "imatrix.gguf", "work/imatrix.gguf")
    assert (found.made_by, found.shapes) == ("auto", {})


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"mqnative": "manifest/9"}, "mqnative"),
        ({"mqnative": None}, "mqnative"),
        ({"model_file": "../up.gguf"}, "model_file"),
        ({"model_file": ""}, "model_file"),
        ({"model_file": 3}, "model_file"),
        ({"size_bytes": -1}, "size_bytes"),
        ({"size_bytes": True}, "size_bytes"),
        ({"size_bytes": "1"}, "size_bytes"),
        ({"source_sha256": "abc"}, "source_sha256"),
        ({"source_sha256": None}, "source_sha256"),
        ({"source": {"file": "/etc/passwd"}}, "file"),
        ({"imatrix_sha256": "XYZ"}, "imatrix_sha256"),
        ({"imatrix": {"file": "/etc/passwd"}}, "file"),
        ({"imatrix": {"file": "a/../../b"}}, "file"),
        ({"imatrix": {"chunk_count": -1}}, "chunk_count"),
        ({"types": []}, "types"),
        ({"types": None}, "types"),
        ({"types": {"a": "IQ4_KS"}}, "types.a"),
        ({"types": {"a": 3}}, "types.a"),
        ({"shapes": {"a": []}}, "shapes.a"),
        ({"shapes": {"a": [0]}}, "shapes.a"),
        ({"shapes": {"a": [2**40, 2**40]}}, "shapes.a"),
        ({"files_sha256": {"mix.gguf": "no"}}, "mix.gguf"),
        ({"build": 1}, "build"),
    ],
)
def test_a_broken_manifest_names_the_key(change: dict[str, Any], key: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_manifest({**PLAIN.to_json(), **change}, "m.json")
    assert caught.value.key == key
    assert caught.value.path == "m.json"


def test_a_forks_private_type_names_the_tensor() -> None:
    with pytest.raises(ManifestError, match="IQ4_KS") as caught:
        parse_manifest({**PLAIN.to_json(), "types": {"blk.0.attn_q.weight": "IQ4_KS"}})
    assert caught.value.tensor == "blk.0.attn_q.weight"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"NaN", b'{"mqnative": NaN}', b"[" * 100_000]
)
def test_what_is_no_manifest_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_bytes(content)
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert caught.value.path == str(path)


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(ManifestError, match="cannot read") as caught:
            read_manifest(path)
        assert caught.value.path == str(path)


# ---- Building again ---------------------------------------------------------------------------------


def some_imatrix(file: GGUFFile, **labels: Any) -> Imatrix:
    import numpy as np

    entries = {}
    for name, info in file.tensors.items():
        if name.endswith("weight") and len(info.shape) == 2 and name != "token_embd.weight":
            rng = np.random.default_rng(len(entries))
            squares = rng.random((1, info.shape[0]), np.float32) + 0.1
            entries[name] = ImatrixEntry(sum_squares=squares, counts=np.ones(1, np.float32))
    return Imatrix(entries, **labels)


@pytest.fixture
def built(tiny_models: TinyModels, tmp_path: Path) -> Built:
    """(source, imatrix, manifest) of a file made with labelled importances."""
    source, folder = tiny_models.dense, tmp_path / "first"
    folder.mkdir()
    with GGUFFile.open(source) as file:
        imatrix = some_imatrix(file, datasets=("somewhere/text.txt",), chunk_count=5, chunk_size=512)
        sha = identify(file).model
        plan = plan_build(
            file,
            Recipe(base="IQ2_XS", tensors={"token_embd.weight": "Q4_K"}),
            imatrix,
            imatrix_name="i.gguf",
            source_hash=sha,
        )
        output = folder / "mix.gguf"
        build_gguf(file, plan, output)
        manifest = manifest_of("build", file, plan, output, source_sha256=sha, imatrix_name="i.gguf")
    path = tmp_path / "relabelled.gguf"
    write_imatrix(path, replace(imatrix, datasets=("other.txt",), chunk_count=1))
    return source, path, manifest


def test_the_same_bytes_come_out_even_of_relabelled_importances(built: Built, tmp_path: Path) -> None:
    source, imatrix, manifest = built
    again = tmp_path / "again.gguf"
    with GGUFFile.open(source) as file:
        build_gguf(file, plan_rebuild(manifest, file, imatrix).plan, again)
    assert check_rebuilt(manifest, again) == manifest.model_sha256
    assert again.read_bytes() == (tmp_path / "first" / "mix.gguf").read_bytes()


def test_another_model_is_told(built: Built, tiny_models: TinyModels) -> None:
    _, imatrix, manifest = built
    with (
        GGUFFile.open(tiny_models.moe) as file,
        pytest.raises(ManifestError, match="another model") as caught,
    ):
        plan_rebuild(manifest, file, imatrix)
    assert caught.value.tensor is not None


def test_another_model_of_the_same_shape_is_told(built: Built, tmp_path: Path) -> None:
    source, imatrix, manifest = built
    other = tmp_path / "other.gguf"
    raw = bytearray(source.read_bytes())
    raw[-1] ^= 1
    other.write_bytes(raw)
    with GGUFFile.open(other) as file, pytest.raises(ManifestError, match="clone") as caught:
        plan_rebuild(manifest, file, imatrix)
    assert (caught.value.key, caught.value.expected) == ("source_sha256", manifest.source.sha256)
    assert caught.value.got != manifest.source.sha256


def test_missing_and_other_importances_are_told(built: Built, tmp_path: Path) -> None:
    source, _, manifest = built
    with GGUFFile.open(source) as file:
        with pytest.raises(ManifestError, match="--imatrix") as caught:
            plan_rebuild(manifest, file, None)
        assert caught.value.key == "imatrix_sha256"
        other = tmp_path / "other.gguf"
        first = some_imatrix(file)
        write_imatrix(other, Imatrix(dict(list(first.entries.items())[1:])))
        with pytest.raises(ManifestError) as caught:
            plan_rebuild(manifest, file, other)
        assert caught.value.path == str(other)
        with pytest.raises(ImatrixError):
            plan_rebuild(manifest, file, tmp_path / "none.gguf")


def test_a_plan_of_another_size_is_told(built: Built) -> None:
    source, imatrix, manifest = built
    with GGUFFile.open(source) as file, pytest.raises(ManifestError) as caught:
        plan_rebuild(replace(manifest, size_bytes=1), file, imatrix)
    assert caught.value.key == "size_bytes"


def test_other_bytes_are_told(built: Built, tmp_path: Path) -> None:
    _, _, manifest = built
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"x")
    with pytest.raises(ManifestError, match="another build") as caught:
        check_rebuilt(manifest, wrong)
    assert caught.value.expected == manifest.model_sha256


def test_inputs_are_found_beside_the_manifest_and_in_its_work_folder(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "i.gguf").touch()
    manifest = tmp_path / "manifest.json"
    assert find_beside(manifest, ["", "none.gguf", "i.gguf"]) == tmp_path / "work" / "i.gguf"
    (tmp_path / "i.gguf").touch()
    assert find_beside(manifest, ["i.gguf"]) == tmp_path / "i.gguf"
    assert find_beside(manifest, ["none.gguf"]) is None
