"""Packing what is old: segments whose every row is older than that are replaced by their hourly sums."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from router.ledger.damage import Reading, sound_rows
from router.ledger.database import connect, create
from router.ledger.fold import Batch, FoldReport, add_lines, fold, locked, take_packs
from router.ledger.packs import first_row, packs_in, read_packs, replaced_by, sums_in, write_pack
from router.ledger.rows import SCHEMA_VERSION
from router.ledger.segments import SEGMENTS_FOLDER, segments_in, writer_lives
from router.world import World


@dataclass(slots=True)
class CompactReport:
    """What was packed, or would be."""

    before_s: float
    """Segments whose newest row is older than this moment, in seconds since 1970."""
    applied: bool
    segments: list[str] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0
    """Of those segments."""
    damaged: list[str] = field(default_factory=list)
    """Segments that are old and stay, because bytes of theirs were changed: verify names them."""
    copied: list[str] = field(default_factory=list)
    """Segments that are old and stay, because a copy of theirs stays, which may hold more."""
    living: int = 0
    """Segments that are still written; they are never touched."""

    def as_json(self) -> dict[str, Any]:
        """The whole report as plain data."""
        return {
            "before_s": self.before_s,
            "applied": self.applied,
            "segments": self.segments,
            "rows": self.rows,
            "bytes": self.bytes,
            "damaged": self.damaged,
            "copied": self.copied,
            "living": self.living,
        }


def compact(home: Path, *, older_than_s: float, apply: bool = False, world: World | None = None) -> CompactReport:
    """Replace old segments by their hourly sums, and drop their rows from the read model. Every sum stays.

    Parameters
    ----------
    home
        Folder of the ledger.
    older_than_s
        How old the newest row of a segment must be.
    apply
        Do it; else only say what would be done.
    world
        Where time and randomness come from.

    Raises
    ------
    LedgerError
        The ledger cannot be read or changed.
    """
    world = world or World()
    now_s = world.clock.time()
    report = CompactReport(now_s - older_than_s, apply)
    folder = home / SEGMENTS_FOLDER
    if not folder.is_dir():
        return report
    fold(home)
    with locked(home), connect(home) as database:
        old = _old_segments(folder, database, report)
        if not apply:
            return report
        if old:
            with _alone(old) as sums:
                write_pack(folder / f"{world.new_id()}.pack", old, sums_in(sums), now_s)
            take_packs(folder, database, FoldReport())
        cut = read_packs(folder).cut
        for pack in packs_in(folder):
            for name in replaced_by(pack) if pack.name not in cut else ():
                (folder / name).unlink(missing_ok=True)
    return report


def _old_segments(folder: Path, database: sqlite3.Connection, report: CompactReport) -> list[Path]:
    """The segments that are read to their end, sound, and old."""
    ended = dict(database.execute("SELECT name, offset FROM segments WHERE closed"))
    packed = read_packs(folder)
    old: list[tuple[Path, int]] = []
    stay: set[str] = set()
    for path in segments_in(folder):
        if path.name in packed.names or packed.has_copy(path):
            continue
        if path.name not in ended or writer_lives(path):
            report.living += 1
            stay.add(first_row(path))
            continue
        reading, newest_s, rows = Reading([]), float("-inf"), 0
        for row, _ in sound_rows(path, reading, complete=True):
            time_s = row.get("time_s")
            newest_s = max(newest_s, time_s) if isinstance(time_s, int | float) else newest_s
            rows += 1
        if newest_s >= report.before_s:
            stay.add(first_row(path))
        elif path.stat().st_size < ended[path.name] or _is_harmed(reading):
            report.damaged.append(path.name)
            stay.add(first_row(path))
        else:
            old.append((path, rows))
    return _without_copies(old, stay - {""}, report)


def _is_harmed(reading: Reading) -> bool:
    return bool(reading.missing()) or not all(damage.torn for damage in reading.damage)


def _without_copies(old: Sequence[tuple[Path, int]], stay: set[str], report: CompactReport) -> list[Path]:
    """Those of which no copy stays; they go into the report."""
    packable: list[Path] = []
    for path, rows in old:
        if first_row(path) in stay:
            report.copied.append(path.name)
            continue
        packable.append(path)
        report.segments.append(path.name)
        report.rows += rows
        report.bytes += path.stat().st_size
    return packable


@contextmanager
def _alone(segments: Sequence[Path]) -> Iterator[sqlite3.Connection]:
    """A read model of these segments alone, which is gone afterwards."""
    with closing(sqlite3.connect("", isolation_level=None)) as database:
        create(database, SCHEMA_VERSION, segments[0].parent)
        batch = Batch(database)
        for path in segments:
            offset, _ = add_lines(batch, path, 0, True, FoldReport())
            batch.reach(path.name, offset, closed=True)
        batch.commit()
        yield database
