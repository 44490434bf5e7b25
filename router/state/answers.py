"""Answers kept for their idempotency keys, and the claim that lets one caller at a time ask for one.

The answers are in SQLite, keys and parameters as fingerprints. A claim is a locked file: the kernel frees it when its
process dies, however it dies, so that nobody waits for the dead.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from router.errors import StateError
from router.forks import visiting
from router.state.database import make_folders, opened

DATABASE = "answers.db"
CLAIMS_FOLDER = "claims"


class Kept(NamedTuple):
    """An answer that is there already."""

    binding: str
    """Fingerprint of everything that was asked."""
    answer: str
    """JSON."""


class AnswerStore:
    """The kept answers of one installation; nothing is held open, so threads and forked children may share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, name: str, now_s: float) -> Kept | None:
        """The answer of a key, unless there is none or its time is over.

        Raises
        ------
        StateError
            The store cannot be read.
        """
        with self._database() as database:
            row = database.execute(
                "SELECT binding, answer FROM answers WHERE name = ? AND expires_s > ?", (name, now_s)
            ).fetchone()
        return Kept(*row) if row else None

    def keep(self, name: str, kept: Kept, *, user: str | None = None, now_s: float, expires_s: float) -> None:
        """Keep an answer of a user until then, and let go of those whose time is over.

        Raises
        ------
        StateError
            The store cannot be written.
        """
        with self._database() as database:
            database.execute("DELETE FROM answers WHERE expires_s <= ?", (now_s,))
            database.execute(
                'INSERT OR REPLACE INTO answers (name, binding, answer, expires_s, "user") VALUES (?, ?, ?, ?, ?)',
                (name, *kept, expires_s, user),
            )

    def drop(self, user: str) -> int:
        """Let go of every answer of a user; returns how many there were.

        Raises
        ------
        StateError
            The store cannot be written.
        """
        if not (self._folder / DATABASE).exists():
            return 0
        with self._database() as database:
            return database.execute('DELETE FROM answers WHERE "user" = ?', (user,)).rowcount

    def claim(self, name: str, binding: str) -> Claim | str:
        """The right to ask for this key's answer; where another has it, what that one asks ("" while unknown).

        Raises
        ------
        StateError
            The claim cannot be written.
        """
        path = self._folder / CLAIMS_FOLDER / name
        with self._errors(), visiting():
            make_folders(self._folder.parent, self._folder, path.parent)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                others = os.pread(file, len(binding), 0).decode("ascii", "replace")
                os.close(file)
                return others if len(others) == len(binding) else ""
            if not _is_named(file, path):  # It was released, and so removed, between the opening and the lock.
                os.close(file)
                return ""
            os.pwrite(file, binding.encode(), 0)
            return Claim(file, path)

    def damaged(self) -> StateError:
        """What is said of an answer that cannot be read."""
        path = str(self._folder / DATABASE)
        return StateError(f"{path}: holds an answer that is damaged; restore the file, or delete it", path=path)

    def is_mine(self, name: str) -> bool:
        """Whether the claim is held by the thread or task that asks, so that waiting for it would never end."""
        path, caller = self._folder / CLAIMS_FOLDER / name, _caller()
        return any(claim.is_held_by(caller, path) for claim in tuple(_held))

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        with self._errors(), opened(self._folder / DATABASE, "NORMAL") as database:
            database.execute("PRAGMA secure_delete = ON")  # An answer whose time is over is gone.
            database.execute(
                "CREATE TABLE IF NOT EXISTS answers "
                '(name TEXT PRIMARY KEY, binding TEXT, answer TEXT, expires_s REAL, "user" TEXT) WITHOUT ROWID'
            )
            _add_user(database)
            yield database

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise StateError(
                f"{self._folder}: answers for idempotency keys cannot be kept ({reason}); make the folder writable, "
                "or set ROUTER_HOME",
                path=str(self._folder),
            ) from error


def _add_user(database: sqlite3.Connection) -> None:
    """Give the table of an earlier release its last column; whose its answers are is not known."""
    if all(row[1] != "user" for row in database.execute("PRAGMA table_info(answers)")):
        with suppress(sqlite3.OperationalError):  # Another process was first.
            database.execute('ALTER TABLE answers ADD COLUMN "user" TEXT')


def _caller() -> object:
    """The task that runs, or the thread where there is none."""
    try:
        return asyncio.current_task() or threading.current_thread()
    except RuntimeError:  # No loop runs in this thread.
        return threading.current_thread()


def _is_named(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


class Claim:
    """A claim that is held, until it is released or the process ends."""

    def __init__(self, file: int, path: Path) -> None:
        self._file: int | None = file
        self._path = path
        # Weakly: a task that ended with an error holds its frames, and they may hold the stream that holds this.
        self._holder = weakref.ref(_caller())
        _held.add(self)

    def is_held_by(self, caller: object, path: Path) -> bool:
        """Whether this thread or task made the claim of this file."""
        return self._path == path and self._holder() is caller

    def release(self) -> None:
        """Let the next one have it."""
        if self._file is not None:
            self._path.unlink(missing_ok=True)  # Before the lock is let go: after it, the file is another's.
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._drop()

    def _drop(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        _held.discard(self)


_held: set[Claim] = set()


def _drop_all() -> None:
    """In a forked child: the parent's claims must end with the parent."""
    for claim in tuple(_held):
        claim._drop()


os.register_at_fork(after_in_child=_drop_all)
