"""``mqnative build``: write the GGUF that a recipe describes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mqnative.app.long_command import long_command
from mqnative.app.options import PATH, force_option, hub_options, imatrix_option, json_option

if TYPE_CHECKING:
    from mqnative.build.plan import BuildPlan
    from mqnative.formats.recipe import Recipe


@click.command(
    short_help="Write the GGUF that a recipe describes.",
    epilog="Example: mqnative build model-bf16.gguf -r recipe.yaml --imatrix imatrix.gguf -o model-mix.gguf",
)
@click.argument("model", type=PATH, required=False)
@hub_options
@click.option("-r", "--recipe", "recipe_path", type=PATH, help="Recipe, YAML or JSON.")
@click.option("--preset", help="A llama.cpp preset (Q4_K_M) instead of a recipe.")
@click.option("--tensor-type-file", type=PATH, help="A llama-quantize tensor-type file instead of a recipe.")
@click.option(
    "--manifest", "manifest_path", type=PATH, help="A manifest instead of a recipe: the same bytes again."
)
@click.option("--base", help="Type of tensors that the recipe or tensor-type file does not name.")
@imatrix_option
@click.option(
    "--gptq",
    "gptq_path",
    type=PATH,
    help="Round with error feedback (GPTQ) on this text: same types and size, less damage.",
)
@click.option(
    "--gptq-chunks",
    type=click.IntRange(min=2),
    default=64,
    show_default=True,
    help="Chunks of 512 tokens of that text, at most.",
)
@click.option("-o", "--output", type=PATH, help="Where to write the model.")
@click.option("--dry-run", is_flag=True, help="Print the plan, write nothing.")
@click.option("--allow-requantize", is_flag=True, help="Accept a source that is quantized already.")
@click.option(
    "-t", "--threads", "n_threads", type=click.IntRange(1, 512), help="Default: every usable processor."
)
@click.option("--no-cache", is_flag=True, help="Encode every tensor anew, and keep none for later builds.")
@force_option
@long_command
@json_option
def build(
    model: Path | None,
    recipe_path: Path | None,
    preset: str | None,
    tensor_type_file: Path | None,
    manifest_path: Path | None,
    base: str | None,
    imatrix_path: Path | None,
    gptq_path: Path | None,
    gptq_chunks: int,
    output: Path | None,
    dry_run: bool,
    allow_requantize: bool,
    n_threads: int | None,
    no_cache: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Write MODEL with a type for every tensor, as llama-quantize would, byte for byte.

    The planned size is the written size. An output that the same inputs made is reported again, not
    rewritten. Beside the model lies a manifest, from which --manifest makes the same bytes anywhere; there
    MODEL, the imatrix and the text of --gptq may be left out if they lie beside the manifest, in its work
    folder or here.

    With --gptq weights are not each rounded to the nearest value: one takes over what those before it lost,
    by what goes together in the activations on a text, such as the one that the imatrix is from.
    """
    if sum(x is not None for x in (recipe_path, preset, tensor_type_file, manifest_path)) != 1:
        raise click.UsageError("give exactly one of --recipe, --preset, --tensor-type-file and --manifest")
    if recipe_path is None and tensor_type_file is None and base is not None:
        raise click.UsageError("--base belongs to a recipe; presets and manifests name every tensor's type")
    if manifest_path is not None:
        from mqnative.app.rebuild import rebuild

        if allow_requantize:
            raise click.UsageError("--allow-requantize belongs to a recipe; a manifest says how it was made")
        rebuild(
            manifest_path,
            model,
            imatrix_path,
            gptq_path,
            output,
            dry_run=dry_run,
            n_threads=n_threads,
            no_cache=no_cache,
            force=force,
            as_json=as_json,
        )
        return
    if model is None:
        raise click.UsageError("give MODEL; only a manifest says what it was made of")
    if output is None and not dry_run:
        raise click.UsageError("give --output, or --dry-run to see the plan only")
    from mqnative.app.models import local_model
    from mqnative.app.output import ProgressMonitor, print_json
    from mqnative.build.feedback import FeedbackText, collector
    from mqnative.build.plan import model_tensors, plan_build
    from mqnative.build.sidecar import check_sidecar, write_sidecar
    from mqnative.build.writer import build_gguf
    from mqnative.formats.gguf import GGUFFile
    from mqnative.formats.imatrix import read_imatrix
    from mqnative.source.encoded import EncodedTensors
    from mqnative.source.identity import identify
    from mqnative.store.encode_cache import EncodeCache

    model = local_model(model)
    with GGUFFile.open(model) as file, ProgressMonitor() as monitor:
        model_tensors(file)
        importances = None if imatrix_path is None else read_imatrix(imatrix_path)
        text = None if gptq_path is None else FeedbackText.of(gptq_path, gptq_chunks)
        labels = {} if text is None else text.labels
        recipe = _recipe(model, recipe_path, preset, tensor_type_file, base, importances is not None)
        identity = None if dry_run else identify(file, n_threads=n_threads)
        plan = plan_build(
            file,
            recipe,
            importances,
            imatrix_name=imatrix_path.name if imatrix_path else "",
            source_hash="" if identity is None else identity.model,
            allow_requantize=allow_requantize,
            labels=labels,
        )
        reused, manifest = False, None
        if output is not None and identity is not None:
            check_sidecar(output, force=force)
            cache = None if no_cache else EncodedTensors.of(file, identity.tensors, EncodeCache.open())
            result = build_gguf(
                file,
                plan,
                output,
                force=force,
                n_threads=n_threads,
                monitor=monitor,
                cache=cache,
                feedback=collector(text, plan, n_threads=n_threads, monitor=monitor),
            )
            reused = result.reused
            manifest = write_sidecar(
                file,
                plan,
                result,
                source_sha256=identity.model,
                imatrix_name=imatrix_path.name if imatrix_path else "",
                allow_requantize=allow_requantize,
                labels=labels,
            )
    written = None if dry_run else output
    if as_json:
        print_json(plan_json(plan, recipe_path, written, manifest, reused=reused))
    else:
        print_plan(plan, written, reused=reused)


