"""The exception tree: every failure names the thing at fault and the way out.

Messages are one lower-case sentence (what was expected, what arrived, what to do). The same facts are
attributes, so that the command line, the UI and tests need not parse text. The compiled module raises
these classes too.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar


class MQNativeError(Exception):
    """Base of everything this package raises on purpose.

    A subclass names its facts by annotating them; an attribute that was not given is None.

    Args:
        message: one sentence for a person.
        fields: values for the annotated attributes.
    """

    fields: ClassVar[tuple[str, ...]] = ()
    exit_code: ClassVar[int] = 1

    def __init_subclass__(cls) -> None:
        annotated = inspect.get_annotations(cls)
        own = tuple(n for n in annotated if n not in (*cls.fields, "fields", "exit_code"))
        cls.fields = cls.fields + own

    def __init__(self, message: str, **fields: Any) -> None:
        super().__init__(message)
        if unknown := set(fields) - set(self.fields):
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

    path: str | None
    offset: int | None
    key: str | None
    tensor: str | None


class GGUFError(FormatError):
    """A GGUF file is missing, truncated, contradictory or unsupported."""


class SafetensorsError(FormatError):
    """A safetensors file, or the index of several, is damaged or contradicts itself."""


class ImatrixError(FormatError):
    """An importance matrix file, or one of its rows, is unusable."""


class RecipeError(FormatError):
    """A recipe cannot be read or does not fit the model it is applied to."""

    line: int | None


class GroupError(FormatError):
    """A group of tensors is unknown, malformed or empty."""

    group: str | None


class QuantNameError(FormatError):
    """A name of a mix cannot be read or written; ``part`` is what is at fault in it."""

    name: str | None
    part: str | None


class ManifestError(FormatError):
    """A manifest cannot be read, or speaks of another model, imatrix or file than the one at hand.

    Where two hashes differ, ``expected`` is the manifest's and ``got`` what was found.
    """

    expected: str | None
    got: str | None


class ParityError(MQNativeError, ValueError):
    """Types of one model do not fit another: other architecture, names or shapes; ``tensor`` is the first."""

    path: str | None
    tensor: str | None
    missing: tuple[str, ...] | None
    extra: tuple[str, ...] | None
    expected: str | None
    got: str | None


class BaselineError(MQNativeError, ValueError):
    """Baselines that cannot be judged: too few, two of one name, or a provider that does not exist."""

    provider: str | None
    name: str | None
    exit_code: ClassVar[int] = 2


class TextError(MQNativeError, ValueError):
    """A text is empty, unreadable or too short for the measurement asked for."""

    path: str | None
    n_tokens: int | None
    needed_tokens: int | None


class ShapeError(MQNativeError, ValueError):
    """An array has the wrong shape, dtype or memory layout."""

    expected: str | int | None
    got: str | int | None


class NonFiniteError(MQNativeError, ValueError):
    """Weights, importances or logits hold a NaN or an infinity."""

    tensor: str | None
    row: int | None
    slice: int | None


class UnsupportedTypeError(MQNativeError, ValueError):
    """A tensor cannot have this type: ``reason`` and, where known, the types that would work."""

    tensor: str | None
    qtype: str | None
    reason: str | None
    allowed: tuple[str, ...] | None


class QuantizeError(MQNativeError):
    """Upstream's quantizer refused, or produced blocks that do not validate."""

    tensor: str | None
    qtype: str | None
    log: str | None


class ModelLoadError(MQNativeError):
    """llama.cpp could not load the model; its last log lines are attached."""

    path: str | None
    log: str | None


class BackendError(MQNativeError):
    """ggml or llama.cpp failed while computing; its last log lines are attached."""

    log: str | None


class MissingCoreError(MQNativeError, ImportError):
    """The compiled module is absent, or needs a CPU feature this machine lacks."""


class OutputExistsError(MQNativeError):
    """The output is already there and was not made by the same inputs."""

    path: str | None
    exit_code: ClassVar[int] = 2


class OutputError(MQNativeError, OSError):
    """An output file cannot be written (read-only or full folder)."""

    path: str | None


class InfeasibleBudgetError(MQNativeError):
    """No mix fits the budget: the feasible range, and the constraint that binds, are attached."""

    budget_bytes: int | None
    smallest_bytes: int | None
    largest_bytes: int | None
    constraint: str | None
    exit_code: ClassVar[int] = 3


class InfeasibleConstraintsError(MQNativeError):
    """Constraints that no mix meets: those at fault, and the tensor they leave no type."""

    tensor: str | None
    constraints: tuple[str, ...] | None
    smallest_bytes: int | None
    exit_code: ClassVar[int] = 3


class ConstraintError(MQNativeError, ValueError):
    """A constraint that names nothing, needs what is not known, or that a solver cannot keep."""

    constraint: str | None
    tensor: str | None
    exit_code: ClassVar[int] = 2


class DamageTableError(FormatError):
    """A file of damages cannot be read, or belongs to another model or imatrix."""

    expected: str | None
    got: str | None


class OperationCancelled(MQNativeError):
    """The user stopped the operation; ``done`` of ``total`` units were finished."""

    done: int | None
    total: int | None
    exit_code: ClassVar[int] = 130


class StoreError(MQNativeError):
    """The store of measurements, or a lock in its folder, cannot be used; ``version`` is its schema's."""

    path: str | None
    version: int | None


class JobError(MQNativeError):
    """A job cannot do what was asked of it; ``job`` is its number."""

    job: int | None


class JobNotFoundError(JobError):
    """There is no job of this number."""

    exit_code: ClassVar[int] = 2


class JobStateError(JobError):
    """A job's ``state`` does not allow it."""

    state: str | None
    exit_code: ClassVar[int] = 2


class SourceError(MQNativeError, ValueError):
    """A model or a part of it is not where it should be: ``path``, or ``repo`` and ``file``."""

    path: str | None
    repo: str | None
    revision: str | None
    file: str | None


class HubError(SourceError):
    """The hub refused or could not be reached: ``reason`` in one word, ``status`` is the HTTP code.

    ``retry_after_s`` is how long the hub asks to wait before the next attempt.
    """

    status: int | None
    reason: str | None
    retry_after_s: float | None


class DiskSpaceError(OutputError):
    """A download or a file would not fit: the sizes are attached."""

    needed_bytes: int | None
    free_bytes: int | None


class ConversionError(MQNativeError):
    """A model cannot be converted; upstream's last words are attached."""

    path: str | None
    architecture: str | None
    log: str | None


class MissingExtraError(MQNativeError, ImportError):
    """A command needs packages that are installed on request only."""

    extra: str | None
    packages: tuple[str, ...] | None
