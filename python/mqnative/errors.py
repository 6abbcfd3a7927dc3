"""The exception tree: every failure names the thing at fault and the way out.

Messages are one lower-case sentence (what was expected, what arrived, what to do). The same facts are
attributes, so that the command line, the UI and tests need not parse text. The compiled module raises
these classes too.
"""

from __future__ import annotations

from typing import Any, ClassVar


class MQNativeError(Exception):
    """Base of everything this package raises on purpose.

    Args:
        message: one sentence for a person.
        fields: values for the names listed in the class attribute ``fields``; missing ones are None.
    """

    fields: ClassVar[tuple[str, ...]] = ()
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        unknown = set(fields) - set(self.fields)
        if unknown:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(sorted(unknown))}")
        for name in self.fields:
            setattr(self, name, fields.get(name))

    @property
    def message(self) -> str:
        """The sentence the exception was raised with."""
        return str(self.args[0])

    def to_dict(self) -> dict[str, Any]:
        """The one JSON shape of an error: class, message and the fields that are set."""
        values = {name: getattr(self, name) for name in self.fields}
        set_values = {name: value for name, value in values.items() if value is not None}
        return {"error": type(self).__name__, "message": self.message, **set_values}

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, {n: getattr(self, n) for n in self.fields})


def _rebuild(cls: type[MQNativeError], message: str, fields: dict[str, Any]) -> MQNativeError:
    return cls(message, **fields)


class FormatError(MQNativeError, ValueError):
    """A file does not mean what it should: ``path`` and the ``offset``, ``key`` or ``tensor`` at fault."""

    fields = ("path", "offset", "key", "tensor")


class GGUFError(FormatError):
    """A GGUF file is missing, truncated, contradictory or unsupported."""


class ImatrixError(FormatError):
    """An importance matrix file, or one of its rows, is unusable."""


class RecipeError(FormatError):
    """A recipe cannot be read or does not fit the model it is applied to."""

    fields = ("path", "offset", "key", "tensor", "line")


class TextError(MQNativeError, ValueError):
    """A text is empty, unreadable or too short for the measurement asked for."""

    fields = ("path", "n_tokens", "needed_tokens")


class ShapeError(MQNativeError, ValueError):
    """An array has the wrong shape, dtype or memory layout."""

    fields = ("expected", "got")


class NonFiniteError(MQNativeError, ValueError):
    """Weights, importances or logits hold a NaN or an infinity."""

    fields = ("tensor", "row", "slice")


class UnsupportedTypeError(MQNativeError, ValueError):
    """A tensor cannot have this type: ``reason`` and, where known, the types that would work."""

    fields = ("tensor", "qtype", "reason", "allowed")


class QuantizeError(MQNativeError):
    """Upstream's quantizer refused, or produced blocks that do not validate."""

    fields = ("tensor", "qtype", "log")


class ModelLoadError(MQNativeError):
    """llama.cpp could not load the model; its last log lines are attached."""

    fields = ("path", "log")


class BackendError(MQNativeError):
    """ggml or llama.cpp failed while computing; its last log lines are attached."""

    fields = ("log",)


class MissingCoreError(MQNativeError, ImportError):
    """The compiled module is absent, or needs a CPU feature this machine lacks."""


class OutputExistsError(MQNativeError):
    """The output is already there and was not made by the same inputs."""

    fields = ("path",)
    exit_code = 2


class OutputError(MQNativeError, OSError):
    """An output file cannot be written (read-only or full folder)."""

    fields = ("path",)


class InfeasibleBudgetError(MQNativeError):
    """No mix fits the budget: the feasible range is attached."""

    fields = ("budget_bytes", "smallest_bytes", "largest_bytes")
    exit_code = 3


class OperationCancelled(MQNativeError):
    """The user stopped the operation; ``done`` of ``total`` units were finished."""

    fields = ("done", "total")
    exit_code = 130
