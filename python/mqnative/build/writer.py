"""Executes a plan: tensors stream from the mapped source through the encoder into the new file.

Memory stays at a slab of rows, whatever the size of a tensor. The file appears under its name when it is
whole and its header has been read back. A cache saves encoding what was encoded before; what is rounded with
error feedback is not kept, since another text gives other bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from mqnative.build.feedback import takes_part
from mqnative.build.plan import BuildPlan, PlannedTensor
from mqnative.core.feedback import Factors, round_with_feedback
from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.core.quantize import quantize_blocks, validate_blocks
from mqnative.errors import (
    GGUFError,
    MQNativeError,
    NonFiniteError,
    OutputError,
    OutputExistsError,
    QuantizeError,
)
from mqnative.formats.atomic import atomic_path
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.gguf_writer import write_tensors
from mqnative.formats.qtypes import QType, qtype
from mqnative.source.encoded import EncodedTensors
from mqnative.store.encode_cache import EntryWriter

# Rows encoded at a time: enough for every core, little beside a model.
_SLAB_WEIGHTS = 16 * 1024 * 1024


# (slice, first row, number of rows, their bytes); a slab never crosses a slice.
Slab = tuple[int, int, int, npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class BuildResult:
    """What lies on the disk now.

    Attributes:
        path: the file.
        size_bytes: its size, equal to the plan's.
        reused: whether it was there already, made from the same inputs, and was left alone.
    """

    path: Path
    size_bytes: int
    reused: bool


def build_gguf(
    file: GGUFFile,
    plan: BuildPlan,
    output: str | Path,
    *,
    force: bool = False,
    n_threads: int | None = None,
    monitor: Monitor = NULL_MONITOR,
    cache: EncodedTensors | None = None,
    feedback: Callable[[], Mapping[str, Factors]] | None = None,
) -> BuildResult:
    """Write the file that ``plan`` describes.

    Args:
        file: the open source the plan was made for.
        plan: from `plan_build`.
        output: where to write; its folder must exist.
        force: replace a file that was made otherwise.
        n_threads: default all usable processors; the bytes do not depend on it.
        monitor: told the weights done.
        cache: of the same source's tensors; the bytes do not depend on it.
        feedback: collects, by tensor of the source, what rounding errors do to each other; not called where
            the file is there already. Without it, and for tensors that are not in it, the data is that of
            llama_model_quantize.

    Returns:
        The file; ``reused`` if one with exactly this header and size was there already.

    Raises:
        OutputExistsError: another file is there and force is not set.
        OutputError: the folder is missing, read-only or full.
        NonFiniteError, QuantizeError: a tensor cannot be encoded; it is named.
        GGUFError: the written file does not read back as planned.
        OperationCancelled: nothing is left behind.
    """
    output = Path(output)
    if _same_build(output, plan) and not force:
        return BuildResult(output, plan.file_bytes, reused=True)
    if output.exists() and not force:
        raise OutputExistsError(
            f"{output} exists and was made from other inputs; pass --force to replace it", path=str(output)
        )
    if any(output.exists() and output.samefile(source) for source in file.paths):
        raise OutputError(
            f"cannot write {output}: it is the source itself, choose another name", path=str(output)
        )
    if cache is not None and not _room_for_both(output, plan):
        cache = cache.only_reading()
    factors = {} if feedback is None else feedback()
    monitor.start("build", plan.n_weights, "weights")
    by_name = {t.name: t for t in plan.tensors}
    progress = SlabProgress(monitor)
    with atomic_path(output) as temporary:
        with temporary.open("wb") as out:
            write_tensors(
                out,
                plan.layout,
                lambda slot, stream: _write_tensor(
                    file, plan, by_name[slot.name], stream, progress, n_threads, cache, factors
                ),
                path=output,
            )
        check_written(temporary, plan, output)
    monitor.finish()
    return BuildResult(output, plan.file_bytes, reused=False)


def _room_for_both(output: Path, plan: BuildPlan) -> bool:
    """Whether the disk holds the file and as much again: what is cached must not make the output fail."""
    try:
        return shutil.disk_usage(output.parent).free >= 2 * plan.file_bytes
    except OSError:
        return False


class SlabProgress:
    """Adds up what the encoder reports slab by slab."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._before = 0

    def start(self, step: str, total: int, unit: str) -> None:
        """Slabs are parts of one step."""

    def update(self, done: int) -> None:
        self._monitor.update(self._before + done)

    def finish(self) -> None:
        """Slabs are parts of one step."""

    def add(self, n: int) -> None:
        self._before += n
        self._monitor.update(self._before)


def _write_tensor(
    file: GGUFFile,
    plan: BuildPlan,
    tensor: PlannedTensor,
    out: BinaryIO,
    progress: SlabProgress,
    n_threads: int | None,
    cache: EncodedTensors | None,
    feedback: Mapping[str, Factors],
) -> None:
    uses_imatrix = plan.imatrix is not None and tensor.uses_imatrix
    weights = plan.imatrix.weights_for(tensor.stored, tensor.shape) if plan.imatrix and uses_imatrix else None
    factors = feedback.get(tensor.stored) if takes_part(tensor) else None
    if cache is None or tensor.copied or factors is not None:
        write_rows(tensor, _slabs(file, tensor.stored), weights, out, None, progress, n_threads, factors)
        return
    found = cache.find(tensor.stored, tensor.qtype, weights)
    if found is not None:
        _write_found(found, tensor, out, progress)
        return
    with cache.writer(tensor.stored, tensor.qtype, weights) as kept:
        write_rows(tensor, _slabs(file, tensor.stored), weights, out, kept, progress, n_threads)


