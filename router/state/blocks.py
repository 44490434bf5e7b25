"""What all processes know of the budgets: how much of each window is spent, and which blocks of it are given out.

A block is room that one process may spend on its own. How much of it is used stands in the process's sheet, so that a
process which is killed takes nothing along: what it had spent or under way is spent, and the rest of its blocks
comes back.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from router.errors import StateError
from router.state.database import make_folders, opened
from router.state.sheets import Sheet, lives, read
from router.windows import Span, moment_text
from router.world import World

DATABASE = "budgets.db"
SHEETS_FOLDER = "budgets"
# Windows that are remembered after their end, so that a clock which is set back opens none of them again.
_REMEMBERED = 200_000
# The part of what is left that one block may be: blocks shrink, so that the last cents stay for whoever needs them.
_PART_OF_LEFT = 8

_TABLES = """
CREATE TABLE IF NOT EXISTS windows (
  name TEXT, start_s INTEGER, end_s INTEGER, most INTEGER, spent INTEGER, time_zone TEXT, UNIQUE (name, start_s)
);
CREATE TABLE IF NOT EXISTS blocks (
  sheet TEXT, place INTEGER, name TEXT, start_s INTEGER, granted INTEGER, PRIMARY KEY (sheet, place)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS blocks_of_window ON blocks (name, start_s);
"""


class Place(NamedTuple):
    """Where a block's use is counted."""

    sheet: str
    number: int


@dataclass(frozen=True, slots=True)
class Budget:
    """One limit in one window."""

    name: str
    span: Span
    limit: int
    time_zone: str


class Taken(NamedTuple):
    """What asking for room came to."""

    granted: int
    """0 when there was not enough."""
    scarce: bool = False
    """Whether it is less than a block should be."""
    spent: int = 0
    """What is spent, or held for requests under way; only where there was not enough."""


class InUse(NamedTuple):
    """A budget as of now, all processes together; nano-dollars, or escalations."""

    name: str
    span: Span
    limit: int
    spent: int
    held: int
    """For requests under way."""
    time_zone: str

    @property
    def counter(self) -> str:
        """Its name in the policy, such as `user.usd_per_day`."""
        return self.name.partition(":")[0]

    @property
    def key(self) -> str:
        """Whose it is; a user's fingerprint."""
        return self.name.partition(":")[2]

    @property
    def in_dollars(self) -> bool:
        """Whether it is no count of escalations."""
        return ".usd_per_" in self.counter

    @property
    def left(self) -> int:
        """What can still be reserved; nothing where more was metered than the limit."""
        return max(0, self.limit - self.spent - self.held)

    @property
    def resets_at(self) -> str:
        """When the next window begins, with its offset from UTC."""
        return moment_text(self.span.end_s, self.time_zone)


class Visit:
    """One look at the shared state, alone: everything that is done in it is done together or not at all."""

    def __init__(self, database: sqlite3.Connection, folder: Path, boot: str) -> None:
        self._database = database
        self._folder = folder
        self._boot = boot
        self.emptied: list[Path] = []
        """Sheets of the dead that nothing refers to any more."""

    def take(self, budget: Budget, place: Place, needed: int, wish: int, *, force: bool = False) -> Taken:
        """Room for a block, new or larger: at least what is needed, and as much as is wished while there is plenty."""
        left = self._left(budget)
        if left < needed and self.recover(budget):
            left = self._left(budget)
        if left < needed and not force:
            return Taken(0, spent=self._in_use(budget.name, budget.span.start_s)[0])
        granted = max(needed, min(wish, left // _PART_OF_LEFT))
        self._database.execute(
            "INSERT INTO blocks VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET granted = granted + excluded.granted",
            (*place, budget.name, budget.span.start_s, granted),
        )
        return Taken(granted, scarce=granted < wish)

    def shrink(self, place: Place, granted: int) -> None:
        """Keep a block that is in use, but no larger than this."""
        self._database.execute("UPDATE blocks SET granted = ? WHERE sheet = ? AND place = ?", (granted, *place))

    def give_back(self, place: Place, used: int) -> None:
        """End a block of which so much was used."""
        self._database.execute(
            "UPDATE windows SET spent = spent + ? WHERE (name, start_s) = "
            "(SELECT name, start_s FROM blocks WHERE sheet = ? AND place = ?)",
            (used, *place),
        )
        self._database.execute("DELETE FROM blocks WHERE sheet = ? AND place = ?", place)

    def recover(self, budget: Budget | None = None) -> bool:
        """End the blocks of the dead, of all who have one of this budget; whether there were any."""
        query = "SELECT DISTINCT sheet FROM blocks"
        if budget is None:
            found = self._database.execute(query)
        else:
            found = self._database.execute(f"{query} WHERE name = ? AND start_s = ?", (budget.name, budget.span[0]))
        dead = [sheet for (sheet,) in found.fetchall() if not lives(self._folder / sheet)]
        for sheet in dead:
            path = self._folder / sheet
            blocks = self._database.execute("SELECT place, granted FROM blocks WHERE sheet = ?", (sheet,)).fetchall()
            for number, granted in blocks:
                known = read(path, number) if sheet.endswith(self._boot) else None
                # What the machine forgot when it went down, or somebody deleted, counts as spent in full.
                self.give_back(Place(sheet, number), granted if known is None else known[0])
            self.emptied.append(path)
        return bool(dead)

    def in_use(self, now_s: float) -> list[InUse]:
        """Every budget whose window is open."""
        rows = self._database.execute(
            "SELECT name, start_s, end_s, most, time_zone FROM windows WHERE start_s <= ? AND ? < end_s ORDER BY name",
            (now_s, now_s),
        ).fetchall()
        found = []
        for name, start_s, end_s, most, time_zone in rows:
            used, held = self._in_use(name, start_s)
            found.append(InUse(name, Span(start_s, end_s), most, used - held, held, time_zone))
        return found

    def _left(self, budget: Budget) -> int:
        key = (budget.name, budget.span.start_s)
        row = self._database.execute("SELECT spent, most FROM windows WHERE name = ? AND start_s = ?", key).fetchone()
        if row is None:
            self._open(budget)
            return budget.limit
        if row[1] != budget.limit:
            self._database.execute("UPDATE windows SET most = ? WHERE name = ? AND start_s = ?", (budget.limit, *key))
        (given,) = self._database.execute(
            "SELECT COALESCE(SUM(granted), 0) FROM blocks WHERE name = ? AND start_s = ?", key
        ).fetchone()
        return budget.limit - int(row[0]) - int(given)

    def _open(self, budget: Budget) -> None:
        self._database.execute(
            "INSERT INTO windows VALUES (?, ?, ?, ?, 0, ?)",
            (budget.name, *budget.span, budget.limit, budget.time_zone),
        )
        self._database.execute(
            "DELETE FROM windows WHERE rowid <= (SELECT MAX(rowid) FROM windows) - ? AND end_s <= ? "
            "AND NOT EXISTS (SELECT 1 FROM blocks WHERE blocks.name = windows.name)",
            (_REMEMBERED, budget.span.start_s),
        )

    def _in_use(self, name: str, start_s: int) -> tuple[int, int]:
        """What is used, held included, and what is held: what was given back, and what the sheets say."""
        key = (name, start_s)
        (used,) = self._database.execute("SELECT spent FROM windows WHERE name = ? AND start_s = ?", key).fetchone()
        held = 0
        query = "SELECT sheet, place, granted FROM blocks WHERE name = ? AND start_s = ?"
        for sheet, place, granted in self._database.execute(query, key).fetchall():
            known = read(self._folder / sheet, place)
            used += granted if known is None else known[0]
            held += 0 if known is None else known[1]
        return used, held


class BlockStore:
    """The shared state of one installation; nothing is held open, so threads and forked children may share it."""

    def __init__(self, folder: Path, world: World, *, synchronous: bool = False) -> None:
        self._folder = folder
        self._world = world
        # Waiting for the disk takes thirty times as long as the rest, and only a power loss asks for it.
        self._synchronous: Literal["OFF", "FULL"] = "FULL" if synchronous else "OFF"
        self._boot = _boot()

    def sheet(self) -> Sheet:
        """A new sheet for this process.

        Raises
        ------
        StateError
            It cannot be written.
        """
        with self._errors():
            folder = self._folder / SHEETS_FOLDER
            make_folders(self._folder.parent, self._folder, folder)
            return Sheet(folder / f"{self._world.new_id()}-{os.getpid()}-{self._boot}")

    @contextmanager
    def visit(self) -> Iterator[Visit]:
        """Look at the shared state and change it, alone.

        Raises
        ------
        StateError
            It cannot be read or written.
        """
        with self._errors(), opened(self._folder / DATABASE, self._synchronous) as database:
            database.execute("BEGIN IMMEDIATE")
            if not database.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone():
                for statement in _TABLES.split(";"):
                    database.execute(statement)
            visit = Visit(database, self._folder / SHEETS_FOLDER, self._boot)
            yield visit
            database.execute("COMMIT")
        for sheet in visit.emptied:
            with suppress(OSError):
                sheet.unlink()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            reason = getattr(error, "strerror", None) or error
            damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
            remedy = (
                f"restore {DATABASE}, or delete it: its windows then begin with nothing spent"
                if damaged
                else ("make the folder writable, or set ROUTER_HOME")
            )
            raise StateError(
                f"{self._folder}: the budgets cannot be kept ({reason}), so nothing that they hold was sent; {remedy}",
                path=str(self._folder),
            ) from error


def _boot() -> str:
    """A name for the time since the machine was started; empty where nobody says."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()[:8]
    except OSError:
        return ""
