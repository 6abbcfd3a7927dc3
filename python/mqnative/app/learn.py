"""``mqnative learn``: the per-tensor types of others' files and of llama.cpp's presets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mqnative.app.options import PATH, force_option, hub_options, json_option

if TYPE_CHECKING:
    from mqnative.hybrids.carry import Carried
    from mqnative.hybrids.learned import LearnedConfig


@click.command(
    short_help="Learn the types of others' files, by tensor and by group.",
    epilog="Example: mqnative learn Model-UD-Q4_K_XL.gguf --reference model-bf16.gguf -o recipe.yaml",
)
@click.argument("file", type=PATH)
@click.option("--reference", type=PATH, help="Our unquantized model: tensors are checked against it.")
@hub_options
@click.option("--preset", help="Learn what this llama.cpp preset makes of FILE, or all: of every preset.")
@click.option("--no-imatrix", is_flag=True, help="With --preset: as if there were no imatrix.")
@click.option("--provider", help="Who made FILE; default: what its metadata or name says.")
@click.option("--group", "groups", multiple=True, metavar="NAME=REGEX", help="A group of your own.")
@click.option(
    "--missing",
    type=click.Choice(["refuse", "skip"]),
    default="refuse",
    show_default=True,
    help="Tensors of FILE that the reference lacks.",
)
@click.option(
    "--extra",
    type=click.Choice(["base", "keep", "refuse"]),
    default="refuse",
    show_default=True,
    help="Tensors of the reference that FILE lacks: give them the base, keep their type, or refuse.",
)
@click.option("--base", help="With --extra base: their type; default: Q8_0.")
@click.option("-o", "--output", type=PATH, help="Write the pattern as a recipe (YAML, or .json).")
@force_option
@json_option
def learn(
    file: Path,
    reference: Path | None,
    preset: str | None,
    no_imatrix: bool,
    provider: str | None,
    groups: tuple[str, ...],
    missing: str,
    extra: str,
    base: str | None,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Read the type of every tensor of FILE, a GGUF by anyone; of a split one give the first part.

    FILE may be on the hub: org/name/file.gguf, or org/name for all of its files. Only headers are read.

    The pattern, by tensor and by group, can be built again from our own reference with our own imatrix, and
    is credited to its maker. With --preset, FILE is an unquantized model and nothing is quantized.
    """
    from mqnative.app.models import hub_access, local_model
    from mqnative.app.output import ProgressMonitor, print_json
    from mqnative.formats.atomic import check_output
    from mqnative.formats.groups import UserGroup
    from mqnative.formats.recipe import write_recipe
    from mqnative.hybrids.learned import learn_file, learn_preset, learn_presets
    from mqnative.hybrids.remote import learn_repository
    from mqnative.source.argument import HubModel, parse_source
    from mqnative.source.hub import Hub

    if preset is not None and (reference is not None or provider is not None):
        raise click.UsageError("a preset is learned for FILE itself; leave out --reference and --provider")
    if preset is None and no_imatrix:
        raise click.UsageError("--no-imatrix belongs to --preset")
    if preset == "all" and output is not None:
        raise click.UsageError("a recipe is one preset; name it instead of all")
    if output is not None:
        check_output(output, force=force)
    own = [UserGroup.parse(text) for text in groups]
    reference = None if reference is None else local_model(reference)
    if preset is not None:
        file = local_model(file)
    source = parse_source(file)
    if preset == "all":
        every = list(learn_presets(file, with_imatrix=not no_imatrix).values())
        _list(str(file), "presets", every, as_json=as_json)
        return
    if preset is not None:
        config = learn_preset(file, preset, with_imatrix=not no_imatrix, groups=own)
    elif isinstance(source, HubModel):
        with ProgressMonitor() as monitor:
            learned = learn_repository(
                source, Hub(hub_access()), provider=provider, groups=own, monitor=monitor
            )
        if source.file is None and len(learned) > 1:
            if output is not None or reference is not None:
                first = next(iter(learned))
                raise click.UsageError(
                    f"{source.repo} holds {len(learned)} files; name one: {source.repo}/{first}"
                )
            _list(str(source), "files", list(learned.values()), as_json=as_json)
            return
        (config,) = learned.values()
    else:
        config = learn_file(file, provider=provider, groups=own)
    carried, same = _carried(config, reference, missing, extra, base)
    if output is not None:
        write_recipe(output, config.recipe() if carried is None else carried.recipe, force=force)
    _warn(config)
    if as_json:
        print_json(_json(config, carried, same, output))
    else:
        _print(config, carried, same, output)


