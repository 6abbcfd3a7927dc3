"""``mqnative inspect`` of what is no GGUF on this machine: a folder, or a repository on the hub."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mqnative.formats.gguf import GGUFFile
    from mqnative.source.argument import FolderPath, HubModel


def inspect_source(
    source: FolderPath | HubModel, *, list_tensors: bool, list_presets: bool, as_json: bool
) -> None:
    """Show a folder with a checkpoint, or a repository on the hub."""
    from mqnative.app.inspect import header_facts, tensor_facts
    from mqnative.app.inspect_facts import (
        checkpoint_tensors,
        gguf_tokenizer,
        running_facts,
        source_facts,
        with_targets,
    )
    from mqnative.app.inspect_print import print_lists, print_model
    from mqnative.app.models import hub_access
    from mqnative.app.output import ProgressMonitor, print_json
    from mqnative.formats.gguf import GGUFFile
    from mqnative.source.argument import HubModel
    from mqnative.source.hub import Hub
    from mqnative.source.hyperparameters import text_config
    from mqnative.source.inspection import inspect_folder, inspect_hub

    with ExitStack() as stack:
        monitor = stack.enter_context(ProgressMonitor())
        if isinstance(source, HubModel):
            seen = stack.enter_context(inspect_hub(source, Hub(hub_access()), monitor))
        else:
            seen = stack.enter_context(inspect_folder(source.path))
        facts, tensors = source_facts(seen), []
        if seen.outline is not None:
            file = stack.enter_context(GGUFFile.open(seen.outline.path))
            from_header = header_facts(file, loadable=False) | running_facts(file)
            if seen.prediction is not None:
                # Of a forecast the header is ours, with what plays no part filled in.
                del from_header["metadata"]
            facts = from_header | facts
            facts["forecast"] = seen.prediction is not None
            facts["tokenizer"] = facts["tokenizer"] or gguf_tokenizer(file)
            tensors = with_targets(tensor_facts(file), seen)
            if list_presets or as_json:
                facts["presets"] = _presets_or_none(file, seen.outline.preset_note)
        else:
            facts |= {"architecture": None, "n_weights": facts["n_checkpoint_weights"]}
        if as_json:
            print_json(facts | {"tensors": tensors, "checkpoint_tensors": checkpoint_tensors(seen)})
            return
    for note in seen.notes:
        click.echo(f"note: {note}", err=True)
    shown = facts | {"config": text_config(facts["config"])}
    print_model(seen.where, shown, tensors, _source_rows(facts))
    print_lists(facts, tensors, list_tensors=list_tensors, list_presets=list_presets)


def _presets_or_none(file: GGUFFile, note: str | None) -> list[dict[str, Any]] | None:
    from mqnative.app.inspect import preset_sizes

    return None if note else preset_sizes(file)


def _source_rows(facts: dict[str, Any]) -> dict[str, str]:
    """What a table says of a hub's repository or of a checkpoint."""
    from mqnative.app.output import size_text

    rows = {"class": facts["hf_architecture"]} if facts["hf_architecture"] else {}
    if not facts["convertible"]:
        rows["conversion"] = "not possible, see the note"
    if facts["commit"]:
        closed = "".join(f", {word}" for word in ("gated", "private") if facts[word])
        rows |= {"commit": f"{facts['commit']}{closed}", "to download": size_text(facts["download_bytes"])}
    if facts["dtypes"]:
        rows["stored as"] = "  ".join(f"{name}: {n}" for name, n in facts["dtypes"].items())
    if facts["n_mmproj_weights"]:
        rows["projector"] = f"{facts['n_mmproj_weights']:,} parameters besides"
    return rows
