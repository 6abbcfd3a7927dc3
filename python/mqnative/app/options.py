"""Arguments and options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from mqnative.app.sizes import Size

Command = TypeVar("Command", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)
HUB_META = "mqnative.hub"


class Chunks(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic since click 8.4
    """``all`` or a positive number; ``all`` becomes None."""

    name = "N|all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Parse."""
        if value in (None, "all"):
            return None
        try:
            number = int(value)
        except ValueError:
            number = 0
        if number < 1:
            self.fail(f"{value!r} is neither a positive number nor 'all'", param, ctx)
        return number


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
force_option = click.option("--force", is_flag=True, help="Replace an output that exists.")
text_option = click.option("-f", "--file", "text", type=PATH, required=True, help="The text.")
texts_option = click.option(
    "-f", "--file", "texts", type=PATH, required=True, multiple=True, help="A text; repeatable."
)
ctx_option = click.option(
    "--ctx", "n_ctx", type=click.IntRange(min=4), default=512, show_default=True, help="Tokens per chunk."
)
chunks_option = click.option(
    "--chunks", type=Chunks(), default="all", show_default=True, help="Use only the first N chunks."
)
fast_option = click.option(
    "--fast", is_flag=True, help="Probe nothing: choose by weight errors and what roles cost on other models."
)
imatrix_option = click.option(
    "--imatrix", "imatrix_path", type=PATH, help="Importance matrix (GGUF or legacy)."
)


def hub_options(command: Command) -> Command:
    """``--token`` and ``--offline``, which `mqnative.app.models` reads from the context."""

    @functools.wraps(command)
    def packed(*args: Any, token: str | None, offline: bool, **others: Any) -> Any:
        click.get_current_context().meta[HUB_META] = (token, offline)
        return command(*args, **others)

    given = click.option("--token", help="For the hub; default: HF_TOKEN, or that of `hf auth login`.")
    offline = click.option("--offline", is_flag=True, help="Use what is on this machine; open no socket.")
    return given(offline(cast(Command, packed)))


def model_argument(command: Command) -> Command:
    """MODEL (a GGUF, a folder or a hub id), and `hub_options`."""
    return click.argument("model", type=PATH)(hub_options(command))


def compute_options(command: Command) -> Command:
    """``--threads`` and ``--device``."""
    threads = click.option(
        "-t", "--threads", "n_threads", type=click.IntRange(1, 512), help="Default: every usable processor."
    )
    device = click.option(
        "--device",
        default="cpu",
        show_default=True,
        help="cpu, auto (every GPU), or a name that `mqnative doctor` prints.",
    )
    layers = click.option(
        "-ngl", "--gpu-layers", "n_gpu_layers", type=int, help="Layers on the GPU; default: all, with a GPU."
    )
    return threads(device(layers(command)))


def study_options(command: Command) -> Command:
    """`compute_options` and ``--memory``, which reach the command as one ``compute``."""

    @functools.wraps(command)
    def packed(
        *args: Any,
        device: str,
        n_gpu_layers: int | None,
        n_threads: int | None,
        memory_bytes: int | None,
        **others: Any,
    ) -> Any:
        from mqnative.measure.study import Compute

        compute = Compute(device, n_gpu_layers, n_threads, memory_bytes)
        return command(*args, compute=compute, **others)

    memory = click.option(
        "--memory",
        "memory_bytes",
        type=Size(),
        help="For encoded tensors and hidden states, besides the model; default: half of the machine's.",
    )
    return compute_options(memory(cast(Command, packed)))


def type_list(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Comma-separated type names, checked: the callback of ``--types``."""
    if not value:
        return ()
    from mqnative.errors import UnsupportedTypeError
    from mqnative.formats.qtypes import qtype

    try:
        return tuple(dict.fromkeys(qtype(name.strip()).name for name in value.split(",")))
    except UnsupportedTypeError as error:
        raise click.BadParameter(error.message) from None
