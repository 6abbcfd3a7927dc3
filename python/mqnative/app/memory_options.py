"""``--vram``, ``--ram`` and what goes with them: the machine as a budget."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from mqnative.app.sizes import Size

if TYPE_CHECKING:
    from mqnative.jobs.memory_budget import MemoryBudget
    from mqnative.measure.study import Compute

Command = TypeVar("Command", bound=Callable[..., Any])
AUTO = "auto"
_CHUNK = 512
_DEFAULT_CONTEXT = 4096


def cache_types(_ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Comma-separated types of KV caches, checked."""
    if not value:
        return ()
    from mqnative.core.memory import CACHE_TYPES

    if value.strip().lower() == AUTO and param.name == "kv_types":
        return (AUTO,)
    names = tuple(name.strip().upper() for name in value.split(","))
    for name in names:
        if name not in CACHE_TYPES:
            known = ", ".join(t.lower() for t in CACHE_TYPES)
            raise click.BadParameter(f"{name.lower()!r} is not a type of KV caches; use {known}")
    return names


def memory_options(command: Command) -> Command:
    """The options, which reach the command as one ``memory``: a `MemoryBudget`, or None.

    With them, ``--ctx`` is the context that is planned for, and chunks are of at most 512 tokens.
    """

    @functools.wraps(command)
    def packed(
        *args: Any,
        n_ctx: int,
        compute: Compute,
        vram_bytes: int | None,
        ram_bytes: int | None,
        kv_types: tuple[str, ...],
        n_parallel: int | None,
        n_ubatch: int | None,
        min_tps: float | None,
        **others: Any,
    ) -> Any:
        given = click.get_current_context().get_parameter_source("n_ctx")
        asked = n_ctx if given != click.core.ParameterSource.DEFAULT else _DEFAULT_CONTEXT
        memory = _budget(compute, vram_bytes, ram_bytes, asked, kv_types, n_parallel, n_ubatch, min_tps)
        chunk = n_ctx if memory is None else min(_CHUNK, asked)
        return command(*args, n_ctx=chunk, compute=compute, memory=memory, **others)

    options = (
        click.option(
            "--vram", "vram_bytes", type=Size(), help="Budget: a GPU's memory, everything included."
        ),
        click.option(
            "--ram",
            "ram_bytes",
            type=Size(),
            help="Main memory; with --vram, layers or experts may stay there.",
        ),
        click.option(
            "--kv-type",
            "kv_types",
            callback=cache_types,
            help="Type of the KV cache, or of K and V: q8_0, or q8_0,q4_0; auto measures some and chooses. "
            "Default: f16.",
        ),
        click.option(
            "--parallel", "n_parallel", type=click.IntRange(min=1), help="Sequences at once, each of --ctx."
        ),
        click.option("--ubatch", "n_ubatch", type=click.IntRange(min=1), help="Tokens computed at once."),
        click.option(
            "--min-tps",
            type=click.FloatRange(min=0, min_open=True),
            help="Tokens per second of generation on this machine, at least.",
        ),
    )
    decorated: Any = packed
    for option in reversed(options):
        decorated = option(decorated)
    return cast(Command, decorated)


def _budget(
    compute: Compute,
    vram_bytes: int | None,
    ram_bytes: int | None,
    n_ctx: int,
    kv_types: tuple[str, ...],
    n_parallel: int | None,
    n_ubatch: int | None,
    min_tps: float | None,
) -> MemoryBudget | None:
    if vram_bytes is None and ram_bytes is None and min_tps is None:
        if kv_types or n_parallel is not None or n_ubatch is not None:
            raise click.UsageError("--kv-type, --parallel and --ubatch go with --vram or --ram")
        return None
    if len(kv_types) > 2:
        raise click.UsageError("--kv-type takes one type, or those of K and V")
    from mqnative.core.memory import Context, gpu_to_plan_for
    from mqnative.jobs.memory_budget import MemoryBudget

    any_cache = kv_types == (AUTO,)
    k, v = (kv_types * 2)[:2] if kv_types and not any_cache else ("F16", "F16")
    context = Context(n_ctx, n_parallel or 1, n_ubatch or Context.n_ubatch, k, v)
    device = gpu_to_plan_for(compute.device)
    return MemoryBudget(
        vram_bytes, ram_bytes, context, device, min_tps, compute.n_threads, any_cache=any_cache
    )