def _write_found(
    blocks: npt.NDArray[np.uint8], tensor: PlannedTensor, out: BinaryIO, progress: SlabProgress
) -> None:
    n_per_row = tensor.shape[0]
    row_bytes = qtype(tensor.qtype).row_bytes(n_per_row)
    step = max(1, _SLAB_WEIGHTS // n_per_row) * row_bytes
    for start in range(0, len(blocks), step):
        piece = blocks[start : start + step]
        out.write(piece.data)
        progress.add(len(piece) // row_bytes * n_per_row)


def write_rows(
    tensor: PlannedTensor,
    slabs: Iterable[Slab],
    weights: npt.NDArray[np.float32] | None,
    out: BinaryIO,
    kept: EntryWriter | None,
    progress: SlabProgress,
    n_threads: int | None,
    factors: Factors | None = None,
) -> None:
    """Encode a tensor's rows one slab after the other, or copy them, as the plan says.

    Args:
        tensor: what becomes of it.
        slabs: its rows as the source stores them, in order.
        weights: importances, float32, (slices, row length).
        out: where the blocks go.
        kept: where they go besides.
        progress: told the weights done.
        n_threads: default all usable processors.
        factors: of error feedback; without it weights are rounded as llama-quantize does.

    Raises:
        NonFiniteError, QuantizeError: with the tensor's name.
    """
    source, target = qtype(tensor.source_type), qtype(tensor.qtype)
    for slice_index, first_row, n_rows, rows in slabs:
        try:
            if tensor.copied:
                _check_copied(rows, target)
                blocks = rows
            else:
                blocks = quantize_blocks(
                    rows,
                    source,
                    (1, n_rows, tensor.shape[0]),
                    target,
                    None if weights is None else weights[slice_index],
                    n_threads=n_threads,
                    monitor=progress,
                )
                if factors is not None:
                    own = factors.of_slice(slice_index)
                    shape = (1, n_rows, tensor.shape[0])
                    round_with_feedback(rows, source, shape, target, blocks, own, n_threads=n_threads)
        except NonFiniteError as error:
            row = None if error.row is None else first_row + error.row
            raise NonFiniteError(
                f"{tensor.name}: {error.message}", tensor=tensor.name, row=row, slice=slice_index
            ) from None
        except MQNativeError as error:
            raise _named(error, tensor.name) from None
        out.write(blocks.data)
        if kept is not None:
            kept.write(blocks)
        progress.add(n_rows * tensor.shape[0])


def _check_copied(rows: npt.NDArray[np.uint8], target: QType) -> None:
    """What llama_model_quantize checks too: copied blocks and floats are finite."""
    if not target.is_target or validate_blocks(rows, target):
        return
    if target.is_quantized:
        raise QuantizeError(f"the source's {target.name} blocks are damaged")
    raise NonFiniteError("the weights hold a NaN or an infinity; the source is damaged")


def _slabs(file: GGUFFile, name: str) -> Iterator[Slab]:
    """The rows of a tensor that lies in a file."""
    info = file.tensors[name]
    n_slices, n_rows, n_per_row = info.matrix_shape
    row_bytes = info.qtype.row_bytes(n_per_row)
    step = max(1, _SLAB_WEIGHTS // n_per_row)
    data = file.data(name)
    for slice_index in range(n_slices):
        for row in range(0, n_rows, step):
            n = min(step, n_rows - row)
            start = (slice_index * n_rows + row) * row_bytes
            yield slice_index, row, n, data[start : start + n * row_bytes]


def _named(error: MQNativeError, tensor: str) -> MQNativeError:
    """The same error with the tensor it is about, which the encoder does not know."""
    if "tensor" not in error.fields:
        return error
    fields = {name: getattr(error, name) for name in error.fields}
    return type(error)(f"{tensor}: {error.message}", **{**fields, "tensor": tensor})


def _same_build(output: Path, plan: BuildPlan) -> bool:
    """Whether ``output`` is the plan's file: files appear whole, so header and size tell."""
    try:
        if output.stat().st_size != plan.file_bytes:
            return False
        with output.open("rb") as file:
            return file.read(len(plan.layout.header_bytes)) == plan.layout.header_bytes
    except OSError:
        return False


def check_written(path: Path, plan: BuildPlan, output: Path) -> None:
    """Read the header of a finished file back.

    Raises:
        GGUFError: it is not what was planned.
    """
    with GGUFFile.open(path) as written:
        found = {name: (t.qtype.name, t.size_bytes) for name, t in written.tensors.items()}
        expected = {t.name: (t.qtype, t.size_bytes) for t in plan.tensors}
        if found != expected or written.file_bytes != plan.file_bytes:
            raise GGUFError(
                f"{output} does not read back as planned; the disk may be failing", path=str(output)
            )
