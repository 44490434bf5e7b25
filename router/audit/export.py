"""Rows of the ledger as a file: requests, calls or steps, as CSV or Parquet, in little memory."""

from __future__ import annotations

import csv
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from router.audit.parquet import write_parquet
from router.audit.query import Filters
from router.audit.reading import reading
from router.errors import InvalidCall, InvalidFile
from router.ledger.families import FAMILIES
from router.ledger.schema import ATTEMPTS, ROUTES, STEPS, Table, storable

TABLES: dict[str, Table] = {"attempts": ATTEMPTS, "calls": ROUTES, "steps": STEPS}
_BATCH_ROWS = 5_000
# What a spreadsheet would take for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def export(home: Path, path: Path, *, what: str = "calls", filters: Filters | None = None, force: bool = False) -> int:
    """Write rows of the ledger to a file, whole or not at all; returns how many.

    Text that a spreadsheet would take for a formula, because it begins with `=`, `+`, `-`, `@`, a tab or a carriage
    return, gets an apostrophe before it in CSV; Parquet holds it as it is.

    Parameters
    ----------
    home
        Folder of the ledger.
    path
        The file; `.csv` or `.parquet` says its form.
    what
        `attempts` (one row a request), `calls` or `steps`.
    filters
        Which calls count; all of production when missing. Times count exactly.
    force
        Replace the file where there is one.

    Raises
    ------
    InvalidCall
        There are no such rows, no such form, or pyarrow is missing.
    InvalidFile
        The file cannot be written, or there is one and `force` is not given.
    LedgerError
        The ledger cannot be read.
    """
    if what not in TABLES:
        raise InvalidCall(f"what: {what!r} is none of {', '.join(TABLES)}", argument="what")
    if path.suffix not in (".csv", ".parquet"):
        raise InvalidCall(f"file: {path.name!r} ends with neither .csv nor .parquet", argument="file")
    if path.exists() and not force:
        problem = f"{path}: is there already; give another name, or --force (`force=True`) to replace it"
        raise InvalidFile(problem, path=str(path), line=None)
    columns = dict(TABLES[what].columns)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with reading(home) as (database, _):
            batches = _batches(database, TABLES[what], filters or Filters()) if database else iter(())
            write = _write_csv if path.suffix == ".csv" else write_parquet
            count = write(part, columns, batches)
        part.replace(path)
    except OSError as error:
        problem = f"{path}: cannot be written ({error.strerror or error})"
        raise InvalidFile(problem, path=str(path), line=None) from None
    finally:
        part.unlink(missing_ok=True)
    return count


def _batches(database: sqlite3.Connection, table: Table, filters: Filters) -> Iterator[list[tuple[Any, ...]]]:
    family = FAMILIES[table.name]
    alias = {"attempts": "a", "routes": "r", "steps": "s"}[table.name]
    conditions, values = ["1"], []
    for name, value in filters.named.items():
        conditions.append(f"{family.keys.get(name) or family.others[name]} = ?")
        values.append(storable(value))
    for bound, sign in ((filters.since_s, ">="), (filters.until_s, "<")):
        if bound is not None:
            conditions.append(f"{family.time} {sign} ?")
            values.append(bound)
    names = ", ".join(f'{alias}."{name}"' for name in table.columns)
    rows = database.execute(
        f"SELECT {names} FROM {family.base} WHERE {' AND '.join(conditions)}",  # noqa: S608 - names of ours
        values,
    )
    while batch := rows.fetchmany(_BATCH_ROWS):
        yield batch


def _write_csv(path: Path, columns: dict[str, str], batches: Iterator[list[tuple[Any, ...]]]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for batch in batches:
            writer.writerows([[_safe(value) for value in row] for row in batch])
            count += len(batch)
    return count


def _safe(value: Any) -> Any:
    """Text that no spreadsheet runs; numbers stay numbers."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
