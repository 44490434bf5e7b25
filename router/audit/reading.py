"""How every audit reads: folded first, and in one transaction, so that all its sums speak of the same rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from router.ledger import FoldReport, fold
from router.ledger.database import READ_MODEL, connect


@contextmanager
def reading(home: Path, *, folding: bool = True) -> Iterator[tuple[sqlite3.Connection | None, FoldReport]]:
    """The read model and what the fold found; no database where no call was ever recorded.

    Raises
    ------
    LedgerError
        The ledger cannot be read.
    """
    report = fold(home) if folding else FoldReport()
    if not (home / READ_MODEL).exists():
        yield None, report
        return
    with connect(home) as database:
        database.execute("BEGIN")  # Another process may fold between two of the sums.
        yield database, report
