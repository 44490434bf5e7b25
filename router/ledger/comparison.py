"""The read model held to the rows of the segments, one by one, and its sums to its rows.

Rows are compared some thousand at a time, so that each lot takes two questions to the database. What the sums should be
is summed anew, by the code of the fold, into temporary tables, and compared there.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from router.ledger.damage import LostRow, Reading
from router.ledger.days import add_days
from router.ledger.families import FAMILIES
from router.ledger.rollups import Rollup, named, roll_all
from router.ledger.rows import Row
from router.ledger.schema import ALL_SUMS, ATTEMPTS, ROUTES, Table, storable

_LOT_ROWS = 5_000
# Enough to see what is wrong; a read model that is all wrong would give one for each row.
_MOST_DIFFERENCES = 100
# Where each kind of row is, which field says which one it is, and which others the fold does not take over as they are:
# what a settle writes over, and what the fold adds itself.
_KINDS: dict[str, tuple[Table, str, frozenset[str]]] = {
    "intent": (ATTEMPTS, "attempt_id", frozenset({"state", "upper_nusd", "segment"})),
    "settle": (ATTEMPTS, "attempt_id", frozenset({"time_s", "route_id"})),
    "route": (ROUTES, "route_id", frozenset()),
}
# How many rows of each kind the read model took from each segment; a route row belongs to that of its first request.
_STORED = {
    "intent": "SELECT segment, count(*) FROM attempts GROUP BY segment",
    "settle": "SELECT segment, count(*) FROM attempts WHERE state != 'open' AND fault IS NOT 'orphaned' GROUP BY 1",
    "route": "SELECT segment, count(*) FROM routes r JOIN attempts a ON a.attempt_id = r.route_id || '-1' GROUP BY 1",
}
_SEGMENT = list(ATTEMPTS.columns).index("segment")

Stored = dict[Any, tuple[Any, ...]]


class Comparison:
    """What comes of comparing the segments, one after the other, with the read model."""

    def __init__(self, database: sqlite3.Connection, packed: set[str]) -> None:
        self.cut: list[str] = []
        self.kept: list[LostRow] = []
        self.gone: list[str] = []
        self.differences: list[str] = []
        self._database = database
        self._reached = dict(database.execute("SELECT name, offset FROM segments"))
        self._packed = packed
        self._stored = {kind: Counter(dict(database.execute(sql).fetchall())) for kind, sql in _STORED.items()}
        self._found: dict[str, Counter[str]] = {kind: Counter() for kind in _STORED}
        self._seen: dict[str, set[str]] = {}
        self._segment, self._offset = "", 0
        self._lot: list[Row] = []
        # Which fields of a row are in which column, by the row's kind and fields.
        self._places: dict[tuple[str, ...], list[tuple[str, int]]] = {}
        self._compared: list[str] = []
        self._sums = {table.name: Rollup(table) for table in ALL_SUMS}

    def begin(self, path: Path) -> None:
        """Before the first row of a segment."""
        self._segment = path.name
        self._seen = {kind: set() for kind in _KINDS}
        self._offset = self._reached.pop(path.name, 0)
        if (less := self._offset - path.stat().st_size) > 0:
            self.cut.append(f"{path.name}: is {less:,} bytes shorter than when it was read")

    def compare(self, row: Row, end: int) -> None:
        """Check one row of a segment; those that came after the fold are not there yet."""
        if end > self._offset:
            return
        kind = row.get("kind")
        if kind in _KINDS:
            self._lot.append(row)
            if len(self._lot) >= _LOT_ROWS:
                self._compare_lot()
        elif kind == "sums" and row["table"] in self._sums:
            self._sums[row["table"]].add_sums(row["sums"])

    def end(self, reading: Reading) -> None:
        """After the last row of a segment: what of its damage the read model has."""
        self._compare_lot()
        if all(damage.torn for damage in reading.damage):
            self._compared.append(self._segment)
        for damage in reading.damage:
            self.kept += [row for row in damage.rows if self._has(row)]

    def finish(self, known: Iterable[str]) -> None:
        """After the last segment: which are gone but for `known` ones, and whether the sums are those of the rows."""
        self.gone += sorted(self._reached.keys() - self._packed.union(known))
        for segment in self._compared:
            for kind, stored in self._stored.items():
                if (more := stored[segment] - self._found[kind][segment]) > 0:
                    rows = f"{more} {kind} row{'s' if more > 1 else ''}"
                    self.cut.append(f"{segment}: the read model has {rows} of it that it does not hold")
        self._compare_sums()

    def _differ(self, problem: str) -> None:
        if len(self.differences) < _MOST_DIFFERENCES:
            self.differences.append(problem)

    def _compare_lot(self) -> None:
        lot, self._lot = self._lot, []
        attempts = self._fetch(ATTEMPTS, {row.get("attempt_id") or f"{row['route_id']}-1" for row in lot})
        routes = self._fetch(ROUTES, {row["route_id"] for row in lot if row["kind"] == "route"})
        for row in lot:
            table, key, without = _KINDS[row["kind"]]
            stored = (routes if table is ROUTES else attempts).get(storable(row[key]))
            self._same(table, row, row[key], stored, without)
            self._count(row["kind"], row[key], attempts)

    def _fetch(self, table: Table, keys: set[str]) -> Stored:
        """The rows with these keys, each as its columns in order."""
        column = next(iter(table.columns))
        chosen = f'SELECT {table.names()} FROM "{table.name}" WHERE "{column}" IN (SELECT value FROM json_each(?))'  # noqa: S608
        wanted = json.dumps(sorted(str(storable(key)) for key in keys))  # In the order in which they are stored.
        return {stored[0]: stored for stored in self._database.execute(chosen, [wanted])}

    def _same(self, table: Table, row: Row, key: str, stored: tuple[Any, ...] | None, without: frozenset[str]) -> None:
        place = f"{self._segment}: the {row['kind']} of {key}"
        if stored is None:
            self._differ(f"{place} {'has no intent' if row['kind'] == 'settle' else 'is not in the read model'}")
            return
        shape = (row["kind"], *row)
        places = self._places.get(shape)
        if places is None:
            columns = enumerate(table.columns)
            places = self._places[shape] = [(name, at) for at, name in columns if name in row and name not in without]
        for name, at in places:
            said, value = row[name], stored[at]
            if said != value and not _equal(json.dumps(said) if name == "metadata" else storable(said), value):
                self._differ(f"{place} says {name} {said!r:.40}, the read model {value!r:.40}")

    def _count(self, kind: str, key: str, attempts: Stored) -> None:
        """Count a row for the segment that its request is of; in a copy of that segment it does not count."""
        seen = self._seen[kind]
        if key in seen:
            return
        seen.add(key)
        attempt_id = f"{key}-1" if kind == "route" else key
        stored = attempts.get(storable(attempt_id))
        segment = stored[_SEGMENT] if stored else None
        if segment == self._segment or (segment and attempt_id not in self._seen["intent"]):
            self._found[kind][segment] += 1

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

    def _compare_sums(self) -> None:
        database = self._database
        database.execute("BEGIN")
        try:
            for table in ALL_SUMS:  # A temporary table of the same name takes the place of the other one.
                database.execute(table.sql().replace("CREATE TABLE", "CREATE TEMP TABLE", 1))
            for family in FAMILIES.values():
                roll_all(database, family)
            add_days(database)
            for rollup in self._sums.values():  # Of what is packed.
                rollup.store(database)
            for table in ALL_SUMS:
                for problem in _other_sums(database, table):
                    self._differ(f"{table.name}, {problem}")
        finally:
            database.execute("ROLLBACK")


def _other_sums(database: sqlite3.Connection, table: Table) -> Iterator[str]:
    """Where a table of sums and the temporary one of its name say different things, at most as many as are told."""
    names = list(table.columns)
    keys, amounts = names[: table.keys], names[table.keys :]
    same = " AND ".join(f's."{name}" = e."{name}"' for name in keys)
    # Sums of fractions depend on their order.
    near = "abs({0} - {1}) <= max(1e-6, 1e-9 * max(abs({0}), abs({1})))"
    others = " OR ".join(
        f"({stored} IS NOT {said} AND (typeof({stored}) <> 'real' OR NOT {near.format(stored, said)}))"
        for stored, said in ((f's."{name}"', f'e."{name}"') for name in amounts)
    )
    columns = ", ".join(f'{of}."{name}"' for of in "es" for name in names)
    missing_or_other = (
        f'SELECT {columns} FROM temp."{table.name}" e LEFT JOIN main."{table.name}" s ON {same} '  # noqa: S608
        f'WHERE s."{keys[0]}" IS NULL OR {others} LIMIT {_MOST_DIFFERENCES}'
    )
    for row in database.execute(missing_or_other):
        said, stored = row[: len(names)], row[len(names) :]
        key = named(keys, said)
        if stored[0] is None:
            yield f"{key}: is missing"
        else:
            yield from _amounts(key, amounts, said[table.keys :], stored[table.keys :])
    own = ", ".join(f's."{name}"' for name in names)
    without_rows = (
        f'SELECT {own} FROM main."{table.name}" s LEFT JOIN temp."{table.name}" e ON {same} '  # noqa: S608
        f'WHERE e."{keys[0]}" IS NULL LIMIT {_MOST_DIFFERENCES}'
    )
    for row in database.execute(without_rows):
        yield from _amounts(named(keys, row), amounts, [0] * len(amounts), row[table.keys :])


def _amounts(key: str, names: Sequence[str], said: Sequence[Any], stored: Sequence[Any]) -> Iterator[str]:
    for name, right, wrong in zip(names, said, stored, strict=True):
        if not _equal(right, wrong):
            yield f"{key}: {name} is {wrong}, its rows say {right}"


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
