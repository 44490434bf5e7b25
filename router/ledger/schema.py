"""The tables of the read model, each defined once: its columns, and how rows get in and out."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import ItemsView, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from router.core.call import Usage

_MAX_INTEGER = 2**63 - 1
# Of the years 1 and 9999, in seconds since 1970.
_FIRST_HOUR, _LAST_HOUR = -62_135_596_800, 253_402_297_200
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

    def rollup(self) -> Rollup:
        """An empty set of sums for this table."""
        return Rollup(self)


class Rollup:
    """Sums by hour and attribution, gathered in memory and added to their table at once."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._names = list(table.columns)[: table.keys]
        self._sums: dict[tuple[Any, ...], defaultdict[str, float]] = {}

    def add(self, row: Mapping[str, Any], amounts: Mapping[str, float]) -> None:
        """Add amounts to the sums that a row belongs to."""
        hour = hour_of(row["time_s"])
        # A key column cannot be NULL, so "not given" is the empty text.
        values = (hour if name == "hour" else row.get(name) for name in self._names)
        key = tuple("" if value is None else storable(value) for value in values)
        sums = self._sums.setdefault(key, defaultdict(int))
        for name, amount in amounts.items():
            sums[name] += amount

    def add_sums(self, row: Mapping[str, Any]) -> None:
        """Add a row of this very table."""
        key = tuple(row.get(name, "") for name in self._names)
        sums = self._sums.setdefault(key, defaultdict(int))
        for name in list(self.table.columns)[self.table.keys :]:
            sums[name] += row.get(name, 0)

    def items(self) -> ItemsView[tuple[Any, ...], defaultdict[str, float]]:
        """The sums by the values of the table's key."""
        return self._sums.items()

    def named(self, key: tuple[Any, ...]) -> str:
        """A key for people."""
        return ", ".join(f"{name} {value}" for name, value in zip(self._names, key, strict=True) if value != "")

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


def hour_of(time_s: float) -> int:
    """The first second of a moment's hour. A clock that is far out counts as the first or last hour with a date."""
    return int(max(_FIRST_HOUR, min(_LAST_HOUR, time_s)) // 3600) * 3600


def storable(value: Any) -> Any:
    """A value as SQLite takes it: no lone surrogates, no integer beyond 64 bits, lists and mappings as JSON.

    One row that SQLite refuses would stop every later fold.
    """
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if isinstance(value, list | dict):
        return json.dumps(value)
    return max(-_MAX_INTEGER, min(_MAX_INTEGER, value)) if isinstance(value, int) else value


def _sums(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "INTEGER NOT NULL")


ATTEMPTS = Table(
    "attempts",
    {
        "attempt_id": "TEXT",
        "route_id": "TEXT",
        "segment": "TEXT",
        "time_s": "REAL",
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
        "cost_nusd": "INTEGER",
        "upper_nusd": "INTEGER",
        "cost_source": "TEXT",
        "usage_source": "TEXT",
        **_TOKENS,
        "latency_ms": "REAL",
        "first_token_ms": "REAL",
        "price_source": "TEXT",
        "service_tier": "TEXT",
    },
)
ROUTES = Table(
    "routes",
    {
        "route_id": "TEXT",
        "time_s": "REAL",
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
_HOUR = {"hour": "INTEGER", **_ATTRIBUTION}
HOURLY_ATTEMPTS = Table(
    "hourly_attempts",
    {
        **_HOUR,
        "model": "TEXT",
        "rung": "INTEGER",
        **_sums("requests", "retries", "failures", "cost_nusd", "uncertain", "uncertain_nusd", "unbounded"),
        **_sums(*_TOKENS),
        "latency_ms": "REAL NOT NULL",
    },
    keys=7,
)
HOURLY_ROUTES = Table(
    "hourly_routes",
    {
        **_HOUR,
        "model": "TEXT",
        **_sums("calls", "answered", "escalated", "cost_nusd", "unpriced", "marginal_nusd"),
        **_sums("compared", "compared_cost_nusd", "baseline_nusd"),
        "latency_ms": "REAL NOT NULL",
    },
    keys=6,
)
HOURLY_STEPS = Table(
    "hourly_steps",
    {
        **_HOUR,
        "model": "TEXT",
        "rung": "INTEGER",
        **_sums("reached", "asked", "accepted", "escalated", "failed", "skipped", "climbs"),
        **_sums("cost_nusd", "climb_nusd", "unpriced"),
    },
    keys=7,
)
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
        **_sums("calls", "escalated", "answered", "priced", "priced_answered", "cost_nusd"),
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
        **_sums("requests", "input_tokens", "cached_read_tokens", "output_tokens", "cost_nusd"),
        "latency_ms": "REAL NOT NULL",
    },
    keys=6,
)
HOURLY = (HOURLY_ATTEMPTS, HOURLY_ROUTES, HOURLY_STEPS)
ROLLUPS = (*HOURLY, DAILY_CALLS, DAILY_REQUESTS)
_TABLES = (ATTEMPTS, ROUTES, STEPS, *ROLLUPS)


def create(database: sqlite3.Connection, version: int) -> None:
    """Make the tables where they are missing, and bring those of an earlier version up to this one."""
    if found := database.execute("PRAGMA user_version").fetchone()[0]:
        _add_columns(database)
        if found != version:
            database.execute(f"PRAGMA user_version = {int(version)}")
        return
    database.execute(
        "CREATE TABLE IF NOT EXISTS segments (name TEXT PRIMARY KEY, offset INTEGER, closed INTEGER, broken INTEGER)"
    )
    for table in _TABLES:
        database.execute(table.sql())
    database.execute("CREATE INDEX IF NOT EXISTS attempts_open ON attempts (segment) WHERE state = 'open'")
    database.execute("CREATE INDEX IF NOT EXISTS routes_time ON routes (time_s)")
    database.execute(f"PRAGMA user_version = {int(version)}")


def _add_columns(database: sqlite3.Connection) -> None:
    """Give the tables of an earlier release the columns that came later; what they would hold is not known there."""
    for table in _TABLES:
        there = {row[1] for row in database.execute(f'PRAGMA table_info("{table.name}")')}
        for name, kind in table.columns.items():
            if there and name not in there:
                default = " DEFAULT 0" if "NOT NULL" in kind else ""
                database.execute(f'ALTER TABLE "{table.name}" ADD COLUMN "{name}" {kind}{default}')
