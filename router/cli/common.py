"""What the commands share: options, tables, money."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

Policies = Annotated[
    Path | None,
    typer.Option("--policies", "-p", help="Policy file or folder; else ROUTER_POLICIES, else ./policies."),
]
Environment = Annotated[str | None, typer.Option("--env", "-e", help="Policy overlay; else ROUTER_ENV.")]
Home = Annotated[Path | None, typer.Option("--home", help="Folder of the ledger; else ROUTER_HOME, else ./.router.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


# A column of text that is narrower than this can no longer be read.
_NARROWEST_TEXT = 8
_ANY_WIDTH = 10_000


def print_json(value: Any) -> None:
    """One strict JSON document on standard output."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False, default=str))


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numbers: Collection[str],
    footer: Sequence[str] | None = None,
) -> None:
    """A table for the terminal, with `numbers` aligned right. Nothing is ever cut: long text folds, numbers stay whole.

    Where the output is no terminal each row is one line, however long, so that it can be searched.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from router.events import clean

    table = Table(box=None, pad_edge=False, show_footer=footer is not None, header_style="bold", footer_style="bold")
    needed = 0
    for index, column in enumerate(columns):
        longest = max(len(cell) for cell in (column, *(row[index] for row in rows), footer[index] if footer else ""))
        narrowest = longest if column in numbers else min(longest, _NARROWEST_TEXT)
        needed += narrowest + 2  # The gap to the next column.
        table.add_column(
            column,
            justify="right" if column in numbers else "left",
            overflow="fold",
            no_wrap=column in numbers,
            min_width=narrowest,
            footer=Text(clean(footer[index])) if footer else "",
        )
    for row in rows:
        table.add_row(*(Text(clean(cell)) for cell in row))
    console = Console(color_system=None if os.environ.get("NO_COLOR") else "auto")
    console.width = max(needed, console.width) if console.is_terminal else _ANY_WIDTH
    with console.capture() as captured:
        console.print(table)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def counted(count: int, what: str) -> str:
    """A count with its noun: `1 call`, `2 calls`."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def dollars(nusd: int | None) -> str:
    """Nano-dollars for people: at least two decimals, and as many as small amounts need."""
    if nusd is None:
        return "unknown"
    sign, amount = "-" if nusd < 0 else "", abs(nusd) / 1e9
    for limit, decimals in ((1.0, 2), (0.01, 4), (0.000_1, 6), (0.0, 9)):
        if amount >= limit and amount:
            return f"{sign}${amount:,.{decimals}f}"
    return "$0.00"


def percent(share: float) -> str:
    """A share for people."""
    return f"{share:.1%}"
