"""Every tensor that the pinned llama.cpp tree loads, per architecture, read from its sources."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from mqnative.formats.groups import label

SOURCE = Path(__file__).parent.parent / "third_party" / "llama.cpp" / "src"
_TABLE = re.compile(r'\{\s*(LLM_TENSOR_\w+),\s*"([^"]+)"\s*\}')
_ARCHITECTURE = re.compile(r'\{\s*(LLM_ARCH_\w+),\s*"([^"]+)"\s*\}')
_CREATED = re.compile(r'tn\(\s*(LLM_TENSOR_\w+)\s*,\s*"(\w+)"')
_WITHOUT_SUFFIX = re.compile(r"tn\(\s*(LLM_TENSOR_\w+)\s*(?:,\s*(?!\")[^\")]*)?\)")
# Helpers of src/llama-model.cpp that create several tensors.
_HELPERS = {
    "create_tensor_qkv": (
        "LLM_TENSOR_ATTN_QKV",
        "LLM_TENSOR_ATTN_Q",
        "LLM_TENSOR_ATTN_K",
        "LLM_TENSOR_ATTN_V",
    ),
    "create_tensor_gate_up_exps": (
        "LLM_TENSOR_FFN_GATE_UP_EXPS",
        "LLM_TENSOR_FFN_GATE_EXPS",
        "LLM_TENSOR_FFN_UP_EXPS",
    ),
}


@cache
def table() -> dict[str, str]:
    """``LLM_TENSOR_NAMES``: upstream's constant -> name with ``%d`` for numbers."""
    return dict(_TABLE.findall((SOURCE / "llama-arch.cpp").read_text(encoding="utf-8")))


@cache
def architectures() -> dict[str, tuple[str, ...]]:
    """Architecture -> names of the tensors that its class loads, with block 3 for every number."""
    names = dict(_ARCHITECTURE.findall((SOURCE / "llama-arch.cpp").read_text(encoding="utf-8")))
    classes = _classes((SOURCE / "llama-model.cpp").read_text(encoding="utf-8"))
    bases = dict(
        re.findall(
            r"struct (llama_model_\w+)\s*:\s*public (\w+)",
            (SOURCE / "models" / "models.h").read_text(encoding="utf-8"),
        )
    )
    loaders = {}
    for path in sorted((SOURCE / "models").glob("*.cpp")):
        text = path.read_text(encoding="utf-8")
        for name, body in re.findall(
            r"void (llama_model_\w+)::load_arch_tensors\([^)]*\)\s*\{(.*?)\n\}\n", text, re.DOTALL
        ):
            loaders[name] = body
    found = {}
    for constant, class_name in classes.items():
        if constant not in names:
            continue
        loader = class_name
        while loader not in loaders and loader in bases:
            loader = bases[loader]
        if loader in loaders:
            found[names[constant]] = tuple(sorted(_created(loaders[loader])))
    return found


def _classes(text: str) -> dict[str, str]:
    """LLM_ARCH_X -> class, from the switch that creates models."""
    found, waiting = {}, []
    for line in text.splitlines():
        case = re.search(r"case (LLM_ARCH_\w+):", line)
        made = re.search(r"return new (llama_model_\w+)\(", line)
        if case:
            waiting.append(case[1])
        if made:
            found.update(dict.fromkeys(waiting, made[1]))
            waiting = []
        if "default:" in line or line.startswith("}"):
            waiting = []
    return found


def _created(body: str) -> set[str]:
    constants = table()
    pairs = set(_CREATED.findall(body))
    pairs |= {(constant, "") for constant in _WITHOUT_SUFFIX.findall(body)}
    for helper, made in _HELPERS.items():
        if helper in body:
            pairs |= {(constant, "weight") for constant in made}
    return {
        constants[c].replace("%d", "3") + (f".{suffix}" if suffix else "")
        for c, suffix in pairs
        if c in constants
    }


def groups_text() -> str:
    """What lands where: every name of the table under its label, then every architecture with its groups."""
    labels: dict[str, list[str]] = {}
    for name in table().values():
        labels.setdefault(str(label(name.replace("%d", "3") + ".weight")), []).append(name.replace("%d", "N"))
    lines = ["# label: names without .weight"]
    lines += [f"{key}: {' '.join(sorted(set(names)))}" for key, names in sorted(labels.items())]
    lines += ["", "# architecture: labels of the weights it loads"]
    for architecture, names in sorted(architectures().items()):
        found = {str(label(name)) for name in names if name.endswith(".weight")}
        lines.append(f"{architecture}: {' '.join(sorted(found))}")
    return "\n".join(lines) + "\n"
