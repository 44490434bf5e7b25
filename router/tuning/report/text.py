"""Text for a page: escaped, and without the characters that HTML has no place for."""

from __future__ import annotations

import math
import re
from html import escape
from typing import NamedTuple

# Control characters and halves of surrogate pairs, which no page may hold.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

# Words longer than this may be broken anywhere, so that no table grows wider than a telephone for them.
_LONG = 20
_ENDLESS = re.compile(r"\S{81,}")
_A_NUMBER = re.compile(r"[+−$]?[\d,.]+%?")


def escaped(words: str) -> str:
    """Text that no markup can come out of."""
    return escape(_UNPRINTABLE.sub("�", words))


def isolated(words: str) -> str:
    """Text of users: escaped, endless words cut; whichever way its letters run, those around it keep theirs."""
    long = ' class="long"' if any(len(word) > _LONG for word in words.split()) else ""
    return f'<bdi dir="auto"{long}>{escaped(_ENDLESS.sub(_shorten, words))}</bdi>'


def _shorten(word: re.Match[str]) -> str:
    return f"{word[0][:40]}…{word[0][-8:]}"


class Cell(NamedTuple):
    """A cell of a table that is HTML already."""

    html: str


def table(caption: str, columns: tuple[str, ...], rows: list[tuple[str | Cell, ...]]) -> str:
    """A table whose first column names its rows; numbers are never broken."""
    head = "".join(f'<th scope="col">{escaped(name)}</th>' for name in columns)
    body = "".join(f'<tr><th scope="row">{_html(first)}</th>{"".join(map(_cell, rest))}</tr>' for first, *rest in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escaped(caption)}"><table>'
        f"<caption>{escaped(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(value: str | Cell) -> str:
    number = isinstance(value, str) and _A_NUMBER.fullmatch(value)
    return f'<td class="number">{_html(value)}</td>' if number else f"<td>{_html(value)}</td>"


def _html(value: str | Cell) -> str:
    return value.html if isinstance(value, Cell) else isolated(value)


def percent(share: float, digits: int = 1) -> str:
    """A share as a percentage."""
    return f"{_number(100 * share, digits)}%" if math.isfinite(share) else "unknown"


def signed(change: float, digits: int = 1) -> str:
    """A change as a percentage with its sign."""
    return ("+" if round(100 * change, digits) > 0 else "") + percent(change, digits)


def points(share: float, digits: int = 2) -> str:
    """A difference of quality in points with its sign."""
    return ("+" if round(100 * share, digits) > 0 else "") + _number(100 * share, digits)


def dollars(usd: float) -> str:
    """An amount with three digits that count."""
    if not math.isfinite(usd) or usd <= 0:
        return "$0" if usd == 0 else "unknown"
    digits = max(2, 2 - math.floor(math.log10(usd)))
    return f"${usd:,.{min(digits, 9)}f}"


def figure(value: float, low: float = math.nan, high: float = math.nan, digits: int = 3) -> Cell:
    """A number, and under it its interval where it has one."""
    return ranged(_number(value, digits), _number(low, digits) if math.isfinite(low) else "", _number(high, digits))


def ranged(value: str, low: str, high: str) -> Cell:
    """A number, and under it its interval; one that has no width, or none at all, is left out."""
    ends = f"<small>{escaped(low)} to {escaped(high)}</small>" if low and low != high else ""
    return Cell(f"<span class='figure'>{escaped(value)}{ends}</span>")


def _number(value: float, digits: int) -> str:
    """A number with a real minus, and none before a zero."""
    if not math.isfinite(value):
        return "unknown"
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "−")
