"""A model as a tree: files, configuration, tokenizer, and its tensors with equal blocks folded into one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.text import Text
from rich.tree import Tree

from mqnative.app.output import size_text

_BLOCK = re.compile(r"((?:\w+\.)?blk)\.(\d+)\.(.+)", re.DOTALL)
# Of a configuration, what says how a model is built.
_CONFIG = (
    "model_type", "architectures", "num_hidden_layers", "hidden_size", "intermediate_size",
    "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings",
    "num_local_experts", "num_experts", "n_routed_experts", "num_experts_per_tok", "tie_word_embeddings",
    "sliding_window", "rope_theta", "torch_dtype", "dtype", "quantization_config",
)  # fmt: skip
_LONGEST = 100


def model_tree(title: str, facts: Mapping[str, Any], tensors: Sequence[Mapping[str, Any]]) -> Tree:
    """The tree of a model.

    Args:
        title: of the root.
        facts: with ``files file_sizes config tokenizer`` where they are known.
        tensors: with ``name type shape size_bytes quantizable``.
    """
    tree = Tree(Text(title, style="italic"))
    _files(tree, facts)
    _pairs(tree, "config", {k: v for k, v in facts.get("config", {}).items() if k in _CONFIG})
    _pairs(tree, "tokenizer", facts.get("tokenizer", {}))
    if tensors:
        total = sum(t["size_bytes"] for t in tensors)
        branch = tree.add(Text(f"tensors ({len(tensors)}, {size_text(total)})", style="bold"))
        for line in _folded(tensors):
            _tensors(branch, line)
    return tree


def _files(tree: Tree, facts: Mapping[str, Any]) -> None:
    sizes: Mapping[str, int] = facts.get("file_sizes") or {}
    if not sizes:
        return
    branch = tree.add(Text(f"files ({len(sizes)}, {size_text(sum(sizes.values()))})", style="bold"))
    for name, size in sizes.items():
        branch.add(Text(f"{name}  {size_text(size)}"))


def _pairs(tree: Tree, title: str, pairs: Mapping[str, Any]) -> None:
    if not pairs:
        return
    branch = tree.add(Text(title, style="bold"))
    for key, value in pairs.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        branch.add(Text(f"{key}: {text if len(text) <= _LONGEST else text[: _LONGEST - 3] + '...'}"))


def _folded(tensors: Iterable[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Tensors outside of blocks one by one; neighbouring blocks of the same tensors together."""
    blocks: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    lines: list[tuple[str, list[Mapping[str, Any]]]] = []
    order: list[tuple[str, int] | Mapping[str, Any]] = []
    for tensor in tensors:
        found = _BLOCK.fullmatch(tensor["name"])
        if found is None:
            order.append(tensor)
            continue
        key = (found[1], int(found[2]))
        if key not in blocks:
            blocks[key] = []
            order.append(key)
        blocks[key].append({**tensor, "name": found[3]})
    run: list[tuple[str, int]] = []
    for entry in [*order, None]:
        if isinstance(entry, tuple) and (not run or _same(blocks[run[-1]], blocks[entry], run[-1], entry)):
            run.append(entry)
            continue
        if run:
            lines.append((_title(run, blocks[run[0]]), blocks[run[0]]))
            run = []
        if isinstance(entry, tuple):
            run = [entry]
        elif entry is not None:
            lines.append(("", [entry]))
    return lines


def _same(
    one: Sequence[Mapping[str, Any]],
    other: Sequence[Mapping[str, Any]],
    first: tuple[str, int],
    second: tuple[str, int],
) -> bool:
    def signature(tensors: Sequence[Mapping[str, Any]]) -> set[tuple[Any, ...]]:
        return {(t["name"], t["type"], tuple(t["shape"])) for t in tensors}

    return first[0] == second[0] and signature(one) == signature(other)


def _title(run: Sequence[tuple[str, int]], tensors: Sequence[Mapping[str, Any]]) -> str:
    size = sum(t["size_bytes"] for t in tensors)
    stack, first = run[0]
    if len(run) == 1:
        return f"{stack}.{first} ({size_text(size)})"
    return f"{stack}.{first}-{run[-1][1]} ({len(run)} blocks of {size_text(size)})"


def _tensors(branch: Tree, line: tuple[str, list[Mapping[str, Any]]]) -> None:
    title, tensors = line
    here = branch.add(Text(title)) if title else branch
    for t in tensors:
        shape = " x ".join(map(str, t["shape"]))
        fixed = "  fixed" if t["quantizable"] is False else ""
        here.add(Text(f"{t['name']}  {shape}  {t['type']}  {size_text(t['size_bytes'])}{fixed}"))
