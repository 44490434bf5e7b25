"""One question to the read model: sums of a family by some dimensions, from the smallest table that can answer it.

Days answer what names no user, hours what the rollups name, and everything else is a scan of the rows themselves.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, tzinfo
from typing import Any, NamedTuple

from router.audit.periods import DAY_S, HOUR_S, TIMES, Offsets, key_sql, label, offsets, zone_of
from router.errors import InvalidCall, shown
from router.ledger.families import ATTEMPTS, FAMILIES, ROUTES, STEPS, Family
from router.ledger.lines import PRODUCTION
from router.ledger.schema import ROLLUPS, Table, storable

FILTERS = ("task", "feature", "user", "tenant", "session", "origin")
# Every dimension, in the order in which people are told of them.
DIMENSIONS: tuple[str, ...] = (
    *("task", "feature", "user", "tenant", "session", "model", "rung", "policy", "plan", "outcome", "origin"),
    *("fault", "state", "line"),
    *TIMES,
)
_END_OF_TIME_S = 253_402_300_800


@dataclass(frozen=True, slots=True)
class Filters:
    """Which calls count; `None` for all. Times in seconds since 1970, `until_s` not included, by whole hours.

    `origin` is `production`, `eval` or `replay`; production alone unless something else is asked for.
    """

    since_s: float | None = None
    until_s: float | None = None
    task: str | None = None
    feature: str | None = None
    user: str | None = None
    tenant: str | None = None
    session: str | None = None
    origin: str | None = PRODUCTION
    tz: str | None = None
    """Where days begin for the dimensions of time, such as `Europe/Berlin`; UTC when missing."""

    @property
    def named(self) -> dict[str, str]:
        """The dimensions that must have a value, with it."""
        values = {name: getattr(self, name) for name in FILTERS}
        return {name: value for name, value in values.items() if value is not None}


class Part(NamedTuple):
    """A stretch of time and the table that answers it: a rollup, or `None` for a scan."""

    table: Table | None
    since_s: int | None
    until_s: int | None


class Found(NamedTuple):
    """One group: its labels and its sums in the order that was asked for."""

    keys: tuple[str, ...]
    sums: tuple[Any, ...]


def dimensions(text: str) -> tuple[str, ...]:
    """One or two dimensions, `feature` or `feature,model`.

    Raises
    ------
    InvalidCall
        There is no such dimension, or they are of rows that have nothing in common.
    """
    names = tuple(part.strip() for part in text.split(","))
    if unknown := [name for name in names if name not in DIMENSIONS]:
        raise InvalidCall(f"by: {shown(unknown[0])} is none of {', '.join(DIMENSIONS)}", argument="by")
    if len(names) > 2 or len(set(names)) < len(names):
        raise InvalidCall(f"by: {text!r} names too many; give one dimension, or two different ones", argument="by")
    family_of(names)
    return names


def family_of(names: Sequence[str]) -> Family:
    """What is counted by these dimensions: calls where they can be, else steps, else requests."""
    wanted = set(names) - set(TIMES)
    # The model of a call is the one that answered; by model people want what each one that was asked cost.
    order = (STEPS, ATTEMPTS) if wanted & {"model", "rung"} else (ROUTES, STEPS, ATTEMPTS)
    for family in order:
        if wanted <= family.keys.keys() | family.others.keys():
            return family
    raise InvalidCall(f"by: {' and '.join(names)} cannot be combined: no row has both; give one of them", argument="by")


@dataclass(frozen=True, slots=True)
class Query:
    """Sums of a family by dimensions, for the rows that the filters choose."""

    family: Family
    by: tuple[str, ...]
    sums: tuple[str, ...]
    filters: Filters
    most: int | None = None
    """So many groups only: the latest of a dimension of time, else the dearest."""
    order: str = "cost_nusd"
    rows_only: bool = False
    """Read no sums, so that what is packed does not count."""

    def run(self, database: sqlite3.Connection) -> Iterator[Found]:
        """The groups: in order of time, else those with the highest sum first."""
        zone = zone_of(self.filters.tz)
        since_s, until_s = self._period(database)
        local = offsets(zone, since_s, until_s)
        values: list[Any] = []
        parts = [self._part(part, local, values) for part in self._parts(local)]
        keys = [f"k{number}" for number in range(len(self.by))]
        # A sum of sums stays whole: `total` would make it a float.
        amounts = ", ".join(f"coalesce(sum({name}), 0) AS {name}" for name in self.sums)
        group = f"GROUP BY {', '.join(keys)}" if keys else ""
        times = [key for key, name in zip(keys, self.by, strict=True) if name in TIMES]
        amount = [f"{self.order} DESC", *keys]
        sql = f"SELECT {', '.join([*keys, amounts])} FROM ({' UNION ALL '.join(parts)}) {group}"  # noqa: S608 - ours
        if self.most is not None:
            latest = ", ".join([*(f"{key} DESC" for key in times), *amount])
            sql = f"SELECT * FROM ({sql} ORDER BY {latest} LIMIT {int(self.most)})"  # noqa: S608
        sql += f" ORDER BY {', '.join([*times, *amount])}"
        for row in database.execute(sql, values):
            named = zip(self.by, row, strict=False)
            yield Found(tuple(_label(name, key, zone) for name, key in named), tuple(row[len(self.by) :]))

    def _period(self, database: sqlite3.Connection) -> tuple[int, int]:
        """The period that was asked for, or what the ledger holds where it has no end."""
        since_s, until_s = self.filters.since_s, self.filters.until_s
        if since_s is None or until_s is None:
            low, high = database.execute("SELECT min(day), max(day) FROM daily_routes").fetchone()
            since_s = (low or 0) if since_s is None else since_s
            until_s = (high or 0) + DAY_S if until_s is None else until_s
        return int(since_s), min(int(until_s), int(since_s) + 400 * 366 * DAY_S)

    def scans(self, database: sqlite3.Connection) -> bool:
        """Whether only rows can answer it: no sums have these dimensions, or days of this zone."""
        local = offsets(zone_of(self.filters.tz), *self._period(database))
        return any(part.table is None for part in self._parts(local))

    def _parts(self, local: Offsets) -> list[Part]:
        timed = set(self.by) & set(TIMES)
        needed = (set(self.by) - timed) | self.filters.named.keys()
        # A zone that is half an hour off begins its days within an hour of the rollups.
        step = HOUR_S if local.whole_hours else 900
        since, until = self._bounds(step)
        if self.rows_only or not needed <= self.family.keys.keys() or "minute" in timed or step < HOUR_S:
            return [Part(None, since, until)]
        hourly, daily = ROLLUPS[self.family.name]
        first = None if since is None else -(-since // DAY_S) * DAY_S
        last = None if until is None else until // DAY_S * DAY_S
        is_short = first is not None and last is not None and first >= last
        if is_short or "user" in needed or "hour" in timed or (timed and any(offset for _, offset in local.steps)):
            return [Part(hourly, since, until)]
        edges = [Part(hourly, since, first), Part(hourly, last, until)]
        return [Part(daily, first, last), *(edge for edge in edges if edge.since_s != edge.until_s)]

    def _bounds(self, step: int) -> tuple[int | None, int | None]:
        since, until = self.filters.since_s, self.filters.until_s
        return (
            None if since is None else int(since) // step * step,
            None if until is None else int(-(-min(until, _END_OF_TIME_S) // step) * step),
        )

    def _part(self, part: Part, local: Offsets, values: list[Any]) -> str:
        family, table = self.family, part.table
        time = f"CAST({family.time} AS INTEGER)" if table is None else f'"{next(iter(table.columns))}"'

        def column(name: str) -> str:
            if name in TIMES:
                return key_sql(name, time, local)
            return f'"{name}"' if table else (family.keys.get(name) or family.others[name])

        conditions = ["1"] if table else [family.where]
        for name, value in self.filters.named.items():
            conditions.append(f"{column(name)} = ?")
            values.append(storable(value))
        bounds = ((part.since_s, ">="), (part.until_s, "<"))
        conditions += [f"{time if table else family.time} {sign} {at}" for at, sign in bounds if at is not None]
        keys = [f"{column(name)} AS k{number}" for number, name in enumerate(self.by)]
        by = f" GROUP BY {', '.join(str(n + 1) for n in range(len(keys)))}" if keys else ""
        sums = [f"{f'sum({name})' if table else family.total(name)} AS {name}" for name in self.sums]
        base = f'"{table.name}"' if table else family.base
        return f"SELECT {', '.join([*keys, *sums])} FROM {base} WHERE {' AND '.join(conditions)}{by}"  # noqa: S608


def _label(name: str, key: Any, zone: tzinfo) -> str:
    if name in TIMES:
        return label(name, key, zone)
    none = "no fault" if name == "fault" else "(none)"
    return str(key) if key not in ("", None) else none


__all__ = ["DIMENSIONS", "FAMILIES", "UTC", "Filters", "Found", "Query", "dimensions", "family_of"]
