"""The tables of the read model, each defined once: its columns, and how rows get in and out."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from router.core.call import Usage
from router.ledger import families, lines
from router.ledger.families import Family

_MAX_INTEGER = 2**63 - 1
_TOKENS = {name: "INTEGER" for name in Usage.__slots__}
_ATTRIBUTION = {"task": "TEXT", "feature": "TEXT", "user": "TEXT", "tenant": "TEXT"}


@dataclass(frozen=True, slots=True)
class Table:
    """One table: its columns in order, the first `keys` of them its primary key."""

    name: str
    columns: Mapping[str, str]
    keys: int = 1

    def sql(self) -> str:
        """The statement that makes it."""
        columns = ", ".join(f'"{name}" {kind}' for name, kind in self.columns.items())
        keys = ", ".join(f'"{name}"' for name in list(self.columns)[: self.keys])
        return f'CREATE TABLE IF NOT EXISTS "{self.name}" ({columns}, PRIMARY KEY ({keys})) WITHOUT ROWID'

    def insert(self, database: sqlite3.Connection, rows: Iterable[Mapping[str, Any]]) -> int:
        """Add rows and count them; one that is there already stays as it is and does not count."""
        marks = ", ".join("?" * len(self.columns))
        # By name: a database of an earlier release has the columns that came later at its end.
        done = database.executemany(
            f'INSERT OR IGNORE INTO "{self.name}" ({self._names()}) VALUES ({marks})',  # noqa: S608 - names of ours
            ([storable(row.get(name)) for name in self.columns] for row in rows),
        )
        return done.rowcount

    def update(self, database: sqlite3.Connection, row: Mapping[str, Any]) -> None:
        """Set the columns that the row has, where the first key matches."""
        key = next(iter(self.columns))
        names = [name for name in self.columns if name in row and name not in (key, "time_s")]
        changes = ", ".join(f'"{name}" = ?' for name in names)
        database.execute(
            f'UPDATE "{self.name}" SET {changes} WHERE "{key}" = ?',  # noqa: S608
            [*(storable(row[name]) for name in names), row[key]],
        )

    def all(self, database: sqlite3.Connection, where: str = "1", *values: Any) -> list[dict[str, Any]]:
        """The rows that fulfil a condition of this package's own writing."""
        found = database.execute(f'SELECT {self._names()} FROM "{self.name}" WHERE {where}', values)  # noqa: S608
        return [dict(zip(self.columns, row, strict=True)) for row in found]

    def get(self, database: sqlite3.Connection, where: str, *values: Any) -> dict[str, Any] | None:
        """The first row that fulfils a condition."""
        return next(iter(self.all(database, where, *values)), None)

    def _names(self) -> str:
        return ", ".join(f'"{name}"' for name in self.columns)


def storable(value: Any) -> Any:
    """A value as SQLite takes it: no lone surrogates, no integer beyond 64 bits, lists and mappings as JSON.

    One row that SQLite refuses would stop every later fold.
    """
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, list | dict):
        return json.dumps(value)
    return max(-_MAX_INTEGER, min(_MAX_INTEGER, value)) if isinstance(value, int) else value


ATTEMPTS = Table(
    "attempts",
    {
        "attempt_id": "TEXT",
        "route_id": "TEXT",
        "segment": "TEXT",
        "time_s": "REAL",
        "origin": "TEXT",
        **_ATTRIBUTION,
        "session": "TEXT",
        "policy_hash": "TEXT",
        "plan_hash": "TEXT",
        "prompt_fp": "TEXT",
        "prefix_fps": "TEXT",
        "rung": "INTEGER",
        "number": "INTEGER",
        "model": "TEXT",
        "model_asked": "TEXT",
        "model_served": "TEXT",
        "state": "TEXT",
        "fault": "TEXT",
        "status": "INTEGER",
        "line": "TEXT",
        "cost_nusd": "INTEGER",
        "upper_nusd": "INTEGER",
        "cost_source": "TEXT",
        "usage_source": "TEXT",
        **_TOKENS,
        "latency_ms": "REAL",
        "first_token_ms": "REAL",
    },
)
ROUTES = Table(
    "routes",
    {
        "route_id": "TEXT",
        "time_s": "REAL",
        "origin": "TEXT",
        **_ATTRIBUTION,
        "session": "TEXT",
        "policy_hash": "TEXT",
        "plan_hash": "TEXT",
        "prompt_fp": "TEXT",
        "outcome": "TEXT",
        "model": "TEXT",
        "rung": "INTEGER",
        "escalated": "INTEGER",
        "confidence": "REAL",
        "confidence_source": "TEXT",
        "cost_nusd": "INTEGER",
        "upper_nusd": "INTEGER",
        "marginal_nusd": "INTEGER",
        "baseline_nusd": "INTEGER",
        "baseline_source": "TEXT",
        "baseline_estimate_nusd": "INTEGER",
        "latency_ms": "REAL",
        "reason": "TEXT",
        "propensity": "REAL",
        "metadata": "TEXT",
        "repeat_of": "TEXT",
    },
)
STEPS = Table(
    "steps",
    {
        "route_id": "TEXT",
        "position": "INTEGER",
        "rung": "INTEGER",
        "model": "TEXT",
        "action": "TEXT",
        "reason": "TEXT",
        "confidence": "REAL",
        "confidence_source": "TEXT",
        "threshold": "REAL",
        "cost_nusd": "INTEGER",
        "attempts": "INTEGER",
        "signals": "TEXT",
    },
    keys=2,
)


