"""What a run of ``auto`` was asked for, and whether an output folder belongs to it."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mqnative.errors import OutputError, OutputExistsError
from mqnative.formats.atomic import write_text_atomic
from mqnative.solve.solvers import Settings

# Raised when the same request would give another answer.
_REQUEST_VERSION = 3


@dataclass(frozen=True)
class Request:
    """Everything that decides the answer.

    Attributes:
        model: the model's hash.
        calib, evaluation: hashes of the texts; evaluation is empty where the calibration text serves both.
        size_bytes, bpw: the budget, one of the two, or none: the knee of the frontier.
        targets: types allowed.
        n_ctx: tokens per chunk.
        probe_chunks, select_chunks, verify_chunks: how much text each step uses; None: as much as it takes.
        precision: of a probe.
        rivals: presets to verify besides the standard ones.
        fast: whether nothing is probed.
        refine_rounds: at most so many times moves are measured on the solved mix.
        build: upstream commit, ISA and device.
        incumbents, like: hashes of others' mixes, and of a sibling's manifest.
        constraints: as the command line writes them.
        method, settings: the solver.
        importance: whether the imatrix is used.
        keep_tied: whether a head that is the embedding must stay so.
        memory: the machine that the result must fit; empty for none.
        gptq: whether weights are rounded with error feedback.
    """

    model: str
    calib: str
    evaluation: str
    size_bytes: int | None
    bpw: float | None
    targets: tuple[str, ...]
    n_ctx: int
    probe_chunks: int
    precision: float
    select_chunks: int
    verify_chunks: int | None
    rivals: tuple[str, ...]
    fast: bool
    refine_rounds: int
    build: str
    incumbents: tuple[str, ...] = ()
    like: str = ""
    constraints: tuple[str, ...] = ()
    method: str = "exact"
    settings: str = ""
    importance: str = "imatrix"
    keep_tied: bool = False
    memory: str = ""
    gptq: bool = False

    def key(self) -> str:
        """SHA-256, in hex."""
        text = json.dumps({"version": _REQUEST_VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class OutputFolder:
    """The folder of one run: finished models and reports at the top, everything else in ``work/``."""

    path: Path

    @property
    def work(self) -> Path:
        """Reference, imatrix and the record of the request."""
        return self.path / "work"

    @property
    def manifest(self) -> Path:
        """Written last: a folder with a manifest is finished."""
        return self.path / "manifest.json"

    def claim(self, key: str, *, force: bool) -> None:
        """Make the folder this request's.

        Raises:
            OutputExistsError: it holds something else and force is not set.
            OutputError: it cannot be made.
        """
        record = self.work / "request.json"
        if self._claimed_by(record) == key:
            self._remove_partial_files()
            self.manifest.unlink(missing_ok=True)
            return
        if self.path.exists() and any(self.path.iterdir()) and not force:
            raise OutputExistsError(
                f"{self.path} holds files of another run; choose another folder or pass --force",
                path=str(self.path),
            )
        try:
            self.work.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot make {self.work}: {os.strerror(error.errno or 0)}; choose another folder",
                path=str(self.work),
            ) from error
        self.manifest.unlink(missing_ok=True)
        write_text_atomic(record, json.dumps({"request": key}) + "\n")

    def _remove_partial_files(self) -> None:
        """What a killed run was writing; see `atomic_path` for the names."""
        for folder in (self.path, self.work):
            for part in folder.glob(".*.part"):
                part.unlink(missing_ok=True)

    def finished(self, key: str) -> dict[str, Any] | None:
        """The manifest of a finished run of this very request whose files are all still there."""
        try:
            manifest = json.loads(self.manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(manifest, dict) or manifest.get("request") != key:
            return None
        for name, size in manifest.get("files", {}).items():
            path = self.path / name
            if not path.is_file() or path.stat().st_size != size:
                return None
        return manifest

    @staticmethod
    def _claimed_by(record: Path) -> str | None:
        try:
            found = json.loads(record.read_text(encoding="utf-8")).get("request")
        except (OSError, ValueError, AttributeError):
            return None
        return found if isinstance(found, str) else None


def settings_text(settings: Settings) -> str:
    """A solver's settings as text; empty for the defaults."""
    return "" if settings == Settings() else repr(settings)


def text_hash(path: Path) -> str:
    """SHA-256, in hex, of a text file's bytes; empty if it cannot be read, which reading it will report."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
