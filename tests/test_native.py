"""Loading the compiled module: what it says of itself, and what is said where it cannot run."""

from __future__ import annotations

import importlib
import logging
import os
import re
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import mqnative
from mqnative.app.doctor import doctor
from mqnative.core import info as info_module
from mqnative.core import native
from mqnative.core.info import Backend, backends, build_info, devices
from mqnative.core.model import Model
from mqnative.core.presets import upstream_quantize
from mqnative.errors import MissingCoreError, MQNativeError, UnsupportedTypeError
from mqnative.formats.qtypes import all_types

ROOT = Path(__file__).parent.parent


def load_core() -> object:
    """The loader itself, without what it remembers."""
    return native.core.__wrapped__()


# ---- Processors -------------------------------------------------------------------------------------


def test_this_processor_has_all_that_the_build_uses() -> None:
    assert native.missing_cpu_features(native.core().build_info()["isa"]) == []


def test_a_processor_that_lacks_features_is_told_which_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native, "cpu_flags", lambda: frozenset({"sse4_2", "avx", "f16c"}))
    monkeypatch.setattr(
        importlib.import_module("mqnative._build_config"), "ISA", "SSE42 AVX AVX2 BMI2 FMA F16C"
    )
    with pytest.raises(MissingCoreError, match="AVX2 BMI2 FMA, which this processor lacks") as caught:
        load_core()
    assert "GGML_NATIVE=ON" in caught.value.message
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value, MQNativeError)


def test_an_unknown_processor_is_not_accused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the features cannot be read (no /proc), nothing is missing."""
    monkeypatch.setattr(native, "cpu_flags", frozenset)
    assert native.missing_cpu_features("AVX2 AVX512") == []


@pytest.mark.parametrize(
    ("isa", "flags", "missing"),
    [
        ("", {"sse4_2"}, []),
        ("NATIVE", {"sse4_2"}, []),
        ("SSE42 AVX2", {"sse4_2", "avx2"}, []),
        ("AVX512 AVX512_VNNI", {"avx512f"}, ["AVX512_VNNI"]),
        ("AVX2", {"avx"}, ["AVX2"]),
    ],
)
def test_missing_features_are_listed_by_the_builds_names(
    isa: str, flags: set[str], missing: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "cpu_flags", lambda: frozenset(flags))
    assert native.missing_cpu_features(isa) == missing


def test_a_package_that_was_never_built_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mqnative._build_config", None)  # makes its import fail
    with pytest.raises(MissingCoreError, match="pip install") as caught:
        load_core()
    assert isinstance(caught.value.__cause__, ImportError)


def test_a_cuda_build_without_cudas_libraries_names_them_and_their_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(name: str) -> ModuleType:
        if name == "mqnative._build_config":
            return SimpleNamespace(ISA="", CUDA="13.0.88")  # type: ignore[return-value]
        raise ImportError("libcublas.so.13: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(native.importlib, "import_module", refuse)
    with pytest.raises(MissingCoreError) as caught:
        load_core()
    message = caught.value.message
    assert "libcublas.so.13 is not found" in message
    assert "pip install 'nvidia-cuda-runtime==13.*' 'nvidia-cublas==13.*'" in message
    assert isinstance(caught.value.__cause__, ImportError)


def test_what_the_loader_says_decides_the_advice() -> None:
    older = native.missing_library("libcudart.so.12: cannot open shared object file", "12.4.1")
    assert "'nvidia-cuda-runtime-cu12==12.*' 'nvidia-cublas-cu12==12.*'" in older
    other = native.missing_library("libm.so.6: version `GLIBC_2.99' not found", "13.0.88")
    assert "GLIBC_2.99" in other
    assert "nvidia" not in other


def test_the_formats_can_be_imported_without_the_compiled_module() -> None:
    script = """
import sys
sys.modules["mqnative._core"] = sys.modules["mqnative._build_config"] = None
import numpy
import mqnative
from mqnative.errors import MissingCoreError
from mqnative.formats import gguf, imatrix, recipe
from mqnative.core import model, presets, quantize
try:
    quantize.quantize(numpy.zeros((1, 32), numpy.float32), "Q4_0")
except MissingCoreError:
    print("asked for it on first use")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "asked for it on first use", done.stderr


# ---- What the build says of itself --------------------------------------------------------------------


def pinned_commit() -> str:
    text = (ROOT / "third_party" / "llama.cpp.pin").read_text(encoding="utf-8")
    return re.search(r"^commit = (\S+)$", text, re.MULTILINE)[1]  # type: ignore[index]


def test_the_core_names_version_commit_compiler_and_isa() -> None:
    info = native.core().build_info()
    assert set(info) == {
        "version", "upstream_commit", "llama_cpp_version", "ggml_version", "compiler", "build_type", "isa",
        "cuda",
    }  # fmt: skip
    assert info["version"] == version("mqnative") == mqnative.__version__
    assert info["upstream_commit"] == pinned_commit()
    assert info["isa"] == importlib.import_module("mqnative._build_config").ISA
    assert re.fullmatch(r"\S+ \d+(\.\d+)+", info["compiler"])
    assert re.match(r"\d+\.\d+", info["ggml_version"])
    assert all(value for key, value in info.items() if key != "cuda")
    assert info["cuda"] == importlib.import_module("mqnative._build_config").CUDA


