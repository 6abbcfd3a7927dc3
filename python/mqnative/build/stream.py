"""Files made of a source that gives its tensors' bytes once, one tensor after the other, in any order asked for.

The converter is such a source: nothing unquantized lies on the disk, and the bytes are those of converting first
and building then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from mqnative.build.plan import BuildPlan
from mqnative.build.writer import Slab, SlabProgress, check_written, write_rows
from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.errors import GGUFError
from mqnative.formats.atomic import atomic_path
from mqnative.formats.gguf import GGUFFile, TensorInfo
from mqnative.formats.gguf_rules import padded
from mqnative.formats.gguf_writer import write_tensors
from mqnative.source.identity import Identity, identity_of

Bytes = npt.NDArray[np.uint8]
# The bytes of a tensor, whole rows at a time, as the skeleton says that they are stored.
Pieces = Callable[[str], Iterable[Bytes]]
# The plan for a source of this hash; the hash is known when every tensor was read.
Planner = Callable[[str], BuildPlan]


@dataclass(frozen=True)
class Streamed:
    """A file that was written.

    Attributes:
        size_bytes: of the file.
        identity: of the source, as if it had been a file.
    """

    size_bytes: int
    identity: Identity


def write_reference(
    skeleton: GGUFFile, pieces: Pieces, output: Path, *, monitor: Monitor = NULL_MONITOR
) -> Streamed:
    """Write the source as it is.

    Args:
        skeleton: the file to be, without its data: a hole is enough.
        pieces: the data.
        output: where to; its folder must exist.
        monitor: told the bytes.

    Raises:
        OutputError: the folder is missing, read-only or full.
        GGUFError: the file does not read back as it should.
    """
    hashes: dict[str, str] = {}
    monitor.start("convert", skeleton.tensor_bytes, "bytes")
    done = 0
    with atomic_path(output) as temporary:
        with temporary.open("wb") as out:
            out.write(_header(skeleton))
            for info in skeleton.tensors.values():
                digest = hashlib.sha256()
                for piece in pieces(info.name):
                    digest.update(piece.data)
                    out.write(piece.data)
                    done += len(piece)
                    monitor.update(done)
                hashes[info.name] = digest.hexdigest()
                out.write(bytes(padded(info.size_bytes, skeleton.alignment) - info.size_bytes))
        _check_same(temporary, skeleton, output)
    monitor.finish()
    return Streamed(output.stat().st_size, identity_of(skeleton, hashes))


def build_streamed(
    skeleton: GGUFFile,
    pieces: Pieces,
    planner: Planner,
    output: Path,
    *,
    n_threads: int | None = None,
    monitor: Monitor = NULL_MONITOR,
) -> Streamed:
    """Write what a plan makes of the source; the bytes are those of `mqnative.build_gguf`.

    Args:
        skeleton: the source's file, without its data.
        pieces: the data; each tensor is asked for once, a tied embedding that is untied twice.
        planner: the plan, given the source's hash; only the hash in its header may depend on it.
        output: where to; its folder must exist.
        n_threads: default all usable processors.
        monitor: told the weights.

    Raises:
        as `mqnative.build_gguf`.
    """
    plan = planner("")
    hashes: dict[str, str] = {}
    by_name = {t.name: t for t in plan.tensors}
    progress = SlabProgress(monitor)

    def write_tensor(name: str, out: BinaryIO) -> None:
        digest = hashlib.sha256()
        tensor = by_name[name]
        stored, imatrix = tensor.stored, plan.imatrix
        weights = imatrix.weights_for(stored, tensor.shape) if imatrix and tensor.uses_imatrix else None
        slabs = _slabs(_hashed(pieces(stored), digest.update), skeleton.tensors[stored])
        write_rows(tensor, slabs, weights, out, None, progress, n_threads)
        hashes[stored] = digest.hexdigest()

    monitor.start("convert", plan.n_weights, "weights")
    with atomic_path(output) as temporary:
        with temporary.open("wb") as out:
            write_tensors(out, plan.layout, lambda slot, stream: write_tensor(slot.name, stream), path=output)
            identity = identity_of(skeleton, hashes)
            plan = _same_layout(plan, planner(identity.model))
            out.seek(0)
            out.write(plan.layout.header_bytes)
        check_written(temporary, plan, output)
    monitor.finish()
    return Streamed(plan.file_bytes, identity)


def _hashed(pieces: Iterable[Bytes], update: Callable[[memoryview], None]) -> Iterator[Bytes]:
    for piece in pieces:
        update(piece.data)
        yield piece


def _slabs(pieces: Iterable[Bytes], info: TensorInfo) -> Iterator[Slab]:
    """Pieces of whole rows, cut where an expert ends."""
    _, n_rows, n_per_row = info.matrix_shape
    row_bytes = info.qtype.row_bytes(n_per_row)
    row = 0
    for piece in pieces:
        taken = 0
        while taken < len(piece):
            slice_index, first = divmod(row, n_rows)
            n = min((len(piece) - taken) // row_bytes, n_rows - first)
            yield slice_index, first, n, piece[taken : taken + n * row_bytes]
            taken += n * row_bytes
            row += n


def _same_layout(first: BuildPlan, final: BuildPlan) -> BuildPlan:
    """The final plan; the tensors were written where the first one had them."""
    if len(first.layout.header_bytes) != len(final.layout.header_bytes) or first.types != final.types:
        raise GGUFError("the plan changed while the file was written; run the same command again")
    return final


def _header(skeleton: GGUFFile) -> bytes:
    start = min((t.offset for t in skeleton.tensors.values()), default=skeleton.file_bytes)
    with skeleton.path.open("rb") as file:
        return file.read(start)


def _check_same(path: Path, skeleton: GGUFFile, output: Path) -> None:
    with GGUFFile.open(path) as written:
        found = {name: (t.shape, t.qtype.name, t.offset) for name, t in written.tensors.items()}
        if found != {name: (t.shape, t.qtype.name, t.offset) for name, t in skeleton.tensors.items()}:
            raise GGUFError(f"{output} does not read back as planned; the disk may be failing", path=str(output))
