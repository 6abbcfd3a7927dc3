"""Damage tables to and from files, refused where they belong to something else."""

from __future__ import annotations

from collections.abc import Mapping

from mqnative.build.plan import ModelTensor, model_tensors
from mqnative.core.untied import loads_untied
from mqnative.errors import DamageTableError
from mqnative.formats.damage_file import DamageFile, TensorRows, TypeRow
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.imatrix import Imatrix
from mqnative.jobs.candidates import all_targets, candidate_types, importances_of
from mqnative.jobs.known import Damages, WeightErrors
from mqnative.predict.damage import Damage
from mqnative.predict.tied import Share


def to_file(damages: Damages, model_sha256: str, build: str) -> DamageFile:
    """A damage table as it is written."""
    tensors = {}
    for name, by_type in damages.table.items():
        errors = damages.errors.get(name, WeightErrors())
        tensors[name] = TensorRows(
            damages.anchors.get(name),
            _row(damages.at_anchor[name]),
            errors.rms,
            {t: _row(d, errors.rmse.get(t), errors.max_error.get(t)) for t, d in by_type.items()},
        )
    imatrix = damages.imatrix
    share = damages.share
    return DamageFile(
        model_sha256,
        None if imatrix is None else imatrix.content_hash(),
        tensors,
        build,
        None if share is None else share.of_input,
        None if share is None else share.variance,
    )


def from_file(
    table: DamageFile,
    path: str,
    file: GGUFFile,
    model_sha256: str,
    imatrix: Imatrix | None,
    targets: tuple[str, ...],
    *,
    keep_tied: bool = False,
) -> Damages:
    """The damages that a file holds, for this model and this imatrix.

    Args:
        table: as read.
        path: where it came from, for messages.
        file: the model.
        model_sha256: its hash.
        imatrix: that tensors will be encoded with.
        targets: types allowed; none for all.
        keep_tied: whether a head that is the embedding must stay so.

    Raises:
        DamageTableError: the table was made from another model or with another imatrix, lacks a tensor that
            may change, or has one that may not, or a type that it cannot have.
    """
    if table.model_sha256 != model_sha256:
        raise DamageTableError(
            f"{path} was made from another model (sha256 {table.model_sha256[:16]}..., this one's is "
            f"{model_sha256[:16]}...); measure this one",
            path=path,
            key="model_sha256",
            expected=model_sha256,
            got=table.model_sha256,
        )
    _check_imatrix(table, path, imatrix)
    tensors = model_tensors(file)
    importances = importances_of(tensors, imatrix)
    legal = candidate_types(tensors, importances, all_targets())
    wanted = candidate_types(tensors, importances, targets or all_targets())
    _check_tensors(table, path, tensors, legal)
    rows = {name: table.tensors[name] for name in legal}
    damages = {
        name: {
            t: Damage(row.types[t].kld_mean, row.types[t].kld_variance)
            for t in wanted[name]
            if t in row.types
        }
        for name, row in rows.items()
    }
    errors = {
        name: WeightErrors(
            {t: r.rmse for t, r in row.types.items() if r.rmse is not None},
            {t: r.max_error for t, r in row.types.items() if r.max_error is not None},
            row.rms,
        )
        for name, row in rows.items()
    }
    anchors = {name: row.anchor for name, row in rows.items() if row.anchor is not None}
    at_anchor = {
        name: Damage(row.at_anchor.kld_mean, row.at_anchor.kld_variance) for name, row in rows.items()
    }
    share = None
    if table.input_share is not None and not keep_tied and loads_untied(file):
        share = Share(min(table.input_share, 1.0), table.input_share_variance or 0.0)
    return Damages(tensors, imatrix, importances, damages, anchors, at_anchor, errors, share)


def _check_imatrix(table: DamageFile, path: str, imatrix: Imatrix | None) -> None:
    made_with, own = table.imatrix_sha256, None if imatrix is None else imatrix.content_hash()
    if made_with == own:
        return
    if own is None:
        problem = f"was made with an imatrix (sha256 {str(made_with)[:16]}...); give it with --imatrix"
    elif made_with is None:
        problem = "was made without an imatrix; leave --imatrix out"
    else:
        problem = (
            f"was made with another imatrix (sha256 {made_with[:16]}..., this one's is {own[:16]}...); give "
            "that one, or measure again"
        )
    raise DamageTableError(
        f"{path} {problem}", path=path, key="imatrix_sha256", expected=own or "none", got=made_with or "none"
    )


def _check_tensors(
    table: DamageFile,
    path: str,
    tensors: Mapping[str, ModelTensor],
    legal: Mapping[str, tuple[str, ...]],
) -> None:
    for name, rows in table.tensors.items():
        if name not in legal:
            what = "never changes its type" if name in tensors else "is not in the model"
            raise DamageTableError(
                f"{path} has rows for {name}, which {what}; remove them", path=path, tensor=name
            )
        wrong = sorted(set(rows.types) - {*legal[name], tensors[name].qtype_name})
        if wrong:
            raise DamageTableError(
                f"{path} has a row for {name} at {wrong[0]}, which it cannot have; remove it",
                path=path,
                tensor=name,
                key=wrong[0],
            )
    missing = sorted(set(legal) - set(table.tensors))
    if missing:
        raise DamageTableError(
            f"{path} has no rows for {missing[0]}, whose damage is then unknown; measure again",
            path=path,
            tensor=missing[0],
        )


def _row(damage: Damage, rmse: float | None = None, max_error: float | None = None) -> TypeRow:
    return TypeRow(damage.mean, damage.variance, rmse, max_error)
