"""What the commands share: options, tables, money."""

from __future__ import annotations

import json
from collections.abc import Sequence
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


def print_json(value: Any) -> None:
    """One strict JSON document on standard output."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False, default=str))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, footer: Sequence[str] | None = None) -> None:
    """A table that fits the terminal; the first column is text, the others are numbers."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_footer=footer is not None, header_style="bold", footer_style="bold")
    for index, column in enumerate(columns):
        table.add_column(
            column,
            justify="right" if index else "left",
            overflow="fold" if index == 0 else "ellipsis",
            footer=footer[index] if footer else "",
        )
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def dollars(nusd: int | None) -> str:
    """Nano-dollars for people: at least two decimals, and as many as small amounts need."""
    if nusd is None:
        return "unknown"
    sign, amount = "-" if nusd < 0 else "", abs(nusd) / 1e9
    for limit, decimals in ((1.0, 2), (0.01, 4), (0.0, 6)):
        if amount >= limit and amount:
            return f"{sign}${amount:,.{decimals}f}"
    return "$0.00"


def percent(share: float) -> str:
    """A share for people."""
    return f"{share:.1%}"
