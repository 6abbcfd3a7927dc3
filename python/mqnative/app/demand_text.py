"""What the options of `mqnative.app.demands` say, read and checked."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import click

if TYPE_CHECKING:
    from mqnative.jobs.choose import Importance
    from mqnative.solve.constraints import Constraints
    from mqnative.solve.limits import Limit
    from mqnative.solve.solvers import Settings

# What --only takes besides types: families, by how ggml names them.
FAMILIES = {
    "k": r"Q\d_K",
    "iq": r"IQ.*",
    "legacy": r"Q[458]_[01]",
    "ternary": r"TQ\d_\d",
    "fp4": r".*FP4",
}
_SCALED = " --caps-by-importance"


def command_words(method: str, settings: Settings, importance: Importance, constraints: Constraints) -> str:
    """Method and constraints as the command line has them, with a space before; nothing for the defaults."""
    from mqnative.solve.solvers import Settings

    own = [] if method == "exact" else ["--method", method]
    own += [] if importance == "imatrix" else ["--importance", importance]
    if settings.knee != Settings().knee:
        own += ["--knee", settings.knee]
    if settings.knee_threshold is not None:
        own += ["--knee-threshold", f"{settings.knee_threshold:g}"]
    if settings.bins != Settings().bins:
        own += ["--bins", ",".join(f"{100 * b.share:g}:{b.qtype}" for b in settings.bins)]
    texts = constraints.texts
    own += [word for text in texts for word in text.replace(_SCALED, "").split(" ", 1)]
    own += [_SCALED.strip()] if any(_SCALED in text for text in texts) else []
    return "".join(f" {shlex.quote(word)}" for word in own)


def settings_of(method: str, knee: str, threshold: float | None, bins: str | None) -> tuple[str, Settings]:
    """The method, checked, and its settings."""
    from mqnative.core.presets import preset
    from mqnative.errors import MQNativeError
    from mqnative.solve.bins import DEFAULT_BINS
    from mqnative.solve.solvers import PRESET, Settings, check_method

    try:
        check_method(method)
        if method.startswith(PRESET):
            preset(method.removeprefix(PRESET))
    except MQNativeError as error:
        raise click.BadParameter(error.message, param_hint="--method") from None
    chosen = DEFAULT_BINS if bins is None else _bins(bins)
    return method, Settings(knee=knee, knee_threshold=threshold, bins=chosen)  # type: ignore[arg-type]


def constraints_of(
    *,
    pins: tuple[str, ...],
    floors: tuple[str, ...],
    ceilings: tuple[str, ...],
    start: str | None,
    types: str | None,
    only: str | None,
    no_iq: bool,
    allows: tuple[str, ...],
    max_rmse: tuple[str, ...],
    max_error: tuple[str, ...],
    caps_by_importance: bool,
    shares: tuple[str, ...],
    max_types: int | None,
) -> tuple[Constraints, tuple[str, ...]]:
    """The constraints that options ask for, and the types that any tensor may get; none for all.

    Raises:
        click.BadParameter: an option cannot be read; it is named.
        InfeasibleConstraintsError: lists of allowed types have nothing in common.
    """
    from mqnative.solve.constraints import Constraints, Share
    from mqnative.solve.limits import EVERY, Allow, Ceiling, Floor, Pin, Start

    lists = _allow_lists(types, only, no_iq)
    limits: list[Limit] = [_read("--pin", Pin, *_split("--pin", p)) for p in pins]
    limits += [_read("--floor", Floor, *_split("--floor", p)) for p in floors]
    limits += [_read("--ceiling", Ceiling, *_split("--ceiling", p)) for p in ceilings]
    limits += [] if start is None else [_read("--from", Start, EVERY, start)]
    limits += [Allow(EVERY, listed, said) for said, listed in lists]
    for text in allows:
        pattern, listed = _split("--allow", text)
        limits.append(_read("--allow", Allow, pattern, _types("--allow", listed)))
    for option, texts in (("--max-rmse", max_rmse), ("--max-error", max_error)):
        limits += [_cap(option, text, by_importance=caps_by_importance) for text in texts]
    if caps_by_importance and not (max_rmse or max_error):
        raise click.UsageError("--caps-by-importance needs --max-rmse or --max-error")
    joined = tuple(_read("--share", Share, pattern) for pattern in shares)
    return Constraints(tuple(limits), joined, max_types), _common(lists)


def _allow_lists(types: str | None, only: str | None, no_iq: bool) -> list[tuple[str, tuple[str, ...]]]:
    """Each list of allowed types, and how it was asked for."""
    lists = []
    if types is not None:
        listed = _types("--types", types)
        lists.append((f"--types {','.join(listed)}", listed))
    if only is not None:
        lists.append((f"--only {only}", _families(only)))
    if no_iq:
        from mqnative.jobs.candidates import all_targets

        lists.append(("--no-iq", tuple(t for t in all_targets() if not re.fullmatch(FAMILIES["iq"], t))))
    return lists


def _common(lists: list[tuple[str, tuple[str, ...]]]) -> tuple[str, ...]:
    if not lists:
        return ()
    from mqnative.errors import InfeasibleConstraintsError

    common = tuple(t for t in lists[0][1] if all(t in listed for _, listed in lists))
    if not common:
        said = tuple(s for s, _ in lists)
        raise InfeasibleConstraintsError(
            f"{' and '.join(said)} leave no type at all; drop one of them", constraints=said
        )
    return common


def _families(text: str) -> tuple[str, ...]:
    from mqnative.jobs.candidates import all_targets

    found: list[str] = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        family = FAMILIES.get(part.lower())
        if family is None:
            found += _types("--only", part)
        else:
            found += [t for t in all_targets() if re.fullmatch(family, t)]
    if not found:
        raise click.BadParameter("name at least one family or type", param_hint="--only")
    return tuple(dict.fromkeys(found))


def _types(option: str, text: str) -> tuple[str, ...]:
    from mqnative.errors import RecipeError
    from mqnative.formats.recipe_rules import type_name

    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise click.BadParameter("name at least one type", param_hint=option)
    try:
        return tuple(dict.fromkeys(type_name(name) for name in names))
    except RecipeError as error:
        raise click.BadParameter(error.message, param_hint=option) from None


def _split(option: str, text: str) -> tuple[str, str]:
    pattern, equals, value = text.rpartition("=")
    if not (pattern and equals and value):
        raise click.BadParameter(f"{text!r} is not PATTERN=VALUE", param_hint=option)
    return pattern, value


def _cap(option: str, text: str, *, by_importance: bool) -> Limit:
    from mqnative.solve.limits import EVERY, Cap

    pattern, value = _split(option, text) if "=" in text else (EVERY, text)
    relative = value.endswith("%")
    try:
        limit = float(value.removesuffix("%"))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a number", param_hint=option) from None
    metric = "rmse" if option == "--max-rmse" else "max_error"
    return cast(
        "Limit",
        _read(option, Cap, pattern, metric, limit / 100 if relative else limit, relative, by_importance),
    )


def _read(option: str, kind: Callable[..., Any], *values: Any) -> Any:
    """A constraint; what is wrong with it is said of its option."""
    from mqnative.errors import ConstraintError, RecipeError

    try:
        return kind(*values)
    except (RecipeError, ConstraintError) as error:
        raise click.BadParameter(error.message, param_hint=option) from None


def _bins(text: str) -> Any:
    from mqnative.solve.bins import Bin

    found = []
    for part in filter(None, (p.strip() for p in text.split(","))):
        share, colon, name = part.partition(":")
        try:
            number = float(share)
        except ValueError:
            number = 0.0
        if not colon or not 0 < number <= 100:
            raise click.BadParameter(f"{part!r} is not PERCENT:TYPE", param_hint="--bins")
        found.append(Bin(number / 100, _types("--bins", name)[0]))
    if not found or sum(b.share for b in found) > 1 + 1e-9:
        raise click.BadParameter("expected shares of at most 100 percent together", param_hint="--bins")
    return tuple(found)
