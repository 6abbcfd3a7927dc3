"""Where a command's damages come from: measured on a text, or read from a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mqnative.errors import ConstraintError
from mqnative.formats.damage_file import read_damages
from mqnative.formats.imatrix import Imatrix
from mqnative.jobs.choose import Weighing
from mqnative.jobs.damage_table import from_file
from mqnative.jobs.known import Damages, damages_of
from mqnative.jobs.run import Run
from mqnative.measure.parts import Parts


@dataclass(frozen=True)
class Obtained:
    """Damages, and the texts they were measured on; None where they come from a file.

    Attributes:
        known: by how errors are weighed.
        parts: of the text.
    """

    known: dict[Weighing, Damages]
    parts: Parts | None


def obtain(run: Run, text: Path | None, imatrix: Imatrix | None, table: Path | None) -> Obtained:
    """The damages a command works with.

    Args:
        run: over the model.
        text: to measure on; looked at where there is no table.
        imatrix: to encode with; without one it is collected from the text.
        table: a damage table made before.

    Raises:
        DamageTableError: the table cannot be read, or is of another model or imatrix.
        ConstraintError: both ways of weighing were asked for of a table, which holds one.
        TextError and the other errors of measuring.
    """
    if table is not None:
        if run.options.importance == "auto":
            raise ConstraintError(
                "a damage table holds one way to weigh errors; --importance auto needs a text instead",
                constraint="--importance auto",
            )
        found = from_file(
            read_damages(table),
            str(table),
            run.study.file,
            run.study.identity.model,
            None if run.options.importance == "none" else imatrix,
            run.options.measured_types,
            keep_tied=run.options.keep_tied,
        )
        return Obtained({"none" if found.imatrix is None else "imatrix": found}, None)
    assert text is not None
    parts = run.parts(text, None)
    measures = run.measure_all(parts, imatrix)
    return Obtained({w: damages_of(m) for w, m in measures.items()}, parts)
