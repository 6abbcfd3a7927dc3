# The compiled module; use the checked functions of mqnative.core instead. Types are ggml numbers, shapes are
# (slices, rows, weights per row). Arrays must be C-contiguous and have exactly the dtype named; nothing is
# copied. `progress` is called with (done, total) about ten times a second; raising stops the call.

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, final

import numpy as np
import numpy.typing as npt

_Blocks: TypeAlias = npt.NDArray[Any]
_Importances: TypeAlias = npt.NDArray[np.float32]
_TokenIds: TypeAlias = npt.NDArray[np.int32]
_LogitRows: TypeAlias = npt.NDArray[np.float32]
_MatrixShape: TypeAlias = tuple[int, int, int]
# n_ctx of all sequences, sequences, tokens at once, types of K and V
_Context: TypeAlias = tuple[int, int, int, int, int]
_Progress: TypeAlias = Callable[[int, int], object] | None

error_bin_shift: int
planned_device: str
has_graph_hooks: bool

def build_info() -> dict[str, str]: ...
def system_info() -> str: ...
def backends() -> list[tuple[str, int]]: ...
def startup_errors() -> str: ...
def devices() -> list[dict[str, Any]]: ...
def drain_log() -> list[tuple[int, str]]: ...
def type_table() -> list[dict[str, Any]]: ...
def uses_imatrix(id: int) -> bool: ...
def presets() -> list[dict[str, Any]]: ...
def quantize(
    src: _Blocks,
    src_type: int,
    shape: _MatrixShape,
    dst_type: int,
    dst: _Blocks,
    imatrix: _Importances | None,
    n_threads: int,
    progress: _Progress,
) -> None: ...
def dequantize(
    src: _Blocks, src_type: int, shape: _MatrixShape, dst: _Blocks, n_threads: int, progress: _Progress
) -> None: ...
def row_errors(
    src: _Blocks,
    src_type: int,
    shape: _MatrixShape,
    rows: npt.NDArray[np.int64],
    types: Sequence[int],
    imatrix: _Importances | None,
    histogram: bool,
    n_threads: int,
    progress: _Progress,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.uint64]]: ...
def feedback_types() -> list[int]: ...
def feedback_factors(
    moments: npt.NDArray[np.float32],
    n_per_row: int,
    columns: int,
    damping: float,
    n_threads: int,
    progress: _Progress,
) -> None: ...
def round_with_feedback(
    src: _Blocks,
    src_type: int,
    shape: _MatrixShape,
    dst_type: int,
    blocks: _Blocks,
    factors: npt.NDArray[np.float32],
    columns: int,
    n_threads: int,
    progress: _Progress,
) -> None: ...
def validate_rows(blocks: _Blocks, type: int) -> bool: ...
def softmax_norms(
    logits: _LogitRows, n_threads: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]: ...
def score_exact(
    logits: _LogitRows,
    targets: _TokenIds,
    reference: _LogitRows | None,
    norms: npt.NDArray[np.float64] | None,
    tops: npt.NDArray[np.int64] | None,
    n_threads: int,
) -> tuple[
    npt.NDArray[np.float64],
    npt.NDArray[np.float64],
    npt.NDArray[np.float64],
    npt.NDArray[np.float64],
    npt.NDArray[np.uint8],
]: ...
def score_compat(
    logits: _LogitRows, targets: _TokenIds, reference: _LogitRows | None, n_threads: int
) -> tuple[
    npt.NDArray[np.float32],
    npt.NDArray[np.float32],
    npt.NDArray[np.float64],
    npt.NDArray[np.float32],
    npt.NDArray[np.uint8],
]: ...
def score_compat_nll(logits: _LogitRows, targets: _TokenIds, n_threads: int) -> npt.NDArray[np.float64]: ...
def upstream_quantize(
    input: bytes,
    output: bytes,
    ftype: int,
    pure: bool,
    allow_requantize: bool,
    types: Sequence[tuple[str, int]],
    imatrix: Mapping[str, _Importances],
    n_threads: int,
    progress: _Progress,
) -> None: ...
def upstream_plan(
    input: bytes,
    ftype: int,
    pure: bool,
    types: Sequence[tuple[str, int]],
    imatrix: Mapping[str, _Importances],
) -> dict[str, int]: ...
def memory_use(
    paths: Sequence[bytes],
    n_gpu_layers: int,
    devices: Sequence[str],
    on_cpu: Sequence[str],
    extra_buffers: bool,
    contexts: Sequence[_Context],
    load: bool,
    progress: _Progress,
) -> tuple[list[list[dict[str, Any]]], list[tuple[str, bool, int]]]: ...
def allocated_bytes(device: str, tensors: Sequence[tuple[int, Sequence[int]]]) -> list[int]: ...
def bench_model(
    paths: Sequence[bytes],
    n_gpu_layers: int,
    devices: Sequence[str],
    on_cpu: Sequence[str],
    extra_buffers: bool,
    context: _Context,
    n_prompt: int,
    n_gen: int,
    n_runs: int,
    n_threads: int,
    fill: bool,
    progress: _Progress,
) -> tuple[list[float], list[float]]: ...
def time_product(
    type: int,
    shape: tuple[int, int, int, int, int],
    device: str,
    extra_buffers: bool,
    n_threads: int,
    working_set_bytes: int,
    seconds: float,
    progress: _Progress,
) -> list[float]: ...
def restart_layers(paths: Sequence[bytes]) -> list[int]: ...
def allows_quantization(architecture: str, tensors: Sequence[tuple[str, int]]) -> list[bool]: ...

