"""Calls of which only sums are left: how many a question about single rows does not see."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

from router.audit.query import Filters, Query
from router.audit.reading import reading
from router.ledger.families import ROUTES


def packed(home: Path, filters: Filters | None = None) -> int:
    """Calls that `router ledger compact` has packed; a filter by session does not count, for they have none.

    Raises
    ------
    LedgerError
        The ledger cannot be read.
    """
    with reading(home, folding=False) as (database, _):
        return packed_calls(database, filters or Filters(origin=None)) if database else 0


def packed_calls(database: sqlite3.Connection, filters: Filters) -> int:
    """The same of a read model that is open."""
    if database.execute("SELECT 1 FROM segments WHERE name LIKE '%.pack' LIMIT 1").fetchone() is None:
        return 0  # Counting rows takes a scan.
    kept = replace(filters, session=None, tz=None)
    in_sums, in_rows = (calls(database, kept, rows_only=rows_only) for rows_only in (False, True))
    return max(0, in_sums - in_rows)


def calls(database: sqlite3.Connection, filters: Filters, *, rows_only: bool = False) -> int:
    """Calls that the filters choose."""
    found = next(Query(ROUTES, (), ("calls",), filters, order="calls", rows_only=rows_only).run(database))
    return int(found.sums[0])
