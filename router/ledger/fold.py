"""The fold: moves rows of all segments into one SQLite read model with hourly rollups.

It is locked, so one process folds at a time; resumable, because offsets and rows are committed together; and it
settles the accounts of the dead: an intent whose writer died before its settle becomes `unknown`.
"""

from __future__ import annotations

import fcntl
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from router.core.call import Usage
from router.errors import LedgerError
from router.ledger.rows import SCHEMA_VERSION, Row
from router.ledger.schema import ATTEMPTS, HOURLY_ATTEMPTS, HOURLY_ROUTES, HOURLY_STEPS, ROUTES, STEPS, create
from router.ledger.segments import read_lines, segments_in, writer_lives

SEGMENTS_FOLDER = "segments"
READ_MODEL = "ledger.db"
# Rows a transaction: large enough for speed, small enough that a killed fold repeats little.
_BATCH_ROWS = 20_000


@dataclass(slots=True)
class FoldReport:
    """What one fold did."""

    rows: int = 0
    torn: list[str] = field(default_factory=list)
    """Segments whose last line was cut by the death of their writer."""
    corrupt: list[str] = field(default_factory=list)
    """`segment:offset` of each line whose checksum is wrong."""
    orphans: int = 0
    """Requests that became `unknown` because their process died before they ended."""
    lost: int = 0
    """Rows that processes could not write, by their own account."""


def fold(home: Path) -> FoldReport:
    """Bring the read model up to date with the segments below `home`.

    Raises
    ------
    LedgerError
        The read model cannot be opened, or was written by a newer version.
    """
    report = FoldReport()
    folder = home / SEGMENTS_FOLDER
    if not folder.is_dir():
        return report
    with _locked(home), connect(home) as database:
        offsets = dict(database.execute("SELECT name, offset FROM segments"))
        closed = {name for (name,) in database.execute("SELECT name FROM segments WHERE closed")}
        for path in segments_in(folder):
            if path.name not in closed:
                _fold_segment(database, path, offsets.get(path.name, 0), report)
    return report


@contextmanager
def connect(home: Path) -> Iterator[sqlite3.Connection]:
    """The read model, made when it is missing."""
    path = home / READ_MODEL
    with suppress(OSError):  # SQLite says better what is wrong.
        path.touch(mode=0o600)
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            # Write-ahead logging is off on purpose: SQLite before 3.51.3 can corrupt a database that two share.
            database.execute("PRAGMA journal_mode = TRUNCATE")
            version = create(database, SCHEMA_VERSION)
            if version > SCHEMA_VERSION:
                raise LedgerError(
                    f"{path}: was written by a newer version of this library (schema {version}, this one reads "
                    f"{SCHEMA_VERSION}); upgrade cascade-router",
                    path=str(path),
                )
            yield database
    except sqlite3.Error as error:
        raise LedgerError(
            f"{path}: the read model cannot be used ({error}); make room and make it writable, or delete it to have "
            "it rebuilt from the segments",
            path=str(path),
        ) from error


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    path = home / "fold.lock"
    try:
        file = path.open("w")
    except OSError as error:
        raise LedgerError(f"{path}: cannot be written ({error.strerror}); make it writable", path=str(path)) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fold_segment(database: sqlite3.Connection, path: Path, offset: int, report: FoldReport) -> None:
    # Asked before reading: a writer that is dead now has written its last byte.
    complete = not writer_lives(path)
    batch = _Batch(database, path.name)
    for line in read_lines(path, offset, complete=complete):
        offset = line.end
        if line.row is None or not _is_sound(line.row):
            batch.broken += 1
            if line.ended:
                report.corrupt.append(f"{path.name}:{line.start}")
            else:
                report.torn.append(path.name)
        else:
            batch.add(line.row)
            report.lost += line.row.get("lost", 0) if line.row.get("kind") == "gap" else 0
        report.rows += 1
        if batch.size >= _BATCH_ROWS:
            batch.commit(offset)
    report.orphans += batch.commit(offset, closed=complete)


# What a row needs before it can be folded; other fields may be missing in older rows.
_NEEDED: dict[str, dict[str, Any]] = {
    "intent": {"attempt_id": str, "time_s": int | float},
    "settle": {"attempt_id": str, "state": str},
    "route": {"route_id": str, "time_s": int | float},
    "gap": {"lost": int},
}


def _is_sound(row: Row) -> bool:
    """Whether a row whose checksum is right is one that this library wrote."""
    kind = row.get("kind")
    needed = _NEEDED.get(kind, {}) if isinstance(kind, str) else {}
    return all(isinstance(row.get(name), type_) for name, type_ in needed.items())


