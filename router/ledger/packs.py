"""Packs: what is left of old segments, their sums by hour and day, in a file of the kind that the fold reads anyway.

A pack gets its name when it is whole, and names the segments that it replaces. From then on it is the truth about them:
the fold takes it before it reads a segment, and drops their rows. So whoever is killed while packing has either
changed nothing, or the next fold ends it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from router.errors import LedgerError
from router.ledger.rollups import Rollup
from router.ledger.rows import SCHEMA_VERSION, Row
from router.ledger.schema import ALL_SUMS, ROUTES, STEPS, Table
from router.ledger.segments import frame, read_lines, unframe

# More than the last line of a pack needs.
_END_BYTES = 4096
# What in a row says which row it is.
_IDS = {"intent": "attempt_id", "settle": "attempt_id", "route": "route_id"}


def packs_in(folder: Path) -> list[Path]:
    """The packs of a folder, oldest first."""
    return sorted(path for path in folder.glob("[!.]*.pack") if path.is_file())


def write_pack(path: Path, segments: Sequence[Path], sums: Iterator[Row], time_s: float) -> None:
    """Put sums into a new pack that replaces segments. It survives a power loss before it has its name."""
    header = {
        "v": SCHEMA_VERSION,
        "kind": "pack",
        "time_s": time_s,
        "segments": [one.name for one in segments],
        "firsts": [first_row(one) for one in segments],
        "ends": True,
    }
    draft = path.with_name(f".{path.name}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        size = file.write(frame(header))
        for row in sums:
            size += file.write(frame(row))
        file.write(frame({"v": SCHEMA_VERSION, "kind": "pack_end", "bytes": size}))
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    names = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(names)  # Before what it replaces is deleted.
    finally:
        os.close(names)


def sums_in(database: sqlite3.Connection) -> Iterator[Row]:
    """The sums of a read model as rows of a pack."""
    for table in ALL_SUMS:
        for sums in table.each(database):
            yield {"v": SCHEMA_VERSION, "kind": "sums", "table": table.name, "sums": sums}


def replaced_by(path: Path) -> list[str]:
    """The segments that a pack replaces.

    Raises
    ------
    LedgerError
        Its first line, which names them, was changed.
    """
    header = _header(path)
    if header is None:
        raise LedgerError(
            f"{path}: the first line, which names the segments that it replaces, was changed; restore it from a backup",
            path=str(path),
        )
    return [str(name) for name in header["segments"]]


def first_row(path: Path) -> str:
    """Which row is the first of a segment: what a copy of it has in common with it under any name."""
    for line in read_lines(path, complete=True):
        kind = line.row.get("kind") if line.row else None
        if line.row and isinstance(kind, str) and kind in _IDS:
            return f"{kind} {line.row.get(_IDS[kind])}"
    return ""


@dataclass(slots=True)
class Packed:
    """What the packs of a folder say together."""

    names: set[str] = field(default_factory=set)
    """Of the segments that they replace."""
    firsts: set[str] = field(default_factory=set)
    """The first row of each of these."""
    copies: list[str] = field(default_factory=list)
    """Packs that replace what another one replaces already."""
    cut: dict[str, str] = field(default_factory=dict)
    """What is wrong with each pack that is no longer as long as it was written."""

    def has_copy(self, segment: Path) -> bool:
        """Whether a segment is one of those that were packed, under another name."""
        if segment.name in self.names or not self.firsts:
            return False
        return first_row(segment) in self.firsts


def read_packs(folder: Path) -> Packed:
    """Read the first and the last line of every pack."""
    packed = Packed()
    for path in packs_in(folder):
        header = _header(path)
        if problem := _cut(path, header):
            packed.cut[path.name] = problem
        if header is None:
            continue
        names = set(header["segments"])
        if names <= packed.names:
            packed.copies.append(path.name)
        packed.names |= names
        packed.firsts |= set(header.get("firsts", ())) - {""}
    return packed


def _header(path: Path) -> Row | None:
    first = next(read_lines(path, complete=True), None)
    return first.row if first and first.row and first.row.get("kind") == "pack" else None


def _cut(path: Path, header: Row | None) -> str:
    """Why a pack is not as long as it was written, or an empty text; packs of earlier releases do not say."""
    if header is None:
        return "the first line, which names the segments that it replaces, is missing or changed"
    if not header.get("ends"):
        return ""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _END_BYTES))
        last = file.read().rstrip(b"\n").rpartition(b"\n")[2] + b"\n"
        file.seek(max(0, size - len(last)))
        row = unframe(last[:-1]) if file.read() == last else None
    if row is None or row.get("kind") != "pack_end":
        return "the end is missing or changed"
    if row["bytes"] != size - len(last):
        return f"{size - len(last):,} bytes of sums are there, and {row['bytes']:,} were written"
    return ""


def take_pack(database: sqlite3.Connection, path: Path, closed: set[str]) -> list[int]:
    """Bring the read model up to date with a pack that is new to it; returns the offsets of damaged lines.

    `closed` are the segments whose rows the read model has in its sums.

    Raises
    ------
    LedgerError
        The pack cannot be used, or the read model is older than it.
    """
    names = replaced_by(path)
    counted = [name for name in names if name in closed]
    if counted and len(counted) < len(names):
        raise LedgerError(
            f"{path}: replaces segments of which the read model knows only some, so it is older; delete ledger.db to "
            "have it rebuilt",
            path=str(path),
        )
    damaged: list[int] = []
    database.execute("BEGIN IMMEDIATE")
    try:
        if counted:
            _drop_rows(database, path.parent, names)
        else:
            damaged = add_sums(database, path, ALL_SUMS)
        database.executemany(
            "INSERT INTO segments VALUES (?, ?, 1, ?) ON CONFLICT (name) DO UPDATE SET closed = 1",
            [*((name, 0, 0) for name in names), (path.name, path.stat().st_size, len(damaged))],
        )
        database.execute("COMMIT")
    except BaseException:
        database.execute("ROLLBACK")
        raise
    return damaged


def add_sums(database: sqlite3.Connection, path: Path, tables: Iterable[Table]) -> list[int]:
    """Add the sums of a pack to some tables; returns the offsets of damaged lines."""
    rollups = {table.name: Rollup(table) for table in tables}
    damaged: list[int] = []
    for line in read_lines(path, complete=True):
        if line.row is None:
            damaged.append(line.start)
        elif line.row.get("table") in rollups:
            rollups[line.row["table"]].add_sums(line.row["sums"])
    for rollup in rollups.values():
        rollup.store(database)
    return damaged


def _drop_rows(database: sqlite3.Connection, folder: Path, names: Sequence[str]) -> None:
    """Delete the rows of segments; their sums stay."""
    database.executemany("DELETE FROM attempts WHERE segment = ?", [(name,) for name in names])
    for name in names:
        if not (folder / name).exists():
            continue
        calls = [
            (line.row["route_id"],)
            for line in read_lines(folder / name, complete=True)
            if line.row and line.row.get("kind") == "route"
        ]
        for table in (ROUTES, STEPS):
            database.executemany(f'DELETE FROM "{table.name}" WHERE route_id = ?', calls)  # noqa: S608
