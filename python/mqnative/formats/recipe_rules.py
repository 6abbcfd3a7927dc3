"""Which type a recipe gives to a tensor, and which requests are refused as mistakes.

A typing error in a pattern would silently build another model, so whatever has no effect is an
error here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mqnative.errors import RecipeError
from mqnative.formats import qtypes


class ResolvableTensor(Protocol):
    """What resolving needs to know of a model's tensor."""

    @property
    def quantizable(self) -> bool:
        """Whether llama.cpp would change the tensor's type at all."""

    @property
    def qtype_name(self) -> str:
        """The tensor's present type, upper case."""


@dataclass(frozen=True)
class Rule:
    """Tensors whose whole name matches ``match`` get ``qtype``.

    Attributes:
        match: a regular expression, in Python's syntax.
        qtype: a ggml type in any case; kept in upper case.
        line: where the rule stands in its file, if it came from one.
        pattern: ``match``, compiled.

    Raises:
        RecipeError: the expression is malformed or the type unknown.
    """

    match: str
    qtype: str
    line: int | None = field(default=None, compare=False, repr=False)
    pattern: re.Pattern[str] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "qtype", type_name(self.qtype))
        object.__setattr__(self, "pattern", name_pattern(self.match))

    def matches(self, name: str) -> bool:
        """Whether the rule speaks of tensor ``name``."""
        return self.pattern.fullmatch(name) is not None


def name_pattern(match: str) -> re.Pattern[str]:
    """A pattern for whole tensor names, compiled.

    Raises:
        RecipeError: the expression is malformed.
    """
    try:
        return re.compile(match)
    except (re.error, OverflowError, RecursionError) as error:
        raise RecipeError(
            f"'{match}' is not a regular expression ({error}); escape a literal character with a backslash",
            key=match,
        ) from None


def type_name(name: str) -> str:
    """The upper-case name of ``name``, a ggml type that tensors can be given.

    Raises:
        RecipeError: there is no such type; the message offers those with similar names.
    """
    wanted = name.upper()
    known = [qtype.name for qtype in qtypes.all_types().values() if qtype.is_target]
    if wanted in known:
        return wanted
    if wanted in qtypes.all_types():
        problem = f"no tensor can be stored as {wanted}, which ggml uses for other purposes"
    else:
        problem = (
            f"{name!r} is not a tensor type (presets such as Q4_K_M are mixes for a whole file, not types)"
        )
    stem = wanted.rpartition("_")[0]
    near = [stem] if stem in known else difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"use one of {', '.join(known)}"
    raise RecipeError(f"{problem}; {hint}", key=name)


def resolve_types(
    tensors: Mapping[str, ResolvableTensor],
    *,
    rules: Sequence[Rule],
    exact: Mapping[str, str],
    base: str | None,
    exact_lines: Mapping[str, int],
    path: str | None,
) -> dict[str, str]:
    """The type of every tensor of a model; see ``Recipe.resolve``."""
    for name, qtype in exact.items():
        _check_exact(name, qtype, tensors, line=exact_lines.get(name), path=path)
    for rule in rules:
        _check_rule(rule, tensors, path=path)
    return {
        name: _chosen(name, type_of(name, rules=rules, exact=exact, base=base), path)
        if tensor.quantizable
        else tensor.qtype_name
        for name, tensor in tensors.items()
    }


def _chosen(name: str, qtype: str | None, path: str | None) -> str:
    if qtype is None:
        raise RecipeError(
            f"{place(path)}no rule gives a type to {name}; add one, or a base type for the rest",
            path=path,
            tensor=name,
        )
    return qtype


def type_of(name: str, *, rules: Iterable[Rule], exact: Mapping[str, str], base: str | None) -> str | None:
    """The exact entry for ``name``, else the type of the first rule that matches, else ``base``."""
    if name in exact:
        return exact[name]
    return next((rule.qtype for rule in rules if rule.matches(name)), base)


def _check_exact(
    name: str,
    qtype: str,
    tensors: Mapping[str, ResolvableTensor],
    *,
    line: int | None,
    path: str | None,
) -> None:
    tensor = tensors.get(name)
    if tensor is None:
        raise RecipeError(
            f"{place(path, line)}the model has no tensor {name!r}; {_nearest(name, tensors)}",
            path=path,
            line=line,
            tensor=name,
        )
    if not tensor.quantizable and qtype != tensor.qtype_name:
        raise RecipeError(
            f"{place(path, line)}{name} cannot become {qtype}: llama.cpp never changes the type "
            f"of norms, routers and other small tensors; remove the entry, and it stays "
            f"{tensor.qtype_name}",
            path=path,
            line=line,
            tensor=name,
        )


def _check_rule(rule: Rule, tensors: Mapping[str, ResolvableTensor], *, path: str | None) -> None:
    matched = [name for name in tensors if rule.matches(name)]
    if any(tensors[name].quantizable for name in matched):
        return
    at = place(path, rule.line)
    if matched:
        problem = (
            f"{at}the rule '{rule.match}' matches only tensors whose type llama.cpp never changes, "
            f"such as {matched[0]}; remove it"
        )
        raise RecipeError(problem, path=path, line=rule.line, key=rule.match, tensor=matched[0])
    raise RecipeError(
        f"{at}the rule '{rule.match}' matches no tensor of the model; {match_hint(rule.pattern, tensors)}",
        path=path,
        line=rule.line,
        key=rule.match,
    )


def match_hint(pattern: re.Pattern[str], names: Collection[str]) -> str:
    """What may have been meant by a pattern that fits none of the names as a whole."""
    partly = next((name for name in names if pattern.search(name)), None)
    if partly is not None:
        return f"it fits a part of {partly}, but must fit the whole name: add .* where it may go on"
    return _nearest(_literal(pattern.pattern), names)


def _literal(pattern: str) -> str:
    """A name that ``pattern`` might be meant for, only good enough to look for similar ones."""
    digits = re.sub(r"(\\d|\[0-9\])[+*]?", "0", pattern)
    return re.sub(r"\\(.)", r"\1", re.sub(r"[.][*+]|[\^$()?*+{}]", "", digits))


def _nearest(name: str, tensors: Collection[str]) -> str:
    near = difflib.get_close_matches(name, tensors, n=2, cutoff=0.3)
    if not near:
        return "check that the recipe was made for this model"
    return f"the nearest is {' or '.join(near)}"


def place(path: str | None, line: int | None = None) -> str:
    """Where a mistake stands, as the beginning of a message."""
    parts = [part for part in (path, f"line {line}" if line else None) if part]
    return f"{', '.join(parts)}: " if parts else ""
