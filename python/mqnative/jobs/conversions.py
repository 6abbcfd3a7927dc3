"""Files that were converted, and what of: their headers do not tell whose weights they hold."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mqnative.formats.atomic import write_text_atomic
from mqnative.store.paths import home, made_folder

_RECORDS = "conversions"


@dataclass(frozen=True)
class Converted:
    """What there is now.

    Attributes:
        path: the file; None after a dry run.
        mmproj: the projector beside it.
        facts: as `mqnative.jobs.convert.run_conversion` returns them.
        notes: what a user should know.
        reused: whether it was there already, made from the same inputs.
    """

    path: Path | None
    mmproj: Path | None
    facts: dict[str, Any]
    notes: tuple[str, ...] = ()
    reused: bool = False

    @property
    def bpw(self) -> float:
        """8 x tensor bytes / weights."""
        return 8.0 * int(self.facts["tensor_bytes"]) / max(1, int(self.facts["n_weights"]))

    @property
    def bpw_file(self) -> float:
        """8 x file bytes / weights."""
        return 8.0 * int(self.facts["size_bytes"]) / max(1, int(self.facts["n_weights"]))


def _record_of(output: Path) -> Path:
    folder = made_folder(home() / _RECORDS)
    digest = hashlib.sha256(str(output.absolute()).encode("utf-8", "surrogatepass")).hexdigest()
    return folder / f"{digest[:32]}.json"


def _stat(path: Path | None) -> list[int] | None:
    return None if path is None else [path.stat().st_size, path.stat().st_mtime_ns]


def record(done: Converted, key: str) -> None:
    """Note what a file was made of: its header does not tell whose weights it holds."""
    assert done.path is not None
    noted = {
        "key": key,
        "file": _stat(done.path),
        "mmproj": None if done.mmproj is None else [done.mmproj.name, _stat(done.mmproj)],
        "facts": done.facts,
        "notes": list(done.notes),
    }
    write_text_atomic(_record_of(done.path), json.dumps(noted) + "\n")


def recall(output: Path, key: str) -> Converted | None:
    """What was noted of a file, if it is still that file and the inputs are the same."""
    try:
        noted = json.loads(_record_of(output).read_text(encoding="utf-8"))
        mmproj = output.with_name(noted["mmproj"][0]) if noted["mmproj"] else None
        same = noted["key"] == key and noted["file"] == _stat(output)
        if same and (mmproj is None or noted["mmproj"][1] == _stat(mmproj)):
            return Converted(output, mmproj, noted["facts"], tuple(noted["notes"]), reused=True)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None
