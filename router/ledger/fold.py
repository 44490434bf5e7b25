"""The fold: moves rows of all segments into one SQLite read model with hourly rollups.

It is locked, so one process folds at a time; resumable, because offsets and rows are committed together; and it
settles the accounts of the dead: an intent whose writer died before its settle becomes `unknown`.
"""

from __future__ import annotations

import fcntl
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from router.errors import LedgerError, warn
from router.ledger import families
from router.ledger.database import connect
from router.ledger.days import Days
from router.ledger.lines import invalid_drafts, line_of, origin_of
from router.ledger.packs import Packed, packs_in, read_packs, take_pack
from router.ledger.rollups import roll
from router.ledger.rows import SCHEMA_VERSION, Row
from router.ledger.schema import ATTEMPTS, ROUTES, STEPS, storable
from router.ledger.segments import SEGMENTS_FOLDER, read_lines, segments_in, writer_lives

# Rows a transaction: large enough for speed, small enough that a killed fold repeats little.
_BATCH_ROWS = 20_000
_KNOWN_SEGMENTS = "SELECT name, offset, closed FROM segments"


@dataclass(slots=True)
class FoldReport:
    """What one fold did."""

    rows: int = 0
    torn: list[str] = field(default_factory=list)
    """Segments whose last line was cut by the death of their writer."""
    corrupt: list[str] = field(default_factory=list)
    """`segment:offset` of each line whose checksum is wrong."""
    cut: list[str] = field(default_factory=list)
    """Segments that are shorter than what was read of them before."""
    cut_packs: list[str] = field(default_factory=list)
    """What is wrong with each pack that is no longer as long as it was written."""
    duplicates: list[str] = field(default_factory=list)
    """Copies of packs, and of segments that were packed: they are left out, for they are counted already."""
    orphans: int = 0
    """Requests that became `unknown` because their process died before they ended."""
    lost: int = 0
    """Rows that processes could not write, by their own account."""
    newer: list[str] = field(default_factory=list)
    """`segment:offset` from where on a segment waits for a later version of this library, which wrote it."""


def fold(home: Path) -> FoldReport:
    """Bring the read model up to date with the segments below `home`.

    Raises
    ------
    LedgerError
        The read model cannot be opened, or was written by a newer version; a segment cannot be read.
    """
    report = FoldReport()
    folder = home / SEGMENTS_FOLDER
    if not folder.is_dir():
        return report
    with locked(home), connect(home) as database:
        packed = take_packs(folder, database, report)
        known = {name: (offset, closed) for name, offset, closed in database.execute(_KNOWN_SEGMENTS)}
        batch = Batch(database)
        for path in segments_in(folder):
            offset, closed = known.pop(path.name, (0, False))
            if not (closed or offset) and packed.has_copy(path):
                report.duplicates.append(path.name)
            elif not closed:
                _fold_segment(batch, path, offset, report)
        for name, (offset, closed) in known.items():
            if not closed:  # Somebody deleted it: nothing in it can be settled any more.
                batch.reach(name, offset, closed=True)
        report.orphans += batch.commit()
    if report.newer:
        warn(
            f"{folder}: was also written by a newer version of this library; {len(report.newer)} segments wait for it "
            f"from {report.newer[0]} on, and nothing of them is lost; upgrade cascade-router"
        )
    return report


def take_packs(folder: Path, database: sqlite3.Connection, report: FoldReport) -> Packed:
    """Bring the read model up to date with packs: before the segments, which it then need not read."""
    packed = read_packs(folder)
    report.cut_packs += [f"{name}: {problem}" for name, problem in packed.cut.items()]
    report.duplicates += packed.copies
    closed = {name for (name,) in database.execute("SELECT name FROM segments WHERE closed")}
    for path in packs_in(folder):
        if path.name not in closed and path.name not in packed.copies:
            report.corrupt += [f"{path.name}:{offset}" for offset in take_pack(database, path, closed)]
    return packed


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """Be the one process that changes the read model and what is folded of the segments."""
    path = home / "fold.lock"
    try:
        file = path.open("w")
    except OSError as error:
        raise LedgerError(f"{path}: cannot be written ({error.strerror}); make it writable", path=str(path)) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fold_segment(batch: Batch, path: Path, offset: int, report: FoldReport) -> None:
    try:
        # Asked before reading: a writer that is dead now has written its last byte.
        complete = not writer_lives(path)
        if path.stat().st_size < offset:
            report.cut.append(path.name)
            offset = 0  # What was read before does not count twice.
        offset, broken = add_lines(batch, path, offset, complete, report)
    except OSError as error:
        raise LedgerError(
            f"{path}: cannot be read ({error.strerror}); make it readable, or move it out of the folder", path=str(path)
        ) from error
    waits = f"{path.name}:{offset}" in report.newer
    batch.reach(path.name, offset, broken, closed=complete and not waits)


def add_lines(batch: Batch, path: Path, offset: int, complete: bool, report: FoldReport) -> tuple[int, int]:
    """Put the rows of a segment into the batch; returns the offset after them, and how many lines are broken."""
    broken = 0
    for line in read_lines(path, offset, complete=complete):
        if line.row is not None and is_newer(line.row):
            report.newer.append(f"{path.name}:{offset}")
            return offset, broken
        offset = line.end
        if line.row is not None and line.row.get("kind") == "end":
            continue
        if line.row is None or not is_sound(line.row):
            broken += 1
            if line.ended:
                report.corrupt.append(f"{path.name}:{line.start}")
            else:
                report.torn.append(path.name)
        else:
            batch.add(path.name, line.row)
            report.lost += line.row.get("lost", 0) if line.row.get("kind") == "gap" else 0
        report.rows += 1
        if batch.size >= _BATCH_ROWS:
            batch.reach(path.name, offset, broken)
            report.orphans += batch.commit()
            broken = 0
    return offset, broken


