"""One conversion as a user asks for it: from a folder or a hub id to a file that he names."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.errors import OutputExistsError, SourceError
from mqnative.formats.atomic import check_output
from mqnative.formats.imatrix import Imatrix, read_imatrix
from mqnative.formats.recipe import read_recipe
from mqnative.jobs.conversions import Converted, recall, record
from mqnative.jobs.convert import Conversion, run_conversion
from mqnative.jobs.hub_model import OnFound, fetch_model, outlined_checkpoint
from mqnative.jobs.reference import convert_mmproj, source_key
from mqnative.source.argument import FolderPath, HubModel, parse_source
from mqnative.source.converter_tree import require_architecture
from mqnative.source.fetch import choose
from mqnative.source.hub import Access, Hub
from mqnative.source.local import (
    CheckpointFolder,
    open_checkpoint,
    reference_type,
    select_in_folder,
    staged,
)


@dataclass(frozen=True)
class Wanted:
    """How to convert.

    Attributes:
        recipe: a type for every tensor; None: the reference itself.
        base: type of tensors that the recipe does not name.
        imatrix: importances for it.
        outtype: of the reference: auto, bf16, f16 or f32.
        mmproj: convert a projector for images or sound, too.
        trust_remote_code: let the authors' Python code run.
        allow_requantize: accept weights that are quantized already.
        dry_run: plan only.
        n_threads: default all usable processors.
    """

    recipe: Path | None = None
    base: str | None = None
    imatrix: Path | None = None
    outtype: str = "auto"
    mmproj: bool = True
    trust_remote_code: bool = False
    allow_requantize: bool = False
    dry_run: bool = False
    n_threads: int | None = None


def convert_model(
    argument: str | Path,
    output: Path | None,
    wanted: Wanted,
    *,
    access: Access | None = None,
    force: bool = False,
    monitor: Monitor = NULL_MONITOR,
    on_found: OnFound | None = None,
) -> Converted:
    """Convert a model.

    Args:
        argument: a folder with a checkpoint, or a hub id.
        output: the file to write; None for a dry run.
        wanted: how.
        access: token and whether there is a network.
        force: replace a file that was made otherwise.
        monitor: told every step.
        on_found: called once when it is known what is to be fetched or converted, before that begins.

    Raises:
        SourceError: it is a GGUF already, or not whole.
        OutputExistsError: another file is there and force is not set.
        as `mqnative.jobs.convert.run_conversion` and `mqnative.jobs.reference.find_reference`.
    """
    # What is wrong with these shows before anything is fetched.
    if wanted.recipe is not None:
        read_recipe(wanted.recipe)
    imatrix = None if wanted.imatrix is None else read_imatrix(wanted.imatrix)
    if output is not None:
        check_output(output, force=True)
    with _opened(argument, access, monitor, on_found, headers_only=wanted.dry_run) as model:
        return _convert(model, output, wanted, imatrix, force=force, monitor=monitor)


def _convert(
    model: CheckpointFolder,
    output: Path | None,
    wanted: Wanted,
    imatrix: Imatrix | None,
    *,
    force: bool,
    monitor: Monitor,
) -> Converted:
    require_architecture(model.config, model.name)
    outtype = wanted.outtype
    if outtype == "auto":
        outtype = reference_type(model.checkpoint.tensors.values())
    if output is None or wanted.dry_run:
        with tempfile.TemporaryDirectory(prefix="mqnative-") as folder:
            facts, _, _ = _run(model, Path(folder) / "planned.gguf", outtype, wanted, monitor)
        return Converted(None, None, facts)
    key = source_key(
        model,
        outtype=outtype,
        recipe=None if wanted.recipe is None else hashlib.sha256(wanted.recipe.read_bytes()).hexdigest(),
        imatrix=None if imatrix is None else [imatrix.content_hash(), Path(str(wanted.imatrix)).name],
        **{k: v for k, v in asdict(wanted).items() if k in ("base", "mmproj", "trust_remote_code")},
    )
    kept = recall(output, key)
    if kept is not None and not force:
        return kept
    if output.exists() and not force:
        raise OutputExistsError(
            f"{output} exists and was made from other inputs; pass --force to replace it", path=str(output)
        )
    facts, mmproj, notes = _run(model, output, outtype, wanted, monitor)
    done = Converted(output, mmproj, facts, notes)
    record(done, key)
    return done


@contextmanager
def _opened(
    argument: str | Path,
    access: Access | None,
    monitor: Monitor,
    on_found: OnFound | None,
    *,
    headers_only: bool,
) -> Iterator[CheckpointFolder]:
    """The checkpoint that an argument names; of the hub's with holes for weights, if these play no part."""
    source = parse_source(argument)
    if isinstance(source, HubModel) and headers_only:
        hub = Hub(access)
        choice = choose(hub, source, monitor)
        if choice.checkpoint is not None and choice.selection.kind == "safetensors":
            with tempfile.TemporaryDirectory(prefix="mqnative-") as place:
                yield outlined_checkpoint(hub, choice, Path(place), monitor)
            return
    yield _checkpoint(argument, access, monitor, on_found)


def _checkpoint(
    argument: str | Path, access: Access | None, monitor: Monitor, on_found: OnFound | None
) -> CheckpointFolder:
    source = parse_source(argument)
    if isinstance(source, HubModel):
        found = fetch_model(source, Hub(access), monitor, on_found)
        if isinstance(found, CheckpointFolder):
            return found
        raise _is_gguf(found.path)
    if isinstance(source, FolderPath):
        selection = select_in_folder(source.path)
        if selection.kind == "gguf":
            raise _is_gguf(source.path / selection.weights[0].name)
        opened = open_checkpoint(source.path, selection)
        if on_found is not None:
            on_found(None)
        return opened
    if source.path.exists():
        raise _is_gguf(source.path)
    raise SourceError(
        f"{source.path} does not exist; give a folder with a config.json, or a hub id", path=str(source.path)
    )


def _is_gguf(path: Path) -> SourceError:
    return SourceError(f"{path} is a file already; give it to mqnative build", path=str(path))


def _run(
    model: CheckpointFolder, output: Path, outtype: str, wanted: Wanted, monitor: Monitor
) -> tuple[dict[str, Any], Path | None, tuple[str, ...]]:
    notes: list[str] = []
    with staged(model, with_code=wanted.trust_remote_code) as place:
        facts = run_conversion(
            Conversion(
                str(place),
                str(output.absolute()),
                outtype,
                recipe=_absolute(wanted.recipe),
                base=wanted.base,
                imatrix=_absolute(wanted.imatrix),
                imatrix_name=wanted.imatrix.name if wanted.imatrix else "",
                allow_requantize=wanted.allow_requantize,
                dry_run=wanted.dry_run,
                n_threads=wanted.n_threads,
            ),
            monitor,
        )
        mmproj = None
        if wanted.mmproj and not wanted.dry_run:
            mmproj = convert_mmproj(model, place, output.absolute(), notes, monitor)
    return facts, None if mmproj is None else output.with_name(mmproj.name), tuple(notes)


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())