class _Batch:
    """Rows of one segment that go into the read model in one transaction."""

    def __init__(self, database: sqlite3.Connection, segment: str) -> None:
        self.database = database
        self.segment = segment
        self.broken = 0
        self._reset()

    def _reset(self) -> None:
        self.size = 0
        self.intents: dict[str, Row] = {}
        self.settles: list[Row] = []
        self.routes: list[Row] = []

    def add(self, row: Row) -> None:
        self.size += 1
        match row.get("kind"):
            case "intent":
                self.intents[row["attempt_id"]] = row
            case "settle":
                self.settles.append(row)
            case "route":
                self.routes.append(row)
            case _:  # A gap, or a kind that a later version writes: it concerns no table of this one.
                pass

    def commit(self, offset: int, *, closed: bool = False) -> int:
        """Write the batch and the offset it reaches; returns the orphans found when the segment is closed."""
        database = self.database
        database.execute("BEGIN IMMEDIATE")
        try:
            ATTEMPTS.insert(
                database, ({**row, "segment": self.segment, "state": "open"} for row in self.intents.values())
            )
            self._settle(self.settles)
            orphans = self._bury() if closed else 0
            self._routes()
            database.execute(
                "INSERT INTO segments VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
                "offset = excluded.offset, closed = excluded.closed, broken = broken + excluded.broken",
                (self.segment, offset, closed, self.broken),
            )
            database.execute("COMMIT")
        except BaseException:
            database.execute("ROLLBACK")
            raise
        self.broken = 0
        self._reset()
        return orphans

    def _settle(self, settles: list[Row]) -> None:
        rollup = HOURLY_ATTEMPTS.rollup()
        for settle in settles:
            attempt = self._intent(settle["attempt_id"])
            if attempt is None:
                continue
            ATTEMPTS.update(self.database, settle)
            rollup.add({**attempt, **settle, "time_s": attempt["time_s"]}, _attempt_sums(attempt, settle))
        rollup.store(self.database)

    def _intent(self, attempt_id: str) -> Row | None:
        """The open request of a settle: of this batch, else of an earlier one; `None` when it is settled already."""
        return ATTEMPTS.get(self.database, "attempt_id = ? AND state = 'open'", attempt_id)

    def _bury(self) -> int:
        """Settle what the dead writer left open: charged somewhere between nothing and its upper bound."""
        orphans = ATTEMPTS.all(self.database, "segment = ? AND state = 'open'", self.segment)
        self._settle(
            [
                {
                    "attempt_id": row["attempt_id"],
                    "state": "unknown",
                    "fault": "orphaned",
                    "cost_nusd": None,
                    "upper_nusd": row["upper_nusd"],
                    "usage_source": "none",
                }
                for row in orphans
            ]
        )
        return len(orphans)

    def _routes(self) -> None:
        routes, steps = HOURLY_ROUTES.rollup(), HOURLY_STEPS.rollup()
        for row in self.routes:
            if not ROUTES.insert(self.database, [{**row, "metadata": json.dumps(row.get("metadata"))}]):
                continue  # Read before, from a copy of its segment: it must not count twice.
            routes.add({**row, "model": row.get("model") or ""}, _route_sums(row))
            asked = 0
            for position, step in enumerate(row.get("steps", [])):
                stored = {**step, "route_id": row["route_id"], "position": position}
                STEPS.insert(self.database, [{**stored, "signals": json.dumps(step.get("signals"))}])
                steps.add({**row, **step}, _step_sums(step, climbed=asked > 0))
                asked += (step.get("attempts") or 0) > 0
        routes.store(self.database)
        steps.store(self.database)


def _attempt_sums(intent: Row, settle: Row) -> dict[str, float]:
    cost, upper = settle.get("cost_nusd"), settle.get("upper_nusd")
    certain = settle["state"] == "settled"
    return {
        "requests": 1,
        "retries": (intent["number"] or 1) > 1,
        "failures": settle.get("fault") is not None,
        "cost_nusd": int(cost or 0),
        "uncertain_nusd": 0 if certain else max(0, int(upper or 0) - int(cost or 0)),
        "uncertain": not certain,
        "unbounded": upper is None,
        "latency_ms": settle.get("latency_ms") or 0,
        **{name: settle.get(name) or 0 for name in Usage.__slots__},
    }


def _route_sums(row: Row) -> dict[str, float]:
    return {
        "calls": 1,
        "answered": row.get("outcome") == "answered",
        "escalated": bool(row.get("escalated")),
        "cost_nusd": int(row.get("cost_nusd") or 0),
        "unpriced": row.get("cost_nusd") is None,
        "marginal_nusd": int(row.get("marginal_nusd") or 0),
        # Savings compare calls whose cost and baseline are both known.
        **_compared(row),
        "latency_ms": row.get("latency_ms") or 0,
    }


def _compared(row: Row) -> dict[str, float]:
    cost, baseline = row.get("cost_nusd"), row.get("baseline_nusd")
    if cost is None or baseline is None:
        return {"compared": 0, "compared_cost_nusd": 0, "baseline_nusd": 0}
    return {"compared": 1, "compared_cost_nusd": int(cost), "baseline_nusd": int(baseline)}


def _step_sums(step: Row, *, climbed: bool) -> dict[str, float]:
    cost = int(step.get("cost_nusd") or 0)
    asked = (step.get("attempts") or 0) > 0
    action: Any = step.get("action")
    return {
        "reached": action not in ("keep", "repeat"),
        "asked": asked,
        "accepted": action in ("accept", "keep"),
        "escalated": action == "escalate",
        "failed": action == "fail",
        "skipped": action == "skip",
        "climbs": climbed and asked,
        "cost_nusd": cost,
        "climb_nusd": cost if climbed else 0,
        "unpriced": step.get("cost_nusd") is None,
    }