def _recipe(
    model: Path,
    recipe_path: Path | None,
    preset: str | None,
    tensor_type_file: Path | None,
    base: str | None,
    with_imatrix: bool,
) -> Recipe:
    from dataclasses import replace

    from mqnative.core.presets import preset_types
    from mqnative.formats.recipe import Recipe, read_recipe
    from mqnative.formats.tensor_types import read_tensor_type_file

    if preset is not None:
        return Recipe(tensors=preset_types(model, preset, with_imatrix=with_imatrix))
    if recipe_path is not None:
        recipe = read_recipe(recipe_path)
    else:
        assert tensor_type_file is not None
        recipe = read_tensor_type_file(tensor_type_file)
    return recipe if base is None else replace(recipe, base=base)


def plan_json(
    plan: BuildPlan, recipe_path: Path | None, output: Path | None, manifest: Path | None, *, reused: bool
) -> dict[str, Any]:
    """What ``build --json`` prints."""
    return {
        "model_path": None if output is None else str(output),
        "recipe_path": None if recipe_path is None else str(recipe_path),
        "manifest_path": None if manifest is None else str(manifest),
        "report_path": None,
        "files": [] if output is None else [str(output)],
        "launch_flags": [],
        "size_bytes": plan.file_bytes,
        "tensor_bytes": plan.tensor_bytes,
        "bpw": plan.bpw,
        "bpw_file": plan.bpw_file,
        "ftype": plan.ftype.name,
        "reused": reused,
        "tensors": [
            {
                "name": t.name,
                "type": t.qtype,
                "requested": t.requested,
                "size_bytes": t.size_bytes,
                "uses_imatrix": t.uses_imatrix,
            }
            for t in plan.tensors
        ],
    }


def print_plan(plan: BuildPlan, output: Path | None, *, reused: bool) -> None:
    """The same for people."""
    from mqnative.app.output import console, facts_table, size_text

    counts = Counter(t.qtype for t in plan.tensors)
    status = "planned" if output is None else "already there, unchanged" if reused else "written"
    shown: dict[str, object] = {
        "status": status,
        "size": f"{size_text(plan.file_bytes)} ({plan.file_bytes:,} bytes)",
        "bpw": f"{plan.bpw:.3f} ({plan.bpw_file:.3f} counting the file)",
        "nearest preset": plan.ftype.name,
        "types": "  ".join(f"{name}: {n}" for name, n in counts.most_common()),
    }
    if plan.fallbacks:
        first = plan.fallbacks[0]
        shown["row-size fallbacks"] = (
            f"{len(plan.fallbacks)} tensors, such as {first.name}: {first.requested} -> {first.qtype}"
        )
    console().print(facts_table(str(output or "plan"), shown))
