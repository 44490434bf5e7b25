"""Whether the ledger can be trusted: every byte of every segment, and the read model against what they say."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from router.errors import LedgerError
from router.ledger.comparison import Comparison
from router.ledger.damage import Damage, LostRow, Reading, sound_rows
from router.ledger.database import connect
from router.ledger.fold import fold, locked
from router.ledger.packs import packs_in, read_packs
from router.ledger.rows import Row
from router.ledger.segments import SEGMENTS_FOLDER, segments_in, writer_lives


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
        report.differences.append(str(error))
    return report


def _verify(folder: Path, database: sqlite3.Connection | None, report: VerifyReport) -> None:
    packed = read_packs(folder)
    comparison = Comparison(database, packed.names) if database else None
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
        comparison.finish(report.duplicates)
        report.cut += comparison.cut
        report.kept += comparison.kept
        report.gone += comparison.gone
        report.differences += comparison.differences


def _opened(path: Path, reading: Reading) -> Iterator[tuple[Row, int]]:
    try:
        yield from sound_rows(path, reading, complete=not writer_lives(path))
    except OSError as error:
        raise LedgerError(
            f"{path}: cannot be read ({error.strerror}); make it readable, or move it out of the folder", path=str(path)
        ) from error
