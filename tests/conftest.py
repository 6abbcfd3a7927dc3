"""What the tests share: models, texts, a recording monitor, upstream's tools."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

# Modules beside this file (tiny_models, golden_inputs) are imported by plain name: with
# --import-mode=importlib pytest leaves sys.path alone.
sys.path.insert(0, str(Path(__file__).parent))

from mqnative import builtin
from mqnative.errors import MissingCoreError
from tiny_models import TinyModels

UPSTREAM_BIN_VARIABLE = "MQNATIVE_UPSTREAM_BIN"


def pytest_configure() -> None:
    """Let Ctrl-C through to the processes that tests start and interrupt; keep to a store of their own.

    A runner in the background has SIGINT ignored, one under nohup SIGHUP, which programs inherit; a handler
    of our own, or the default, they do not.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # Nothing that a user or an earlier run has measured or encoded answers for the code under test.
    folder = tempfile.mkdtemp(prefix="mqnative-tests-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["MQNATIVE_HOME"] = folder


def pytest_report_header() -> list[str]:
    from mqnative.core.native import core

    tools = os.environ.get(UPSTREAM_BIN_VARIABLE, "not set")
    try:
        info = core().build_info()
    except MissingCoreError as error:
        return [f"mqnative: {error}"]
    return [
        f"mqnative {info['version']}, llama.cpp {info['upstream_commit']}, isa {info['isa']}, "
        f"{info['compiler']} {info['build_type']}",
        f"{UPSTREAM_BIN_VARIABLE}: {tools}",
        f"GPUs: {', '.join(GPUS) or 'none'}",
    ]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get(UPSTREAM_BIN_VARIABLE):
        return
    reason = f"{UPSTREAM_BIN_VARIABLE} does not name a folder with llama.cpp's own tools"
    for item in items:
        if item.get_closest_marker("upstream"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def upstream_bin() -> Path:
    """The folder of llama.cpp's own tools; only for tests marked ``upstream``."""
    folder = Path(os.environ[UPSTREAM_BIN_VARIABLE])
    if not (folder / "llama-quantize").is_file():
        pytest.fail(f"{UPSTREAM_BIN_VARIABLE}={folder} holds no llama-quantize")
    return folder


def gpu_names() -> list[str]:
    """The GPUs of this build on this machine."""
    from mqnative.core.info import devices

    try:
        return [d.name for d in devices() if d.kind in ("gpu", "igpu")]
    except MissingCoreError:
        return []


GPUS = gpu_names()


@pytest.fixture(scope="session", params=["cpu", "planned", *GPUS])
def device(request: pytest.FixtureRequest) -> str:
    """Where a model computes: main memory, memory that only its device may touch, and every GPU there is."""
    return str(request.param)


@pytest.fixture(scope="session", params=GPUS or [None])
def gpu(request: pytest.FixtureRequest) -> str:
    """Every GPU there is."""
    if request.param is None:
        pytest.skip("no GPU, or a build without a back end for it: this can only be seen on one")
    return str(request.param)


@pytest.fixture(scope="session")
def builtin_model() -> Path:
    """The model that comes with the package: Qwen3, 8 layers, BF16."""
    return builtin.MODEL


@pytest.fixture(scope="session")
def calib_text() -> str:
    return builtin.CALIB_TEXT.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def eval_text() -> str:
    return builtin.EVAL_TEXT.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """Seeded models of several architectures, each written once, when first asked for."""
    return TinyModels(tmp_path_factory.mktemp("tiny-models"))


@dataclass
class RecordingMonitor:
    """Writes down what it is told.

    Attributes:
        started: (step, total, unit) of every start.
        updates: every figure of progress.
        finished: number of steps that ended well.
    """

    started: list[tuple[str, int, str]] = field(default_factory=list)
    updates: list[int] = field(default_factory=list)
    finished: int = 0

    def start(self, step: str, total: int, unit: str) -> None:
        self.started.append((step, total, unit))

    def update(self, done: int) -> None:
        self.updates.append(done)

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def recording_monitor() -> RecordingMonitor:
    return RecordingMonitor()
