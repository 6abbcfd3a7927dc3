"""Tables as plain lines, where the library for tables would take longer to import than all the rest."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import click


def print_columns(rows: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> None:
    """Print rows of equal length under each other, two blanks between columns.

    Args:
        rows: the first one may be titles.
        right: columns that end under each other instead.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            text.rjust(width) if i in right else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        click.echo(f" {'  '.join(cells)}".rstrip())