@final
class Variant:
    @property
    def name(self) -> str: ...
    @property
    def type(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...

@final
class Trace:
    def __init__(self, tokens: _TokenIds, first: int, last: int) -> None: ...
    @property
    def layers(self) -> list[int]: ...
    @property
    def size_bytes(self) -> int: ...

@final
class LogitScorer:
    def __init__(self, keeps: bool) -> None: ...
    def begin(self, targets: _TokenIds, reference: LogitScorer | None, compares: bool) -> None: ...
    def add_rows(self, rows: _LogitRows, device: str) -> None: ...
    def scores(
        self,
    ) -> tuple[
        npt.NDArray[np.float64],
        npt.NDArray[np.float64],
        npt.NDArray[np.float64],
        npt.NDArray[np.float64],
        npt.NDArray[np.uint8],
    ]: ...
    @property
    def is_equal(self) -> bool: ...
    @property
    def size_bytes(self) -> int: ...

@final
class Model:
    def __init__(
        self,
        paths: Sequence[bytes],
        n_gpu_layers: int,
        devices: Sequence[str],
        extra_buffers: bool,
        n_threads: int,
        progress: _Progress,
    ) -> None: ...
    def tensors(self) -> list[dict[str, Any]]: ...
    def info(self) -> dict[str, Any]: ...
    def logits_device(self) -> str: ...
    def tokenize(self, text: bytes, add_special: bool, parse_special: bool) -> _TokenIds: ...
    def piece(self, token: int) -> bytes: ...
    def logits(
        self,
        tokens: _TokenIds,
        first: int,
        last: int,
        out: _LogitRows | None,
        progress: _Progress,
        scorer: LogitScorer | None = None,
    ) -> None: ...
    def trace(
        self,
        tokens: _TokenIds,
        first: int,
        last: int,
        layers: Sequence[int],
        out: _LogitRows | None,
        progress: _Progress,
        scorer: LogitScorer | None = None,
    ) -> Trace: ...
    def resume(
        self,
        trace: Trace,
        layer: int,
        out: _LogitRows | None,
        progress: _Progress,
        is_own: bool = False,
        scorer: LogitScorer | None = None,
    ) -> bool: ...
    def advance(self, trace: Trace, layer: int, until: int, progress: _Progress) -> Trace: ...
    def last_logits(self) -> _LogitRows: ...
    def activations(
        self, chunks: _TokenIds, process_output: bool, progress: _Progress, sums_on_device: bool = False
    ) -> dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float64], npt.NDArray[np.int64]]]: ...
    def activations_until(
        self,
        chunks: _TokenIds,
        process_output: bool,
        first: int,
        seconds: float,
        sums: dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float64], npt.NDArray[np.int64]]],
        progress: _Progress,
        sums_on_device: bool = False,
    ) -> tuple[
        dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float64], npt.NDArray[np.int64]]], int
    ]: ...
    def covariances(
        self, chunks: _TokenIds, names: set[str], columns: int, max_own_bytes: int, progress: _Progress
    ) -> tuple[
        dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], int, int]], dict[str, str]
    ]: ...
    def encode(self, name: str, type: int, imatrix: _Importances | None, progress: _Progress) -> Variant: ...
    def variant(self, name: str, type: int, blocks: _Blocks) -> Variant: ...
    def swap(self, variants: Sequence[Variant]) -> None: ...
    def restore(self, names: Sequence[str]) -> None: ...
    def swapped(self) -> list[str]: ...
    def set_cache(self, k: int, v: int) -> None: ...
    def set_threads(self, n_threads: int) -> None: ...
