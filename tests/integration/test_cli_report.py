"""``mqnative report`` as people run it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli_process import FAILED, mqnative, succeed
from mqnative.report.jsonform import to_json
from report_samples import dense


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(to_json(dense())))
    return folder


def test_every_form_is_written_from_one_report(run_folder: Path, tmp_path: Path) -> None:
    done = succeed("report", run_folder, "-o", tmp_path / "out", "--json")
    names = {Path(p).name for p in done.json["files"]}
    assert {"report.html", "report.md", "report.json", "size-kld.svg"} <= names
    assert all(Path(p).stat().st_size > 0 for p in done.json["files"])
    assert "<script src" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_second_run_rewrites_nothing_and_another_report_needs_force(
    run_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    succeed("report", run_folder, "-o", out)
    before = (out / "report.html").stat().st_mtime_ns
    succeed("report", run_folder, "-o", out)
    assert (out / "report.html").stat().st_mtime_ns == before
    value = to_json(dense()) | {"title": "another"}
    (run_folder / "report.json").write_text(json.dumps(value))
    assert "--force" in mqnative("report", run_folder, "-o", out).err
    succeed("report", run_folder, "-o", out, "--force")
    assert "another" in (out / "report.md").read_text(encoding="utf-8")


def test_a_folder_without_a_report_is_named(tmp_path: Path) -> None:
    done = mqnative("report", tmp_path, "--json")
    assert done.code == FAILED
    assert done.json["error"] == "SourceError"
    assert "report.json" in done.err


def test_the_page_refuses_folders_and_tokens_that_are_none(tmp_path: Path) -> None:
    done = mqnative("ui", tmp_path / "none", "--no-browser")
    assert done.code == FAILED
    assert "is no folder" in done.err
    done = mqnative("ui", tmp_path, "--no-browser", "--token", "a b;c")
    assert "a token is made of" in done.err
