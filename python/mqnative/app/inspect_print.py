"""How ``mqnative inspect`` shows what it knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


def print_model(
    title: str, facts: dict[str, Any], tensors: list[dict[str, Any]], more: dict[str, str]
) -> None:
    """The facts of a model, and its structure as a tree."""
    from mqnative.app.model_tree import model_tree
    from mqnative.app.output import console, facts_table, size_text

    shown: dict[str, object] = {"architecture": facts["architecture"], "name": facts.get("name")}
    n, active = facts["n_weights"], facts.get("n_active_weights")
    at_work = (
        ""
        if active in (None, n)
        else f", {active:,} active ({facts['n_experts_used']} experts of {facts['n_experts']})"
    )
    shown["parameters"] = "unknown" if n is None else f"{n:,}{at_work}"
    if facts.get("forecast"):
        shown["as a GGUF"] = f"{size_text(facts['tensor_bytes'])} of tensors, {facts['bpw']:.3f} bpw"
        shown["types"] = "  ".join(f"{name}: {n}" for name, n in facts["types"].items())
    elif "bpw" in facts:
        size = facts["size_bytes"]
        shown["size"] = f"{size_text(size)} ({size:,} bytes in {len(facts['files'])} file(s))"
        shown["bpw"] = f"{facts['bpw']:.3f} ({facts['bpw_file']:.3f} counting the file)"
        shown["types"] = "  ".join(f"{name}: {n}" for name, n in facts["types"].items())
    if facts.get("kv_bytes_per_token"):
        window = f", a window of {facts['sliding_window']} in some layers" if facts["sliding_window"] else ""
        kv, ctx = facts["kv_bytes_per_token"], facts["context_length"]
        whole = f", {size_text(kv * ctx)} for all {ctx:,}" if ctx else ""
        shown["KV cache"] = f"{size_text(kv)} per token in F16{whole}{window}"
    out = console()
    out.print(facts_table(title, {k: v for k, v in (shown | more).items() if v}))
    out.print(model_tree("structure", facts, tensors))


def print_lists(
    facts: dict[str, Any], tensors: list[dict[str, Any]], *, list_tensors: bool, list_presets: bool
) -> None:
    """The lists that were asked for."""
    from mqnative.app.output import console

    out = console()
    if list_presets and facts.get("presets"):
        out.print(_preset_table(facts["presets"]))
    if list_tensors:
        out.print(_tensor_table(tensors))


def _preset_table(sizes: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    from mqnative.app.output import size_text

    table = Table("preset", title="llama.cpp presets, with imatrix", title_justify="left", box=None)
    table.add_column("tensor data", justify="right")
    table.add_column("bpw", justify="right")
    for s in sizes:
        table.add_row(s["name"], size_text(s["tensor_bytes"]), f"{s['bpw']:.3f}")
    return table


def _tensor_table(tensors: list[dict[str, Any]]) -> Table:
    from rich.table import Table

    from mqnative.app.output import size_text

    table = Table("tensor", "group", "shape", "type", title_justify="left", box=None)
    table.add_column("size", justify="right")
    table.add_column("quantizable")
    for t in tensors:
        verdict = {True: "yes", False: "no", None: "?"}[t["quantizable"]]
        shape = " x ".join(map(str, t["shape"]))
        table.add_row(t["name"], t["group"], shape, t["type"], size_text(t["size_bytes"]), verdict)
    return table
