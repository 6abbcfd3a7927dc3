"""Sums of an importance matrix on their way: what a killed run goes on from.

They are written after every minute or so, whole or not at all; a later run adds the next batch to them. Since
float32 sums depend on their order alone, and the order is kept, the result has the same bits.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mqnative.core.model import ActivationSums
from mqnative.core.native import core
from mqnative.errors import MQNativeError
from mqnative.formats.atomic import atomic_path
from mqnative.measure.corpus import Corpus
from mqnative.store.paths import home, made_folder

_FOLDER = "partial"
_VERSION = 1
_EVERY_S = 60.0
# Writing takes at most this share of the time.
_SHARE = 0.01
# What nobody has come back for is removed.
_FORGOTTEN_S = 30 * 86400.0
# Less than this, in tokens times weights, is done again in about a minute.
_WORTH = 1e12


@dataclass
class PartialSums:
    """The file of one text on one model.

    Attributes:
        path: where it is.
        every_s: how often it is written.
    """

    path: Path
    every_s: float = _EVERY_S

    @classmethod
    def of(
        cls, identity: str, n_weights: int, corpus: Corpus, device: str, *, process_output: bool = True
    ) -> PartialSums | None:
        """The file for these inputs; None where the work is too little to be worth it, or there is no place.

        Args:
            identity: hash of the model.
            n_weights: of it.
            corpus: the text.
            device: that computes.
            process_output: as for `collect_imatrix`.
        """
        if float(corpus.inputs.size) * n_weights < _WORTH:
            return None
        info = core().build_info()
        facts = [_VERSION, identity, corpus.content_hash(), process_output]
        facts += [info["upstream_commit"], info["isa"], device]
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        with suppress(MQNativeError, OSError):
            folder = made_folder(home() / _FOLDER)
            _forget_old(folder)
            return cls(folder / f"imatrix-{key[:32]}.npz")
        return None

    def read(self) -> tuple[dict[str, ActivationSums], int]:
        """The sums and how many chunks they are of; nothing where there is none, or it is damaged."""
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                about: Mapping[str, Any] = json.loads(stored["about"].tobytes())
                sums = {
                    name: ActivationSums(*(stored[f"{i} {part}"] for part in ("squares", "sums", "counts")))
                    for i, name in enumerate(about["names"])
                }
                return sums, int(about["done"])
        except Exception:  # whatever bytes may do to a reader: the work is done anew
            return {}, 0

    def write(self, sums: Mapping[str, ActivationSums], done: int) -> float:
        """Keep the sums of the first ``done`` chunks.

        Returns:
            Seconds until it is worth while again. A disk that is full does not end the work.
        """
        started = time.monotonic()
        about = json.dumps({"names": list(sums), "done": done}).encode()
        arrays: dict[str, Any] = {"about": np.frombuffer(about, np.uint8)}
        for i, one in enumerate(sums.values()):
            arrays |= {f"{i} squares": one.sum_squares, f"{i} sums": one.sums, f"{i} counts": one.counts}
        with (
            suppress(MQNativeError, OSError),
            atomic_path(self.path) as temporary,
            temporary.open("wb") as out,
        ):
            np.savez(out, **arrays)
        return max(self.every_s, (time.monotonic() - started) / _SHARE)

    def remove(self) -> None:
        """The result is kept elsewhere now."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


def _forget_old(folder: Path) -> None:
    for path in folder.iterdir():
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _FORGOTTEN_S:
                path.unlink()
