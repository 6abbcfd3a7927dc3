"""A loaded model: tokens in, logits out, tensors exchanged in place.

Weights stay in memory-mapped pages; a swapped tensor lives beside them, so that a whole mix can be measured
without writing a file. One model serves one thread at a time.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mqnative.core.feedback import COLUMNS, MAX_OWN_BYTES, Moments
from mqnative.core.loadable import check_loadable
from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.core.native import core, forward_log, thread_count
from mqnative.core.quantize import progress
from mqnative.errors import BackendError, ModelLoadError, ShapeError
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.qtypes import qtype, types_by_id

if TYPE_CHECKING:
    from typing_extensions import Self

Tokens = npt.NDArray[np.int32]
Logits = npt.NDArray[np.float32]
_LOAD_STEPS = 1000


@dataclass(frozen=True)
class Vocab:
    """What evaluation needs to know of a model's tokenizer and size.

    Attributes:
        unknown: tokens that stand for text the tokenizer does not know.
    """

    n_vocab: int
    bos: int
    eos: int
    add_bos: bool
    add_eos: bool
    unknown: tuple[int, ...]
    n_ctx_train: int
    n_layer: int
    n_embd: int
    description: str


@dataclass(frozen=True)
class LoadedTensor:
    """A tensor of the loaded model: GGUF name and shape (row length first), type, and where it lies."""

    name: str
    shape: tuple[int, ...]
    qtype: str
    buffer: str


@dataclass(frozen=True)
class ActivationSums:
    """Sums over the activations that entered one weight.

    Attributes:
        sum_squares: float32, shape (n_slices, n_per_row): one slice per expert, or per matrix.
        sums: float64, the same shape, signed.
        counts: int64, shape (n_slices,): tokens seen.
    """

    sum_squares: npt.NDArray[np.float32]
    sums: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]


class Variant:
    """A tensor's weights in another type, ready to be swapped in; made by `Model.encode`."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    @property
    def name(self) -> str:
        """The tensor's name."""
        return str(self._handle.name)

    @property
    def qtype(self) -> str:
        """The type it is encoded in."""
        return types_by_id()[self._handle.type].name

    @property
    def size_bytes(self) -> int:
        """Bytes of the encoded tensor."""
        return int(self._handle.size_bytes)


class Trace:
    """Hidden states of one evaluated sequence; made by `Model.trace`."""

    def __init__(self, handle: Any, n_rows: int) -> None:
        self._handle = handle
        self.n_rows = n_rows

    @classmethod
    def of(cls, tokens: Tokens, *, first: int = 0, last: int | None = None) -> Trace:
        """A sequence of which nothing was computed yet; positions as for `Model.logits`.

        Raises:
            ShapeError: positions outside the sequence.
        """
        stop = len(tokens) if last is None else last
        return cls(core().Trace(np.ascontiguousarray(tokens, np.int32), first, stop), stop - first)

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that a pass can start at; fewer than asked for where the model's graph has no such place."""
        return tuple(self._handle.layers)

    @property
    def size_bytes(self) -> int:
        """Memory it holds."""
        return int(self._handle.size_bytes)


