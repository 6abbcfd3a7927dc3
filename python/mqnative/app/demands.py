"""Options that say what a mix must be and how it is chosen, shared by the commands that choose one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import click

from mqnative.app.demand_text import FAMILIES, constraints_of, settings_of

Command = TypeVar("Command", bound=Callable[..., Any])

_RULES = ("relative", "absolute", "two-sigma", "importance", "curvature")

_OPTIONS = (
    click.option(
        "--pin", "pins", multiple=True, metavar="PATTERN=TYPE", help="Exactly this type; repeatable."
    ),
    click.option(
        "--floor", "floors", multiple=True, metavar="PATTERN=TYPE", help="At least its bits; repeatable."
    ),
    click.option(
        "--ceiling", "ceilings", multiple=True, metavar="PATTERN=TYPE", help="At most its bits; repeatable."
    ),
    click.option("--from", "start", metavar="TYPE", help="A ceiling for every tensor that is not pinned."),
    click.option("--types", metavar="LIST", help="Types allowed, comma-separated; default: all ggml writes."),
    click.option("--only", metavar="LIST", help=f"Families ({', '.join(FAMILIES)}) or types allowed."),
    click.option("--no-iq", is_flag=True, help="No IQ types."),
    click.option(
        "--allow",
        "allows",
        multiple=True,
        metavar="PATTERN=LIST",
        help="Types allowed for these; repeatable.",
    ),
    click.option(
        "--max-rmse",
        "max_rmse",
        multiple=True,
        metavar="[PATTERN=]X",
        help="Largest root mean square error of a tensor's weights; X% is of their own root mean square.",
    ),
    click.option(
        "--max-error",
        "max_error",
        multiple=True,
        metavar="[PATTERN=]X",
        help="Largest error of any weight; X% is of the tensor's root mean square.",
    ),
    click.option(
        "--caps-by-importance",
        is_flag=True,
        help="Those two for the most important tensor; one of percentile p has them divided by p.",
    ),
    click.option(
        "--share",
        "shares",
        multiple=True,
        metavar="PATTERN",
        help="One type for all that match, or whose groups in ( ) match the same; repeatable.",
    ),
    click.option("--max-types", type=click.IntRange(min=1), help="At most so many different types."),
)


keep_tied_option = click.option(
    "--keep-tied", is_flag=True, help="Never give a tied head a tensor of its own."
)


def constraint_options(command: Command) -> Command:
    """Constraints, which reach the command as ``constraints`` and ``targets``, the types to be measured."""

    @functools.wraps(command)
    def packed(*args: Any, **given: Any) -> Any:
        names = ("pins", "floors", "ceilings", "start", "types", "only", "no_iq", "allows", "max_rmse",
                 "max_error", "caps_by_importance", "shares", "max_types")  # fmt: skip
        own = {name: given.pop(name) for name in names}
        constraints, targets = constraints_of(**own)
        return command(*args, constraints=constraints, targets=targets, **given)

    wrapped: Callable[..., Any] = packed
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return cast(Command, wrapped)


def method_options(command: Command) -> Command:
    """How a mix is chosen, which reaches the command as ``method``, ``settings`` and ``importance``."""

    @functools.wraps(command)
    def packed(
        *args: Any, method: str, knee: str, knee_threshold: float | None, bins: str | None, **given: Any
    ) -> Any:
        checked, settings = settings_of(method, knee, knee_threshold, bins)
        return command(*args, method=checked, settings=settings, **given)

    options = (
        click.option(
            "--method",
            default="exact",
            show_default=True,
            metavar="NAME",
            help="exact, greedy, knee[:RULE], bins, uniform[:TYPE] or preset:NAME.",
        ),
        click.option(
            "--knee", type=click.Choice(_RULES), default="relative", show_default=True, help="Rule of knee."
        ),
        click.option(
            "--knee-threshold", type=click.FloatRange(min=0, min_open=True), help="Default: the rule's own."
        ),
        click.option(
            "--bins",
            metavar="LIST",
            help="Shares in percent and least types of bins; default: 10:Q6_K,30:Q5_K,60:Q4_K.",
        ),
        click.option(
            "--importance",
            type=click.Choice(("imatrix", "none", "auto")),
            default="imatrix",
            show_default=True,
            help="Use the imatrix or not; auto keeps what does better on the select text.",
        ),
    )
    wrapped: Callable[..., Any] = packed
    for option in reversed(options):
        wrapped = option(wrapped)
    return cast(Command, wrapped)
