"""Rows of the time before users had keys of their own: their fingerprints are changed to those of the user's key.

Such a row can be found with the installation's secret alone, so that destroying a key would not make it anybody's. Old
and new fingerprints are equally long, so that every row keeps its place in its segment.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from router.errors import LedgerError
from router.ledger.database import connect
from router.ledger.fold import locked
from router.ledger.packs import packs_in
from router.ledger.rollups import Rollup
from router.ledger.schema import HOURLY_ATTEMPTS, HOURLY_ROUTES, HOURLY_STEPS
from router.ledger.secret import Fingerprints
from router.ledger.segments import SEGMENTS_FOLDER, segments_in, unframe, writer_lives

Renamed = Callable[[str], str]

_FINGERPRINT = re.compile(rb'"[0-9a-f]{16}"')
# What in a row says whose it is.
_TELLING = ("user", "session", "prompt_fp", "prefix_fps")


def scrub(home: Path, old: str, new: str, own: Fingerprints) -> None:
    """Give every row of the user `old` the name `new`, and what could tell who it was a fingerprint of `own`.

    Whoever is killed in the middle begins again, with the same key, and changes the rest.

    Raises
    ------
    LedgerError
        A process of an earlier release still writes such rows; nothing was changed.
    """

    def renamed(value: str) -> str:
        return new if value == old else str(own.name("before", value))

    with locked(home), connect(home) as database:
        folder = home / SEGMENTS_FOLDER
        paths = [path for path in (*packs_in(folder), *segments_in(folder)) if old.encode() in path.read_bytes()]
        if living := [path for path in paths if writer_lives(path)]:
            raise LedgerError(
                f"{living[0]}: a running process of an earlier release writes rows of this user there; end it, and "
                "forget the user then",
                path=str(living[0]),
            )
        for path in paths:
            _rewrite(path, b"".join(_scrubbed(path, old, renamed)))
        _scrub_read_model(database, old, new, renamed)


def _scrubbed(path: Path, old: str, renamed: Renamed) -> Iterator[bytes]:
    with path.open("rb") as file:
        for line in file:
            row = unframe(line.rstrip(b"\n"))
            if row is None:  # Damaged: the user's name goes, and it stays as damaged as it was.
                yield line.replace(old.encode(), renamed(old).encode())
            elif row.get("sums", row).get("user") != old:
                yield line
            else:
                telling = {old, *(str(one) for name in _TELLING for one in _listed(row.get(name)))}
                body = line[9:].rstrip(b"\n")
                body = _FINGERPRINT.sub(lambda found: _other(found[0], telling, renamed), body)  # noqa: B023 - used at once
                yield b"%08x %s%s" % (zlib.crc32(body), body, b"\n" if line.endswith(b"\n") else b"")


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _other(quoted: bytes, telling: set[str], renamed: Renamed) -> bytes:
    value = quoted[1:-1].decode()
    return f'"{renamed(value)}"'.encode() if value in telling else quoted


def _rewrite(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)


def _scrub_read_model(database: sqlite3.Connection, old: str, new: str, renamed: Renamed) -> None:
    def one(value: str | None) -> str | None:
        return None if value is None else renamed(value)

    def each(values: str | None) -> str | None:
        return None if values is None else json.dumps([renamed(value) for value in json.loads(values)])

    database.create_function("renamed", 1, one)
    database.create_function("each_renamed", 1, each)
    database.execute("PRAGMA secure_delete = ON")
    database.execute("BEGIN IMMEDIATE")
    try:
        shared = '"user" = ?, session = renamed(session), prompt_fp = renamed(prompt_fp)'
        database.execute(
            f'UPDATE attempts SET {shared}, prefix_fps = each_renamed(prefix_fps) WHERE "user" = ?',  # noqa: S608
            (new, old),
        )
        database.execute(f'UPDATE routes SET {shared} WHERE "user" = ?', (new, old))  # noqa: S608
        for table in (HOURLY_ATTEMPTS, HOURLY_ROUTES, HOURLY_STEPS):
            sums = Rollup(table)
            for row in table.all(database, '"user" = ?', old):
                sums.add_sums({**row, "user": new})
            database.execute(f'DELETE FROM "{table.name}" WHERE "user" = ?', (old,))  # noqa: S608
            sums.store(database)
        database.execute("COMMIT")
    except BaseException:
        database.execute("ROLLBACK")
        raise