def test_build_info_adds_the_machine() -> None:
    info = build_info()
    assert info["isa"] == native.core().build_info()["isa"].split()
    assert info["n_threads"] == native.usable_cpus() >= 1
    assert "CPU" in info["features"]
    assert [d["name"] for d in info["devices"]] == [d.name for d in devices()]


def test_every_back_end_has_a_device_or_says_why_not() -> None:
    info = build_info()
    found = {b["name"]: b for b in info["backends"]}
    assert found["CPU"] == {"name": "CPU", "n_devices": 1, "trouble": None}
    assert ("CUDA" in found) == bool(info["cuda"])
    for backend in info["backends"]:
        assert (backend["trouble"] is None) == (backend["n_devices"] > 0)


def test_a_back_end_without_a_device_says_why_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected"
    fake = SimpleNamespace(startup_errors=lambda: said, backends=lambda: [("CUDA", 0), ("CPU", 1)])
    monkeypatch.setattr(info_module, "core", lambda: fake)
    assert backends() == (Backend("CUDA", 0, said), Backend("CPU", 1))


def test_doctor_tells_of_a_back_end_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    told = build_info() | {
        "backends": [{"name": "CUDA", "n_devices": 0, "trouble": "no driver"}],
        "cuda": "13.0",
    }
    monkeypatch.setattr(info_module, "build_info", lambda: told)
    result = CliRunner().invoke(doctor)
    assert result.exit_code == 0
    assert "This build has CUDA, but this machine no device for it: no driver." in " ".join(
        result.output.split()
    )


def test_the_processor_is_a_device_that_multiplies_with_every_type_it_can_write() -> None:
    cpu = next(d for d in devices() if d.kind == "cpu")
    assert cpu.name == "CPU"
    assert 0 < cpu.memory_free_bytes <= cpu.memory_total_bytes
    assert {t.name for t in all_types().values() if t.is_target} <= set(cpu.matmul_types)


# ---- Upstream's log ------------------------------------------------------------------------------------


def test_upstreams_lines_become_log_records_not_output(
    builtin_model: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG, logger="mqnative.llama")
    with Model(builtin_model, n_threads=1):
        pass
    lines = [r for r in caplog.records if r.name == "mqnative.llama"]
    assert any("general.architecture" in r.getMessage() for r in lines)
    assert not any("\n" in r.getMessage() for r in lines)
    assert max(r.levelno for r in lines) < logging.WARNING
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_the_log_of_a_quantization_is_forwarded_too(
    builtin_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG, logger="mqnative.llama")
    upstream_quantize(builtin_model, tmp_path / "out.gguf", "Q8_0", n_threads=1)
    text = "\n".join(r.getMessage() for r in caplog.records)
    assert "blk.7.attn_v.weight" in text
    assert "quant size" in text
    assert capfd.readouterr() == ("", "")


def test_lines_that_nobody_fetched_do_not_pile_up(builtin_model: Path) -> None:
    """The last 1000 are kept; a dry run writes more than a hundred."""
    for _ in range(40):
        native.core().upstream_plan(os.fsencode(builtin_model), 7, False, [], {})
    assert len(native.core().drain_log()) == 1000
    assert native.core().drain_log() == []


def test_progress_of_one_thread_is_not_read_from_the_log_of_another(
    builtin_model: Path, tmp_path: Path, recording_monitor: Any
) -> None:
    """Two runs at different speeds: lines of the fast one would make the slow one jump back."""
    monitors = {name: type(recording_monitor)() for name in ("IQ4_XS", "Q8_0")}

    def work(name: str) -> None:
        out = tmp_path / f"{name}.gguf"
        upstream_quantize(builtin_model, out, name, n_threads=1, monitor=monitors[name])

    threads = [threading.Thread(target=work, args=(name,)) for name in monitors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(monitors["IQ4_XS"].updates) > 3
    for monitor in monitors.values():
        assert monitor.updates == sorted(monitor.updates)


def test_an_error_of_the_core_is_one_of_ours_with_its_fields() -> None:
    with pytest.raises(UnsupportedTypeError) as caught:
        native.core().quantize(
            np.zeros((1, 32), np.float32), 0, (1, 1, 32), 9999, np.zeros(1, np.uint8), None, 1, None
        )
    assert type(caught.value) is UnsupportedTypeError
    assert caught.value.to_dict() == {
        "error": "UnsupportedTypeError",
        "message": "ggml has no type number 9999",
        "reason": "unknown type",
    }


@pytest.mark.parametrize("number", [-1, 4, 5, 31, 36, 10_000])
def test_numbers_of_removed_and_unknown_types_are_refused(number: int) -> None:
    """4 and 5 were Q4_2 and Q4_3; 31 to 33 and 36 to 38 were interleaved forms."""
    with pytest.raises(MQNativeError, match=f"no type number {number}"):
        native.core().uses_imatrix(number)


def test_usable_processors_are_those_of_the_affinity_mask() -> None:
    if hasattr(os, "sched_getaffinity"):
        assert native.usable_cpus() == len(os.sched_getaffinity(0))
    assert native.usable_cpus() >= 1


def test_nothing_of_the_package_is_loaded_with_a_bare_import() -> None:
    script = "import sys, mqnative; print([m for m in sys.modules if m.startswith('mqnative.')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_numpy_is_not_needed_to_import_the_errors() -> None:
    script = "import sys; sys.modules['numpy'] = None; import mqnative.errors; print('ok')"
    done: Any = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "ok"
