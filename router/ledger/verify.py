"""Whether the ledger can be trusted: every byte of every segment, and the read model against what they say."""

from __future__ import annotations

import json
import math
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from router.errors import LedgerError
from router.ledger.damage import Damage, LostRow, Reading, sound_rows
from router.ledger.database import connect
from router.ledger.days import Days
from router.ledger.families import FAMILIES
from router.ledger.fold import SEGMENTS_FOLDER, fold, locked
from router.ledger.packs import packs_in
from router.ledger.rollups import Rollup, sums_of_rows
from router.ledger.rows import Row
from router.ledger.schema import (
    ATTEMPTS,
    ROLLUPS,
    ROUTES,
    STEPS,
    SUMS,
    Table,
    storable,
)
from router.ledger.segments import segments_in, writer_lives

# Enough to see what is wrong; a read model that is all wrong would give one for each row.
_MOST_DIFFERENCES = 100
# What a settle writes over, and what the fold adds itself.
_NOT_OF_INTENTS = ("state", "upper_nusd", "segment")


@dataclass(slots=True)
class VerifyReport:
    """What was read, what is broken, and where the read model says something else."""

    segments: int = 0
    """Packs included."""
    rows: int = 0
    """Sound rows that were read."""
    damaged: list[Damage] = field(default_factory=list)
    """A finding: bytes that were changed after they were written."""
    torn: list[Damage] = field(default_factory=list)
    """No finding: lines that a dying process or a full disk left half written."""
    kept: list[LostRow] = field(default_factory=list)
    """Rows of the damaged lines that the read model had taken before."""
    differences: list[str] = field(default_factory=list)
    """A finding: each says where segments and read model disagree; the first hundred."""
    newer: list[str] = field(default_factory=list)
    """`segment:offset` from where on rows wait for the newer version that wrote them."""
    gone: list[str] = field(default_factory=list)
    """Segments that were deleted after a fold; the read model alone has their rows."""
    lost: int = 0
    """Rows that processes could not write, by their own account."""
    missing: str = ""
    """A finding: the folder of the segments where there is none, so that nothing was read."""

    @property
    def ok(self) -> bool:
        """Whether there is a ledger, nothing was changed, and the read model says what the segments say."""
        return not self.damaged and not self.differences and not self.missing

    def differ(self, problem: str) -> None:
        """Note a difference."""
        if len(self.differences) < _MOST_DIFFERENCES:
            self.differences.append(problem)

    def as_json(self) -> dict[str, Any]:
        """The whole report as plain data."""
        kept = set(self.kept)
        return {
            "ok": self.ok,
            "segments": self.segments,
            "rows": self.rows,
            "damaged": [_as_json(one, kept) for one in self.damaged],
            "torn": [_as_json(one, kept) for one in self.torn],
            "differences": self.differences,
            "newer": self.newer,
            "gone": self.gone,
            "lost": self.lost,
            "missing": self.missing,
        }


def _as_json(damage: Damage, kept: set[LostRow]) -> dict[str, Any]:
    rows = [{"kind": row.kind, "id": row.id, "in_read_model": row in kept} for row in damage.rows]
    return {
        "segment": damage.segment,
        "line": damage.line,
        "start": damage.start,
        "end": damage.end,
        "rows": rows,
    }


def verify(home: Path) -> VerifyReport:
    """Read every segment below `home`, and compare the read model with what they say. Repairs nothing.

    The read model is brought up to date first, as every reader does.

    Raises
    ------
    LedgerError
        A segment cannot be opened.
    """
    report = VerifyReport()
    folder = home / SEGMENTS_FOLDER
    if not folder.is_dir():
        report.missing = str(folder)
        return report
    try:
        fold(home)
        with locked(home), connect(home) as database:
            _verify(folder, database, report)
    except LedgerError as error:  # The segments are the truth, and can be read without it.
        report = VerifyReport()
        _verify(folder, None, report)
        report.differ(str(error))
    return report


def _verify(folder: Path, database: sqlite3.Connection | None, report: VerifyReport) -> None:
    comparison = _Comparison(database, report) if database else None
    for path in (*packs_in(folder), *segments_in(folder)):
        if comparison and path.name in comparison.replaced:
            continue  # Packing was broken off before it was deleted; the next one does so.
        reading = Reading([])
        if comparison:
            comparison.begin(path.name)
        for row, end in _opened(path, reading):
            report.rows += 1
            report.lost += row["lost"] if row.get("kind") == "gap" else 0
            if comparison:
                comparison.compare(row, end)
        report.segments += 1
        report.damaged += [damage for damage in reading.damage if not damage.torn]
        report.torn += [damage for damage in reading.damage if damage.torn]
        if reading.newer_from is not None:
            report.newer.append(f"{path.name}:{reading.newer_from}")
        if comparison:
            comparison.end(reading)
    if comparison:
        comparison.finish()


def _opened(path: Path, reading: Reading) -> Iterator[tuple[Row, int]]:
    try:
        yield from sound_rows(path, reading, complete=not writer_lives(path))
    except OSError as error:
        raise LedgerError(
            f"{path}: cannot be read ({error.strerror}); make it readable, or move it out of the folder", path=str(path)
        ) from error


