"""``mqnative inspect``: a model's structure, types and sizes, from its header; what an imatrix covers."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mqnative.app.options import json_option, model_argument

if TYPE_CHECKING:
    from rich.table import Table

    from mqnative.formats.gguf import GGUFFile
    from mqnative.formats.imatrix import Imatrix

# A damaged file of such a name is reported as an imatrix.
_LEGACY_SUFFIXES = (".dat", ".imatrix")


@click.command(
    short_help="Show a model's structure, types and sizes.",
    epilog="Example: mqnative inspect model.gguf --tensors",
)
@model_argument
@click.option("--tensors", "list_tensors", is_flag=True, help="List every tensor.")
@click.option("--presets", "list_presets", is_flag=True, help="List the size under every llama.cpp preset.")
@json_option
def inspect(model: Path, list_tensors: bool, list_presets: bool, as_json: bool) -> None:
    """Show the structure of the GGUF file MODEL; of a split model give the first part.

    Only the header is read. The JSON form always holds the tensors. Of an imatrix file, GGUF or legacy,
    show how the importances of each tensor are spread and which experts were never seen.
    """
    from mqnative.app.imatrix_tables import imatrix_json, imatrix_tables
    from mqnative.app.output import console, facts_table, print_json, size_text
    from mqnative.errors import GGUFError
    from mqnative.formats.gguf import GGUFFile
    from mqnative.formats.imatrix import read_imatrix

    out = console()
    try:
        opened = GGUFFile.open(model)
    except GGUFError:
        legacy = _legacy_imatrix(model)
        if legacy is None:
            raise
        if as_json:
            legacy_facts = {"path": str(model), "size_bytes": model.stat().st_size}
            print_json(legacy_facts | {"imatrix": imatrix_json(legacy)})
            return
        out.print(*imatrix_tables(str(model), legacy))
        return
    with opened as file:
        facts = _facts(file)
        if list_presets:
            facts["presets"] = _preset_sizes(file)
        imatrix = read_imatrix(model) if file.get("general.type") == "imatrix" else None
        if as_json:
            found = {} if imatrix is None else {"imatrix": imatrix_json(imatrix)}
            print_json(facts | found | {"tensors": _tensors(file)})
            return
        if imatrix is None:
            size = f"{size_text(file.file_bytes)} ({file.file_bytes:,} bytes in {len(file.paths)} file(s))"
            shown = {
                "architecture": facts["architecture"],
                "name": facts["name"],
                "parameters": f"{facts['n_weights']:,}",
                "size": size,
                "bpw": f"{file.bpw:.3f} ({file.bpw_file:.3f} counting the file)",
                "types": "  ".join(f"{name}: {n}" for name, n in facts["types"].items()),
            } | _probe_fact(facts["restart_layers"])
            out.print(facts_table(str(model), shown))
        else:
            out.print(*imatrix_tables(str(model), imatrix))
        if list_presets:
            out.print(_preset_table(facts["presets"]))
        if list_tensors:
            out.print(_tensor_table(_tensors(file)))


def _legacy_imatrix(path: Path) -> Imatrix | None:
    """The matrix in a file that is no GGUF; None if it is none, by its content and its name."""
    from mqnative.errors import ImatrixError
    from mqnative.formats.imatrix import read_imatrix

    try:
        return read_imatrix(path)
    except ImatrixError:
        if path.is_file() and path.suffix in _LEGACY_SUFFIXES:
            raise
        return None


def _probe_fact(layers: list[int] | None) -> dict[str, str]:
    if layers is None:
        return {}
    how = f"start at the tensor's layer ({len(layers)} places)" if layers else "are whole passes"
    return {"probes": f"{how}, checked on the first chunk" if layers else how}


def _restart_layers(file: GGUFFile) -> list[int] | None:
    """Where probes of the model can start; None if llama.cpp cannot evaluate it."""
    from mqnative.core.model import restart_layers
    from mqnative.errors import MQNativeError

    try:
        return list(restart_layers(file.path)) if file.architecture else None
    except MQNativeError:
        return None


def _facts(file: GGUFFile) -> dict[str, Any]:
    counts = Counter(t.qtype.name for t in file.tensors.values())
    return {
        "path": str(file.path),
        "architecture": file.architecture,
        "name": file.get("general.name"),
        "n_weights": file.n_weights,
        "size_bytes": file.file_bytes,
        "tensor_bytes": file.tensor_bytes,
        "bpw": file.bpw,
        "bpw_file": file.bpw_file,
        "files": [str(p) for p in file.paths],
        "types": dict(counts.most_common()),
        "restart_layers": _restart_layers(file),
        "metadata": {k: v.plain for k, v in file.metadata.items() if v.element_type is None},
    }


def _tensors(file: GGUFFile) -> list[dict[str, Any]]:
    from mqnative.build.plan import model_tensors
    from mqnative.errors import ModelLoadError
    from mqnative.formats.groups import label_tensors

    labels = label_tensors(file.tensors)
    known = {}
    if file.architecture:
        with suppress(ModelLoadError):  # an architecture that llama.cpp does not know
            known = model_tensors(file)
    return [
        {
            "name": t.name,
            "type": t.qtype.name,
            "shape": list(t.shape),
            "size_bytes": t.size_bytes,
            "n_weights": t.n_weights,
            "bpw": t.bpw,
            "group": str(labels[t.name]),
            "quantizable": known[t.name].quantizable if known else None,
        }
        for t in file.tensors.values()
    ]


def _preset_sizes(file: GGUFFile) -> list[dict[str, Any]]:
    from mqnative.core.presets import preset_types, presets
    from mqnative.formats.qtypes import qtype

    sizes = []
    for preset in presets().values():
        types = preset_types(file.path, preset.name, with_imatrix=True)
        tensor_bytes = sum(qtype(types[t.name]).tensor_bytes(t.shape) for t in file.tensors.values())
        bpw = 8.0 * tensor_bytes / file.n_weights
        sizes.append({"name": preset.name, "tensor_bytes": tensor_bytes, "bpw": bpw})
    return sorted(sizes, key=lambda s: -float(s["tensor_bytes"]))


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
        table.add_row(
            t["name"],
            t["group"],
            " x ".join(map(str, t["shape"])),
            t["type"],
            size_text(t["size_bytes"]),
            verdict,
        )
    return table
