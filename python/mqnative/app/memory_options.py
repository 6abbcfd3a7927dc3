"""``--vram``, ``--ram`` and what goes with them: the machine as a budget."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
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
_BUDGETS = ("vram_bytes", "ram_bytes", "min_tps")


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
        asked = {
            "vram_bytes": vram_bytes,
            "ram_bytes": ram_bytes,
            "n_ctx": n_ctx,
            "kv_types": kv_types,
            "n_parallel": n_parallel,
            "n_ubatch": n_ubatch,
            "min_tps": min_tps,
            "device": compute.device,
            "n_threads": compute.n_threads,
        }
        return command(*args, n_ctx=chunk_tokens(asked), compute=compute, memory=budget_of(asked), **others)

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


def chunk_tokens(params: Mapping[str, Any]) -> int:
    """Tokens of the chunks that are measured on, from a command's parameters."""
    n_ctx = int(params.get("n_ctx") or _CHUNK)
    return min(_CHUNK, n_ctx) if _has_budget(params) else n_ctx


def budget_of(params: Mapping[str, Any]) -> MemoryBudget | None:
    """The machine that a command's parameters ask for; None if they ask for none."""
    kv_types, n_parallel, n_ubatch = (params.get(n) for n in ("kv_types", "n_parallel", "n_ubatch"))
    if not _has_budget(params):
        if kv_types or n_parallel is not None or n_ubatch is not None:
            raise click.UsageError("--kv-type, --parallel and --ubatch go with --vram or --ram")
        return None
    kv_types = tuple(kv_types or ())
    if len(kv_types) > 2:
        raise click.UsageError("--kv-type takes one type, or those of K and V")
    from mqnative.core.memory import Context, gpu_to_plan_for
    from mqnative.jobs.memory_budget import MemoryBudget

    any_cache = kv_types == (AUTO,)
    k, v = (kv_types * 2)[:2] if kv_types and not any_cache else ("F16", "F16")
    context = Context(_asked_context(params), n_parallel or 1, n_ubatch or Context.n_ubatch, k, v)
    return MemoryBudget(
        params.get("vram_bytes"),
        params.get("ram_bytes"),
        context,
        gpu_to_plan_for(params.get("device") or "cpu"),
        params.get("min_tps"),
        params.get("n_threads"),
        any_cache=any_cache,
    )


def _has_budget(params: Mapping[str, Any]) -> bool:
    return any(params.get(name) is not None for name in _BUDGETS)


def _asked_context(params: Mapping[str, Any]) -> int:
    """--ctx, or its default beside a budget, which is not that of chunks."""
    context = click.get_current_context(silent=True)
    source = None if context is None else context.get_parameter_source("n_ctx")
    return _DEFAULT_CONTEXT if source == click.core.ParameterSource.DEFAULT else int(params["n_ctx"])
