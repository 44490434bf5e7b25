"""Sums of rows by hour and by day: in SQL where all rows are at hand, in memory where they come one by one."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from router.ledger.families import Family
from router.ledger.schema import PERIOD_S, ROLLUPS, Table, storable

# Of the years 1 and 9999, in seconds since 1970.
_FIRST_HOUR, _LAST_HOUR = -62_135_596_800, 253_402_297_200


class Rollup:
    """Sums by hour and attribution, gathered in memory and added to their table at once."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._names = list(table.columns)[: table.keys]
        self._sums: dict[tuple[Any, ...], defaultdict[str, float]] = {}

    def add(self, row: Mapping[str, Any], amounts: Mapping[str, float]) -> None:
        """Add amounts to the sums that a row belongs to."""
        # A key column cannot be NULL, so "not given" is the empty text.
        key = tuple(["" if (value := row.get(name)) is None else storable(value) for name in self._names])
        sums = self._sums.get(key)
        if sums is None:
            sums = self._sums[key] = defaultdict(int)
        for name, amount in amounts.items():
            sums[name] += amount

    def add_sums(self, row: Mapping[str, Any]) -> None:
        """Add a row of this very table."""
        key = tuple(row.get(name, "") for name in self._names)
        sums = self._sums.setdefault(key, defaultdict(int))
        for name in list(self.table.columns)[self.table.keys :]:
            sums[name] += row.get(name, 0)

    def store(self, database: sqlite3.Connection) -> None:
        """Add the sums to the table."""
        table = self.table
        amounts = list(table.columns)[table.keys :]
        keys = ", ".join(f'"{name}"' for name in self._names)
        changes = ", ".join(f'"{name}" = "{name}" + excluded."{name}"' for name in amounts)
        marks = ", ".join("?" * len(table.columns))
        database.executemany(
            f'INSERT INTO "{table.name}" ({table.names()}) VALUES ({marks}) '  # noqa: S608
            f"ON CONFLICT ({keys}) DO UPDATE SET {changes}",
            ([*key, *(storable(sums[name]) for name in amounts)] for key, sums in self._sums.items()),
        )


def named(names: Sequence[str], values: Sequence[Any]) -> str:
    """The key of a row for people, from the names of the key's columns and the values of the row."""
    return ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=False) if value != "")


def hour_of(time_s: float) -> int:
    """The first second of a moment's hour. A clock that is far out counts as the first or last hour with a date."""
    return int(max(_FIRST_HOUR, min(_LAST_HOUR, time_s)) // 3600) * 3600


# Rows that are rolled up at once where all are: few enough to be sorted in memory.
_STRETCH_ROWS = 50_000


def roll(database: sqlite3.Connection, family: Family, ids: Iterable[str], *, back: bool = False) -> None:
    """Add the rows with these ids to both rollups of a family, or take them out again."""
    # As one JSON text: a list of parameters would be too long.
    values = [json.dumps([storable(one) for one in ids])]
    chosen = f"{family.id} IN (SELECT value FROM json_each(?))"  # noqa: S608 - names of ours
    _roll(database, family, chosen, values, back=back)


def roll_all(database: sqlite3.Connection, family: Family) -> None:
    """Add every row of a family to its rollups, which are empty."""
    table, column = family.name, family.id.rpartition(".")[2]
    below = ""
    while True:
        found = database.execute(
            f'SELECT "{column}" FROM "{table}" WHERE "{column}" > ? ORDER BY 1 LIMIT 1 OFFSET {_STRETCH_ROWS}',  # noqa: S608
            [below],
        ).fetchone()
        if found is None:
            break
        _roll(database, family, f"{family.id} > ? AND {family.id} <= ?", [below, found[0]])
        below = found[0]
    _roll(database, family, f"{family.id} > ?", [below])


def _roll(
    database: sqlite3.Connection, family: Family, condition: str, values: list[str], *, back: bool = False
) -> None:
    chosen = f"{family.where} AND {condition}"
    sign = "-" if back else ""
    for table in ROLLUPS[family.name]:
        period = next(iter(table.columns))
        parts = _parts(family, table, sign)
        changes = ", ".join(f'"{name}" = "{name}" + excluded."{name}"' for name in family.sums)
        by = ", ".join(str(number) for number in range(1, table.keys + 1))
        names = ", ".join(f'"{name}"' for name in list(table.columns)[: table.keys])
        database.execute(
            f'INSERT INTO "{table.name}" ({names}, {", ".join(family.sums)}) SELECT {", ".join(parts)} '  # noqa: S608
            f"FROM {family.base} WHERE {chosen} GROUP BY {by} ON CONFLICT ({names}) DO UPDATE SET {changes}",
            values,
        )
        if back:
            database.execute(
                f'DELETE FROM "{table.name}" WHERE "{next(iter(family.sums))}" = 0 AND "{period}" IN '  # noqa: S608
                f"(SELECT {parts[0]} FROM {family.base} WHERE {chosen})",
                values,
            )


def _parts(family: Family, table: Table, sign: str) -> list[str]:
    """The keys and the sums of a rollup as SQL over the rows of its family."""
    period, *keys = list(table.columns)[: table.keys]
    # Counted from the first hour with a date, so that the division rounds down before 1970, too.
    since = f"CAST(max({_FIRST_HOUR}, min({_LAST_HOUR}, {family.time})) - {_FIRST_HOUR} AS INTEGER)"
    moment = f"{since} / {PERIOD_S[period]} * {PERIOD_S[period]} + {_FIRST_HOUR}"
    return [moment, *(family.keys[key] for key in keys), *(f"{sign}{family.total(name)}" for name in family.sums)]
