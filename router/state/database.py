"""The databases of the state folder: made when they are missing, opened for one visit, and never open over a fork."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

from router.forks import visiting

_TIMEOUT_S = 10.0


@contextmanager
def opened(path: Path, synchronous: Literal["OFF", "NORMAL", "FULL"]) -> Iterator[sqlite3.Connection]:
    """A database of the state folder for one visit, with no transaction begun."""
    with visiting():
        make_folders(path.parent.parent, path.parent)
        path.touch(mode=0o600)
        with closing(sqlite3.connect(path, timeout=_TIMEOUT_S, isolation_level=None)) as database:
            # Write-ahead logging is off on purpose: SQLite before 3.51.3 can corrupt a database that two share.
            database.execute("PRAGMA journal_mode = TRUNCATE")
            database.execute(f"PRAGMA synchronous = {synchronous}")
            yield database


def make_folders(*folders: Path) -> None:
    """Make folders that only their owner can enter."""
    for folder in folders:  # One by one: `mode` is only for the last that is made.
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
