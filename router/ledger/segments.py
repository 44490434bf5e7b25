"""Segments: files of CRC-framed JSON lines that only grow, one per process, one system call per row.

A row is the CRC-32 of its JSON in 8 hexadecimal digits, a space, the JSON, and a newline. It is acknowledged when the
system call returns and survives kill -9 from then on; with `sync: full` it also survives a power loss. A process
that dies in the middle of a write leaves a torn last line in its own file and nowhere else.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import weakref
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from router.errors import LedgerError, warn
from router.ledger.rows import SCHEMA_VERSION, Row
from router.world import AppendFile, World

_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"), default=str).encode


def frame(row: Row) -> bytes:
    """The bytes of one row. ASCII only, so that lone surrogates and control characters are harmless."""
    body = _encode(row).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(body), body)


def unframe(line: bytes) -> Row | None:
    """The row of one line without its newline, or `None` when it is torn or changed."""
    if line[:9] != b"%08x " % zlib.crc32(line[9:]):
        return None
    try:
        row = json.loads(line[9:])
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


class LedgerWriter:
    """The one writer of this process's segment; opened by the first row, and anew after a fork."""

    def __init__(
        self,
        folder: Path,
        world: World,
        *,
        on_failure: Literal["allow", "refuse"] = "allow",
        sync: Literal["normal", "full"] = "normal",
        alarm: Callable[[str], None] | None = None,
    ) -> None:
        self._folder = folder
        self._world = world
        self._refuse = on_failure == "refuse"
        self._sync = sync == "full"
        self._alarm = alarm
        self._file: AppendFile | None = None
        self._torn = False
        self._lost = 0
        # An intent and its settle belong in one segment, a half line is closed by the next row, and no row goes to a
        # descriptor that another thread closes. Reentrant, because a signal handler may route, too.
        self._lock = threading.RLock()
        forked = weakref.WeakMethod(self._forked)
        os.register_at_fork(after_in_child=lambda: (method := forked()) and method())

    def intent(self, row: Row) -> None:
        """Record that a request is about to leave.

        Raises
        ------
        LedgerError
            The row cannot be written and the policy says `on_failure: refuse`.
        """
        if not self._write(row) and self._refuse:
            raise LedgerError(
                f"{self._folder}: the ledger cannot be written and the policy says `on_failure: refuse`, so the "
                "request was not sent; make the folder writable, or set ROUTER_HOME",
                path=str(self._folder),
            )

    def record(self, row: Row) -> None:
        """Record what already happened; a failure raises an alarm and never takes the answer away."""
        self._write(row)

    def close(self) -> None:
        """Close the segment; a later row opens a new one."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _forked(self) -> None:
        # The child's copy of the descriptor shares the parent's lock and must not outlive the parent's.
        self._lock = threading.RLock()
        self.close()
        self._lost = 0

    def _write(self, row: Row) -> bool:
        try:
            data = frame(row)
            with self._lock:
                file = self._file or self._open()
                if self._lost:
                    now_s = self._world.clock.time()
                    self._put(file, frame({"v": SCHEMA_VERSION, "kind": "gap", "time_s": now_s, "lost": self._lost}))
                    self._lost = 0
                self._put(file, data)
        except (OSError, ValueError, RecursionError) as error:  # The disk, or a row that is no JSON.
            self._failed(error)
            return False
        return True

    def _put(self, file: AppendFile, data: bytes) -> None:
        if self._torn:  # Close the half line first, so that it costs only itself.
            data = b"\n" + data
        written = file.write(data)
        self._torn = written < len(data)
        if self._torn:
            raise OSError("the disk took only a part of the row")
        if self._sync:
            file.sync()

    def _open(self) -> AppendFile:
        self._torn = False
        path = self._folder / f"{self._world.new_id()}-{os.getpid()}.seg"
        self._file = self._world.disk.append(path)
        return self._file

    def _failed(self, error: Exception) -> None:
        with self._lock:
            self._lost += 1
            if self._lost > 1:
                return
        reason = getattr(error, "strerror", None) or error
        problem = f"{self._folder}: the ledger cannot be written ({reason}); calls are not recorded"
        if self._alarm:
            self._alarm(problem)
        warn(f"{problem}; make the folder writable, or set ROUTER_HOME")


class Line(NamedTuple):
    """One line of a segment."""

    row: Row | None
    """`None` when the line is torn or was changed."""
    start: int
    end: int
    """Offset of the byte after it."""
    ended: bool
    """Whether a newline ends it; where none does, its writer died in the middle of it."""


def read_lines(path: Path, offset: int = 0, *, complete: bool) -> Iterator[Line]:
    """The lines of a segment from an offset on.

    A last line without newline is still being written, unless the segment is `complete`: then it is torn.
    """
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            ended = line.endswith(b"\n")
            if not ended and not complete:
                return
            start, offset = offset, offset + len(line)
            body = line.rstrip(b"\n")
            if body:
                yield Line(unframe(body), start, offset, ended)


def writer_lives(path: Path) -> bool:
    """Whether the process that writes this segment is still there: it holds the file's lock while it lives."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(file, fcntl.LOCK_UN)
        return False


def segments_in(folder: Path) -> list[Path]:
    """The segments of a folder, oldest first."""
    return sorted(path for path in folder.glob("[!.]*.seg") if path.is_file())
