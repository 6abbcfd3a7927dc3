"""``mqnative bench``: tokens per second of a file, or of every type, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mqnative.app.memory_options import cache_types
from mqnative.app.options import PATH, compute_options, json_option, type_list

if TYPE_CHECKING:
    from mqnative.core.memory import Placement
    from mqnative.jobs.type_times import TypeTime
    from mqnative.measure.speed import Rate


@click.command(
    "bench",
    short_help="Measure how fast a file, or each type, is on this machine.",
    epilog="Example: mqnative bench model-Q4_K_M.gguf",
)
@click.argument("model", type=PATH)
@click.option("--types", "by_type", is_flag=True, help="Time the products of MODEL's shapes at every type.")
@click.option("--only", callback=type_list, help="With --types: the types to time, comma-separated.")
@click.option(
    "--prompt",
    "n_prompt",
    type=click.IntRange(min=0),
    default=512,
    show_default=True,
    help="Tokens of a prompt; 0: no prompts.",
)
@click.option(
    "--gen",
    "n_gen",
    type=click.IntRange(min=0),
    default=128,
    show_default=True,
    help="Tokens generated; 0: none.",
)
@click.option(
    "--runs",
    "n_runs",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Of each, after one that warms up.",
)
@click.option("--kv-type", "kv_types", callback=cache_types, help="Type of the KV cache, or of K and V.")
@click.option("--no-repack", is_flag=True, help="Do not lay weights out for speed, as measuring does.")
@compute_options
@json_option
def bench_command(
    model: Path,
    by_type: bool,
    only: tuple[str, ...],
    n_prompt: int,
    n_gen: int,
    n_runs: int,
    kv_types: tuple[str, ...],
    no_repack: bool,
    device: str,
    n_gpu_layers: int | None,
    n_threads: int | None,
    as_json: bool,
) -> None:
    """Measure prompt and generation speed of the GGUF file MODEL, as llama-bench does.

    With --types, measure instead how long the matrix products of MODEL take at every type, for one token;
    only its header is read. The times are kept, and predict the speed of recipes.
    """
    from mqnative.app.output import ProgressMonitor, console, facts_table, print_json
    from mqnative.core.memory import Context
    from mqnative.measure.speed import bench

    if len(kv_types) > 2:
        raise click.UsageError("--kv-type takes one type, or those of K and V")
    if only and not by_type:
        raise click.UsageError("--only goes with --types")
    if not by_type and not n_prompt and not n_gen:
        raise click.UsageError("--prompt 0 and --gen 0 leave nothing to measure")
    if by_type:
        from mqnative.jobs.type_times import type_times

        with ProgressMonitor() as monitor:
            times = type_times(model, only, device=device, n_threads=n_threads, monitor=monitor)
        if as_json:
            print_json({"path": str(model), "types": [t.values() for t in times]})
        else:
            console().print(_type_table(times))
        return
    k, v = (kv_types * 2)[:2] if kv_types else ("F16", "F16")
    with ProgressMonitor() as monitor:
        speed = bench(
            model,
            placement=_placement(device, n_gpu_layers),
            context=Context(type_k=k, type_v=v),
            n_prompt=n_prompt,
            n_gen=n_gen,
            n_runs=n_runs,
            n_threads=n_threads,
            repack=not no_repack,
            monitor=monitor,
        )
    rates = {"prompt": speed.prompt, "generation": speed.generation}
    if as_json:
        print_json({"path": str(model)} | {n: None if r is None else r.values() for n, r in rates.items()})
        return
    shown = {name: _rate_text(rate) for name, rate in rates.items() if rate is not None}
    console().print(facts_table(str(model), shown))


def _placement(device: str, n_gpu_layers: int | None) -> Placement:
    from mqnative.core.memory import ALL_LAYERS, CPU_ALONE, Placement, gpu_to_plan_for

    if device == "cpu":
        return CPU_ALONE
    layers = ALL_LAYERS if n_gpu_layers is None else n_gpu_layers
    return Placement(layers, gpu_to_plan_for(device))


def _rate_text(rate: Rate) -> str:
    runs = f"{rate.n_tokens} tokens, {len(rate.seconds)} runs"
    return f"{rate.mean:.2f} +/- {rate.sd:.2f} tokens per second ({runs})"


def _type_table(times: list[TypeTime]) -> Any:
    from rich.table import Table

    table = Table()
    for column in ("type", "bpw", "ms per token", "GB/s", "tokens/s at most"):
        table.add_column(column, justify="left" if column == "type" else "right")
    for t in times:
        values = (f"{1e3 * t.seconds:.3f}", f"{t.bytes_per_second / 1e9:.1f}", f"{1 / t.seconds:.1f}")
        table.add_row(t.qtype, f"{t.bpw:.2f}", *values)
    return table
