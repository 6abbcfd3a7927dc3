"""The code's own rules: layers, a kernel without Python, a stub that tells the truth."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mqnative
from mqnative.app.cli import COMMANDS, cli
from mqnative.core.native import core

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "python" / "mqnative"
# Imports point left only. Folders on one line are independent of each other.
LAYERS = (
    {"errors", "builtin", "_core", "_build_config"},
    {"formats"},
    {"store", "core"},
    {"source"},
    {"measure"},
    {"predict"},
    {"solve"},
    {"refine"},
    {"build"},
    {"hybrids"},
    {"report"},
    {"jobs"},
    {"app"},
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
# The one step back: a type's sizes are read from the compiled module, not kept in a list.
EXCEPTIONS = {("formats/qtypes.py", "core")}


def modules() -> list[Path]:
    return [p for p in sorted(PACKAGE.rglob("*.py")) if p.parent != PACKAGE]


def imported_layers(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module]
    names += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    return {n.split(".")[1] for n in names if n.startswith("mqnative.")}


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_to_lower_layers_only(path: Path) -> None:
    relative = path.relative_to(PACKAGE).as_posix()
    layer = relative.split("/")[0]
    for other in imported_layers(path) - {layer}:
        assert RANK[other] < RANK[layer] or (relative, other) in EXCEPTIONS, f"{relative} imports {other}"


@pytest.mark.parametrize("path", sorted((ROOT / "csrc").glob("*.*pp")), ids=lambda p: p.name)
def test_kernels_know_no_python(path: Path) -> None:
    allowed = path.name.startswith("bind") or path.name == "module.cpp"
    mentions = re.search(r"pybind11|Python\.h|py::|binding\.hpp", path.read_text(encoding="utf-8"))
    assert allowed or mentions is None


def test_version_is_the_same_in_package_and_compiled_module() -> None:
    assert core().build_info()["version"] == mqnative.__version__


def test_pinned_commit_is_what_was_compiled() -> None:
    pin = (ROOT / "third_party" / "llama.cpp.pin").read_text(encoding="utf-8")
    commit = re.search(r"^commit = (\w+)$", pin, re.M)
    assert commit is not None
    assert core().build_info()["upstream_commit"] == commit.group(1)


def test_stub_matches_the_compiled_module() -> None:
    command = [sys.executable, "-m", "mypy.stubtest", "mqnative._core"]
    command += ["--allowlist", str(ROOT / "tests" / "stubtest-allowlist.txt"), "--ignore-unused-allowlist"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_public_name_can_be_loaded() -> None:
    for name in dir(mqnative):
        assert getattr(mqnative, name) is not None


def test_importing_the_package_and_its_help_load_nothing_heavy() -> None:
    heavy = {"numpy", "rich", "yaml", "huggingface_hub", "gguf", "mqnative._core"}
    code = (
        "import sys, mqnative; from mqnative.app.cli import run; run(['--help']);"
        f"print(sorted(set(sys.modules) & {heavy!r}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_an_example_and_the_listed_summary(name: str) -> None:
    command = cli.commands.get(name) or cli.get_command(None, name)  # type: ignore[arg-type]
    assert command is not None
    assert command.help
    assert command.epilog is not None
    assert command.epilog.removeprefix("\b\n").startswith(f"Example: mqnative {name}")
    assert command.short_help == COMMANDS[name][1]


def test_no_address_or_machine_path_is_committed() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    banned = re.compile(r"https?://(?!localhost|127\.0\.0\.1|\{)|/home/\w|/work/\w|/root/\w")
    texts = [ROOT / name for name in listed.stdout.splitlines() if Path(name).suffix not in (".gguf", ".txt")]
    offenders = []
    for path in texts:
        if path.is_file() and path != Path(__file__):
            found = banned.search(path.read_text(encoding="utf-8", errors="ignore"))
            if found:
                offenders.append(f"{path.relative_to(ROOT)}: {found.group()}")
    assert offenders == []
