"""The tables of the read model, each defined once: its columns, and how rows get in and out."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from router.core.call import Usage
from router.ledger import families
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

    def names(self) -> str:
        """The columns in order. Always said: in an old table, one that came later is the last."""
        return ", ".join(f'"{name}"' for name in self.columns)

    def insert(self, database: sqlite3.Connection, rows: Iterable[Mapping[str, Any]]) -> int:
        """Add rows and count them; one that is there already stays as it is and does not count."""
        marks = ", ".join("?" * len(self.columns))
        done = database.executemany(
            f'INSERT OR IGNORE INTO "{self.name}" ({self.names()}) VALUES ({marks})',  # noqa: S608 - this module's own
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

    def each(self, database: sqlite3.Connection, where: str = "1", *values: Any) -> Iterator[dict[str, Any]]:
        """The rows that fulfil a condition of this package's own writing, one by one."""
        for row in database.execute(f'SELECT {self.names()} FROM "{self.name}" WHERE {where}', values):  # noqa: S608
            yield dict(zip(self.columns, row, strict=True))

    def all(self, database: sqlite3.Connection, where: str = "1", *values: Any) -> list[dict[str, Any]]:
        """The rows that fulfil a condition of this package's own writing."""
        return list(self.each(database, where, *values))

    def get(self, database: sqlite3.Connection, where: str, *values: Any) -> dict[str, Any] | None:
        """The first row that fulfils a condition."""
        return next(iter(self.all(database, where, *values)), None)


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
        "price_source": "TEXT",
        "service_tier": "TEXT",
        "purpose": "TEXT",
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
SUMS = tuple(table for tables in ROLLUPS.values() for table in tables)


def _integers(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "INTEGER NOT NULL")


# What objectives are measured with: days, no users, so that a month is small. The day stands last in the key, so that
# the sums over a window come in the key's own order, which is three times as fast.
DAILY_CALLS = Table(
    "daily_calls",
    {
        "task": "TEXT",
        "feature": "TEXT",
        "path": "TEXT",
        "why": "TEXT",
        "latency_bucket": "INTEGER",
        "day": "INTEGER",
        **_integers("calls", "escalated", "answered", "priced", "priced_answered", "cost_nusd"),
    },
    keys=6,
)
DAILY_REQUESTS = Table(
    "daily_requests",
    {
        "task": "TEXT",
        "feature": "TEXT",
        "model": "TEXT",
        "rung": "INTEGER",
        "fault": "TEXT",
        "day": "INTEGER",
        **_integers("requests", "input_tokens", "cached_read_tokens", "output_tokens", "cost_nusd"),
        "latency_ms": "REAL NOT NULL",
    },
    keys=6,
)
ALL_SUMS = (*SUMS, DAILY_CALLS, DAILY_REQUESTS)
TABLES = (ATTEMPTS, ROUTES, STEPS, *ALL_SUMS)
