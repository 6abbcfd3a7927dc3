"""When two measurements are the same one: canonical JSON of their inputs, hashed."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from mqnative.errors import NonFiniteError

# Raised when canonical JSON changes: rows under old keys stay, but are not found any more.
KEY_VERSION = 1
_PLAIN = frozenset((str, int, float, bool, type(None)))


def content_key(kind: str, inputs: Mapping[str, Any]) -> str:
    """The SHA-256, in hex, of a kind and everything that decides the outcome.

    The order of keys does not count; 1, 1.0 and True are three different inputs.

    Args:
        kind: an identifier, such as ``probe``.
        inputs: JSON values under string keys; tuples count as lists.

    Raises:
        TypeError: a key is no string, or a value is nothing JSON knows.
        ValueError: ``kind`` is no identifier.
        NonFiniteError: a number is NaN or infinite.
    """
    return key_of(kind, canonical_json(inputs))


def key_of(kind: str, inputs_json: str) -> str:
    """The content key of inputs that are canonical JSON already."""
    digest = _begun(kind).copy()
    digest.update(inputs_json.encode())
    return str(digest.hexdigest())


@functools.lru_cache(maxsize=64)
def _begun(kind: str) -> Any:
    """The hash of what stands before the inputs."""
    # An identifier holds no zero byte, so that a kind never runs into the inputs.
    if not kind.isidentifier():
        raise ValueError(f"a kind of measurement is an identifier such as probe, got {kind!r}")
    return hashlib.sha256(f"mqnative {kind}/{KEY_VERSION}\0".encode())


def canonical_json(mapping: Mapping[str, Any]) -> str:
    """One text per value: keys sorted, no spaces, ASCII only, floats as ``repr`` writes them.

    ASCII, since tensor names may hold bytes that are no UTF-8, which JSON can escape and sqlite cannot bind.

    Raises:
        TypeError, NonFiniteError: as `content_key`.
    """
    _check_keys(mapping)
    try:
        return _encode(mapping)
    except ValueError as error:
        raise NonFiniteError(
            f"a measurement holds finite numbers only ({error}); leave the figure out or write null"
        ) from error


def _check_keys(value: Any) -> None:
    """Refuse keys that are no strings: JSON would turn 1 into "1", and two inputs into one."""
    if isinstance(value, (dict, Mapping)):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"keys of a measurement are strings, got {key!r}")
            if type(inner) not in _PLAIN and not isinstance(inner, (str, int, float)):
                _check_keys(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _check_keys(inner)


def _as_dict(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a measurement holds JSON values, got {value!r} of type {type(value).__name__}")


_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, default=_as_dict).encode
