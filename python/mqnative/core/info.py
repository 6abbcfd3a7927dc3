"""What this build is and what this machine has."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mqnative.core.native import core, cpu_flags, usable_cpus
from mqnative.formats.qtypes import types_by_id

# Features that speed ggml up and that the portable build leaves out (ggml/CMakeLists.txt).
_OPTIONAL = (
    "avx_vnni",
    "avx512f",
    "avx512vbmi",
    "avx512_vnni",
    "avx512_bf16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
)


# Where Linux says what a control group may use: version 2, and version 1.
_GROUPS = Path("/sys/fs/cgroup")
_GROUP_LIMITS = {"": (_GROUPS, "memory.max"), "memory": (_GROUPS / "memory", "memory.limit_in_bytes")}


@dataclass(frozen=True)
class Device:
    """A device that ggml can compute on.

    Attributes:
        name: for ``--device``.
        description: its maker's name for it.
        kind: cpu, gpu, igpu or accel.
        memory_free_bytes, memory_total_bytes: as ggml reports them.
        matmul_types: types whose weights it can multiply with.
    """

    name: str
    description: str
    kind: str
    memory_free_bytes: int
    memory_total_bytes: int
    matmul_types: tuple[str, ...]


@dataclass(frozen=True)
class Backend:
    """A library of devices that this build holds.

    Attributes:
        name: CPU, CUDA, ...
        n_devices: how many of its devices this machine has.
        trouble: why there is none, in its own words; None with one.
    """

    name: str
    n_devices: int
    trouble: str | None = None


def backends() -> tuple[Backend, ...]:
    """Every library of devices of this build, also those that find none on this machine."""
    said = core().startup_errors()
    return tuple(
        Backend(name, n, None if n else said or "it found none and gave no reason")
        for name, n in core().backends()
    )


def devices() -> tuple[Device, ...]:
    """Every device of this build on this machine."""
    names = types_by_id()
    found = []
    for d in core().devices():
        types = tuple(names[t].name for t in d.pop("matmul_types"))
        found.append(Device(**d, matmul_types=types))
    return tuple(found)


def host_memory_bytes() -> int:
    """The machine's main memory."""
    return next(d.memory_total_bytes for d in devices() if d.kind == "cpu")


def memory_limit_bytes() -> int:
    """Main memory that this process may use: the machine's, or what a control group leaves it."""
    limits = [host_memory_bytes()]
    try:
        groups = Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return limits[0]
    for line in groups:
        _, controllers, own = line.split(":", 2)
        for controller in controllers.split(","):
            if controller in _GROUP_LIMITS:
                limits += _limits_of(*_GROUP_LIMITS[controller], own)
    return min(limits)


def _limits_of(root: Path, name: str, group: str) -> list[int]:
    """The limits of a group and of those it is in; in a container its own may be the root's."""
    folders = [root.joinpath(*Path(group.lstrip("/")).parts[:n]) for n in range(len(Path(group).parts))]
    found = []
    for folder in [root, *folders, root / group.lstrip("/")]:
        try:
            text = (folder / name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        found += [int(text)] if text.isdigit() else []
    return found


def build_info() -> dict[str, Any]:
    """Versions, upstream commit, compiler, ISA options, processor and devices, as JSON values."""
    info: dict[str, Any] = dict(core().build_info())
    info["isa"] = info["isa"].split()
    info["features"] = core().system_info()
    info["python"] = platform.python_version()
    info["platform"] = platform.platform()
    info["cpu_unused"] = [] if "NATIVE" in info["isa"] else sorted(cpu_flags() & set(_OPTIONAL))
    info["n_threads"] = usable_cpus()
    info["backends"] = [asdict(b) for b in backends()]
    info["devices"] = [asdict(d) for d in devices()]
    return info
