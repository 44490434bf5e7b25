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
from router.ledger.packs import packs_in, read_packs
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
# How many rows of each kind the read model took from each segment; a route row belongs to that of its first request.
_STORED = {
    "intent": "SELECT segment, count(*) FROM attempts GROUP BY segment",
    "settle": "SELECT segment, count(*) FROM attempts WHERE state != 'open' AND fault IS NOT 'orphaned' GROUP BY 1",
    "route": "SELECT segment, count(*) FROM routes r JOIN attempts a ON a.attempt_id = r.route_id || '-1' GROUP BY 1",
}


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
    cut: list[str] = field(default_factory=list)
    """A finding: each says what of a file is missing that was written to it, or read of it before."""
    duplicates: list[str] = field(default_factory=list)
    """Copies of packs, and of segments that were packed: they are left out, for they are counted already."""
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
        return not (self.damaged or self.cut or self.differences or self.missing)

    def take(self, name: str, reading: Reading, cut: str) -> None:
        """Note what is broken in a file."""
        self.damaged += [damage for damage in reading.damage if not damage.torn]
        self.torn += [damage for damage in reading.damage if damage.torn]
        if cut and not reading.damage:
            self.cut.append(f"{name}: {cut}")
        if missing := reading.missing():
            self.cut.append(f"{name}: {missing}")
        if reading.newer_from is not None:
            self.newer.append(f"{name}:{reading.newer_from}")

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
            "cut": self.cut,
            "duplicates": self.duplicates,
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
    packed = read_packs(folder)
    comparison = _Comparison(database, report, packed.names) if database else None
    for path in (*packs_in(folder), *segments_in(folder)):
        if path.name in packed.names:
            continue  # Packing was broken off before it was deleted; the next one does so.
        if path.name in packed.copies or (path.suffix == ".seg" and packed.has_copy(path)):
            report.duplicates.append(path.name)
            continue
        reading = Reading([])
        if comparison:
            comparison.begin(path)
        for row, end in _opened(path, reading):
            report.rows += 1
            report.lost += row["lost"] if row.get("kind") == "gap" else 0
            if comparison:
                comparison.compare(row, end)
        report.segments += 1
        report.take(path.name, reading, packed.cut.get(path.name, ""))
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

    def __init__(self, database: sqlite3.Connection, report: VerifyReport, packed: set[str]) -> None:
        self._database = database
        self._report = report
        self._reached = dict(database.execute("SELECT name, offset FROM segments"))
        self._packed = packed
        self._stored = {kind: Counter(dict(database.execute(sql).fetchall())) for kind, sql in _STORED.items()}
        self._found: dict[str, Counter[str]] = {kind: Counter() for kind in _STORED}
        self._seen: dict[str, set[str]] = {}
        self._segment, self._offset = "", 0
        self._compared: list[str] = []
        self._days = Days()
        self._sums = {table.name: Rollup(table) for table in SUMS} | self._days.rollups

    def begin(self, path: Path) -> None:
        self._segment = path.name
        self._seen = {kind: set() for kind in _STORED}
        self._offset = self._reached.pop(path.name, 0)
        if (less := self._offset - path.stat().st_size) > 0:
            self._report.cut.append(f"{path.name}: is {less:,} bytes shorter than when it was read")

    def compare(self, row: Row, end: int) -> None:
        """Check one row of a segment; those that came after the fold are not there yet."""
        if end > self._offset:
            return
        match row.get("kind"):
            case "intent":
                self._same(ATTEMPTS, row, row["attempt_id"], without=_NOT_OF_INTENTS)
                self._count("intent", row["attempt_id"], row["attempt_id"])
            case "settle":
                self._same(ATTEMPTS, row, row["attempt_id"], without=("time_s", "route_id"))
                self._count("settle", row["attempt_id"], row["attempt_id"])
            case "route":
                self._same(ROUTES, {**row, "metadata": json.dumps(row.get("metadata"))}, row["route_id"], without=())
                self._count("route", row["route_id"], f"{row['route_id']}-1")
            case "sums" if row["table"] in self._sums:
                self._sums[row["table"]].add_sums(row["sums"])

    def _count(self, kind: str, key: str, attempt_id: str) -> None:
        """Count a row for the segment that its request is of; in a copy of that segment it does not count."""
        seen = self._seen[kind]
        if key in seen:
            return
        seen.add(key)
        found = self._database.execute("SELECT segment FROM attempts WHERE attempt_id = ?", [storable(attempt_id)])
        segment = next(found, (None,))[0]
        if segment == self._segment or (segment and attempt_id not in self._seen["intent"]):
            self._found[kind][segment] += 1

    def _same(self, table: Table, row: Row, key: str, without: tuple[str, ...]) -> None:
        stored = table.get(self._database, f'"{next(iter(table.columns))}" = ?', storable(key))
        place = f"{self._segment}: the {row['kind']} of {key}"
        if stored is None:
            self._report.differ(f"{place} {'has no intent' if row['kind'] == 'settle' else 'is not in the read model'}")
            return
        for name in table.columns:
            if name in row and name not in without and not _equal(storable(row[name]), stored[name]):
                self._report.differ(f"{place} says {name} {row[name]!r:.40}, the read model {stored[name]!r:.40}")

    def end(self, reading: Reading) -> None:
        """After the last row of a segment: what of its damage the read model has."""
        if all(damage.torn for damage in reading.damage):
            self._compared.append(self._segment)
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
        known = self._packed.union(self._report.duplicates)
        self._report.gone += sorted(name for name in self._reached if name not in known)
        for segment in self._compared:
            for kind, stored in self._stored.items():
                if (more := stored[segment] - self._found[kind][segment]) > 0:
                    rows = f"{more} {kind} row{'s' if more > 1 else ''}"
                    self._report.cut.append(f"{segment}: the read model has {rows} of it that it does not hold")
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
