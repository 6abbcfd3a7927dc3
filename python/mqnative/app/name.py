"""``mqnative name``: read and write the names of mixes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mqnative.app.options import PATH, force_option, json_option

if TYPE_CHECKING:
    from mqnative.build.plan import ModelTensor
    from mqnative.formats.name_parser import ParsedName
    from mqnative.formats.names import QuantName

_FOR = click.option("--for", "for_model", type=PATH, help="A model that the name or recipe is for.")
_MODEL_NAME = click.option("--model-name", help="The model's name, where it could be mistaken for a part.")


@click.group(
    short_help="Read and write the names of mixes.",
    epilog="Example: mqnative name parse Qwen3-4B-MXFP4-EH-B16-QKO-IQ4NL.gguf",
)
def name() -> None:
    """Read and write the names of mixes.

    v1 tells the base and every group that deviates: Model-MXFP4-EH-B16-QKO-IQ4NL. v2 tells who made the
    mix, its family and a number: Model-MQ-Q5_K_1. Groups: E embedding, H head, Q K O attention, U D
    feed-forward, X experts, R router.
    """


@name.command(
    short_help="What a name says.",
    epilog="\b\nExample: mqnative name parse Qwen3-4B-MXFP4-EH-B16-QKO-IQ4NL.gguf -o recipe.yaml",
)
@click.argument("text", metavar="NAME")
@_MODEL_NAME
@_FOR
@click.option(
    "--experts",
    type=click.Choice(["X", "UD"]),
    default="X",
    show_default=True,
    help="With --for: experts are group X, or meant by U and D, as in published names of mixtures.",
)
@click.option("-o", "--output", type=PATH, help="Write it as a recipe (YAML, or .json).")
@force_option
@json_option
def parse(
    text: str,
    model_name: str | None,
    for_model: Path | None,
    experts: str,
    output: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Read NAME: model, base, groups, and what else it could mean.

    A recipe made of it names patterns of groups, or with --for the tensors of a model.
    """
    from mqnative.app.output import print_json
    from mqnative.formats.name_parser import parse_name
    from mqnative.formats.recipe import write_recipe
    from mqnative.hybrids.named import mix_of_name, recipe_of_name

    parsed = parse_name(text, model=model_name)
    found: dict[str, Any] = parsed.to_json()
    recipe = None
    if for_model is not None:
        mix = mix_of_name(parsed.name, _tensors(for_model), for_model, experts=experts)
        recipe = mix.recipe
        found |= {"tensor_bytes": mix.tensor_bytes, "warnings": list(mix.warnings)}
        for warning in mix.warnings:
            click.echo(f"warning: {warning}", err=True)
    if output is not None:
        write_recipe(output, recipe or recipe_of_name(parsed.name), force=force)
        found["recipe_path"] = str(output)
    if as_json:
        print_json(found)
    else:
        _print(parsed, found)


@name.command(
    "format",
    short_help="The name that says what a recipe says.",
    epilog="\b\nExample: mqnative name format recipe.yaml",
)
@click.argument("recipe", metavar="RECIPE")
@_MODEL_NAME
@_FOR
@click.option("--provider", help="Write a v2 name: LM, MQ, UD, EXT or MQ-UD.")
@click.option("--family", help="With --provider: the preset that the mix is nearest to.")
@click.option("--ordinal", type=click.IntRange(min=1), help="With --provider: which of the family's.")
@json_option
def format_command(
    recipe: str,
    model_name: str | None,
    for_model: Path | None,
    provider: str | None,
    family: str | None,
    ordinal: int | None,
    as_json: bool,
) -> None:
    """Print the name of RECIPE: a recipe, a manifest, or what `name parse --json` prints (- reads it).

    Only groups that differ from the base are named. A recipe whose groups hold several types has a v2 name
    only.
    """
    from mqnative.app.output import print_json
    from mqnative.formats.name_parser import format_name
    from mqnative.formats.names import QuantName

    if (provider is None) != (family is None):
        raise click.UsageError("give --provider and --family together")
    found = _named(recipe, model_name, for_model, only_model=provider is not None)
    if provider is not None:
        found = QuantName(found.model, family, {}, provider, ordinal)
    text = format_name(found)
    if as_json:
        print_json({"name": text, "file_name": f"{text}.gguf", **found.to_json()})
    else:
        click.echo(text)


def _named(recipe: str, model_name: str | None, for_model: Path | None, *, only_model: bool) -> QuantName:
    """The name of the document at ``recipe``, or in it."""
    from mqnative.formats.names import QuantName, file_safe
    from mqnative.formats.recipe import parse_recipe
    from mqnative.hybrids.mix_file import read_mix
    from mqnative.hybrids.named import name_of_recipe

    inline = sys.stdin.read() if recipe == "-" else recipe if recipe.lstrip().startswith("{") else None
    document = _document(Path(recipe), inline)
    if isinstance(document, dict) and not {"mqnative", "artifacts"} & set(document):
        found = QuantName.from_json(document)
        own = model_name or found.model
        own = None if own is None else file_safe(own)
        return QuantName(own, found.base, found.groups, found.provider, found.ordinal)
    mix = read_mix(recipe).recipe if inline is None else parse_recipe(inline)
    if only_model:
        own = model_name or str(mix.model.get("name") or "")
        return QuantName(file_safe(own), "F32")
    tensors = None if for_model is None else _tensors(for_model)
    return name_of_recipe(mix, tensors, model=model_name)


def _document(path: Path, inline: str | None) -> Any:
    """The YAML or JSON document, if that is what there is; what it lacks, its reader will say."""
    from mqnative.errors import RecipeError
    from mqnative.formats.strict_yaml import MAX_BYTES, DocumentError, parse_document

    try:
        if inline is None and (not path.is_file() or path.stat().st_size > MAX_BYTES):
            return None
        return parse_document(path.read_text(encoding="utf-8") if inline is None else inline).data
    except DocumentError as error:
        if inline is None:
            return None
        raise RecipeError(f"the recipe: {error.problem}", line=error.line) from None
    except (OSError, ValueError):
        return None


def _tensors(path: Path) -> dict[str, ModelTensor]:
    from mqnative.build.plan import model_tensors
    from mqnative.formats.gguf import GGUFFile

    with GGUFFile.open(path) as file:
        return model_tensors(file)


def _print(parsed: ParsedName, found: dict[str, Any]) -> None:
    from mqnative.app.output import console, facts_table, size_text

    said = parsed.name
    shown: dict[str, object] = {"model": said.model or "-"}
    if said.provider is not None:
        ordinal = "" if said.ordinal is None else f", number {said.ordinal}"
        shown |= {"provider": said.provider, "family": f"{said.base}{ordinal}"}
    else:
        shown["base"] = said.base or "-"
        shown.update(said.groups)
        shown |= {f"({tag})": quant for tag, quant in parsed.unlisted.items()}
    shown["values are"] = "types" if said.semantics == "type" else "mixes of types"
    if "tensor_bytes" in found:
        shown["tensor data"] = f"{size_text(found['tensor_bytes'])} ({found['tensor_bytes']:,} bytes)"
    for number, other in enumerate(parsed.alternatives, 1):
        blocks = " ".join(f"{letter}={quant}" for letter, quant in other.groups.items())
        mark = f"{other.provider} family {other.base}" if other.provider else f"base {other.base or '-'}"
        shown[f"or ({number})"] = f"model {other.model or '-'}, {mark} {blocks}".rstrip()
    console().print(facts_table(parsed.text, shown))
