"""One call in full: its requests over time, its steps with their reasons, who it belongs to, what it cost."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from router.audit.packed import packed_calls
from router.audit.query import Filters
from router.audit.reading import reading
from router.core.call import Usage
from router.errors import UnknownRoute
from router.ledger.schema import ATTEMPTS, ROUTES, STEPS, storable

_MOST_SHOWN = 5


@dataclass(frozen=True, slots=True)
class CallReport:
    """A call as the ledger has it; columns are those of `docs/ledger.md`."""

    route_id: str
    route: dict[str, Any] | None
    """`None` for a call that has not ended, or whose process died."""
    attempts: tuple[dict[str, Any], ...]
    steps: tuple[dict[str, Any], ...]

    @property
    def about(self) -> dict[str, Any]:
        """The row that says who the call belongs to."""
        return self.route or self.attempts[0]

    @property
    def started_s(self) -> float:
        """When it began, seconds since 1970: a route row is written at the end."""
        begun = [row["time_s"] for row in self.attempts]
        if self.route:
            begun.append(self.route["time_s"] - (self.route["latency_ms"] or 0) / 1000)
        return float(min(begun))

    @property
    def length_ms(self) -> float:
        """From its beginning to its end, as far as that is known."""
        ends = [(row["time_s"] - self.started_s) * 1000 + (row["latency_ms"] or 0) for row in self.attempts]
        return float(max([*ends, (self.route or {}).get("latency_ms") or 0]))

    def as_json(self) -> dict[str, Any]:
        """The call as plain data; lists and mappings that the ledger keeps as JSON are values again."""
        return {
            "route_id": self.route_id,
            "started_s": self.started_s,
            "length_ms": self.length_ms,
            "route": None if self.route is None else _plain(self.route, "metadata"),
            "steps": [_plain(step, "signals") for step in self.steps],
            "attempts": [_plain(attempt, "prefix_fps") for attempt in self.attempts],
        }


def show(home: Path, route_id: str) -> CallReport:
    """One call by its id; the beginning of the id is enough where only one call has it.

    Raises
    ------
    UnknownRoute
        No call has this id, or several begin with it.
    LedgerError
        The ledger cannot be read.
    """
    wanted = route_id.strip().lower()
    with reading(home) as (database, _):
        found = [] if database is None or not wanted else _matching(database, wanted)
        if database is None or len(found) != 1:
            packed = packed_calls(database, Filters(origin=None)) if database else 0
            raise _unknown(route_id, found, home, packed)
        (whole,) = found
        # The key of a request begins with the call's, so that this finds them without an index of its own.
        attempts = ATTEMPTS.all(database, "attempt_id > ? AND attempt_id < ?", f"{whole}-", f"{whole}.")
        return CallReport(
            whole,
            ROUTES.get(database, "route_id = ?", whole),
            tuple(sorted(attempts, key=lambda row: int(row["attempt_id"].rpartition("-")[2]))),
            tuple(sorted(STEPS.all(database, "route_id = ?", whole), key=lambda row: int(row["position"]))),
        )


def _matching(database: sqlite3.Connection, prefix: str) -> list[str]:
    """The calls that begin with these signs, a few at the most."""
    end = storable(prefix[:-1] + chr(min(ord(prefix[-1]) + 1, 0x10FFFF)))
    ids: set[str] = set()
    for table, column in (("routes", "route_id"), ("attempts", "attempt_id")):
        last = storable(prefix)
        while len(ids) <= _MOST_SHOWN:
            row = database.execute(
                f"SELECT route_id FROM {table} WHERE {column} >= ? AND {column} < ? ORDER BY {column} LIMIT 1",  # noqa: S608
                (last, end),
            ).fetchone()
            if row is None:
                break
            ids.add(row[0])
            last = f"{row[0]}."  # After every request of this call.
    return sorted(ids)


def _unknown(route_id: str, found: list[str], home: Path, packed: int) -> UnknownRoute:
    if found:
        more = " and more" if len(found) > _MOST_SHOWN else ""
        problem = f"several calls begin with {route_id!r}: {', '.join(found[:_MOST_SHOWN])}{more}; give more of the id"
    else:
        problem = (
            f"the ledger in {home} holds no call {route_id!r:.60}; `answer.route_id`, `router route --json` and "
            "`router audit export calls.csv --what calls` tell the ids there are"
        )
        if packed:
            problem += f"; {packed:,} calls are packed, of which the ledger keeps sums by hour and no ids"
    return UnknownRoute(problem, route_id=route_id, known=tuple(found))


def _plain(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {**row, name: json.loads(row[name]) if row.get(name) else None}


def buckets(attempt: dict[str, Any]) -> dict[str, int]:
    """The tokens of a request by bucket, those that are not 0."""
    return {name: attempt[name] for name in Usage.__slots__ if attempt.get(name)}
