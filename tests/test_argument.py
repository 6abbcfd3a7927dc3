"""A MODEL argument is a file, a folder or a hub id; what exists on this machine comes first."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqnative.errors import SourceError
from mqnative.source.argument import FolderPath, GGUFPath, HubModel, parse_source


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Qwen/Qwen3-0.6B", HubModel("Qwen/Qwen3-0.6B")),
        ("Qwen/Qwen3-0.6B@v1.0", HubModel("Qwen/Qwen3-0.6B", "v1.0")),
        ("a/b@refs/pr/3", HubModel("a/b", "refs/pr/3")),
        ("a/b@feature@2", HubModel("a/b", "feature@2")),
        ("a/b/c.gguf", HubModel("a/b", None, "c.gguf")),
        ("a/b/BF16/c-00001-of-00002.gguf@main", HubModel("a/b", "main", "BF16/c-00001-of-00002.gguf")),
        ("hf:a/b", HubModel("a/b")),
        ("hf://a/b@x", HubModel("a/b", "x")),
        ("models/model.gguf", GGUFPath(Path("models/model.gguf"))),
        ("model.gguf", GGUFPath(Path("model.gguf"))),
        ("./a/b", GGUFPath(Path("a/b"))),
        ("../a/b", GGUFPath(Path("../a/b"))),
        ("/a/b", GGUFPath(Path("/a/b"))),
        ("~/a", GGUFPath(Path("~/a"))),
        ("a/b/c", GGUFPath(Path("a/b/c"))),
        ("a\0b", GGUFPath(Path("a\0b"))),
    ],
)
def test_what_an_argument_means(
    text: str, expected: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_source(text) == expected


def test_what_exists_comes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "name").mkdir()
    (tmp_path / "org" / "file").write_bytes(b"")
    assert parse_source("org/name") == FolderPath(Path("org/name"))
    assert parse_source("org/file") == GGUFPath(Path("org/file"))
    assert parse_source("org/other") == HubModel("org/other")
    assert parse_source("hf:org/name") == HubModel("org/name")
    assert parse_source(Path("org/name")) == FolderPath(Path("org/name"))


@pytest.mark.parametrize(
    "text", ["a/b@", "a/b--c", "hf:a", "hf:a/b/c", "hf:", "a/b.git", "hf:-a/b", "hf:a/b."]
)
def test_what_cannot_be_a_hub_id_is_refused(text: str) -> None:
    with pytest.raises(SourceError, match="no hub id; write org/name"):
        parse_source(text)


def test_an_address_is_answered_with_its_id() -> None:
    address = "https" + "://hub.example/org/name/tree/v2"
    with pytest.raises(SourceError, match="give the hub id org/name@v2"):
        parse_source(address)


@given(st.text())
def test_any_text_is_something_or_refused(text: str) -> None:
    with suppress(SourceError):
        assert isinstance(parse_source(text), (GGUFPath, FolderPath, HubModel))


NAMES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9]|[._](?=[A-Za-z0-9])){0,20}", fullmatch=True)


@given(NAMES, NAMES, st.none() | st.from_regex(r"[a-z0-9][a-z0-9/._-]{0,20}", fullmatch=True))
def test_a_hub_id_is_read_back_from_its_text(owner: str, name: str, revision: str | None) -> None:
    model = HubModel(f"{owner}/{name}", revision)
    if not name.endswith((".git", "_")) and not owner.endswith("_"):
        assert parse_source(f"hf:{model}") == model