def _carried(
    config: LearnedConfig, reference: Path | None, missing: Any, extra: Any, base: str | None
) -> tuple[Carried | None, list[str]]:
    from mqnative.build.plan import model_tensors
    from mqnative.formats.gguf import GGUFFile
    from mqnative.hybrids.carry import Policy
    from mqnative.hybrids.learned import same_preset

    if reference is None:
        return None, []
    with GGUFFile.open(reference) as opened:
        tensors, architecture = model_tensors(opened), opened.architecture or ""
    carried = config.recipe_for(tensors, architecture, Policy(missing, extra, base))
    return carried, same_preset(carried.recipe.tensors, reference)


def _warn(config: LearnedConfig) -> None:
    from mqnative.formats.groups import unknown_warning

    warning = unknown_warning(config.labels)
    if warning is not None:
        click.echo(f"warning: {warning}", err=True)


def _list(where: str, kind: str, found: list[LearnedConfig], *, as_json: bool) -> None:
    from rich.table import Table

    from mqnative.app.output import console, print_json, size_text

    if as_json:
        print_json({"model_path": where, kind: [_config(c) for c in found]})
        return
    table = Table("preset" if kind == "presets" else "mix", box=None, title=where, title_justify="left")
    table.add_column("tensor data", justify="right")
    table.add_column("types")
    for c in sorted(found, key=lambda c: -c.tensor_bytes):
        table.add_row(c.name, size_text(c.tensor_bytes), _types(c.types.values()))
    console().print(table)


def _types(values: Any) -> str:
    from collections import Counter

    return "  ".join(f"{name}: {n}" for name, n in Counter(values).most_common())


def _config(config: LearnedConfig) -> dict[str, Any]:
    return {
        "name": config.name,
        "provider": config.provider,
        "file": config.file,
        "file_sha256": config.file_sha256 or None,
        "architecture": config.architecture,
        "model_name": config.model_name,
        "with_imatrix": config.with_imatrix,
        "tensor_bytes": config.tensor_bytes,
        "groups": config.groups,
        "tensors": [
            {"name": name, "type": t, "group": str(config.labels[name]), "shape": list(config.shapes[name])}
            for name, t in config.types.items()
        ],
    }


def _json(
    config: LearnedConfig, carried: Carried | None, same: list[str], output: Path | None
) -> dict[str, Any]:
    parity = None
    if carried is not None:
        parity = {"missing": list(carried.missing), "extra": dict(carried.extra), "same_as_presets": same}
    return {
        **_config(config),
        "parity": parity,
        "recipe_path": None if output is None else str(output),
    }


def _print(config: LearnedConfig, carried: Carried | None, same: list[str], output: Path | None) -> None:
    from mqnative.app.output import console, facts_table, size_text

    shown: dict[str, object] = {
        "name": config.name,
        "provider": config.provider,
        "architecture": config.architecture,
        "tensor data": f"{size_text(config.tensor_bytes)} ({config.tensor_bytes:,} bytes)",
    }
    if config.file_sha256:
        shown["sha256"] = config.file_sha256
    for group, types in config.groups.items():
        shown[group] = "  ".join(f"{name}: {n}" for name, n in types.items())
    if carried is not None:
        shown["reference"] = (
            "same tensors"
            if not (carried.missing or carried.extra)
            else (f"{len(carried.missing)} tensors missing, {len(carried.extra)} extra")
        )
        shown["same as"] = ", ".join(same) or "no preset of llama.cpp"
    if output is not None:
        shown["recipe"] = output
    console().print(facts_table(config.file, shown))