class Model:
    """A GGUF model in memory; a context manager.

    Args:
        path: a GGUF file (the first part of a split one).
        device: "cpu", "auto" (every GPU) or a device's name as `mqnative doctor` prints it; several are
            joined by commas.
        n_gpu_layers: layers on the GPU, negative for all; default: all with a GPU device, else none.
        n_threads: default all usable processors.
        repack: lay weights out as stock llama.cpp does for speed. Such a model cannot swap tensors.
        monitor: told the part loaded, in per mille.

    Raises:
        GGUFError, UnsupportedTypeError: the file is damaged, or would abort llama.cpp (found by our own
            reader before llama.cpp sees it).
        ModelLoadError: llama.cpp refuses it; its last words are attached.
        OperationCancelled: the monitor or Ctrl-C stopped it.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        device: str = "cpu",
        n_gpu_layers: int | None = None,
        n_threads: int | None = None,
        repack: bool = False,
        monitor: Monitor = NULL_MONITOR,
    ) -> None:
        with GGUFFile.open(path) as file:
            check_loadable(file)
            paths = [os.fsencode(p) for p in file.paths]
        on_cpu = device == "cpu"
        layers = (0 if on_cpu else -1) if n_gpu_layers is None else n_gpu_layers
        names = [] if device in ("cpu", "auto") else device.split(",")
        self.path = Path(path)
        self.n_threads = thread_count(n_threads)
        monitor.start("load", _LOAD_STEPS, "per mille")
        try:
            self._open: Any = core().Model(paths, layers, names, repack, self.n_threads, progress(monitor))
        except ModelLoadError as error:
            raise ModelLoadError(
                f"llama.cpp cannot load {path}: {_reason(error.log)}", path=str(path), log=error.log
            ) from None
        finally:
            forward_log()
        monitor.finish()
        self.vocab = Vocab(**self._handle.info())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the model's memory; later calls fail."""
        self._open = None

    @property
    def _handle(self) -> Any:
        if self._open is None:
            raise BackendError(f"the model {self.path} is closed; open it again")
        return self._open

    @property
    def logits_device(self) -> str:
        """The device in whose memory logits are computed and can be scored; empty for main memory."""
        return str(self._handle.logits_device()) if core().has_graph_hooks else ""

    @property
    def tensors(self) -> tuple[LoadedTensor, ...]:
        """Every tensor as the model computes with it now, swaps included."""
        return tuple(
            LoadedTensor(t["name"], tuple(t["shape"]), types_by_id()[t["type"]].name, t["buffer"])
            for t in self._handle.tensors()
        )

    def tokenize(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> Tokens:
        """Token ids of ``text``, int32; add_special lets the model's own BOS and EOS rules apply.

        Raises:
            BackendError: the model has no tokenizer.
        """
        utf8 = text.encode("utf-8", errors="surrogateescape")
        ids: Tokens = self._handle.tokenize(utf8, add_special, parse_special)
        return ids

    def text_of(self, token: int) -> str:
        """The piece of text a token stands for."""
        return str(self._handle.piece(token), "utf-8", errors="replace")

    def logits(
        self,
        tokens: Tokens,
        *,
        first: int = 0,
        last: int | None = None,
        out: Logits | None = None,
        borrow: bool = False,
    ) -> Logits:
        """Logits of one sequence from an empty cache.

        Args:
            tokens: int32, shape (n,); the context is made for exactly n tokens.
            first: the first position whose logits are wanted.
            last: one past the last such position; default n.
            out: float32, C-contiguous, shape (last - first, n_vocab), reused instead of a new array.
            borrow: instead of a copy, a read-only view of llama.cpp's own buffer. The next evaluation
                overwrites it, and it must not be used after `close`.

        Returns:
            float32, shape (last - first, n_vocab), unnormalised.

        Raises:
            ShapeError: tokens outside the vocabulary, or positions outside the sequence.
            BackendError: llama.cpp cannot make the context or evaluate it.
            OperationCancelled: Ctrl-C.
        """
        stop = len(tokens) if last is None else last
        rows = None if borrow else self._logit_rows(stop - first, out)
        self._handle.logits(np.ascontiguousarray(tokens, np.int32), first, stop, rows, None)
        forward_log()
        return self._handle.last_logits() if rows is None else rows

    def trace(
        self,
        tokens: Tokens,
        layers: Iterable[int],
        *,
        first: int = 0,
        last: int | None = None,
        out: Logits | None = None,
    ) -> tuple[Trace, Logits]:
        """Logits as `logits` gives them, and the hidden states that enter ``layers`` on the way.

        Args:
            tokens: as for `logits`.
            layers: 1 to the number of layers; the last one is the head's.
            first: as for `logits`.
            last: as for `logits`.
            out: as for `logits`.

        Raises:
            as `logits`.
        """
        stop = len(tokens) if last is None else last
        rows = self._logit_rows(stop - first, out)
        wanted = sorted(set(layers))
        handle = self._handle.trace(np.ascontiguousarray(tokens, np.int32), first, stop, wanted, rows, None)
        forward_log()
        return Trace(handle, stop - first), rows

    def resume(
        self,
        trace: Trace,
        layer: int,
        *,
        out: Logits | None = None,
        borrow: bool = False,
        is_own: bool = False,
    ) -> tuple[Logits, bool]:
        """Logits of a trace's tokens with what is swapped in now, computed from ``layer`` on.

        They are the bits of a whole pass, unless a layer reads what an earlier one left elsewhere than in its
        output, such as a cache shared between layers. Where the pass cannot start there (the trace lacks the
        layer, or a swapped tensor is read before it), it is a whole one.

        Args:
            trace: of this model with its original weights, unless ``is_own``.
            layer: the first layer that computes anything else than in the trace.
            out: as for `logits`.
            borrow: as for `logits`.
            is_own: the trace was computed with what is swapped in now, so that this may be read before, too.

        Returns:
            The logits, and whether the pass started at ``layer``.

        Raises:
            as `logits`.
        """
        rows = None if borrow else self._logit_rows(trace.n_rows, out)
        own = {"is_own": True} if is_own else {}
        restarted: bool = self._handle.resume(trace._handle, layer, rows, None, **own)
        forward_log()
        return self._handle.last_logits() if rows is None else rows, restarted

    def _logit_rows(self, n_rows: int, out: Logits | None) -> Logits:
        shape = (max(0, n_rows), self.vocab.n_vocab)
        if out is None:
            return np.empty(shape, np.float32)
        if out.dtype != np.float32 or out.shape != shape:
            raise ShapeError(
                f"expected float32 of shape {shape} for the logits, got {out.dtype} of {out.shape}",
                expected=f"float32 {shape}",
                got=f"{out.dtype} {out.shape}",
            )
        return out

    def activations(
        self,
        chunks: Tokens,
        *,
        process_output: bool = True,
        sums_on_device: bool = False,
        monitor: Monitor = NULL_MONITOR,
    ) -> dict[str, ActivationSums]:
        """Sums of squared activations at every weight's input: the makings of an imatrix.

        Args:
            chunks: int32, shape (n_chunks, n_ctx); each is evaluated from an empty cache.
            process_output: also the head's input, which upstream's tool leaves out by default.
            sums_on_device: sum up as for activations on a device also what lies in main memory.
            monitor: told the chunks done.

        Raises:
            NonFiniteError: an activation is NaN or infinite; the tensor is named.
            BackendError, OperationCancelled: as `logits`.

        Source: tools/imatrix/imatrix.cpp, collect_imatrix, with its float32 sums in its order; on a device in
        the device's.
        """
        monitor.start("imatrix", len(chunks), "chunks")
        sums = self._handle.activations(
            np.ascontiguousarray(chunks, np.int32), process_output, progress(monitor), sums_on_device
        )
        monitor.finish()
        forward_log()
        return {name: ActivationSums(*arrays) for name, arrays in sums.items()}

    def activations_until(
        self,
        chunks: Tokens,
        first: int,
        seconds: float,
        before: Mapping[str, ActivationSums],
        *,
        process_output: bool = True,
        monitor: Monitor = NULL_MONITOR,
    ) -> tuple[dict[str, ActivationSums], int]:
        """A piece of `activations`: however the work is cut, the last piece has the bits of the whole.

        Args:
            chunks: all of them, in every piece.
            first: the chunk to begin at, as the piece before says.
            seconds: after which no further batch is begun.
            before: the sums of the chunks before ``first``.
            process_output: as `activations`.
            monitor: told the chunks done, those before ``first`` too; not where a step begins and ends.

        Returns:
            The sums, those before included, and the chunk that they reach.

        Raises:
            ShapeError: no batch begins at ``first``, or the sums have other shapes than this model's.
            NonFiniteError, BackendError, OperationCancelled: as `activations`.
        """
        kept = {name: (one.sum_squares, one.sums, one.counts) for name, one in before.items()}
        sums, done = self._handle.activations_until(
            np.ascontiguousarray(chunks, np.int32), process_output, first, seconds, kept, progress(monitor)
        )
        forward_log()
        return {name: ActivationSums(*arrays) for name, arrays in sums.items()}, done

    def second_moments(
        self,
        chunks: Tokens,
        names: Collection[str],
        *,
        columns: int = COLUMNS,
        max_own_bytes: int = MAX_OWN_BYTES,
        monitor: Monitor = NULL_MONITOR,
    ) -> dict[str, Moments]:
        """Sums of x_j x_k over the activations x that enter weights: the makings of error feedback.

        Args:
            chunks: int32, shape (n_chunks, n_ctx); each is evaluated from an empty cache.
            names: the weights wanted; those that enter no product are left out.
            columns: of a group; moments of columns in different groups are not taken.
            max_own_bytes: of one tensor whose experts have moments of their own; left out beyond.
            monitor: told the chunks done.

        Returns:
            By name; weights with the same input share one object. Experts share their common input's, and
            have one slice each of what enters the last of their products.

        Raises:
            NonFiniteError: an activation is NaN or infinite; the tensor is named.
            BackendError, OperationCancelled: as `logits`.

        Accuracy: float32 sums in the order of the tokens; they do not depend on the number of threads.
        """
        monitor.start("second moments", len(chunks), "chunks")
        found, owners = self._handle.covariances(
            np.ascontiguousarray(chunks, np.int32), set(names), columns, max_own_bytes, progress(monitor)
        )
        monitor.finish()
        forward_log()
        moments = {name: Moments(*values) for name, values in found.items()}
        return {name: moments[owner] for name, owner in owners.items() if owner}

    def encode(
        self,
        name: str,
        target: str,
        imatrix: npt.NDArray[np.float32] | None = None,
        *,
        monitor: Monitor = NULL_MONITOR,
    ) -> Variant:
        """The tensor's original weights as ``target``, in memory of the device that computes with them.

        Raises:
            UnsupportedTypeError: absent tensor, one that llama.cpp never quantizes, or an illegal type.
            ImatrixError, NonFiniteError, QuantizeError: as `mqnative.quantize`.
        """
        flat = None if imatrix is None else np.ascontiguousarray(imatrix, np.float32).reshape(-1)
        monitor.start(f"encode {name}", 0, "weights")
        handle = self._handle.encode(name, qtype(target).id, flat, progress(monitor))
        monitor.finish()
        return Variant(handle)

    def variant(self, name: str, target: str, blocks: npt.NDArray[np.uint8]) -> Variant:
        """A variant from blocks that were encoded before; they are validated."""
        return Variant(self._handle.variant(name, qtype(target).id, blocks))

    def swap(self, *variants: Variant) -> None:
        """From now on compute with these; tensors not named keep what they have."""
        self._handle.swap([v._handle for v in variants])

    def restore(self, *names: str) -> None:
        """Back to the original weights, bit for bit; without names, all of them."""
        self._handle.restore(list(names))

    @property
    def swapped(self) -> tuple[str, ...]:
        """Names of the tensors that are exchanged now."""
        return tuple(self._handle.swapped())

    @contextmanager
    def mix(
        self,
        types: Mapping[str, str],
        imatrix: Mapping[str, npt.NDArray[np.float32] | None] | None = None,
        *,
        variants: Sequence[Variant] = (),
    ) -> Iterator[Model]:
        """Compute with a whole mix inside a ``with`` block; everything is restored after it.

        Args:
            types: tensor name -> type; tensors not named keep their original weights.
            imatrix: importances by tensor name, as `encode` takes them.
            variants: encoded before, swapped in as well.
        """
        weights = imatrix or {}
        encoded = [self.encode(name, target, weights.get(name)) for name, target in types.items()]
        self.swap(*encoded, *variants)
        try:
            yield self
        finally:
            self.restore()

    def advance(self, trace: Trace, layer: int, until: int) -> Trace:
        """The hidden states that enter ``until``, computed from ``layer`` on and no further.

        With what is swapped in now. One layer's weights after the other are needed, so that a model larger
        than memory is read once for everything that is run through a layer.

        Args:
            trace: of the same tokens, with the states that enter ``layer``; any trace of them for layer 0.
            layer: 0 starts at the tokens (`Trace.of` will do).
            until: 1 to the number of layers; the last one is the head's input.

        Raises:
            BackendError: the model's graph cannot be cut there.
        """
        handle = self._handle.advance(trace._handle, layer, until, None)
        forward_log()
        return Trace(handle, trace.n_rows)

    def set_cache(self, type_k: str, type_v: str) -> None:
        """Types of the KV cache for the following calls; F16 at first.

        Quantized values need flash attention, and rows of blocks heads that fill them: a model without either
        raises BackendError at the next evaluation.
        """
        self._handle.set_cache(qtype(type_k).id, qtype(type_v).id)

    def set_threads(self, n_threads: int) -> None:
        """Threads for the following calls; results do not depend on it."""
        self.n_threads = thread_count(n_threads)
        self._handle.set_threads(self.n_threads)


def restart_layers(path: str | Path) -> tuple[int, ...]:
    """The layers that `Model.resume` can start at in this model, judging by its header alone.

    Raises:
        GGUFError, UnsupportedTypeError: the file is damaged, or nothing can compute with it.
        ModelLoadError, BackendError: llama.cpp does not know the model.
    """
    with GGUFFile.open(path) as file:
        check_loadable(file)
        paths = [os.fsencode(p) for p in file.paths]
    try:
        return tuple(core().restart_layers(paths))
    finally:
        forward_log()


def _reason(log: str | None) -> str:
    """What llama.cpp said went wrong; its last lines only repeat that something did."""
    lines = (log or "").splitlines()
    telling = [line for line in lines if "error loading model" in line]
    if telling:
        return telling[0].partition("error loading model")[2].lstrip(": ").removeprefix("hyperparameters: ")
    return lines[-1] if lines else "it gave no reason"
