"""``mqnative build --manifest``: the same bytes again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mqnative.formats.manifest import Manifest


def rebuild(
    manifest_path: Path,
    model: Path | None,
    imatrix_path: Path | None,
    gptq_path: Path | None,
    output: Path | None,
    *,
    dry_run: bool,
    n_threads: int | None,
    no_cache: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Find what the manifest was made of, write its file and compare hashes.

    Args:
        manifest_path: of ``auto``, ``build`` or ``clone``.
        model: what it was made of; looked for beside the manifest if None.
        imatrix_path: likewise.
        gptq_path: the text of its error feedback, if it was made with any; likewise.
        output: a file, or a folder for the manifest's own file name; the current folder if None.
        dry_run: only plan.
        n_threads: as for ``build``, as are the next three.
        no_cache: encode anew.
        force: replace another file.
        as_json: print one object.
    """
    from mqnative.app.build import plan_json, print_plan
    from mqnative.app.models import local_model
    from mqnative.app.output import ProgressMonitor, print_json
    from mqnative.build.feedback import FEEDBACK_TEXT, collector, text_of_labels
    from mqnative.build.rebuild import check_rebuilt, find_beside, labels_of, plan_rebuild
    from mqnative.build.sidecar import check_sidecar, write_sidecar
    from mqnative.build.writer import build_gguf
    from mqnative.formats.gguf import GGUFFile
    from mqnative.formats.manifest import read_manifest
    from mqnative.source.encoded import EncodedTensors
    from mqnative.store.encode_cache import EncodeCache

    manifest = read_manifest(manifest_path)
    model = model_of(manifest_path, manifest, model)
    if imatrix_path is None and manifest.imatrix is not None:
        imatrix_path = find_beside(manifest_path, [manifest.imatrix.file, manifest.imatrix.name])
    labels = labels_of(manifest)
    name = labels.get(FEEDBACK_TEXT, "")
    text = text_of_labels(labels, gptq_path or find_beside(manifest_path, [name]))
    model = local_model(model)
    target = Path() if output is None else output
    target = target / manifest.model_file if target.is_dir() else target
    with GGUFFile.open(model) as file, ProgressMonitor() as monitor:
        inputs = plan_rebuild(manifest, file, imatrix_path, n_threads=n_threads)
        reused, sidecar = False, None
        if not dry_run:
            check_sidecar(target, force=force)
            encoded = EncodedTensors.of(file, inputs.identity.tensors, EncodeCache.open())
            result = build_gguf(
                file,
                inputs.plan,
                target,
                force=force,
                n_threads=n_threads,
                monitor=monitor,
                cache=None if no_cache else encoded,
                feedback=collector(text, inputs.plan, n_threads=n_threads, monitor=monitor),
            )
            check_rebuilt(manifest, target)
            reused = result.reused
            sidecar = write_sidecar(
                file,
                inputs.plan,
                result,
                source_sha256=inputs.identity.model,
                imatrix_name="" if manifest.imatrix is None else manifest.imatrix.name,
                allow_requantize=manifest.allow_requantize,
                labels=labels,
            )
    written = None if dry_run else target
    if as_json:
        found = plan_json(inputs.plan, None, written, sidecar, reused=reused)
        print_json(found | {"sha256": manifest.model_sha256 or None, "parent_manifest": str(manifest_path)})
    else:
        print_plan(inputs.plan, written, reused=reused)


def model_of(manifest_path: Path, manifest: Manifest, model: Path | None) -> Path:
    """The MODEL that was given, or the one that lies where the manifest does.

    Raises:
        UsageError: there is none.
    """
    from mqnative.build.rebuild import find_beside

    found = model or find_beside(manifest_path, [manifest.source.file])
    if found is None:
        wanted = manifest.source.file or "the model it was made of"
        raise click.UsageError(f"give MODEL: {wanted} lies neither beside the manifest nor here")
    return found