class _Comparison:
    """The rows of the segments, one after the other, against the read model; then its sums against its rows."""

    def __init__(self, database: sqlite3.Connection, report: VerifyReport) -> None:
        self._database = database
        self._report = report
        self._reached = dict(database.execute("SELECT name, offset FROM segments"))
        self._stored: Counter[str] = Counter(
            dict(database.execute("SELECT segment, count(*) FROM attempts GROUP BY segment").fetchall())
        )
        self._segment, self._found = "", 0
        self._days = Days()
        self._sums = {table.name: Rollup(table) for table in SUMS} | self._days.rollups
        self.replaced: set[str] = set()
        """Segments whose sums are in the packs that were read so far."""

    def begin(self, segment: str) -> None:
        self._segment, self._found = segment, 0
        self._offset = self._reached.pop(segment, 0)

    def compare(self, row: Row, end: int) -> None:
        """Check one row of a segment; those that came after the fold are not there yet."""
        if end > self._offset:
            return
        match row.get("kind"):
            case "intent":
                stored = self._same(ATTEMPTS, row, row["attempt_id"], without=_NOT_OF_INTENTS)
                self._found += stored is not None and stored["segment"] == self._segment
            case "settle":
                self._same(ATTEMPTS, row, row["attempt_id"], without=("time_s", "route_id"))
            case "route":
                self._same(ROUTES, {**row, "metadata": json.dumps(row.get("metadata"))}, row["route_id"], without=())
            case "pack":
                self.replaced |= set(row["segments"])
            case "sums" if row["table"] in self._sums:
                self._sums[row["table"]].add_sums(row["sums"])

    def _same(self, table: Table, row: Row, key: str, without: tuple[str, ...]) -> Row | None:
        stored = table.get(self._database, f'"{next(iter(table.columns))}" = ?', storable(key))
        place = f"{self._segment}: the {row['kind']} of {key}"
        if stored is None:
            self._report.differ(f"{place} {'has no intent' if row['kind'] == 'settle' else 'is not in the read model'}")
            return None
        for name in table.columns:
            if name in row and name not in without and not _equal(storable(row[name]), stored[name]):
                self._report.differ(f"{place} says {name} {row[name]!r:.40}, the read model {stored[name]!r:.40}")
        return stored

    def end(self, reading: Reading) -> None:
        """After the last row of a segment: what of it the read model has beyond its sound rows."""
        stored = self._stored.pop(self._segment, 0)
        if stored > self._found and not reading.damage:
            more = stored - self._found
            self._report.differ(f"{self._segment}: the read model has {more} requests of it that it does not hold")
        for damage in reading.damage:
            self._report.kept += [row for row in damage.rows if self._has(row)]

    def _has(self, row: LostRow) -> bool:
        match row.kind:
            case "intent":
                return ATTEMPTS.get(self._database, "attempt_id = ?", row.id) is not None
            case "settle":
                settled = "attempt_id = ? AND state != 'open' AND fault IS NOT 'orphaned'"
                return ATTEMPTS.get(self._database, settled, row.id) is not None
            case "route":
                return ROUTES.get(self._database, "route_id = ?", row.id) is not None
        return False

    def finish(self) -> None:
        """After the last segment: what was deleted, and whether the hourly sums are those of the rows."""
        self._report.gone += sorted(name for name in self._reached if name not in self.replaced)
        sums = self._sums
        for family in FAMILIES.values():
            for table in ROLLUPS[family.name]:
                for row in sums_of_rows(self._database, family, table):
                    sums[table.name].add_sums(row)
        for row in ATTEMPTS.each(self._database, "state != 'open'"):
            self._days.add_request(row, row)
        for route, steps in _calls(self._database):
            self._days.add_call(route, steps)
        for rollup in sums.values():
            self._compare_sums(rollup)

    def _compare_sums(self, rollup: Rollup) -> None:
        table = rollup.table
        expected: dict[tuple[Any, ...], Mapping[str, float]] = dict(rollup.items())
        for stored in table.each(self._database):
            key = tuple(list(stored.values())[: table.keys])
            amounts = expected.pop(key, {})
            for name in list(table.columns)[table.keys :]:
                said = amounts.get(name, 0)
                if not _equal(storable(said), stored[name]):
                    problem = f"{name} is {stored[name]}, its rows say {said}"
                    self._report.differ(f"{table.name}, {rollup.named(key)}: {problem}")
        for key in expected:
            self._report.differ(f"{table.name}, {rollup.named(key)}: is missing")


def _calls(database: sqlite3.Connection) -> Iterator[tuple[Row, list[Row]]]:
    """Every call with its steps."""
    each_step = STEPS.each(database, "1 ORDER BY route_id, position")
    steps = groupby(each_step, key=lambda step: step["route_id"])
    ahead = next(steps, None)
    for route in ROUTES.each(database, "1 ORDER BY route_id"):
        while ahead is not None and ahead[0] < route["route_id"]:
            ahead = next(steps, None)
        if ahead is not None and ahead[0] == route["route_id"]:
            yield route, list(ahead[1])
            ahead = next(steps, None)
        else:
            yield route, []


def _equal(said: Any, stored: Any) -> bool:
    """Whether a value is what SQLite made of it: amounts are text in a row, sums of fractions depend on their order."""
    if said == stored:
        return True
    if isinstance(said, str) and isinstance(stored, int):
        return said == str(stored)
    if isinstance(said, str | int | float) and isinstance(stored, float):
        with suppress(ValueError):
            return math.isclose(float(said), stored, rel_tol=1e-9, abs_tol=1e-6)
    return False
