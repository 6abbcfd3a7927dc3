"""``mqnative fit``: which budgets of a model fit this machine, before anything is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mqnative.app.memory_options import cache_types
from mqnative.app.options import json_option, model_argument
from mqnative.app.sizes import Size

if TYPE_CHECKING:
    from mqnative.jobs.machine import Fitting, Room


@click.command(
    short_help="Show which sizes of a model fit this machine.",
    epilog="Example: mqnative fit model-bf16.gguf --ctx 8192 --ctx 32768",
)
@model_argument
@click.option(
    "--ctx",
    "lengths",
    type=click.IntRange(min=1),
    multiple=True,
    help="Context to fit; repeatable. Default: a few, up to the model's own.",
)
@click.option("--vram", "vram_bytes", type=Size(), help="Of a GPU; default: what is free on this machine's.")
@click.option("--ram", "ram_bytes", type=Size(), help="Main memory; default: what is free here.")
@click.option(
    "--kv-type",
    "caches",
    callback=cache_types,
    help="Types of the KV cache, comma-separated; default: f16,q8_0.",
)
@click.option(
    "--parallel",
    "n_parallel",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Sequences at the same time, each of the whole context.",
)
@click.option(
    "--ubatch",
    "n_ubatch",
    type=click.IntRange(min=1),
    default=512,
    show_default=True,
    help="Tokens that are computed at once.",
)
@json_option
def fit(
    model: Path,
    lengths: tuple[int, ...],
    vram_bytes: int | None,
    ram_bytes: int | None,
    caches: tuple[str, ...],
    n_parallel: int,
    n_ubatch: int,
    as_json: bool,
) -> None:
    """Show what is left for the weights of MODEL, for a few contexts, on every device of this machine.

    MODEL is a GGUF, a folder or a hub id, of which only headers are read; for a checkpoint they are those
    that its conversion is expected to write. Caches and buffers are llama.cpp's own figures. On a GPU,
    everything but the token embedding counts; what its driver takes is not known and comes on top.
    """
    from mqnative.app.output import console, print_json
    from mqnative.formats.gguf import GGUFFile
    from mqnative.jobs.machine import fitting, planned_room, rooms, source_bpw, trained_context

    here = rooms()
    host = here[-1]
    gpus = [r for r in here if r.device]
    if vram_bytes is not None:
        gpus = [type(host)(gpus[0].device, vram_bytes) if gpus else planned_room(vram_bytes)]
    if ram_bytes is not None:
        host = type(host)("", ram_bytes)
    where = [*gpus, host] if vram_bytes is None or ram_bytes is not None else gpus
    given = {} if not caches else {"caches": caches}
    with _header(model) as path:
        found = fitting(path, where, lengths, n_parallel=n_parallel, n_ubatch=n_ubatch, **given)
        with GGUFFile.open(path) as file:
            most_bpw, trained = source_bpw(file), trained_context(file)
    if as_json:
        print_json({"path": str(model), "fits": [f.values() for f in found]})
        return
    out = console()
    for room in where:
        _print_room(room, [f for f in found if f.room == room], most_bpw, out)
    if trained is not None and any(f.context.n_ctx > trained for f in found):
        out.print(f"the model was trained for contexts of {trained:,} tokens; longer ones may not work well")


@contextmanager
def _header(model: Path) -> Iterator[Path]:
    """A file with the model's header; what is not on this machine is read by ranges."""
    from mqnative.app.models import hub_access
    from mqnative.app.output import ProgressMonitor
    from mqnative.build.header_only import loadable_header
    from mqnative.errors import SourceError
    from mqnative.source.argument import FolderPath, HubModel, parse_source
    from mqnative.source.hub import Hub
    from mqnative.source.inspection import inspect_folder, inspect_hub

    source = parse_source(model)
    with ExitStack() as stack:
        path: Path | None = model
        if isinstance(source, HubModel):
            monitor = stack.enter_context(ProgressMonitor())
            seen = stack.enter_context(inspect_hub(source, Hub(hub_access()), monitor))
            path = None if seen.outline is None else seen.outline.path
        elif isinstance(source, FolderPath):
            folder = stack.enter_context(inspect_folder(source.path))
            path = None if folder.outline is None else folder.outline.path
        if path is None:
            raise SourceError(
                f"{model}: what a conversion would write cannot be told from its headers; convert it first",
                path=str(model),
            )
        yield stack.enter_context(loadable_header(path))


def _print_room(room: Room, found: list[Fitting], most_bpw: float, out: object) -> None:
    from rich.console import Console
    from rich.table import Table

    from mqnative.app.output import size_text

    assert isinstance(out, Console)
    table = Table(title=f"{room.name}: {size_text(room.bytes)}", title_justify="left")
    for column in ("context", "KV", "cache", "buffers", "for weights", "bpw", "largest preset"):
        table.add_column(column, justify="right" if column != "largest preset" else "left")
    for f in found:
        is_whole = f.bpw >= most_bpw
        largest = "the model as it is" if is_whole else next(iter(f.presets), "none")
        table.add_row(
            f"{f.context.n_ctx:,}",
            f.context.type_k.lower(),
            size_text(f.cache_bytes),
            size_text(f.compute_bytes),
            size_text(f.left_bytes) if f.left_bytes > 0 else "nothing",
            "-" if f.left_bytes <= 0 else f"{most_bpw:g}" if is_whole else f"{f.bpw:.2f}",
            largest if f.left_bytes > 0 else "none",
        )
    out.print(table)
