"""Every task by name: `nox` runs the tests, `nox -l` lists the rest."""

from __future__ import annotations

from pathlib import Path

import nox

nox.options.sessions = ["tests"]
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True

HERE = Path(__file__).parent
# llama.cpp's own tools are compiled from the same tree, so that golden tests can ask them.
BUILD_DIR = HERE / "build" / "tests"
WITH_TOOLS = [
    f"--config-settings=build-dir={BUILD_DIR}",
    "--config-settings=cmake.define.MQNATIVE_UPSTREAM_TOOLS=ON",
]


def install(session: nox.Session, extras: str = "test") -> dict[str, str]:
    """Install the package with its test tools; returns the environment the tests need."""
    session.install(f".[{extras}]", *WITH_TOOLS)
    return {"MQNATIVE_UPSTREAM_BIN": str(BUILD_DIR / "bin")}


@nox.session
def tests(session: nox.Session) -> None:
    """Compile, install, check the code, run every test."""
    env = install(session)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("clang-format", "--dry-run", "--Werror", *map(str, sorted((HERE / "csrc").glob("*.[ch]pp"))))
    session.run("pytest", *session.posargs, env=env)


@nox.session
def converter(session: nox.Session) -> None:
    """Try llama.cpp's converter, which takes torch; the first session leaves these tests out."""
    env = install(session, "test,convert")
    tests = ("tests/integration/test_convert.py", "tests/integration/test_hub_auto.py")
    session.run("pytest", *tests, *session.posargs, env=env)


@nox.session
def lint(session: nox.Session) -> None:
    """Format everything in place."""
    session.install("ruff", "clang-format")
    session.run("ruff", "format", ".")
    session.run("ruff", "check", "--fix", ".")
    session.run("clang-format", "-i", *map(str, sorted((HERE / "csrc").glob("*.[ch]pp"))))


@nox.session
def wheel(session: nox.Session) -> None:
    """Build sdist and wheel, and try the wheel in a clean environment without the source tree."""
    session.install("build")
    session.run("python", "-m", "build", "--outdir", "dist", ".")
    newest = max(Path("dist").glob("*.whl"), key=lambda p: p.stat().st_mtime)
    session.install("--force-reinstall", str(newest))
    with session.chdir(session.create_tmp()):
        session.run("mqnative", "doctor")
