"""The read model as a database: made when it is missing, brought up to date when an earlier release made it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from router.errors import LedgerError
from router.ledger import families, lines
from router.ledger.days import add_missing_days
from router.ledger.packs import add_sums
from router.ledger.rollups import roll_all
from router.ledger.rows import SCHEMA_VERSION
from router.ledger.schema import ATTEMPTS, ROLLUPS, ROUTES, STEPS, SUMS, TABLES, Table
from router.ledger.segments import SEGMENTS_FOLDER

READ_MODEL = "ledger.db"


@contextmanager
def connect(home: Path) -> Iterator[sqlite3.Connection]:
    """The read model, made when it is missing."""
    path = home / READ_MODEL
    with suppress(OSError):  # SQLite says better what is wrong.
        path.touch(mode=0o600, exist_ok=False)
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:  # Asked first: nothing of it is changed.
                raise LedgerError(
                    f"{path}: was written by a newer version of this library (schema {version}, this one reads "
                    f"{SCHEMA_VERSION}); upgrade cascade-router",
                    path=str(path),
                )
            # Write-ahead logging is off on purpose: SQLite before 3.51.3 can corrupt a database that two share.
            database.execute("PRAGMA journal_mode = TRUNCATE")
            create(database, SCHEMA_VERSION, home / SEGMENTS_FOLDER)
            yield database
    except sqlite3.Error as error:
        raise LedgerError(
            f"{path}: the read model cannot be used ({error}); make room and make it writable, or delete it to have "
            "it rebuilt from the segments",
            path=str(path),
        ) from error


def create(database: sqlite3.Connection, version: int, folder: Path) -> None:
    """Make the tables where they are missing, and bring those of an earlier version up to this one.

    `folder` has the packs, whose sums no row of the tables has.
    """
    if found := database.execute("PRAGMA user_version").fetchone()[0]:
        if _is_old(database):
            _renew(database, folder)
        add_missing_days(database)
        if found != version:
            database.execute(f"PRAGMA user_version = {int(version)}")
        return
    database.execute(
        "CREATE TABLE IF NOT EXISTS segments (name TEXT PRIMARY KEY, offset INTEGER, closed INTEGER, broken INTEGER)"
    )
    for table in TABLES:
        database.execute(table.sql())
    database.execute("CREATE INDEX IF NOT EXISTS attempts_open ON attempts (segment) WHERE state = 'open'")
    database.execute("CREATE INDEX IF NOT EXISTS routes_time ON routes (time_s)")
    database.execute(f"PRAGMA user_version = {int(version)}")


def _is_old(database: sqlite3.Connection) -> bool:
    """Whether a table lacks a column that came later."""
    return any(set(table.columns) - _columns(database, table) for table in (ATTEMPTS, ROUTES, STEPS, *SUMS))


def _columns(database: sqlite3.Connection, table: Table) -> set[str]:
    return {row[1] for row in database.execute(f'PRAGMA table_info("{table.name}")')}


def _renew(database: sqlite3.Connection, folder: Path) -> None:
    """Give the tables of an earlier release what came later: unknown in the rows, summed anew in the rollups."""
    database.execute("BEGIN IMMEDIATE")
    try:
        stale = [table for table in SUMS if set(table.columns) - _columns(database, table)]
        for table in (ATTEMPTS, ROUTES, STEPS):
            there = _columns(database, table)
            for name, kind in table.columns.items():
                if name not in there:
                    database.execute(f'ALTER TABLE "{table.name}" ADD COLUMN "{name}" {kind}')
        for statement in lines.FOR_OLD_ROWS:
            database.execute(statement)
        _sum_anew(database, stale, folder)
        database.execute("COMMIT")
    except BaseException:
        database.execute("ROLLBACK")
        raise


def _sum_anew(database: sqlite3.Connection, stale: list[Table], folder: Path) -> None:
    """Make the rollups of the families that these tables are of again, from rows and packs."""
    renewed: list[Table] = []
    for family in families.FAMILIES.values():
        if any(table in stale for table in ROLLUPS[family.name]):
            for table in ROLLUPS[family.name]:
                database.execute(f'DROP TABLE IF EXISTS "{table.name}"')
                database.execute(table.sql())
            roll_all(database, family)
            renewed += ROLLUPS[family.name]
    for (name,) in database.execute("SELECT name FROM segments WHERE name LIKE '%.pack'").fetchall():
        if renewed and (folder / name).exists():
            add_sums(database, folder / name, renewed)
