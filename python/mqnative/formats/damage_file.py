"""Damage tables as files: what every tensor of one model loses at every type, ``mqnative: damages/1``.

The file names the model and the imatrix by their hashes, so that a table cannot be used for another model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mqnative.errors import DamageTableError, UnsupportedTypeError
from mqnative.formats.atomic import check_output, write_text_atomic
from mqnative.formats.qtypes import qtype

VERSION = "damages/1"
# A model of a thousand tensors with thirty types takes some 5 MB.
MAX_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class TypeRow:
    """One tensor at one type.

    Attributes:
        kld_mean, kld_variance: predicted damage, nats per token, and the variance of that prediction.
        rmse, max_error: of the weights, in their own units; None if they were not measured.
    """

    kld_mean: float
    kld_variance: float
    rmse: float | None = None
    max_error: float | None = None


@dataclass(frozen=True)
class TensorRows:
    """One tensor.

    Attributes:
        anchor: the type it was probed at; None if its operation never ran.
        at_anchor: damage there.
        rms: root mean square of its weights; None if it was not measured.
        types: by type.
    """

    anchor: str | None
    at_anchor: TypeRow
    rms: float | None
    types: Mapping[str, TypeRow]


@dataclass(frozen=True)
class DamageFile:
    """A damage table and what it belongs to.

    Attributes:
        model_sha256: of the model, as `identify` gives it.
        imatrix_sha256: of the imatrix that tensors were encoded with; None for none.
        tensors: by name.
        build: what measured it.
        input_share, input_share_variance: how much of a tied embedding's damage is the input's; None if that
            was not measured, or nothing is tied.
    """

    model_sha256: str
    imatrix_sha256: str | None
    tensors: Mapping[str, TensorRows]
    build: str = ""
    input_share: float | None = None
    input_share_variance: float | None = None


def write_damages(path: str | Path, table: DamageFile, *, force: bool = False) -> None:
    """Write a damage table as JSON.

    Raises:
        OutputExistsError: something is there already, and ``force`` is not set.
        OutputError: the file cannot be written.
    """
    check_output(Path(path), force=force)
    values = {"mqnative": VERSION, **asdict(table)}
    write_text_atomic(Path(path), json.dumps(values, indent=1, allow_nan=False) + "\n")


def read_damages(path: str | Path) -> DamageFile:
    """The damage table in a file.

    Raises:
        DamageTableError: the file cannot be read, is of another version, lacks something, names an unknown
            type, or holds a number that is not finite or negative; tensor and key are named.
    """
    name = str(path)
    try:
        with Path(path).open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = getattr(error, "strerror", None) or error
        raise DamageTableError(f"cannot read {name}: {reason}; give a damage table", path=name) from error
    try:
        if len(raw) > MAX_BYTES:
            raise ValueError("it is too large")
        value = json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DamageTableError(
            f"{name} is no damage table: {error}; make one with solve --save-damages", path=name
        ) from None
    return _Reader(name).table(value)


class _Reader:
    """Reads values, and says which one is wrong."""

    def __init__(self, path: str) -> None:
        self._path = path

    def table(self, value: Any) -> DamageFile:
        top = self._object(value, "the file", None)
        version = top.get("mqnative")
        if version != VERSION:
            raise self._error(f"expected a table of version {VERSION}, got {version!r}", "mqnative")
        tensors = self._object(top.get("tensors"), "tensors", None)
        if not tensors:
            raise self._error("it holds no tensors", "tensors")
        return DamageFile(
            self._text(top.get("model_sha256"), "model_sha256"),
            None
            if top.get("imatrix_sha256") is None
            else self._text(top["imatrix_sha256"], "imatrix_sha256"),
            {name: self._tensor(name, rows) for name, rows in tensors.items()},
            self._text(top.get("build", ""), "build"),
            self._optional(top, "input_share", "input_share", None),
            self._optional(top, "input_share_variance", "input_share_variance", None),
        )

    def _tensor(self, name: str, value: Any) -> TensorRows:
        rows = self._object(value, name, name)
        types = self._object(rows.get("types"), "types", name)
        anchor = rows.get("anchor")
        return TensorRows(
            None if anchor is None else self._type(anchor, name),
            self._row(rows.get("at_anchor"), "at_anchor", name),
            self._optional(rows, "rms", "rms", name),
            {self._type(t, name): self._row(row, t, name) for t, row in types.items()},
        )

    def _row(self, value: Any, key: str, tensor: str) -> TypeRow:
        row = self._object(value, key, tensor)
        return TypeRow(
            self._number(row.get("kld_mean"), f"{key}.kld_mean", tensor),
            self._number(row.get("kld_variance"), f"{key}.kld_variance", tensor),
            self._optional(row, "rmse", f"{key}.rmse", tensor),
            self._optional(row, "max_error", f"{key}.max_error", tensor),
        )

    def _optional(self, row: Mapping[str, Any], name: str, key: str, tensor: str | None) -> float | None:
        return None if row.get(name) is None else self._number(row[name], key, tensor)

    def _number(self, value: Any, key: str, tensor: str | None) -> float:
        where = tensor or "the table"
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._error(f"{where} has {value!r} for {key}, expected a number", key, tensor)
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not (math.isfinite(number) and number >= 0):
            problem = f"{where} has {number:g} for {key}, expected a number of at least 0; measure it again"
            raise self._error(problem, key, tensor)
        return number

    def _type(self, value: Any, tensor: str) -> str:
        try:
            return qtype(str(value)).name
        except UnsupportedTypeError:
            raise self._error(
                f"{tensor} has a type {value!r} that ggml does not know", str(value), tensor
            ) from None

    def _text(self, value: Any, key: str) -> str:
        if not isinstance(value, str):
            raise self._error(f"expected a text for {key}, got {value!r}", key)
        return value

    def _object(self, value: Any, key: str, tensor: str | None) -> dict[str, Any]:
        if not isinstance(value, dict):
            of = f" of {tensor}" if tensor is not None and tensor != key else ""
            raise self._error(f"expected an object for {key}{of}, got {value!r:.60}", key, tensor)
        return value

    def _error(self, problem: str, key: str, tensor: str | None = None) -> DamageTableError:
        return DamageTableError(f"{self._path}: {problem}", path=self._path, key=key, tensor=tensor)
