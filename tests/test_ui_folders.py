"""Paths that people type into the page: only the folders that it was given."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqnative.app.ui.folders import Folders
from mqnative.errors import SourceError


@pytest.fixture
def given(tmp_path: Path) -> Path:
    folder = tmp_path / "given"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "model.gguf").write_bytes(b"GGUF")
    (tmp_path / "secret.gguf").write_bytes(b"GGUF")
    return folder


@pytest.mark.parametrize("text", ["sub/model.gguf", "./sub/../sub/model.gguf", " sub/model.gguf "])
def test_paths_inside_are_found(given: Path, text: str) -> None:
    assert Folders([given]).path(text) == (given / "sub" / "model.gguf").resolve()


@pytest.mark.parametrize(
    "text",
    [
        "../secret.gguf",
        "sub/../../secret.gguf",
        "/etc/passwd",
        "~/x.gguf",
        "/",
        "..",
        "sub/../..",
        "/proc/self",
    ],
)
def test_paths_outside_are_refused(given: Path, text: str) -> None:
    with pytest.raises(SourceError, match="outside of the folders"):
        Folders([given]).path(text)


def test_a_link_that_leads_outside_is_refused(given: Path) -> None:
    (given / "link.gguf").symlink_to(given.parent / "secret.gguf")
    (given / "up").symlink_to(given.parent)
    for text in ("link.gguf", "up/secret.gguf"):
        with pytest.raises(SourceError, match="outside"):
            Folders([given]).path(text)
    assert given / "link.gguf" not in Folders([given]).models()


def test_a_folder_with_the_same_beginning_is_another_folder(given: Path) -> None:
    other = given.parent / "given-not"
    other.mkdir()
    (other / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(SourceError):
        Folders([given]).path(str(other / "model.gguf"))


@pytest.mark.parametrize("text", ["", "   ", "a\0b"])
def test_nothing_and_zero_bytes_are_no_paths(given: Path, text: str) -> None:
    with pytest.raises(SourceError, match="type the path"):
        Folders([given]).path(text)


def test_loops_and_endless_names_are_refused_not_raised(given: Path) -> None:
    (given / "loop").symlink_to(given / "loop")
    for text in ("loop", "x" * 5000):
        with pytest.raises(SourceError):
            Folders([given]).path(text)


def test_what_is_not_there_says_so_unless_it_may_be_made(given: Path) -> None:
    with pytest.raises(SourceError, match="is not there"):
        Folders([given]).path("sub/none.gguf")
    assert Folders([given]).path("sub/new", must_exist=False) == (given / "sub" / "new").resolve()


def test_models_and_finished_runs_are_found_nearby(given: Path) -> None:
    for name in ("a-00001-of-00002.gguf", "a-00002-of-00002.gguf", "imatrix.gguf", "b.txt"):
        (given / name).write_bytes(b"x")
    (given / "run").mkdir()
    (given / "run" / "report.json").write_text("{}")
    (given / ".hidden").mkdir()
    (given / ".hidden" / "c.gguf").write_bytes(b"x")
    found = [str(p.relative_to(given)) for p in Folders([given]).models()]
    assert found == ["a-00001-of-00002.gguf", "run", "sub/model.gguf"]


def test_paths_are_shown_relative_to_their_folder(given: Path) -> None:
    folders = Folders([given])
    assert folders.shown(given.resolve() / "sub" / "model.gguf") == "sub/model.gguf"
    assert folders.shown(Path("/elsewhere/x")) == "/elsewhere/x"
