"""What the commands share: options, tables, money."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from router.core.words import dollars, percent
from router.errors import RouterError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "AsJson",
    "Environment",
    "Home",
    "Policies",
    "Refused",
    "console",
    "counted",
    "dollars",
    "percent",
    "print_json",
    "print_table",
    "say",
]

Policies = Annotated[
    Path | None,
    typer.Option("--policies", "-p", help="Policy file or folder; else ROUTER_POLICIES, else ./policies."),
]
Environment = Annotated[str | None, typer.Option("--env", "-e", help="Policy overlay; else ROUTER_ENV.")]
Home = Annotated[Path | None, typer.Option("--home", help="Folder of the ledger; else ROUTER_HOME, else ./.router.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# A column of text that is narrower than this can no longer be read.
_NARROWEST_TEXT = 8
_ANY_WIDTH = 10_000


class Refused(RouterError):
    """A command does not do what it was asked; `exit_code` is what the shell gets."""

    exit_code: int


def console(*, stderr: bool = False) -> Console:
    """Standard output or error for people: colour on a terminal only, and none at all with NO_COLOR."""
    from rich.console import Console

    color = None if os.environ.get("NO_COLOR") else "auto"
    return Console(stderr=stderr, color_system=color, highlight=False)  # type: ignore[arg-type]


def say(text: str, *, err: bool = False) -> None:
    """A sentence for people: on a terminal it goes on in the next line between two words, elsewhere it is one line."""
    text = _CONTROL.sub("\ufffd", text)  # A name out of a file or a call may hold what a terminal obeys.
    place = console(stderr=err)
    if place.is_terminal:
        text = "\n".join(folded for line in text.split("\n") for folded in _lines(line, place.width))
    typer.echo(text, err=err)


def _lines(text: str, width: int) -> Iterator[str]:
    """Lines of whole words; those after the first are indented. A word that is longer than a line stays whole."""
    from rich.cells import cell_len

    first, *rest = text.split(" ")
    line = first
    for word in rest:
        if line.strip() and cell_len(line) + 1 + cell_len(word) > width:
            yield line
            line = f"  {word}"
        else:
            line += f" {word}"
    yield line


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
    from rich.table import Table
    from rich.text import Text

    from router.events import clean

    out = console()
    cells = [[clean(cell) for cell in row] for row in (columns, *rows, *([footer] if footer else []))]
    widths = _widths(cells, [column in numbers for column in columns], out.width if out.is_terminal else _ANY_WIDTH)
    table = Table(box=None, pad_edge=False, show_footer=footer is not None, header_style="bold", footer_style="bold")
    folded = [[_folded(cell, width) for cell, width in zip(row, widths, strict=True)] for row in cells]
    for index, (column, width) in enumerate(zip(columns, widths, strict=True)):
        table.add_column(
            Text(folded[0][index]),
            justify="right" if column in numbers else "left",
            no_wrap=True,
            width=width,
            footer=Text(folded[-1][index]) if footer else "",
        )
    for row in folded[1 : len(rows) + 1]:
        table.add_row(*map(Text, row))
    out.width = sum(widths) + 2 * len(widths)
    with out.capture() as captured:
        out.print(table)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _widths(cells: Sequence[Sequence[str]], are_numbers: Sequence[bool], room: int) -> list[int]:
    """The width of each column: as wide as its longest cell, but the widest texts give way until a row fits."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    texts = [index for index, is_number in enumerate(are_numbers) if not is_number]
    while sum(widths) + 2 * (len(widths) - 1) > room:
        widest = max(texts, key=lambda index: widths[index], default=None)
        if widest is None or widths[widest] <= _NARROWEST_TEXT:
            break
        widths[widest] -= 1
    return widths


def _folded(text: str, width: int) -> str:
    """A text in lines of a width, broken after a space, a slash, a dash or the like where there is one."""
    from rich.cells import cell_len, chop_cells

    lines = [""]
    for part in re.findall(r"[^\s/_.,:@-]*[\s/_.,:@-]*", text):
        if cell_len(lines[-1]) + cell_len(part.rstrip()) <= width:
            lines[-1] += part
        elif cell_len(part) <= width:
            lines.append(part)
        else:
            *whole, rest = chop_cells(part, width)
            lines += [*whole, rest]
    return "\n".join(line for line in lines if line)


def counted(count: int, what: str) -> str:
    """A count with its noun: `1 call`, `2 calls`."""
    return f"{count:,} {what}{'s' * (count != 1)}"
