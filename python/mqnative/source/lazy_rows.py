"""The converter's lazy tensors, evaluated a few rows at a time.

Upstream evaluates a tensor whole, in float32, several copies at once. What it does to most of them works on
rows, so that it can be done to some rows after the others: reading, changing the type, stacking experts. What
else is in a tensor's history is left to upstream's own functions. Nothing is remembered in the tensors, so
that one tensor's memory goes before the next is read.

Source: gguf-py/gguf/lazy.py, conversion/base.py (`LazyTorchTensor`), at the pinned commit.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[Any]

# The function that gives a tensor the type it is stored in.
_LAST_STEP = {"F32": "astype", "F16": "astype", "BF16": "quantize_array"}
# Methods of torch: of each number, of two dimensions, and such as cut along one.
_ELEMENTWISE = ("to", "float", "half", "bfloat16", "contiguous", "clone")
_TWO_DIMENSIONS = ("transpose", "swapaxes", "swapdims")
_CUTTING = ("split", "chunk", "tensor_split")
_FLOATS = (np.dtype(np.float32), np.dtype(np.float16))


def row_pieces(tensor: Any, step: int) -> Iterator[Rows]:
    """A tensor's rows in order, as arrays of shape (n, row length) with at most about ``step`` numbers.

    Args:
        tensor: a NumPy array, or what gguf-py calls a `LazyNumpyTensor` or `LazyChunkedTensor`.
        step: numbers at a time; one row, and one slice of a history that goes by slices, may have more.
    """
    if isinstance(tensor, np.ndarray):
        yield from _cut(tensor, step)
    elif hasattr(tensor, "_chunks"):
        encode = sys.modules["gguf"].quants.quantize
        for load in tensor._chunks:
            chunk = load()
            yield from _cut(chunk if tensor._qtype is None else encode(chunk, tensor._qtype), step)
    elif _is_numpy_of_torch(tensor):
        for part in _torch_pieces(tensor._args[0], step):
            yield from _cut(part.contiguous().numpy(), step)
    else:
        yield from _cut(compute(tensor), step)


def source_of(tensor: Any, qtype_name: str) -> Any:
    """What ``tensor`` was before upstream's last step gave it the type it is stored in.

    That step is ours to do: it is undone, so that the rows come as the floats that they
    were. None if the last step is not known to be that.
    """
    if isinstance(tensor, np.ndarray) or qtype_name not in _LAST_STEP:
        return None
    if hasattr(tensor, "_chunks"):
        return type(tensor)(tensor._chunks, tensor.shape, np.float32)
    if tensor._data is not None or _LAST_STEP[qtype_name] not in getattr(tensor._func, "__qualname__", ""):
        return None
    before = tensor._args[0]
    floats = type(before) is type(tensor) and np.dtype(before.dtype) in _FLOATS
    return before if floats and tuple(before.shape[:-1]) == tuple(tensor.shape[:-1]) else None


def compute(node: Any) -> Any:
    """A lazy value, evaluated without being remembered."""
    if isinstance(node, (list, tuple)):
        return type(node)(compute(n) for n in node)
    if not hasattr(node, "_meta"):
        return node
    if node._data is not None:
        return node._data
    return node._func(*(compute(a) for a in node._args), **node._kwargs)


def _is_numpy_of_torch(tensor: Any) -> bool:
    args: Any = getattr(tensor, "_args", ())
    return tensor._data is None and len(args) == 1 and type(args[0]).__name__ == "LazyTorchTensor"


def _torch_pieces(node: Any, step: int) -> Iterator[Any]:
    """A lazy torch tensor, cut along its first dimension."""
    shape = [int(n) for n in node._meta.shape]
    if len(shape) < 2 or not _by_slices(node):
        yield compute(node)
        return
    n = max(1, step // max(1, math.prod(shape[1:])))
    for begin in range(0, shape[0], n):
        yield _slices(node, begin, min(shape[0], begin + n))


def _by_slices(node: Any) -> bool:
    """Whether slices of the first dimension can be computed one after the other."""
    if node._data is not None or _is_stored(node) or _is_stack(node):
        return True
    call = _call(node)
    return call is not None and call.within_slices() and _by_slices(call.base)


def _slices(node: Any, begin: int, end: int) -> Any:
    if node._data is not None:
        return node._data[begin:end]
    if _is_stored(node):
        return _read(node, begin, end)
    if _is_stack(node):
        return node._func([compute(n) for n in node._args[0][begin:end]], **node._kwargs)
    call = _call(node)
    assert call is not None
    base = _slices(call.base, begin, end)
    if call.cuts_the_end():
        return base
    found = call.function(base, *call.args, **call.kwargs)
    return found if call.element is None else found[call.element]


def _read(node: Any, begin: int, end: int) -> Any:
    """Slices of a tensor in a safetensors file: only their bytes are mapped."""
    stored = node._args[0]
    whole = stored.data_range
    per_slice = whole.size // stored.shape[0]
    part = replace(whole, offset=whole.offset + begin * per_slice, size=(end - begin) * per_slice)
    return node._func(replace(stored, shape=(end - begin, *stored.shape[1:]), data_range=part))


def _is_stored(node: Any) -> bool:
    args = node._args
    return len(args) == 1 and type(args[0]).__name__ == "LocalTensor" and len(args[0].shape) > 1


def _is_stack(node: Any) -> bool:
    """`torch.stack` of whole tensors along the first dimension."""
    is_it = getattr(node._func, "__name__", "") == "stack" and len(node._args) == 1
    return is_it and isinstance(node._args[0], (list, tuple)) and node._kwargs in ({}, {"dim": 0})


@dataclass(frozen=True)
class _Call:
    """A method of torch that a lazy tensor is the result of.

    Attributes:
        name: of the method.
        function: what upstream calls for it, with the tensor first.
        base: the lazy tensor that it is called on.
        args, kwargs: the rest.
        element: of the tuple it returns; None if it returns a tensor.
    """

    name: str
    function: Callable[..., Any]
    base: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    element: int | None = None

    def within_slices(self) -> bool:
        """Whether it leaves the first dimension alone."""
        n_dims = len(self.base._meta.shape)
        if self.name in _ELEMENTWISE:
            return True
        if self.name in _TWO_DIMENSIONS:
            return len(self.args) == 2 and all(_index(d, n_dims) > 0 for d in self.args)
        if self.name == "permute":
            order = self.args[0] if len(self.args) == 1 else self.args
            return isinstance(order, (list, tuple)) and _index(order[0], n_dims) == 0
        if self.name in _CUTTING:
            along = self.kwargs.get("dim", self.args[1] if len(self.args) > 1 else 0)
            return _index(along, n_dims) > 0
        return self.name == "__getitem__" and (self.cuts_the_end() or _keeps_first(self.args[0], n_dims))

    def cuts_the_end(self) -> bool:
        """Whether it is ``x[:n]``, whose slices are those of ``x``."""
        key = self.args[0] if self.name == "__getitem__" else None
        return isinstance(key, slice) and key.start in (None, 0) and key.step in (None, 1)


def _call(node: Any) -> _Call | None:
    """The method call behind a lazy tensor; None if it is something else."""
    function, args = node._func, node._args
    outer = _closure(function)
    if "fn" in outer and len(args) == 2 and isinstance(args[0], list):
        # One of several results, which share their evaluation.
        inner = args[0][0]
        found = _named_call(outer["fn"], inner, node._kwargs)
        return None if found is None else replace(found, element=int(args[1]))
    return _named_call(function, args, node._kwargs)


def _named_call(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call | None:
    name = _closure(function).get("name") or getattr(function, "__name__", None)
    if not isinstance(name, str) or not args or not hasattr(args[0], "_meta"):
        return None
    if any(hasattr(a, "_meta") for a in args[1:]):
        return None
    return _Call(name, function, args[0], tuple(args[1:]), kwargs)


def _closure(function: Any) -> dict[str, Any]:
    """What a function of upstream's wrapper remembers."""
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None)
    if code is None or not cells:
        return {}
    return dict(zip(code.co_freevars, (c.cell_contents for c in cells), strict=True))


def _keeps_first(key: Any, n_dims: int) -> bool:
    """Whether ``x[key]`` takes all of the first dimension."""
    if not isinstance(key, tuple) or not all(isinstance(k, slice) for k in key[1:]):
        return False
    whole = isinstance(key[0], slice) and key[0] == slice(None)
    return whole or (key[0] is Ellipsis and len(key) - 1 < n_dims)


def _index(dimension: Any, n_dims: int) -> int:
    return dimension % n_dims if isinstance(dimension, int) else 0


def _cut(array: Rows, step: int) -> Iterator[Rows]:
    rows = array.reshape(-1, array.shape[-1]) if array.ndim else array.reshape(1, 1)
    n = max(1, step // max(1, rows.shape[1]))
    for begin in range(0, rows.shape[0], n):
        yield rows[begin : begin + n]
