"""What one action costs, and what is left of its price: units and revenue by group, from a file of the application."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from router.audit.csv_files import columns_of, read_table
from router.audit.escalations import AuditRow
from router.core.pricing import NUSD_PER_USD, usd


@dataclass(frozen=True, slots=True)
class Units:
    """What a group sold: actions of the application, and what they brought in."""

    units: Decimal | None
    revenue_nusd: int | None
    """`None` where the file has no revenue."""
    lines: int = 1
    """Lines of the file that it is the sum of."""


@dataclass(frozen=True, slots=True)
class Margin:
    """A group with its cost per unit and its margin; `None` for what the file does not say."""

    key: str
    cost_nusd: int
    units: Decimal | None
    revenue_nusd: int | None
    unpriced: int
    """Calls whose cost is not in here."""

    @property
    def unit_cost_nusd(self) -> int | None:
        """What one unit cost, to the nano-dollar."""
        return round(Decimal(self.cost_nusd) / self.units) if self.units else None

    @property
    def margin_nusd(self) -> int | None:
        """Revenue minus cost, signed."""
        return None if self.revenue_nusd is None else self.revenue_nusd - self.cost_nusd

    def as_json(self) -> dict[str, Any]:
        """The group as plain data."""
        return {
            "key": self.key,
            "cost_usd": usd(self.cost_nusd),
            "units": None if self.units is None else str(self.units),
            "unit_cost_usd": usd(self.unit_cost_nusd),
            "revenue_usd": usd(self.revenue_nusd),
            "margin_usd": usd(self.margin_nusd),
            "unpriced": self.unpriced,
        }


def read_units(path: Path, by: str, *, name: Callable[[str], str] | None = None) -> dict[str, Units]:
    """Units by group from a CSV file with a column named like the dimension, `units`, and `revenue_usd` if known.

    They speak of the whole period of the audit. Several lines of one group add up; one that repeats another sign by
    sign is an error, because nobody can tell whether it is meant.

    Parameters
    ----------
    path
        The file.
    by
        What the audit groups by.
    name
        What the ledger calls a group of the file, where it is not the same: users stand in it by their fingerprints.

    Raises
    ------
    InvalidFile
        A column is missing, or a value cannot be.
    """
    table = read_table(path)
    if table.repeated:
        line, of = table.repeated[0]
        raise table.fault(line, f"repeats line {of}; take one out, or add their units up in one line")
    used = columns_of(table, {by: (by,), "units": ("units",), "revenue_usd": ("revenue_usd",)}, {})
    if missing := [name for name in (by, "units") if name not in used]:
        raise table.fault(1, f"there is no column {missing[0]!r}; there is {', '.join(table.header)}")
    found: dict[str, Units] = {}
    for number, row in table.lines:
        key = row[by].strip()
        key = (name(key) if name else key) if key not in ("", "(none)") else "(none)"
        units = table.number(number, "units", row["units"])
        revenue = None
        if "revenue_usd" in used and row["revenue_usd"].strip():
            revenue = round(table.number(number, "revenue_usd", row["revenue_usd"], least=None) * NUSD_PER_USD)
        before = found.get(key, Units(Decimal(0), None, 0))
        both = [amount for amount in (before.revenue_nusd, revenue) if amount is not None]
        found[key] = Units((before.units or 0) + units, sum(both) if both else None, before.lines + 1)
    return found


def margins(rows: Sequence[AuditRow], units: dict[str, Units]) -> list[Margin]:
    """Every group of the audit, with what the file says of it."""
    sold = [units.get(row.key, Units(None, None)) for row in rows]
    return [
        Margin(row.key, row.cost_nusd, one.units, one.revenue_nusd, row.unpriced)
        for row, one in zip(rows, sold, strict=True)
    ]


def unmatched(rows: Sequence[AuditRow], units: dict[str, Units]) -> int:
    """Lines of the file whose group is none of the audit: nothing was spent on it, or its name is another."""
    known = {row.key for row in rows}
    return sum(one.lines for key, one in units.items() if key not in known)