# What a row needs before it can be folded; other fields may be missing in older rows.
_NEEDED: dict[str, dict[str, Any]] = {
    "intent": {"attempt_id": str, "time_s": int | float},
    "settle": {"attempt_id": str, "state": str},
    "route": {"route_id": str, "time_s": int | float},
    "gap": {"lost": int},
}


def is_newer(row: Row) -> bool:
    """Whether a later version of this library wrote the row: it is left for that version."""
    version = row.get("v")
    return isinstance(version, int) and version > SCHEMA_VERSION


def is_sound(row: Row) -> bool:
    """Whether a row whose checksum is right is one that this library wrote."""
    kind = row.get("kind")
    needed = _NEEDED.get(kind, {}) if isinstance(kind, str) else {}
    return all(isinstance(row.get(name), type_) for name, type_ in needed.items())


class Batch:
    """Rows of some segments that go into the read model in one transaction."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self.database = database
        self._reset()

    def _reset(self) -> None:
        self.size = 0
        self.intents: dict[str, Row] = {}
        self.settles: list[Row] = []
        self.routes: list[Row] = []
        self.reached: list[tuple[str, int, bool, int]] = []
        self.settled: set[str] = set()

    def add(self, segment: str, row: Row) -> None:
        self.size += 1
        match row.get("kind"):
            case "intent":
                self.intents[row["attempt_id"]] = {
                    **row,
                    "origin": origin_of(row),
                    "segment": segment,
                    "state": "open",
                }
            case "settle":
                self.settles.append(row)
            case "route":
                self.routes.append(row)
            case _:  # A gap, or a kind that a later version writes: it concerns no table of this one.
                pass

    def reach(self, segment: str, offset: int, broken: int = 0, *, closed: bool = False) -> None:
        """How far a segment has been read, with so many further broken lines."""
        self.reached.append((segment, offset, closed, broken))

    def commit(self) -> int:
        """Write the rows and the offsets they reach; returns the orphans found in segments that are closed."""
        database = self.database
        database.execute("BEGIN IMMEDIATE")
        try:
            ATTEMPTS.insert(database, self.intents.values())
            self._settle(self.settles)
            orphans = self._bury([segment for segment, _, closed, _ in self.reached if closed])
            self._routes()
            database.executemany(
                "INSERT INTO segments VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
                "offset = excluded.offset, closed = excluded.closed, broken = broken + excluded.broken",
                self.reached,
            )
            database.execute("COMMIT")
        except BaseException:
            database.execute("ROLLBACK")
            raise
        self._reset()
        return orphans

    def _settle(self, settles: list[Row]) -> None:
        days = Days()
        for settle in settles:
            attempt = self._intent(settle["attempt_id"])
            if attempt is None:
                continue
            line = line_of({**attempt, **settle}, self._first_rung(attempt))
            ATTEMPTS.update(self.database, {**settle, "line": line})
            self.settled.add(settle["attempt_id"])
            days.add_request(attempt, settle)
        days.store(self.database)

    def _first_rung(self, attempt: Row) -> int | None:
        """The rung that the call of a request asked first."""
        first_id = f"{attempt['route_id']}-1"
        if attempt["attempt_id"] == first_id:
            return attempt["rung"]  # type: ignore[no-any-return]
        found = self.database.execute("SELECT rung FROM attempts WHERE attempt_id = ?", [storable(first_id)]).fetchone()
        return found[0] if found else None

    def _intent(self, attempt_id: str) -> Row | None:
        """The open request of a settle: of this batch, else of an earlier one; `None` when it is settled already."""
        return ATTEMPTS.get(self.database, "attempt_id = ? AND state = 'open'", attempt_id)

    def _bury(self, closed: list[str]) -> int:
        """Settle what dead writers left open: charged somewhere between nothing and its upper bound."""
        orphans = [
            row for segment in closed for row in ATTEMPTS.all(self.database, "segment = ? AND state = 'open'", segment)
        ]
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
        database, days = self.database, Days()
        new: list[str] = []
        invalid: set[str] = set()
        for row in self.routes:
            whole = {**row, "origin": origin_of(row), "metadata": json.dumps(row.get("metadata"))}
            if not ROUTES.insert(database, [whole]):
                continue  # Read before, from a copy of its segment: it must not count twice.
            new.append(row["route_id"])
            for position, step in enumerate(row.get("steps", [])):
                stored = {**step, "route_id": row["route_id"], "position": position}
                STEPS.insert(database, [{**stored, "signals": json.dumps(step.get("signals"))}])
            invalid.update(invalid_drafts(row))
            days.add_call(row, row.get("steps", []))
        self._roll_attempts(invalid)
        roll(database, families.ROUTES, new)
        roll(database, families.STEPS, new)
        days.store(database)

    def _roll_attempts(self, invalid: set[str]) -> None:
        """Add what was settled to the rollups; a draft that turns out to be invalid changes its line there."""
        database, before = self.database, invalid - self.settled
        if before:
            roll(database, families.ATTEMPTS, before, back=True)
        database.executemany(
            "UPDATE attempts SET line = 'invalid' WHERE attempt_id = ? "
            "AND line IN ('first', 'escalation', 'panel', 'sample')",
            ([storable(one)] for one in invalid),
        )
        roll(database, families.ATTEMPTS, self.settled | before)
