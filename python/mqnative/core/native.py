"""Loads the compiled module, or says why it cannot be loaded.

The module holds instructions that an old processor lacks; running them would kill the interpreter, so the
processor is asked first. Upstream's log lines become records of the logger ``mqnative.llama``.
"""

from __future__ import annotations

import importlib
import logging
import os
from functools import cache
from pathlib import Path
from types import ModuleType

from mqnative.errors import MissingCoreError, ShapeError

# /proc/cpuinfo's names of the features in the build's ISA list.
_CPU_FLAGS = {
    "SSE42": "sse4_2",
    "AVX": "avx",
    "AVX2": "avx2",
    "BMI2": "bmi2",
    "FMA": "fma",
    "F16C": "f16c",
    "AVX_VNNI": "avx_vnni",
    "AVX512": "avx512f",
    "AVX512_VBMI": "avx512vbmi",
    "AVX512_VNNI": "avx512_vnni",
    "AVX512_BF16": "avx512_bf16",
}
# ggml's log levels (ggml.h, ggml_log_level). Upstream's warnings are mostly remarks on what we asked for, and
# its errors reach the user as exceptions, so that both count less here.
_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.INFO, 4: logging.WARNING, 5: logging.DEBUG}
_log = logging.getLogger("mqnative.llama")


def cpu_flags() -> frozenset[str]:
    """The processor's feature names as Linux prints them; empty where that is not known."""
    try:
        with Path("/proc/cpuinfo").open(encoding="ascii", errors="replace") as lines:
            found = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return frozenset()
    return frozenset(found.partition(":")[2].split())


def missing_cpu_features(isa: str) -> list[str]:
    """Features that the build uses and this processor lacks."""
    have = cpu_flags()
    return [f for f in isa.split() if have and f in _CPU_FLAGS and _CPU_FLAGS[f] not in have]


@cache
def core() -> ModuleType:
    """The compiled module ``mqnative._core``.

    Raises:
        MissingCoreError: it was never built, this processor cannot run it, or a library that it was built
            with is not on this machine.
    """
    try:
        config = importlib.import_module("mqnative._build_config")
    except ImportError as error:
        raise MissingCoreError(
            "the compiled module is missing: install the package with `pip install .` in the source folder"
        ) from error
    if missing := missing_cpu_features(config.ISA):
        raise MissingCoreError(
            f"this build uses {' '.join(missing)}, which this processor lacks: build it here with "
            "`pip install . -C cmake.define.GGML_NATIVE=ON`"
        )
    try:
        return importlib.import_module("mqnative._core")
    except ImportError as error:
        raise MissingCoreError(missing_library(str(error), getattr(config, "CUDA", ""))) from error


def missing_library(said: str, cuda: str) -> str:
    """What to do about a compiled module that the system's loader refuses.

    Args:
        said: the loader's words.
        cuda: the version of CUDA that the module was built with; empty without.
    """
    name = said.partition(": ")[0]
    if cuda and name.startswith(("libcudart", "libcublas")):
        major = cuda.partition(".")[0]
        suffix = "" if int(major) >= 13 else f"-cu{major}"
        packages = " ".join(f"'nvidia-{part}{suffix}=={major}.*'" for part in ("cuda-runtime", "cublas"))
        return (
            f"this build computes with CUDA {cuda}, and its library {name} is not found: "
            f"`pip install {packages}`, or put the CUDA toolkit's folder of libraries on LD_LIBRARY_PATH"
        )
    return (
        f"the compiled module cannot be loaded ({said}): build it on this machine with `pip install .` "
        "in the source folder"
    )


def forward_log() -> None:
    """Hand the lines that upstream logged since the last call to Python's logging."""
    for level, text in core().drain_log():
        _log.log(_LEVELS.get(level, logging.DEBUG), "%s", text)


# ggml.h, GGML_MAX_N_THREADS: more would fail a check inside ggml.
MAX_THREADS = 512


def thread_count(wanted: int | None) -> int:
    """``wanted`` threads, by default one for every usable processor.

    Raises:
        ShapeError: not between 1 and 512.
    """
    n = usable_cpus() if wanted is None else wanted
    if not 1 <= n <= MAX_THREADS:
        raise ShapeError(
            f"{n} threads were asked for, but ggml takes 1 to {MAX_THREADS}",
            expected=f"1 to {MAX_THREADS}",
            got=n,
        )
    return n


def usable_cpus() -> int:
    """Processors this process may run on: the default number of threads."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1
