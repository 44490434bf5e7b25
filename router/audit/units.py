"""What one action costs, and what is left of its price: units and revenue by group, from a file of the application."""

from __future__ import annotations

from collections.abc import Sequence
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

    units: Decimal
    revenue_nusd: int | None
    """`None` where the file has no revenue."""


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


def read_units(path: Path, by: str) -> dict[str, Units]:
    """Units by group from a CSV file with a column named like the dimension, `units`, and `revenue_usd` if known.

    They speak of the whole period of the audit. Several lines of one group add up; one that repeats another sign by
    sign is an error, because nobody can tell whether it is meant.

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
        key = row[by].strip() or "(none)"
        units = table.number(number, "units", row["units"])
        revenue = None
        if "revenue_usd" in used and row["revenue_usd"].strip():
            revenue = round(table.number(number, "revenue_usd", row["revenue_usd"], least=None) * NUSD_PER_USD)
        before = found.get(key, Units(Decimal(0), None))
        both = [amount for amount in (before.revenue_nusd, revenue) if amount is not None]
        found[key] = Units(before.units + units, sum(both) if both else None)
    return found


def margins(rows: Sequence[AuditRow], units: dict[str, Units]) -> list[Margin]:
    """Every group of the audit and of the file: one that is in the file only cost nothing."""
    known = {row.key: row for row in rows}
    found = []
    for key in [*known, *(key for key in units if key not in known)]:
        row, sold = known.get(key), units.get(key)
        cost, unpriced = (row.cost_nusd, row.unpriced) if row else (0, 0)
        found.append(Margin(key, cost, sold.units if sold else None, sold.revenue_nusd if sold else None, unpriced))
    return found
