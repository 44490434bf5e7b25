"""The keys of the users: each is random, and whoever it belongs to is forgotten when it is destroyed.

They are in SQLite, by the fingerprint that the installation's secret gives. A row of the ledger has only what the
user's own key gives, so that without it nobody can find out whose row it is, not even with the secret.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Literal

from router.errors import LedgerError, warn
from router.forks import visiting
from router.world import World

DATABASE = "users.db"
# Grows by a byte whenever somebody is forgotten, so that running processes let go of the keys that they hold.
_MARK = "users.forgotten"
# How often a process looks at the mark.
_LOOK_EVERY_S = 1.0


class UserKeys:
    """The keys of one installation; nothing is held open, so threads and forked children may share it."""

    def __init__(self, home: Path, world: World, *, sync: Literal["normal", "full"] = "normal") -> None:
        self._home = home
        self._world = world
        # As for the rows of the ledger: only `full` waits for the disk, which costs a new user tens of milliseconds.
        self._synchronous = "NORMAL" if sync == "full" else "OFF"
        # Where keys cannot be kept: nobody finds these users again, and calls go on.
        self._spare = self._new_key()
        self._problem: LedgerError | None = None
        self._looked_s = world.clock.monotonic()
        self._forgotten = self._mark_size()

    def key(self, name: str) -> bytes:
        """The key of a user, made on first use; processes that race agree on one."""
        try:
            found = self.find(name)
            if found is None:
                with self._database(self._synchronous) as database:
                    database.execute("INSERT OR IGNORE INTO users VALUES (?, ?)", (name, self._new_key()))
                    found = _key(database, name)
        except LedgerError as error:
            told, self._problem = self._problem, error
            if told is None:
                warn(f"{error}; calls of further users are recorded, and this process alone can tell whose they are")
            found = None
        return found or self._spare + name.encode()

    def problem(self, key: bytes) -> LedgerError | None:
        """Why a key that was given is this process's own and no other's, if it is."""
        return self._problem if key.startswith(self._spare) else None

    def find(self, name: str) -> bytes | None:
        """The key of a user that has one.

        Raises
        ------
        LedgerError
            The keys cannot be read.
        """
        if not (self._home / DATABASE).exists():
            return None
        with self._database() as database:
            return _key(database, name)

    def destroy(self, name: str, first: Callable[[], None]) -> None:
        """Do something, then destroy a user's key; where that something fails, or nobody survives it, the key stays.

        Raises
        ------
        LedgerError
            The keys cannot be changed.
        """
        with self._database("FULL") as database:
            database.execute("BEGIN EXCLUSIVE")  # Who looks for the key now waits, and finds none.
            try:
                first()
                database.execute("DELETE FROM users WHERE name = ?", (name,))
                with (self._home / _MARK).open("ab") as mark:
                    mark.write(b".")
                database.execute("COMMIT")
            except BaseException:
                database.execute("ROLLBACK")
                raise

    def anybody_forgotten(self) -> bool:
        """Whether, since this was last asked, a user was forgotten: looked at once a second."""
        now_s = self._world.clock.monotonic()
        if now_s - self._looked_s < _LOOK_EVERY_S:
            return False
        self._looked_s = now_s
        before, self._forgotten = self._forgotten, self._mark_size()
        return before != self._forgotten

    def _mark_size(self) -> int:
        with suppress(OSError):
            return (self._home / _MARK).stat().st_size
        return 0

    def _new_key(self) -> bytes:
        return f"{self._world.random.getrandbits(256):064x}".encode()

    @contextmanager
    def _database(self, synchronous: str | None = None) -> Iterator[sqlite3.Connection]:
        """The keys; to change them, say how far to wait for the disk."""
        path = self._home / DATABASE
        try:
            self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
            with visiting(), closing(sqlite3.connect(path, timeout=10.0, isolation_level=None)) as database:
                if synchronous:
                    # Write-ahead logging is off on purpose: SQLite before 3.51.3 can corrupt a database that two share.
                    database.execute("PRAGMA journal_mode = TRUNCATE")
                    database.execute(f"PRAGMA synchronous = {synchronous}")
                    database.execute("PRAGMA secure_delete = ON")  # A key that is destroyed is gone from the file.
                database.execute("CREATE TABLE IF NOT EXISTS users (name TEXT PRIMARY KEY, key BLOB) WITHOUT ROWID")
                yield database
        except (OSError, sqlite3.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise LedgerError(
                f"{path}: the keys of the users cannot be used ({reason}); make it readable and writable",
                path=str(path),
            ) from error


def _key(database: sqlite3.Connection, name: str) -> bytes | None:
    row = database.execute("SELECT key FROM users WHERE name = ?", (name,)).fetchone()
    return bytes(row[0]) if row else None
