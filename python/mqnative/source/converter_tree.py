"""Upstream's converter as it travels with us: where it is, what it can convert. It is not run here."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import mqnative
from mqnative.errors import ConversionError, MissingExtraError

_FOLDER = "_converter"
# What upstream's converter imports; the name to import, the name to install.
_PACKAGES = {"torch": "torch", "transformers": "transformers", "sentencepiece": "sentencepiece"}


@dataclass(frozen=True)
class Architectures:
    """What the converter knows, by the class names in ``config.json``.

    Attributes:
        text: class -> the module that converts it.
        mmproj: the same for projectors of images or sound.
        whole: classes of whole models that have a converter of their own although their text part has one.
    """

    text: Mapping[str, str]
    mmproj: Mapping[str, str]
    whole: frozenset[str]


def converter_tree() -> Path:
    """The folder of ``convert_hf_to_gguf.py``, ``conversion/`` and ``gguf-py/``.

    Raises:
        ConversionError: this build has none.
    """
    for folder in _places():
        if (folder / "conversion" / "__init__.py").is_file():
            return folder
    raise ConversionError(
        "this build carries no converter: it was made from a llama.cpp checkout without conversion/; install "
        "mqnative again, or convert with that checkout's convert_hf_to_gguf.py"
    )


def _places() -> Iterator[Path]:
    for package in mqnative.__path__:
        yield Path(package) / _FOLDER
    # A checkout of ours, whose wheel has not been built since the tree was fetched.
    yield Path(__file__).resolve().parents[3] / "third_party" / "llama.cpp"


def require_packages() -> None:
    """Refuse to begin without what the converter imports.

    Raises:
        MissingExtraError: with what is missing.
    """
    missing = tuple(name for module, name in _PACKAGES.items() if find_spec(module) is None)
    if missing:
        raise MissingExtraError(
            f"converting takes {' and '.join(missing)}, which are not installed; run pip install "
            "'mqnative[convert]' (for a smaller one, install the CPU build of torch first)",
            extra="convert",
            packages=missing,
        )


@cache
def architectures() -> Architectures:
    """What the converter can convert, read from its tables."""
    tree = converter_tree()
    maps = _assigned(tree / "conversion" / "__init__.py", ("TEXT_MODEL_MAP", "MMPROJ_MODEL_MAP"))
    return Architectures(
        maps["TEXT_MODEL_MAP"], maps["MMPROJ_MODEL_MAP"], _routed(tree / "conversion" / "base.py")
    )


def text_architecture(config: Mapping[str, Any]) -> str | None:
    """The class by which the converter knows a model's text part; None if ``config.json`` names none.

    Source: conversion/base.py, `get_model_architecture`.
    """
    whole = _first(config.get("architectures"))
    part = config.get("text_config") or config.get("llm_config") or {}
    inner = _first(part.get("architectures")) if isinstance(part, dict) else None
    if whole is None and isinstance(config.get("ssm_cfg"), dict):
        return f"{config['ssm_cfg'].get('layer', 'Mamba')}ForCausalLM"
    return whole if inner is None or whole in architectures().whole else inner


def mmproj_architecture(config: Mapping[str, Any]) -> str | None:
    """The class by which the converter knows a model's projector; None if it has none of use."""
    whole = _first(config.get("architectures"))
    sees = any(isinstance(config.get(k), dict) for k in ("vision_config", "audio_config", "vision_encoder"))
    return whole if sees and whole in architectures().mmproj else None


def require_architecture(config: Mapping[str, Any], where: str) -> str:
    """The class of a model that can be converted.

    Raises:
        ConversionError: the converter does not know it, or the configuration does not say.
    """
    name = text_architecture(config)
    if name is None:
        raise ConversionError(
            f"{where}: config.json names no architecture; it is not of a language model", path=where
        )
    if name not in architectures().text:
        raise ConversionError(
            f"{where} is a {name}, which the converter of this llama.cpp does not know; wait for a release "
            "that does, or look for a GGUF made by others",
            path=where,
            architecture=name,
        )
    return name


@cache
def gguf_architecture(name: str) -> str | None:
    """llama.cpp's name for a class (``qwen3moe`` for ``Qwen3MoeForCausalLM``); None if no table tells."""
    module = architectures().text.get(name)
    if module is None:
        return None
    for node in ast.walk(_parsed(converter_tree() / "conversion" / f"{module}.py")):
        if isinstance(node, ast.ClassDef) and name in _registered(node):
            found = _model_arch(node)
            if found not in (None, "MMPROJ"):
                return str(gguf_names().MODEL_ARCH_NAMES[gguf_names().MODEL_ARCH[found]])
    return None


@cache
def gguf_names() -> Any:
    """Upstream's tables of names, `gguf.constants`; of the tree, not of an installed gguf-py."""
    return _gguf_module("constants")


@cache
def tensor_names(architecture: str, n_blocks: int) -> Any:
    """Upstream's map from the names of Hugging Face to those of GGUF: ``get_name(key, try_suffixes)``."""
    names = gguf_names()
    arch = next(a for a, name in names.MODEL_ARCH_NAMES.items() if name == architecture)
    return _gguf_module("tensor_mapping").get_tensor_name_map(arch, n_blocks)


def _gguf_module(name: str) -> Any:
    """A module of the tree's gguf-py under a name of ours: its package would import all of itself."""
    package = "mqnative._upstream_gguf"
    if package not in sys.modules:
        module = ModuleType(package)
        module.__path__ = [str(converter_tree() / "gguf-py" / "gguf")]
        sys.modules[package] = module
    return importlib.import_module(f"{package}.{name}")


def _registered(node: ast.ClassDef) -> set[str]:
    """The names that a class is registered under, by its decorators."""
    calls = [d for d in node.decorator_list if isinstance(d, ast.Call)]
    found = [c for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "register"]
    return {
        a.value for c in found for a in c.args if isinstance(a, ast.Constant) and isinstance(a.value, str)
    }


def _model_arch(node: ast.ClassDef) -> str | None:
    for statement in node.body:
        if isinstance(statement, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == "model_arch" for t in statement.targets
        ):
            value = statement.value
            return value.attr if isinstance(value, ast.Attribute) else None
    return None


def _routed(path: Path) -> frozenset[str]:
    """The classes that `get_model_architecture` does not look into."""
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.FunctionDef) and node.name == "get_model_architecture":
            tuples = [t for t in ast.walk(node) if isinstance(t, ast.Tuple)]
            names = [e.value for t in tuples for e in t.elts if isinstance(e, ast.Constant)]
            return frozenset(n for n in names if isinstance(n, str))
    return frozenset()


def _assigned(path: Path, names: tuple[str, ...]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for node in _parsed(path).body:
        if isinstance(node, ast.AnnAssign):
            targets: list[ast.expr] = [node.target]
        elif isinstance(node, ast.Assign):
            targets = node.targets
        else:
            continue
        for target in targets:
            if isinstance(target, ast.Name) and target.id in names and node.value is not None:
                found[target.id] = ast.literal_eval(node.value)
    return {name: found.get(name, {}) for name in names}


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _first(names: Any) -> str | None:
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else None
