"""``mqnative inspect``: a model's structure, types and sizes, from its header; what an imatrix covers."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mqnative.app.options import json_option, model_argument

if TYPE_CHECKING:
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
    """Show the structure of MODEL: a GGUF (of a split one the first part), a folder, or a hub id.

    Only headers are read, on the hub by ranges, so that nothing is paid for before it is known; of a
    checkpoint the tensors are shown as the conversion would name them. The JSON form always holds the
    tensors.

    Of an imatrix file, GGUF or legacy, show how the importances of each tensor are spread and which experts
    were never seen.
    """
    from mqnative.source.argument import FolderPath, HubModel, parse_source

    source = parse_source(model)
    if isinstance(source, (FolderPath, HubModel)):
        from mqnative.app.inspect_source import inspect_source

        inspect_source(source, list_tensors=list_tensors, list_presets=list_presets, as_json=as_json)
        return
    _inspect_file(model, list_tensors=list_tensors, list_presets=list_presets, as_json=as_json)


def _inspect_file(model: Path, *, list_tensors: bool, list_presets: bool, as_json: bool) -> None:
    from mqnative.app.imatrix_tables import imatrix_json, imatrix_tables
    from mqnative.app.inspect_facts import gguf_tokenizer, running_facts, with_targets
    from mqnative.app.inspect_print import print_lists, print_model
    from mqnative.app.output import console, print_json
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
        facts = header_facts(file) | running_facts(file) | {"tokenizer": gguf_tokenizer(file)}
        if list_presets:
            facts["presets"] = preset_sizes(file)
        imatrix = read_imatrix(model) if file.get("general.type") == "imatrix" else None
        tensors = with_targets(tensor_facts(file), None)
        if as_json:
            found = {} if imatrix is None else {"imatrix": imatrix_json(imatrix)}
            print_json(facts | found | {"tensors": tensors})
            return
        if imatrix is not None:
            out.print(*imatrix_tables(str(model), imatrix))
        else:
            facts["file_sizes"] = {p.name: p.stat().st_size for p in file.paths}
            print_model(str(model), facts, tensors, _probe_fact(facts["restart_layers"]))
        print_lists(facts, tensors, list_tensors=list_tensors, list_presets=list_presets)


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


def header_facts(file: GGUFFile, *, loadable: bool = True) -> dict[str, Any]:
    """What the header of a GGUF says; ``loadable`` if its weights are there."""
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
        "restart_layers": _restart_layers(file) if loadable else None,
        "metadata": {k: v.plain for k, v in file.metadata.items() if v.element_type is None},
    }


def tensor_facts(file: GGUFFile) -> list[dict[str, Any]]:
    """The tensors of a GGUF."""
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


def preset_sizes(file: GGUFFile) -> list[dict[str, Any]]:
    """The size that every llama.cpp preset would give, the largest first; without those it refuses.

    Raises:
        QuantizeError: it refuses all.
    """
    from mqnative.core.presets import preset_types, presets
    from mqnative.errors import QuantizeError
    from mqnative.formats.qtypes import qtype
    from mqnative.source.outline import without_vocabulary

    sizes = []
    refused: QuantizeError | None = None
    with without_vocabulary(file) as outline:
        for preset in presets().values():
            try:
                types = preset_types(outline, preset.name, with_imatrix=True)
            except QuantizeError as error:  # rows that fill no block of a type without a substitute
                refused = error
                continue
            tensor_bytes = sum(qtype(types[t.name]).tensor_bytes(t.shape) for t in file.tensors.values())
            bpw = 8.0 * tensor_bytes / file.n_weights
            sizes.append({"name": preset.name, "tensor_bytes": tensor_bytes, "bpw": bpw})
    if refused is not None and not sizes:
        raise refused
    return sorted(sizes, key=lambda s: -float(s["tensor_bytes"]))