def _rollup(period: str, family: Family, *, without: tuple[str, ...] = ()) -> Table:
    """The sums of a family by hour or day: the finer one with users, the coarser one for everything else."""
    keys = {name: "INTEGER" if name == "rung" else "TEXT" for name in family.keys if name not in without}
    sums = {name: f"{'REAL' if name in family.floats else 'INTEGER'} NOT NULL" for name in family.sums}
    name = {"hour": "hourly", "day": "daily"}[period]
    return Table(f"{name}_{family.name}", {period: "INTEGER", **keys, **sums}, keys=1 + len(keys))


HOURLY_ATTEMPTS = _rollup("hour", families.ATTEMPTS)
HOURLY_ROUTES = _rollup("hour", families.ROUTES)
HOURLY_STEPS = _rollup("hour", families.STEPS)
DAILY_ATTEMPTS = _rollup("day", families.ATTEMPTS, without=("user",))
DAILY_ROUTES = _rollup("day", families.ROUTES, without=("user",))
DAILY_STEPS = _rollup("day", families.STEPS, without=("user",))
ROLLUPS: dict[str, tuple[Table, Table]] = {
    "attempts": (HOURLY_ATTEMPTS, DAILY_ATTEMPTS),
    "routes": (HOURLY_ROUTES, DAILY_ROUTES),
    "steps": (HOURLY_STEPS, DAILY_STEPS),
}
PERIOD_S = {"hour": 3600, "day": 86400}
_ROLLUP_TABLES = tuple(table for tables in ROLLUPS.values() for table in tables)
_TABLES = (ATTEMPTS, ROUTES, STEPS, *_ROLLUP_TABLES)


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
        period, *keys = list(table.columns)[: table.keys]
        seconds = PERIOD_S[period]
        parts = [f"CAST({family.time} AS INTEGER) / {seconds} * {seconds}", *(family.keys[key] for key in keys)]
        parts += [f"{sign}{family.total(name)}" for name in family.sums]
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


def create(database: sqlite3.Connection, version: int) -> int:
    """Make the tables where they are missing; returns the schema version that the database has."""
    found: int = database.execute("PRAGMA user_version").fetchone()[0]
    if found:
        if found == version and _is_old(database):
            _renew(database)
        return found
    database.execute(
        "CREATE TABLE IF NOT EXISTS segments (name TEXT PRIMARY KEY, offset INTEGER, closed INTEGER, broken INTEGER)"
    )
    for table in _TABLES:
        database.execute(table.sql())
    database.execute("CREATE INDEX IF NOT EXISTS attempts_open ON attempts (segment) WHERE state = 'open'")
    database.execute("CREATE INDEX IF NOT EXISTS routes_time ON routes (time_s)")
    database.execute(f"PRAGMA user_version = {int(version)}")
    return version


def _is_old(database: sqlite3.Connection) -> bool:
    """Whether a table lacks a column that came later."""
    return any(set(table.columns) - _columns(database, table) for table in _TABLES)


def _columns(database: sqlite3.Connection, table: Table) -> set[str]:
    return {row[1] for row in database.execute(f'PRAGMA table_info("{table.name}")')}


def _renew(database: sqlite3.Connection) -> None:
    """Give the tables of an earlier release what came later: unknown in the rows, summed anew in the rollups."""
    database.execute("BEGIN IMMEDIATE")
    try:
        stale = [table for table in _ROLLUP_TABLES if set(table.columns) - _columns(database, table)]
        for table in (ATTEMPTS, ROUTES, STEPS):
            there = _columns(database, table)
            for name, kind in table.columns.items():
                if name not in there:
                    database.execute(f'ALTER TABLE "{table.name}" ADD COLUMN "{name}" {kind}')
        for statement in lines.FOR_OLD_ROWS:
            database.execute(statement)
        for family in families.FAMILIES.values():
            if any(table in stale for table in ROLLUPS[family.name]):
                for table in ROLLUPS[family.name]:
                    database.execute(f'DROP TABLE IF EXISTS "{table.name}"')
                    database.execute(table.sql())
                roll_all(database, family)
        database.execute("COMMIT")
    except BaseException:
        database.execute("ROLLBACK")
        raise
